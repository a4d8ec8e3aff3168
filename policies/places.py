"""Where scans lie: moving, cutting, comparing and tiling regions of the sample.

It knows regions only; what a microscope can reach is :class:`policies.requests.Reach`.
"""

from __future__ import annotations

import math

import numpy as np

from controller.core.settings import Region


def whole_pixels(region: Region, pixel_size_m: float) -> Region:
    """Return ``region`` with its sides cut to whole pixels (at least one), about the same centre."""
    # The small term keeps 1.28e-6 / 20e-9 = 63.99999999999999 at 64 pixels.
    height, width = (
        max(1, math.floor(size / pixel_size_m + 1e-6)) * pixel_size_m for size in region.size_yx_m
    )
    return Region(center_yx_m=region.center_yx_m, size_yx_m=(height, width))


def moved_inside(region: Region, box: Region) -> Region:
    """Return ``region`` shifted by the least that brings it into ``box``; its size stays.

    A region larger than the box comes to lie on the centre of the box.
    """
    axes = zip(region.center_yx_m, box.center_yx_m, region.size_yx_m, box.size_yx_m, strict=True)
    y, x = (_moved_inside(at, middle, max(0.0, (outer - inner) / 2)) for at, middle, inner, outer in axes)
    return Region(center_yx_m=(y, x), size_yx_m=region.size_yx_m)


def _moved_inside(at: float, middle: float, room: float) -> float:
    return middle + min(max(at - middle, -room), room)


def overlap_m2(a: Region, b: Region) -> float:
    """Return the area that two regions share."""
    (y0, x0, y1, x1), (v0, u0, v1, u1) = a.bounds_yx_m, b.bounds_yx_m
    return max(0.0, min(y1, v1) - max(y0, v0)) * max(0.0, min(x1, u1) - max(x0, u0))


def overlap_fraction(a: Region, b: Region) -> float:
    """Return the shared area as a fraction of the smaller region."""
    areas = [region.size_yx_m[0] * region.size_yx_m[1] for region in (a, b)]
    return overlap_m2(a, b) / min(areas)


def tile_fields(
    box: Region, field_yx_m: tuple[float, float], pixel_size_m: float, count: int
) -> list[Region]:
    """Return the ``count`` fields nearest to the centre of ``box``, of equal fields that tile it.

    They measure at most ``field_yx_m``.
    """
    tiles = [
        max(1, math.ceil(side / field - 1e-6)) for side, field in zip(box.size_yx_m, field_yx_m, strict=True)
    ]
    size = (box.size_yx_m[0] / tiles[0], box.size_yx_m[1] / tiles[1])
    # A stage may travel far: only the middle of its tiles is laid out.
    shown = [min(n, count + 1 + (n - count - 1) % 2) for n in tiles]
    offsets = [(np.arange(n) - (n - 1) / 2) * side for n, side in zip(shown, size, strict=True)]
    order = sorted(
        ((float(dy), float(dx)) for dy in offsets[0] for dx in offsets[1]),
        key=lambda o: (round(math.hypot(*o), 12), o),
    )
    y, x = box.center_yx_m
    return [
        whole_pixels(Region(center_yx_m=(y + dy, x + dx), size_yx_m=size), pixel_size_m)
        for dy, dx in order[:count]
    ]


def tile_squares(view: Region, size_m: float) -> list[tuple[float, float]]:
    """Return the centres of squares side by side over ``view``, the middle first."""
    whole = whole_pixels(view, size_m)
    (y, x), counts = whole.center_yx_m, [round(side / size_m) for side in whole.size_yx_m]
    rows, columns = ((np.arange(n) - (n - 1) / 2) * size_m for n in counts)
    centers = [(float(y + dy), float(x + dx)) for dy in rows for dx in columns]
    return sorted(centers, key=lambda c: ((c[0] - y) ** 2 + (c[1] - x) ** 2, c))
