"""What is exported and imported again is what was said; what a format cannot hold is listed."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaozarrs
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controller.labels.formats import export_labels, import_labels
from controller.labels.formats.coco import CocoFile, annotations_of, coco_of
from controller.labels.formats.exporting import collect
from controller.labels.formats.labelled import LabelledImage, LabelledImages
from controller.labels.formats.pictures import ImportedImages
from controller.labels.store import LabelStore
from controller.learning.annotations import (
    Annotation,
    ImageAnnotations,
    MaskAnnotation,
    PolygonAnnotation,
    Rectangle,
    TagAnnotation,
)
from controller.learning.rasterise import rasterise
from tests.labels.formats.made_up import (
    ALL,
    BOX,
    CLASSES,
    DOT,
    GRADES,
    OBJECTS,
    POINTS,
    POLYGON,
    SCHEMA,
    SCRIBBLE,
    SHAPE,
    TAG,
    Pictures,
    new_sample,
    new_store,
    now,
    objects,
    pixels_of,
    say,
)

HELD: dict[str, tuple[Annotation, ...]] = {
    "label_tiff": (OBJECTS, CLASSES, TAG, GRADES),
    "ome_zarr": (OBJECTS, CLASSES, TAG, GRADES),
    "napari": ALL,
    "coco": (OBJECTS, CLASSES, POLYGON, BOX, TAG, GRADES),
    "polys": (POLYGON, POLYGON.replace(coverage="image", weight=0.5), TAG, GRADES),
}


def round_trip(store: LabelStore, folder: Path, format_name: str) -> tuple[LabelStore, list[str]]:
    """Return the store that an export was imported into, and what was left out."""
    export_labels(store, Pictures(), folder / "out", format_name)
    other = new_store(folder / "other")
    import_labels(other, folder / "out", format_name, "ada", folder=folder / "other", now=now)
    table = folder / "out" / "left_out.csv"
    left = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
    return other, [row["what"] for row in left for _ in range(int(row["count"]))]


def said(store: LabelStore) -> Counter[str]:
    return Counter(a.model_dump_json() for answer in store.answers() for a in answer.reply.annotations)


@pytest.mark.parametrize("format_name", HELD)
def test_what_a_format_holds_comes_back_as_it_was(format_name: str, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, HELD[format_name])
    say(store, HELD[format_name][:1], frame=1)
    other, left_out = round_trip(store, tmp_path, format_name)
    assert said(other) == said(store)
    assert set(left_out) <= {"scribble"}  # napari's lines have no width
    assert other.schema().label_schema == SCHEMA
    for sample in other.samples():
        before = next(s for s in store.samples() if s.frame_index == sample.frame_index)
        assert (sample.session, sample.field, sample.pixel_size_m) == (before.session, before.field, 20e-9)
        picture = ImportedImages(tmp_path / "other").picture(sample, "raw", 0)
        np.testing.assert_array_equal(picture.pixels, pixels_of(sample.frame_index or 0))
    answer = other.answers()[0]
    assert (answer.arm, answer.client, answer.elapsed_s) == ("import", f"import {format_name}", 0.0)


@pytest.mark.parametrize(
    ("format_name", "left"),
    [
        ("label_tiff", {"box": 1, "points": 1, "scribble": 2, "polygon": 1, "coverage": 1}),
        ("ome_zarr", {"box": 1, "points": 1, "scribble": 2, "polygon": 1, "coverage": 1}),
        ("coco", {"points": 1, "scribble": 2, "coverage": 1}),
        ("polys", {"mask": 2, "box": 1, "points": 1, "scribble": 2, "coverage": 1}),
        ("ilastik", {"box": 1, "points": 1, "scribble": 2, "polygon": 1, "tag": 1, "grades": 1, "weight": 1}),
        ("napari", {"scribble": 1}),
    ],
)
def test_what_a_format_cannot_hold_is_listed(format_name: str, left: dict[str, int], tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, ALL)
    _, left_out = round_trip(store, tmp_path, format_name)
    assert Counter(left_out) == left


@pytest.mark.parametrize("format_name", ["label_tiff", "ome_zarr", "napari", "coco", "ilastik"])
def test_a_mask_of_a_part_of_the_image_comes_back_in_its_place(format_name: str, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    part = MaskAnnotation.from_array(objects()[2:14, 3:29], origin_yx=(5, 1), value_classes=("ring",))
    say(store, (part,))
    other, _ = round_trip(store, tmp_path, format_name)
    (mask,) = other.answers()[0].reply.annotations
    assert isinstance(mask, MaskAnnotation)
    wanted = np.zeros(SHAPE, np.int32)
    wanted[5:17, 1:27] = part.to_array()
    # ilastik's numbers are those of classes, 1 being background.
    np.testing.assert_array_equal(mask.to_array(), 2 * (wanted > 0) if format_name == "ilastik" else wanted)


def test_coverage_is_withdrawn_where_something_drawn_is_left_out(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, (OBJECTS, BOX))
    other, _ = round_trip(store, tmp_path, "label_tiff")
    (mask,) = other.answers()[0].reply.annotations
    assert mask == OBJECTS.replace(coverage="marks")


def test_polygons_in_label_images_keep_their_pixels_and_overlapping_ones_stay_whole(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    square = PolygonAnnotation(
        class_name="ring", vertices_yx=((0.0, 0.0), (0.0, 9.0), (9.0, 9.0), (9.0, 0.0))
    )
    apart = PolygonAnnotation(class_name="ring", vertices_yx=((12.0, 0.0), (12.0, 9.0), (18.0, 9.0)))
    say(store, (square, POLYGON, apart))
    other, _ = round_trip(store, tmp_path, "label_tiff")
    masks = [a for a in other.answers()[0].reply.annotations if isinstance(a, MaskAnnotation)]
    assert sorted(int(mask.to_array().max()) for mask in masks) == [1, 2]
    before, after = (
        rasterise(ImageAnnotations(shape_yx=SHAPE, label_schema=SCHEMA, annotations=annotations))
        for annotations in ((square, POLYGON, apart), tuple(masks))
    )
    np.testing.assert_array_equal(before.classes, after.classes)
    np.testing.assert_array_equal(before.instances > 0, after.instances > 0)


def test_label_images_tell_unknown_from_background(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    part = (Rectangle(y_min=-0.5, x_min=-0.5, y_max=9.5, x_max=29.5),)
    say(store, (OBJECTS.replace(coverage=part), POINTS.replace(coverage="marks")))
    say(store, (TagAnnotation(present=("nothing here",)),), frame=1)
    written = export_labels(store, None, tmp_path / "out", "label_tiff")
    first, second = (tifffile.imread(path) for path in written if "_known_" in path.name)
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[:10] = 1
    wanted[objects() > 0] = 1
    # Where somebody clicked is a ring, which no label image shows: not known from these, not background.
    unsure = np.argwhere(first != wanted)
    assert all(first[y, x] == 0 for y, x in unsure)
    assert len(unsure) >= 2
    assert (second == 1).all()
    assert {tifffile.imread(path).dtype for path in written if "_labels_" in path.name} == {
        np.dtype("uint16")
    }


def test_ilastik_gets_the_class_of_each_pixel_and_0_where_nobody_said_it(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    annotations = (POLYGON, POINTS.replace(coverage="marks"), SCRIBBLE, BOX)
    say(store, annotations)
    (path,) = (
        p for p in export_labels(store, Pictures(), tmp_path / "out", "ilastik") if "ilastik_0" in p.name
    )
    with tifffile.TiffFile(path) as file:
        assert file.series[0].axes == "YX"
    target = rasterise(ImageAnnotations(shape_yx=SHAPE, label_schema=SCHEMA, annotations=annotations))
    np.testing.assert_array_equal(tifffile.imread(path), target.classes + 1)
    other = new_store(tmp_path / "other")
    import_labels(other, tmp_path / "out", "ilastik", "ada", folder=tmp_path / "other", now=now)
    again = ImageAnnotations(
        shape_yx=SHAPE, label_schema=SCHEMA, annotations=other.answers()[0].reply.annotations
    )
    np.testing.assert_array_equal(rasterise(again).classes, target.classes)


def test_hdf5_for_ilastik_names_its_axes_or_says_what_it_needs(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the format ilastik_hdf5 needs h5py")
    store = new_store(tmp_path / "store")
    say(store, (POLYGON,))
    (path,) = (p for p in export_labels(store, None, tmp_path / "out", "ilastik_hdf5") if p.suffix == ".h5")
    with h5py.File(path) as file:
        data = file["exported_data"]
        assert [axis["key"] for axis in json.loads(data.attrs["axistags"])["axes"]] == ["y", "x"]
        np.testing.assert_array_equal(data[...], tifffile.imread(path.with_suffix(".tif")))


def test_ome_zarr_is_what_its_standard_wants(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, (OBJECTS, CLASSES))
    say(store, (TAG,), frame=1)
    paths = [p for p in export_labels(store, Pictures(), tmp_path / "out", "ome_zarr") if p.is_dir()]
    assert len(paths) == 2
    groups = [group.parent for path in paths for group in path.rglob("zarr.json")]
    images = [g for g in groups if "multiscales" in (g / "zarr.json").read_text() or g.name == "labels"]
    assert len(images) == 5
    for group in images:
        yaozarrs.validate_zarr_store(str(group))
    label = next(g for g in images if g.parent.name == "labels" and "classes" in g.name)
    ome = json.loads((label / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["image-label"]["properties"] == [
        {"label-value": 1, "class": "fiber"},
        {"label-value": 2, "class": "ambiguous"},
    ]


def test_coco_has_x_before_y_and_runs_down_the_columns(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    small = np.zeros((2, 3), bool)
    small[:, 1] = True
    mask = MaskAnnotation.from_array(small, origin_yx=(4, 6), value_classes=("ring",))
    say(store, (BOX, POLYGON, mask))
    content, _ = coco_of(collect(store))
    box, polygon, painted = content["annotations"]
    assert (box["bbox"], box["segmentation"]) == ([0.0, 2.0, 30.0, 5.75], [])
    assert polygon["segmentation"] == [[2.75, 0.0, 2.75, 8.5, 13.25, 10.0]]
    assert polygon["bbox"] == [2.75, 0.0, 10.5, 10.0]
    rows, columns = SHAPE
    assert painted["segmentation"]["size"] == [rows, columns]
    assert painted["segmentation"]["counts"] == [7 * rows + 4, 2, rows * columns - 7 * rows - 6]
    assert (painted["bbox"], painted["area"], painted["iscrowd"]) == ([7, 4, 1, 2], 2.0, 0)
    assert content["images"][0]["width"] == columns
    assert [c["name"] for c in content["categories"]] == ["ring", "fiber"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mask_survives_coco(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    values = data.draw(st.lists(st.integers(0, 2), min_size=rows * columns, max_size=rows * columns))
    assume(1 in values)  # numbers that mark nothing have no place in COCO
    labels = np.zeros(SHAPE, np.int32)
    labels[:rows, -columns:] = np.reshape(values, (rows, columns))
    how = data.draw(st.sampled_from(["objects", "classes"]))
    names = ("ring",) if how == "objects" else ("ring", "fiber")[: max(values)]
    mask = MaskAnnotation.from_array(labels, values=how, value_classes=names, weight=0.25)
    image = LabelledImage("a", new_sample(), None, {"ada": (mask,)})
    content, left_out = coco_of(LabelledImages(SCHEMA, (image,)))
    read = CocoFile.model_validate_json(json.dumps(content))
    assert annotations_of(read, read.images[0], "marks") == ({"ada": (mask,)}, [])
    assert left_out == []


def test_the_tables_of_napari_are_in_the_form_that_it_writes(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, (POINTS, POINTS.replace(coverage="image"), BOX, POLYGON, SCRIBBLE, DOT))
    written = [p for p in export_labels(store, None, tmp_path / "out", "napari") if p.suffix == ".csv"]
    shapes = [p for p in written if "_shapes_" in p.name]
    points = [p for p in written if "_points_" in p.name]
    assert (len(points), len(shapes)) == (1, 3)
    table = list(csv.reader(points[0].read_text().splitlines()))
    assert table[0][:3] == ["index", "axis-0", "axis-1"]
    assert [[float(value) for value in row[:3]] for row in table[1:3]] == [[0, 3, 4.5], [1, 19.5, 0]]
    for path in shapes:
        header, *rows = csv.reader(path.read_text().splitlines())
        assert header[:5] == ["index", "shape-type", "vertex-index", "axis-0", "axis-1"]
        # What napari's reader demands: numbers from 0 on, without a gap, and shapes that it can draw.
        numbers = [int(row[0]) for row in rows]
        assert sorted(set(numbers)) == list(range(max(numbers) + 1))
        assert {row[1] for row in rows} <= {"rectangle", "polygon", "path"}
        assert min(Counter(numbers).values()) >= 2


def test_the_labels_of_several_people_stay_apart(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, (OBJECTS,), person="ada")
    say(store, (OBJECTS.replace(weight=0.5), POLYGON), person="ben")
    written = export_labels(store, Pictures(), tmp_path / "out", "label_tiff")
    assert len([p for p in written if "_known_" in p.name]) == 2
    other = new_store(tmp_path / "other")
    import_labels(other, tmp_path / "out", "label_tiff", "import", folder=tmp_path / "other", now=now)
    assert sorted(len(answer.reply.annotations) for answer in other.answers()) == [1, 2]
    alone = export_labels(store, Pictures(), tmp_path / "alone", "label_tiff", annotator="ben")
    assert len([p for p in alone if "_known_" in p.name]) == 1
