"""``stedfast train segmenter``: what it reads, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from controller.cli import app
from controller.core.decision import QuestionKind
from controller.core.errors import ConfigurationError
from controller.labels.queue import LabelQueue
from controller.labels.records import NewRequest, NewSample, Reply, RequestItem, Roi, Submission
from controller.labels.store import LabelStore
from controller.learning.annotations import (
    AMBIGUOUS,
    NOTHING_HERE,
    Annotation,
    GradesAnnotation,
    ImageAnnotations,
    LabelSchema,
    PointsAnnotation,
    TagAnnotation,
)
from controller.networks.weights import read_weights
from controller.recording.reader import SessionReader
from controller.training.image_files import Reading, _of_one_class, read_pictures
from controller.training.segmenter_picture import write_before_after

PIXEL_M = 20e-9
READING = Reading("objects", 16 * PIXEL_M, PIXEL_M)


def holes(seed: int, size: int = 64) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return photons and labels of dark discs on bright ground, which no usual method takes for objects."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    labels, expected = np.zeros((size, size), np.uint16), np.full((size, size), 9.0)
    for number, (row, column) in enumerate([(16, 16), (16, 48), (48, 16), (48, 48)], 1):
        distance = np.hypot(y - row - rng.uniform(-4, 4), x - column - rng.uniform(-4, 4))
        labels[distance < 9] = number
        expected[distance < 9] = 1.0
    return rng.poisson(expected).astype(np.uint16), labels


def write_pairs(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        image, labels = holes(number)
        tifffile.imwrite(folder / f"{number}.tif", image)
        tifffile.imwrite(folder / f"{number}.labels.tif", labels)
    return folder


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["train", "segmenter", *words])
    return done.exit_code, done.output


def test_it_learns_from_pairs_of_files_and_says_that_it_is_better(tmp_path: Path) -> None:
    folder, output = write_pairs(tmp_path / "pairs", 5), tmp_path / "own.safetensors"
    words = [
        str(folder),
        "--object-size",
        "3.6e-7",
        "--pixel-size",
        "2e-8",
        "--steps",
        "40",
        "-o",
        str(output),
    ]
    code, text = run(*words, "--json")
    assert code == 0, text
    told = json.loads(text.splitlines()[-1])
    assert told["is_better"]
    assert told["scores"]["after"]["f1"] > max(told["scores"][name]["f1"] for name in ("before", "objects"))
    weights = read_weights(output)
    assert weights.card.parent is not None
    assert weights.card.metrics["held_out_f1"] == told["scores"]["after"]["f1"]
    with Image.open(told["picture"]) as picture:
        assert picture.size == (4 * 320 + 3 * 8, 320)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: (f / "0.labels.tif").unlink(), "0.labels.tif beside it"),
        (lambda f: tifffile.imwrite(f / "0.labels.tif", np.zeros((9, 9), np.uint8)), "shape"),
        (lambda f: tifffile.imwrite(f / "0.labels.tif", np.full((64, 64), 0.5, np.float32)), "whole numbers"),
        (lambda f: tifffile.imwrite(f / "0.tif", np.full((64, 64), np.nan, np.float32)), "finite"),
        (lambda f: tifffile.imwrite(f / "0.tif", np.zeros((5, 64, 64), np.uint8)), r"one image \(y, x\)"),
        (lambda f: (f / "0.tif").write_bytes(b"no picture"), "cannot be read as TIFF"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, spoil: object, complaint: str) -> None:
    folder = write_pairs(tmp_path / "pairs", 1)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        read_pictures(folder, READING)
    assert "0." in str(caught.value)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--object-size", "3.6e-7"], "add --pixel-size"),
        (["--object-size", "-1"], "--object-size -1 must be more than 0"),
        (
            ["--object-size", "3.6e-7", "--pixel-size", "2e-8", "--start", "nuclei"],
            "neither one of spots, cells",
        ),
        (["--object-size", "3.6e-7", "--pixel-size", "2e-8"], "at least 2"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_code_of_a_bad_configuration(
    tmp_path: Path, words: list[str], complaint: str
) -> None:
    code, text = run(str(write_pairs(tmp_path / "pairs", 1)), *words)
    assert code == 2
    assert complaint in text


def test_a_source_that_is_nothing_is_told_what_could_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="stedfast simulate"):
        read_pictures(tmp_path / "nothing.png", READING)
    with pytest.raises(ConfigurationError, match="no labelled image"):
        read_pictures(tmp_path, READING)


def test_a_simulated_data_set_gives_structures_or_points_and_its_own_split(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    words = ["--specimen", "beads", "--images", "4", "--size", "32", "--seed", "3", "--workers", "1"]
    assert CliRunner().invoke(app, ["simulate", str(folder), *words]).exit_code == 0
    for kind in ("objects", "spots"):
        pictures = read_pictures(folder, Reading(kind, 1e-7))
        assert len(pictures) == 4
        assert {picture.part for picture in pictures} <= {"train", "val", "test"}
        for picture in pictures:
            assert isinstance(picture.labels, np.ndarray)
            assert picture.photons.shape == picture.labels.shape == (32, 32)
            assert picture.pixel_size_m == PIXEL_M
    spots = [p for p in read_pictures(folder, Reading("spots", 1e-7)) if p.labels.max() > 0]  # type: ignore[union-attr]
    for picture in spots:
        assert picture.photons[picture.labels > 0].mean() > 2 * picture.photons[picture.labels == 0].mean()  # type: ignore[operator]


ANSWERS = [
    (TagAnnotation(present=("synapse",)), "tag", ("cell",)),
    (TagAnnotation(present=("shaft",)), None, ()),
    (TagAnnotation(present=(NOTHING_HERE,)), "tag", (NOTHING_HERE,)),
    (GradesAnnotation(grades={"synapse": 1.0}), None, ()),
    (PointsAnnotation(class_name="synapse", points_yx=((3.0, 4.0),)), "points", ("cell",)),
    (PointsAnnotation(class_name="shaft", points_yx=((3.0, 4.0),)), None, ()),
    (PointsAnnotation(class_name=AMBIGUOUS, points_yx=((3.0, 4.0),)), "points", (AMBIGUOUS,)),
]


@pytest.mark.parametrize(("said", "kind", "names"), ANSWERS)
def test_answers_are_brought_to_the_one_class_that_is_learned(
    said: Annotation, kind: str | None, names: tuple[str, ...]
) -> None:
    found = _of_one_class(said, Reading("objects", 1e-7, class_name="cell", object_answers=("synapse",)))
    assert (found and found.kind) == kind
    assert (found.class_names if found else ()) == names


def test_a_session_gives_the_frames_that_people_answered_about(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    demo = Path(__file__).parent.parent / "demo"
    words = ["run", str(demo), "--budget-cycles", "2", "--output", str(folder)]
    assert CliRunner().invoke(app, words).exit_code == 0
    reader = SessionReader(folder)
    frame = reader.frame(0)
    rows, columns = frame.photons.shape
    store = LabelStore.open(folder, create=True)
    schema = store.add_schema(LabelSchema(classes=("synapse", "shaft")))
    sample = store.add_sample(
        NewSample(
            session=reader.start.run_id,
            field="0",
            uri=reader.frames[0].path,
            frame_index=0,
            roi=Roi(y=2, x=3, rows=rows - 2, columns=columns - 3),
            pixel_size_m=frame.settings.pixel_size_m,
            dtype="uint32",
        )
    )
    queue, me = LabelQueue(store, lambda: 0.0), store.add_annotator("me")
    said: dict[QuestionKind, Annotation] = {
        "tag": TagAnnotation(present=("synapse",)),
        "points": PointsAnnotation(class_name="synapse", points_yx=((3.0, 4.0),)),
    }
    for kind, annotation in said.items():
        item = RequestItem(sample_id=sample.id)
        store.add_request(NewRequest(key=kind, kind=kind, text="?", schema_id=schema.id, items=(item,)))
        lease = queue.claim(me, [kind])
        assert lease is not None
        reply = Reply(annotations=(annotation,))
        queue.answer(me, Submission(key=kind, lease_id=lease.id, reply=reply, elapsed_s=1.0))
    (picture,) = read_pictures(folder, Reading("spots", 1e-7, object_answers=("synapse",)))
    np.testing.assert_array_equal(picture.photons, frame.photons[2:, 3:])
    assert isinstance(picture.labels, ImageAnnotations)
    assert [one.kind for one in picture.labels.annotations] == ["tag", "points"]
    with pytest.raises(ConfigurationError, match=r"--object-answer 'synapse'"):
        read_pictures(folder, Reading("spots", 1e-7))


def test_before_and_after_are_drawn_beside_each_other(tmp_path: Path) -> None:
    image, labels = holes(0)
    write_before_after(tmp_path / "a.png", image, [labels.astype(np.int32), np.zeros((64, 64), np.int32)])
    with Image.open(tmp_path / "a.png") as picture:
        drawn = np.asarray(picture)
    assert drawn.shape == (320, 3 * 320 + 2 * 8, 3)
    left, middle, right = drawn[:, :320], drawn[:, 328:648], drawn[:, 656:]
    np.testing.assert_array_equal(left, right)
    assert (middle != left).any()
