"""What every query strategy must keep to; :mod:`controller.testing` offers it to authors of plug-ins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from controller.core.asking import Candidates, Chosen, QueryStrategy

#: What 50 of 10,000 candidates may take; a few times what the slowest of ours takes on a busy machine.
SECONDS_MAX = 30.0


def example_candidates(
    count: int, *, seed: int = 0, classes: int = 4, members: int = 5, labelled: int = 12
) -> Candidates:
    """Return random candidates of which some are clear and some are not, one of each ten a look-alike.

    Parameters
    ----------
    count
        How many.
    labelled
        How many have been answered already.
    """
    rng, features = np.random.default_rng(seed), 16
    kinds = rng.integers(classes, size=count)
    centers = 3 * rng.standard_normal((classes, features))
    seen = (centers[kinds] + rng.standard_normal((count, features))).astype(np.float32)
    seen[9::10] = seen[: len(seen[9::10])]
    weights = rng.standard_normal((members, features, classes)) / features
    logits = np.einsum("nf,mfc->mnc", seen, weights)
    odds = np.exp(logits - logits.max(axis=2, keepdims=True))
    answered = rng.integers(classes, size=labelled)
    return Candidates(
        features=seen,
        probabilities=(odds / odds.sum(axis=2, keepdims=True)).astype(np.float32),
        hidden=np.maximum(seen @ rng.standard_normal((features, 8)), 0).astype(np.float32),
        cost_s=rng.lognormal(0.7, 0.5, count).astype(np.float32),
        foreground=rng.random(count).astype(np.float32),
        groups=rng.integers(max(1, count // 8), size=count),
        labelled_features=(centers[answered] + rng.standard_normal((labelled, features))).astype(np.float32),
        labelled_classes=answered,
    )


def check_strategy(make: Callable[[], QueryStrategy], *, count: int = 10_000) -> None:
    """Check that a strategy keeps to its role, in every case that a session can bring about.

    Parameters
    ----------
    make
        Returns a fresh strategy.
    count
        Candidates in the test of its speed.

    Raises
    ------
    AssertionError
        Saying what it did, and in which case.
    """
    _must(isinstance(make(), QueryStrategy), "it has no Options, from_options or choose")
    for name, candidates in _cases().items():
        for asked in (0, 1, 3, len(candidates), len(candidates) + 5):
            _check_choice(make, candidates, asked, name)
    _check_refusals(make)
    _check_fairness(make)
    many = example_candidates(count)
    started_s = time.perf_counter()
    _check_choice(make, many, 50, f"{count} candidates", repeats=1)
    seconds = time.perf_counter() - started_s
    _must(seconds <= SECONDS_MAX, f"50 of {count} candidates took {seconds:.1f} s, allowed {SECONDS_MAX} s")


def _must(holds: bool, what: str) -> None:  # it reads like assert
    if not holds:
        raise AssertionError(what)


def _cases() -> dict[str, Candidates]:
    """Return candidates of all the kinds that are easily forgotten."""
    usual = example_candidates(30)
    certain = np.zeros_like(usual.probabilities)
    certain[..., 1] = 1
    return {
        "30 candidates": usual,
        "one candidate": example_candidates(1),
        "no candidates": example_candidates(0),
        "nothing answered yet": example_candidates(20, labelled=0),
        "one member": example_candidates(20, members=1),
        "two classes": example_candidates(20, classes=2),
        "everything certain": replace(usual, probabilities=certain),
        "all alike": alike(12),
        "no structure anywhere": replace(usual, foreground=np.zeros_like(usual.foreground)),
        "one field of view": replace(usual, groups=np.zeros_like(usual.groups)),
        "features of 0": replace(usual, features=np.zeros_like(usual.features)),
        "huge features": replace(usual, features=usual.features * np.float32(1e6)),
        "hidden layer of 0": replace(usual, hidden=np.zeros_like(usual.hidden)),
    }


def alike(count: int) -> Candidates:
    """Return candidates that nobody could tell apart."""
    return example_candidates(count).some(np.zeros(count, np.int64))


def _check_choice(
    make: Callable[[], QueryStrategy], candidates: Candidates, asked: int, case: str, repeats: int = 2
) -> None:
    answers = [make().choose(candidates, asked, np.random.default_rng(7)) for _ in range(repeats)]
    chosen, n = answers[0], len(candidates)
    case = f"{asked} of {case}"
    _must(isinstance(chosen, Chosen), f"{case}: it returned {type(chosen).__name__}, not Chosen")
    _must(len(chosen.indices) == min(asked, n), f"{case}: it chose {len(chosen.indices)}")
    _must(len(set(chosen.indices)) == len(chosen.indices), f"{case}: it chose one twice: {chosen.indices}")
    _must(all(type(i) is int and 0 <= i < n for i in chosen.indices), f"{case}: it chose {chosen.indices}")
    _must(len(chosen.scores) == len(chosen.indices), f"{case}: it gave {len(chosen.scores)} scores")
    finite = all(type(score) is float and np.isfinite(score) for score in chosen.scores)
    _must(finite, f"{case}: its scores are {chosen.scores}")
    _must(bool(chosen.reason.strip()), f"{case}: it gave no reason")
    _must(all(a == chosen for a in answers), f"{case}: with the same rng it chose differently")


def _check_refusals(make: Callable[[], QueryStrategy]) -> None:
    usual = example_candidates(20)
    for name in ("features", "probabilities", "hidden", "cost_s", "foreground"):
        broken = getattr(usual, name).copy()
        broken.flat[3] = np.nan
        try:
            make().choose(replace(usual, **{name: broken}), 3, np.random.default_rng(0))
        except ValueError as error:
            _must(name in str(error), f"nan in {name} was refused without naming it: {error}")
        else:
            raise AssertionError(f"nan in {name} was not refused")
    try:
        make().choose(usual, -1, np.random.default_rng(0))
    except ValueError:
        return
    raise AssertionError("-1 questions were not refused")


def _check_fairness(make: Callable[[], QueryStrategy]) -> None:
    """Where all are alike, chance decides: over many tries, each is chosen at some time."""
    same = alike(6)
    seen = {make().choose(same, 1, np.random.default_rng(seed)).indices[0] for seed in range(60)}
    # Chance misses one of six in 60 tries about once in 10,000 runs; the seeds are fixed.
    _must(seen == set(range(6)), f"of six that are alike it only ever chose {sorted(seen)} in 60 tries")
