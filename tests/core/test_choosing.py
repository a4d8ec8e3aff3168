"""The linear utility is the one under which the choices that were made are most likely."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from controller.core.choosing import Floats, choice_probabilities, fit_weights


def made_up(seed: int) -> tuple[Floats, np.ndarray, np.ndarray, Floats]:
    """Return choices among two to five options; the last feature is alike in all options of a choice."""
    rng = np.random.default_rng(seed)
    options = rng.normal(size=(40, 5, 3))
    options[..., 2] = rng.normal(size=(40, 1))
    is_there = np.arange(5) < rng.integers(2, 6, 40)[:, None]
    options[~is_there] = 0
    noise = rng.gumbel(size=(40, 5))
    chosen = np.where(is_there, options @ [2.0, -1.0, 5.0] + noise, -np.inf).argmax(axis=1)
    return options, is_there, chosen, rng.integers(0, 3, 40).astype(np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_the_weights_are_those_that_a_general_optimiser_finds(seed: int) -> None:
    options, is_there, chosen, weight = made_up(seed)

    def surprise(weights: Floats) -> float:
        chance = choice_probabilities(options @ weights, is_there)
        return float(-weight @ np.log(chance[np.arange(40), chosen]) + 0.05 * weights @ weights)

    found = fit_weights(options, is_there, chosen, weight, 0.1)
    wanted = minimize(surprise, np.zeros(3), method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert found[2] == 0  # exactly: nothing is known to depend on it
    np.testing.assert_array_equal(found, fit_weights(options, is_there, chosen, weight, 0.1))


def test_probabilities_are_of_what_is_there_however_large_the_utilities() -> None:
    utilities = np.array([[1e6, 1e6 - 1, 5e6], [-1e300, 0.0, 0.0]])
    is_there = np.array([[True, True, False], [True, True, True]])
    chance = choice_probabilities(utilities, is_there)
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    np.testing.assert_allclose(chance[0], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0])
    np.testing.assert_allclose(chance[1], [0, 0.5, 0.5])


def test_choices_without_any_contradiction_ask_for_no_infinite_weights() -> None:
    options = np.array([[[1.0], [0.0]]] * 50)
    weights = fit_weights(options, np.ones((50, 2), bool), np.zeros(50, np.intp), np.ones(50), 1e-2)
    assert 1 < weights[0] < 20
