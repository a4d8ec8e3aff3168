"""What to do when one class is rare: show it more often, or count its errors more. And the price of it.

Without either, a network that calls every pixel background is right on 99 % of them, and learns that first.

When not: if the classes are within a factor of ten of each other; or if what you want are probabilities
that are true. Both ways teach the network another world, in which rare things are less rare, and all its
probabilities are those of that world. :func:`prior_shift` brings them back, if you know how rare things are
(:func:`shown_prior` tells what was taught). Order and ranking are not affected, nor is a segmentation whose
threshold is chosen on held-out labels.

Of the two, showing more often (:func:`patch_probabilities`, :func:`draw_corners`) costs nothing while the
batches have room for it; but the few examples of a very rare class are soon known by heart. Weights
(:func:`effective_number_weights` and the others) leave the batches alone, but a large weight on few pixels
makes the gradient noisy, hence the caps. Not both at full strength: they multiply.

All counts are of labelled pixels (or objects, or patches: whatever is rare); what nobody labelled is not
counted as anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.core.errors import StedfastError

Floats = NDArray[np.float64]


class SamplingError(StedfastError):
    """There is nothing to choose from, or the figures are no counts or probabilities."""


def count_classes(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Return how many pixels of ``labels`` are of each class 0, 1, …, ``classes - 1``.

    Other values (negative where nobody said) are not counted.
    """
    known = labels[(labels >= 0) & (labels < classes)]
    return np.bincount(known.astype(np.intp), minlength=classes)


def patch_probabilities(pixels: ArrayLike, exponent: float = 0.5) -> Floats:
    """Return how likely each patch should be drawn, so that rare classes come up more often.

    Each patch counts as much as its rarest class demands: ``r = max over its classes of f**-exponent``,
    where f is the part of the patches that show the class. This is repeat-factor sampling (Gupta et al.,
    LVIS, CVPR 2019), there with exponent 0.5.

    Parameters
    ----------
    pixels
        Labelled pixels of each class in each patch, shape ``(patches, classes)``.
    exponent
        0: all patches alike. 1: a class in one patch of a hundred comes up about as often as one in all
        of them. Above 0.5, few patches carry most of the training: mind over-fitting.

    Returns
    -------
    Probabilities, shape ``(patches,)``, sum 1. A patch without any label has probability 0.

    Raises
    ------
    SamplingError
        If no patch has a label.
    """
    _check_exponent(exponent)
    shows = _counts(pixels, 2) > 0
    part = shows.mean(axis=0)
    weight_of_class = np.where(part > 0, np.maximum(part, 1e-300) ** -exponent, 0.0)
    weights = np.max(np.where(shows, weight_of_class, 0.0), axis=1, initial=0.0)
    if not weights.sum() > 0:
        raise SamplingError(f"none of {len(weights)} patches has a labelled pixel: there is nothing to draw")
    return np.asarray(weights / weights.sum())


def draw_corners(
    labels: NDArray[Any],
    size_yx: tuple[int, int],
    count: int,
    rng: np.random.Generator,
    *,
    exponent: float = 0.5,
) -> NDArray[np.intp]:
    """Draw places of patches in one large image, each around a labelled pixel, rare classes more often.

    A class is drawn with a probability proportional to ``pixels**(1 - exponent)``, then one of its pixels,
    then where in the patch that pixel shall lie. So with exponent 0 every labelled pixel, and with 1 every
    class is as likely as any other.

    Parameters
    ----------
    labels
        Classes 0, 1, …; negative where nobody said. Shape ``(y, x)``.
    size_yx
        Of a patch, not larger than the image.
    count
        How many to draw, with replacement.

    Returns
    -------
    First row and column of each patch, shape ``(count, 2)``; all patches lie inside.

    Raises
    ------
    SamplingError
        If a patch is larger than the image, or nothing is labelled.
    """
    _check_exponent(exponent)
    if labels.ndim != 2 or not all(0 < a <= b for a, b in zip(size_yx, labels.shape, strict=True)):
        raise SamplingError(f"patches of {size_yx} pixels do not fit into labels of shape {labels.shape}")
    places = np.flatnonzero(labels >= 0)
    if not len(places):
        raise SamplingError("the image has no labelled pixel: there is nothing to draw patches around")
    classes = labels.ravel()[places]
    order = np.argsort(classes, kind="stable")
    _, first, pixels = np.unique(classes[order], return_index=True, return_counts=True)
    chances = pixels ** (1 - exponent)
    chosen = rng.choice(len(pixels), count, p=chances / chances.sum())
    around = places[order[first[chosen] + rng.integers(pixels[chosen])]]
    corners = np.stack(np.unravel_index(around, labels.shape), axis=1) - rng.integers(
        (0, 0), size_yx, (count, 2)
    )
    return np.asarray(np.clip(corners, 0, np.subtract(labels.shape, size_yx)), dtype=np.intp)


def inverse_frequency_weights(pixels: ArrayLike, largest: float = 10.0) -> Floats:
    """Return loss weights that make all classes count alike, but none more than ``largest`` times another.

    Parameters
    ----------
    pixels
        Labelled pixels of each class, shape ``(classes,)``.
    largest
        Largest ratio of two weights. Without it, ten pixels of a class in a million would drown the rest
        in each batch that shows them.

    Returns
    -------
    Weights, shape ``(classes,)``, whose mean over all pixels is 1, so that the learning rate keeps its
    meaning; 0 for a class without pixels.
    """
    if not largest >= 1:
        raise SamplingError(f"largest={largest!r} must be 1 or more")
    counts = _counts(pixels, 1)
    frequency = counts / counts.sum()
    return _normalised(1 / np.maximum(frequency, frequency.max() / largest), counts)


