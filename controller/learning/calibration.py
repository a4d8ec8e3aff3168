"""Whether probabilities are true, and uncertainty is where the errors are.

A network that says 0.9 should be right in nine cases of ten. Modern ones are not: they say 0.99. One number
found on held-out labels, the temperature, mends most of it, and changes no decision (Guo et al., ICML 2017).

Conventions of all functions: ``labels`` holds classes 0, 1, …, and negative numbers where nobody said; such
pixels are left out. ``probabilities`` (or logits) has the shape of ``labels`` where it is that of the
foreground (label 1 of 0 and 1), or one axis more in front for several classes, with sum 1. Labels for a
temperature must not have been trained on, nor over-sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from controller.core.errors import StedfastError

Array = NDArray[Any]
Floats = NDArray[np.float64]

#: Temperatures beyond these mean that labels are too few or all predicted rightly, not that they are true.
COLDEST, HOTTEST = 0.05, 20.0


class CalibrationError(StedfastError):
    """Nothing can be said of these probabilities with these labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """How often what was said came true, by what was said. Bins without a case are left out.

    Attributes
    ----------
    said, came_true
        Mean probability and frequency in each bin, shape ``(bins,)``.
    cases
        Number of pixels in each, shape ``(bins,)``.
    """

    said: Floats
    came_true: Floats
    cases: NDArray[np.int64]

    @property
    def expected_calibration_error(self) -> float:
        """Return the mean distance of what was said from what came true (ECE), 0..1, 0 is best."""
        return float(np.sum(self.cases * np.abs(self.said - self.came_true)) / self.cases.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Sparsification:
    """The error that is left when the most uncertain part is taken away.

    Attributes
    ----------
    removed
        Parts taken away, 0..1, shape ``(steps,)``.
    error, best_error
        Mean error of the rest, by the given uncertainty and if the largest errors went first.
    """

    removed: Floats
    error: Floats
    best_error: Floats

    @property
    def area(self) -> float:
        """Return the area between both curves, in units of the error of all; 0 is best.

        AUSE of Ilg et al., ECCV 2018. What says nothing of the errors has the area below a level line less
        that below the best curve. 0 where there is no error.
        """
        if not self.error[0] > 0:
            return 0.0
        return float(np.trapezoid(self.error - self.best_error, self.removed) / self.error[0])


def fit_temperature(logits: Array, labels: Array) -> float:
    """Return the number to divide logits by, so that the likelihood of held-out labels is the largest.

    Above 1: the network was too sure. ``special.expit(logits / temperature)`` (foreground) or
    ``special.softmax(logits / temperature, axis=0)`` are then the probabilities.

    Returns
    -------
    The temperature, from :data:`COLDEST` to :data:`HOTTEST`.

    Raises
    ------
    CalibrationError
        If the shapes do not fit, a logit is not finite, or no pixel is labelled.
    """
    values, classes, is_foreground = _labelled(logits, labels)
    if not np.isfinite(values).all():
        raise CalibrationError("logits must be finite to fit a temperature")
    if is_foreground:
        # As two classes, of which the background has the logit 0.
        values = np.stack([np.zeros_like(values[0]), values[0]])
    true = np.take_along_axis(values, classes[None], axis=0)[0]

    def loss(log_temperature: float) -> float:
        sharpness = np.exp(-log_temperature)
        return float(np.mean(special.logsumexp(values * sharpness, axis=0) - true * sharpness))

    # Convex in 1 / temperature, so there is one minimum between the bounds, or it is one of them.
    bounds = (np.log(COLDEST), np.log(HOTTEST))
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(min((*bounds, float(found.x)), key=loss)))


def negative_log_likelihood(probabilities: Array, labels: Array) -> float:
    """Return the mean of ``-log p`` of the true class, in nats; 0 is best.

    Probabilities below 1e-12 count as that: one certain error shall not hide all the rest.
    """
    values, classes, is_foreground = _judged(probabilities, labels)
    of_truth = _of_truth(values, classes, is_foreground)
    return float(-np.mean(np.log(np.maximum(of_truth, 1e-12))))


def brier_score(probabilities: Array, labels: Array) -> float:
    """Return the mean squared error of the probabilities; 0 is best.

    Of the foreground, 0..1 (always saying 0.5: 0.25); of several classes the sum over them, 0..2
    (G. W. Brier, Mon. Weather Rev. 78, 1, 1950).
    """
    values, classes, is_foreground = _judged(probabilities, labels)
    if is_foreground:
        return float(np.mean((values[0] - classes) ** 2))
    is_true = np.arange(len(values))[:, None] == classes
    return float(np.mean(np.sum((values - is_true) ** 2, axis=0)))


