"""What is true, and how good everybody is, from answers that disagree: Dawid and Skene's EM.

Source: A. P. Dawid, A. M. Skene, Maximum likelihood estimation of observer error-rates using the EM
algorithm, Applied Statistics 28:20-28 (1979). Two additions for few answers: somebody who shares too few
items with others is taken for right with a stated probability, and what is estimated of the others starts
from that too. Who answers alone would else be found faultless, for want of anybody who disagrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Settings

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

#: No answer is impossible: a single surprise would otherwise outweigh all others.
LEAST_PROBABILITY = 1e-10


class DawidSkeneOptions(Settings):
    """How far answers are trusted. The defaults are the method as published."""

    least_shared: Annotated[int, Field(ge=0)] = 0
    """Who has fewer answers to items that others answered too is not judged, but trusted by ``trust``."""
    trust: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Probability that somebody is right of whom nothing is known."""
    prior_answers: NonNegative = 0.0
    """Answers per class, right with ``trust``, that everybody is thought to have given before the first."""
    learns_from_single: bool = True
    """Whether items that one person answered say something of that person."""
    iterations: Annotated[int, Field(ge=1)] = 500
    tolerance: Annotated[float, Field(gt=0)] = 1e-6
    """The end is reached when no probability of an item changes by more."""


@dataclass(frozen=True, slots=True, eq=False)
class CrowdAnswers:
    """Who said what about which item, one answer in each row, in any pattern.

    Attributes
    ----------
    items, annotators, classes
        Numbers from 0, shape ``(answers,)``.
    weights
        How much each counts, 0..1, shape ``(answers,)``.
    shape
        How many items, annotators and classes there are.
    """

    items: Whole
    annotators: Whole
    classes: Whole
    weights: Floats
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        columns = self.items, self.annotators, self.classes
        if len({len(column) for column in (*columns, self.weights)}) > 1:
            raise ValueError(
                f"each answer needs all columns, got {[len(c) for c in (*columns, self.weights)]}"
            )
        for name, column, count in zip(("item", "annotator", "class"), columns, self.shape, strict=True):
            if column.size and not (column.min() >= 0 and column.max() < count):
                raise ValueError(f"{name} {column.min()}..{column.max()} is outside 0..{count - 1}")
        if self.weights.size and not (self.weights.min() >= 0 and self.weights.max() <= 1):
            raise ValueError("weights must lie in 0..1")

    @property
    def answered(self) -> Whole:
        """Return how many different people answered each item."""
        pairs = np.unique(self.items * self.shape[1] + self.annotators)
        return np.bincount(pairs // self.shape[1], minlength=self.shape[0])

    @property
    def shared(self) -> Whole:
        """Return how many answers of each annotator are to items that others answered too."""
        is_shared = self.answered[self.items] > 1
        return np.bincount(self.annotators[is_shared], minlength=self.shape[1])

    def votes(self) -> Floats:
        """Return the weight of the answers for each class, shape ``(items, classes)``."""
        found = np.zeros((self.shape[0], self.shape[2]))
        np.add.at(found, (self.items, self.classes), self.weights)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class CrowdTruth:
    """What is probably true.

    Attributes
    ----------
    posterior
        Probability of each class, shape ``(items, classes)``; all alike where nobody answered.
    confusion
        What everybody says of what is true, shape ``(annotators, true classes, said classes)``, rows add
        up to 1.
    priors
        How frequent each class is, shape ``(classes,)``.
    is_judged
        Of whom there were answers enough to tell; the others are trusted alike. Shape ``(annotators,)``.
    """

    posterior: Floats
    confusion: Floats
    priors: Floats
    is_judged: NDArray[np.bool_]

    @property
    def accuracy(self) -> Floats:
        """Return the part of right answers of each annotator at these priors, shape ``(annotators,)``."""
        return np.asarray(np.einsum("c,acc->a", self.priors, self.confusion))


def majority(answers: CrowdAnswers) -> Floats:
    """Return the part of the votes for each class, shape ``(items, classes)``; alike where none is."""
    votes = answers.votes()
    sums = votes.sum(axis=1, keepdims=True)
    return np.where(sums > 0, votes / np.where(sums > 0, sums, 1), 1 / answers.shape[2])


def dawid_skene(answers: CrowdAnswers, options: DawidSkeneOptions | None = None) -> CrowdTruth:
    """Estimate what is true and how good everybody is, alternately, starting from the majority.

    Items that only people answered who are not judged are decided by their majority: every class is as
    probable beforehand there, so one answer is right with the probability ``options.trust``.
    """
    options = options or DawidSkeneOptions()
    count, _, classes = answers.shape
    is_judged = answers.shared >= max(options.least_shared, 1 - options.learns_from_single)
    known = answers.answered > (0 if options.learns_from_single else 1)
    has_judge = np.zeros(count, np.bool_)
    has_judge[answers.items[is_judged[answers.annotators]]] = True
    posterior = majority(answers)
    start = _trusted(classes, options.trust)
    for _ in range(options.iterations):
        priors = _priors(posterior[known & has_judge], options.prior_answers)
        confusion = _confusion(answers, posterior, known, start, options.prior_answers)
        confusion[~is_judged] = start
        beforehand = np.where(has_judge[:, None], priors, 1 / classes)
        previous, posterior = posterior, _posterior(answers, confusion, beforehand)
        if np.abs(posterior - previous).max(initial=0) <= options.tolerance:
            break
    return CrowdTruth(posterior, confusion, priors, is_judged)


def _trusted(classes: int, trust: float) -> Floats:
    """Return the confusion of somebody who is right with probability ``trust``, and else guesses."""
    if classes == 1:
        return np.ones((1, 1))
    found = np.full((classes, classes), (1 - trust) / (classes - 1))
    np.fill_diagonal(found, trust)
    return found


def _priors(posterior: Floats, prior_answers: float) -> Floats:
    """Return how frequent each class is; with prior answers one item of each was there before."""
    counts = posterior.sum(axis=0) + (1.0 if prior_answers > 0 or not len(posterior) else 0.0)
    return np.asarray(np.maximum(counts / counts.sum(), LEAST_PROBABILITY))


def _confusion(
    answers: CrowdAnswers, posterior: Floats, known: NDArray[np.bool_], start: Floats, prior_answers: float
) -> Floats:
    counts = np.zeros((answers.shape[1], answers.shape[2], answers.shape[2]))
    use = known[answers.items]
    items = answers.items[use]
    # Axis order (annotator, said, true) lets the classes that are true be added as rows.
    np.add.at(
        counts,
        (answers.annotators[use], answers.classes[use]),
        posterior[items] * answers.weights[use, None],
    )
    counts = np.maximum(counts.transpose(0, 2, 1) + prior_answers * start, LEAST_PROBABILITY)
    return np.asarray(counts / counts.sum(axis=2, keepdims=True))


def _posterior(answers: CrowdAnswers, confusion: Floats, beforehand: Floats) -> Floats:
    logs = np.log(beforehand) * np.ones((answers.shape[0], 1))
    said = np.log(confusion).transpose(0, 2, 1)[answers.annotators, answers.classes]
    np.add.at(logs, answers.items, said * answers.weights[:, None])
    likelihood = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(likelihood / likelihood.sum(axis=1, keepdims=True))
