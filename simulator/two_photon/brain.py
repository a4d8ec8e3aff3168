"""The sample of the two-photon microscope: tissue that fires, moves and fades, and the truth about it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import NonNegative, Settings
from simulator.stage import Place
from simulator.two_photon.bleaching import TILE_M, Bleaching, BleachingOptions
from simulator.two_photon.calcium import Activity, ActivityOptions
from simulator.two_photon.focal_plane import MAP_PIXEL_M, MARGIN_M, FocalPlane, PlaneMaker, map_pixels
from simulator.two_photon.laser_scanner import Timing
from simulator.two_photon.motion import BrainMotion
from simulator.two_photon.neurons import TissueOptions, make_tissue
from simulator.two_photon.optics import TwoPhotonOptics

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]
K = TypeVar("K")
T = TypeVar("T")

#: Fluorescence is computed at times this far apart, and in between along straight lines.
_STEP_S = 1e-3
_PLANES_KEPT, _VIEWS_KEPT = 3, 6
_TILE_PX = round(TILE_M / MAP_PIXEL_M)


class BrainOptions(Settings):
    """Everything about the sample.

    Attributes
    ----------
    tissue, activity, bleaching
        What is there, how it fires, how it fades.
    motion_m
        Amplitude of the motion of the brain; the largest shift is five times as much. 0 keeps it still.
    """

    tissue: TissueOptions = TissueOptions()
    activity: ActivityOptions = ActivityOptions()
    bleaching: BleachingOptions = BleachingOptions()
    motion_m: NonNegative = 0.7e-6


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


class Brain:
    """A sample of ``size_yx_m`` metres. What is asked of it is the truth: for tests and training alone.

    Attributes
    ----------
    tissue, activity, motion, bleaching
        The parts that it is made of.
    """

    def __init__(
        self,
        options: BrainOptions,
        optics: TwoPhotonOptics,
        size_yx_m: tuple[float, float],
        seed: Sequence[int],
    ) -> None:
        self._optics = optics
        self.tissue = make_tissue(options.tissue, size_yx_m, [*seed, 1])
        self.activity = Activity(self.tissue.neurons, options.activity, [*seed, 2])
        self.motion = BrainMotion(options.motion_m, [*seed, 3])
        self._maker = PlaneMaker(self.tissue, options.tissue, optics, size_yx_m, [*seed, 4])
        whole = (size_yx_m[0] + 2 * MARGIN_M, size_yx_m[1] + 2 * MARGIN_M)
        self.bleaching = Bleaching(options.bleaching, self.tissue, optics, whole)
        self.map_shape_yx = (map_pixels(size_yx_m[0]), map_pixels(size_yx_m[1]))
        self._planes: OrderedDict[int, FocalPlane] = OrderedDict()
        self._views: OrderedDict[tuple[int, Place, int], View] = OrderedDict()
        self._corners = self._corner_weights(size_yx_m)

    def plane(self, depth_m: float) -> FocalPlane:
        """Return the footprints at a depth, to the nearest 10 nm."""
        key = round(depth_m / 1e-8)
        return _kept(self._planes, key, _PLANES_KEPT, lambda: self._maker.draw(key * 1e-8))

    def labels(self, place: Place, depth_m: float) -> Labels:
        """Return the neurons whose cell bodies a scan shows at rest: 0 none, else number plus 1."""
        labels = self.plane(depth_m).labels
        (y, x), (rows, columns), step = place.first_yx, place.shape_yx, place.stride_px
        return labels[y + step // 2 :: step, x + step // 2 :: step][:rows, :columns].copy()

    def expected(
        self,
        place: Place,
        depth_m: float,
        timing: Timing,
        started_s: float,
        *,
        moves: bool = True,
        phase_m: float = 0.0,
    ) -> Floats:
        """Return how much of the focal spot is filled with dye, times its brightness, for each pixel.

        Parameters
        ----------
        place, depth_m
            What is scanned.
        timing, started_s
            When.
        moves
            Whether the brain may move.
        phase_m
            By how much backward lines are shifted.

        Returns
        -------
        1 where a cell of average concentration at rest fills the spot; shape ``(y, x)``, float32.
        """
        view = self._view(place, depth_m)
        lines = place.shape_yx[0] + 2 * view.margin
        line_s = timing.middles_s(started_s, np.arange(lines) - view.margin)
        canvas = self._canvas(view, line_s)
        inner = slice(view.margin, lines - view.margin)
        pixel_m = place.stride_px * MAP_PIXEL_M
        shift = self.motion.shift_m(line_s[inner]) / pixel_m if moves else np.zeros((place.shape_yx[0], 2))
        if timing.bidirectional:
            shift[1::2, 1] += phase_m / pixel_m
        return _shifted(canvas, shift, view.margin, place.shape_yx[1])

    def _canvas(self, view: View, line_s: NDArray[np.float64]) -> Floats:
        """Render a view without motion, each line at its own time."""
        span_s = float(line_s[-1] - line_s[0])
        count = min(len(np.unique(line_s)), int(np.ceil(span_s / _STEP_S)) + 2)
        nodes_s = np.linspace(line_s[0], max(line_s[-1], line_s[0] + 1e-9), max(2, count))
        at = (line_s - nodes_s[0]) / (nodes_s[1] - nodes_s[0])
        before = np.clip(at.astype(np.intp), 0, len(nodes_s) - 2)
        share = (at - before).astype(np.float32)
        lines, columns = view.neuropil.shape
        canvas = np.zeros((lines, columns), np.float32)
        if len(view.neurons):
            left = self.bleaching.neurons[view.neurons, None]
            bright = ((1 + self.activity.dff(view.neurons, nodes_s)) * left).astype(np.float32)
            by_line = bright[:, before] * (1 - share) + bright[:, before + 1] * share
            light = by_line.ravel()[view.entries] * view.values
            canvas += np.bincount(view.pixels, light, lines * columns).reshape(lines, columns)
        dff = self.activity.neuropil_dff(self._corners, nodes_s).astype(np.float32)
        dff = dff[:, before] * (1 - share) + dff[:, before + 1] * share
        down, across = view.across_yx
        west, east = dff[0] + (dff[2] - dff[0]) * down, dff[1] + (dff[3] - dff[1]) * down
        left_over = self.bleaching.neuropil(view.depth_m)
        ground = view.neuropil
        if left_over.min() < 1:
            ground = ground * left_over[view.tiles[0]][:, view.tiles[1]]
        canvas += ground * (1 + west[:, None] + (east - west)[:, None] * across)
        return canvas

    def _view(self, place: Place, depth_m: float) -> View:
        pixel_m = place.stride_px * MAP_PIXEL_M
        margin = 2 + int(np.ceil(self.motion.largest_m / pixel_m))
        key = (round(depth_m / 1e-8), place, margin)
        return _kept(self._views, key, _VIEWS_KEPT, lambda: self._draw_view(place, depth_m, margin))

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


def _shifted(canvas: Floats, shift: NDArray[np.float64], margin: int, columns: int) -> Floats:
    """Return each line as it is seen where the tissue has moved by ``shift`` pixels, ``(lines, 2)``."""
    count = len(shift)
    if not shift.any():
        return canvas[margin : margin + count, margin : margin + columns].copy()
    y = np.arange(count) + margin - shift[:, 0]
    x = margin - shift[:, 1]
    row, column = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    down, right = ((at - low).astype(np.float32)[:, None] for at, low in ((y, row), (x, column)))
    lines = canvas[row] * (1 - down) + canvas[row + 1] * down
    windows = np.lib.stride_tricks.sliding_window_view(lines, columns + 1, axis=1)
    part = windows[np.arange(count), column]
    return np.asarray(part[:, :-1] * (1 - right) + part[:, 1:] * right)


def _kept(kept: OrderedDict[K, T], key: K, most: int, make: Callable[[], T]) -> T:
    """Return what was made last time, or make it; the oldest is forgotten."""
    if key not in kept:
        kept[key] = make()
        if len(kept) > most:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
