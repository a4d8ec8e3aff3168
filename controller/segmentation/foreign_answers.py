"""From what a model of others answers to labels, probability and uncertainty."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage, special

from controller.core.frame import FloatImage, Segmentation
from controller.core.settings import NonNegative, Positive, Settings
from controller.segmentation.foreign_files import ForeignModelError
from controller.segmentation.foreign_images import Prepared
from controller.segmentation.spots import binary_entropy_bits, split_at_maxima

NonNegativeIndex = Annotated[int, Field(ge=0, le=255)]
Axes = Literal["bcyx", "byxc", "byx", "cyx", "yxc", "yx"]


class AnswerOptions(Settings):
    """What the numbers of a model mean, and how they become objects."""

    answer: Literal["probabilities", "logits", "class_logits", "labels"] = "probabilities"
    """``logits`` are put through a sigmoid, ``class_logits`` through a softmax over the channels.
    ``labels`` are objects already, 0 = background: such a model does not say how sure it is, so
    probability is 0 or 1, uncertainty 0, and a policy that asks where a model is unsure learns nothing."""
    foreground_channels: Annotated[tuple[NonNegativeIndex, ...], Field(min_length=1)] = (0,)
    """Channels of the answer that are objects; their probabilities are added."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which a pixel is foreground."""
    split: Literal["none", "probability", "distance"] = "none"
    """How objects that touch are divided: at the maxima of the probability (spots), at those of the
    distance to the border (round cells), or not."""
    object_size_m: Positive = 1e-6
    """Expected diameter of an object; maxima nearer to each other than half of it are one."""
    smallest_area_m2: NonNegative = 0.0
    """Objects of a smaller area are dropped."""


def as_channels(array: NDArray[Any], axes: Axes) -> NDArray[Any]:
    """Return an answer with ``axes`` as ``(c, y, x)``.

    Raises
    ------
    ForeignModelError
        If it has other dimensions, or more than one image.
    """
    if array.ndim != len(axes):
        raise ForeignModelError(f"the model answered an array of shape {array.shape}, not axes {axes!r}")
    if "b" in axes:
        if array.shape[0] != 1:
            raise ForeignModelError(f"the model answered {array.shape[0]} images to one")
        array, axes = array[0], axes[1:]  # type: ignore[assignment]
    if "c" not in axes:
        return array[None]
    return np.moveaxis(array, axes.index("c"), 0)


def as_axes(channels: FloatImage, axes: Axes) -> FloatImage:
    """Return channels ``(c, y, x)`` in the order of ``axes``; one channel where these have no ``c``."""
    place = axes.replace("b", "").find("c")
    image = channels[0] if place < 0 else np.moveaxis(channels, 0, place)
    return np.ascontiguousarray(image[None] if "b" in axes else image)


def segmentation_of(
    maps: NDArray[Any], prepared: Prepared, options: AnswerOptions, pixel_size_m: float
) -> Segmentation:
    """Return what a model's answer ``(c, y, x)`` to ``prepared`` says of the frame.

    Raises
    ------
    ForeignModelError
        If it is not finite, of another size, or out of the range that ``options.answer`` tells.
    """
    if not np.isfinite(maps).all():
        raise ForeignModelError("the model answered nan or inf")
    if options.answer == "labels":
        objects: NDArray[Any] = _whole_numbers(prepared.in_frame(maps[:1], nearest=True)[0])
        probability = (objects > 0).astype(np.float32)
    else:
        probability = prepared.in_frame(_foreground(maps, options)[None])[0]
        probability = np.clip(probability, 0.0, 1.0).astype(np.float32)
        objects = _objects(probability, options, pixel_size_m)
    labels = numbered(objects, options.smallest_area_m2 / pixel_size_m**2)
    return Segmentation(labels, probability, binary_entropy_bits(probability))


def numbered(objects: NDArray[Any], smallest_pixels: float = 0.0) -> NDArray[np.int32]:
    """Return labels counted from 1 without gaps, without objects of fewer pixels."""
    if objects.max(initial=0) > objects.size:
        # Names far apart, as a model may give: a table of them all would not fit into memory.
        _, position = np.unique(objects, return_inverse=True)
        objects = position.reshape(objects.shape) + int(objects.min() > 0)
    areas = np.bincount(objects.ravel())
    keep = areas >= max(1.0, smallest_pixels)
    keep[0] = False
    numbers = (np.cumsum(keep) * keep).astype(np.int32)
    return np.asarray(numbers[objects], np.int32)


def _foreground(maps: NDArray[Any], options: AnswerOptions) -> NDArray[np.float64]:
    missing = [channel for channel in options.foreground_channels if channel >= len(maps)]
    if missing:
        raise ForeignModelError(
            f"foreground_channels names channel {missing[0]}, the model answered {len(maps)} channels "
            f"(counted from 0)"
        )
    values = maps.astype(np.float64)
    if options.answer == "logits":
        values = special.expit(values)
    elif options.answer == "class_logits":
        values = special.softmax(values, axis=0)
    elif values.min() < -1e-3 or values.max() > 1 + 1e-3:
        raise ForeignModelError(
            f"probabilities lie in 0..1, the model answered {values.min():.3g}..{values.max():.3g}; "
            f"say answer = 'logits' or 'class_logits' if that is what they are"
        )
    return np.asarray(values[list(dict.fromkeys(options.foreground_channels))].sum(axis=0))


def _objects(probability: FloatImage, options: AnswerOptions, pixel_size_m: float) -> NDArray[np.int32]:
    mask = probability >= options.threshold
    if options.split == "none":
        labels, _ = ndimage.label(mask)
        return np.asarray(labels, np.int32)
    radius = max(1.0, min(options.object_size_m / pixel_size_m / 2, float(max(mask.shape))))
    height = probability.astype(np.float64)
    if options.split == "distance":
        # Smoothed a little: the border of a mask is rough, and each bump would be an object.
        height = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), max(0.5, radius / 6))
    return split_at_maxima(height, mask, radius)


def _whole_numbers(labels: NDArray[Any]) -> NDArray[np.int64]:
    whole = np.rint(labels)
    is_exact = np.abs(labels - whole).max(initial=0) < 1e-3
    if not is_exact or whole.min(initial=0) < 0 or whole.max(initial=0) >= 2**31:
        raise ForeignModelError(
            "labels must be whole numbers from 0; the option `answer` tells what they are"
        )
    return np.asarray(whole, np.int64)
