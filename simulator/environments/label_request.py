"""LabelRequest: few seconds of a person's time, and the choice of what to ask them and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Positive, ScanSettings
from simulator.environments.annotator import LABEL_KINDS, AnnotatorOptions, Answer, LabelKind, Patch, ask
from simulator.environments.label_pool import PATCH_PX, cut_patch, find_things
from simulator.environments.microscope_env import Action, EnvOptions, Info, MicroscopeEnv, Observation
from simulator.environments.parameters import as_point
from simulator.environments.pictures import Bytes, encoded
from simulator.environments.pixel_learner import Features, PixelLearner, pixel_features
from simulator.environments.rare_samples import CLASSES, RARE_TASKS, check_answerable, true_classes
from simulator.environments.samples import SampleDistribution, TaskName
from simulator.specimens import MAP_PIXEL_SIZE_M

#: Things that a policy chooses from at each step.
SHOWN = 8

#: Rows of the scan that are asked about, and those of which the score is taken, as parts of all. No
#: pixel between them has a part in both.
_POOL_PART, _EXAM_PART = 0.56, 0.6
#: One in so many pixels of background is in the exam: they are many and alike.
_BACKGROUND_STRIDE = 32


class LabelRequestOptions(EnvOptions):
    """What can be chosen of the requests for labels."""

    task: TaskName | SampleDistribution = "mid"
    """A name of ``RARE_TASKS``, or a distribution of samples with two classes of things."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 40
    episode_energy_j: Positive = 0.5
    refusal_cost: NonNegative = 0.0
    """Of a question that takes longer than what is left: that it ends the episode is enough."""
    annotator_s: Positive = 60.0
    """Seconds of a person's time."""
    annotator: AnnotatorOptions = AnnotatorOptions()
    sample_m: Annotated[float, Field(ge=5e-6, le=10.24e-6)] = 10.24e-6
    """Side of the square that is scanned once, before the first question."""
    dwell_s: Positive = 10e-6
    excitation_w: Positive = 8e-6
    sted_w: NonNegative = 0.1


