"""What the label store holds: samples, requests, answers, and what is derived from them.

Everything is read back as one of these frozen records. Times are seconds since 1970, UTC.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

from controller.core.decision import QuestionKind
from controller.core.settings import MAX_PIXELS, Fraction, NonNegative, Positive, Settings
from controller.learning.annotations import (
    AMBIGUOUS,
    NOTHING_HERE,
    Annotation,
    ImageAnnotations,
    LabelSchema,
    ShapeYX,
)

#: Why something is asked: a strategy chose it, chance did (so that scores stay unbiased), the session's own
#: policy asked, or a person or an import brought it along.
Arm = Literal["policy", "random_audit", "session", "import"]
RequestState = Literal["open", "answered", "cancelled"]
Role = Literal["expert", "trainee", "crowd", "simulated", "model", "reader", "admin"]
#: These may look, but not answer.
READ_ONLY: frozenset[Role] = frozenset({"reader"})
Split = Literal["train", "held_out"]
Outcome = Literal["answered", "unsure", "nothing here"]

MAX_ANNOTATIONS = 1000


def checked_text(text: str) -> str:
    """Return a text that every database can hold.

    Raises
    ------
    ValueError
        If it has a NUL character, or half of a pair of surrogates, which is no text at all.
    """
    if "\0" in text:
        raise ValueError(f"{text[:40]!r} has a NUL character, which cannot be stored; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text[:40]!r} is no valid Unicode, so it cannot be stored: {error}") from error
    return text


def as_key(text: str) -> str:
    """Return a text to look for; one that cannot be stored is nowhere, and would make the database fail."""
    try:
        return checked_text(text)
    except ValueError:
        return ""


def _writable(content: dict[str, JsonValue]) -> dict[str, JsonValue]:
    # pydantic would write a replacement for half a character in a key, and two keys could become one.
    json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return content


_Text = AfterValidator(checked_text)
Name = Annotated[str, Field(min_length=1, max_length=200), _Text]
Checksum = Annotated[str, Field(max_length=128), _Text]
#: Checks a name that stands by itself.
checked_name = TypeAdapter(Name, config=ConfigDict(strict=True)).validate_python


class Roi(Settings):
    """A rectangle of pixels of an image: its first row and column, and its size."""

    y: Annotated[int, Field(ge=0, le=MAX_PIXELS)]
    x: Annotated[int, Field(ge=0, le=MAX_PIXELS)]
    rows: Annotated[int, Field(ge=1, le=MAX_PIXELS)]
    columns: Annotated[int, Field(ge=1, le=MAX_PIXELS)]

    @property
    def shape_yx(self) -> ShapeYX:
        """Return the size, ``(rows, columns)``."""
        return self.rows, self.columns


class NewSample(Settings):
    """One image that people are asked about, before the store knows it.

    ``session`` is the run that it was taken in, or the source of an import. ``field`` is a part of that
    session's sample: samples of two fields never show the same place. ``uri`` says where the whole image
    is, relative to the store's folder; ``roi`` is the part of it that the question is about.
    """

    session: Name
    field: Name
    uri: Annotated[str, Field(min_length=1, max_length=4096), _Text]
    roi: Roi
    pixel_size_m: Positive
    dtype: Annotated[str, Field(max_length=20), _Text]
    frame_index: Annotated[int, Field(ge=0)] | None = None
    channel: Name = "photons"
    offset_units: float = 0.0
    """What the detector says at no light, and how many of its units one photon gives."""
    units_per_photon: Positive = 1.0
    modality: Name = "unknown"
    microscope: Name = "unknown"
    acquisition: Annotated[dict[str, JsonValue], AfterValidator(_writable)] = Field(default_factory=dict)
    blake2b: Checksum = ""
    """Checksum of the pixels of ``roi``, where they were at hand."""


class Sample(NewSample):
    """A sample in the store."""

    id: str
    created_s: float


class SchemaRecord(Settings):
    """A version of what can be said; ``number`` counts up from 1, or down from 0 beside those."""

    id: str
    number: int
    label_schema: LabelSchema


class RequestItem(Settings):
    """One sample of a request; ``values`` is what else is known of it, for a ``choice``."""

    sample_id: Name
    values: dict[Name, float] = Field(default_factory=dict)


class NewRequest(Settings):
    """A question, before the store knows it.

    ``key`` makes asking idempotent: the same key again changes nothing. A ``choice`` has several
    ``items``, every other kind has one. ``is_live`` ones are asked while the session runs.
    """

    key: Name
    kind: QuestionKind
    text: Annotated[str, Field(min_length=1, max_length=500), _Text]
    schema_id: Name
    items: Annotated[tuple[RequestItem, ...], Field(min_length=1, max_length=12)]
    several: bool = False
    arm: Arm = "policy"
    strategy: Name = "none"
    score: float = 0.0
    reason: Annotated[str, Field(max_length=2000), _Text] = ""
    predicted_cost_s: NonNegative | None = None
    predicted_class: Name | None = None
    """What the model took it for when it was asked, for the record of what is bought."""
    model_sha256: Checksum | None = None
    annotators: Annotated[int, Field(ge=1, le=20)] = 1
    """How many people are to answer it."""
    priority: float = 0.0
    is_live: bool = True

    @model_validator(mode="after")
    def _has_its_items(self) -> NewRequest:
        if (self.kind == "choice") != (len(self.items) > 1):
            raise ValueError(f"a {self.kind!r} about {len(self.items)} samples: only 'choice' has several")
        return self


class Request(NewRequest):
    """A question in the store."""

    id: str
    created_s: float
    state: RequestState


class Lease(Settings):
    """The right to answer one request until a moment in time; ``id`` proves it."""

    id: str
    assignment_id: str
    request: Request
    annotator_id: str
    until_s: float


class Reply(Settings):
    """What a person said, whatever the kind of question.

    ``annotations`` has coordinates in pixels of the sample. ``chosen`` is the number of the option that
    was picked. ``unsure`` and ``nothing here`` are answers too.
    """

    outcome: Outcome = "answered"
    annotations: Annotated[tuple[Annotation, ...], Field(max_length=MAX_ANNOTATIONS)] = ()
    chosen: Annotated[int, Field(ge=0, lt=12)] | None = None
    score: Fraction | None = None


class Display(Settings):
    """How the picture looked when it was answered."""

    channel: Name = "raw"
    low: float | None = None
    high: float | None = None
    gamma: Positive = 1.0
    lut: Name = "gray"
    zoom: Positive = 1.0
    is_swapped: bool = False


class Submission(Settings):
    """A reply on its way into the store.

    ``key`` is made by whoever sends it: sent again, it is the same answer. ``revises`` is an earlier
    answer of the same person that this one replaces.
    """

    key: Name
    lease_id: Name
    reply: Reply
    elapsed_s: Annotated[float, Field(ge=0, le=1e6)]
    idle_s: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    display: Display = Display()
    prefill_sha256: Checksum | None = None
    """The model whose proposal was corrected, if there was one."""
    client: Name = "unknown"
    revises: Name | None = None


class AnswerRecord(Settings):
    """An answer in the store. Nothing of it ever changes; a later one may replace it.

    ``is_kept`` says whether it is the answer of its person to its request: the last revision of the first
    that arrived. Everything else is evidence.
    """

    id: Name
    key: Name
    request_id: str | None
    sample_ids: Annotated[tuple[Name, ...], Field(min_length=1, max_length=12)]
    annotator_id: str
    schema_id: str
    kind: QuestionKind
    reply: Reply
    arm: Arm
    elapsed_s: NonNegative
    idle_s: NonNegative
    display: Display
    prefill_sha256: str | None
    client: Name
    revises: str | None
    is_kept: bool
    created_s: float


class Annotator(Settings):
    """Somebody who answers, by a pseudonym."""

    id: str
    name: Name
    role: Role


class Consensus(Settings):
    """What several answers about one sample come to; derived, so it can always be made again.

    ``classes`` is the probability of each of ``names``, for tags. ``mask`` is a soft mask: row by row
    probabilities in steps of 1/255 of the one class ``mask_class``, as runs of equal values; -1 is where
    nobody looked.
    """

    sample_id: str
    schema_id: str
    method: Name
    version: int
    inputs: tuple[str, ...]
    names: tuple[str, ...] = ()
    classes: tuple[Fraction, ...] = ()
    mask_class: str | None = None
    mask_shape_yx: ShapeYX | None = None
    mask_runs: tuple[tuple[int, int], ...] = ()
    confidence: Fraction
    created_s: float = 0.0


class Snapshot(Settings):
    """An immutable list of what a model was trained on and judged by; ``sha256`` names it."""

    sha256: str
    created_s: float
    content: dict[str, JsonValue]


class ModelRecord(Settings):
    """A model that was trained from answers: published, or rejected because it was worse."""

    sha256: str
    role: Literal["segmenter", "classifier"]
    parent: str | None
    snapshot_sha256: str
    verdict: Literal["published", "rejected"]
    reason: str
    metrics: dict[Name, float]
    answers: int
    answer_s: float
    """Answers that it was trained on, and the seconds that people spent on them."""
    created_s: float = 0.0


class WorkerRecord(Settings):
    """A sign of life of a process that works beside the session."""

    name: Name
    pid: int
    state: Literal["working", "idle", "failed", "stopped"]
    message: str
    beat_s: float


class EventRecord(Settings):
    """Something that happened, for people to read."""

    id: int
    what: str
    detail: dict[str, JsonValue]
    created_s: float


class Counts(Settings):
    """How far labelling is."""

    open_live: int
    open_later: int
    leased: int
    answered: int
    cancelled: int
    answers: int
    answer_s: float
    per_class: dict[str, int]
    """Kept answers that say that a class is there, and those that say nothing is or that they are unsure."""


def check_reply(request: Request, schema: LabelSchema, shape_yx: ShapeYX, reply: Reply) -> None:
    """Refuse a reply that does not answer a request.

    Parameters
    ----------
    schema, shape_yx
        What can be said, and the size of the sample in pixels.

    Raises
    ------
    ValueError
        Saying what was answered and what is allowed.
    """
    kind = request.kind
    if reply.outcome != "answered":
        if reply.annotations or reply.chosen is not None or reply.score is not None:
            raise ValueError(f"{reply.outcome!r} says all; send no annotations, choice or score with it")
        return
    wanted = {"choice": reply.chosen is not None, "score": reply.score is not None}
    if not wanted.get(kind, bool(reply.annotations)):
        raise ValueError(f"a {kind!r} question needs {_NEEDS.get(kind, 'annotations')}")
    if reply.chosen is not None and (kind != "choice" or reply.chosen >= len(request.items)):
        raise ValueError(f"chosen = {reply.chosen}: this question has {len(request.items)} option(s)")
    if reply.score is not None and kind != "score":
        raise ValueError(f"a {kind!r} question takes no score")
    if kind in {"choice", "score"} and reply.annotations:
        raise ValueError(f"a {kind!r} question takes no annotations")
    for annotation in reply.annotations:
        if annotation.kind not in _MAY_HOLD.get(kind, ()):
            raise ValueError(f"a {kind!r} question takes no {annotation.kind!r}; it takes {_MAY_HOLD[kind]}")
    if kind in {"tag", "grades"} and len(reply.annotations) > 1:
        raise ValueError(f"a {kind!r} question takes one annotation, got {len(reply.annotations)}")
    if kind == "tag" and not request.several:
        present = [name for a in reply.annotations if a.kind == "tag" for name in a.present]
        if len(present) != 1:
            raise ValueError(f"this question takes one class, got {present}")
    ImageAnnotations(shape_yx=shape_yx, label_schema=schema, annotations=reply.annotations)


_NEEDS = {"choice": "chosen, the number of an option", "score": "score, a number from 0 to 1"}
_DRAWN = ("points", "scribble", "box", "polygon", "mask")
_MAY_HOLD: dict[QuestionKind, tuple[str, ...]] = {
    "tag": ("tag",),
    "grades": ("grades",),
    "points": ("points",),
    "scribble": ("scribble", "points"),
    "box": ("box",),
    "polygon": ("polygon", "mask"),
    "mask": ("mask", "polygon", "scribble", "points", "box"),
}


def told_classes(reply: Reply) -> tuple[str, ...]:
    """Return the classes that a reply says are there; :data:`NOTHING_HERE` or ``unsure`` if it says so."""
    if reply.outcome == "unsure":
        return (AMBIGUOUS,)
    if reply.outcome == "nothing here":
        return (NOTHING_HERE,)
    said: dict[str, None] = {}
    for annotation in reply.annotations:
        if annotation.kind == "tag":
            said |= dict.fromkeys(annotation.present)
        elif annotation.kind == "grades":
            said |= {name: None for name, grade in annotation.grades.items() if grade >= 0.5}
        else:
            said |= dict.fromkeys(annotation.class_names)
    return tuple(said)
