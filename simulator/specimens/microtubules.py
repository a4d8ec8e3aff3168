"""Microtubules: long, stiff, hollow, and unevenly labelled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.specimens.canvas import STEP_PX, Canvas
from simulator.specimens.paths import cross, grow, normals, number
from simulator.specimens.specimen import MAP_PIXEL_SIZE_M, SpecimenOptions

Floats = NDArray[np.float64]

MICROTUBULE, PAIR = 1, 2

#: Apparent persistence length in cells, a hundred times less than in water (Brangwynne, MacKintosh &
#: Weitz, PNAS 104:16128, 2007).
_PERSISTENCE_M = 30e-6
_BEND = float(np.sqrt(10e-6 / _PERSISTENCE_M))

#: Length by area: filaments are on average 0.8 µm apart.
_LENGTH_PER_AREA_PER_M = 1.2e6


def draw_microtubules(canvas: Canvas, options: SpecimenOptions, rng: np.random.Generator) -> None:
    """Draw microtubules; most come from one organising centre, which may lie outside.

    One structure is one microtubule (where they cross, the upper one); there are no points. The rare
    class are pairs that run 50 to 110 nm apart for their whole length: one filament in a confocal image.
    """
    height, width = canvas.shape_yx
    # The mean chord of a convex area is pi times its area by its rim.
    chord_m = np.pi * height * width / (2 * (height + width)) * MAP_PIXEL_SIZE_M
    count = number(_LENGTH_PER_AREA_PER_M * canvas.area_m2 / chord_m * options.density, rng, least=2)
    middle = np.array(canvas.shape_yx) / 2
    away = rng.uniform(0.3, 1.0) * float(np.hypot(height, width))
    angle = rng.uniform(0, 2 * np.pi)
    origin = middle + away * np.array([np.sin(angle), np.cos(angle)])
    for _ in range(count):
        path = _radiating(canvas, origin, rng) if rng.random() < 0.7 else cross(canvas.shape_yx, rng, _BEND)
        label = canvas.new_structure()
        if rng.random() < options.rare_fraction:
            half_m = rng.uniform(25e-9, 55e-9)
            beside = normals(path) * half_m / MAP_PIXEL_SIZE_M
            _draw_microtubule(canvas, path - beside, PAIR, label, rng)
            _draw_microtubule(canvas, path + beside, PAIR, label, rng)
        else:
            _draw_microtubule(canvas, path, MICROTUBULE, label, rng)


def _radiating(canvas: Canvas, origin: Floats, rng: np.random.Generator) -> Floats:
    """Return a path from the origin towards some place on the map, and for most of them beyond."""
    target = rng.uniform(0, 1, 2) * np.array(canvas.shape_yx)
    away = target - origin
    distance = float(np.hypot(*away))
    diagonal = float(np.hypot(*canvas.shape_yx))
    # One in five ends where it was aimed: a plus end.
    length = distance + (diagonal if rng.random() < 0.8 else 0.0)
    angle = float(np.arctan2(*away))
    path = grow(origin, angle, length * MAP_PIXEL_SIZE_M, _BEND, rng)
    # A path from far away would have wandered past the map: turn it so that it meets its target.
    index = min(len(path) - 1, round(distance / STEP_PX))
    missed = float(np.arctan2(*(path[index] - origin))) - angle
    cos, sin = np.cos(missed), np.sin(missed)
    y, x = (path - origin).T
    return np.asarray(origin + np.stack([cos * y - sin * x, cos * x + sin * y], axis=1))


def _draw_microtubule(
    canvas: Canvas, path: Floats, class_index: int, label: int, rng: np.random.Generator
) -> None:
    """Add a tube of 25 nm with antibodies on it: two walls, 32 nm apart, each blurred by 10 nm.

    Antibodies sit unevenly: the strength changes every 50 nm or so, as in stained samples.
    """
    band = canvas.band(path, 50e-9)
    if band.pixels.size == 0:
        return
    along_m = np.arange(len(path)) * STEP_PX * MAP_PIXEL_SIZE_M
    pieces = int(along_m[-1] / 50e-9) + 2
    uneven = np.interp(along_m, np.arange(pieces) * 50e-9, rng.gamma(4, 1 / 4, pieces))
    distance_m = np.abs(band.across_m)
    walls = np.exp(-0.5 * ((distance_m - 16e-9) / 10e-9) ** 2)
    canvas.add(band.pixels, rng.uniform(0.55, 0.8) * uneven[band.index] * walls)
    canvas.mark(band.pixels[distance_m < 30e-9], class_index, label)
