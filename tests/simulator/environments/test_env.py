"""The environments: conformance, repeatable episodes, no truth in sight, the guard, other drivers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra gym")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from controller.core.errors import ConfigurationError  # noqa: E402
from controller.core.guard import GuardedMicroscope  # noqa: E402
from controller.core.limits import SafetyLimits  # noqa: E402
from controller.core.settings import Region  # noqa: E402
from controller.core.spaces import Parameter  # noqa: E402
from controller.testing import LIMITS, FakeMicroscope  # noqa: E402
from simulator.env import (  # noqa: E402
    DYE_CLASSES,
    IDS,
    MicroscopeFields,
    ROISelectEnv,
    SampleDistribution,
    ScanEnv,
    SimulatedSamples,
    STEDSequenceEnv,
    STEDTuneEnv,
)
from simulator.environments.samples import simulated_limits  # noqa: E402

ROOT = Path(__file__).parents[3]
SCANNING = ("Stedfast/STEDTune-v0", "Stedfast/STEDSequence-v0")


def rollout(env: Any, seed: int, steps: int = 12) -> Iterator[Any]:
    """Yield everything that an environment says in so many steps of random actions."""
    env.action_space.seed(seed)
    yield env.reset(seed=seed)
    for _ in range(steps):
        answer = env.step(env.action_space.sample())
        yield answer
        if answer[2] or answer[3]:
            yield env.reset()


def digest(name: str, seed: int) -> str:
    """Return a hash of an episode, observations bit for bit."""
    env = gymnasium.make(f"simulator:{name}")
    told = sha256()
    for answer in rollout(env, seed):
        for image in answer[0].values():
            told.update(np.ascontiguousarray(image).tobytes())
        told.update(repr(answer[1:]).encode())
    env.close()
    return told.hexdigest()


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_has_nothing_to_say(name: str) -> None:
    env = gymnasium.make(f"simulator:{name}", render_mode="rgb_array")
    check_env(env.unwrapped)  # its warnings are errors here
    env.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch and of what it imports
@pytest.mark.parametrize("name", IDS)
def test_stable_baselines_has_nothing_to_say(name: str, recwarn: pytest.WarningsRecorder) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="needs the extra rl")
    env = gymnasium.make(f"simulator:{name}")
    checker.check_env(env.unwrapped)
    assert not [str(found.message) for found in recwarn if found.category is UserWarning]
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_the_same_seed_is_the_same_episode_in_every_process(name: str) -> None:
    code = f"from test_env import digest; print(digest({name!r}, 7))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "PATH": ""},
    )
    assert done.stdout.strip() == digest(name, 7), done.stderr
    assert digest(name, 7) != digest(name, 8)


def test_vectors_in_one_process_and_in_many_give_the_same_episodes() -> None:
    told = []
    for mode in ("sync", "async"):
        env = gymnasium.make_vec(
            "simulator:Stedfast/STEDTune-v0", num_envs=2, vectorization_mode=mode, steps=3
        )
        env.action_space.seed(3)
        answers = [env.reset(seed=5)]
        answers += [env.step(env.action_space.sample()) for _ in range(5)]
        env.close()
        told.append([[answer[0][key].tobytes() for key in sorted(answer[0])] for answer in answers])
        told[-1].append([answer[1].tobytes() for answer in answers[1:]])
    assert told[0] == told[1]


def test_importing_the_simulator_loads_nothing_heavy() -> None:
    code = (
        "import sys, simulator\n"
        "heavy = 'torch scipy pydantic PIL stable_baselines3 pysted matplotlib'.split()\n"
        "sys.exit(', '.join(set(heavy) & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_gymnasium_the_simulator_still_imports() -> None:
    code = (
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'gymnasium' else find(name, *more)\n"
        "import simulator, simulator.sted.microscope\n"
        "sys.exit('gymnasium' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_steps_and_resets_are_cheap() -> None:
    env = STEDTuneEnv(task="easy")
    env.reset(seed=0)
    env.action_space.seed(0)
    resets, steps = [], []
    for _ in range(3):
        begun = time.process_time()
        env.reset()
        resets.append(time.process_time() - begun)
        for _ in range(5):
            begun = time.process_time()
            env.step(env.action_space.sample())
            steps.append(time.process_time() - begun)
    # Ten times what it takes: this is a guard against blunders; benchmarks/environments.py measures.
    assert np.median(steps) < 0.1
    assert np.median(resets) < 0.1


@pytest.mark.parametrize("name", SCANNING)
def test_what_a_policy_sees_does_not_depend_on_the_truth_alone(name: str) -> None:
    """Two dyes that give no photons look the same, whatever lies under them."""
    seen = []
    for kinds in (("filaments",), ("beads",)):
        dark = SampleDistribution(kinds=kinds, brightness=(1e-12, 1e-12), bleaching=(1e-12, 1e-12))
        env: ScanEnv = gymnasium.make(f"simulator:{name}", task=dark).unwrapped
        _, told = env.reset(seed=1)
        observation, _, _, _, info = env.step(env.action_map.action(USUAL))
        assert {key for key in told if key.startswith("truth_")}
        assert "truth_likeness" in info
        seen.append(observation)
        env.close()
    assert all(np.array_equal(seen[0][key], seen[1][key]) for key in seen[0])


USUAL = {"sted_w": 0.12, "excitation_w": 5e-6, "dwell_s": 5e-6}
STRONG = {"sted_w": 0.25, "excitation_w": 50e-6, "dwell_s": 100e-6}


def test_keys_of_info_are_always_the_same_and_its_figures_finite() -> None:
    env = STEDTuneEnv(task="hard")
    keys = None
    for answer in rollout(env, 3, steps=30):
        if len(answer) == 5:
            info = answer[4]
            told = [(key, sorted(value) if isinstance(value, dict) else None) for key, value in info.items()]
            keys = keys or told
            assert told == keys
            for value in info.values():
                figures = value.values() if isinstance(value, dict) else [value]
                assert all(isinstance(figure, str) or np.isfinite(figure) for figure in figures)
    env.close()


def test_actions_are_settings_between_the_bounds_of_the_parameters() -> None:
    env = STEDTuneEnv()
    for point in (-1.0, 1.0, 0.3):
        settings = env.action_map.settings(np.full(3, point, np.float32))
        again = env.action_map.action(settings)
        assert np.allclose(again, point, atol=1e-6)
    assert env.action_map.settings(np.ones(3, np.float32)) == STRONG


@pytest.mark.parametrize("action", [[1.1, 0, 0], [np.nan, 0, 0], [0, 0], [[0, 0, 0]]])
def test_an_action_outside_its_box_is_refused_and_nothing_is_lit(action: Any) -> None:
    env = STEDTuneEnv()
    env.reset(seed=0)
    left_j = env._energy_left_j
    with pytest.raises(ValueError, match=r"-1\.\.1"):
        env.step(np.array(action, np.float32))
    assert env._energy_left_j == left_j


def test_parameters_beyond_the_limits_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="sted_w"):
        STEDTuneEnv(parameters=(Parameter(name="sted_w", low=0.0, high=0.5),))


def test_what_the_guard_refuses_lights_nothing_and_costs() -> None:
    limits = simulated_limits(1.0).replace(sted_step_w=0.05)
    samples = SimulatedSamples(SampleDistribution(), limits)
    env = STEDTuneEnv(samples=samples)
    env.reset(seed=0)
    before = env._energy_left_j
    observation, reward, terminated, truncated, info = env.step(env.action_map.action(USUAL))
    assert (reward, terminated, truncated) == (-1.0, False, False)
    assert info["refused"] == 1
    assert "sted_step_w" in info["refusal"]
    assert env._energy_left_j == before
    assert observation["history"][-1] == -1


def test_an_episode_ends_when_a_scan_does_not_fit_into_the_dose_budget() -> None:
    env = STEDTuneEnv(task="easy", episode_energy_j=0.15)
    env.reset(seed=0)
    answers = [env.step(env.action_map.action(STRONG)) for _ in range(2)]
    assert [(answer[2], answer[3]) for answer in answers] == [(False, False), (True, False)]
    assert answers[-1][4]["energy_left_j"] >= 0
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_map.action(USUAL))


def test_a_sequence_ends_when_the_sample_has_bleached_and_a_gentle_one_goes_on() -> None:
    lengths = {}
    for name, settings in (("strong", STRONG), ("usual", USUAL)):
        env = STEDSequenceEnv(task="easy", steps=8)
        env.reset(seed=2)
        number, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            _, _, terminated, truncated, _ = env.step(env.action_map.action(settings))
            number += 1
        lengths[name] = (number, terminated)
        env.close()
    assert lengths["strong"][0] <= 2
    assert lengths["strong"][1]
    assert lengths["usual"] == (8, False)


def test_sequences_bleach_one_field_and_tuning_has_a_fresh_one_for_each_scan() -> None:
    lost = {}
    for make in (STEDSequenceEnv, STEDTuneEnv):
        env = make(task="easy")
        env.reset(seed=4)
        hard = {"sted_w": 0.2, "excitation_w": 20e-6, "dwell_s": 10e-6}
        left = []
        for _ in range(3):
            *_, info = env.step(env.action_map.action(hard))
            left.append(info["signal_left"])
        lost[make] = left
        env.close()
    assert lost[STEDSequenceEnv][0] > lost[STEDSequenceEnv][1] > lost[STEDSequenceEnv][2]
    assert min(lost[STEDTuneEnv]) > 0.9


def test_held_out_samples_come_from_maps_of_their_own() -> None:
    prints = {}
    for maps in ("train", "held_out"):
        samples = SimulatedSamples(SampleDistribution(kinds=("beads",), maps=maps), simulated_limits(1.0))
        prepared = samples.prepare(np.random.SeedSequence(1), 1, 1.28e-6)
        assert prepared.truth is not None
        prints[maps] = prepared.truth.molecules_at_start(prepared.fields[0]).tobytes()
        samples.close()
    assert prints["train"] != prints["held_out"]


def test_only_a_guarded_microscope_is_taken() -> None:
    fields = (Region(center_yx_m=(0.0, 0.0), size_yx_m=(1.28e-6, 1.28e-6)),)
    with pytest.raises(ConfigurationError, match="GuardedMicroscope"):
        MicroscopeFields(FakeMicroscope(), fields)  # type: ignore[arg-type]


def test_a_reward_that_needs_the_truth_is_refused_for_a_microscope_that_is_there() -> None:
    fields = (Region(center_yx_m=(0.0, 0.0), size_yx_m=(1.28e-6, 1.28e-6)),)
    with pytest.raises(ConfigurationError, match="measured"):
        STEDTuneEnv(samples=MicroscopeFields(GuardedMicroscope(FakeMicroscope(), LIMITS), fields))


def test_the_same_class_drives_any_guarded_microscope() -> None:
    fields = tuple(
        Region(center_yx_m=(0.0, x_um * 1e-6), size_yx_m=(1.28e-6, 1.28e-6)) for x_um in (-2, 0, 2)
    )
    guard = GuardedMicroscope(FakeMicroscope(), LIMITS)
    env = STEDTuneEnv({"reward": {"kind": "measured"}}, samples=MicroscopeFields(guard, fields), steps=3)
    answers = list(rollout(env, 0, steps=4))
    assert guard.frames >= 3 * 3
    assert not [key for answer in answers for key in answer[-1] if key.startswith("truth")]
    env.close()


def test_the_same_class_drives_micromanager_devices() -> None:
    pytest.importorskip("pymmcore", reason="needs the extra mm")
    pytest.importorskip("mm_test_adapters", reason="needs the extra mm")
    from controller.builder import Builder
    from controller.config import load, shipped_hardware

    builder = Builder.fresh(load(shipped_hardware("mm_demo.toml")))
    guard = builder.guarded()
    fields = tuple(
        Region(center_yx_m=(0.0, x_um * 1e-6), size_yx_m=(64e-6, 64e-6)) for x_um in (-100, 0, 100)
    )
    limits: SafetyLimits = guard.limits
    env = STEDTuneEnv(
        samples=MicroscopeFields(guard, fields),
        steps=3,
        pixel_size_m=1e-6,
        modality="confocal",
        confocal_dwell_s=1e-6,
        fixed={},
        parameters=(
            Parameter(name="excitation_w", low=1.25e-6, high=limits.excitation_max_w, scale="log"),
            Parameter(name="dwell_s", low=1e-6, high=10e-6, scale="log"),
        ),
        reward={"kind": "measured"},
        full_scale_photons=4096.0,
    )
    answers = list(rollout(env, 0, steps=3))
    assert answers[1][0]["image"].max() > 0
    assert answers[3][3]
    assert all(answer[4]["refused"] == 0 for answer in answers if len(answer) == 5)
    env.close()
    assert env.render() is None


def test_a_region_with_spots_pays_once_and_an_empty_one_never() -> None:
    env = ROISelectEnv(task="easy")
    env.reset(seed=1)
    left = env.points_left()
    action = env.action_for(tuple(left[0]))
    _, first, *_, told = env.step(action)
    observation, second, *_, again = env.step(action)
    assert told["objectives"]["new_spots"] == len(left) - told["truth_spots_left"] > 0
    assert first > 0.5 / len(left)
    assert again["objectives"]["new_spots"] <= 1
    assert second < first
    assert observation["image"][2].max() == 255
    env.close()


def test_regions_stay_inside_the_sample() -> None:
    env = ROISelectEnv()
    env.reset(seed=0)
    for corner in ((-1, -1), (1, 1), (-1, 1), (0.123, -0.77)):
        region = env.region(np.array(corner, np.float32))
        assert env._region.contains(region)
        assert env.region(env.action_for(region.center_yx_m)) == region
    env.close()


def test_regions_of_a_microscope_that_is_there_count_each_spot_once() -> None:
    field = Region(center_yx_m=(0.0, 0.0), size_yx_m=(7.68e-6, 7.68e-6))
    guard = GuardedMicroscope(FakeMicroscope(), LIMITS)
    env = ROISelectEnv(samples=MicroscopeFields(guard, (field,)))
    env.reset(seed=0)
    told = [env.step(np.zeros(2, np.float32))[4]["objectives"] for _ in range(2)]
    assert told[0]["new_spots"] == told[0]["found_spots"]
    assert told[1]["new_spots"] <= told[1]["found_spots"]
    env.close()


def test_a_curriculum_changes_the_task_between_episodes() -> None:
    env = STEDTuneEnv(task="easy")
    assert env.reset(seed=0)[1]["truth_bleaching"] == 1.0
    harder = SampleDistribution(bleaching=(5.0, 6.0))
    assert env.reset(seed=0, options={"task": harder})[1]["truth_bleaching"] >= 5.0
    assert env.reset()[1]["truth_bleaching"] >= 5.0
    with pytest.raises(ConfigurationError, match="task"):
        env.reset(options={"tusk": "easy"})
    env.close()


def test_a_hard_sequence_draws_only_samples_that_can_be_told_apart_by_policies() -> None:
    env = STEDSequenceEnv(task="hard", pixels=24)
    drawn = [env.reset(seed=seed)[1] for seed in range(12)]
    assert {told["truth_kind"] for told in drawn} == {0, 1}
    assert min(told["truth_bleaching"] for told in drawn) >= 3
    told = env.reset(seed=3, options={"task": "mid"})[1]
    env.close()
    assert told["truth_bleaching"] == STEDTuneEnv(task="mid", pixels=24).reset(seed=3)[1]["truth_bleaching"]


def test_rendering_is_a_picture() -> None:
    env = STEDTuneEnv(render_mode="rgb_array")
    assert env.render() is None
    env.reset(seed=0)
    env.step(env.action_map.action(USUAL))
    picture = env.render()
    assert picture is not None
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.std() > 0
    env.close()


def test_a_reward_of_measurements_alone_is_not_earned_without_sted_light() -> None:
    earned = {}
    env = STEDTuneEnv({"reward": {"kind": "measured"}, "task": "easy", "steps": 4})
    for sted_w in (0.0, 0.05):
        action = env.action_map.action({"sted_w": sted_w, "excitation_w": 10e-6, "dwell_s": 10e-6})
        env.reset(seed=3)
        earned[sted_w] = sum(env.step(action)[1] for _ in range(4))
    assert earned[0.05] > 0.5
    assert earned[0.0] < 0.1


def test_named_dyes_are_as_bright_and_as_fragile_as_they_say() -> None:
    signal, lost = {}, {}
    for name, dyes in DYE_CLASSES.items():
        env = STEDTuneEnv(task=dyes.replace(kinds=("filaments",)), steps=1)
        action = env.action_map.action({"sted_w": 0.1, "excitation_w": 10e-6, "dwell_s": 10e-6})
        env.reset(seed=4)
        signal[name] = env._now.photons.sum()
        lost[name] = env.step(action)[4]["truth_bleached_fraction"]
    for kind in ("stable", "fragile"):
        assert signal[f"bright_{kind}"] > 2 * signal[f"dim_{kind}"]
    for kind in ("bright", "dim"):
        assert lost[f"{kind}_fragile"] > 2 * lost[f"{kind}_stable"]
