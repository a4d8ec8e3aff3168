from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from skimage.draw import polygon as skimage_polygon

from controller.learning.annotations import (
    AMBIGUOUS,
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    GradesAnnotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    PointsAnnotation,
    PolygonAnnotation,
    Rectangle,
    ScribbleAnnotation,
    TagAnnotation,
)
from controller.learning.rasterise import (
    ContradictoryLabelsError,
    RasterOptions,
    Source,
    Target,
    rasterise,
)
from controller.learning.shapes import edge_distances, filled_polygon

SCHEMA = LabelSchema(classes=("ring", "fibre"))
SHAPE = (12, 16)
SQUARE = ((1.5, 1.5), (1.5, 5.5), (5.5, 5.5), (5.5, 1.5))


def image(*annotations: Annotation, shape: tuple[int, int] = SHAPE) -> ImageAnnotations:
    return ImageAnnotations(shape_yx=shape, label_schema=SCHEMA, annotations=annotations)


def drawn(*annotations: Annotation, **options: Any) -> Target:
    return rasterise(image(*annotations), RasterOptions(**options))


def box(y: float, x: float, height: float, width: float, **fields: Any) -> BoxAnnotation:
    extent = Rectangle(y_min=y, x_min=x, y_max=y + height, x_max=x + width)
    return BoxAnnotation(**{"class_name": "ring", **fields}, extent=extent)


def points(*places: tuple[float, float], name: str = "ring", **fields: Any) -> PointsAnnotation:
    return PointsAnnotation(class_name=name, points_yx=places, **fields)


ONE_OF_EACH: list[Annotation] = [
    TagAnnotation(present=("ring",), absent=("fibre",)),
    GradesAnnotation(grades={"ring": 0.75}, ambiguous=("fibre",)),
    points((2, 3), (4.2, 5)),
    ScribbleAnnotation(class_name="fibre", vertices_yx=((9, 1), (9, 12)), width_px=2.0),
    box(1, 1, 4, 5),
    PolygonAnnotation(class_name="ring", vertices_yx=SQUARE, coverage="image"),
    MaskAnnotation.from_array(np.eye(4, dtype=int), value_classes=("ring",), origin_yx=(2, 3)),
]


@pytest.mark.parametrize("annotation", ONE_OF_EACH, ids=lambda a: a.kind)
def test_an_annotation_comes_back_from_json_as_what_it_was(annotation: Annotation) -> None:
    whole = image(annotation)
    assert ImageAnnotations.model_validate_json(whole.model_dump_json()) == whole


