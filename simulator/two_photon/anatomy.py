"""What of a brain does not change: tissue, the planes that a focus sees of it, and scans of them.

To draw a plane takes a tenth of a second or more, so those that were drawn are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.stage import Place
from simulator.two_photon.bleaching import TILE_M
from simulator.two_photon.focal_plane import MAP_PIXEL_M, FocalPlane, PlaneMaker, map_pixels
from simulator.two_photon.neurons import TissueOptions, make_tissue
from simulator.two_photon.optics import TwoPhotonOptics

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]
K = TypeVar("K")
T = TypeVar("T")

_VIEWS_A_PLANE = 2
_TILE_PX = round(TILE_M / MAP_PIXEL_M)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A plane as a scan samples it, with ``margin`` pixels more on each side that motion may bring in.

    ``pixels`` and ``entries`` say where on the canvas each of ``values`` goes and which neuron and line
    (``neuron * lines + line``) makes it bright; ``neurons`` are those that are in view. ``tiles`` say
    where in the tiles of bleaching each line and each column of the canvas lies.
    """

    depth_m: float
    place: Place
    margin: int
    pixels: NDArray[np.intp]
    entries: NDArray[np.intp]
    values: Floats
    neurons: NDArray[np.intp]
    neuropil: Floats
    across_yx: tuple[Floats, Floats]
    tiles: tuple[NDArray[np.intp], NDArray[np.intp]]


class Anatomy:
    """The tissue under a sample of ``size_yx_m`` metres. Brains that fire otherwise may share it.

    Parameters
    ----------
    options, optics, size_yx_m
        What is there, how large the focus is, and the size of the sample.
    seed
        Entropy of everything here, as :class:`numpy.random.SeedSequence` takes it.
    planes
        How many planes are kept, at most.

    Attributes
    ----------
    tissue
        Where everything is.
    map_shape_yx
        Map pixels of a plane, margins included.
    corner_weights
        How much each neuron has to do with the neuropil at the four corners of the sample, ``(4, n)``.
    """

    def __init__(
        self,
        options: TissueOptions,
        optics: TwoPhotonOptics,
        size_yx_m: tuple[float, float],
        seed: Sequence[int],
        *,
        planes: int = 3,
    ) -> None:
        self.tissue = make_tissue(options, size_yx_m, [*seed, 1])
        self.map_shape_yx = (map_pixels(size_yx_m[0]), map_pixels(size_yx_m[1]))
        self.corner_weights = self._corner_weights(size_yx_m)
        self._maker = PlaneMaker(self.tissue, options, optics, size_yx_m, [*seed, 4])
        self._planes_kept = planes
        self._planes: OrderedDict[int, FocalPlane] = OrderedDict()
        self._views: OrderedDict[tuple[int, Place, int], View] = OrderedDict()

    def plane(self, depth_m: float) -> FocalPlane:
        """Return the footprints at a depth, to the nearest 10 nm."""
        key = round(depth_m / 1e-8)
        return _kept(self._planes, key, self._planes_kept, lambda: self._maker.draw(key * 1e-8))

    def labels(self, place: Place, depth_m: float) -> Labels:
        """Return the neurons whose cell bodies a scan shows at rest: 0 none, else number plus 1."""
        labels = self.plane(depth_m).labels
        (y, x), (rows, columns), step = place.first_yx, place.shape_yx, place.stride_px
        return labels[y + step // 2 :: step, x + step // 2 :: step][:rows, :columns].copy()

    def view(self, place: Place, depth_m: float, largest_shift_m: float) -> View:
        """Return a plane as a scan samples it, with room for so large a shift."""
        pixel_m = place.stride_px * MAP_PIXEL_M
        margin = 2 + int(np.ceil(largest_shift_m / pixel_m))
        key = (round(depth_m / 1e-8), place, margin)
        return _kept(
            self._views,
            key,
            _VIEWS_A_PLANE * self._planes_kept,
            lambda: self._draw_view(place, depth_m, margin),
        )

    def _draw_view(self, place: Place, depth_m: float, margin: int) -> View:
        """Sample a plane: lines are a point high, pixels as wide as the beam sweeps over."""
        plane, step = self.plane(depth_m), place.stride_px
        height, width = self.map_shape_yx
        lines, columns = (pixels + 2 * margin for pixels in place.shape_yx)
        top = place.first_yx[0] - margin * step + step // 2
        left = place.first_yx[1] - margin * step
        y, x = plane.pixels // width - top, plane.pixels % width - left
        seen = np.flatnonzero(
            (y >= 0) & (y < lines * step) & (y % step == 0) & (x >= 0) & (x < columns * step)
        )
        line, column = y[seen] // step, x[seen] // step
        known, index = np.unique(plane.neurons[seen], return_inverse=True)
        key = (line.astype(np.intp) * columns + column) * max(1, len(known)) + index
        key, where = np.unique(key, return_inverse=True)
        values = np.bincount(where, plane.values[seen] / step, len(key)).astype(np.float32)
        pixels, index = key // max(1, len(known)), key % max(1, len(known))
        rows = np.clip(top + np.arange(lines) * step, 0, height - 1)
        parts = np.clip(left + np.arange(columns * step), 0, width - 1)
        neuropil = plane.neuropil[rows][:, parts].reshape(lines, columns, step).mean(axis=2)
        down = (rows / (height - 1)).astype(np.float32)
        across = (parts[::step] / (width - 1)).astype(np.float32)
        return View(
            depth_m=plane.depth_m,
            place=place,
            margin=margin,
            pixels=pixels,
            entries=index * lines + pixels // columns,
            values=values,
            neurons=known.astype(np.intp),
            neuropil=np.ascontiguousarray(neuropil),
            across_yx=(down, across),
            tiles=(rows // _TILE_PX, parts[::step] // _TILE_PX),
        )

    def _corner_weights(self, size_yx_m: tuple[float, float]) -> NDArray[np.float64]:
        """Return how much each neuron has to do with the neuropil at the four corners of the sample."""
        down, across = (
            np.clip(self.tissue.somata_m[:, axis + 1] / size_yx_m[axis] + 0.5, 0, 1) for axis in (0, 1)
        )
        return np.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across])


def _kept(kept: OrderedDict[K, T], key: K, most: int, make: Callable[[], T]) -> T:
    """Return what was made last time, or make it; the oldest is forgotten."""
    if key not in kept:
        kept[key] = make()
        if len(kept) > most:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
