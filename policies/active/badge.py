"""Ask about what would change the last layer most, and in different directions."""

from __future__ import annotations

import numpy as np

from controller.core.asking import Candidates, Chosen
from policies.active.picking import (
    Array,
    OpenCandidates,
    PickingStrategy,
    any_of,
    check_candidates,
    mean_probabilities,
)

#: Squared distances below this part of the largest are rounding of 0.
_ROUNDING = 1e-12


class BadgeStrategy(PickingStrategy):
    """Takes candidates by k-means++ on the gradients of the last layer.

    The gradient of the loss with respect to the last layer, if the model's own first guess were right,
    is the outer product of two vectors: the error of the probabilities and the hidden layer. It is long
    where the model is unsure, and candidates that would teach the same have it in common. Each further
    candidate is drawn with a chance in proportion to its squared distance from the nearest one chosen.

    The products are never written out: the inner product of two outer products is the product of the inner
    products. So the memory is n x (classes + hidden), not n x classes x hidden.

    The score is the squared distance from the nearest one chosen before; of the first, the squared length.

    Source: Ash et al., ICLR 2020, arXiv:1906.03671; like their program, it begins with the longest.
    """

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return ``count`` candidates that teach much, and different things."""
        check_candidates(candidates, count)
        errors = mean_probabilities(candidates)
        errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1
        gradients = _OuterProducts(errors, np.asarray(candidates.hidden, np.float64))
        still_open = OpenCandidates(candidates.groups, self._options.per_group_max)
        chosen: list[int] = []
        scores: list[float] = []
        squares = gradients.squared_lengths.copy()
        for _ in range(min(count, len(candidates))):
            number = _drawn(np.where(still_open.mask(), squares, 0.0), still_open, rng, is_first=not chosen)
            chosen.append(number)
            scores.append(float(squares[number]))
            still_open.take(number)
            distances = gradients.squared_distances(number)
            squares = distances if len(chosen) == 1 else np.minimum(squares, distances)
        reason = "answers would change the model most, in different ways (BADGE)"
        return Chosen(tuple(chosen), tuple(scores), reason)


def _drawn(weights: Array, still_open: OpenCandidates, rng: np.random.Generator, *, is_first: bool) -> int:
    """Return the largest, or one by chance in proportion to its weight; any one where all are 0."""
    total = weights.sum()
    if not total > 0:
        return any_of(still_open.mask(), rng)
    if is_first:
        return any_of(weights >= weights.max() * (1 - _ROUNDING), rng)
    sums = np.cumsum(weights)
    number = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
    return min(number, int(np.flatnonzero(weights)[-1]))


class _OuterProducts:
    """The outer products of the rows of two matrices, as points, without writing them out."""

    def __init__(self, left: Array, right: Array) -> None:
        self._left, self._right = left, right
        self.squared_lengths = np.einsum("nc,nc->n", left, left) * np.einsum("nh,nh->n", right, right)

    def squared_distances(self, number: int) -> Array:
        """Return the squared distance of each to one of them; exactly 0 where they are alike."""
        inner = (self._left @ self._left[number]) * (self._right @ self._right[number])
        sums = self.squared_lengths + self.squared_lengths[number]
        squares = sums - 2 * inner
        return np.where(squares > _ROUNDING * sums, squares, 0.0)
