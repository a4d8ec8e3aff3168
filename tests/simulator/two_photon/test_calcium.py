"""Spikes and indicators: published kinetics, and activity that does not depend on who asked before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from simulator.two_photon.calcium import INDICATORS, Activity, ActivityOptions, Indicator, IndicatorName

BUSY = ActivityOptions(burst_rate_hz=0.3, silent_fraction=0.0)


def response(indicator: Indicator, times_s: Any, spikes: int = 1, interval_s: float = 10e-3) -> Any:
    """Return ΔF/F after so many spikes."""
    rates, weights = indicator.exponentials()
    since = times_s[:, None] - np.arange(spikes) * interval_s
    calcium = sum(
        w * np.where(since >= 0, np.exp(-r * np.maximum(since, 0)), 0)
        for r, w in zip(rates, weights, strict=True)
    )
    return indicator.curve.dff(np.asarray(calcium).sum(axis=1))


# ΔF/F of one spike, time to peak and from there to half of it. GCaMP6f: Chen et al. 2013. jGCaMP8: what the
# fits of Zhang et al. 2023 give; the paper states half-rise times of 2 ms, and in cultured neurons 41, 76 and
# 111 % for one spike and half-decays of 67, 118 and 307 ms (Janelia's page on these indicators).
@pytest.mark.parametrize(
    ("name", "dff", "peak_ms", "half_decay_ms", "half_rise_max_ms"),
    [
        ("gcamp6f", 0.19, 45.0, 142.0, 20.0),
        ("jgcamp8f", 0.48, 6.2, 38.6, 2.5),
        ("jgcamp8m", 0.61, 7.6, 40.5, 2.5),
        ("jgcamp8s", 0.60, 16.6, 79.5, 4.0),
    ],
)
def test_one_spike_gives_the_published_transient(
    name: IndicatorName, dff: float, peak_ms: float, half_decay_ms: float, half_rise_max_ms: float
) -> None:
    times_s = np.arange(0, 1.5, 1e-4)
    trace = response(INDICATORS[name], times_s)
    top = int(trace.argmax())
    half_rise_s = times_s[np.argmax(trace > trace[top] / 2)]
    half_decay_s = times_s[top + np.argmax(trace[top:] < trace[top] / 2)] - times_s[top]
    assert trace[0] == pytest.approx(0, abs=1e-12)
    assert trace[top] == pytest.approx(dff, rel=0.02)
    assert times_s[top] * 1e3 == pytest.approx(peak_ms, rel=0.02)
    assert half_decay_s * 1e3 == pytest.approx(half_decay_ms, rel=0.02)
    assert half_rise_s * 1e3 < half_rise_max_ms
    assert trace[-1] < 0.02 * trace[top]


def test_bursts_add_up_more_than_linearly_and_then_saturate() -> None:
    times_s = np.arange(0, 1.0, 1e-3)
    for name, indicator in INDICATORS.items():
        one, ten, hundred = (response(indicator, times_s, n, 2e-3).max() for n in (1, 10, 100))
        assert ten > 6 * one, name
        assert hundred < 10 * ten, name
        assert hundred < 25.2, name
    six_f, eight_f = (response(INDICATORS[n], times_s, 10).max() for n in ("gcamp6f", "jgcamp8f"))
    assert 3 < six_f < 6
    assert 3 < eight_f < 5


@pytest.mark.parametrize("name", list(INDICATORS))
def test_traces_are_the_sum_of_the_responses_to_the_spikes(name: IndicatorName) -> None:
    activity = Activity(30, BUSY.replace(indicator=name), [5])
    times_s = np.arange(20.0, 20.5, 1.7e-3)
    spikes = activity.spikes(0, 21)
    neurons = np.arange(29, -1, -1)
    traces = activity.dff(neurons, times_s)
    rates, weights = activity.indicator.exponentials()
    for neuron, trace in zip(neurons, traces, strict=True):
        own = spikes.times_s[spikes.neurons == neuron]
        since = times_s[:, None] - own
        calcium = sum(
            w * np.where(since >= 0, np.exp(-r * np.maximum(since, 0)), 0).sum(axis=1)
            for r, w in zip(rates, weights, strict=True)
        )
        # Spikes of long ago are left out: one in 3000 of the response to each of them.
        assert np.allclose(trace, activity.indicator.curve.dff(np.asarray(calcium)), atol=2e-3)
    assert traces.max() > 0.1


@hypothesis_settings(max_examples=25, deadline=None)
@given(order=st.permutations([0.0, 3.2, 3.3, 50.0, -2.5, 1000.5]))
def test_activity_is_the_same_in_whatever_order_it_is_asked_for(order: list[float]) -> None:
    def traces(activity: Activity, start_s: float) -> Any:
        return activity.dff(np.arange(0, 40, 3), np.linspace(start_s, start_s + 0.04, 20))

    asked = Activity(40, BUSY, [7])
    for start_s in order:
        assert np.array_equal(traces(asked, start_s), traces(Activity(40, BUSY, [7]), start_s))


def test_stretches_of_time_fit_together() -> None:
    activity = Activity(50, BUSY, [1])
    whole = activity.spikes(0, 30)
    parts = [activity.spikes(start, start + 2.5) for start in np.arange(0, 30, 2.5)]
    assert np.array_equal(whole.times_s, np.concatenate([part.times_s for part in parts]))
    assert np.array_equal(whole.neurons, np.concatenate([part.neurons for part in parts]))
    assert np.all(np.diff(whole.times_s) >= 0)


def test_other_seeds_fire_otherwise() -> None:
    one, other = (Activity(50, BUSY, [seed]).spikes(0, 10).times_s for seed in (1, 2))
    assert not np.array_equal(one[:5], other[:5])


def test_rates_are_those_of_the_options() -> None:
    options = ActivityOptions(
        burst_rate_hz=0.2, burst_spikes=3.0, group_rate_hz=0.1, group_join=0.5, silent_fraction=0.25
    )
    activity = Activity(800, options, [3])
    spikes = activity.spikes(0, 200)
    expected = 0.75 * (0.2 + 0.1 * 0.5) * 3.0
    assert len(spikes.times_s) / 800 / 200 == pytest.approx(expected, rel=0.1)
    silent = np.setdiff1d(np.arange(800), spikes.neurons)
    assert len(silent) / 800 == pytest.approx(0.25, abs=0.05)


def test_spikes_come_in_bursts_and_groups_fire_together() -> None:
    activity = Activity(400, ActivityOptions(silent_fraction=0.0), [4])
    spikes = activity.spikes(0, 300)
    own = [spikes.times_s[spikes.neurons == n] for n in range(400)]
    gaps = np.concatenate([np.diff(times) for times in own])
    assert np.mean(gaps < 50e-3) > 0.6, "most spikes follow another one within a burst"
    counts = np.array([np.histogram(times, np.arange(0, 301, 0.5))[0] > 0 for times in own], dtype=float)
    counts -= counts.mean(axis=1, keepdims=True)
    counts /= counts.std(axis=1, keepdims=True) + 1e-9
    correlation = counts @ counts.T / counts.shape[1]
    same = (activity.group_of[:, None] == activity.group_of) & ~np.eye(400, dtype=np.bool_)
    assert correlation[same].mean() > 0.1
    assert abs(correlation[~same & ~np.eye(400, dtype=np.bool_)].mean()) < 0.02


def test_the_neuropil_follows_the_neurons_nearby() -> None:
    activity = Activity(100, BUSY, [6])
    weights = np.stack([np.arange(100) < 50, np.arange(100) >= 50]).astype(float)
    times_s = np.arange(10.0, 40.0, 0.05)
    neuropil = activity.neuropil_dff(weights, times_s)
    mean = activity.dff(np.arange(50), times_s).mean(axis=0)
    assert np.corrcoef(neuropil[0], mean)[0, 1] > 0.9
    assert neuropil.min() >= 0
    still = Activity(100, BUSY.replace(neuropil=0.0), [6])
    assert not still.neuropil_dff(weights, times_s).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"indicator": "gcamp9"},
        {"burst_rate_hz": -1.0},
        {"burst_spikes": 0.5},
        {"spike_interval_s": 0.0},
        {"silent_fraction": 1.1},
        {"group_neurons": 0.0},
        {"group_join": -0.1},
        {"rate": 1.0},
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        BUSY.replace(**changes)


def test_a_population_of_nobody_is_silent() -> None:
    activity = Activity(0, BUSY, [1])
    assert activity.dff(np.arange(0), np.arange(3.0)).shape == (0, 3)
    assert not activity.neuropil_dff(np.ones((4, 0)), np.arange(3.0)).any()
