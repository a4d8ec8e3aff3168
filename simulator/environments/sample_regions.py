"""Places of a large sample: actions as square regions of it, and regions as pixels of its overview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import Region

_GRID_M = 20e-9


@dataclass(frozen=True, slots=True)
class SampleRegions:
    """The square regions of one size in a square sample.

    Attributes
    ----------
    sample
        All that can be chosen from.
    size_m
        Side of a region.
    overview_pixel_m
        Pixel of the image that shows the whole sample.
    """

    sample: Region
    size_m: float
    overview_pixel_m: float

    def region(self, point_yx: Sequence[float] | NDArray[np.float64]) -> Region:
        """Return the region whose middle is -1..1 down and across, on a grid of 20 nm."""
        y, x = (
            centre + round(float(part) * self._reach_m / _GRID_M) * _GRID_M
            for centre, part in zip(self.sample.center_yx_m, point_yx, strict=True)
        )
        return Region(center_yx_m=(y, x), size_yx_m=(self.size_m, self.size_m))

    def point_for(self, center_yx_m: tuple[float, float]) -> NDArray[np.float32]:
        """Return the point whose region has this middle, or the nearest that lies inside the sample."""
        offset = np.array(center_yx_m) - np.array(self.sample.center_yx_m)
        return np.asarray(np.clip(offset / self._reach_m, -1, 1), np.float32)

    def pixels(self, region: Region) -> tuple[slice, slice]:
        """Return the pixels of the overview that a region covers."""
        corner = np.array(self.sample.bounds_yx_m[:2])
        y0, x0, y1, x1 = (np.array(region.bounds_yx_m).reshape(2, 2) - corner).ravel() / self.overview_pixel_m
        return slice(round(y0), round(y1)), slice(round(x0), round(x1))

    @property
    def _reach_m(self) -> float:
        return (self.sample.size_yx_m[0] - self.size_m) / 2
