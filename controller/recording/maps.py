"""Pictures in sample coordinates: the mosaic of overviews and the map of the dose, with the visits on top."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from controller.core.dose import DoseMap
from controller.core.frame import Frame
from controller.core.settings import Region, ScanSettings
from controller.recording.charts import Tick, axis
from controller.recording.pictures import Contrast, colour_bar_uri, contrast, png_uri, resize
from controller.recording.units import TIMES, number, quantity, scale
from controller.recording.visits import Visit

_WIDTH, _LEFT, _TOP, _BOTTOM = 560, 52, 10, 40
_MOSAIC_PIXELS = 640
_DOSE_CELLS = 240
_BOXES_MAX = 150
_NUMBERS_MAX = 60
_DECADES_MAX = 4


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle on a map, in units of the drawing; ``text`` numbers the visits made there."""

    x: float
    y: float
    width: float
    height: float
    text: str = ""
    title: str = ""
    text_x: float = 0.0
    text_y: float = 0.0


@dataclass(frozen=True, slots=True)
class ColourBar:
    """A strip of colours with the values at its ends and between."""

    uri: str
    ticks: tuple[Tick, ...]
    label: str


@dataclass(frozen=True, slots=True)
class MapFigure:
    """A picture with axes in micrometres (or what fits), rectangles and a colour bar."""

    uri: str
    picture: Place
    places: tuple[Place, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    unit: str
    height: int
    summary: str
    bar: ColourBar | None = None
    left: int = _LEFT
    width: int = _WIDTH


class _Canvas:
    """From sample coordinates to the units of the drawing, equal along both axes."""

    def __init__(self, extent: Region) -> None:
        self.y0, self.x0, self.y1, self.x1 = extent.bounds_yx_m
        height_m, width_m = extent.size_yx_m
        self._per_m = min((_WIDTH - _LEFT - 10) / width_m, 600 / height_m)
        self.right = _LEFT + width_m * self._per_m
        self.bottom = _TOP + height_m * self._per_m
        self.height = ceil(self.bottom + _BOTTOM)

    def x(self, x_m: float) -> float:
        return round(_LEFT + (x_m - self.x0) * self._per_m, 1)

    def y(self, y_m: float) -> float:
        return round(_TOP + (y_m - self.y0) * self._per_m, 1)

    def place(self, region: Region, text: str = "", title: str = "") -> Place:
        y0, x0, y1, x1 = region.bounds_yx_m
        # Never thinner than can be seen.
        width, height = max(2.0, self.x(x1) - self.x(x0)), max(2.0, self.y(y1) - self.y(y0))
        return Place(self.x(x0), self.y(y0), round(width, 1), round(height, 1), text, title)

    def ticks(self) -> tuple[tuple[Tick, ...], tuple[Tick, ...], str]:
        factor, unit = scale("m", max(abs(v) for v in (self.y0, self.x0, self.y1, self.x1)))
        wide = axis(self.x0, self.x1, unit, factor, max(1, round((self.right - _LEFT) / 90)))
        high = axis(self.y0, self.y1, unit, factor, max(1, round((self.bottom - _TOP) / 90)))
        x_ticks = tuple(Tick(self.x(at), text) for at, text in wide.ticks)
        return x_ticks, tuple(Tick(self.y(at), text) for at, text in high.ticks), unit


def union(regions: Iterable[Region]) -> Region:
    """Return the smallest region that holds all of ``regions``."""
    bounds = np.array([region.bounds_yx_m for region in regions])
    (y0, x0), (y1, x1) = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    return Region(
        center_yx_m=(float(y0 + y1) / 2, float(x0 + x1) / 2), size_yx_m=(float(y1 - y0), float(x1 - x0))
    )


def mosaic(frames: Sequence[Frame], visits: Sequence[Visit], extent: Region) -> tuple[MapFigure, Contrast]:
    """Return the frames at their place in the sample, the visited regions outlined and numbered."""
    height_m, width_m = extent.size_yx_m
    finest_m = min(frame.settings.pixel_size_m for frame in frames)
    per_m = min(_MOSAIC_PIXELS / max(height_m, width_m), 1 / finest_m)
    y0_m, x0_m, _, _ = extent.bounds_yx_m
    image = np.full((max(1, round(height_m * per_m)), max(1, round(width_m * per_m))), np.nan, np.float32)
    for frame in frames:
        y0, x0, y1, x1 = frame.settings.scanned_region.bounds_yx_m
        top, left = round((y0 - y0_m) * per_m), round((x0 - x0_m) * per_m)
        rows = max(1, min(round((y1 - y0_m) * per_m), image.shape[0]) - top)
        columns = max(1, min(round((x1 - x0_m) * per_m), image.shape[1]) - left)
        target = image[top : top + rows, left : left + columns]
        target[...] = resize(frame.photons, (columns, rows))[: target.shape[0], : target.shape[1]]
    shown = contrast(image)
    return _figure(extent, png_uri(image, shown), extent, visits, "Picture of the sample"), shown


def map_cell_m(extent: Region, cell_m: float) -> float:
    """Return the cell of a dose map: the ledger's, or a multiple where there would be too many."""
    return cell_m * max(1, ceil(max(extent.size_yx_m) / _DOSE_CELLS / cell_m))


def dose_figure(
    bookings: Sequence[tuple[ScanSettings, float]], visits: Sequence[Visit], extent: Region, cell_m: float
) -> MapFigure:
    """Return the map of the dose: ``bookings`` holds each scan's settings and its dose in J/m².

    Each scan counts in full in each cell it touches, as in the ledger. If the sample is too large for
    the ledger's cells, the map has coarser ones, and says so.
    """
    shown_m = map_cell_m(extent, cell_m)
    doses = DoseMap(shown_m)
    for settings, dose_j_per_m2 in bookings:
        doses.add(settings.scanned_region, dose_j_per_m2)
    grid = snap(extent, doses.cell_m)
    image = doses.over(grid)
    image[image == 0] = np.nan
    if not np.isfinite(image).any():
        return _figure(grid, png_uri(image, Contrast(0, 1)), extent, visits, "No light fell on the sample")
    high, low = float(np.nanmax(image)), float(np.nanmin(image))
    bar, shown, drawn = _dose_colours(image, max(low, high / 10.0**_DECADES_MAX), high)
    summary = (
        f"Dose map: up to {quantity(high, 'J/m²')} in cells of {quantity(doses.cell_m, 'm')}"
        f"{' (coarser than in the ledger)' if shown_m > cell_m else ''}"
    )
    return _figure(grid, png_uri(drawn, shown, "viridis"), extent, visits, summary, bar=bar)


def _dose_colours(
    image: NDArray[np.float64], low: float, high: float
) -> tuple[ColourBar, Contrast, NDArray[np.float64]]:
    """Return colours for doses: logarithmic where they differ so much that a linear scale would hide some."""
    factor, unit = scale("J/m²", high)
    if high > 20 * low:
        shown = Contrast(float(np.log10(low)), float(np.log10(high)))
        decades = range(ceil(shown.low - 1e-9), floor(shown.high + 1e-9) + 1)
        inside = [(10.0**n, number(10.0**n * factor, 2)) for n in decades]
        drawn, kind = np.log10(image), "logarithmic"
    else:
        shown, drawn, kind = Contrast(0.0, high), image, "linear"
        inside = [(value, text) for value, text in axis(0.0, high, unit, factor).ticks]
    ticks = []
    for value, text in inside:
        level = np.log10(value) if kind == "logarithmic" else value
        ticks.append(Tick(float((level - shown.low) / (shown.high - shown.low)), text))
    return ColourBar(colour_bar_uri("viridis"), tuple(ticks), f"dose ({unit}, {kind})"), shown, drawn


def snap(region: Region, cell_m: float) -> Region:
    """Return ``region`` grown to whole cells of a grid."""
    y0, x0, y1, x1 = (bound / cell_m for bound in region.bounds_yx_m)
    top, left, bottom, right = floor(y0 + 1e-3), floor(x0 + 1e-3), ceil(y1 - 1e-3), ceil(x1 - 1e-3)
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    return Region(
        center_yx_m=((top + bottom) / 2 * cell_m, (left + right) / 2 * cell_m),
        size_yx_m=((bottom - top) * cell_m, (right - left) * cell_m),
    )


def _figure(
    covered: Region,
    uri: str,
    extent: Region,
    visits: Sequence[Visit],
    summary: str,
    *,
    bar: ColourBar | None = None,
) -> MapFigure:
    canvas = _Canvas(union([covered, extent]))
    x_ticks, y_ticks, unit = canvas.ticks()
    return MapFigure(
        uri=uri,
        picture=canvas.place(covered),
        places=_places(canvas, visits),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        unit=unit,
        height=canvas.height,
        summary=summary,
        bar=bar,
    )


def _places(canvas: _Canvas, visits: Sequence[Visit]) -> tuple[Place, ...]:
    """Return one rectangle for each place; one that was visited again carries several numbers."""
    together: dict[tuple[float, ...], list[Visit]] = {}
    for visit in visits:
        together.setdefault(tuple(round(b * 1e9) for b in visit.region.bounds_yx_m), []).append(visit)
    found: list[Place] = []
    for group in list(together.values())[:_BOXES_MAX]:
        numbers = [str(visit.number) for visit in group]
        text = ", ".join(numbers[:3]) + (f" +{len(numbers) - 3}" if len(numbers) > 3 else "")
        region = group[0].region
        size = f" {TIMES} ".join(quantity(side, "m") for side in region.size_yx_m)
        shown = text if len(found) < _NUMBERS_MAX else ""
        found.append(canvas.place(region, shown, f"Visit {', '.join(numbers[:20])}: {size}"))
    return _put_numbers(found)


def _put_numbers(places: Sequence[Place]) -> tuple[Place, ...]:
    """Put each number at that corner of its rectangle where it covers no number placed before.

    Where there is no such corner in the drawing, the number is left to those who hover.
    """
    taken: list[tuple[float, float, float, float]] = []
    found = []
    for place in places:
        if not place.text:
            found.append(place)
            continue
        width, height = 9.0 * len(place.text), 15.0
        inside = place.width > width + 4 and place.height > height + 4
        left, right = (3.0, place.width - width - 2) if inside else (0.0, place.width - width)
        above, below = (height, place.height - 4) if inside else (-4.0, place.height + height - 2)
        corners = [
            (place.x + x, place.y + y)
            for x, y in ((left, above), (right, above), (left, below), (right, below))
        ]
        boxes = [(x, y - height, x + width, y) for x, y in corners]
        free = next(
            (n for n, box in enumerate(boxes) if box[1] >= 0 and not any(_overlap(box, b) for b in taken)),
            None,
        )
        if free is None:
            found.append(replace(place, text=""))
            continue
        taken.append(boxes[free])
        x, y = corners[free]
        found.append(replace(place, text_x=round(x, 1), text_y=round(y, 1)))
    return tuple(found)


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
