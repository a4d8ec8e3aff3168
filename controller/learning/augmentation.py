"""Changes to training images that keep them true, as data: a list of steps that a model card can hold.

In a photograph, colour, size and sharpness are accidents, and a network should learn not to heed them. In
a micrograph they are the measurement: the number of photons is how much dye there is, the size in pixels is
a length, and the finest detail is what the instrument was bought for. So there is no step here that changes
the ratio of channels, and those that could do harm refuse images that they would harm.

Three tricks that are common in photographs are refused as such: :class:`Rescale` where all pixels have one
size, :class:`Blur` beyond the point spread function, and :class:`Contrast` of single images. Who knows better
says why in ``override``, in a sentence; it is kept with the options, in the card of the model.

What keeps an image true is what the microscope could have written down: the same sample mirrored or turned
(:class:`Flip`, :class:`Rotate90`), or scanned with less light (:class:`IntensityScale`). That is the
default. Fewer photons are made by leaving photons out, one by one, so that what is left is again a Poisson
count: scaling the numbers would scale their noise, and no detector does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import ndimage

from controller.core.errors import StedfastError
from controller.core.settings import NonNegative, Positive, Settings

Array = NDArray[Any]


class AugmentationError(StedfastError):
    """An image would not stay true if a step changed it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An image with what is known of it.

    Attributes
    ----------
    image
        Photons, shape ``(…, y, x)``: axes before the last two (time, channels) are changed alike. Whole
        numbers if they were counted, or any numbers ≥ 0 if ``is_expected``.
    labels
        Arrays by name, shape ``(…, y, x)``: classes, numbers of objects, weights.
    is_expected
        Whether ``image`` is an expected count (simulated without noise, or an average of many frames)
        rather than one that was counted. A step that asks for another amount of light draws counts from
        it, and from then on they are counted.
    """

    image: Array
    labels: Mapping[str, Array]
    is_expected: bool = False

    def __post_init__(self) -> None:
        shapes = {name: labels.shape for name, labels in self.labels.items()}
        if self.image.ndim < 2 or any(shape[-2:] != self.image.shape[-2:] for shape in shapes.values()):
            raise AugmentationError(
                f"labels must have the image's last two axes, got an image of {self.image.shape} and labels "
                f"of {shapes}"
            )

    def changed(self, change: Any) -> Self:
        """Return the sample with ``change`` (array to array) applied to the image and to all labels."""
        labels = {name: np.ascontiguousarray(change(labels)) for name, labels in self.labels.items()}
        return replace(self, image=np.ascontiguousarray(change(self.image)), labels=labels)


#: Why something that is refused is right here, for whoever reads the model's card.
Written = Annotated[str, Field(min_length=20, max_length=500)]


def _refuse_unless_written(override: str | None, reason: str) -> None:
    if override is None:
        raise ValueError(f"{reason}; leave it out, or say in override why it is right here")


class Flip(Settings):
    """Mirror the image in half of all cases.

    A sample has no left and right that the microscope knows of. Leave out the flip of ``x`` where
    something has: a bidirectional scan with a phase error, a detector that smears along the line.
    """

    kind: Literal["flip"] = "flip"
    axis: Literal["y", "x"]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample, mirrored or not."""
        axis = -2 if self.axis == "y" else -1
        return sample.changed(lambda a: np.flip(a, axis)) if rng.random() < 0.5 else sample


class Rotate90(Settings):
    """Turn the image by none, one, two or three right angles; one that is not square by none or two.

    Right angles move pixels and make no new values, so that counts stay counts and outlines stay sharp. Any
    other angle would mix the noise of neighbours. Leave it out where lines differ from columns: noise that
    is correlated along the line, motion between lines.
    """

    kind: Literal["rotate_90"] = "rotate_90"

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample, turned."""
        turns = int(rng.integers(4))
        if sample.image.shape[-2] != sample.image.shape[-1]:
            turns = 2 * (turns // 2)
        return sample.changed(lambda a: np.rot90(a, turns, axes=(-2, -1))) if turns else sample


class IntensityScale(Settings):
    """Show the sample in less light, or in other light than it was scanned with.

    The factor is drawn uniformly on a logarithmic scale: light varies by factors. ``background_photons`` is
    the most that is added to each pixel, as Poisson counts: stray light and dark counts, which are never
    negative and bring noise of their own. It is drawn uniformly from 0.

    Counts are thinned, each photon being kept with the probability of the factor, which gives exactly what
    less light gives. More light cannot be made of them: twice a count has twice the noise of the count, not
    √2 of it. An expected image can be shown in any light, and the counts are drawn anew.
    """

    kind: Literal["intensity_scale"] = "intensity_scale"
    lowest: Positive = 0.25
    highest: Positive = 1.0
    background_photons: NonNegative = 0.0

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.lowest <= self.highest:
            raise ValueError(f"lowest={self.lowest:g} must not be above highest={self.highest:g}")
        return self

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample with a count of the photons of another exposure, of the image's type.

        Raises
        ------
        AugmentationError
            If counts are asked to become more, or what should be counts is none.
        """
        if not sample.is_expected and self.highest > 1:
            raise AugmentationError(
                f"highest={self.highest:g} asks for more photons than were counted; from counts only fewer "
                f"can be made: lower intensity_scale.highest to 1, or give an expected image (is_expected)"
            )
        low, high = np.log(self.lowest), np.log(self.highest)
        factor = min(float(np.exp(rng.uniform(low, high))), self.highest)
        background = self.background_photons * rng.random()
        if sample.is_expected:
            photons = rng.poisson(_expected(sample.image) * factor + background)
        else:
            photons = rng.binomial(_counts(sample.image), factor)
            if background > 0:
                photons = photons + rng.poisson(background, photons.shape)
        # An expected count may be of any type; what is drawn from it must not be rounded or wrapped.
        kind = sample.image.dtype if _holds(sample.image.dtype, photons) else np.dtype(np.float32)
        return replace(sample, image=photons.astype(kind), is_expected=False)


