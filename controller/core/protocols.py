"""The roles that plug-ins fill. Small on purpose: five methods at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
from pydantic import JsonValue

from controller.core.decision import Acquire, Decision, Family, Observation
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.limits import SafetyLimits, SafeValues
from controller.core.settings import Modality, ScanSettings, Settings


class Clock(Protocol):
    """Where time comes from."""

    def now_s(self) -> float: ...

    def sleep(self, duration_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a microscope can do, as it tells itself.

    ``fov_size_yx_m`` is what can be scanned without moving the stage. ``simulated`` microscopes
    cost no sample, and their clock may be simulated too. ``adaptive`` ones make scans with
    ``ScanSettings.adaptive``; others are never given one.
    """

    name: str
    modalities: tuple[Modality, ...]
    fov_size_yx_m: tuple[float, float]
    simulated: bool
    details: Mapping[str, str | int | float | bool]
    adaptive: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """What a plug-in is given when it is made, beside its own options.

    ``rng`` is its own stream; ``folder`` is where relative paths in its options start.
    ``safe`` is where a microscope puts its lights when it stops. ``capabilities`` is ``None`` for the
    microscope itself, which is made first. ``session_folder`` is where the session is recorded, ``None``
    where a record is followed.
    """

    rng: np.random.Generator
    clock: Clock
    folder: Path
    limits: SafetyLimits
    safe: SafeValues = field(default_factory=SafeValues)
    capabilities: Capabilities | None = None
    session_folder: Path | None = None


@runtime_checkable
class Plugin(Protocol):
    """How every plug-in is made from a configuration: validated options in, object out."""

    Options: ClassVar[type[Settings]]

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self: ...


@runtime_checkable
class Microscope(Protocol):
    """A microscope that takes one frame at a time.

    ``acquire`` returns with the light off; it raises ``InvalidRequestError`` only before any light
    and any move. ``stop`` puts every light to its safe value and closes
    the shutter; it may be called at any time, from any thread, again and again. ``is_dark`` reads
    back whether that is so. ``close`` also stops, and releases the hardware.
    """

    def capabilities(self) -> Capabilities: ...

    def acquire(self, settings: ScanSettings) -> Frame: ...

    def stop(self) -> None: ...

    def is_dark(self) -> bool: ...

    def close(self) -> None: ...


@runtime_checkable
class Streams(Protocol):
    """A microscope that takes frames one after the other without a pause.

    ``stream`` yields ``frames`` frames of one scan and leaves the light off, as ``acquire`` does.
    """

    def stream(self, settings: ScanSettings, frames: int) -> Iterator[Frame]: ...


@runtime_checkable
class RemembersLight(Protocol):
    """A simulated microscope whose sample has to be brought back to where a killed session left it."""

    def expose_again(self, settings: ScanSettings) -> None:
        """Apply the light of one earlier scan to the sample, in the order of acquisition."""


@runtime_checkable
class Denoiser(Protocol):
    """Removes noise without ever looking at a later frame.

    ``reset`` forgets the past (the stage moved, the sampling changed), ``observe`` takes a frame in
    without an answer, ``step`` takes it in and answers.
    """

    def reset(self, reason: str) -> None: ...

    def observe(self, frame: Frame) -> None: ...

    def step(self, frame: Frame) -> Denoised: ...


@runtime_checkable
class Coarsens(Protocol):
    """A denoiser that can also answer at half the resolution, in a part of the time.

    ``step_coarse`` takes a frame in as ``step`` does; its answer has the full size.
    """

    def step_coarse(self, frame: Frame) -> Denoised: ...


@runtime_checkable
class Segmenter(Protocol):
    """Finds objects in a frame, by what it shows or by what the frames of its region have shown so far."""

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation: ...


@runtime_checkable
class Watches(Protocol):
    """A segmenter that remembers: it is also shown the frames that nobody waits for."""

    def observe(self, frame: Frame) -> None: ...


@runtime_checkable
class Policy(Protocol):
    """Decides what to do next. Deterministic given its ``rng`` and the observations so far."""

    family: ClassVar[Family]

    def decide(self, observation: Observation) -> Decision: ...


ModelRole = Literal["denoiser", "segmenter"]

#: Larger weights are not written into a session each time that a model has learned something.
WEIGHTS_BYTES_MAX = 256 * 1024**2


@dataclass(frozen=True, slots=True, eq=False)
class ModelChange:
    """New weights of a model, or earlier ones that it goes back to.

    Attributes
    ----------
    role
        Whose weights they are.
    sha256
        Checksum of ``weights``, in hexadecimal digits; it names them.
    weights
        A safetensors file, byte for byte.
    card
        What is known of them, as JSON: architecture, training data, licence.
    score_before, score_after
        Of the old and of the new weights, on the same data held out; higher is better.
    reason
        Why they were changed, for the record.
    """

    role: ModelRole
    sha256: str
    weights: bytes
    card: Mapping[str, JsonValue]
    score_before: float
    score_after: float
    reason: str


@runtime_checkable
class Learns(Protocol):
    """A model that learns while a session runs, in a process of its own.

    ``improve`` is called between cycles and returns at once: ``None``, or what has changed; the new
    weights are in use when it returns. With a simulated clock it is deterministic, by the frames that the
    model was shown, not by how often it was asked. ``ModelPassedOverError`` tells of weights that cannot be
    used, once; any other error ends the learning. ``adopt`` takes recorded weights into use, in a
    session that is resumed or replayed; it leaves the model as ``improve`` left it with these weights.
    """

    def improve(self) -> ModelChange | None: ...

    def adopt(self, weights: bytes, card: Mapping[str, JsonValue]) -> None: ...


@runtime_checkable
class LearnsInTime(Protocol):
    """A model whose ``improve`` waits for what it learns, so long at most, because the clock is simulated."""

    @property
    def improve_s(self) -> float: ...


@runtime_checkable
class Closes(Protocol):
    """A model or policy that holds something which must not outlive the session: a process, a device."""

    def close(self) -> None: ...


class Script(Protocol):
    """What a record knows of the coming cycles of a session that is resumed or replayed."""

    def begin(self, cycle: int) -> float | None:
        """Return when the policy decided in that cycle, if that is recorded."""

    def scanned(self, decision: Acquire) -> tuple[Frame | None, str | None] | None:
        """Return what is recorded already of the scan of this decision: its last frame, or its failure.

        ``None`` if the scan is still to be made.
        """

    def learned(self, cycle: int) -> Sequence[ModelChange] | None:
        """Return what the models had learned before that cycle; ``None`` if they may learn by themselves."""

    def levels(self, cycle: int) -> tuple[int, int] | None:
        """Return the level that the frame of that cycle was worked on at, and the one after it, if known."""

    def close(self) -> None:
        """Book the light that was recorded and that no cycle has used."""
