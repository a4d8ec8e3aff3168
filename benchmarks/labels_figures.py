"""From runs to figures: how much sooner a strategy is as good as chance, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.labels_runs import Run
from simulator.rare_patches import RINGS

Floats = NDArray[np.float64]

#: Of what chance has reached in the end: what a strategy shall reach sooner.
TARGET = 0.98
RESAMPLES = 2000
_POINTS = 201
_COLUMNS = (
    "strategy",
    "final balanced accuracy",
    "x labels",
    "x seconds",
    "gain of the mean accuracy",
    "labels / rings bought",
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where 95 % of resampled seeds put it."""

    value: float
    low: float
    high: float

    def text(self, decimals: int) -> str:
        """Return it as a cell of a table."""
        return f"{self.value:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"


@dataclass(frozen=True, slots=True)
class Figures:
    """A row of the table. Ratios are how many times less than chance a strategy needs.

    ``is_bound`` says that its mean curve never reached the target: the ratio of seconds counts all that
    were spent, and the truth is below it.
    """

    final: Interval
    by_labels: Interval
    by_seconds: Interval
    area: Interval
    labels: float
    rare: float
    not_reached: int
    is_bound: bool
    bought: tuple[float, ...]


def figures_of(runs: Sequence[Run], by_chance: Sequence[Run], rng: np.random.Generator) -> Figures:
    """Compare runs with those of chance on the same seeds, in the same order.

    Curves of accuracy are averaged over seeds, and seeds are drawn again with replacement, the same of both,
    for the intervals (percentile bootstrap).
    """
    samples = rng.integers(0, len(runs), (RESAMPLES, len(runs)))
    every = np.arange(len(runs))
    finals = np.array([run.accuracy[-1] for run in runs])
    own_s, chance_s = _on_grid(runs, "seconds"), _on_grid(by_chance, "seconds")
    own_labels, chance_labels = _on_grid(runs, "labels"), _on_grid(by_chance, "labels")

    def ratio(own: _Curves, chance: _Curves, chosen: NDArray[np.int64]) -> float:
        target = TARGET * float(chance_s.values[chosen, -1].mean())
        return chance.needed(target, chosen) / own.needed(target, chosen)

    def gain(chosen: NDArray[np.int64]) -> float:
        return float((own_s.values[chosen] - chance_s.values[chosen]).mean())

    def interval(measure: Callable[[NDArray[np.int64]], float]) -> Interval:
        low, high = np.percentile([measure(chosen) for chosen in samples], (2.5, 97.5))
        return Interval(measure(every), float(low), float(high))

    target = TARGET * float(chance_s.values[:, -1].mean())
    return Figures(
        final=interval(lambda chosen: float(finals[chosen].mean())),
        by_labels=interval(lambda chosen: ratio(own_labels, chance_labels, chosen)),
        by_seconds=interval(lambda chosen: ratio(own_s, chance_s, chosen)),
        area=interval(gain),
        labels=float(np.mean([run.labels[-1] for run in runs])),
        rare=float(np.mean([run.bought[RINGS] for run in runs])),
        not_reached=int(sum(curve.max() < target for curve in own_s.values)),
        is_bound=bool(own_s.values.mean(axis=0).max() < target),
        bought=tuple(np.mean([run.bought for run in runs], axis=0).tolist()),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Curves:
    """Accuracy on a common grid of what was spent; ``values`` has shape ``(runs, points)``."""

    grid: Floats
    values: Floats
    spent: Floats

    def needed(self, target: float, chosen: NDArray[np.int64]) -> float:
        """Return what the mean of some runs spent until it reached the target, all if it never did."""
        mean = self.values[chosen].mean(axis=0)
        above = np.flatnonzero(mean >= target)
        if not len(above):
            return float(self.spent[chosen].mean())
        last = int(above[0])
        if last == 0:
            return float(self.grid[0])
        share = (target - mean[last - 1]) / (mean[last] - mean[last - 1])
        return float(self.grid[last - 1] + share * (self.grid[last] - self.grid[last - 1]))


def _on_grid(runs: Sequence[Run], what: str) -> _Curves:
    spent = [np.asarray(getattr(run, what)) for run in runs]
    most = max(float(one[-1]) for one in spent)
    grid = np.linspace(0, most, _POINTS)
    values = [np.interp(grid, one, run.accuracy) for one, run in zip(spent, runs, strict=True)]
    return _Curves(grid, np.array(values), np.array([one[-1] for one in spent]))


def table(rows: dict[str, Figures], seeds: int) -> str:
    """Return a markdown table; what is not better than chance says so."""
    lines = [
        f"| {' | '.join([*_COLUMNS, f'never there, of {seeds}', 'than random, in seconds'])} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        bound = "≤ " if row.is_bound else ""
        lines.append(
            f"| {name} | {row.final.text(3)} | {row.by_labels.text(2)} | {bound}{row.by_seconds.text(2)} | "
            f"{row.area.text(3)} | {row.labels:.0f} / {row.rare:.1f} | {row.not_reached} | {verdict(row)} |"
        )
    return "\n".join(lines)


def verdict(row: Figures) -> str:
    """Return whether a row is better than chance, in words, by the interval of its seconds."""
    if row.by_seconds.low == row.by_seconds.high == 1:
        return "it is random"
    if row.by_seconds.low > 1 and not row.is_bound:
        return "better"
    return "worse" if row.by_seconds.high < 1 else "not shown to be better"