class Rescale(Settings):
    """Show the sample at another pixel size. Only for data whose pixel size is not constant.

    Where every image has the same pixel size, the size of a thing in pixels is a measurement, and a network
    that was taught to ignore it mistakes a vesicle for a cell. ``pixel_size_varies`` has no default, so
    that somebody has to say that it does.

    The pixel size is multiplied by a factor between ``finest`` and ``coarsest``, drawn uniformly on a
    logarithmic scale, and the shape divided by it: cut patches afterwards. Labels and counts are taken from
    the nearest pixel. Of a scanning microscope that is what a coarser scan with the same dwell time counts.
    A finer one would show the noise of one pixel in two, so it needs an expected image, which is
    interpolated along straight lines.
    """

    kind: Literal["rescale"] = "rescale"
    pixel_size_varies: bool
    finest: Positive = 1.0
    coarsest: Positive = 1.5
    override: Written | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.pixel_size_varies:
            _refuse_unless_written(
                self.override,
                "rescale: pixel_size_varies must be true; where all pixels have one size, "
                "the size of a thing in pixels is a measurement",
            )
        if not self.finest <= self.coarsest:
            raise ValueError(f"finest={self.finest:g} must not be above coarsest={self.coarsest:g}")
        return self

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample at another pixel size.

        Raises
        ------
        AugmentationError
            If counts are asked at a finer one.
        """
        if not sample.is_expected and self.finest < 1:
            raise AugmentationError(
                f"finest={self.finest:g} asks for pixels between those that were counted: raise "
                f"rescale.finest to 1, or give an expected image (is_expected)"
            )
        factor = float(np.exp(rng.uniform(np.log(self.finest), np.log(self.coarsest))))
        shape = sample.image.shape[-2:]
        rows, columns = (_places(length, factor) for length in shape)
        nearest = np.ix_(_nearest(rows, shape[0]), _nearest(columns, shape[1]))
        scaled = sample.changed(lambda a: a[(..., *nearest)])
        if not sample.is_expected:
            return scaled
        image = _interpolated(_expected(sample.image), rows, columns)
        return replace(scaled, image=image.astype(_float_type(sample.image.dtype)))


class Blur(Settings):
    """Smooth an expected image with a Gaussian. Never in the default, and refused for counts.

    Detail at the limit of the optics is what a STED or two-photon image is taken for; a network that has
    seen it blurred learns that it does not matter. And a blurred count is no count: its noise is correlated
    and too small, which no detector writes down. It is here for one purpose: expected images of an
    instrument whose focus is known to drift. Let an :class:`IntensityScale` follow, which draws the counts.

    ``psf_sigma_px`` is the standard deviation of the point spread function. A blur beyond it, or beyond one
    that nobody knows, wipes out what the instrument resolves: it needs an ``override``.
    """

    kind: Literal["blur"] = "blur"
    largest_sigma_px: Positive
    psf_sigma_px: Positive | None = None
    override: Written | None = None

    @model_validator(mode="after")
    def _stays_within_the_psf(self) -> Self:
        if self.psf_sigma_px is None or self.largest_sigma_px > self.psf_sigma_px:
            psf = "an unknown one" if self.psf_sigma_px is None else f"psf_sigma_px={self.psf_sigma_px:g}"
            _refuse_unless_written(
                self.override,
                f"blur: largest_sigma_px={self.largest_sigma_px:g} is beyond the point spread function "
                f"({psf}): it wipes out the detail that the image was taken for",
            )
        return self

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample with its expected image blurred by up to ``largest_sigma_px``.

        Raises
        ------
        AugmentationError
            If the image was counted.
        """
        if not sample.is_expected:
            raise AugmentationError(
                "blur would correlate the noise of counts: leave it out, or give an expected image "
                "(is_expected)"
            )
        sigma = self.largest_sigma_px * rng.random()
        spread = (0.0,) * (sample.image.ndim - 2) + (sigma, sigma)
        image = ndimage.gaussian_filter(_expected(sample.image), spread, mode="nearest")
        return replace(sample, image=image.astype(_float_type(sample.image.dtype)))


