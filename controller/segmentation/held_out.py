"""What a segmentation is worth on labels that it was not trained on, and how to use it best there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, special

from controller.learning.measures import Matches, match_objects, match_spots
from controller.learning.rasterise import Target
from controller.segmentation.heads import head_maps, instances
from controller.segmentation.network_options import Kind, NetworkOptions
from controller.segmentation.network_targets import UNLABELLED

#: A found spot is the true one if it is nearer than this part of its width; an object, if so much of the
#: union is shared.
SPOT_TOLERANCE, _LEAST_OVERLAP = 0.65, 0.5

#: Differences of F1 that mean nothing.
_AS_GOOD = 0.005
_THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)


@dataclass(frozen=True, slots=True)
class Score:
    """What a segmenter is worth: F1 of its objects, and Dice of its foreground, on labelled pixels."""

    f1: float
    dice: float


def matches(labels: NDArray[np.int32], truth: NDArray[np.int32], kind: Kind, object_px: float) -> Matches:
    """Return how the objects of ``labels`` meet those of ``truth``.

    ``truth`` is 0 where nothing is and -1 where nobody said; what lies there for the most part counts as
    neither right nor wrong.
    """
    labels = _without_unlabelled(labels, truth)
    if kind == "objects":
        found: Matches = match_objects(labels, np.maximum(truth, 0), _LEAST_OVERLAP)
    else:
        found = match_spots(centers_of(labels), centers_of(np.maximum(truth, 0)), SPOT_TOLERANCE * object_px)
    return Matches(found.hits, found.wrong, found.missed)


def score(
    answers: Iterable[tuple[NDArray[np.int32], NDArray[np.int32]]], kind: Kind, object_px: float
) -> Score:
    """Return the score of pairs of labels and truth, all their objects and pixels taken together."""
    found = Matches(0, 0, 0)
    shared = claimed = 0
    for labels, truth in answers:
        found += matches(labels, truth, kind, object_px)
        said = truth != UNLABELLED
        shared += int(np.count_nonzero((labels > 0) & (truth > 0)))
        claimed += int(np.count_nonzero((labels > 0) & said) + np.count_nonzero(truth > 0))
    return Score(found.f1, 2 * shared / claimed if claimed else 1.0)


def fitted(
    outputs: Sequence[NDArray[np.float32]], targets: Sequence[Target], options: NetworkOptions
) -> NetworkOptions:
    """Return the options with the temperature and the centre threshold that suit held-out images best.

    Parameters
    ----------
    outputs
        What the network said of each image, shape ``(outputs, y, x)``.
    targets
        The truth. Without a labelled pixel the options stay as they are, and without an object that is
        known as a whole the threshold does.
    """
    classes = [target.classes for target in targets]
    if not any((one != UNLABELLED).any() for one in classes):
        return options
    options = options.replace(temperature=_temperature(outputs, classes, options))
    if not any((target.instances > 0).any() for target in targets):
        return options
    maps = [head_maps(one, options) for one in outputs]
    labels = [truth_of(target) for target in targets]

    def f1(threshold: float) -> float:
        at = options.replace(center_threshold=threshold)
        pairs = zip(maps, labels, strict=True)
        counted = (matches(instances(m, at), truth, at.kind, at.object_px) for m, truth in pairs)
        return sum(counted, Matches(0, 0, 0)).f1

    scores = {threshold: f1(threshold) for threshold in _THRESHOLDS}
    # Of those that are as good within chance, the highest: it finds least in empty images.
    good = [threshold for threshold, found in scores.items() if found >= max(scores.values()) - _AS_GOOD]
    return options.replace(center_threshold=max(good))


def _temperature(
    outputs: Sequence[NDArray[np.float32]], classes: Sequence[NDArray[Any]], options: NetworkOptions
) -> float:
    """Return what the scores must be divided by for the least cross-entropy of the heads' mean.

    C. Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    scores, answers = [], []
    for output, truth in zip(outputs, classes, strict=True):
        known = truth != UNLABELLED
        scores.append(output[:-2].reshape(options.heads, options.class_scores, *truth.shape)[:, :, known])
        answers.append(truth[known].astype(np.int64))
    every = np.concatenate(scores, axis=2).astype(np.float64)
    # A hundred thousand pixels say it as well as all of them.
    step = -(-every.shape[2] // 100_000)
    every, answer = every[:, :, ::step], np.concatenate(answers)[::step]
    padded = np.concatenate([np.zeros_like(every[:, :1]), every], axis=1)

    def cross_entropy(log_temperature: float) -> float:
        mean = special.softmax(padded / np.exp(log_temperature), axis=1).mean(axis=0)
        return float(-np.log(np.maximum(mean[answer, np.arange(len(answer))], 1e-12)).mean())

    best = optimize.minimize_scalar(cross_entropy, bounds=(-2.0, 2.0), method="bounded")
    return float(np.exp(best.x))


def truth_of(target: Target) -> NDArray[np.int32]:
    """Return the objects that are known as a whole, 0 where no object is, -1 where nobody can say."""
    is_known = target.is_shape_known
    return np.where(is_known, target.instances, UNLABELLED).astype(np.int32)


def _without_unlabelled(labels: NDArray[np.int32], truth: NDArray[np.int32]) -> NDArray[np.int32]:
    outside = truth == UNLABELLED
    if not outside.any() or not labels.any():
        return labels
    areas = np.bincount(labels.ravel())
    beyond = np.bincount(labels[outside].ravel(), minlength=len(areas))
    return np.where((2 * beyond > areas)[labels], 0, labels).astype(np.int32)


def centers_of(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the centre of mass of each object, shape ``(n, 2)``."""
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    centers = ndimage.center_of_mass(labels > 0, labels, numbers)
    return np.asarray(centers, np.float64).reshape(-1, 2)
