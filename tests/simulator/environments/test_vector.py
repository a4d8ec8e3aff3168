"""The vector environments: the episodes of single ones, their guards, and what goes wrong elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra gym")

from gymnasium.vector import AutoresetMode  # noqa: E402

from controller.core.errors import ConfigurationError, DeviceError  # noqa: E402
from controller.core.guard import GuardedMicroscope  # noqa: E402
from controller.core.settings import ScanSettings  # noqa: E402
from simulator.env import (  # noqa: E402
    SampleDistribution,
    SimulatedSamples,
    STEDSequenceVectorEnv,
    STEDTuneVectorEnv,
)
from simulator.environments.samples import simulated_limits  # noqa: E402

#: A dye that some random scans bleach, so that episodes end early and at different steps.
FADING = SampleDistribution(kinds=("filaments",), bleaching=(4.0, 8.0), brightness=(1.0, 1.0))


def vector(name: str, mode: str = "vector_entry_point", num_envs: int = 3, **options: Any) -> Any:
    return gymnasium.make_vec(
        f"simulator:Stedfast/{name}-v0", num_envs=num_envs, vectorization_mode=mode, **options
    )


def told(env: Any, steps: int = 7) -> list[Any]:
    """Return everything that an environment says in so many steps of random actions."""
    env.action_space.seed(3)
    answers = [env.reset(seed=11)]
    answers += [env.step(env.action_space.sample()) for _ in range(steps)]
    answers.append(env.reset(seed=[5, None, 7]))
    env.close()
    return answers


def assert_same(one: Any, other: Any) -> None:
    """Compare bit for bit, through tuples and mappings."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple | list):
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [("STEDTune", {"steps": 3, "task": FADING}), ("STEDSequence", {"steps": 4, "task": FADING})],
)
def test_episodes_are_those_of_single_environments(name: str, options: dict[str, Any]) -> None:
    ours = told(vector(name, **options))
    assert_same(ours, told(vector(name, "sync", **options)))
    ends = np.array([answer[2] | answer[3] for answer in ours[1:-1]])
    assert ends.any(axis=0).all()
    if name == "STEDSequence":
        assert len({tuple(column) for column in ends.T}) > 1  # not all at the same step


def test_episodes_do_not_depend_on_the_number_of_workers() -> None:
    two, one = (told(vector("STEDTune", steps=2, task="easy", workers=count), steps=3) for count in (2, 1))
    assert_same(two, one)


def test_it_declares_when_it_resets_and_is_what_make_vec_makes() -> None:
    env = gymnasium.make_vec("simulator:Stedfast/STEDSequence-v0", num_envs=2, steps=1, task="easy")
    assert isinstance(env, STEDSequenceVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, _ = env.reset(seed=0)
    assert env.observation_space.contains(observations)
    assert env.step(-np.ones((2, 3), np.float32))[3].all()
    outside = np.full((2, 3), 7.0, np.float32)
    observations, rewards, terminated, truncated, infos = env.step(outside)  # begins the next episodes
    assert rewards.tolist() == [0.0, 0.0]
    assert not (terminated | truncated).any()
    assert (observations["budget"][:, 0] == 1).all()
    assert "reward" not in infos
    env.close()


def test_what_it_told_is_not_changed_by_what_it_does_next() -> None:
    env = STEDTuneVectorEnv(2, task="easy")
    first, _ = env.reset(seed=0)
    kept = {key: value.copy() for key, value in first.items()}
    env.step(np.zeros((2, 3), np.float32))
    assert all(np.array_equal(first[key], kept[key]) for key in kept)
    env.close()


def test_each_environment_scans_through_a_guard_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ScanSettings]] = []
    acquire = GuardedMicroscope.acquire

    def noted(guard: GuardedMicroscope, settings: Any) -> Any:
        asked.append((id(guard), settings))
        return acquire(guard, settings)

    monkeypatch.setattr(GuardedMicroscope, "acquire", noted)
    env = STEDTuneVectorEnv(2, task="easy")
    env.reset(seed=0)
    env.step(np.zeros((2, 3), np.float32))
    env.close()
    assert len({guard for guard, _ in asked}) == 2
    assert [settings.modality for _, settings in asked[2:]] == ["sted", "confocal", "confocal"] * 2


@pytest.mark.parametrize("bad", [[1.1, 0, 0], [np.nan, 0, 0]])
def test_an_action_outside_its_box_is_refused_before_any_environment_steps(bad: list[float]) -> None:
    env = STEDTuneVectorEnv(2, task="easy")
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"-1\.\.1"):
        env.step(np.array([[0, 0, 0], bad], np.float32))
    usual = np.zeros((2, 3), np.float32)
    left = env.step(usual)[0]["budget"][:, 1]
    env.reset(seed=0)
    assert np.array_equal(left, env.step(usual)[0]["budget"][:, 1])
    assert (left < before["budget"][:, 1]).all()
    with pytest.raises(ValueError, match="3 actions are given for 2"):
        env.step(np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="1 seeds are given for 2"):
        env.reset(seed=[4])
    env.close()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"workers": 0}, "workers"),
        ({"samples": SimulatedSamples(SampleDistribution(), simulated_limits(1.0))}, "samples"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        STEDTuneVectorEnv(**options)


def test_pictures_and_the_end() -> None:
    env = STEDTuneVectorEnv(2, task="easy", render_mode="rgb_array")
    env.reset(seed=0)
    pictures = env.render()
    assert pictures is not None
    assert [picture.ndim for picture in pictures] == [3, 3]
    env.close()
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.reset()
    assert STEDTuneVectorEnv(1).render() is None


def dies(scan: Any) -> float:
    import os

    os._exit(3)


def test_an_environment_whose_process_dies_says_so() -> None:
    env = STEDTuneVectorEnv(2, workers=2, task="easy", reward_function=dies)
    env.reset(seed=0)
    with pytest.raises(DeviceError, match="died at step"):
        env.step(np.zeros((2, 3), np.float32))
    env.close()
