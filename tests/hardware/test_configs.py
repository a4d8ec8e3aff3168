"""The hardware configurations that come with Stedfast: all check without a device, none misleads."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from controller.cli import app
from controller.config import load, shipped_hardware
from controller.core.checking import corner_scans
from controller.core.errors import InvalidRequestError
from controller.microscopes import calibrations, device_mapping
from controller.microscopes.device_mapping import DeviceMapping, ScanMapping
from controller.microscopes.device_plan import plan
from controller.microscopes.imspector import ImspectorMapping
from controller.microscopes.micromanager_config import read_config

FOLDER = shipped_hardware("x").parent
ILLUSTRATIVE = ("sted_micromanager.toml", "two_photon_openscan.toml", "sted_imspector.toml")
MICROMANAGER = (
    "mm_demo.toml",
    "mm_sequence_tester.toml",
    "sted_micromanager.toml",
    "two_photon_openscan.toml",
)


def stedfast(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def mapping(name: str) -> ScanMapping:
    options = load(FOLDER / name).hardware.config.microscope.options
    model = ImspectorMapping if name == "sted_imspector.toml" else DeviceMapping
    return model.model_validate_json(json.dumps(options))


@pytest.mark.parametrize("name", [*MICROMANAGER, "sted_imspector.toml"])
def test_every_shipped_microscope_checks_without_a_device(name: str) -> None:
    code, out, err = stedfast("check", FOLDER / name)
    assert code == 0, err
    assert "not connected to" in out


@pytest.mark.parametrize("flag", ["--live", "--exercise"])
@pytest.mark.parametrize("name", ["mm_demo.toml", "mm_sequence_tester.toml"])
def test_the_ones_whose_devices_run_anywhere_are_read_and_exercised(name: str, flag: str) -> None:
    pytest.importorskip("pymmcore", reason="needs the extra mm")
    code, out, err = stedfast("check", FOLDER / name, flag)
    assert code == 0, out + err
    assert "the lights are at their safe values" in out


@pytest.mark.parametrize("name", ILLUSTRATIVE)
def test_an_illustrative_file_says_so_and_is_like_a_real_one(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert text.startswith("# Illustrative: ")
    assert "(illustrative)" in tomllib.loads(text)["name"]
    assert "# measured_on = " in text, "how a calibration expires is shown"
    mapped, limits = mapping(name), load(FOLDER / name).hardware.config.limits
    done = 0
    for scan in corner_scans(limits, mapped.modalities):
        try:
            planned = plan(mapped, scan)
        except InvalidRequestError:
            continue
        assert planned.scan == scan, "what the limits allow at their edges is not rounded"
        done += 1
    assert done > 20, "most of what the limits allow can be done"


@pytest.mark.parametrize("name", MICROMANAGER[1:])
def test_the_cfg_that_goes_with_it_is_right_and_travels_with_it(name: str, tmp_path: Path) -> None:
    cfg = name.replace(".toml", ".cfg")
    assert not read_config(FOLDER / cfg).problems
    code, out, _ = stedfast("new", tmp_path / "mine", "--hardware", name)
    assert code == 0
    assert cfg in out
    code, _, err = stedfast("check", tmp_path / "mine")
    assert code == 0, err


def test_a_microscope_of_imspector_is_checked_and_never_run(tmp_path: Path) -> None:
    assert stedfast("new", tmp_path / "mine", "--hardware", "sted_imspector.toml")[0] == 0
    assert stedfast("check", tmp_path / "mine")[0] == 0
    for arguments in (["run", "-o", tmp_path / "session"], ["run", "--dry"], ["check", "--live"]):
        code, _, err = stedfast(arguments[0], tmp_path / "mine", *arguments[1:])
        assert code == 2
        assert "can check a microscope of Imspector, but not run it" in err
    assert not list(tmp_path.glob("session/*"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("scan/range/x/off", "scan range x off", "String should match pattern"),
        ('path = ["ExpControl/scan/range/x/off", "ExpControl/scan/range/y/off"]', 'path = "a/off"',
         "two paths are needed"),
        ("lasers[5]", "lasers[2]", "is that of excitation_w, too"),
        ('kind = "parameter", path = "ExpControl/measurement/pixel',
         'kind = "property", device = "x", property = "pixel', "is not of this driver"),
        ('unit = "%"\nlow = 0.0\nhigh = 200e-3', 'unit = "%"\nlow = 0.0\nhigh = nan', "finite number"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_configuration_of_imspector_is_named(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = (FOLDER / "sted_imspector.toml").read_text()
    assert old in text
    (tmp_path / "scope.toml").write_text(text.replace(old, new, 1))
    code, _, err = stedfast("check", tmp_path / "scope.toml")
    assert code == 2
    assert words in err


def test_the_readme_explains_every_key_of_the_device_mappings() -> None:
    text = (FOLDER / "README.md").read_text()
    models = [
        ImspectorMapping,
        device_mapping.Switch,
        device_mapping.ProductLimit,
        device_mapping.PropertyValue,
        *get_args(get_args(device_mapping.Target)[0]),
        *get_args(get_args(calibrations.Calibration)[0]),
    ]
    for model in models:
        for name in model.model_fields:
            assert f"`{name}`" in text or f" {name}" in text, (model, name)
    for kind in get_args(device_mapping.TargetKind):
        assert f'"{kind}"' in text, kind
    for setting in get_args(device_mapping.SettingName):
        assert f"`{setting}`" in text, setting
