"""Ask about what teaches most in a second, where that does not mean asking about the common only.

What is rare often takes long to recognise. Dividing by the seconds then buys background by the hundred and
none of what is looked for: in a simulation of that kind, final accuracy fell below that of chance. So the
division has a guard, which looks whether predicted seconds go with rarity.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from controller.core.asking import Candidates, Chosen, QueryStrategy
from controller.core.settings import Fraction, Settings
from policies.active.inner import find_inner
from policies.active.picking import Array, check_candidates, mean_probabilities, ranked

#: Fewer candidates than this cannot show that cost does not go with rarity.
CANDIDATES_MIN = 30
#: Correlations up to this are taken for none: they lose less than the division gains.
CORRELATION_TOLERATED = 0.1
#: A normal variable is below this so often: 99 %.
_NINETY_NINE = 2.326


class CostAwareStrategy:
    """Lets another strategy propose, and takes of its proposals those that score most per second.

    Scores are divided by ``seconds ** exponent``, among ``shortlist`` times as many proposals as are
    asked for: however cheap, what the strategy thinks little of is not asked.

    With the exponent 0, its default, it is the other strategy. With any other it is so too, and its reason
    says why, where the guard finds that predicted seconds rise with the rarity of the predicted class, or
    cannot tell (see :func:`why_cost_may_not_count`).
    """

    class Options(Settings):
        """The strategy that proposes, and how much seconds count.

        Attributes
        ----------
        strategy, strategy_options
            By name, and what it is told.
        exponent
            0 for what teaches most, 1 for what teaches most in a second.
        shortlist
            Proposals for each question.
        """

        strategy: Annotated[str, Field(min_length=1, max_length=200)] = "bald"
        strategy_options: dict[str, Any] = Field(default_factory=dict)
        exponent: Fraction = 0.0
        shortlist: Annotated[int, Field(ge=2, le=1000)] = 10

    def __init__(self, options: Options, inner: QueryStrategy) -> None:
        self._options, self._inner = options, inner

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Make one, and the strategy that it wraps; one that is not there is a ConfigurationError."""
        kind, inner_options = find_inner(
            "strategies", options.strategy, options.strategy_options, "strategy_options.strategy"
        )
        return cls(options, kind.from_options(inner_options))

    def choose(self, candidates: Candidates, count: int, rng: np.random.Generator) -> Chosen:
        """Return ``count`` candidates that score most per second, or what the other strategy chooses."""
        check_candidates(candidates, count)
        exponent = self._options.exponent
        if exponent == 0:
            return self._inner.choose(candidates, count, rng)
        cost_s = np.asarray(candidates.cost_s, np.float64)
        classes = mean_probabilities(candidates).argmax(axis=1)
        if why := why_cost_may_not_count(cost_s, classes):
            chosen = self._inner.choose(candidates, count, rng)
            return replace(chosen, reason=f"{chosen.reason}; seconds do not count, because {why}")
        proposed = self._inner.choose(candidates, count * self._options.shortlist, rng)
        indices = np.array(proposed.indices, np.int64)
        # Scores that are negative, as of a critic, would come out the better the longer they take.
        scores = np.array(proposed.scores, np.float64)
        scores = (scores - min(0.0, float(scores.min(initial=0.0)))) / cost_s[indices] ** exponent
        best = ranked(scores, rng)[:count]
        reason = f"{proposed.reason}, and most for each second ** {exponent:g}"
        return Chosen(tuple(indices[best].tolist()), tuple(scores[best].tolist()), reason)


def why_cost_may_not_count(cost_s: Array, classes: np.typing.NDArray[np.int64]) -> str | None:
    """Return why scores may not be divided by seconds, as half a sentence; ``None`` if they may.

    They may not where Spearman's rank correlation of predicted seconds and the rarity of the predicted
    class lies above :data:`CORRELATION_TOLERATED` with 99 % confidence, nor where that cannot be told:
    with few candidates, or with all in one class.

    Parameters
    ----------
    cost_s
        Seconds that an answer is predicted to take, shape ``(n,)``, > 0.
    classes
        The most probable class of each, shape ``(n,)``.
    """
    if not (cost_s > 0).all():
        return f"{np.count_nonzero(~(cost_s > 0))} answers are predicted to take no time"
    if len(cost_s) < CANDIDATES_MIN:
        return f"{len(cost_s)} candidates are too few to tell whether the rare takes longer"
    _, which, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return "the model takes all candidates for one class, so what is rare is not known yet"
    if np.ptp(cost_s) == 0:
        return None
    correlation = rank_correlation(cost_s, -sizes[which])
    # Fisher's transformation makes the error of a correlation normal, with this width for ranks
    # (Fieller, Hartley and Pearson, Biometrika 44:470, 1957).
    error = np.sqrt(1.06 / (len(cost_s) - 3))
    bound = np.arctanh(np.clip(correlation, -0.999999, 0.999999)) - _NINETY_NINE * error
    if bound > np.arctanh(CORRELATION_TOLERATED):
        return (
            f"answers are predicted to take longer the rarer the class (rank correlation {correlation:.2f}, "
            f"allowed is about {CORRELATION_TOLERATED:g}): the common would be bought for being cheap"
        )
    return None


def rank_correlation(first: np.typing.ArrayLike, second: np.typing.ArrayLike) -> float:
    """Return Spearman's rank correlation, -1..1; 0 where either is constant. Alike values share a rank."""
    from scipy.stats import rankdata

    ranks = [rankdata(np.asarray(values)) for values in (first, second)]
    centered = [rank - rank.mean() for rank in ranks]
    size = float(np.sqrt((centered[0] ** 2).sum() * (centered[1] ** 2).sum()))
    return float((centered[0] * centered[1]).sum()) / size if size > 0 else 0.0
