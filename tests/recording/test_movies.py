"""A movie is one image group under one reservation; each frame of it counts by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

from controller.core.decision import Acquire, Cycle, Dose
from controller.core.dose import DoseLedger, Lit
from controller.core.frame import Denoised, Frame, Segmentation
from controller.microscopes.replay import read_movie
from controller.recording import layers
from controller.recording.journal import JOURNAL_NAME
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from controller.testing import LIMITS, frames
from tests.recording.test_writer import START, finish, mixed_frames, record

PLANES = 4


def film(first: int = 0, planes: int = PLANES) -> list[Frame]:
    """Frames of one movie, numbered from ``first``."""
    return [
        Frame(f.photons.astype(np.uint16), f.settings, first + n, float(n))
        for n, f in enumerate(frames(planes))
    ]


def record_movie(writer: SessionWriter, movie: list[Frame], cycle: int, booked: int = PLANES) -> None:
    settings = movie[0].settings
    writer.reserve(DoseLedger(LIMITS, "test").worst_case(settings, booked), cycle, float(cycle))
    for plane, frame in enumerate(movie):
        writer.append_frame(frame, cycle, plane)
    photons = movie[-1].photons.astype(np.float32)
    labels = (photons > 8).astype(np.int32)
    decision = Acquire(settings=settings, reason="test")
    found = Segmentation(labels, np.clip(photons / 20, 0, 1), np.zeros_like(photons))
    clean = Denoised(photons, np.sqrt(photons), movie[-1].index)
    writer.append(Cycle(cycle, decision, "test", movie[-1], clean, found, dose=Dose()), now_s=float(cycle))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, a movie, another movie."""
    folder = tmp_path_factory.mktemp("movies") / "session"
    writer = SessionWriter.create(claim_folder(folder), START)
    record(writer, mixed_frames()[0], 0)
    record_movie(writer, film(1), 1)
    record_movie(writer, film(5), 2)
    assert finish(writer) == "completed"
    return folder


def test_a_movie_is_one_group_that_zarr_reads_whole(session: Path) -> None:
    reader = SessionReader(session)
    assert [reader.frames[n].path for n in range(9)] == ["000000"] + ["000001"] * 4 + ["000005"] * 4
    assert [reader.frames[n].plane for n in range(6)] == [None, 0, 1, 2, 3, 0]
    movie = zarr.open_array(store=reader.bundle / "000001" / "0", mode="r")
    assert movie.shape == (PLANES, *film()[0].photons.shape)
    for plane, frame in enumerate(film(1)):
        assert np.array_equal(np.asarray(movie[plane]), frame.photons)
        again = reader.frame(frame.index)
        assert np.array_equal(again.photons, frame.photons)
        assert (again.settings, again.started_s) == (frame.settings, frame.started_s)
    assert len(read_movie(reader.bundle / "000001")) == PLANES
    assert reader.problems() == []


