"""Several answers come to one, and tell who answers well."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.labels.dawid_skene import (
    CrowdAnswers,
    DawidSkeneOptions,
    Floats,
    Whole,
    dawid_skene,
    majority,
)

FREQUENCIES = (0.7, 0.18, 0.08, 0.04)
SKILLS = (0.95, 0.9, 0.8, 0.7, 0.55, 0.4)


def crowd(seed: int, items: int = 300, coverage: float = 0.6) -> tuple[Whole, Whole]:
    """Return what is true and what six annotators of known skill say, ``(items, annotators)``."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(FREQUENCIES), items, p=FREQUENCIES)
    wrong = (truth[:, None] + rng.integers(1, len(FREQUENCIES), (items, len(SKILLS)))) % len(FREQUENCIES)
    said = np.where(rng.random(wrong.shape) < SKILLS, truth[:, None], wrong)
    return truth, np.where(rng.random(wrong.shape) < coverage, said, -1)


def answers_of(table: Whole, classes: int) -> CrowdAnswers:
    """Return a table ``(items, annotators)`` as answers; negative numbers are missing ones."""
    items, annotators = np.nonzero(table >= 0)
    shape = (table.shape[0], table.shape[1], classes)
    return CrowdAnswers(items, annotators, table[items, annotators], np.ones(len(items)), shape)


def crowd_kit(table: Whole) -> tuple[Whole, Floats, int]:
    """Return which items crowd-kit has something to say of, its posterior of these, and its iterations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aggregation = pytest.importorskip("crowdkit.aggregation", reason="crowd-kit, an oracle, is absent")
        import pandas as pd

        items, annotators = np.nonzero(table >= 0)
        rows = pd.DataFrame({"task": items, "worker": annotators, "label": table[items, annotators]})
        oracle = aggregation.DawidSkene(n_iter=100, tol=1e-7).fit(rows)
        found = oracle.probas_.sort_index()
        posterior = found.reindex(columns=range(len(FREQUENCIES))).to_numpy()
        return found.index.to_numpy(), posterior, len(oracle.loss_history_)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_posterior_is_that_of_crowd_kit(seed: int) -> None:
    _, table = crowd(seed, items=200)
    items, expected, iterations = crowd_kit(table)
    # It ends where rounding makes its bound go down once, which may be on a plateau far from the end.
    options = DawidSkeneOptions(iterations=iterations, tolerance=1e-300)
    found = dawid_skene(answers_of(table, len(FREQUENCIES)), options).posterior[items]
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(found - expected).mean() <= 1e-6


def test_it_is_right_more_often_than_the_majority_and_finds_the_worst_annotator() -> None:
    right = np.zeros(2)
    for seed in range(6):
        truth, table = crowd(seed)
        answers = answers_of(table, len(FREQUENCIES))
        found = dawid_skene(answers, DawidSkeneOptions(least_shared=10, prior_answers=2))
        for place, posterior in enumerate((found.posterior, majority(answers))):
            right[place] += np.mean(posterior.argmax(axis=1) == truth)
        assert found.accuracy.argmin() == len(SKILLS) - 1
        assert found.is_judged.all()
    assert right[0] > right[1]


def test_who_answers_alone_is_trusted_as_stated_and_not_found_faultless() -> None:
    truth, _ = crowd(0)
    answers = answers_of(truth[:, None], len(FREQUENCIES))
    options = DawidSkeneOptions(least_shared=10, trust=0.9, prior_answers=2, learns_from_single=False)
    found = dawid_skene(answers, options)
    assert not found.is_judged.any()
    np.testing.assert_array_equal(found.posterior.argmax(axis=1), truth)
    np.testing.assert_allclose(found.posterior.max(axis=1), 0.9)


def test_newcomers_decide_by_majority_whatever_class_is_rare() -> None:
    # Two people who are known, and agree that class 3 hardly ever occurs; and three newcomers.
    known = np.zeros((20, 5), np.int64)
    known[:, 2:] = -1
    new = np.array([[-1, -1, 3, -1, -1], [-1, -1, 3, 3, 0], [-1, -1, 0, 0, 3]])
    options = DawidSkeneOptions(least_shared=10, prior_answers=2, learns_from_single=False)
    found = dawid_skene(answers_of(np.concatenate([known, new]), 4), options)
    assert found.is_judged.tolist() == [True, True, False, False, False]
    assert found.priors[3] < 0.1
    assert found.posterior[20:].argmax(axis=1).tolist() == [3, 3, 0]
    assert found.posterior[20, 3] == pytest.approx(0.9)


def test_an_answer_of_no_weight_says_nothing_and_half_a_weight_says_less() -> None:
    def posterior(weight: float) -> float:
        said = np.array([0])
        answers = CrowdAnswers(said, said, said + 1, np.array([weight]), (1, 1, 2))
        options = DawidSkeneOptions(least_shared=1, learns_from_single=False)
        return float(dawid_skene(answers, options).posterior[0, 1])

    assert posterior(0) == 0.5
    assert 0.5 < posterior(0.5) < posterior(1) < 1


@given(
    table=st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=1, max_size=12),
    least_shared=st.integers(0, 6),
    prior=st.sampled_from([0.0, 2.0]),
    learns=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_pattern_of_answers_gives_probabilities(
    table: list[list[int]], least_shared: int, prior: float, learns: bool
) -> None:
    options = DawidSkeneOptions(least_shared=least_shared, prior_answers=prior, learns_from_single=learns)
    found = dawid_skene(answers_of(np.array(table), 3), options)
    for part in (found.posterior, found.confusion, found.priors):
        assert np.isfinite(part).all()
        assert (part >= 0).all()
        np.testing.assert_allclose(part.sum(axis=-1), 1)
    silent = (np.array(table) < 0).all(axis=1)
    np.testing.assert_allclose(majority(answers_of(np.array(table), 3))[silent], 1 / 3)


@pytest.mark.parametrize(
    ("columns", "shape", "match"),
    [
        (([0], [0], [2], [1.0]), (1, 1, 2), "class 2..2 is outside 0..1"),
        (([0], [-1], [0], [1.0]), (1, 1, 2), "annotator -1..-1 is outside"),
        (([0, 1], [0], [0], [1.0]), (2, 1, 2), "all columns"),
        (([0], [0], [0], [1.5]), (1, 1, 2), "weights"),
        (([0], [0], [0], [float("nan")]), (1, 1, 2), "weights"),
    ],
)
def test_answers_that_do_not_fit_are_refused(
    columns: tuple[list[float], ...], shape: tuple[int, int, int], match: str
) -> None:
    items, annotators, classes = (np.array(column, np.int64) for column in columns[:3])
    with pytest.raises(ValueError, match=match):
        CrowdAnswers(items, annotators, classes, np.array(columns[3]), shape)
