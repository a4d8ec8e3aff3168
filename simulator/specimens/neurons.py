"""Whole neurons at the scale of an overview: somata, dendrites that branch and taper, spines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.specimens.canvas import FWHM_BY_SIGMA, STEP_PX, Canvas
from simulator.specimens.paths import cross, grow, normals, number, places_along
from simulator.specimens.specimen import MAP_PIXEL_SIZE_M, SpecimenOptions
from simulator.specimens.synapses import turned

Floats = NDArray[np.float64]

SOMA, DENDRITE, SPINE, FILOPODIUM = 1, 2, 3, 4

#: Actin in the cortex of a soma and in a shaft, relative to the head of a spine, where it is densest.
_SHAFT = 0.09
_SOMA = 0.06
#: Thicker than this is out of focus.
_SECTION_M = 0.7e-6
_THINNEST_M = 0.2e-6
#: Nothing that grows farther away than this is looked at: it would hardly come back.
_FAR_M = 60e-6


@dataclass(frozen=True, slots=True)
class _Branch:
    """A dendrite's next piece: where and whither it starts, how thick, and how far from its soma."""

    start: tuple[float, float]
    angle: float
    radius_m: float
    distance_m: float

    @property
    def end_m(self) -> float:
        """Return the radius at its end: dendrites taper."""
        return 0.75 * self.radius_m


def draw_neurons(canvas: Canvas, options: SpecimenOptions, rng: np.random.Generator) -> None:
    """Draw neurons whose F-actin is labelled: bright spines on dim dendrites, and large dim somata.

    One structure is one spine or one filopodium, one point its head or its tip. Somata and dendrites
    have classes and no structures. The rare class are filopodia: long, thin, without a head.
    """
    count = number(canvas.area_m2 / (45e-6) ** 2 * options.density, rng)
    for index in range(count):
        _draw_neuron(canvas, _soma_place(canvas, index, rng), options, rng)
    for _ in range(number(canvas.area_m2 / (15e-6) ** 2 * options.density, rng, least=0)):
        # Thin axons of other neurons run through everything.
        axon = canvas.band(cross(canvas.shape_yx, rng), 0.1e-6)
        canvas.add(axon.pixels, np.full(axon.pixels.shape, 0.04))


def _soma_place(canvas: Canvas, index: int, rng: np.random.Generator) -> Floats:
    """Return where a soma lies: on the map, or beside it if it would fill the map."""
    size = np.array(canvas.shape_yx, dtype=np.float64)
    if size.min() * MAP_PIXEL_SIZE_M >= 25e-6:
        return np.asarray(rng.uniform(0.15, 0.85, 2) * size)
    angle = rng.uniform(0, 2 * np.pi)
    # The first one lies so that its dendrites reach the map.
    away_m = rng.uniform(12e-6, 22e-6) + index * 5e-6
    direction = np.array([np.sin(angle), np.cos(angle)])
    return np.asarray(size / 2 + direction * (away_m / MAP_PIXEL_SIZE_M + size.max() / 4))


def _draw_neuron(canvas: Canvas, soma: Floats, options: SpecimenOptions, rng: np.random.Generator) -> None:
    """Add one neuron. Hippocampal somata in culture are 10 to 16 µm wide."""
    radius_m = rng.uniform(5e-6, 8e-6)
    waves = rng.normal(0, 0.05, (3, 2))
    count = int(rng.integers(4, 8))
    to_map = np.array(canvas.shape_yx) / 2 - soma
    # One dendrite grows towards the middle of the map, the others all around.
    first = float(np.arctan2(*to_map))
    angles = first + 2 * np.pi * (np.arange(count) + rng.uniform(-0.25, 0.25, count)) / count
    branches = []
    for angle in angles:
        outline_m = _outline(radius_m, waves, np.array(angle))
        start = soma + 0.8 * float(outline_m) / MAP_PIXEL_SIZE_M * np.array([np.sin(angle), np.cos(angle)])
        branches.append(_Branch((start[0], start[1]), float(angle), rng.uniform(0.7e-6, 1.3e-6), radius_m))
    _draw_soma(canvas, soma, radius_m, waves, rng)
    while branches:
        branches += _draw_branch(canvas, branches.pop(), options, rng)


def _outline(radius_m: float, waves: Floats, angle: Floats) -> Floats:
    """Return the radius of a soma in some directions."""
    order = np.arange(2, 2 + len(waves))
    bumps = np.cos(angle[..., None] * order) * waves[:, 0] + np.sin(angle[..., None] * order) * waves[:, 1]
    return np.asarray(radius_m * (1 + bumps.sum(axis=-1)))


def _draw_soma(
    canvas: Canvas, soma: Floats, radius_m: float, waves: Floats, rng: np.random.Generator
) -> None:
    """Add a cell body: a section through a flat cell, its rim brighter, its nucleus dark."""
    reach = int(radius_m * 1.5 / MAP_PIXEL_SIZE_M)
    low = np.maximum(soma.astype(np.intp) - reach, 0)
    high = np.minimum(soma.astype(np.intp) + reach, canvas.shape_yx)
    nucleus = soma + rng.normal(0, 0.15, 2) * radius_m / MAP_PIXEL_SIZE_M
    if np.any(high <= low):
        return
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    distance_m = np.hypot(y - soma[0], x - soma[1]) * MAP_PIXEL_SIZE_M
    depth_m = _outline(radius_m, waves, np.arctan2(y - soma[0], x - soma[1])) - distance_m
    inside = depth_m > 0
    brightness = _SOMA * (0.6 + np.exp(-depth_m[inside] / 0.25e-6))
    in_nucleus = np.hypot(y - nucleus[0], x - nucleus[1]) * MAP_PIXEL_SIZE_M < 0.55 * radius_m
    brightness = np.where(in_nucleus[inside], 0.35 * _SOMA, brightness)
    pixels = (y * canvas.shape_yx[1] + x)[inside]
    canvas.density[pixels] += brightness.astype(np.float32)
    canvas.mark(pixels, SOMA)


