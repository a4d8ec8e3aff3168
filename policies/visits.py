"""One visit of a region: a confocal scan, a STED scan, and the same confocal scan again.

:class:`Visitor` goes through the scans; which settings the STED scan gets, a :class:`Chooser` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.decision import Observation
from controller.core.frame import Frame
from controller.core.settings import Positive, Region, ScanSettings, Settings
from policies.objectives import Measured, measure, signal_photons
from policies.power_steps import PowerRanges, ranges_before
from policies.requests import Inbox, Reach, ScanStep
from policies.wording import value_in_words

#: 2 NA / wavelength of emission for NA 1.4 and 670 nm: no confocal image has power beyond it.
CONFOCAL_CUTOFF_PER_M = 4.2e6


class VisitOptions(Settings):
    """One visit: confocal, STED, confocal again.

    Attributes
    ----------
    size_m
        Side of the square that is visited, in metres; a multiple of both pixel sizes.
    confocal
        The scan before and after; the pair shows what the STED scan bleached.
    sted
        The STED scan; tuned parameters replace its values.
    confocal_cutoff_per_m
        Highest spatial frequency of a confocal image in cycles per metre, about 2 NA / wavelength of
        emission; what lies beyond counts as detail.
    refusals_max
        How many settings the guard may refuse before the visit is given up.
    """

    size_m: Positive = 1.28e-6
    confocal: ScanStep = ScanStep(pixel_size_m=40e-9)
    sted: ScanStep = ScanStep(modality="sted", pixel_size_m=20e-9, sted_w=0.05)
    confocal_cutoff_per_m: Positive = CONFOCAL_CUTOFF_PER_M
    refusals_max: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _sizes_are_whole_pixels(self) -> Self:
        for name, step in (("confocal", self.confocal), ("sted", self.sted)):
            pixels = self.size_m / step.pixel_size_m
            if not abs(pixels - round(pixels)) < 1e-3:
                asked = f"size_m={self.size_m:g} m"
                raise ValueError(f"{asked} is not a multiple of {name}.pixel_size_m={step.pixel_size_m:g} m")
            if step.region is not None:
                raise ValueError(f"{name}.region is chosen by the policy, leave it out")
        if self.sted.modality != "sted" or self.confocal.modality == "sted":
            raise ValueError("the modalities of a visit are confocal (before, after) and sted (between)")
        return self

    def square(self, center_yx_m: tuple[float, float]) -> Region:
        """Return the visited square about a centre."""
        return Region(center_yx_m=center_yx_m, size_yx_m=(self.size_m, self.size_m))


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Settings for one STED scan, where they lie in the unit cube, and what is expected of them."""

    values: Mapping[str, float]
    why: str
    point: NDArray[np.float64] | None = None
    expected: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Room:
    """What the STED scan of a visit has to keep to, and how bright its region is.

    ``powers_w`` are the lowest and the highest power of each light that the steps of power allow;
    ``confocal_photons`` the signal of the confocal scan before, None if it is not known.
    """

    dose_max_j_per_m2: float = float("inf")
    powers_w: PowerRanges = field(default_factory=dict)
    confocal_photons: float | None = None


class Chooser(Protocol):
    """Chooses the settings of each visit's STED scan, and learns from what came of them.

    Settings may be left to the guard to refuse where there is nothing else to choose from.
    """

    def worst(self) -> Mapping[str, float]:
        """Return the settings that cost the most light of all that may be chosen."""

    def choose(self, room: Room, refused: Sequence[Choice]) -> Choice | None:
        """Return settings that keep to ``room``, unlike those ``refused`` in this visit; None without any."""

    def learn(self, choice: Choice, measured: Measured) -> None:
        """Take in what a scan with ``choice`` showed."""

    def summary(self) -> str:
        """Return what was learned, as the rest of a sentence; empty if nothing was."""


@dataclass(frozen=True, slots=True)
class VisitScan:
    """One scan of a visit: its settings, what it is for, and the figures behind it."""

    settings: ScanSettings
    purpose: str
    expected: Mapping[str, float] = field(default_factory=dict)


