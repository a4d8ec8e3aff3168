"""How far a session has got: what its cycles left behind, what the policy is shown of it, when it ends."""

from __future__ import annotations

from controller.core.decision import Acquire, AskLabel, Budget, Cycle, Dose, Observation, Stop
from controller.core.frame import Frame
from controller.recording.documents import Status

_REFUSALS_IN_A_ROW_MAX = 50
# A policy that stops after so many requests without a frame to decide from has given up, whatever it says.
_GIVEN_UP_AFTER = 3
_NOTHING_YET = Cycle(index=-1, decision=Stop(reason="nothing yet"), decided_by="nobody")


class Progress:
    """Counts the cycles of one session, those of its earlier parts too.

    Attributes
    ----------
    cycles, questions, faults
        How many there were.
    failures_in_a_row
        Scans that the microscope failed at since the last frame.
    """

    def __init__(self, budget: Budget, frame_age_max_s: float) -> None:
        self.cycles = self.questions = self.faults = 0
        self.failures_in_a_row = 0
        self._budget = budget
        self._frame_age_max_s = frame_age_max_s
        self._newest = _NOTHING_YET
        self._refused: str | None = None
        self._failure: str | None = None
        self._refusals_in_a_row = self._unanswered = self._too_old_in_a_row = 0

    def remember(self, cycle: Cycle) -> None:
        """Take a finished cycle into account."""
        self.cycles = cycle.index + 1
        self.faults += len(cycle.faults)
        self._refused, self._failure = cycle.refused, cycle.failure
        self._refusals_in_a_row = self._refusals_in_a_row + 1 if cycle.refused else 0
        if isinstance(cycle.decision, Acquire):
            self._unanswered = 0 if cycle.frame is not None else self._unanswered + 1
        self.failures_in_a_row += cycle.failure is not None
        if cycle.frame is not None:
            self.failures_in_a_row = 0
        if cycle.frame is not None or isinstance(cycle.decision, Stop):
            self._newest = cycle
        elif isinstance(cycle.decision, AskLabel) and cycle.refused is None:
            self.questions += 1

    def observation(self, now_s: float, dose: Dose, energy_left_j: float) -> Observation:
        """Return what a policy sees at a time on the session's clock."""
        newest, failure, total = self._newest, self._failure, self._budget
        if (too_old := self.too_old(now_s)) is not None:
            if newest.index == self.cycles - 1:
                failure = too_old  # what policies know how to answer: they ask for the scan again
            newest = _NOTHING_YET
        segmented = None if newest.segmentation is None else newest.segmentation_of or newest.frame
        return Observation(
            frame=newest.frame,
            denoised=newest.denoised,
            segmentation=newest.segmentation,
            frame_age_s=_age_s(newest.frame, now_s),
            segmentation_age_s=_age_s(segmented, now_s),
            dose=dose,
            budget=Budget(
                energy_j=energy_left_j,
                cycles=total.cycles - self.cycles,
                duration_s=total.duration_s - now_s,
                questions=total.questions - self.questions,
            ),
            now_s=now_s,
            refused=self._refused,
            failure=failure,
        )

    def too_old(self, now_s: float) -> str | None:
        """Return why the newest frame may not be decided from, if it is too old."""
        age_s = _age_s(self._newest.frame, now_s)
        if age_s is None or age_s <= self._frame_age_max_s:
            return None
        return (
            f"the frame is {age_s:.3g} s old, too old to decide from; allowed are "
            f"{self._frame_age_max_s:g} s (policy.frame_age_max_s)"
        )

    def show(self, observation: Observation) -> list[str]:
        """Take into account that the policy is shown this; return what is wrong with it."""
        too_old = self.too_old(observation.now_s)
        self._too_old_in_a_row = 0 if too_old is None else self._too_old_in_a_row + 1
        return [] if too_old is None else [too_old]

    def end(self, now_s: float, frames: int) -> tuple[Status, str] | None:
        """Return how and why the session ends, if it does, after so many frames."""
        budget, newest = self._budget, self._newest
        if isinstance(newest.decision, Stop) and newest.index >= 0:
            gave_up = max(self._unanswered, self._too_old_in_a_row) >= _GIVEN_UP_AFTER
            has_nothing = self._unanswered > 0 and not frames
            return "failed" if gave_up or has_nothing else "completed", newest.decision.reason
        if self.cycles >= budget.cycles:
            return "completed", f"all {budget.cycles:g} cycles are done (budget.cycles)"
        if now_s >= budget.duration_s:
            return "completed", f"{budget.duration_s:g} s have passed (budget.duration_s)"
        if self._refusals_in_a_row >= _REFUSALS_IN_A_ROW_MAX:
            return (
                "failed",
                f"{_REFUSALS_IN_A_ROW_MAX} requests in a row were refused, the last: {self._refused}",
            )
        return None


def _age_s(frame: Frame | None, now_s: float) -> float | None:
    """Return the time since the end of the scan of a frame."""
    return None if frame is None else max(0.0, now_s - frame.started_s - frame.settings.duration_s)
