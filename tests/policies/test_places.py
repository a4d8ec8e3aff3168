from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.settings import Region
from policies.places import (
    moved_inside,
    overlap_fraction,
    overlap_m2,
    tile_fields,
    tile_squares,
    whole_pixels,
)

places = st.floats(-50e-6, 50e-6)
sizes = st.floats(0.5e-6, 30e-6)
regions = st.builds(
    lambda y, x, h, w: Region(center_yx_m=(y, x), size_yx_m=(h, w)), places, places, sizes, sizes
)


@given(regions, regions)
def test_what_is_moved_inside_lies_inside_wherever_it_fits(region: Region, box: Region) -> None:
    moved = moved_inside(region, box)
    assert moved.size_yx_m == region.size_yx_m
    fits = all(inner <= outer for inner, outer in zip(region.size_yx_m, box.size_yx_m, strict=True))
    assert not fits or box.contains(moved)
    if box.contains(region, tolerance_m=0.0):
        assert moved.center_yx_m == pytest.approx(region.center_yx_m, abs=1e-12)


@given(regions, st.floats(10e-9, 400e-9))
def test_whole_pixels_never_grow_a_region_beyond_rounding(region: Region, pixel_size_m: float) -> None:
    cut = whole_pixels(region, pixel_size_m)
    assert region.contains(cut, tolerance_m=pixel_size_m * 1e-5)
    assert all(abs(side / pixel_size_m - round(side / pixel_size_m)) < 1e-6 for side in cut.size_yx_m)


@given(regions, st.tuples(st.floats(3e-6, 30e-6), st.floats(3e-6, 30e-6)))
def test_fields_lie_in_the_box_side_by_side(box: Region, field_yx_m: tuple[float, float]) -> None:
    fields = tile_fields(box, field_yx_m, 100e-9, 10**6)
    assert all(box.contains(field, tolerance_m=1e-11) for field in fields)
    assert all(
        side <= most + 1e-11 for f in fields for side, most in zip(f.size_yx_m, field_yx_m, strict=True)
    )
    assert all(overlap_m2(a, b) < 1e-16 for a, b in combinations(fields, 2))


def test_squares_begin_in_the_middle_and_touch_without_overlap() -> None:
    view = Region(center_yx_m=(1e-6, -2e-6), size_yx_m=(3.5e-6, 5.2e-6))
    centers = tile_squares(view, 1e-6)
    squares = [Region(center_yx_m=center, size_yx_m=(1e-6, 1e-6)) for center in centers]
    assert len(squares) == 3 * 5
    assert centers[0] == pytest.approx(view.center_yx_m)
    assert all(view.contains(square) for square in squares)
    assert max(overlap_fraction(a, b) for a, b in combinations(squares, 2)) < 1e-9


def test_the_middle_of_a_huge_stage_is_tiled_as_that_of_a_small_one() -> None:
    huge = Region(center_yx_m=(0.0, 0.0), size_yx_m=(0.4, 0.4))
    fields = tile_fields(huge, (10e-6, 10e-6), 100e-9, 4)
    assert sorted(tuple(round(1e6 * c, 3) for c in f.center_yx_m) for f in fields) == [
        (-5.0, -5.0), (-5.0, 5.0), (5.0, -5.0), (5.0, 5.0),
    ]  # fmt: skip
