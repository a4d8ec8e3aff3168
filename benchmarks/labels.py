"""What clever questions are worth, in an annotator's seconds: ``python -m benchmarks.labels``.

Drawn STED-like patches, of which 4 % show what is rarest, and a scripted person who tags them in the time
of one of two cost models (:mod:`simulator.rare_patches`). Every query strategy spends the same seconds; a
classifier learns from the answers, on features that were learned without labels from other patches. Tables
compare with uniform random questions on the same seeds; brackets are 95 % of resampled seeds.

Parts: ``seconds`` (both cost models) and ``time`` (processor time of a query as a ratio to looking at the
images). ``--quick`` is a minute that shows whether it runs; its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.labels_figures import Figures, figures_of, table
from benchmarks.labels_runs import (
    MEMBERS,
    Contender,
    Extent,
    Run,
    candidates_of,
    encoder_of,
    run,
    scene_of,
)
from controller.core.asking import Candidates, Chosen, QueryStrategy
from controller.learning.audit import FRACTION
from controller.learning.patch_classifier import fit
from controller.learning.patch_encoder import PatchEncoder
from policies.active.bald import BaldStrategy
from policies.active.cost_aware import CostAwareStrategy
from simulator.rare_patches import CLASS_NAMES, CostModel

#: Of each cost model, by row.
Tables = dict[CostModel, dict[str, Figures]]

PARTS = ("seconds", "time")
DEFAULT = "bald"
_CHANCE = ("random", "foreground_random", "balanced_random")
_QUICK = Extent(pool=300, test=200, rounds=3, crops=200, steps=10)
_TITLES: dict[CostModel, str] = {
    "rare_is_slow": "A: rare classes take longer to tell",
    "dim_is_slow": "B: dim images take longer to tell, of whatever class",
}


def strategy_named(name: str, **options: Any) -> QueryStrategy:
    """Return an installed query strategy with some options."""
    (found,) = entry_points(group="stedfast.strategies", name=name)
    return _made(found.load(), options)


def _made(kind: Any, options: dict[str, Any]) -> QueryStrategy:
    made: QueryStrategy = kind.from_options(kind.Options(**options))
    return made


class Divided(BaldStrategy):
    """The default's scores by the seconds, whatever the seconds go with: what the cost guard is against."""

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return what scores most in a second."""
        ranked = super().choose(candidates, len(candidates), rng)
        indices = np.array(ranked.indices)
        scores = np.array(ranked.scores) / candidates.cost_s[indices]
        best = np.argsort(-scores, kind="stable")[:count]
        return Chosen(tuple(indices[best].tolist()), tuple(scores[best].tolist()), ranked.reason)


def contenders() -> list[Contender]:
    """Return the rows of the table: chance first, then every installed strategy, then variants."""
    names = [entry.name for entry in entry_points(group="stedfast.strategies")]
    others = sorted(set(names) - {*_CHANCE, DEFAULT, "cost_aware"})
    default = strategy_named(DEFAULT)
    by_cost = _made(CostAwareStrategy, {"strategy": DEFAULT, "exponent": 1.0})
    return [
        *(Contender(name, strategy_named(name)) for name in (*_CHANCE, DEFAULT, *others)),
        Contender(f"{DEFAULT}, 20 % random audit", default, audit=FRACTION),
        Contender("badge, 20 % random audit", strategy_named("badge"), audit=FRACTION),
        Contender(
            f"{DEFAULT}, classes in turn",
            strategy_named("stratified_power", uncertainty="bald", power=None),
        ),
        Contender(
            f"{DEFAULT}, classes in turn, with chance", strategy_named("stratified_power", uncertainty="bald")
        ),
        Contender(f"{DEFAULT}, one of each field", strategy_named(DEFAULT, per_group_max=1)),
        Contender(f"cost_aware({DEFAULT}), learned seconds", by_cost, cost="learned"),
        Contender(f"cost_aware({DEFAULT}), true seconds", by_cost, cost="true"),
        Contender(f"{DEFAULT} / true seconds, no guard", _made(Divided, {}), cost="true"),
    ]


def seconds_part(
    seeds: range, extent: Extent, encoder: PatchEncoder, only: Sequence[str] | None = None
) -> Tables:
    """Print the tables of both cost models, and return their figures; ``only`` some rows, and chance."""
    rows = [row for row in contenders() if only is None or row.name in {"random", *only}]
    runs: dict[CostModel, dict[str, list[Run]]] = {
        model: {row.name: [] for row in rows} for model in get_args(CostModel)
    }
    for seed in seeds:
        begun_s = time.process_time()
        scene = scene_of(seed, encoder, extent)
        for model, found in runs.items():
            for row in rows:
                found[row.name].append(run(scene, row, model, extent))
        print(f"seed {seed}: {time.process_time() - begun_s:.0f} CPU s", flush=True)
    tables: Tables = {}
    for model, found in runs.items():
        chance = found["random"]
        rng = np.random.default_rng(0)
        figures = {name: figures_of(one, chance, rng) for name, one in found.items()}
        tables[model] = figures
        print(f"\n## {_TITLES[model]}\n\n{table(figures, len(seeds))}\n")
        print("| bought of | " + " | ".join(CLASS_NAMES) + " |\n|---|" + "---|" * len(CLASS_NAMES))
        for name, figure in figures.items():
            print(f"| {name} | " + " | ".join(f"{count:.1f}" for count in figure.bought) + " |")
    return tables


def time_part(encoder: PatchEncoder, extent: Extent, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Print what a query costs, as a ratio to the encoder's pass over the same candidates."""
    found = []
    print("\n## Processor time of a query of 20, in percent of the encoder's pass over the candidates\n")
    print("| strategy | " + " | ".join(f"{size} candidates" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    columns: dict[str, list[float]] = {}
    for size in sizes:
        for name, percent in _percents(encoder, extent, size).items():
            columns.setdefault(name, []).append(percent)
            found.append({"strategy": name, "candidates": size, "percent_of_encoder": percent})
    for name, percents in columns.items():
        print(f"| {name} | " + " | ".join(f"{percent:.1f}" for percent in percents) + " |")
    return found


def _percents(encoder: PatchEncoder, extent: Extent, size: int) -> dict[str, float]:
    scene = scene_of(2_000_000, encoder, Extent(pool=size + 200, test=40, crops=extent.crops))
    answered, left = list(range(200)), np.arange(200, size + 200)
    said = scene.patches.classes[answered].tolist()
    targets = np.eye(len(CLASS_NAMES), dtype=np.float32)[said]
    known = fit(scene.features[answered], targets, np.ones(200, np.float32), np.random.default_rng(0))
    cost_s = 1 + np.random.default_rng(0).random(size + 200)
    seen = candidates_of(scene, known, left, cost_s, (answered, said))
    crops, features = scene.patches.photons[left], scene.features[left]
    looking_s = _cpu_s(lambda: encoder.encode(crops))
    names = [entry.name for entry in entry_points(group="stedfast.strategies")]
    percents = {
        f"{MEMBERS} members' answers, for all": _cpu_s(lambda: known.probabilities(features, MEMBERS))
    }
    for name in names:
        percents[name] = _cpu_s(partial(_asked, strategy_named(name), seen))
    return {name: 100 * took_s / looking_s for name, took_s in percents.items()}


def _asked(strategy: QueryStrategy, seen: Candidates) -> None:
    strategy.choose(seen, 20, np.random.default_rng(0))


def _cpu_s(work: Callable[[], object], times: int = 3) -> float:
    found = []
    for _ in range(times):
        begun_s = time.process_time()
        work()
        found.append(time.process_time() - begun_s)
    return statistics.median(found)


def main() -> None:
    """Measure, print tables, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12, help="how many pools of patches (default 12)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--only", action="append", help="of the seconds, only this row and chance")
    parser.add_argument("--quick", action="store_true", help="a minute; the figures say nothing")
    parser.add_argument("--json", type=Path, help="keep all figures in this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    extent = _QUICK if given.quick else Extent()
    seeds = range(given.first_seed, given.first_seed + (2 if given.quick else given.seeds))
    encoder = encoder_of(extent)
    found: dict[str, Any] = {}
    for part in given.part or PARTS:
        if part == "seconds":
            tables = seconds_part(seeds, extent, encoder, given.only)
            found[part] = {
                model: {name: asdict(row) for name, row in rows.items()} for model, rows in tables.items()
            }
        else:
            found[part] = time_part(encoder, extent, (100, 200) if given.quick else (1000, 10_000))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
