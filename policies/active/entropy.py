"""Ask about what the model as a whole is least sure of."""

from __future__ import annotations

import numpy as np

from controller.core.asking import Candidates, Chosen
from policies.active.picking import (
    PickingStrategy,
    check_candidates,
    entropy_nats,
    mean_probabilities,
    ranked,
    share_fields,
)


class EntropyStrategy(PickingStrategy):
    """Takes the candidates whose mean prediction has the highest entropy.

    It cannot tell what the model has not learned yet from what nobody could tell, such as a dim image.
    Scores are in nats.
    """

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return the ``count`` least sure candidates, the least sure first."""
        check_candidates(candidates, count)
        scores = entropy_nats(mean_probabilities(candidates))
        order = share_fields(ranked(scores, rng), candidates.groups, self._options.per_group_max)[:count]
        reason = "the model is least sure what these are (entropy)"
        return Chosen(tuple(order.tolist()), tuple(scores[order].tolist()), reason)
