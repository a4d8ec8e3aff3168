from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from simulator import objectives
from simulator.objectives import (
    GOALS,
    Goal,
    Matched,
    Measure,
    bleached_fraction,
    decorrelation_resolution_m,
    find_spots,
    fitted,
    foreground,
    frc,
    frc_resolution_m,
    lost_fraction,
    match_spots,
    mean_squared_error,
    peak_snr_db,
    scaled_error,
    signal_ratio,
    signal_to_noise,
    similarity,
    single_frame_frc_resolution_m,
    thinned,
    unmeasured,
)

PIXEL_M = 20e-9
Image = np.ndarray[Any, Any]


def band_limited(side: int, period_px: float, rng: np.random.Generator, photons: float = 300.0) -> Image:
    """Return expected photons with all details coarser than a period, cut out of something larger."""
    frequency = np.hypot(np.fft.fftfreq(2 * side)[:, None], np.fft.fftfreq(2 * side))
    spectrum = np.fft.fft2(rng.normal(size=(2 * side, 2 * side))) * (frequency < 1 / period_px)
    field = np.fft.ifft2(spectrum).real[:side, :side]
    return np.asarray(photons * np.maximum(0, 1 + 0.25 * field / field.std()))


def spots(places_px: Any, sigma_px: float, side: int = 64, height: float = 100.0, dark: float = 0.0) -> Image:
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side), dark)
    for row, column in places_px:
        image += height * np.exp(-0.5 * ((y - row) ** 2 + (x - column) ** 2) / sigma_px**2)
    return image


# --- Resolution ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 128, 224])
@pytest.mark.parametrize("period_px", [3.0, 5.0, 8.0, 10.0])
def test_decorrelation_finds_a_known_band_limit_to_a_tenth(side: int, period_px: float) -> None:
    rng = np.random.default_rng(side)
    found = []
    for _ in range(6):
        value = decorrelation_resolution_m(rng.poisson(band_limited(side, period_px, rng)), PIXEL_M).value
        assert value is not None
        found.append(value / (period_px * PIXEL_M))
    assert np.mean(found) == pytest.approx(1, abs=0.06)
    assert np.abs(np.array(found) - 1).max() < (0.16 if side == 64 else 0.1)


def test_decorrelation_does_not_depend_on_brightness_scale_or_offset() -> None:
    rng = np.random.default_rng(2)
    image = rng.poisson(band_limited(96, 6, rng)).astype(float)
    plain = decorrelation_resolution_m(image, PIXEL_M).value
    assert decorrelation_resolution_m(image * 3.7, PIXEL_M).value == pytest.approx(plain, rel=1e-6)
    assert decorrelation_resolution_m(image, 2 * PIXEL_M).value == pytest.approx(2 * (plain or 0), rel=1e-6)
    assert decorrelation_resolution_m(image.T, PIXEL_M).value == pytest.approx(plain, rel=0.03)


def test_more_blur_and_more_noise_both_make_the_resolution_worse() -> None:
    rng = np.random.default_rng(3)
    sharp = spots(rng.uniform(5, 123, (60, 2)), 1.0, side=128)
    blurs = [
        decorrelation_resolution_m(rng.poisson(ndimage.gaussian_filter(sharp, sigma) + 0.5), PIXEL_M).value
        for sigma in (1.0, 2.5, 5.0)
    ]
    assert blurs == sorted(blurs, key=lambda value: value or 0)
    image = ndimage.gaussian_filter(sharp, 2)
    noisy = [decorrelation_resolution_m(rng.poisson(image * f + 0.1), PIXEL_M).value for f in (30, 3, 0.3)]
    assert noisy == sorted(noisy, key=lambda value: value or 0)


@pytest.mark.parametrize("side", [32, 64, 128])
def test_noise_has_no_resolution(side: int) -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        noise = rng.poisson(4.0, (side, side))
        assert decorrelation_resolution_m(noise, PIXEL_M).value is None
        pair = rng.poisson(4.0, (side, side))
        low = frc_resolution_m(noise, pair, PIXEL_M).value
        # The mean of three coarse rings may lie above the threshold by chance, never that of fine ones.
        assert low is None or low > 4 * PIXEL_M


