"""Where the pictures that people are shown come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from controller.core.frame import FloatImage
from controller.labels.records import Sample


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
