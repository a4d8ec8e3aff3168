"""Event-driven imaging: watch with little light, and look closely while something happens.

A ``monitor`` scan is repeated and one trait of each of its frames is measured. Two thresholds
begin and end an event (Mahecic et al., Nature Methods 19 (2022) 1262): it begins at ``enter`` and
ends after ``frames_min`` monitor frames in a row below ``leave``. During an event each monitor frame
is followed by ``event_scans_per_monitor`` scans of a smaller region, so the trait that decides about
the end is always measured with the same settings as the one that decided about the beginning. While all
is quiet the policy may wait in the dark between two monitor scans; during an event it never does.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from controller.core.decision import Acquire, AskLabel, Budget, Decision, Family, Observation, Stop
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame, Segmentation
from controller.core.protocols import Resources
from controller.core.settings import NonNegative, Positive, Region, ScanSettings, Settings
from policies.event_traits import TraitMeter, TraitName
from policies.places import moved_inside
from policies.power_steps import problems_of_steps
from policies.questions import Choices, tag_about
from policies.requests import Inbox, Reach, ScanStep
from policies.rhythm import Rhythm
from policies.wording import MODALITIES, place_in_words


class Hysteresis:
    """Two thresholds with a gap: inside the gap the state stays what it was.

    Active from the first value at or above ``enter`` until ``frames_min`` values in a row lie below
    ``leave``.
    """

    def __init__(self, enter: float, leave: float, frames_min: int) -> None:
        if not leave < enter:
            raise ValueError(f"leave={leave:g} must be below enter={enter:g}")
        self._enter, self._leave, self._frames_min = enter, leave, frames_min
        self._below = 0
        self.active = False

    def step(self, value: float) -> bool:
        """Take in the next value and tell whether an event is on."""
        if not self.active:
            self.active, self._below = value >= self._enter, 0
            return self.active
        self._below = self._below + 1 if value < self._leave else 0
        self.active = self._below < self._frames_min
        return self.active


class EventsPolicy:
    """Monitors one region and scans closely while an event is on.

    The scans of one event are limited by ``event_scans_max``. After that, or when the guard refuses
    one, the event is only watched until it is over, and the baselines adapt again: a lasting change
    becomes the new normal and cannot hold the policy for ever.
    """

    family: ClassVar[Family] = "event-driven"

    class Options(Settings):
        """What is watched, what counts as an event, and how it is imaged.

        Attributes
        ----------
        monitor
            The repeated scan; without a region it covers the central field of view.
        monitor_interval_s
            Seconds from the start of one monitor scan to the next while all is quiet; during an event
            there is no waiting. 0 is as fast as possible.
        event
            The scan during an event; without a region, a square about what happened.
        event_size_m
            Side of that square in metres.
        trait
            ``mean_signal`` (photons per pixel), ``max_change`` (largest local gain over a running
            baseline, in standard deviations of its photon noise), ``object_count``, or
            ``object_area_fraction`` (0..1); the last two need a segmenter.
        relative
            Thresholds are multiples of the trait's own running mean instead of absolute values, up to
            a million. Where that mean is 0, anything at all counts as a million times as much.
        enter, leave
            Where an event begins and where it ends, in the unit of the trait; ``leave < enter``.
            The largest of many noise values is about 5, so ``max_change`` must be left above that.
        frames_min
            Monitor frames in a row below ``leave`` that end an event.
        event_scans_per_monitor, event_scans_max
            Event scans after each monitor frame, and in one event.
        events_max, monitor_max
            Events and monitor frames after which the policy stops.
        lost_max
            Monitor scans in a row without a measurable trait after which it stops.
        question, choices
            A question about each event; an empty text asks nothing.
        """

        monitor: ScanStep = ScanStep(excitation_w=5e-6)
        monitor_interval_s: NonNegative = 0.0
        event: ScanStep = ScanStep(modality="sted", pixel_size_m=20e-9, sted_w=0.05)
        event_size_m: Positive = 1.28e-6
        trait: TraitName = "max_change"
        relative: bool = False
        enter: float = 8.0
        leave: float = 5.5
        frames_min: Annotated[int, Field(ge=1)] = 3
        event_scans_per_monitor: Annotated[int, Field(ge=1)] = 1
        event_scans_max: Annotated[int, Field(ge=1)] = 20
        events_max: Annotated[int, Field(ge=1)] = 5
        monitor_max: Annotated[int, Field(ge=1)] = 500
        lost_max: Annotated[int, Field(ge=2)] = 5
        question: Annotated[str, Field(max_length=500)] = ""
        choices: Choices = ("a real event", "a false alarm", "unsure")

        @model_validator(mode="after")
        def _thresholds_are_apart(self) -> Self:
            if not self.leave < self.enter:
                raise ValueError(f"leave={self.leave:g} must be below enter={self.enter:g}")
            return self

    def __init__(self, options: Options, reach: Reach) -> None:
        self._options, self._reach = options, reach
        self._monitor = options.monitor.at(reach.field_of_view())
        event = self._event_scan(reach.limits.stage_box.center_yx_m)
        problems = reach.problems(self._monitor, "monitor") + reach.problems(event, "event")
        # The event's power rises from the monitor's, and the monitor's from the event's.
        problems += problems_of_steps([("monitor", self._monitor), ("event", event)] * 2, reach.limits)
        if problems:
            raise ConfigurationError(*problems)
        self._hysteresis = Hysteresis(options.enter, options.leave, options.frames_min)
        self._meter = TraitMeter(options.trait, relative=options.relative)
        self._monitoring = Rhythm(options.monitor_interval_s)
        self._inbox = Inbox()
        self._asked: Literal["monitor", "event", "nothing"] = "nothing"
        self._monitors = self._events = self._lost = 0
        self._scans = self._round = 0
        self._asleep = False
        self._trouble = ""
        self._question_open = False
        self._center = self._monitor.region.center_yx_m

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Make the policy; scans outside the safety limits are a ConfigurationError."""
        return cls(options, Reach.of(resources))

    def decide(self, observation: Observation) -> Decision:
        """Return the next monitor or event scan, a question about the event, or Stop."""
        if repeated := self._inbox.again(observation, self._reach):
            return repeated
        asked, self._asked = self._asked, "nothing"
        frame = self._inbox.take(observation)
        no_frame = observation.refused or observation.failure
        evidence: dict[str, float] = {}
        if asked == "monitor":
            self._trouble = f", the last one {self._inbox.trouble}" if no_frame else ""
            evidence = self._watch(frame, observation.segmentation)
        elif asked == "event":
            if no_frame:
                self._asleep = True
            elif frame is not None and self._question_open and observation.budget.questions >= 1:
                self._question_open = False
                return self._ask(frame)
        return self._inbox.expect(self._next(observation, evidence))

    def _watch(self, frame: Frame | None, segmentation: Segmentation | None) -> dict[str, float]:
        """Measure a monitor frame and let it begin, continue or end an event."""
        before = self._hysteresis.active
        trait = None if frame is None else self._meter.measure(frame, segmentation)
        if trait is None:
            # The first frame of a baseline counts as well, so lost_max is at least two.
            self._lost += 1
            if frame is not None:
                self._meter.learn()
            return {}
        self._lost, self._round = 0, 0
        now = self._hysteresis.step(trait.value)
        if not now or (before and self._asleep):
            self._meter.learn()
        if now and trait.value >= self._options.leave:
            self._center = trait.center_yx_m
        if now and not before:
            self._events += 1
            self._scans, self._asleep, self._question_open = 0, False, bool(self._options.question)
        return {self._options.trait: trait.value, "event_on": float(now), "events_count": float(self._events)}

    def _next(self, observation: Observation, evidence: dict[str, float]) -> Decision:
        if why := self._event_reason_to_stop():
            return Stop(reason=why, evidence=evidence)
        if scan := self._due_event_scan(observation.budget):
            self._round, self._scans, self._asked = self._round + 1, self._scans + 1, "event"
            place = place_in_words(scan.region.center_yx_m)
            reason = f"event {self._events} of up to {self._options.events_max}, {place}: "
            reason += f"{MODALITIES[scan.modality]} scan {self._scans}"
            return Acquire(reason=reason, evidence=evidence, settings=scan)
        return self._next_monitor(observation, evidence)

    def _next_monitor(self, observation: Observation, evidence: dict[str, float]) -> Decision:
        now_s, is_on = observation.now_s, self._hysteresis.active
        start_s = self._monitoring.next_start_s(now_s, at_once=is_on)
        wait_s = 0.0 if start_s is None else start_s - now_s
        if why := self._monitor_reason_to_stop(observation.budget, wait_s):
            return Stop(reason=why, evidence=evidence)
        self._monitors, self._asked = self._monitors + 1, "monitor"
        reason = f"monitor scan {self._monitors} of up to {self._options.monitor_max}: "
        reason += f"event {self._events} is on" if is_on else "watching"
        if (value := evidence.get(self._options.trait)) is not None:
            trait = self._options.trait.replace("_", " ")
            reason += f", {trait} {value:.3g} (an event begins at {self._options.enter:g})"
        if start_s is not None:
            reason += f", due at {start_s:.1f} s"
        return Acquire(reason=reason, evidence=evidence, settings=self._monitor, start_s=start_s)

    def _event_reason_to_stop(self) -> str | None:
        if self._lost >= self._options.lost_max:
            return f"{self._lost} monitor scans in a row showed no {self._options.trait}{self._trouble}"
        if not self._hysteresis.active and self._events >= self._options.events_max:
            return f"all {self._events} events are over"
        return None

    def _monitor_reason_to_stop(self, budget: Budget, wait_s: float) -> str | None:
        if self._monitors >= self._options.monitor_max:
            return f"all {self._monitors} monitor scans are done, {self._events} events seen"
        if short := self._reach.shortage([self._monitor], budget, wait_s=wait_s):
            return f"no further monitor scan fits, {self._events} events seen: {short}"
        return None

    def _due_event_scan(self, budget: Budget) -> ScanSettings | None:
        """Return the event scan that is due now, if any; an event whose scans are spent falls asleep."""
        if self._scans >= self._options.event_scans_max:
            self._asleep = True
        due = self._hysteresis.active and self._round < self._options.event_scans_per_monitor
        if not due or self._asleep:
            return None
        scan = self._event_scan(self._center)
        if self._reach.shortage([scan], budget) is not None:
            self._asleep = True
            return None
        return scan

    def _event_scan(self, center_yx_m: tuple[float, float]) -> ScanSettings:
        side, box = self._options.event_size_m, self._reach.limits.stage_box
        size = (min(side, box.size_yx_m[0]), min(side, box.size_yx_m[1]))
        return self._options.event.at(moved_inside(Region(center_yx_m=center_yx_m, size_yx_m=size), box))

    def _ask(self, frame: Frame) -> AskLabel:
        question = tag_about(frame, self._options.question, self._options.choices)
        return AskLabel(reason=f"event {self._events} was just scanned for the first time", question=question)
