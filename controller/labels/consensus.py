"""What all answers come to, for the record and for training, and who answers how well.

Consensus is kept in the store, in versions: a new one is added where other answers count than before, or
where what is known of the annotators has moved a probability by :data:`MOVED`.

Methods
-------
``dawid-skene``
    Which of the classes, or nothing, is in a sample; probabilities that add up to 1.
``dawid-skene each``
    Of each class by itself whether it is in a sample.
``staple masks: CLASS``, ``staple boxes: CLASS``
    A soft mask of the class, or of "nothing here", from what was drawn. In its runs the value -1 stands for
    pixels that nobody looked at, outside everybody's coverage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Settings
from controller.labels.class_consensus import Ballot, class_findings
from controller.labels.dawid_skene import DawidSkeneOptions
from controller.labels.mask_consensus import expected_dice, mask_of_runs, runs_of, soft_masks
from controller.labels.records import Consensus
from controller.labels.store import LabelStore
from controller.labels.told import Told, mask_method, methods
from controller.learning.annotations import NOTHING_HERE

#: A change of a probability that makes a new version, though the answers are the same.
MOVED = 0.02


class ConsensusOptions(Settings):
    """How far people are trusted before anything is known of them."""

    trust: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    """Probability that one person is right of whom nothing is known."""
    least_shared: Annotated[int, Field(ge=1)] = 10
    """Answers about samples that others answered too, before somebody is judged by them."""
    prior_answers: NonNegative = 4.0
    """Answers per class, right with ``trust``, that everybody is thought to have given before the first."""

    @property
    def of_classes(self) -> DawidSkeneOptions:
        """Return what this means for tags and grades."""
        return DawidSkeneOptions(
            least_shared=self.least_shared,
            trust=self.trust,
            prior_answers=self.prior_answers,
            learns_from_single=False,
        )


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update added, and the answers that could not be used, by identity, with the reason."""

    new: tuple[Consensus, ...]
    refused: dict[str, str]


@dataclass(frozen=True, slots=True)
class AnnotatorSkill:
    """How well somebody answers one kind of question, as far as others answered the same.

    Attributes
    ----------
    method
        Which answers it is about; ``dawid-skene each`` and ``staple`` name the class after a colon.
    answers, shared
        How many answers, and how many to samples that others answered too: what the figures rest on.
    accuracy
        Part of right answers, of tags and grades; ``None`` with too few shared answers.
    names, confusion
        What is said (columns) of what is true (rows), in the order of ``names``.
    sensitivity, specificity
        Of what is drawn: the part of the true pixels that was marked, and of the others that was left out,
        the mean over samples; ``None`` where nobody else drew the same.
    """

    annotator_id: str
    method: str
    answers: int
    shared: int
    accuracy: float | None = None
    names: tuple[str, ...] = ()
    confusion: tuple[tuple[float, ...], ...] = ()
    sensitivity: float | None = None
    specificity: float | None = None


def update_consensus(store: LabelStore, options: ConsensusOptions | None = None) -> Updated:
    """Make consensus of all answers that count, and add to the store what is new of it.

    Raises
    ------
    RecordingError
        If the store fails; nothing is added then.
    """
    options = options or ConsensusOptions()
    told = Told.read(store)
    if told is None:
        return Updated((), {})
    known = {method: store.consensus(method) for method in methods(told.schema)}
    refused: dict[str, str] = {}
    new = []
    for one in (*_of_classes(told, options), *_of_masks(told, options, known, refused)):
        before = known[one.method].get(one.sample_id)
        if before is None or _differs(one, before):
            new.append(one.replace(version=1 if before is None else before.version + 1))
    # Another process may have done the same meanwhile. What it did not know of is added next time.
    return Updated(tuple(store.add_consensus(new)) if new else (), refused)


def soft_mask(consensus: Consensus) -> NDArray[np.float32]:
    """Return the probability of ``mask_class`` in each pixel, nan where nobody looked.

    Raises
    ------
    ValueError
        If this is no consensus about a mask.
    """
    if consensus.mask_shape_yx is None:
        raise ValueError(f"the consensus {consensus.method!r} has no mask, but probabilities of classes")
    return mask_of_runs(consensus.mask_runs, consensus.mask_shape_yx)


