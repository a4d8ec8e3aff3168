"""Arrays as pictures in a page: PNG data URIs in a perceptually uniform colour map, with outlines."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from controller.recording.units import number, quantity

# Every fifteenth colour of matplotlib's "inferno" and "viridis" (S. van der Walt and N. Smith, CC0);
# interpolated they are within 5 of 255 levels of the originals.
_ANCHORS = {
    "inferno": "000004 0a0722 1e0c45 380962 510e6c 69166e 801f6c 982766 b0315b c63d4d d94d3d e9612b f47918 "
    "fa9407 fcb014 f8cd37 f2ea69 fcffa4",
    "viridis": "440154 481769 472a7a 433d84 3d4e8a 355e8d 2e6d8e 297b8e 23898e 1f978b 21a585 2eb37c 46c06f "
    "65cb5e 89d548 b0dd2f d8e219 fde725",
}
_TRANSPARENT = 255
_OUTLINE_MAX = 3000

FloatArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Contrast:
    """The values that are drawn as the darkest and the brightest colour, and what they count."""

    low: float
    high: float
    unit: str = "photons"

    @property
    def text(self) -> str:
        """Return the range in words, with as many digits as tell its ends apart."""
        share = (self.high - self.low) / max(abs(self.low), abs(self.high))
        digits = 2 + max(0, round(-log10(share)))
        return f"{number(self.low, digits)} to {number(self.high, digits)} {self.unit}"


@dataclass(frozen=True, slots=True)
class Bar:
    """A scale bar: its length as a share of the picture's width, and what it stands for."""

    share: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture with what is drawn over it. Without ``uri`` it says ``problem`` in its place."""

    title: str
    note: str = ""
    uri: str = ""
    problem: str = ""
    aspect: float = 1.0
    bar: Bar | None = None
    outline: str = ""
    grid_yx: tuple[int, int] = (1, 1)
    box: tuple[float, float, float, float] | None = None


def palette(name: str) -> NDArray[np.uint8]:
    """Return 256 colours of a map, shape ``(256, 3)``; the last one stands for transparent."""
    anchors = np.array([list(bytes.fromhex(code)) for code in _ANCHORS[name].split()], dtype=float)
    at = np.linspace(0, 255, len(anchors))
    return np.stack([np.interp(np.arange(256), at, channel) for channel in anchors.T], axis=1).astype(
        np.uint8
    )


def contrast(*images: FloatArray) -> Contrast:
    """Return a range that shows ``images`` well together: from 0.5 % to 99.7 % of their values."""
    values = np.concatenate([image[np.isfinite(image)].astype(float).ravel() for image in images])
    if values.size == 0:
        return Contrast(0.0, 1.0)
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.7)))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    return Contrast(low, high if high > low else low + 1.0)


def fit(image: FloatArray, side: int) -> FloatArray:
    """Return ``image`` with its longer side at most ``side`` pixels, by averaging; never enlarged."""
    rows, columns = image.shape
    factor = side / max(rows, columns)
    if factor >= 1:
        return image
    size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    return resize(image, size)


def resize(image: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Return ``image`` with ``size`` = (columns, rows): averaged when smaller, pixels kept when larger."""
    smaller = size[0] < image.shape[1] or size[1] < image.shape[0]
    method = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, method))


def png_uri(image: FloatArray, shown: Contrast, colours: str = "inferno") -> str:
    """Return ``image`` as a PNG data URI; what is not finite is transparent."""
    with np.errstate(invalid="ignore"):
        share = (image.astype(float) - shown.low) / (shown.high - shown.low)
        levels = np.clip(np.where(np.isfinite(share), share, 0) * 254, 0, 254).round().astype(np.uint8)
    levels[~np.isfinite(share)] = _TRANSPARENT
    picture = Image.frombytes("P", (levels.shape[1], levels.shape[0]), levels.tobytes())
    picture.putpalette(palette(colours).tobytes())
    stream = BytesIO()
    picture.save(stream, "PNG", transparency=_TRANSPARENT)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def colour_bar_uri(colours: str) -> str:
    """Return a horizontal strip of a colour map, dark to bright, as a PNG data URI."""
    return png_uri(np.arange(255.0)[None, :], Contrast(0.0, 254.0), colours)


def scale_bar(width_m: float) -> Bar:
    """Return a scale bar of a round length, about a quarter of the picture's width."""
    target_m = 0.35 * width_m
    magnitude = 10.0 ** floor(log10(target_m))
    length_m = magnitude * max(step for step in (1, 2, 5) if step * magnitude <= target_m * (1 + 1e-9))
    return Bar(length_m / width_m, quantity(length_m, "m"))


def aspect(shape_yx: Sequence[int]) -> float:
    """Return height over width for drawing; a single line of pixels is drawn thick enough to be seen."""
    return min(max(shape_yx[0] / shape_yx[1], 0.15), 2.5)


def outlines(labels: NDArray[np.int32]) -> tuple[str, tuple[int, int]]:
    """Return the borders between labels as an SVG path along pixel edges, and the grid it is drawn on.

    Of an image with very many borders only every second (third, …) pixel is looked at, so that a
    noisy segmentation does not make the page heavy.
    """
    step = 1
    while True:
        seen = labels[::step, ::step]
        parts = _runs(seen[:, 1:] != seen[:, :-1], "v") + _runs((seen[1:] != seen[:-1]).T, "h")
        if len(parts) <= _OUTLINE_MAX or min(seen.shape) <= 8:
            return "".join(parts), (seen.shape[0], seen.shape[1])
        step += 1


def _runs(edges: NDArray[np.bool_], direction: str) -> list[str]:
    """Return a path element for each straight run of ``edges``, which are ``(along, across)``."""
    parts = []
    padded = np.pad(edges, ((1, 1), (0, 0))).astype(np.int8)
    change = np.diff(padded, axis=0)
    across_start, along_start = np.nonzero(change.T == 1)
    _, along_end = np.nonzero(change.T == -1)
    for across, start, end in zip(across_start + 1, along_start, along_end, strict=True):
        x, y = (across, start) if direction == "v" else (start, across)
        parts.append(f"M{x} {y}{direction}{end - start}")
    return parts
