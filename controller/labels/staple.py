"""What the true mask is, and how good everybody draws, from masks that disagree: STAPLE.

Source: S. K. Warfield, K. H. Zou, W. M. Wells, Simultaneous truth and performance level estimation, IEEE
Trans. Med. Imaging 23:903-921 (2004). Here a rater may say nothing of a pixel, outside the part that was
looked at; such pixels say nothing of the rater either. Several classes are done one after the other.

Few raters can mislead it: who marks little is soon taken for never wrong. A prior on how well people draw
mends that (O. Commowick, S. K. Warfield, MICCAI 2010); here it weighs a part of what was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Settings

Floats = NDArray[np.float64]

#: Said of a pixel by a rater who did not look at it.
SILENT = -1
#: Everybody is thought to be nearly faultless to begin with, as in ITK's implementation.
_START = 0.99999
_LEAST = 1e-12


class StapleOptions(Settings):
    """How the true mask is looked for. The defaults are the method as published."""

    prior: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of the pixels that is true beforehand; ``None`` is the part that the raters marked."""
    prior_part: NonNegative = 0.0
    """Pixels that everybody drew before, as is thought, as a part of those drawn; right with ``trust``."""
    trust: Annotated[float, Field(gt=0, lt=1)] = 0.9
    iterations: Annotated[int, Field(ge=1)] = 1000
    tolerance: Annotated[float, Field(gt=0)] = 1e-12
    """The end is reached when no sensitivity or specificity changes by more. Where raters nearly nest in each
    other they change by 1e-9 in a step for a long time, and end elsewhere."""


@dataclass(frozen=True, slots=True, eq=False)
class SoftMask:
    """What is probably true.

    Attributes
    ----------
    probability
        float64 in 0..1 of each pixel, shape ``(y, x)``; nan where every rater was silent.
    sensitivity, specificity
        Part of the true pixels that each rater marked, and of the others that were left out, among those
        looked at; shape ``(raters,)``, nan where there were none.
    """

    probability: Floats
    sensitivity: Floats
    specificity: Floats


def staple(
    masks: NDArray[Any], options: StapleOptions | None = None, where: NDArray[np.bool_] | None = None
) -> SoftMask:
    """Estimate the true mask and how good everybody draws, alternately.

    Parameters
    ----------
    masks
        What each rater says, shape ``(raters, y, x)``: 1 marked, 0 left out, :data:`SILENT` not looked at.
    where
        Pixels that raters are judged by, shape ``(y, x)``; all without it. Empty surroundings, which nobody
        gets wrong, make a structure look rarer than it is among what is doubtful.

    Raises
    ------
    ValueError
        If it holds other values.
    """
    options = options or StapleOptions()
    if masks.ndim != 3 or not np.isin(masks, (SILENT, 0, 1)).all():
        raise ValueError(f"masks must be (raters, y, x) of -1, 0 and 1, got {masks.dtype} {masks.shape}")
    # Pixels of which everybody says the same are alike: few patterns take the place of many pixels.
    said, places = _patterns(masks.reshape(len(masks), -1).astype(np.int8))
    judged = places if where is None else places[where.ravel()]
    pixels = np.bincount(judged, minlength=len(said)).astype(float)
    marked, left = (said == 1).astype(float), (said == 0).astype(float)
    prior = options.prior
    if prior is None:
        spoken = float(pixels @ (marked + left).sum(axis=1))
        prior = float(pixels @ marked.sum(axis=1)) / spoken if spoken else 0.5
    prior = min(max(prior, _LEAST), 1 - _LEAST)
    skills = np.full((2, len(masks)), _START)
    for _ in range(options.iterations):
        before = skills
        part, whole = _parts(marked, left, pixels, _expected(marked, left, prior, skills))
        thought = options.prior_part * whole
        skills = _ratio(part + options.trust * thought, whole + thought, before)
        if np.abs(skills - before).max(initial=0) <= options.tolerance:
            break
    true = _expected(marked, left, prior, skills)
    heard = (marked + left).sum(axis=1) > 0
    part, whole = _parts(marked, left, pixels, true)
    # What was seen of them, without what was thought before.
    sensitivity, specificity = np.where(whole > 1e-9, _ratio(part, whole, skills), np.nan)
    probability = np.where(heard, true, np.nan)[places].reshape(masks.shape[1:])
    return SoftMask(probability, sensitivity, specificity)


def _patterns(masks: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.intp]]:
    """Return each pattern that occurs, ``(patterns, raters)``, and the number of each pixel's own."""
    codes = np.zeros(masks.shape[1], np.int64)
    for mask in masks:
        if codes.max(initial=0) > 2**60:  # no room for another digit: number those that occur
            codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
        codes = codes * 3 + (mask + 1)
    _, first, places = np.unique(codes, return_index=True, return_inverse=True)
    return masks[:, first].T, places


def _expected(marked: Floats, left: Floats, prior: float, skills: Floats) -> Floats:
    """Return the probability that each pattern is true."""
    p, q = np.clip(skills, _LEAST, 1 - _LEAST)
    if_true = np.log(prior) + marked @ np.log(p) + left @ np.log(1 - p)
    if_false = np.log(1 - prior) + marked @ np.log(1 - q) + left @ np.log(q)
    return np.asarray(1 / (1 + np.exp(np.clip(if_false - if_true, -700, 700))))


def _parts(marked: Floats, left: Floats, pixels: Floats, true: Floats) -> tuple[Floats, Floats]:
    """Return the pixels that everybody got right and those looked at: of the true ones, of the others."""
    weights = np.stack([pixels * true, pixels * (1 - true)])
    right = np.stack([weights[0] @ marked, weights[1] @ left])
    return right, np.asarray(weights @ (marked + left))


def _ratio(part: Floats, whole: Floats, otherwise: Floats) -> Floats:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)
