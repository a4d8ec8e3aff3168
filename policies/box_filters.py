"""Sums and means over the square neighbourhood of each pixel of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]


def box_sum(image: NDArray[Any], radius: int) -> Image:
    """Return the sum over each pixel and ``radius`` pixels each way, nothing outside the image."""
    sums = np.pad(np.asarray(image, dtype=float), radius)
    side = 2 * radius + 1
    for axis in (0, 1):
        total = np.cumsum(sums, axis=axis)
        total = np.concatenate([np.zeros_like(np.take(total, [0], axis=axis)), total], axis=axis)
        starts = np.arange(total.shape[axis] - side)
        sums = np.take(total, starts + side, axis=axis) - np.take(total, starts, axis=axis)
    return sums


def box_mean(image: NDArray[Any], radius: int) -> Image:
    """Return the mean over each pixel and ``radius`` pixels each way, inside the image only."""
    return box_sum(image, radius) / box_sum(np.ones(np.shape(image)), radius)