def _draw_branch(
    canvas: Canvas, branch: _Branch, options: SpecimenOptions, rng: np.random.Generator
) -> list[_Branch]:
    """Add one piece of a dendrite with its spines; return the two that it splits into, if any."""
    length_m = rng.uniform(12e-6, 30e-6)
    path = grow(np.array(branch.start), branch.angle, length_m, 0.4, rng)
    _draw_shaft(canvas, path, branch)
    _draw_protrusions(canvas, path, branch, options, rng)
    off_m = np.abs(path[-1] - np.array(canvas.shape_yx) / 2).max() * MAP_PIXEL_SIZE_M
    far_m = _FAR_M + max(canvas.shape_yx) / 2 * MAP_PIXEL_SIZE_M
    if branch.end_m < _THINNEST_M or off_m > far_m:
        return []
    # Rall's law: the radii to the power 3/2 add up.
    share = rng.uniform(0.35, 0.65)
    heading = float(np.arctan2(*(path[-1] - path[-2])))
    spread = rng.uniform(0.5, 1.0)
    return [
        _Branch(
            (path[-1, 0], path[-1, 1]),
            heading + side * spread * (1 - part),
            branch.end_m * part ** (2 / 3),
            branch.distance_m + length_m,
        )
        for side, part in ((-1, share), (1, 1 - share))
    ]


def _draw_shaft(canvas: Canvas, path: Floats, branch: _Branch) -> None:
    """Add a tapering round shaft, of which no more than one optical section is seen."""
    band = canvas.band(path, branch.radius_m)
    radius_m = np.linspace(branch.radius_m, branch.end_m, len(path))[band.index]
    # A dendrite ends where a soma begins.
    inside = (np.abs(band.across_m) < radius_m) & (canvas.classes[band.pixels] != SOMA)
    thickness_m = 2 * np.sqrt(np.maximum(0, radius_m**2 - band.across_m**2))[inside]
    canvas.add(band.pixels[inside], _SHAFT * np.minimum(1, thickness_m / _SECTION_M))
    pixels = band.pixels[inside]
    # A spine that lies there already stays one.
    canvas.mark(pixels[canvas.classes[pixels] == 0], DENDRITE)


def _draw_protrusions(
    canvas: Canvas,
    path: Floats,
    branch: _Branch,
    options: SpecimenOptions,
    rng: np.random.Generator,
) -> None:
    """Add spines, about one by micrometre, none on the first micrometres of a dendrite."""
    length_m = len(path) * STEP_PX * MAP_PIXEL_SIZE_M
    across = normals(path)
    for index in places_along(path, 1.0e-6, rng, least_m=0.25e-6):
        along_m = index * STEP_PX * MAP_PIXEL_SIZE_M
        is_rare = rng.random() < options.rare_fraction
        direction = turned(across[index] * rng.choice([-1, 1]), rng.normal(0, 0.35))
        reach_m = rng.uniform(2.0e-6, 4.0e-6) if is_rare else rng.uniform(0.4e-6, 1.1e-6)
        if branch.distance_m + along_m < 15e-6 or not _is_free(canvas, path[index]):
            continue
        radius_m = branch.radius_m + (branch.end_m - branch.radius_m) * along_m / length_m
        base = path[index] + direction * 0.8 * radius_m / MAP_PIXEL_SIZE_M
        if is_rare:
            _draw_filopodium(canvas, base, direction, reach_m, rng)
        else:
            _draw_spine(canvas, base, base + direction * reach_m / MAP_PIXEL_SIZE_M, rng)


def _is_free(canvas: Canvas, place: Floats) -> bool:
    """Tell whether a place lies on the map and not on a soma, where spines would be out of focus."""
    if not canvas.holds(place):
        return False
    row, column = (round(float(value)) for value in place)
    return bool(canvas.classes[row * canvas.shape_yx[1] + column] != SOMA)


def _draw_spine(canvas: Canvas, base: Floats, head: Floats, rng: np.random.Generator) -> None:
    """Add a neck and a round head, 0.25 to 0.6 µm wide (Harris et al., J. Neurosci. 12:2685, 1992)."""
    neck = canvas.band(np.linspace(base, head, max(2, int(np.hypot(*(head - base)) / STEP_PX))), 0.07e-6)
    canvas.add(neck.pixels, np.full(neck.pixels.shape, 0.15))
    sigma_m = float(np.clip(rng.lognormal(np.log(0.15e-6), 0.25), 0.1e-6, 0.26e-6))
    label = canvas.new_structure()
    found = canvas.spots(head, sigma_m, rng.uniform(0.5, 1.0))
    canvas.mark_spots(found, 0.2, SPINE, label)
    canvas.point(head, sigma_m * FWHM_BY_SIGMA, SPINE, label)


def _draw_filopodium(
    canvas: Canvas, base: Floats, direction: Floats, length_m: float, rng: np.random.Generator
) -> None:
    """Add a thin protrusion, 2 to 4 µm long."""
    path = grow(base, float(np.arctan2(*direction)), length_m, 1.5, rng)
    band = canvas.band(path, 0.08e-6)
    label = canvas.new_structure()
    canvas.add(band.pixels, 0.35 * np.exp(-0.5 * (band.across_m / 0.04e-6) ** 2))
    canvas.mark(band.pixels, FILOPODIUM, label)
    canvas.point(path[-1], 0.1e-6, FILOPODIUM, label)
