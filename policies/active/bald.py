"""Ask about what the members of the model disagree on."""

from __future__ import annotations

import numpy as np

from controller.core.asking import Candidates, Chosen
from policies.active.picking import PickingStrategy, bald_nats, check_candidates, ranked, share_fields


class BaldStrategy(PickingStrategy):
    """Takes the candidates about which the members of the model disagree most.

    What all members are equally unsure of (a dim image, a mixture) teaches nothing and is left alone.
    Scores are in nats, 0 to the logarithm of the number of classes.

    Source: Houlsby et al., arXiv:1112.5745 (2011); Gal et al., arXiv:1703.02910 (2017).
    """

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return the ``count`` most disputed candidates, the most disputed first."""
        check_candidates(candidates, count)
        scores = bald_nats(candidates)
        order = share_fields(ranked(scores, rng), candidates.groups, self._options.per_group_max)[:count]
        reason = f"the {len(candidates.probabilities)} members of the model disagree most about these (BALD)"
        return Chosen(tuple(order.tolist()), tuple(scores[order].tolist()), reason)