MARK = '"class_name": "ring"'
FAR = '{"y_min": 0, "x_min": 0, "y_max": 40, "x_max": 4}'
REFUSED = {
    "an unknown kind": ('{"kind": "lasso"}', "kind"),
    "a misspelt key": (f'{{"kind": "points", {MARK}, "points_yx": [[1, 1]], "radius": 2}}', "radius"),
    "nan": (f'{{"kind": "points", {MARK}, "points_yx": [[1, NaN]]}}', "finite"),
    "no points": (f'{{"kind": "points", {MARK}, "points_yx": []}}', "at least 1"),
    "a point outside": (
        f'{{"kind": "points", {MARK}, "points_yx": [[1, 15.6]]}}',
        r"\(1, 15.6\) lies outside",
    ),
    "a class that is not there": (
        '{"kind": "points", "class_name": "rings", "points_yx": [[1, 1]]}',
        "no class 'rings'; the schema has 'nothing here', 'ring', 'fibre', 'ambiguous'",
    ),
    "two vertices": (f'{{"kind": "polygon", {MARK}, "vertices_yx": [[1, 1], [2, 2]]}}', "at least 3"),
    "a line": (f'{{"kind": "polygon", {MARK}, "vertices_yx": [[1, 1], [2, 2], [5, 5]]}}', "no inside"),
    "too many vertices": (
        f'{{"kind": "polygon", {MARK}, "vertices_yx": {[[1, i % 7] for i in range(10_001)]}}}',
        "at most 10000",
    ),
    "a box inside out": (
        f'{{"kind": "box", {MARK}, "extent": {{"y_min": 3, "x_min": 0, "y_max": 2, "x_max": 4}}}}',
        "upwards",
    ),
    "a box of another image": (
        f'{{"kind": "box", {MARK}, "extent": {FAR}}}',
        "lies outside",
    ),
    "coverage outside": (
        f'{{"kind": "points", {MARK}, "points_yx": [[1, 1]], "coverage": [{FAR}]}}',
        "lies outside",
    ),
    "a wide stroke": (
        f'{{"kind": "scribble", {MARK}, "vertices_yx": [[1, 1]], "width_px": 1e4}}',
        "less than or equal to 200",
    ),
    "a huge mask": (
        '{"kind": "mask", "value_classes": ["ring"], "shape_yx": [60000, 60000], "runs": [[1, 9]]}',
        "allowed are 16777216",
    ),
    "runs that do not fill the mask": (
        '{"kind": "mask", "value_classes": ["ring"], "shape_yx": [2, 3], "runs": [[1, 5]]}',
        r"hold 5 pixels, a mask of \(2, 3\) has 6",
    ),
    "a mask larger than the image": (
        '{"kind": "mask", "value_classes": ["ring"], "shape_yx": [13, 2], "runs": [[1, 26]]}',
        "lies outside",
    ),
    "a value without a class": (
        '{"kind": "mask", "values": "classes", "value_classes": ["a"], "shape_yx": [1, 1], "runs": [[2, 1]]}',
        "no class",
    ),
    "an empty tag": ('{"kind": "tag"}', "needs a class"),
    "a tag that contradicts itself": ('{"kind": "tag", "present": ["ring"], "absent": ["ring"]}', "twice"),
    "nothing and something": ('{"kind": "tag", "present": ["nothing here", "ring"]}', "excludes"),
    "more weight than all": (
        f'{{"kind": "points", {MARK}, "points_yx": [[1, 1]], "weight": 2}}',
        "less than or equal to 1",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_with_the_reason(text: str, message: str) -> None:
    schema = SCHEMA.model_dump_json()
    with pytest.raises(ValidationError, match=message):
        ImageAnnotations.model_validate_json(
            f'{{"shape_yx": [12, 16], "label_schema": {schema}, "annotations": [{text}]}}'
        )


def test_coverage_in_too_many_parts_is_refused() -> None:
    parts = [Rectangle(y_min=0, x_min=0, y_max=1 + i / 1000, x_max=9) for i in range(1001)]
    with pytest.raises(ValidationError, match="1001 different parts, allowed are 1000"):
        image(*(points((1, 1), coverage=(part,)) for part in parts))


def test_masks_that_are_huge_only_together_are_refused() -> None:
    large = MaskAnnotation(shape_yx=(4096, 4096), runs=((0, 2**24),), value_classes=("ring",))
    with pytest.raises(ValidationError, match="together"):
        image(*[large] * 5, shape=(4096, 4096))


@pytest.mark.parametrize("classes", [(), ("ring", "ring"), (AMBIGUOUS,), (" ring",), (NOTHING_HERE, "ring")])
def test_a_schema_needs_different_names_of_its_own(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        LabelSchema(classes=classes)


@given(st.integers(0, 2**32 - 1))
def test_a_mask_comes_back_from_its_runs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, rng.integers(1, 9, 2))
    assert np.array_equal(MaskAnnotation.from_array(values, value_classes=("ring",)).to_array(), values)


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.zeros((2, 2, 2), int), np.zeros((0, 3), int)])
def test_a_mask_is_made_of_a_label_image_only(values: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="2-D image of whole numbers"):
        MaskAnnotation.from_array(values, value_classes=("ring",))


# From marks to pixels


def test_what_nobody_marked_is_unlabelled() -> None:
    target = drawn(points((2, 3)), ScribbleAnnotation(class_name=NOTHING_HERE, vertices_yx=((9, 1), (9, 4))))
    assert target.classes[2, 3] == 1
    assert target.classes[9, 1:5].tolist() == [0] * 4
    assert np.count_nonzero(target.classes != -1) == 5
    assert np.array_equal(target.weights > 0, target.classes != -1)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_a_polygon_is_filled_as_skimage_fills_it_even_if_it_crosses_itself(seed: int, corners: int) -> None:
    vertices = np.random.default_rng(seed).uniform(-0.5, 19.5, (corners, 2))
    expected = np.zeros((20, 20), bool)
    rows, columns = skimage_polygon(vertices[:, 0], vertices[:, 1], (20, 20))  # type: ignore[no-untyped-call]
    expected[rows, columns] = True
    found = np.zeros((20, 20), bool)
    window, mask = filled_polygon([(float(y), float(x)) for y, x in vertices], (20, 20))
    found[window] = mask
    assert np.array_equal(found, expected) or not expected.any()