def test_decorrelation_is_fast_enough_for_every_step_of_a_training() -> None:
    image = np.random.default_rng(5).poisson(band_limited(64, 5, np.random.default_rng(5)))
    decorrelation_resolution_m(image, PIXEL_M)
    spent_s = []
    for _ in range(20):
        start = time.process_time()
        decorrelation_resolution_m(image, PIXEL_M)
        spent_s.append(time.process_time() - start)
    # 0.6 ms on an idle core.
    assert np.median(spent_s) < 5e-3


@pytest.mark.parametrize("brightness", [10.0, 100.0, 1000.0])
def test_ring_correlation_crosses_the_threshold_where_theory_says(brightness: float) -> None:
    """With signal power S exp(-(2 pi sigma f)^2) and noise N, it is 1/7 where signal by noise is 1/6."""
    rng = np.random.default_rng(6)
    side, sigma = 256, 3.0
    seeds = rng.poisson(0.02, (side, side)).astype(float)
    image = brightness * 2 * np.pi * sigma**2 * ndimage.gaussian_filter(seeds, sigma, mode="wrap")
    signal = 0.02 * (brightness * 2 * np.pi * sigma**2) ** 2
    frequency = np.sqrt(np.log(6 * signal / image.mean())) / (2 * np.pi * sigma)
    first, second = (rng.poisson(image) for _ in range(2))
    found = frc_resolution_m(first, second, PIXEL_M).value
    assert found == pytest.approx(PIXEL_M / frequency, rel=0.1)
    # One image of twice the light holds the same as the two together.
    single = single_frame_frc_resolution_m(rng.poisson(2 * image), PIXEL_M, rng).value
    assert single == pytest.approx(PIXEL_M / frequency, rel=0.1)


def test_ring_correlation_is_one_for_equal_images_and_about_zero_for_strangers() -> None:
    rng = np.random.default_rng(7)
    image = rng.poisson(20, (64, 64))
    frequency, correlation = frc(image, image, PIXEL_M)
    assert correlation == pytest.approx(1.0)
    assert frequency[-1] == pytest.approx(0.5 / PIXEL_M)
    assert len(frequency) == 32
    assert np.abs(frc(image, rng.poisson(20, (64, 64)), PIXEL_M)[1].mean()) < 0.1
    same = frc_resolution_m(image, image, PIXEL_M)
    assert same.value == pytest.approx(2 * PIXEL_M)
    assert same.reason


def test_thinned_halves_are_independent_poisson_images_that_add_up() -> None:
    rng = np.random.default_rng(8)
    image = rng.poisson(6.0, (300, 300))
    first, second = thinned(image, rng)
    assert np.array_equal(first + second, image)
    for half in (first, second):
        assert half.mean() == pytest.approx(3.0, rel=0.02)
        assert half.var() == pytest.approx(3.0, rel=0.03)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.015


@pytest.mark.parametrize("image", [np.full((20, 20), 0.5), np.full((20, 20), -1)])
def test_what_is_not_a_count_cannot_be_split(image: Image) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        thinned(image, np.random.default_rng(0))


# --- Signal and bleaching -----------------------------------------------------------------------


def checkers(bright: float, dark: float, side: int = 120) -> Image:
    """Return squares of 20 pixels, a quarter of them bright."""
    y, x = np.mgrid[:side, :side] // 20
    return np.where((y % 2 == 0) & (x % 2 == 0), bright, dark)


@pytest.mark.parametrize(("bright", "dark"), [(100.0, 1.0), (9.0, 0.5), (2.0, 0.0)])
def test_signal_to_noise_is_that_of_poisson_photons(bright: float, dark: float) -> None:
    rng = np.random.default_rng(9)
    found = signal_to_noise(rng.poisson(checkers(bright, dark))).value
    assert found == pytest.approx((bright - dark) / np.sqrt(bright), rel=0.12)


