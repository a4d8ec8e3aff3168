from __future__ import annotations

import numpy as np
import pytest

from policies.objectives import (
    bleached_fraction,
    detail_snr,
    foreground,
    measure,
    signal_photons,
)

PIXEL_M, CUTOFF_PER_M = 20e-9, 4.2e6


def test_photon_noise_alone_has_no_detail() -> None:
    """The mean of 200 images is 0 within 4 of its own standard errors (a false alarm in 16 000 seeds)."""
    rng = np.random.default_rng(0)
    values = [detail_snr(rng.poisson(3.0, (64, 64)), PIXEL_M, CUTOFF_PER_M) for _ in range(200)]
    details = np.array(values, dtype=float)
    assert abs(details.mean()) < 4 * details.std() / np.sqrt(200)
    # The docstring's standard error of one image: 2.75 over the root of the frequencies in the band.
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64, PIXEL_M), np.fft.fftfreq(64, PIXEL_M)))
    band = ((radius > CUTOFF_PER_M) & (radius < 25e6)).sum()
    assert details.std() == pytest.approx(2.75 / np.sqrt(band), rel=0.2)


def test_a_blurred_image_has_no_detail_however_bright() -> None:
    rng = np.random.default_rng(1)
    at = (np.arange(64) - 31.5) * PIXEL_M
    spot = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 110e-9**2))
    detail = detail_snr(rng.poisson(20 + 200 * spot), PIXEL_M, CUTOFF_PER_M)
    assert detail is not None
    assert abs(detail) < 0.3


@pytest.mark.parametrize(("photons", "contrast"), [(10.0, 0.5), (40.0, 0.5), (10.0, 0.9)])
def test_a_sinusoid_beyond_the_cutoff_has_its_known_detail(photons: float, contrast: float) -> None:
    # All power of m c cos(2 pi k x) lies in the band, so the mean excess over the K frequencies of
    # the band is (N / K) m c^2 / 2 white levels (Parseval).
    shape = (64, 64)
    x = np.arange(64) * PIXEL_M
    image = np.broadcast_to(photons * (1 + contrast * np.cos(2 * np.pi * 12.5e6 * x)), shape)
    radius = np.hypot(np.fft.fftfreq(64, PIXEL_M)[:, None], np.fft.fftfreq(64, PIXEL_M)[None, :])
    band = ((radius > CUTOFF_PER_M) & (radius < 25e6)).sum()
    expected = 64 * 64 / band * photons * contrast**2 / 2
    # A noise-free image lacks the white level itself: its detail is the excess less one.
    assert detail_snr(image, PIXEL_M, CUTOFF_PER_M) == pytest.approx(expected - 1, rel=0.01)
    noisy = np.random.default_rng(2).poisson(image)
    assert detail_snr(noisy, PIXEL_M, CUTOFF_PER_M) == pytest.approx(expected, abs=0.25, rel=0.1)


@pytest.mark.parametrize(
    ("image", "pixel_m"),
    [(np.zeros((64, 64)), 20e-9), (np.ones((4, 64)), 20e-9), (np.ones((64, 64)), 200e-9)],
)
def test_detail_that_cannot_be_measured_is_none(image: np.ndarray, pixel_m: float) -> None:
    assert detail_snr(image, pixel_m, CUTOFF_PER_M) is None


def cell(rng: np.random.Generator, left: float) -> np.ndarray:
    at = np.arange(32) - 15.5
    blob = 8.0 * np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 4.0**2))
    return np.asarray(rng.poisson(1.0 + left * blob))


@pytest.mark.parametrize("bleached", [0.0, 0.3, 0.8])
def test_bleaching_is_found_without_bias_and_its_error_is_honest(bleached: float) -> None:
    """Means of 300 pairs within 4 standard errors plus the 1 % that halos in the background may cost."""
    rng = np.random.default_rng(3)
    pairs = [bleached_fraction(cell(rng, 1.0), cell(rng, 1.0 - bleached)) for _ in range(300)]
    values = np.array([pair for pair in pairs if pair is not None])
    assert len(values) == 300
    assert abs(values[:, 0].mean() - bleached) < 4 * values[:, 0].std() / np.sqrt(300) + 0.01
    assert values[:, 1].mean() == pytest.approx(values[:, 0].std(), rel=0.3)


def test_bleaching_of_nothing_cannot_be_measured() -> None:
    rng = np.random.default_rng(4)
    empty = np.zeros((32, 32))
    assert bleached_fraction(empty, empty) is None
    dim = [bleached_fraction(rng.poisson(0.01, (32, 32)), rng.poisson(0.01, (32, 32))) for _ in range(20)]
    assert all(pair is None or abs(pair[0]) <= 1 for pair in dim)


def test_bleaching_is_clipped_where_the_second_image_is_far_brighter() -> None:
    rng = np.random.default_rng(5)
    pair = bleached_fraction(cell(rng, 0.5), cell(rng, 5.0))
    assert pair is not None
    assert pair[0] == -1.0


def test_the_signal_of_a_bright_square_is_its_photons_above_the_background() -> None:
    rates = np.full((64, 64), 2.0)
    rates[20:44, 20:44] += 30.0
    signal = signal_photons(np.random.default_rng(6).poisson(rates))
    assert signal == pytest.approx(30.0, rel=0.06)
    assert signal_photons(np.zeros((8, 8))) is None


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_flat_image_has_no_foreground(value: float) -> None:
    inside, _ = foreground(np.full((8, 8), value))
    assert not inside.any()


def test_a_visit_without_frames_has_nothing_measured() -> None:
    assert measure(None, None, None, CUTOFF_PER_M).evidence() == {}
