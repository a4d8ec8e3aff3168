"""Quality-driven imaging: learn from each visit which scan settings serve best."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field

from controller.core.decision import Acquire, Decision, Family, Observation, Stop
from controller.core.protocols import Resources
from controller.core.settings import Region, Settings
from policies.choosers import ThompsonSettings, make_chooser
from policies.places import moved_inside, tile_squares
from policies.requests import Inbox, Reach
from policies.visits import VisitOptions, Visitor


class ThompsonPolicy:
    """Tunes the settings of STED scans: each trial is one visit, and the next one is the better for it."""

    family: ClassVar[Family] = "quality-driven"

    class Options(Settings):
        """Which settings are tuned, and where.

        Attributes
        ----------
        regions
            Where the trials take place, in turn, again from the first after the last; the centres
            count, the size is the visit's. Without any: fresh squares side by side over the central
            field of view, from its middle outwards.
        trials_max
            How many trials.
        visit
            The scans of one trial.
        settings
            What is tuned, and what it is tuned for.
        refusals_max
            Refusals in a row after which the policy stops.
        """

        regions: tuple[Region, ...] = ()
        trials_max: Annotated[int, Field(ge=1)] = 30
        visit: VisitOptions = VisitOptions()
        settings: ThompsonSettings = ThompsonSettings()
        refusals_max: Annotated[int, Field(ge=1)] = 10

    def __init__(self, options: Options, reach: Reach, rng: np.random.Generator) -> None:
        self._options, self._reach = options, reach
        visit, box = options.visit, reach.limits.stage_box
        centers = [region.center_yx_m for region in options.regions]
        centers = centers or tile_squares(reach.field_of_view(), visit.size_m)
        self._regions = [moved_inside(visit.square(center), box) for center in centers]
        self._visitor = Visitor(visit, make_chooser(options.settings, visit, reach, rng), reach)
        self._inbox = Inbox()
        self._trial = 0

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Make the policy; parameters outside the safety limits are a ConfigurationError."""
        return cls(options, Reach.of(resources), resources.rng)

    def decide(self, observation: Observation) -> Decision:
        """Return the next scan of the trial under way, or of the next trial."""
        evidence: dict[str, float] = {}
        if self._inbox.waiting:
            self._visitor.take(self._inbox.take(observation), observation.refused)
            if self._visitor.measured is not None:
                evidence = self._visitor.measured.evidence()
        return self._inbox.expect(self._next(observation, evidence))

    def _next(self, observation: Observation, evidence: dict[str, float]) -> Decision:
        if self._inbox.refused_in_a_row >= self._options.refusals_max:
            count = self._inbox.refused_in_a_row
            return self._stop(f"{count} scans in a row were refused: {observation.refused}", evidence)
        scan = self._visitor.next_scan(self._inbox.given)
        if scan is None:
            region = self._regions[self._trial % len(self._regions)]
            if why := self._reason_to_stop(region, observation):
                return self._stop(why, evidence)
            self._trial += 1
            scan = self._visitor.start(region)
        reason = f"trial {self._trial} of {self._options.trials_max}: {scan.purpose}"
        return Acquire(reason=reason, evidence={**evidence, **scan.expected}, settings=scan.settings)

    def _reason_to_stop(self, region: Region, observation: Observation) -> str | None:
        # While there are regions that had no trial yet, another one's spent dose says nothing.
        if self._visitor.is_dose_spent and self._trial >= len(self._regions):
            return self._visitor.outcome
        if self._trial >= self._options.trials_max:
            return f"all {self._trial} trials are done"
        if short := self._reach.shortage(self._visitor.worst(region), observation.budget):
            return f"after {self._trial} trials a further one does not fit: {short}"
        return None

    def _stop(self, why: str, evidence: dict[str, float]) -> Stop:
        summary = self._visitor.summary()
        return Stop(reason=f"{why}; {summary}" if summary else why, evidence=evidence)
