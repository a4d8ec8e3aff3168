"""What could be asked next, and who chooses among it: the role of a query strategy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import Settings

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Images that a person could be asked about, as a model sees them.

    Attributes
    ----------
    features
        What an encoder says of each, shape ``(n, features)``.
    probabilities
        What each member of the model takes each for, shape ``(members, n, classes)``; class 0 is
        nothing here. Members are samples of what the weights may be: where they disagree, labels help.
    hidden
        The last hidden layer that gives these probabilities, shape ``(n, hidden)``, of the mean of the
        members; what gradients with respect to the last layer are made of.
    cost_s
        Seconds that an answer is predicted to take, shape ``(n,)``.
    foreground
        How much of each stands out from the background, 0..1, shape ``(n,)``.
    groups
        Which field of view each comes from, shape ``(n,)``, int.
    labelled_features, labelled_classes
        Of what has been answered, shapes ``(m, features)`` and ``(m,)``.
    """

    features: Floats
    probabilities: Floats
    hidden: Floats
    cost_s: Floats
    foreground: Floats
    groups: NDArray[np.int64]
    labelled_features: Floats
    labelled_classes: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.features)
        members, seen, classes = self.probabilities.shape
        fit = (
            seen == len(self.hidden) == len(self.cost_s) == len(self.foreground) == len(self.groups) == count
            and len(self.labelled_features) == len(self.labelled_classes)
            and members >= 1
            and classes >= 2
        )
        if not fit:
            raise ValueError(
                f"{count} candidates need as many rows everywhere; probabilities are "
                f"{self.probabilities.shape}, hidden {self.hidden.shape}, cost_s {self.cost_s.shape}, "
                f"foreground {self.foreground.shape}, groups {self.groups.shape}"
            )

    def __len__(self) -> int:
        return len(self.features)

    @property
    def mean(self) -> Floats:
        """Return the probability of each class, shape ``(n, classes)``."""
        return np.asarray(self.probabilities.mean(axis=0), np.float32)

    def some(self, numbers: NDArray[np.int64]) -> Candidates:
        """Return the candidates with these numbers, in this order; what has been answered stays the same."""
        return replace(
            self,
            features=self.features[numbers],
            probabilities=self.probabilities[:, numbers],
            hidden=self.hidden[numbers],
            cost_s=self.cost_s[numbers],
            foreground=self.foreground[numbers],
            groups=self.groups[numbers],
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which candidates to ask about, in this order, why, and what each scored."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]
    reason: str


@runtime_checkable
class QueryStrategy(Protocol):
    """Chooses what to ask a person about.

    ``choose`` returns ``count`` different candidates, or all if there are fewer. Deterministic given
    ``rng``.
    """

    Options: ClassVar[type[Settings]]

    @classmethod
    def from_options(cls, options: Any) -> Self: ...

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen: ...
