"""Files of other programs come in whole, or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from controller.core.errors import RecordingError
from controller.labels.formats import ImportOptions, ImportResult, export_labels, import_labels
from controller.labels.formats.labelled import LabelFileError
from controller.labels.formats.pictures import ImportedImages, offset_of, read_image
from controller.labels.queue import LabelQueue
from controller.labels.records import Annotator, AnswerRecord
from controller.labels.store import LabelStore
from controller.learning.annotations import (
    BoxAnnotation,
    MaskAnnotation,
    PointsAnnotation,
    PolygonAnnotation,
    ScribbleAnnotation,
    TagAnnotation,
)
from tests.labels.formats.made_up import OBJECTS, SHAPE, Pictures, new_store, now, objects, pixels_of, say

NAMED = ImportOptions(classes=("ring", "fiber"), pixel_size_m=20e-9)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return new_store(tmp_path / "store")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with one image."""
    folder = tmp_path / "files"
    folder.mkdir()
    tifffile.imwrite(folder / "cell.tif", pixels_of(0))
    return folder


def take_in(store: LabelStore, files: Path, format_name: str, options: ImportOptions = NAMED) -> ImportResult:
    folder = files.parent / "store"
    return import_labels(store, files, format_name, "ada", folder=folder, options=options, now=now)


def is_untouched(store: LabelStore, files: Path) -> bool:
    nothing = not (store.samples() or store.answers() or store.annotators() or store.schemas())
    return nothing and not list((files.parent / "store").glob("imported/*"))


def poisson(mean: float, offset: int) -> NDArray[np.uint16]:
    return (np.random.default_rng(1).poisson(mean, (64, 64)) + offset).astype(np.uint16)


def bright(mean: float, spread: float) -> NDArray[np.uint16]:
    image = np.random.default_rng(2).normal(mean, spread, (64, 64))
    return np.clip(image, 32768, 65535).astype(np.uint16)


@pytest.mark.parametrize(
    ("image", "offset"),
    [
        (poisson(3.0, 32768), 32768),  # photon counts, many pixels dark
        (poisson(20.0, 32768), 32768),
        (np.full((5, 5), 32768, np.uint16), 32768),
        (poisson(3.0, 0), 0),
        (poisson(3.0, 100), 0),  # a camera's own dark level
        (bright(40_000, 2_000), 0),  # bright everywhere; its darkest pixel is above by far
        (bright(40_000, 2_400), 0),  # its darkest pixel lies by chance where those of an offset image do
        (np.full((5, 5), 65535, np.uint16), 0),
        (poisson(3.0, 32768).astype(np.int32), 0),
        (poisson(3.0, 32768).astype(np.float32), 0),
    ],
)
def test_an_offset_of_32768_is_found_and_a_bright_image_is_not_taken_for_one(
    image: NDArray[Any], offset: int
) -> None:
    assert offset_of(image) == offset


def test_a_bright_image_may_have_its_darkest_pixel_at_the_offset() -> None:
    image = bright(40_000, 2_400)
    assert 32768 <= image.min() <= 32768 + 64
    assert offset_of(image) == 0


def test_polygons_come_in_with_the_offset_of_their_image_and_unclear_ones_as_ambiguous(
    store: LabelStore, files: Path
) -> None:
    tifffile.imwrite(files / "cell.tif", pixels_of(0) + np.uint16(32768))
    (files / "cell.polys.txt").write_text("0 (1, 1), (9, 1), (9, 9)\n1 (12, 1), (20, 1), (20, 9)\n")
    options = ImportOptions(
        classes=("clear rings", "unclear rings", "fibers"),
        rename={"clear rings": "rings", "unclear rings": "ambiguous"},
        pixel_size_m=20e-9,
        coverage="image",
    )
    result = take_in(store, files, "polys", options)
    assert store.schema().label_schema.classes == ("rings", "fibers")
    (sample,), (answer,) = store.samples(), store.answers()
    assert (sample.id,) == result.samples
    assert (sample.offset_units, sample.dtype) == (32768.0, "uint16")
    assert "32768 is subtracted" in result.notes[0]
    assert answer.reply.annotations == (
        PolygonAnnotation(
            class_name="rings", vertices_yx=((0.5, 0.5), (0.5, 8.5), (8.5, 8.5)), coverage="image"
        ),
        PolygonAnnotation(
            class_name="ambiguous", vertices_yx=((0.5, 11.5), (0.5, 19.5), (8.5, 19.5)), coverage="image"
        ),
    )
    picture = ImportedImages(files.parent / "store").picture(sample, "raw", 0)
    np.testing.assert_array_equal(picture.pixels, pixels_of(0))
    assert picture.window[0] < picture.window[1]


