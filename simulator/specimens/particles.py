"""Round things: beads on glass, and vesicles in the boutons of axons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.specimens.canvas import FWHM_BY_SIGMA, Canvas
from simulator.specimens.paths import apart, cross, normals, number, places_along
from simulator.specimens.specimen import MAP_PIXEL_SIZE_M, SpecimenOptions

Floats = NDArray[np.float64]

BEAD, AGGREGATE = 1, 2
VESICLE, DENSE_CORE = 1, 2

_BEAD_M = 40e-9
#: Synaptic vesicles are 39.5 nm wide, give or take 5.1 nm (Qu et al., J. Comp. Neurol. 514:343, 2009);
#: the label on their membrane adds to it.
_VESICLE_SIGMA_M = 20e-9
_DENSE_CORE_SIGMA_M = 38e-9


def draw_beads(canvas: Canvas, options: SpecimenOptions, rng: np.random.Generator) -> None:
    """Draw beads of 40 nm, about one per square micrometre, at least 0.3 µm apart.

    A bead is packed with dye: its middle has four times the molecules of the brightest pixels of other
    samples. One structure is one bead or one aggregate, one point one bead. The rare class are
    aggregates of two to four beads that touch.
    """
    count = max(1, round(canvas.area_m2 / 1e-12 * options.density))
    size = np.array(canvas.shape_yx)
    # None is cut off by the edge, if the map has room.
    rim = np.minimum(3.0, (size - 1) / 2)
    centres = rng.uniform(rim, np.maximum(size - 1 - rim, rim + 1e-9), (count, 2))
    for centre in apart(centres, 0.3e-6):
        is_rare = rng.random() < options.rare_fraction
        beads = _aggregate(centre, int(rng.integers(2, 5)), rng) if is_rare else centre[None]
        label = canvas.new_structure()
        found = canvas.spots(beads, 17e-9, rng.normal(5.5, 0.5, len(beads)))
        kind = AGGREGATE if is_rare else BEAD
        canvas.mark_spots(found, 1.2, kind, label)
        canvas.point(beads, _BEAD_M, kind, label)


def _aggregate(centre: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return the places of beads of which each touches an earlier one, and none lies in another."""
    width = _BEAD_M / MAP_PIXEL_SIZE_M
    places = [centre]
    while len(places) < count:
        angle = rng.uniform(0, 2 * np.pi)
        beside = places[int(rng.integers(len(places)))] + width * np.array([np.sin(angle), np.cos(angle)])
        if all(np.hypot(*(beside - other)) > 0.99 * width for other in places):
            places.append(beside)
    return np.array(places)


def draw_vesicles(canvas: Canvas, options: SpecimenOptions, rng: np.random.Generator) -> None:
    """Draw thin axons with boutons, in which some of the vesicles are labelled, and a few on their way.

    Only vesicles that took up label are seen, as after a short stimulation in the presence of a dye or
    an antibody: 6 to 25 of the two hundred of a bouton. One structure is one bouton or one vesicle
    outside of them, one point one vesicle. The rare class are dense-core vesicles, about 90 nm wide.
    """
    for _ in range(number(canvas.area_m2 / (7e-6) ** 2 * options.density, rng)):
        path = cross(canvas.shape_yx, rng)
        _draw_membrane(canvas, path)
        across = normals(path)
        # Varicosities are 2.7 µm apart (Shepherd & Harris, J. Neurosci. 18:8300, 1998).
        for index in places_along(path, 2.7e-6, rng, least_m=1.2e-6):
            scatter = np.array([0.28e-6, 0.14e-6]) * rng.uniform(0.8, 1.3)
            axes = np.stack([[-across[index, 1], across[index, 0]], across[index]])
            offsets = np.clip(rng.normal(0, 1, (int(rng.integers(6, 26)), 2)), -2, 2) * scatter
            _draw_group(canvas, path[index] + offsets @ axes / MAP_PIXEL_SIZE_M, options, rng)
        for index in places_along(path, 1.5e-6, rng):
            place = path[index] + across[index] * rng.normal(0, 0.05e-6) / MAP_PIXEL_SIZE_M
            _draw_group(canvas, place[None], options, rng)


def _draw_membrane(canvas: Canvas, path: Floats) -> None:
    """Add the little label that the membrane of a thin axon has."""
    band = canvas.band(path, 0.12e-6)
    canvas.add(band.pixels, np.full(band.pixels.shape, 0.01))


def _draw_group(canvas: Canvas, centres: Floats, options: SpecimenOptions, rng: np.random.Generator) -> None:
    """Add vesicles that belong together, none nearer to another than its own width."""
    is_rare = rng.random(len(centres)) < options.rare_fraction
    label = None
    for kind, sigma_m, height in ((VESICLE, _VESICLE_SIGMA_M, 1.0), (DENSE_CORE, _DENSE_CORE_SIGMA_M, 1.2)):
        chosen = apart(centres[is_rare == (kind == DENSE_CORE)], 60e-9)
        chosen = chosen[canvas.holds(chosen)]
        if not len(chosen):
            continue
        label = canvas.new_structure() if label is None else label
        sigmas = sigma_m * rng.normal(1, 0.1, len(chosen)).clip(0.7, 1.3)
        # A vesicle has few places for label, so their number varies much.
        found = canvas.spots(chosen, sigmas, height * rng.gamma(5, 1 / 5, len(chosen)))
        canvas.mark_spots(found, 0.2, kind, label)
        canvas.point(chosen, sigmas * FWHM_BY_SIGMA, kind, label)
