"""A small pupil: it learns what pixels are from the answers of a person, and is never left to chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Classes = NDArray[np.integer[Any]]

#: Sigmas in pixels of the blurs that a pixel is described by: from a spot to a whole synapse.
_BLURS_PX = (1, 2, 4, 8)
_EDGES_PX = (1, 2, 4)
_RING_PX = 7
_NEIGHBOURHOOD_PX = 15
_TEXTURE_PX = 5
#: Numbers that describe a pixel.
FEATURES = len(_BLURS_PX) + 2 * len(_EDGES_PX) + 3

#: Shrinkage of the covariance towards its diagonal: a few answers do not tell how features go together.
_SHRINKAGE = 0.1
_LEAST_VARIANCE = 1e-4


def pixel_features(photons: NDArray[Any]) -> Features:
    """Return what is around each pixel: brightness, edges, elongation and texture at some scales.

    Parameters
    ----------
    photons
        Photons per pixel, shape ``(y, x)``; where images of different settings are compared, scaled to
        the same light.

    Returns
    -------
    Shape ``(y, x, FEATURES)``. The square root of the photons comes first, so shot noise is the same
    in bright and in dim places.
    """
    from scipy import ndimage

    root = np.sqrt(np.asarray(photons, np.float32))
    blurred = {sigma: ndimage.gaussian_filter(root, sigma, truncate=3.0) for sigma in _BLURS_PX}
    found = list(blurred.values())
    for sigma in _EDGES_PX:
        down, across = np.gradient(blurred[sigma])
        found.append(np.hypot(down, across))
        (down_down, down_across), across_across = np.gradient(down), np.gradient(across, axis=1)
        found.append(np.hypot(down_down - across_across, 2 * down_across))
    found.append(ndimage.maximum_filter(blurred[2], _NEIGHBOURHOOD_PX))
    found.append(ndimage.minimum_filter(blurred[1], _RING_PX))
    mean = ndimage.gaussian_filter(blurred[1], _TEXTURE_PX, truncate=3.0)
    square = ndimage.gaussian_filter(blurred[1] ** 2, _TEXTURE_PX, truncate=3.0)
    found.append(np.sqrt(np.maximum(square - mean**2, 0)))
    return np.stack(found, axis=-1).astype(np.float32, copy=False)


class PixelLearner:
    """Tells classes apart by a linear discriminant of the features of pixels.

    Of each answer only the mean and the mean products of its pixels are kept, once for each class, so
    a large object teaches no more than a small one and learning costs the same in the hundredth answer
    as in the first. All classes that were seen are taken to be equally likely: what is rare is not
    overlooked for that.

    References
    ----------
    Friedman, J. American Statistical Association 84 (1989) 165, for discriminants that are regularised.
    """

    def __init__(self, classes: int) -> None:
        self.answers = np.zeros(classes)
        self._sums = np.zeros((classes, FEATURES))
        self._products = np.zeros((classes, FEATURES, FEATURES))
        self._fitted: tuple[Floats, Floats] | None = None

    def copy(self) -> PixelLearner:
        """Return a learner that knows the same and goes its own way."""
        other = PixelLearner(len(self.answers))
        other.answers = self.answers.copy()
        other._sums, other._products = self._sums.copy(), self._products.copy()
        return other

    @property
    def knows_anything(self) -> bool:
        """Return whether it has learned from any answer."""
        return bool(self.answers.any())

    def learn(self, features: Features, classes: Classes) -> None:
        """Learn from the pixels of one answer, shapes ``(n, FEATURES)`` and ``(n,)``."""
        for index in np.unique(classes):
            chosen = features[classes == index].astype(np.float64)
            self.answers[index] += 1
            self._sums[index] += chosen.mean(axis=0)
            self._products[index] += chosen.T @ chosen / len(chosen)
        self._fitted = None

    def probabilities(self, features: Features) -> Floats:
        """Return how likely each pixel is of each class, shape ``(n, classes)``.

        A class without any answer has 0, and before the first answer all have the same.
        """
        if not self.knows_anything:
            return np.full((len(features), len(self.answers)), 1 / len(self.answers))
        score = self._scores(features)
        likelihood = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(likelihood / likelihood.sum(axis=1, keepdims=True), np.float64)

    def classes(self, features: Features) -> NDArray[np.intp]:
        """Return the most likely class of each pixel; 0, background, before the first answer."""
        if not self.knows_anything:
            return np.zeros(len(features), np.intp)
        return np.asarray(self._scores(features).argmax(axis=1))

    def balanced_accuracy(self, features: Features, classes: Classes) -> float:
        """Return the mean over the classes that are there of the part of their pixels that is told right."""
        told = self.classes(features)
        there = np.unique(classes)
        return float(np.mean([(told[classes == index] == index).mean() for index in there]))

    def _scores(self, features: Features) -> Floats:
        if self._fitted is None:
            self._fitted = self._fit()
        weights, offset = self._fitted
        return np.asarray(features @ weights.T + offset, np.float64)

    def _fit(self) -> tuple[Floats, Floats]:
        """Return weights ``(classes, FEATURES)`` and offsets ``(classes,)``, -inf where nothing is known."""
        known = np.flatnonzero(self.answers)
        count = self.answers[known, None]
        means = self._sums[known] / count
        within = self._products[known] / count[:, None] - means[:, :, None] * means[:, None, :]
        covariance = within.mean(axis=0)
        variance = np.maximum(np.diag(covariance), _LEAST_VARIANCE)
        covariance = (1 - _SHRINKAGE) * covariance + np.diag(_SHRINKAGE * variance)
        weights = np.zeros_like(self._sums)
        weights[known] = np.linalg.solve(covariance, means.T).T
        offset = np.full(len(self.answers), -np.inf)
        offset[known] = -0.5 * (weights[known] * means).sum(axis=1)
        return weights, offset
