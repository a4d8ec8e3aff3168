"""Named parameters with units and bounds, and their mapping to the unit cube.

Bandits search in the unit cube; people and microscopes speak SI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from controller.core.settings import Settings


class Tunable(Settings):
    """One number that may be chosen: its name with its unit, its bounds and its scale."""

    name: str
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _bounds_are_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"{self.name}: low={self.low:g} must be below high={self.high:g}")
        if self.scale == "log" and not self.low > 0:
            raise ValueError(f"{self.name}: a log scale needs low > 0, got {self.low:g}")
        return self


class Parameter(Tunable):
    """One tunable field of ``ScanSettings``, in SI units."""

    name: Literal["dwell_s", "excitation_w", "sted_w", "pixel_size_m"]


class ParameterSpace:
    """An ordered set of parameters, and the way between SI values and the unit cube."""

    def __init__(self, parameters: Sequence[Tunable]) -> None:
        names = [parameter.name for parameter in parameters]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"a parameter space needs distinct parameters, got {names}")
        self.parameters = tuple(parameters)
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.parameters)

    def to_unit(self, values: Mapping[str, float]) -> NDArray[np.float64]:
        """Return the point of the unit cube, shape ``(parameters,)``, that stands for ``values``."""
        return np.array([self._to_unit(p, values[p.name]) for p in self.parameters])

    def from_unit(self, point: NDArray[np.float64]) -> dict[str, float]:
        """Return the SI values that a point of the unit cube stands for; never outside the bounds."""
        if point.shape != (len(self),):
            raise ValueError(f"a point of shape ({len(self)},) is needed, got {point}")
        return {name: float(values[0]) for name, values in self.from_unit_many(point[None, :]).items()}

    def from_unit_many(self, points: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the SI values, each of shape ``(n,)``, of points of shape ``(n, parameters)``."""
        if points.ndim != 2 or points.shape[1] != len(self) or not np.all((points >= 0) & (points <= 1)):
            raise ValueError(f"points of shape (n, {len(self)}) in 0..1 are needed, got {points}")
        return {p.name: self._from_unit(p, u) for p, u in zip(self.parameters, points.T, strict=True)}

    @staticmethod
    def _to_unit(p: Tunable, value: float) -> float:
        if p.scale == "log":
            return float(np.log(value / p.low) / np.log(p.high / p.low))
        return (value - p.low) / (p.high - p.low)

    @staticmethod
    def _from_unit(p: Tunable, unit: NDArray[np.float64]) -> NDArray[np.float64]:
        value = p.low * (p.high / p.low) ** unit if p.scale == "log" else p.low + unit * (p.high - p.low)
        # Rounding may step over a bound by one part in 1e16, and the guard refuses rather than clips.
        return np.clip(value, p.low, p.high)
