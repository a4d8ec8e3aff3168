"""Figures of agreement are those of well-known libraries, and say where there are none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.labels.agreement import (
    Agreement,
    cohen_kappa,
    cohen_kappas,
    fleiss_kappa,
    krippendorff_alpha,
)


def table(seed: int, items: int = 60, coverage: float = 1.0) -> NDArray[np.int64]:
    """Return what four people say, who are right in 70 of 100 cases, ``(items, annotators)``."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (items, 1))
    said = np.where(rng.random((items, 4)) < 0.7, truth, rng.integers(0, 3, (items, 4)))
    return np.where(rng.random(said.shape) < coverage, said, -1)


@pytest.mark.parametrize("seed", range(5))
def test_cohens_kappa_is_that_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, an oracle, is absent")
    said = table(seed, coverage=0.8)
    pairs = cohen_kappas(said)
    assert sorted(pairs) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for (a, b), found in pairs.items():
        both = (said[:, a] >= 0) & (said[:, b] >= 0)
        assert found.value == pytest.approx(metrics.cohen_kappa_score(said[both, a], said[both, b]))
        assert found.items == both.sum()


@pytest.mark.parametrize("seed", range(5))
def test_fleiss_kappa_is_that_of_statsmodels(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = pytest.importorskip("statsmodels.stats.inter_rater", reason="statsmodels is absent")
    said = table(seed)
    counts, _ = oracle.aggregate_raters(said)
    found = fleiss_kappa(said)
    assert found.value == pytest.approx(oracle.fleiss_kappa(counts))
    assert found.items == len(said)


@pytest.mark.parametrize(("seed", "coverage"), [(0, 1.0), (1, 0.7), (2, 0.4)])
def test_krippendorffs_alpha_is_that_of_krippendorff(seed: int, coverage: float) -> None:
    oracle = pytest.importorskip("krippendorff", reason="krippendorff, an oracle, is absent")
    said = table(seed, coverage=coverage)
    expected = oracle.alpha(
        reliability_data=np.where(said < 0, np.nan, said.astype(float)).T, level_of_measurement="nominal"
    )
    found = krippendorff_alpha(said)
    assert found.value == pytest.approx(expected)
    assert found.items == ((said >= 0).sum(axis=1) > 1).sum()


ALONE = np.array([[0, -1], [1, -1], [-1, 1]])
ONE_CLASS = np.array([[0, 0], [0, 0], [0, -1]])
ONE_PERSON = np.array([[0], [1]])


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (cohen_kappa(ALONE[:, 0], ALONE[:, 1]), "both answered"),
        (cohen_kappa(ONE_CLASS[:, 0], ONE_CLASS[:, 1]), "of one class"),
        (fleiss_kappa(ALONE), "more than one person"),
        (fleiss_kappa(ONE_CLASS), "of one class"),
        (fleiss_kappa(ONE_PERSON), "more than one person"),
        (krippendorff_alpha(ALONE), "more than one person"),
        (krippendorff_alpha(ONE_CLASS), "of one class"),
        (krippendorff_alpha(ONE_PERSON), "more than one person"),
        (krippendorff_alpha(np.zeros((0, 3), np.int64)), "more than one person"),
    ],
)
def test_where_there_is_no_figure_there_is_a_reason(found: Agreement, reason: str) -> None:
    assert found.value is None
    assert reason in found.reason


def test_full_agreement_is_one_and_less_than_chance_is_negative() -> None:
    alike = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2]])
    opposite = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
    for figure in (fleiss_kappa, krippendorff_alpha):
        assert figure(alike).value == pytest.approx(1)
        value = figure(opposite).value
        assert value is not None
        assert value < 0
    assert cohen_kappa(opposite[:, 0], opposite[:, 1]).value == pytest.approx(-1)
