"""F-actin of neurons: rings along axons, and long fibres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.specimens.canvas import STEP_PX, Canvas
from simulator.specimens.paths import cross, normals, number
from simulator.specimens.specimen import MAP_PIXEL_SIZE_M, SpecimenOptions

Floats = NDArray[np.float64]

RINGS, FIBRES, SMOOTH = 1, 2, 3

#: Spacing of the actin rings along axons (Xu, Zhong & Zhuang, Science 339:452, 2013).
ACTIN_PERIOD_M = 190e-9
#: Ring by ring, a spectrin tetramer is longer or shorter by about as much.
_JITTER_M = 8e-9
_PATCH_M = 1.5e-6


def draw_filaments(canvas: Canvas, options: SpecimenOptions, rng: np.random.Generator) -> None:
    """Draw axons with actin rings every 190 nm, and bundles of long fibres that cross them.

    One structure is one axon, rings and gaps; one point is the middle of one ring. The rare class are
    patches of an axon, about 1.5 µm long, without rings: as much actin, spread evenly. Fibres have a
    class and no structure.
    """
    for _ in range(number(canvas.area_m2 / (7e-6) ** 2 * options.density, rng)):
        draw_axon(canvas, cross(canvas.shape_yx, rng), options.rare_fraction, rng)
    for _ in range(number(canvas.area_m2 / (9e-6) ** 2 * options.density, rng)):
        _draw_bundle(canvas, cross(canvas.shape_yx, rng, bend=0.3), rng)


def draw_axon(canvas: Canvas, path: Floats, rare_fraction: float, rng: np.random.Generator) -> None:
    """Add an axon whose rings are seen edge-on as stripes, each as strong as chance has it."""
    radius_m = rng.uniform(0.15e-6, 0.3e-6)
    length_m = len(path) * STEP_PX * MAP_PIXEL_SIZE_M
    count = int(length_m / ACTIN_PERIOD_M) + 2
    ring_m = np.cumsum(rng.normal(ACTIN_PERIOD_M, _JITTER_M, count)) - ACTIN_PERIOD_M * rng.random()
    strength = rng.gamma(6, 1 / 6, count)
    is_smooth = _patches(count, rare_fraction, rng)
    along_m = np.arange(len(path)) * STEP_PX * MAP_PIXEL_SIZE_M
    right = np.clip(np.searchsorted(ring_m, along_m), 1, count - 1)
    nearest = np.where(along_m - ring_m[right - 1] < ring_m[right] - along_m, right - 1, right)
    stripe = np.exp(-0.5 * ((along_m - ring_m[nearest]) / 28e-9) ** 2)
    # The same amount of actin by length: a stripe's mean over the period.
    even = np.sqrt(2 * np.pi) * 28e-9 / ACTIN_PERIOD_M
    actin = np.where(is_smooth[nearest], even, strength[nearest] * stripe)
    band = canvas.band(path, radius_m)
    # A ring seen from above is brightest where its wall runs along the line of sight.
    wall = 0.45 + 0.25 * np.abs(band.across_m / radius_m) ** 4
    canvas.add(band.pixels, wall * (actin + 0.04)[band.index])
    label = canvas.new_structure()
    canvas.mark(band.pixels, RINGS, label)
    canvas.mark(band.pixels[is_smooth[nearest][band.index]], SMOOTH)
    middle = np.rint(ring_m / MAP_PIXEL_SIZE_M / STEP_PX).astype(np.intp)
    kept = (middle >= 0) & (middle < len(path)) & ~is_smooth
    canvas.point(path[middle[kept]], 2 * radius_m, RINGS, label)


def _patches(count: int, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose runs of rings that are missing, on average this fraction of all."""
    if fraction in {0.0, 1.0}:
        return np.full(count, fraction == 1.0)
    mean = _PATCH_M / ACTIN_PERIOD_M
    runs = max(4, int(3 * count / mean) + 4)
    lengths = np.empty(2 * runs)
    # Where rings are to be rarer than patches, the patches grow longer, not the rings fewer than one.
    rest = max(1.0, mean * (1 - fraction) / fraction)
    lengths[0::2] = rng.exponential(rest, runs)
    lengths[1::2] = rng.exponential(rest * fraction / (1 - fraction), runs)
    ends = np.cumsum(lengths) - rng.random() * lengths[0]
    which = np.searchsorted(ends, np.arange(count))
    return np.asarray(which % 2 == 1)


def _draw_bundle(canvas: Canvas, path: Floats, rng: np.random.Generator) -> None:
    """Add one to three thin, nearly parallel fibres."""
    across = normals(path)
    along_m = np.arange(len(path)) * STEP_PX * MAP_PIXEL_SIZE_M
    for _ in range(int(rng.integers(1, 4))):
        sway_m = rng.normal(0, 0.2e-6) + 0.15e-6 * np.sin(
            along_m / rng.uniform(1.5e-6, 4e-6) + rng.uniform(0, 2 * np.pi)
        )
        band = canvas.band(path + across * (sway_m / MAP_PIXEL_SIZE_M)[:, None], 0.08e-6)
        canvas.add(band.pixels, 0.35 * np.exp(-0.5 * (band.across_m / 18e-9) ** 2))
        thin = band.pixels[np.abs(band.across_m) < 0.04e-6]
        canvas.mark(thin[canvas.structures[thin] == 0], FIBRES)
