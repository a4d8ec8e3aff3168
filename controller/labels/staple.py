"""What the true mask is, and how good everybody draws, from masks that disagree: STAPLE.

Source: S. K. Warfield, K. H. Zou, W. M. Wells, Simultaneous truth and performance level estimation, IEEE
Trans. Med. Imaging 23:903-921 (2004). Here a rater may say nothing of a pixel, outside the part that was
looked at; such pixels say nothing of the rater either. Several classes are done one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import Settings

Floats = NDArray[np.float64]

#: Said of a pixel by a rater who did not look at it.
SILENT = -1
#: Everybody is thought to be nearly faultless to begin with, as in ITK's implementation.
_START = 0.99999
_LEAST = 1e-12


class StapleOptions(Settings):
    """How the true mask is looked for."""

    prior: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of the pixels that is true beforehand; ``None`` is the part that the raters marked."""
    iterations: Annotated[int, Field(ge=1)] = 500
    tolerance: Annotated[float, Field(gt=0)] = 1e-7
    """The end is reached when no sensitivity or specificity changes by more."""


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


def staple(masks: NDArray[Any], options: StapleOptions | None = None) -> SoftMask:
    """Estimate the true mask and how good everybody draws, alternately.

    Parameters
    ----------
    masks
        What each rater says, shape ``(raters, y, x)``: 1 marked, 0 left out, :data:`SILENT` not looked at.

    Raises
    ------
    ValueError
        If it holds other values.
    """
    options = options or StapleOptions()
    if masks.ndim != 3 or not np.isin(masks, (SILENT, 0, 1)).all():
        raise ValueError(f"masks must be (raters, y, x) of -1, 0 and 1, got {masks.dtype} {masks.shape}")
    raters = len(masks)
    # Pixels of which everybody says the same are alike: few patterns take the place of many pixels.
    said, places, pixels = _patterns(masks.reshape(raters, -1).astype(np.int8))
    marked, left = (said == 1).astype(float), (said == 0).astype(float)
    heard = (marked + left).sum(axis=1) > 0
    prior = options.prior
    if prior is None:
        spoken = float(pixels @ (marked + left).sum(axis=1))
        prior = float(pixels @ marked.sum(axis=1)) / spoken if spoken else 0.5
    prior = min(max(prior, _LEAST), 1 - _LEAST)
    sensitivity, specificity = np.full(raters, _START), np.full(raters, _START)
    weights = pixels * heard
    for _ in range(options.iterations):
        true = _expected(marked, left, prior, sensitivity, specificity)
        before = sensitivity, specificity
        sensitivity = _ratio((weights * true) @ marked, (weights * true) @ (marked + left), sensitivity)
        specificity = _ratio(
            (weights * (1 - true)) @ left, (weights * (1 - true)) @ (marked + left), specificity
        )
        change = np.abs(np.subtract((sensitivity, specificity), before)).max(initial=0)
        if change <= options.tolerance:
            break
    true = _expected(marked, left, prior, sensitivity, specificity)
    probability = np.where(heard, true, np.nan)[places].reshape(masks.shape[1:])
    sums = (weights * true) @ (marked + left), (weights * (1 - true)) @ (marked + left)
    is_known = [np.greater(total, 1e-9) for total in sums]
    return SoftMask(
        probability,
        np.where(is_known[0], sensitivity, np.nan),
        np.where(is_known[1], specificity, np.nan),
    )


def majority_mask(masks: NDArray[Any]) -> Floats:
    """Return the part of a pixel's raters who marked it, shape ``(y, x)``; nan where all are silent."""
    votes, voters = (masks == 1).sum(axis=0), (masks != SILENT).sum(axis=0)
    return np.where(voters > 0, votes / np.maximum(voters, 1), np.nan)


def _patterns(masks: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.intp], Floats]:
    """Return each pattern ``(patterns, raters)``, which one each pixel has, and how many pixels have it."""
    codes = np.zeros(masks.shape[1], np.int64)
    groups = [masks[start : start + 30] for start in range(0, len(masks), 30)]  # 3^30 fits into 64 bits
    for group in groups:
        number = np.zeros(masks.shape[1], np.int64)
        for mask in group:
            number = number * 3 + (mask + 1)
        if len(groups) > 1:
            _, codes_so_far = np.unique(codes, return_inverse=True)
            _, number = np.unique(number, return_inverse=True)
            codes = codes_so_far * (int(number.max(initial=0)) + 1) + number
        else:
            codes = number
    _, first, places, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    return masks[:, first].T, places, counts.astype(float)


def _expected(marked: Floats, left: Floats, prior: float, sensitivity: Floats, specificity: Floats) -> Floats:
    """Return the probability that each pattern is true."""
    p, q = (np.clip(one, _LEAST, 1 - _LEAST) for one in (sensitivity, specificity))
    if_true = np.log(prior) + marked @ np.log(p) + left @ np.log(1 - p)
    if_false = np.log(1 - prior) + marked @ np.log(1 - q) + left @ np.log(q)
    return np.asarray(1 / (1 + np.exp(np.clip(if_false - if_true, -700, 700))))


def _ratio(part: Floats, whole: Floats, otherwise: Floats) -> Floats:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)
