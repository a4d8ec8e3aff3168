"""All that was answered, read from the store once, as consensus needs it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from controller.labels.class_consensus import EACH, ONE_OF, Ballot, ballots
from controller.labels.mask_consensus import DRAWN_BY, DRAWN_WAYS, Drawing, Drawn, drawing_of
from controller.labels.records import AnswerRecord, Sample, SchemaRecord
from controller.labels.store import LabelStore
from controller.learning.annotations import NOTHING_HERE, LabelSchema
from controller.learning.rasterise import ContradictoryLabelsError


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """All that was answered.

    Attributes
    ----------
    answers
        Those that count, in the order they arrived.
    schemas, newest
        What could be said, by its identity, and what can be said now.
    several
        Requests that allow several classes in one place.
    """

    answers: tuple[AnswerRecord, ...]
    schemas: dict[str, LabelSchema]
    newest: SchemaRecord
    several: frozenset[str]
    samples: dict[str, Sample]

    @classmethod
    def read(cls, store: LabelStore) -> Self | None:
        """Read it; ``None`` where there is no schema, so nothing can have been said."""
        schemas = store.schemas()
        if not schemas:
            return None
        return cls(
            answers=tuple(store.answers()),
            schemas={record.id: record.label_schema for record in schemas},
            newest=schemas[-1],
            several=frozenset(request.id for request in store.requests() if request.several),
            samples={sample.id: sample for sample in store.samples()},
        )

    @property
    def schema(self) -> LabelSchema:
        """Return what can be said now."""
        return self.newest.label_schema

    def ballots(self) -> list[Ballot]:
        """Return the questions that tags and grades were answered to."""
        return ballots(self.answers, self.schemas, self.schema, self.several)

    def drawn(self) -> dict[tuple[str, Drawn], dict[str, AnswerRecord]]:
        """Return the last answer of each person that is drawn, by sample and way of drawing."""
        found: dict[tuple[str, Drawn], dict[str, AnswerRecord]] = defaultdict(dict)
        for answer in self.answers:
            if answer.kind in DRAWN_BY:
                found[answer.sample_ids[0], DRAWN_BY[answer.kind]][answer.annotator_id] = answer
        return found

    def drawings(self, answers: Mapping[str, AnswerRecord], refused: dict[str, str]) -> dict[str, Drawing]:
        """Return what each person drew of a sample; who was unsure has no part in it.

        Answers whose marks cannot be true together are left out, and ``refused`` is told why.
        """
        found = {}
        for annotator_id, answer in answers.items():
            shape = self.samples[answer.sample_ids[0]].roi.shape_yx
            try:
                drawing = drawing_of(answer, self.schemas[answer.schema_id], shape)
            except ContradictoryLabelsError as error:
                refused[answer.id] = str(error)
                continue
            if drawing is not None:
                found[annotator_id] = drawing
        return found


def mask_method(drawn: Drawn, class_name: str) -> str:
    """Return the method of the soft mask of a class."""
    return f"staple {drawn}: {class_name}"


def methods(schema: LabelSchema) -> tuple[str, ...]:
    """Return the methods of all consensus there can be."""
    names = (NOTHING_HERE, *schema.classes)
    return ONE_OF, EACH, *(mask_method(drawn, name) for drawn in DRAWN_WAYS for name in names)
