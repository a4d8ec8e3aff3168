"""Where a scan lies: on the grid of the sample's map, and how long the stage takes to get there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.core.errors import InvalidRequestError
from controller.core.settings import Region, ScanSettings


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scan lies on the map: first map pixel, image pixels, map pixels to an image pixel."""

    first_yx: tuple[int, int]
    shape_yx: tuple[int, int]
    stride_px: int


class Stage:
    """A sample centred on (0, 0), its map, and the field of view that is moved over it.

    Parameters
    ----------
    shape_px
        Map pixels of the sample.
    map_pixel_m
        Their size.
    field_m
        Side of the field of view: what can be scanned without moving.
    speed_m_per_s
        Speed of each axis.
    settle_s
        Wait after each move.
    margin_px
        Map pixels before the sample's first one.
    """

    def __init__(
        self,
        shape_px: tuple[int, int],
        map_pixel_m: float,
        field_m: float,
        *,
        speed_m_per_s: float,
        settle_s: float,
        margin_px: int = 0,
    ) -> None:
        self._shape_px, self._map_pixel_m, self._field_m = shape_px, map_pixel_m, field_m
        self._speed_m_per_s, self._settle_s, self._margin_px = speed_m_per_s, settle_s, margin_px
        self._center_yx_m = (0.0, 0.0)
        self.sample = Region(
            center_yx_m=(0.0, 0.0), size_yx_m=(shape_px[0] * map_pixel_m, shape_px[1] * map_pixel_m)
        )

    def place(self, settings: ScanSettings) -> Place:
        """Return where a scan lies on the map: on the nearest map pixel, inside the sample.

        Raises
        ------
        InvalidRequestError
            If its pixels are no multiple of the map's, or its region is too large or not in the sample.
        """
        map_pixel_m = self._map_pixel_m
        stride = round(settings.pixel_size_m / map_pixel_m)
        if stride < 1 or abs(settings.pixel_size_m / (stride * map_pixel_m) - 1) > 1e-6:
            raise InvalidRequestError(
                f"pixel_size_m={settings.pixel_size_m:g} is not a multiple of the sample map's pixel; "
                f"allowed are {map_pixel_m:g}, {2 * map_pixel_m:g}, … m"
            )
        region = settings.region
        if not max(region.size_yx_m) <= self._field_m + 1e-12:
            raise InvalidRequestError(
                f"a region of {region.size_yx_m} m does not fit into the field of view of {self._field_m:g} "
                f"m (field_size_m of the microscope)"
            )
        if not self.sample.contains(region):
            y0, x0, y1, x1 = self.sample.bounds_yx_m
            raise InvalidRequestError(
                f"region centre {region.center_yx_m} m, size {region.size_yx_m} m is not inside the sample: "
                f"y {y0:g}..{y1:g} m, x {x0:g}..{x1:g} m (fields_yx of the microscope)"
            )
        first = []
        for centre_m, pixels, size in zip(region.center_yx_m, settings.shape_yx, self._shape_px, strict=True):
            start = round(centre_m / map_pixel_m + size / 2 - pixels * stride / 2)
            # A region that is not a whole number of pixels may be scanned up to half of one beyond it.
            first.append(self._margin_px + min(max(start, 0), max(0, size - pixels * stride)))
        return Place((first[0], first[1]), settings.shape_yx, stride)

    def region(self, place: Place, lines: int | None = None) -> Region | None:
        """Return what the first ``lines`` lines of a scan cover, or all; ``None`` if there is none."""
        rows, columns = place.shape_yx
        size = (rows if lines is None else lines) * place.stride_px, columns * place.stride_px
        if size[0] == 0:
            return None
        centre = [
            (start - self._margin_px + extent / 2 - whole / 2) * self._map_pixel_m
            for start, extent, whole in zip(place.first_yx, size, self._shape_px, strict=True)
        ]
        return Region(
            center_yx_m=(centre[0], centre[1]),
            size_yx_m=(size[0] * self._map_pixel_m, size[1] * self._map_pixel_m),
        )

    def as_scanned(self, settings: ScanSettings, place: Place) -> ScanSettings:
        """Return the settings with the region replaced where it lies more than half a map pixel off."""
        scanned = self.region(place)
        if scanned is None:
            return settings
        asked = settings.region.bounds_yx_m
        off_m = max(abs(a - b) for a, b in zip(asked, scanned.bounds_yx_m, strict=True))
        return settings if off_m <= self._map_pixel_m / 2 + 1e-12 else settings.replace(region=scanned)

    def move(self, region: Region, focus_way_m: float = 0.0) -> float:
        """Bring a region into the field of view, and the focus along; return the time it takes.

        It is 0 if nothing has to move.
        """
        ways_m, field_m = [focus_way_m], self._field_m
        if not Region(center_yx_m=self._center_yx_m, size_yx_m=(field_m, field_m)).contains(region):
            target = [
                float(np.clip(centre_m, -(size_m - field_m) / 2, (size_m - field_m) / 2))
                for centre_m, size_m in zip(region.center_yx_m, self.sample.size_yx_m, strict=True)
            ]
            ways_m += [abs(there - here) for there, here in zip(target, self._center_yx_m, strict=True)]
            self._center_yx_m = (target[0], target[1])
        way_m = max(ways_m)
        return way_m / self._speed_m_per_s + self._settle_s if way_m > 0 else 0.0
