"""Figures of benchmarks: kept on disk as they come, so that a run can go on; printed as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

#: Of one unit of work (a seed, a movie): figures by row, by column.
Rows = dict[str, dict[str, float]]


class Results:
    """Remembers what each unit of work gave; with a file, beyond the end of the process.

    ``weights`` are what it was measured with: figures of others are kept, but not shown.
    """

    def __init__(self, path: Path | None, weights: str) -> None:
        self._path, self._weights = path, weights
        self._found: dict[str, Rows] = {}
        if path is not None and path.exists():
            self._found = json.loads(path.read_text())

    def of(self, unit: str, work: Callable[[], Rows]) -> Rows:
        """Return what a unit gave before, or do it now."""
        unit = f"{unit}, weights {self._weights}"
        if unit not in self._found:
            self._found[unit] = work()
            if self._path is not None:
                aside = self._path.with_suffix(".next")
                aside.write_text(json.dumps(self._found, indent=1))
                aside.replace(self._path)
        return self._found[unit]


def table(units: Sequence[Rows], columns: Iterable[tuple[str, int]]) -> str:
    """Return a markdown table of medians over units, with their range where there are several.

    ``columns`` are names and decimals; a figure that a row does not have is a dash.
    """
    columns = list(columns)
    lines = [
        f"| | {' | '.join(name for name, _ in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    names = dict.fromkeys(name for rows in units for name in rows)
    for name in names:
        cells = [
            _cell([rows[name][column] for rows in units if column in rows.get(name, {})], decimals)
            for column, decimals in columns
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], decimals: int) -> str:
    values = [value for value in values if np.isfinite(value)]
    if not values:
        return "-"
    low, middle, high = (f"{v:.{decimals}f}" for v in (min(values), float(np.median(values)), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