def reliability(probabilities: Array, labels: Array, bins: int = 15) -> Reliability:
    """Return how often what was said came true, in ``bins`` equal parts of 0..1.

    Of the foreground, all its probabilities count; of several classes, those of the likeliest one.

    Raises
    ------
    CalibrationError
        If the shapes do not fit, no pixel is labelled, or a probability is outside 0..1.
    """
    values, classes, is_foreground = _judged(probabilities, labels)
    if is_foreground:
        said, is_true = values[0], classes == 1
    else:
        said, is_true = values.max(axis=0), values.argmax(axis=0) == classes
    place = np.minimum((said * bins).astype(np.intp), bins - 1)
    cases, sums, hits = (np.bincount(place, w, bins) for w in (None, said, is_true.astype(np.float64)))
    some = cases > 0
    return Reliability(sums[some] / cases[some], hits[some] / cases[some], cases[some].astype(np.int64))


def expected_calibration_error(probabilities: Array, labels: Array, bins: int = 15) -> float:
    """Return the mean distance of what was said from what came true (ECE), 0..1; 0 is best.

    It depends on the bins, and few pixels make it larger than it is: compare at equal numbers.
    """
    return reliability(probabilities, labels, bins).expected_calibration_error


def error_auroc(uncertainty: Array, is_error: Array) -> float:
    """Return how well uncertainty tells errors: the chance that an error is less sure than a right answer.

    Area under the receiver operating characteristic; 0.5 says nothing, 1 is best, ``nan`` where all or
    none are errors. Ties count one half. Both of one shape, labelled pixels alone.
    """
    ranks = _ranked(uncertainty, is_error)
    wrong = np.asarray(is_error, dtype=np.bool_).ravel()
    errors = int(np.count_nonzero(wrong))
    if errors in {0, wrong.size}:
        return float("nan")
    below = ranks[wrong].sum() - errors * (errors + 1) / 2
    return float(below / (errors * (wrong.size - errors)))


def sparsification(uncertainty: Array, error: Array, steps: int = 50) -> Sparsification:
    """Return how the mean error falls as the least sure pixels are taken away.

    Parameters
    ----------
    uncertainty, error
        Of one shape, labelled pixels alone; errors ≥ 0 (0 and 1, or squared ones).
    steps
        Points of the curves, from 0 to ``(steps - 1) / steps`` taken away.
    """
    _ranked(uncertainty, error)
    errors = np.asarray(error, dtype=np.float64).ravel()
    _, group = np.unique(np.asarray(uncertainty, dtype=np.float64).ravel(), return_inverse=True)
    # Of equally uncertain pixels nobody knows which goes first: each has their mean error.
    shared = (np.bincount(group, errors) / np.bincount(group))[group]
    removed = np.arange(steps) / steps
    kept = np.maximum(1, np.round((1 - removed) * errors.size).astype(np.intp))
    by_uncertainty, by_error = shared[np.argsort(group, kind="stable")], np.sort(errors)
    curves = [np.cumsum(ordered)[kept - 1] / kept for ordered in (by_uncertainty, by_error)]
    return Sparsification(removed, curves[0], curves[1])


def _ranked(uncertainty: Array, error: Array) -> Floats:
    if np.shape(uncertainty) != np.shape(error) or np.size(error) == 0:
        raise CalibrationError(
            f"uncertainty and error must be of one shape with at least a pixel, got {np.shape(uncertainty)} "
            f"and {np.shape(error)}"
        )
    if not np.isfinite(uncertainty).all():
        raise CalibrationError("uncertainty must be finite")
    return np.asarray(stats.rankdata(np.asarray(uncertainty).ravel()))


def _labelled(values: Array, labels: Array) -> tuple[Floats, NDArray[np.intp], bool]:
    """Return values as ``(classes, pixels)`` and the classes of labelled pixels, and whether it is one map.

    Raises
    ------
    CalibrationError
        If the shapes do not fit, a label is not one of the classes, or no pixel is labelled.
    """
    values, labels = np.asarray(values), np.asarray(labels)
    is_foreground = values.shape == labels.shape
    if not is_foreground and values.shape[1:] != labels.shape:
        raise CalibrationError(
            f"values of shape {values.shape} are neither (…) nor (classes, …) for labels of {labels.shape}"
        )
    known = labels >= 0
    if not known.any():
        raise CalibrationError("no pixel is labelled: hold some labels out")
    maps = values[None] if is_foreground else values
    classes = labels[known].astype(np.intp)
    count = 2 if is_foreground else len(maps)
    if classes.max() >= count:
        raise CalibrationError(f"label {classes.max()} is not one of {count} classes, 0..{count - 1}")
    return maps[:, known].astype(np.float64), classes, is_foreground


def _judged(probabilities: Array, labels: Array) -> tuple[Floats, NDArray[np.intp], bool]:
    """Return what :func:`_labelled` does, of probabilities."""
    values, classes, is_foreground = _labelled(probabilities, labels)
    if not ((values >= 0) & (values <= 1)).all():
        raise CalibrationError("probabilities must lie in 0..1; of logits, take expit or softmax first")
    return values, classes, is_foreground


def _of_truth(values: Floats, classes: NDArray[np.intp], is_foreground: bool) -> Floats:
    if is_foreground:
        return np.asarray(np.where(classes == 1, values[0], 1 - values[0]))
    return np.asarray(np.take_along_axis(values, classes[None], axis=0)[0])
