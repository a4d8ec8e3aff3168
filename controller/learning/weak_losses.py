"""One loss for labels of every kind, each kind with a term of its own.

A pixel that nobody labelled adds nothing to a term unless the kind itself speaks of it (a tag of the
whole image, the inside of a box, unlabelled pixels of the positive-unlabelled option).

Every term is a mean over what its kind says in the batch, so it does not matter how many images have
labels of another kind. Areas are averaged pixel by pixel, so that probabilities keep the proportions of
the images; clicks and strokes class by class, because where people click says nothing about how common
a class is.

References
----------
.. [1] P. Pinheiro, R. Collobert, From image-level to pixel-level labeling with convolutional networks,
   CVPR 2015, 1713: an image's score is the log-sum-exp of its pixels'.
.. [2] A. Bilodeau et al., Microscopy analysis neural network to solve detection, enumeration and
   segmentation from image-level annotations, Nat. Mach. Intell. 4, 455 (2022): that the maps of a
   classifier segment; here the pixels' own scores are the map.
.. [3] A. Bearman et al., What's the point: semantic segmentation with point supervision, ECCV 2016, 549.
.. [4] H. Kervadec et al., Constrained-CNN losses for weakly supervised segmentation, Med. Image Anal. 54,
   88 (2019): bounds on an area as a quadratic penalty.
.. [5] C.-C. Hsu et al., Weakly supervised instance segmentation using the bounding box tightness prior,
   NeurIPS 2019: each row and column of a tight box crosses the object.
.. [6] R. Kiryo et al., Positive-unlabeled learning with non-negative risk estimator, NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from controller.core.settings import Fraction, NonNegative, Positive, Settings
from controller.learning.annotations import MAX_CLASSES
from controller.learning.rasterise import Source, Target

Terms = dict[str, Tensor]

#: Log-odds of a pixel that does not take part in a pooling; infinity would leave nan in gradients.
_NOWHERE = -1e6


class TermWeights(Settings):
    """How much each term counts in the total; 0 leaves it out.

    Strokes and tags know little of an object's extent. At full weight they make a network worse that
    learns from a few outlines, too; at a tenth of it they do not, by more than chance (simulated discs).
    """

    areas: NonNegative = 1.0
    """Polygons and masks with what their coverage makes background: cross-entropy of each pixel."""
    scribbles: NonNegative = 0.1
    """Cross-entropy of strokes, with what their coverage makes background."""
    points: NonNegative = 1.0
    """Clicks [3]_, with what their coverage makes background."""
    sizes: NonNegative = 1.0
    """Area of all objects where clicks are complete, if ``object_area_px`` is given [4]_."""
    boxes: NonNegative = 1.0
    """Tightness [5]_, area and outside of boxes."""
    tags: NonNegative = 0.1
    """Presence and absence in the image [1]_ [2]_."""
    unlabelled: NonNegative = 1.0
    """Positive-unlabelled risk [6]_, if ``foreground_prior`` is given."""
    centres: NonNegative = 1.0
    """Heat-map of centres, cross-entropy where it is known."""
    distances: NonNegative = 1.0
    """Distances to edges, smooth absolute error where they are known."""


class LossOptions(Settings):
    """What the loss assumes beyond the labels."""

    weights: TermWeights = TermWeights()
    class_weights: Annotated[tuple[Positive, ...], Field(max_length=MAX_CLASSES)] | None = None
    """Of background and each class, for classes that are rare; probabilities are shifted by them."""
    pooling_sharpness: Annotated[float, Field(gt=0, le=100)] = 5.0
    """How far a tag's pooling is from the mean (0) towards the maximum of all pixels."""
    box_area: tuple[Fraction, Fraction] = (0.1, 0.9)
    """Least and largest part of a box that its object fills."""
    box_smoothness: NonNegative = 0.3
    """How much neighbours in a box should agree; more than 1 rounds objects off."""
    largest_tag_area: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Largest part of an image that a class fills that was only said to be there."""
    object_area_px: tuple[Positive, Positive] | None = None
    """Least and largest mean area of the objects that were clicked on, in pixels."""
    foreground_prior: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of all pixels that is foreground, for images in which objects were left out: then unlabelled
    pixels are no longer ignored, but taken for a mixture with this part of foreground. ``None``: off."""
    distance_unit_px: Positive = 4.0
    """The network's distances are in this unit."""

    @model_validator(mode="after")
    def _bounds_go_upwards(self) -> Self:
        for name in ("box_area", "object_area_px"):
            bounds = getattr(self, name)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{name} = {bounds} must go upwards")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What a network says of a batch.

    ``logits`` of background and each class, shape ``(n, classes, y, x)``; ``centres`` logits and
    ``distances`` (in ``LossOptions.distance_unit_px``), both ``(n, y, x)``, where it has such heads.
    """

    logits: Tensor
    centres: Tensor | None = None
    distances: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Targets of a batch: the planes of :class:`Target` with the image as the first axis."""

    classes: Tensor
    sources: Tensor
    weights: Tensor
    distances: Tensor
    is_shape_known: Tensor
    clicks: Tensor
    centres: Tensor
    centre_weights: Tensor
    vouched: Tensor
    box_ids: Tensor
    box_classes: Tensor
    box_weights: Tensor
    tags: Tensor
    tag_weights: Tensor

    @classmethod
    def stack(cls, targets: Sequence[Target]) -> Self:
        """Put targets of one shape into a batch.

        Raises
        ------
        ValueError
            If there are none, or their shapes differ.
        """
        shapes = sorted({(*target.classes.shape, len(target.tags)) for target in targets})
        if len(shapes) != 1:
            raise ValueError(f"targets of one shape (y, x, classes) make a batch, got {shapes or 'none'}")
        layers = max(len(target.box_ids) for target in targets)
        stacked: dict[str, Tensor] = {}
        for field in fields(cls):
            arrays = [np.asarray(getattr(target, field.name)) for target in targets]
            if field.name.startswith("box"):
                arrays = [np.pad(a, ((0, layers - len(a)), (0, 0), (0, 0))) for a in arrays]
            whole = np.stack(arrays)
            stacked[field.name] = torch.from_numpy(
                whole.astype(np.int64) if whole.dtype.kind in "iu" else whole
            )
        return cls(**stacked)

    def to(self, device: Any) -> Targets:
        """Return the same on another device."""
        return Targets(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def segmentation_loss(outputs: Outputs, targets: Targets, options: LossOptions | None = None) -> Terms:
    """Return the terms of all kinds of labels in a batch, and their weighted sum as ``total``.

    Terms of kinds that the batch does not have are left out. Without any label the total is 0, and its
    gradient, too.

    Raises
    ------
    ValueError
        If outputs and targets do not have the same shape.
    """
    options = options or LossOptions()
    _check(outputs, targets, options)
    log_p = functional.log_softmax(outputs.logits, dim=1)
    terms = {
        **_labelled_pixels(log_p, targets, options),
        "sizes": _sizes(log_p, targets, options),
        "boxes": _boxes(log_p, targets, options),
        "tags": _tags(outputs.logits, targets, options),
        "unlabelled": _positive_unlabelled(outputs.logits, targets, options),
        "centres": _centres(outputs.centres, targets),
        "distances": _distances(outputs.distances, targets, options),
    }
    weights = options.weights.model_dump()
    present = {name: term for name, term in terms.items() if term is not None and weights[name] > 0}
    total = sum((weights[name] * term for name, term in present.items()), 0.0 * outputs.logits.sum())
    return {**present, "total": total}


def _check(outputs: Outputs, targets: Targets, options: LossOptions) -> None:
    n, classes, y, x = outputs.logits.shape
    if (n, y, x) != tuple(targets.classes.shape) or classes != targets.tags.shape[1]:
        raise ValueError(
            f"logits of shape {(n, classes, y, x)} (n, classes, y, x) do not fit targets of "
            f"{tuple(targets.classes.shape)} (n, y, x) with {targets.tags.shape[1]} classes"
        )
    for name, head in (("centres", outputs.centres), ("distances", outputs.distances)):
        if head is not None and tuple(head.shape) != (n, y, x):
            raise ValueError(f"{name} of shape {tuple(head.shape)} are not {(n, y, x)} (n, y, x)")
    if options.class_weights is not None and len(options.class_weights) != classes:
        raise ValueError(f"class_weights has {len(options.class_weights)} numbers for {classes} classes")


def _mean(values: Tensor, weights: Tensor) -> Tensor | None:
    """Return a weighted mean, or nothing where all weights are 0."""
    total = weights.sum()
    return (values * weights).sum() / total if total > 0 else None


def _labelled_pixels(log_p: Tensor, targets: Targets, options: LossOptions) -> dict[str, Tensor | None]:
    """Return the partial cross-entropy of areas, scribbles and points; the outside of boxes is theirs."""
    weights = targets.weights
    if options.class_weights is not None:
        scale = torch.tensor(options.class_weights, dtype=weights.dtype, device=weights.device)
        weights = weights * scale[targets.classes.clamp(min=0)]
    if options.foreground_prior is not None:
        # Whether a labelled object is foreground is the positive-unlabelled risk's business; which
        # class it is, given that it is foreground, remains to be said.
        log_p = torch.cat([log_p[:, :1], functional.log_softmax(log_p[:, 1:], dim=1)], dim=1)
    losses = functional.nll_loss(log_p, targets.classes, ignore_index=-1, reduction="none")
    areas = targets.sources == Source.AREA
    return {
        "areas": _mean(losses[areas], weights[areas]),
        "scribbles": _balanced(losses, weights, targets, Source.SCRIBBLE),
        "points": _balanced(losses, weights, targets, Source.POINT),
    }


def _balanced(losses: Tensor, weights: Tensor, targets: Targets, source: Source) -> Tensor | None:
    """Return the mean over classes of the mean over the pixels of each."""
    here = targets.sources == source
    labels, losses, weights = targets.classes[here], losses[here], weights[here]
    means = [_mean(losses[labels == label], weights[labels == label]) for label in labels.unique()]
    known = [mean for mean in means if mean is not None]
    return torch.stack(known).mean() if known else None


def _sizes(log_p: Tensor, targets: Targets, options: LossOptions) -> Tensor | None:
    """Return how far the area of all objects is from what their number allows, squared and relative.

    Of images with clicks, in the region where these are complete.
    """
    if options.object_area_px is None:
        return None
    known = targets.vouched & (targets.sources != Source.EXCLUDED)
    counts = ((targets.clicks > 0) & known).sum(dim=(1, 2))
    if not (counts > 0).any():
        return None
    area = ((1 - log_p[:, 0].exp()) * known).sum(dim=(1, 2))
    mean_area = area[counts > 0] / counts[counts > 0]
    least, most = options.object_area_px
    return _outside(mean_area / most, least / most, 1.0).mean()


def _outside(value: Tensor, least: float, most: float) -> Tensor:
    """Return the squared distance of a value to an interval."""
    return functional.relu(least - value) ** 2 + functional.relu(value - most) ** 2


def _boxes(log_p: Tensor, targets: Targets, options: LossOptions) -> Tensor | None:
    """Return what rows and columns of boxes lack of an object, what is foreground outside, and the area.

    A box at the border of a patch may have been cut there: its object need not reach into each row or
    column any more, so only those that end at sides of its own count.
    """
    outside = targets.sources == Source.BOX
    losses = functional.nll_loss(log_p, targets.classes, ignore_index=-1, reduction="none")
    terms = [_mean(losses[outside], targets.weights[outside])]
    if (targets.box_weights > 0).any():
        of_class = log_p.gather(1, targets.box_classes)
        terms += [*_insides(of_class, targets, options), _roughness(of_class.exp(), targets, options)]
    known = [term for term in terms if term is not None]
    return torch.stack(known).sum() if known else None


def _insides(of_class: Tensor, targets: Targets, options: LossOptions) -> list[Tensor | None]:
    """Return the tightness of rows and of columns, and what the area of objects is out of bounds.

    ``of_class`` is the log-probability of each box's class, shape ``(n, layers, y, x)``.
    """
    image, _, row, column = where = (targets.box_ids > 0).nonzero(as_tuple=True)
    inside, weights, ids = of_class[where], targets.box_weights[where], targets.box_ids[where]
    _, box = torch.unique(image * (targets.box_ids.max() + 1) + ids, return_inverse=True)
    count, (height, width) = int(box.max()) + 1, of_class.shape[-2:]
    of_box = _largest(weights, box, count)
    terms = []
    for line, across, lines, end in ((row, column, height, width - 1), (column, row, width, height - 1)):
        is_cut = _largest(((across == 0) | (across == end)).to(weights.dtype), box, count) > 0
        bags, bag = torch.unique(box * lines + line, return_inverse=True)
        owner = bags // lines
        terms.append(_mean(-_largest(inside, bag, len(bags)), of_box[owner] * ~is_cut[owner]))
    none = torch.zeros_like(of_box)
    filled = none.index_add(0, box, inside.exp()) / none.index_add(0, box, torch.ones_like(inside))
    return [*terms, _mean(_outside(filled, *options.box_area), of_box)]


def _roughness(probability: Tensor, targets: Targets, options: LossOptions) -> Tensor | None:
    """Return the mean squared difference of neighbours in one box [5]_.

    Without it a network fills a box with stripes: these, too, reach into each row and column.
    """
    total, weight = probability.new_zeros(()), probability.new_zeros(())
    for axis in (2, 3):
        one, other = (slice(None, -1), slice(1, None))
        first, second = ((..., part, slice(None)) if axis == 2 else (..., part) for part in (one, other))
        same = targets.box_ids[first] == targets.box_ids[second]
        weights = targets.box_weights[first] * same
        total = total + ((probability[first] - probability[second]) ** 2 * weights).sum()
        weight = weight + weights.sum()
    return options.box_smoothness * total / weight if weight > 0 else None


def _largest(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the largest value of each group; every group has one."""
    start = torch.full((count,), -torch.inf, dtype=values.dtype, device=values.device)
    return start.scatter_reduce(0, groups, values, "amax")


def _tags(logits: Tensor, targets: Targets, options: LossOptions) -> Tensor | None:
    """Return what an image's tags say of its pixels.

    The cross-entropy of presence with the pooled log-odds of all pixels [1]_; each pixel's log-loss where
    a class is absent, because it is in none; and by how much a class that is present covers too much,
    because a network that sees far enough calls the whole image by what is somewhere in it.
    """
    if not (targets.tag_weights > 0).any():
        return None
    usable = targets.sources != Source.EXCLUDED
    pixels = usable.sum(dim=(1, 2))
    sharpness, odds = options.pooling_sharpness, _all_log_odds(logits)
    pooled = torch.logsumexp(sharpness * odds.masked_fill(~usable[:, None], _NOWHERE), dim=(2, 3))
    pooled = (pooled - pixels.clamp(min=1).log()[:, None]) / sharpness
    said = (targets.tags >= 0) & (pixels > 0)[:, None]
    truth, weights = targets.tags[said].to(logits.dtype), targets.tag_weights[said]
    losses = functional.binary_cross_entropy_with_logits(pooled[said], truth, reduction="none")
    everywhere = _pixel_mean(functional.softplus(odds), usable)[said]
    area = _pixel_mean(functional.softmax(logits, dim=1), usable)[said]
    excess = _outside(area / options.largest_tag_area, 0.0, 1.0)
    terms = _mean(losses, weights), _mean(everywhere, weights * (1 - truth)), _mean(excess, weights * truth)
    known = [term for term in terms if term is not None]
    return torch.stack(known).sum() if known else None


def _all_log_odds(logits: Tensor) -> Tensor:
    """Return the logit of each class against all others, shape ``(n, classes, y, x)``."""
    others = [torch.cat([logits[:, :i], logits[:, i + 1 :]], dim=1) for i in range(logits.shape[1])]
    return logits - torch.stack([torch.logsumexp(other, dim=1) for other in others], dim=1)


def _pixel_mean(values: Tensor, usable: Tensor) -> Tensor:
    """Return the mean over usable pixels, shape ``(n, classes)``."""
    return (values * usable[:, None]).sum(dim=(2, 3)) / usable.sum(dim=(1, 2)).clamp(min=1)[:, None]


def _positive_unlabelled(logits: Tensor, targets: Targets, options: LossOptions) -> Tensor | None:
    """Return the non-negative risk of foreground against the rest [6]_, with the logistic loss.

    All pixels together are the unlabelled sample of that paper: labelled objects are part of the image.
    """
    prior = options.foreground_prior
    usable = targets.sources != Source.EXCLUDED
    positive = (targets.classes > 0) & (targets.weights > 0)
    if prior is None or not positive.any():
        return None
    odds = torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]
    weights = targets.weights[positive]
    found = (functional.softplus(-odds[positive]) * weights).sum() / weights.sum()
    missed = (functional.softplus(odds[positive]) * weights).sum() / weights.sum()
    negative = functional.softplus(odds[usable]).mean() - prior * missed
    # Below 0 the network has learned the labelled objects by heart: it steps back instead of on.
    return prior * found + negative if negative >= 0 else -negative


def _centres(logits: Tensor | None, targets: Targets) -> Tensor | None:
    if logits is None:
        return None
    losses = functional.binary_cross_entropy_with_logits(logits, targets.centres, reduction="none")
    return _mean(losses, targets.centre_weights)


def _distances(distances: Tensor | None, targets: Targets, options: LossOptions) -> Tensor | None:
    if distances is None:
        return None
    truth = targets.distances / options.distance_unit_px
    losses = functional.smooth_l1_loss(distances, truth, reduction="none")
    return _mean(losses, targets.weights * targets.is_shape_known)
