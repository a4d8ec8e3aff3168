from __future__ import annotations

import numpy as np
import pytest

from policies.gaussian_process import GaussianProcess, KernelName, correlation


def measured(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((count, 3))
    return x, np.sin(4 * x[:, 0]) + x[:, 1] ** 2 + 0.1 * rng.standard_normal(count)


def fitted(count: int = 12, kernel: KernelName = "matern52") -> GaussianProcess:
    model = GaussianProcess(3, kernel=kernel)
    model.fit(*measured(count))
    return model


@pytest.mark.parametrize("kernel", ["matern52", "rbf"])
def test_the_posterior_is_that_of_conditioning_the_joint_gaussian(kernel: KernelName) -> None:
    model = fitted(kernel=kernel)
    (x, y), points = measured(12), np.random.default_rng(1).random((5, 3))
    hyper = model.hyperparameters
    # The other way: the precision matrix of all variables, whose block is the posterior precision.
    everything = np.concatenate([points, x]) / np.array(hyper.length_scales)
    gaps = ((everything[:, None] - everything[None]) ** 2).sum(-1)
    signal = (model.noise_std / y.std()) ** 2 / hyper.noise_ratio
    joint = signal * correlation(kernel, gaps)
    joint[5:, 5:] += (model.noise_std / y.std()) ** 2 * np.eye(12)
    precision = np.linalg.inv(joint + 1e-12 * np.eye(17))
    covariance = np.linalg.inv(precision[:5, :5])
    expected = y.mean() - y.std() * covariance @ precision[:5, 5:] @ ((y - y.mean()) / y.std())
    mean, std = model.predict(points)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    np.testing.assert_allclose(std, y.std() * np.sqrt(np.diag(covariance)), rtol=1e-4)


def test_the_matern_kernel_has_its_known_value() -> None:
    # Rasmussen and Williams, equation 4.17, at one length scale.
    expected = (1 + 5**0.5 + 5 / 3) * np.exp(-(5**0.5))
    assert correlation("matern52", np.array([1.0]))[0] == pytest.approx(expected)


@pytest.mark.parametrize("kernel", ["matern52", "rbf"])
def test_function_draws_have_the_posterior_mean_and_variance(kernel: KernelName) -> None:
    """20 comparisons (2 kernels, 5 points, 2 moments) at 4.5 sigma: a false alarm in 7000 fresh seeds."""
    model, points = fitted(kernel=kernel), np.random.default_rng(2).random((5, 3))
    rng = np.random.default_rng(3)
    draws = np.array([model.draw(rng, frequencies=64)(points) for _ in range(4000)])
    mean, std = model.predict(points)
    errors = draws - mean
    assert np.all(abs(errors.mean(0)) < 4.5 * std / np.sqrt(4000))
    squares = errors**2
    assert np.all(abs(squares.mean(0) - std**2) < 4.5 * squares.std(0) / np.sqrt(4000))


def test_all_points_see_the_same_function_in_one_draw() -> None:
    model, points = fitted(), np.random.default_rng(4).random((6, 3))
    function = model.draw(np.random.default_rng(5))
    np.testing.assert_allclose(function(points)[3:], function(points[3:]), atol=1e-12)
    near = function(points + 1e-7)
    np.testing.assert_allclose(near, function(points), atol=1e-4)


def test_before_the_first_measurement_it_answers_the_prior() -> None:
    model, points = GaussianProcess(2), np.zeros((3, 2))
    mean, std = model.predict(points)
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_array_equal(std, 1.0)
    assert np.isfinite(model.draw(np.random.default_rng(0))(points)).all()


@pytest.mark.parametrize("values", [[2.0], [3.0, 3.0, 3.0]])
def test_one_or_equal_measurements_are_enough_to_fit(values: list[float]) -> None:
    model = GaussianProcess(1)
    model.fit(np.linspace(0, 1, len(values))[:, None], np.array(values))
    mean, std = model.predict(np.array([[0.0], [0.9]]))
    np.testing.assert_allclose(mean, values[0])
    assert np.isfinite(std).all()


def test_what_is_not_finite_is_not_learned() -> None:
    with pytest.raises(ValueError, match="finite"):
        GaussianProcess(1).fit(np.array([[0.5]]), np.array([np.nan]))


def test_the_search_finds_which_parameter_matters_and_how_noisy_it_is() -> None:
    rng = np.random.default_rng(6)
    x = rng.random((80, 2))
    model = GaussianProcess(2)
    model.fit(x, np.sin(6 * x[:, 0]) + 0.1 * rng.standard_normal(80))
    relevant, irrelevant = model.hyperparameters.length_scales
    assert irrelevant > 3 * relevant
    # The standard error of a standard deviation from 80 values is 8 %.
    assert model.noise_std == pytest.approx(0.1, rel=0.35)
