from __future__ import annotations

from collections import Counter
from math import ceil
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.asking import Candidates, Chosen
from controller.core.settings import Settings
from controller.learning.audit import FRACTION_MIN, arms_of_next, choose_audited
from controller.testing import example_candidates


@given(st.lists(st.integers(0, 7), max_size=40), st.sampled_from([0.15, 0.2, 1 / 3, 0.5, 1.0]))
def test_in_batches_of_any_size_the_share_by_chance_is_exact(batches: list[int], fraction: float) -> None:
    asked = audited = 0
    for count in batches:
        arms = arms_of_next(count, asked=asked, audited=audited, fraction=fraction)
        assert len(arms) == count
        asked, audited = asked + count, audited + arms.count("random_audit")
        assert audited == ceil(round(asked * fraction, 9))


def test_a_fifth_is_one_of_each_five_and_batches_make_no_difference() -> None:
    together = arms_of_next(15, asked=0, audited=0)
    assert [i for i, arm in enumerate(together) if arm == "random_audit"] == [0, 5, 10]
    audited = 0
    for asked, arm in enumerate(together):
        assert arms_of_next(1, asked=asked, audited=audited) == (arm,)
        audited += arm == "random_audit"


def test_questions_by_chance_that_were_withdrawn_are_made_up_for() -> None:
    assert arms_of_next(4, asked=20, audited=2) == ("random_audit",) * 3 + ("policy",)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.149, 1.01, float("nan")])
def test_too_few_questions_by_chance_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=str(FRACTION_MIN)):
        arms_of_next(5, asked=0, audited=0, fraction=fraction)


class FirstCandidates:
    """Takes the candidates with the largest features."""

    Options: ClassVar[Any] = Settings

    @classmethod
    def from_options(cls, options: Settings) -> FirstCandidates:
        return cls()

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        order = np.argsort(-candidates.features[:, 0])[:count]
        return Chosen(tuple(order.tolist()), tuple(candidates.features[order, 0].tolist()), "the largest")


def test_chance_draws_from_all_and_the_strategy_from_the_rest() -> None:
    candidates = example_candidates(12)
    largest = np.argsort(-candidates.features[:, 0]).tolist()
    arms = arms_of_next(5, asked=0, audited=0, fraction=0.4)
    drawn: Counter[int] = Counter()
    for seed in range(300):
        chosen = choose_audited(FirstCandidates(), candidates, arms, np.random.default_rng(seed))
        assert chosen.arms == arms
        assert len(set(chosen.indices)) == 5
        by_chance = {i for i, arm in zip(chosen.indices, arms, strict=True) if arm == "random_audit"}
        by_choice = [i for i, arm in zip(chosen.indices, arms, strict=True) if arm == "policy"]
        assert by_choice == [i for i in largest if i not in by_chance][:3]
        for index, score, arm in zip(chosen.indices, chosen.scores, arms, strict=True):
            assert score == (0.0 if arm == "random_audit" else float(candidates.features[index, 0]))
        drawn.update(by_chance)
    # 600 draws of 12 alike: 50 each, standard deviation 6.5.
    assert set(drawn) == set(range(12))
    assert max(abs(count - 50) for count in drawn.values()) < 30
    same = [choose_audited(FirstCandidates(), candidates, arms, np.random.default_rng(1)) for _ in range(2)]
    assert same[0] == same[1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_with_fewer_candidates_than_questions_all_are_asked_about(count: int) -> None:
    arms = arms_of_next(5, asked=0, audited=0)
    chosen = choose_audited(FirstCandidates(), example_candidates(count), arms, np.random.default_rng(0))
    assert sorted(chosen.indices) == list(range(count))
    assert chosen.arms == arms[:count]
    assert len(chosen.reasons) == len(chosen.scores) == count
