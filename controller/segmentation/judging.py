"""What a segmenter is worth on answers that it has not learned from, and whether it may take over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from controller.learning.measures import Matches, match_spots
from controller.learning.rasterise import Source, Target
from controller.learning.weak_losses import LossOptions, Targets
from controller.networks.small_unet import SmallUNet
from controller.networks.weights import Weights
from controller.segmentation.heads import head_maps, instances
from controller.segmentation.held_out import SPOT_TOLERANCE, centers_of, score, truth_of
from controller.segmentation.labelled_image import Example
from controller.segmentation.network_options import NetworkOptions, options_of
from controller.segmentation.training import answer_of, inputs_of, loss_of, network_of

Floats = NDArray[np.float64]
#: Scores of a few dozen held-out answers rise by this through one object that is met by luck.
_BY_CHANCE = 0.02

#: What was found and what is there, as labels.
Pair = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Worth:
    """What a segmenter is worth on held-out answers; ``None`` where no answer tells.

    Attributes
    ----------
    f1, dice
        Of objects that were outlined, and where only clicks or boxes are known, F1 of their places. 0..1.
    balanced_accuracy, log_loss
        Of what was said to be in the samples: the mean over outcomes of how often they are right, 0..1, and
        the cross-entropy of the classes' presence.
    loss
        The loss that training lowers, mean of the samples.
    """

    f1: float | None
    dice: float | None
    balanced_accuracy: float | None
    log_loss: float | None
    loss: float

    @property
    def score(self) -> float | None:
        """Return one number, 0..1, higher is better: the mean of where objects are and what they are."""
        drawn = [value for value in (self.f1, self.dice) if value is not None]
        parts = [float(np.mean(drawn))] if drawn else []
        parts += [] if self.balanced_accuracy is None else [self.balanced_accuracy]
        return float(np.mean(parts)) if parts else None

    def metrics(self, suffix: str = "") -> dict[str, float]:
        """Return what there is by name, for a card."""
        named = {
            "score": self.score,
            "f1": self.f1,
            "dice": self.dice,
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "loss": self.loss,
        }
        return {f"{name}{suffix}": value for name, value in named.items() if value is not None}


@dataclass(slots=True)
class _Tally:
    """Answers of a network beside those of people, image by image."""

    drawn: list[Pair] = field(default_factory=list)
    pixels: list[Pair] = field(default_factory=list)
    places: Matches = field(default_factory=lambda: Matches(0, 0, 0))
    has_places: bool = False
    outcomes: list[tuple[int, int]] = field(default_factory=list)
    log_losses: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def judged(weights: Weights, examples: Sequence[Example], loss: LossOptions) -> Worth:
    """Return what weights are worth on examples; the same weights and examples give the same."""
    options = options_of(weights.card)
    network, tally = network_of(weights, options), _Tally()
    for example in examples:
        output = answer_of(network, example)
        _tell_objects(tally, output, example.target, options)
        _tell_tags(tally, output, example.target, options, loss.pooling_sharpness)
        tally.losses.append(_loss(network, example, options, loss))
    f1 = dice = None
    # Without a single object, all that is drawn is background: too little to be a score.
    if any((truth > 0).any() for _, truth in tally.drawn):
        f1 = score(tally.drawn, options.kind, options.object_px).f1
    if any((truth > 0).any() for _, truth in tally.drawn + tally.pixels):
        dice = score(tally.drawn + tally.pixels, options.kind, options.object_px).dice
    if tally.has_places:
        f1 = tally.places.f1 if f1 is None else (f1 + tally.places.f1) / 2
    return Worth(
        f1=f1,
        dice=dice,
        balanced_accuracy=_balanced_accuracy(tally.outcomes),
        log_loss=float(np.mean(tally.log_losses)) if tally.log_losses else None,
        loss=float(np.mean(tally.losses)) if tally.losses else 0.0,
    )


def objects_kept(before: Weights, after: Weights, examples: Sequence[Example]) -> float | None:
    """Return how far two models find the same objects in samples that are said to show a class: F1, 0..1.

    Where people only said what is there, nobody can tell which objects are right; but a model that no longer
    finds them has not learned what they are. ``None`` if the first one finds no object either.
    """
    shown = [example for example in examples if (example.target.tags == 1).any()]
    pairs = [(_found(after, example), _found(before, example)) for example in shown]
    if not any((old > 0).any() for _, old in pairs):
        return None
    options = options_of(before.card)
    return score(pairs, options.kind, options.object_px).f1


def verdict(before: Worth, after: Worth) -> tuple[bool, str]:
    """Return whether a model may take over, and why.

    It may if its score on the held-out answers is not lower. A score that is higher by less than chance
    makes it is taken for equal, and equal scores must come with a loss that is not higher.
    """
    old, new = before.score, after.score
    if old is None or new is None:
        return False, "no held-out answer tells what it is worth"
    told = f"{_told(before)} before, {_told(after)} after, on held-out answers"
    if not np.isfinite(after.loss) or new < old:
        return False, f"worse: {told}"
    if new - old < _BY_CHANCE and after.loss > before.loss:
        return (
            False,
            f"no better, and its held-out loss rose from {before.loss:.3g} to {after.loss:.3g}: {told}",
        )
    return True, told


def _found(weights: Weights, example: Example) -> NDArray[np.int32]:
    options = options_of(weights.card)
    return instances(head_maps(answer_of(network_of(weights, options), example), options), options)


def _told(worth: Worth) -> str:
    named = {"F1": worth.f1, "Dice": worth.dice, "balanced accuracy": worth.balanced_accuracy}
    return ", ".join(f"{name} {value:.3f}" for name, value in named.items() if value is not None)


def _tell_objects(
    tally: _Tally, output: NDArray[np.float32], target: Target, options: NetworkOptions
) -> None:
    has_area = (target.sources == Source.AREA).any()
    places = (target.clicks > 0).any() or target.box_ids.size
    if not (has_area or places):
        return
    maps = head_maps(output, options)
    found = instances(maps, options)
    is_painted = (target.classes > 0) & (target.sources == Source.AREA) & (target.instances == 0)
    if is_painted.any():
        # Classes were painted, objects were not told apart: it is the pixels that count.
        truth = np.where(target.sources == Source.AREA, target.classes > 0, -1).astype(np.int32)
        tally.pixels.append(((maps.foreground >= 0.5).astype(np.int32), truth))
    elif places and not (target.instances > 0).any():
        # Where clicks and boxes are all that is known, an object is right if it is where one of them is.
        tally.has_places = True
        inside = np.where(target.centre_weights > 0, found, 0)
        matched = match_spots(centers_of(inside), _places(target), SPOT_TOLERANCE * options.object_px)
        wrong = matched.wrong if target.vouched.any() else 0
        tally.places += Matches(matched.hits, wrong, matched.missed)
    else:
        tally.drawn.append((found, truth_of(target)))


def _places(target: Target) -> Floats:
    """Return clicks on objects and the middles of boxes, ``(n, 2)``."""
    found = [np.argwhere(target.clicks > 0).astype(float)]
    for layer in target.box_ids:
        found += [np.argwhere(layer == number).mean(axis=0)[None] for number in np.unique(layer[layer > 0])]
    return np.concatenate(found)


def _tell_tags(
    tally: _Tally, output: NDArray[np.float32], target: Target, options: NetworkOptions, sharpness: float
) -> None:
    known = target.tags[1:] >= 0
    if not known.any():
        return
    chances = presence(output, target, options, sharpness)
    truth = target.tags[1:] == 1
    right = np.where(truth, chances, 1 - chances)[known]
    tally.log_losses.append(float(-np.log(np.maximum(right, 1e-12)).mean()))
    if known.all() and truth.sum() <= 1:
        said = int(np.argmax(truth)) + 1 if truth.any() else 0
        guess = int(np.argmax(chances)) + 1 if chances.max() >= 0.5 else 0
        tally.outcomes.append((said, guess))


def presence(
    output: NDArray[np.float32], target: Target, options: NetworkOptions, sharpness: float
) -> Floats:
    """Return the probability that each class is somewhere in a sample, background left out.

    It pools the pixels' log-odds as the loss of tags does, so that it is what training brings forth.
    """
    usable = target.sources != Source.EXCLUDED
    classes = head_maps(output, options).classes[1:, usable].astype(np.float64)
    odds = special.logit(np.clip(classes, 1e-9, 1 - 1e-9))
    pooled = (special.logsumexp(sharpness * odds, axis=1) - np.log(max(1, usable.sum()))) / sharpness
    return np.asarray(special.expit(pooled))


def _balanced_accuracy(outcomes: Sequence[tuple[int, int]]) -> float | None:
    if len({said for said, _ in outcomes}) < 2:
        return None  # somebody who always says the same would be right
    said, guessed = np.array(outcomes).T
    return float(np.mean([np.mean(guessed[said == outcome] == outcome) for outcome in np.unique(said)]))


def _loss(network: SmallUNet, example: Example, options: NetworkOptions, loss: LossOptions) -> float:
    alike = torch.ones(1, options.heads)
    with torch.inference_mode():
        outputs = network(inputs_of([example]))
        return float(loss_of(outputs, Targets.stack([example.target]), options, loss, alike))
