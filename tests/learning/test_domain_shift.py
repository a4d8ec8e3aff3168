"""Images of another day are noticed before anybody labels them, and what differs is said."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from controller.learning.domain_shift import (
    ImageStatistics,
    Look,
    Shift,
    ShiftOptions,
    domain_shift,
    image_statistics,
    statistics_of,
)

PIXEL_M = 20e-9
OPTIONS = ShiftOptions(permutations=199)


def photographed(
    rng: np.random.Generator,
    *,
    psf_px: float = 2.0,
    background: float = 2.0,
    gain: float = 1.0,
    size: int = 48,
) -> NDArray[np.float64]:
    """Return photons of a field of spots; ``gain`` multiplies what the detector says."""
    spots = np.zeros((size, size))
    count = rng.integers(20, 40)
    np.add.at(spots, tuple(rng.integers(0, size, (2, count))), rng.gamma(4.0, 100.0, count))
    return rng.poisson(ndimage.gaussian_filter(spots, psf_px) + background).astype(np.float64) * gain


@cache
def _filters() -> NDArray[np.float64]:
    return np.random.default_rng(99).normal(size=(8, 5, 5))


def encoded(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what an encoder that learned nothing says: means of eight filters' positive parts."""
    scaled = np.sqrt(image)
    return np.array([np.maximum(ndimage.convolve(scaled, one), 0).mean() for one in _filters()])


def day(seed: int, *, psf_px: float = 2.0, background: float = 2.0, gain: float = 1.0) -> Look:
    """Return two images of each of twelve fields; fields differ in their background a little."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(12), 2)
    backgrounds = background * np.exp(rng.normal(0, 0.1, 12))
    images = [photographed(rng, psf_px=psf_px, background=backgrounds[g], gain=gain) for g in groups]
    return Look(
        np.stack([encoded(image) for image in images]),
        statistics_of([image_statistics(image, PIXEL_M) for image in images]),
        groups,
    )


@pytest.fixture(scope="module")
def trained_on() -> Look:
    return day(0)


def compared(trained_on: Look, today: Look) -> Shift:
    return domain_shift(trained_on, today, np.random.default_rng(1), OPTIONS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"psf_px": 3.0}, "blur or size of structures is higher"),
        ({"psf_px": 1.4}, "blur or size of structures is lower"),
        ({"background": 4.0}, "background is higher"),
        ({"gain": 2.0}, "noise is higher"),
    ],
)
def test_what_differs_is_noticed_and_said(trained_on: Look, changes: dict[str, float], words: str) -> None:
    found = compared(trained_on, day(7, **changes))
    assert found.is_shifted
    assert found.p_value is not None
    assert found.p_value <= 0.05
    assert any(words in difference for difference in found.differences), found.differences
    assert words in found.reason


def test_a_like_day_is_called_like(trained_on: Look) -> None:
    found = compared(trained_on, day(8))
    assert found.is_shifted is False
    assert found.differences == ()
    assert "look like those" in found.reason
    assert found.discrepancy == pytest.approx(0, abs=0.2)


def test_false_alarms_about_splits_of_one_day_are_few() -> None:
    """Also where images of one field are much alike: fields are dealt out, not images."""
    alarms = 0
    rng = np.random.default_rng(5)
    options = ShiftOptions(permutations=99)
    for _ in range(300):
        groups = np.repeat(np.arange(16), 3)
        of_field = rng.normal(0, 2.0, (16, 6))[groups]
        looks = of_field + rng.normal(size=of_field.shape)
        is_today = groups >= 8
        sides = [Look(looks[rows], np.abs(looks[rows, :4]), groups[rows]) for rows in (~is_today, is_today)]
        alarms += bool(domain_shift(sides[0], sides[1], rng, options).is_shifted)
    assert alarms / 300 <= 0.05


def test_a_difference_of_the_features_alone_is_an_alarm_too(trained_on: Look) -> None:
    other = day(9)
    found = compared(
        trained_on, replace(other, features=other.features + 3 * trained_on.features.std(axis=0))
    )
    assert found.is_shifted
    assert found.differences == ()
    assert "what the images show" in found.reason


def test_it_is_the_same_again_with_the_same_seed(trained_on: Look) -> None:
    other = day(10)
    assert compared(trained_on, other) == compared(trained_on, other)


@pytest.mark.parametrize(("fields", "others"), [(0, 12), (2, 12), (12, 2), (1, 1)])
def test_too_few_fields_say_nothing(trained_on: Look, fields: int, others: int) -> None:
    first, second = (_first(trained_on, count) for count in (fields, others))
    found = compared(first, second)
    assert (found.is_shifted, found.p_value, found.differences) == (None, None, ())
    assert "too few" in found.reason


def _first(look: Look, fields: int) -> Look:
    rows = look.groups < fields
    return Look(look.features[rows], look.statistics[rows], look.groups[rows])


def test_many_images_are_compared_by_some_of_them(trained_on: Look) -> None:
    features, statistics = (
        np.concatenate([part] * 5) for part in (trained_on.features, trained_on.statistics)
    )
    many = Look(features, statistics, np.arange(len(features)))
    found = domain_shift(many, many, np.random.default_rng(0), ShiftOptions(permutations=99, images_max=30))
    assert found.is_shifted is False


def test_statistics_are_those_that_the_image_was_made_with() -> None:
    rng = np.random.default_rng(2)

    def mean_of(psf_px: float = 2.0, background: float = 2.0) -> ImageStatistics:
        images = [photographed(rng, psf_px=psf_px, background=background, size=96) for _ in range(8)]
        return ImageStatistics(*statistics_of([image_statistics(i, PIXEL_M) for i in images]).mean(axis=0))

    narrow, wide = mean_of(psf_px=1.5), mean_of(psf_px=3.0)
    # A Gaussian spot correlates with itself as one wider by √2, which is at half at 1.18 of its sigma.
    for found, psf_px in ((narrow, 1.5), (wide, 3.0)):
        assert found.grain_m == pytest.approx(1.177 * np.sqrt(2) * psf_px * PIXEL_M, rel=0.15)
        assert found.noise_ratio == pytest.approx(1, abs=0.1)
    assert mean_of(background=8.0).background_photons == pytest.approx(8, rel=0.2)
    flat = image_statistics(np.full((16, 16), 3.0), PIXEL_M)
    assert flat.background_photons == pytest.approx(3)
    assert (flat.signal_photons, flat.grain_m) == (0, 0)
    assert image_statistics(np.zeros((16, 16)), PIXEL_M).noise_ratio == 0


@pytest.mark.parametrize("image", [np.zeros((7, 20)), np.full((9, 9), np.nan), np.zeros((9, 9, 3))])
def test_what_is_no_image_is_refused(image: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="at least 8 by 8"):
        image_statistics(image, PIXEL_M)


@pytest.mark.parametrize(
    ("features", "statistics", "match"),
    [
        (np.zeros((3, 2)), np.zeros((2, 4)), "row for each image"),
        (np.zeros((2, 2)), np.zeros((2, 3)), "4 columns"),
        (np.full((2, 2), np.inf), np.zeros((2, 4)), "finite"),
    ],
)
def test_looks_that_do_not_fit_are_refused(
    features: NDArray[np.float64], statistics: NDArray[np.float64], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        Look(features, statistics, np.zeros(2, np.int64))
