"""Smooth paths and scattered places, in map pixels ``(y, x)``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.specimens.canvas import STEP_PX
from simulator.specimens.specimen import MAP_PIXEL_SIZE_M

Floats = NDArray[np.float64]

# A direction wanders between knots so far apart, and is smoothed, so that no kink is sharper than 1 µm.
_KNOT_M = 2e-6
_SMOOTH_M = 1e-6


def grow(start: Floats, angle: float, length_m: float, bend: float, rng: np.random.Generator) -> Floats:
    """Return a smooth path, its points ``STEP_PX`` apart, that starts somewhere with some direction.

    Parameters
    ----------
    start
        First point.
    angle
        First direction in radians: 0 along x, rising towards y.
    length_m
        Length; at least two points are returned.
    bend
        Typical change of direction in radians over 10 µm. That of a worm-like chain in a plane with the
        persistence length P is ``sqrt(10 µm / P)``.
    rng
        Where the chance comes from.
    """
    from scipy.ndimage import uniform_filter1d

    count = max(2, round(length_m / MAP_PIXEL_SIZE_M / STEP_PX))
    knots = max(2, int(np.ceil(length_m / _KNOT_M)) + 1)
    turns = np.cumsum(rng.normal(0, bend * np.sqrt(_KNOT_M / 10e-6), knots)) * (bend > 0)
    place = np.arange(count) * (STEP_PX * MAP_PIXEL_SIZE_M / _KNOT_M)
    direction = np.interp(place, np.arange(knots), turns - turns[0])
    size = max(1, round(_SMOOTH_M / MAP_PIXEL_SIZE_M / STEP_PX))
    direction = angle + uniform_filter1d(direction, size, mode="nearest")
    steps = np.stack([np.sin(direction), np.cos(direction)], axis=1) * STEP_PX
    return np.asarray(start + np.cumsum(steps, axis=0) - steps[0])


def cross(shape_yx: tuple[int, int], rng: np.random.Generator, bend: float = 1.0) -> Floats:
    """Return a path across the whole map, its middle well inside; ``bend`` as in :func:`grow`."""
    size = np.array(shape_yx, dtype=np.float64)
    length_m = float(np.hypot(*size)) * 1.3 * MAP_PIXEL_SIZE_M
    path = grow(np.zeros(2), rng.uniform(0, 2 * np.pi), length_m, bend, rng)
    return np.asarray(path - path[len(path) // 2] + rng.uniform(0.1, 0.9, 2) * size)


def normals(path: Floats) -> Floats:
    """Return the unit vectors across a path, shape ``(n, 2)``."""
    tangent = np.gradient(path, axis=0)
    return np.asarray(np.stack([tangent[:, 1], -tangent[:, 0]], axis=1) / np.hypot(*tangent.T)[:, None])


def places_along(
    path: Floats, spacing_m: float, rng: np.random.Generator, least_m: float = 0.0
) -> NDArray[np.intp]:
    """Return indices of points of a path: gaps are ``least_m`` and more, on average ``spacing_m``."""
    length_m = len(path) * STEP_PX * MAP_PIXEL_SIZE_M
    gaps = least_m + rng.exponential(spacing_m - least_m, max(1, int(3 * length_m / spacing_m) + 10))
    place = (np.cumsum(gaps) - gaps[0] * rng.random()) / (STEP_PX * MAP_PIXEL_SIZE_M)
    return np.asarray(place[place < len(path)], dtype=np.intp)


def apart(centres: Floats, least_m: float) -> Floats:
    """Leave out each place that is nearer than ``least_m`` to an earlier one.

    Of three in a row the last goes, too, though the one that it is too near to is gone: a hard-core
    process of Matérn's second kind.
    """
    from scipy.spatial import cKDTree

    if len(centres) < 2:
        return centres
    pairs = cKDTree(centres).query_pairs(least_m / MAP_PIXEL_SIZE_M, output_type="ndarray")
    keep = np.ones(len(centres), np.bool_)
    keep[pairs.max(axis=1)] = False
    return centres[keep]


def number(expected: float, rng: np.random.Generator, least: int = 1) -> int:
    """Return a whole number, on average ``expected``, but at least ``least``."""
    return max(least, int(expected + rng.random()))
