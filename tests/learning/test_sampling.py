import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from controller.learning.calibration import expected_calibration_error
from controller.learning.sampling import (
    SamplingError,
    count_classes,
    draw_corners,
    effective_number_weights,
    inverse_frequency_weights,
    median_frequency_weights,
    patch_probabilities,
    prior_shift,
    shown_prior,
)


def test_unlabelled_pixels_are_not_counted() -> None:
    labels = np.array([[0, 0, 2], [-1, 2, -1]])
    np.testing.assert_array_equal(count_classes(labels, 4), [2, 0, 2, 0])


def test_patches_with_a_rare_class_come_up_more_often() -> None:
    # Class 1 is in one patch of four, class 0 in all; the last patch has no label.
    pixels = [[9, 0], [9, 0], [5, 4], [9, 0], [0, 0]]
    np.testing.assert_allclose(patch_probabilities(pixels, 0), [0.25, 0.25, 0.25, 0.25, 0])
    # Class 0 is in 4 patches of 5, class 1 in 1 of 5.
    weights = np.array([1 / 0.8, 1 / 0.8, 1 / 0.2, 1 / 0.8, 0])
    np.testing.assert_allclose(patch_probabilities(pixels, 1), weights / weights.sum())
    half = np.sqrt(weights)
    np.testing.assert_allclose(patch_probabilities(pixels), half / half.sum())


def test_without_labels_there_is_nothing_to_draw() -> None:
    for call in (
        lambda: patch_probabilities(np.zeros((3, 2))),
        lambda: draw_corners(np.full((9, 9), -1), (3, 3), 1, np.random.default_rng(0)),
        lambda: draw_corners(np.zeros((9, 9), int), (10, 3), 1, np.random.default_rng(0)),
        lambda: inverse_frequency_weights([0, 0]),
    ):
        with pytest.raises(SamplingError):
            call()


@pytest.mark.parametrize(
    ("exponent", "least", "most"), [(0.0, 0.0, 0.03), (0.5, 0.05, 0.14), (1.0, 0.42, 0.58)]
)
def test_drawn_patches_show_the_rare_class_as_often_as_asked(
    exponent: float, least: float, most: float
) -> None:
    labels = np.zeros((100, 100), np.int16)
    labels[50:60, 50:60] = 1  # a hundredth
    # One pixel each, so that what a patch shows is what was drawn.
    corners = draw_corners(labels, (1, 1), 400, np.random.default_rng(0), exponent=exponent)
    shown = np.mean([labels[row, column] for row, column in corners])
    assert least <= shown <= most


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    exponent=st.floats(0, 1),
)
def test_each_patch_lies_inside_and_shows_a_label(
    seed: int, shape: tuple[int, int], part: tuple[float, float], exponent: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(shape) < 0.1, rng.integers(0, 3, shape), -1)
    labels[tuple(rng.integers(shape))] = 0
    size = (1 + int(part[0] * (shape[0] - 1)), 1 + int(part[1] * (shape[1] - 1)))
    for row, column in draw_corners(labels, size, 20, rng, exponent=exponent):
        patch = labels[row : row + size[0], column : column + size[1]]
        assert patch.shape == size
        assert patch.max() >= 0


def test_the_pixel_that_was_drawn_may_lie_anywhere_in_its_patch() -> None:
    labels = np.full((60, 60), -1)
    labels[30, 30] = 0
    corners = draw_corners(labels, (8, 8), 2000, np.random.default_rng(1))
    offsets, counts = np.unique(30 - corners[:, 0], return_counts=True)
    np.testing.assert_array_equal(offsets, np.arange(8))
    assert counts.min() > 190


