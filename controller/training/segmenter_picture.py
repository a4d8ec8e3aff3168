"""A picture of one image, its truth, and what a model made of it before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Each panel is enlarged to about this many pixels, and this far from the next.
_PANEL_PX, _GAP_PX = 320, 8
_OUTLINE = np.array([0, 220, 255], np.uint8)


def write_before_after(path: Path, image: NDArray[Any], outlines: Sequence[NDArray[np.int32]]) -> None:
    """Write a PNG: the image alone, then once for each label image with the outlines of its objects.

    Parameters
    ----------
    path
        Of the file.
    image
        Shape ``(y, x)``; its brightest thousandth is white.
    outlines
        Label images of the same shape.
    """
    scale = max(1, _PANEL_PX // max(image.shape))
    low, high = np.percentile(image, (1, 99.9))
    grey = np.clip((image - low) / max(float(high - low), 1e-12), 0, 1)
    plain = np.repeat((255 * np.sqrt(grey)).astype(np.uint8)[..., None], 3, axis=2)
    plain = plain.repeat(scale, axis=0).repeat(scale, axis=1)
    panels = [plain]
    for labels in outlines:
        large = labels.repeat(scale, axis=0).repeat(scale, axis=1)
        border = np.zeros(large.shape, np.bool_)
        border[1:] |= large[1:] != large[:-1]
        border[:, 1:] |= large[:, 1:] != large[:, :-1]
        panels.append(np.where(border[..., None], _OUTLINE, plain))
    gap = np.full((plain.shape[0], _GAP_PX, 3), 255, np.uint8)
    row = [part for panel in panels for part in (panel, gap)][:-1]
    Image.fromarray(np.concatenate(row, axis=1)).save(path)
