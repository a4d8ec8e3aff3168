from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special

from controller.learning.calibration import (
    COLDEST,
    HOTTEST,
    CalibrationError,
    brier_score,
    error_auroc,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    sparsification,
)

Floats = NDArray[np.float64]


def foreground(temperature: float, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    """Return logits that are ``temperature`` times too large, and labels, shape ``(100, 100)``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (100, 100))
    labels = (rng.random(logits.shape) < special.expit(logits)).astype(np.int64)
    return temperature * logits, labels


def classes(temperature: float, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    """Return logits of 4 classes that are ``temperature`` times too large, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (4, 100, 100))
    noise = rng.gumbel(size=logits.shape)
    return temperature * logits, np.argmax(logits + noise, axis=0)


@pytest.mark.parametrize("make", [foreground, classes])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_found(
    make: Callable[[float], tuple[Floats, NDArray[np.int64]]], temperature: float
) -> None:
    logits, labels = make(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("make", [foreground, classes])
def test_the_temperature_mends_held_out_probabilities(
    make: Callable[[float, int], tuple[Floats, NDArray[np.int64]]],
) -> None:
    temperature = fit_temperature(*make(3.0, 1))
    logits, labels = make(3.0, 2)

    def probabilities(values: Floats) -> Floats:
        return np.asarray(special.expit(values) if values.ndim == 2 else special.softmax(values, axis=0))

    raw, mended = probabilities(logits), probabilities(logits / temperature)
    assert expected_calibration_error(raw, labels) > 0.08
    assert expected_calibration_error(mended, labels) < 0.02
    assert brier_score(mended, labels) < brier_score(raw, labels)
    assert negative_log_likelihood(mended, labels) < negative_log_likelihood(raw, labels)


def test_unlabelled_pixels_count_nowhere() -> None:
    logits, labels = foreground(2.0)
    labels[:50] = -1
    spoilt = logits.copy()
    spoilt[:50] = 1000.0
    assert fit_temperature(spoilt, labels) == fit_temperature(logits[50:], labels[50:])
    values, spoilt_values = special.expit(logits), special.expit(spoilt)
    for measure in (brier_score, expected_calibration_error, negative_log_likelihood):
        assert measure(spoilt_values, labels) == measure(values[50:], labels[50:])


def test_what_is_always_right_has_no_temperature_below_the_coldest() -> None:
    labels = np.array([0, 1, 1, 0])
    assert fit_temperature(np.where(labels == 1, 5.0, -5.0), labels) == pytest.approx(COLDEST)
    assert fit_temperature(np.where(labels == 1, -5.0, 5.0), labels) == pytest.approx(HOTTEST)


def test_measures_are_those_counted_by_hand() -> None:
    probability = np.array([0.1, 0.1, 0.9, 0.9])
    labels = np.array([0, 1, 1, 1])
    table = reliability(probability, labels, bins=10)
    np.testing.assert_allclose(table.said, [0.1, 0.9])
    np.testing.assert_allclose(table.came_true, [0.5, 1.0])
    np.testing.assert_array_equal(table.cases, [2, 2])
    assert table.expected_calibration_error == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    halves = reliability(np.array([0.4, 0.49, 0.51]), np.array([0, 1, 1]), bins=2)
    np.testing.assert_array_equal(halves.cases, [2, 1])
    assert brier_score(probability, labels) == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    expected = -(3 * np.log(0.9) + np.log(0.1)) / 4
    assert negative_log_likelihood(probability, labels) == pytest.approx(expected)


def test_several_classes_are_judged_by_the_likeliest() -> None:
    probabilities = np.array([[0.7, 0.2], [0.2, 0.2], [0.1, 0.6]])
    labels = np.array([0, 1])
    table = reliability(probabilities, labels, bins=5)
    np.testing.assert_allclose(table.said, [0.65])  # 0.7 and 0.6 are in one bin of five
    np.testing.assert_allclose(table.came_true, [0.5])
    assert brier_score(probabilities, labels) == pytest.approx((0.09 + 0.04 + 0.01 + 0.04 + 0.64 + 0.36) / 2)


def test_probabilities_of_zero_and_one_have_a_bin() -> None:
    table = reliability(np.array([0.0, 1.0]), np.array([0, 1]))
    np.testing.assert_array_equal(table.cases, [1, 1])
    assert table.expected_calibration_error == 0
    assert negative_log_likelihood(np.array([0.0]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_true_probabilities_have_the_error_of_chance_alone() -> None:
    logits, labels = foreground(1.0)
    assert expected_calibration_error(special.expit(logits), labels) < 0.02


def test_errors_are_told_by_uncertainty_as_counted_by_hand() -> None:
    # Of 2 x 3 pairs of an error and a right answer: 4 in order, 1 tie, 1 not.
    uncertainty = np.array([0.9, 0.3, 0.1, 0.3, 0.5])
    is_error = np.array([True, True, False, False, False])
    assert error_auroc(uncertainty, is_error) == pytest.approx((3 + 1 + 0.5) / 6)
    assert error_auroc(-uncertainty, is_error) == pytest.approx(1 - 4.5 / 6)
    assert error_auroc(np.zeros(5), is_error) == 0.5
    assert np.isnan(error_auroc(uncertainty, np.zeros(5, np.bool_)))
    assert np.isnan(error_auroc(uncertainty, np.ones(5, np.bool_)))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 30))
def test_the_area_is_the_chance_that_an_error_is_less_sure(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    uncertainty = rng.integers(0, 5, size) / 4
    is_error = np.arange(size) < rng.integers(1, size)
    one, other = uncertainty[is_error][:, None], uncertainty[~is_error][None]
    expected = np.mean((one > other) + 0.5 * (one == other))
    assert error_auroc(uncertainty, is_error) == pytest.approx(expected)


def test_the_least_sure_are_taken_away_first() -> None:
    error = np.array([1.0, 0.0, 0.5, 0.0])
    best = sparsification(error, error, steps=4)
    np.testing.assert_allclose(best.removed, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(best.error, [1.5 / 4, 0.5 / 3, 0, 0])
    assert best.area == 0
    worst = sparsification(-error, error, steps=4)
    np.testing.assert_allclose(worst.error, [1.5 / 4, 1.5 / 3, 1.5 / 2, 1.0])
    blind = sparsification(np.zeros(4), error, steps=4)
    np.testing.assert_allclose(blind.error, 1.5 / 4)
    assert 0 < blind.area < worst.area
    above = np.array([0, 1.5 / 4 - 0.5 / 3, 1.5 / 4, 1.5 / 4]) / (1.5 / 4)
    by_hand = 0.25 * (above[0] / 2 + above[1] + above[2] + above[3] / 2)
    assert blind.area == pytest.approx(by_hand)
    assert sparsification(error, np.zeros(4)).area == 0


@pytest.mark.parametrize(
    ("probabilities", "labels", "match"),
    [
        (np.full((3, 4), 0.5), np.full((3, 4), -1), "no pixel is labelled"),
        (np.full((3, 4), 0.5), np.full((3, 4), 2), "label 2 is not one of 2 classes"),
        (np.full((2, 3, 4), 0.5), np.full((3, 4), 2), "label 2 is not one of 2 classes"),
        (np.full((3, 4), 0.5), np.zeros((4, 3), int), "neither"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    probabilities: Floats, labels: NDArray[np.int64], match: str
) -> None:
    for measure in (brier_score, expected_calibration_error, negative_log_likelihood, fit_temperature):
        with pytest.raises(CalibrationError, match=match):
            measure(probabilities, labels)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    for measure in (reliability, brier_score, negative_log_likelihood):
        with pytest.raises(CalibrationError, match="take expit or softmax first"):
            measure(np.array([0.5, wrong]), np.array([0, 1]))
        measure(np.array([0.5, wrong]), np.array([0, -1]))


def test_what_is_no_uncertainty_is_refused() -> None:
    for measure in (error_auroc, sparsification):
        with pytest.raises(CalibrationError, match="finite"):
            measure(np.array([0.1, np.nan]), np.array([0, 1]))
        with pytest.raises(CalibrationError, match="one shape"):
            measure(np.zeros(3), np.zeros(4))
    with pytest.raises(CalibrationError, match="finite"):
        fit_temperature(np.array([0.1, np.inf]), np.array([0, 1]))