def test_a_polygon_of_the_most_vertices_in_a_large_image_takes_no_time_to_speak_of() -> None:
    angle = np.linspace(0, 2 * np.pi, 10_000, endpoint=False)
    radius = 900 + 100 * np.sin(40 * angle)
    vertices = np.stack([1023.5 + radius * np.sin(angle), 1023.5 + radius * np.cos(angle)], 1)
    _, mask = filled_polygon([(float(y), float(x)) for y, x in vertices], (2048, 2048))
    assert mask.sum() == pytest.approx(np.pi * (900**2 + 100**2 / 2), rel=1e-3)


def test_a_polygon_between_pixels_is_the_pixel_it_lies_in() -> None:
    target = drawn(PolygonAnnotation(class_name="ring", vertices_yx=((3.1, 4.1), (3.2, 4.3), (3.3, 4.1))))
    assert np.argwhere(target.classes == 1).tolist() == [[3, 4]]


def test_coverage_makes_background_inside_it_and_leaves_the_rest_unlabelled() -> None:
    left = Rectangle(y_min=-0.5, x_min=-0.5, y_max=11.5, x_max=7.5)
    target = drawn(PolygonAnnotation(class_name="ring", vertices_yx=SQUARE, coverage=(left,)))
    assert np.count_nonzero(target.classes == 1) == 16
    assert np.all(target.classes[:, :8] >= 0)
    assert np.all(target.classes[:, 8:] == -1)
    assert np.array_equal(target.vouched, target.classes >= 0)


def test_coverage_of_one_mark_never_makes_background_of_another() -> None:
    first = PolygonAnnotation(class_name="ring", vertices_yx=SQUARE, coverage="image")
    scribble = ScribbleAnnotation(
        class_name="fibre", vertices_yx=((9, 9), (9, 12)), width_px=3.0, coverage="image"
    )
    alone, both = drawn(first), drawn(first, scribble, reach_px=2.0)
    assert both.classes[9, 10] == 2
    assert np.all(both.classes[2:6, 2:6] == 1)
    # One vertical pixel of the stroke and two more that the fibre may reach to.
    assert both.classes[6:13, 10].tolist() == [-1, -1, 2, 2, 2, -1]
    assert np.count_nonzero(alone.classes == 0) > np.count_nonzero(both.classes == 0) > 50


def test_coverage_says_nothing_about_background_while_the_reach_of_a_click_is_unknown() -> None:
    clicks = points((2, 3), coverage="image")
    assert np.count_nonzero(drawn(clicks).classes != -1) == 1
    known = drawn(clicks, reach_px=3.0, core_px=1.0)
    assert known.classes[2, 2:5].tolist() == [1, 1, 1]
    assert known.classes[2, 7:9].tolist() == [-1, 0]
    assert known.sources[11, 11] == Source.POINT
    # The clicks are complete, so there is no centre anywhere else.
    assert np.all(drawn(clicks).centre_weights == 1)


def test_marks_that_disagree_leave_a_pixel_to_nobody() -> None:
    ring = PolygonAnnotation(class_name="ring", vertices_yx=SQUARE)
    target = drawn(ring, box(4, 4, 4, 4, class_name=NOTHING_HERE), ring)
    assert np.all(target.sources[4:6, 4:6] == Source.EXCLUDED)
    assert np.all(target.classes[4:6, 4:6] == -1)
    assert np.all(target.weights[4:6, 4:6] == 0)
    assert target.classes[3, 3] == 1
    assert target.classes[7, 7] == 0


@pytest.mark.parametrize("first", [True, False])
def test_what_is_ambiguous_stays_unlabelled_whatever_others_say(first: bool) -> None:
    unsure = PolygonAnnotation(class_name=AMBIGUOUS, vertices_yx=SQUARE)
    sure = PolygonAnnotation(class_name="ring", vertices_yx=SQUARE, coverage="image")
    target = drawn(*([unsure, sure] if first else [sure, unsure]))
    assert np.all(target.classes[2:6, 2:6] == -1)
    assert np.all(target.sources[2:6, 2:6] == Source.EXCLUDED)
    assert np.count_nonzero(target.classes == 0) == 12 * 16 - 16
    assert not target.is_shape_known[2:6, 2:6].any()
    assert not target.centre_weights[2:6, 2:6].any()


