"""Asking for a scan: what it is, whether it can be had, and which frame answers it.

:class:`ScanStep` is a scan without its place, :class:`Reach` what may be asked for, and :class:`Inbox`
matches frames with requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from controller.core.decision import Acquire, Budget, Decision, Observation
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.limits import SafetyLimits
from controller.core.protocols import Capabilities, Resources
from controller.core.settings import (
    AdaptiveIllumination,
    Modality,
    NonNegative,
    Positive,
    Region,
    ScanSettings,
    Settings,
)
from policies.places import overlap_m2, whole_pixels
from policies.power_steps import LastUse

#: How often a request at which the microscope failed is made again.
REPEATS_MAX = 2


class ScanStep(Settings):
    """A scan without its place, or with a place of its own.

    Attributes
    ----------
    modality
        Kind of scan.
    pixel_size_m
        Sampling step in metres.
    dwell_s
        Time the beam rests on a pixel in one pass, in seconds.
    excitation_w, sted_w
        Mean powers at the sample in watts.
    line_averages
        How often each line is scanned.
    focus_m
        Position of the focus drive; without it the focus stays where it is.
    adaptive
        Steps that end a pixel early; powers and time above are then the most that it gets.
    region
        Where, in sample coordinates; without it the policy chooses the place.
    """

    modality: Modality = "confocal"
    pixel_size_m: Positive = 100e-9
    dwell_s: Positive = 10e-6
    excitation_w: NonNegative = 10e-6
    sted_w: NonNegative = 0.0
    line_averages: Annotated[int, Field(ge=1)] = 1
    focus_m: float | None = None
    adaptive: AdaptiveIllumination | None = None
    region: Region | None = None

    def at(self, region: Region) -> ScanSettings:
        """Return the whole scan, at its own region if it has one, else at ``region``."""
        place = whole_pixels(region, self.pixel_size_m) if self.region is None else self.region
        return ScanSettings.model_validate({**dict(self), "region": place})


@dataclass(frozen=True, slots=True)
class Reach:
    """What may be asked for: the safety limits, and what the microscope can do."""

    limits: SafetyLimits
    capabilities: Capabilities

    @classmethod
    def of(cls, resources: Resources) -> Self:
        """Return the reach that a policy was given."""
        if resources.capabilities is None:
            raise ConfigurationError(
                "a policy needs the capabilities of its microscope; make it after the microscope"
            )
        return cls(resources.limits, resources.capabilities)

    def field_of_view(self) -> Region:
        """Return what can be scanned about the centre of the stage box without moving the stage."""
        box = self.limits.stage_box
        (box_y, box_x), (fov_y, fov_x) = box.size_yx_m, self.capabilities.fov_size_yx_m
        return Region(center_yx_m=box.center_yx_m, size_yx_m=(min(box_y, fov_y), min(box_x, fov_x)))

    def problems(self, settings: ScanSettings, key: str) -> list[str]:
        """Return one sentence, beginning with the option's ``key``, for each thing that cannot be."""
        found = self.limits.violations(settings, "the safety limits")
        if settings.modality not in self.capabilities.modalities:
            known = ", ".join(self.capabilities.modalities)
            found.append(f"modality {settings.modality!r} is not one of {known} ({self.capabilities.name})")
        if settings.adaptive is not None and not self.capabilities.adaptive:
            found.append(f"adaptive scans are not made by {self.capabilities.name}")
        size, field = settings.region.size_yx_m, self.capabilities.fov_size_yx_m
        if not all(side <= most * (1 + 1e-6) for side, most in zip(size, field, strict=True)):
            found.append(f"region of {size} m is larger than the field of view, {field} m")
        dose, dose_max = self.worst_dose_j_per_m2(settings), self.limits.pixel_dose_max_j_per_m2
        if not dose <= dose_max:
            found.append(f"dose {dose:.3g} J/m2 is above pixel_dose_max_j_per_m2={dose_max:.3g} J/m2")
        return [f"policy.options.{key}: {problem}" for problem in found]

    def worst_dose_j_per_m2(self, settings: ScanSettings) -> float:
        """Return the dose that the guard reserves for a scan, its margin included."""
        return settings.dose_j_per_m2 * self.limits.dose_margin

    def shortage(
        self, scans: Sequence[ScanSettings], budget: Budget, *, wait_s: float = 0.0, frames: int = 1
    ) -> str | None:
        """Return what is short, as half a sentence, if ``scans`` at their worst do not fit the budget.

        ``wait_s`` is the time in the dark before the first of them; each is a movie of ``frames``.
        """
        energy_j = frames * sum(scan.energy_j for scan in scans) * self.limits.dose_margin
        duration_s = wait_s + frames * sum(scan.duration_s for scan in scans)
        for what, need, left, unit in (
            ("energy", energy_j, budget.energy_j, " J"),
            ("time", duration_s, budget.duration_s, " s"),
            ("cycles", float(len(scans)), budget.cycles, ""),
        ):
            if not need <= left:
                return f"up to {need:.3g}{unit} of {what} needed, {left:.3g}{unit} left"
        return None

    def dose_left_j_per_m2(self, region: Region, given: Sequence[ScanSettings]) -> float:
        """Return what the point of ``region`` that had the most of the ``given`` light may still receive."""
        cell = self.limits.dose_cell_m  # the guard counts by cells, so neighbours count too
        height, width = region.size_yx_m
        grown = Region(center_yx_m=region.center_yx_m, size_yx_m=(height + 2 * cell, width + 2 * cell))
        doses = (self.worst_dose_j_per_m2(s) for s in given if overlap_m2(s.region, grown) > 0)
        return self.limits.pixel_dose_max_j_per_m2 - sum(doses)


