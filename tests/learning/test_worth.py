"""What seconds of annotation bought, and whether asking cleverly helped."""

from __future__ import annotations

import numpy as np
import pytest

from controller.learning.worth import (
    Answered,
    Floats,
    Predict,
    Whole,
    WorthOptions,
    what_seconds_bought,
)

CENTRES = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
OPTIONS = WorthOptions(resamples=100, retrainings=4)


def nearest_mean(features: Floats, classes: Whole, weights: Floats, rng: np.random.Generator) -> Predict:
    """Learn the mean of each class; what was never answered is never predicted."""
    numbers = np.unique(classes)
    means = np.stack(
        [np.average(features[classes == n], axis=0, weights=weights[classes == n]) for n in numbers]
    )

    def predict(new: Floats) -> Floats:
        distance = np.linalg.norm(new[:, None] - means[None], axis=2)
        found = np.zeros((len(new), 3))
        found[:, numbers] = np.exp(-distance)
        return found

    return predict


def answers(
    seed: int, *, policy: int = 60, chance: int = 40, held_out: int = 60, rare: float = 0.03
) -> Answered:
    """Return answers of a policy that finds the rare class ten times as often as chance does."""
    rng = np.random.default_rng(seed)
    count = policy + chance + held_out
    shares = np.where(np.arange(count) < policy, min(10 * rare, 0.9), rare)
    shares[policy + chance :] = 1 / 3  # so that each class is among what is judged by
    is_rare = rng.random(count) < shares
    classes = np.where(is_rare, 2, rng.integers(0, 2, count))
    where = np.arange(count)
    order = rng.permutation(count)
    return Answered(
        features=(CENTRES[classes] + rng.normal(0, 0.7, (count, 2)))[order],
        classes=classes[order],
        weights=np.ones(count),
        seconds=np.where(is_rare, 3.0, 1.0)[order],
        is_audit=(where >= policy)[order],
        is_held_out=(where >= policy + chance)[order],
    )


def test_a_policy_that_finds_what_is_rare_needs_fewer_seconds() -> None:
    ratios = []
    for seed in range(10):
        told = answers(seed, policy=100, chance=100)
        worth = what_seconds_bought(told, nearest_mean, np.random.default_rng(0), OPTIONS)
        if worth.ratio is not None:
            assert worth.ratio.low <= worth.ratio.value <= worth.ratio.high
            ratios.append(worth.ratio.value)
    assert len(ratios) >= 8
    assert np.exp(np.mean(np.log(ratios))) > 1.2


def test_two_arms_of_chance_are_not_told_apart() -> None:
    told = []
    for seed in range(10):
        both = answers(seed, policy=0, chance=200, rare=0.3)
        learn = np.flatnonzero(~both.is_held_out)
        both.is_audit[learn[::2]] = False
        options = WorthOptions(resamples=200, retrainings=10, points=6)
        worth = what_seconds_bought(both, nearest_mean, np.random.default_rng(0), options)
        if worth.ratio is not None:
            told.append(worth.ratio.low <= 1 <= worth.ratio.high)
    assert len(told) >= 8
    assert sum(told) >= len(told) - 1


def test_the_curves_are_compared_at_equal_seconds_and_grow() -> None:
    worth = what_seconds_bought(answers(1), nearest_mean, np.random.default_rng(0), OPTIONS)
    policy, chance = ([point.seconds for point in curve] for curve in (worth.policy, worth.chance))
    assert set(chance) <= set(policy)
    assert chance == sorted(chance)
    for curve in (worth.policy, worth.chance):
        assert curve[0].answers == 0
        assert curve[0].quality.value == pytest.approx(1 / 3)
        assert curve[-1].quality.value > 0.6
        assert [p.answers for p in curve] == sorted(p.answers for p in curve)
        for point in curve:
            assert 0 <= point.quality.low <= point.quality.value <= point.quality.high <= 1
    assert worth.policy[-1].answers == 60
    assert worth.chance[-1].answers == 40


