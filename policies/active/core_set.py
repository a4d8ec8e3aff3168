"""Ask about what looks least like anything that has been answered."""

from __future__ import annotations

import numpy as np

from controller.core.asking import Candidates, Chosen
from policies.active.picking import Array, OpenCandidates, PickingStrategy, any_of, check_candidates

#: Squared distances below this part of the squared lengths are rounding of 0.
_ROUNDING = 1e-12
#: Rows of a matrix of distances that is held at once.
_ROWS = 512


class CoreSetStrategy(PickingStrategy):
    """Takes, one after the other, the candidate farthest from all that is answered or taken.

    No set of as many candidates leaves the worst-covered one less than half as far away (the greedy
    2-approximation of the k-center problem). It looks for the rare, and for the broken: a burnt image is
    far from everything. The score is the distance, in the unit of the features.

    Source: Sener and Savarese, ICLR 2018, arXiv:1708.00489; Gonzalez, Theor. Comput. Sci. 38:293 (1985).
    """

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return ``count`` candidates, the farthest first; without any answers it begins anywhere."""
        check_candidates(candidates, count)
        points = np.asarray(candidates.features, np.float64)
        lengths = np.einsum("nf,nf->n", points, points)
        nearest = _nearest_squared(points, lengths, np.asarray(candidates.labelled_features, np.float64))
        still_open = OpenCandidates(candidates.groups, self._options.per_group_max)
        chosen: list[int] = []
        scores: list[float] = []
        for _ in range(min(count, len(candidates))):
            is_open = still_open.mask()
            farthest = nearest[is_open].max()
            number = any_of(is_open & (nearest >= farthest), rng)
            chosen.append(number)
            scores.append(float(np.sqrt(nearest[number])) if np.isfinite(nearest[number]) else 0.0)
            still_open.take(number)
            squares = _squared_distances(points, lengths, points[number : number + 1])[:, 0]
            nearest = np.minimum(nearest, squares)
        reason = "nothing that was answered or asked looks like these (core-set)"
        return Chosen(tuple(chosen), tuple(scores), reason)


def _nearest_squared(points: Array, lengths: Array, others: Array) -> Array:
    """Return the squared distance of each point to the nearest of ``others``; infinite without any."""
    nearest = np.full(len(points), np.inf)
    for first in range(0, len(others), _ROWS):
        squares = _squared_distances(points, lengths, others[first : first + _ROWS])
        nearest = np.minimum(nearest, squares.min(axis=1))
    return nearest


def _squared_distances(points: Array, lengths: Array, others: Array) -> Array:
    """Return the squared distances, shape ``(points, others)``; exactly 0 where both are alike."""
    sums = lengths[:, None] + np.einsum("nf,nf->n", others, others)
    squares = sums - 2 * points @ others.T
    return np.where(squares > _ROUNDING * sums, squares, 0.0)
