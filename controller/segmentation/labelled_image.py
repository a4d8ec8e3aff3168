"""Images with what is known of them: what a segmenter learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.learning.annotations import ImageAnnotations
from controller.learning.augmentation import Augmentation, Sample
from controller.learning.rasterise import Target
from controller.networks.small_unet import MULTIPLE_OF
from controller.segmentation.imbalance import Imbalance
from controller.segmentation.network_inputs import network_inputs
from controller.segmentation.network_options import NetworkOptions
from controller.segmentation.network_targets import UNLABELLED, target_of_annotations, target_of_labels


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """One image and what people, or a simulation, said of it.

    Attributes
    ----------
    photons
        Shape ``(y, x)``, float32, ≥ 0.
    labels
        Objects 1, 2, …, 0 = none, -1 = unlabelled, int32, of the same shape; or annotations of any kind.
    classes
        Which class each pixel is, -1 = unlabelled; ``None``: objects are of class 1. Only with a label
        image.
    mean, std
        The denoiser's estimate, if there is one.
    """

    photons: NDArray[np.float32]
    labels: NDArray[np.int32] | ImageAnnotations
    classes: NDArray[np.int64] | None = None
    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None

    def target(self, options: NetworkOptions) -> Target:
        """Return what the network is to answer."""
        if isinstance(self.labels, ImageAnnotations):
            return target_of_annotations(self.labels, options)
        return target_of_labels(self.labels, options, self.classes)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """What one image became: inputs ``(channels, y, x)`` and the answers to them."""

    inputs: NDArray[np.float32]
    target: Target

    @property
    def needs_whole(self) -> bool:
        """Tell whether it says something of the image as a whole, so that no part may be cut out."""
        return bool((self.target.tags == 1).any())

    def patch(
        self, side_px: int, augmentation: Augmentation, imbalance: Imbalance, rng: np.random.Generator
    ) -> Example:
        """Return a square part of it by chance, changed as ``augmentation`` says."""
        row, column = imbalance.corner(self.target.classes, side_px, rng)
        where = slice(row, row + side_px), slice(column, column + side_px)
        part = Example(self.inputs[:, where[0], where[1]], self.target.cropped(*where))
        return part.turned(augmentation, rng)

    def turned(self, augmentation: Augmentation, rng: np.random.Generator) -> Example:
        """Return all of it, changed as ``augmentation`` says."""
        sample = augmentation(Sample(self.inputs, self.target.planes()), rng)
        return Example(np.asarray(sample.image), self.target.with_planes(dict(sample.labels)))


def example_of(image: LabelledImage, options: NetworkOptions, least_px: int = MULTIPLE_OF) -> Example:
    """Return what the network sees of an image and is to answer; a small one is mirrored to ``least_px``.

    What is mirrored counts as unlabelled.
    """
    inputs = network_inputs(image.photons, image.mean, image.std)
    target = image.target(options)
    missing = [max(least_px, -(-side // MULTIPLE_OF) * MULTIPLE_OF) - side for side in image.photons.shape]
    if not any(missing):
        return Example(inputs, target)
    pad = [(0, more) for more in missing]
    nothing = {"classes": UNLABELLED, "clicks": UNLABELLED}
    planes = {
        name: np.pad(plane, [(0, 0)] * (plane.ndim - 2) + pad, constant_values=nothing.get(name, 0))
        for name, plane in target.planes().items()
    }
    return Example(np.pad(inputs, [(0, 0), *pad], mode="symmetric"), target.with_planes(planes))
