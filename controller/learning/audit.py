"""Questions by chance among those by choice: what models and strategies are judged by without bias.

What a strategy chooses is unlike the rest: it is harder, or rarer. So a part of the questions is drawn
by chance alone, before the strategy is asked, and marked as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from controller.core.asking import Candidates, QueryStrategy

AuditedArm = Literal["policy", "random_audit"]
#: Fewer questions by chance tell nothing about whether asking cleverly helps.
FRACTION_MIN = 0.15
FRACTION = 0.2


@dataclass(frozen=True, slots=True)
class AuditedChoice:
    """Which candidates to ask about, in the order of asking, by which arm, and what each scored.

    ``reasons`` says of each why it was chosen.
    """

    indices: tuple[int, ...]
    arms: tuple[AuditedArm, ...]
    scores: tuple[float, ...]
    reasons: tuple[str, ...]


def arms_of_next(
    count: int, *, asked: int, audited: int, fraction: float = FRACTION
) -> tuple[AuditedArm, ...]:
    """Return the arm of each of the next ``count`` questions.

    After each question the part of those by chance is at least ``fraction``, and no question more than
    that: however small the batches, the share is exact. It depends on the two counts alone, so it goes on
    rightly after a restart, and makes up for questions by chance that were withdrawn.

    Parameters
    ----------
    asked, audited
        Questions so far, and how many of them by chance.
    fraction
        At least :data:`FRACTION_MIN`.

    Raises
    ------
    ValueError
        If the counts or the fraction cannot be.
    """
    if not FRACTION_MIN <= fraction <= 1:
        raise ValueError(
            f"a part of {fraction!r} of the questions by chance is asked, allowed is {FRACTION_MIN} to 1 "
            f"(audit_fraction in [labels])"
        )
    if not (count >= 0 and 0 <= audited <= asked):
        raise ValueError(f"{count} questions after {asked}, {audited} of them by chance, cannot be")
    # 0.2 is a little more than a fifth; counted in floats, the sixth question would be by chance too soon.
    share = Fraction(fraction).limit_denominator(10_000)
    arms: list[AuditedArm] = []
    for number in range(asked + 1, asked + count + 1):
        is_due = audited < ceil(number * share)
        audited += is_due
        arms.append("random_audit" if is_due else "policy")
    return tuple(arms)


def choose_audited(
    strategy: QueryStrategy,
    candidates: Candidates,
    arms: Sequence[AuditedArm],
    rng: np.random.Generator,
    *,
    open_to_strategy: NDArray[np.bool_] | None = None,
    open_to_chance: Sequence[NDArray[np.bool_]] = (),
) -> AuditedChoice:
    """Return what to ask about, by chance where ``arms`` says so and by the strategy elsewhere.

    Chance draws first, from all candidates alike; the strategy chooses among the rest. Where there are too
    few, some arms get less.

    Parameters
    ----------
    open_to_strategy
        What the strategy may choose, shape ``(n,)``; without it everything.
    open_to_chance
        For the first, the second, … question by chance, what it may be; without one, or where nothing of
        that is left, everything.
    """
    drawn = _drawn(len(candidates), arms.count("random_audit"), open_to_chance, rng)
    is_left = np.ones(len(candidates), np.bool_) if open_to_strategy is None else open_to_strategy.copy()
    is_left[drawn] = False
    rest = np.flatnonzero(is_left)
    chosen = strategy.choose(candidates.some(rest), min(arms.count("policy"), len(rest)), rng)
    arms = _without_what_there_is_none_of(arms, len(drawn), len(chosen.indices))
    by_choice = iter(zip(rest[list(chosen.indices)].tolist(), chosen.scores, strict=True))
    by_chance = iter(drawn)
    picks = [(next(by_chance), 0.0) if arm == "random_audit" else next(by_choice) for arm in arms]
    chance = "chance chose this one, so that there is something to judge by without bias"
    return AuditedChoice(
        tuple(index for index, _ in picks),
        tuple(arms),
        tuple(score for _, score in picks),
        tuple(chance if arm == "random_audit" else chosen.reason for arm in arms),
    )


def _drawn(
    candidates: int, count: int, pools: Sequence[NDArray[np.bool_]], rng: np.random.Generator
) -> list[int]:
    """Return so many different candidates by chance, the first of the first pool, and so on."""
    order = rng.permutation(candidates).tolist()
    drawn: list[int] = []
    for turn in range(min(count, candidates)):
        left = [n for n in order if n not in drawn]
        wanted = [n for n in left if pools[turn][n]] if turn < len(pools) else left
        drawn.append((wanted or left)[0])
    return drawn


def _without_what_there_is_none_of(
    arms: Sequence[AuditedArm], by_chance: int, by_choice: int
) -> list[AuditedArm]:
    """Return the arms that got a candidate, in their order."""
    left = {"random_audit": by_chance, "policy": by_choice}
    kept: list[AuditedArm] = []
    for arm in arms:
        if left[arm] > 0:
            left[arm] -= 1
            kept.append(arm)
    return kept
