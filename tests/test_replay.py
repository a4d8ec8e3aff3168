"""Movies and pictures as microscopes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from controller.core.clock import SimulatedClock
from controller.core.errors import (
    ConfigurationError,
    EndOfRecordingError,
    InvalidRequestError,
    ReplayDivergedError,
)
from controller.core.settings import Region, ScanSettings
from controller.microscopes.replay import MovieMicroscope, RecordedSession, read_movie
from controller.testing import CONFOCAL, FakeMicroscope, frames, resources

MOVIE = np.arange(3 * 40 * 60, dtype=np.uint16).reshape(3, 40, 60)


def movie_microscope(**options: Any) -> MovieMicroscope:
    chosen = MovieMicroscope.Options(**{"path": "movie.tif", "pixel_size_m": 50e-9, **options})
    return MovieMicroscope(MOVIE, chosen, SimulatedClock())


def scan(
    rows: int, columns: int, y_m: float = 0.0, x_m: float = 0.0, pixel_size_m: float = 50e-9
) -> ScanSettings:
    size = (rows * pixel_size_m, columns * pixel_size_m)
    return CONFOCAL.replace(region=Region(center_yx_m=(y_m, x_m), size_yx_m=size), pixel_size_m=pixel_size_m)


def test_each_scan_shows_the_next_frame_cropped_to_its_region() -> None:
    microscope = movie_microscope()
    whole = microscope.acquire(scan(40, 60))
    assert np.array_equal(whole.photons, MOVIE[0])
    corner = microscope.acquire(scan(10, 20, y_m=-15 * 50e-9, x_m=20 * 50e-9))
    assert np.array_equal(corner.photons, MOVIE[1, :10, 40:])


def test_a_coarser_scan_takes_every_nth_pixel() -> None:
    coarse = movie_microscope().acquire(scan(20, 30, pixel_size_m=100e-9))
    assert np.array_equal(coarse.photons, MOVIE[0, ::2, ::2])


def test_grey_levels_become_photons() -> None:
    frame = movie_microscope(offset=10.0, grey_per_photon=2.0).acquire(scan(40, 60))
    assert frame.photons.dtype == np.float32
    assert np.array_equal(frame.photons, np.maximum((MOVIE[0] - 10.0) / 2.0, 0))


def test_the_movie_ends_or_its_last_frame_stays() -> None:
    stopping, repeating = movie_microscope(), movie_microscope(at_end="repeat")
    for microscope in (stopping, repeating):
        for _ in range(3):
            last = microscope.acquire(scan(40, 60))
        assert np.array_equal(last.photons, MOVIE[2])
    with pytest.raises(EndOfRecordingError, match="all 3 frames"):
        stopping.acquire(scan(40, 60))
    assert np.array_equal(repeating.acquire(scan(40, 60)).photons, MOVIE[2])


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (scan(41, 60), "not inside the recording"),
        (scan(10, 10, y_m=2e-6), "not inside the recording"),
        (scan(10, 10, pixel_size_m=75e-9), "whole multiples"),
        (scan(10, 10, pixel_size_m=25e-9), "whole multiples"),
    ],
)
def test_what_a_recording_cannot_show_is_refused(request_: ScanSettings, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        movie_microscope().acquire(request_)


def test_tiff_and_ome_zarr_are_read_whatever_their_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "movie.tif", MOVIE, photometric="minisblack")
    tifffile.imwrite(tmp_path / "picture.tif", MOVIE[0], photometric="minisblack")
    group = zarr.create_group(
        store=tmp_path / "movie.zarr",
        zarr_format=3,
        attributes={
            "ome": {
                "version": "0.5",
                "multiscales": [
                    {"axes": [{"name": n} for n in "tczyx"], "datasets": [{"path": "0"}]},
                ],
            }
        },
    )
    group.create_array("0", data=MOVIE[:, None, None])
    assert np.array_equal(read_movie(tmp_path / "movie.tif"), MOVIE)
    assert np.array_equal(read_movie(tmp_path / "picture.tif"), MOVIE[:1])
    assert np.array_equal(read_movie(tmp_path / "movie.zarr"), MOVIE)
    options = MovieMicroscope.Options(path="movie.tif", pixel_size_m=50e-9)
    made = MovieMicroscope.from_options(options, resources(folder=tmp_path))
    assert made.capabilities().fov_size_yx_m == pytest.approx((2e-6, 3e-6))


def test_what_is_no_movie_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\x00broken")
    (tmp_path / "folder.zarr").mkdir()
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((4, 5, 6, 7), np.uint8), photometric="minisblack")
    bad = np.zeros((3, 8, 8), np.float32)
    bad[1, 2, 3] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", bad, photometric="minisblack")
    for name, words in {
        "absent.tif": "no such recording",
        "broken.tif": "broken.tif",
        "folder.zarr": "folder.zarr",
        "colour.tif": r"\(4, 5, 6, 7\)",
        "nan.tif": "frame 1",
    }.items():
        with pytest.raises(ConfigurationError, match=words):
            read_movie(tmp_path / name)


def test_a_recorded_session_shows_only_what_was_recorded() -> None:
    frame = frames(1)[0]
    shown = RecordedSession(FakeMicroscope().capabilities())
    with pytest.raises(ReplayDivergedError, match="recorded is None"):
        shown.acquire(frame.settings)
    shown.expect(frame.settings, frames=[frame])
    assert shown.acquire(frame.settings) is frame
    with pytest.raises(ReplayDivergedError, match="asked was"):
        shown.acquire(frame.settings.replace(dwell_s=2e-5))
    shown.expect(frame.settings, refused="not on the grid")
    with pytest.raises(InvalidRequestError, match="not on the grid"):
        shown.acquire(frame.settings)
