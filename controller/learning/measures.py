"""How well segmentations agree with the truth: objects, areas, outlines, spots.

All measures lie in 0..1, higher is better, unless they say otherwise. Where there is nothing to find and
nothing was found they are 1. Counts of several images are added (``a + b``) before a ratio is taken, so
that an image with many objects weighs more than one with few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from controller.core.frame import Segmentation

Labels = NDArray[Any]
Floats = NDArray[np.float64]

#: The usual overlaps at which objects are matched, from "found" to "outlined".
OVERLAPS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


@dataclass(frozen=True, slots=True)
class Matches:
    """How many were found.

    Attributes
    ----------
    hits, wrong, missed
        Those of the truth that were found, those found that are none, those that were not found.
    """

    hits: int
    wrong: int
    missed: int

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def precision(self) -> float:
        """Return the part of what was found that is there."""
        return self._part(self.hits, self.hits + self.wrong)

    @property
    def recall(self) -> float:
        """Return the part of what is there that was found."""
        return self._part(self.hits, self.hits + self.missed)

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall; for objects, the recognition quality (RQ)."""
        return self._part(2 * self.hits, 2 * self.hits + self.wrong + self.missed)

    @property
    def average_precision(self) -> float:
        """Return hits / (hits + wrong + missed), called AP since the nuclei challenge (DSB 2018)."""
        return self._part(self.hits, self.hits + self.wrong + self.missed)

    def _part(self, part: float, whole: float) -> float:
        if self.hits + self.wrong + self.missed == 0:
            return 1.0
        return part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class ObjectMatches(Matches):
    """How many objects were found, and how well: ``overlaps`` is the sum of the hits' IoU."""

    overlaps: float

    @property
    def segmentation_quality(self) -> float:
        """Return the mean intersection over union of the hits (SQ)."""
        return self._part(self.overlaps, self.hits)

    @property
    def panoptic_quality(self) -> float:
        """Return SQ times RQ (PQ; Kirillov et al., CVPR 2019)."""
        return self.segmentation_quality * self.f1


def match_objects(labels: Labels, truth: Labels, overlap: float = 0.5) -> ObjectMatches:
    """Match each object with at most one of the truth, by an intersection over union above ``overlap``.

    Parameters
    ----------
    labels, truth
        Images of whole numbers of one shape, 0 is background; numbers may have gaps.
    overlap
        In [0, 1). From 0.5 on no two objects compete for one; below, as many as possible are matched.

    Raises
    ------
    ValueError
        If the shapes differ or ``overlap`` is out of range.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap!r} is outside 0 <= overlap < 1")
    union_ratio = _overlaps(labels, truth)
    found, there = union_ratio.shape
    good = union_ratio > overlap
    rows, columns = optimize.linear_sum_assignment(np.where(good, 2 + union_ratio, 0.0), maximize=True)
    is_hit = good[rows, columns]
    hits = int(np.count_nonzero(is_hit))
    return ObjectMatches(hits, found - hits, there - hits, float(union_ratio[rows, columns][is_hit].sum()))


def average_precision(labels: Labels, truth: Labels, overlaps: Sequence[float] = (0.5,)) -> float:
    """Return the mean over ``overlaps`` of hits / (hits + wrong + missed) objects.

    ``overlaps=OVERLAPS`` gives the AP@0.5:0.9 of the literature.
    """
    return float(np.mean([match_objects(labels, truth, one).average_precision for one in overlaps]))


def dice(mask: Labels, truth: Labels) -> float:
    """Return twice the intersection over the sum of the areas of what is not 0."""
    _same_shape(mask, truth)
    one, other = mask != 0, truth != 0
    area = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / area if area else 1.0


def boundary_f1(labels: Labels, truth: Labels, tolerance_px: float = 2.0) -> float:
    """Return the F1 of the outlines' pixels that lie within ``tolerance_px`` of the other outline.

    An outline is made of an object's pixels that have a neighbour (of 4) of another number; the border of
    the image is none. Csurka et al., BMVC 2013.
    """
    _same_shape(labels, truth)
    one, other = _outline(labels), _outline(truth)
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    # Distances to the nearest outline, at each pixel.
    precision = np.mean(ndimage.distance_transform_edt(~other)[one] <= tolerance_px)
    recall = np.mean(ndimage.distance_transform_edt(~one)[other] <= tolerance_px)
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


@dataclass(frozen=True, slots=True)
class SpotMatches(Matches):
    """How many spots were found, and how far off: the sum of the hits' squared distances."""

    squared_error_px2: float

    @property
    def localisation_rmse_px(self) -> float:
        """Return the root of the mean squared distance of the hits, in pixels; nan without any."""
        return float(np.sqrt(self.squared_error_px2 / self.hits)) if self.hits else float("nan")


def match_spots(found_yx: Floats, true_yx: Floats, tolerance_px: float = 2.0) -> SpotMatches:
    """Match each spot with at most one of the truth no further than ``tolerance_px`` away.

    As many as possible are matched; of all ways to do so, the one with the least squared distance.

    Parameters
    ----------
    found_yx, true_yx
        Places in pixels, shape ``(n, 2)``; ``n`` may be 0.
    """
    found_yx, true_yx = (np.reshape(places, (-1, 2)).astype(np.float64) for places in (found_yx, true_yx))
    square = np.sum((found_yx[:, None] - true_yx[None]) ** 2, axis=2)
    near = square <= tolerance_px**2
    # Whatever the distances, one match more is worth more than all of them.
    dear = (tolerance_px**2 + 1) * (1 + min(square.shape))
    rows, columns = optimize.linear_sum_assignment(np.where(near, square, dear))
    is_hit = near[rows, columns]
    hits = int(np.count_nonzero(is_hit))
    error = float(square[rows, columns][is_hit].sum())
    return SpotMatches(hits, len(found_yx) - hits, len(true_yx) - hits, error)


def spot_places(found: Segmentation) -> Floats:
    """Return the centre of each object, weighted by its probability, in pixels; shape ``(n, 2)``."""
    count = int(found.labels.max())
    centres = ndimage.center_of_mass(found.probability, found.labels, np.arange(1, count + 1))
    return np.reshape(np.array(centres, dtype=np.float64), (-1, 2))


def _overlaps(labels: Labels, truth: Labels) -> Floats:
    """Return the intersection over union of each object with each of the truth, background left out."""
    _same_shape(labels, truth)
    numbers, ours = np.unique(labels, return_inverse=True)
    true_numbers, theirs = np.unique(truth, return_inverse=True)
    shape = len(numbers), len(true_numbers)
    pairs = ours.ravel() * shape[1] + theirs.ravel()
    common = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    union = common.sum(1)[:, None] + common.sum(0)[None] - common
    ratio = common / np.maximum(union, 1)
    return np.asarray(ratio[numbers != 0][:, true_numbers != 0])


def _outline(labels: Labels) -> NDArray[np.bool_]:
    """Return the pixels of objects next to another number."""
    edge = np.zeros(labels.shape, np.bool_)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return np.asarray(edge & (labels != 0))


def _same_shape(labels: Labels, truth: Labels) -> None:
    if labels.shape != truth.shape or labels.ndim != 2:
        raise ValueError(f"two images of one shape (y, x) are needed, got {labels.shape} and {truth.shape}")
