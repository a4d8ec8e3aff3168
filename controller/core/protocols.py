"""The roles that plug-ins fill. Small on purpose: five methods at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

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
    microscope itself, which is made first.
    """

    rng: np.random.Generator
    clock: Clock
    folder: Path
    limits: SafetyLimits
    safe: SafeValues = field(default_factory=SafeValues)
    capabilities: Capabilities | None = None


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
class Segmenter(Protocol):
    """Finds objects in a frame, by what it shows or by what the frames of its region have shown so far."""

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation: ...


@runtime_checkable
class Policy(Protocol):
    """Decides what to do next. Deterministic given its ``rng`` and the observations so far."""

    family: ClassVar[Family]

    def decide(self, observation: Observation) -> Decision: ...


class Script(Protocol):
    """What a record knows of the coming cycles of a session that is resumed or replayed."""

    def begin(self, cycle: int) -> float | None:
        """Return when the policy decided in that cycle, if that is recorded."""

    def scanned(self, decision: Acquire) -> tuple[Frame | None, str | None] | None:
        """Return what is recorded already of the scan of this decision: its last frame, or its failure.

        ``None`` if the scan is still to be made.
        """

    def close(self) -> None:
        """Book the light that was recorded and that no cycle has used."""
