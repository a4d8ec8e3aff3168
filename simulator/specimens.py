"""Samples to scan: maps of fluorescent molecules, with the truth about what is in them.

Every map has square pixels of 20 nm and is as large as the whole sample. Each generator takes its
own random generator; the same generator state gives the same sample.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.core.frame import read_only

MAP_PIXEL_SIZE_M = 20e-9

SpecimenName = Literal["synapses", "filaments", "beads", "factin", "psd95", "tubulin"]
SHIPPED: tuple[SpecimenName, ...] = ("factin", "psd95", "tubulin")

#: Spacing of the actin rings along axons (Xu, Zhong & Zhuang, Science 339:452, 2013).
ACTIN_PERIOD_M = 190e-9

FloatMap = NDArray[np.float64]
Points = NDArray[np.float64]
Pixels = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """A sample and the truth about it. No policy ever sees one.

    Attributes
    ----------
    name
        Which kind of sample.
    molecules
        Fluorescent molecules per map pixel, shape ``(y, x)``, int32, read-only.
    structures
        What is worth imaging, as a label image of the same shape: 0 background, objects 1, 2, ….
    pixel_size_m
        Map pixel size in metres.
    """

    name: str
    molecules: NDArray[np.int32]
    structures: NDArray[np.int32]
    pixel_size_m: float = MAP_PIXEL_SIZE_M

    def __post_init__(self) -> None:
        object.__setattr__(self, "molecules", read_only(self.molecules, np.int32))
        object.__setattr__(self, "structures", read_only(self.structures, np.int32))


def make_specimen(
    name: SpecimenName, shape_yx: tuple[int, int], molecules_per_pixel: float, rng: np.random.Generator
) -> Specimen:
    """Make a sample by name.

    Parameters
    ----------
    name
        ``synapses``, ``filaments`` and ``beads`` are generated; ``factin``, ``psd95`` and ``tubulin``
        are put together from the maps that the pysted package ships.
    shape_yx
        Size of the sample in map pixels of 20 nm.
    molecules_per_pixel
        Expected molecules in the brightest map pixels.
    rng
        Where the chance comes from.

    Raises
    ------
    ConfigurationError
        If there is no such sample, or the package that ships it is not installed.
    """
    generators = {"synapses": synapses, "filaments": filaments, "beads": beads}
    if name in generators:
        return generators[name](shape_yx, molecules_per_pixel, rng)
    if name in SHIPPED:
        return shipped(name, shape_yx, molecules_per_pixel, rng)
    raise ConfigurationError(f"there is no specimen {name!r}, known are {list(get_args(SpecimenName))}")


def synapses(shape_yx: tuple[int, int], molecules_per_pixel: float, rng: np.random.Generator) -> Specimen:
    """Return dendrites with spines, each with 1 to 4 bright nanodomains of a synaptic protein.

    The shaft and the spines are dim, the nanodomains (about 80 nm wide) bright. One structure is one
    synapse: the pixels of all its nanodomains together.
    """
    density = np.zeros(shape_yx)
    structures = np.zeros(shape_yx, np.int32)
    area_m2 = shape_yx[0] * shape_yx[1] * MAP_PIXEL_SIZE_M**2
    heads = []
    for _ in range(max(1, round(area_m2 / (8e-6) ** 2))):
        path = _wandering_path(shape_yx, rng)
        _draw_tube(density, path, rng.uniform(0.25e-6, 0.45e-6), 0.012)
        heads += _grow_spines(density, path, rng)
    for label, (head, direction) in enumerate(heads, start=1):
        along = np.array([-direction[1], direction[0]])
        for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.35, 0.35, 0.2, 0.1]))):
            offset_m = along * rng.uniform(-0.14e-6, 0.14e-6) + rng.normal(0, 0.02e-6, 2)
            place, spot = _spot(shape_yx, head + offset_m / MAP_PIXEL_SIZE_M, rng.uniform(26e-9, 40e-9))
            spot *= rng.uniform(0.4, 1.0)
            density[place] += spot
            structures[place][spot > 0.15] = label
    return _populate("synapses", density, structures, molecules_per_pixel, rng)


def filaments(shape_yx: tuple[int, int], molecules_per_pixel: float, rng: np.random.Generator) -> Specimen:
    """Return axons with actin rings every 190 nm, and long fibres that cross them.

    One structure is one axon, rings and gaps: the fibres are background to it.
    """
    density = np.zeros(shape_yx)
    structures = np.zeros(shape_yx, np.int32)
    area_m2 = shape_yx[0] * shape_yx[1] * MAP_PIXEL_SIZE_M**2
    for label in range(1, max(1, round(area_m2 / (7e-6) ** 2)) + 1):
        path = _wandering_path(shape_yx, rng)
        _draw_rings(density, structures, path, label, rng)
    for _ in range(max(1, round(area_m2 / (9e-6) ** 2))):
        path = _wandering_path(shape_yx, rng, bend=0.3)
        _draw_bundle(density, path, rng)
    return _populate("filaments", density, structures, molecules_per_pixel, rng)


def beads(shape_yx: tuple[int, int], molecules_per_pixel: float, rng: np.random.Generator) -> Specimen:
    """Return fluorescent beads of 40 nm, about one per square micrometre, at least 0.3 µm apart.

    A bead is packed with dye: its middle has four times ``molecules_per_pixel``. One structure is one
    bead.
    """
    density = np.zeros(shape_yx)
    structures = np.zeros(shape_yx, np.int32)
    area_m2 = shape_yx[0] * shape_yx[1] * MAP_PIXEL_SIZE_M**2
    kept: list[Points] = []
    for _ in range(max(1, round(area_m2 / 1e-12))):
        centre = rng.uniform(3, np.array(shape_yx) - 4)
        if all(np.hypot(*(centre - other)) * MAP_PIXEL_SIZE_M > 0.3e-6 for other in kept):
            kept.append(centre)
    for label, centre in enumerate(kept, start=1):
        place, bead = _spot(shape_yx, centre, 17e-9)
        density[place] += bead * rng.normal(4.0, 0.4)
        structures[place][bead > 0.3] = label
    return _populate("beads", density, structures, molecules_per_pixel, rng)


def shipped(
    name: SpecimenName, shape_yx: tuple[int, int], molecules_per_pixel: float, rng: np.random.Generator
) -> Specimen:
    """Return a sample put together from the maps that pysted ships, turned, flipped and shifted.

    The maps were predicted from real STED images of neurons (see the pySTED paper). One structure is
    one connected part above a third of the brightest pixels.

    Raises
    ------
    ConfigurationError
        If pysted, which brings the maps, is not installed.
    """
    from scipy import ndimage

    tiles = [_normalised(np.load(path, allow_pickle=False)) for path in _shipped_files(name)]
    side = min(min(tile.shape) for tile in tiles)
    # Overlap and blend: a sample cut from tiles would show their seams to whoever looks for edges.
    overlap = side // 6
    step = side - overlap
    ramp = np.clip((np.arange(side) + 1) / (overlap + 1), 0, 1)
    window = np.minimum(ramp, ramp[::-1])
    weight = np.outer(window, window)
    rows, columns = (size // step + 2 for size in shape_yx)
    canvas = np.zeros((rows * step + side, columns * step + side))
    for row in range(rows):
        for column in range(columns):
            tile = tiles[int(rng.integers(len(tiles)))][:side, :side]
            tile = np.rot90(tile[:, :: rng.choice([-1, 1])], int(rng.integers(4)))
            y, x = row * step, column * step
            canvas[y : y + side, x : x + side] += tile * weight
    y, x = (int(start) for start in rng.integers(overlap, step, size=2))
    density = canvas[y : y + shape_yx[0], x : x + shape_yx[1]]
    structures = ndimage.label(ndimage.gaussian_filter(density, 1) > 0.33)[0].astype(np.int32)
    return _populate(name, density, structures, molecules_per_pixel, rng)


def _populate(
    name: str,
    density: FloatMap,
    structures: NDArray[np.int32],
    molecules_per_pixel: float,
    rng: np.random.Generator,
) -> Specimen:
    """Draw molecules for a density relative to the brightest pixels."""
    molecules = rng.poisson(np.maximum(density, 0) * molecules_per_pixel)
    return Specimen(name, molecules.astype(np.int32), structures)


def _wandering_path(shape_yx: tuple[int, int], rng: np.random.Generator, bend: float = 1.0) -> Points:
    """Return a smooth path across the whole map, points ``(y, x)`` a quarter of a map pixel apart.

    ``bend`` is its typical change of direction in radians over 10 µm.
    """
    size = np.array(shape_yx, dtype=np.float64)
    length = float(np.hypot(*size)) * 1.3
    step = 0.25
    count = int(length / step)
    # A direction that wanders smoothly: few knots, interpolated, so that no kink is sharper than 1 µm.
    knots = max(4, int(length * MAP_PIXEL_SIZE_M / 2e-6))
    wander = np.cumsum(rng.normal(0, bend * np.sqrt(0.2), knots))
    place = np.linspace(0, knots - 1, count)
    direction = rng.uniform(0, 2 * np.pi) + np.interp(place, np.arange(knots), wander)
    smooth = int(1e-6 / MAP_PIXEL_SIZE_M / step)
    direction = np.convolve(np.pad(direction, smooth, mode="edge"), np.ones(smooth) / smooth, mode="same")
    direction = direction[smooth:-smooth]
    path = np.cumsum(np.stack([np.sin(direction), np.cos(direction)], axis=1), axis=0) * step
    # Its middle lies somewhere well inside the map.
    return np.asarray(path - path[count // 2] + rng.uniform(0.1, 0.9, 2) * size)


def _near(shape_yx: tuple[int, int], path: Points, reach_m: float) -> tuple[Pixels, FloatMap, FloatMap]:
    """Return the map pixels within ``reach_m`` of a path, their distance in m and the place along it.

    Pixels have shape ``(n, 2)``, int; distance and arc length shape ``(n,)``, in metres.
    """
    from scipy import ndimage
    from scipy.spatial import cKDTree

    reach = reach_m / MAP_PIXEL_SIZE_M
    inside = np.all((path > -reach) & (path < np.array(shape_yx) + reach), axis=1)
    # Blocks first: asking the tree about each pixel of the map would take seconds.
    side = 16
    blocks = np.zeros([-(-size // side) for size in shape_yx], dtype=np.bool_)
    cells = np.clip((path[inside] // side).astype(np.intp), 0, np.array(blocks.shape) - 1)
    blocks[cells[:, 0], cells[:, 1]] = True
    blocks = ndimage.binary_dilation(
        blocks, np.ones((3, 3), dtype=np.bool_), iterations=int(reach // side) + 1
    )
    mask = np.repeat(np.repeat(blocks, side, axis=0), side, axis=1)[: shape_yx[0], : shape_yx[1]]
    pixels = np.argwhere(mask)
    answer = cKDTree(path).query(pixels, distance_upper_bound=reach)
    distance, nearest = np.asarray(answer[0], dtype=np.float64), np.asarray(answer[1])
    close = np.isfinite(distance)
    arc_m = nearest[close] * (np.hypot(*(path[1] - path[0])) * MAP_PIXEL_SIZE_M)
    return pixels[close], distance[close] * MAP_PIXEL_SIZE_M, arc_m


def _draw_tube(density: FloatMap, path: Points, radius_m: float, brightness: float) -> None:
    """Add a filled tube, as thick in the middle as a round one seen from above."""
    pixels, distance_m, arc_m = _near(density.shape, path, radius_m * 1.3)
    radius = radius_m * (1 + 0.2 * np.sin(arc_m / 0.9e-6) + 0.1 * np.sin(arc_m / 0.37e-6))
    thickness = np.sqrt(np.maximum(0, 1 - (distance_m / radius) ** 2))
    density[pixels[:, 0], pixels[:, 1]] += brightness * thickness


def _grow_spines(density: FloatMap, path: Points, rng: np.random.Generator) -> list[tuple[Points, Points]]:
    """Add dim spines along a dendrite; return the centre of each head in the map and its direction."""
    heads = []
    place = rng.exponential(1.2e-6)
    spacing_m = float(np.hypot(*(path[1] - path[0]))) * MAP_PIXEL_SIZE_M
    while (index := int(place / spacing_m)) < len(path) - 1:
        place += 0.35e-6 + rng.exponential(1.0e-6)
        tangent = path[index + 1] - path[index]
        normal = np.array([-tangent[1], tangent[0]]) / np.hypot(*tangent) * rng.choice([-1, 1])
        angle = rng.normal(0, 0.3)
        cos, sin = np.cos(angle), np.sin(angle)
        direction = np.array([cos * normal[0] - sin * normal[1], sin * normal[0] + cos * normal[1]])
        head = path[index] + direction * rng.uniform(0.6e-6, 1.3e-6) / MAP_PIXEL_SIZE_M
        if not np.all((head > 25) & (head < np.array(density.shape) - 25)):
            continue
        neck = np.linspace(path[index], head, 200)
        _draw_tube(density, neck, 0.08e-6, 0.012)
        covered, spot = _spot((density.shape[0], density.shape[1]), head, rng.uniform(0.11e-6, 0.18e-6))
        density[covered] += 0.02 * spot
        heads.append((head, direction))
    return heads


def _draw_rings(
    density: FloatMap, structures: NDArray[np.int32], path: Points, label: int, rng: np.random.Generator
) -> None:
    """Add an axon whose actin rings are seen edge-on as stripes, some of them missing."""
    radius_m = rng.uniform(0.15e-6, 0.3e-6)
    pixels, distance_m, arc_m = _near(density.shape, path, radius_m * 1.3)
    phase = arc_m / ACTIN_PERIOD_M
    ring = np.floor(phase + 0.5).astype(int)
    strength = rng.gamma(6, 1 / 6, ring.max(initial=0) + 1)[ring]
    stripe = np.exp(-0.5 * ((phase - ring) * ACTIN_PERIOD_M / 28e-9) ** 2)
    # A ring seen from above is brightest where its wall runs along the line of sight.
    across = np.clip(distance_m / radius_m, 0, 1)
    wall = np.where(distance_m < radius_m, 0.45 + 0.25 * across**4, 0)
    values = wall * (strength * stripe + 0.04)
    density[pixels[:, 0], pixels[:, 1]] += values
    inside = pixels[distance_m < radius_m]
    structures[inside[:, 0], inside[:, 1]] = label


def _draw_bundle(density: FloatMap, path: Points, rng: np.random.Generator) -> None:
    """Add a few thin, nearly parallel fibres."""
    tangent = np.gradient(path, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) / np.hypot(*tangent.T)[:, None]
    arc = np.arange(len(path)) * 0.25 * MAP_PIXEL_SIZE_M
    for _ in range(int(rng.integers(1, 4))):
        sway_m = rng.normal(0, 0.2e-6) + 0.15e-6 * np.sin(
            arc / rng.uniform(1.5e-6, 4e-6) + rng.uniform(0, 2 * np.pi)
        )
        fibre = path + normal * (sway_m / MAP_PIXEL_SIZE_M)[:, None]
        pixels, distance_m, _ = _near(density.shape, fibre, 0.08e-6)
        density[pixels[:, 0], pixels[:, 1]] += 0.35 * np.exp(-0.5 * (distance_m / 18e-9) ** 2)


def _spot(shape_yx: tuple[int, int], centre: Points, sigma_m: float) -> tuple[tuple[slice, slice], FloatMap]:
    """Return a Gaussian spot of height 1 and the part of the map that it covers.

    ``centre`` is ``(y, x)`` in map pixels and must lie inside the map.
    """
    sigma = sigma_m / MAP_PIXEL_SIZE_M
    reach = int(4 * sigma) + 2
    low = np.maximum(centre.astype(int) - reach, 0)
    high = np.minimum(centre.astype(int) + reach + 1, shape_yx)
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return (slice(low[0], high[0]), slice(low[1], high[1])), np.exp(-squared / (2 * sigma**2))


def _shipped_files(name: SpecimenName) -> list[Path]:
    """Return the files of one kind of shipped map, in the order of their names."""
    # Without importing pysted, which takes seconds.
    found = importlib.util.find_spec("pysted")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            f"the specimen {name!r} comes with pysted, which is not installed: pip install 'stedfast[sim]', "
            f"or choose one of 'synapses', 'filaments', 'beads'"
        )
    folder = Path(found.submodule_search_locations[0]) / "data" / "examples" / name
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise ConfigurationError(f"the installed pysted ships no maps of {name!r} in {folder}")
    return files


def _normalised(tile: NDArray[np.float32]) -> FloatMap:
    return np.asarray(np.clip(np.nan_to_num(tile), 0, 1), dtype=np.float64)
