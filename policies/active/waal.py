"""Ask about what is unsure and looks unlike what has been answered, by a critic that is trained to tell."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field

from controller.core.asking import Candidates, Chosen
from controller.core.settings import NonNegative
from policies.active.picking import (
    Array,
    PickOptions,
    check_candidates,
    entropy_nats,
    mean_probabilities,
    ranked,
    share_fields,
)

#: Neurons of the critic, and how far one step of its training goes.
_HIDDEN, _STEP = 32, 0.3
#: Rows of each side that it is trained with.
_ROWS = 512


class WaalStrategy:
    """Takes what scores highest in uncertainty plus the word of a critic.

    The critic is a function of the features that grows by at most 1 per unit of distance. It is trained to
    be high on what is not answered and low on what is; the difference of its means is then at most the
    Wasserstein distance of the two. Where it is high, answers are missing. The uncertainty is the entropy
    as a fraction of the highest possible; the critic counts in its own standard deviations.

    This is the query of the method alone, on fixed features. In the paper the critic also shapes the
    features, while the classifier is trained: Shui et al., AISTATS 2020, arXiv:1911.09162.
    """

    class Options(PickOptions):
        """How much the critic counts, and for how many steps it is trained."""

        critic_weight: NonNegative = 0.5
        critic_steps: Annotated[int, Field(ge=1, le=1000)] = 60

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or self.Options()

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Make one from validated options."""
        return cls(options)

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return ``count`` candidates; without any answers the critic has nothing to compare with."""
        check_candidates(candidates, count)
        mean = mean_probabilities(candidates)
        scores = entropy_nats(mean) / np.log(mean.shape[1])
        reason = "the model is least sure what these are; nothing is answered yet to compare them with"
        if len(candidates.labelled_features) and len(candidates):
            critic = Critic(
                candidates.features, candidates.labelled_features, rng, self._options.critic_steps
            )
            said = critic(candidates.features)
            if (spread := said.std()) > 1e-9:
                scores += self._options.critic_weight * (said - said.mean()) / spread
            reason = "the model is unsure what these are, and they look unlike what was answered (WAAL)"
        order = share_fields(ranked(scores, rng), candidates.groups, self._options.per_group_max)[:count]
        return Chosen(tuple(order.tolist()), tuple(scores[order].tolist()), reason)


class Critic:
    """A function with slope at most 1, trained to be higher on ``high`` than on ``low``.

    One hidden layer; after each step its weights are brought back to where the largest singular value of
    each layer is at most 1, so that the slope is too.

    Parameters
    ----------
    high, low
        Features, shapes ``(n, features)`` and ``(m, features)``.
    """

    def __init__(
        self, high: np.typing.ArrayLike, low: np.typing.ArrayLike, rng: np.random.Generator, steps: int
    ) -> None:
        above, below = (_some_rows(np.asarray(rows, np.float64), rng) for rows in (high, low))
        both = np.concatenate([above, below])
        self._center = both.mean(axis=0)
        # The training works with features of size 1; the slope is the same in any unit.
        self._unit = float(np.sqrt(((both - self._center) ** 2).sum(axis=1).mean())) or 1.0
        self._first = _bounded(rng.standard_normal((both.shape[1], _HIDDEN)))
        self._offsets = np.zeros(_HIDDEN)
        self._last = _bounded(rng.standard_normal((_HIDDEN, 1)))
        above, below = self._scaled(above), self._scaled(below)
        for _ in range(steps):
            self._climb(above, below)

    def __call__(self, features: np.typing.ArrayLike) -> Array:
        """Return the critic's value of each row, in the unit of the features, shape ``(n,)``."""
        hidden = np.maximum(self._scaled(np.asarray(features, np.float64)) @ self._first + self._offsets, 0.0)
        return np.asarray((hidden @ self._last)[:, 0] * self._unit)

    def _scaled(self, features: Array) -> Array:
        return np.asarray((features - self._center) / self._unit)

    def _climb(self, above: Array, below: Array) -> None:
        """Go one step towards a larger difference of the means."""
        changes = [np.zeros_like(self._first), np.zeros_like(self._offsets), np.zeros_like(self._last)]
        for sign, rows in ((1.0, above), (-1.0, below)):
            hidden = np.maximum(rows @ self._first + self._offsets, 0.0)
            slopes = (hidden > 0) * self._last[:, 0] * (sign / len(rows))
            changes[0] += rows.T @ slopes
            changes[1] += slopes.sum(axis=0)
            changes[2] += sign * hidden.mean(axis=0)[:, None]
        size = float(np.sqrt(sum((change**2).sum() for change in changes))) or 1.0
        self._first = _bounded(self._first + _STEP * changes[0] / size)
        self._offsets = self._offsets + _STEP * changes[1] / size
        self._last = _bounded(self._last + _STEP * changes[2] / size)


def _some_rows(rows: Array, rng: np.random.Generator) -> Array:
    return rows if len(rows) <= _ROWS else rows[rng.choice(len(rows), _ROWS, replace=False)]


def _bounded(matrix: Array) -> Array:
    """Return a matrix whose largest singular value is 1 at most."""
    return np.asarray(matrix / max(1.0, float(np.linalg.norm(matrix, 2))))
