"""What goes into a model that was made elsewhere: channels, pixel size, range of values, size.

Such a model was trained on images of some pixel size and scaled in some way. Nothing here guesses
that: the options say it, and the defaults change nothing but the size of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from skimage.transform import resize

from controller.core.frame import Denoised, FloatImage, Frame
from controller.core.settings import MAX_PIXELS, Positive, Settings
from controller.segmentation.foreign_files import ForeignModelError
from controller.segmentation.spots import LARGEST, in_photons

Channel = Literal["image", "raw", "std"]

#: Pixel sizes that differ by less are not worth the blur of resampling.
_SAME_SIZE = 0.02


class ImageOptions(Settings):
    """How a frame becomes the input of a model."""

    channels: Annotated[tuple[Channel, ...], Field(min_length=1, max_length=16)] = ("image",)
    """For each input channel: ``image`` (denoised if there is a denoiser, else raw), ``raw``, or ``std``
    (the denoiser's own error; without one, that of photon counting)."""
    pixel_size_m: Positive | None = None
    """What the model was trained with. Frames are resampled to it; without it they are taken as they are."""
    units_per_photon: Positive = 1.0
    """Detector units that one photon gives (1 for a photon counter)."""
    offset_units: float = 0.0
    """Detector units at no light."""


class ScalingOptions(ImageOptions):
    """The same, with the range of values that the model expects."""

    normalisation: Literal["none", "percentiles", "mean_std"] = "none"
    """``none`` gives photons. ``percentiles`` puts two percentiles of each channel at 0 and 1 and
    ``mean_std`` subtracts its mean and divides by its standard deviation: both stretch the noise of an
    empty frame until it looks like an image."""
    percentiles: tuple[float, float] = (1.0, 99.8)
    factor: Positive = 1.0
    """Values are multiplied by this in the end."""

    @model_validator(mode="after")
    def _percentiles_rise(self) -> Self:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must rise within 0..100, got {low:g} and {high:g}")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Channels ``(c, y, x)``, float32; ``frame_shape`` is the frame's, ``shape`` the one without padding."""

    channels: FloatImage
    frame_shape: tuple[int, int]
    shape: tuple[int, int]

    def padded(self, shape: tuple[int, int]) -> Prepared:
        """Return the same, mirrored at its lower right edges until it has that ``shape`` ``(y, x)``."""
        rows, columns = (want - have for want, have in zip(shape, self.channels.shape[1:], strict=True))
        if rows < 0 or columns < 0:
            raise ForeignModelError(
                f"the model takes {shape[0]}x{shape[1]} pixels at most, the frame has "
                f"{self.shape[0]}x{self.shape[1]} (at the model's pixel size): scan a smaller region or "
                f"coarser pixels, or export the model with a free height and width"
            )
        channels = np.pad(self.channels, ((0, 0), (0, rows), (0, columns)), mode="symmetric")
        return Prepared(channels, self.frame_shape, self.shape)

    def in_frame(self, maps: NDArray[Any], *, nearest: bool = False) -> NDArray[Any]:
        """Return maps ``(c, y, x)`` of the model in the frame's pixels, without the padding.

        Raises
        ------
        ForeignModelError
            If they are not of the size that went in.
        """
        if maps.shape[1:] != self.channels.shape[1:]:
            raise ForeignModelError(
                f"the model answered {'x'.join(map(str, maps.shape[1:]))} pixels to "
                f"{'x'.join(map(str, self.channels.shape[1:]))}; it must answer for each pixel"
            )
        maps = maps[:, : self.shape[0], : self.shape[1]]
        if self.shape == self.frame_shape:
            return maps
        if nearest:
            # Sampled at the middle of each pixel; resize would pass through floats, too few for labels.
            rows, columns = (
                ((np.arange(new) + 0.5) * old / new).astype(np.intp)
                for new, old in zip(self.frame_shape, self.shape, strict=True)
            )
            return np.asarray(maps[:, rows[:, None], columns])
        return np.stack([_resized(image, self.frame_shape) for image in maps])


def prepare(frame: Frame, denoised: Denoised | None, options: ImageOptions) -> Prepared:
    """Return the channels that ``options`` name, in photons, at the model's pixel size.

    Raises
    ------
    ForeignModelError
        If the frame would become too large at that pixel size.
    """
    channels = np.stack([_channel(name, frame, denoised, options) for name in options.channels])
    shape = frame.photons.shape
    rows, columns = shape
    if options.pixel_size_m is not None:
        scale = frame.settings.pixel_size_m / options.pixel_size_m
        if abs(scale - 1) > _SAME_SIZE:
            # Measured as floats first: a mistake in a unit gives a size that no array could have.
            if rows * columns * scale**2 > MAX_PIXELS:
                raise ForeignModelError(
                    f"a frame of {rows}x{columns} pixels of {frame.settings.pixel_size_m:g} m is "
                    f"{scale:.3g} times as many in each direction at pixel_size_m = "
                    f"{options.pixel_size_m:g}; {MAX_PIXELS} pixels in all are allowed"
                )
            rows, columns = max(1, round(rows * scale)), max(1, round(columns * scale))
            channels = np.stack([_resized(image, (rows, columns)) for image in channels])
    return Prepared(np.asarray(channels, np.float32), (shape[0], shape[1]), (rows, columns))


def normalised(prepared: Prepared, options: ScalingOptions) -> Prepared:
    """Return channels in the range that the model expects, each normalised by itself."""
    channels = np.stack([_normalised(image, options) for image in prepared.channels.astype(np.float64)])
    scaled = np.asarray(channels * options.factor, np.float32)
    return Prepared(scaled, prepared.frame_shape, prepared.shape)


def _channel(name: Channel, frame: Frame, denoised: Denoised | None, options: ImageOptions) -> FloatImage:
    if name == "std":
        if denoised is not None:
            std = np.nan_to_num(denoised.std.astype(np.float64), posinf=LARGEST)
            return np.asarray(np.minimum(std, LARGEST) / options.units_per_photon, np.float32)
        # A pixel without a photon is not known without error either.
        photons = in_photons(frame.photons, options.offset_units, options.units_per_photon)
        return np.asarray(np.sqrt(np.maximum(photons, 1.0)), np.float32)
    values = frame.photons if name == "raw" or denoised is None else denoised.mean
    return in_photons(values, options.offset_units, options.units_per_photon).astype(np.float32)


def _normalised(image: NDArray[np.float64], options: ScalingOptions) -> NDArray[np.float64]:
    if options.normalisation == "none":
        return image
    if options.normalisation == "percentiles":
        zero, top = (float(value) for value in np.percentile(image, options.percentiles))
        unit = top - zero
    else:
        zero, unit = float(image.mean()), float(image.std())
    # An image of one value has no range; it stays dark.
    return (image - zero) / unit if unit > 0 else np.zeros_like(image)


def _resized(image: NDArray[Any], shape: tuple[int, int]) -> FloatImage:
    smaller = shape[0] < image.shape[0] or shape[1] < image.shape[1]
    resampled = resize(  # type: ignore[no-untyped-call]
        image.astype(np.float64), shape, order=1, mode="edge", anti_aliasing=smaller, preserve_range=True
    )
    return np.asarray(resampled, np.float32)
