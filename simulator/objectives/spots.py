"""Finding spots, and counting which of the true ones were found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.objectives.measure import Measure, as_image, check_positive, unmeasured

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matched:
    """Found spots matched with true ones, one to one.

    Attributes
    ----------
    hits, false_alarms, misses
        Matched pairs, spots that match nothing, and true ones that were not found.
    distance_m
        Mean distance of the matched pairs in metres, None without pairs.
    """

    hits: int
    false_alarms: int
    misses: int
    distance_m: float | None

    @property
    def f1(self) -> Measure:
        """Return hits by the mean of found and true ones, 0..1; no value if there are neither."""
        total = 2 * self.hits + self.false_alarms + self.misses
        return Measure(2 * self.hits / total) if total else unmeasured("nothing was there and nothing found")

    @property
    def precision(self) -> Measure:
        """Return which part of the found ones is true, 0..1; no value if none was found."""
        found = self.hits + self.false_alarms
        return Measure(self.hits / found) if found else unmeasured("nothing was found")

    @property
    def recall(self) -> Measure:
        """Return which part of the true ones was found, 0..1; no value if there are none."""
        true = self.hits + self.misses
        return Measure(self.hits / true) if true else unmeasured("there is nothing to be found")


def match_spots(found_yx_m: Points, truth_yx_m: Points, tolerance_m: float) -> Matched:
    """Match found spots with true ones: as many pairs as possible, then as near as possible.

    Each is used once, and no pair is farther apart than ``tolerance_m``: the assignment problem, solved
    exactly (Kuhn, Naval Research Logistics 2 (1955) 83).

    Parameters
    ----------
    found_yx_m, truth_yx_m
        Places in metres in the same coordinates, shape ``(n, 2)`` and ``(m, 2)``; n and m may be 0.
    tolerance_m
        Half the resolution, or two pixels, are usual.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    check_positive(tolerance_m=tolerance_m)
    found, truth = _as_points("found_yx_m", found_yx_m), _as_points("truth_yx_m", truth_yx_m)
    if not len(found) or not len(truth):
        return Matched(0, len(found), len(truth), None)
    distance = cdist(found, truth)
    is_near = distance <= tolerance_m
    # Any pair is worth more than all the way that could be saved with the others.
    worth = np.where(is_near, min(distance.shape) + 1 - distance / tolerance_m, 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    pairs = is_near[rows, columns]
    hits = int(pairs.sum())
    mean = float(distance[rows, columns][pairs].mean()) if hits else None
    return Matched(hits, len(found) - hits, len(truth) - hits, mean)


def find_spots(
    photons: NDArray[Any], pixel_size_m: float, width_m: float, significance: float = 5.0
) -> Points:
    """Return the places of spots of about one width.

    A Mexican hat (difference of two Gaussians, the inner one as wide as the spots) is fitted everywhere;
    a spot is a local maximum that stands out from shot noise by ``significance`` standard deviations
    and from the rest by a tenth of the brightest. Places are interpolated between pixels.

    Parameters
    ----------
    photons
        Photons per pixel, shape ``(y, x)``.
    pixel_size_m
        Sampling in metres.
    width_m
        Full width at half maximum of a spot in the image: blur included.
    significance
        Standard deviations of shot noise.

    Returns
    -------
    Places in metres from the middle of the image, shape ``(n, 2)``, in the order of their pixels.

    References
    ----------
    Matched filtering of spots, compared in Smal et al., IEEE Trans. Medical Imaging 29 (2010) 282.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    check_positive(pixel_size_m=pixel_size_m, width_m=width_m, significance=significance)
    image = as_image(photons)
    inner = width_m / pixel_size_m / (2 * np.sqrt(2 * np.log(2)))
    outer = 1.6 * inner
    response = gaussian_filter(image, inner) - gaussian_filter(image, outer)
    noise = np.sqrt(np.maximum(gaussian_filter(image, outer), 1e-12) * _noise_gain(inner, outer))
    size = 2 * max(1, round(inner)) + 1
    is_top = (response == maximum_filter(response, size)) & (response > significance * noise)
    is_top &= response > 0.1 * response.max()
    places = np.argwhere(is_top)
    refined = [_refined(response, int(row), int(column)) for row, column in places]
    middle = (np.array(image.shape) - 1) / 2
    return (np.array(refined, dtype=np.float64).reshape(-1, 2) - middle) * pixel_size_m


def _noise_gain(inner: float, outer: float) -> float:
    """Return the variance of the filter's answer to white noise of variance 1, of spots not too small."""
    # Integrals of products of two Gaussians; below one pixel the sum over pixels is a little larger.
    gain = 1 / inner**2 + 1 / outer**2 - 4 / (inner**2 + outer**2)
    return float(gain / (4 * np.pi))


def _refined(response: NDArray[np.float64], row: int, column: int) -> tuple[float, float]:
    """Return the top of the parabolas through a maximum and its neighbours."""
    place = []
    for index, line in ((row, response[:, column]), (column, response[row])):
        shift = 0.0
        if 0 < index < len(line) - 1:
            before, here, after = line[index - 1 : index + 2]
            bend = before - 2 * here + after
            shift = float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0
        place.append(index + shift)
    return place[0], place[1]


def _as_points(name: str, points: Points) -> Points:
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 2))
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite places of shape (n, 2), got shape {array.shape}")
    return array
