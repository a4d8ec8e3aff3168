"""What people are asked about a session: the table ``[labels]`` of an experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from controller.core.settings import Fraction, Modality, NonNegative, Positive, Settings
from controller.labels.records import checked_text
from controller.learning.annotations import ClassName, LabelSchema, checked_classes
from controller.learning.audit import FRACTION, FRACTION_MIN

#: Side of a field, in metres, where a plan says nothing else.
FIELD_M = 5e-6


class LabelPlan(Settings):
    """What is asked, about which parts of which frames, how often and by which strategy.

    Questions of a quick ``kind`` are asked while the session runs; those of ``later_kind``, about the
    same places, when it has ended.
    """

    classes: Annotated[
        tuple[ClassName, ...], Field(min_length=1, max_length=63), AfterValidator(checked_classes)
    ]
    """What a person tells apart; ``nothing here`` and ``ambiguous`` can always be answered."""
    question: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(checked_text)] = (
        "What is in the square?"
    )
    kind: Literal["tag", "grades", "points", "scribble", "box", "polygon", "mask"] = "tag"
    several: bool = False
    """Whether more than one class may be in one place."""
    later_kind: Literal["points", "scribble", "box", "polygon", "mask"] | None = None
    modality: Modality | None = None
    """Only frames of this modality are asked about; without it those that the session ends its visits with:
    the ones with the smallest pixels so far."""
    crop_px: Annotated[int, Field(ge=16, le=1024)] = 64
    """Side of the square that a question is about."""
    context_px: Annotated[int, Field(ge=0, le=1024)] = 32
    """Pixels around it that are shown."""
    strategy: Annotated[str, Field(min_length=1, max_length=200)] = "badge"
    """What chooses the questions; docs/labels_evidence.md compares them."""
    strategy_options: dict[str, Any] = Field(default_factory=dict)
    audit_fraction: Annotated[float, Field(ge=FRACTION_MIN, le=1)] = FRACTION
    """Part of the questions that chance chooses: they judge the models and the strategy without bias."""
    batch: Annotated[int, Field(ge=1, le=100)] = 5
    """Questions that are chosen at once."""
    open_max: Annotated[int, Field(ge=1, le=1000)] = 10
    """No new ones are chosen while so many are open."""
    attention: Fraction = 1.0
    """Part of the time that a person answers live questions, at most."""
    annotators: Annotated[int, Field(ge=1, le=20)] = 1
    """People who are to answer each question."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Part of the fields that models are judged by and never learn from."""
    field_m: Positive = FIELD_M
    """Side of a field: places of two fields are never told apart by chance of a crop's edge."""
    candidates_max: Annotated[int, Field(ge=10, le=100_000)] = 2000
    """Newest places that are chosen from."""
    train_after: Annotated[int, Field(ge=1)] = 10
    """New answers after which the models learn again."""
    train_s: NonNegative = 20.0
    """Seconds of computing that each training of the segmenter may take."""

    @property
    def label_schema(self) -> LabelSchema:
        """Return what can be said."""
        return LabelSchema(classes=self.classes)
