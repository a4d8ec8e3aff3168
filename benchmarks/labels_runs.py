"""One run of labelling: a strategy asks, a scripted annotator answers, a classifier learns; again."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.core.asking import Candidates, QueryStrategy
from controller.learning.answer_cost import AnswerTask, TimedAnswer
from controller.learning.answer_cost import CostModel as PredictedCost
from controller.learning.audit import arms_of_next, choose_audited
from controller.learning.patch_classifier import PatchClassifier, fit
from controller.learning.patch_encoder import PatchEncoder, PretrainingOptions, pretrain
from controller.networks.weights import read_weights, write_weights
from simulator.rare_patches import (
    CLASS_NAMES,
    CostModel,
    Patches,
    PatchMix,
    ScriptedAnnotator,
    answer_seconds,
    draw_patches,
)

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Features = NDArray[np.float32]

ANNOTATOR_ERROR = 0.05
MEMBERS = 20
#: More than fit into a round of the cheapest answers; what is not asked in its round is dropped.
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    pool: int = 2500
    """Candidates of a seed."""
    test: int = 1600
    """Patches that accuracy is measured on, as many of each class."""
    rounds: int = 10
    round_s: float = 40.0
    crops: int = 6000
    """That the encoder learns from, without labels."""
    steps: int = 600


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What is the same for all strategies of one seed: images, features, and a test set."""

    seed: int
    patches: Patches
    features: Features
    foreground: Features
    light: Floats
    test_features: Features
    test_classes: NDArray[np.int64]

    def annotator(self, model: CostModel) -> ScriptedAnnotator:
        """Return the person of this seed; they say the same to every strategy."""
        return ScriptedAnnotator(self.patches, model, ANNOTATOR_ERROR, np.random.default_rng([self.seed, 3]))


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a strategy made of its seconds, after each round.

    ``seconds``, ``labels`` and ``accuracy`` (balanced, of the test set) have shape ``(rounds + 1,)`` and
    begin before the first answer; ``bought`` are the true classes of what was asked, shape ``(classes,)``.
    """

    seconds: Floats
    labels: Floats
    accuracy: Floats
    bought: NDArray[np.int64]
    reason: str


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table: a strategy, and which seconds it is told."""

    name: str
    strategy: QueryStrategy
    cost: str = "none"
    """``none``: all answers take as long; ``learned`` from those before; ``true`` ones."""
    audit: float = 0.0
    """The share of questions that chance chooses."""


def encoder_of(extent: Extent, folder: Path | None = None) -> PatchEncoder:
    """Return the encoder of the benchmark, learned once from unlabelled patches of another seed.

    Its classes are milder than those of the pools: there is enough of everything to be seen.
    """
    options = PretrainingOptions()
    key = f"{options.model_dump_json()} {extent.crops} {extent.steps}"
    folder = folder or Path(tempfile.gettempdir()) / "stedfast-benchmark-labels"
    path = folder / f"encoder-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if path.exists():
        return PatchEncoder.from_weights(read_weights(path))
    mix = PatchMix(shares=(0.40, 0.25, 0.20, 0.15))
    crops = draw_patches(extent.crops, np.random.default_rng(1_000_001), mix).photons
    encoder = pretrain(crops, extent.steps, np.random.default_rng(1_000_002), options)
    write_weights(encoder.to_weights(), path)
    return encoder


def scene_of(seed: int, encoder: PatchEncoder, extent: Extent) -> Scene:
    """Draw the images of a seed and look at them once."""
    patches = draw_patches(extent.pool, np.random.default_rng([seed, 1]))
    alike = PatchMix(shares=(0.25, 0.25, 0.25, 0.25))
    test = draw_patches(extent.test, np.random.default_rng([seed, 2]), alike)
    return Scene(
        seed,
        patches,
        encoder.encode(patches.photons),
        foreground_of(patches.photons),
        patches.photons.mean(axis=(1, 2)),
        encoder.encode(test.photons),
        test.classes,
    )


def foreground_of(photons: NDArray[np.uint16]) -> Features:
    """Return the share of each crop that stands out from its median by three standard errors."""
    sigma_px = 1.5
    roots = 2 * np.sqrt(photons + 0.375)
    smooth = ndimage.gaussian_filter(roots, (0, sigma_px, sigma_px))
    # The square root has noise of 1, of which a Gaussian leaves one part in 2 sigma sqrt(pi).
    error = 1 / (2 * np.sqrt(np.pi) * sigma_px)
    middle = np.median(smooth, axis=(1, 2), keepdims=True)
    return np.asarray((smooth > middle + 3 * error).mean(axis=(1, 2)), np.float32)