class LabelRequestEnv(MicroscopeEnv[LabelRequestOptions]):
    """One STED scan of a sample; each step asks a person about one of eight things in it.

    The action is one number for each thing that is shown, of which the largest is chosen, and one for
    the kind of question: a class, a box or a contour, by thirds of -1..1. What is passed over comes
    back later. A small learner is taught by the answer. The reward is the gain of its balanced accuracy
    on another part of the sample, times the part of the seconds that is left to make use of it: the sum
    over an episode is the area under the learning curve. ``terminated``: a question takes more than the
    seconds that are left, or everything was asked.

    Parameters
    ----------
    options, samples, render_mode, changes
        See :class:`~simulator.environments.microscope_env.MicroscopeEnv` and
        :class:`LabelRequestOptions`.

    Raises
    ------
    ConfigurationError
        If there is no truth from which a simulated person could answer.
    """

    Options: ClassVar[type[EnvOptions]] = LabelRequestOptions
    tasks = RARE_TASKS
    channels = tuple(f"thing {number + 1}" for number in range(SHOWN))
    budgets = ("steps left", "energy left", "annotator left")
    panel_px = 128

    def _set_up(self) -> None:
        check_answerable(self._samples)
        self._score = self._left_s = 0.0
        self._set_spaces(actions=SHOWN + 1, recorded=4 + SHOWN * CLASSES, side_px=PATCH_PX)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Ask one question; see ``docs/environments.md`` for what comes back.

        Raises
        ------
        ValueError
            If the action is outside its box.
        """
        point = as_point(action, (*self.channels, "kind"))
        self._take_step()
        thing, kind = self._chosen(point)
        answer = self._answer(thing, kind)
        before, left_s = self._score, self._left_s
        is_given = answer.answer_s <= left_s
        reward = -self.options.refusal_cost
        if is_given:
            self._left_s = left_s - answer.answer_s
            answer.teach(self._learner, self._patch(thing).features)
            self._pass_over(thing)
            self._labels[answer.told] += 1
            self._score = self._learner.balanced_accuracy(*self._exam)
            reward = (self._score - before) * self._left_s / self.options.annotator_s
        self._remember_step(kind, answer if is_given else None)
        terminated, truncated = self._ends(terminated=not is_given or not self._queue)
        info: Info = {
            "objectives": {"labels": float(self._labels.sum()), "rare_labels": float(self._labels[-1])},
            "kind": float(LABEL_KINDS.index(kind)),
            "told": float(answer.told) if is_given else -1.0,
            "answer_s": answer.answer_s if is_given else 0.0,
            "annotator_left_s": self._left_s,
            "energy_j": 0.0,
            "energy_left_j": self._energy_left_j,
            "refused": float(not is_given),
            "refusal": "" if is_given else f"the answer takes more than the {left_s:.1f} s that are left",
            "truth_score": self._score,
            "truth_gain": self._score - before,
        }
        return self._observation(), float(reward), terminated, truncated, info

    def question(self, action: Action) -> tuple[int, LabelKind]:
        """Return the number of the thing that an action asks about, and how.

        Raises
        ------
        ValueError
            If the action is outside its box.
        """
        return self._chosen(as_point(action, (*self.channels, "kind")))

    def action_for(self, thing: int, kind: LabelKind) -> Action:
        """Return an action that asks so about one of the things that are shown."""
        action = np.full(SHOWN + 1, -1.0, np.float32)
        action[self.shown().index(thing)] = 1.0
        action[-1] = (2 * LABEL_KINDS.index(kind) + 1) / len(LABEL_KINDS) - 1
        return action

    def shown(self) -> list[int]:
        """Return the numbers of the things that can be asked about now; fewer than eight at the end."""
        return self._queue[:SHOWN]

    def probabilities(self) -> NDArray[np.float64]:
        """Return what the learner takes the things for that are shown, shape ``(things, CLASSES)``."""
        found = [self._patch(thing).probabilities(self._learner) for thing in self.shown()]
        return np.array(found).reshape(-1, CLASSES)

    def gain(self, thing: int, kind: LabelKind) -> tuple[float, float]:
        """Return what a question would add to the score, and its seconds: for oracles, not for policies."""
        answer, pupil = self._answer(thing, kind), self._learner.copy()
        answer.teach(pupil, self._patch(thing).features)
        return pupil.balanced_accuracy(*self._exam) - self._score, answer.answer_s

    def images(self) -> Sequence[Bytes | None]:
        scale = self.options.full_scale_photons
        seen: list[Bytes | None] = [encoded(self._patch(thing).photons, scale) for thing in self.shown()]
        return seen + [None] * (SHOWN - len(seen))

    def _fields_needed(self) -> tuple[int, float]:
        return 1, self.options.sample_m

    def _left(self) -> tuple[float, ...]:
        return (self._steps_left, self._energy_left, self._left_s / self.options.annotator_s)

    def _begin(self) -> None:
        chance, self._answers = self._seeds.spawn(2)
        photons, truth = self._scan()
        features = pixel_features(photons)
        rows = len(photons)
        pool, exam = slice(int(_POOL_PART * rows)), slice(int(_EXAM_PART * rows), None)
        self._pool = photons[pool], features[pool], truth[pool]
        self._places = _places(photons[pool], np.random.default_rng(chance))
        self._exam = _exam(features[exam], truth[exam])
        self._queue = list(range(len(self._places)))
        self._patches: dict[int, Patch] = {}
        self._learner = PixelLearner(CLASSES)
        self._labels = np.zeros(CLASSES)
        self._left_s = self.options.annotator_s
        self._score = self._learner.balanced_accuracy(*self._exam)
        self._remember_step(LABEL_KINDS[1], None)

    def _scan(self) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Make the one scan of an episode; return its photons and the class of each of its pixels."""
        options, stage = self.options, self._stage
        frame = stage.microscope.acquire(
            ScanSettings(
                modality="sted" if options.sted_w else "confocal",
                region=self._region,
                pixel_size_m=MAP_PIXEL_SIZE_M,
                dwell_s=options.dwell_s,
                excitation_w=options.excitation_w,
                sted_w=options.sted_w,
            )
        )
        return frame.photons, true_classes(stage.truth, self._region)

    def _chosen(self, point: NDArray[np.float64]) -> tuple[int, LabelKind]:
        """Return the number of the thing and the kind that a point of the box stands for."""
        shown = self.shown()
        third = min(len(LABEL_KINDS) - 1, int((point[-1] + 1) / 2 * len(LABEL_KINDS)))
        return shown[int(point[: len(shown)].argmax())], LABEL_KINDS[third]

    def _pass_over(self, asked: int) -> None:
        """Show the next things; those that were shown and not asked about come back later."""
        left = [thing for thing in self.shown() if thing != asked]
        self._queue = self._queue[SHOWN:] + left

    def _patch(self, thing: int) -> Patch:
        if thing not in self._patches:
            self._patches[thing] = cut_patch(self._places[thing], *self._pool)
        return self._patches[thing]

    def _answer(self, thing: int, kind: LabelKind) -> Answer:
        """Return the answer to a question: always the same to the same one of an episode."""
        key = (*self._answers.spawn_key, thing, LABEL_KINDS.index(kind))
        rng = np.random.default_rng(np.random.SeedSequence(self._answers.entropy, spawn_key=key))
        return ask(self._patch(thing), kind, CLASSES, self.options.annotator, rng)

    def _remember_step(self, kind: LabelKind, answer: Answer | None) -> None:
        """Put into the history what was said, and what the learner takes the things shown now for."""
        seen = np.zeros((SHOWN, CLASSES))
        probabilities = self.probabilities()
        seen[: len(probabilities)] = 2 * probabilities - 1
        told, part, was_given = 0.0, 0.0, -1.0
        if answer is not None:
            told, was_given = answer.told - 1.0, 1.0
            part = answer.answer_s / self.options.annotator_s
        self._remember([LABEL_KINDS.index(kind) - 1.0, told, part, was_given, *seen.ravel()])


def _places(photons: NDArray[Any], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return what can be asked about: what stands out, and as many places drawn at random, shuffled.

    Nobody knows beforehand which of them hold anything.
    """
    found = find_things(photons)
    half = PATCH_PX // 2
    drawn = rng.integers(half, np.array(photons.shape) - half, (max(SHOWN, len(found)), 2))
    return np.asarray(rng.permutation(np.concatenate([found, drawn])))


def _exam(features: Features, truth: NDArray[np.int32]) -> tuple[Features, NDArray[np.int32]]:
    """Return the pixels on which the learner is judged: all of things, some of the background."""
    flat = truth.ravel()
    chosen = (flat > 0) | (np.arange(flat.size) % _BACKGROUND_STRIDE == 0)
    return features.reshape(flat.size, -1)[chosen], flat[chosen]
