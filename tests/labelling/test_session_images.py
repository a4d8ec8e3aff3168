"""Pictures that people are shown: the right pixels, in their context, with a contrast to begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from controller.labelling.session_images import DENOISED, RAW, SessionImages, surroundings
from controller.labels.records import NewSample, Roi, Sample
from controller.recording.following import FollowedSession
from controller.recording.reader import SessionReader


def sample_of(reader: SessionReader, roi: Roi, frame: int = 0) -> Sample:
    new = NewSample(
        session=reader.start.run_id,
        field="0",
        uri=reader.frames[frame].path,
        frame_index=frame,
        roi=roi,
        pixel_size_m=20e-9,
        dtype="uint32",
    )
    return Sample(**dict(new), id="1", created_s=0.0)


def test_a_sample_is_shown_inside_its_context(recorded: SessionReader) -> None:
    images, photons = SessionImages(recorded.folder), recorded.frame(1).photons
    sample = sample_of(recorded, Roi(y=100, x=50, rows=64, columns=60), frame=1)
    picture = images.picture(sample, RAW, 20)
    assert picture.origin_yx == (20, 20)
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, photons[80:184, 30:130])
    low, high = picture.window
    assert photons.min() <= low < high <= photons.max()


def test_context_ends_where_the_frame_does(recorded: SessionReader) -> None:
    corner = sample_of(recorded, Roi(y=0, x=226, rows=30, columns=30))
    picture = SessionImages(recorded.folder).picture(corner, RAW, 20)
    assert picture.origin_yx == (0, 20)
    assert picture.pixels.shape == (50, 50)


def test_the_denoised_image_is_another_channel_with_its_own_numbers(recorded: SessionReader) -> None:
    images, sample = SessionImages(recorded.folder), sample_of(recorded, Roi(y=0, x=0, rows=64, columns=64))
    assert images.channels(sample) == (RAW, DENOISED)
    found = recorded.denoised(recorded.cycles[0])
    assert found is not None
    picture = images.picture(sample, DENOISED, 0)
    np.testing.assert_allclose(picture.pixels, found.mean[:64, :64], rtol=1e-6)
    shown = images.image(sample, 0)
    assert shown.std is not None
    np.testing.assert_allclose(shown.std, found.std[:64, :64], rtol=1e-6)
    np.testing.assert_array_equal(shown.photons, recorded.frame(0).photons[:64, :64])


@pytest.mark.parametrize(
    ("changes", "channel"),
    [({}, "infrared"), ({"frame_index": 99}, RAW), ({"session": "another"}, RAW), ({}, "../journal.jsonl")],
)
def test_what_is_not_there_is_a_key_error(
    recorded: SessionReader, changes: dict[str, object], channel: str
) -> None:
    sample = sample_of(recorded, Roi(y=0, x=0, rows=64, columns=64)).replace(**changes)
    with pytest.raises(KeyError):
        SessionImages(recorded.folder).picture(sample, channel, 0)


def test_a_part_outside_of_its_image_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="outside"):
        surroundings(Roi(y=30, x=0, rows=10, columns=10), (32, 32), 4)


def test_an_imported_file_loses_its_offset(tmp_path: Path) -> None:
    image = np.arange(64, dtype=np.uint16).reshape(8, 8) + 32768
    (tmp_path / "imported").mkdir()
    tifffile.imwrite(tmp_path / "imported" / "a.tif", image)
    new = NewSample(
        session="import",
        field="a",
        uri="imported/a.tif",
        roi=Roi(y=2, x=2, rows=4, columns=4),
        pixel_size_m=20e-9,
        dtype="uint16",
        offset_units=32768.0,
    )
    picture = SessionImages(tmp_path).picture(Sample(**dict(new), id="1", created_s=0.0), RAW, 1)
    np.testing.assert_array_equal(picture.pixels, image[1:7, 1:7] - 32768)
    assert picture.origin_yx == (1, 1)


def test_a_journal_is_followed_line_by_line(recorded: SessionReader, tmp_path: Path) -> None:
    text = (recorded.folder / "journal.jsonl").read_bytes()
    lines = text.splitlines(keepends=True)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(lines[0] + lines[1][:10])
    followed = FollowedSession(tmp_path)
    assert followed.reader().documents == recorded.documents[:1]
    assert not followed.update()
    for count in range(2, len(lines) + 1):
        # As a writer does: it appends.
        with journal.open("ab") as file:
            file.write(lines[1][10:] if count == 2 else lines[count - 1])
        assert followed.update()
        assert followed.reader().documents == recorded.documents[:count]
    assert followed.reader().status == "completed"
