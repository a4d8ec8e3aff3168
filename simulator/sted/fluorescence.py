"""The fluorescence of a raster scan, line by line, while molecules disappear from the map.

At the start of a line the map holds the molecules that have survived the lines before. The line's
signal is their correlation with the kernel at one row, minus what was lost by the molecules that
bleach during the line. The kernel is written as a short sum of products of a function of y and one of
x (its singular value decomposition), so that a line costs one small matrix product and a few Fourier
transforms. Several kernels, for light that differs from pixel to pixel, are first written as mixtures
of a few.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.sted.bleaching import Bleached
from simulator.sted.raster import Kernel, Numbers, Raster, by_visits
from simulator.sted.scanning import FloatImage, Molecules

Levels = NDArray[np.intp]

# Terms of the kernels below this part of the largest are left out: far below what any count shows.
_SMALLEST_TERM = 1e-8
# The same of the few kernels that many are mixed of.
_SMALLEST_PART = 1e-7

#: Events at a time, so that their rows of the kernel stay in the processor's cache.
CHUNK = 4096


class Correlator:
    """Correlates the lines of a scan with one or several kernels.

    Parameters
    ----------
    kernels
        Shape ``(kernel, y, x)``, odd and square.
    raster
        The scan.

    Attributes
    ----------
    raster
        As above.
    side
        Of the kernels, in map pixels.
    at_visits
        The kernels, see :func:`simulator.sted.raster.by_visits`.
    down_terms
        The functions of y whose products with functions of x make up the kernels, shape ``(term, y)``.
    across_terms
        The functions of x, as the conjugates of their Fourier transforms, shape ``(term, frequency)``.
    length
        Of these transforms.
    """

    def __init__(self, kernels: Kernel, raster: Raster) -> None:
        from scipy import fft

        self.raster = raster
        self.side = kernels.shape[-1]
        self.at_visits = by_visits(kernels, raster.stride_px)
        self._mixture, basis = _mixtures(kernels)
        down, size, across = np.linalg.svd(basis)
        kept = size > _SMALLEST_TERM * size.max(initial=0.0)
        self.down_terms = np.ascontiguousarray((down * size[:, None]).swapaxes(1, 2)[kept])
        self.length = fft.next_fast_len(raster.map_width, real=True)
        self.across_terms = np.conj(fft.rfft(across[kept], self.length))
        ends = np.cumsum(np.count_nonzero(kept, axis=1))
        self._terms_of = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    @property
    def terms(self) -> int:
        """Return how many products of a function of y and one of x the kernels are made of."""
        return len(self.down_terms)

    def window(self, line: int) -> slice:
        """Return the rows of the map that a line sees."""
        step = self.raster.stride_px
        top = step // 2 + line * step
        return slice(top, top + self.side)

    def down(self, rows: FloatImage, out: NDArray[np.float64]) -> None:
        """Write the rows of the map that one line sees, summed over y for each term, shape ``(term, x)``."""
        np.matmul(self.down_terms, rows, out=out)

    def across(self, terms: NDArray[np.float64], levels: Levels | None) -> NDArray[np.float64]:
        """Return the correlation for terms of shape ``(term, line, x)``, at the pixels of the image.

        With ``levels``, the number of the kernel of each pixel, the shape is ``(line, column)``;
        without, it is ``(kernel, line, column)``.
        """
        from scipy import fft

        spectra = fft.rfft(terms, self.length)
        mixed = np.stack(
            [np.einsum("tlf,tf->lf", spectra[which], self.across_terms[which]) for which in self._terms_of]
        )
        step, columns = self.raster.stride_px, self.raster.shape_yx[1]
        parts = fft.irfft(mixed, self.length)[..., step // 2 : step // 2 + step * columns : step]
        if levels is None:
            return np.asarray(np.einsum("kp,plc->klc", self._mixture, parts))
        return np.asarray(np.einsum("lcp,plc->lc", self._mixture[levels], parts))


def _mixtures(kernels: Kernel) -> tuple[NDArray[np.float64], Kernel]:
    """Return the parts of a few kernels, shape ``(kernel, part)``, that make up many, and these few."""
    if len(kernels) == 1:
        return np.ones((1, 1)), kernels
    flat = kernels.reshape(len(kernels), -1)
    # By the eigenvectors of the small square of scalar products: a fifth of the time of a singular value
    # decomposition, and half of its digits, of which these are enough.
    size, mixture = np.linalg.eigh(flat @ flat.T)
    # The largest in any case: all are zero in the dark.
    mixture = mixture[:, np.flatnonzero((size > _SMALLEST_PART**2 * size[-1]) | (size == size[-1]))]
    return mixture, (mixture.T @ flat).reshape(-1, *kernels.shape[1:])


class LineImages:
    """Computes the lines of one scan in their order.

    Parameters
    ----------
    correlator
        For the photon rate of one molecule by its place relative to the beam, in Hz.
    molecules
        The map, with its margin.
    bleached
        What the scan bleaches, in the order of the lines.
    levels
        Number of the kernel of each pixel, shape ``(line, column)``; ``None`` if there is one kernel.
    within_dwell
        Whether a molecule that bleaches shines in the first part of that dwell.

    Attributes
    ----------
    correlator, bleached
        As above.
    starts
        Number of the first event of each line, and how many there are.
    sites
        Of the events in the flattened map.
    """

    def __init__(
        self,
        correlator: Correlator,
        molecules: Molecules,
        bleached: Bleached,
        *,
        levels: Levels | None = None,
        within_dwell: bool = True,
    ) -> None:
        self._alive = molecules.astype(np.float64)
        self.bleached = bleached
        self.correlator = correlator
        self._raster = correlator.raster
        self._levels = levels
        self._within_dwell = within_dwell
        self._kernels = correlator.at_visits
        self.starts = np.searchsorted(bleached.line, np.arange(self._raster.shape_yx[0] + 1))
        self.sites = bleached.y * self._raster.map_width + bleached.x

    @property
    def survivors(self) -> Molecules:
        """Return the molecules that have survived the lines computed so far."""
        return self._alive.astype(np.int32)

    def compute(self, first: int, last: int) -> FloatImage:
        """Return the mean photon rate at each pixel of the lines ``first`` to ``last - 1``, in Hz.

        Lines are computed once and in order.
        """
        alive, starts, correlator = self._alive.reshape(-1), self.starts, self.correlator
        terms = np.empty((correlator.terms, last - first, self._alive.shape[1]))
        for line in range(first, last):
            correlator.down(self._alive[correlator.window(line)], terms[:, line - first])
            np.subtract.at(alive, self.sites[starts[line] : starts[line + 1]], 1.0)
        levels = np.zeros((1, 1), np.intp) if self._levels is None else self._levels[first:last]
        signal = correlator.across(terms, levels)
        # The Fourier transform leaves rounding noise of either sign where nothing shines.
        return np.maximum(signal - self.lost(first, last), 0.0)

    def lost(self, first: int, last: int) -> FloatImage:
        """Return what molecules that bleach during a line no longer send in it."""
        visits, columns = self._kernels.shape[-1], self._raster.shape_yx[1]
        # Visits before the first column and after the last one fall into a margin.
        width = columns + 2 * visits
        lost = np.zeros((last - first) * width)
        for start in range(int(self.starts[first]), int(self.starts[last]), CHUNK):
            chunk = np.arange(start, min(start + CHUNK, int(self.starts[last])))
            column, value = self._losses(self.bleached.take(chunk))
            place = (self.bleached.line[chunk, None] - first) * width + visits + column
            low = int(place[0, 0]) // width * width
            counted = np.bincount(place.ravel() - low, value.ravel())
            lost[low : low + len(counted)] += counted
        return lost.reshape(last - first, width)[:, visits : visits + columns]

    def _losses(self, events: Bleached) -> tuple[Numbers, NDArray[np.float64]]:
        """Return for some events and each column visit the column and what is lost there."""
        raster, (column, part) = self._raster, self.missed(events)
        row_phase, column_phase = raster.rows.phase[events.y], raster.columns.phase[events.x]
        if self._levels is None:
            return column, self._kernels[0, row_phase, events.row_visit, column_phase] * part
        inside = np.clip(column, 0, raster.shape_yx[1] - 1)
        level = self._levels[events.line[:, None], inside]
        row = (row_phase[:, None], events.row_visit[:, None], column_phase[:, None])
        return column, self._kernels[(level, *row, np.arange(self._kernels.shape[-1]))] * part

    def missed(self, events: Bleached) -> tuple[Numbers, NDArray[np.float64]]:
        """Return for some events and each column visit the column and the part of its time that is missed."""
        raster, visit = self._raster, np.arange(self._kernels.shape[-1])
        now = events.column_visit[:, None]
        part = (visit > now).astype(np.float64)
        if self._within_dwell:
            part += (visit == now) * (1.0 - events.dwell_before[:, None])
        if raster.passes > 1:
            part = (part + (raster.passes - 1 - events.passes_before[:, None])) / raster.passes
        return raster.columns.first[events.x][:, None] + visit, part
