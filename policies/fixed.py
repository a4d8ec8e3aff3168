"""Open-loop imaging: a plan of scans that does not look at what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field

from controller.core.decision import Acquire, Budget, Decision, Family, Observation, Stop
from controller.core.errors import ConfigurationError
from controller.core.protocols import Resources
from controller.core.settings import NonNegative, ScanSettings, Settings
from policies.power_steps import problems_of_steps
from policies.requests import Inbox, Reach, ScanStep
from policies.rhythm import Rhythm
from policies.wording import MODALITIES


class FixedPolicy:
    """Scans a plan again and again, then stops.

    A step that gave no frame in two rounds is left out from then on: nothing in an open-loop plan would
    make a third request any different. (A scan at which the microscope failed was tried again before.)
    """

    family: ClassVar[Family] = "open-loop"

    class Options(Settings):
        """A plan.

        Attributes
        ----------
        steps
            The scans of one round, in order; a step without a region scans the central field of view.
            Where the safety limits allow a power to rise in steps only, each scan has to lie within a
            step of those before it.
        repeats
            How many rounds.
        interval_s
            Seconds from the start of one round to the start of the next; a round that takes longer is
            followed at once. 0 is as fast as possible.
        frames
            Each scan is a movie of so many frames, without a pause if the microscope can do that.
        """

        steps: Annotated[tuple[ScanStep, ...], Field(min_length=1)] = (ScanStep(),)
        repeats: Annotated[int, Field(ge=1)] = 1
        interval_s: NonNegative = 0.0
        frames: Annotated[int, Field(ge=1, le=100_000)] = 1

    def __init__(self, options: Options, scans: Sequence[ScanSettings], reach: Reach) -> None:
        self._reach = reach
        self._scans, self._count = scans, options.repeats * len(scans)
        self._movie_frames = options.frames
        self._rounds = Rhythm(options.interval_s)
        self._troubles: list[list[str]] = [[] for _ in scans]
        self._inbox = Inbox()
        self._position = 0
        self._round = -1
        self._frames = 0

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Place the steps and check each of them against the safety limits."""
        reach = Reach.of(resources)
        scans = [step.at(reach.field_of_view()) for step in options.steps]
        plan = [(f"steps[{i}]", scan) for i, scan in enumerate(scans)]
        problems = [p for key, scan in plan for p in reach.problems(scan, key)]
        problems += problems_of_steps(plan * min(options.repeats, 2), reach.limits)
        if problems:
            raise ConfigurationError(*problems)
        return cls(options, scans, reach)

    def decide(self, observation: Observation) -> Decision:
        """Return the next scan of the plan."""
        if repeated := self._inbox.again(observation, self._reach):
            return repeated
        asked, before = self._inbox.waiting, self._inbox.unanswered_in_a_row
        self._frames += self._inbox.take(observation) is not None
        if asked and self._inbox.unanswered_in_a_row > before:
            self._troubles[(self._position - 1) % len(self._scans)].append(self._inbox.trouble)
        return self._inbox.expect(self._next(observation.budget, observation.now_s))

    def _next(self, budget: Budget, now_s: float) -> Decision:
        evidence = {"frames_taken": float(self._frames)}
        # One look over the steps is enough: what is left out now stays so in every later round.
        for _ in self._scans:
            if self._position >= self._count:
                break
            turn, step = divmod(self._position, len(self._scans))
            scan, self._position = self._scans[step], self._position + 1
            if len(self._troubles[step]) >= 2:
                continue
            start_s = None
            if turn > self._round:
                self._round, start_s = turn, self._rounds.next_start_s(now_s)
            wait_s = 0.0 if start_s is None else start_s - now_s
            if short := self._reach.shortage([scan], budget, wait_s=wait_s, frames=self._movie_frames):
                return Stop(reason=f"the plan ends early: {short}", evidence=evidence)
            reason = f"scan {self._position} of {self._count}, step {step + 1}: {MODALITIES[scan.modality]}"
            if self._movie_frames > 1:
                reason += f", {self._movie_frames} frames"
            if start_s is not None:
                reason += f", due at {start_s:.1f} s"
            return Acquire(
                reason=reason,
                evidence=evidence,
                settings=scan,
                start_s=start_s,
                frames=self._movie_frames,
            )
        reason = f"the plan is done: {self._frames} of {self._count} scans gave a frame"
        for step, troubles in enumerate(self._troubles):
            if troubles:
                reason += f"; step {step + 1} {troubles[-1]}"
        return Stop(reason=reason, evidence=evidence)
