"""The documents of a session's journal: typed, versioned, one JSON object a line.

The journal is the source of truth. Its order is: one ``start``; then for each scan a ``reserve``
before the light and a ``frame`` once its pixels are written (or a ``settle`` where frames are missing,
but is known what was lit), several of them for a movie; a ``cycle`` for each decision and all
that came of it; a ``model`` where a model goes on with other weights; a ``resume`` where a session
went on after a crash; one ``stop`` at the end. A ``lost`` takes back what a loss of power left without
its pixels.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from controller.core.decision import Decision
from controller.core.frame import LEVELS
from controller.core.protocols import ModelRole
from controller.core.settings import ScanSettings, Settings

JOURNAL_SCHEMA: Literal["stedfast-journal/1"] = "stedfast-journal/1"

Status = Literal["completed", "failed", "interrupted"]


def uid_of(run_id: str, name: str) -> str:
    """Return the identifier of a document of a run; the same name gives the same one again."""
    return str(uuid.uuid5(uuid.UUID(run_id), name))


def now_utc() -> str:
    """Return the wall time, for names and records only."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def printable(text: str) -> str:
    """Return text that UTF-8 can hold; a broken device may send anything in an error message."""
    return text.encode("utf-8", "replace").decode()


class DoseEntry(Settings):
    """The ledger at the end of a cycle: joules, J/m² and scans since the start of the session."""

    energy_j: float = 0.0
    peak_j_per_m2: float = 0.0
    frames: int = 0


class StartDocument(Settings):
    """Everything needed to run the session again: configuration, seed, versions."""

    type: Literal["start"] = "start"
    schema_: Literal["stedfast-journal/1"] = Field(default=JOURNAL_SCHEMA, alias="schema")
    uid: str
    run_id: str
    created_utc: str
    seed: int
    experiment: dict[str, Any]
    hardware: dict[str, Any]
    config_sha256: str
    config_folder: str
    hardware_path: str
    replay_of: str | None = None
    microscope: dict[str, Any]
    versions: dict[str, str]


class ResumeDocument(Settings):
    """The session goes on after it was cut off."""

    type: Literal["resume"] = "resume"
    uid: str
    created_utc: str
    now_s: float
    versions: dict[str, str]


class LostDocument(Settings):
    """Pixels that the journal names were lost with the power, before they were synced.

    No frame and no cycle between document number ``since`` (0 is the start) and this one counts. The
    light of their reservations does: of frames that are lost, in full.
    """

    type: Literal["lost"] = "lost"
    uid: str
    created_utc: str
    since: int
    reason: str


class ReserveDocument(Settings):
    """Written before the light of a scan: its worst-case dose. Without a frame it counts in full.

    ``now_s`` is the session's clock when the policy decided on it. A movie is one scan repeated:
    energy and dose are those of all its ``frames`` together.
    """

    type: Literal["reserve"] = "reserve"
    uid: str
    number: int
    cycle: int
    now_s: float
    settings: ScanSettings
    energy_j: float
    dose_j_per_m2: float
    frames: int = 1


class SettleDocument(Settings):
    """A scan left not all its frames, and lit something else than its reservation.

    That is nothing (0), less (a movie cut short) or more; ``frames`` is how many scans it counts for.
    """

    type: Literal["settle"] = "settle"
    uid: str
    reservation: int
    energy_j: float
    dose_j_per_m2: float
    frames: int = 1


class FrameDocument(Settings):
    """A frame is acknowledged: its pixels are written to group ``path``, with this checksum.

    ``plane`` is its place along ``t`` in the group of a movie; a single image has none.
    """

    type: Literal["frame"] = "frame"
    uid: str
    index: int
    reservation: int
    cycle: int
    path: str
    settings: ScanSettings
    started_s: float
    dtype: str
    blake2b: str
    plane: int | None = None


class DenoisedEntry(Settings):
    """Where the denoised image of a cycle is, and how it was made."""

    path: str
    level: int
    latency_s: float
    blake2b: str


class SegmentationEntry(Settings):
    """Where the segmentation of a cycle is; ``objects`` counts its labels."""

    path: str
    objects: int
    blake2b: str


class CycleDocument(Settings):
    """One pass of the loop. ``now_s`` is the session's clock when the policy decided.

    ``frame_index`` is the frame that was worked on: of a movie, the last one. ``decided_on_age_s`` is the
    age of the frame that the decision rests on. ``segmentation_frame`` is an earlier frame whose
    segmentation the policy was shown instead of one of this frame. ``level`` is the one that the session
    goes on at; the one at which this frame was denoised is in ``denoised``. ``weights`` names the models
    that changed in this session, by role: the first 12 digits of the checksum of what they worked with.
    """

    type: Literal["cycle"] = "cycle"
    uid: str
    index: int
    now_s: float
    decision: Decision
    decided_by: str
    frame_index: int | None = None
    refused: str | None = None
    failure: str | None = None
    faults: tuple[str, ...] = ()
    denoised: DenoisedEntry | None = None
    segmentation: SegmentationEntry | None = None
    segmentation_frame: int | None = None
    level: Annotated[int, Field(ge=0, lt=len(LEVELS))] = 0
    decided_on_age_s: float | None = None
    weights: dict[ModelRole, Annotated[str, Field(pattern="^[0-9a-f]{12}$")]] = Field(default_factory=dict)
    dose: DoseEntry
    timings_s: dict[str, float]


class ModelDocument(Settings):
    """A model works with other weights from ``cycle`` on; they are in ``models/<sha256>.safetensors``.

    The scores are those of the old and the new weights on the same data held out; higher is better.
    """

    type: Literal["model"] = "model"
    uid: str
    cycle: int
    role: ModelRole
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    score_before: float
    score_after: float
    reason: str


class StopDocument(Settings):
    """The end, as it truly was."""

    type: Literal["stop"] = "stop"
    uid: str
    created_utc: str
    status: Status
    reason: str
    cycles: int
    frames: int
    faults: int
    dose: DoseEntry
    now_s: float


Document = Annotated[
    StartDocument
    | ResumeDocument
    | LostDocument
    | ReserveDocument
    | SettleDocument
    | FrameDocument
    | CycleDocument
    | ModelDocument
    | StopDocument,
    Field(discriminator="type"),
]

DOCUMENT: TypeAdapter[Document] = TypeAdapter(Document)
