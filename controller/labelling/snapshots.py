"""What a model is trained on and judged by: a fixed list of answers, named by its checksum.

Judging is kept apart from learning by fields: no field that judges is learned from. Answers about judging
fields that a query strategy or a session's policy asked for are left out altogether, because what these like
is not what there is. So are answers about a place that reaches into fields of both kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from controller.labelling.places import splits_in
from controller.labelling.splits import split_of_field
from controller.labels.consensus import update_consensus
from controller.labels.records import AnswerRecord, Sample, Split
from controller.labels.soft_annotations import all_annotations_for_training
from controller.labels.store import LabelStore
from controller.learning.annotations import NOTHING_HERE, Annotation, LabelSchema

#: Kinds of questions whose answers say nothing of pixels.
_OTHER_KINDS = frozenset({"choice", "score"})
#: Where a strategy or the session's own policy wanted to ask: what they like is not what there is.
_CHOSEN = frozenset({"policy", "session"})


@dataclass(frozen=True, slots=True)
class Item:
    """What is known of one sample.

    Attributes
    ----------
    answers
        Ids of the answers that it rests on.
    annotations
        What these answers come to, in pixels of the sample.
    versions
        Of each consensus that this was made of, by method.
    is_held_out
        Whether it judges, rather than being learned from.
    """

    sample: Sample
    answers: tuple[str, ...]
    annotations: tuple[Annotation, ...]
    versions: dict[str, int]
    is_held_out: bool

    @property
    def outcomes(self) -> frozenset[str]:
        """Return the classes that were found in it; where background is known, :data:`NOTHING_HERE` too."""
        found: set[str] = set()
        for annotation in self.annotations:
            if annotation.kind == "tag":
                found |= set(annotation.present)
                if annotation.absent and not annotation.present:
                    found.add(NOTHING_HERE)
            elif annotation.kind == "grades":
                found |= {name for name, grade in annotation.grades.items() if grade >= 0.5} or {NOTHING_HERE}
            else:
                found |= set(annotation.class_names)
                if annotation.coverage != "marks":
                    found.add(NOTHING_HERE)
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Material:
    """All that can be learned from and judged by at one moment.

    Attributes
    ----------
    items
        In the order of the samples' ids.
    passed_over
        Ids of answers that teach nothing: somebody was unsure, they are about a judging field and a
        strategy or the session's policy asked for them, or about fields of which only some judge.
    answer_s
        Seconds that people spent on all these answers.
    """

    schema_id: str
    label_schema: LabelSchema
    items: tuple[Item, ...]
    passed_over: tuple[str, ...]
    answer_s: float

    @property
    def learned(self) -> tuple[Item, ...]:
        """Return what is learned from."""
        return tuple(item for item in self.items if not item.is_held_out)

    @property
    def judges(self) -> tuple[Item, ...]:
        """Return what models are judged by."""
        return tuple(item for item in self.items if item.is_held_out)

    @property
    def answers(self) -> int:
        """Return how many answers are learned from or judge."""
        return sum(len(item.answers) for item in self.items)

    def content(self) -> dict[str, Any]:
        """Return what names the snapshot: the same answers give the same, in whatever order they came."""
        return {
            "layout": "stedfast-labels/1",
            "schema": self.schema_id,
            "items": [
                {
                    "sample": item.sample.id,
                    "answers": list(item.answers),
                    "split": "held_out" if item.is_held_out else "train",
                    "consensus": item.versions,
                    "weights": [annotation.weight for annotation in item.annotations],
                }
                for item in self.items
            ],
            "passed_over": list(self.passed_over),
        }


def answers_in(content: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of the answers in the content of a snapshot, with those that taught nothing."""
    used = (answer for item in content["items"] for answer in item["answers"])
    return frozenset([*used, *content["passed_over"]])


def usable(store: LabelStore, session: str | None = None) -> list[AnswerRecord]:
    """Return the answers that count and are about what is in an image, not about which is better.

    With a ``session`` only those about its frames and about imported files: of other sessions in a lab's
    store the images are elsewhere.
    """
    answers = [answer for answer in store.answers() if answer.kind not in _OTHER_KINDS]
    if session is None:
        return answers
    here = {s.id for s in store.samples() if s.session == session or s.frame_index is None}
    return [answer for answer in answers if answer.sample_ids[0] in here]


def collect(store: LabelStore, held_out: float, session: str | None = None) -> Material | None:
    """Return what the answers teach, about the newest schema; ``None`` without a schema.

    With a ``session`` those of :func:`usable`.

    Consensus is brought up to date for it.
    """
    if not store.schemas():
        return None
    schema = store.schema()
    update_consensus(store)
    about: dict[str, list[AnswerRecord]] = {}
    for answer in usable(store, session):
        about.setdefault(answer.sample_ids[0], []).append(answer)
    samples = sorted((s for s in store.samples() if s.id in about), key=lambda sample: sample.id)
    known, splits = all_annotations_for_training(store, samples), store.splits()

    def split_of(session: str, field: str) -> Split:
        if (session, field) not in splits:
            splits[session, field] = split_of_field(store, session, field, held_out)
        return splits[session, field]

    items, passed_over = [], list[str]()
    for sample in samples:
        answers, told = about[sample.id], known[sample.id]
        parts = splits_in(sample, partial(split_of, sample.session))
        is_held_out = "held_out" in parts
        is_biased = is_held_out and any(answer.arm in _CHOSEN for answer in answers)
        if len(parts) > 1 or is_biased or not told.image.annotations:
            passed_over += [answer.id for answer in answers]
            continue
        used = [answer.id for answer in answers if answer.reply.outcome != "unsure"]
        passed_over += [answer.id for answer in answers if answer.reply.outcome == "unsure"]
        items.append(
            Item(sample, tuple(sorted(used)), told.image.annotations, told.versions, is_held_out=is_held_out)
        )
    return Material(
        schema.id,
        schema.label_schema,
        tuple(items),
        tuple(sorted(passed_over)),
        sum(answer.elapsed_s for answers in about.values() for answer in answers),
    )
