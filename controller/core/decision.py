"""What a policy sees, what it may want, and the record of one cycle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.settings import Region, ScanSettings, Settings

QuestionKind = Literal["tag", "grades", "points", "scribble", "box", "polygon", "mask", "choice", "score"]
Family = Literal["event-driven", "outcome-driven", "quality-driven", "information-driven", "open-loop"]


class ImageOption(Settings):
    """One of the images, or of the scans, that a person chooses from.

    ``values`` is what is known of it by name, such as ``resolution_m``: what a preference is learned from.
    """

    frame_index: Annotated[int, Field(ge=0)] | None = None
    region: Region | None = None
    values: dict[str, float] = Field(default_factory=dict)


class Question(Settings):
    """A question about one region of one recorded frame, for a person to answer.

    ``kind`` says what an answer is. ``tag`` picks one of ``choices``, or ``several`` of them; ``grades``
    gives each a number from 0 to 1, ``score`` gives one to the region as a whole. ``points``,
    ``scribble``, ``box``, ``polygon`` and ``mask`` mark pixels, of the classes in ``choices``. ``choice``
    picks one of ``options``; without any it picks one of ``choices``, as ``tag`` does.
    """

    frame_index: Annotated[int, Field(ge=0)]
    region: Region
    kind: QuestionKind
    text: Annotated[str, Field(min_length=1, max_length=500)]
    choices: tuple[Annotated[str, Field(min_length=1, max_length=80)], ...] = ()
    several: bool = False
    options: Annotated[tuple[ImageOption, ...], Field(max_length=12)] = ()


class _Reasoned(Settings):
    """Every decision says why; ``evidence`` holds the figures it rests on, by name, for the record."""

    reason: Annotated[str, Field(min_length=1)]
    evidence: dict[str, float] = Field(default_factory=dict)


class Acquire(_Reasoned):
    """Take one frame with these settings, not before ``start_s`` on the session's clock.

    With ``frames`` above 1 it is a movie: so many frames without a pause, if the microscope can do
    that. The whole movie is booked before its light; the next decision sees its last frame.
    """

    settings: ScanSettings
    start_s: Annotated[float, Field(ge=0)] | None = None
    frames: Annotated[int, Field(ge=1, le=100_000)] = 1


class AskLabel(_Reasoned):
    """Put a question in the label queue; no light, no waiting."""

    question: Question


class Stop(_Reasoned):
    """End the session."""


Decision = Acquire | AskLabel | Stop


@dataclass(frozen=True, slots=True)
class Dose:
    """Light on the sample so far: energy of all scans, and the most that any point received."""

    energy_j: float = 0.0
    peak_j_per_m2: float = 0.0
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of each budget; ``inf`` where none was set."""

    energy_j: float = float("inf")
    cycles: float = float("inf")
    duration_s: float = float("inf")
    questions: float = float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a policy decides from. It holds no truth that a microscope would not tell.

    ``frame``, ``denoised`` and ``segmentation`` describe the newest frame, ``None`` before the
    first one; a failed stage leaves ``None`` too. ``frame_age_s`` is the time since the end of its scan.
    Where time is short, not every frame is segmented: ``segmentation`` is then an earlier one of the same
    place, and ``segmentation_age_s`` the time since the end of that scan. ``refused`` is the message if
    the last decision was refused: nothing was lit. ``failure`` is the message if the microscope failed at
    it: there is no frame, and its light counts. ``now_s`` is the session's clock, 0 at its start.
    """

    frame: Frame | None
    denoised: Denoised | None
    segmentation: Segmentation | None
    dose: Dose
    budget: Budget
    now_s: float
    refused: str | None = None
    failure: str | None = None
    frame_age_s: float | None = None
    segmentation_age_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Cycle:
    """One pass of the loop: the decision and all that came of it.

    ``decided_on_age_s`` is the age of the frame that the decision rests on, ``None`` without one.
    ``segmentation_of`` is the earlier frame that ``segmentation`` was kept from, ``None`` if it is one of
    this cycle's. ``level`` is the one of :data:`~controller.core.frame.LEVELS` that the session goes on at.
    """

    index: int
    decision: Decision
    decided_by: str
    frame: Frame | None = None
    denoised: Denoised | None = None
    segmentation: Segmentation | None = None
    segmentation_of: Frame | None = None
    level: int = 0
    decided_on_age_s: float | None = None
    refused: str | None = None
    failure: str | None = None
    faults: tuple[str, ...] = ()
    dose: Dose = Dose()
    timings_s: dict[str, float] = field(default_factory=dict)