def test_it_is_the_same_again_with_the_same_seed() -> None:
    first, again = (
        what_seconds_bought(answers(2), nearest_mean, np.random.default_rng(5), OPTIONS) for _ in range(2)
    )
    assert first == again


def test_what_a_policy_asked_for_in_held_out_fields_judges_nothing() -> None:
    told = answers(2)
    clean = what_seconds_bought(told, nearest_mean, np.random.default_rng(5), OPTIONS)
    spoiled = np.concatenate([np.arange(len(told.classes)), np.flatnonzero(told.is_held_out)])
    more = told.part(spoiled)
    added = np.arange(len(spoiled)) >= len(told.classes)
    more.classes[added] = (more.classes[added] + 1) % 3
    more.is_audit[added] = False
    assert what_seconds_bought(more, nearest_mean, np.random.default_rng(5), OPTIONS) == clean


def test_answers_of_no_weight_are_not_learned_from() -> None:
    told = answers(3)
    told.weights[~told.is_held_out] = 0
    worth = what_seconds_bought(told, nearest_mean, np.random.default_rng(0), OPTIONS)
    assert [point.quality.value for point in worth.policy] == pytest.approx([1 / 3] * len(worth.policy))
    assert worth.ratio is None


def test_short_classes_are_named_with_what_is_known_of_them() -> None:
    told = answers(4, policy=40, chance=0, rare=0.01)
    worth = what_seconds_bought(told, nearest_mean, np.random.default_rng(0), OPTIONS)
    learn = ~told.is_held_out
    for one in worth.classes:
        assert one.answers == np.sum(told.classes[learn] == one.number)
        assert one.seconds == told.seconds[learn & (told.classes == one.number)].sum()
        assert one.held_out == np.sum(told.classes[~learn] == one.number)
        assert one.is_short == (one.answers < 10)
    assert [one.is_short for one in worth.classes] == [False, False, True]


def _all_of_one_class(told: Answered) -> Answered:
    told.classes[told.is_held_out] = 1
    return told


def _hopeless(told: Answered) -> Answered:
    told.features[:] = np.random.default_rng(0).normal(size=told.features.shape)
    told.classes[told.is_audit & ~told.is_held_out] = 0
    return told


@pytest.mark.parametrize(
    ("told", "reason", "has_curves"),
    [
        (answers(0, held_out=4), "at least 5", False),
        (answers(0, held_out=0), "at least 5", False),
        (_all_of_one_class(answers(0)), "of one class", False),
        (answers(0, policy=0), "that the policy asked for", True),
        (answers(0, chance=0), "that chance asked for", True),
        (_hopeless(answers(0)), "better than none", True),
    ],
)
def test_where_nothing_can_be_said_there_is_a_reason(told: Answered, reason: str, has_curves: bool) -> None:
    worth = what_seconds_bought(told, nearest_mean, np.random.default_rng(0), OPTIONS)
    assert worth.ratio is None
    assert reason in worth.reason
    assert bool(worth.policy) == has_curves
    assert len(worth.classes) >= 2


def test_a_policy_that_never_comes_there_has_no_ratio() -> None:
    told = answers(0, rare=0.2)
    of_policy = ~told.is_audit
    told.classes[of_policy] = np.random.default_rng(0).integers(0, 2, of_policy.sum())
    worth = what_seconds_bought(told, nearest_mean, np.random.default_rng(0), OPTIONS)
    assert worth.ratio is None
    assert "has not come to" in worth.reason


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("seconds", -1.0, "negative"),
        ("seconds", float("nan"), "finite"),
        ("weights", 2.0, "weights"),
        ("classes", -1, "negative"),
        ("features", float("inf"), "finite"),
    ],
)
def test_answers_that_cannot_be_are_refused(name: str, value: float, match: str) -> None:
    told = answers(0)
    columns = {field: getattr(told, field).copy() for field in Answered.__dataclass_fields__}
    columns[name][0] = value
    with pytest.raises(ValueError, match=match):
        Answered(**columns)
    with pytest.raises(ValueError, match="rows"):
        Answered(**{**columns, name: columns[name][1:]})
