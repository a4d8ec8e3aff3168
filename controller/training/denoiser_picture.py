"""A picture of one frame beside what denoisers made of it, in the same contrast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from controller.core.frame import FloatImage

#: Each image is enlarged to about this many pixels, and this far from the next.
_PANEL_PX, _GAP_PX = 320, 8


def write_side_by_side(path: Path, images: Sequence[FloatImage]) -> None:
    """Write a PNG of images of about the same size, from left to right.

    Black and white are the same values in all: what the last one has at its 1 % and 99.9 %. The noise of a
    frame goes beyond both.
    """
    rows, columns = (min(image.shape[axis] for image in images) for axis in (0, 1))
    low, high = np.percentile(images[-1], (1, 99.9))
    scale = max(1, _PANEL_PX // max(rows, columns))
    panels = []
    for image in images:
        grey = np.clip((image[:rows, :columns] - low) / max(float(high - low), 1e-12), 0, 1)
        panel = (255 * grey).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
        panels += [panel, np.full((panel.shape[0], _GAP_PX), 255, np.uint8)]
    Image.fromarray(np.concatenate(panels[:-1], axis=1)).save(path)