def test_signal_ratio_is_what_is_left_of_the_confocal_signal() -> None:
    rng = np.random.default_rng(10)
    confocal, sted = rng.poisson(checkers(50, 2)), rng.poisson(checkers(20, 2))
    assert signal_ratio(sted, confocal).value == pytest.approx(18 / 48, rel=0.05)
    assert signal_ratio(confocal, confocal).value == pytest.approx(1.0)
    assert signal_ratio(np.zeros((120, 120)), confocal).value == 0.0


def test_an_unbleached_pair_is_not_taken_for_a_bleached_one_however_faint_it_is() -> None:
    rng = np.random.default_rng(11)
    image = ndimage.gaussian_filter(checkers(2.0, 0.1), 3)
    found = [bleached_fraction(rng.poisson(image), rng.poisson(image)) for _ in range(60)]
    values = np.array([measure.value for measure in found], dtype=float)
    errors = np.array([measure.std for measure in found], dtype=float)
    assert np.abs(values.mean()) < 3 * errors.mean() / np.sqrt(60)
    assert values.std() == pytest.approx(errors.mean(), rel=0.35)
    # Choosing the foreground by the first image's own pixels would see 20 % and more.
    biased = [
        1 - second[first > 3].mean() / first[first > 3].mean()
        for first, second in ((rng.poisson(image), rng.poisson(image)) for _ in range(20))
    ]
    assert np.mean(biased) > 0.2


@pytest.mark.parametrize("lost", [0.1, 0.5, 0.95])
def test_bleaching_is_found_as_it_was(lost: float) -> None:
    rng = np.random.default_rng(12)
    before, after = checkers(40.0, 0.0) + 3, (1 - lost) * checkers(40.0, 0.0) + 3
    found = bleached_fraction(rng.poisson(before), rng.poisson(after))
    assert found.value == pytest.approx(lost, abs=4 * (found.std or 0))
    assert found.std == pytest.approx(0.0, abs=0.02)
    assert lost_fraction(before - 3, after - 3).value == pytest.approx(lost)


def test_bright_noise_alone_does_not_make_a_pixel_foreground() -> None:
    image = checkers(10.0, 0.0)
    image[110, 110] = 500.0
    split = foreground(image)
    assert split is not None
    assert not split[0][110, 110]
    assert split[0][10, 10]
    assert not (split[0] & split[1]).any()


# --- Spots --------------------------------------------------------------------------------------


def test_matching_makes_as_many_pairs_as_possible_and_then_the_nearest() -> None:
    # Taking the nearest pair first (1 with 1.1) would leave 0 and 2.2 without a partner.
    found = np.array([[0.0, 0.0], [0.0, 1.1]])
    truth = np.array([[0.0, 1.0], [0.0, 2.0]])
    matched = match_spots(found, truth, 1.05)
    assert (matched.hits, matched.false_alarms, matched.misses) == (2, 0, 0)
    assert matched.distance_m == pytest.approx(0.95)
    assert match_spots(found, truth, 0.5).f1.value == pytest.approx(0.5)


def test_each_spot_is_matched_once() -> None:
    truth = np.array([[0.0, 0.0]])
    found = np.zeros((4, 2))
    matched = match_spots(found, truth, 1.0)
    assert (matched.hits, matched.false_alarms) == (1, 3)
    assert matched.precision.value == 0.25
    assert matched.recall.value == 1.0
    assert matched.f1.value == pytest.approx(2 * 0.25 / 1.25)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=6),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=6),
)
def test_counts_always_add_up(found: list[tuple[int, int]], truth: list[tuple[int, int]]) -> None:
    matched = match_spots(np.array(found, float), np.array(truth, float), 1.5)
    assert matched.hits + matched.false_alarms == len(found)
    assert matched.hits + matched.misses == len(truth)
    other = match_spots(np.array(truth, float), np.array(found, float), 1.5)
    assert other.hits == matched.hits
    f1 = matched.f1.value
    assert f1 is None or 0 <= f1 <= 1


def test_f1_of_nothing_is_unmeasured_and_of_false_alarms_zero() -> None:
    nothing = np.zeros((0, 2))
    assert match_spots(nothing, nothing, 1.0).f1.value is None
    assert match_spots(np.ones((3, 2)), nothing, 1.0).f1.value == 0.0
    assert match_spots(nothing, np.ones((3, 2)), 1.0).f1.value == 0.0
    assert match_spots(nothing, np.ones((3, 2)), 1.0) == Matched(0, 0, 3, None)


