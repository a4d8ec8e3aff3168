"""How far people agree: Cohen's and Fleiss' kappa, Krippendorff's alpha, Dice.

1 is full agreement, 0 what chance would give, below 0 less than that (Dice has no chance taken off). Each
figure comes with how much it rests on; where it is not defined, with the reason instead.

Sources: J. Cohen, Educ. Psychol. Meas. 20:37 (1960); J. L. Fleiss, Psychol. Bull. 76:378 (1971);
K. Krippendorff, Content Analysis, ch. 12 (2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Classes from 0, negative where somebody did not answer; shape ``(items, annotators)``.
Table = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """A figure of agreement.

    Attributes
    ----------
    value
        ``None`` where it is not defined.
    items
        Items, or pixels, that more than one person answered; those that the figure rests on.
    reason
        Why there is none.
    """

    value: float | None
    items: int
    reason: str = ""


def cohen_kappa(first: NDArray[np.integer[Any]], second: NDArray[np.integer[Any]]) -> Agreement:
    """Return the agreement of two people over the items that both answered; arrays of shape ``(items,)``."""
    both = (first >= 0) & (second >= 0)
    count = int(both.sum())
    if not count:
        return Agreement(None, 0, "there is no item that both answered")
    one, other = first[both], second[both]
    classes = int(max(one.max(), other.max())) + 1
    shares = (np.bincount(said, minlength=classes) / count for said in (one, other))
    by_chance = float(np.multiply(*shares).sum())
    return _beyond_chance(float((one == other).mean()), by_chance, count)


def cohen_kappas(table: Table) -> dict[tuple[int, int], Agreement]:
    """Return Cohen's kappa of each pair of annotators, the smaller number first."""
    return {(a, b): cohen_kappa(table[:, a], table[:, b]) for a, b in combinations(range(table.shape[1]), 2)}


def fleiss_kappa(table: Table) -> Agreement:
    """Return the agreement of several people, who need not be the same for each item.

    Items may have different numbers of answers; each counts as often as it was answered. With as many
    answers everywhere this is Fleiss' kappa as published.
    """
    counts = _counts(table)
    answers = counts.sum(axis=1)
    if not len(counts):
        return Agreement(None, 0, "there is no item that more than one person answered")
    agreeing = (counts * (counts - 1)).sum(axis=1) / (answers * (answers - 1))
    shares = counts.sum(axis=0) / answers.sum()
    observed = float(np.average(agreeing, weights=answers))
    return _beyond_chance(observed, float((shares**2).sum()), len(counts))


def krippendorff_alpha(table: Table) -> Agreement:
    """Return the agreement of several people for classes without an order, corrected for few answers."""
    counts = _counts(table)
    if not len(counts):
        return Agreement(None, 0, "there is no item that more than one person answered")
    answers = counts.sum(axis=1)
    total, per_class = answers.sum(), counts.sum(axis=0)
    differing = (answers**2 - (counts**2).sum(axis=1)) / (answers - 1)
    by_chance = (total**2 - (per_class**2).sum()) / (total - 1)
    return _beyond_chance(1 - float(differing.sum() / total), 1 - float(by_chance / total), len(counts))


def _beyond_chance(observed: float, by_chance: float, items: int) -> Agreement:
    if not by_chance < 1 - 1e-12:
        return Agreement(None, items, "all answers are of one class, so chance would agree as well")
    return Agreement((observed - by_chance) / (1 - by_chance), items)


def _counts(table: Table) -> Floats:
    """Return how often each item was said to be of each class, of items with two answers at least."""
    classes = int(table.max(initial=0)) + 1
    counts = np.stack([(table == number).sum(axis=1) for number in range(classes)], axis=1)
    return np.asarray(counts[counts.sum(axis=1) > 1], np.float64)