def run(scene: Scene, contender: Contender, model: CostModel, extent: Extent, repeat: int = 0) -> Run:
    """Let a contender spend its seconds. The first round is chosen by chance, the same for all."""
    annotator, rng = scene.annotator(model), np.random.default_rng([scene.seed, 4, repeat])
    asked: list[int] = []
    said: list[int] = []
    took_s: list[float] = []
    points = [(0.0, 0.0, 1 / len(CLASS_NAMES))]
    known = _learned(scene, asked, said, repeat)
    reason = "chance chose the first round"
    for number in range(1, extent.rounds + 1):
        left = np.setdiff1d(np.arange(len(scene.patches)), asked)
        if number == 1:
            order = rng.permutation(left)
        else:
            told_s = told_seconds(contender.cost, scene, known, model, (asked, took_s))
            candidates = candidates_of(scene, known, left, told_s, (asked, said))
            order, reason = _chosen(contender, candidates, left, len(asked), rng)
        for index in order:
            if sum(took_s) >= number * extent.round_s:
                break
            classes, took = annotator.answers([int(index)])
            asked.append(int(index))
            said.append(int(classes[0]))
            took_s.append(float(took[0]))
        known = _learned(scene, asked, said, repeat)
        points.append((sum(took_s), float(len(asked)), balanced_accuracy(scene, known)))
    bought = np.bincount(scene.patches.classes[asked], minlength=len(CLASS_NAMES))
    seconds, labels, accuracy = np.array(points).T
    return Run(seconds, labels, accuracy, bought, reason)


def candidates_of(
    scene: Scene,
    known: PatchClassifier,
    left: Places,
    cost_s: Floats,
    answered: tuple[list[int], list[int]],
) -> Candidates:
    """Return what a strategy sees of the patches that nobody was asked about."""
    features = scene.features[left]
    return Candidates(
        features=features,
        probabilities=known.probabilities(features, MEMBERS),
        hidden=known.hidden(features),
        cost_s=cost_s[left].astype(np.float32),
        foreground=scene.foreground[left],
        groups=scene.patches.fields[left],
        labelled_features=scene.features[answered[0]],
        labelled_classes=np.array(answered[1], np.int64),
    )


def balanced_accuracy(scene: Scene, known: PatchClassifier) -> float:
    """Return the mean over classes of the share that is recognised."""
    seen = known.mean(scene.test_features).argmax(axis=1)
    hits = seen == scene.test_classes
    return float(np.mean([hits[scene.test_classes == kind].mean() for kind in range(len(CLASS_NAMES))]))


def _learned(scene: Scene, asked: list[int], said: list[int], repeat: int) -> PatchClassifier:
    targets = np.eye(len(CLASS_NAMES), dtype=np.float32)[np.array(said, np.int64)]
    rng = np.random.default_rng([scene.seed, 5, repeat, len(asked)])
    return fit(scene.features[asked], targets, np.ones(len(asked), np.float32), rng)


def _chosen(
    contender: Contender, candidates: Candidates, left: Places, asked: int, rng: np.random.Generator
) -> tuple[Places, str]:
    """Return which patches are asked about next, in this order, and why."""
    if contender.audit:
        # Of the questions before the audit began, the share that is due was asked by chance: all were.
        arms = arms_of_next(
            _BATCH, asked=asked, audited=ceil(asked * contender.audit), fraction=contender.audit
        )
        audited = choose_audited(contender.strategy, candidates, arms, rng)
        return left[list(audited.indices)], audited.reasons[-1]
    chosen = contender.strategy.choose(candidates, _BATCH, rng)
    return left[list(chosen.indices)], chosen.reason


def told_seconds(
    cost: str, scene: Scene, known: PatchClassifier, model: CostModel, answered: tuple[list[int], list[float]]
) -> Floats:
    """Return what a contender is told of the seconds of each patch."""
    if cost == "true":
        return answer_seconds(scene.patches, model)
    if cost == "none":
        return np.ones(len(scene.patches))
    predicted = known.mean(scene.features).argmax(axis=1)
    tasks = [
        AnswerTask(kind="tag", classes=len(CLASS_NAMES), photons=light, predicted_class=CLASS_NAMES[kind])
        for light, kind in zip(scene.light.tolist(), predicted.tolist(), strict=True)
    ]
    timed = [TimedAnswer(task=tasks[index], answer_s=took) for index, took in zip(*answered, strict=True)]
    return PredictedCost.fit(timed).predict_many(tasks).astype(np.float64)
