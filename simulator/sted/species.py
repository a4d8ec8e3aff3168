"""Several dyes in one sample: the same light excites, depletes and bleaches them all.

Molecules of different dyes know nothing of each other, so each dye is scanned by an engine of its own and
its photons are added up. What tells dyes apart is the colour of their fluorescence: each detection window
counts the part of each spectrum that falls into it, so dyes leak into each other's windows.

The lasers and the pinhole are one and the same: a pinhole of 0.7 Airy units for the first dye is smaller
than that for a redder one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import Positive, Settings
from simulator.specimens import MAP_PIXEL_SIZE_M, SpecimenName, SpecimenOptions
from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine, bands
from simulator.sted.optics import Offset, Optics
from simulator.sted.photophysics import Dye, DyeName, Gate, Window
from simulator.sted.scanning import (
    AdaptiveExposure,
    Exposure,
    Molecules,
    PixelExposure,
    Scanned,
    Seeds,
    always,
    child,
)


class SecondLabel(Settings):
    """Another structure in the same sample, in another dye."""

    specimen: SpecimenName
    """Kind of structure. It lies anywhere: what the first dye stains does not matter to it."""
    dye: DyeName = "deep_red"
    """What it is stained with. The lasers are those of the first dye and must suit this one, too."""
    molecules_per_pixel: Positive = 5.0
    """Expected molecules of this dye in the brightest 20 nm pixels."""
    specimen_options: SpecimenOptions = SpecimenOptions()
    """As of the first structure."""


@dataclass(frozen=True, slots=True, eq=False)
class ScannedChannels:
    """What a scan of several dyes left.

    Attributes
    ----------
    photons
        Detected counts in each window, shape ``(window, lines, x)``, uint32.
    survivors
        Molecules of each dye that still fluoresce, shape ``(dye, y, x)``, int32.
    """

    photons: NDArray[np.uint32]
    survivors: Molecules


class SpeciesEngine:
    """A STED microscope's light, several dyes, and a detector for each window.

    Its maps have the shape ``(dye, y, x)``. With that it implements the role ``ScanningEngine`` for its
    first window.

    Parameters
    ----------
    dyes
        At least one. Optics not given have the wavelengths of the first.
    optics, detector, gate, map_pixel_size_m
        As of :class:`simulator.sted.engine.STEDEngine`. Each window has such a detector.
    windows
        Shortest and longest wavelength of each, in metres; ``None`` counts every colour.

    Raises
    ------
    ValueError
        If there is no dye or no window, a window ends before it begins, or the lasers suit a dye not.
    """

    def __init__(
        self,
        dyes: Sequence[Dye],
        optics: Optics | None = None,
        detector: Detector | None = None,
        *,
        windows: Sequence[Window | None] = (None,),
        gate: Gate | None = None,
        map_pixel_size_m: float = MAP_PIXEL_SIZE_M,
    ) -> None:
        if not (dyes and windows):
            raise ValueError("dyes and windows have no entry: one of each is the least")
        first = dyes[0]
        optics = optics or Optics(excitation_m=first.excitation_m, sted_m=first.sted_m)
        self.map_pixel_size_m = map_pixel_size_m
        self._detector = detector or Detector()
        self._engines = tuple(
            STEDEngine(
                optics.replace(pinhole_airy=optics.pinhole_airy * first.emission_m / dye.emission_m),
                dye,
                gate=gate,
                map_pixel_size_m=map_pixel_size_m,
            )
            for dye in dyes
        )
        #: Part of the photons of each dye that each window counts, shape ``(window, dye)``.
        self.detected = np.array([[dye.emitted_within(window) for dye in dyes] for window in windows])

    @property
    def margin_px(self) -> int:
        """Map pixels beyond each edge of the scanned region that the light still reaches."""
        return self._engines[0].margin_px

    def shifted(self, offset_yx_px: Offset) -> SpeciesEngine:
        """Return the engine for molecules that lie so far from the middles of their map pixels."""
        engine = copy.copy(self)
        engine._engines = tuple(each.shifted(offset_yx_px) for each in self._engines)
        return engine

    def scan(
        self,
        molecules: Molecules,
        exposure: Exposure | PixelExposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = always,
    ) -> Scanned:
        """Scan the inside of a map; the photons are those of the first window."""
        scanned = self.scan_channels(molecules, exposure, seeds, go_on)
        return Scanned(scanned.photons[0], scanned.survivors)

    def scan_channels(
        self,
        molecules: Molecules,
        exposure: Exposure | PixelExposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = always,
    ) -> ScannedChannels:
        """Scan the inside of a map, line by line, and count in every window.

        Parameters
        ----------
        molecules
            Of each dye in each map pixel, shape ``(dye, y, x)``, with a margin.
        exposure, seeds, go_on
            As for :class:`simulator.sted.scanning.ScanningEngine`.

        Raises
        ------
        ValueError
            If there is not one map for each dye.
        TypeError
            If the exposure is an adaptive one.
        """
        if molecules.ndim != 3 or len(molecules) != len(self._engines):
            raise ValueError(f"molecules of shape {molecules.shape} are not {len(self._engines)} maps")
        if isinstance(exposure, AdaptiveExposure):
            raise TypeError("an adaptive scan of several dyes cannot be computed: scan with even light")
        images, dwells_s = zip(
            *(
                engine.emit(each, exposure, Seeds(child(seeds.bleaching, number), seeds.photons))
                for number, (engine, each) in enumerate(zip(self._engines, molecules, strict=True))
            ),
            strict=True,
        )
        dwell_s = dwells_s[0]
        rngs = [
            np.random.Generator(np.random.Philox(child(seeds.photons, number)))
            for number in range(len(self.detected))
        ]
        photons = np.zeros((len(self.detected), *dwell_s.shape), np.uint32)
        last = 0
        for first, last in bands(len(dwell_s)):
            photons_hz = np.stack([image.compute(first, last) for image in images])
            for channel, parts in enumerate(self.detected):
                photons[channel, first:last] = self._detector.counts(
                    np.tensordot(parts, photons_hz, 1), dwell_s[first:last], rngs[channel]
                )
            if not go_on(last):
                break
        return ScannedChannels(photons[:, :last], np.stack([image.survivors for image in images]))
