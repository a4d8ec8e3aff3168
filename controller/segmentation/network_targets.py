"""What a segmentation network is to answer, from label images or from annotations of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.core.frame import FloatImage
from controller.learning.annotations import ImageAnnotations
from controller.learning.rasterise import RasterOptions, Source, Target, rasterise
from controller.segmentation.network_options import NetworkOptions

#: In label images and class images: nobody said what is here.
UNLABELLED = -1

#: Standard deviation of the bump at an object's centre, as a part of its size, and at least, in pixels.
_BUMP, _SMALLEST_BUMP = 0.12, 0.8


#: Of an object's size: how far about a click its pixels surely belong to it, and how far they reach at most.
#: On drawn rings among discs, 20 samples with clicks gave F1 0.39 and 0.75 (two seeds) with a single pixel
#: each, and 0.80 and 0.86 with this, of 0.71 and 0.57 before.
_CORE, _REACH = 0.25, 1.5


def bump_sigma_px(object_px: float) -> float:
    """Return the standard deviation of the bump that marks a centre, in pixels."""
    return max(_SMALLEST_BUMP, _BUMP * object_px)


def target_of_labels(
    labels: NDArray[np.int32], options: NetworkOptions, classes: NDArray[np.int64] | None = None
) -> Target:
    """Return the target of an image whose objects are labelled 1, 2, …, 0 = none, -1 = unlabelled.

    ``classes`` says of each pixel which class it is, -1 = unlabelled; without it all objects are of
    class 1. ``distances`` of the target are relative: see :func:`relative_depth`.
    """
    is_known = labels != UNLABELLED
    if classes is None:
        classes = np.where(is_known, labels > 0, UNLABELLED)
    classes = classes.astype(np.int16)
    instances = np.maximum(labels, 0)
    said = classes != UNLABELLED
    return Target(
        classes=classes,
        sources=np.where(said, Source.AREA, Source.NONE).astype(np.uint8),
        weights=said.astype(np.float32),
        instances=instances,
        distances=relative_depth(instances),
        clicks=np.full(labels.shape, UNLABELLED, np.int16),
        centres=_bumps(instances, bump_sigma_px(options.object_px)),
        centre_weights=is_known.astype(np.float32),
        vouched=is_known,
        box_ids=np.zeros((0, *labels.shape), np.int32),
        box_classes=np.zeros((0, *labels.shape), np.int16),
        box_weights=np.zeros((0, *labels.shape), np.float32),
        tags=np.full(len(options.classes), UNLABELLED, np.int8),
        tag_weights=np.zeros(len(options.classes), np.float32),
    )


def target_of_annotations(annotations: ImageAnnotations, options: NetworkOptions) -> Target:
    """Return the target of annotations in any mix, of the classes that the network knows.

    Raises
    ------
    ValueError
        If the schema has other classes than the network.
    """
    wanted, found = options.classes[1:], annotations.label_schema.classes
    if wanted != found:
        raise ValueError(f"the labels have classes {list(found)}, the network has {list(wanted)}")
    raster = RasterOptions(
        core_px=_CORE * options.object_px,
        reach_px=_REACH * options.object_px,
        centre_sigma_px=bump_sigma_px(options.object_px),
    )
    target = rasterise(annotations, raster)
    return replace(target, distances=relative_depth(target.instances))


def relative_depth(instances: NDArray[Any]) -> FloatImage:
    """Return how deep each pixel lies in its object: 1 where that is deepest, near 0 at its edge."""
    depth = np.zeros(instances.shape, np.float32)
    places: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(np.maximum(instances, 0))
    for number, place in enumerate(places, 1):
        if place is None:  # a number that no object has
            continue
        # One pixel more all around, so that an object ends where the image does.
        inside = np.pad(instances[place] == number, 1)
        distance = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        own = distance > 0
        depth[place][own] = (distance / distance.max())[own]
    return depth


def _bumps(instances: NDArray[Any], sigma: float) -> FloatImage:
    """Return a heat-map with a Gaussian of height 1 at the centre of each object."""
    heat = np.zeros(instances.shape, np.float32)
    reach = int(4 * sigma) + 1
    places: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(instances)
    for number, place in enumerate(places, 1):
        if place is None:
            continue
        middle = _middle(instances[place] == number) + np.array([side.start for side in place])
        low = np.maximum(np.floor(middle).astype(int) - reach, 0)
        high = np.minimum(np.floor(middle).astype(int) + reach + 1, heat.shape)
        y, x = (np.arange(a, b) - m for a, b, m in zip(low, high, middle, strict=True))
        bump = np.exp(-0.5 * (y[:, None] ** 2 + x[None, :] ** 2) / sigma**2).astype(np.float32)
        part = heat[low[0] : high[0], low[1] : high[1]]
        np.maximum(part, bump, out=part)
    return heat


def _middle(own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the centre of mass, or the pixel of the object that is nearest to it."""
    pixels = np.argwhere(own)
    middle: NDArray[np.float64] = pixels.mean(axis=0)
    squares = ((pixels - middle) ** 2).sum(axis=1)
    return middle if squares.min() <= 1 else pixels[np.argmin(squares)].astype(float)
