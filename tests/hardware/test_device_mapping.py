"""A mapping that could mislead is refused; a plan is checked whole and comes in a safe order."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.config import shipped_hardware
from controller.core.errors import ConfigurationError, InvalidRequestError
from controller.core.limits import SafeValues
from controller.core.settings import Region, ScanSettings
from controller.microscopes.calibrations import Linear, Reciprocal, Table
from controller.microscopes.device_mapping import LIGHTS, DeviceMapping, require_valid
from controller.microscopes.device_plan import plan, safe_writes
from controller.testing import CONFOCAL

POWER_TABLE: dict[str, Any] = {
    "kind": "table",
    "value": [0.0, 0.022, 0.061, 0.131, 0.198],
    "device": [0.0, 200.0, 500.0, 1000.0, 1500.0],
}

RATES: dict[str, Any] = {
    "kind": "choice",
    "value": [2e-6, 4e-6, 1e-5],
    "device": ["500000", "250000", 100000],
}
FOCUSED = ["stage", "focus_m", "pixel_size_m", "dwell_s", "excitation_w", "sted_w"]

MAPPING: dict[str, Any] = {
    "config_file": "scope.cfg",
    "adapters": "adapters",
    "device_interface": 75,
    "camera": "LSM",
    "shutter": "Shutter",
    "modalities": ["overview", "confocal", "sted"],
    "order": ["stage", "pixel_size_m", "dwell_s", "excitation_w", "sted_w"],
    "settings": {
        "stage": {"target": {"kind": "xy_stage", "device": "XY"}, "low": -1e-3, "high": 1e-3},
        "pixel_size_m": {
            "target": {"kind": "property", "device": "LSM", "property": "Zoom"},
            "unit": "zoom",
            "calibration": {"kind": "reciprocal", "scale": 2e-7},
            "low": 1e-8,
            "high": 2e-7,
        },
        "dwell_s": {
            "target": {"kind": "property", "device": "LSM", "property": "PixelRateHz", "decimals": 0},
            "unit": "Hz",
            "calibration": {"kind": "reciprocal", "scale": 1.0},
            "low": 1e-6,
            "high": 1e-4,
        },
        "excitation_w": {
            "target": {"kind": "property", "device": "AOTF", "property": "Percent"},
            "unit": "%",
            "calibration": {"kind": "linear", "scale": 1e6},
            "low": 0.0,
            "high": 1e-4,
            "safe": 0.0,
        },
        "sted_w": {
            "target": {"kind": "property", "device": "Depletion", "property": "Setpoint"},
            "unit": "mW",
            "calibration": POWER_TABLE,
            "low": 0.0,
            "high": 0.18,
            "safe": 0.0,
        },
    },
}


def mapping(**changes: Any) -> DeviceMapping:
    """Return the mapping with dotted keys changed; ``None`` removes a key."""
    import copy
    import json

    data = copy.deepcopy(MAPPING)
    for dotted, value in changes.items():
        table = data
        *path, last = dotted.split("__")
        for part in path:
            table = table[part]
        if value is None:
            del table[last]
        else:
            table[last] = value
    return DeviceMapping.model_validate_json(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"order": ["stage", "pixel_size_m", "dwell_s", "sted_w"]}, "must list each of"),
        ({"order": ["stage", "excitation_w", "pixel_size_m", "dwell_s", "sted_w"]}, "must have the lights"),
        (
            {
                "settings__pixels": {"target": {"kind": "camera_region"}, "low": 16, "high": 512},
                "order": ["stage", "pixels", "pixel_size_m", "dwell_s", "excitation_w", "sted_w"],
            },
            "must have pixel_size_m before pixels",
        ),
        ({"settings__sted_w__safe": None}, "settings.sted_w: a light needs a safe value"),
        ({"settings__sted_w__safe": 0.19}, "safe=0.19 is outside 0..high=0.18"),
        ({"settings__sted_w__high": 0.3}, "the calibration does not reach from 0 to 0.3"),
        ({"settings__sted_w__calibration": None}, "the device's unit 'mW' is not 'W'"),
        ({"settings__sted_w__low": None}, "low and high are needed"),
        ({"settings__sted_w__low": 0.19}, "low=0.19 is above high=0.18"),
        ({"settings__sted_w__high": float("nan")}, "finite number"),
        ({"settings__sted_w__power": 1.0}, "Extra inputs are not permitted"),
        ({"settings__stage__target": {"kind": "exposure"}}, "settings.stage.target: 'exposure' cannot hold"),
        ({"settings__sted_w__calibration__device": [0, 500, 400, 1000, 1500]}, "device must rise, or fall"),
        ({"settings__sted_w__calibration__value": [0, 0.1, 0.1, 0.2, 0.3]}, "value must rise"),
        ({"settings__sted_w__calibration__value": [0, 0.1]}, "do not pair"),
        ({"settings__sted_w__calibration": {**POWER_TABLE, "measured_on": "2026-02-30", "valid_days": 3}},
         "day"),
        ({"settings__sted_w__calibration": {**POWER_TABLE, "valid_days": 3}}, "go together"),
        ({"settings__excitation_w__calibration__scale": 0.0}, "scale must not be 0"),
        ({"settings__sted_w__calibration": {**POWER_TABLE, "where": "back_aperture"}}, "go together"),
        ({"settings__sted_w__calibration": {**POWER_TABLE, "transmission": 0.8}}, "go together"),
        ({"settings__sted_w__calibration": {**POWER_TABLE, "where": "back_aperture", "transmission": 80.0}},
         "less than or equal to 1"),
        ({"settings__sted_w__calibration": {**POWER_TABLE, "where": "back_aperture", "transmission": 0.8}},
         "does not reach from 0 to 0.18"),
        ({"settings__dwell_s__calibration": {"kind": "reciprocal", "scale": 1.0, "where": "back_aperture",
                                             "transmission": 0.5}}, "is for lights"),
        ({"settings__dwell_s__safe": 1e-5}, "safe is for lights"),
        ({"settings__sted_w__max_step": 0.05}, "max_step is not for lights; see sted_step_w"),
        ({"settings__stage__max_step": 0.0}, "greater than 0"),
        ({"settings__dwell_s__calibration": {**RATES, "pick": "nearest"}}, "'exact' or 'down'"),
        ({"settings__pixel_size_m__calibration": {**RATES, "pick": "down"}}, "which then give less light"),
        ({"settings__dwell_s__calibration": {**RATES, "device": [1.0, 1.0, 2.0]}}, "stand there once"),
        ({"settings__dwell_s__calibration": {**RATES, "device": [1.0]}}, "do not pair"),
        ({"settings__dwell_s__calibration": RATES}, "does not reach from 1e-06 to 0.0001"),
        ({"settings__excitation_w__calibration": {"kind": "choice", "value": [1e-6, 1e-4], "device": [1, 2]}},
         "does not reach from 0"),
        ({"settings__excitation_w__target__decimals": 0, "settings__excitation_w__safe": 4e-7},
         "safe=4e-07: the device would be told 0"),
        ({"settings__stage__target": {"kind": "parameter", "path": ["a/b", "a/c"]}}, "is not of this driver"),
        ({"settings__focus_m": {"target": {"kind": "focus", "device": "Z"}}, "order": FOCUSED},
         "settings.focus_m: low and high are needed"),
        ({"products": [{"factors": ["sted_w"], "max": 1.0}]}, "at least 2 items"),
        ({"products": [{"factors": ["sted_w", "stage"], "max": 1.0}]}, "Input should be"),
        ({"settings__sted_w": None, "order": ["stage", "pixel_size_m", "dwell_s", "excitation_w"]},
         "needs settings.sted_w"),
        ({"settings__excitation_w": None, "order": ["stage", "pixel_size_m", "dwell_s", "sted_w"]},
         "excitation_w is missing"),
    ],
)  # fmt: skip
def test_a_mapping_that_could_mislead_is_refused_when_it_is_loaded(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        mapping(**changes)


def test_an_expired_calibration_is_refused_by_the_day() -> None:
    dated = mapping(
        settings__sted_w__calibration={**POWER_TABLE, "measured_on": "2026-01-10", "valid_days": 7}
    )
    require_valid(dated, SafeValues(), date(2026, 1, 17))
    with pytest.raises(ConfigurationError, match=r"settings.sted_w.calibration.*held until 2026-01-17"):
        require_valid(dated, SafeValues(), date(2026, 1, 18))


@given(st.floats(0, 0.198))
def test_a_table_goes_there_and_back(value: float) -> None:
    for device in (POWER_TABLE["device"], [-v for v in POWER_TABLE["device"]]):
        table = Table(value=tuple(POWER_TABLE["value"]), device=tuple(device))
        assert table.to_si(table.to_device(value)) == pytest.approx(value, abs=1e-12)


def test_a_table_is_never_extrapolated() -> None:
    table = Table(value=(0.0, 1.0), device=(0.0, 10.0))
    assert table.to_device(0.5) == 5.0
    for outside in (-0.01, 1.01, float("nan")):
        with pytest.raises(ValueError, match="outside the calibration"):
            table.to_device(outside)


def test_linear_and_reciprocal_calibrations_go_there_and_back() -> None:
    for calibration in (Linear(scale=-3.0, offset=2.0), Reciprocal(scale=5.0)):
        assert calibration.to_si(calibration.to_device(0.7)) == pytest.approx(0.7)


STED = CONFOCAL.replace(modality="sted", sted_w=0.061)


@given(
    st.sampled_from(["confocal", "sted"]),
    st.floats(1e-6, 1e-4),
    st.floats(0, 1e-4),
    st.floats(0, 0.18),
    st.floats(-9e-4, 9e-4),
)
def test_lights_come_last_in_every_plan_and_all_is_inside_the_limits(
    modality: Any, dwell_s: float, excitation_w: float, sted_w: float, x_m: float
) -> None:
    region = Region(center_yx_m=(0.0, x_m), size_yx_m=CONFOCAL.region.size_yx_m)
    scan = CONFOCAL.replace(
        modality=modality,
        region=region,
        dwell_s=dwell_s,
        excitation_w=excitation_w,
        sted_w=sted_w if modality == "sted" else 0.0,
    )
    writes = plan(mapping(), scan).writes
    names = [write.name for write in writes]
    assert names == ["stage", "pixel_size_m", "dwell_s", "excitation_w", "sted_w"]
    assert [name for name in names if name in LIGHTS] == names[-2:]
    values = {write.name: write.told for write in writes}
    assert values["stage"] == (x_m, 0.0), "x first, as Micro-Manager wants it"
    assert values["dwell_s"][0] == pytest.approx(1 / dwell_s)
    assert 0 <= float(values["excitation_w"][0]) <= 100 + 1e-9
    assert 0 <= float(values["sted_w"][0]) <= 1500


def test_a_plan_names_everything_that_the_devices_cannot_do_and_plans_nothing() -> None:
    scan = STED.replace(sted_w=0.19, dwell_s=1e-3, excitation_w=2e-4)
    with pytest.raises(InvalidRequestError) as refusal:
        plan(mapping(), scan)
    for words in ("dwell_s=0.001 s", "excitation_w=0.0002 W", "sted_w=0.19 W is outside 0..0.18"):
        assert words in str(refusal.value)


def test_light_that_a_microscope_does_not_have_is_refused() -> None:
    bare = mapping(
        settings__sted_w=None,
        order=["stage", "pixel_size_m", "dwell_s", "excitation_w"],
        modalities=["confocal"],
    )
    with pytest.raises(InvalidRequestError, match="no such light"):
        plan(bare, STED)


def test_safe_values_are_written_for_every_light() -> None:
    assert [(write.name, write.told) for write in safe_writes(mapping())] == [
        ("excitation_w", (0.0,)),
        ("sted_w", (0.0,)),
    ]


def test_a_safe_value_that_contradicts_the_table_safe_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"sted_w.safe: 0 W, and \[safe\] sted_w says 0.001 W"):
        require_valid(mapping(), SafeValues(sted_w=1e-3), date(2026, 1, 1))


@given(st.floats(0, 0.1))
def test_powers_measured_at_the_back_aperture_are_at_the_sample_everywhere_else(value: float) -> None:
    there = {**POWER_TABLE, "where": "back_aperture", "transmission": 0.5}
    half = mapping(settings__sted_w__calibration=there, settings__sted_w__high=0.099)
    sted = half.settings["sted_w"]
    if value <= 0.099:
        told = sted.to_device(value)
        assert told == mapping().settings["sted_w"].to_device(2 * value), "twice as much, half of it arrives"
        assert sted.to_si(told) == pytest.approx(value, abs=1e-12)


def discrete(pick: str, **changes: Any) -> DeviceMapping:
    return mapping(
        settings__dwell_s__calibration={**RATES, "pick": pick},
        settings__dwell_s__low=2e-6,
        settings__dwell_s__high=1e-5,
        **changes,
    )


def test_a_choice_that_is_exact_refuses_what_is_not_in_its_list() -> None:
    exact = discrete("exact")
    told = {write.name: write.told for write in plan(exact, CONFOCAL.replace(dwell_s=4e-6)).writes}
    assert told["dwell_s"] == ("250000",)
    with pytest.raises(InvalidRequestError, match="5e-06 is none of 2e-06, 4e-06, 1e-05"):
        plan(exact, CONFOCAL.replace(dwell_s=5e-6))
    assert exact.settings["dwell_s"].to_si("100000.0000") == 1e-5, "numbers are compared as numbers"
    with pytest.raises(ValueError, match="is none of"):
        exact.settings["dwell_s"].to_si("fast")


@given(st.floats(1e-6, 2e-5), st.integers(1, 3))
def test_a_choice_that_rounds_down_reports_less_light_and_never_more(dwell_s: float, averages: int) -> None:
    scan = CONFOCAL.replace(dwell_s=dwell_s, line_averages=averages)
    try:
        planned = plan(discrete("down"), scan)
    except InvalidRequestError:
        assert not 2e-6 <= scan.pixel_time_s <= 1e-5
        return
    assert planned.scan.dose_j_per_m2 <= scan.dose_j_per_m2 * (1 + 2e-6)
    (told,) = next(write.told for write in planned.writes if write.name == "dwell_s")
    assert float(told) == pytest.approx(1 / planned.scan.pixel_time_s, rel=1e-5)
    assert planned.scan.replace(dwell_s=dwell_s) == scan, "nothing else changes"


def test_a_value_above_the_limit_is_refused_even_if_it_would_be_rounded_down_below() -> None:
    with pytest.raises(InvalidRequestError, match="dwell_s=2e-05 s is outside"):
        plan(discrete("down"), CONFOCAL.replace(dwell_s=2e-5))


def test_decimals_that_change_a_value_are_refused() -> None:
    coarse = mapping(settings__excitation_w__target__decimals=0)
    plan(coarse, CONFOCAL.replace(excitation_w=7e-6))
    with pytest.raises(InvalidRequestError, match="the device would be told 8, which is 8e-06"):
        plan(coarse, CONFOCAL.replace(excitation_w=7.6e-6))


def test_a_setting_changes_in_steps_from_where_it_is_known_to_stand() -> None:
    careful = mapping(settings__stage__max_step=50e-6)
    far = CONFOCAL.replace(region=CONFOCAL.region.replace(center_yx_m=(0.0, 60e-6)))
    plan(careful, far)
    plan(careful, far, {"stage": (20e-6, 0.0)})
    with pytest.raises(
        InvalidRequestError, match=r"is a step of 6e-05 from 0, allowed is 5e-05 .*settings.stage"
    ):
        plan(careful, far, {"stage": (0.0, 0.0)})


def test_a_product_of_settings_has_a_limit() -> None:
    limited = mapping(products=[{"factors": ["sted_w", "dwell_s"], "max": 3e-6}])
    plan(limited, STED.replace(dwell_s=40e-6))
    with pytest.raises(InvalidRequestError, match=r"sted_w \* dwell_s = 3.05e-06 .* allowed is 3e-06"):
        plan(limited, STED.replace(dwell_s=50e-6))


def test_the_focus_goes_with_the_stage_and_is_left_alone_unless_asked() -> None:
    drive = {"target": {"kind": "focus", "device": "Z"}, "low": -1e-4, "high": 1e-4}
    focused = mapping(settings__focus_m=drive, order=FOCUSED)
    assert "focus_m" not in [write.name for write in plan(focused, CONFOCAL).writes]
    asked = plan(focused, CONFOCAL.replace(focus_m=5e-6))
    assert [(write.name, write.told) for write in asked.writes][1] == ("focus_m", (5e-6,))
    with pytest.raises(InvalidRequestError, match=r"focus_m=0.001 m is outside"):
        plan(focused, CONFOCAL.replace(focus_m=1e-3))
    with pytest.raises(InvalidRequestError, match="has no focus drive"):
        plan(mapping(), CONFOCAL.replace(focus_m=5e-6))


SCANS = st.builds(
    lambda modality, dwell_s, excitation_w, sted_w, pixel_m, centre, focus_m, averages: CONFOCAL.replace(
        modality=modality,
        region=Region(center_yx_m=centre, size_yx_m=(10 * pixel_m, 10 * pixel_m)),
        pixel_size_m=pixel_m,
        dwell_s=dwell_s,
        excitation_w=excitation_w,
        sted_w=sted_w if modality == "sted" else 0.0,
        focus_m=focus_m,
        line_averages=averages,
    ),
    st.sampled_from(["confocal", "sted"]),
    st.floats(1e-9, 1.0),
    st.floats(0, 1e300),
    st.floats(0, 1e300),
    st.floats(1e-12, 1e3),
    st.tuples(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300)),
    st.none() | st.floats(-1e3, 1e3),
    st.integers(1, 9),
)


@given(SCANS, st.sampled_from(["exact", "down"]), st.booleans())
def test_any_scan_is_planned_inside_every_limit_or_refused_with_its_reasons(
    scan: ScanSettings, pick: str, has_table: bool
) -> None:
    stage = {"kind": "table", "value": [-1e-3, 1e-3], "device": [0.0, 10.0]} if has_table else None
    strict = discrete(
        pick,
        settings__stage={**MAPPING["settings"]["stage"], "calibration": stage},
        products=[{"factors": ["sted_w", "dwell_s"], "max": 1e-7}],
    )
    try:
        planned = plan(strict, scan)
    except InvalidRequestError as refusal:
        assert "microscope.options." in str(refusal) or "no such light" in str(refusal)  # noqa: PT017
        return
    for write in planned.writes:
        mapped = strict.settings[write.name]
        for value in write.si:
            low, high = mapped.low, mapped.high
            assert value == mapped.safe or low is None or high is None or low <= value <= high
    assert planned.scan.sted_w * planned.scan.pixel_time_s <= 1e-7
    assert planned.scan.energy_j <= scan.energy_j * (1 + 4e-6)


def test_the_shipped_demo_mapping_is_valid() -> None:
    data = tomllib.loads(shipped_hardware("mm_demo.toml").read_text())
    import json

    demo = DeviceMapping.model_validate_json(json.dumps(data["microscope"]["options"]))
    assert demo.order[-1] == "excitation_w"
