"""Half the resolution and back, for a denoiser that is short of time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage


def halved(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of 2 x 2 pixels, ``(…, y, x)``; of odd sizes, the last line counts twice."""
    rows, columns = images.shape[-2:]
    if rows % 2 or columns % 2:
        edges = [(0, 0)] * (images.ndim - 2) + [(0, rows % 2), (0, columns % 2)]
        images = np.pad(images, edges, mode="edge")
    lines = images[..., ::2, :] + images[..., 1::2, :]
    means: NDArray[np.float32] = lines[..., ::2] + lines[..., 1::2]
    means *= np.float32(0.25)
    return means


def doubled(image: FloatImage) -> FloatImage:
    """Return twice as many pixels in a line, interpolated linearly between the centres of the old ones."""
    return _doubled_lines(_doubled_lines(image).T).T


def _doubled_lines(image: FloatImage) -> FloatImage:
    above = np.concatenate((image[:1], image[:-1]))
    below = np.concatenate((image[1:], image[-1:]))
    own = image * np.float32(0.75)
    lines = np.empty((2 * len(image), image.shape[1]), np.float32)
    lines[::2] = own + np.float32(0.25) * above
    lines[1::2] = own + np.float32(0.25) * below
    return lines
