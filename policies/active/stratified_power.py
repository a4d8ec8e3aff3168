"""Ask about each class in turn, about what is unsure, with a chance for everything."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np

from controller.core.asking import Candidates, Chosen
from controller.core.settings import Positive
from policies.active.picking import (
    PickOptions,
    bald_nats,
    check_candidates,
    entropy_nats,
    mean_probabilities,
    ranked,
    share_fields,
    take_turns,
)


class StratifiedPowerStrategy:
    """Takes candidates from each class in turn, by what the model takes them for.

    Within a class, one is drawn with a chance in proportion to its uncertainty to the power of ``power``.
    The classes keep a batch from being all of one kind, the noise keeps it from being all of one look.
    The score is the uncertainty, in nats.

    Source: ClaSP PE, arXiv:2601.13677 (class-stratified, power noise); Kirsch et al., TMLR 2023,
    arXiv:2106.12059 (power noise). This is the idea, not their program: theirs lets the noise fade.
    """

    class Options(PickOptions):
        """What is drawn by.

        Attributes
        ----------
        uncertainty
            ``entropy`` of the mean prediction, or what the members disagree by, ``bald``.
        power
            Of the uncertainty; the higher, the less is left to chance. ``None`` leaves nothing to it.
        """

        uncertainty: Literal["entropy", "bald"] = "entropy"
        power: Positive | None = 1.0

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or self.Options()

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Make one from validated options."""
        return cls(options)

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return ``count`` candidates, the predicted classes in turn."""
        check_candidates(candidates, count)
        mean = mean_probabilities(candidates)
        scores = entropy_nats(mean) if self._options.uncertainty == "entropy" else bald_nats(candidates)
        keys = scores
        if self._options.power is not None:
            # The largest of log(weight) + Gumbel noise is drawn with a chance in proportion to its weight.
            keys = self._options.power * np.log(np.maximum(scores, 1e-12)) + rng.gumbel(size=len(scores))
        order = take_turns(ranked(keys, rng), mean.argmax(axis=1), rng)
        order = share_fields(order, candidates.groups, self._options.per_group_max)[:count]
        by = self._options.uncertainty
        reason = f"the least sure of each class that the model sees, with some chance ({by})"
        return Chosen(tuple(order.tolist()), tuple(scores[order].tolist()), reason)