def test_spots_are_found_where_they_are() -> None:
    rng = np.random.default_rng(13)
    y, x = np.mgrid[8:120:14, 8:120:14]
    places = np.stack([y.ravel(), x.ravel()], axis=1) + rng.uniform(-2, 2, (64, 2))
    photons = rng.poisson(spots(places, 2.0, side=120, height=40.0, dark=1.0))
    found = find_spots(photons, PIXEL_M, 2.0 * 2.355 * PIXEL_M)
    matched = match_spots(found, (places - 59.5) * PIXEL_M, 2 * PIXEL_M)
    assert matched.f1.value is not None
    assert matched.f1.value > 0.98
    assert matched.distance_m is not None
    assert matched.distance_m < 0.3 * PIXEL_M


@pytest.mark.parametrize("mean", [0.05, 1.0, 30.0])
def test_few_spots_are_found_in_noise(mean: float) -> None:
    rng = np.random.default_rng(14)
    counts = [len(find_spots(rng.poisson(mean, (128, 128)), PIXEL_M, 100e-9)) for _ in range(10)]
    assert np.mean(counts) < 1.0


# --- Likeness -----------------------------------------------------------------------------------


def test_a_sharp_image_of_the_same_thing_fits_its_confocal_image() -> None:
    rng = np.random.default_rng(15)
    sharp = spots(rng.uniform(5, 123, (40, 2)), 1.5, side=128)
    confocal = 0.3 * ndimage.gaussian_filter(sharp, 5.0) + 7.0
    right = scaled_error(sharp, confocal, PIXEL_M)
    assert right.blur_m.value == pytest.approx(5.0 * PIXEL_M, rel=0.02)
    assert right.correlation.value == pytest.approx(1.0, abs=1e-4)
    assert right.error.value == pytest.approx(0.0, abs=0.01)
    made_up = sharp + spots(rng.uniform(5, 123, (20, 2)), 1.5, side=128)
    wrong = scaled_error(made_up, confocal, PIXEL_M)
    assert wrong.correlation.value is not None
    assert wrong.correlation.value < 0.95
    assert (wrong.error.value or 0) > 0.1


def test_a_fit_undoes_scale_and_offset_but_not_a_sign() -> None:
    truth = np.random.default_rng(16).random((30, 30))
    assert fitted(5 * truth - 3, truth) == pytest.approx(truth)
    assert fitted(-truth, truth) == pytest.approx(np.full((30, 30), truth.mean()))


