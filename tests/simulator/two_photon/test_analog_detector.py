"""Detectors: mean, variance and correlation of what they write are those they were asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from simulator.two_photon.analog_detector import DetectorOptions, bleed, detect, slowest_bandwidth_hz

DWELL_S = 87e-9
PMT = DetectorOptions()


def frames(level: float, options: DetectorOptions, seed: int = 1, *, side: int = 400) -> NDArray[Any]:
    image = np.full((side, side), level, np.float32)
    return detect(image, DWELL_S, options, np.random.default_rng(seed)).astype(float)


def lag(values: NDArray[Any], axis: int) -> float:
    """Return the correlation of neighbours along an axis."""
    values = values - values.mean()
    one, next_one = np.split(np.moveaxis(values, axis, 0), [-1])[0], np.moveaxis(values, axis, 0)[1:]
    return float((one * next_one).mean() / values.var())


def test_a_photon_counter_gives_poisson_counts() -> None:
    counts = frames(1.7, DetectorOptions(kind="photon_counting"))
    assert counts.mean() == pytest.approx(1.7, rel=0.01)
    assert counts.var() == pytest.approx(1.7, rel=0.02)
    assert abs(lag(counts, 1)) < 0.01
    assert (
        detect(
            np.ones((2, 3), np.float32),
            1.0,
            DetectorOptions(kind="photon_counting"),
            np.random.default_rng(0),
        ).dtype
        == np.uint32
    )


@pytest.mark.parametrize("level", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("excess_noise", [1.0, 1.23, 1.6])
def test_a_photomultiplier_has_its_gain_offset_and_excess_noise(level: float, excess_noise: float) -> None:
    slow = PMT.replace(bandwidth_hz=1e12, excess_noise=excess_noise, bits=16, read_noise_grey=2.7)
    grey = frames(level, slow)
    assert grey.mean() - 200 == pytest.approx(100 * level, rel=0.01)
    # Rounding to levels adds a twelfth.
    assert grey.var() - 2.7**2 - 1 / 12 == pytest.approx(excess_noise * 100**2 * level, rel=0.03)


def test_one_photon_has_the_variance_that_naomi_states() -> None:
    # A mean of 100 and a variance of 2300 for one photon: an excess noise factor of 1.23.
    assert PMT.variance_per_photon / PMT.grey_per_photon**2 == pytest.approx(1 + 2300 / 100**2)


def test_neighbours_along_a_line_are_correlated_as_in_real_frames_and_lines_are_not() -> None:
    grey = frames(2.0, PMT)
    taps, _ = bleed(PMT.bandwidth_hz, DWELL_S)
    assert lag(grey, 1) == pytest.approx(0.17, abs=0.02)
    assert abs(lag(grey, 0)) < 0.01
    assert grey.var() == pytest.approx(PMT.variance_per_photon * 2.0 * (taps**2).sum(), rel=0.03)
    assert abs(lag(frames(2.0, PMT.replace(bandwidth_hz=1e9)), 1)) < 0.01


@pytest.mark.parametrize("bandwidth_hz", [2e6, 9e6, 1e8, 1e12])
def test_a_pulse_is_shared_and_stays_where_it_is_on_average(bandwidth_hz: float) -> None:
    taps, first = bleed(bandwidth_hz, DWELL_S)
    assert taps.sum() == pytest.approx(1)
    assert (taps > 0).all()
    assert np.sum(taps * (first + np.arange(len(taps)))) == pytest.approx(0, abs=0.01)


def test_the_sharing_of_a_pulse_is_that_of_pulses_one_by_one() -> None:
    rng = np.random.default_rng(0)
    tau = 1 / (2 * np.pi * 4e6) / DWELL_S
    arrival = rng.random(400_000) + rng.exponential(tau, 400_000) - tau
    pixels, counts = np.unique(np.floor(arrival).astype(int), return_counts=True)
    taps, first = bleed(4e6, DWELL_S)
    for place, tap in enumerate(taps, start=first):
        assert tap == pytest.approx(counts[pixels == place].sum() / 400_000, abs=0.004)


def test_in_a_bidirectional_scan_pulses_trail_towards_the_left_on_every_other_line() -> None:
    image = np.zeros((2, 41), np.float32)
    image[:, 20] = 1e4
    options = PMT.replace(bandwidth_hz=2e6, read_noise_grey=0.0, offset_grey=0.0, grey_per_photon=1.0)
    rng = np.random.default_rng(0)
    there, back = detect(image, DWELL_S, options, rng, bidirectional=True).astype(float)
    assert there[22:].sum() > 3 * there[:19].sum()
    assert back[:19].sum() > 3 * back[22:].sum()
    there, back = detect(image, DWELL_S, options, rng).astype(float)
    assert back[22:].sum() > 3 * back[:19].sum()


def test_a_camera_has_shot_noise_and_read_noise() -> None:
    options = DetectorOptions(
        kind="scmos", grey_per_photon=2.2, offset_grey=100, read_noise_grey=3.5, bits=16
    )
    grey = frames(30.0, options)
    assert grey.mean() == pytest.approx(100 + 66, rel=0.01)
    assert grey.var() == pytest.approx(2.2**2 * 30 + 3.5**2, rel=0.03)
    assert abs(lag(grey, 1)) < 0.01


def test_levels_end_where_the_converter_does() -> None:
    assert frames(1e4, PMT, side=20).max() == 2**14 - 1
    dark = frames(0.0, PMT.replace(offset_grey=0.0))
    assert dark.min() == 0
    assert frames(0.0, PMT).mean() == pytest.approx(200, abs=0.1)


def test_the_same_generator_writes_the_same_frame() -> None:
    assert np.array_equal(frames(1.0, PMT, 5), frames(1.0, PMT, 5))
    assert not np.array_equal(frames(1.0, PMT, 5), frames(1.0, PMT, 6))


def test_the_smallest_shapes_pass() -> None:
    for shape in ((1, 1), (1, 9), (3, 1), (2, 2)):
        for kind in ("photon_counting", "pmt", "scmos"):
            options = PMT.replace(kind=kind, bandwidth_hz=slowest_bandwidth_hz(DWELL_S))
            written = detect(
                np.ones(shape, np.float32), DWELL_S, options, np.random.default_rng(0), bidirectional=True
            )
            assert written.shape == shape


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "eye"},
        {"grey_per_photon": 0.0},
        {"excess_noise": 0.9},
        {"bandwidth_hz": -1.0},
        {"bits": 32},
        {"read_noise_grey": float("nan")},
        {"gain": 3.0},
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        PMT.replace(**changes)
