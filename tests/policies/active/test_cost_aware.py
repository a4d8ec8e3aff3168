"""Dividing by seconds: what it buys, and the guard that keeps it from buying only what is common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from controller.core.asking import Candidates, Chosen
from controller.core.errors import ConfigurationError
from controller.learning.answer_cost import AnswerTask, CostModel, TimedAnswer
from controller.testing import check_strategy, example_candidates
from policies.active.bald import BaldStrategy
from policies.active.cost_aware import CostAwareStrategy, rank_correlation, why_cost_may_not_count

SHARES = [0.70, 0.18, 0.08, 0.04]
TAG_S = np.array([0.8, 2.5, 3.5, 5.0])


def strategy(**options: Any) -> Any:
    return CostAwareStrategy.from_options(CostAwareStrategy.Options(**options))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(count: int, numbers: np.random.Generator, *, is_rare_slow: bool) -> tuple[Any, Any, Any]:
    """Return predicted classes, brightness, and the seconds that people take.

    The two models of cost: with ``is_rare_slow`` seconds rise with the rarity of the true class,
    otherwise they depend on dimness alone. Four of five predictions are right.
    """
    truth = numbers.choice(4, size=count, p=SHARES)
    dimness = np.exp(0.4 * numbers.standard_normal(count))
    ambiguity = np.exp(0.3 * numbers.standard_normal(count))
    seconds = TAG_S[truth] * ambiguity * dimness if is_rare_slow else 1.6 * dimness**1.5
    guess = numbers.choice(4, size=count, p=SHARES)
    predicted = np.where(numbers.random(count) < 0.8, truth, guess)
    noise = np.exp(0.2 * numbers.standard_normal((2, count)))
    return predicted, 10 / dimness * noise[0], seconds * noise[1]


def learned_cost_s(predicted: Any, photons: Any, *, model: CostModel) -> Any:
    tasks = zip(predicted.tolist(), photons.tolist(), strict=True)
    return model.predict_many(task(label, light) for label, light in tasks).astype(float)


def task(label: int, photons: float) -> AnswerTask:
    return AnswerTask(kind="tag", classes=4, photons=photons, predicted_class=str(label))


@pytest.mark.parametrize("is_rare_slow", [True, False])
@pytest.mark.parametrize("is_learned", [True, False])
def test_the_guard_fires_where_the_rare_is_slow_and_only_there(is_rare_slow: bool, is_learned: bool) -> None:
    for seed in range(20):
        numbers = rng(seed)
        predicted, photons, seconds = images(100, numbers, is_rare_slow=is_rare_slow)
        answers = zip(predicted.tolist(), photons.tolist(), seconds.tolist(), strict=True)
        model = CostModel.fit([TimedAnswer(task=task(a, b), answer_s=c) for a, b, c in answers])
        predicted, photons, seconds = images(500, numbers, is_rare_slow=is_rare_slow)
        cost_s = learned_cost_s(predicted, photons, model=model) if is_learned else seconds
        why = why_cost_may_not_count(cost_s, predicted)
        assert (why is not None) == is_rare_slow
        assert why is None or "take longer the rarer" in why


@pytest.mark.parametrize(
    ("cost_s", "classes", "words"),
    [
        (np.ones(29), np.arange(29) % 2, "too few"),
        (np.arange(1.0, 101), np.zeros(100, int), "one class"),
        (np.zeros(100), np.arange(100) % 3, "no time"),
        (np.where(np.arange(100) < 90, 1.0, 2.0), (np.arange(100) >= 90).astype(int), "1.00"),
    ],
)
def test_the_guard_says_why_it_fires(cost_s: Any, classes: Any, words: str) -> None:
    why = why_cost_may_not_count(cost_s, classes)
    assert why is not None
    assert words in why


@pytest.mark.parametrize(
    ("cost_s", "classes"),
    [
        (np.ones(100), np.arange(100) % 3),
        (np.where(np.arange(100) < 90, 2.0, 1.0), (np.arange(100) >= 90).astype(int)),
    ],
)
def test_the_guard_lets_pass_what_costs_the_same_or_less_where_it_is_rare(cost_s: Any, classes: Any) -> None:
    assert why_cost_may_not_count(cost_s, classes) is None


def test_rank_correlation_is_spearmans() -> None:
    numbers = rng(1)
    first = numbers.integers(5, size=80)
    second = first + numbers.integers(8, size=80)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation(first, np.ones(80)) == 0.0


def candidates_of(seconds: Any, predicted: Any, seed: int = 0) -> Candidates:
    """Return candidates of these predicted classes, with chance disagreements of two members."""
    count = len(seconds)
    numbers = rng(seed)
    sure = np.eye(4)[predicted] * 0.6 + 0.1
    noise = numbers.uniform(0, 0.5, (1, count, 1))
    others = np.eye(4)[(predicted + 1) % 4]
    members = np.concatenate([sure[None], (1 - noise) * sure[None] + noise * others[None]])
    usual = example_candidates(count)
    return replace(
        usual,
        probabilities=(members / members.sum(axis=2, keepdims=True)).astype(np.float32),
        cost_s=seconds.astype(np.float32),
        groups=np.arange(count),
    )


def test_it_keeps_the_contract_of_a_strategy() -> None:
    options: Any = CostAwareStrategy.Options(exponent=0.5)
    inner: Any = BaldStrategy()
    make: Any = lambda: CostAwareStrategy(options, inner)  # noqa: E731
    check_strategy(make)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_without_exponent_or_where_the_guard_fires_it_is_the_other_strategy(exponent: float) -> None:
    predicted, _, seconds = images(400, rng(3), is_rare_slow=True)
    candidates = candidates_of(seconds, predicted)
    chosen = strategy(exponent=exponent).choose(candidates, 20, rng(1))
    plain = BaldStrategy().choose(candidates, 20, rng(1))
    assert (chosen.indices, chosen.scores) == (plain.indices, plain.scores)
    assert ("rarer the class" in chosen.reason) == (exponent > 0)


def test_where_seconds_may_count_it_takes_more_for_the_same_time_of_what_was_proposed() -> None:
    predicted, _, seconds = images(400, rng(3), is_rare_slow=False)
    candidates = candidates_of(seconds, predicted)
    scores = dict(zip(*_all_scores(candidates), strict=True))

    def per_second(chosen: Chosen) -> float:
        indices = list(chosen.indices)
        return sum(scores[i] for i in indices) / float(candidates.cost_s[indices].sum())

    plain = per_second(BaldStrategy().choose(candidates, 20, rng()))
    half, full = (
        per_second(strategy(exponent=e, shortlist=20).choose(candidates, 20, rng())) for e in (0.5, 1.0)
    )
    assert plain < half < full
    best = sorted(scores, key=lambda i: -scores[i])[:60]
    shortlisted = strategy(exponent=1.0, shortlist=3).choose(candidates, 20, rng())
    assert set(shortlisted.indices) <= set(best)


class Descending:
    """Proposes the candidates in order, with scores from -1 downwards."""

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        numbers = tuple(range(min(count, len(candidates))))
        return Chosen(numbers, tuple(-1.0 - n for n in numbers), "in order")


def test_scores_below_0_do_not_make_what_takes_long_the_best() -> None:
    seconds = np.ones(40)
    seconds[9] = 1000.0
    candidates = candidates_of(seconds, np.arange(40) % 4)
    inner: Any = Descending()
    chosen = CostAwareStrategy(CostAwareStrategy.Options(exponent=1.0), inner).choose(candidates, 2, rng())
    assert chosen.indices == (0, 1)


def _all_scores(candidates: Candidates) -> tuple[tuple[int, ...], tuple[float, ...]]:
    chosen = BaldStrategy().choose(candidates, len(candidates), rng())
    return chosen.indices, chosen.scores


@pytest.mark.parametrize("name", ["badge", "core_set", "waal", "stratified_power", "random"])
def test_it_wraps_any_strategy(name: str) -> None:
    predicted, _, seconds = images(200, rng(5), is_rare_slow=False)
    candidates = candidates_of(seconds, predicted)
    chosen = strategy(strategy=name, exponent=1.0).choose(candidates, 10, rng())
    plain = strategy(strategy=name).choose(candidates, 10, rng())
    assert len(set(chosen.indices)) == 10
    assert candidates.cost_s[list(chosen.indices)].sum() < candidates.cost_s[list(plain.indices)].sum()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "blad"}, "'blad' is none of badge, "),
        ({"strategy": "no.such.module:Thing"}, "no.such.module"),
        ({"strategy_options": {"per_group_max": 0}}, "per_group_max"),
        ({"strategy_options": {"temperature": 1}}, "temperature"),
    ],
)
def test_a_strategy_that_is_not_there_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        strategy(**options)
