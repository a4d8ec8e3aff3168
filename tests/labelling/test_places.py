"""Places that people are asked about: where they are, and that judging and learning never share one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.settings import Region, ScanSettings
from controller.labelling.places import Run, is_asked_about, places_of
from controller.labels.plan import LabelPlan
from controller.recording.documents import FrameDocument

PIXEL_M = 20e-9
PLAN = LabelPlan(classes=("ring",), crop_px=32, field_m=2e-6)
RUN = Run("run", "simulated")


def scan(rows: int, columns: int, center_yx_m: tuple[float, float] = (0.0, 0.0)) -> FrameDocument:
    size = rows * PIXEL_M, columns * PIXEL_M
    settings = ScanSettings(
        modality="sted",
        region=Region(center_yx_m=center_yx_m, size_yx_m=size),
        pixel_size_m=PIXEL_M,
        dwell_s=1e-5,
        excitation_w=1e-5,
        sted_w=0.1,
    )
    return FrameDocument(
        uid="",
        index=7,
        reservation=7,
        cycle=7,
        path="images/7",
        settings=settings,
        started_s=0.0,
        dtype="uint32",
        blake2b="",
    )


@pytest.mark.parametrize(
    ("shape", "count"), [((31, 200), 0), ((32, 32), 1), ((64, 96), 6), ((70, 100), 6), ((1, 1), 0)]
)
def test_a_frame_is_cut_into_squares_that_do_not_overlap(shape: tuple[int, int], count: int) -> None:
    photons = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    places = list(places_of(scan(*shape), photons, PLAN, RUN))
    assert len(places) == count
    seen = np.concatenate([place.photons.ravel() for place in places]) if places else np.zeros(0)
    assert len(np.unique(seen)) == count * 32 * 32
    for place in places:
        roi = place.sample.roi
        np.testing.assert_array_equal(place.photons, photons[roi.y : roi.y + 32, roi.x : roi.x + 32])
    assert len({place.key for place in places}) == count


def test_the_same_place_has_the_same_key_in_another_scan_of_another_size() -> None:
    small, large = (
        {p.key: p for p in places_of(scan(side, side), np.zeros((side, side), np.float32), PLAN, RUN)}
        for side in (64, 128)
    )
    assert set(small) <= set(large)


@given(
    y_px=st.integers(-400, 400),
    x_px=st.integers(-400, 400),
    rows=st.integers(32, 150),
    field_px=st.integers(20, 300),
)
def test_what_two_places_in_different_fields_show_never_overlaps(
    y_px: int, x_px: int, rows: int, field_px: int
) -> None:
    plan = PLAN.replace(field_m=field_px * PIXEL_M)
    document = scan(rows, rows, (y_px * PIXEL_M, x_px * PIXEL_M))
    owner: dict[tuple[int, int], set[str]] = {}
    for place in places_of(document, np.zeros((rows, rows), np.float32), plan, RUN):
        assert place.fields[0] == place.sample.field
        roi = place.sample.roi
        top, left = y_px - rows / 2 + roi.y, x_px - rows / 2 + roi.x
        # Each corner of the square lies in a field that is named.
        for y in (top + 0.01, top + 31.99):
            for x in (left + 0.01, left + 31.99):
                assert f"{int(y // field_px)},{int(x // field_px)}" in place.fields
        owner.setdefault((roi.y, roi.x), set()).update(place.fields)
    assert all(owner.values())


def test_people_are_asked_about_the_finest_scans_or_about_one_modality() -> None:
    settings = scan(64, 64).settings
    assert is_asked_about(settings, PLAN, PIXEL_M)
    assert not is_asked_about(settings, PLAN, PIXEL_M / 2)
    assert is_asked_about(settings, PLAN.replace(modality="sted"), PIXEL_M / 2)
    assert not is_asked_about(settings, PLAN.replace(modality="confocal"), PIXEL_M)
