"""Ask about what the model as a whole is least sure of."""

from __future__ import annotations

from typing import Self

import numpy as np

from controller.core.asking import Candidates, Chosen
from policies.active.picking import (
    PickOptions,
    check_candidates,
    entropy_nats,
    mean_probabilities,
    ranked,
    share_fields,
)


class EntropyStrategy:
    """Takes the candidates whose mean prediction has the highest entropy.

    It cannot tell what the model has not learned yet from what nobody could tell, such as a dim image.
    Scores are in nats.
    """

    class Options(PickOptions):
        """What every strategy can be told."""

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or self.Options()

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Make one from validated options."""
        return cls(options)

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return the ``count`` least sure candidates, the least sure first."""
        check_candidates(candidates, count)
        scores = entropy_nats(mean_probabilities(candidates))
        order = share_fields(ranked(scores, rng), candidates.groups, self._options.per_group_max)[:count]
        reason = "the model is least sure what these are (entropy)"
        return Chosen(tuple(order.tolist()), tuple(scores[order].tolist()), reason)
