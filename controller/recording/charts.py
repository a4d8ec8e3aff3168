"""Geometry of small charts: from times and values to ticks, paths and marks in the units of an SVG.

Only numbers and plain text come out; the template draws them, so that every string is escaped there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

import numpy as np

from controller.recording.units import number, quantity, scale

WIDTH, HEIGHT = 380, 190
WIDE = 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 38
_MARKS_MAX = 240
_LINE_MAX = 1200


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of an axis: where it is and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One point: its outline, the kind that colours it, and what a reader sees on hovering."""

    outline: str
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Series:
    """Values over the session's clock. ``kinds`` names the modality of each point, or one for all."""

    times_s: Sequence[float]
    values: Sequence[float]
    kinds: Sequence[str] | str = "plain"
    line: str = "straight"
    names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis: range in SI units, ticks, and the label with its unit."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, ready to draw in a box of ``width`` x ``height``."""

    title: str
    y_label: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[tuple[str, str], ...]
    marks: tuple[Mark, ...]
    rules: tuple[Tick, ...]
    summary: str
    note: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM

    @property
    def right(self) -> float:
        """Return where the axes end."""
        return self.width - _RIGHT


def time_axis(end_s: float, clock: str) -> Axis:
    """Return the axis of a session's clock from 0 to ``end_s``."""
    high = end_s if isfinite(end_s) and end_s > 0 else 1.0
    if high >= 2 * 3600:
        return axis(0.0, high, f"{clock} (h)", 1 / 3600)
    if high >= 240:
        return axis(0.0, high, f"{clock} (min)", 1 / 60)
    factor, unit = scale("s", high)
    return axis(0.0, high, f"{clock} ({unit})", factor)


def value_axis(values: Sequence[float], unit: str) -> Axis:
    """Return an axis that holds ``values``; it starts at 0 unless that would hide what changes."""
    finite = [value for value in values if isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if low == high:
        low, high = (0.0, 1.25 * high) if high > 0 else (1.25 * low, 0.0) if low < 0 else (0.0, 1.0)
    elif 0 <= low < 0.6 * high:
        low, high = 0.0, high + 0.06 * high
    else:
        pad = 0.08 * (high - low)
        low, high = low - pad, high + pad
    factor, prefixed = scale(unit, max(abs(low), abs(high)))
    return axis(low, high, prefixed, factor)


def axis(low: float, high: float, label: str, factor: float = 1.0, count: int = 5) -> Axis:
    """Return an axis with about ``count`` ticks at round values of ``factor`` times its range."""
    step = _round_step((high - low) * factor / count)
    first = ceil(low * factor / step - 1e-6)
    last = floor(high * factor / step + 1e-6)
    shown = [round(n * step, 12) for n in range(first, last + 1)]
    return Axis(low, high, tuple((value / factor, number(value, 4)) for value in shown), label)


def plot(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    x: Axis,
    rules: Sequence[tuple[float, str]] = (),
    width: int = WIDTH,
) -> Chart:
    """Lay out a chart of ``series`` over the time axis ``x``; ``rules`` are horizontal lines with text."""
    values = [value for one in series for value in one.values] + [value for value, _ in rules]
    y = value_axis(values, unit)
    place = _Placement(x, y, width)
    total = sum(len(one.values) for one in series)
    marks_each = max(2, _MARKS_MAX // max(1, len(series)))
    lines = [(_path(one, place), one.kinds if isinstance(one.kinds, str) else "plain") for one in series]
    marks = [mark for one in series for mark in _marks(one, place, unit, marks_each)]
    note = f"{len(marks)} of {total} points are marked" if len(marks) < total else ""
    return Chart(
        title=title,
        y_label=y.label,
        x_label=x.label,
        x_ticks=tuple(Tick(place.x(at), text) for at, text in x.ticks),
        y_ticks=tuple(Tick(place.y(at), text) for at, text in y.ticks),
        lines=tuple((path, kind) for path, kind in lines if path),
        marks=tuple(marks),
        rules=tuple(Tick(place.y(at), text) for at, text in rules),
        summary=_summary(values, unit),
        note=note,
        width=width,
    )


def outline(kind: str, x: float, y: float, radius: float = 3.2) -> str:
    """Return the outline of a mark; each modality has a shape of its own, not only a colour."""
    r = radius
    if kind == "sted":
        return f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z"
    if kind == "overview":
        side = f"{1.3 * r:.1f}"
        return f"M{x:.1f} {y - 1.3 * r:.1f}l{side} {side}l-{side} {side}l-{side} -{side}z"
    if kind == "two_photon":
        return f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z"
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r:.1f} 0a{r} {r} 0 1 0 {-2 * r:.1f} 0z"


def evenly(count: int, limit: int) -> list[int]:
    """Return at most ``limit`` indices out of ``count``, evenly spread, first and last among them."""
    if count <= limit:
        return list(range(count))
    return sorted({int(index) for index in np.linspace(0, count - 1, limit).round()})


class _Placement:
    """From SI values to the box."""

    def __init__(self, x: Axis, y: Axis, width: int) -> None:
        self._x, self._y, self._width = x, y, width

    def x(self, value: float) -> float:
        share = (value - self._x.low) / (self._x.high - self._x.low)
        return round(_LEFT + share * (self._width - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self._y.low) / (self._y.high - self._y.low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def _path(one: Series, place: _Placement) -> str:
    if one.line == "none":
        return ""
    parts: list[str] = []
    for index in evenly(len(one.values), _LINE_MAX):
        if not isfinite(one.values[index]):
            continue
        x, y = place.x(one.times_s[index]), place.y(one.values[index])
        if not parts:
            parts.append(f"M{x} {y}")
        elif one.line == "step":
            parts.append(f"H{x}V{y}")
        else:
            parts.append(f"L{x} {y}")
    return "".join(parts) if len(parts) > 1 else ""


def _marks(one: Series, place: _Placement, unit: str, limit: int) -> list[Mark]:
    found = []
    for index in evenly(len(one.values), limit):
        value, time_s = one.values[index], one.times_s[index]
        if not isfinite(value):
            continue
        kind = one.kinds if isinstance(one.kinds, str) else one.kinds[index]
        shown = (
            quantity(100 * value if unit == "%" else value, "")
            if unit in {"", "%"}
            else quantity(value, unit)
        )
        title = f"{quantity(time_s, 's')}: {shown}{' %' if unit == '%' else ''}"
        if one.names:
            title += f" · {one.names[index]}"
        found.append(Mark(outline(kind, place.x(time_s), place.y(value)), kind, title))
    return found


def _summary(values: Sequence[float], unit: str) -> str:
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return "no values"
    factor, prefixed = scale(unit, max(abs(value) for value in finite))
    low, high = number(min(finite) * factor), number(max(finite) * factor)
    return f"{low} to {high} {prefixed}".strip() if low != high else f"{low} {prefixed}".strip()


def _round_step(step: float) -> float:
    if not step > 0:
        return 1.0
    magnitude = 10.0 ** floor(log10(step))
    return magnitude * next(nice for nice in (1, 2, 2.5, 5, 10) if nice * magnitude >= step * (1 - 1e-9))