class Contrast(Settings):
    """Change the contrast of each image by itself. Refused: the number of photons is the measurement.

    With an ``override`` it does what it says: ``gain`` multiplies by a factor between ``1 / most`` and
    ``most``, ``gamma`` raises to such a power with the largest value kept, both drawn uniformly on a
    logarithmic scale, and ``min max`` spreads each channel from 0 to 1. What comes out are no counts.
    """

    kind: Literal["contrast"] = "contrast"
    how: Literal["gain", "gamma", "min max"]
    most: Annotated[float, Field(ge=1, le=100)] = 1.5
    override: Written | None = None

    @model_validator(mode="after")
    def _is_refused(self) -> Self:
        _refuse_unless_written(
            self.override,
            f"contrast ({self.how}) of single images: brightness is how much dye there is, and its ratio "
            f"to the noise is how sure that is; for less light there is intensity_scale",
        )
        return self

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample with an image of numbers that are no counts."""
        image = _expected(sample.image)
        draw = float(np.exp(rng.uniform(-1, 1) * np.log(self.most)))
        if self.how == "gain":
            image = image * draw
        elif self.how == "gamma":
            top = image.max() or 1.0
            image = top * (image / top) ** draw
        else:
            low, high = (getattr(image, name)(axis=(-2, -1), keepdims=True) for name in ("min", "max"))
            image = (image - low) / np.where(high > low, high - low, 1.0)
        return replace(sample, image=image.astype(_float_type(sample.image.dtype)))


Step = Annotated[Flip | Rotate90 | IntensityScale | Rescale | Blur | Contrast, Field(discriminator="kind")]


class Augmentation(Settings):
    """What is done to a training image, in this order.

    ``model_dump_json`` writes it into a model card, ``model_validate_json`` reads it back.
    """

    steps: tuple[Step, ...] = (Flip(axis="y"), Flip(axis="x"), Rotate90(), IntensityScale())

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return a changed sample; the same ``rng`` makes the same one, bit for bit.

        Raises
        ------
        AugmentationError
            If a step would make of the image what no microscope could have written down.
        """
        for step in self.steps:
            sample = step(sample, rng)
        return sample


def _counts(image: Array) -> NDArray[np.int64]:
    # Up to 2**53 a float holds every whole number. "not all" instead of "any not": nan fails, too.
    is_count = (image >= 0) & (image <= 2**53) & (image == np.floor(image))
    if not is_count.all():
        raise AugmentationError(
            f"{np.count_nonzero(~is_count)} of {image.size} pixels are no counts of photons (whole numbers "
            f">= 0): convert grey levels by gain and offset to photons and give an expected image, or leave "
            f"intensity_scale out"
        )
    return image.astype(np.int64)


def _expected(image: Array) -> NDArray[np.float64]:
    expected = image.astype(np.float64)
    if not ((expected >= 0) & (expected <= 1e15)).all():
        raise AugmentationError("an expected image needs finite numbers >= 0 in every pixel")
    return expected


def _holds(kind: np.dtype[Any], photons: Array) -> bool:
    if kind.kind == "f":
        return True
    return kind.kind in "iu" and (photons.size == 0 or int(photons.max()) <= np.iinfo(kind).max)


def _float_type(kind: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of an interpolated image: whole numbers would round it."""
    return kind if kind.kind == "f" else np.dtype(np.float32)


def _places(length: int, factor: float) -> NDArray[np.float64]:
    """Return where the middles of pixels ``factor`` as large lie, in old pixels."""
    count = max(1, round(length / factor))
    return np.asarray((np.arange(count, dtype=np.float64) + 0.5) * (length / count) - 0.5)


def _nearest(places: NDArray[np.float64], length: int) -> NDArray[np.intp]:
    return np.clip(np.floor(places + 0.5), 0, length - 1).astype(np.intp)


def _interpolated(image: Array, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Array:
    for axis, places in ((-2, rows), (-1, columns)):
        inside = np.clip(places, 0, image.shape[axis] - 1)
        low = np.minimum(inside.astype(np.intp), max(0, image.shape[axis] - 2))
        share = (inside - low).reshape((-1, 1) if axis == -2 else (-1,))
        high = np.minimum(low + 1, image.shape[axis] - 1)
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image
