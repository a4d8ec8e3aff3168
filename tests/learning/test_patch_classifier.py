"""A classifier from few answers: what it says, how its members differ, what it refuses."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from controller.learning.patch_classifier import ClassifierOptions, fit

CLASSES = 4
CENTRES = np.random.default_rng(9).normal(0, 1.5, (CLASSES, 24))


def crowd(counts: tuple[int, ...], seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features of so many crops of each class, around its centre."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(CLASSES), counts)
    return (CENTRES[kinds] + rng.normal(size=(len(kinds), 24))).astype(np.float32), kinds


def hard(kinds: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.eye(CLASSES, dtype=np.float32)[kinds]


def ones(count: int) -> NDArray[np.float32]:
    return np.ones(count, np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_without_an_answer_everything_is_equally_likely_for_every_member() -> None:
    known = fit(np.zeros((0, 24), np.float32), np.zeros((0, CLASSES), np.float32), ones(0), rng())
    said = known.probabilities(crowd((3, 3, 3, 3))[0], 5)
    assert said.shape == (5, 12, CLASSES)
    assert (said == 0.25).all()


def test_answers_without_weight_are_as_good_as_none() -> None:
    features, kinds = crowd((3, 3, 3, 3))
    known = fit(features, hard(kinds), np.zeros(12, np.float32), rng())
    assert (known.probabilities(features, 2) == 0.25).all()


def test_after_one_answer_its_class_is_likeliest_where_it_was_given_and_others_stay_possible() -> None:
    features, kinds = crowd((0, 0, 1, 0))
    said = fit(features, hard(kinds), ones(1), rng()).probabilities(features, 20).mean(axis=0)
    assert said[0].argmax() == 2
    assert (said[0] > 1e-4).all()


def test_a_class_that_nobody_has_seen_is_unlikely_everywhere() -> None:
    features, kinds = crowd((40, 40, 40, 0))
    elsewhere = crowd((50, 50, 50, 50), seed=1)[0]
    said = fit(features, hard(kinds), ones(120), rng()).probabilities(elsewhere).mean(axis=0)
    assert said[:, 3].max() < 0.1
    assert said[:, 3].min() > 0


def test_a_rare_class_is_found_as_well_as_a_common_one() -> None:
    features, kinds = crowd((150, 60, 40, 6))
    seen, truth = crowd((200, 200, 200, 200), seed=1)
    said = fit(features, hard(kinds), ones(256), rng()).mean(seen).argmax(axis=1)
    recall = [(said[truth == kind] == kind).mean() for kind in range(CLASSES)]
    assert min(recall) > 0.75


def test_balance_raises_the_recall_of_what_is_rare() -> None:
    features, kinds = crowd((200, 5, 5, 5))
    seen, truth = crowd((0, 300, 300, 300), seed=1)
    # Harder than the classes of the other tests: half of what tells them apart is hidden.
    features[:, 12:], seen[:, 12:] = 0, 0

    def recall(balance: float) -> float:
        options = ClassifierOptions(balance=balance)
        known = fit(features, hard(kinds), ones(len(kinds)), rng(), options)
        return float((known.mean(seen).argmax(axis=1) == truth).mean())

    assert recall(1.0) > recall(0.0)


def test_members_agree_about_what_was_answered_often_and_differ_about_what_was_not() -> None:
    features, kinds = crowd((60, 60, 0, 0))
    known = fit(features, hard(kinds), ones(120), rng())
    near, far = crowd((50, 50, 0, 0), seed=1)[0], crowd((0, 0, 50, 50), seed=1)[0]

    def disagreement(of: NDArray[np.float32]) -> float:
        said = known.probabilities(of, 30)
        mean = said.mean(axis=0)
        return float((-(mean * np.log(mean)).sum(-1) + (said * np.log(said)).sum(-1).mean(0)).mean())

    assert disagreement(far) > 2 * disagreement(near)


def test_a_member_sees_the_whole_pool_with_the_same_units() -> None:
    """So its answer about a crop does not depend on the company, nor on how many members are asked."""
    features, kinds = crowd((20, 20, 20, 20))
    known = fit(features, hard(kinds), ones(80), rng())
    all_of_them, some = known.probabilities(features, 10), known.probabilities(features[30:40], 4)
    np.testing.assert_allclose(all_of_them[:4, 30:40], some, atol=1e-5)
    assert len({member.tobytes() for member in all_of_them}) == 10


def test_without_dropout_members_are_one_and_the_mean() -> None:
    features, kinds = crowd((9, 9, 9, 9))
    known = fit(features, hard(kinds), ones(36), rng(), ClassifierOptions(dropout=0.0))
    said = known.probabilities(features, 3)
    assert (said[0] == said[1]).all()
    np.testing.assert_allclose(said[0], known.mean(features), atol=1e-6)


def test_soft_answers_are_learned_as_soft() -> None:
    features = np.repeat(crowd((1, 0, 0, 0))[0], 40, axis=0)
    targets = np.tile(np.array([0.7, 0.3, 0, 0], np.float32), (40, 1))
    options = ClassifierOptions(balance=0.0, steps=400)
    said = fit(features, targets, ones(40), rng(), options).mean(features[:1])[0]
    assert said[:2] == pytest.approx([0.7, 0.3], abs=0.1)


def test_an_answer_of_little_weight_is_outvoted() -> None:
    features = np.repeat(crowd((1, 0, 0, 0))[0], 2, axis=0)
    weights = np.array([1.0, 0.05], np.float32)
    said = fit(features, hard(np.array([1, 2])), weights, rng(), ClassifierOptions(balance=0.0)).mean(
        features
    )
    assert (said.argmax(axis=1) == 1).all()


def test_features_that_hardly_differ_are_told_apart_all_the_same() -> None:
    """As those of dim images are that an encoder sees which learned from bright ones."""
    features, kinds = crowd((30, 30, 30, 30))
    seen, truth = crowd((100, 100, 100, 100), seed=1)
    known = fit(3 + 0.1 * features, hard(kinds), ones(120), rng())
    assert (known.mean(3 + 0.1 * seen).argmax(axis=1) == truth).mean() > 0.9


def test_the_same_chance_makes_the_same_classifier() -> None:
    features, kinds = crowd((5, 5, 5, 5))
    said = [fit(features, hard(kinds), ones(20), rng(seed)).probabilities(features) for seed in (3, 3, 4)]
    assert said[0].tobytes() == said[1].tobytes() != said[2].tobytes()


def test_300_answers_are_learned_within_a_second_of_processor_time() -> None:
    wide = np.random.default_rng(0).normal(size=(300, 96)).astype(np.float32)
    targets = hard(np.arange(300) % CLASSES)
    fit(wide, targets, ones(300), rng())
    begun_s = time.process_time()
    fit(wide, targets, ones(300), rng())
    assert time.process_time() - begun_s < 1


def test_hidden_has_one_row_for_each_crop() -> None:
    features, kinds = crowd((5, 5, 5, 5))
    known = fit(features, hard(kinds), ones(20), rng(), ClassifierOptions(hidden=16))
    assert known.hidden(features[:7]).shape == (7, 16)
    assert (known.hidden(features) >= 0).all()
    assert known.hidden(features[:0]).shape == (0, 16)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(count=st.integers(0, 6), classes=st.integers(2, 5), scale=st.floats(0, 1e4), seed=st.integers(0, 99))
def test_probabilities_are_probabilities_whatever_was_answered(
    count: int, classes: int, scale: float, seed: int
) -> None:
    chance = rng(seed)
    features = (scale * chance.normal(size=(count, 8))).astype(np.float32)
    targets = chance.dirichlet(np.ones(classes), count).astype(np.float32).reshape(count, classes)
    weights = chance.random(count).astype(np.float32)
    known = fit(features, targets, weights, chance, ClassifierOptions(steps=20, hidden=8))
    said = known.probabilities((scale * chance.normal(size=(10, 8))).astype(np.float32), 3)
    assert said.dtype == np.float32
    assert ((said >= 0) & (said <= 1)).all()
    np.testing.assert_allclose(said.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.full((4, 8), np.nan)}, "row 0"),
        ({"features": np.zeros((3, 8))}, "as many rows"),
        ({"targets": np.ones((4, 1))}, "as many rows"),
        ({"targets": np.full((4, 3), 0.5)}, "sum of 1"),
        ({"targets": np.tile([1.5, -0.5, 0.0], (4, 1))}, "sum of 1"),
        ({"weights": np.array([1, 1, 1, -1.0])}, "how much each answer counts"),
        ({"weights": np.array([1, 1, 1, np.inf])}, "how much each answer counts"),
    ],
)
def test_what_is_no_answer_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"features": np.zeros((4, 8)), "targets": np.eye(3)[[0, 1, 2, 0]], "weights": np.ones(4)}
    features, targets, weights = {**given, **change}.values()  # a known key keeps its place
    with pytest.raises(ValueError, match=message):
        fit(features, targets, weights, rng())


def test_features_of_another_encoder_are_refused() -> None:
    features, kinds = crowd((1, 1, 1, 1))
    known = fit(features, hard(kinds), ones(4), rng())
    with pytest.raises(ValueError, match=r"\(n, 24\)"):
        known.probabilities(np.zeros((2, 25), np.float32))
    with pytest.raises(ValueError, match="members=0"):
        known.probabilities(features, 0)
