"""Whether today's images are like those that a model was trained on, and if not, what differs.

A model that has never seen such images is unsure of all of them, so it asks about everything and the answers
teach it the new day instead of the biology. It is better to know before anybody answers.

What an encoder says of the images is compared as a whole by the maximum mean discrepancy, and four
statistics of the images one by one, by their ranks. All are judged together by exchanging days: how often do
the same images, dealt out at random, differ as much? Images of one frame or field are dealt out together.
The part of false alarms is then at most ``alpha``, whatever the images and features are, as long as fields
of one day are as different from each other as those of two.

Sources: A. Gretton et al., A kernel two-sample test, JMLR 13:723 (2012); P. H. Westfall, S. S. Young,
Resampling-based multiple testing (1993), for judging several figures together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import comb
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage, stats

from controller.core.settings import Settings

Floats = NDArray[np.float64]

#: With fewer groups on one side nothing can be said.
LEAST_GROUPS = 3


class ShiftOptions(Settings):
    """How days are compared."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Part of the comparisons of like days in which the alarm may be false."""
    permutations: Annotated[int, Field(ge=99)] = 999
    images_max: Annotated[int, Field(ge=10, le=2000)] = 200
    """Images of each side that are compared, drawn by chance. More find differences too small to matter."""


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """What can be said of one image without knowing what it shows.

    Attributes
    ----------
    background_photons
        Photons per pixel where the image is dark (a tenth of it is darker, smoothed).
    signal_photons
        Photons per pixel above that where it is bright (a hundredth is brighter).
    noise_ratio
        Noise of single pixels over that of the photons' own; 1 where nothing else adds to it.
    grain_m
        Lag in metres at which the image's correlation with itself is half, without the noise of single
        pixels. It grows with the width of the point spread function, and with the size of structures.
    """

    background_photons: float
    signal_photons: float
    noise_ratio: float
    grain_m: float


#: How the statistics are called for people, in their order, and their units: a factor and a name.
WORDS = (
    ("background", 1.0, "photons per pixel"),
    ("signal", 1.0, "photons per pixel"),
    ("noise", 1.0, "times shot noise"),
    ("blur or size of structures", 1e9, "nm"),
)


def image_statistics(photons: NDArray[Any], pixel_size_m: float) -> ImageStatistics:
    """Return what can be said of an image, shape ``(y, x)``, at least 8 pixels each.

    Raises
    ------
    ValueError
        If the image is smaller, or not finite.
    """
    image = np.asarray(photons, np.float64)
    if image.ndim != 2 or min(image.shape) < 8 or not np.isfinite(image).all():
        raise ValueError(f"statistics need a finite image of at least 8 by 8 pixels, got {image.shape}")
    smooth = ndimage.gaussian_filter(image, 2.0)
    background, bright = np.quantile(smooth, (0.1, 0.99))
    # Differences of neighbours in both directions: smooth structures cancel, the noise of pixels does not.
    fine = (image[1:, 1:] - image[1:, :-1] - image[:-1, 1:] + image[:-1, :-1]) / 2
    mean = float(image.mean())
    noise = float(np.sqrt(np.mean(fine**2) / mean)) if mean > 0 else 0.0
    return ImageStatistics(
        float(background), float(bright - background), noise, _grain_px(image) * pixel_size_m
    )


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a set of images looks like.

    Attributes
    ----------
    features
        What an encoder says of each, shape ``(n, features)``.
    statistics
        The four :class:`ImageStatistics` of each in their order, shape ``(n, 4)``.
    groups
        Which frame or field each comes from, shape ``(n,)``, int.
    """

    features: Floats
    statistics: Floats
    groups: NDArray[np.int64]

    def __post_init__(self) -> None:
        rows = {len(self.features), len(self.statistics), len(self.groups)}
        if len(rows) > 1 or self.features.ndim != 2 or self.statistics.shape[1:] != (len(WORDS),):
            raise ValueError(
                f"features {self.features.shape}, statistics {self.statistics.shape} and groups "
                f"{self.groups.shape} must have a row for each image, and statistics {len(WORDS)} columns"
            )
        if not (np.isfinite(self.features).all() and np.isfinite(self.statistics).all()):
            raise ValueError("features and statistics must be finite")

    def drawn(self, images_max: int, rng: np.random.Generator) -> Look:
        """Return some of the images, if there are more, by chance."""
        rows = np.sort(rng.choice(len(self.groups), min(len(self.groups), images_max), replace=False))
        return Look(self.features[rows], self.statistics[rows], self.groups[rows])


def statistics_of(images: list[ImageStatistics]) -> Floats:
    """Return statistics of images as rows, shape ``(n, 4)``."""
    rows = [[getattr(one, field.name) for field in fields(one)] for one in images]
    return np.array(rows, np.float64).reshape(-1, len(WORDS))


@dataclass(frozen=True, slots=True)
class Shift:
    """Whether today's images differ.

    Attributes
    ----------
    is_shifted
        ``None`` where nothing can be said, with the reason.
    p_value
        How often like days would differ as much, in any way.
    discrepancy
        The squared maximum mean discrepancy of the features, about 0 for like days, at most 2.
    differences
        What differs, in words; empty where only the features do, or nothing.
    reason
        All of it in a sentence.
    """

    is_shifted: bool | None
    p_value: float | None
    discrepancy: float | None
    differences: tuple[str, ...]
    reason: str


def domain_shift(
    trained_on: Look, today: Look, rng: np.random.Generator, options: ShiftOptions | None = None
) -> Shift:
    """Tell whether today's images differ from those that a model was trained on, and in what.

    Deterministic given ``rng``.
    """
    options = options or ShiftOptions()
    sides = [side.drawn(options.images_max, rng) for side in (trained_on, today)]
    groups = [np.unique(side.groups, return_inverse=True)[1] for side in sides]
    counts = [int(numbers.max(initial=-1)) + 1 for numbers in groups]
    if min(counts) < LEAST_GROUPS or comb(sum(counts), counts[0]) * options.alpha < 1:
        return Shift(None, None, None, (), _too_few(counts, options.alpha))
    group = np.concatenate([groups[0], groups[1] + counts[0]])
    is_today = _exchanged(group, counts, options.permutations, rng)
    squares = _discrepancies(np.concatenate([side.features for side in sides]), is_today)
    statistics = np.concatenate([side.statistics for side in sides])
    found = np.column_stack([squares, *(_rank_differences(column, is_today) for column in statistics.T)])
    p_values, overall = _judged_together(found)
    differences = tuple(
        _in_words(number, sides[0].statistics[:, number], sides[1].statistics[:, number])
        for number in range(len(WORDS))
        if p_values[1 + number] <= options.alpha
    )
    is_shifted = overall <= options.alpha
    return Shift(
        is_shifted, overall, float(squares[0]), differences, _sentence(overall, differences, is_shifted)
    )


def _grain_px(image: Floats) -> float:
    """Return the lag in pixels at which the correlation along y and x has fallen to half."""
    centred = image - image.mean()
    size = min(image.shape) // 2
    along_y = [np.mean(centred[lag:] * centred[: len(centred) - lag]) for lag in range(size)]
    along_x = [np.mean(centred.T[lag:] * centred.T[: len(centred.T) - lag]) for lag in range(size)]
    lags = np.add(along_y, along_x) / 2
    # The noise of pixels is all in lag 0: a parabola through lags 1 and 2 says what is there without it.
    lags[0] = lags[1] + max(lags[1] - lags[2], 0.0) / 3
    if not lags[0] > 0:
        return 0.0
    below = np.flatnonzero(lags <= lags[0] / 2)
    if not below.size:
        return float(size)
    stop = int(below[0])
    share = (lags[stop - 1] - lags[0] / 2) / (lags[stop - 1] - lags[stop])
    return float(stop - 1 + share)


def _exchanged(
    group: NDArray[np.int64], counts: list[int], permutations: int, rng: np.random.Generator
) -> Floats:
    """Return which images are today's, as it is and then dealt out anew, ``(n, 1 + permutations)``."""
    total = sum(counts)
    dealt = np.zeros((1 + permutations, total))
    dealt[0, counts[0] :] = 1
    order = rng.random((permutations, total)).argsort(axis=1)
    np.put_along_axis(dealt[1:], order[:, : counts[1]], 1.0, axis=1)
    return np.asarray(dealt[:, group].T)


