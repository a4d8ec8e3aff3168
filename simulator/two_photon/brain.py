"""The sample of the two-photon microscope: tissue that fires, moves and fades, and the truth about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import NonNegative, Settings
from simulator.stage import Place
from simulator.two_photon.anatomy import Anatomy, View
from simulator.two_photon.bleaching import Bleaching, BleachingOptions
from simulator.two_photon.calcium import Activity, ActivityOptions
from simulator.two_photon.focal_plane import MAP_PIXEL_M, MARGIN_M, FocalPlane
from simulator.two_photon.laser_scanner import Timing
from simulator.two_photon.motion import BrainMotion
from simulator.two_photon.neurons import TissueOptions
from simulator.two_photon.optics import TwoPhotonOptics

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

#: Fluorescence is computed at times this far apart, and in between along straight lines.
_STEP_S = 1e-3


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


class Brain:
    """A sample of ``size_yx_m`` metres. What is asked of it is the truth: for tests and training alone.

    Parameters
    ----------
    options, optics, size_yx_m
        What is there and what it does, how large the focus is, and the size of the sample.
    seed
        Entropy of everything here, as :class:`numpy.random.SeedSequence` takes it.
    anatomy
        Tissue that was grown before, with the same options, focus and size; else it grows from ``seed``.

    Attributes
    ----------
    anatomy, tissue, activity, motion, bleaching
        The parts that it is made of.
    """

    def __init__(
        self,
        options: BrainOptions,
        optics: TwoPhotonOptics,
        size_yx_m: tuple[float, float],
        seed: Sequence[int],
        *,
        anatomy: Anatomy | None = None,
    ) -> None:
        self.anatomy = anatomy or Anatomy(options.tissue, optics, size_yx_m, seed)
        self.tissue = self.anatomy.tissue
        self.activity = Activity(self.tissue.neurons, options.activity, [*seed, 2])
        self.motion = BrainMotion(options.motion_m, [*seed, 3])
        whole = (size_yx_m[0] + 2 * MARGIN_M, size_yx_m[1] + 2 * MARGIN_M)
        self.bleaching = Bleaching(options.bleaching, self.tissue, optics, whole)

    def plane(self, depth_m: float) -> FocalPlane:
        """Return the footprints at a depth, to the nearest 10 nm."""
        return self.anatomy.plane(depth_m)

    def labels(self, place: Place, depth_m: float) -> Labels:
        """Return the neurons whose cell bodies a scan shows at rest: 0 none, else number plus 1."""
        return self.anatomy.labels(place, depth_m)

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
        view = self.anatomy.view(place, depth_m, self.motion.largest_m)
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
        dff = self.activity.neuropil_dff(self.anatomy.corner_weights, nodes_s).astype(np.float32)
        dff = dff[:, before] * (1 - share) + dff[:, before + 1] * share
        down, across = view.across_yx
        west, east = dff[0] + (dff[2] - dff[0]) * down, dff[1] + (dff[3] - dff[1]) * down
        left_over = self.bleaching.neuropil(view.depth_m)
        ground = view.neuropil
        if left_over.min() < 1:
            ground = ground * left_over[view.tiles[0]][:, view.tiles[1]]
        canvas += ground * (1 + west[:, None] + (east - west)[:, None] * across)
        return canvas


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
