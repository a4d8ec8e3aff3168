"""Brings images to another pixel size without making or losing photons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def photons_resampled(photons: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the photons that fall on pixels of another size; their sum stays the same.

    Each new pixel takes the share of the old ones that it covers, so counts stay nearly Poisson: exactly
    if the new pixels are whole multiples of the old, and correlated between neighbours otherwise.

    Parameters
    ----------
    photons
        Shape ``(y, x)``.
    shape
        New rows and columns, over the same area.
    """
    resampled = np.asarray(photons, np.float64)
    for axis in (0, 1):
        if resampled.shape[axis] != shape[axis]:
            resampled = _along(resampled, axis, shape[axis])
    return resampled.astype(np.float32)


def map_resampled(values: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return a map of probabilities on another grid over the same area, by linear interpolation."""
    resampled = np.asarray(values, np.float32)
    for axis in (0, 1):
        if resampled.shape[axis] != shape[axis]:
            resampled = _interpolated(resampled, axis, shape[axis])
    return resampled


def labels_resampled(labels: NDArray[np.int32], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return the label of the nearest pixel; numbers stay without gaps if an object falls between."""
    if labels.shape == shape:
        return labels
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(shape, labels.shape, strict=True)
    )
    resampled = labels[rows[:, None], columns[None, :]]
    numbers = np.unique(resampled)
    if len(numbers) > 1 and numbers[-1] >= len(numbers):
        there = np.isin(np.arange(numbers[-1] + 1), numbers[numbers > 0])
        resampled = (np.cumsum(there) * there)[resampled]
    return np.asarray(resampled, np.int32)


def _along(image: NDArray[np.float64], axis: int, length: int) -> NDArray[np.float64]:
    """Cut the running sum along an axis at the borders of the new pixels."""
    image = np.moveaxis(image, axis, 0)
    old = len(image)
    total = np.concatenate([np.zeros_like(image[:1]), np.cumsum(image, axis=0)])
    borders = np.linspace(0, old, length + 1)
    whole = np.minimum(borders.astype(int), old - 1)
    part = (borders - whole).reshape(-1, *[1] * (image.ndim - 1))
    cut = total[whole] + part * image[whole]
    # Differences of large sums may fall a rounding error below 0.
    return np.moveaxis(np.maximum(np.diff(cut, axis=0), 0), 0, axis)


def _interpolated(values: NDArray[np.float32], axis: int, length: int) -> NDArray[np.float32]:
    values = np.moveaxis(values, axis, 0)
    places = np.clip((np.arange(length) + 0.5) * len(values) / length - 0.5, 0, len(values) - 1)
    low = places.astype(int)
    high = np.minimum(low + 1, len(values) - 1)
    part = (places - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return np.moveaxis((1 - part) * values[low] + part * values[high], 0, axis)