def test_the_same_files_again_change_nothing(store: LabelStore, files: Path) -> None:
    tifffile.imwrite(files / "cell_labels.tif", objects().astype(np.uint16))
    options = NAMED.replace(classes=("ring",))
    first = take_in(store, files, "label_tiff", options)
    assert take_in(store, files, "label_tiff", options) == first
    assert (len(store.samples()), len(store.answers())) == (1, 1)


def test_numbers_are_objects_of_one_class_or_several_classes(store: LabelStore, files: Path) -> None:
    tifffile.imwrite(files / "cell_labels.tif", objects().astype(np.uint8))
    take_in(store, files, "label_tiff", NAMED.replace(classes=("ring",)))
    take_in(store, files, "label_tiff")
    take_in(store, files, "ilastik")  # says the same
    take_in(store, files, "ilastik", NAMED.replace(classes=("a", "b")))
    found = [answer.reply.annotations[0] for answer in store.answers()]
    masks = [(a.values, a.value_classes) for a in found if isinstance(a, MaskAnnotation)]
    assert masks == [("objects", ("ring",)), ("classes", ("ring", "fiber")), ("classes", ("a", "b"))]


def test_an_empty_file_of_polygons_says_that_nothing_is_there_only_if_its_annotator_says_so(
    store: LabelStore, files: Path
) -> None:
    (files / "cell.polys.txt").write_text("")
    with pytest.raises(LabelFileError, match="no labelled images"):
        take_in(store, files, "polys")
    take_in(store, files, "polys", NAMED.replace(coverage="image"))
    assert store.answers()[0].reply.annotations == (TagAnnotation(present=("nothing here",)),)


def test_label_images_of_an_ome_zarr_come_in_with_its_pixel_size(store: LabelStore, files: Path) -> None:
    group = zarr.create_group(store=files / "cell.zarr", zarr_format=2)
    scale = [{"type": "scale", "scale": [1.0, 30.0, 30.0]}]
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": name, "type": "space", "unit": "nanometer"} for name in "yx"
    ]
    layout: Any = [{"axes": axes, "datasets": [{"path": "full", "coordinateTransformations": scale}]}]
    group.attrs["multiscales"] = layout
    group.create_array("full", data=pixels_of(0)[None])
    nuclei = group.create_group("labels/nuclei")
    group["labels"].attrs["labels"] = ["nuclei"]
    nuclei.attrs["multiscales"] = layout
    nuclei.create_array("full", data=objects()[None])
    take_in(store, files, "ome_zarr", ImportOptions())
    assert store.samples()[0].pixel_size_m == pytest.approx(30e-9)
    (mask,) = store.answers()[0].reply.annotations
    assert mask == OBJECTS.replace(value_classes=("nuclei",), coverage="marks")