def test_the_order_of_annotations_does_not_change_classes() -> None:
    every = ONE_OF_EACH
    one, other = drawn(*every, reach_px=2.0), drawn(*every[::-1], reach_px=2.0)
    for name in ("classes", "sources", "weights", "centre_weights", "vouched"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_the_surer_of_two_that_agree_counts() -> None:
    weak, strong = (PolygonAnnotation(class_name="ring", vertices_yx=SQUARE, weight=w) for w in (0.3, 0.8))
    assert drawn(strong, weak).weights[3, 3] == np.float32(0.8)


def test_whole_objects_are_numbered_and_share_what_they_have_in_common() -> None:
    shifted = tuple((y + 2, x + 2) for y, x in SQUARE)
    target = drawn(
        PolygonAnnotation(class_name="ring", vertices_yx=SQUARE),
        PolygonAnnotation(class_name="ring", vertices_yx=shifted),
    )
    assert np.all(target.classes[4:6, 4:6] == 1)
    assert np.all(target.instances[4:6, 4:6] == -1)
    assert sorted(np.unique(target.instances)) == [-1, 0, 1, 2]
    assert not target.is_shape_known[4, 4]


def test_objects_of_a_mask_keep_apart_where_they_touch() -> None:
    labels = np.zeros(SHAPE, int)
    labels[2:8, 2:6], labels[2:8, 6:10] = 5, 9
    target = drawn(MaskAnnotation.from_array(labels, value_classes=("fibre",), coverage="image"))
    assert np.count_nonzero(target.instances == 1) == np.count_nonzero(target.instances == 2) == 24
    assert np.array_equal(target.classes == 2, labels > 0)
    assert target.distances[4].tolist() == [0, 0, 1, 2, 2, 1, 1, 2, 2, 1, 0, 0, 0, 0, 0, 0]
    peaks = np.argwhere(target.centres > 0.95 * target.centres.max())
    assert {tuple(p) for p in peaks} == {(y, x) for y in (4, 5) for x in (3, 4, 7, 8)}


def test_a_mask_of_classes_has_no_objects() -> None:
    values = np.array([[1, 1, 0, 2]])
    mask = MaskAnnotation.from_array(values, values="classes", value_classes=(NOTHING_HERE, "fibre"))
    target = drawn(mask)
    assert target.classes[0, :5].tolist() == [0, 0, -1, 2, -1]
    assert not target.instances.any()


def test_the_edge_of_the_image_is_no_edge_of_an_object() -> None:
    instances = np.zeros((6, 8), int)
    instances[:, :4] = 1
    assert edge_distances(instances, 16.0)[3].tolist() == [4, 3, 2, 1, 0, 0, 0, 0]
    assert np.all(edge_distances(np.ones((3, 3), int), 16.0) == 16)


def test_boxes_that_overlap_lie_in_layers_and_their_inside_is_unlabelled() -> None:
    target = drawn(box(1, 1, 4, 4, coverage="image"), box(3, 3, 4, 4, class_name="fibre"), box(8, 8, 2, 2))
    assert target.box_ids.shape == (2, *SHAPE)
    assert [sorted(np.unique(layer)) for layer in target.box_ids] == [[0, 1, 3], [0, 2]]
    assert np.array_equal(np.unique(target.box_classes[1]), [0, 2])
    assert np.all((target.classes == -1) == (target.box_ids > 0).any(axis=0))
    assert target.sources[0, 0] == Source.BOX
    # The middle of each, unless there is a centre in it already.
    assert np.count_nonzero(target.centres == 1) == 3


def test_boxes_piled_up_without_end_are_refused() -> None:
    with pytest.raises(ContradictoryLabelsError, match="more than 16 boxes"):
        drawn(*[box(1, 1, 4, 4)] * 17)


def test_tags_say_what_is_present_absent_and_unknown() -> None:
    assert drawn(TagAnnotation(present=("fibre",))).tags.tolist() == [-1, -1, 1]
    assert drawn(TagAnnotation(absent=("ring",), ambiguous=("fibre",))).tags.tolist() == [-1, 0, -1]
    contradicted = drawn(TagAnnotation(absent=("ring",)), TagAnnotation(present=("ring", "fibre")))
    assert contradicted.tags.tolist() == [-1, -1, 1]


def test_nothing_here_makes_background_of_all_that_nobody_marked() -> None:
    empty = drawn(TagAnnotation(present=(NOTHING_HERE,)))
    assert np.all(empty.classes == 0)
    assert empty.tags.tolist() == [-1, 0, 0]


def test_a_crop_forgets_what_may_now_be_outside() -> None:
    target = drawn(TagAnnotation(present=("ring",), absent=("fibre",)), box(1, 1, 4, 4))
    part = target.cropped(slice(0, 6), slice(2, 10))
    assert part.tags.tolist() == [-1, -1, 0]
    assert part.box_ids.shape == (1, 6, 8)
    assert target.cropped(slice(None), slice(None)).tags.tolist() == [-1, 1, 0]


def test_planes_that_are_turned_outside_come_back_as_a_target() -> None:
    target = drawn(*ONE_OF_EACH, reach_px=2.0)
    turned = target.with_planes({name: np.rot90(p, axes=(-2, -1)) for name, p in target.planes().items()})
    assert turned.classes.shape == (16, 12)
    assert turned.box_ids.shape == (1, 16, 12)
    assert np.array_equal(np.rot90(turned.classes, -1), target.classes)
    assert turned.tags is target.tags


def test_annotations_load_no_learning_library() -> None:
    import subprocess
    import sys

    code = "import sys, controller.learning.rasterise; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("grades", "tags", "weights"),
    [
        ({"ring": 1.0, "fibre": 0.0}, [-1, 1, 0], [0, 1, 1]),
        ({"ring": 0.75}, [-1, 1, -1], [0, 0.5, 0]),
        ({"fibre": 0.1}, [-1, -1, 0], [0, 0, 0.8]),
        ({"ring": 0.5, "fibre": 0.5}, [-1, -1, -1], [0, 0, 0]),
    ],
)
def test_a_grade_says_the_more_the_further_it_is_from_half(
    grades: dict[str, float], tags: list[int], weights: list[float]
) -> None:
    target = drawn(GradesAnnotation(grades=grades))
    assert target.tags.tolist() == tags
    np.testing.assert_allclose(target.tag_weights, weights, atol=1e-6)
    assert (target.classes == -1).all(), "grades say nothing of a pixel"
    assert not target.vouched.any()