def annotator_skills(
    store: LabelStore, options: ConsensusOptions | None = None
) -> tuple[AnnotatorSkill, ...]:
    """Return how well everybody answers each kind of question, judged by what all answers come to."""
    options = options or ConsensusOptions()
    told = Told.read(store)
    if told is None:
        return ()
    of_classes = [skill for ballot in told.ballots() for skill in _skills_of(ballot, options)]
    return (*of_classes, *_drawing_skills(told, options))


def _of_classes(told: Told, options: ConsensusOptions) -> Iterator[Consensus]:
    for finding in class_findings(told.ballots(), options.of_classes):
        yield Consensus(
            sample_id=finding.sample_id,
            schema_id=told.newest.id,
            method=finding.method,
            version=1,
            inputs=finding.inputs,
            names=finding.names,
            classes=tuple(min(p, 1.0) for p in finding.probabilities),
            confidence=min(finding.confidence, 1.0),
        )


def _of_masks(
    told: Told,
    options: ConsensusOptions,
    known: dict[str, dict[str, Consensus]],
    refused: dict[str, str],
) -> Iterator[Consensus]:
    for (sample_id, way), answers in told.drawn().items():
        # A mask follows from its answers alone: with the same ones there is nothing to do again.
        ids = tuple(sorted(answer.id for answer in answers.values()))
        before = known[mask_method(way, NOTHING_HERE)].get(sample_id)
        is_made = before is not None and (before.inputs, before.schema_id) == (ids, told.newest.id)
        drawings = {} if is_made else told.drawings(answers, refused)
        if not drawings:
            continue
        for name, found in soft_masks(drawings, told.schema, options.trust).items():
            yield Consensus(
                sample_id=sample_id,
                schema_id=told.newest.id,
                method=mask_method(way, name),
                version=1,
                inputs=ids,
                mask_class=name,
                mask_shape_yx=(found.probability.shape[0], found.probability.shape[1]),
                mask_runs=runs_of(found.probability),
                confidence=min(expected_dice(found.probability), 1.0),
            )


def _differs(one: Consensus, before: Consensus) -> bool:
    same = "inputs", "schema_id", "names", "mask_runs"
    if any(getattr(one, name) != getattr(before, name) for name in same):
        return True
    return any(abs(p - q) > MOVED for p, q in zip(one.classes, before.classes, strict=True))


def _skills_of(ballot: Ballot, options: ConsensusOptions) -> Iterator[AnnotatorSkill]:
    answers, truth = ballot.answers, ballot.truth(options.of_classes)
    given = np.bincount(answers.annotators, minlength=answers.shape[1])
    for number, annotator_id in enumerate(ballot.annotators):
        skill = AnnotatorSkill(
            annotator_id, ballot.method, int(given[number]), int(answers.shared[number]), names=ballot.names
        )
        if not truth.is_judged[number]:
            yield skill
            continue
        yield AnnotatorSkill(
            annotator_id,
            ballot.method,
            skill.answers,
            skill.shared,
            accuracy=float(truth.accuracy[number]),
            names=ballot.names,
            confusion=tuple(tuple(row) for row in truth.confusion[number].tolist()),
        )


def _drawing_skills(told: Told, options: ConsensusOptions) -> Iterator[AnnotatorSkill]:
    """Return the mean sensitivity and specificity of everybody, class by class."""
    drawn: dict[tuple[str, str], list[tuple[bool, float, float]]] = defaultdict(list)
    for (_, way), answers in told.drawn().items():
        drawings = told.drawings(answers, {})
        if not drawings:
            continue
        for name, found in soft_masks(drawings, told.schema, options.trust).items():
            figures = zip(drawings, found.sensitivity, found.specificity, strict=True)
            for annotator_id, sensitivity, specificity in figures:
                key = annotator_id, mask_method(way, name)
                drawn[key].append((len(drawings) > 1, float(sensitivity), float(specificity)))
    for (annotator_id, method), rows in sorted(drawn.items()):
        yield AnnotatorSkill(
            annotator_id,
            method,
            len(rows),
            sum(is_shared for is_shared, _, _ in rows),
            sensitivity=_mean([sensitivity for _, sensitivity, _ in rows]),
            specificity=_mean([specificity for _, _, specificity in rows]),
        )


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None
