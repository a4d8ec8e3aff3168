"""What several people's masks, polygons and boxes come to: soft masks, one for each class.

Points and strokes do not say how far an object reaches; they have no part in it. A box counts as the area
that it encloses, among boxes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.labels.records import AnswerRecord
from controller.labels.staple import SILENT, SoftMask, StapleOptions, staple
from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
)
from controller.learning.rasterise import Source, rasterise
from controller.learning.shapes import objects_of, pixels_of

ShapeYX = tuple[int, int]
Plane = NDArray[Any]
Floats = NDArray[np.float64]
Drawn = Literal["masks", "boxes"]

#: Which kinds of questions are answered by which of the two.
DRAWN_BY: dict[str, Drawn] = {"mask": "masks", "polygon": "masks", "box": "boxes"}
#: Where people are judged: so near to what anybody marked.
NEAR_PX = 3
#: How much what is thought of people weighs beside what they drew.
PRIOR_PART = 0.3
DRAWN_WAYS: tuple[Drawn, ...] = ("masks", "boxes")


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What one person drew of one sample.

    Attributes
    ----------
    classes
        int16, shape ``(y, x)``: numbers of ``schema``, 0 where nothing is, -1 where the person says nothing.
    instances
        int32: 1, 2, … whole objects, of any class.
    """

    answer_id: str
    annotator_id: str
    schema: LabelSchema
    classes: Plane
    instances: Plane

    def of_class(self, name: str, newest: LabelSchema) -> NDArray[np.int8]:
        """Return 1 where a class was marked, 0 where it was left out, -1 where nothing is said of it."""
        if name == NOTHING_HERE:
            could_say_all = set(newest.classes) <= set(self.schema.classes)
            nothing = 1 if could_say_all else SILENT
            return np.where(self.classes > 0, 0, np.where(self.classes == 0, nothing, SILENT)).astype(np.int8)
        if name not in self.schema.classes:  # then only what was taken for another class is none of it
            return np.where(self.classes > 0, 0, SILENT).astype(np.int8)
        is_known = self.classes >= 0
        return np.where(is_known, self.classes == self.schema.index(name), SILENT).astype(np.int8)


def drawing_of(answer: AnswerRecord, schema: LabelSchema, shape_yx: ShapeYX) -> Drawing | None:
    """Return what a person drew; ``None`` if that was unsure.

    Raises
    ------
    ContradictoryLabelsError
        If the marks of the answer cannot be true together.
    """
    reply = answer.reply
    if reply.outcome == "unsure":
        return None
    if reply.outcome == "nothing here":
        empty = np.zeros(shape_yx, np.int16)
        return Drawing(answer.id, answer.annotator_id, schema, empty, empty.astype(np.int32))
    marks = reply.annotations
    if DRAWN_BY[answer.kind] == "boxes":
        marks = tuple(_filled(mark, shape_yx) for mark in marks)
    target = rasterise(ImageAnnotations(shape_yx=shape_yx, label_schema=schema, annotations=marks))
    classes = np.where(target.sources == Source.AREA, target.classes, SILENT)
    return Drawing(answer.id, answer.annotator_id, schema, classes, np.maximum(target.instances, 0))


def soft_masks(drawings: Mapping[str, Drawing], newest: LabelSchema, trust: float) -> dict[str, SoftMask]:
    """Return the soft mask of "nothing here" and of each class that anybody marked.

    People are judged near what anybody marked, and not found faultless before they have drawn much.

    Parameters
    ----------
    drawings
        What each person drew, by the person; raters are in this order.
    trust
        How far one person's word is trusted: where one alone looked, that is the probability.

    Returns
    -------
    By class. Sensitivities and specificities are nan where one person alone drew.
    """
    options = StapleOptions(prior_part=PRIOR_PART, trust=trust)
    near = ndimage.binary_dilation(
        np.any([drawing.classes > 0 for drawing in drawings.values()], axis=0), iterations=NEAR_PX
    )
    found = {}
    for name in (NOTHING_HERE, *newest.classes):
        masks = np.stack([drawing.of_class(name, newest) for drawing in drawings.values()])
        if name != NOTHING_HERE and not (masks == 1).any():
            continue
        result = staple(masks, options, near if near.any() else None)
        lookers = (masks != SILENT).sum(axis=0)
        word = np.where((masks == 1).any(axis=0), trust, 1 - trust)
        probability = np.where(lookers == 1, word, result.probability)
        skills = result.sensitivity, result.specificity
        if lookers.max(initial=0) < 2:
            skills = np.full(len(masks), np.nan), np.full(len(masks), np.nan)
        found[name] = SoftMask(probability, *skills)
    return found


def expected_dice(probability: Floats) -> float:
    """Return the Dice that a soft mask, cut at one half, has with the truth if its probabilities are right.

    Where it marks nothing: the probability that a pixel of it is empty. 0 where nobody looked.
    """
    known = probability[np.isfinite(probability)]
    if not known.size:
        return 0.0
    marked = known >= 0.5
    if not marked.any():
        return float(1 - known.mean())
    return float(2 * known[marked].sum() / (known.sum() + marked.sum()))


def runs_of(probability: Floats) -> tuple[tuple[int, int], ...]:
    """Return a soft mask as runs of equal values, row by row: steps of 1/255, -1 where nobody looked."""
    steps = np.where(np.isfinite(probability), np.round(np.nan_to_num(probability) * 255), -1)
    flat = steps.astype(np.int64).ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(np.append(starts, flat.size))
    return tuple(zip(flat[starts].tolist(), lengths.tolist(), strict=True))


def mask_of_runs(runs: tuple[tuple[int, int], ...], shape_yx: ShapeYX) -> NDArray[np.float32]:
    """Return the soft mask that runs stand for, shape ``(y, x)``, nan where nobody looked."""
    values, lengths = np.array(runs, np.int64).T
    steps = np.repeat(values, lengths).reshape(shape_yx)
    return np.where(steps < 0, np.nan, steps / 255).astype(np.float32)


def numbered_objects(mask: NDArray[np.bool_], drawn: Plane | None) -> NDArray[np.int32]:
    """Return the objects of a mask, 1, 2, …: its connected parts, cut where a person cut them.

    Parameters
    ----------
    drawn
        Objects as somebody drew them, 1, 2, …; each pixel of a part goes to the nearest of those that
        overlap the part. Without them, touching objects are one.
    """
    parts, _ = ndimage.label(mask)
    found = np.zeros(mask.shape, np.int32)
    count = 0
    for number, window in objects_of(parts):
        part = parts[window] == number
        owners = np.where(part, 0 if drawn is None else drawn[window], 0)
        if owners.any():
            nearest = ndimage.distance_transform_edt(owners == 0, return_distances=False, return_indices=True)
            owners = owners[tuple(nearest)]
        names, order = np.unique(owners[part], return_inverse=True)
        found[window][part] = count + 1 + order
        count += len(names)
    return found


def _filled(mark: Annotation, shape_yx: ShapeYX) -> Annotation:
    if mark.kind != "box":
        return mark
    rows, columns = pixels_of(mark.extent, shape_yx)
    size = rows.stop - rows.start, columns.stop - columns.start
    return MaskAnnotation(
        shape_yx=size,
        origin_yx=(rows.start, columns.start),
        runs=((1, size[0] * size[1]),),
        value_classes=(mark.class_name,),
        coverage=mark.coverage,
        weight=mark.weight,
    )
