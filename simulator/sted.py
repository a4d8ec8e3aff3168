"""The STED engine: molecules in, photons and survivors out, as pySTED computes them but much faster.

The physics is in :mod:`simulator.optics`, :mod:`simulator.photophysics` and :mod:`simulator.detector`;
how a whole scan is drawn without walking through its pixels in :mod:`simulator.bleaching` and
:mod:`simulator.fluorescence`. Only numpy and scipy are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from simulator.bleaching import HazardTables
from simulator.detector import Detector
from simulator.fluorescence import LineImages
from simulator.optics import Optics, focal_light
from simulator.photophysics import PYSTED, RED, Dye, DyeInFocus, Gate, Light, Physics
from simulator.raster import Raster
from simulator.scanning import Exposure, Molecules, Scanned, Seeds, always, image_shape
from simulator.specimens import MAP_PIXEL_SIZE_M

# Lines between two questions whether to go on.
_BAND_LINES = 16


class STEDEngine:
    """A STED microscope's light, dye and detector. Implements the role ``ScanningEngine``.

    Parameters
    ----------
    optics, dye, gate, detector, physics
        The instrument, what is looked at, and what of the physics is simulated.
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
        optics = optics or Optics()
        self.map_pixel_size_m = map_pixel_size_m
        self._physics = physics or Physics()
        self._detector = detector or Detector()
        self._focus = focal_light(optics, dye.emission_m, map_pixel_size_m)
        in_focus = DyeInFocus(self._focus, optics, dye, gate or Gate(), self._physics)
        self._light = lru_cache(maxsize=64)(in_focus.light)

    @classmethod
    def like_pysted(cls, detector: Detector | None = None, bleaching: float = 1.0) -> STEDEngine:
        """Return an engine with the law of :class:`simulator.pysted_reference.PystedEngine`."""
        dye = RED.bleaching_faster(bleaching).replace(excitation_bleaching=0.0)
        return cls(dye=dye, detector=detector, physics=PYSTED)

    @property
    def margin_px(self) -> int:
        """Map pixels beyond each edge of the scanned region that the light still reaches."""
        return self._focus.margin_px

    def light(self, excitation_w: float, sted_w: float = 0.0) -> Light:
        """Return what these mean powers do to a molecule at each place of the focus."""
        return self._light(float(excitation_w), float(sted_w))

    def scan(
        self,
        molecules: Molecules,
        exposure: Exposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = always,
    ) -> Scanned:
        """Scan the inside of a map, line by line; see :class:`simulator.scanning.ScanningEngine`."""
        lines, _ = shape_yx = image_shape(molecules, exposure.stride_px, self.margin_px)
        light = self.light(exposure.excitation_w, exposure.sted_w)
        raster = Raster.over(shape_yx, exposure.stride_px, self.margin_px, exposure.passes)
        tables = HazardTables(light.bleaching_hz * exposure.dwell_s, raster)
        bleached = tables.draw(molecules, np.random.Generator(np.random.Philox(seeds.bleaching)))
        images = LineImages(
            light.photons_hz,
            molecules,
            bleached,
            raster,
            within_dwell=self._physics.bleaching_within_dwell,
        )
        rng = np.random.Generator(np.random.Philox(seeds.photons))
        photons = np.zeros(shape_yx, np.uint32)
        for first in range(0, lines, _BAND_LINES):
            last = min(first + _BAND_LINES, lines)
            photons[first:last] = self._detector.counts(
                images.compute(first, last), exposure.dwell_s, rng, whole_rates=self._physics.whole_rates
            )
            if not go_on(last):
                return Scanned(photons[:last], images.survivors)
        return Scanned(photons, images.survivors)
