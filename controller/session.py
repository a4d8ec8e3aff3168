"""THE loop: sense, denoise, segment, decide, act, record.

:meth:`Session.run_cycle` is synchronous and reads like that list. The light is off whenever
anything but the microscope works: the guard sees to that on every way out of a scan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from controller.core.decision import Acquire, AskLabel, Budget, Cycle, Decision, Observation, Stop
from controller.core.dose import Reservation
from controller.core.errors import (
    DeviceError,
    EndOfRecordingError,
    InvalidRequestError,
    LightNotOffError,
    LimitExceededError,
    StageFailedError,
    StedfastError,
)
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Clock, Denoiser, Policy, Segmenter
from controller.core.settings import ScanSettings
from controller.recording.documents import Status
from controller.recording.writer import SessionWriter
from controller.stages import Stage

_REFUSALS_IN_A_ROW_MAX = 50
_PATIENCE_S = 0.1


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session is made of; :mod:`controller.assemble` makes it from a configuration."""

    microscope: GuardedMicroscope
    policy: Stage[Policy]
    denoiser: Stage[Denoiser]
    segmenter: Stage[Segmenter]
    clock: Clock
    budget: Budget
    failures_in_a_row_max: int = 3


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
        self._newest = Cycle(index=-1, decision=Stop(reason="nothing yet"), decided_by="nobody")
        self._refused: str | None = None
        self._failure: str | None = None
        self._pending: Callable[[ScanSettings], Frame] | None = None
        self._cycles = self._questions = self._faults = 0
        self._refusals_in_a_row = self._failures_in_a_row = 0
        parts.microscope.before_light = self._book
        parts.microscope.settled = writer.settle

    def stop_after_this_frame(self, reason: str) -> None:
        """Ask for an orderly end; callable from a signal handler or another thread."""
        self._stop_reason = reason

    def run(self) -> Outcome:
        """Run cycles until the policy stops, a budget is spent, something fails or somebody asks."""
        status: Status = "failed"
        try:
            while (end := self._end()) is None:
                self.run_cycle()
            status, reason = end
        except KeyboardInterrupt:
            status, reason = "interrupted", "aborted by the user in the middle of a cycle"
        except EndOfRecordingError as error:
            status, reason = "completed", str(error)
        except StedfastError as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001  # a defect of ours must still end in the dark, recorded
            reason = f"unexpected {type(error).__name__}: {error}"
        return self._finish(status, reason)

    def run_cycle(self) -> Cycle:
        """Run one pass of the loop and hand it to the writer."""
        timings: dict[str, float] = {}
        observation = self.observe()
        with _timed(timings, "decide"):
            decision, decided_by, faults = self._decide(observation)
        cycle = Cycle(self._cycles, decision, decided_by, faults=tuple(faults), timings_s=timings)
        if isinstance(decision, Acquire):
            with _timed(timings, "wait"):
                self.wait(decision, observation.now_s)
            with _timed(timings, "acquire"):
                frame, refused, failure = self._acquire(decision)
            cycle = replace(cycle, frame=frame, refused=refused, failure=failure)
            faults += [failure] if failure else []
            if frame is not None:
                denoised, segmentation = self._understand(frame, timings, faults)
                cycle = replace(cycle, denoised=denoised, segmentation=segmentation)
        elif isinstance(decision, AskLabel) and observation.budget.questions < 1:
            cycle = replace(cycle, refused="the budget of questions is spent (budget.questions)")
        cycle = replace(cycle, faults=tuple(faults), dose=self.parts.microscope.dose)
        with _timed(timings, "record"):
            self.writer.append(cycle, observation.now_s)
        self.remember(cycle)
        if self._watch is not None:
            self._watch(cycle)
        return cycle

    def observe(self, now_s: float | None = None) -> Observation:
        """Return what the policy is about to see, now or at a recorded time."""
        now_s, total = self.parts.clock.now_s() if now_s is None else now_s, self.parts.budget
        return Observation(
            frame=self._newest.frame,
            denoised=self._newest.denoised,
            segmentation=self._newest.segmentation,
            dose=self.parts.microscope.dose,
            budget=Budget(
                energy_j=self.parts.microscope.ledger.energy_left_j,
                cycles=total.cycles - self._cycles,
                duration_s=total.duration_s - now_s,
                questions=total.questions - self._questions,
            ),
            now_s=now_s,
            refused=self._refused,
            failure=self._failure,
        )

    def remember(self, cycle: Cycle) -> None:
        """Take a finished cycle into account, a new one or one of an earlier part of the session."""
        self._cycles = cycle.index + 1
        self._faults += len(cycle.faults)
        self._refused, self._failure = cycle.refused, cycle.failure
        self._refusals_in_a_row = self._refusals_in_a_row + 1 if cycle.refused else 0
        if cycle.frame is not None or isinstance(cycle.decision, Stop):
            self._newest = cycle
        elif isinstance(cycle.decision, AskLabel) and cycle.refused is None:
            self._questions += 1

    def wait(self, decision: Acquire, now_s: float) -> None:
        """Let time pass in the dark until a scan is due, or somebody asks for the end."""
        left_s = (decision.start_s or 0.0) - now_s
        while left_s > 0 and self._stop_reason is None:
            self.parts.clock.sleep(min(left_s, _PATIENCE_S))
            left_s -= _PATIENCE_S

    def take_up(self, pending: Callable[[ScanSettings], Frame]) -> None:
        """Use a frame that was recorded, but not worked on, before the session was cut off.

        ``pending`` is called with what the policy asks for and returns the frame that is there.
        """
        self._pending = pending

    def _book(self, reservation: Reservation) -> None:
        """Put a reservation on disk before its light; the guard calls this."""
        self.writer.reserve(reservation, self._cycles)

    def _decide(self, observation: Observation) -> tuple[Decision, str, list[str]]:
        stage = self.parts.policy
        decision, faults, _ = stage.run(lambda policy: _decision(policy.decide(observation)))
        if decision is None:
            raise StageFailedError("; ".join([*faults, "no policy is left (policy.fallback)"]))
        return decision, stage.name, faults

    def _acquire(self, decision: Acquire) -> tuple[Frame | None, str | None, str | None]:
        """Return the frame, or why there is none: a refusal, or a failure that may be survived."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return pending(decision.settings), None, None
        try:
            frame = self.parts.microscope.acquire(decision.settings)
        except (LimitExceededError, InvalidRequestError) as refusal:
            return None, str(refusal), None
        except LightNotOffError:
            raise
        except DeviceError as failure:
            self._failures_in_a_row += 1
            if self._failures_in_a_row > self.parts.failures_in_a_row_max:
                raise
            return None, None, str(failure)
        self._failures_in_a_row = 0
        self.writer.append_frame(frame, self._cycles)
        return frame, None, None

    def _understand(
        self, frame: Frame, timings: dict[str, float], faults: list[str]
    ) -> tuple[Denoised | None, Segmentation | None]:
        with _timed(timings, "denoise"):
            denoised, failures, level = self.parts.denoiser.run(lambda d: d.step(frame))
        faults += failures
        if denoised is not None:
            denoised = replace(denoised, level=level, latency_s=timings["denoise"])
        with _timed(timings, "segment"):
            segmentation, failures, _ = self.parts.segmenter.run(lambda s: s.step(frame, denoised))
        faults += failures
        return denoised, segmentation

    def _end(self) -> tuple[Status, str] | None:
        budget = self.parts.budget
        if self._stop_reason is not None:
            return "interrupted", self._stop_reason
        if isinstance(self._newest.decision, Stop) and self._newest.index >= 0:
            return "completed", self._newest.decision.reason
        if self._cycles >= budget.cycles:
            return "completed", f"all {budget.cycles:g} cycles are done (budget.cycles)"
        if self.parts.clock.now_s() >= budget.duration_s:
            return "completed", f"{budget.duration_s:g} s have passed (budget.duration_s)"
        if self._refusals_in_a_row >= _REFUSALS_IN_A_ROW_MAX:
            return (
                "failed",
                f"{_REFUSALS_IN_A_ROW_MAX} requests in a row were refused, the last: {self._refused}",
            )
        return None

    def _finish(self, status: Status, reason: str) -> Outcome:
        """Make it dark, then write down how it ended. Nothing on the way may skip the rest."""
        microscope = self.parts.microscope
        try:
            microscope.close()
        except Exception as error:  # noqa: BLE001  # it is written down below, and the exit code tells
            status, reason = "failed", f"{reason}; {type(error).__name__}: {error}"
        true_status = self.writer.finish(
            status,
            reason,
            cycles=self._cycles,
            faults=self._faults,
            dose=microscope.dose,
            now_s=self.parts.clock.now_s(),
        )
        if true_status != status:
            reason = f"{reason}; recording failed: {self.writer.failure}"
        return Outcome(true_status, reason, self._cycles, microscope.frames, self._faults)


def _decision(answer: object) -> Decision:
    if not isinstance(answer, Acquire | AskLabel | Stop):
        raise TypeError(f"a policy must answer Acquire, AskLabel or Stop, got {type(answer).__name__}")
    return answer


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = time.perf_counter() - start
