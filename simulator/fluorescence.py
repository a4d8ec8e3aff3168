"""The fluorescence of a raster scan, line by line, while molecules disappear from the map.

At the start of a line the map holds the molecules that have survived the lines before. The line's
signal is their correlation with the kernel at one row, minus what was lost by the molecules that
bleach during the line. The kernel is written as a short sum of products of a function of y and one of
x (its singular value decomposition), so that a line costs one small matrix product and a few Fourier
transforms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.bleaching import Bleached
from simulator.raster import Kernel, Numbers, Raster, by_visits
from simulator.scanning import FloatImage, Molecules

# Terms of the kernel below this part of the largest are left out: far below what any count shows.
_SMALLEST_TERM = 1e-8

# Events at a time, so that their rows of the kernel stay in the processor's cache.
_CHUNK = 4096


class LineImages:
    """Computes the lines of one scan in their order.

    Parameters
    ----------
    photons_hz
        Kernel: photon rate of one molecule by its place relative to the beam.
    molecules
        The map, with its margin.
    bleached
        What the scan bleaches.
    raster
        The scan.
    within_dwell
        Whether a molecule that bleaches shines in the first part of that dwell.
    """

    def __init__(
        self,
        photons_hz: Kernel,
        molecules: Molecules,
        bleached: Bleached,
        raster: Raster,
        *,
        within_dwell: bool = True,
    ) -> None:
        from scipy import fft

        self._alive = molecules.astype(np.float64)
        self._bleached = bleached
        self._raster = raster
        self._within_dwell = within_dwell
        self._kernel = by_visits(photons_hz, raster.stride_px)
        self._side = photons_hz.shape[0]
        down, size, across = np.linalg.svd(photons_hz)
        terms = int(np.count_nonzero(size > _SMALLEST_TERM * size[0])) if size[0] > 0 else 0
        self._down = np.ascontiguousarray((down[:, :terms] * size[:terms]).T)
        self._length = fft.next_fast_len(molecules.shape[1], real=True)
        self._across = np.conj(fft.rfft(across[:terms], self._length))
        self._starts = np.searchsorted(bleached.line, np.arange(raster.shape_yx[0] + 1))

    @property
    def survivors(self) -> Molecules:
        """Return the molecules that have survived the lines computed so far."""
        return self._alive.astype(np.int32)

    def compute(self, first: int, last: int) -> FloatImage:
        """Return the mean photon rate at each pixel of the lines ``first`` to ``last - 1``, in Hz.

        Lines are computed once and in order.
        """
        from scipy import fft

        alive, sites, starts = self._alive.reshape(-1), self._bleached.site, self._starts
        step, columns = self._raster.stride_px, self._raster.shape_yx[1]
        terms = np.empty((len(self._down), last - first, self._alive.shape[1]))
        for line in range(first, last):
            top = step // 2 + line * step
            np.matmul(self._down, self._alive[top : top + self._side], out=terms[:, line - first])
            np.subtract.at(alive, sites[starts[line] : starts[line + 1]], 1.0)
        spectrum = np.einsum("tlf,tf->lf", fft.rfft(terms, self._length), self._across)
        signal = fft.irfft(spectrum, self._length)
        image = signal[:, step // 2 : step // 2 + step * columns : step] - self._lost_in_line(first, last)
        # The Fourier transform leaves rounding noise of either sign where nothing shines.
        return np.maximum(image, 0.0)

    def _lost_in_line(self, first: int, last: int) -> FloatImage:
        """Return what molecules that bleach during a line no longer send in it."""
        visits, columns = self._kernel.shape[3], self._raster.shape_yx[1]
        # Visits before the first column and after the last one fall into a margin.
        width = columns + 2 * visits
        lost = np.zeros((last - first) * width)
        for start in range(int(self._starts[first]), int(self._starts[last]), _CHUNK):
            stop = min(start + _CHUNK, int(self._starts[last]))
            place, value = self._losses(start, stop, first, width)
            low = int(place[0, 0]) // width * width
            counted = np.bincount(place.ravel() - low, value.ravel())
            lost[low : low + len(counted)] += counted
        return lost.reshape(last - first, width)[:, visits : visits + columns]

    def _losses(self, start: int, stop: int, first: int, width: int) -> tuple[Numbers, NDArray[np.float64]]:
        """Return for some events and each column visit the flat pixel and what is lost there."""
        bleached, raster, visits = self._bleached, self._raster, self._kernel.shape[3]
        y, x = np.divmod(bleached.site[start:stop], self._alive.shape[1])
        rows_of_kernel = self._kernel[
            raster.rows.phase[y], bleached.row_visit[start:stop], raster.columns.phase[x]
        ]
        visit = np.arange(visits)
        now = bleached.column_visit[start:stop, None]
        part = (visit > now).astype(np.float64)
        if self._within_dwell:
            part += (visit == now) * (1.0 - bleached.dwell_before[start:stop, None])
        if raster.passes > 1:
            part = (part + (raster.passes - 1 - bleached.passes_before[start:stop, None])) / raster.passes
        place = (bleached.line[start:stop] - first) * width + raster.columns.first[x] + visits
        return place[:, None] + visit, rows_of_kernel * part
