"""Finds squares worth a visit in overviews, and ranks them.

:class:`Look` is what one overview showed, :func:`best_squares` finds the best :class:`Candidate` squares in
it, and :func:`best_apart` ranks those of all overviews.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.settings import Region
from policies.box_filters import Image, box_mean, box_sum
from policies.places import moved_inside, overlap_fraction


@dataclass(frozen=True, slots=True)
class Candidate:
    """A square worth a visit: expected photons of structure in it, and how unsure its segmentation is.

    ``score_photons`` is the signal above background times the probability of an object, summed over
    the square; ``uncertainty_bits`` the mean binary entropy, 1 without a segmentation.
    """

    region: Region
    score_photons: float
    uncertainty_bits: float


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one overview showed: maps of shape ``(y, x)`` over ``region``.

    ``signal`` is photons above the background times the probability of an object, ``uncertainty``
    the binary entropy in bits, ``worthy`` marks where a visit may be centred.
    """

    region: Region
    signal: Image
    uncertainty: Image
    worthy: NDArray[np.bool_]

    @classmethod
    def at(cls, frame: Frame, denoised: Denoised | None, segmentation: Segmentation | None) -> Self:
        """Return the look at one frame; what a failed stage left out is made up for.

        Without a denoised image the photons stand in for it, without a segmentation the local maxima
        that stand out from the background stand in for objects.
        """
        shape = frame.photons.shape
        image = np.asarray(frame.photons, dtype=float)
        if denoised is not None and denoised.mean.shape == shape:
            image = denoised.mean.astype(float)
        signal = np.maximum(image - np.median(image), 0.0)
        if segmentation is None or segmentation.labels.shape != shape:
            return cls(frame.settings.region, signal, np.ones(shape), _peaks(image))
        signal = signal * segmentation.probability
        uncertainty = segmentation.uncertainty.astype(float)
        return cls(frame.settings.region, signal, uncertainty, segmentation.labels > 0)

    @property
    def pixel_yx_m(self) -> NDArray[np.float64]:
        """Return height and width of a pixel in metres."""
        return np.array(self.region.size_yx_m) / self.signal.shape

    def signal_in(self, square: Region) -> float:
        """Return the photons of signal at the pixels whose centres lie in ``square``."""
        start = np.array(self.region.bounds_yx_m[:2])
        y0, x0, y1, x1 = square.bounds_yx_m
        low = np.ceil((np.array([y0, x0]) - start) / self.pixel_yx_m - 0.5).astype(int).clip(0)
        high = np.ceil((np.array([y1, x1]) - start) / self.pixel_yx_m - 0.5).astype(int).clip(0)
        return float(self.signal[low[0] : high[0], low[1] : high[1]].sum())


def best_squares(
    look: Look, square_m: float, box: Region, *, count: int, overlap_max: float
) -> list[Candidate]:
    """Return the best squares of side ``square_m`` in one overview, best first, at most ``count``.

    Squares are centred on pixels of objects, so that a large object may be worth several visits. They
    are moved into ``box`` (the stage's) and do not overlap each other by more than a fraction.
    """
    pixel = look.pixel_yx_m
    radius = max(0, round((square_m / float(pixel.max()) - 1) / 2))
    scores, unsure = box_sum(look.signal, radius), box_mean(look.uncertainty, radius)
    rows, columns = np.nonzero(look.worthy & (scores > 0))
    order = np.lexsort((columns, rows, -scores[rows, columns]))
    rows, columns = rows[order], columns[order]
    y_min, x_min, _, _ = look.region.bounds_yx_m
    found: list[Candidate] = []
    left = np.ones(len(rows), dtype=bool)
    # Only the best remaining pixel is looked at in each turn; those whose squares would cover it go.
    while left.any() and len(found) < count:
        best = int(np.argmax(left))
        row, column = int(rows[best]), int(columns[best])
        shared = [
            np.maximum(0.0, 1.0 - abs(at - here) * step / square_m)
            for at, here, step in ((rows, row, pixel[0]), (columns, column, pixel[1]))
        ]
        left &= shared[0] * shared[1] <= overlap_max
        center = (float(y_min + (row + 0.5) * pixel[0]), float(x_min + (column + 0.5) * pixel[1]))
        region = moved_inside(Region(center_yx_m=center, size_yx_m=(square_m, square_m)), box)
        if all(overlap_fraction(region, other.region) <= overlap_max + 1e-9 for other in found):
            found.append(Candidate(region, float(scores[row, column]), float(unsure[row, column])))
    return found


def best_apart(candidates: Sequence[Candidate], overlap_max: float) -> list[Candidate]:
    """Return the candidates best first, without those that overlap a better one by more than a fraction."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -c.score_photons):
        if all(overlap_fraction(candidate.region, other.region) <= overlap_max + 1e-9 for other in kept):
            kept.append(candidate)
    return kept


def _peaks(image: Image) -> NDArray[np.bool_]:
    """Return the local maxima of the smoothed image that stand out by five standard deviations."""
    smooth = box_mean(image, 1)
    middle = float(np.median(smooth))
    spread = 1.4826 * float(np.median(abs(smooth - middle)))
    padded = np.pad(smooth, 1, constant_values=-np.inf)
    height, width = smooth.shape
    around = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.asarray((smooth >= np.max(around, axis=0)) & (smooth > middle + 5.0 * spread))
