"""The benchmark of labels: its figures against cases whose answer is known, and one tiny run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.labels import STUDIED, contenders, strategy_named
from benchmarks.labels_figures import figures_of, table, verdict
from benchmarks.labels_runs import (
    Contender,
    Extent,
    Run,
    Scene,
    encoder_of,
    foreground_of,
    run,
    scene_of,
    told_seconds,
)
from controller.learning.patch_classifier import fit
from controller.learning.patch_encoder import untrained
from simulator.rare_patches import CLASS_NAMES, answer_seconds

TINY = Extent(pool=120, test=80, rounds=3, round_s=15.0, crops=20, steps=1)


def straight(slope: float, seconds_each: float, seed: int) -> Run:
    """Return a run whose accuracy rises from a quarter by ``slope`` a second, with a little chance."""
    seconds = np.linspace(0, 400, 11)
    noise = np.r_[0, np.random.default_rng(seed).normal(0, 0.002, 10)]
    bought = np.array([1, 1, 1, 2])
    return Run(seconds, seconds / seconds_each, 0.25 + slope * seconds + noise, bought, "")


CHANCE = [straight(0.001, 2.0, seed) for seed in range(12)]


def test_who_learns_twice_as_fast_needs_half_of_the_seconds() -> None:
    twice = [straight(0.002, 4.0, seed + 100) for seed in range(12)]
    found = figures_of(twice, CHANCE, np.random.default_rng(0))
    assert found.by_seconds.value == pytest.approx(2, rel=0.03)
    assert found.by_seconds.low < found.by_seconds.value < found.by_seconds.high
    # Half of the seconds, and each label takes twice as many: a quarter of the labels.
    assert found.by_labels.value == pytest.approx(4, rel=0.03)
    assert found.area.value == pytest.approx(0.2, abs=0.01)
    assert (found.labels, found.rare, found.not_reached) == (100, 2, 0)
    assert verdict(found) == "better"


def test_who_is_slower_is_never_called_better_and_its_ratio_is_called_a_bound() -> None:
    slow = [straight(0.0005, 2.0, seed + 100) for seed in range(12)]
    found = figures_of(slow, CHANCE, np.random.default_rng(0))
    assert found.is_bound
    assert found.not_reached == 12
    assert found.by_seconds.value < 1
    assert verdict(found) == "worse"
    assert "| ≤ " in table({"slow": found}, 12)


def test_chance_is_as_good_as_itself() -> None:
    found = figures_of(CHANCE, CHANCE, np.random.default_rng(0))
    assert (found.by_seconds.low, found.by_seconds.value, found.by_seconds.high) == (1, 1, 1)
    assert found.area.value == 0
    assert verdict(found) == "it is random"


def test_a_difference_within_the_noise_is_not_called_better() -> None:
    rng = np.random.default_rng(0)
    slopes = rng.normal(0.001, 0.0003, (2, 12))
    own, chance = ([straight(slope, 2.0, n) for n, slope in enumerate(row)] for row in slopes)
    assert verdict(figures_of(own, chance, rng)) == "not shown to be better"


@cache
def scene() -> Scene:
    return scene_of(7, untrained(np.random.default_rng(0)), TINY)


def test_all_strategies_spend_the_same_seconds_on_different_patches() -> None:
    for contender in contenders():
        spent = run(scene(), contender, "rare_is_slow", TINY)
        assert spent.seconds.shape == spent.labels.shape == spent.accuracy.shape == (4,)
        # The last answer of a round may end after it, and no answer takes longer than this here.
        assert 45 <= spent.seconds[-1] < 45 + 30
        assert spent.bought.sum() == spent.labels[-1] <= len(scene().patches)
        assert spent.accuracy[0] == 1 / len(CLASS_NAMES)


def test_the_first_round_and_the_answers_are_the_same_for_all() -> None:
    runs = [
        run(scene(), Contender(name, strategy_named(name)), "dim_is_slow", TINY)
        for name in ("random", STUDIED)
    ]
    assert runs[0].seconds[1] == runs[1].seconds[1]
    assert runs[0].accuracy[1] == runs[1].accuracy[1]
    assert runs[0].seconds[3] != runs[1].seconds[3]


def test_a_run_can_be_repeated() -> None:
    contender = Contender("badge", strategy_named("badge"))
    first, again = (run(scene(), contender, "dim_is_slow", TINY) for _ in range(2))
    assert first.accuracy.tobytes() == again.accuracy.tobytes()


def test_dividing_by_seconds_buys_what_is_cheap() -> None:
    rows = {row.name: row for row in contenders()}
    plain, divided = (
        run(scene(), rows[name], "rare_is_slow", TINY)
        for name in (STUDIED, f"{STUDIED} / true seconds, no guard")
    )
    assert divided.seconds[-1] / divided.labels[-1] < plain.seconds[-1] / plain.labels[-1]
    assert divided.bought[0] / divided.labels[-1] > plain.bought[0] / plain.labels[-1]


def test_learned_seconds_are_those_of_the_classes_that_the_model_sees() -> None:
    """Once thirty answers were timed: structures, which take longer, are told to take longer than nothing."""
    rng, world = np.random.default_rng(0), scene()
    targets = np.eye(len(CLASS_NAMES), dtype=np.float32)[world.patches.classes]
    known = fit(world.features, targets, np.ones(len(targets), np.float32), rng)
    seen = known.mean(world.features).argmax(axis=1)
    asked = list(range(100))
    took_s = answer_seconds(world.patches, "rare_is_slow")[asked].tolist()
    told = told_seconds("learned", world, known, "rare_is_slow", (asked, took_s))
    assert told[seen != 0].mean() > 1.2 * told[seen == 0].mean()
    assert (told_seconds("none", world, known, "rare_is_slow", (asked, took_s)) == 1).all()


def test_structure_stands_out_and_even_light_does_not() -> None:
    crops = np.random.default_rng(0).poisson(5.0, (50, 48, 48)).astype(np.uint16)
    lit = crops.copy()
    lit[:, 20:28, :] += 10
    assert foreground_of(crops).max() < 0.05
    assert foreground_of(lit).min() > 0.12


def test_the_encoder_is_learned_once_and_read_back(tmp_path: Path) -> None:
    first, again = (encoder_of(TINY, tmp_path) for _ in range(2))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    crops = scene().patches.photons[:3]
    assert first.encode(crops).tobytes() == again.encode(crops).tobytes()
