"""The probability that somebody picks one of several options, and the linear utility that fits choices best.

Options come padded: one row for each choice, ``is_there`` says which of its options exist.

Source: R. D. Luce, "Individual Choice Behavior" (1959); R. L. Plackett, Applied Statistics 24, 193 (1975).
With two options it is the model of R. A. Bradley and M. E. Terry, Biometrika 39, 324 (1952).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Of Newton's method; the function is strictly concave, and so smooth that ten steps are usual.
_STEPS_MAX = 100
_HALVINGS_MAX = 40
_TOLERANCE = 1e-9


def choice_probabilities(utilities: Floats, is_there: Bools) -> Floats:
    """Return how probable it is that each option is picked, shape ``(..., options)``, 0 for padding."""
    shown = np.where(is_there, utilities, -np.inf)
    odds = np.exp(shown - shown.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def choice_information(utilities: Floats) -> Floats:
    """Return what a pick tells of which member is right, in nats, ≥ 0 but for rounding, shape ``(sets,)``.

    Parameters
    ----------
    utilities
        What each member says of each option of several sets, shape ``(members, sets, options)``.

    References
    ----------
    N. Houlsby et al., "Bayesian active learning for classification and preference learning" (2011).
    """
    chance = choice_probabilities(utilities, np.ones(utilities.shape[-1], np.bool_))
    return np.asarray(_entropy(chance.mean(axis=0)) - _entropy(chance).mean(axis=0))


def fit_weights(
    options: Floats, is_there: Bools, chosen: NDArray[np.intp], weight: Floats, ridge: float
) -> Floats:
    """Return the weights of the linear utility under which choices are most likely.

    The same choices give the same weights, bit for bit.

    Parameters
    ----------
    options
        Features, shape ``(choices, options, features)``; padding is 0.
    is_there
        Shape ``(choices, options)``.
    chosen
        Number of the option that was picked, shape ``(choices,)``.
    weight
        How often each choice counts, shape ``(choices,)``.
    ridge
        Weight (> 0) of the prior that all features are worth nothing. It keeps choices without any
        contradiction from asking for infinite weights.
    """
    # Less the option that was picked: where options are alike in a feature, its weight stays exactly 0.
    picked = np.take_along_axis(options, chosen[:, None, None], axis=1)
    beyond = np.where(is_there[..., None], options - picked, 0.0)
    weights = np.zeros(options.shape[-1])

    def likelihood(at: Floats) -> float:
        utilities = np.where(is_there, beyond @ at, -np.inf)
        top = utilities.max(axis=1)
        total = top + np.log(np.exp(utilities - top[:, None]).sum(axis=1))
        return float(-weight @ total - ridge / 2 * at @ at)

    for _ in range(_STEPS_MAX):
        chance = choice_probabilities(beyond @ weights, is_there)
        mean = (chance[..., None] * beyond).sum(axis=1)
        slope = -weight @ mean - ridge * weights
        around = beyond - mean[:, None]
        curvature = np.einsum("c,co,cof,cog->fg", weight, chance, around, around, optimize=True)
        step = np.linalg.solve(curvature + ridge * np.eye(len(weights)), slope)
        now = likelihood(weights)
        for _ in range(_HALVINGS_MAX):
            if likelihood(weights + step) >= now:
                weights = weights + step
                break
            step = step / 2
        if np.abs(step).max(initial=0.0) <= _TOLERANCE * (1 + np.abs(weights).max(initial=0.0)):
            break
    return weights


def _entropy(chance: Floats) -> Floats:
    return np.asarray(-(chance * np.log(np.maximum(chance, 1e-300))).sum(axis=-1))
