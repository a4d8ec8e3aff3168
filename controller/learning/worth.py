"""What seconds of annotation bought: model quality against them, for questions asked cleverly and by chance.

Judged is by answers to questions that chance asked in fields that nobody learns from. The two arms are
compared at equal seconds: a strategy that finds what is rare often finds what takes long to answer, and
"answers saved" would hide that. Intervals hold what other answers of the same kind would have given, both
those learned from and those judged by (drawn with replacement, 95 %).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import Settings

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Returns the probability of each class, ``(n, classes)``, for features ``(n, d)``.
Predict = Callable[[Floats], Floats]
#: Learns from features ``(n, d)``, classes ``(n,)`` and weights ``(n,)``.
Fit = Callable[[Floats, Whole, Floats, np.random.Generator], Predict]

#: Fewer held-out answers tell a good model from a bad one by luck only.
LEAST_HELD_OUT = 5
#: With fewer answers a class is called short.
LEAST_ANSWERS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Answers of people in the order they came, and what an encoder says of the images.

    Attributes
    ----------
    features
        Shape ``(n, d)``.
    classes
        0, 1, … as answered, shape ``(n,)``.
    weights
        How sure each is, 0..1, shape ``(n,)``.
    seconds
        What each took, shape ``(n,)``.
    is_audit
        Whether chance asked, and not the policy, shape ``(n,)``. Leave out what neither of them asked for.
    is_held_out
        Whether it lies in a field that nobody learns from, shape ``(n,)``.
    """

    features: Floats
    classes: Whole
    weights: Floats
    seconds: Floats
    is_audit: Flags
    is_held_out: Flags

    def __post_init__(self) -> None:
        columns = self.classes, self.weights, self.seconds, self.is_audit, self.is_held_out
        rows = [len(column) for column in columns]
        if self.features.ndim != 2 or set(rows) != {len(self.features)}:
            raise ValueError(f"features {self.features.shape} need as many rows everywhere, got {rows}")
        if not (np.isfinite(self.features).all() and np.isfinite(self.seconds).all()):
            raise ValueError("features and seconds must be finite")
        if not ((self.seconds >= 0).all() and (self.classes >= 0).all()):
            raise ValueError("seconds and classes must not be negative")
        if not ((self.weights >= 0) & (self.weights <= 1)).all():
            raise ValueError("weights must lie in 0..1")

    def part(self, rows: NDArray[Any]) -> Answered:
        """Return some of the answers."""
        return Answered(
            self.features[rows],
            self.classes[rows],
            self.weights[rows],
            self.seconds[rows],
            self.is_audit[rows],
            self.is_held_out[rows],
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Balanced accuracy on the held-out answers after ``seconds`` of annotation in one arm."""

    seconds: float
    answers: int
    quality: Interval


@dataclass(frozen=True, slots=True)
class ClassShortage:
    """How much is known of a class.

    Attributes
    ----------
    answers, seconds
        Answers to learn from that say it, and what they took.
    held_out
        Held-out answers that say it.
    recall
        Part of these that the model found; ``None`` where there are none.
    """

    number: int
    answers: int
    seconds: float
    held_out: int
    recall: float | None
    is_short: bool


@dataclass(frozen=True, slots=True)
class Worth:
    """What annotation bought.

    Attributes
    ----------
    policy, chance
        Curves of both arms; empty where nothing can be judged.
    ratio
        Seconds that chance needs for the quality it ends with, divided by those that the policy needs for
        the same: above 1, asking cleverly helps. ``None`` with a reason.
    classes
        How much is known of each class.
    reason
        Why a curve or the ratio is missing, or what to know about the ratio.
    """

    policy: tuple[CurvePoint, ...]
    chance: tuple[CurvePoint, ...]
    ratio: Interval | None
    classes: tuple[ClassShortage, ...]
    reason: str


class WorthOptions(Settings):
    """How finely it is looked at."""

    points: Annotated[int, Field(ge=1)] = 8
    """Points of each curve."""
    resamples: Annotated[int, Field(ge=20)] = 500
    """Draws of held-out answers for the intervals."""
    retrainings: Annotated[int, Field(ge=1)] = 20
    """Draws of answers to learn from; each point of each curve is trained once more for each."""
    reached: Annotated[float, Field(gt=0, le=1)] = 0.98
    """Part of the quality that chance ends with; its very end is reached by luck."""


def what_seconds_bought(
    answered: Answered, fit: Fit, rng: np.random.Generator, options: WorthOptions | None = None
) -> Worth:
    """Return learning curves of both arms, how they compare, and which classes are short.

    Deterministic given ``rng``, if ``fit`` is.
    """
    options = options or WorthOptions()
    judge = answered.part(answered.is_held_out & answered.is_audit)
    learn = answered.part(~answered.is_held_out)
    reason = _unjudgeable(judge)
    if reason:
        return Worth((), (), None, _shortages(learn, judge, None), reason)
    test = _Test.of(judge, options.resamples, rng)
    trainer = _Trainer(fit, rng, options.retrainings)
    by_policy, by_chance = learn.part(~learn.is_audit), learn.part(learn.is_audit)
    budgets = _budgets(by_policy, by_chance, options.points)
    policy = _curve(by_policy, budgets[0], test, trainer)
    chance = _curve(by_chance, budgets[1], test, trainer)
    model = trainer.model(learn)
    shortages = _shortages(learn, judge, None if model is None else model(judge.features))
    ratio, why = _ratio(policy, chance, options.reached)
    return Worth(policy.points(), chance.points(), ratio, shortages, why)


@dataclass(frozen=True, slots=True, eq=False)
class _Test:
    """Held-out answers, and how often each counts, ``(1 + draws, n)``: once, then as drawn."""

    features: Floats
    classes: Whole
    counts: Floats

    @classmethod
    def of(cls, judge: Answered, resamples: int, rng: np.random.Generator) -> _Test:
        """Draw with replacement as many as there are."""
        count = len(judge.classes)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        return cls(judge.features, judge.classes, np.concatenate([np.ones((1, count)), drawn]))

    def quality(self, model: Predict | None, counts: Floats) -> Floats:
        """Return the balanced accuracy for some of the rows of ``counts``, shape ``(rows,)``.

        Without a model one class is as good as another: it is right on one of them, whichever.
        """
        if model is None:
            said = np.full(len(self.classes), self.classes[0])
        else:
            said = np.argmax(model(self.features), axis=1)
        right, there = np.zeros(len(counts)), np.zeros(len(counts))
        for number in np.unique(self.classes):
            is_true = self.classes == number
            count = counts[:, is_true].sum(axis=1)
            right += counts[:, is_true] @ (said[is_true] == number) / np.maximum(count, 1)
            there += count > 0
        return np.asarray(right / there)


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """Quality after some seconds, ``(points, 1 + draws)``: the figure itself, then one for each draw."""

    seconds: Floats
    answers: Whole
    quality: Floats

    def points(self) -> tuple[CurvePoint, ...]:
        return tuple(
            CurvePoint(float(seconds), int(answers), _interval(quality[0], quality[1:]))
            for seconds, answers, quality in zip(self.seconds, self.answers, self.quality, strict=True)
        )

    def reaches(self, targets: Floats) -> Floats:
        """Return the seconds at which each draw first has its target; inf where it never has.

        Between two points quality is taken to grow evenly.
        """
        found = np.full(targets.shape, np.inf)
        for number in range(len(self.seconds) - 1, 0, -1):
            low, high = self.quality[number - 1], self.quality[number]
            share = (targets - low) / np.where(high > low, high - low, 1)
            step = self.seconds[number] - self.seconds[number - 1]
            crossed = (low < targets) & (high >= targets)
            found = np.where(crossed, self.seconds[number - 1] + share * step, found)
        return np.where(self.quality[0] >= targets, self.seconds[0], found)


def _unjudgeable(judge: Answered) -> str:
    """Return why nothing can be judged, nothing if it can."""
    count = len(judge.classes)
    if count < LEAST_HELD_OUT:
        return (
            f"{count} answers to questions of chance lie in held-out fields; at least {LEAST_HELD_OUT} are "
            f"needed to judge by"
        )
    if len(np.unique(judge.classes)) < 2:
        return "all held-out answers are of one class; a model that always says that would look perfect"
    return ""


@dataclass(frozen=True, slots=True, eq=False)
class _Trainer:
    """Trains models of one kind."""

    fit: Fit
    rng: np.random.Generator
    retrainings: int

    def model(self, learn: Answered, counts: Floats | None = None) -> Predict | None:
        """Return a model, ``None`` where there are fewer than two classes to tell apart.

        ``counts`` is how often each answer counts, shape ``(n,)``.
        """
        weights = learn.weights if counts is None else learn.weights * counts
        use = weights > 0
        if len(np.unique(learn.classes[use])) < 2:
            return None
        return self.fit(learn.features[use], learn.classes[use], weights[use], self.rng)

    def quality(self, learn: Answered, test: _Test) -> Floats:
        """Return the quality after some answers: of all of them, then of draws; ``(1 + draws,)``."""
        found = [test.quality(self.model(learn), test.counts[:1])]
        count = len(learn.classes)
        for rows in np.array_split(test.counts[1:], self.retrainings):
            drawn = self.rng.multinomial(count, np.full(count, 1 / count)) if count else np.zeros(0)
            found.append(test.quality(self.model(learn, drawn.astype(np.float64)), rows))
        return np.concatenate(found)


def _budgets(policy: Answered, chance: Answered, points: int) -> tuple[Floats, Floats]:
    """Return the seconds at which each arm is judged: the same ones, and on to the end of the longer."""
    totals = [float(arm.seconds.sum()) for arm in (policy, chance)]
    common = np.linspace(0, min(totals), points + 1)
    grids = [
        np.unique(np.concatenate([common, np.linspace(min(totals), total, points + 1)])) for total in totals
    ]
    return grids[0], grids[1]


def _curve(arm: Answered, budgets: Floats, test: _Test, trainer: _Trainer) -> _Curve:
    # Sums of seconds in another order differ in their last digits.
    answers = np.searchsorted(np.cumsum(arm.seconds), budgets * (1 + 1e-9) + 1e-9, side="right")
    quality = [trainer.quality(arm.part(np.arange(count)), test) for count in answers]
    return _Curve(budgets, answers, np.stack(quality))


def _ratio(policy: _Curve, chance: _Curve, reached: float) -> tuple[Interval | None, str]:
    for name, curve in (("the policy", policy), ("chance", chance)):
        if not curve.answers[-1]:
            return None, f"there are no answers to learn from that {name} asked for"
    targets = reached * chance.quality[-1]
    if not chance.quality[-1, 0] > chance.quality[0, 0]:
        return None, "the answers that chance asked for have not made a model better than none"
    own, other = policy.reaches(targets), chance.reaches(targets)
    if not np.isfinite(own[0]):
        return None, (
            f"the policy has not come to {targets[0]:.3f}, as chance has, in {policy.seconds[-1]:.0f} s"
        )
    if not other[0] > 0:
        return None, "the answers that chance asked for have made hardly a better model than none"
    # In a draw where chance learned nothing, neither needed a second for it.
    is_told = (chance.quality[-1] > chance.quality[0]) & (other > 0)
    # A draw in which the policy never comes there counts as if it did at its end: that flatters it.
    ratios = other / np.maximum(np.where(np.isfinite(own), own, policy.seconds[-1]), 1e-9)
    never = int((~np.isfinite(own[1:]) & is_told[1:]).sum())
    why = f"in {never} of {int(is_told[1:].sum())} draws the policy never came there" if never else ""
    return _interval(float(ratios[0]), ratios[1:][is_told[1:]]), why


def _interval(value: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975)) if len(draws) else (value, value)
    # Drawn answers are fewer different ones, so models learn a little less from them than from all.
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def _shortages(learn: Answered, judge: Answered, predicted: Floats | None) -> tuple[ClassShortage, ...]:
    count = int(max(learn.classes.max(initial=-1), judge.classes.max(initial=-1))) + 1
    found = []
    for number in range(count):
        is_said, is_true = learn.classes == number, judge.classes == number
        recall = None
        if predicted is not None and is_true.any():
            recall = float(np.mean(predicted.argmax(axis=1)[is_true] == number))
        answers = int(is_said.sum())
        found.append(
            ClassShortage(
                number=number,
                answers=answers,
                seconds=float(learn.seconds[is_said].sum()),
                held_out=int(is_true.sum()),
                recall=recall,
                is_short=answers < LEAST_ANSWERS,
            )
        )
    return tuple(found)
