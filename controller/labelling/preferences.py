"""A reward from the choices that people made: what they prefer, how well that is known, and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from controller.core.errors import ConfigurationError
from controller.core.reward import GOOD_WAYS, LearnedReward, RewardCard
from controller.labels.store import LabelStore
from controller.learning.preferences import Choice, dominated_by, fit_reward

#: With fewer, whatever is learned is mostly chance.
CHOICES_MIN = 5
_FOLDS = 5
#: Of values that correlate more than this within the choices, the effect of one may be that of the other.
_ALIKE = 0.8

Ways = Mapping[str, Literal["high", "low"]]


@dataclass(frozen=True, slots=True)
class Matter:
    """How much one value matters.

    Attributes
    ----------
    low, high
        The least and the largest that was shown.
    effect, effect_std
        Utility that the largest adds to the least, all else at its mean, and its standard deviation among
        the members; a difference of 1 is preferred 2.7 times as often as not.
    """

    name: str
    low: float
    high: float
    effect: float
    effect_std: float
    has_differed: bool
    """Whether options of one choice ever differed in it."""

    @property
    def is_known(self) -> bool:
        """Tell whether it is known which way it counts: by more than two standard deviations."""
        return self.has_differed and abs(self.effect) > 2 * self.effect_std


@dataclass(frozen=True, slots=True)
class Learned:
    """A reward, and what there is to say of it.

    Attributes
    ----------
    matters
        Each value that it judges by, the one that matters most first.
    alike
        Pairs of values that rose and fell together, so that the effect of one may be that of the other.
    passed_over
        Why answers were not learned from, and how many.
    without_way
        Values of which is not known whether much or little is good, so that no pick can be called dominated.
    """

    reward: LearnedReward
    card: RewardCard
    matters: tuple[Matter, ...]
    alike: tuple[tuple[str, str], ...]
    passed_over: dict[str, int]
    without_way: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    """A choice, whose it is and which answer to which question."""

    choice: Choice
    answer_id: str
    request_id: str
    annotator: str


def learn_reward(store: LabelStore, *, seed: int = 0, ways: Ways | None = None) -> Learned:
    """Learn what people prefer from their choices; the same answers and ``seed`` give the same reward.

    The list of answers is kept in the store as a snapshot, whose checksum is in the reward's card.

    Parameters
    ----------
    ways
        Whether much or little is good of values that are not in ``GOOD_WAYS``.

    Raises
    ------
    ConfigurationError
        If there are too few choices, or their options are not described alike.
    """
    told, passed_over = _told(store)
    _check(told, passed_over)
    choices = [one.choice for one in told]
    reward = fit_reward(choices, np.random.default_rng(seed))
    known = {**GOOD_WAYS, **(ways or {})}
    without_way = tuple(name for name in reward.features if name not in known)
    looked_at = {name: known[name] for name in reward.features if name in known}
    dominated = () if without_way else tuple(one.answer_id for one in told if _is_slip(one, looked_at))
    right, right_by_chance = _foreseen(told, seed)
    card = RewardCard(
        annotators=dict(sorted(Counter(one.annotator for one in told).items())),
        judged=len(told),
        right=right,
        right_by_chance=right_by_chance,
        answers_sha256=store.add_snapshot(_content(told)).sha256,
        dominated=dominated,
        seed=seed,
    )
    return Learned(
        reward.replace(card=card),
        card,
        _matters(reward, choices),
        _alike(reward.features, choices),
        dict(passed_over),
        without_way,
    )


def _told(store: LabelStore) -> tuple[list[_Told], Counter[str]]:
    """Return the choices that can be learned from, and why others cannot."""
    requests = {request.id: request for request in store.requests()}
    names = {annotator.id: annotator.name for annotator in store.annotators()}
    told, passed_over = [], Counter[str]()
    for answer in store.answers():
        if answer.kind != "choice":
            continue
        request = None if answer.request_id is None else requests[answer.request_id]
        if answer.reply.outcome != "answered" or answer.reply.chosen is None:
            passed_over[f"said {answer.reply.outcome!r}"] += 1
        elif request is None:
            passed_over["imported without their question"] += 1
        elif not all(item.values for item in request.items):
            passed_over["options without values"] += 1
        else:
            choice = Choice(tuple(item.values for item in request.items), answer.reply.chosen)
            told.append(_Told(choice, answer.id, request.id, names[answer.annotator_id]))
    return told, passed_over


def _check(told: Sequence[_Told], passed_over: Mapping[str, int]) -> None:
    if len(told) < CHOICES_MIN:
        others = "; ".join(f"{count} more: {why}" for why, count in passed_over.items())
        raise ConfigurationError(
            f"{len(told)} choices can be learned from, at least {CHOICES_MIN} are needed"
            + (f" ({others})" if others else "")
            + "; a policy asks for them with preferences.questions_max, 'stedfast label' lets people answer"
        )
    described = Counter(
        ", ".join(sorted(option)) or "(none)" for one in told for option in one.choice.options
    )
    if len(described) > 1:
        lists = "; ".join(f"{names} ({count} options)" for names, count in described.most_common())
        raise ConfigurationError(
            f"options are described by different values: {lists}; a reward is learned from one kind"
        )


def _is_slip(one: _Told, ways: Ways) -> bool:
    return dominated_by(one.choice, ways) is not None


def _foreseen(told: Sequence[_Told], seed: int) -> tuple[float, float]:
    """Return how many choices rewards foresee that were learned from the others, and how many chance would.

    All answers to one question are left out together. Among options that a reward likes alike, chance picks.
    """
    questions = list(dict.fromkeys(one.request_id for one in told))
    fold_of = {request: number % _FOLDS for number, request in enumerate(questions)}
    right = 0.0
    for fold in range(min(_FOLDS, len(questions))):
        left_out = [one.choice for one in told if fold_of[one.request_id] == fold]
        others = [one.choice for one in told if fold_of[one.request_id] != fold]
        try:
            reward = fit_reward(others, np.random.default_rng([seed, fold]))
        except ConfigurationError:  # nothing differs in the others, or there are none
            right += sum(1 / len(choice.options) for choice in left_out)
            continue
        for choice in left_out:
            means = np.array([reward.predict(option)[0] for option in choice.options])
            best = means == means.max()
            right += float(best[choice.chosen] / best.sum())
    return right, float(sum(1 / len(one.choice.options) for one in told))


def _content(told: Sequence[_Told]) -> dict[str, Any]:
    """Return what names the answers: the same ones give the same, in whatever order they came."""
    return {
        "layout": "stedfast-choices/1",
        "answers": [
            {
                "answer": one.answer_id,
                "options": list(map(dict, one.choice.options)),
                "chosen": one.choice.chosen,
            }
            for one in sorted(told, key=lambda one: one.answer_id)
        ],
    }


def _matters(reward: LearnedReward, choices: Sequence[Choice]) -> tuple[Matter, ...]:
    center, scale = np.array(reward.center), np.array(reward.scale)
    low, high = center + scale * reward.low, center + scale * reward.high
    differs = np.abs(_within(reward.features, choices)).max(axis=0) > 0
    found = []
    for number, name in enumerate(reward.features):
        ends = np.stack([center, center])
        ends[:, number] = low[number], high[number]
        told = reward.utilities(ends)
        effect = told[:, 1] - told[:, 0]
        found.append(
            Matter(
                name=name,
                low=float(low[number]),
                high=float(high[number]),
                effect=float(effect.mean()),
                effect_std=float(effect.std(ddof=1)),
                has_differed=bool(differs[number]),
            )
        )
    return tuple(sorted(found, key=lambda matter: -abs(matter.effect)))


def _alike(features: Sequence[str], choices: Sequence[Choice]) -> tuple[tuple[str, str], ...]:
    within = _within(features, choices)
    length = np.linalg.norm(within, axis=0)
    unit = within / np.where(length > 0, length, np.inf)
    closeness = np.abs(unit.T @ unit)
    return tuple(
        (features[a], features[b])
        for a, b in combinations(range(len(features)), 2)
        if closeness[a, b] > _ALIKE
    )


def _within(features: Sequence[str], choices: Sequence[Choice]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each option less the mean of its choice, shape ``(options of all choices, features)``."""
    parts = []
    for choice in choices:
        values = np.array([[option[name] for name in features] for option in choice.options])
        # Exactly 0 where all are alike, which a mean of rounded numbers need not be.
        parts.append(np.where(np.ptp(values, axis=0) > 0, values - values.mean(axis=0), 0.0))
    return np.concatenate(parts)
