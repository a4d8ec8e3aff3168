"""Whether two engines have the same law: tests on many scans of the same map.

All but two are permutation tests. If two engines have the same law it makes no difference which of the
scans came from which, so a statistic of the true labels must lie among those of shuffled ones. That
holds whatever the noise is like and however pixels depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.sted.scanning import Scanned

_BINS = 24


@dataclass(frozen=True, slots=True)
class Equality:
    """How probable differences as large as these are between two engines of the same law.

    Attributes
    ----------
    means, variances
        Of the photons, pixel by pixel.
    histogram
        Of the photons of all pixels together.
    bright_histogram
        The same of the brightest tenth.
    photons
        Distribution of the number of all photons (Kolmogorov and Smirnov).
    survivors_by_place
        Mean survivors of each map pixel.
    survivors
        Distribution of the number of all survivors (Kolmogorov and Smirnov).
    """

    means: float
    variances: float
    histogram: float
    bright_histogram: float
    photons: float
    survivors_by_place: float
    survivors: float


def compare(
    scans: list[Scanned], others: list[Scanned], rng: np.random.Generator, permutations: int = 499
) -> Equality:
    """Compare scans of one engine with those of another.

    Parameters
    ----------
    scans, others
        Scans of the same map with the same exposure and seeds that differ. Survivors on the same grid.
    rng
        Shuffles the labels.
    permutations
        How often; the smallest probability that can come out is one by one more than these.
    """
    from scipy.stats import ks_2samp

    labels = np.repeat([True, False], [len(scans), len(others)])
    shuffled = [labels, *(rng.permutation(labels) for _ in range(permutations))]
    both = [*scans, *others]
    photons = np.array([scanned.photons.ravel() for scanned in both], dtype=np.float64)
    survivors = np.array([scanned.survivors.ravel() for scanned in both], dtype=np.float64)
    mean = photons.mean(axis=0)
    bright = mean >= np.quantile(mean, 0.9)

    def probability(values: NDArray[np.float64]) -> float:
        return _permutation_probability(values, np.array(shuffled))

    def same_numbers(values: NDArray[np.float64]) -> float:
        total = values.sum(axis=1)
        return float(ks_2samp(total[labels], total[~labels]).pvalue)

    return Equality(
        probability(photons),
        probability((photons - mean) ** 2),
        probability(_histograms(photons)),
        probability(_histograms(photons[:, bright])),
        same_numbers(photons),
        probability(survivors),
        same_numbers(survivors),
    )


def _permutation_probability(values: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return how many of the labellings differ at least as much in their means as the first one."""
    spread = values.var(axis=0)
    scaled = (values - values.mean(axis=0))[:, spread > 0] / np.sqrt(spread[spread > 0])
    weights = np.where(
        labels, 1 / labels.sum(axis=1, keepdims=True), -1 / (~labels).sum(axis=1, keepdims=True)
    )
    statistic = np.sum((weights @ scaled) ** 2, axis=1)
    # A hair's breadth, so that rounding does not decide about equal ones.
    return float(np.mean(statistic >= statistic[0] * (1 - 1e-9)))


def _histograms(photons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each scan's histogram over bins that hold equally many pixels in all, ``(scan, bin)``."""
    edges = np.unique(np.quantile(photons, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, photons, side="right")
    return np.array([np.bincount(row, minlength=len(edges) + 1) for row in bins], dtype=np.float64)