def test_the_weight_of_grades_is_that_of_the_annotation_times_what_they_say() -> None:
    target = drawn(GradesAnnotation(grades={"ring": 0.75}, weight=0.5))
    assert target.tag_weights[1] == pytest.approx(0.25)


def test_grades_and_tags_that_disagree_leave_a_class_unknown() -> None:
    target = drawn(GradesAnnotation(grades={"ring": 0.9, "fibre": 0.9}), TagAnnotation(absent=("ring",)))
    assert target.tags.tolist() == [-1, -1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "grades", "grades": {}}', "at least 1"),
        ('{"kind": "grades", "grades": {"ring": 1.2}}', "less than or equal to 1"),
        ('{"kind": "grades", "grades": {"ring": NaN}}', "finite"),
        ('{"kind": "grades", "grades": {"ring": 1}, "ambiguous": ["ring"]}', "said twice"),
        ('{"kind": "grades", "grades": {"ring": 1}, "ambiguous": ["fibre", "fibre"]}', "said twice"),
        ('{"kind": "grades", "grades": {"nothing here": 1}}', "for the classes themselves"),
        (
            '{"kind": "grades", "grades": {"ring": 1}, "ambiguous": ["ambiguous"]}',
            "for the classes themselves",
        ),
    ],
)
def test_grades_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GradesAnnotation.model_validate_json(text)


def test_grades_of_a_class_that_the_schema_does_not_have_are_refused() -> None:
    with pytest.raises(ValidationError, match="there is no class 'star'"):
        image(GradesAnnotation(grades={"star": 1.0}))


@pytest.mark.parametrize("kind", ["points", "box", "mask"])
def test_centres_weigh_what_the_annotation_does(kind: str) -> None:
    said: dict[str, Annotation] = {
        "points": points((4, 4), weight=0.3),
        "box": box(2, 2, 5, 5, weight=0.3),
        "mask": MaskAnnotation.from_array(
            np.ones((5, 5), int), origin_yx=(2, 2), value_classes=("ring",), weight=0.3, coverage="image"
        ),
    }
    target = drawn(said[kind])
    known = target.centre_weights[target.centre_weights > 0]
    assert target.centre_weights[4, 4] == pytest.approx(0.3)
    assert known.max() == pytest.approx(0.3)
    assert known.min() == pytest.approx(0.3)
