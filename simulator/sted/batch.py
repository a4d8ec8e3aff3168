"""Scans of many maps at once: the same numbers as one by one, with fewer calls for each.

A scan of 64 x 64 pixels is hundreds of calls of numpy and scipy, most of them on arrays so small that the
call itself is a part of the cost. The maps of a batch share the calls: the matrix product of a line, its
Fourier transforms and what its bleached molecules take away. The chance of each scan, and every sum in the
order in which it is taken, are those of the single scan, so that nothing differs but the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.sted.bleaching import Bleached
from simulator.sted.engine import STEDEngine, bands
from simulator.sted.fluorescence import CHUNK, LineImages
from simulator.sted.scanning import Exposure, FloatImage, Molecules, Scanned, Seeds

# Maps in one array, and their lines of all maps together: so much stays in the processor's cache.
_MAPS_AT_ONCE = 8
_LINES_AT_ONCE = 32


def scan_many(
    engines: STEDEngine | Sequence[STEDEngine],
    maps: Sequence[Molecules],
    exposures: Sequence[Exposure],
    seeds: Sequence[Seeds],
) -> list[Scanned]:
    """Scan many maps, each with its own light and chance.

    Parameters
    ----------
    engines
        One for all, or one for each map. Dyes, detectors and optics may differ.
    maps
        As for :meth:`STEDEngine.scan`, all of one shape.
    exposures, seeds
        One for each map. Powers and dwell times may differ, the raster may not.

    Returns
    -------
    For each map what ``engine.scan(map, exposure, seeds)`` returns, bit for bit.

    Raises
    ------
    ValueError
        If there are more or fewer of one than of another, or maps or rasters differ.
    TypeError
        If an exposure is not the same on every pixel.
    """
    each = [engines] * len(maps) if isinstance(engines, STEDEngine) else list(engines)
    check_batch(each, maps, exposures)
    if len(seeds) != len(maps):
        raise ValueError(f"{len(seeds)} seeds are given for {len(maps)} maps")
    scans = [
        _Scan(engine, exposure, chance, molecules, engine.line_images(molecules, exposure, chance))
        for engine, molecules, exposure, chance in zip(each, maps, exposures, seeds, strict=True)
    ]
    # Maps in one array have as many terms as the one with the most: put like to like.
    order = sorted(range(len(scans)), key=lambda number: scans[number].lines.correlator.terms)
    done: dict[int, Scanned] = {}
    for first in range(0, len(order), _MAPS_AT_ONCE):
        numbers = order[first : first + _MAPS_AT_ONCE]
        done.update(zip(numbers, _scan_together([scans[number] for number in numbers]), strict=True))
    return [done[number] for number in range(len(scans))]


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """One of the scans, its bleaching drawn and none of its lines computed."""

    engine: STEDEngine
    exposure: Exposure
    seeds: Seeds
    molecules: Molecules
    lines: LineImages


def check_batch(
    engines: Sequence[STEDEngine],
    maps: Sequence[Molecules],
    exposures: Sequence[Exposure],
) -> None:
    """Raise an error that names what keeps these scans from being one batch."""
    for name, given in (("engines", engines), ("exposures", exposures)):
        if len(given) != len(maps):
            raise ValueError(f"{len(given)} {name} are given for {len(maps)} maps")
    for exposure in exposures:
        if not isinstance(exposure, Exposure):
            raise TypeError(f"a batch has even light, an Exposure each; scan {type(exposure).__name__} alone")
    kinds: dict[str, set[Any]] = {
        "map shapes": {molecules.shape for molecules in maps},
        "stride_px": {exposure.stride_px for exposure in exposures},
        "passes": {exposure.passes for exposure in exposures},
        "margin_px": {engine.margin_px for engine in engines},
        "bleaching_within_dwell": {engine.physics.bleaching_within_dwell for engine in engines},
    }
    for name, found in kinds.items():
        if len(found) > 1:
            raise ValueError(f"{name}: a batch has one, got {sorted(found)}")


def _scan_together(scans: Sequence[_Scan]) -> list[Scanned]:
    """Scan maps that fit into one array."""
    images = _ManyLineImages(scans)
    rngs = [np.random.Generator(np.random.Philox(scan.seeds.photons)) for scan in scans]
    shape_yx = images.raster.shape_yx
    photons = np.zeros((len(scans), *shape_yx), np.uint32)
    for first, last in bands(shape_yx[0]):
        photons_hz = images.compute(first, last)
        for number, scan in enumerate(scans):
            photons[number, first:last] = scan.engine.detector.counts(
                photons_hz[number],
                scan.exposure.dwell_s,
                rngs[number],
                whole_rates=scan.engine.physics.whole_rates,
            )
    return [Scanned(*of_one) for of_one in zip(photons, images.survivors, strict=True)]


class _ManyLineImages:
    """Computes the lines of several scans of one raster; see ``LineImages`` for those of one."""

    def __init__(self, together: Sequence[_Scan]) -> None:
        self._scans = scans = [scan.lines for scan in together]
        self._pattern = scans[0].correlator
        self.raster = self._pattern.raster
        self._alive = np.stack([scan.molecules for scan in together]).astype(np.float64)
        correlators = [scan.correlator for scan in scans]
        self._kernels = np.stack([correlator.at_visits[0] for correlator in correlators])
        # Kernels of fewer terms than another's get some that are 0.
        terms = max(correlator.terms for correlator in correlators)
        self._down = np.zeros((len(scans), terms, self._pattern.side))
        self._across = np.zeros((len(scans), terms, self._pattern.length // 2 + 1), np.complex128)
        for number, correlator in enumerate(correlators):
            self._down[number, : correlator.terms] = correlator.down_terms
            self._across[number, : correlator.terms] = correlator.across_terms
        self._band = max(1, _LINES_AT_ONCE // len(scans))
        self._terms = np.zeros((len(scans), terms, self._band, self._pattern.length))
        lines = np.concatenate([scan.bleached.line for scan in scans])
        order = np.argsort(lines, kind="stable")
        sites = [scan.sites + number * self._alive[0].size for number, scan in enumerate(scans)]
        self._sites = np.concatenate(sites)[order]
        self._starts = np.searchsorted(lines[order], np.arange(self.raster.shape_yx[0] + 1))

    @property
    def survivors(self) -> NDArray[np.int32]:
        """The molecules that have survived the lines computed so far, shape ``(map, y, x)``."""
        return self._alive.astype(np.int32)

    def compute(self, first: int, last: int) -> FloatImage:
        """Return the mean photon rate at each pixel of some lines in Hz, shape ``(map, line, column)``.

        Lines are computed once and in order.
        """
        signal = np.concatenate(
            [self._signal(top, min(top + self._band, last)) for top in range(first, last, self._band)], axis=1
        )
        # The Fourier transform leaves rounding noise of either sign where nothing shines.
        return np.maximum(signal - self._lost(first, last), 0.0)

    def _signal(self, first: int, last: int) -> FloatImage:
        """Return what the molecules that are there at the start of each line send."""
        from scipy import fft

        alive, starts, length = self._alive.reshape(-1), self._starts, self._pattern.length
        width, columns, step = self.raster.map_width, self.raster.shape_yx[1], self.raster.stride_px
        for line in range(first, last):
            rows = self._alive[:, self._pattern.window(line)]
            np.matmul(self._down, rows, out=self._terms[:, :, line - first, :width])
            np.subtract.at(alive, self._sites[starts[line] : starts[line + 1]], 1.0)
        spectra = fft.rfft(self._terms[:, :, : last - first], length)
        mixed = np.einsum("mtlf,mtf->mlf", spectra, self._across)
        return np.asarray(fft.irfft(mixed, length)[..., step // 2 : step // 2 + step * columns : step])

    def _lost(self, first: int, last: int) -> FloatImage:
        """Return what molecules that bleach during a line no longer send in it."""
        if not self._starts[last] - self._starts[first] <= CHUNK:
            return np.stack([scan.lost(first, last) for scan in self._scans])
        parts = [slice(int(scan.starts[first]), int(scan.starts[last])) for scan in self._scans]
        events = Bleached.joined(
            [scan.bleached.take(part) for scan, part in zip(self._scans, parts, strict=True)]
        )
        number = np.repeat(np.arange(len(parts)), [part.stop - part.start for part in parts])
        raster, visits = self.raster, self._kernels.shape[-1]
        column, missed = self._scans[0].missed(events)
        phases = (raster.rows.phase[events.y], events.row_visit, raster.columns.phase[events.x])
        # Visits before the first column and after the last one fall into a margin.
        width, columns = raster.shape_yx[1] + 2 * visits, raster.shape_yx[1]
        lines = number * (last - first) + events.line - first
        counted = np.bincount(
            (lines[:, None] * width + visits + column).ravel(),
            (self._kernels[(number, *phases)] * missed).ravel(),
            minlength=len(parts) * (last - first) * width,
        )
        lost = counted.reshape(len(parts), last - first, width)[..., visits : visits + columns]
        return np.asarray(lost, np.float64)