class Inbox:
    """Matches each observation with the request before it.

    An observation shows the newest frame, which may be an old one: after a question, a refusal or
    a failed acquisition nothing new came. A refusal lit nothing; the light of a failed scan counts.

    Attributes
    ----------
    given
        All scans that have put light on the sample, or may have.
    last_use
        The power of each light in the last frame that used it.
    unanswered_in_a_row
        Refused and failed scans since the last frame.
    trouble
        What the last of them was told, as half a sentence.
    """

    def __init__(self) -> None:
        self._asked: Acquire | None = None
        self._newest = -1
        self._repeats = 0
        self.given: list[ScanSettings] = []
        self.last_use = LastUse()
        self.unanswered_in_a_row = 0
        self.trouble = ""

    @property
    def waiting(self) -> bool:
        """Tell whether the last decision asked for a frame that has not been taken yet."""
        return self._asked is not None

    def expect(self, decision: Decision) -> Decision:
        """Note whether ``decision`` asks for a frame, and return it."""
        self._asked = decision if isinstance(decision, Acquire) else None
        self._repeats = 0
        return decision

    def again(self, observation: Observation, reach: Reach) -> Acquire | None:
        """Return the last request once more if the microscope failed at it; None to take the answer.

        The fault may have passed, so it is worth up to ``REPEATS_MAX`` further tries, as far as budget
        and dose allow.
        """
        asked = self._asked
        if asked is None or observation.failure is None or self._repeats >= REPEATS_MAX:
            return None
        scan, given = asked.settings, [*self.given, *asked.frames * [asked.settings]]
        dose_left = reach.dose_left_j_per_m2(scan.region, given)
        dose = asked.frames * reach.worst_dose_j_per_m2(scan)
        if reach.shortage([scan], observation.budget, frames=asked.frames) or not dose <= dose_left:
            return None
        self._note(observation)
        self.given, self._repeats = given, self._repeats + 1
        reason = f"try {self._repeats + 1} of {REPEATS_MAX + 1} after a failure: {asked.reason}"
        return Acquire(reason=reason, settings=scan, frames=asked.frames)

    def take(self, observation: Observation) -> Frame | None:
        """Return the frame that answers the last request, or None if none came."""
        asked, self._asked = self._asked, None
        if asked is None:
            return None
        if observation.refused is None:
            self.given += asked.frames * [asked.settings]
        if observation.refused is not None or observation.failure is not None:
            self._note(observation)
            return None
        frame = observation.frame
        if frame is None or frame.index <= self._newest:
            return None
        self._newest = frame.index
        self.last_use = self.last_use.after(frame.settings)
        self.unanswered_in_a_row = 0
        return frame

    def _note(self, observation: Observation) -> None:
        self.unanswered_in_a_row += 1
        self.trouble = (
            f"refused: {observation.refused}"
            if observation.failure is None
            else f"failed: {observation.failure}"
        )
