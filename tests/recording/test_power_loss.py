"""A loss of power takes the newest pixels, not the truth about them: their light counts in full."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaozarrs

from controller.assemble import new_session, resumed_session
from controller.recording.documents import LostDocument
from controller.recording.journal import JOURNAL_NAME, read_journal
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from tests.loop.test_recovery import experiment
from tests.recording.test_movies import film, record_movie
from tests.recording.test_writer import START, finish, mixed_frames, record


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images and a movie, with all that is made of them, and no end."""
    folder = tmp_path_factory.mktemp("power") / "session"
    writer = SessionWriter.create(claim_folder(folder), START)
    for index, frame in enumerate(mixed_frames()):
        record(writer, frame, index)
    record_movie(writer, film(3), 3)
    finish(writer)
    _cut_stop(folder)
    return folder


def _cut_stop(folder: Path) -> None:
    lines = (folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    (folder / JOURNAL_NAME).write_bytes(b"".join(lines[:-1]))


@pytest.mark.parametrize(
    ("lost", "frames", "cycles"),
    [
        ("000001/0/c/0/0", 1, 1),
        ("000001/0/zarr.json", 1, 1),
        ("000001/zarr.json", 1, 1),
        ("000001_denoised/0/c/0/0/0", 2, 1),
        ("000001/labels/segmentation/0/c/0/0", 2, 1),
        ("000001_probability/zarr.json", 2, 1),
        ("000003/0/c/2/0/0", 5, 3),
        ("000003/0/zarr.json", 7, 4),  # the journal knows what is in it
        ("OME/zarr.json", 7, 4),
    ],
)
def test_what_the_power_took_is_found_and_taken_back(
    session: Path, tmp_path: Path, lost: str, frames: int, cycles: int
) -> None:
    folder = tmp_path / "session"
    shutil.copytree(session, folder)
    bundle = SessionReader(folder).bundle
    (bundle / lost).write_bytes(b"")  # what a file system leaves of a file that was not synced
    before = SessionReader(folder)
    assert len(before.frames) == 7
    assert bool(before.problems()) == (not lost.startswith("OME")), "a reader says what is damaged"

    writer = SessionWriter.reopen(folder)
    writer.resume(now_s=9.0, versions={})
    again = writer.frames
    record_movie(writer, film(again), 9)
    assert finish(writer) == "completed"
    reader = SessionReader(folder)
    assert reader.problems() == []
    assert (again, len(reader.cycles)) == (frames, cycles + 1)
    assert len(reader.reservations) == 5, "light is never forgotten"
    assert len(reader.unsettled()) == 4 - sum(reader.is_whole(b) for b in reader.reservations[:4])
    taken_back = [d for d in read_journal(folder) if isinstance(d, LostDocument)]
    assert len(taken_back) == (0 if frames == 7 else 1)
    uids = [document.uid for document in read_journal(folder)]
    assert len(set(uids)) == len(uids)
    series = json.loads((bundle / "OME/zarr.json").read_text())["attributes"]["ome"]["series"]
    for group in (".", *series):
        yaozarrs.validate_zarr_store(str(bundle / group))


def test_damage_to_an_older_image_is_not_taken_for_a_loss_of_power(tmp_path: Path) -> None:
    writer = SessionWriter.create(claim_folder(tmp_path), START)
    record(writer, mixed_frames()[0], 0)
    finish(writer, "interrupted")
    (SessionReader(tmp_path).bundle / "000000/0/c/0/0").write_bytes(b"")
    SessionWriter.reopen(tmp_path).abandon()
    assert len(SessionReader(tmp_path).frames) == 1
    assert len(SessionReader(tmp_path).problems()) == 1


@pytest.mark.parametrize("frame", [0, 5, 11])
def test_a_session_goes_on_after_a_loss_of_power(tmp_path: Path, frame: int) -> None:
    folder = tmp_path / "session"
    new_session(experiment(tmp_path / "config", cycles=12), folder).run()
    _cut_stop(folder)
    (SessionReader(folder).bundle / f"{frame:06d}/0/c/0/0").write_bytes(b"")
    assert resumed_session(folder).run().status == "completed"
    reader = SessionReader(folder)
    assert reader.problems() == []
    assert [cycle.index for cycle in reader.cycles] == list(range(12))
    assert len(reader.frames) == 12
    lost = reader.unsettled()
    assert len(lost) == 12 - frame
    delivered = sum(document.settings.energy_j for document in reader.frames.values())
    assert reader.stop is not None
    assert reader.stop.dose.energy_j == pytest.approx(delivered + sum(b.energy_j for b in lost))
    assert len(list(reader.bundle.glob("unacknowledged_*"))) == 12 - frame
