"""The two-photon environments: time that passes, what is seen of events, planes that need their light."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra gym")

from controller.core.errors import ConfigurationError  # noqa: E402
from controller.core.guard import GuardedMicroscope  # noqa: E402
from controller.core.settings import Region  # noqa: E402
from controller.testing import LIMITS, FakeMicroscope  # noqa: E402
from simulator.env import (  # noqa: E402
    EVENT_TASKS,
    POWER_TASKS,
    BrainDistribution,
    CalciumEventsEnv,
    MicroscopeFields,
    SimulatedBrains,
    TwoPhotonPowerEnv,
)
from simulator.environments.brain_samples import brain_limits  # noqa: E402


def watched(power_w: float, **changes: Any) -> tuple[CalciumEventsEnv, float, dict[str, Any]]:
    """Return an episode in which the whole field is watched with one power: its return and last info."""
    env = CalciumEventsEnv(task="easy", duration_s=3.0, episode_energy_j=1.0, **changes)
    env.reset(seed=11)
    total, is_over = 0.0, False
    info: dict[str, Any] = {}
    while not is_over:
        _, reward, terminated, truncated, info = env.step(env.action_for(power_w))
        total, is_over = total + reward, terminated or truncated
    return env, total, info


def planes_of(env: TwoPhotonPowerEnv, excitation_w: float, dwell_s: float) -> list[dict[str, Any]]:
    """Return what each scan of an episode with constant settings told, with its reward."""
    env.reset(seed=1)
    told, is_over = [], False
    while not is_over:
        action = env.action_map.action({"excitation_w": excitation_w, "dwell_s": dwell_s})
        _, reward, terminated, truncated, info = env.step(action)
        told.append({**info, "reward": reward})
        is_over = terminated or truncated
    return told


def test_each_look_takes_its_scan_and_the_decision() -> None:
    env = CalciumEventsEnv(task="easy", latency_s=0.1)
    env.reset(seed=0)
    times_s = [env.step(env.action_for(2e-3))[4]["time_s"] for _ in range(3)]
    frame_s = env.frame_s(env.settings(env.action_for(2e-3)))
    # The first one also moves stage and focus, if they are not there.
    assert np.diff(times_s) == pytest.approx([0.1 + frame_s] * 2)
    env.close()


def test_the_episode_is_truncated_when_its_time_is_over() -> None:
    env, _, info = watched(2e-3)
    frame_s = env.frame_s(env.settings(env.action_for(2e-3)))
    assert 3.0 <= info["time_s"] <= 3.0 + 2 * (frame_s + 0.02)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_for(2e-3))


def test_the_episode_is_terminated_when_its_light_is_spent() -> None:
    env = CalciumEventsEnv(task="easy", episode_energy_j=5e-3)
    env.reset(seed=0)
    answers = [env.step(env.action_for(50e-3)) for _ in range(3)]
    assert [(answer[2], answer[3]) for answer in answers] == [(False, False), (False, False), (True, False)]
    assert answers[-1][1] == -1.0
    assert "session_energy_max_j" in answers[-1][4]["refusal"]


def test_more_light_sees_more_events_and_a_slow_policy_misses_some() -> None:
    bright = watched(30e-3)[2]
    dark = watched(2e-3)[2]
    slow = watched(30e-3, latency_s=0.6)[2]
    assert bright["truth_events"] > 3
    assert bright["truth_recall"] > 0.9
    assert dark["truth_recall"] == 0
    assert slow["truth_recall"] < bright["truth_recall"]
    assert slow["truth_quality"] < 0.7 * bright["truth_quality"]
    assert 0 < bright["truth_delay_s"] < 0.4


def test_rewards_without_prices_add_up_to_the_quality_of_all_events() -> None:
    env, total, _ = watched(20e-3, dose_weight=0.0)
    quality = env.events.quality()
    assert total == pytest.approx(quality.sum() / len(quality))
    assert set(env.events.quality()[np.isnan(env.events.seen_s)]) <= {0.0}


def test_a_closer_look_gives_a_cell_more_light_for_the_same_energy() -> None:
    snr, energy_j = [], []
    for part in (1.0, 0.25):
        env = CalciumEventsEnv(task="easy")
        env.reset(seed=11)
        events = env.events
        centre = tuple(events.bodies.center_yx_m[events.body[0]])
        while env.now_s < events.onset_s[0] + 0.4:
            *_, info = env.step(env.action_for(10e-3, centre, part))
        snr.append(np.sqrt(events.snr_squared[0]))
        energy_j.append(info["energy_j"])
    assert energy_j[0] == pytest.approx(energy_j[1])
    # 16 times the photons of a cell; its line comes at another time of the transient.
    assert 2.5 < snr[1] / snr[0] < 6


def test_a_closer_look_where_nothing_happens_is_a_false_trigger() -> None:
    env = CalciumEventsEnv(task="easy", dose_weight=0.0)
    env.reset(seed=11)
    while env.events.are_on(env.now_s + 0.02).any():
        env.step(env.action_for(1e-3))
    before_s = env.now_s
    _, reward, _, _, info = env.step(env.action_for(1e-3, (0.0, 0.0), 0.25))
    assert info["truth_false_looks"] == 1
    assert reward == pytest.approx(-0.3 * (env.now_s - before_s) / 10.0)


def test_events_are_bursts_of_spikes_of_cells_in_the_field() -> None:
    env = CalciumEventsEnv(task="mid")
    env.reset(seed=3)
    events, activity = env.events, env._stage.brain.microscope.brain.activity
    assert len(events) > 3
    for onset_s, body in zip(events.onset_s, events.body, strict=True):
        neuron = events.bodies.neurons[body]
        spikes = activity.spikes(onset_s - 0.5, onset_s + 0.2)
        own_s = spikes.times_s[spikes.neurons == neuron]
        assert own_s[0] == onset_s
        assert len(own_s) >= 3
    assert env._region.contains(
        Region(center_yx_m=tuple(events.bodies.center_yx_m[0]), size_yx_m=(1e-7, 1e-7))
    )


def test_photons_of_cells_are_those_of_the_clean_image() -> None:
    env = CalciumEventsEnv(task="easy")
    env.reset(seed=11)
    bodies, microscope = env.events.bodies, env._stage.brain.microscope
    for body in range(6):
        settings = env.settings(env.action_for(10e-3, tuple(bodies.center_yx_m[body]), 0.25))
        if bodies.covered(settings.region)[body] < 1:
            continue
        clean = microscope.expected_photons(settings, 0.3, moves=False)
        is_body = microscope.labels(settings) == bodies.neurons[body] + 1
        seen = env.events.photons(settings, 0.3, np.array([body]))
        assert seen.all_of_it[0] == pytest.approx(clean[is_body].sum(), rel=0.01)


def test_looks_stay_in_the_field_and_their_actions_come_back() -> None:
    env = CalciumEventsEnv()
    env.reset(seed=0)
    for action in ((-1, -1, -1, -1), (1, 1, 1, -0.3), (0.2, 0.7, -1, 0.3), (0, 0.4, 0.4, 1)):
        settings = env.settings(np.array(action, np.float32))
        assert env._region.contains(settings.region)
        part = settings.region.size_yx_m[0] / env.field_m
        again = env.action_for(settings.excitation_w, settings.region.center_yx_m, part)
        assert env.settings(again).region == settings.region


@pytest.mark.parametrize("make", [CalciumEventsEnv, TwoPhotonPowerEnv])
def test_an_action_outside_its_box_is_refused_and_nothing_is_lit(make: Any) -> None:
    env = make()
    env.reset(seed=0)
    left_j = env._energy_left_j
    with pytest.raises(ValueError, match=r"-1\.\.1"):
        env.step(np.full(env.action_space.shape, 1.1, np.float32))
    assert env._energy_left_j == left_j


@pytest.mark.parametrize("make", [CalciumEventsEnv, TwoPhotonPowerEnv])
def test_what_only_a_simulator_knows_needs_a_simulator(make: Any) -> None:
    field = Region(center_yx_m=(0.0, 0.0), size_yx_m=(128e-6, 128e-6))
    there = MicroscopeFields(GuardedMicroscope(FakeMicroscope(), LIMITS), (field,))
    with pytest.raises(ConfigurationError, match="SimulatedBrains"):
        make(samples=there)


@pytest.mark.parametrize(
    ("make", "tasks"), [(CalciumEventsEnv, EVENT_TASKS), (TwoPhotonPowerEnv, POWER_TASKS)]
)
def test_held_out_brains_share_nothing_with_those_of_training(make: Any, tasks: Any) -> None:
    held_out = tasks["held_out"]
    for name in ("easy", "mid"):
        other = tasks[name]
        assert held_out.tissue != other.tissue
        assert not set(held_out.indicators) & set(other.indicators)
        assert not set(held_out.depths_m) & set(other.depths_m)
        assert held_out.dye_molar[1] < other.dye_molar[0]
    env = make(task="easy")
    assert env.reset(seed=0)[1]["truth_dye_molar"] == 10e-6
    _, told = env.reset(seed=0, options={"task": "held_out"})
    assert told["truth_dye_molar"] < 6e-6
    with pytest.raises(ConfigurationError, match="task"):
        env.reset(options={"tusk": "easy"})


def test_keys_of_info_are_always_the_same_and_its_figures_finite() -> None:
    for env in (CalciumEventsEnv(task="hard"), TwoPhotonPowerEnv(task="hard")):
        env.reset(seed=0)
        env.action_space.seed(0)
        keys = None
        for _ in range(15):
            *_, terminated, truncated, info = env.step(env.action_space.sample())
            keys = keys or set(info)
            assert set(info) == keys
            assert all(isinstance(value, str) or np.isfinite(value).all() for value in info.values())
            if terminated or truncated:
                env.reset()


def test_what_a_policy_sees_does_not_depend_on_the_truth_alone() -> None:
    """Two indicators that give no photons look the same, whatever fires."""
    for make in (CalciumEventsEnv, TwoPhotonPowerEnv):
        seen = []
        for rate_hz in (0.05, 0.5):
            dark = BrainDistribution(
                indicators=("gcamp6f",), dye_molar=(1e-15, 1e-15), burst_rate_hz=(rate_hz, rate_hz)
            )
            env: Any = make(task=dark)
            env.reset(seed=1)
            seen.append(env.step(np.zeros(env.action_space.shape, np.float32))[0])
        assert all(np.array_equal(seen[0][key], seen[1][key]) for key in seen[0])


def test_deep_planes_need_more_light_and_shallow_ones_can_have_too_much() -> None:
    likeness = {}
    for depth_m in ((100e-6, 100e-6), (300e-6, 300e-6)):
        layer = POWER_TASKS["easy"].replace(depth_m=depth_m)
        env = TwoPhotonPowerEnv(task=layer, planes=1, steps=1)
        for power_w, dwell_s in ((25e-3, 4e-6), (90e-3, 16e-6)):
            told = planes_of(env, power_w, dwell_s)
            likeness[depth_m[0], power_w] = told[0]["truth_likeness"]
    assert likeness[100e-6, 25e-3] > 0.7
    assert likeness[300e-6, 25e-3] < 0.3
    # A converter of 14 bits is full at 160 photons a pixel.
    assert likeness[100e-6, 90e-3] < likeness[300e-6, 90e-3]


def test_light_bleaches_and_each_round_finds_less_dye() -> None:
    env = TwoPhotonPowerEnv(task="easy", episode_energy_j=1.0)
    told = planes_of(env, 90e-3, 16e-6)
    assert len(told) == 12
    assert [info["depth_m"] for info in told[:4]] == [info["depth_m"] for info in told[4:8]]
    assert min(info["truth_bleached_fraction"] for info in told) > 0
    assert told[0]["heating_estimate_c"] > 1.0
    assert env._signal_left() < 0.99


def test_brains_that_share_their_tissue_do_not_share_what_is_bleached() -> None:
    env = TwoPhotonPowerEnv(task="easy", episode_energy_j=1.0)
    first, _ = env.reset(seed=1)
    planes_of(env, 90e-3, 16e-6)
    again, _ = env.reset(seed=1)
    assert env.dye_left() == pytest.approx(1.0, abs=1e-3)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    other, _ = env.reset(seed=2)
    assert not np.array_equal(first["image"], other["image"])


def test_what_warms_the_brain_too_much_costs() -> None:
    rewards = []
    for cost in (0.0, 2.0):
        env = TwoPhotonPowerEnv(task="easy", episode_energy_j=1.0, heating_cost=cost)
        told = planes_of(env, 90e-3, 16e-6)
        rewards.append(told[0]["reward"])
    excess_c = told[0]["heating_estimate_c"] - 1.0
    assert rewards[0] - rewards[1] == pytest.approx(2 * excess_c)


def test_too_large_a_step_of_power_is_refused_by_the_guard_and_lights_nothing() -> None:
    env = TwoPhotonPowerEnv(task="easy")
    env.reset(seed=0)
    left_j = env._energy_left_j
    action = env.action_map.action({"excitation_w": 115e-3, "dwell_s": 4e-6})
    _, reward, terminated, _, info = env.step(action)
    preview_j = env._settings({"excitation_w": 20e-3, "dwell_s": 2e-6}).energy_j
    assert reward == -1.0
    assert not terminated
    assert "excitation_step_w" in info["refusal"]
    assert env._energy_left_j == pytest.approx(left_j - preview_j)


def test_power_beyond_the_limits_cannot_be_given_to_a_policy() -> None:
    tight = brain_limits(1.0).replace(excitation_max_w=60e-3)
    with pytest.raises(ConfigurationError, match="excitation_w"):
        TwoPhotonPowerEnv(samples=SimulatedBrains(BrainDistribution(), tight))


@pytest.mark.parametrize("make", [CalciumEventsEnv, TwoPhotonPowerEnv])
def test_pixels_that_are_not_of_the_map_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="multiple of the map pixel"):
        make(pixel_size_m=1.3e-6)


def test_distributions_that_hold_no_plane_are_refused() -> None:
    with pytest.raises(ValueError, match="holds none of the depths"):
        BrainDistribution(depth_m=(101e-6, 120e-6))
    env = TwoPhotonPowerEnv(task=BrainDistribution(depth_m=(100e-6, 150e-6)))
    with pytest.raises(ConfigurationError, match="4 planes are asked"):
        env.reset(seed=0)


@pytest.mark.parametrize("make", [CalciumEventsEnv, TwoPhotonPowerEnv])
def test_rendering_is_a_picture(make: Any) -> None:
    env = make(render_mode="rgb_array")
    assert env.render() is None
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape, np.float32))
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.std() > 0
