"""A reward is learned from choices: what was preferred, how sure that is, and what to ask next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.errors import ConfigurationError
from controller.core.reward import LearnedReward
from controller.learning.preferences import (
    Choice,
    PreferenceOptions,
    dominated_by,
    fit_reward,
)

LINEAR = PreferenceOptions(networks_from=10_000)
NETWORKS = PreferenceOptions(networks_from=2)
MODELS = pytest.mark.parametrize("how", [LINEAR, NETWORKS], ids=["linear", "networks"])


def worth(option: Mapping[str, float]) -> float:
    """An expert: sharp is good, more so the sharper; bleaching is bad, unless there is little of it."""
    return -option["resolution_nm"] / 40 - 8 * max(option["bleached"] - 0.2, 0)


def option(rng: np.random.Generator) -> dict[str, float]:
    return {"resolution_nm": float(rng.uniform(40, 240)), "bleached": float(rng.uniform(0, 0.8))}


def choices(count: int, seed: int = 0) -> list[Choice]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        options = tuple(option(rng) for _ in range(rng.integers(2, 7)))
        made.append(Choice(options, max(range(len(options)), key=lambda i: worth(options[i]))))
    return made


def learned(how: PreferenceOptions, count: int = 60, seed: int = 0) -> LearnedReward:
    return fit_reward(choices(count, seed), np.random.default_rng(seed), how)


@MODELS
def test_what_an_expert_would_pick_is_found_again(how: PreferenceOptions) -> None:
    reward = learned(how, 120)
    unseen = choices(300, seed=1)
    right = [
        max(range(len(c.options)), key=lambda i: reward.predict(c.options[i])[0]) == c.chosen for c in unseen
    ]
    chance = float(np.mean([1 / len(c.options) for c in unseen]))
    assert np.mean(right) > 0.85 > 2 * chance


def test_networks_take_over_where_there_are_choices_enough() -> None:
    how = PreferenceOptions(networks_from=30, steps=5)
    assert learned(how, 29).kind == "linear"
    assert learned(how, 30).kind == "ensemble"


@MODELS
def test_the_same_choices_and_generator_give_the_same_reward(how: PreferenceOptions) -> None:
    how = how.replace(steps=30)
    first = learned(how, 20)
    assert learned(how, 20) == first
    assert fit_reward(choices(20), np.random.default_rng(1), how).members != first.members


REWARDS = {name: learned(how) for name, how in (("linear", LINEAR), ("networks", NETWORKS))}


BEST = {
    name: max(reward.reward(choice.options[choice.chosen]) for choice in choices(60))
    for name, reward in REWARDS.items()
}


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(REWARDS)),
    st.fixed_dictionaries({name: st.floats(-1e300, 1e300) for name in ("resolution_nm", "bleached")}),
)
def test_nothing_is_rewarded_more_than_the_best_that_was_picked(name: str, values: dict[str, float]) -> None:
    reward = REWARDS[name]
    found = reward.reward(values)
    assert math.isfinite(found) or found == -math.inf
    assert found <= BEST[name] + 1e-9
    assert reward.predict(values)[1] >= 0


@pytest.mark.parametrize("name", sorted(REWARDS))
@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1), (-1, -1)])
def test_the_farther_from_all_that_was_shown_the_less_sure_and_the_less_rewarded(
    name: str, direction: tuple[int, int]
) -> None:
    reward = REWARDS[name]
    edge = {"resolution_nm": 140 + 101 * direction[0], "bleached": 0.4 + 0.41 * direction[1]}
    found = [
        {
            "resolution_nm": edge["resolution_nm"] + 60 * k * direction[0],
            "bleached": edge["bleached"] + k * direction[1],
        }
        for k in range(1, 5)
    ]
    sure = [reward.predict(values)[1] for values in found]
    assert sure == sorted(sure)
    assert sure[-1] > 2 * sure[0]
    rewards = [reward.reward(values) for values in found]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[-1] < reward.ceiling - 1


def test_fewer_choices_are_less_sure() -> None:
    rng = np.random.default_rng(5)
    seen = np.array([[o["bleached"], o["resolution_nm"]] for o in (option(rng) for _ in range(200))])
    few, many = (learned(LINEAR, count).predict_many(seen) for count in (10, 200))
    # In units of what is told apart at all: with more choices the utilities grow, too.
    assert np.median(few[1]) / np.ptp(few[0]) > 1.5 * np.median(many[1]) / np.ptp(many[0])


def test_a_reward_is_a_file_that_others_can_read(tmp_path: Path) -> None:
    reward = REWARDS["networks"]
    reward.write(tmp_path / "reward.json")
    again = LearnedReward.read(tmp_path / "reward.json")
    assert again == reward
    values = {"resolution_nm": 60.0, "bleached": 0.1, "not asked for": 3.0}
    assert again.reward(values) == reward.reward(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ["a"]}, "1 features need different names and as many numbers"),
        ({"scale": [0.0, 1.0]}, "scale.0"),
        ({"center": [1.0, None]}, "center.1"),
        ({"low": [5.0, 5.0], "high": [4.0, 4.0]}, "low must not be above high"),
        ({"members": [{"layers": [{"weights": [[1.0]], "bias": [0.0]}]}] * 2}, "takes 1 numbers, but gets 2"),
        (
            {"members": [{"layers": [{"weights": [[1.0, 2.0], [1.0]], "bias": [0.0, 0.0]}]}] * 2},
            "rows of one",
        ),
        (
            {"members": [{"layers": [{"weights": [[1.0, 1.0]] * 2, "bias": [0.0] * 2}]}] * 2},
            "one number, not 2",
        ),
        ({"code": "import os"}, "code"),
    ],
)
def test_a_file_that_is_no_reward_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    import json

    path = tmp_path / "reward.json"
    path.write_text(json.dumps(json.loads(REWARDS["linear"].model_dump_json()) | change))
    with pytest.raises(ConfigurationError, match=message):
        LearnedReward.read(path)


def test_a_reward_that_is_absent_or_lacks_a_value_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        LearnedReward.read(tmp_path / "reward.json")
    with pytest.raises(ValueError, match="the reward needs bleached; there is resolution_nm"):
        REWARDS["linear"].reward({"resolution_nm": 50.0})
    with pytest.raises(ValueError, match="finite"):
        REWARDS["linear"].reward({"resolution_nm": math.nan, "bleached": 0.1})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "no choices"),
        ([Choice(({"a": 1.0},), 0)], "choice 0: option 0 of 1; a choice has two or more"),
        ([Choice(({"a": 1.0}, {"a": 2.0}), 2)], "option 2 of 2"),
        ([Choice(({"a": 1.0}, {"b": 2.0}), 0)], "choice 0: option 1 has b; others have a"),
        ([Choice(({}, {}), 0)], "has .none."),
        ([Choice(({"a": 1.0}, {"a": math.nan}), 0)], "not finite"),
        ([Choice(({"a": 1.0}, {"a": 1.0}), 0)], "all options are alike"),
    ],
)
def test_choices_that_tell_nothing_are_refused(made: list[Choice], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fit_reward(made, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("chosen", "found"),
    [(0, None), (1, None), (2, 0), (3, None)],
)
def test_a_pick_that_is_worse_in_everything_is_flagged_and_left_as_it_is(
    chosen: int, found: int | None
) -> None:
    options = (
        {"sharp": 3.0, "harm": 1.0},
        {"sharp": 5.0, "harm": 2.0},
        {"sharp": 2.0, "harm": 1.0},
        {"sharp": 3.0, "harm": 1.0},
    )
    choice = Choice(options, chosen)
    assert dominated_by(choice, {"sharp": "high", "harm": "low"}) == found
    assert choice.chosen == chosen
