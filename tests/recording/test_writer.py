"""A frame counts when pixels, checksum and journal line are on disk; what fails, fails in the open."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from zarr.codecs import BloscCodec

from controller.core.decision import Acquire, Cycle, Dose
from controller.core.dose import DoseLedger
from controller.core.errors import RecordingError, SessionFolderError
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.settings import Region
from controller.microscopes.replay import read_movie
from controller.recording import layers
from controller.recording.journal import JOURNAL_NAME, Journal, cut_torn_line, read_journal
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from controller.testing import CONFOCAL, LIMITS, frames
from tests import support

START = {**support.START, "run_id": str(uuid.UUID(int=7)), "experiment": {"name": "a <test>"}}


def record(writer: SessionWriter, frame: Frame, index: int) -> None:
    booking = DoseLedger(LIMITS, "test").worst_case(frame.settings)
    writer.reserve(booking, index, float(index))
    writer.append_frame(frame, index)
    photons = frame.photons.astype(np.float32)
    labels = (photons > 8).astype(np.int32)
    writer.append(
        Cycle(
            index,
            Acquire(settings=frame.settings, reason="test"),
            "test",
            frame=frame,
            denoised=Denoised(photons, np.sqrt(photons), frame.index),
            segmentation=Segmentation(labels, np.clip(photons / 20, 0, 1), np.zeros_like(photons)),
            dose=Dose(energy_j=1.0 * index),
        ),
        now_s=float(index),
    )


def finish(writer: SessionWriter, status: Any = "completed") -> str:
    return writer.finish(status, "test", cycles=1, faults=0, dose=Dose(), now_s=0.0)


def mixed_frames() -> list[Frame]:
    """Frames of different size and type, as a session has them."""
    small = frames(2, (24, 32))
    wide = frames(1, (7, 40))[0]
    moved = wide.settings.replace(
        region=Region(center_yx_m=(3e-6, -2e-6), size_yx_m=wide.settings.region.size_yx_m)
    )
    return [
        Frame(small[0].photons, small[0].settings, 0, 0.0),
        Frame(wide.photons.astype(np.uint16), moved, 1, 1.0),
        Frame(small[1].photons.astype(np.float64), small[1].settings, 2, 2.0),
    ]


def test_what_was_written_is_read_back_to_the_bit(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    writer = SessionWriter.create(claim_folder(tmp_path), START, acknowledged=acknowledged.append)
    for index, frame in enumerate(mixed_frames()):
        record(writer, frame, index)
    assert finish(writer) == "completed"
    reader = SessionReader(tmp_path)
    assert acknowledged == [0, 1, 2]
    assert reader.status == "completed"
    assert reader.problems() == []
    for frame in mixed_frames():
        again = reader.frame(frame.index)
        assert again.photons.dtype == frame.photons.dtype
        assert np.array_equal(again.photons, frame.photons)
        assert (again.settings, again.started_s) == (frame.settings, frame.started_s)
    segmentation = reader.segmentation(reader.cycles[1])
    assert segmentation is not None
    assert np.array_equal(segmentation.labels, mixed_frames()[1].photons > 8)
    uids = [document.uid for document in reader.documents]
    assert len(set(uids)) == len(uids)


def test_the_bundle_is_valid_ome_zarr_with_true_scale_and_place(tmp_path: Path) -> None:
    writer = SessionWriter.create(claim_folder(tmp_path), START)
    for index, frame in enumerate(mixed_frames()):
        record(writer, frame, index)
    finish(writer)
    bundle = tmp_path / layers.BUNDLE_NAME
    for group in (
        ".",
        "000000",
        "000001",
        "000001_denoised",
        "000001/labels",
        "000001/labels/segmentation",
    ):
        yaozarrs.validate_zarr_store(str(bundle / group))
    attributes = json.loads((bundle / "000001" / "zarr.json").read_text())["attributes"]
    scale, translation = attributes["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    y0_m, x0_m, _, _ = mixed_frames()[1].settings.region.bounds_yx_m
    assert scale["scale"] == pytest.approx([0.02, 0.02])
    assert translation["translation"] == pytest.approx([1e6 * y0_m + 0.01, 1e6 * x0_m + 0.01])
    series = json.loads((bundle / "OME" / "zarr.json").read_text())["attributes"]["ome"]["series"]
    assert series == ["000000", "000001", "000002"]
    assert np.array_equal(read_movie(bundle / "000001")[0], mixed_frames()[1].photons)


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "<i4", "<f2", "<f4", ">f8"])
def test_an_image_is_stored_as_zarr_python_would_store_it(tmp_path: Path, kind: str) -> None:
    image = np.arange(CONFOCAL.shape_yx[0] * CONFOCAL.shape_yx[1]).reshape(CONFOCAL.shape_yx).astype(kind)
    layers.create_bundle(tmp_path / "ours", {})
    layers.write_image(tmp_path / "ours", "000000", image, CONFOCAL, attributes={"index": 0})
    native = image.dtype.newbyteorder("=")
    ours = tmp_path / "ours" / "000000"
    theirs = zarr.create_array(
        store=tmp_path / "theirs",
        data=image.astype(native),
        chunks=image.shape,
        compressors=[BloscCodec(typesize=native.itemsize, cname="lz4", clevel=5, shuffle="bitshuffle")],
        dimension_names=("y", "x"),
    )
    assert theirs.attrs == {}
    metadata = [json.loads((place / "zarr.json").read_text()) for place in (ours / "0", tmp_path / "theirs")]
    if native.itemsize == 1:
        metadata[1]["codecs"][0] = metadata[0]["codecs"][0]  # zarr-python leaves out its byte order
    assert metadata[0] == metadata[1]
    assert (ours / "0/c/0/0").read_bytes() == (tmp_path / "theirs/c/0/0").read_bytes()
    again = layers.read_array(tmp_path / "ours", "000000")
    assert again.dtype == native
    assert np.array_equal(again, image)


def test_a_raw_image_is_never_overwritten(tmp_path: Path) -> None:
    writer = SessionWriter.create(claim_folder(tmp_path), START)
    frame = mixed_frames()[0]
    record(writer, frame, 0)
    record(writer, Frame(frame.photons * 0, frame.settings, 0, 0.0), 1)
    assert finish(writer) == "failed"
    assert np.array_equal(SessionReader(tmp_path).frame(0).photons, frame.photons)


def test_a_changed_pixel_is_noticed(tmp_path: Path) -> None:
    writer = SessionWriter.create(claim_folder(tmp_path), START)
    record(writer, mixed_frames()[0], 0)
    finish(writer)
    chunk = next((tmp_path / layers.BUNDLE_NAME / "000000" / "0" / "c").rglob("0"))
    while chunk.is_dir():
        chunk = next(path for path in chunk.rglob("*") if path.is_file())
    chunk.unlink()  # zarr reads a missing chunk as zeros
    reader = SessionReader(tmp_path)
    with pytest.raises(SessionFolderError, match="do not match their checksum"):
        reader.frame(0)
    assert len(reader.problems()) == 1


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that takes no image until the event is set."""
    released, write = threading.Event(), layers.write_image

    def wait(*args: Any, **options: Any) -> list[Path]:
        assert released.wait(20)
        return write(*args, **options)

    monkeypatch.setattr(layers, "write_image", wait)
    yield released
    released.set()


