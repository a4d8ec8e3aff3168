from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simulator.sted.detector import Detector


def rng(number: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([12, number])))


@pytest.mark.parametrize("whole_rates", [False, True])
def test_counts_are_poisson_with_the_expected_mean(whole_rates: bool) -> None:
    detector = Detector(collected=0.1, detected=0.5, background_hz=1e5)
    counts = detector.counts(np.full(40_000, 8e6), 10e-6, rng(), whole_rates=whole_rates)
    assert counts.mean() == pytest.approx(5.0, abs=4 * np.sqrt(5 / 40_000))
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 40_000))


@pytest.mark.parametrize("rate_hz", [2e5, 3e6, 5e7])
def test_counts_with_a_dead_time_follow_waits_drawn_one_by_one(rate_hz: float) -> None:
    dwell_s, dead_s, pixels = 5e-6, 50e-9, 4000
    detector = Detector(collected=1.0, detected=1.0, dead_time_s=dead_s)
    counts = detector.counts(np.full(pixels, rate_hz), dwell_s, rng(1))
    waits = rng(2).exponential(1 / rate_hz, (pixels, 400)) + dead_s
    reference = np.count_nonzero(np.cumsum(waits, axis=1) - dead_s <= dwell_s, axis=1)
    error = np.sqrt(2 * max(reference.var(), 0.01) / pixels)
    assert abs(counts.mean() - reference.mean()) < 4 * error
    assert counts.var() == pytest.approx(reference.var(), rel=0.15, abs=0.02)
    assert counts.max() <= dwell_s / dead_s + 1


def test_a_dead_time_of_nothing_changes_nothing_but_the_draws() -> None:
    counts = Detector(dead_time_s=1e-15).counts(np.full(20_000, 40e6), 10e-6, rng(3))
    assert counts.mean() == pytest.approx(10.0, abs=4 * np.sqrt(10 / 20_000))


def test_darkness_is_dark_and_no_time_counts_nothing() -> None:
    for detector in (Detector(), Detector(dead_time_s=50e-9)):
        assert not detector.counts(np.zeros((3, 4)), 1e-3, rng()).any()
    assert not Detector(background_hz=1e6).counts(np.full(5, 1e9), np.zeros(5), rng()).any()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"detected": 1.1}, "detected"),
        ({"background_hz": -1.0}, "background_hz"),
        ({"dead_time_s": float("inf")}, "dead_time_s"),
    ],
)
def test_impossible_detectors_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Detector(**changes)
