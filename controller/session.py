"""THE loop: sense, denoise, segment, decide, act, record.

:meth:`Session.run_cycle` is synchronous and reads like that list. The light is off whenever
anything but the microscope works: the guard sees to that on every way out of a scan.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from controller.answers import checked_decision
from controller.core.clock import SystemClock, timed
from controller.core.decision import Acquire, AskLabel, Budget, Cycle, Decision, Observation
from controller.core.dose import Reservation
from controller.core.errors import (
    DeviceError,
    EndOfRecordingError,
    InvalidRequestError,
    LightFaultError,
    LimitExceededError,
    StageFailedError,
    StedfastError,
)
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Clock, Denoiser, Policy, Script, Segmenter
from controller.ladder import RealTime
from controller.model_changes import ModelChanges
from controller.perception import Perception
from controller.progress import Progress
from controller.recording.documents import Status
from controller.recording.writer import SessionWriter
from controller.stages import Stage

_PATIENCE_S = 0.1


class _StoppedWhileWaitingError(Exception):
    """Somebody asked for the end before a scan was due; the scan is not made."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session is made of; :mod:`controller.assemble` makes it from a configuration."""

    microscope: GuardedMicroscope
    policy: Stage[Policy]
    denoiser: Stage[Denoiser]
    segmenter: Stage[Segmenter]
    clock: Clock
    budget: Budget
    real_time: RealTime = field(default_factory=RealTime)
    frame_age_max_s: float = float("inf")
    failures_in_a_row_max: int = 3

    def close(self) -> None:
        """Make it dark for good, and end what policy and models have started."""
        try:
            self.microscope.close()
        finally:
            self.close_models()

    def close_models(self) -> list[str]:
        """End what policy and models have started, a learning process for instance; return what failed."""
        stages: tuple[Stage[Any], ...] = (self.policy, self.denoiser, self.segmenter)
        return [problem for stage in stages for problem in stage.close()]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session ended, as it truly was."""

    status: Status
    reason: str
    cycles: int
    frames: int
    faults: int


class Session:
    """One closed-loop session, from its first cycle to its stop document.

    ``watch`` is told of each finished cycle, for a progress display.
    """

    def __init__(
        self, parts: Parts, writer: SessionWriter, watch: Callable[[Cycle], None] | None = None
    ) -> None:
        self.parts = parts
        self.writer = writer
        self._watch = watch
        self._stop_reason: str | None = None
        self.progress = Progress(parts.budget, parts.frame_age_max_s)
        self.script: Script | None = None
        self.perception = Perception(parts.denoiser, parts.segmenter, parts.clock, parts.real_time)
        self.changes = ModelChanges({"denoiser": parts.denoiser, "segmenter": parts.segmenter})
        self._decided_s = 0.0
        self._is_ending = False
        parts.microscope.before_light = self._book
        parts.microscope.settled = writer.settle

    def stop_after_this_frame(self, reason: str) -> None:
        """Ask for an orderly end; callable from a signal handler or another thread."""
        self._stop_reason = reason

    @property
    def is_ending(self) -> bool:
        """Tell whether the light is being put out and the record closed."""
        return self._is_ending

    def run(self) -> Outcome:
        """Run cycles until the policy stops, a budget is spent, something fails or somebody asks."""
        status: Status = "failed"
        try:
            while (end := self._end()) is None:
                self.run_cycle()
            status, reason = end
        except _StoppedWhileWaitingError:
            status, reason = "interrupted", str(self._stop_reason)
        except KeyboardInterrupt:
            status, reason = "interrupted", "aborted by the user in the middle of a cycle"
        except EndOfRecordingError as error:
            status, reason = "completed", str(error)
        except StedfastError as error:
            reason = f"{type(error).__name__}: {error}"
        except BaseException as error:  # noqa: BLE001  # whatever it was, it ends in the dark and recorded
            reason = f"unexpected {type(error).__name__}: {error}"
        return self._finish(status, reason)

    def run_cycle(self) -> Cycle:
        """Run one pass of the loop and hand it to the writer."""
        timings: dict[str, float] = {}
        faults = self._learn(timings)
        observation = self.observe(self.script.begin(self.progress.cycles) if self.script else None)
        self._decided_s = observation.now_s
        faults += self.progress.show(observation)
        with timed(timings, "decide"):
            decision, decided_by = self._decide(observation, faults)
        cycle = Cycle(
            self.progress.cycles,
            decision,
            decided_by,
            level=self.perception.ladder.level,
            decided_on_age_s=observation.frame_age_s,
            timings_s=timings,
        )
        if isinstance(decision, Acquire):
            frame, refused, failure = self._acquire(decision, timings, faults)
            cycle = replace(cycle, frame=frame, refused=refused, failure=failure)
            faults += [failure] if failure else []
            if frame is not None:
                cycle = self._understand(cycle, frame, faults)
        elif isinstance(decision, AskLabel):
            cycle = replace(cycle, refused=self._refuse_question(decision, observation.budget))
        cycle = replace(cycle, faults=tuple(faults), dose=self.parts.microscope.dose)
        with timed(timings, "record"):
            self.writer.append(cycle, observation.now_s)
        self.remember(cycle)
        if self._watch is not None:
            # A display in trouble does not end a session; rich exits the process at a closed pipe.
            with suppress(Exception, SystemExit):
                self._watch(cycle)
        return cycle

    def observe(self, now_s: float | None = None) -> Observation:
        """Return what the policy is about to see, now or at a recorded time."""
        microscope = self.parts.microscope
        return self.progress.observation(
            self.parts.clock.now_s() if now_s is None else now_s,
            microscope.dose,
            microscope.ledger.energy_left_j,
        )

    def remember(self, cycle: Cycle) -> None:
        """Take a finished cycle into account, a new one or one of an earlier part of the session."""
        self.progress.remember(cycle)
        self.perception.remember(cycle)

    def wait(self, decision: Acquire) -> None:
        """Let time pass in the dark until a scan is due, or somebody asks for the end."""
        clock, due_s = self.parts.clock, decision.start_s or 0.0
        while (left_s := due_s - clock.now_s()) > 0:
            if self._stop_reason is not None:
                raise _StoppedWhileWaitingError
            # A real clock in small steps, so that a Ctrl-C is heard; others take no time.
            clock.sleep(min(left_s, _PATIENCE_S) if isinstance(clock, SystemClock) else left_s)

    def _book(self, reservation: Reservation) -> None:
        """Put a reservation on disk before its light; the guard calls this."""
        self.writer.reserve(reservation, self.progress.cycles, self._decided_s)

    def _learn(self, timings: dict[str, float]) -> list[str]:
        """Let models take new weights into use, write these down, and return what went wrong."""
        if not (self.progress.cycles and self.changes.are_possible):
            return []
        with timed(timings, "learn"):
            recorded = self.script.learned(self.progress.cycles) if self.script else None
            if recorded is None:
                changes, faults = self.changes.improve()
            else:
                changes, faults = list(recorded), []
                for change in changes:
                    self.changes.adopt(change)
            for change in changes:
                self.writer.append_model(change, self.progress.cycles)
        return faults

    def _decide(self, observation: Observation, faults: list[str]) -> tuple[Decision, str]:
        stage = self.parts.policy
        ran = stage.run(lambda policy: checked_decision(policy.decide(observation)))
        if ran.answer is None:
            raise StageFailedError("; ".join([*ran.faults, "no policy is left (policy.fallback)"]))
        faults += ran.faults
        return ran.answer, stage.name

    def _acquire(
        self, decision: Acquire, timings: dict[str, float], faults: list[str]
    ) -> tuple[Frame | None, str | None, str | None]:
        """Return the frame, or why there is none: a refusal, or a failure that may be survived."""
        if self.script is not None and (known := self.script.scanned(decision)) is not None:
            frame, failure = known
            return frame, None, failure
        end_s = self.parts.budget.duration_s
        if decision.start_s is not None and decision.start_s > end_s:
            return (
                None,
                f"due at {decision.start_s:g} s, after the end at {end_s:g} s (budget.duration_s)",
                None,
            )
        with timed(timings, "wait"):
            self.wait(decision)
        try:
            with timed(timings, "acquire"):
                frame = self._scan(decision, faults)
        except (LimitExceededError, InvalidRequestError) as refusal:
            return None, str(refusal), None
        except LightFaultError:
            raise
        except DeviceError as error:
            if self.progress.failures_in_a_row >= self.parts.failures_in_a_row_max:
                raise
            return None, None, str(error)
        return frame, None, None

    def _scan(self, decision: Acquire, faults: list[str]) -> Frame:
        """Return the frame, or the last one of a movie; each goes to the record at once."""
        first, taken = self.parts.microscope.frames, list[Frame]()

        def take(frame: Frame) -> None:
            plane = None if decision.frames == 1 else frame.index - first
            self.writer.append_frame(frame, self.progress.cycles, plane=plane)
            if taken:
                faults.extend(self.observe_frame(taken.pop()))
            taken.append(frame)

        try:
            self.parts.microscope.stream(decision.settings, decision.frames, take)
        except BaseException:
            for frame in taken:
                faults.extend(self.observe_frame(frame))
            raise
        return taken[0]

    def observe_frame(self, frame: Frame) -> list[str]:
        """Show the denoiser a frame that nobody waits for; return what went wrong."""
        return self.perception.observe(frame)

    def _refuse_question(self, decision: AskLabel, budget: Budget) -> str | None:
        if budget.questions < 1:
            return "the budget of questions is spent (budget.questions)"
        if decision.question.frame_index >= self.parts.microscope.frames:
            return f"there is no frame {decision.question.frame_index} to ask about"
        return None

    def _understand(self, cycle: Cycle, frame: Frame, faults: list[str]) -> Cycle:
        """Return the cycle with what was made of its frame."""
        recorded = self.script.levels(cycle.index) if self.script else None
        seen = self.perception.perceive(frame, cycle.timings_s, recorded)
        faults += seen.faults
        return replace(
            cycle,
            denoised=seen.denoised,
            segmentation=seen.segmentation,
            segmentation_of=seen.segmentation_of,
            level=seen.level,
        )

    def _end(self) -> tuple[Status, str] | None:
        if self._stop_reason is not None:
            return "interrupted", self._stop_reason
        return self.progress.end(self.parts.clock.now_s(), self.parts.microscope.frames)

    def _finish(self, status: Status, reason: str) -> Outcome:
        """Make it dark, then write down how it ended. Nothing on the way may skip the rest."""
        self._is_ending = True
        microscope = self.parts.microscope
        left_open: list[str] = []

        def close_models() -> None:
            left_open.extend(self.parts.close_models())

        for last in [microscope.close, *([self.script.close] if self.script else []), close_models]:
            try:
                last()
            except BaseException as error:  # noqa: BLE001  # written down below, and the exit code tells
                status, reason = "failed", f"{reason}; {type(error).__name__}: {error}"
        if left_open:
            reason = f"{reason}; not closed: {'; '.join(left_open)}"
        true_status = self.writer.finish(
            status,
            reason,
            cycles=self.progress.cycles,
            faults=self.progress.faults,
            dose=microscope.dose,
            now_s=self.parts.clock.now_s(),
        )
        if true_status != status:
            reason = f"{reason}; recording failed: {self.writer.failure}"
        return Outcome(true_status, reason, self.progress.cycles, self.writer.frames, self.progress.faults)
