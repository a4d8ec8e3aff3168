"""What training does about rare classes; why, and when not, is in :mod:`controller.learning.sampling`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import Settings
from controller.learning.sampling import (
    count_classes,
    draw_corners,
    effective_number_weights,
    inverse_frequency_weights,
    median_frequency_weights,
    patch_probabilities,
)

Weighting = Literal["none", "inverse frequency", "median frequency", "effective number"]


class Imbalance(Settings):
    """Off by default: both teach probabilities of a world in which rare things are less rare."""

    oversampling: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: all images and places alike. Towards 1, images that show a rare class, and places in them, come up
    more often, until all classes are as likely. Above 0.5 the few examples are soon known by heart."""
    weighting: Weighting = "none"
    """How much more the errors of a rare class count: by the pixels of all images, by how much of an image
    the class fills where it is, or by the number of images that show it."""
    largest_weight: Annotated[float, Field(ge=1, le=1000)] = 10.0
    """Largest ratio of two weights by pixels."""

    def image_chances(self, labels: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.float64] | None:
        """Return how likely each image is to be drawn; ``None``: all alike.

        ``labels`` holds the class of each pixel of each image, negative where nobody said. Images without a
        labelled pixel (whose labels are boxes) come up as often as one image does on average.
        """
        counts = _counts(labels, classes)
        has_pixels = counts.any(axis=1)
        if self.oversampling == 0 or not has_pixels.any():
            return None
        chances = np.full(len(counts), 1 / len(counts))
        chances[has_pixels] = patch_probabilities(counts[has_pixels], self.oversampling) * has_pixels.mean()
        return chances

    def corner(self, labels: NDArray[np.int64], side_px: int, rng: np.random.Generator) -> tuple[int, int]:
        """Return the first row and column of a square part of an image."""
        if self.oversampling > 0 and (labels >= 0).any():
            ((row, column),) = draw_corners(labels, (side_px, side_px), 1, rng, exponent=self.oversampling)
        else:
            row, column = (rng.integers(0, side - side_px + 1) for side in labels.shape)
        return int(row), int(column)

    def class_weights(self, labels: Sequence[NDArray[np.int64]], classes: int) -> tuple[float, ...] | None:
        """Return the weight of each class in the loss; ``None``: all alike, also if one is nowhere."""
        counts = _counts(labels, classes)
        if self.weighting == "none" or not counts.any(axis=0).all():
            return None
        match self.weighting:
            case "inverse frequency":
                weights = inverse_frequency_weights(counts.sum(axis=0), self.largest_weight)
            case "median frequency":
                weights = median_frequency_weights(counts, self.largest_weight)
            case _:
                weights = effective_number_weights(np.count_nonzero(counts, axis=0))
        return tuple(float(weight) for weight in weights)


def _counts(labels: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.int64]:
    return np.stack([count_classes(one, classes) for one in labels])
