"""Learns within a second, from a few answers, what crops show; and says how sure it can be.

A network with one hidden layer on the features of :mod:`~controller.learning.patch_encoder`. Its members
are what it says when half of its hidden units are left out [1]_: samples of what the weights may be, after
so few answers. All candidates are seen by the same members, each with one choice of units: so members are
functions that agree or disagree about the whole pool, and asking twenty of them costs one hidden layer.

References
----------
.. [1] Y. Gal, Z. Ghahramani, Dropout as a Bayesian approximation, ICML 2016, 1050.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import Settings

Floats = NDArray[np.float32]
#: Into the hidden units, their biases, out of them, the biases of the classes.
Layers = tuple[Floats, Floats, Floats, Floats]

#: How many answers of ordinary features are assumed, for the scale of features.
_SCALE_ANSWERS = 5


class ClassifierOptions(Settings):
    """The size of the classifier, and how it learns."""

    hidden: Annotated[int, Field(ge=2, le=1024)] = 64
    """Units of its one hidden layer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The share of hidden units that a member leaves out."""
    steps: Annotated[int, Field(ge=1, le=100_000)] = 150
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-2
    decay: Annotated[float, Field(ge=0, le=1)] = 1e-2
    """How fast weights shrink that no answer needs, by step and learning rate."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """The share of each answer that is spread over all classes: people err, and a class that nobody has
    seen yet is not impossible."""
    balance: Annotated[float, Field(ge=0, le=1)] = 1.0
    """0 counts each answer alike, 1 each class that was seen; between, by the power."""
    batch: Annotated[int, Field(ge=1, le=100_000)] = 512
    """Answers a step, drawn by chance; all of them while there are fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchClassifier:
    """Two layers of numbers; ``into`` is ``None`` as long as there was no answer: then all is alike.

    Attributes
    ----------
    into, into_bias
        From features to hidden units, shapes ``(features, hidden)`` and ``(hidden,)``.
    out, out_bias
        From hidden units to classes, shapes ``(hidden, classes)`` and ``(classes,)``.
    seed
        Of the members' choice of units.
    """

    into: Floats
    into_bias: Floats
    out: Floats
    out_bias: Floats
    dropout: float
    seed: int

    @property
    def classes(self) -> int:
        """Return how many classes it tells apart."""
        return len(self.out_bias)

    def hidden(self, features: Floats) -> Floats:
        """Return the hidden layer of all units, shape ``(n, hidden)``: the mean of what members see."""
        _check_features(features, len(self.into))
        return np.asarray(np.maximum(features @ self.into + self.into_bias, 0), np.float32)

    def probabilities(self, features: Floats, members: int = 20) -> Floats:
        """Return what each member takes each crop for, shape ``(members, n, classes)``.

        The same classifier has the same members each time; the first ten of twenty are the ten.
        """
        if members < 1:
            raise ValueError(f"members={members} must be 1 or more")
        seen = self.hidden(features)
        chance = np.random.default_rng(self.seed)
        kept = chance.random((members, seen.shape[1]), np.float32) >= self.dropout
        # One product for all members: their output layers side by side.
        layers = np.where(kept[:, :, None], self.out / (1 - self.dropout), 0).astype(np.float32)
        stacked = layers.transpose(1, 0, 2).reshape(seen.shape[1], members * self.classes)
        scores = (seen @ stacked).reshape(len(seen), members, self.classes) + self.out_bias
        return np.ascontiguousarray(_softmax(scores).transpose(1, 0, 2))

    def mean(self, features: Floats) -> Floats:
        """Return what all units together take each crop for, shape ``(n, classes)``."""
        return _softmax(self.hidden(features) @ self.out + self.out_bias)


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    features: Floats
    targets: Floats
    importance: Floats

    def drawn(self, most: int, rng: np.random.Generator) -> _Answers:
        """Return so many of them by chance; all if there are no more."""
        if len(self.features) <= most:
            return self
        part = rng.choice(len(self.features), most, replace=False)
        return _Answers(self.features[part], self.targets[part], self.importance[part])


def fit(
    features: Floats,
    targets: Floats,
    weights: Floats,
    rng: np.random.Generator,
    options: ClassifierOptions | None = None,
) -> PatchClassifier:
    """Learn from answers. Without any, everything is equally likely, for all members.

    Parameters
    ----------
    features
        Of the crops that were answered, shape ``(n, features)``, best of a spread about 1.
    targets
        How much of each class the answers said, shape ``(n, classes)``, ≥ 0, each row with a sum of 1.
    weights
        How much each answer counts, shape ``(n,)``, ≥ 0.
    rng
        All chance. The same one gives the same classifier.

    Raises
    ------
    ValueError
        If shapes do not fit, or numbers are not what they must be.
    """
    options = options or ClassifierOptions()
    features, targets, weights = _checked(features, targets, weights)
    layers = _fresh(features.shape[1], options.hidden, targets.shape[1], rng)
    importance = _importance(targets, weights, options.balance)
    middle, spread = _scale(features)
    if importance.sum() > 0:
        smoothed = (1 - options.smoothing) * targets + options.smoothing / targets.shape[1]
        answers = _Answers((features - middle) / spread, smoothed, importance)
        layers = _learned(layers, answers, options, rng)
    into, into_bias, out, out_bias = layers
    # The scale becomes part of the first layer, so that nobody has to remember it.
    into = into / spread[:, None]
    seed = int(rng.integers(2**63))
    return PatchClassifier(into, into_bias - middle @ into, out, out_bias, options.dropout, seed)


