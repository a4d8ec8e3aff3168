"""Information-driven imaging: look at everything coarsely, then visit what promises most.

The policy of the demonstration. It scans overviews of the reachable fields, ranks squares about the
objects in them, visits them in that order (the settings of the STED scan may be learned on the way)
and asks a person about the visits whose segmentation is least sure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from controller.core.decision import Acquire, AskLabel, Budget, Decision, Family, Observation, Stop
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.protocols import Resources
from controller.core.settings import Settings
from policies.candidates import Candidate, Look, best_apart, best_squares
from policies.choosers import FixedSettings, ThompsonSettings, learned_utility, make_chooser
from policies.places import tile_fields
from policies.preferences import LearnedUtility, PreferenceQuestions, Preferences
from policies.questions import LeastSureVisits, QuestionOptions, tag_about
from policies.requests import Inbox, Reach, ScanStep
from policies.visits import VisitOptions, Visitor, VisitScan
from policies.wording import place_in_words


class RegionsPolicy:
    """Overviews, then visits of the brightest structures, then a stop within the budget."""

    family: ClassVar[Family] = "information-driven"

    class Options(Settings):
        """What is looked at, how the best is visited, and what is asked.

        Attributes
        ----------
        overview
            The coarse scan of each field; with a region of its own it is the only field.
        fields_max
            How many fields of the stage box are looked at, those nearest to its centre.
        visits_max
            How many squares are visited.
        overlap_max
            Fraction of a square that a better one may cover, 0..1.
        visit
            The scans of one visit.
        settings
            How the STED settings are chosen: ``method = "thompson"`` learns them, ``"fixed"`` keeps
            those of ``visit.sted``.
        questions
            What a person is asked about visited regions.
        preferences
            Whether a person is asked which of the STED scans are better.
        refusals_max
            Refused or failed scans in a row after which the policy stops.
        """

        overview: ScanStep = ScanStep(modality="overview")
        fields_max: Annotated[int, Field(ge=1)] = 4
        visits_max: Annotated[int, Field(ge=1)] = 12
        overlap_max: Annotated[float, Field(ge=0, lt=1)] = 0.0
        visit: VisitOptions = VisitOptions()
        settings: Annotated[ThompsonSettings | FixedSettings, Field(discriminator="method")] = (
            ThompsonSettings()
        )
        questions: QuestionOptions = QuestionOptions()
        preferences: PreferenceQuestions = PreferenceQuestions()
        refusals_max: Annotated[int, Field(ge=1)] = 10

        @model_validator(mode="after")
        def _overview_is_not_sted(self) -> Self:
            if self.overview.modality == "sted":
                raise ValueError("overview.modality='sted' would bleach what is to be visited")
            return self

        @model_validator(mode="after")
        def _has_something_to_prefer(self) -> Self:
            if self.preferences.questions_max and self.settings.method == "fixed":
                raise ValueError("preferences are asked among scans of different settings; these are fixed")
            return self

    def __init__(
        self,
        options: Options,
        reach: Reach,
        rng: np.random.Generator,
        learned: LearnedUtility | None = None,
    ) -> None:
        self._options, self._reach = options, reach
        overview, visit, box = options.overview, options.visit, reach.limits.stage_box
        fields_max = options.fields_max if overview.region is None else 1
        fields = tile_fields(box, reach.field_of_view().size_yx_m, overview.pixel_size_m, fields_max)
        self._overviews = [overview.at(field) for field in fields]
        problems = reach.problems(self._overviews[0], "overview")
        if not box.contains(visit.square(box.center_yx_m)):
            problems.append(f"policy.options.visit.size_m={visit.size_m:g} m does not fit the stage box")
        if problems:
            raise ConfigurationError(*problems)
        chooser = make_chooser(
            options.settings, visit, reach, rng, overview=self._overviews[0], learned=learned
        )
        self._visitor = Visitor(visit, chooser, reach)
        self._inbox = Inbox()
        self._looked = 0
        self._looks: list[Look] = []
        self._found: list[Candidate] = []
        self._ranked: list[Candidate] = []
        self._visit = 0
        self._least_sure = LeastSureVisits(options.questions.questions_max)
        self._preferences = Preferences(options.preferences, learned, rng)

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Make the policy; scans outside the safety limits are a ConfigurationError."""
        learned = learned_utility(options.settings, resources.folder)
        return cls(options, Reach.of(resources), resources.rng, learned)

    def decide(self, observation: Observation) -> Decision:
        """Return the next overview, scan of a visit or question; Stop when all is seen or spent."""
        if repeated := self._inbox.again(observation, self._reach):
            return repeated
        evidence = self._take(observation)
        if (count := self._inbox.unanswered_in_a_row) >= self._options.refusals_max:
            trouble = f"{count} scans in a row gave no frame, the last one {self._inbox.trouble}"
            return self._stop(trouble, evidence)
        decision = (
            self._overview(evidence)
            or self._scan_of_visit(evidence)
            or self._question(observation, evidence)
            or self._preferences.question(observation.budget, evidence)
            or self._next_visit(observation, evidence)
        )
        return self._inbox.expect(self._preferences.signed(decision))

    def _take(self, observation: Observation) -> dict[str, float]:
        """Take in the answer to the last request and return what was measured."""
        if not self._inbox.waiting:
            return {}
        frame = self._inbox.take(observation)
        if self._visitor.is_active():
            return self._take_scan_of_visit(frame, observation)
        return {} if frame is None else self._take_overview(frame, observation)

    def _take_scan_of_visit(self, frame: Frame | None, observation: Observation) -> dict[str, float]:
        if self._visitor.stage == "sted" and frame is not None:
            bits = self._ranked[self._visit - 1].uncertainty_bits
            if observation.segmentation is not None:
                bits = float(observation.segmentation.uncertainty.mean())
            self._least_sure.consider(bits, self._visit, frame)
        self._visitor.take(frame, observation)
        if self._visitor.measured is None:
            return {}
        return self._preferences.take(self._visitor.sted, self._visitor.measured)

    def _take_overview(self, frame: Frame, observation: Observation) -> dict[str, float]:
        look = Look.at(frame, observation.denoised, observation.segmentation)
        self._looks.append(look)
        found = best_squares(
            look,
            self._options.visit.size_m,
            self._reach.limits.stage_box,
            count=4 * self._options.visits_max,
            overlap_max=self._options.overlap_max,
        )
        self._found += found
        objects, segmentation = len(found), observation.segmentation
        if segmentation is not None:
            objects = int(segmentation.labels.max())
        return {"objects_count": float(objects), "candidates_count": float(len(self._found))}

    def _overview(self, evidence: dict[str, float]) -> Decision | None:
        if self._looked == len(self._overviews):
            return None
        scan, self._looked = self._overviews[self._looked], self._looked + 1
        place = place_in_words(scan.region.center_yx_m)
        reason = f"overview {self._looked} of {len(self._overviews)}, {place}"
        return Acquire(reason=reason, evidence=evidence, settings=scan)

    def _scan_of_visit(self, evidence: dict[str, float]) -> Decision | None:
        scan = self._visitor.next_scan(self._inbox)
        return None if scan is None else self._acquire(scan, evidence)

    def _acquire(self, scan: VisitScan, evidence: dict[str, float]) -> Acquire:
        place = place_in_words(self._ranked[self._visit - 1].region.center_yx_m)
        reason = f"visit {self._visit} of {len(self._ranked)}, {place}: {scan.purpose}"
        if self._visitor.stage == "before":
            reason += " (brightest unvisited structure)"
        return Acquire(reason=reason, evidence={**evidence, **scan.expected}, settings=scan.settings)

    def _question(
        self, observation: Observation, evidence: dict[str, float], *, at_end: bool = False
    ) -> Decision | None:
        taken = self._least_sure.take(self._visit, at_end=at_end)
        if taken is None or observation.budget.questions < 1:
            return None
        bits, visit, frame = taken
        question = tag_about(frame, self._options.questions.text, self._options.questions.choices)
        reason = f"visit {visit} has the least sure segmentation of the latest, {bits:.2f} bits a pixel"
        return AskLabel(reason=reason, evidence={**evidence, "uncertainty_bits": bits}, question=question)

    def _next_visit(self, observation: Observation, evidence: dict[str, float]) -> Decision:
        if not self._visit and not self._ranked:
            self._rank()
        if why := self._reason_to_stop(observation.budget):
            return (
                self._question(observation, evidence, at_end=True)
                or self._preferences.question(observation.budget, evidence, at_end=True)
                or self._stop(why, evidence)
            )
        candidate = self._ranked[self._visit]
        self._visit += 1
        evidence = {**evidence, "score_photons": candidate.score_photons}
        return self._acquire(self._visitor.start(candidate.region), evidence)

    def _rank(self) -> None:
        """Put the candidates of all overviews in order."""
        # A structure on the border of two fields is seen by halves: a square counts what all saw in it.
        found = [
            replace(c, score_photons=sum(look.signal_in(c.region) for look in self._looks))
            for c in self._found
        ]
        self._ranked = best_apart(found, self._options.overlap_max)[: self._options.visits_max]
        self._least_sure.plan(len(self._ranked))

    def _reason_to_stop(self, budget: Budget) -> str | None:
        if not self._looks:
            trouble = f", the last one {self._inbox.trouble}" if self._inbox.trouble else ""
            return f"none of {len(self._overviews)} overviews gave a frame{trouble}"
        if not self._ranked:
            return f"no structure worth a visit was found in {len(self._looks)} overviews"
        if self._visit == len(self._ranked):
            return f"all {self._visit} visits are done"
        worst = self._visitor.worst(self._ranked[self._visit].region)
        if short := self._reach.shortage(worst, budget):
            return f"after {self._visit} of {len(self._ranked)} visits a further one does not fit: {short}"
        return None

    def _stop(self, why: str, evidence: dict[str, float]) -> Stop:
        summary = self._visitor.summary()
        return Stop(reason=f"{why}; {summary}" if summary else why, evidence=evidence)
