"""Fixed bounds that make rewards of measures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from simulator.objectives.measure import Measure


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a measure is worst and where it is as good as anyone wants.

    ``worst`` may be above ``best`` (a resolution in metres) or below it. Both are in ``unit``.
    """

    name: str
    unit: str
    worst: float
    best: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.worst) and math.isfinite(self.best) and self.worst != self.best):
            raise ValueError(f"{self.name}: worst={self.worst!r} and best={self.best!r} must be two numbers")

    def score(self, measure: Measure) -> float:
        """Return 0 (worst, or not measured) to 1 (best), in proportion between, never nan.

        Not measured counts as the worst: a policy must not be paid for images in which nothing can be
        measured.
        """
        if measure.value is None:
            return 0.0
        return min(1.0, max(0.0, (measure.value - self.worst) / (self.best - self.worst)))


#: Bounds that stay as they are, so that rewards of today and tomorrow can be compared.
GOALS: dict[str, Goal] = {
    goal.name: goal
    for goal in (
        # A confocal image has about 250 nm; 40 nm are two map pixels.
        Goal("resolution", "m", 250e-9, 40e-9),
        Goal("signal_to_noise", "1", 0.0, 10.0),
        Goal("signal_ratio", "1", 0.0, 0.5),
        Goal("bleached_fraction", "1", 1.0, 0.0),
        Goal("f1", "1", 0.0, 1.0),
        Goal("scaled_correlation", "1", 0.0, 1.0),
        Goal("similarity", "1", 0.0, 1.0),
    )
}
