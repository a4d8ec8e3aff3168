"""Noise of small tiles of a movie: its variance, its correlations, and a straight line through them.

Two residuals show the noise, and what biases them differs. Successive frames subtracted from each other
show nothing that stands still, but motion and activity. A frame that is filtered with
``[1, -2, 1]`` along y and x [1]_ shows nothing that is smooth, but fine structure, and it weakens noise
that neighbours share. Activity and motion are smooth on the scale of a pixel, so the filtered difference
of two frames shows less of either; one frame alone can only be filtered.

Variances are taken of square tiles, not of levels of brightness: the expected variance is a straight line
over the expected value, and so are their averages over any tile, whatever structure is in it.

References
----------
.. [1] J. Immerkær, Fast noise variance estimation, Comput. Vis. Image Underst. 64, 300 (1996).
.. [2] A. Foi et al., Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data,
   IEEE Trans. Image Process. 17, 1737 (2008): the line and why it needs a robust fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Correlations are measured up to so many pixels apart.
LAGS = 4

#: Pixels along the side of a tile.
SIDE = 8

#: Pairs of frames that one entry is averaged over: few, so that a transient spoils few entries.
_PAIRS = 8

#: Autocorrelation of [1, -2, 1] along one axis, and how many pixels are worth an independent one after both.
_FILTER = np.array([1.0, -2.0, 1.0])
_FILTERED_SAMPLES = (1 + 2 * (4 / 6) ** 2 + 2 * (1 / 6) ** 2) ** 2

#: A tile further from the line than so many standard deviations is not noise alone.
_OUTLIER = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTiles:
    """Statistics of tiles, in the unit of the frames (squared, for the variances).

    Attributes
    ----------
    mean, variance
        Of each tile, shape ``(tiles,)``. ``variance`` is that of one pixel in one frame, as far as the
        residual shows it.
    along_y, along_x
        Covariances of pixels 1, 2, … apart, shape ``(lags, tiles)``.
    along_t
        Covariance of successive differences, shape ``(tiles,)``: -1/2 of the variance if frames are
        independent. ``None`` without three frames.
    samples
        Independent values that each variance rests on.
    """

    mean: Floats
    variance: Floats
    along_y: Floats
    along_x: Floats
    along_t: Floats | None
    samples: float


@dataclass(frozen=True, slots=True, eq=False)
class VarianceLine:
    """``variance = intercept + slope * mean`` and the tiles (``kept``) that follow it.

    ``slope_error`` is the standard error of the slope; ``bend`` is how far a parabola through the same
    tiles leaves the line between the darkest and the brightest twentieth, as a fraction of the line.
    """

    intercept: float
    slope: float
    slope_error: float
    bend: float
    kept: Mask

    def at(self, mean: float) -> float:
        """Return the variance at a mean."""
        return self.intercept + self.slope * mean


def difference_tiles(frames: Floats, valid: Mask, side: int = SIDE) -> NoiseTiles:
    """Return the statistics of differences of successive frames ``(t, y, x)``, t ≥ 2.

    What changes everywhere in a tile at once is left out: each difference is taken about its own mean.
    Tiles with an invalid pixel are left out.
    """
    pixels = side * side
    blocks = _blocks(frames, side)
    usable = _all_of(_blocks(valid, side))
    residual = (blocks[1:] - blocks[:-1]) / np.sqrt(2)
    residual -= residual.mean(axis=(3, 4), keepdims=True)
    usable_pair = usable[1:] & usable[:-1]
    mean = 0.5 * (blocks[1:] + blocks[:-1]).mean(axis=(3, 4))
    variance = (residual**2).sum(axis=(3, 4)) / (pixels - 1)
    # Taking out the mean of a tile makes its pixels a little anticorrelated, by -variance / pixels.
    lost = variance / pixels
    lags = range(1, min(LAGS, side - 1) + 1)
    along_y = [(residual[..., k:, :] * residual[..., :-k, :]).mean(axis=(3, 4)) + lost for k in lags]
    along_x = [(residual[..., :, k:] * residual[..., :, :-k]).mean(axis=(3, 4)) + lost for k in lags]
    along_t = None
    if len(residual) > 1:
        later = _each_with_next(residual).sum(axis=(3, 4)) / (pixels - 1)
        along_t = _averaged(later, usable_pair)
    pairs = min(len(residual), _PAIRS)
    # Differences that share a frame are correlated by -1/2, their squares by 1/4.
    samples = (pixels - 1) * pairs / (1 + 0.5 * (pairs - 1) / pairs)
    return NoiseTiles(
        _averaged(mean, usable_pair),
        _averaged(variance, usable_pair),
        np.stack([_averaged(each, usable_pair) for each in along_y]),
        np.stack([_averaged(each, usable_pair) for each in along_x]),
        along_t,
        samples,
    )


def filtered_tiles(frames: Floats, valid: Mask, side: int = SIDE) -> NoiseTiles:
    """Return the statistics of the finest detail of frames ``(t, y, x)``, or of their differences if t ≥ 2.

    The covariances are those of the filtered residual; :func:`unfiltered` gives those of the noise.
    """
    if len(frames) > 1:
        residual = (frames[1:] - frames[:-1]) / np.sqrt(2)
        mean = 0.5 * (frames[1:] + frames[:-1])
        good = valid[1:] & valid[:-1]
    else:
        residual, mean, good = frames, frames, valid
    for axis in (1, 2):
        residual = ndimage.correlate1d(residual, _FILTER / np.sqrt(6), axis=axis, mode="nearest")
    good = ndimage.binary_erosion(good, np.ones((1, 3, 3), np.bool_))  # the border goes, too
    blocks, usable = _blocks(residual, side), _all_of(_blocks(good, side))
    variance = (blocks**2).mean(axis=(3, 4))
    along_y = (blocks[..., 1:, :] * blocks[..., :-1, :]).mean(axis=(3, 4))
    along_x = (blocks[..., :, 1:] * blocks[..., :, :-1]).mean(axis=(3, 4))
    along_t = None
    if len(residual) > 1:
        along_t = _averaged(_each_with_next(blocks).mean(axis=(3, 4)), usable)
    pairs = min(len(residual), _PAIRS)
    samples = side * side * pairs / _FILTERED_SAMPLES
    samples /= 1 + 0.5 * (pairs - 1) / pairs if len(frames) > 1 else 1.0
    return NoiseTiles(
        _averaged(_blocks(mean, side).mean(axis=(3, 4)), usable),
        _averaged(variance, usable),
        _averaged(along_y, usable)[None],
        _averaged(along_x, usable)[None],
        along_t,
        samples,
    )


def unfiltered(tiles: NoiseTiles, line: VarianceLine) -> tuple[float, float, float]:
    """Return lag-1 correlations of the noise along y and x, and its variance over that of the filtered one.

    From the covariances after the filter, for noise that only direct neighbours share: with a
    correlation r along an axis, the filter leaves ``6 - 8 r`` of the variance and ``-4 + 7 r`` of the
    covariance of neighbours.
    """
    variance = _weighted(tiles.variance, tiles, line)
    correlations = []
    for along in (tiles.along_y[0], tiles.along_x[0]):
        ratio = _weighted(along, tiles, line) / variance if variance > 0 else -2 / 3
        # Beyond these, no such noise exists; 1/2 is the mean of two neighbours.
        correlations.append(float(np.clip((6 * ratio + 4) / max(7 + 8 * ratio, 1e-6), -0.5, 0.5)))
    y, x = correlations
    return y, x, 36 / ((6 - 8 * y) * (6 - 8 * x))


def correlations(tiles: NoiseTiles, line: VarianceLine) -> tuple[Floats, Floats]:
    """Return the correlations along y and x at lags 1, 2, … of difference tiles."""
    variance = max(_weighted(tiles.variance, tiles, line), 1e-300)
    along_y = np.array([_weighted(lag, tiles, line) / variance for lag in tiles.along_y])
    along_x = np.array([_weighted(lag, tiles, line) / variance for lag in tiles.along_x])
    return along_y, along_x


def correlation_in_time(tiles: NoiseTiles, line: VarianceLine) -> float:
    """Return the correlation of the noise of successive frames, 0 if there are too few to tell."""
    if tiles.along_t is None:
        return 0.0
    # d = n1 - n0 of noise with correlation r between successive frames: lag 1 of d over its variance is
    # (2 r - 1) / (2 - 2 r), as long as frames further apart share nothing.
    ratio = _weighted(tiles.along_t, tiles, line) / max(_weighted(tiles.variance, tiles, line), 1e-300)
    return float(np.clip((1 + 2 * ratio) / max(2 + 2 * ratio, 1e-6), -1, 1))


def fit_line(tiles: NoiseTiles) -> VarianceLine:
    """Fit the variance of tiles over their mean, leaving out what is more, or less, than noise.

    Reweighted least squares; a tile's standard deviation is that of a variance of so many samples of
    photon-like noise. A tile is judged by the square root of its variance, which is more symmetric.
    """
    mean, variance = tiles.mean, tiles.variance
    intercept, slope = _first_line(mean, variance)
    kept = np.ones(mean.shape, np.bool_)
    center = float(mean.mean())
    for _ in range(8):
        expected = _positive(intercept + slope * mean, variance)
        # The fourth cumulant of photons of height slope is slope² times their variance, half in a difference.
        relative = np.sqrt((2 + 0.5 * max(slope, 0.0) ** 2 / expected) / tiles.samples)
        deviation = 2 * (np.sqrt(variance / expected) - 1) / relative
        # Noise with heavier tails (a photomultiplier's) scatters more than that.
        scatter = max(1.0, 1.4826 * float(np.median(np.abs(deviation))))
        deviation /= scatter
        kept = (deviation < _OUTLIER) & (deviation > -_OUTLIER - 1)
        weight = kept / (expected * relative) ** 2
        (intercept, slope), error = _least_squares(mean - center, variance, weight, 1)
        intercept -= slope * center
        error *= scatter
    bend = _bend(mean, variance, weight, intercept + slope * mean)
    return VarianceLine(float(intercept), float(slope), float(error), bend, kept)


def _first_line(mean: Floats, variance: Floats) -> tuple[float, float]:
    """Return intercept and slope through the medians of eight levels of brightness."""
    order = np.argsort(mean, kind="stable")
    groups = [group for group in np.array_split(order, 8) if len(group)]
    middle = np.array([mean[group].mean() for group in groups])
    # The mean where most tiles are dark: the median of a few photons is none.
    level = np.array([np.median(variance[group]) or variance[group].mean() for group in groups])
    weight = 1 / np.maximum(level, level.max() * 1e-3) ** 2
    (intercept, slope), _ = _least_squares(middle - middle.mean(), level, weight, 1)
    return float(intercept - slope * middle.mean()), float(slope)


def _least_squares(x: Floats, y: Floats, weight: Floats, degree: int) -> tuple[Floats, float]:
    """Return the coefficients of a polynomial, lowest first, and the standard error of the highest."""
    scale = float(np.abs(x).max()) or 1.0
    powers = (x[:, None] / scale) ** np.arange(degree + 1)
    normal = powers.T @ (weight[:, None] * powers)
    # A single level of brightness has no slope: the smallest answer, and an error to match.
    inverse = np.linalg.pinv(normal, rcond=1e-10, hermitian=True)
    found = inverse @ (powers.T @ (weight * y))
    error = float(np.sqrt(max(inverse[-1, -1], 0.0)))
    return found / scale ** np.arange(degree + 1), error / scale**degree


def _bend(mean: Floats, variance: Floats, weight: Floats, line: Floats) -> float:
    used = weight > 0
    if used.sum() < 12 or np.ptp(mean[used]) == 0:
        return 0.0
    center = float(mean[used].mean())
    found, _ = _least_squares(mean - center, variance, weight, 2)
    low, high = np.quantile(mean[used], (0.05, 0.95))
    inside = used & (mean >= low) & (mean <= high)
    parabola = np.polynomial.polynomial.polyval(mean[inside] - center, found)
    return float(np.max(np.abs(parabola / _positive(line, variance)[inside] - 1)))


def _positive(expected: Floats, variance: Floats) -> Floats:
    """Return expected variances, none so small that one tile would outweigh all others."""
    return np.maximum(expected, max(1e-2 * float(variance.mean()), 1e-300))


def _weighted(values: Floats, tiles: NoiseTiles, line: VarianceLine) -> float:
    """Return the mean over the tiles of the line in which bright ones count no more than dark ones."""
    # The line's variance, not the tile's own: a weight that follows the noise would bias the mean.
    weight = line.kept / _positive(line.intercept + line.slope * tiles.mean, tiles.variance)
    return float((weight * values).sum() / max(float(weight.sum()), 1e-300))


def _blocks(stack: NDArray[Any], side: int) -> NDArray[Any]:
    """Return a stack as tiles, shape ``(t, rows, columns, side, side)``; the rest at the end goes."""
    frames, height, width = stack.shape
    rows, columns = height // side, width // side
    cut = stack[:, : rows * side, : columns * side].reshape(frames, rows, side, columns, side)
    return cut.transpose(0, 1, 3, 2, 4)


def _all_of(blocks: NDArray[Any]) -> Mask:
    """Tell for each tile whether all of its pixels are true."""
    return np.asarray(blocks.all(axis=(3, 4)), np.bool_)


def _each_with_next(blocks: Floats) -> Floats:
    """Return products of successive residuals; the last one counts twice, to have as many."""
    products = blocks[1:] * blocks[:-1]
    return np.concatenate([products, products[-1:]])


def _averaged(values: Floats, usable: Mask) -> Floats:
    """Return means over groups of pairs of frames; groups with an unusable tile go. Shape ``(tiles,)``."""
    averages = []
    for start in range(0, len(values), _PAIRS):
        part, good = values[start : start + _PAIRS], usable[start : start + _PAIRS].all(axis=0)
        if start and len(part) < _PAIRS:
            break  # a short group would count like a long one
        averages.append(part.mean(axis=0)[good])
    return np.concatenate(averages)