def test_the_same_chance_draws_the_same_patches() -> None:
    labels = np.random.default_rng(2).integers(-1, 3, (40, 40))
    one, other = (draw_corners(labels, (8, 8), 30, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_inverse_frequency_makes_classes_count_alike_up_to_the_cap() -> None:
    weights = inverse_frequency_weights([600, 300, 100, 0])
    np.testing.assert_allclose(weights * [600, 300, 100, 0], [1000 / 3] * 3 + [0])
    capped = inverse_frequency_weights([9990, 10], largest=10)
    assert capped[1] / capped[0] == pytest.approx(10)
    assert np.sum(capped * [9990, 10]) / 10000 == pytest.approx(1)


def test_median_frequency_heeds_how_much_of_its_images_a_class_fills() -> None:
    # Class 1 is in one image of two, and half of that; class 2 is in both, and a tenth.
    pixels = np.array([[40, 50, 10], [90, 0, 10]])
    weights = median_frequency_weights(pixels)
    parts = np.array([130 / 200, 50 / 100, 20 / 200])
    np.testing.assert_allclose(weights / weights[1], parts[1] / parts)
    assert np.sum(weights * pixels.sum(axis=0)) / 200 == pytest.approx(1)
    # Twice the images without class 1 make it no rarer.
    more = median_frequency_weights(np.vstack([pixels, [[90, 0, 10]]]))
    assert more[1] / more[2] == pytest.approx(weights[1] / weights[2])


def test_effective_numbers_go_from_no_weights_to_inverse_frequency() -> None:
    examples = [1000, 100, 10, 0]
    flat = effective_number_weights(examples, 0)
    np.testing.assert_allclose(flat, [1, 1, 1, 0])
    steep = effective_number_weights(examples, 1 - 1e-9)
    np.testing.assert_allclose(steep[:3] / steep[0], [1, 10, 100], rtol=1e-5)
    # Cui et al. 2019, equation 2.
    between = effective_number_weights(examples, 0.99)
    worth = (1 - 0.99 ** np.array([1000, 100, 10])) / (1 - 0.99)
    np.testing.assert_allclose(between[:3] / between[0], worth[0] / worth)


@pytest.mark.parametrize("wrong", [[-1, 2], [np.nan, 1], [np.inf, 1], [[1, 2]]])
def test_what_is_no_count_is_refused(wrong: list[float]) -> None:
    for weigh in (inverse_frequency_weights, effective_number_weights):
        with pytest.raises(SamplingError):
            weigh(wrong)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_options_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(SamplingError):
        patch_probabilities([[1, 1]], value)
    with pytest.raises(SamplingError):
        effective_number_weights([1, 1], value)
    with pytest.raises(SamplingError):
        inverse_frequency_weights([1, 1], min(value, 0.9))


def test_a_prior_is_shifted_as_bayes_says() -> None:
    # P(x | class) = (0.2, 0.6): with priors of one half 0.75, with 0.9 and 0.1 it is 0.06 / 0.24.
    shifted = prior_shift([[0.25], [0.75]], [0.5, 0.5], [0.9, 0.1])
    np.testing.assert_allclose(shifted, [[0.75], [0.25]])
    back = prior_shift(shifted, [0.9, 0.1], [0.5, 0.5])
    np.testing.assert_allclose(back, [[0.25], [0.75]])
    image = np.random.default_rng(0).dirichlet([1, 1, 1], (4, 5)).transpose(2, 0, 1)
    there = prior_shift(image, [0.2, 0.3, 0.5], [0.6, 0.3, 0.1])
    np.testing.assert_allclose(there.sum(axis=0), 1)


@pytest.mark.parametrize("prior", [[0.5, 0.6], [1.0, 0.0], [0.5, 0.25, 0.25], [np.nan, 0.5]])
def test_what_is_no_prior_is_refused(prior: list[float]) -> None:
    with pytest.raises(SamplingError, match="true_prior"):
        prior_shift([[0.5], [0.5]], [0.5, 0.5], prior)


def test_weights_spoil_probabilities_and_the_true_prior_mends_them() -> None:
    rng = np.random.default_rng(4)
    labels = (rng.random(20000) < 0.05).astype(int)
    feature = rng.normal(2.0 * labels, 1.0)
    pixels = count_classes(labels, 2)
    weights = inverse_frequency_weights(pixels, largest=100)

    def loss(line: np.ndarray) -> float:
        logit = line[0] * feature + line[1]
        return float(np.mean(weights[labels] * (np.logaddexp(0, logit) - labels * logit)))

    slope, offset = optimize.minimize(loss, np.zeros(2)).x
    fresh = (rng.random(20000) < 0.05).astype(int)
    probability = special.expit(slope * rng.normal(2.0 * fresh, 1.0) + offset)
    trained = shown_prior(pixels, weights)
    np.testing.assert_allclose(trained, [0.5, 0.5])
    mended = prior_shift([1 - probability, probability], trained, pixels / pixels.sum())[1]
    assert expected_calibration_error(probability, fresh) > 0.1
    assert expected_calibration_error(mended, fresh) < 0.01
