"""Images that differ from those that models were trained on are told, the same kind of images is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

pytest.importorskip("safetensors")

from controller.labelling.places import Place
from controller.labelling.shift_alarm import REFERENCE_NAME, Reference, ShiftAlarm
from tests.labels.support import new_sample

SIDE = 32


def places(frames: range, *, blur_px: float = 1.5, pixel_size_m: float = 20e-9) -> list[Place]:
    """Return four crops of each frame, with spots of light."""
    found = []
    for frame in frames:
        rng = np.random.default_rng([7, frame])
        for part in range(4):
            spots = np.zeros((SIDE, SIDE))
            np.add.at(spots, tuple(rng.integers(0, SIDE, (2, 12))), 800.0)
            photons = rng.poisson(ndimage.gaussian_filter(spots, blur_px) + 2).astype(np.float32)
            sample = new_sample(4 * frame + part, frame_index=frame, pixel_size_m=pixel_size_m)
            found.append(Place((frame, part), (sample.field,), sample, photons))
    return found


def encode(crops: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how unlike neighbours are, and how bright each is."""
    steps = np.abs(np.diff(np.sqrt(crops), axis=1)).mean(axis=(1, 2))
    return np.stack([steps, np.sqrt(crops).mean(axis=(1, 2))], axis=1).astype(np.float32)


def alarm(folder: Path, earlier: Path | None = None) -> ShiftAlarm:
    return ShiftAlarm(encode, folder, earlier, 3)


def test_too_few_frames_are_neither_remembered_nor_compared(tmp_path: Path) -> None:
    assert alarm(tmp_path).look(places(range(5))) is None
    assert not (tmp_path / REFERENCE_NAME).exists()


@pytest.mark.parametrize(("blur_px", "is_told"), [(1.5, False), (4.0, True)])
def test_what_differs_from_the_beginning_of_the_session_is_told(
    tmp_path: Path, blur_px: float, is_told: bool
) -> None:
    first, later = places(range(12)), places(range(12, 24), blur_px=blur_px)
    watching = alarm(tmp_path)
    assert watching.look(first) is None
    found = watching.look(first + later)
    assert (found is not None) == is_told
    assert watching.look(first + later) is None, "the same frames are compared once"
    assert watching.compared_with == "the beginning of this session"


def test_a_session_that_goes_on_from_another_is_compared_with_that_one(tmp_path: Path) -> None:
    monday, tuesday = tmp_path / "monday", tmp_path / "tuesday"
    alarm(monday).look(places(range(12)))
    watching = alarm(tuesday, monday)
    assert watching.look(places(range(12), blur_px=4.0)) is not None
    assert watching.compared_with == "the session that its weights come from"


def test_images_of_other_pixels_are_not_compared(tmp_path: Path) -> None:
    watching = alarm(tmp_path)
    watching.look(places(range(12)))
    assert watching.look(places(range(12, 24), blur_px=4.0, pixel_size_m=40e-9)) is None


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 100])
def test_a_damaged_reference_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / REFERENCE_NAME
    path.write_bytes(content)
    assert Reference.read(path) is None


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Reference.of(places(range(3)))
    written.write(tmp_path / REFERENCE_NAME)
    found: Any = Reference.read(tmp_path / REFERENCE_NAME)
    np.testing.assert_array_equal(found.crops, written.crops)
    np.testing.assert_array_equal(found.frames, written.frames)
    assert found.pixel_size_m == written.pixel_size_m
