"""Which values the pixels of frames have: whole steps, and heaps where something cut them off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: So many pixels at the last value, and so many times those right next to it, are no tail.
_HEAP_PIXELS = 8
_HEAP_RATIO = 3


@dataclass(frozen=True, slots=True, eq=False)
class GreyLevels:
    """The values that occur, lowest first, and how often each does."""

    values: Floats
    counts: NDArray[np.intp]

    @classmethod
    def of(cls, values: Floats) -> GreyLevels:
        """Count the values of an array of any shape."""
        return cls(*np.unique(values, return_counts=True))

    @property
    def floor(self) -> float:
        """Return the lowest value."""
        return float(self.values[0]) + 0.0  # never -0

    def step(self) -> float | None:
        """Return the smallest step between values if all are whole steps apart, else ``None``."""
        steps = np.diff(self.values)
        whole = steps / steps.min()
        return float(steps.min()) if np.abs(whole - np.round(whole)).max() < 1e-3 else None

    def saturation(self) -> float | None:
        """Return the highest value if more pixels have it than nearly have it: tails thin out."""
        return float(self.values[-1]) if _piles_up(-self.values[::-1], self.counts[::-1]) else None

    def piled_up_at_floor(self) -> bool:
        """Tell whether more pixels have the lowest value than nearly have it."""
        return _piles_up(self.values, self.counts)


def _piles_up(values: Floats, counts: NDArray[np.intp]) -> bool:
    """Tell whether there are many more of the first value than of those right after it."""
    middle = values[np.searchsorted(np.cumsum(counts), counts.sum() / 2)]
    width = max(float(np.diff(values).min()), 0.01 * float(middle - values[0]))
    nearby = counts[1:][values[1:] <= values[0] + width * 1.001].sum()
    return bool(counts[0] >= _HEAP_PIXELS and counts[0] > _HEAP_RATIO * nearby)
