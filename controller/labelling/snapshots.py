"""What a model is trained on and judged by: a fixed list of answers, named by its checksum.

Judging is kept apart from learning by fields: no field that judges is learned from. Answers about judging
fields that a query strategy asked for are left out altogether, because what it likes is not what there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from controller.labelling.training_images import said_by
from controller.labels.records import AnswerRecord, Sample, Split
from controller.labels.store import LabelStore
from controller.learning.annotations import NOTHING_HERE, Annotation, LabelSchema

#: Kinds of questions whose answers say nothing of pixels.
_OTHER_KINDS = frozenset({"choice", "score"})


@dataclass(frozen=True, slots=True)
class Item:
    """What is known of one sample.

    Attributes
    ----------
    answers
        Ids of the answers that it rests on.
    annotations
        In pixels of the sample.
    is_held_out
        Whether it judges, rather than being learned from.
    """

    sample: Sample
    answers: tuple[str, ...]
    annotations: tuple[Annotation, ...]
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
    answer_s
        Seconds that people spent on these answers.
    """

    schema_id: str
    label_schema: LabelSchema
    items: tuple[Item, ...]
    answer_s: float

    @property
    def answers(self) -> frozenset[str]:
        """Return the ids of all answers."""
        return frozenset(answer for item in self.items for answer in item.answers)

    @property
    def learned(self) -> tuple[Item, ...]:
        """Return what is learned from."""
        return tuple(item for item in self.items if not item.is_held_out)

    @property
    def judges(self) -> tuple[Item, ...]:
        """Return what models are judged by."""
        return tuple(item for item in self.items if item.is_held_out)

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
                    "weights": [annotation.weight for annotation in item.annotations],
                }
                for item in self.items
            ],
        }


def answers_in(content: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of the answers in the content of a snapshot."""
    return frozenset(answer for item in content["items"] for answer in item["answers"])


def proposed_split(session: str, field: str, held_out: float) -> Split:
    """Return whether a field should judge, by its name: about the part ``held_out`` of all fields do.

    The same for everybody who asks, so it does not matter who asks the store first.
    """
    digest = hashlib.sha256(f"{session}\n{field}".encode()).digest()
    return "held_out" if int.from_bytes(digest[:8]) < held_out * 2**64 else "train"


def collect(store: LabelStore, held_out: float) -> Material | None:
    """Return what the store's answers teach, about the newest schema; ``None`` without a schema."""
    if not store.schemas():
        return None
    schema = store.schema()
    about: dict[str, list[AnswerRecord]] = {}
    for answer in store.answers():
        if answer.schema_id == schema.id and answer.kind not in _OTHER_KINDS:
            about.setdefault(answer.sample_ids[0], []).append(answer)
    splits, several = store.splits(), {request.id: request.several for request in store.requests()}
    items, answer_s = [], 0.0
    for sample in sorted(store.samples(), key=lambda sample: sample.id):
        if sample.id not in about:
            continue
        place = sample.session, sample.field
        if place not in splits:
            splits[place] = store.split_of(*place, partial(proposed_split, *place, held_out))
        is_held_out = splits[place] == "held_out"
        item = _item(sample, about[sample.id], schema.label_schema, several, is_held_out=is_held_out)
        if item is not None:
            items.append(item)
            answer_s += sum(answer.elapsed_s for answer in about[sample.id] if answer.id in item.answers)
    return Material(schema.id, schema.label_schema, tuple(items), answer_s)


def _item(
    sample: Sample,
    answers: Sequence[AnswerRecord],
    schema: LabelSchema,
    several: dict[str, bool],
    *,
    is_held_out: bool,
) -> Item | None:
    """Return what the answers about a sample come to, if they teach anything."""
    used, said = [], list[Annotation]()
    is_drawn = False
    for answer in sorted(answers, key=lambda answer: (answer.created_s, answer.id)):
        if is_held_out and answer.arm == "policy":
            continue
        own = said_by(answer.reply, schema, several=_several(answer, several))
        draws = _draws(own)
        # Two people's outlines of one object would count as two objects that overlap.
        if not own or (draws and is_drawn):
            continue
        is_drawn = is_drawn or draws
        used.append(answer.id)
        said += own
    return Item(sample, tuple(used), tuple(said), is_held_out) if said else None


def _several(answer: AnswerRecord, several: dict[str, bool]) -> bool:
    """Tell whether more than one class was allowed; of what was imported, nothing is known."""
    return answer.request_id is None or several.get(answer.request_id, True)


def _draws(annotations: Iterable[Annotation]) -> bool:
    return any(annotation.kind not in {"tag", "grades"} for annotation in annotations)
