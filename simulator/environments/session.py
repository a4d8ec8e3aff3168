"""Session: from the overview to structures that are seen well and told apart, in one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from controller.core.errors import DoseBudgetError, LimitExceededError
from controller.core.frame import Frame
from controller.core.settings import Region, ScanSettings
from simulator.environments.annotator import Answer, ask
from simulator.environments.label_pool import cut_patch, find_things
from simulator.environments.microscope_env import Action, EnvOptions, Info, MicroscopeEnv, Observation
from simulator.environments.parameters import ActionMap, as_point
from simulator.environments.pictures import Bytes, encoded
from simulator.environments.pixel_learner import PixelLearner, pixel_features
from simulator.environments.rare_samples import CLASSES, RARE_TASKS, check_answerable, true_classes
from simulator.environments.sample_regions import SampleRegions
from simulator.environments.session_options import SessionOptions
from simulator.environments.structures import SeenStructures
from simulator.specimens import MAP_PIXEL_SIZE_M

#: Light to which images are scaled before the learner sees them, so that it knows its things again.
_USUAL_LIGHT_J = 8e-6 * 10e-6


@dataclass(slots=True)
class _Done:
    """What became of one step."""

    is_scanned: bool = False
    refusal: str = ""
    is_spent: bool = False
    scan_s: float = 0.0
    energy_j: float = 0.0
    answer: Answer | None = None
    settings: dict[str, float] = field(default_factory=dict)


class SessionEnv(MicroscopeEnv[SessionOptions]):
    """An overview, then regions, their settings and questions, until light, time or patience is spent.

    The action is, each in -1..1: the middle of a region, down and across the sample; STED power,
    excitation and dwell time of its scan; and whether a person is asked (above 0) what the thing is that
    the learner is least sure of. A structure is worth something once it was seen well and the learner
    tells its class right. The reward is the gain of that worth in ``worth_unit``, of all structures seen
    so far: an answer that helps to tell the earlier ones apart pays for those, too. From it,
    ``dose_weight`` times the share of the dose budget is taken. ``terminated``: a scan did not fit into
    what is left of light or time. ``truncated``: all steps are done.

    Parameters
    ----------
    options, samples, render_mode, changes
        See :class:`~simulator.environments.microscope_env.MicroscopeEnv` and :class:`SessionOptions`.

    Raises
    ------
    ConfigurationError
        If there is no truth from which a simulated person could answer.
    """

    Options: ClassVar[type[EnvOptions]] = SessionOptions
    tasks = RARE_TASKS
    channels = ("overview", "last region", "visited")
    budgets = ("steps left", "energy left", "time left", "annotator left")

    def _set_up(self) -> None:
        check_answerable(self._samples)
        self._worth = 0.0
        self._actions = ActionMap(self.options.parameters, self._samples.limits)
        self._meaning = ("y", "x", *self._actions.space.names, "ask")
        recorded = len(self._meaning) + 2 + CLASSES
        self._set_spaces(actions=len(self._meaning), recorded=recorded, side_px=self.options.pixels)

    @property
    def action_map(self) -> ActionMap:
        """Return what the part of an action stands for that sets the scan."""
        return self._actions

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Scan a region and perhaps ask about it; see ``docs/environments.md`` for what comes back.

        Raises
        ------
        ValueError
            If the action is outside its box.
        DeviceError
            If the microscope failed; its light is off.
        """
        point = as_point(action, self._meaning)
        region = self._regions.region(point[:2])
        self._take_step()
        done = self._scan(region, {**self.options.fixed, **self._actions.settings(point[2:-1])})
        if done.is_scanned and point[-1] > 0:
            done.answer = self._ask()
        before = self._worth
        self._worth = self._structures.worth(self._learner, self.options.rare_worth)
        cost = self.options.dose_weight * done.energy_j / self._samples.limits.session_energy_max_j
        reward = (self._worth - before) / self.options.worth_unit - cost
        if not done.is_scanned:
            reward = -self.options.refusal_cost if not done.is_spent else 0.0
        self._remember_step(action, done)
        terminated, truncated = self._ends(terminated=done.is_spent)
        return self._observation(), float(reward), terminated, truncated, self._told(region, done)

    def action_for(
        self, center_yx_m: tuple[float, float], settings: Mapping[str, float], *, ask: bool
    ) -> Action:
        """Return the action for a region with this middle, or the nearest inside the sample."""
        place = self._regions.point_for(center_yx_m)
        return np.concatenate(
            [place, self._actions.action(settings), [np.float32(1.0 if ask else -1.0)]], dtype=np.float32
        )

    @property
    def structures(self) -> SeenStructures:
        """Return the truth about what was seen so far: for oracles, not for policies."""
        return self._structures

    @property
    def learner(self) -> PixelLearner:
        """Return the learner."""
        return self._learner

    @property
    def annotator_left_s(self) -> float:
        """Return the seconds that a person has left."""
        return self._annotator_left_s

    def images(self) -> Sequence[Bytes | None]:
        scale = self.options.full_scale_photons
        last = None if self._last is None else encoded(self._last.photons, scale)
        return [encoded(self._overview.photons, scale), last, self._visited]

    def _fields_needed(self) -> tuple[int, float]:
        return 1, self.options.sample_m

    def _left(self) -> tuple[float, ...]:
        options = self.options
        return (
            self._steps_left,
            self._energy_left,
            self._left_s / options.session_s,
            self._annotator_left_s / options.annotator_s,
        )

    def _begin(self) -> None:
        options, truth = self.options, self._stage.truth
        true_classes(truth, self._region)  # before any light
        self._chance = np.random.default_rng(self._seeds.spawn(1)[0])
        self._overview = self._stage.microscope.acquire(
            ScanSettings(
                modality="overview",
                region=self._region,
                pixel_size_m=options.overview_pixel_m,
                dwell_s=options.overview_dwell_s,
                excitation_w=options.overview_excitation_w,
            )
        )
        self._last: Frame | None = None
        self._things = np.zeros((0, 2), np.intp)
        self._visited = np.zeros((options.pixels, options.pixels), np.uint8)
        self._left_s, self._annotator_left_s = options.session_s, options.annotator_s
        self._learner = PixelLearner(CLASSES)
        self._labels = 0
        self._structures = SeenStructures.of(truth, self._region, options.likeness)
        self._worth = 0.0

    @property
    def _regions(self) -> SampleRegions:
        return SampleRegions(self._region, self.options.roi_m, self.options.overview_pixel_m)

    def _scan(self, region: Region, settings: dict[str, float]) -> _Done:
        """Scan a region, if there is time and light for it, and note what it shows."""
        asked = ScanSettings.model_validate(
            {
                "modality": "sted" if settings["sted_w"] else "confocal",
                "region": region,
                "pixel_size_m": MAP_PIXEL_SIZE_M,
                **settings,
            }
        )
        done = _Done(settings=settings)
        scan_s = asked.duration_s + self.options.between_scans_s
        if not scan_s <= self._left_s:
            done.is_spent = True
            done.refusal = f"the scan takes {scan_s:.1f} s of the {self._left_s:.1f} s that are left"
            return done
        energy_j = self._stage.microscope.dose.energy_j
        try:
            frame = self._stage.microscope.acquire(asked)
        except LimitExceededError as error:
            done.is_spent, done.refusal = isinstance(error, DoseBudgetError), str(error)
            return done
        done.is_scanned, done.scan_s = True, scan_s
        done.energy_j = self._stage.microscope.dose.energy_j - energy_j
        self._left_s -= scan_s
        self._last = frame
        self._visited[self._regions.pixels(region)] = 255
        light = frame.settings.excitation_w * frame.settings.dwell_s
        photons = np.asarray(frame.photons, np.float64) * (_USUAL_LIGHT_J / light)
        features = pixel_features(photons)
        self._structures.look(region, frame.photons, features)
        self._things = find_things(photons, margin_px=0)
        self._pixels = (photons, features, true_classes(self._stage.truth, region))
        return done

    def _ask(self) -> Answer | None:
        """Ask about the thing of the last scan that the learner is least sure of; None without time."""
        if not len(self._things):
            return None
        patches = [cut_patch(place, *self._pixels) for place in self._things]
        sure = [patch.probabilities(self._learner).max() for patch in patches]
        patch = patches[int(np.argmin(sure))]
        answer = ask(patch, self.options.question, CLASSES, self.options.annotator, self._chance)
        if not answer.answer_s <= min(self._annotator_left_s, self._left_s):
            return None
        self._left_s -= answer.answer_s
        self._annotator_left_s -= answer.answer_s
        answer.teach(self._learner, patch.features)
        self._labels += 1
        return answer

    def _remember_step(self, action: Action, done: _Done) -> None:
        """Put into the history what was done and said, and how much the learner has heard of each class."""
        told = 0.0 if done.answer is None else float(done.answer.told)
        was_told = -1.0 if done.answer is None else 2 * told / (CLASSES - 1) - 1
        heard = 2 * self._learner.answers / (1 + self._learner.answers) - 1
        self._remember([*action, 1.0 if done.is_scanned else -1.0, was_told, *heard])

    def _told(self, region: Region, done: _Done) -> Info:
        answer = done.answer
        seen = self._structures.counts(self._learner)
        return {
            "objectives": {
                "things": float(len(self._things)) if done.is_scanned else 0.0,
                "labels": float(self._labels),
            },
            "settings": done.settings,
            "center_yx_m": np.array(region.center_yx_m),
            "told": -1.0 if answer is None else float(answer.told),
            "answer_s": 0.0 if answer is None else answer.answer_s,
            "scan_s": done.scan_s,
            "time_left_s": self._left_s,
            "annotator_left_s": self._annotator_left_s,
            "energy_j": done.energy_j,
            "energy_left_j": self._energy_left_j,
            "refused": float(bool(done.refusal)),
            "refusal": done.refusal,
            "truth_seen": float(seen.seen),
            "truth_right": float(seen.right),
            "truth_rare_right": float(seen.rare_right),
            "truth_worth": self._worth,
        }
