"""Settings refuse everything that is not a well-formed scan."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.core.settings import MAX_PIXELS, Region
from controller.core.spaces import Parameter, ParameterSpace
from controller.testing import CONFOCAL, LIMITS


@pytest.mark.parametrize(
    "change",
    [
        {"dwell_s": math.nan},
        {"dwell_s": math.inf},
        {"dwell_s": 0.0},
        {"dwell_s": "1e-5"},
        {"excitation_w": True},
        {"excitation_w": -1e-6},
        {"sted_w": 0.1},
        {"line_averages": 0},
        {"line_averages": 1.0},
        {"line_averages": 10**400},
        {"modality": "widefield"},
        {"p_stde": 0.1},
        {"pixel_size_m": 1e-14},
        {"pixel_size_m": 1e-3},
        {"pixel_size_m": 5e-324},
        {"region": Region(center_yx_m=(0.0, 0.0), size_yx_m=(1e308, 1e308))},
    ],
)
def test_a_malformed_scan_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CONFOCAL.replace(**change)


def test_shape_time_dose_and_energy_follow_from_the_settings() -> None:
    scan = CONFOCAL.replace(line_averages=2)
    assert scan.shape_yx == (32, 24)
    assert scan.duration_s == pytest.approx(32 * 24 * 20e-6)
    assert scan.dose_j_per_m2 == pytest.approx(10e-6 * 20e-6 / (20e-9) ** 2)
    area_m2 = scan.region.size_yx_m[0] * scan.region.size_yx_m[1]
    assert scan.energy_j == pytest.approx(scan.dose_j_per_m2 * area_m2)


def test_the_largest_frame_has_a_bound() -> None:
    side = math.isqrt(MAX_PIXELS) * 20e-9
    CONFOCAL.replace(region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(side, side)))
    with pytest.raises(ValidationError, match="pixels"):
        CONFOCAL.replace(region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(side * 1.01, side)))


def test_a_parameter_space_maps_there_and_back_without_leaving_its_bounds() -> None:
    space = ParameterSpace(
        [
            Parameter(name="dwell_s", low=3e-6, high=7e-5, scale="log"),
            Parameter(name="sted_w", low=0.0, high=0.3),
        ]
    )
    import numpy as np

    for unit in (0.0, 0.25, 1.0):
        values = space.from_unit(np.array([unit, unit]))
        assert 3e-6 <= values["dwell_s"] <= 7e-5
        assert 0.0 <= values["sted_w"] <= 0.3
        assert space.to_unit(values) == pytest.approx([unit, unit])
    with pytest.raises(ValueError, match=r"0\.\.1"):
        space.from_unit(np.array([1.1, 0.0]))


def test_many_points_map_as_each_of_them_does() -> None:
    space = ParameterSpace(
        [
            Parameter(name="dwell_s", low=3e-6, high=7e-5, scale="log"),
            Parameter(name="sted_w", low=0.0, high=0.3),
        ]
    )
    import numpy as np

    points = np.random.default_rng(0).random((50, 2))
    many = space.from_unit_many(points)
    for row, point in enumerate(points):
        assert {name: values[row] for name, values in many.items()} == pytest.approx(space.from_unit(point))
    assert {name: values.shape for name, values in space.from_unit_many(points[:0]).items()} == {
        "dwell_s": (0,),
        "sted_w": (0,),
    }
    for bad in (points[0], points - 1, points[:, :1], points * np.nan):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            space.from_unit_many(bad)


@pytest.mark.parametrize("bad", [{"low": 2.0, "high": 1.0}, {"low": 0.0, "high": 1.0, "scale": "log"}])
def test_a_parameter_without_a_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Parameter(name="sted_w", **bad)


def test_a_dose_map_too_fine_to_keep_is_refused() -> None:
    assert LIMITS.replace(dose_cell_m=1e-7).dose_cell_m == 1e-7
    with pytest.raises(ValidationError, match="dose_cell_m=1e-09 m is too fine"):
        LIMITS.replace(dose_cell_m=1e-9)


def test_a_scan_recorded_before_there_was_a_focus_still_loads() -> None:
    recorded = CONFOCAL.model_dump(mode="json")
    del recorded["focus_m"]
    assert CONFOCAL.model_validate_json(json.dumps(recorded)) == CONFOCAL


@given(st.floats(-1e-2, 1e-2))
def test_the_focus_moves_only_inside_limits_that_someone_has_set(focus_m: float) -> None:
    scan = CONFOCAL.replace(focus_m=focus_m)
    assert "the focus may not be moved" in LIMITS.violations(scan, "here")[0]
    found = LIMITS.replace(focus_min_m=-1e-4, focus_max_m=2e-4).violations(scan, "here")
    assert bool(found) == (not -1e-4 <= focus_m <= 2e-4), found
    assert not LIMITS.replace(focus_min_m=-1e-4, focus_max_m=2e-4).violations(CONFOCAL, "here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"focus_min_m": 0.0}, "go together"),
        ({"focus_min_m": 1e-3, "focus_max_m": -1e-3}, "focus: the smallest allowed"),
        ({"focus_min_m": -50.0, "focus_max_m": 50.0}, "micrometres are e-6"),
        ({"focus_min_m": math.nan, "focus_max_m": 0.0}, "finite number"),
    ],
)
def test_limits_of_the_focus_that_mislead_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LIMITS.replace(**change)
