"""An export is complete, safe to open, and overwrites nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from controller.labels.formats import EXPORT_FORMATS, export_labels
from controller.labels.formats.labelled import LabelFileError
from controller.labels.images import Picture
from controller.labels.records import Sample
from tests.labels.formats.made_up import OBJECTS, TAG, Pictures, new_store, say


def test_the_table_of_answers_holds_each_of_them_and_no_formula(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, (TAG,), person="=HYPERLINK(1)")
    say(store, (), person="ben", kind="tag", outcome="unsure", elapsed_s=4.0)
    (path,) = export_labels(store, None, tmp_path / "out", "csv")
    first, second = csv.DictReader(path.read_text().splitlines())
    assert first["annotator"] == "'=HYPERLINK(1)"
    assert (first["classes"], first["elapsed_s"], first["arm"]) == ("ring", "2.5", "random_audit")
    assert (second["outcome"], second["classes"], second["elapsed_s"]) == ("unsure", "ambiguous", "4.0")


def test_an_answer_that_marks_nothing_is_listed_as_left_out(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, (OBJECTS,))
    say(store, (), frame=1, kind="mask", outcome="unsure")
    written = export_labels(store, None, tmp_path / "out", "coco")
    (row,) = csv.DictReader(written[-1].read_text().splitlines())
    assert (row["what"], row["annotator"]) == ("unsure", "ada")


@pytest.mark.parametrize("format_name", EXPORT_FORMATS)
def test_a_folder_that_holds_something_is_left_alone(format_name: str, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, (OBJECTS,))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(LabelFileError, match="not empty"):
        export_labels(store, Pictures(), tmp_path / "out", format_name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_all_files_that_were_written_are_told(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    say(store, (OBJECTS, TAG))
    for format_name in ("label_tiff", "coco", "napari", "ilastik", "polys", "csv"):
        target = tmp_path / format_name
        written = export_labels(store, Pictures(), target, format_name)
        assert sorted(written) == sorted(path for path in target.rglob("*") if path.is_file())


class Gone(Pictures):
    def picture(self, sample: Sample, channel: str, context_px: int) -> Picture:
        raise KeyError("frame 0 was deleted")


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    with pytest.raises(LabelFileError, match="no answers"):
        export_labels(store, None, tmp_path / "a", "coco")
    say(store, (OBJECTS,))
    with pytest.raises(LabelFileError, match="no format 'jpeg'; known are label_tiff"):
        export_labels(store, None, tmp_path / "b", "jpeg")
    with pytest.raises(LabelFileError, match="there is 'ada'"):
        export_labels(store, None, tmp_path / "c", "coco", annotator="eve")
    with pytest.raises(LabelFileError, match="export with images"):
        export_labels(store, None, tmp_path / "d", "ome_zarr")
    with pytest.raises(LabelFileError, match="frame 0 was deleted"):
        export_labels(store, Gone(), tmp_path / "e", "coco")
    with pytest.raises(LabelFileError, match="no answers"):
        export_labels(store, None, tmp_path / "f", "coco", session="tuesday")
