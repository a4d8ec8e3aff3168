"""Images as a policy and a person see them. numpy and Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def encoded(photons: NDArray[Any], full_scale_photons: float) -> Bytes:
    """Return an image of counts as bytes: their square root, of which 255 is always the same number.

    The square root makes shot noise the same everywhere, and a fixed full scale keeps bright images
    brighter than dim ones.
    """
    part = np.clip(np.asarray(photons, np.float64) / full_scale_photons, 0.0, 1.0)
    return np.asarray(np.rint(255 * np.sqrt(part)), np.uint8)


def panels(
    images: Sequence[Bytes], titles: Sequence[str], bars: Sequence[tuple[str, float]], side_px: int = 256
) -> Bytes:
    """Return images side by side over bars of 0..1, as an RGB picture of shape ``(y, x, 3)``."""
    from PIL import Image, ImageDraw

    gap, line = 8, 20
    width = len(images) * (side_px + gap) + gap
    height = line + side_px + gap + line * len(bars) + gap
    picture = Image.new("RGB", (width, height), (24, 24, 28))
    draw = ImageDraw.Draw(picture)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        x = gap + number * (side_px + gap)
        draw.text((x, 5), title, fill=(220, 220, 220))
        shown = Image.fromarray(_stretched(image)).resize((side_px, side_px), Image.Resampling.NEAREST)
        picture.paste(shown, (x, line))
    for number, (name, value) in enumerate(bars):
        y = line + side_px + gap + line * number
        draw.text((gap, y + 4), name, fill=(220, 220, 220))
        left, right = gap + 130, width - gap
        draw.rectangle((left, y + 4, right, y + line - 5), outline=(90, 90, 96))
        filled = left + round((right - left) * min(1.0, max(0.0, value)))
        if filled > left:
            draw.rectangle((left, y + 4, filled, y + line - 5), fill=(86, 160, 211))
    return np.asarray(picture)


def _stretched(image: Bytes) -> Bytes:
    """Return an image over the full range: a person looks at shapes, not at counts."""
    top = max(1, int(image.max()))
    return (image.astype(np.float64) * (255 / top)).astype(np.uint8)