def median_frequency_weights(pixels: ArrayLike, largest: float = 10.0) -> Floats:
    """Return loss weights by how much of an image a class fills where it is at all.

    The median of these parts over the classes, divided by each of them (Eigen & Fergus, ICCV 2015). Unlike
    :func:`inverse_frequency_weights`, a class that is in few images but large there is not weighted up;
    small things are, wherever they are. So it goes together with :func:`patch_probabilities`, which takes
    care of the former.

    Parameters
    ----------
    pixels
        Labelled pixels of each class in each image, shape ``(images, classes)``.
    largest
        Largest ratio of two weights.

    Returns
    -------
    Weights, shape ``(classes,)``, whose mean over all pixels is 1; 0 for a class without pixels.
    """
    if not largest >= 1:
        raise SamplingError(f"largest={largest!r} must be 1 or more")
    counts = _counts(pixels, 2)
    whole = np.sum(counts.sum(axis=1, keepdims=True) * (counts > 0), axis=0)
    frequency = counts.sum(axis=0) / np.maximum(whole, 1)
    present = frequency > 0
    median = np.median(frequency[present])
    floor = frequency[present].max() / largest
    return _normalised(median / np.maximum(frequency, floor), counts.sum(axis=0))


def effective_number_weights(examples: ArrayLike, beta: float = 0.999) -> Floats:
    """Return loss weights by how many examples of a class are news.

    Examples of a class overlap more and more, so that n of them are worth ``(1 - beta**n) / (1 - beta)``
    (Cui et al., CVPR 2019), and the weight is the inverse of that. Give numbers of objects or patches:
    neighbouring pixels are nearly the same example, and counted as pixels every class saturates.

    Parameters
    ----------
    examples
        Of each class, shape ``(classes,)``.
    beta
        0: no weights. Close to 1: inverse frequency. The most that examples can be worth is
        ``1 / (1 - beta)``, here 1000.

    Returns
    -------
    Weights, shape ``(classes,)``, whose mean over all examples is 1; 0 for a class without examples.
    """
    if not 0 <= beta < 1:
        raise SamplingError(f"beta={beta!r} is outside 0 <= beta < 1")
    counts = _counts(examples, 1)
    # expm1 and log keep 1 - beta**n exact where it is small.
    worth = -np.expm1(counts * np.log(beta)) / (1 - beta) if beta > 0 else np.minimum(counts, 1.0)
    return _normalised(1 / np.maximum(worth, 1e-300), counts)


def shown_prior(pixels: ArrayLike, weights: ArrayLike) -> Floats:
    """Return how frequent classes were in the world that training showed, shape ``(classes,)``, sum 1.

    ``pixels`` as they were drawn, times the weights of the loss.
    """
    shown = _counts(pixels, 1) * np.asarray(weights, dtype=np.float64)
    return np.asarray(shown / shown.sum())


def prior_shift(probabilities: ArrayLike, trained_prior: ArrayLike, true_prior: ArrayLike) -> Floats:
    """Return probabilities as they are where classes are as frequent as ``true_prior`` says.

    Each is multiplied by the ratio of its priors, and they are made to sum to 1 again: exact if only the
    frequencies differ and each class looks as it did in training (Saerens et al., Neural Comput. 14, 21,
    2002). Of one map of foreground: ``prior_shift([1 - p, p], …)[1]``. Apply it before a temperature is
    fitted, on labels that were not over-sampled.

    Parameters
    ----------
    probabilities
        Shape ``(classes, …)``, sum 1 over the first axis.
    trained_prior, true_prior
        Frequency of each class in training (:func:`shown_prior`) and in what comes, shape ``(classes,)``.

    Returns
    -------
    As ``probabilities``, float64.

    Raises
    ------
    SamplingError
        If the numbers of classes differ, or a prior is not positive or does not sum to 1.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    trained, true = (np.asarray(prior, dtype=np.float64) for prior in (trained_prior, true_prior))
    for name, prior in (("trained_prior", trained), ("true_prior", true)):
        if prior.shape != values.shape[:1]:
            raise SamplingError(f"{name} of shape {prior.shape} does not fit {values.shape[:1]} classes")
        if not ((prior > 0).all() and abs(prior.sum() - 1) < 1e-6):
            raise SamplingError(f"{name}={prior} must be positive and sum to 1")
    shifted = values * (true / trained).reshape((-1,) + (1,) * (values.ndim - 1))
    return np.asarray(shifted / shifted.sum(axis=0))


def _counts(pixels: ArrayLike, axes: int) -> Floats:
    counts = np.asarray(pixels, dtype=np.float64)
    if counts.ndim != axes or not ((counts >= 0) & (counts < np.inf)).all() or not counts.sum() > 0:
        raise SamplingError(
            f"counts of classes are needed as {axes} axes of finite numbers >= 0, not all 0, got "
            f"shape {counts.shape}"
        )
    return counts


def _check_exponent(exponent: float) -> None:
    if not 0 <= exponent <= 1:
        raise SamplingError(f"exponent={exponent!r} is outside 0..1")


def _normalised(weights: Floats, counts: Floats) -> Floats:
    weights = np.where(counts > 0, weights, 0.0)
    return np.asarray(weights * counts.sum() / np.sum(weights * counts))
