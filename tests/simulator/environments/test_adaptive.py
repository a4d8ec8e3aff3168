"""DyMIN and RESCue as environments: what their actions stand for, what fell and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

pytest.importorskip("gymnasium", reason="needs the extra gym")

from controller.core.errors import ConfigurationError
from controller.core.guard import GuardedMicroscope
from controller.core.settings import Region
from controller.testing import CONFOCAL, LIMITS, TWO_STEPS, FakeMicroscope
from simulator.env import (
    ADAPTIVE_TASKS,
    DyMINEnv,
    DyMINParameter,
    MicroscopeFields,
    RESCueEnv,
    RESCueParameter,
    STEDTuneEnv,
)
from simulator.environments.adaptive import AdaptiveTuneEnv, energy_j

ENVS = (DyMINEnv, RESCueEnv)


def usual(env: AdaptiveTuneEnv, **changes: float) -> Any:
    return env.action_map.action({**env.options.fixed, **changes})


def test_actions_stand_for_steps() -> None:
    dymin = DyMINEnv().illumination(
        {"decision_fraction": 0.2, "middle_sted_fraction": 0.3, "fewest_photons": 2.6}
    )
    assert [step.dwell_fraction for step in dymin.steps] == pytest.approx([0.2, 0.2, 0.6])
    assert [step.sted_fraction for step in dymin.steps] == [0.0, 0.3, 1.0]
    assert [step.fewest_photons for step in dymin.steps] == [3, 3, 0]
    assert not dymin.sums
    rescue = RESCueEnv().illumination(
        {"decision_fraction": 0.2, "fewest_photons": 0.5, "enough_photons": 40.2}
    )
    assert [step.dwell_fraction for step in rescue.steps] == pytest.approx([0.2, 0.8])
    assert [step.sted_fraction for step in rescue.steps] == [1.0, 1.0]
    assert (rescue.steps[0].fewest_photons, rescue.steps[0].enough_photons) == (0, 40)
    assert rescue.steps[1].enough_photons is None
    assert rescue.sums


@pytest.mark.parametrize("make", ENVS)
def test_every_corner_of_the_box_is_a_scan(make: type[AdaptiveTuneEnv]) -> None:
    env = make()
    for corner in range(2 ** len(env.action_map)):
        action = np.array([1.0 if corner >> bit & 1 else -1.0 for bit in range(len(env.action_map))])
        assert env.illumination(env.action_map.settings(action)).steps


@pytest.mark.parametrize("make", ENVS)
def test_the_guard_books_the_most_and_the_reward_charges_for_what_fell(make: type[AdaptiveTuneEnv]) -> None:
    free = make(task="easy", reward={"bleaching_weight": 2.0, "dose_weight": 0.0})
    dear = make(task="easy", reward={"bleaching_weight": 2.0, "dose_weight": 10.0})
    told = []
    for env in (free, dear):
        _, begun = env.reset(seed=3)
        _, reward, *_, info = env.step(usual(env))
        told.append(reward)
        assert 0 < info["truth_energy_j"] < info["energy_j"]
        assert begun["energy_left_j"] - info["energy_left_j"] > info["energy_j"]
        assert env._last is not None
        assert env._last[0].settings.adaptive == env.illumination(info["settings"])
        assert env._last[1].settings.adaptive is None
    assert told[0] - told[1] == pytest.approx(10 * info["truth_energy_j"] / 0.25)


def test_pixels_that_make_all_steps_get_what_is_booked() -> None:
    scan = CONFOCAL.replace(adaptive=TWO_STEPS)
    all_steps = np.full(scan.shape_yx, 2, np.uint8)
    assert energy_j(scan, all_steps) == pytest.approx(scan.energy_j)
    assert energy_j(scan, all_steps - np.uint8(1)) == pytest.approx(0.25 * scan.energy_j)


@pytest.mark.parametrize("make", ENVS)
def test_a_threshold_that_no_pixel_reaches_spares_the_sample(make: type[AdaptiveTuneEnv]) -> None:
    lost = []
    for fewest in (0.5, 30.0):
        env = make(task="easy")
        env.reset(seed=1)
        *_, info = env.step(usual(env, fewest_photons=fewest))
        lost.append((info["truth_bleached_fraction"], info["truth_energy_j"]))
    assert lost[1][0] < 0.5 * lost[0][0]
    assert lost[1][1] < lost[0][1]


def test_light_that_adapts_shows_more_for_less_bleaching() -> None:
    """Twice the dwell time, ended early where it is dark, against even light on the same fields."""
    even = STEDTuneEnv(task=ADAPTIVE_TASKS["easy"])
    adaptive = RESCueEnv(task="easy")
    scan = {**adaptive.options.fixed, "sted_w": 0.15, "excitation_w": 5e-6, "dwell_s": 5e-6}
    seen = []
    for env, dwell_s in ((even, 5e-6), (adaptive, 10e-6)):
        env.reset(seed=5)
        action = env.action_map.action({**scan, "dwell_s": dwell_s})
        infos = [env.step(action)[4] for _ in range(6)]
        seen.append([(info["truth_likeness"], info["truth_bleached_fraction"]) for info in infos])
    (likeness, lost), (likeness_adaptive, lost_adaptive) = np.mean(seen, axis=1)
    assert likeness_adaptive > likeness
    assert lost_adaptive < 0.9 * lost


def test_a_microscope_that_makes_no_adaptive_scans_is_refused() -> None:
    fields = (Region(center_yx_m=(0.0, 0.0), size_yx_m=(1.28e-6, 1.28e-6)),)
    microscope = FakeMicroscope()
    there = MicroscopeFields(GuardedMicroscope(microscope, LIMITS), fields)
    env = DyMINEnv(samples=there, reward={"kind": "measured"})
    with pytest.raises(ConfigurationError, match="fake makes no adaptive scans"):
        env.reset()
    assert microscope.commands == []


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (DyMINParameter, {"name": "enough_photons", "low": 1.0, "high": 2.0}, "name"),
        (RESCueParameter, {"name": "middle_sted_fraction", "low": 0.1, "high": 0.2}, "name"),
        (
            DyMINParameter,
            {"name": "decision_fraction", "low": 0.1, "high": 0.5},
            r"allowed is 0\.001\.\.0\.45",
        ),
        (DyMINParameter, {"name": "middle_sted_fraction", "low": 0.0, "high": 1.2}, r"allowed is 0\.\.1"),
        (RESCueParameter, {"name": "fewest_photons", "low": 3.0, "high": 2.0}, "must be below"),
    ],
)
def test_a_parameter_that_makes_no_steps_is_refused(
    kind: type[DyMINParameter], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        kind(**change)


def test_held_out_samples_are_in_no_other_task() -> None:
    held_out = ADAPTIVE_TASKS["held_out"]
    for name in ("easy", "mid"):
        task = ADAPTIVE_TASKS[name]
        assert not set(task.kinds) & set(held_out.kinds)
        assert task.maps != held_out.maps
        assert task.bleaching[1] < held_out.bleaching[0]
        assert task.brightness[0] > held_out.brightness[1]