def _discrepancies(features: Floats, is_today: Floats) -> Floats:
    """Return the unbiased squared discrepancy for each way of dealing out, shape ``(ways,)``."""
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    norms = (scaled**2).sum(axis=1)
    square = np.maximum(norms[:, None] + norms[None] - 2 * scaled @ scaled.T, 0)
    middle = np.median(square[np.triu_indices(len(square), 1)])
    kernel = np.exp(-square / (middle if middle > 0 else 1.0))
    np.fill_diagonal(kernel, 0)
    many = is_today.sum(axis=0)
    few = len(features) - many
    with_today = kernel @ is_today
    within = (is_today * with_today).sum(axis=0)
    across = with_today.sum(axis=0) - within
    rest = kernel.sum() - 2 * across - within
    return np.asarray(
        within / np.maximum(many * (many - 1), 1)
        + rest / np.maximum(few * (few - 1), 1)
        - 2 * across / np.maximum(many * few, 1)
    )


def _rank_differences(column: Floats, is_today: Floats) -> Floats:
    """Return how far the mean ranks of both sides are apart for each way of dealing out."""
    ranks = stats.rankdata(column)
    many = is_today.sum(axis=0)
    today = ranks @ is_today
    rest = ranks.sum() - today
    return np.asarray(np.abs(today / np.maximum(many, 1) - rest / np.maximum(len(ranks) - many, 1)))


def _judged_together(found: Floats) -> tuple[Floats, float]:
    """Return the p-value of each figure, corrected for all being looked at, and that of the most striking.

    ``found`` has a row for each way of dealing out, the true one first.
    """
    ways = len(found)
    # In which part of the ways each figure is as large or larger. Sums in another order differ in their last
    # digits, and ways that are the same must count as such.
    alone = np.stack([stats.rankdata(-column, "max") / ways for column in np.round(found.T, 12)], axis=1)
    least = alone.min(axis=1)
    corrected = np.array([float(np.mean(least <= p)) for p in alone[0]])
    return corrected, float(corrected.min())


def _in_words(number: int, before: Floats, now: Floats) -> str:
    name, factor, unit = WORDS[number]
    was, is_now = float(np.median(before)) * factor, float(np.median(now)) * factor
    direction = "higher" if is_now > was else "lower"
    return f"{name} is {direction}: {is_now:.3g} {unit}, it was {was:.3g}"


def _sentence(p_value: float, differences: tuple[str, ...], is_shifted: bool) -> str:
    if not is_shifted:
        return f"today's images look like those that the model was trained on (p = {p_value:.2g})"
    what = "; ".join(differences) or (
        "background, signal, noise and blur are alike, so it is what the images show or how it is arranged"
    )
    return f"today's images differ from those that the model was trained on (p = {p_value:.2g}): {what}"


def _too_few(counts: list[int], alpha: float) -> str:
    return (
        f"{counts[0]} fields that the model was trained on and {counts[1]} of today are too few to tell "
        f"whether they differ with at most {alpha:.0%} of false alarms; {LEAST_GROUPS} each, better 10, do"
    )
