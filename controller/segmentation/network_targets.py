"""What a segmentation network is to answer, from labels of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.core.frame import FloatImage

#: In label images and class images: nobody said what is here.
UNLABELLED = -1

#: Standard deviation of the bump at an object's centre, as a part of its size, and at least, in pixels.
_BUMP, _SMALLEST_BUMP = 0.12, 0.8


@dataclass(frozen=True, slots=True, eq=False)
class DenseTargets:
    """What each pixel is: ``classes`` (int64, -1 = unlabelled), ``depth`` and ``centers`` (float32, 0..1).

    ``is_known`` says where depth and centres are; all have shape ``(y, x)``.
    """

    classes: NDArray[np.int64]
    depth: FloatImage
    centers: FloatImage
    is_known: NDArray[np.bool_]


def dense_targets(
    labels: NDArray[np.int32], object_px: float, classes: NDArray[np.int64] | None = None
) -> DenseTargets:
    """Return the targets of an image whose objects are labelled 1, 2, …, 0 = none, -1 = unlabelled.

    ``classes`` says of each pixel which class it is; without it all objects are of class 1.
    """
    is_known = labels != UNLABELLED
    if classes is None:
        classes = np.where(is_known, labels > 0, UNLABELLED).astype(np.int64)
    depth = np.zeros(labels.shape, np.float32)
    centers = np.zeros(labels.shape, np.float32)
    sigma = bump_sigma_px(object_px)
    reach = int(4 * sigma) + 1
    places: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(np.maximum(labels, 0))
    for number, place in enumerate(places, 1):
        if place is None:  # a number that no object has
            continue
        # One pixel more all around, so that the border of the object is seen where the image has one.
        inside = np.pad(labels[place] == number, 1)
        distance = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        own = distance > 0
        depth[place][own] = (distance / distance.max())[own]
        middle = _middle(own) + np.array([side.start for side in place])
        _add_bump(centers, middle, sigma, reach)
    return DenseTargets(classes, depth, centers, is_known)


def bump_sigma_px(object_px: float) -> float:
    """Return the standard deviation of the bump that marks a centre, in pixels."""
    return max(_SMALLEST_BUMP, _BUMP * object_px)


def _middle(own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the centre of mass, or the pixel of the object that is nearest to it."""
    pixels = np.argwhere(own)
    middle: NDArray[np.float64] = pixels.mean(axis=0)
    squares = ((pixels - middle) ** 2).sum(axis=1)
    return middle if squares.min() <= 1 else pixels[np.argmin(squares)].astype(float)


def _add_bump(centers: FloatImage, middle: NDArray[np.float64], sigma: float, reach: int) -> None:
    low = np.maximum(np.floor(middle).astype(int) - reach, 0)
    high = np.minimum(np.floor(middle).astype(int) + reach + 1, centers.shape)
    y, x = (np.arange(a, b) - m for a, b, m in zip(low, high, middle, strict=True))
    bump = np.exp(-0.5 * (y[:, None] ** 2 + x[None, :] ** 2) / sigma**2).astype(np.float32)
    part = centers[low[0] : high[0], low[1] : high[1]]
    np.maximum(part, bump, out=part)
