"""What query strategies share: options, checks, entropies, and taking the best without favouring any order.

A ranking is an array of candidate numbers, the best first. Candidates that score alike stand in an order
that chance decides: the first in a list is not better than the last.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.asking import Candidates
from controller.core.settings import Settings

Array = NDArray[np.float64]
Ranking = NDArray[np.int64]

#: Scores that differ by less are alike: it is above the rounding of double precision.
_DECIMALS = 12


class PickOptions(Settings):
    """What every strategy can be told.

    Attributes
    ----------
    per_group_max
        Questions about one field of view in one batch, at most, while there are candidates in other
        fields; without it, as many as score well.
    """

    per_group_max: Annotated[int, Field(ge=1)] | None = None


class PickingStrategy:
    """The beginning of a strategy that can be told nothing but :class:`PickOptions`."""

    class Options(PickOptions):
        """What every strategy can be told."""

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or self.Options()

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Make one from validated options."""
        return cls(options)


def check_candidates(candidates: Candidates, count: int) -> None:
    """Refuse what no strategy can choose from.

    Raises
    ------
    ValueError
        If ``count`` is negative, anything is not finite, or probabilities are none.
    """
    if not count >= 0:
        raise ValueError(f"{count} questions are asked for; allowed is 0 or more")
    for name in ("features", "probabilities", "hidden", "cost_s", "foreground", "labelled_features"):
        values = getattr(candidates, name)
        if not np.isfinite(values).all():
            bad = int(np.count_nonzero(~np.isfinite(values)))
            raise ValueError(
                f"{bad} of {values.size} values of the candidates' {name} are nan or infinite: "
                f"the model that gave them is broken, so nothing is chosen by it"
            )
    given = candidates.probabilities
    if given.size and not (given.min() >= 0 and abs(given @ np.ones(given.shape[2]) - 1).max() <= 1e-3):
        raise ValueError(
            f"the candidates' probabilities lie between {given.min():.3g} and {given.max():.3g} and have to "
            f"lie in 0..1 and add up to 1 over the classes, to within 0.001"
        )


def mean_probabilities(candidates: Candidates) -> Array:
    """Return the probability of each class, mean of all members, shape ``(n, classes)``."""
    return np.asarray(candidates.probabilities.mean(axis=0, dtype=np.float64))


def entropy_nats(probabilities: NDArray[Any]) -> Array:
    """Return the entropy of distributions along the last axis, in nats; 0 where one class is certain."""
    p = np.asarray(probabilities, np.float64)
    # The product is 0 where the probability is, whatever finite number the logarithm is given.
    terms = p * np.log(np.maximum(p, 1e-300))
    return np.asarray(np.maximum(-np.einsum("...c->...", terms), 0.0))


def bald_nats(candidates: Candidates) -> Array:
    """Return what the members disagree by: the mutual information of an answer and the model, in nats.

    Entropy of the mean less mean of the entropies: 0 where all members say the same, however unsure they
    are, and ln 2 where half of them is certain of one class and half of another.

    Source: Houlsby et al., arXiv:1112.5745 (2011); Gal et al., arXiv:1703.02910 (2017).
    """
    expected = entropy_nats(candidates.probabilities).mean(axis=0)
    return np.asarray(np.maximum(entropy_nats(mean_probabilities(candidates)) - expected, 0.0))


def ranked(scores: NDArray[Any], rng: np.random.Generator) -> Ranking:
    """Return all candidates, the highest score first; chance decides between those alike."""
    order = rng.permutation(len(scores))
    rounded = np.round(np.asarray(scores, np.float64), _DECIMALS)
    return np.asarray(order[np.argsort(-rounded[order], kind="stable")], np.int64)


def share_fields(ranking: Ranking, groups: NDArray[np.int64], per_group_max: int | None) -> Ranking:
    """Return a ranking in which no field has more than ``per_group_max`` before all have as many."""
    if per_group_max is None or not len(ranking):
        return ranking
    return ranking[np.argsort(_places(ranking, groups) // per_group_max, kind="stable")]


def take_turns(ranking: Ranking, classes: NDArray[np.int64], rng: np.random.Generator) -> Ranking:
    """Return a ranking in which the classes take turns; chance decides who begins each round.

    Otherwise the last places of a batch would always go to the same class.
    """
    if not len(ranking):
        return ranking
    return ranking[np.lexsort((rng.random(len(ranking)), _places(ranking, classes)))]


def _places(ranking: Ranking, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of the same label stand before each in the ranking."""
    sorted_by_label = np.argsort(labels[ranking], kind="stable")
    _, first, sizes = np.unique(labels[ranking][sorted_by_label], return_index=True, return_counts=True)
    places = np.empty(len(ranking), np.int64)
    places[sorted_by_label] = np.arange(len(ranking)) - np.repeat(first, sizes)
    return places


def any_of(choices: NDArray[np.bool_], rng: np.random.Generator) -> int:
    """Return the number of one of those that are ``True``, by chance."""
    numbers = np.flatnonzero(choices)
    return int(numbers[rng.integers(len(numbers))])


class OpenCandidates:
    """Which candidates may be taken next, where they are taken one after the other.

    Not the ones that have been, nor those of a field that had its share, while others are left.
    """

    def __init__(self, groups: NDArray[np.int64], per_group_max: int | None) -> None:
        self._groups, self._per_group_max = groups, per_group_max
        self._is_free = np.ones(len(groups), bool)
        self._is_held = np.zeros(len(groups), bool)
        self._taken: Counter[int] = Counter()

    def mask(self) -> NDArray[np.bool_]:
        """Return which may be taken, shape ``(n,)``; all are ``False`` when all have been."""
        is_open = self._is_free & ~self._is_held
        if not is_open.any():
            self._is_held[:] = False
            self._taken.clear()
            return self._is_free.copy()
        return is_open

    def take(self, number: int) -> None:
        """Note that a candidate has been taken."""
        self._is_free[number] = False
        group = int(self._groups[number])
        self._taken[group] += 1
        if self._per_group_max is not None and self._taken[group] >= self._per_group_max:
            self._is_held |= self._groups == group
