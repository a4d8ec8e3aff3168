"""Every strategy: its contract, and what is particular about it where the right choice is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from controller.core.asking import Candidates, QueryStrategy
from controller.plugins import find_strategy
from controller.testing import check_strategy, example_candidates
from policies.active.badge import BadgeStrategy
from policies.active.bald import BaldStrategy
from policies.active.core_set import CoreSetStrategy
from policies.active.entropy import EntropyStrategy
from policies.active.picking import bald_nats, entropy_nats
from policies.active.random_choice import (
    BalancedRandomStrategy,
    ForegroundRandomStrategy,
    RandomStrategy,
)
from policies.active.stratified_power import StratifiedPowerStrategy
from policies.active.waal import Critic, WaalStrategy

LN2 = float(np.log(2))
STRATEGIES: dict[str, Any] = {
    "bald": BaldStrategy,
    "entropy": EntropyStrategy,
    "badge": BadgeStrategy,
    "core_set": CoreSetStrategy,
    "waal": WaalStrategy,
    "stratified_power": StratifiedPowerStrategy,
    "foreground_random": ForegroundRandomStrategy,
    "balanced_random": BalancedRandomStrategy,
    "random": RandomStrategy,
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def with_probabilities(*members: list[list[float]]) -> Candidates:
    """Return candidates with these probabilities, ``(members, n, classes)``."""
    given_ = np.array(members, np.float32)
    count = given_.shape[1]
    usual = example_candidates(count, classes=given_.shape[2])
    return replace(usual, probabilities=given_, groups=np.arange(count))


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_keeps_the_contract(name: str) -> None:
    assert find_strategy(name) is STRATEGIES[name]
    check_strategy(STRATEGIES[name])


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("most", [1, 2])
def test_no_field_gets_more_than_its_share_while_others_are_left(name: str, most: int) -> None:
    candidates = replace(example_candidates(60), groups=np.repeat(np.arange(6), 10))
    strategy = find_strategy(name).from_options(STRATEGIES[name].Options(per_group_max=most))
    chosen = strategy.choose(candidates, 6 * most + 1, rng()).indices
    shares = Counter(candidates.groups[list(chosen[: 6 * most])].tolist())
    assert shares == dict.fromkeys(range(6), most)
    assert len(set(chosen)) == 6 * most + 1


class FirstOnes:
    """Breaks the contract in one way, and keeps it otherwise."""

    Options: ClassVar[Any] = BaldStrategy.Options

    def __init__(self, fault: str) -> None:
        self.fault = fault

    @classmethod
    def from_options(cls, options: Any) -> FirstOnes:
        return cls("none")

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Any:  # noqa: PLR0911
        chosen = BaldStrategy().choose(candidates, count, rng)
        n = len(chosen.indices)
        match self.fault:
            case "takes the first":
                return replace(chosen, indices=tuple(range(n)))
            case "takes one twice":
                return replace(chosen, indices=chosen.indices[:1] * n)
            case "takes too few":
                return replace(chosen, indices=chosen.indices[:2], scores=chosen.scores[:2])
            case "scores nan":
                return replace(chosen, scores=(float("nan"),) * n)
            case "has a mind of its own":
                return replace(chosen, scores=tuple(np.random.default_rng().random(n).tolist()))
            case "gives no reason":
                return replace(chosen, reason=" ")
        return chosen


@pytest.mark.parametrize(
    "fault",
    [
        "takes the first",
        "takes one twice",
        "takes too few",
        "scores nan",
        "has a mind of its own",
        "gives no reason",
    ],
)
def test_the_contract_finds_a_strategy_that_breaks_it(fault: str) -> None:
    with pytest.raises(AssertionError):
        check_strategy(lambda: FirstOnes(fault), count=100)


def test_the_contract_takes_a_strategy_without_a_fault() -> None:
    check_strategy(lambda: FirstOnes("none"), count=100)


def test_members_that_agree_score_0_and_members_that_contradict_each_other_score_ln_2() -> None:
    candidates = with_probabilities(
        [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], [[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0]]
    )
    assert bald_nats(candidates).tolist() == [0.0, LN2, 0.0]
    chosen = BaldStrategy().choose(candidates, 1, rng())
    assert (chosen.indices, chosen.scores) == ((1,), (LN2,))


def test_entropy_takes_what_all_members_are_unsure_of_and_bald_does_not() -> None:
    all_unsure, at_odds = [0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]]
    candidates = with_probabilities([all_unsure, at_odds[0]], [all_unsure, at_odds[1]])
    assert EntropyStrategy().choose(candidates, 1, rng()).indices == (0,)
    assert BaldStrategy().choose(candidates, 1, rng()).indices == (1,)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_disagreement_lies_between_0_and_the_entropy_of_the_mean(
    seed: int, classes: int, members: int
) -> None:
    candidates = example_candidates(20, seed=seed, classes=classes, members=members)
    whole = entropy_nats(candidates.probabilities.mean(axis=0, dtype=float))
    assert (bald_nats(candidates) >= 0).all()
    assert (bald_nats(candidates) <= whole + 1e-12).all()
    assert (whole <= np.log(classes) + 1e-6).all()


@pytest.mark.parametrize("bad", [[[1.2, -0.2]], [[0.5, 0.4]]])
def test_probabilities_that_are_none_are_refused(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        BaldStrategy().choose(with_probabilities(bad), 1, rng())


def explicit_k_means(points: np.ndarray[Any, Any], count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return what k-means++ chooses among gradients that are written out, the longest first."""
    squares = (points**2).sum(axis=1)
    longest = np.flatnonzero(squares >= squares.max() * (1 - 1e-12))
    chosen = [int(longest[rng.integers(len(longest))])]
    nearest = np.full(len(points), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        sums = np.cumsum(nearest)
        chosen.append(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")))
    return tuple(chosen)


@pytest.mark.parametrize("seed", range(20))
def test_badge_takes_the_same_as_with_gradients_that_are_written_out(seed: int) -> None:
    candidates = example_candidates(300, seed=seed)
    errors = candidates.probabilities.mean(axis=0, dtype=float)
    errors[np.arange(300), errors.argmax(axis=1)] -= 1
    written_out = (errors[:, :, None] * candidates.hidden[:, None, :].astype(float)).reshape(300, -1)
    expected = explicit_k_means(written_out, 25, rng(seed))
    assert BadgeStrategy().choose(candidates, 25, rng(seed)).indices == expected


def test_badge_begins_with_what_is_least_sure_and_leaves_look_alikes() -> None:
    usual = example_candidates(40)
    hidden = np.ones_like(usual.hidden)
    certain = np.tile(np.array([1, 0, 0, 0], np.float32), (5, 40, 1))
    certain[:, 7:9] = [0.4, 0.6, 0, 0]
    certain[:, 20] = [0, 0.4, 0, 0.6]
    candidates = replace(usual, hidden=hidden, probabilities=certain)
    for seed in range(10):
        chosen = BadgeStrategy().choose(candidates, 3, rng(seed))
        assert chosen.indices[0] in {7, 8, 20}
        assert not {7, 8} <= set(chosen.indices)
        # Three kinds of gradient there are, that of length 0 among them; each is taken once.
        assert min(chosen.scores) > 0


def on_a_line(at: list[float], answered: list[float]) -> Candidates:
    usual = example_candidates(len(at), labelled=len(answered))
    lines = [np.array(values, np.float32).reshape(-1, 1) for values in (at, answered)]
    return replace(usual, features=lines[0], labelled_features=lines[1], groups=np.arange(len(at)))


@pytest.mark.parametrize(
    ("at", "answered", "expected"),
    [
        ([0, 1, 2, 10], [0], (3, 2)),
        ([5, 5, 5, 6, 20], [0], (4, 3)),
        ([1, 1, 9, 9], [0], None),
        ([-4, 3, 4.5], [], None),
    ],
)
def test_core_set_takes_the_farthest_first_and_never_two_alike(
    at: list[float], answered: list[float], expected: tuple[int, ...] | None
) -> None:
    for seed in range(8):
        chosen = CoreSetStrategy().choose(on_a_line(at, answered), 2, rng(seed)).indices
        assert expected is None or chosen == expected
        assert len({at[i] for i in chosen}) == 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_core_set_covers_at_most_twice_as_badly_as_the_best_choice(
    seed: int, count: int, answered: int
) -> None:
    numbers = rng(seed)
    candidates = replace(
        example_candidates(9, labelled=answered),
        features=numbers.standard_normal((9, 2)).astype(np.float32),
        labelled_features=numbers.standard_normal((answered, 2)).astype(np.float32),
    )

    def worst(chosen: tuple[int, ...]) -> float:
        centers = np.concatenate([candidates.labelled_features, candidates.features[list(chosen)]])
        apart = np.linalg.norm(candidates.features[:, None] - centers[None], axis=2)
        return float(apart.min(axis=1).max())

    best = min(worst(some) for some in combinations(range(9), count))
    assert worst(CoreSetStrategy().choose(candidates, count, rng(seed)).indices) <= 2 * best + 1e-5


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (StratifiedPowerStrategy, {}),
        (StratifiedPowerStrategy, {"uncertainty": "bald", "power": None}),
        (BalancedRandomStrategy, {}),
    ],
)
def test_the_predicted_classes_come_in_turn_however_rare(kind: Any, options: dict[str, Any]) -> None:
    seen = np.zeros((5, 100, 4), np.float32)
    seen[..., 0] = 0.2
    classes = np.repeat([0, 1, 2, 3], [80, 12, 5, 3])
    seen[:, np.arange(100), classes] += 0.8
    seen /= seen.sum(axis=2, keepdims=True)
    candidates = replace(example_candidates(100), probabilities=seen, groups=np.arange(100))
    chosen = kind(kind.Options(**options)).choose(candidates, 12, rng()).indices
    assert Counter(classes[list(chosen)].tolist()) == {0: 3, 1: 3, 2: 3, 3: 3}


