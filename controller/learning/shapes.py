"""Which pixels a drawn shape holds. Pixel (0, 0) has its centre at (0, 0).

Each function looks only at the part of the image where its shape lies, and returns that window with a
mask of the window's shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import line

from controller.learning.annotations import PointYX, Rectangle

Mask = NDArray[np.bool_]
Window = tuple[slice, slice]
ShapeYX = tuple[int, int]


def nearest_pixel(place: PointYX, shape: ShapeYX) -> tuple[int, int]:
    """Return the pixel ``(row, column)`` of an image that a position lies in."""
    row, column = (min(max(math.floor(c + 0.5), 0), n - 1) for c, n in zip(place, shape, strict=True))
    return row, column


def pixels_of(extent: Rectangle, shape: ShapeYX) -> Window:
    """Return the pixels whose centres lie in a rectangle; if there are none, the one at its middle."""
    first, last = extent.corners
    middle = nearest_pixel(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), shape)
    window = []
    for low, high, centre, size in zip(first, last, middle, shape, strict=True):
        start, stop = max(math.ceil(low), 0), min(math.floor(high) + 1, size)
        window.append(slice(start, stop) if start < stop else slice(centre, centre + 1))
    return window[0], window[1]


def disc(centre: PointYX, radius: float, shape: ShapeYX) -> tuple[Window, Mask]:
    """Return the pixels within ``radius`` of a position, and the one it lies in."""
    row, column = nearest_pixel(centre, shape)
    reach = math.ceil(radius)
    window = (
        slice(max(row - reach, 0), min(row + reach + 1, shape[0])),
        slice(max(column - reach, 0), min(column + reach + 1, shape[1])),
    )
    rows, columns = np.ogrid[window]
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    mask[row - window[0].start, column - window[1].start] = True
    return window, mask


def filled_polygon(vertices: Sequence[PointYX], shape: ShapeYX) -> tuple[Window, Mask]:
    """Return the pixels inside a closed outline by the even-odd rule.

    Along each row, every crossing with an edge turns inside into outside and back. Edges hold their
    first point and not their last, so two polygons with a common edge share no pixel. A polygon that
    holds no centre of a pixel is the one pixel that its first vertex lies in.

    The time it takes grows with the lengths of the edges and the area, not with their product.
    """
    outline = np.asarray(vertices, np.float64)
    top, left = (max(math.floor(c), 0) for c in outline.min(axis=0))
    bottom, right = (min(math.ceil(c) + 1, n) for c, n in zip(outline.max(axis=0), shape, strict=True))
    window = slice(top, bottom), slice(left, right)
    crossings = np.zeros((bottom - top, right - left + 1), np.int32)
    for (y0, x0), (y1, x1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        rows = np.arange(max(math.ceil(min(y0, y1)), top), min(math.ceil(max(y0, y1)), bottom))
        if rows.size:
            crossed = np.ceil(x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))).astype(int) - left
            np.add.at(crossings, (rows - top, np.clip(crossed, 0, right - left)), 1)
    mask = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    if not mask.any():
        return disc(vertices[0], 0.0, shape)
    return window, mask


def drawn_stroke(vertices: Sequence[PointYX], width: float, shape: ShapeYX) -> tuple[Window, Mask]:
    """Return the pixels of a polyline that is ``width`` pixels wide, cut at the edge of the image."""
    corners = np.array([nearest_pixel(vertex, shape) for vertex in vertices])
    reach = math.ceil(max(width - 1, 0) / 2)
    top, left = np.maximum(corners.min(axis=0) - reach, 0)
    bottom, right = np.minimum(corners.max(axis=0) + reach + 1, shape)
    mask = np.zeros((bottom - top, right - left), np.bool_)
    mask[tuple(corners[0] - (top, left))] = True
    for start, stop in pairwise(corners):
        rows, columns = line(*start, *stop)  # type: ignore[no-untyped-call]
        mask[rows - top, columns - left] = True
    if reach:
        mask = np.asarray(ndimage.distance_transform_edt(~mask) <= (width - 1) / 2)
    return (slice(int(top), int(bottom)), slice(int(left), int(right))), mask


def objects_of(instances: NDArray[Any]) -> Iterator[tuple[int, Window]]:
    """Return the number of each object (> 0) and the window it lies in."""
    found: list[Any] = ndimage.find_objects(np.maximum(instances, 0))
    for number, part in enumerate(found, start=1):
        if part is not None:
            yield number, part


def edge_distances(instances: NDArray[Any], largest: float) -> NDArray[np.float32]:
    """Return the distance of each pixel of an object (> 0) to the nearest pixel that is not of it.

    In pixels, cut at ``largest``, 0 outside objects. The edge of the image is no edge of an object.
    """
    distances = np.zeros(instances.shape, np.float32)
    for number, part in objects_of(instances):
        mask = instances[part] == number
        # A ring of outside, but where the window ends at the edge of the image.
        pad = [(int(s.start > 0), int(s.stop < size)) for s, size in zip(part, instances.shape, strict=True)]
        padded = np.pad(mask, pad)
        if padded.all():
            distances[part] = largest
            continue
        inner = tuple(slice(a, padded.shape[i] - b) for i, (a, b) in enumerate(pad))
        found = ndimage.distance_transform_edt(padded)[inner]
        distances[part][mask] = np.minimum(found[mask], largest)
    return distances
