"""What somebody prefers: a utility that is declared, or one that is learned from choices between two scans.

A scan is judged by its scores alone: 0 (worst or not measured) to 1 (best) of each of ``OBJECTIVES``,
in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from controller.core.choosing import fit_weights
from controller.core.errors import ConfigurationError
from controller.core.settings import NonNegative, Settings
from simulator.environments.rewards import OBJECTIVES

Vector = NDArray[np.float64]

#: Weight of the prior that all objectives are worth nothing. It keeps choices without any
#: contradiction from asking for infinite weights.
_RIDGE = 1e-2


class Utility(Settings):
    """A utility that is declared: the mean score, weighted by what each objective is worth.

    An image without any depletion has the best signal ratio there is, a good signal to noise and bleaches
    least. So resolution is worth more than these by default, and the signal ratio nothing: with all
    worth the same, the best scan is a confocal one.
    """

    resolution_m: NonNegative = 4.0
    signal_to_noise: NonNegative = 1.0
    signal_ratio: NonNegative = 0.0
    bleached_fraction: NonNegative = 2.0

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if not sum(self.weights()) > 0:
            raise ValueError(f"one of {', '.join(OBJECTIVES)} must be worth more than 0")
        return self

    def weights(self) -> Vector:
        """Return the weight of each objective, shape ``(objectives,)``."""
        return np.array([getattr(self, name) for name in OBJECTIVES])

    def model(self) -> PreferenceModel:
        """Return the utility as a model of preference."""
        return PreferenceModel(self.weights())


@dataclass(frozen=True, slots=True, eq=False)
class PreferenceModel:
    """A utility that is linear in the scores, from 0 (the worst of everything) to 1 (the best).

    Attributes
    ----------
    weights
        What a whole score of each objective is worth, shape ``(objectives,)``; what is negative is
        better small. Their sum of absolute values is how decided choices are.
    """

    weights: Vector

    def utilities(self, scores: Vector) -> Vector:
        """Return the utility, 0..1, of scores of shape ``(..., objectives)``."""
        worst = np.minimum(self.weights, 0.0).sum()
        # Not `@`, whose last bit depends on how many are judged at once: equal scans must tie.
        worth = (scores * self.weights).sum(axis=-1)
        return np.asarray((worth - worst) / np.abs(self.weights).sum(), np.float64)

    def named(self) -> dict[str, float]:
        """Return what each objective is worth, the absolute values adding up to 1."""
        shares = self.weights / np.abs(self.weights).sum()
        return {name: float(share) for name, share in zip(OBJECTIVES, shares, strict=True)}


def vector(scores: Mapping[str, float]) -> Vector:
    """Return named scores in the order of ``OBJECTIVES``."""
    return np.array([scores[name] for name in OBJECTIVES])


def fitted(preferred: Vector, others: Vector) -> PreferenceModel:
    """Learn a preference from choices: the Bradley-Terry model, its utility linear in the scores.

    The odds of preferring ``a`` to ``b`` are ``exp(weights · (a - b))``; the weights are the most likely
    ones, with a weak prior for 0. The same choices give the same weights, bit for bit.

    Parameters
    ----------
    preferred, others
        Scores of the two scans of each choice, shape ``(choices, objectives)``.

    Raises
    ------
    ConfigurationError
        If the choices do not tell anything: the two scans of each are alike.

    Notes
    -----
    R. A. Bradley and M. E. Terry, Biometrika 39, 324 (1952).
    """
    pairs = np.stack([preferred, others], axis=1).astype(np.float64)
    if not np.ptp(pairs, axis=1).max(initial=0.0) > 0:
        raise ConfigurationError("no comparison tells what is preferred: the two scans of each score alike")
    count = len(pairs)
    weights = fit_weights(
        pairs, np.ones((count, 2), np.bool_), np.zeros(count, np.intp), np.ones(count), _RIDGE
    )
    if not np.abs(weights).sum() > 0:
        raise ConfigurationError("the comparisons contradict each other: nothing is preferred on the whole")
    return PreferenceModel(weights)
