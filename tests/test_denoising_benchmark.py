"""Measures of the benchmark of denoisers, against cases whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.denoising_baselines import destabilized, gaussian_3d, moving_average_and_gaussian, stabilized
from benchmarks.denoising_measures import (
    amplitude_ratio,
    covered_percent,
    lag_frames,
    mean_responses,
    peak_of,
    psnr_db,
)
from benchmarks.denoising_real import halves_of
from benchmarks.denoising_results import Results, table
from benchmarks.movies import calcium_scene

TIMES = np.arange(200.0)
SPIKES = np.where(np.isin(TIMES, (40, 100, 150)), 1.0, 0.0)[None]
TRACE = np.convolve(SPIKES[0], (1 - np.exp(-np.arange(60) / 2)) * np.exp(-np.arange(60) / 14))[:200][None]


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("amplitude", [0.5, 1.0])
def test_lag_and_amplitude_of_a_moved_and_weaker_response_are_found(lag: int, amplitude: float) -> None:
    found = 7 + amplitude * np.roll(TRACE, lag, axis=1)
    responses = mean_responses([found], [TRACE], [SPIKES])
    assert lag_frames(*responses) == pytest.approx(lag, abs=0.05)
    assert amplitude_ratio(*responses) == pytest.approx(amplitude, rel=0.02)


def test_a_moving_average_lags_and_is_lower() -> None:
    movie = TRACE[0][:, None, None] * np.ones((1, 2, 2))
    found = moving_average_and_gaussian(movie, slice(0, 200), 6, 0.0)[:, 0, 0][None]
    responses = mean_responses([found], [TRACE], [SPIKES])
    assert 1.5 < lag_frames(*responses) < 3.5
    assert 0.5 < amplitude_ratio(*responses) < 0.85


def test_an_interval_of_1_96_standard_deviations_covers_95_percent_of_gaussian_errors() -> None:
    errors = np.random.default_rng(0).normal(0, 2, (10, 50, 50))
    assert covered_percent(errors, np.full_like(errors, 2), np.zeros_like(errors)) == pytest.approx(95, abs=1)
    assert covered_percent(errors, np.full_like(errors, 1), np.zeros_like(errors)) < 70


def test_a_tenth_of_the_peak_is_20_db() -> None:
    truth = np.linspace(0, 1, 10_000)
    assert psnr_db(truth + 0.1 * peak_of(truth), truth, peak_of(truth)) == pytest.approx(20)


@pytest.mark.parametrize("photons", [0.5, 2.0, 20.0])
def test_stabilized_counts_have_variance_one_and_come_back_unbiased(photons: float) -> None:
    values = stabilized(np.random.default_rng(0).poisson(photons, 200_000))
    assert destabilized(values.mean()) == pytest.approx(photons, rel=0.05)
    if photons > 4:
        assert values.var() == pytest.approx(1, abs=0.02)


def test_the_filter_that_sees_the_future_answers_the_frames_of_its_window() -> None:
    movie = np.zeros((30, 5, 5))
    movie[20] = 1
    answer = gaussian_3d(movie, slice(15, 25), 1.0, 0.0)
    assert len(answer) == 10
    assert int(answer[:, 2, 2].argmax()) == 5


@pytest.mark.parametrize("detector", ["counter", "amplifier", "amplifier slower than a pixel"])
def test_the_squared_error_estimated_from_a_split_movie_is_the_true_one(detector: str) -> None:
    rng = np.random.default_rng(1)
    truth = calcium_scene(rng, 96, 80, resting=0.7, rise=1.6, mean_photons=6.0).expected
    movie = rng.poisson(truth).astype(float)
    if detector != "counter":
        movie = 100 * (movie + rng.normal(0, 0.5, movie.shape)) + 700
    if detector == "amplifier slower than a pixel":
        movie, truth = (0.8 * some + 0.2 * np.roll(some, 1, axis=2) for some in (movie, truth))
    halves = halves_of(np.round(movie), rng)
    assert bool(halves.doubt) == (detector == "amplifier slower than a pixel")
    part = halves.judged
    # The truth in the units that the detector was found to have.
    scale, level = np.polyfit(truth[part].ravel(), halves.seen[part].ravel(), 1)
    estimate = ndimage.gaussian_filter(halves.seen[part], (0, 1, 1))
    true_errors = ((estimate - (scale * truth[part] + level)) ** 2).mean((1, 2))
    wrong = halves.errors(estimate) - true_errors
    assert abs(wrong.mean()) < 0.12 * true_errors.mean()
    assert true_errors.mean() < 0.2 * halves.error(halves.seen[part])


def test_a_table_shows_medians_ranges_and_dashes() -> None:
    units = [{"raw": {"dB": value}} for value in (1.0, 2.0, 4.0)]
    units[0]["new"] = {"%": 3.0}
    assert table(units, [("dB", 1), ("%", 0)]).splitlines()[2:] == [
        "| raw | 2.0 (1.0 to 4.0) | - |",
        "| new | - | 3 |",
    ]


def test_figures_are_kept_with_the_weights_they_were_measured_with(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    first = Results(path, "a").of("seed 0", lambda: {"raw": {"dB": 1.0}})
    assert Results(path, "a").of("seed 0", dict) == first
    assert Results(path, "b").of("seed 0", dict) == {}
