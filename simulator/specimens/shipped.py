"""Samples put together from the maps that the pysted package ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError

FloatMap = NDArray[np.float64]


def shipped_density(
    name: str, shape_yx: tuple[int, int], rng: np.random.Generator
) -> tuple[FloatMap, NDArray[np.int32]]:
    """Return the density and the structures of a sample made of maps, turned, flipped and shifted.

    The maps were predicted from real STED images of neurons (see the pySTED paper). One structure is
    one connected part above a third of the brightest pixels.

    Raises
    ------
    ConfigurationError
        If pysted, which brings the maps, is not installed.
    """
    from scipy import ndimage

    tiles = [_normalised(np.load(path, allow_pickle=False)) for path in _files(name)]
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
    density = np.maximum(canvas[y : y + shape_yx[0], x : x + shape_yx[1]], 0)
    structures = ndimage.label(ndimage.gaussian_filter(density, 1) > 0.33)[0].astype(np.int32)
    return density, structures


def _files(name: str) -> list[Path]:
    """Return the files of one kind of shipped map, in the order of their names."""
    # Without importing pysted, which takes seconds.
    found = importlib.util.find_spec("pysted")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            f"the specimen {name!r} comes with pysted, which is not installed: pip install 'stedfast[sim]', "
            f"or choose one that is generated, 'synapses', 'filaments', 'beads', …"
        )
    folder = Path(found.submodule_search_locations[0]) / "data" / "examples" / name
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise ConfigurationError(f"the installed pysted ships no maps of {name!r} in {folder}")
    return files


def _normalised(tile: NDArray[np.float32]) -> FloatMap:
    return np.asarray(np.clip(np.nan_to_num(tile), 0, 1), dtype=np.float64)