def test_similarity_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(17)
    truth = band_limited(80, 8, rng)
    image = rng.poisson(truth).astype(float)
    expected = metrics.structural_similarity(
        image,
        truth,
        data_range=np.ptp(truth),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert similarity(image, truth).value == pytest.approx(expected, abs=2e-3)
    assert similarity(truth, truth).value == pytest.approx(1.0)
    assert peak_snr_db(image, truth).value == pytest.approx(
        metrics.peak_signal_noise_ratio(truth, image, data_range=np.ptp(truth))
    )
    assert mean_squared_error(image, truth).value == pytest.approx(((image - truth) ** 2).mean())
    assert peak_snr_db(truth, truth).value == 100.0


# --- All of them --------------------------------------------------------------------------------

SINGLE: dict[str, Callable[[Image], Measure]] = {
    "decorrelation": lambda image: decorrelation_resolution_m(image, PIXEL_M),
    "single frame": lambda image: single_frame_frc_resolution_m(image, PIXEL_M, np.random.default_rng(0)),
    "signal to noise": signal_to_noise,
}
PAIR: dict[str, Callable[[Image, Image], Measure]] = {
    "ring correlation": lambda one, other: frc_resolution_m(one, other, PIXEL_M),
    "signal ratio": signal_ratio,
    "bleached": bleached_fraction,
    "lost": lost_fraction,
    "scaled error": lambda one, other: scaled_error(one, other, PIXEL_M).error,
    "scaled correlation": lambda one, other: scaled_error(one, other, PIXEL_M).correlation,
    "mean squared error": mean_squared_error,
    "peak snr": peak_snr_db,
    "similarity": similarity,
}

HARD: list[Image] = [
    np.zeros((64, 64)),
    np.ones((64, 64)),
    np.eye(64),
    np.ones((1, 1)),
    np.zeros((64, 1)),
    np.arange(400.0).reshape(20, 20),
    np.full((33, 47), 2**31),
    np.where(np.arange(2500).reshape(50, 50) == 1200, 1000, 0),
]


@pytest.mark.parametrize("image", HARD)
@pytest.mark.parametrize("name", [*SINGLE, *PAIR])
def test_a_value_is_finite_or_absent_with_a_reason(name: str, image: Image) -> None:
    """A measure refuses nan by itself, and warnings are errors in these tests."""
    measures = [SINGLE[name](image)] if name in SINGLE else []
    if name in PAIR:
        measures += [PAIR[name](image, image), PAIR[name](image, np.zeros(image.shape))]
    for measure in measures:
        assert (measure.value is None) == (measure.value is None and bool(measure.reason))
        for goal in GOALS.values():
            assert 0 <= goal.score(measure) <= 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mean=st.sampled_from([0.001, 0.1, 5.0, 1e4]),
)
def test_any_image_of_photons_can_be_measured(seed: int, shape: tuple[int, int], mean: float) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.poisson(mean, shape), rng.poisson(mean * rng.random(shape))
    for single in SINGLE.values():
        single(one)
    for pair in PAIR.values():
        pair(one, other)
    find_spots(other, PIXEL_M, 100e-9)


@pytest.mark.parametrize("bad", [np.full((64, 64), np.nan), np.zeros(5), np.zeros((0, 0))])
@pytest.mark.parametrize("name", [*SINGLE, *PAIR])
def test_what_is_no_image_is_refused(name: str, bad: Image) -> None:
    with pytest.raises(ValueError, match=r"image \(y, x\)|nan or infinite"):
        SINGLE[name](bad) if name in SINGLE else PAIR[name](bad, bad)


@pytest.mark.parametrize("name", PAIR)
def test_images_of_different_shape_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be equal"):
        PAIR[name](np.ones((20, 20)), np.ones((20, 21)))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_lengths_are_refused_by_their_name(value: float) -> None:
    image = np.ones((20, 20))
    for call, key in (
        (lambda: decorrelation_resolution_m(image, value), "pixel_size_m"),
        (lambda: frc_resolution_m(image, image, value), "pixel_size_m"),
        (lambda: match_spots(np.zeros((1, 2)), np.zeros((1, 2)), value), "tolerance_m"),
        (lambda: find_spots(image, PIXEL_M, value), "width_m"),
        (lambda: scaled_error(image, image, PIXEL_M, value), "blur_max_m"),
    ):
        with pytest.raises(ValueError, match=key):
            call()
    with pytest.raises(ValueError, match="found_yx_m"):
        match_spots(np.full((1, 2), np.nan), np.zeros((1, 2)), 1.0)
    with pytest.raises(ValueError, match="threshold"):
        frc_resolution_m(image, image, PIXEL_M, 1.0)


def test_a_goal_scores_between_its_bounds_and_what_is_not_measured_as_worst() -> None:
    goal = Goal("resolution", "m", 250e-9, 50e-9)
    assert goal.score(Measure(150e-9)) == pytest.approx(0.5)
    assert (goal.score(Measure(1e-9)), goal.score(Measure(1.0))) == (1.0, 0.0)
    assert goal.score(unmeasured("dark")) == 0.0
    with pytest.raises(ValueError, match="two numbers"):
        Goal("none", "m", 1.0, 1.0)


def test_a_measure_cannot_be_nan_or_absent_without_a_reason() -> None:
    with pytest.raises(ValueError, match="finite"):
        Measure(float("nan"))
    with pytest.raises(ValueError, match="finite"):
        Measure(1.0, std=float("inf"))
    with pytest.raises(ValueError, match="reason"):
        Measure(None)


def test_every_name_that_is_promised_is_there() -> None:
    for name in objectives.__all__:
        assert hasattr(objectives, name)