def test_a_slow_disk_makes_the_scan_wait_and_drops_nothing(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    writer = SessionWriter.create(claim_folder(tmp_path), START)
    booking = DoseLedger(LIMITS, "test").worst_case(CONFOCAL)
    scanned: list[int] = []

    def scan() -> None:
        for frame in frames(6):
            writer.reserve(booking, frame.index, 0.0)
            scanned.append(frame.index)
            writer.append_frame(frame, frame.index)

    thread = threading.Thread(target=scan)
    thread.start()
    deadline_s = time.monotonic() + 20
    while len(scanned) < 4 and time.monotonic() < deadline_s:
        thread.join(0.01)
    thread.join(0.2)  # time enough to go on, if nothing held it
    assert scanned == [0, 1, 2, 3], "three frames on their way to the disk, one under the light, no more"
    slow_disk.set()
    thread.join(20)
    assert finish(writer) == "completed"
    assert sorted(SessionReader(tmp_path).frames) == list(range(6))


def test_a_disk_that_fills_ends_the_recording_within_four_frames_and_truthfully(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = layers.write_image

    def full(bundle: Path, path: str, *args: Any, **options: Any) -> list[Path]:
        if path == "000002":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(bundle, path, *args, **options)

    monkeypatch.setattr(layers, "write_image", full)
    writer = SessionWriter.create(claim_folder(tmp_path), START)
    done: list[int] = []

    def scan() -> None:
        for frame in frames(9):
            record(writer, frame, frame.index)
            done.append(frame.index)

    with pytest.raises(RecordingError, match="No space left"):
        scan()
    assert max(done) <= 5, "three frames beyond the failed one at most"
    assert finish(writer) == "failed"
    reader = SessionReader(tmp_path)
    assert reader.stop is not None
    assert (reader.stop.status, reader.stop.frames) == ("failed", 2)
    assert "No space left" in reader.stop.reason
    assert sorted(reader.frames) == [0, 1]
    assert reader.problems() == []


_FILL = """
import sys
from pathlib import Path
from controller.cli import app
sys.argv[1:] = ["run", sys.argv[1], "-o", sys.argv[2], "--json", "--no-report"]
app()
"""


def _can_mount(folder: Path, options: str) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("room_kb", [700, 1000, 1400])
def test_a_session_on_a_really_full_disk_fails_with_everything_acknowledged_readable(
    tmp_path: Path, room_kb: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not _can_mount(disk, f"size={room_kb}k"):
        pytest.skip("mounting a small disk needs root")
    try:
        experiment = tmp_path / "experiment.toml"
        experiment.write_text(
            'schema = "stedfast-experiment/1"\nname = "full"\nhardware = "hardware.toml"\n'
            '[policy]\nname = "fixed"\n[policy.options]\nrepeats = 500\n'
        )
        (tmp_path / "hardware.toml").write_text(
            'schema = "stedfast-hardware/1"\nname = "fake"\n[microscope]\n'
            'driver = "controller.testing:FakeMicroscope"\n[limits]\n'
            + "\n".join(
                f"{name} = {json.dumps(value)}"
                for name, value in LIMITS.model_dump(mode="json", exclude_none=True).items()
                if name != "stage_box"
            )
            + "\n[limits.stage_box]\ncenter_yx_m = [0.0, 0.0]\nsize_yx_m = [2e-5, 2e-5]\n"
        )
        folder = disk / "session"
        done = subprocess.run(
            [sys.executable, "-c", _FILL, experiment, folder], capture_output=True, text=True, check=False
        )
        told = json.loads(done.stdout)
        assert told["status"] == "failed", done
        assert done.returncode == 1
        assert "No space left" in told["reason"]
        reader = SessionReader(folder)
        assert len(reader.frames) > 2
        assert reader.problems() == []
        assert reader.status == "failed", "the ballast makes room for the stop document"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_lit(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for folder in (blocked / "session", Path("/proc/stedfast-session")):
        with pytest.raises(RecordingError, match="cannot be written"):
            claim_folder(folder)


def test_a_folder_that_holds_a_session_is_refused(tmp_path: Path) -> None:
    finish(SessionWriter.create(claim_folder(tmp_path), START))
    with pytest.raises(SessionFolderError, match="already holds a session"):
        claim_folder(tmp_path)


def test_a_torn_last_line_is_left_out_and_cut_before_the_next_document(tmp_path: Path) -> None:
    finish(SessionWriter.create(claim_folder(tmp_path), START))
    journal = tmp_path / JOURNAL_NAME
    whole = journal.read_bytes()
    for torn in (b'{"type":"cyc', b'{"type":"cycle"\n', b"\x00\xff\n"):
        journal.write_bytes(whole + torn)
        assert len(read_journal(tmp_path)) == 2
        cut_torn_line(tmp_path)
        assert journal.read_bytes() == whole


def test_damage_in_the_middle_of_a_journal_is_named_with_its_line(tmp_path: Path) -> None:
    finish(SessionWriter.create(claim_folder(tmp_path), START))
    journal = tmp_path / JOURNAL_NAME
    first, second, _ = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([first, b"garbage", second, b""]))
    with pytest.raises(SessionFolderError, match="line 2"):
        read_journal(tmp_path)


def test_what_is_no_session_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SessionFolderError, match=r"is .* a session folder"):
        SessionReader(tmp_path)
    (tmp_path / JOURNAL_NAME).write_text("")
    with pytest.raises(SessionFolderError, match="does not begin with a start document"):
        SessionReader(tmp_path)


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(SessionFolderError, match="running in another process"):
        Journal(tmp_path)
