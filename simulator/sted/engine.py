"""The STED engine: molecules in, photons and survivors out, as pySTED computes them but much faster.

The physics is in ``optics.py``, ``photophysics.py`` and ``detector.py`` beside it; how a whole scan is drawn
without walking through its pixels in ``bleaching.py`` and ``fluorescence.py``. Only numpy and scipy are
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from simulator.specimens import MAP_PIXEL_SIZE_M
from simulator.sted.adaptive import AdaptiveScan
from simulator.sted.bleaching import Bleached, HazardTables
from simulator.sted.detector import Detector
from simulator.sted.fluorescence import Correlator, Levels, LineImages
from simulator.sted.optics import CENTRED, Offset, Optics, focal_light
from simulator.sted.photophysics import PYSTED, RED, Dye, DyeInFocus, Gate, Light, Physics
from simulator.sted.raster import Kernel, Raster, by_visits
from simulator.sted.scanning import (
    AdaptiveExposure,
    Exposure,
    FloatImage,
    Molecules,
    PixelExposure,
    Scanned,
    Seeds,
    always,
    image_shape,
)

#: Pairs of excitation and STED power, in watts.
Powers = tuple[tuple[float, float], ...]

# Lines between two questions whether to go on.
_BAND_LINES = 16

# Distinct pairs of powers in one scan; each costs two kernels.
_MOST_LEVELS = 1024


class STEDEngine:
    """A STED microscope's light, dye and detector. Implements the role ``ScanningEngine``.

    Parameters
    ----------
    optics, dye, gate, detector, physics
        The instrument, what is looked at, and what of the physics is simulated. Optics not given have
        the wavelengths of the dye.
    map_pixel_size_m
        Pixel size of the maps it takes.
    """

    def __init__(
        self,
        optics: Optics | None = None,
        dye: Dye = RED,
        detector: Detector | None = None,
        *,
        gate: Gate | None = None,
        physics: Physics | None = None,
        map_pixel_size_m: float = MAP_PIXEL_SIZE_M,
    ) -> None:
        optics = optics or Optics(excitation_m=dye.excitation_m, sted_m=dye.sted_m)
        self.map_pixel_size_m = map_pixel_size_m
        self._physics = physics or Physics()
        self._detector = detector or Detector()
        focus = focal_light(optics, dye.emission_m, map_pixel_size_m)
        self._in_focus = DyeInFocus(focus, optics, dye, gate or Gate(), self._physics)
        self._offset_yx_px = CENTRED
        # What scans with the same light share; a policy often comes back to the same few settings.
        self._light = lru_cache(maxsize=64)(self._make_light)
        self.plan = lru_cache(maxsize=8)(self._make_plan)
        self._pixel_plan = lru_cache(maxsize=2)(self._make_pixel_plan)
        self._beside = lru_cache(maxsize=32)(self._make_beside)

    def __reduce__(self) -> tuple[Callable[..., STEDEngine], tuple[object, ...]]:
        """Pickle what the engine was made of; what it keeps is computed again."""
        return _made, (self._made_of(), self._offset_yx_px)

    def _made_of(self) -> Callable[[], STEDEngine]:
        light = self._in_focus
        return partial(
            STEDEngine,
            light.optics,
            light.dye,
            self._detector,
            gate=light.gate,
            physics=light.physics,
            map_pixel_size_m=self.map_pixel_size_m,
        )

    @classmethod
    def like_pysted(cls, detector: Detector | None = None, bleaching: float = 1.0) -> STEDEngine:
        """Return an engine with the law of :class:`simulator.sted.pysted_reference.PystedEngine`."""
        dye = RED.bleaching_faster(bleaching).replace(excitation_bleaching=0.0)
        return cls(dye=dye, detector=detector, physics=PYSTED)

    def shifted(self, offset_yx_px: Offset) -> STEDEngine:
        """Return the engine for molecules that lie so far from the middles of their map pixels."""
        return self if offset_yx_px == self._offset_yx_px else self._beside(offset_yx_px)

    def _make_beside(self, offset_yx_px: Offset) -> STEDEngine:
        light, engine = self._in_focus, self._made_of()()
        focus = focal_light(light.optics, light.dye.emission_m, self.map_pixel_size_m, offset_yx_px)
        engine._in_focus, engine._offset_yx_px = replace(light, focus=focus), offset_yx_px
        return engine

    def _make_light(self, excitation_w: float, sted_w: float) -> Light:
        return self._in_focus.light(excitation_w, sted_w)

    @property
    def margin_px(self) -> int:
        """Map pixels beyond each edge of the scanned region that the light still reaches."""
        return self._in_focus.focus.margin_px

    @property
    def detector(self) -> Detector:
        """What counts the photons."""
        return self._detector

    @property
    def physics(self) -> Physics:
        """What of the physics is simulated."""
        return self._physics

    def light(self, excitation_w: float, sted_w: float = 0.0) -> Light:
        """Return what these mean powers do to a molecule at each place of the focus."""
        return self._light(float(excitation_w), float(sted_w))

    def scan(
        self,
        molecules: Molecules,
        exposure: Exposure | PixelExposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = always,
    ) -> Scanned:
        """Scan the inside of a map, line by line; see :class:`simulator.sted.scanning.ScanningEngine`."""
        shape_yx = image_shape(molecules, exposure.stride_px, self.margin_px)
        if isinstance(exposure, AdaptiveExposure):
            return self._scan_adaptively(molecules, exposure, seeds, go_on)
        images, dwell_s = self.emit(molecules, exposure, seeds)
        rng = np.random.Generator(np.random.Philox(seeds.photons))
        photons = np.zeros(shape_yx, np.uint32)
        for first, last in bands(shape_yx[0]):
            photons[first:last] = self._detector.counts(
                images.compute(first, last), dwell_s[first:last], rng, whole_rates=self._physics.whole_rates
            )
            if not go_on(last):
                return Scanned(photons[:last], images.survivors)
        return Scanned(photons, images.survivors)

    def emit(
        self, molecules: Molecules, exposure: Exposure | PixelExposure, seeds: Seeds
    ) -> tuple[LineImages, FloatImage]:
        """Draw what a scan bleaches; return what computes its photon rates, and the dwell times."""
        if isinstance(exposure, PixelExposure):
            return self._with_pixel_light(molecules, exposure, seeds)
        shape_yx = image_shape(molecules, exposure.stride_px, self.margin_px)
        return self.line_images(molecules, exposure, seeds), np.full(shape_yx, exposure.dwell_s)

    def line_images(self, molecules: Molecules, exposure: Exposure, seeds: Seeds) -> LineImages:
        """Return a scan with the same light everywhere, before its photons are counted."""
        shape_yx = image_shape(molecules, exposure.stride_px, self.margin_px)
        tables, correlator = self.plan(exposure, shape_yx)
        bleached = tables.draw(molecules, np.random.Generator(np.random.Philox(seeds.bleaching)))
        within_dwell = self._physics.bleaching_within_dwell
        return LineImages(correlator, molecules, bleached, within_dwell=within_dwell)

    def _make_plan(self, exposure: Exposure, shape_yx: tuple[int, int]) -> tuple[HazardTables, Correlator]:
        """Return what all scans with the same light and shape share."""
        light = self.light(exposure.excitation_w, exposure.sted_w)
        raster = Raster.over(shape_yx, exposure.stride_px, self.margin_px, exposure.passes)
        tables = HazardTables(light.bleaching_hz * exposure.dwell_s, raster)
        return tables, Correlator(light.photons_hz[None], raster)

    def _with_pixel_light(
        self, molecules: Molecules, exposure: PixelExposure, seeds: Seeds
    ) -> tuple[LineImages, FloatImage]:
        """Return a scan with its own light on each pixel, and the dwell times."""
        stride_px = exposure.stride_px
        shape_yx = image_shape(molecules, stride_px, self.margin_px)
        dwell_s, powers, levels = _levels(exposure, shape_yx)
        bleaching_hz, at_visits, correlator = self._pixel_plan(powers, shape_yx, stride_px)
        raster = correlator.raster
        longest_s = np.array([dwell_s[levels == level].max() for level in range(len(powers))])
        bound = (bleaching_hz * longest_s[:, None, None]).max(axis=0)
        bound_at_visits = by_visits(bound, stride_px)

        def chance(events: Bleached) -> NDArray[np.float64]:
            row, column = raster.rows.phase[events.y], raster.columns.phase[events.x]
            place = (row, events.row_visit, column, events.column_visit)
            pixel = (events.line, raster.columns.first[events.x] + events.column_visit)
            return np.asarray(at_visits[(levels[pixel], *place)] * dwell_s[pixel] / bound_at_visits[place])

        rng = np.random.Generator(np.random.Philox(seeds.bleaching))
        images = LineImages(
            correlator,
            molecules,
            HazardTables(bound, raster).draw_thinned(molecules, chance, rng),
            levels=levels,
            within_dwell=self._physics.bleaching_within_dwell,
        )
        return images, dwell_s

    def _make_pixel_plan(
        self, powers: Powers, shape_yx: tuple[int, int], stride_px: int
    ) -> tuple[Kernel, Kernel, Correlator]:
        """Return the bleaching rates of each pair of powers, twice, and what correlates with its light."""
        lights = [self._in_focus.light(excitation_w, sted_w) for excitation_w, sted_w in powers]
        bleaching_hz = np.stack([light.bleaching_hz for light in lights])
        raster = Raster.over(shape_yx, stride_px, self.margin_px)
        correlator = Correlator(np.stack([light.photons_hz for light in lights]), raster)
        return bleaching_hz, by_visits(bleaching_hz, stride_px), correlator

    def _scan_adaptively(
        self,
        molecules: Molecules,
        exposure: AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool],
    ) -> Scanned:
        """Scan with steps that the photons decide about."""
        shape_yx = image_shape(molecules, exposure.stride_px, self.margin_px)
        lights = [self.light(step.excitation_w, step.sted_w) for step in exposure.steps]
        walk = AdaptiveScan(
            lights, exposure, molecules, seeds, detector=self._detector, physics=self._physics
        )
        photons, steps = np.zeros(shape_yx, np.uint32), np.zeros(shape_yx, np.uint8)
        for first, last in bands(shape_yx[0]):
            for line in range(first, last):
                photons[line], steps[line] = walk.scan_line(line)
            if not go_on(last):
                return Scanned(photons[:last], walk.survivors, steps[:last])
        return Scanned(photons, walk.survivors, steps)


def _made(engine: Callable[[], STEDEngine], offset_yx_px: Offset) -> STEDEngine:
    return engine().shifted(offset_yx_px)


def bands(lines: int) -> Iterator[tuple[int, int]]:
    """Yield the first line of each band and the first one after it."""
    for first in range(0, lines, _BAND_LINES):
        yield first, min(first + _BAND_LINES, lines)


def _levels(exposure: PixelExposure, shape_yx: tuple[int, int]) -> tuple[FloatImage, Powers, Levels]:
    """Return the dwell time of each pixel, the distinct pairs of powers, and the pair of each pixel.

    Raises
    ------
    ValueError
        If an array does not have the image's shape, or there are too many distinct pairs.
    """
    arrays = []
    for name in ("dwell_s", "excitation_w", "sted_w"):
        values = np.asarray(getattr(exposure, name), dtype=np.float64)
        if values.ndim == 2 and values.shape != shape_yx:
            raise ValueError(f"{name} has the shape {values.shape}, the image has {shape_yx}")
        arrays.append(np.broadcast_to(values, shape_yx))
    dwell_s, excitation_w, sted_w = arrays
    # Nothing depends on the powers of a pixel that is left out.
    pairs = np.where(dwell_s > 0, np.stack([excitation_w, sted_w]), 0.0).reshape(2, -1)
    distinct, levels = np.unique(pairs, axis=1, return_inverse=True)
    if distinct.shape[1] > _MOST_LEVELS:
        raise ValueError(
            f"excitation_w and sted_w have {distinct.shape[1]} distinct pairs, at most {_MOST_LEVELS} can be "
            f"computed: round them, as a modulator does"
        )
    powers = tuple((float(excitation), float(sted)) for excitation, sted in distinct.T)
    return dwell_s, powers, levels.reshape(shape_yx)
