"""Pictures on their way to the page: raw values, so that contrast is set there without a loss."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from controller.labels.images import ImageSource, Picture, contrast_window
from controller.labels.records import Sample

#: Pictures that are kept, so that one is not read twice: once for its facts, once for its pixels.
_KEPT_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Sent:
    """A picture as it is sent.

    Attributes
    ----------
    content
        Pixels row by row, little-endian.
    dtype
        ``uint16`` or ``float32``.
    shape_yx, origin_yx
        Its size, and the pixel of it where the sample begins.
    window
        Values to show as black and as white to begin with.
    etag
        Checksum of ``content``, in quotes.
    """

    content: bytes
    dtype: Literal["uint16", "float32"]
    shape_yx: tuple[int, int]
    origin_yx: tuple[int, int]
    window: tuple[float, float]
    etag: str


def to_send(picture: Picture) -> Sent:
    """Return a picture as bytes.

    Raises
    ------
    ValueError
        If it is no 2-D image of numbers.
    """
    pixels = np.asarray(picture.pixels)
    if pixels.ndim != 2 or not pixels.size or pixels.dtype.kind not in "biuf":
        raise ValueError(f"a picture is a 2-D image of numbers, got {pixels.dtype} {pixels.shape}")
    is_small = pixels.dtype.kind == "b" or (pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2)
    dtype: Literal["uint16", "float32"] = "uint16" if is_small else "float32"
    with np.errstate(over="ignore"):  # what is too large for float32 is shown as infinite
        content = pixels.astype("<u2" if is_small else "<f4").tobytes()
    return Sent(
        content=content,
        dtype=dtype,
        shape_yx=(pixels.shape[0], pixels.shape[1]),
        origin_yx=picture.origin_yx,
        window=_window(picture.window, pixels),
        etag=f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"',
    )


def _window(given: tuple[float, float], pixels: NDArray[Any]) -> tuple[float, float]:
    """Return what the source would show, or percentiles where that shows nothing."""
    low, high = (float(value) for value in given)
    is_usable = math.isfinite(low) and math.isfinite(high) and low < high
    return (low, high) if is_usable else contrast_window(pixels)


class PictureShelf:
    """Reads pictures and keeps the last ones; used by several threads at once.

    Parameters
    ----------
    images
        Where they come from.
    context_px
        Pixels around each sample.
    """

    def __init__(self, images: ImageSource, context_px: int) -> None:
        self._images, self._context_px = images, context_px
        self._kept: OrderedDict[tuple[str, str], Sent] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def channels(self, sample: Sample) -> tuple[str, ...]:
        """Return what there is of a sample."""
        return self._images.channels(sample)

    def picture(self, sample: Sample, channel: str) -> Sent:
        """Return one channel of a sample in its context.

        Raises
        ------
        KeyError
            If there is no such channel, or the image is gone.
        """
        key = (sample.id, channel)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        if channel not in self.channels(sample):
            raise KeyError(f"sample {sample.id} has no channel {channel!r}")
        sent = to_send(self._images.picture(sample, channel, self._context_px))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = sent
                self._bytes += len(sent.content)
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1].content)
        return sent
