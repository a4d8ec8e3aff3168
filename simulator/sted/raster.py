"""Where a raster scan meets a map: which pixels of the image light a map pixel, and in which order.

A map pixel is lit by the lines and columns whose beam is within the kernel's half width. Counted from
the first one that could light it if the image had no edges, these are its *visits*; a line's number is
``first + visit``. The offset of the map pixel from the beam falls by one stride from visit to visit,
and the largest offset depends on the map pixel's *phase*, its place in the stride. So all map pixels
of one phase share one sequence of kernel values, of which those near an edge see a part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Kernel = NDArray[np.float64]
Numbers = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a raster scan, for each map pixel along it.

    Attributes
    ----------
    first
        Number of the line (or column) of visit 0; negative if that would lie before the image.
    phase
        Half width of the kernel minus the offset at visit 0: 0 to stride - 1.
    start, stop
        The visits that lie in the image: ``start <= visit < stop``.
    """

    first: Numbers
    phase: Numbers
    start: Numbers
    stop: Numbers

    @classmethod
    def of(cls, pixels: int, stride_px: int, margin_px: int) -> Axis:
        """Return the axis of an image of ``pixels`` pixels."""
        place = np.arange(pixels * stride_px + 2 * margin_px)
        behind_first_beam = place - margin_px - stride_px // 2
        first = -((margin_px - behind_first_beam) // stride_px)
        phase = margin_px - (behind_first_beam - first * stride_px)
        visits = (2 * margin_px - phase) // stride_px + 1
        start = np.maximum(0, -first)
        stop = np.maximum(start, np.minimum(visits, pixels - first))
        return cls(first, phase, start, stop)


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """A raster scan over the inside of a map.

    Attributes
    ----------
    shape_yx, stride_px, margin_px
        Image shape, pixel size in map pixels, and the half width of the kernels.
    passes
        How often each line is scanned before the next one.
    rows, columns
        Its two axes.
    """

    shape_yx: tuple[int, int]
    stride_px: int
    margin_px: int
    passes: int
    rows: Axis
    columns: Axis

    @classmethod
    def over(cls, shape_yx: tuple[int, int], stride_px: int, margin_px: int, passes: int = 1) -> Raster:
        """Return the raster of an image of this shape."""
        rows, columns = (Axis.of(pixels, stride_px, margin_px) for pixels in shape_yx)
        return cls(shape_yx, stride_px, margin_px, passes, rows, columns)

    @property
    def map_width(self) -> int:
        """Columns of the map, with its margin."""
        return len(self.columns.first)


def by_visits(kernels: Kernel, stride_px: int) -> Kernel:
    """Return kernels as ``(…, row phase, row visit, column phase, column visit)``, zero-padded.

    ``kernels`` has the shape ``(…, y, x)``, odd and square.
    """
    before, side = kernels.shape[:-2], kernels.shape[-1]
    visits = -(-side // stride_px)
    padded = np.zeros((*before, visits * stride_px, visits * stride_px))
    padded[..., :side, :side] = kernels[..., ::-1, ::-1]
    split = padded.reshape(*before, visits, stride_px, visits, stride_px)
    return np.ascontiguousarray(split.swapaxes(-4, -3).swapaxes(-2, -1))
