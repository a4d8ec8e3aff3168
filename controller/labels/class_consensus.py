"""What several people's tags and grades come to.

A question that takes one class of several is one problem of Dawid and Skene, with "nothing here" as class 0.
Where several classes may be in one place, and for grades, each class is a problem of its own: there or not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from controller.labels.dawid_skene import CrowdAnswers, CrowdTruth, DawidSkeneOptions, Floats, dawid_skene
from controller.labels.records import AnswerRecord
from controller.learning.annotations import NOTHING_HERE, LabelSchema

#: Methods of consensus: probabilities of classes that exclude each other, and of each class by itself.
ONE_OF = "dawid-skene"
EACH = "dawid-skene each"


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's word on one sample: a class by its number, and how sure, 0..1."""

    sample_id: str
    annotator_id: str
    answer_id: str
    said: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Ballot:
    """Votes on one question about many samples, and the names of what could be said, by number."""

    method: str
    names: tuple[str, ...]
    votes: tuple[Vote, ...]

    @property
    def samples(self) -> tuple[str, ...]:
        """Return the samples in the order they were first answered."""
        return tuple(dict.fromkeys(vote.sample_id for vote in self.votes))

    @property
    def annotators(self) -> tuple[str, ...]:
        """Return who voted, in the order of the first vote."""
        return tuple(dict.fromkeys(vote.annotator_id for vote in self.votes))

    @property
    def answers(self) -> CrowdAnswers:
        """Return the votes as numbers, in the order of ``samples`` and ``annotators``."""
        items = {name: number for number, name in enumerate(self.samples)}
        people = {name: number for number, name in enumerate(self.annotators)}
        columns = [(items[v.sample_id], people[v.annotator_id], v.said) for v in self.votes]
        table = np.array(columns, np.int64).reshape(-1, 3)
        weights = np.array([vote.weight for vote in self.votes], np.float64)
        shape = len(items), len(people), len(self.names)
        return CrowdAnswers(table[:, 0], table[:, 1], table[:, 2], weights, shape)

    def table(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Return who said what, shape ``(samples, annotators)``, -1 where somebody did not answer."""
        answers = self.answers
        found = np.full(answers.shape[:2], -1, np.int64)
        found[answers.items, answers.annotators] = answers.classes
        return found

    def truth(self, options: DawidSkeneOptions) -> CrowdTruth:
        """Return what is probably true, in the order of ``samples`` and ``annotators``."""
        return dawid_skene(self.answers, options)


@dataclass(frozen=True, slots=True)
class ClassFinding:
    """What the answers about one sample come to: the probability of each name, and which answers it is."""

    sample_id: str
    method: str
    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    inputs: tuple[str, ...]

    @property
    def confidence(self) -> float:
        """Return how probable the most probable is; of several classes, that of the least certain one."""
        if self.method == ONE_OF:
            return max(self.probabilities)
        return min(max(p, 1 - p) for p in self.probabilities)


def ballots(
    answers: Iterable[AnswerRecord],
    schemas: dict[str, LabelSchema],
    newest: LabelSchema,
    several: Collection[str],
) -> list[Ballot]:
    """Return the questions that tags and grades were answered to, the one about one class first.

    Of two answers of one person about one sample the last counts. "Unsure" is no vote. An answer that was
    given when there were other classes counts as far as it speaks of those of now; "nothing here" only if
    all of them could be said then.

    Parameters
    ----------
    schemas
        What could be said at the time of each answer, by its identity.
    newest
        What can be said now.
    several
        Requests that allow several classes in one place.
    """
    told = [answer for answer in answers if answer.kind in {"tag", "grades"}]
    one_of: dict[tuple[str, str], Vote] = {}
    each: dict[tuple[str, str, str], Vote] = {}
    for answer in told:
        # What was imported does not say whether it was to be one class: only what it says is known.
        is_asked = answer.request_id is not None and answer.request_id not in several
        is_one_of = answer.kind == "tag" and is_asked
        vote = Vote(answer.sample_ids[0], answer.annotator_id, answer.id, 0)
        for name, degree in _said(answer, schemas[answer.schema_id], newest):
            if not is_one_of and name != NOTHING_HERE:
                said, weight = int(degree >= 0.5), abs(2 * degree - 1)
                key = vote.sample_id, vote.annotator_id, name
                each[key] = replace(vote, said=said, weight=weight)
            elif is_one_of and degree == 1:
                said = newest.index(name)
                one_of[vote.sample_id, vote.annotator_id] = replace(vote, said=said)
    found = [Ballot(ONE_OF, (NOTHING_HERE, *newest.classes), tuple(one_of.values()))] if one_of else []
    for name in newest.classes:
        votes = tuple(v for (_, _, of), v in each.items() if of == name and v.weight > 0)
        if votes:
            found.append(Ballot(f"{EACH}: {name}", (NOTHING_HERE, name), votes))
    return found


def class_findings(found: Sequence[Ballot], options: DawidSkeneOptions) -> list[ClassFinding]:
    """Return what the votes on each sample come to; classes by themselves are put together."""
    results: list[ClassFinding] = []
    each: dict[str, ClassFinding] = {}
    for ballot in found:
        inputs: dict[str, tuple[str, ...]] = {}
        for vote in ballot.votes:
            inputs[vote.sample_id] = (*inputs.get(vote.sample_id, ()), vote.answer_id)
        posterior: Floats = ballot.truth(options).posterior
        for sample_id, row in zip(ballot.samples, posterior, strict=True):
            if ballot.method == ONE_OF:
                one = ClassFinding(
                    sample_id, ONE_OF, ballot.names, tuple(row.tolist()), tuple(sorted(inputs[sample_id]))
                )
                results.append(one)
                continue
            before = each.get(sample_id, ClassFinding(sample_id, EACH, (), (), ()))
            each[sample_id] = replace(
                before,
                names=(*before.names, ballot.names[1]),
                probabilities=(*before.probabilities, float(row[1])),
                inputs=tuple(sorted({*before.inputs, *inputs[sample_id]})),
            )
    return results + list(each.values())


def _said(answer: AnswerRecord, schema: LabelSchema, newest: LabelSchema) -> Iterator[tuple[str, float]]:
    """Return the classes of now that an answer speaks of, with 1 for there and 0 for not there."""
    reply = answer.reply
    if reply.outcome == "unsure":
        return
    for annotation in reply.annotations:
        if annotation.kind == "grades":
            yield from ((name, grade) for name, grade in annotation.grades.items() if name in newest.classes)
        elif annotation.kind == "tag" and annotation.present != (NOTHING_HERE,):
            yield from ((name, 1.0) for name in annotation.present if name in newest.classes)
            yield from ((name, 0.0) for name in annotation.absent if name in newest.classes)
    says_nothing = reply.outcome == "nothing here" or any(
        a.kind == "tag" and a.present == (NOTHING_HERE,) for a in reply.annotations
    )
    if says_nothing:
        if set(newest.classes) <= set(schema.classes):
            yield NOTHING_HERE, 1.0
        yield from ((name, 0.0) for name in newest.classes if name in schema.classes)