def test_what_napari_saves_comes_in_and_what_we_cannot_hold_is_noted(store: LabelStore, files: Path) -> None:
    (files / "Points.csv").write_text("index,axis-0,axis-1\n0.0,3.0,4.0\n1.0,5.5,6.0\n")
    rows = {
        "rectangle": [(1, 1), (1, 8), (5, 8), (5, 1)],
        "polygon": [(9, 9), (9, 12), (13, 12)],
        "ellipse": [(9, 9), (9, 12), (13, 12), (13, 9)],
        "line": [(2, 2), (4, 4)],
    }
    lines = ["index,shape-type,vertex-index,axis-0,axis-1"]
    for index, (kind, corners) in enumerate(rows.items()):
        lines += [f"{index},{kind},{n},{y}.0,{x}.0" for n, (y, x) in enumerate(corners)]
    (files / "Shapes.csv").write_text("\n".join(lines) + "\n")
    result = take_in(store, files, "napari", NAMED.replace(classes=("ring",)))
    points, box, polygon, line = store.answers()[0].reply.annotations
    assert isinstance(points, PointsAnnotation)
    assert points.points_yx == ((3.0, 4.0), (5.5, 6.0))
    assert isinstance(box, BoxAnnotation)
    assert box.extent.corners == ((1.0, 1.0), (5.0, 8.0))
    assert isinstance(polygon, PolygonAnnotation)
    assert isinstance(line, ScribbleAnnotation)
    assert result.notes == ("Shapes.csv, line 9: a 'ellipse' is none of our kinds",)