def _scale(features: Floats) -> tuple[Floats, Floats]:
    """Return the middle and the spread of each feature, as if five more answers had 0 and 1.

    An encoder that learned from brighter images makes all of today's look alike; but of two answers nobody
    knows the spread.
    """
    count = len(features)
    share = count / (count + _SCALE_ANSWERS)
    middle = share * features.mean(axis=0) if count else np.zeros(features.shape[1], np.float32)
    square = share * ((features - middle) ** 2).mean(axis=0) if count else np.zeros_like(middle)
    spread = np.sqrt(square + (1 - share))
    return np.asarray(middle, np.float32), np.asarray(spread, np.float32)


def _fresh(features: int, hidden: int, classes: int, rng: np.random.Generator) -> Layers:
    """Return layers that say nothing yet: whatever comes in, all classes are alike."""
    into = rng.normal(0, np.sqrt(2 / features), (features, hidden)).astype(np.float32)
    return (
        into,
        np.zeros(hidden, np.float32),
        np.zeros((hidden, classes), np.float32),
        np.zeros(classes, np.float32),
    )


def _importance(targets: Floats, weights: Floats, balance: float) -> Floats:
    """Return how much each answer counts, with a mean of 1, once classes are balanced."""
    mass = weights @ targets
    by_class = np.where(mass > 0, np.maximum(mass, 1e-6) ** -balance, 0)
    importance = weights * (targets @ by_class)
    total = float(importance.sum())
    return np.asarray(importance * (len(weights) / total) if total > 0 else importance, np.float32)


def _learned(
    layers: Layers, answers: _Answers, options: ClassifierOptions, rng: np.random.Generator
) -> Layers:
    """Descend the cross-entropy with Adam (D. P. Kingma, J. Ba, ICLR 2015) and decoupled decay."""
    means, squares = ([np.zeros_like(layer) for layer in layers] for _ in range(2))
    for step in range(1, options.steps + 1):
        slopes = _slopes(layers, answers.drawn(options.batch, rng), options.dropout, rng)
        progress = step / options.steps
        rate = options.learning_rate * min(10 * progress, 0.5 * (1 + np.cos(np.pi * progress)))
        for layer, slope, past, past_square in zip(layers, slopes, means, squares, strict=True):
            np.add(past, 0.1 * (slope - past), out=past)
            np.add(past_square, 0.01 * (slope * slope - past_square), out=past_square)
            move = (past / (1 - 0.9**step)) / (np.sqrt(past_square / (1 - 0.99**step)) + 1e-8)
            if layer.ndim == 2:
                move = move + options.decay * layer
            np.subtract(layer, np.float32(rate) * move, out=layer)
    return layers


def _slopes(layers: Layers, answers: _Answers, dropout: float, rng: np.random.Generator) -> Layers:
    """Return the gradient of the mean cross-entropy with a share of the hidden units left out."""
    into, into_bias, out, out_bias = layers
    before = answers.features @ into + into_bias
    is_kept = (rng.random(before.shape, np.float32) >= dropout) & (before > 0)
    kept = is_kept.astype(np.float32) / np.float32(1 - dropout)
    hidden: Floats = before * kept
    error = _softmax(hidden @ out + out_bias) - answers.targets
    error *= (answers.importance / len(before))[:, None]
    back = (error @ out.T) * kept
    return answers.features.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)


def _softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float32)


def _checked(features: Floats, targets: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    features, targets, weights = (np.asarray(a, np.float32) for a in (features, targets, weights))
    fits = features.ndim == targets.ndim == 2 and weights.ndim == 1
    if not fits or not len(features) == len(targets) == len(weights) or targets.shape[1] < 2:
        raise ValueError(
            f"features (n, features), targets (n, classes >= 2) and weights (n,) must have as many rows, got "
            f"{features.shape}, {targets.shape} and {weights.shape}"
        )
    _check_features(features, features.shape[1])
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite numbers >= 0: how much each answer counts")
    if not ((targets >= 0).all() and np.allclose(targets.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("each row of targets must be shares of the classes: numbers >= 0 with a sum of 1")
    return features, targets, weights


def _check_features(features: Floats, wanted: int) -> None:
    if features.ndim != 2 or features.shape[1] != wanted:
        raise ValueError(f"features of shape (n, {wanted}) are needed, got {features.shape}")
    if not np.isfinite(features).all():
        bad = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(f"features must be finite numbers; row {bad} has others")
