"""Soft masks become annotations pixel by pixel as they are, whatever people drew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.labels.mask_consensus import (
    Drawing,
    expected_dice,
    mask_of_runs,
    numbered_objects,
    runs_of,
    soft_masks,
)
from controller.labels.soft_annotations import _drawn_boxes, _drawn_masks, _objects, _rectangles, _winner
from controller.learning.annotations import NOTHING_HERE, ImageAnnotations, LabelSchema
from controller.learning.rasterise import Source, rasterise
from controller.learning.shapes import pixels_of

SCHEMA = LabelSchema(classes=("ring", "fibre"))
SHAPE = (6, 7)
PIXELS = SHAPE[0] * SHAPE[1]

planes = st.lists(st.sampled_from([-1, 0, 0, 1, 1, 2]), min_size=PIXELS, max_size=PIXELS)


def drawings(said: list[list[int]]) -> dict[str, Drawing]:
    found = {}
    for number, row in enumerate(said):
        classes = np.array(row, np.int16).reshape(SHAPE)
        instances = numbered_objects(classes > 0, None)
        found[f"person {number}"] = Drawing(
            f"answer {number}", f"person {number}", SCHEMA, classes, instances
        )
    return found


@given(said=st.lists(planes, min_size=1, max_size=4), is_boxes=st.booleans())
@settings(max_examples=50, deadline=None)
def test_nobody_is_taught_what_nobody_said(said: list[list[int]], is_boxes: bool) -> None:
    people = drawings(said)
    masks = {name: found.probability for name, found in soft_masks(people, SCHEMA, 0.9).items()}
    make = _drawn_boxes if is_boxes else _drawn_masks
    annotations = make(masks, _objects(masks, people, SCHEMA))
    target = rasterise(ImageAnnotations(shape_yx=SHAPE, label_schema=SCHEMA, annotations=tuple(annotations)))
    nobody = np.all([person.classes < 0 for person in people.values()], axis=0)
    if is_boxes:
        # A box reaches over what lies between its edges; beside boxes nothing is said of these pixels.
        nobody &= target.box_ids.sum(axis=0) == 0
    assert (target.weights[nobody] == 0).all()
    assert (target.classes[nobody] == -1).all()
    if not is_boxes:
        best, levels = _winner(masks)
        taught = target.weights > 0
        assert not (target.sources == Source.EXCLUDED).any()
        np.testing.assert_array_equal(taught, levels > 0)
        np.testing.assert_allclose(target.weights[taught], levels[taught] / 10, rtol=1e-6)
        numbers = np.array([SCHEMA.index(name) for name in masks])
        np.testing.assert_array_equal(target.classes[taught], numbers[best[taught]])


@given(said=planes)
@settings(max_examples=40, deadline=None)
def test_one_persons_drawing_is_taught_as_it_is(said: list[int]) -> None:
    people = drawings([said])
    masks = {name: found.probability for name, found in soft_masks(people, SCHEMA, 0.9).items()}
    image = ImageAnnotations(
        shape_yx=SHAPE,
        label_schema=SCHEMA,
        annotations=tuple(_drawn_masks(masks, _objects(masks, people, SCHEMA))),
    )
    target = rasterise(image)
    np.testing.assert_array_equal(target.classes, people["person 0"].classes)
    np.testing.assert_allclose(target.weights[target.classes >= 0], 0.8)


@given(values=st.lists(st.one_of(st.just(float("nan")), st.floats(0, 1)), min_size=PIXELS, max_size=PIXELS))
@settings(max_examples=60, deadline=None)
def test_a_soft_mask_survives_the_store_to_within_a_step(values: list[float]) -> None:
    mask = np.array(values).reshape(SHAPE)
    again = mask_of_runs(runs_of(mask), SHAPE)
    np.testing.assert_allclose(again, mask, atol=0.5 / 255 + 1e-6)


@given(values=st.lists(st.booleans(), min_size=PIXELS, max_size=PIXELS))
@settings(max_examples=40, deadline=None)
def test_coverage_is_told_in_rectangles_that_hold_it_and_nothing_else(values: list[bool]) -> None:
    mask = np.array(values).reshape(SHAPE)
    again = np.zeros(SHAPE, np.int64)
    for part in _rectangles(mask):
        again[pixels_of(part, SHAPE)] += 1
    np.testing.assert_array_equal(again, mask)


def test_objects_that_touch_are_cut_where_somebody_cut_them() -> None:
    mask = np.zeros((10, 14), np.bool_)
    mask[2:8, 1:11] = True
    mask[2:4, 12:14] = True
    drawn = np.zeros(mask.shape, np.int32)
    drawn[3:7, 2:5], drawn[3:7, 6:9] = 7, 3
    found = numbered_objects(mask, drawn)
    assert len(np.unique(found[mask])) == 3
    assert (found > 0).tolist() == mask.tolist()
    assert found[3, 1] != found[3, 10]
    assert len(np.unique(numbered_objects(mask, None)[mask])) == 2


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        ([[1.0, 1.0, 0.0]], 1.0),
        ([[0.9, 0.1]], 0.9),
        ([[0.1, 0.1]], 0.9),
        ([[float("nan"), 1.0]], 1.0),
        ([[float("nan")]], 0.0),
    ],
)
def test_confidence_is_the_dice_that_is_to_be_expected(
    probability: list[list[float]], expected: float
) -> None:
    assert expected_dice(np.array(probability)) == pytest.approx(expected)


def test_who_could_not_say_a_class_says_nothing_of_it() -> None:
    older = LabelSchema(classes=("ring",))
    classes = np.array([[1, 0, -1]], np.int16)
    drawing = Drawing("a", "p", older, classes, classes.astype(np.int32))
    assert drawing.of_class("ring", SCHEMA).tolist() == [[1, 0, -1]]
    assert drawing.of_class("fibre", SCHEMA).tolist() == [[0, -1, -1]]
    assert drawing.of_class(NOTHING_HERE, SCHEMA).tolist() == [[0, -1, -1]]