def test_a_movie_is_valid_ome_zarr_on_an_axis_of_time(session: Path) -> None:
    bundle = SessionReader(session).bundle
    for group in (".", "000001", "000001_denoised", "000001/labels", "000001/labels/segmentation"):
        yaozarrs.validate_zarr_store(str(bundle / group))
    frame_s = film()[0].settings.duration_s
    for group, start_s in (("000001", 0.0), ("000001/labels/segmentation", 3 * frame_s)):
        ome = json.loads((bundle / group / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
        assert [axis["name"] for axis in ome["axes"]] == ["t", "y", "x"]
        assert ome["axes"][0] == {"name": "t", "type": "time", "unit": "second"}
        scale, translation = ome["datasets"][0]["coordinateTransformations"]
        assert scale["scale"][0] == pytest.approx(frame_s)
        assert translation["translation"][0] == pytest.approx(start_s)
    series = json.loads((bundle / "OME" / "zarr.json").read_text())["attributes"]["ome"]["series"]
    assert series == ["000000", "000001", "000005"]


def test_a_whole_movie_counts_what_its_frames_lit(session: Path) -> None:
    reader = SessionReader(session)
    assert (reader.frames_of, reader.frame_of) == (
        {0: [0], 1: [1, 2, 3, 4], 2: [5, 6, 7, 8]},
        {0: 0, 1: 4, 2: 8},
    )
    one = Lit.by(film()[0].settings)
    lit = reader.lit(reader.reservations[1])
    assert lit == Lit(one.region, PLANES * one.energy_j, PLANES * one.dose_j_per_m2, PLANES)
    assert reader.lit(reader.reservations[0]) == Lit.by(mixed_frames()[0].settings)
    assert reader.unsettled() == []


@pytest.mark.parametrize("settled", [False, True])
def test_a_movie_cut_short_counts_in_full_unless_it_was_settled(tmp_path: Path, settled: bool) -> None:
    writer = SessionWriter.create(claim_folder(tmp_path), START)
    record_movie(writer, film(planes=2), 0)
    booking = DoseLedger(LIMITS, "test").worst_case(film()[0].settings, PLANES)
    if settled:
        writer.settle(booking.lit(times=0.75))
    finish(writer)
    reader = SessionReader(tmp_path)
    assert reader.lit(reader.reservations[0]) == booking.lit(times=0.75 if settled else 1.0)
    assert len(reader.unsettled()) == (0 if settled else 1)
    assert reader.frames_of == {0: [0, 1]}


def test_a_movie_cut_at_any_line_is_readable_and_tidied(session: Path, tmp_path: Path) -> None:
    lines = (session / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        folder = tmp_path / f"cut{cut}"
        shutil.copytree(session, folder)
        (folder / JOURNAL_NAME).write_bytes(b"".join(lines[:cut]) + b'{"type":"fra')
        before = SessionReader(folder)
        assert before.problems() == []
        writer = SessionWriter.reopen(folder)
        writer.resume(now_s=9.0, versions={})
        index = writer.frames
        record_movie(writer, film(index), 7)
        assert finish(writer) == "completed"
        reader = SessionReader(folder)
        assert reader.problems() == []
        assert len(reader.frames) == len(before.frames) + PLANES
        planes: dict[str, int] = {}
        for document in reader.frames.values():
            if document.plane is not None:
                planes[document.path] = document.plane + 1
        for path, count in planes.items():
            assert len(read_movie(reader.bundle / path)) == count
            yaozarrs.validate_zarr_store(str(reader.bundle / path))
        kept = sum(_pixels(group) for group in reader.bundle.glob("[0-9]*[0-9]"))
        aside = sum(_pixels(group) for group in reader.bundle.glob("unacknowledged_*"))
        assert kept == len(reader.frames)
        assert aside == 9 - len(before.frames), "pixels are never thrown away"


def _pixels(group: Path) -> int:
    """Count the images on disk in a group, and read all of them."""
    np.asarray(zarr.open_array(store=group / "0", mode="r")[...])
    return sum(path.is_file() for path in (group / "0" / "c").rglob("*"))


def test_frames_beyond_a_shorter_movie_are_still_readable_aside(session: Path, tmp_path: Path) -> None:
    bundle = tmp_path / layers.BUNDLE_NAME
    shutil.copytree(session / layers.BUNDLE_NAME, bundle)
    shape = film()[0].settings.shape_yx
    layers.tidy_after_crash(bundle, {"000001": layers.Movie(2, shape, "uint16")}, set())
    (aside,) = bundle.glob("unacknowledged_000001_*")
    assert np.array_equal(read_movie(aside)[2:], [frame.photons for frame in film(1)[2:]])
    assert np.array_equal(read_movie(bundle / "000001"), [frame.photons for frame in film(1)[:2]])


def test_the_frames_of_a_movie_are_alike(tmp_path: Path) -> None:
    writer = SessionWriter.create(claim_folder(tmp_path), START)
    one, other = film()[0], film()[1]
    writer.append_frame(one, 0, 0)
    writer.append_frame(Frame(other.photons.astype(np.float32), other.settings, 1, 0.0), 0, 1)
    assert finish(writer) == "failed"
    reader = SessionReader(tmp_path)
    assert reader.stop is not None
    assert "alike" in reader.stop.reason
    assert list(reader.frames) == [0]
    assert reader.problems() == []
