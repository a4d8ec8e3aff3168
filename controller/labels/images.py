"""Where the pictures that people are shown come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage
from controller.labels.records import Sample

#: Of the values of a picture with its context, shown as black and as white: a few hot pixels shall not
#: make the rest dark.
_BLACK_PERCENT, _WHITE_PERCENT = 0.5, 99.8


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A sample inside its context, in one channel.

    Attributes
    ----------
    pixels
        Shape ``(y, x)``, uint16 or float32, in the units of the detector less its offset.
    origin_yx
        Row and column of ``pixels`` where the sample's first pixel lies.
    window
        The values that are shown as black and as white to begin with.
    """

    pixels: NDArray[Any]
    origin_yx: tuple[int, int]
    window: tuple[float, float]


class ImageSource(Protocol):
    """Gives pictures of samples."""

    def channels(self, sample: Sample) -> tuple[str, ...]:
        """Return what there is of a sample: ``raw``, ``denoised``, or names of detector channels."""

    def picture(self, sample: Sample, channel: str, context_px: int) -> Picture:
        """Return a sample with up to ``context_px`` pixels around it on each side.

        Raises
        ------
        KeyError
            If there is no such channel, or the image is gone.
        """


@dataclass(frozen=True, slots=True, eq=False)
class SampleImage:
    """A sample inside its context.

    Attributes
    ----------
    photons
        Shape ``(y, x)``, float, ≥ 0, in photons.
    origin_yx
        Row and column of ``photons`` where the sample's first pixel lies.
    mean, std
        The denoised image and its standard deviation in photons, of the same shape; ``None`` if there is
        none.
    """

    photons: FloatImage
    origin_yx: tuple[int, int]
    mean: FloatImage | None = None
    std: FloatImage | None = None


class SampleImages(Protocol):
    """Gives the images of samples."""

    def image(self, sample: Sample, context_px: int) -> SampleImage:
        """Return a sample with up to ``context_px`` pixels around it on each side.

        Raises
        ------
        KeyError
            If the image is gone, or cannot be read.
        """


_LARGEST = 1e300


def contrast_window(pixels: NDArray[Any]) -> tuple[float, float]:
    """Return the values to show as black and as white, from percentiles; infinite and nan do not count.

    The second is larger than the first, also in an empty or an even picture.
    """
    values = np.asarray(pixels, np.float64).ravel()
    # Beyond this nothing larger than the largest value could be named.
    values = np.clip(values[np.isfinite(values)], -_LARGEST, _LARGEST)
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (_BLACK_PERCENT, _WHITE_PERCENT)))
    if not high > low:  # most of it is even: what stands out decides
        low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + max(1.0, abs(low) * 1e-3))
