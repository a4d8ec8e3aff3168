"""From the numbers that a segmentation network gives to probabilities, and to objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special
from skimage.segmentation import watershed

from controller.core.frame import FloatImage
from controller.segmentation.network_options import NetworkOptions
from controller.segmentation.network_targets import bump_sigma_px
from controller.segmentation.spots import binary_entropy_bits

#: Parts of the expected disc's area below which an object is a speck.
_SMALLEST_AREA = 0.08
#: Of a spot's width at half maximum: where its label ends.
_SPOT_REACH = 0.65
#: In standard deviations of a centre's bump: the smoothing before maxima are taken, and how far a centre's
#: probability may be spread.
_GATHERED, _REACH = 1.15, 2.9
#: Of a sure centre's height: lower maxima are not looked at.
_LEAST_EVIDENCE = 0.04


@dataclass(frozen=True, slots=True, eq=False)
class HeadMaps:
    """What the heads say of each pixel.

    Attributes
    ----------
    classes
        Probability of each class, mean over the heads, shape ``(classes, y, x)``.
    by_head
        Probability of any class but the first, shape ``(heads, y, x)``.
    depth
        0 at the border of an object and outside, 1 where it is deepest, shape ``(y, x)``.
    centers
        Near 1 at the centre of an object, shape ``(y, x)``.
    """

    classes: NDArray[np.float32]
    by_head: NDArray[np.float32]
    depth: FloatImage
    centers: FloatImage

    @property
    def foreground(self) -> FloatImage:
        """Return the probability of any class but the first, mean over the heads."""
        return np.asarray(self.by_head.mean(axis=0))

    @property
    def disagreement_bits(self) -> FloatImage:
        """Return what the heads do not agree on: mutual information of answer and head, in bits.

        It is part of the entropy of their mean; the rest is what all of them doubt. N. Houlsby et al.,
        Bayesian active learning for classification and preference learning, arXiv 1112.5745 (2011).
        """
        doubt = binary_entropy_bits(self.foreground) - binary_entropy_bits(self.by_head).mean(axis=0)
        return np.asarray(np.maximum(doubt, np.float32(0)))


def head_maps(outputs: NDArray[np.float32], options: NetworkOptions) -> HeadMaps:
    """Return probabilities from the network's answer, shape ``(outputs, y, x)``."""
    depth, centers = outputs[-2], outputs[-1]
    shape = (options.heads, options.class_scores, *outputs.shape[1:])
    scores = np.asarray(outputs[:-2].reshape(shape) / options.temperature, np.float32)
    if options.class_scores == 1:
        by_head = np.asarray(special.expit(scores[:, 0]), np.float32)
        foreground = by_head.mean(axis=0)
        classes = np.stack([1 - foreground, foreground])
    else:
        padded = np.concatenate([np.zeros_like(scores[:, :1]), scores], axis=1)
        by_class = special.softmax(padded, axis=1)
        by_head = 1 - by_class[:, 0]
        classes = by_class.mean(axis=0)
    return HeadMaps(classes, by_head, special.expit(depth), special.expit(centers))


def instances(maps: HeadMaps, options: NetworkOptions) -> NDArray[np.int32]:
    """Return the objects as labels 1, 2, …, shape ``(y, x)``, 0 = background."""
    if options.kind == "spots":
        return _spots(maps, options)
    return _objects(maps, options)


def found_centers(centers: FloatImage, options: NetworkOptions) -> NDArray[np.int32]:
    """Return the centres that are there more likely than ``center_threshold``, numbered from 1.

    Where a centre is not certain to a pixel, its bump in the map is spread out and low, but what lies under
    it stays the same: compared with the bump of a sure centre it is the probability that there is one.

    Parameters
    ----------
    centers
        The centre map, shape ``(y, x)``, 0..1.

    Returns
    -------
    Shape ``(y, x)``, 0 where no centre is; a plateau is one centre.
    """
    bump = bump_sigma_px(options.object_px)
    smooth = ndimage.gaussian_filter(centers, _GATHERED * bump, truncate=3.0)
    # What is left of a sure centre's peak, which is 1 before it is smoothed.
    sure = 1 / (1 + _GATHERED**2)
    peaks = smooth >= ndimage.maximum_filter(smooth, 2 * max(1, round(bump)) + 1, mode="nearest")
    numbered, count = ndimage.label(peaks & (smooth > _LEAST_EVIDENCE * sure), np.ones((3, 3)))
    if not count:
        return np.zeros(centers.shape, np.int32)
    candidates = np.asarray(numbered, np.int32)
    own = _grown(candidates, _REACH * bump)
    mass = ndimage.sum_labels(centers, own, np.arange(count + 1))
    keep = mass > options.center_threshold * 2 * np.pi * bump**2
    keep[0] = False
    return np.asarray((np.cumsum(keep) * keep)[candidates], np.int32)


def _spots(maps: HeadMaps, options: NetworkOptions) -> NDArray[np.int32]:
    """Return discs around the centres; a pixel in two of them belongs to the nearer centre."""
    markers = found_centers(maps.centers, options)
    return _grown(markers, max(1.0, _SPOT_REACH * options.object_px))


def _grown(markers: NDArray[np.int32], reach: float) -> NDArray[np.int32]:
    """Return markers grown by ``reach`` pixels; a pixel near two of them belongs to the nearer."""
    side = int(reach)
    y, x = (offset.ravel() for offset in np.mgrid[-side : side + 1, -side : side + 1])
    # From far to near, so that the nearest is written last.
    order = np.argsort(-(y**2 + x**2), kind="stable")
    order = order[(y**2 + x**2)[order] <= reach**2]
    rows, columns = np.nonzero(markers)
    numbers = markers[rows, columns]
    grown = np.zeros((markers.shape[0] + 2 * side, markers.shape[1] + 2 * side), np.int32)
    for dy, dx in zip(y[order], x[order], strict=True):
        grown[rows + side + dy, columns + side + dx] = numbers
    return grown[side : side + markers.shape[0], side : side + markers.shape[1]]


def _objects(maps: HeadMaps, options: NetworkOptions) -> NDArray[np.int32]:
    """Return what is more likely object than not, divided among the centres along its shallow lines."""
    mask = ndimage.binary_fill_holes(maps.foreground > 0.5)
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    markers = np.where(mask, found_centers(maps.centers, options), 0)
    parts, count = ndimage.label(mask)
    # A part without a centre is an object too: it may be cut by the image's border.
    empty = np.setdiff1d(np.arange(1, count + 1), np.unique(parts[markers > 0]))
    for number, place in enumerate(ndimage.maximum_position(maps.depth, parts, empty), 1):
        markers[place] = markers.max() + number
    labels = watershed(-maps.depth, markers, mask=mask)  # type: ignore[no-untyped-call]
    areas = np.bincount(labels.ravel())
    keep = areas >= _SMALLEST_AREA * np.pi * options.object_px**2 / 4
    keep[0] = False
    renumbered = np.cumsum(keep) * keep
    return np.asarray(renumbered[labels], dtype=np.int32)
