"""Quality-driven imaging: learn from each visit which scan settings serve best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field

from controller.core.decision import Acquire, Decision, Family, Observation, Stop
from controller.core.errors import ConfigurationError
from controller.core.protocols import Resources
from controller.core.settings import Region, Settings
from policies.choosers import ThompsonSettings, learned_utility, make_chooser
from policies.places import moved_inside, tile_squares
from policies.preferences import LearnedUtility, PreferenceQuestions, Preferences
from policies.requests import Inbox, Reach
from policies.visits import VisitOptions, Visitor
from policies.wording import place_in_words


class ThompsonPolicy:
    """Tunes the settings of STED scans: each trial is one visit, and the next one is the better for it."""

    family: ClassVar[Family] = "quality-driven"

    class Options(Settings):
        """Which settings are tuned, and where.

        Attributes
        ----------
        regions
            Where the trials take place, in turn, again from the first after the last; the centres
            count, the size is the visit's; each visited square has to lie in the stage box. Without
            any: fresh squares side by side over the central field of view, from its middle outwards.
        trials_max
            How many trials.
        visit
            The scans of one trial.
        settings
            What is tuned, and what it is tuned for.
        preferences
            Whether a person is asked which of the scans are better.
        refusals_max
            Refused or failed scans in a row after which the policy stops.
        """

        regions: tuple[Region, ...] = ()
        trials_max: Annotated[int, Field(ge=1)] = 30
        visit: VisitOptions = VisitOptions()
        settings: ThompsonSettings = ThompsonSettings()
        preferences: PreferenceQuestions = PreferenceQuestions()
        refusals_max: Annotated[int, Field(ge=1)] = 10

    def __init__(
        self,
        options: Options,
        reach: Reach,
        rng: np.random.Generator,
        learned: LearnedUtility | None = None,
    ) -> None:
        self._options, self._reach = options, reach
        visit, box = options.visit, reach.limits.stage_box
        self._regions = [visit.square(region.center_yx_m) for region in options.regions]
        if problems := _problems_of_regions(self._regions, box):
            raise ConfigurationError(*problems)
        if not self._regions:
            centers = tile_squares(reach.field_of_view(), visit.size_m)
            self._regions = [moved_inside(visit.square(center), box) for center in centers]
        chooser = make_chooser(options.settings, visit, reach, rng, learned=learned)
        self._visitor = Visitor(visit, chooser, reach)
        self._preferences = Preferences(options.preferences, learned, rng)
        self._inbox = Inbox()
        self._trial = 0

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Make the policy; what lies outside the safety limits is a ConfigurationError."""
        learned = learned_utility(options.settings, resources.folder)
        return cls(options, Reach.of(resources), resources.rng, learned)

    def decide(self, observation: Observation) -> Decision:
        """Return the next scan of the trial under way, or of the next trial."""
        if repeated := self._inbox.again(observation, self._reach):
            return repeated
        evidence: dict[str, float] = {}
        if self._inbox.waiting:
            self._visitor.take(self._inbox.take(observation), observation)
            if self._visitor.measured is not None:
                evidence = self._preferences.take(self._visitor.sted, self._visitor.measured)
        return self._inbox.expect(self._preferences.signed(self._next(observation, evidence)))

    def _next(self, observation: Observation, evidence: dict[str, float]) -> Decision:
        if (count := self._inbox.unanswered_in_a_row) >= self._options.refusals_max:
            trouble = f"{count} scans in a row gave no frame, the last one {self._inbox.trouble}"
            return self._stop(trouble, evidence)
        scan = self._visitor.next_scan(self._inbox)
        if scan is None:
            region = self._regions[self._trial % len(self._regions)]
            why = self._reason_to_stop(region, observation)
            if asked := self._preferences.question(observation.budget, evidence, at_end=why is not None):
                return asked
            if why is not None:
                return self._stop(why, evidence)
            self._trial += 1
            scan = self._visitor.start(region)
        place = place_in_words(scan.settings.region.center_yx_m)
        reason = f"trial {self._trial} of {self._options.trials_max}, {place}: {scan.purpose}"
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


def _problems_of_regions(squares: Sequence[Region], box: Region) -> list[str]:
    """Return one sentence for each visited square that leaves the stage box."""
    (y0, x0, y1, x1) = (1e6 * bound for bound in box.bounds_yx_m)
    return [
        f"policy.options.regions[{i}]: a square of {1e6 * square.size_yx_m[0]:g} µm about "
        f"{place_in_words(square.center_yx_m)} is asked, allowed is inside x {x0:g} to {x1:g} µm, "
        f"y {y0:g} to {y1:g} µm (stage_box in the safety limits)"
        for i, square in enumerate(squares)
        if not box.contains(square)
    ]