def coco(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "info": {"year": 2020},
        "images": [{"id": 7, "width": 30, "height": 20, "file_name": "cell.tif", "license": 1}],
        "categories": [{"id": 3, "name": "ring", "supercategory": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
            {
                "id": 3,
                "image_id": 7,
                "category_id": 3,
                "segmentation": [[10, 0, 14, 0, 14, 4, 10, 4], [20, 0, 24, 0, 24, 4, 20, 4]],
            },
            {
                "id": 4,
                "image_id": 7,
                "category_id": 3,
                "segmentation": {"size": [20, 30], "counts": [0, 20, 580]},
            },
        ],
    }
    return content | changes


def annotated(**changes: Any) -> dict[str, Any]:
    return coco(annotations=[{"id": 1, "image_id": 7, "category_id": 3} | changes])


def test_coco_of_another_program_comes_in(store: LabelStore, files: Path) -> None:
    (files / "labels.json").write_text(json.dumps(coco()))
    result = take_in(store, files, "coco")
    box, polygon, mask = store.answers()[0].reply.annotations
    assert isinstance(box, BoxAnnotation)
    assert box.extent.corners == ((1.5, 0.5), (5.5, 3.5))
    assert isinstance(polygon, PolygonAnnotation)
    assert isinstance(mask, MaskAnnotation)
    wanted = np.zeros(SHAPE, np.int32)
    wanted[0:4, 10:14] = wanted[0:4, 20:24] = 1
    wanted[:, 0] = 2
    np.testing.assert_array_equal(mask.to_array(), wanted)
    assert result.notes == ("cell.tif: the outlines of one object were filled to a mask",)


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def labels(image: NDArray[Any]) -> Callable[[Path], object]:
    return lambda folder: tifffile.imwrite(folder / "cell_labels.tif", image)


def in_coco(content: Any) -> Callable[[Path], object]:
    return text("labels.json", content if isinstance(content, str) else json.dumps(content))


def listed(**changes: Any) -> Callable[[Path], object]:
    """Make an export, and change its list of files."""

    def make(folder: Path) -> None:
        store = new_store(folder.parent / "exported")
        say(store, (OBJECTS,))
        (folder / "cell.tif").unlink()
        export_labels(store, Pictures(), folder, "label_tiff")
        path = folder / "labels.json"
        content = json.loads(path.read_text())
        entry = content["images"][0]
        entry |= {name: value for name, value in changes.items() if name in entry}
        entry["layers"][0] |= {name[1:]: value for name, value in changes.items() if name.startswith("_")}
        path.write_text(json.dumps(content))

    return make


BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no format": ("jpeg", lambda _: None, "'jpeg' cannot be imported; label_tiff, .* can"),
    "nothing": ("label_tiff", lambda _: None, "no labelled images"),
    "float labels": ("label_tiff", labels(objects() / 2), "whole numbers, these are float64; save them"),
    "negative labels": ("label_tiff", labels(-objects()), "from -2 to 0, allowed are 0 to 2"),
    "a class too many": (
        "label_tiff",
        labels(objects() * 2),
        r"from 0 to 4, allowed are 0 to 2 \(ring, fiber",
    ),
    "another shape": (
        "label_tiff",
        labels(objects()[:, :-1]),
        r"shape \(20, 29\), their image has \(20, 30\)",
    ),
    "a stack": ("label_tiff", labels(np.stack([objects()] * 2)), r"one 2-D image .* \(2, 20, 30\)"),
    "no image": (
        "label_tiff",
        lambda f: tifffile.imwrite(f / "other_labels.tif", objects()),
        "there is no other.tif beside it",
    ),
    "no TIFF": (
        "label_tiff",
        text("cell_labels.tif", "II*\0 but no more"),
        "one image is wanted, this file has 0",
    ),
    "empty polygon": (
        "polys",
        text("cell.polys.txt", "0 (1, 1), (2, 2), (3, 3)"),
        "line 1: .*lie on one line",
    ),
    "polygon outside": (
        "polys",
        text("cell.polys.txt", "0 (1, 1), (2, 2), (3, 900)"),
        r"cell: .*\(899.5, 2.5\) lies outside",
    ),
    "polygon of no class": (
        "polys",
        text("cell.polys.txt", "2 (1, 1), (2, 2), (3, 1)"),
        "there is no class 2; named are 0 to 1: ring, fiber",
    ),
    "code": ("polys", text("cell.polys.txt", "0 exec('1')"), "line 1, column 3"),
    "broken JSON": ("coco", in_coco("{"), "labels.json is no COCO file"),
    "deep JSON": ("coco", in_coco("[" * 100_000), "labels.json is no COCO file"),
    "other JSON": ("coco", in_coco([1]), "labels.json is no COCO file"),
    "nan": ("coco", in_coco(json.dumps(annotated(bbox=[float("nan"), 1, 2, 3]))), "annotations.0.bbox.0"),
    "absolute": (
        "coco",
        in_coco(coco(images=[{**coco()["images"][0], "file_name": "/etc/passwd"}])),
        "leads out",
    ),
    "parent": ("coco", in_coco(coco(images=[{**coco()["images"][0], "file_name": "../x.tif"}])), "leads out"),
    "NUL": ("coco", in_coco(coco(images=[{**coco()["images"][0], "file_name": "a\0.tif"}])), "not a name"),
    "absent": (
        "coco",
        in_coco(coco(images=[{**coco()["images"][0], "file_name": "b.tif"}])),
        "no file 'b.tif'",
    ),
    "another size": (
        "coco",
        in_coco(coco(images=[{**coco()["images"][0], "width": 31}])),
        r"\(20, 30\); labels.json says \(20, 31\)",
    ),
    "unknown image": ("coco", in_coco(annotated(image_id=8, bbox=[1, 2, 3, 4])), "does not have both"),
    "same id": ("coco", in_coco(coco(categories=coco()["categories"] * 2)), "the same id"),
    "neither": ("coco", in_coco(annotated()), "annotations.0: it has neither"),
    "odd outline": (
        "coco",
        in_coco(annotated(segmentation=[[1, 2, 3, 4, 5]])),
        "annotations.0: .* 5 numbers",
    ),
    "box without area": ("coco", in_coco(annotated(bbox=[1, 2, 0, 4])), "annotations.0: .*go upwards"),
    "box outside": ("coco", in_coco(annotated(bbox=[1, 2, 300, 4])), "lies outside"),
    "runs too long": (
        "coco",
        in_coco(annotated(segmentation={"size": [20, 30], "counts": [0, 10**12]})),
        "hold 1000000000000 pixels",
    ),
    "packed runs": (
        "coco",
        in_coco(annotated(segmentation={"size": [20, 30], "counts": "abc"})),
        "write them as a list of numbers",
    ),
    "no columns": ("napari", text("a.csv", "x,y\n1,2\n"), "no columns axis-0"),
    "no number": (
        "napari",
        text("a.csv", "index,axis-0,axis-1,class\n0,1,=1+1,ring\n"),
        "line 2: axis-1 is '=1",
    ),
    "infinite": (
        "napari",
        text("a.csv", "index,axis-0,axis-1,class\n0,1,1e999,ring\n"),
        "a number is wanted",
    ),
    "no class": ("napari", text("a.csv", "index,axis-0,axis-1\n0,1,1\n"), "line 2: no class"),
    "ragged": ("napari", text("a.csv", "index,axis-0,axis-1,class\n0,1,1\n"), "line 2: 4 columns"),
    "point outside": ("napari", text("a.csv", "index,axis-0,axis-1,class\n0,1,99,ring\n"), "lies outside"),
    "class unknown": ("napari", text("a.csv", "index,axis-0,axis-1,class\n0,1,9,cat\n"), "no class 'cat'"),
    "list of another version": (
        "label_tiff",
        text("labels.json", '{"stedfast_labels": 2}'),
        "stedfast_labels",
    ),
    "list out of the folder": ("label_tiff", listed(file="../cell.tif"), "leads out"),
    "layer out of the folder": ("label_tiff", listed(_file="/etc/hostname"), "leads out"),
    "layer of no class": ("label_tiff", listed(_class_names=["cat"]), "no class 'cat'"),
    "exported without images": ("label_tiff", listed(file=None), "exported without its image"),
    "of another format": ("napari", listed(), "exported as 'label_tiff', not as 'napari'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_and_nothing_is_stored(case: str, store: LabelStore, files: Path) -> None:
    format_name, spoil, message = BAD[case]
    spoil(files)
    with pytest.raises(LabelFileError, match=message):
        take_in(store, files, format_name)
    assert is_untouched(store, files)


def test_a_link_out_of_the_folder_is_not_followed(store: LabelStore, files: Path) -> None:
    tifffile.imwrite(files.parent / "secret.tif", pixels_of(0))
    (files / "cell.tif").unlink()
    (files / "cell.tif").symlink_to(files.parent / "secret.tif")
    (files / "labels.json").write_text(json.dumps(coco()))
    with pytest.raises(LabelFileError, match="leads out"):
        take_in(store, files, "coco")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImportOptions(classes=("ring",)), "does not say its pixel size; say it"),
        (ImportOptions(pixel_size_m=2e-8), "name them in their order"),
        (ImportOptions(classes=("ambiguous", "ambiguous"), pixel_size_m=2e-8), "classes cannot be used: "),
    ],
)
def test_what_files_do_not_say_has_to_be_said(
    options: ImportOptions, message: str, store: LabelStore, files: Path
) -> None:
    tifffile.imwrite(files / "cell_labels.tif", objects())
    with pytest.raises(LabelFileError, match=message):
        take_in(store, files, "label_tiff", options)
    assert is_untouched(store, files)


