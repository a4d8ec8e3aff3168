"""A mapping that could mislead is refused; a plan is checked whole and comes in a safe order."""

from __future__ import annotations

import tomllib
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.config import shipped_hardware
from controller.core.errors import ConfigurationError, InvalidRequestError
from controller.core.settings import Region
from controller.microscopes.device_mapping import (
    LIGHTS,
    DeviceMapping,
    Linear,
    Reciprocal,
    Table,
    plan,
    require_valid,
    safe_writes,
)
from controller.testing import CONFOCAL

POWER_TABLE: dict[str, Any] = {
    "kind": "table",
    "value": [0.0, 0.022, 0.061, 0.131, 0.198],
    "device": [0.0, 200.0, 500.0, 1000.0, 1500.0],
}

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
        ({"settings__sted_w__safe": None}, "settings.sted_w: a light needs a safe value"),
        ({"settings__sted_w__safe": 0.19}, "safe=0.19 is above high"),
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
        ({"settings__sted_w": None, "order": ["stage", "pixel_size_m", "dwell_s", "excitation_w"]},
         "needs settings.sted_w"),
        ({"settings__excitation_w": None, "order": ["stage", "pixel_size_m", "dwell_s", "sted_w"]},
         "excitation_w is missing"),
    ],
)  # fmt: skip
def test_a_mapping_that_could_mislead_is_refused_when_it_is_loaded(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        mapping(**changes)


def test_an_expired_calibration_is_refused_by_the_day() -> None:
    dated = mapping(
        settings__sted_w__calibration={**POWER_TABLE, "measured_on": "2026-01-10", "valid_days": 7}
    )
    require_valid(dated, date(2026, 1, 17))
    with pytest.raises(ConfigurationError, match=r"settings.sted_w.calibration.*held until 2026-01-17"):
        require_valid(dated, date(2026, 1, 18))


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
    writes = plan(mapping(), scan)
    names = [write.name for write in writes]
    assert names == ["stage", "pixel_size_m", "dwell_s", "excitation_w", "sted_w"]
    assert [name for name in names if name in LIGHTS] == names[-2:]
    values = {write.name: write.values for write in writes}
    assert values["stage"] == (x_m, 0.0), "x first, as Micro-Manager wants it"
    assert values["dwell_s"][0] == pytest.approx(1 / dwell_s)
    assert 0 <= values["excitation_w"][0] <= 100 + 1e-9
    assert 0 <= values["sted_w"][0] <= 1500


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
    assert [(write.name, write.values) for write in safe_writes(mapping())] == [
        ("excitation_w", (0.0,)),
        ("sted_w", (0.0,)),
    ]


def test_the_shipped_demo_mapping_is_valid() -> None:
    data = tomllib.loads(shipped_hardware("mm_demo.toml").read_text())
    import json

    demo = DeviceMapping.model_validate_json(json.dumps(data["microscope"]["options"]))
    assert demo.order[-1] == "excitation_w"
