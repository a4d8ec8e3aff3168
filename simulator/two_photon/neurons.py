"""A piece of cortex: cell bodies, dendrites and vessels, in space.

Coordinates are ``(z, y, x)`` in metres: z is the depth below the surface of the brain, y and x are
those of scans, centred on (0, 0). The tissue reaches a little beyond the sample on all sides.

Numbers are the defaults of NAOMi (Song et al., J. Neurosci. Methods 358:109173, 2021) where it has
them: 1e5 neurons per mm³ at least 16 µm apart, cell bodies of 5.9 µm radius with nuclei that do not
fluoresce, dendrites about 0.5 µm thick, vessels of 15 (at the surface), 9 (down into the brain) and
2 µm (capillaries) radius, 125, 200 and 50 µm apart. Nuclei take 0.76 of the radius, basal dendrites
are 70 µm long and wander by half a radian each 10 µm: chosen by eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.settings import NonNegative, Positive, Settings

Floats = NDArray[np.float32]
Points = NDArray[np.float64]

#: Tissue beyond the sample, so that nothing ends at its edge.
OVERHANG_M = 30e-6
#: Points along dendrites are so far apart.
DENDRITE_STEP_M = 1e-6
_SOMA_RADIUS_M = 5.9e-6
_SPACING_M = 16e-6
_DENDRITES = 6
_DENDRITE_STEPS = 70
_SURFACE_VESSEL_DEPTH_M = 15e-6
_SURFACE, _PENETRATING, _CAPILLARY = (15e-6, 125e-6), (9e-6, 200e-6), (2e-6, 50e-6)
_NEURONS_MAX = 50_000


class TissueOptions(Settings):
    """What the brain is made of.

    Attributes
    ----------
    top_m, bottom_m
        Depths between which there are neurons, and the focus may be.
    neurons_per_m3
        Density of neurons that are labelled.
    expression_sd
        Standard deviation of the logarithm of a neuron's brightness.
    neuropil_fill
        Part of the space between cells that is filled with dye, at the concentration of a cell.
    vessels
        Whether there are blood vessels.
    """

    top_m: NonNegative = 100e-6
    bottom_m: Positive = 200e-6
    neurons_per_m3: Annotated[float, Field(ge=0, le=3e14)] = 1e14
    expression_sd: Annotated[float, Field(ge=0, le=2)] = 0.4
    neuropil_fill: Annotated[float, Field(ge=0, le=1)] = 0.35
    vessels: bool = True

    @model_validator(mode="after")
    def _is_a_layer(self) -> Self:
        if not 0 < self.bottom_m - self.top_m <= 1e-3:
            raise ValueError(
                f"top_m={self.top_m:g} and bottom_m={self.bottom_m:g} must be depths below the surface, the "
                f"bottom below the top by 1 mm at most"
            )
        return self

    def volume_m3(self, size_yx_m: tuple[float, float]) -> float:
        """Return how much tissue a sample of this size has, with what overhangs."""
        height, width = (size + 2 * OVERHANG_M for size in size_yx_m)
        return height * width * (self.bottom_m - self.top_m + OVERHANG_M)

    def too_many(self, size_yx_m: tuple[float, float]) -> str | None:
        """Say what to change, if a sample of this size has more neurons than can be simulated."""
        count = self.neurons_per_m3 * self.volume_m3(size_yx_m)
        if count <= _NEURONS_MAX:
            return None
        return (
            f"a sample of {size_yx_m[0]:g} x {size_yx_m[1]:g} m has {count:.3g} neurons, allowed are "
            f"{_NEURONS_MAX}: lower fields_yx, field_size_m, tissue.neurons_per_m3 or the depth "
            f"tissue.bottom_m - tissue.top_m"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """Where everything is. ``n`` neurons.

    Attributes
    ----------
    somata_m
        Centres of the cell bodies, ``(n, 3)``.
    radius_m, brightness
        Radius of each cell body, and concentration of dye relative to the mean, ``(n,)``.
    waves
        How far each outline departs from a circle: amplitude and phase of 2, 3 and 4 waves around it,
        ``(n, 3, 2)``.
    nucleus_m, nucleus_radius_m
        Centre of each nucleus relative to its cell body, ``(n, 3)``, and its radius, ``(n,)``.
    dendrites_m
        Points along the dendrites, ``(n, dendrites, points, 3)``, float32.
    dendrite_radius_m
        Their radius at each point, ``(points,)``.
    vessels_m, vessel_radius_m
        Points along the vessels between top and bottom, ``(v, 3)``, and their radius, ``(v,)``.
    surface_m
        Points along the vessels on the surface, ``(s, 3)``, all of 15 µm radius. They cast shadows.
    """

    somata_m: Points
    radius_m: Points
    brightness: Points
    waves: Points
    nucleus_m: Points
    nucleus_radius_m: Points
    dendrites_m: Floats
    dendrite_radius_m: Points
    vessels_m: Points
    vessel_radius_m: Points
    surface_m: Points
    surface_radius_m: float = _SURFACE[0]

    @property
    def neurons(self) -> int:
        """Return the number of neurons."""
        return len(self.somata_m)


def make_tissue(options: TissueOptions, size_yx_m: tuple[float, float], seed: Sequence[int]) -> Tissue:
    """Grow the tissue under a sample of a given size; the same seed grows the same."""
    rng, vessel_rng, dendrite_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence(list(seed)).spawn(3)
    )
    low = np.array([options.top_m - OVERHANG_M / 2, *(-size / 2 - OVERHANG_M for size in size_yx_m)])
    high = np.array([options.bottom_m + OVERHANG_M / 2, *(size / 2 + OVERHANG_M for size in size_yx_m)])
    vessels_m, vessel_radius_m, surface_m = _vessels(low, high, vessel_rng, present=options.vessels)
    wanted = round(options.neurons_per_m3 * options.volume_m3(size_yx_m))
    somata_m = _apart(wanted, (low, high), vessels_m, vessel_radius_m, rng)
    count = len(somata_m)
    radius_m = np.clip(rng.normal(_SOMA_RADIUS_M, 0.5e-6, count), 4e-6, 8e-6)
    amplitude, phase = rng.normal(0, [0.07, 0.04, 0.03], (count, 3)), rng.uniform(0, 2 * np.pi, (count, 3))
    return Tissue(
        somata_m=somata_m,
        radius_m=radius_m,
        brightness=rng.lognormal(-(options.expression_sd**2) / 2, options.expression_sd, count),
        waves=np.stack([amplitude, phase], axis=2),
        nucleus_m=rng.normal(0, 0.3e-6, (count, 3)),
        nucleus_radius_m=radius_m * np.clip(rng.normal(0.76, 0.04, count), 0.6, 0.85),
        dendrites_m=_dendrites(somata_m, radius_m, dendrite_rng),
        # Thinner by Rall's power law would need branches; a taper looks alike.
        dendrite_radius_m=np.linspace(0.6e-6, 0.3e-6, _DENDRITE_STEPS),
        vessels_m=vessels_m,
        vessel_radius_m=vessel_radius_m,
        surface_m=surface_m,
    )


def _apart(
    wanted: int,
    box: tuple[Points, Points],
    vessels_m: Points,
    vessel_radius_m: Points,
    rng: np.random.Generator,
) -> Points:
    """Return centres of cell bodies, no two nearer than 16 µm and none inside a vessel."""
    from scipy.spatial import cKDTree

    kept: Points = np.empty((0, 3))
    vessels = [
        (cKDTree(vessels_m[vessel_radius_m == radius]), radius) for radius in np.unique(vessel_radius_m)
    ]
    for _ in range(40):
        missing = wanted - len(kept)
        if missing <= 0:
            break
        tried = rng.uniform(*box, (missing, 3))
        for tree, radius in vessels:
            tried = tried[tree.query(tried, distance_upper_bound=radius + _SOMA_RADIUS_M)[0] == np.inf]
        if len(kept):
            tried = tried[cKDTree(kept).query(tried, distance_upper_bound=_SPACING_M)[0] == np.inf]
        if len(tried):
            pairs = cKDTree(tried).query_pairs(_SPACING_M, output_type="ndarray")
            tried = np.delete(tried, np.unique(pairs.max(axis=1)) if len(pairs) else [], axis=0)
        kept = np.concatenate([kept, tried])
    return kept


def _dendrites(somata_m: Points, radius_m: Points, rng: np.random.Generator) -> Floats:
    """Grow five dendrites in all directions and one towards the surface from each cell body."""
    count = len(somata_m)
    start = rng.normal(0, 1, (count, _DENDRITES, 3))
    # Basal dendrites spread sideways more than up and down.
    start[:, :-1, 0] *= 0.7
    start[:, -1] = rng.normal([-1, 0, 0], [0.1, 0.15, 0.15], (count, 3))
    heading = start / np.linalg.norm(start, axis=-1, keepdims=True)
    bends = rng.normal(0, 0.16, (count, _DENDRITES, _DENDRITE_STEPS, 3)).astype(np.float32)
    bends[:, -1] *= 0.3  # the apical one is straighter
    way = heading[:, :, None, :].astype(np.float32) + np.cumsum(bends, axis=2)
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    root = somata_m[:, None, :] + heading * (radius_m[:, None, None] * 0.9)
    return np.asarray(root[:, :, None, :] + np.cumsum(way, axis=2) * DENDRITE_STEP_M, dtype=np.float32)


def _vessels(
    low: Points, high: Points, rng: np.random.Generator, *, present: bool
) -> tuple[Points, Points, Points]:
    """Return points along vessels, their radius, and points along those on the surface."""
    if not present:
        return np.empty((0, 3)), np.empty(0), np.empty((0, 3))
    size = high - low
    points: list[Points] = []
    radii: list[Points] = []
    # One capillary through each square of its spacing, whichever way one looks.
    capillaries = round(float(np.prod(size)) / _CAPILLARY[1] ** 2 / 250e-6)
    for _ in range(max(1, capillaries)):
        start = rng.uniform(low, high)
        walk = _walk(start, rng.normal(0, [0.5, 1, 1]), 250, 0.12, rng)
        points.append(walk)
        radii.append(np.full(len(walk), _CAPILLARY[0]))
    for _ in range(max(1, round(float(size[1] * size[2]) / _PENETRATING[1] ** 2))):
        top = np.array([low[0], *rng.uniform(low[1:], high[1:])])
        walk = _walk(top, np.array([1.0, 0, 0]), round(size[0] / 1e-6) + 1, 0.02, rng)
        points.append(walk)
        radii.append(np.full(len(walk), _PENETRATING[0]))
    surface: list[Points] = []
    for _ in range(max(1, round(float(size[1]) / _SURFACE[1]))):
        edge = np.array([_SURFACE_VESSEL_DEPTH_M, rng.uniform(low[1], high[1]), low[2]])
        heading = np.array([0.0, rng.normal(0, 0.4), 1.0])
        walk = _walk(edge, heading, round(1.5 * size[2] / 1e-6), 0.03, rng)
        walk[:, 0] = _SURFACE_VESSEL_DEPTH_M
        surface.append(walk[::4])
    return np.concatenate(points), np.concatenate(radii), np.concatenate(surface)


def _walk(start: Points, heading: Points, steps: int, bend: float, rng: np.random.Generator) -> Points:
    """Return a path with a point each micrometre that turns by ``bend`` radians from one to the next."""
    way = heading / np.linalg.norm(heading) + np.cumsum(rng.normal(0, bend, (steps, 3)), axis=0)
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-12)
    return np.asarray(start + np.cumsum(way, axis=0) * 1e-6)
