"""Dendrites with spines, on whose heads synapses hold nanodomains of a scaffold protein."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.specimens.canvas import FWHM_BY_SIGMA, STEP_PX, Canvas
from simulator.specimens.paths import cross, normals, number, places_along
from simulator.specimens.specimen import MAP_PIXEL_SIZE_M, SpecimenOptions

Floats = NDArray[np.float64]

SYNAPSE, PERFORATED = 1, 2

#: Spines with 1, 2, 3 and 4 modules of PSD-95: 85, 39, 18 and 4 of 146 (Hruska et al., Nature
#: Neuroscience 21:671, 2018, supplementary figure 4).
_MODULES = np.array([85, 39, 18, 4]) / 146

#: The cytosol of a dendrite, relative to a nanodomain.
_CYTOSOL = 0.012
_PLATE = 0.12


def draw_synapses(canvas: Canvas, options: SpecimenOptions, rng: np.random.Generator) -> None:
    """Draw dendrites with spines; one structure is one synapse, one point one nanodomain.

    The shaft and the spines are dim, a postsynaptic density a little brighter, the nanodomains in it
    (60 to 95 nm wide) bright. The rare class are perforated synapses: larger rings with a gap, beset
    with nanodomains.
    """
    for _ in range(number(canvas.area_m2 / (8e-6) ** 2 * options.density, rng)):
        path = cross(canvas.shape_yx, rng)
        draw_tube(canvas, path, rng.uniform(0.2e-6, 0.45e-6), _CYTOSOL)
        across = normals(path)
        for index in places_along(path, 1.35e-6, rng, least_m=0.35e-6):
            side = across[index] * rng.choice([-1, 1])
            direction = turned(side, rng.normal(0, 0.3))
            head = path[index] + direction * rng.uniform(0.6e-6, 1.3e-6) / MAP_PIXEL_SIZE_M
            if not canvas.holds(head):
                continue
            draw_spine(canvas, path[index], head, rng.uniform(0.11e-6, 0.18e-6))
            if rng.random() < options.rare_fraction:
                _draw_perforated(canvas, head, direction, rng)
            else:
                _draw_nanodomains(canvas, head, direction, rng)


def draw_tube(canvas: Canvas, path: Floats, radius_m: float, brightness: float) -> None:
    """Add a filled tube of uneven width, as thick in the middle as a round one seen from above."""
    band = canvas.band(path, radius_m * 1.3)
    along_m = np.arange(len(path)) * STEP_PX * MAP_PIXEL_SIZE_M
    radius = radius_m * (1 + 0.2 * np.sin(along_m / 0.9e-6) + 0.1 * np.sin(along_m / 0.37e-6))
    thickness = np.sqrt(np.maximum(0, 1 - (band.across_m / radius[band.index]) ** 2))
    canvas.add(band.pixels, brightness * thickness)


def draw_spine(canvas: Canvas, base: Floats, head: Floats, sigma_m: float) -> None:
    """Add a dim neck, 160 nm wide, and the dim round head of a spine."""
    length = max(2, int(np.hypot(*(head - base)) / STEP_PX))
    neck = canvas.band(np.linspace(base, head, length), 0.08e-6)
    canvas.add(neck.pixels, _CYTOSOL * np.sqrt(np.maximum(0, 1 - (neck.across_m / 0.08e-6) ** 2)))
    canvas.spots(head, sigma_m, 0.02)


def turned(direction: Floats, angle: float) -> Floats:
    """Return a direction turned by an angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * direction[0] - sin * direction[1], sin * direction[0] + cos * direction[1]])


def _draw_nanodomains(canvas: Canvas, head: Floats, direction: Floats, rng: np.random.Generator) -> None:
    """Add a synapse seen from the side: a short bar across the spine, its nanodomains in a row."""
    along = np.array([-direction[1], direction[0]])
    count = int(rng.choice([1, 2, 3, 4], p=_MODULES))
    gap_m = rng.uniform(0.11e-6, 0.2e-6)
    offsets_m = (np.arange(count) - (count - 1) / 2) * gap_m + rng.normal(0, 0.012e-6, count)
    centres = head + (offsets_m[:, None] * along + rng.normal(0, 0.015e-6, (count, 2))) / MAP_PIXEL_SIZE_M
    label = canvas.new_structure()
    half = along * ((count - 1) * gap_m / 2 + rng.uniform(0.08e-6, 0.14e-6)) / MAP_PIXEL_SIZE_M
    bar = np.linspace(head - half, head + half, max(2, int(np.hypot(*half) * 2 / STEP_PX)))
    plate = canvas.band(bar, 0.09e-6)
    canvas.add(plate.pixels, _PLATE * np.exp(-0.5 * (plate.across_m / 30e-9) ** 2))
    _add_domains(canvas, centres, SYNAPSE, label, rng)


def _draw_perforated(canvas: Canvas, head: Floats, direction: Floats, rng: np.random.Generator) -> None:
    """Add a synapse seen from above: a ring of 250 to 360 nm with a gap and 5 to 7 nanodomains."""
    radius_m = rng.uniform(0.125e-6, 0.18e-6)
    opening = rng.uniform(0.5, 1.3)
    turn = np.arctan2(*direction) + rng.uniform(0, 2 * np.pi)
    angle = turn + np.linspace(opening / 2, 2 * np.pi - opening / 2, int(2 * np.pi * radius_m / 5e-9))
    # A ring seen from the side is flat, which is why few look round.
    flat = np.array([rng.uniform(0.65, 1.0), 1.0])
    ring = head + flat * np.stack([np.sin(angle), np.cos(angle)], axis=1) * radius_m / MAP_PIXEL_SIZE_M
    label = canvas.new_structure()
    # Two runs of the ring overlap inside, so the band is narrower than the radius.
    plate = canvas.band(_resampled(ring), 0.07e-6)
    canvas.add(plate.pixels, 2 * _PLATE * np.exp(-0.5 * (plate.across_m / 25e-9) ** 2))
    canvas.mark(plate.pixels[np.abs(plate.across_m) < 0.03e-6], PERFORATED, label)
    count = int(rng.integers(5, 8))
    place = (np.arange(count) + 0.5) / count + rng.normal(0, 0.02, count)
    centres = ring[np.clip(place * len(ring), 0, len(ring) - 1).astype(np.intp)]
    _add_domains(canvas, centres, PERFORATED, label, rng)


def _add_domains(
    canvas: Canvas, centres: Floats, class_index: int, label: int, rng: np.random.Generator
) -> None:
    """Add nanodomains: dense parts about 80 nm wide (MacGillavry et al., Neuron 78:615, 2013)."""
    sigma_m = rng.uniform(26e-9, 40e-9, len(centres))
    found = canvas.spots(centres, sigma_m, rng.uniform(0.4, 1.0, len(centres)))
    canvas.mark_spots(found, 0.15, class_index, label)
    canvas.point(centres, sigma_m * FWHM_BY_SIGMA, class_index, label)


def _resampled(path: Floats) -> Floats:
    """Return a path with points ``STEP_PX`` apart."""
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    place = np.arange(0, max(way[-1], 2 * STEP_PX), STEP_PX)
    return np.stack([np.interp(place, way, path[:, axis]) for axis in (0, 1)], axis=1)
