"""Open-loop imaging: a plan of scans that does not look at what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field

from controller.core.decision import Acquire, Budget, Decision, Family, Observation, Stop
from controller.core.errors import ConfigurationError
from controller.core.protocols import Resources
from controller.core.settings import ScanSettings, Settings
from policies.requests import Inbox, Reach, ScanStep


class FixedPolicy:
    """Scans a plan again and again, then stops.

    A step that was refused in two rounds is left out from then on: once may have been a passing fault
    of the microscope, but nothing in an open-loop plan would make a third request any different.
    """

    family: ClassVar[Family] = "open-loop"

    class Options(Settings):
        """A plan.

        Attributes
        ----------
        steps
            The scans of one round, in order; a step without a region scans the central field of view.
        repeats
            How many rounds.
        """

        steps: Annotated[tuple[ScanStep, ...], Field(min_length=1)] = (ScanStep(),)
        repeats: Annotated[int, Field(ge=1)] = 1

    def __init__(self, scans: Sequence[ScanSettings], repeats: int, reach: Reach) -> None:
        self._reach = reach
        self._scans, self._count = scans, repeats * len(scans)
        self._refusals: list[list[str]] = [[] for _ in scans]
        self._inbox = Inbox()
        self._position = 0
        self._frames = 0

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Place the steps and check each of them against the safety limits."""
        reach = Reach.of(resources)
        scans = [step.at(reach.field_of_view()) for step in options.steps]
        problems = [p for i, scan in enumerate(scans) for p in reach.problems(scan, f"steps[{i}]")]
        if problems:
            raise ConfigurationError(*problems)
        return cls(scans, options.repeats, reach)

    def decide(self, observation: Observation) -> Decision:
        """Return the next scan of the plan."""
        asked = self._inbox.waiting
        self._frames += self._inbox.take(observation) is not None
        if asked and observation.refused is not None:
            self._refusals[(self._position - 1) % len(self._scans)].append(observation.refused)
        return self._inbox.expect(self._next(observation.budget))

    def _next(self, budget: Budget) -> Decision:
        evidence = {"frames_taken": float(self._frames)}
        # One look over the steps is enough: what is left out now stays so in every later round.
        for _ in self._scans:
            if self._position >= self._count:
                break
            step = self._position % len(self._scans)
            scan, self._position = self._scans[step], self._position + 1
            if len(self._refusals[step]) >= 2:
                continue
            if short := self._reach.shortage([scan], budget):
                return Stop(reason=f"the plan ends early: {short}", evidence=evidence)
            reason = f"scan {self._position} of {self._count} of the plan: {scan.modality}, step {step + 1}"
            return Acquire(reason=reason, evidence=evidence, settings=scan)
        reason = f"the plan is done: {self._frames} of {self._count} scans gave a frame"
        for step, messages in enumerate(self._refusals):
            if messages:
                reason += f"; step {step + 1} was refused: {messages[-1]}"
        return Stop(reason=reason, evidence=evidence)