class Visitor:
    """Visits regions one at a time: confocal before, STED with chosen settings, confocal after.

    If the guard refuses the first scan the visit ends at once; if it refuses the STED scan others are
    chosen, up to ``refusals_max``. If the microscope fails at either for good, the visit ends, too.

    Attributes
    ----------
    stage
        The scan that is asked for next, or whose answer is awaited.
    outcome
        How the last visit ended, in words; empty while one is under way.
    measured, sted
        What the last visit showed, and the frame of its STED scan.
    is_dose_spent
        Whether the last visit ended because no settings kept to the dose that was left.
    """

    def __init__(self, options: VisitOptions, chooser: Chooser, reach: Reach) -> None:
        self._options, self._chooser, self._reach = options, chooser, reach
        self._region: Region | None = None
        self._frames: dict[str, Frame] = {}
        self._refused: list[Choice] = []
        self._choice: Choice | None = None
        self.stage: Literal["before", "sted", "after"] = "before"
        self.outcome = ""
        self.measured: Measured | None = None
        self.sted: Frame | None = None
        self.is_dose_spent = False

    def is_active(self) -> bool:
        """Tell whether a visit is under way."""
        return self._region is not None

    def worst(self, region: Region) -> list[ScanSettings]:
        """Return the costliest scans that a visit to ``region`` may take."""
        pair = self._options.confocal.at(region)
        return [pair, self._options.sted.replace(**self._chooser.worst()).at(region), pair]

    def start(self, region: Region) -> VisitScan:
        """Begin a visit and return its first scan."""
        self._region, self.stage = region, "before"
        self._frames, self._refused, self._choice = {}, [], None
        self.outcome, self.measured, self.sted, self.is_dose_spent = "", None, None, False
        return VisitScan(self._options.confocal.at(region), "confocal before STED")

    def next_scan(self, inbox: Inbox) -> VisitScan | None:
        """Return the next scan of the visit; None if none is under way, or if it is over now.

        ``inbox`` knows the scans so far.
        """
        if self._region is None:
            return None
        if self.stage == "sted":
            return self._sted(self._region, inbox)
        return VisitScan(self._options.confocal.at(self._region), "confocal after STED, for the bleaching")

    def take(self, frame: Frame | None, observation: Observation) -> None:
        """Take in the answer to the last scan: a frame, a refusal, a failure, or none of them."""
        if self._region is None:
            return
        refused, failure = observation.refused, observation.failure
        if frame is not None:
            self._frames[self.stage] = frame
        if self.stage == "after":
            self._finish("done")
        elif failure is not None:
            self._finish(f"the microscope failed at it: {failure}")
        elif self.stage == "sted" and refused is not None and self._choice is not None:
            self._refused.append(self._choice)
        elif self.stage == "sted":
            self.stage = "after"
        elif refused is not None:
            self._finish(f"the guard refused its first scan: {refused}")
        else:
            self.stage = "sted"

    def summary(self) -> str:
        """Return what was learned from all visits, as the rest of a sentence; empty if nothing was."""
        return self._chooser.summary()

    def _sted(self, region: Region, inbox: Inbox) -> VisitScan | None:
        after = self._options.confocal.at(region)
        dose_left = self._reach.dose_left_j_per_m2(region, inbox.given)
        choice = None
        if len(self._refused) < self._options.refusals_max:
            before = self._frames.get("before")
            brightness = None if before is None else signal_photons(before.photons)
            room = Room(
                dose_left - self._reach.worst_dose_j_per_m2(after),
                ranges_before(after, inbox.last_use, self._reach.limits),
                brightness,
            )
            choice = self._chooser.choose(room, self._refused)
        if choice is None:
            # Refusals may pass, a dose does not come back.
            self.is_dose_spent = not self._refused
            tried = (
                f"after {len(self._refused)} were refused"
                if self._refused
                else "within the dose that is left"
            )
            self._finish(f"no STED settings could be found {tried}")
            return None
        self._choice = choice
        scan = self._options.sted.replace(**choice.values).at(region)
        power = value_in_words("sted_w", scan.sted_w)
        return VisitScan(scan, f"STED, {power} ({choice.why})", choice.expected)

    def _finish(self, outcome: str) -> None:
        self._region, self.outcome = None, outcome
        before, sted, after = (self._frames.get(name) for name in ("before", "sted", "after"))
        self.sted = sted
        self.measured = measure(before, sted, after, self._options.confocal_cutoff_per_m)
        if sted is not None and self._choice is not None:
            self._chooser.learn(self._choice, self.measured)
