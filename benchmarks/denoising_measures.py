"""How near a denoised movie is to the truth: pixels, shapes, and what happens in cells and when."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import metrics

Image = NDArray[np.float64]

#: Frames around a spike: the baseline before it, and the answer from it on.
_BEFORE, _AFTER = 4, 20
_SSIM_EVERY = 5

_similarity: Any = metrics.structural_similarity  # has no types


def peak_of(truth: NDArray[Any]) -> float:
    """Return what counts as the brightest value: the 99.9 percentile, which single pixels do not move."""
    return float(np.percentile(truth, 99.9))


def psnr_db(estimate: NDArray[Any], truth: NDArray[Any], peak: float) -> float:
    return float(10 * np.log10(peak**2 / np.mean((np.asarray(estimate, np.float64) - truth) ** 2)))


def ssim(estimate: NDArray[Any], truth: NDArray[Any], peak: float) -> float:
    """Return the mean structural similarity of every fifth frame."""
    pairs = zip(estimate[::_SSIM_EVERY], truth[::_SSIM_EVERY], strict=True)
    found = [_similarity(np.asarray(e, np.float64), t, data_range=peak) for e, t in pairs]
    return float(np.mean(found))


def covered_percent(mean: NDArray[Any], std: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return how many pixels of the truth lie in the 95 % interval."""
    return float(100 * np.mean(np.abs(mean - truth) <= 1.96 * std))


def traces_of(movie: NDArray[Any], footprints: Image) -> Image:
    """Return the light of each cell, weighted by its footprint, shape ``(cells, t)``."""
    return np.asarray(np.tensordot(footprints, movie, ((1, 2), (1, 2))), np.float64)


def trace_correlation(found: Image, true: Image) -> float:
    """Return the correlation of a cell's trace with its true one, the median of all cells."""
    return float(np.median([np.corrcoef(f, t)[0, 1] for f, t in zip(found, true, strict=True)]))


def mean_responses(traces: list[Image], true: list[Image], spikes: list[Image]) -> tuple[Image, Image]:
    """Return the mean answers of found and of true traces to a spike, each less its mean before.

    Of several movies; spikes too near to the ends of one are left out.
    """
    both: tuple[list[Image], list[Image]] = ([], [])
    for pair in zip(traces, true, spikes, strict=True):
        cells, times = np.nonzero(pair[2])
        for cell, time in zip(cells, times, strict=True):
            if _BEFORE <= time <= pair[2].shape[1] - _AFTER:
                for responses, some in zip(both, pair[:2], strict=True):
                    part = some[cell, time - _BEFORE : time + _AFTER]
                    responses.append(part - part[:_BEFORE].mean())
    if not both[0]:
        nothing = np.full(_BEFORE + _AFTER, np.nan)
        return nothing, nothing
    return np.mean(both[0], axis=0), np.mean(both[1], axis=0)


def lag_frames(response: Image, true: Image) -> float:
    """Return by how many frames the true response must be moved to be most like the found one."""
    times = np.arange(len(true), dtype=float)
    shifts = np.arange(-2, 8, 0.02)
    likeness = [np.corrcoef(np.interp(times - shift, times, true), response)[0, 1] for shift in shifts]
    return float("nan") if np.isnan(likeness).all() else float(shifts[int(np.nanargmax(likeness))])


def amplitude_ratio(response: Image, true: Image) -> float:
    """Return the height of a response over that of the true one, each the highest mean of 3 frames."""
    height, true_height = (np.convolve(some, np.full(3, 1 / 3), "valid").max() for some in (response, true))
    return float(height / true_height)
