"""Consensus as annotations that a network learns from: the surer they are, the more they weigh.

The weight is how much more probable something is than the next best: 1 where there is no doubt, 0 where two
are as probable. So one person's word, trusted by 0.9, weighs 0.8. Weights come in tenths; what rounds to 0
is not said at all. Where nobody looked nothing is said either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.labels.class_consensus import EACH, ONE_OF
from controller.labels.consensus import ConsensusOptions, soft_mask
from controller.labels.mask_consensus import DRAWN_WAYS, Drawing, numbered_objects
from controller.labels.records import AnswerRecord, Consensus, Sample
from controller.labels.store import LabelStore
from controller.labels.told import Told, mask_method, methods
from controller.learning.annotations import (
    AMBIGUOUS,
    MAX_PARTS,
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    Coverage,
    GradesAnnotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    Rectangle,
    TagAnnotation,
)
from controller.learning.shapes import objects_of

Plane = NDArray[Any]

#: Steps of weights between 0 and 1.
LEVELS = 10
#: Beside the boxes: a pixel that is background less surely than this is not learned from.
LEAST_BACKGROUND = 0.75


@dataclass(frozen=True, slots=True)
class SoftAnnotations:
    """What is known of a sample, and the version of each consensus it was made of, by method."""

    image: ImageAnnotations
    versions: dict[str, int]


def all_annotations_for_training(
    store: LabelStore, samples: Sequence[Sample], options: ConsensusOptions | None = None
) -> dict[str, SoftAnnotations]:
    """Return what is known of samples by the newest consensus, by their identity.

    ``update_consensus`` makes consensus; answers that came later are not in it. Points and strokes are
    taken as they were given, with the weight of one person's word.

    Raises
    ------
    KeyError
        If the store has no schema, so nothing was ever asked.
    """
    options = options or ConsensusOptions()
    told = Told.read(store)
    if told is None:
        raise KeyError("there is no label schema; nothing was asked")
    known = {method: store.consensus(method) for method in methods(told.schema)}
    drawn, marks = told.drawn(), _marks(told.answers, told.schema, 2 * options.trust - 1)
    kept = {answer.id for answer in told.answers}
    found = {}
    for sample in samples:
        newest = {method: one for method, by_sample in known.items() if (one := by_sample.get(sample.id))}
        here = _valid(newest, told.newest.id, kept)
        annotations = [*marks.get(sample.id, ()), *_of_classes(here, told.schema)]
        for way in DRAWN_WAYS:
            masks = {
                name: soft_mask(here[method])
                for name in (NOTHING_HERE, *told.schema.classes)
                if (method := mask_method(way, name)) in here
            }
            if masks:
                drawings = told.drawings(drawn.get((sample.id, way), {}), {})
                make = _drawn_masks if way == "masks" else _drawn_boxes
                annotations += make(masks, _objects(masks, drawings, told.schema))
        image = ImageAnnotations(
            shape_yx=sample.roi.shape_yx, label_schema=told.schema, annotations=tuple(annotations)
        )
        found[sample.id] = SoftAnnotations(image, {method: one.version for method, one in here.items()})
    return found


def _valid(newest: Mapping[str, Consensus], schema_id: str, kept: set[str]) -> dict[str, Consensus]:
    """Return the consensus of one sample that still holds, by method.

    Not that of an older schema, of answers that were taken back, or of a class that was once marked and no
    longer is, which shows in other inputs than those of "nothing here".
    """
    found = {}
    for method, one in newest.items():
        whole = one
        if one.mask_class is not None:
            way = next(way for way in DRAWN_WAYS if method == mask_method(way, one.mask_class))
            whole = newest.get(mask_method(way, NOTHING_HERE), one)
        if one.schema_id == schema_id and one.inputs == whole.inputs and kept.issuperset(one.inputs):
            found[method] = one
    return found


def _of_classes(here: Mapping[str, Consensus], schema: LabelSchema) -> list[Annotation]:
    """Return probabilities of classes as grades, which weigh less the closer they are to one half."""
    found: list[Annotation] = []
    for method in (ONE_OF, EACH):
        if method not in here:
            continue
        chances = dict(zip(here[method].names, here[method].classes, strict=True))
        # Where each class was told by itself, none is there at least as probably as this (Boole).
        none_at_least = 1 - sum(chances.values()) if set(chances) == set(schema.classes) else 0.0
        nothing = chances.pop(NOTHING_HERE, none_at_least)
        weight = _level(2 * nothing - 1)
        if weight > 0:
            found.append(TagAnnotation(present=(NOTHING_HERE,), weight=weight))
        elif chances:
            found.append(GradesAnnotation(grades=chances))
    return found


def _marks(
    answers: Iterable[AnswerRecord], schema: LabelSchema, weight: float
) -> dict[str, list[Annotation]]:
    """Return points, strokes and what was drawn with them, by sample; only of classes that still are."""
    last: dict[tuple[str, str, str], AnswerRecord] = {}
    for answer in answers:
        if answer.kind in {"points", "scribble", "mask"}:
            last[answer.sample_ids[0], answer.annotator_id, answer.kind] = answer
    found: dict[str, list[Annotation]] = defaultdict(list)
    for (sample_id, _, kind), answer in last.items():
        if answer.reply.outcome == "nothing here" and kind != "mask":
            found[sample_id].append(TagAnnotation(present=(NOTHING_HERE,), weight=weight))
        for mark in answer.reply.annotations:
            is_taken = mark.kind in {"points", "scribble"} or (mark.kind == "box" and kind == "mask")
            if is_taken and set(mark.class_names) <= set(schema.names):
                found[sample_id].append(mark.replace(weight=min(mark.weight, weight)))
    return found


def _objects(
    masks: Mapping[str, Plane], drawings: Mapping[str, Drawing], schema: LabelSchema
) -> dict[str, NDArray[np.int32]]:
    """Return the objects of each class, cut apart as whoever is nearest to the consensus cut them."""
    found = {}
    for name, mask in masks.items():
        if name == NOTHING_HERE:
            continue
        marked = np.nan_to_num(mask) >= 0.5
        best, most = None, 0.0
        for drawing in drawings.values():
            own = drawing.of_class(name, schema) == 1
            overlap = float((own & marked).sum()) / max(float((own | marked).sum()), 1.0)
            if overlap > most:
                best, most = np.where(own, drawing.instances, 0), overlap
        found[name] = numbered_objects(marked, best)
    return found


def _drawn_masks(masks: Mapping[str, Plane], objects: Mapping[str, Plane]) -> list[Annotation]:
    """Return whole objects, on top of each its surer pixels, and background.

    Where marks of one class overlap the larger weight holds, so each pixel ends with its own.
    """
    best, levels = _winner(masks)
    found: list[Annotation] = []
    for number, name in enumerate(masks):
        own = (best == number) & (levels > 0)
        if not own.any():
            continue
        steps = np.unique(levels[own])
        if name != NOTHING_HERE:
            whole = np.where(own, objects[name], 0)
            weight = float(steps[0]) / LEVELS
            found.append(MaskAnnotation.from_array(whole, value_classes=(name,), weight=weight))
            steps = steps[1:]
        for step in steps:
            surer = (own & (levels == step)).astype(np.int32)
            found.append(
                MaskAnnotation.from_array(
                    surer, values="classes", value_classes=(name,), weight=float(step) / LEVELS
                )
            )
    return found


def _drawn_boxes(masks: Mapping[str, Plane], objects: Mapping[str, Plane]) -> list[Annotation]:
    """Return a box about each object; what lies beside them is background where that is sure enough."""
    best, levels = _winner(masks)
    background = masks[NOTHING_HERE]
    looked = np.isfinite(background)
    coverage: Coverage = "image" if looked.all() else _rectangles(looked) or "marks"
    found: list[Annotation] = []
    inside = np.zeros(best.shape, np.bool_)
    for number, name in enumerate(masks):
        if name == NOTHING_HERE:
            continue
        for value, window in objects_of(objects[name]):
            own = (objects[name][window] == value) & (best[window] == number)
            weight = round(float(levels[window][own].mean())) / LEVELS if own.any() else 0.0
            if weight > 0:
                found.append(
                    BoxAnnotation(class_name=name, extent=_extent(window), coverage=coverage, weight=weight)
                )
                inside[window] = True
    if not found:
        return _drawn_masks({NOTHING_HERE: background}, {})
    doubtful = ~inside & looked & ~(np.nan_to_num(background) >= LEAST_BACKGROUND)
    if doubtful.any():
        found.append(MaskAnnotation.from_array(doubtful.astype(np.int32), value_classes=(AMBIGUOUS,)))
    return found


def _winner(masks: Mapping[str, Plane]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which mask is the most probable in each pixel, and by how many tenths more than the next best.

    Where none is more probable than not, that is 0 tenths, as where nobody looked. What is none of these has
    the rest of the probability.
    """
    known = np.nan_to_num(np.stack(list(masks.values())).astype(np.float64), nan=0.0)
    rest = np.maximum(1 - known.sum(axis=0, keepdims=True), 0)
    ordered = np.sort(np.concatenate([known, rest]), axis=0)
    margin = np.where(known.max(axis=0) >= 0.5, ordered[-1] - ordered[-2], 0)
    return known.argmax(axis=0), np.round(margin * LEVELS).astype(np.int64)


def _level(margin: float) -> float:
    return max(round(margin * LEVELS), 0) / LEVELS


def _extent(window: tuple[slice, slice]) -> Rectangle:
    rows, columns = window
    return Rectangle(
        y_min=rows.start - 0.5, x_min=columns.start - 0.5, y_max=rows.stop - 0.5, x_max=columns.stop - 0.5
    )


def _rectangles(mask: NDArray[np.bool_]) -> tuple[Rectangle, ...]:
    """Return a mask as rectangles, none if it takes too many: runs of rows that are alike."""
    changed = np.flatnonzero(np.concatenate(([True], (mask[1:] != mask[:-1]).any(axis=1), [True])))
    found = []
    for first, stop in pairwise(changed):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask[first].astype(np.int8), [0]))))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            found.append(_extent((slice(int(first), int(stop)), slice(int(start), int(end)))))
    return tuple(found) if len(found) <= MAX_PARTS else ()