def test_an_import_that_fails_half_way_leaves_nothing(
    store: LabelStore, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        tifffile.imwrite(files / f"{name}.tif", pixels_of(ord(name)))
        tifffile.imwrite(files / f"{name}_labels.tif", objects())
    whole, calls = LabelQueue.take_in, []

    def fails_at_the_second(queue: LabelQueue, who: Annotator, record: AnswerRecord) -> AnswerRecord:
        calls.append(record)
        if len(calls) == 2:
            raise RecordingError("the disk is full")
        return whole(queue, who, record)

    monkeypatch.setattr(LabelQueue, "take_in", fails_at_the_second)
    with pytest.raises(RecordingError, match="the disk is full"):
        take_in(store, files, "label_tiff")
    assert len(calls) == 2
    assert is_untouched(store, files)


def test_somebody_who_may_only_look_brings_no_labels(store: LabelStore, files: Path) -> None:
    store.add_annotator("ada", "reader")
    tifffile.imwrite(files / "cell_labels.tif", objects())
    with pytest.raises(LabelFileError, match="'ada' may look, but not answer"):
        take_in(store, files, "label_tiff")
    assert store.samples() == []


def test_reading_images_leaves_the_logs_of_others_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.ones((8, 8), np.uint16))
    before = logging.getLogger("tifffile").getEffectiveLevel()
    read_image(path)
    assert logging.getLogger("tifffile").getEffectiveLevel() == before
