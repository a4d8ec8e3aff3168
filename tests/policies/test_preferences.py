"""Policies judge settings by a learned reward, and ask which scans people would rather have."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.core.decision import AskLabel, Budget, Dose, Observation, Question
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.reward import GOOD_WAYS, LearnedReward, RewardLayer, RewardMember
from controller.testing import CONFOCAL, PolicyContract, resources
from policies.bandit import ThompsonPolicy
from policies.choosers import ThompsonChooser, ThompsonSettings, learned_utility
from policies.objectives import Measured
from policies.preferences import LearnedUtility, PreferenceQuestions, Preferences, described
from policies.regions import RegionsPolicy
from policies.visits import Room

FREE = Budget()
NAMES = tuple(GOOD_WAYS)


def reward(**weights: tuple[float, float]) -> LearnedReward:
    """Return a linear reward of two members with these weights of each value."""
    names = tuple(weights)
    members = tuple(
        RewardMember(layers=(RewardLayer(weights=(tuple(weights[name][i] for name in names),), bias=(0.0,)),))
        for i in (0, 1)
    )
    count = len(names)
    return LearnedReward(
        kind="linear",
        features=names,
        center=(0.0,) * count,
        scale=(1.0,) * count,
        low=(-100.0,) * count,
        high=(100.0,) * count,
        members=members,
        doubt=1.0,
        beta=2.0,
        ceiling=0.0,
        choices=7,
    )


def scan(index: int, detail: float, bleached: float, signal: float = 5.0) -> tuple[Frame, Measured]:
    """Return a scan with settings of its own, and what it showed."""
    made = CONFOCAL.replace(modality="sted", sted_w=0.001 * index, dwell_s=1e-5)
    frame = Frame(np.ones(made.shape_yx), made, index, 0.0)
    return frame, Measured(detail, bleached, 0.01, signal, 20.0)


def asks(
    scans: list[tuple[Frame, Measured]], utility: LearnedUtility | None = None, **options: Any
) -> tuple[Preferences, list[AskLabel]]:
    """Return what is asked after each scan, and what asks."""
    asked = PreferenceQuestions(**{"questions_max": 5, "scans_first": 3, "scans_between": 1, **options})
    preferences, found = Preferences(asked, utility, np.random.default_rng(0)), []
    for frame, measured in scans:
        preferences.take(frame, measured)
        if (question := preferences.question(FREE, {})) is not None:
            found.append(question)
    return preferences, found


def frames_of(question: Question) -> set[int]:
    return {option.frame_index for option in question.options if option.frame_index is not None}


def test_the_reward_is_the_mean_less_beta_standard_deviations_whatever_the_order_of_its_values() -> None:
    learned = LearnedUtility(reward(dose_j_per_m2=(-2.0, -4.0), detail_log=(1.0, 1.0)), "mine")
    objectives = {"detail_log": np.array([3.0, 0.0]), "signal_log": np.zeros(2)}
    told = learned.of(objectives, np.array([1.0, 0.5]), np.zeros(2))
    # members say 1, -1 and -1, -2
    assert told == pytest.approx([0 - 2 * 2**0.5, -1.5 - 2 * 0.5**0.5])
    assert learned.evidence({"detail_log": 3.0, "dose_j_per_m2": 1.0}) == pytest.approx(
        {"reward_mean": 0.0, "reward_std": 2**0.5}
    )


def test_a_reward_makes_other_settings_the_best_ones(tmp_path: Path) -> None:
    reward(bleached_fraction=(-1.0, -1.0)).write(tmp_path / "gentle.json")
    reward(signal_log=(1.0, 1.0)).write(tmp_path / "bright.json")
    found = {}
    for name in ("gentle.json", "bright.json"):
        options = ThompsonPolicy.Options.model_validate({"settings": {"reward": name, "candidates": 60}})
        policy = ThompsonPolicy.from_options(options, resources(folder=tmp_path))
        chooser = policy._visitor._chooser
        assert isinstance(chooser, ThompsonChooser)
        for power in np.linspace(0, 1, 8):
            point = np.array([0.5, 0.5, power])
            choice = chooser.choose(Room(), [])
            assert choice is not None
            measured = Measured(1.0, 0.6 * float(power), 0.01, 2 + 30 * float(power), 20.0)
            chooser.learn(replace(choice, point=point), measured)
        best, last = chooser.best(), chooser.choose(Room(), [])
        assert best is not None
        assert last is not None
        found[name], expected = best["sted_w"], last.expected
        assert {"expected_reward_mean", "expected_reward_std"} <= set(expected)
        weighed = expected["expected_reward_mean"] - 2.0 * expected["expected_reward_std"]
        assert expected["expected_utility"] == pytest.approx(weighed)
    assert found["gentle.json"] < 0.05
    assert found["bright.json"] > 0.15


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{}", "no learned reward"),
        (reward(resolution_nm=(1.0, 1.0)).model_dump_json(), "resolution_nm; measured here are detail_log"),
    ],
    ids=["no file", "no reward", "other values"],
)
def test_a_reward_that_cannot_judge_here_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "reward.json").write_text(text)
    kinds: tuple[Any, ...] = (ThompsonPolicy, RegionsPolicy)
    for kind in kinds:
        given_options = {"settings": {"method": "thompson", "reward": "reward.json"}}
        options = kind.Options.model_validate(given_options)
        with pytest.raises(ConfigurationError, match=words) as raised:
            kind.from_options(options, resources(folder=tmp_path))
        assert raised.value.problems[0].startswith("policy.options.settings.reward: ")


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave one of them out"):
        ThompsonSettings.model_validate({"reward": "mine.json", "utility": {"w_dose": 1.0}})
    with pytest.raises(ValidationError, match="these are fixed"):
        RegionsPolicy.Options.model_validate(
            {"settings": {"method": "fixed"}, "preferences": {"questions_max": 1}}
        )
    assert learned_utility(RegionsPolicy.Options().settings, Path()) is None


def test_the_first_decision_names_the_reward_by_its_checksum(tmp_path: Path) -> None:
    made = reward(detail_log=(1.0, 2.0))
    made.write(tmp_path / "mine.json")
    options = ThompsonPolicy.Options.model_validate({"settings": {"reward": "mine.json", "candidates": 60}})
    policy = ThompsonPolicy.from_options(options, resources(folder=tmp_path))
    seen = Observation(None, None, None, dose=Dose(), budget=FREE, now_s=0.0)
    first = policy.decide(seen)
    assert f"judged by mine.json, learned from 7 choices, sha256 {made.sha256}" in first.reason
    second = policy.decide(replace(seen, refused="a test"))
    assert made.sha256 not in second.reason


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.floats(0, 0.9), st.floats(0, 50)), min_size=0, max_size=16, unique=True
    ),
    st.integers(0, 6),
    st.integers(2, 4),
    st.integers(0, 5),
    st.booleans(),
)
@example([(0.0, 5e-324, 0.0), (0.0, 0.0, 0.0), (0.0, 0.5, 0.0)], 1, 3, 1, False)
@settings(max_examples=40, deadline=None)
def test_questions_keep_to_their_budget_and_to_scans_that_none_beats_in_everything(
    figures: list[tuple[float, float, float]], questions_max: int, options: int, left: int, is_learned: bool
) -> None:
    utility = LearnedUtility(reward(detail_log=(1.0, -1.0), bleached_fraction=(-3.0, 1.0)), "mine")
    preferences = Preferences(
        PreferenceQuestions(questions_max=questions_max, options=options, scans_first=2, scans_between=1),
        utility if is_learned else None,
        np.random.default_rng(0),
    )
    values: dict[int, dict[str, float]] = {}
    asked: list[Question] = []
    compared: set[tuple[int, ...]] = set()

    def look(*, at_end: bool) -> bool:
        found = preferences.question(Budget(questions=left - len(asked)), {}, at_end=at_end)
        if found is None:
            return False
        asked.append(found.question)
        shown = sorted(frames_of(found.question))
        pairs = set(combinations(shown, 2))
        assert 2 <= len(shown) == len(found.question.options) <= options
        assert pairs - compared
        compared.update(pairs)
        for option in found.question.options:
            assert option.frame_index is not None
            mine = values[option.frame_index]
            assert option.values == mine
            assert not any(beats(other, mine) for other in values.values())
        return True

    for index, (detail, bleached, signal) in enumerate(figures, start=1):
        frame, measured = scan(index, detail, bleached, signal)
        known = described(measured, frame.settings)
        assert known is not None
        values[index] = known
        preferences.take(frame, measured)
        look(at_end=False)
    while look(at_end=True):
        pass
    assert len(asked) <= min(questions_max, left)


def beats(one: dict[str, float], other: dict[str, float]) -> bool:
    gains = [(one[n] - other[n]) * (1 if way == "high" else -1) for n, way in GOOD_WAYS.items()]
    return min(gains) >= 0 and max(gains) > 0


def test_the_first_question_waits_and_later_ones_wait_for_new_scans() -> None:
    scans = [scan(n, detail=float(n), bleached=0.05 * n) for n in range(1, 11)]
    counts = []
    preferences = Preferences(
        PreferenceQuestions(questions_max=9, scans_first=4, scans_between=3), None, np.random.default_rng(0)
    )
    for number, (frame, measured) in enumerate(scans, start=1):
        preferences.take(frame, measured)
        while preferences.question(FREE, {}) is not None:
            counts.append(number)
    assert counts == [4, 7, 10]


def test_scans_of_the_same_settings_are_one_and_those_that_were_not_measured_are_none() -> None:
    frame, measured = scan(1, 1.0, 0.1)
    again = replace(frame, index=7)
    unmeasured = (scan(2, 2.0, 0.2)[0], Measured(2.0, None, None, 5.0, 20.0))
    assert described(unmeasured[1], frame.settings) is None
    scans = [(frame, measured), unmeasured, (again, measured), scan(3, 3.0, 0.3), scan(4, 4.0, 0.4)]
    _, (question,) = asks(scans)
    assert frames_of(question.question) == {3, 4, 7}


def test_without_a_reward_the_scans_that_differ_most_are_compared_first() -> None:
    scans = [scan(n, d, b) for n, (d, b) in enumerate([(1, 0.1), (1.1, 0.11), (9, 0.8), (9.2, 0.81)], 1)]
    _, (first, *_) = asks(scans, options=2, scans_first=4)
    assert frames_of(first.question) == {1, 4}
    assert "differ most" in first.reason


def test_with_a_reward_the_scans_are_compared_about_which_its_members_disagree() -> None:
    # The members agree on detail, and are of two minds about signal: 2 and 3 differ in signal alone.
    utility = LearnedUtility(reward(detail_log=(5.0, 5.0), signal_log=(2.0, -2.0)), "mine")
    scans = [scan(1, 0.1, 0.0, 5.0), scan(2, 4.0, 0.3, 1.0), scan(3, 4.0, 0.3, 30.0), scan(4, 19.0, 0.5, 5.0)]
    _, (question,) = asks(scans, utility, options=2, scans_first=4)
    assert frames_of(question.question) == {2, 3}
    assert question.evidence["choice_information_nats"] > 0.1


def test_the_best_place_in_a_question_is_nobodys() -> None:
    scans = [scan(n, detail=float(n), bleached=0.05 * n) for n in range(1, 13)]
    _, asked = asks(scans, questions_max=9)
    shown = [[option.frame_index or 0 for option in one.question.options] for one in asked]
    assert len(shown) == 9
    assert len({one.index(max(one)) for one in shown}) == 3


def test_asking_changes_nothing_about_the_settings_that_are_tried() -> None:
    tried, asked = [], []
    for questions_max in (0, 6):
        options = ThompsonPolicy.Options.model_validate(
            {
                "trials_max": 6,
                "settings": {"candidates": 60},
                "preferences": {"questions_max": questions_max, "scans_first": 3, "scans_between": 1},
            }
        )
        decisions = Asking().drive(ThompsonPolicy.from_options(options, resources()), 60)
        tried.append([d.settings for d in decisions if hasattr(d, "settings")])
        asked.append(sum(isinstance(d, AskLabel) for d in decisions))
    assert tried[0] == tried[1]
    assert asked[0] == 0
    assert 0 < asked[1] <= 6


class Asking(PolicyContract):
    def make(self, seed: int = 0) -> ThompsonPolicy:
        options = {
            "trials_max": 6,
            "settings": {"candidates": 60},
            "preferences": {"questions_max": 6, "scans_first": 3, "scans_between": 1},
        }
        return ThompsonPolicy.from_options(ThompsonPolicy.Options.model_validate(options), resources(seed))


class TestThompsonThatAsks(Asking):
    pass