def test_power_decides_how_much_is_left_to_chance() -> None:
    one_unsure = [[0.99, 0.01]] * 30 + [[0.6, 0.4]]
    candidates = with_probabilities(one_unsure, one_unsure)

    def share(power: float | None) -> float:
        strategy = StratifiedPowerStrategy(StratifiedPowerStrategy.Options(power=power))
        return float(np.mean([strategy.choose(candidates, 1, rng(s)).indices == (30,) for s in range(200)]))

    # Its part of all entropy is .673 / (.673 + 30 x .056) = .286.
    assert share(1.0) == pytest.approx(0.286, abs=0.09)
    assert share(0.2) < share(1.0) < share(4.0) <= share(None) == 1.0


def drawn_first(strategy: QueryStrategy, candidates: Candidates, tries: int) -> list[float]:
    counts = Counter(strategy.choose(candidates, 1, rng(seed)).indices[0] for seed in range(tries))
    return [counts[i] / tries for i in range(len(candidates))]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (RandomStrategy, [0.25, 0.25, 0.25, 0.25]),
        (ForegroundRandomStrategy, [0.05, 0.05 + 0.8 / 7, 0.05 + 1.6 / 7, 0.05 + 3.2 / 7]),
        (BalancedRandomStrategy, [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
    ],
)
def test_chance_draws_as_often_as_its_score_says(
    make: Callable[[], QueryStrategy], expected: list[float]
) -> None:
    candidates = with_probabilities([[0.8, 0.2], [0.9, 0.1], [0.7, 0.3], [0.1, 0.9]])
    candidates = replace(candidates, foreground=np.array([0, 0.2, 0.4, 0.8], np.float32))
    everyone = make().choose(candidates, 4, rng())
    assert [everyone.scores[everyone.indices.index(i)] for i in range(4)] == pytest.approx(expected)
    # Four standard deviations of a share of 1000 are at most .064.
    assert drawn_first(make(), candidates, 1000) == pytest.approx(expected, abs=0.064)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1e3), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_the_critic_never_says_more_than_the_wasserstein_distance(
    seed: int, unit: float, shift: float
) -> None:
    numbers = rng(seed)
    above = unit * (numbers.standard_normal((40, 1)) + shift)
    below = unit * numbers.standard_normal((30, 1)) * 2
    critic = Critic(above, below, rng(seed), 30)
    said = critic(above).mean() - critic(below).mean()
    assert said <= wasserstein_distance(above[:, 0], below[:, 0]) * (1 + 1e-9)


def test_the_critic_comes_close_to_the_distance_of_two_clouds_apart() -> None:
    numbers = rng(3)
    below = numbers.standard_normal((200, 5))
    above = numbers.standard_normal((200, 5)) + np.array([4, 0, 0, 0, 0])
    critic = Critic(above, below, rng(0), 60)
    assert 3.2 < critic(above).mean() - critic(below).mean() < 4.6


def test_waal_takes_what_looks_unlike_the_answers_where_all_are_equally_unsure() -> None:
    candidates = replace(
        on_a_line([0.0, 0.1, -0.2, 0.3, 6.0, 6.2], [0.0, 0.2, -0.1, 0.1]),
        probabilities=np.full((3, 6, 4), 0.25, np.float32),
    )
    for seed in range(5):
        chosen = WaalStrategy().choose(candidates, 2, rng(seed)).indices
        assert set(chosen) == {4, 5}
    alone = WaalStrategy(WaalStrategy.Options(critic_weight=0.0)).choose(candidates, 6, rng()).scores
    assert alone == pytest.approx([1.0] * 6)
