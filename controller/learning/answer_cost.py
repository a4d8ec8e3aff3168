"""How long an answer takes: priors from the literature, then what the lab's own people needed.

The logarithm of the seconds is that of the prior plus a sum: of the kind of question, the number and the
outline of the objects, the brightness, the predicted class and the person. Its terms are learned from
answers that were timed, each held near 0 as long as they are few.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.decision import QuestionKind
from controller.core.settings import NonNegative, Positive, Settings

#: Fewer timed answers than this say less than the literature does.
TIMED_ANSWERS_MIN = 30

#: Seconds of each kind: at least, for each class to choose from, object, and pixel of outline. Rounded from
#: Bearman et al., ECCV 2016 (tags, points, scribbles), Papadopoulos et al., ICCV 2017 (7 s a box) and
#: Englbrecht et al. 2021 (8.4 s the outline of a nucleus). None of them is of STED images. Grades, choice and
#: score are guesses, and so is the part of drawing that correcting a proposal takes.
_PRIORS_S: Mapping[QuestionKind, tuple[float, float, float, float]] = {
    "tag": (1.0, 1.0, 0.0, 0.0),
    "grades": (1.0, 2.0, 0.0, 0.0),
    "points": (2.0, 0.0, 1.5, 0.0),
    "scribble": (3.0, 0.0, 8.0, 0.0),
    "box": (0.0, 0.0, 7.0, 0.0),
    "polygon": (0.0, 0.0, 8.0, 0.1),
    "mask": (0.0, 0.0, 8.0, 0.1),
    "choice": (3.0, 0.0, 0.0, 0.0),
    "score": (3.0, 0.0, 0.0, 0.0),
}
_CORRECTING = 0.4

#: Standard deviation of log seconds around what is predicted, before any is known, and how far the terms
#: may lie from 0: a kind may be off by a factor of seven, a class or a person by less than two.
_SPREAD, _KIND_WIDTH, _SLOPE_WIDTH, _NAME_WIDTH = 0.5, 2.0, 0.5, 0.5
#: Answers farther from the prediction than so many standard deviations count less (Huber's weights).
_HUBER = 1.5
_ROUNDS = 10
#: A key pressed by accident and a phone call say nothing about the question.
_ANSWER_S = 0.2, 1800.0


class AnswerTask(Settings):
    """What is known of a question before it is answered.

    Attributes
    ----------
    classes
        How many there are to choose from.
    objects, perimeter_px
        How many objects the model sees there, and the length of their outlines in pixels.
    photons
        Mean signal in photons per pixel, ``None`` where it is not known.
    predicted_class, annotator
        What the model takes it for, and who is asked.
    is_prefilled
        Whether a proposal is corrected.
    """

    kind: QuestionKind
    classes: Annotated[int, Field(ge=1)] = 1
    objects: Annotated[int, Field(ge=0)] = 0
    perimeter_px: NonNegative = 0.0
    photons: NonNegative | None = None
    predicted_class: str | None = None
    annotator: str | None = None
    is_prefilled: bool = False

    @property
    def prior_s(self) -> float:
        """Return the seconds that it takes people elsewhere."""
        least, each_class, each_object, each_pixel = _PRIORS_S[self.kind]
        seconds = least + each_class * self.classes + each_object * max(1, self.objects)
        seconds += each_pixel * self.perimeter_px
        return seconds * _CORRECTING if self.is_prefilled else seconds

    def terms(self) -> Iterator[tuple[str, float, float]]:
        """Yield the terms of its cost: name, value, and how far its weight may lie from 0."""
        yield self.kind, 1.0, _KIND_WIDTH
        if self.objects:
            yield f"{self.kind}: objects", math.log1p(self.objects), _SLOPE_WIDTH
        if self.perimeter_px:
            yield f"{self.kind}: perimeter", math.log1p(self.perimeter_px), _SLOPE_WIDTH
        if self.photons is not None:
            yield f"{self.kind}: photons", math.log1p(self.photons), _SLOPE_WIDTH
        if self.predicted_class is not None:
            yield f"class: {self.predicted_class}", 1.0, _NAME_WIDTH
        if self.annotator is not None:
            yield f"annotator: {self.annotator}", 1.0, _NAME_WIDTH


class TimedAnswer(Settings):
    """A question, and the seconds that one person worked on it; pauses above 20 s are not among them."""

    task: AnswerTask
    answer_s: NonNegative


class CostModel(Settings):
    """What answers are predicted to cost. Written as JSON it is the same model again.

    Attributes
    ----------
    weights
        Of the terms of :meth:`AnswerTask.terms`, by name; what was never timed has none and counts 0.
    answers
        How many it was learned from; 0 is the prior alone.
    spread
        Standard deviation of the logarithm of the seconds around the prediction.
    mean_to_median
        Mean seconds per predicted median: some answers take much longer, few much shorter.
    """

    weights: dict[str, float] = Field(default_factory=dict)
    answers: Annotated[int, Field(ge=0)] = 0
    spread: NonNegative = _SPREAD
    mean_to_median: Positive = 1.0

    @classmethod
    def fit(cls, timed: Sequence[TimedAnswer]) -> Self:
        """Return the model that timed answers teach; the prior while there are fewer than 30.

        A regression with a normal prior on each weight; outliers count less (Huber's weights by
        iteration), and the mean is found from the residuals (Duan, J. Am. Stat. Assoc. 78:605, 1983).
        """
        if len(timed) < TIMED_ANSWERS_MIN:
            return cls()
        tasks = [answer.task for answer in timed]
        widths = {name: width for task in tasks for name, _, width in task.terms()}
        columns = {name: column for column, name in enumerate(widths)}
        values = np.zeros((len(timed), len(columns)))
        for row, task in enumerate(tasks):
            for name, value, _ in task.terms():
                values[row, columns[name]] = value
        seconds = np.clip([answer.answer_s for answer in timed], *_ANSWER_S)
        wanted = np.log(seconds) - np.log([task.prior_s for task in tasks])
        weights, spread = _robust_ridge(values, wanted, np.array(list(widths.values())))
        residuals = np.clip(wanted - values @ weights, -3 * spread, 3 * spread)
        return cls(
            weights=dict(zip(columns, weights.tolist(), strict=True)),
            answers=len(timed),
            spread=spread,
            mean_to_median=float(np.exp(residuals).mean()),
        )

    def predict(self, task: AnswerTask) -> float:
        """Return the mean seconds that an answer is expected to take, > 0."""
        learned = sum(self.weights.get(name, 0.0) * value for name, value, _ in task.terms())
        seconds = task.prior_s * self.mean_to_median * math.exp(min(learned, 50.0))
        return min(max(seconds, _ANSWER_S[0]), _ANSWER_S[1])

    def predict_many(self, tasks: Iterable[AnswerTask]) -> NDArray[np.float32]:
        """Return :meth:`predict` of each, shape ``(n,)``, as candidates carry it."""
        return np.array([self.predict(task) for task in tasks], np.float32)


def _robust_ridge(
    values: NDArray[np.float64], wanted: NDArray[np.float64], widths: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return weights of columns whose prior widths are given, and the spread around them."""
    spread, trust = _SPREAD, np.ones(len(wanted))
    weights: NDArray[np.float64] = np.zeros(values.shape[1])
    for _ in range(_ROUNDS):
        precision = (values * trust[:, None]).T @ values + np.diag((spread / widths) ** 2)
        weights = np.asarray(np.linalg.solve(precision, values.T @ (trust * wanted)), np.float64)
        away = np.abs(wanted - values @ weights)
        # 1.4826 median absolute deviations are one standard deviation of a normal distribution. Never 0:
        # a prior that is outweighed by nothing has to stay a prior.
        spread = max(0.05, 1.4826 * float(np.median(away)))
        trust = np.minimum(1.0, _HUBER * spread / np.maximum(away, 1e-12))
    return weights, spread
