"""Chance, plain or with a thumb on the scale: what every clever strategy has to be better than."""

from __future__ import annotations

from typing import Self

import numpy as np

from controller.core.asking import Candidates, Chosen
from controller.core.settings import Fraction
from policies.active.picking import (
    PickingStrategy,
    PickOptions,
    check_candidates,
    mean_probabilities,
    ranked,
    share_fields,
    take_turns,
)


class RandomStrategy(PickingStrategy):
    """Takes any candidates, all alike. The score is the chance that each had to be drawn first."""

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return ``count`` candidates by chance."""
        check_candidates(candidates, count)
        order = rng.permutation(len(candidates))
        order = share_fields(order, candidates.groups, self._options.per_group_max)[:count]
        return Chosen(
            tuple(order.tolist()), (1 / max(1, len(candidates)),) * len(order), "chance chose these"
        )


class ForegroundRandomStrategy:
    """Takes candidates by chance, those with structure more often.

    The chance of each is in proportion to its ``foreground``, but for an ``even_part`` that all share
    alike: what does not stand out from the background is asked about at times, too.
    """

    class Options(PickOptions):
        """``even_part`` of the chance, 0..1, does not depend on what a candidate shows."""

        even_part: Fraction = 0.2

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or self.Options()

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Make one from validated options."""
        return cls(options)

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return ``count`` candidates by chance, the score is the chance that each had to be drawn first."""
        check_candidates(candidates, count)
        chances = self._chances(np.asarray(candidates.foreground, np.float64))
        # The largest of log(chance) + Gumbel noise is drawn with just that chance, the next one with its
        # chance among the rest, and so on: Efraimidis and Spirakis, Inf. Process. Lett. 97:181 (2006).
        keys = np.log(np.maximum(chances, 1e-300)) + rng.gumbel(size=len(chances))
        order = share_fields(ranked(keys, rng), candidates.groups, self._options.per_group_max)[:count]
        reason = "chance chose these among all, those with structure more often"
        return Chosen(tuple(order.tolist()), tuple(chances[order].tolist()), reason)

    def _chances(self, foreground: np.typing.NDArray[np.float64]) -> np.typing.NDArray[np.float64]:
        weights = np.maximum(foreground, 0.0)
        even = np.full(len(weights), 1 / max(1, len(weights)))
        if not weights.sum() > 0:
            return even
        part = self._options.even_part
        return np.asarray(part * even + (1 - part) * weights / weights.sum())


class BalancedRandomStrategy(PickingStrategy):
    """Takes as many of each class as of any other, by what the model takes them for; else by chance.

    The score is the chance that each had to be drawn first.
    """

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return ``count`` candidates, the predicted classes in turn."""
        check_candidates(candidates, count)
        classes = mean_probabilities(candidates).argmax(axis=1)
        order = take_turns(rng.permutation(len(candidates)), classes, rng)
        order = share_fields(order, candidates.groups, self._options.per_group_max)[:count]
        _, which, sizes = np.unique(classes, return_inverse=True, return_counts=True)
        chances = 1 / (len(sizes) * sizes[which])
        reason = f"chance chose these, evenly from the {len(sizes)} classes that the model sees"
        return Chosen(tuple(order.tolist()), tuple(chances[order].tolist()), reason)
