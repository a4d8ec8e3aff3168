"""Real devices are checked by their files first, then by reading, then by moving; always in the dark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from controller.builder import Builder
from controller.cli import app
from controller.config import Experiment, load, shipped_hardware
from controller.core.checking import Checkable, Reading, Step, corner_scans
from controller.core.errors import ConfigurationError, DeviceError
from controller.microscopes import mmcore
from controller.microscopes.micromanager_config import read_config
from controller.microscopes.mm_bench import DeviceBench
from controller.testing import LIMITS

pytest.importorskip("pymmcore", reason="needs the extra mm")
adapters = pytest.importorskip("mm_test_adapters", reason="needs the extra mm")

DEMO = shipped_hardware("mm_demo.toml").read_text()
CFG = (Path(adapters.device_adapter_path()) / "MMConfig_demo.cfg").read_text()


def stedfast(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def write(folder: Path, *changes: tuple[str, str], cfg: tuple[str, str] | None = None) -> Path:
    """Write the demo microscope with some of its text replaced; its ``.cfg`` too, if that is to change."""
    text = DEMO
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    if cfg is not None:
        assert cfg[0] in CFG, cfg
        (folder / "mine.cfg").write_text(CFG.replace(*cfg, 1))
        text = text.replace("MMConfig_demo.cfg", "mine.cfg")
    path = folder / "scope.toml"
    path.write_text(text)
    return path


def line_of(text: str, start: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), start=1) if line.startswith(start))


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every attempt to connect fail."""

    def refuse(*_: object) -> None:
        raise AssertionError("connected to devices")

    monkeypatch.setattr(mmcore, "load_core", refuse)


@pytest.mark.usefixtures("unreachable")
def test_a_plain_check_connects_to_nothing_and_says_what_the_devices_cannot_do(tmp_path: Path) -> None:
    code, out, err = stedfast("check", write(tmp_path))
    assert code == 0, err
    assert "13 devices of DemoCamera, Utilities" in out
    assert "note: [limits] allow what the devices cannot do: excitation_w=0 W is outside 1.25e-06" in out
    assert "not connected to" in out
    code, out, _ = stedfast("check", tmp_path / "scope.toml", "--json")
    told = json.loads(out)
    assert (told["status"], told["is_connected"], told["readings"]) == ("ok", False, [])
    assert len(told["notes"]) == 2


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        (('camera = "Camera"', 'camera = "Kamera"'), "camera", "there is no device 'Kamera' in MMConfig"),
        (('shutter = "White', 'shutter = "Black'), "shutter", "there is no device 'Black Light Shutter'"),
        (('XY = "DemoCamera"', 'XY = "Prior"'), "expected_devices", "'Prior' is expected, MMConfig_demo.cfg"),
        (('"xy_stage", device = "XY"', '"xy_stage", device = "YX"'), "settings.stage.target.device",
         "there is no device 'YX'"),
        (('startup = [{ device = "Camera"', 'startup = [{ device = "Cam"'), "startup", "no device 'Cam'"),
        (('"MMConfig_demo.cfg"', '"absent.cfg"'), "config_file", "'absent.cfg' is neither in"),
        (("safe = 1.25e-6", "safe = 2.5e-6"), "settings.excitation_w.safe", "[safe] excitation_w says 1.25e"),
        (("scale = 1e5 }", 'scale = 1e5, measured_on = "2020-02-29", valid_days = 7 }'),
         "settings.excitation_w.calibration", "held until 2020-03-07; measure it again"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_by_file_line_and_key_without_connecting(
    tmp_path: Path, change: tuple[str, str], key: str, words: str
) -> None:
    path = write(tmp_path, change)
    code, _, err = stedfast("check", path)
    assert code == 2, err
    (problem,) = [line for line in err.splitlines() if words in line]
    where, _, told = problem.partition(": ")
    assert told.startswith(f"microscope.options.{key}")
    file, _, line = where.rpartition(":")
    assert Path(file) == path
    assert key.rsplit(".", 1)[-1] in path.read_text().splitlines()[int(line) - 1] or key.endswith("device")


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (
            ("Device,XY,DemoCamera,DXYStage", "Device,XY,DemoCamera"),
            "Device,XY",
            "takes 3 values, here are 2",
        ),
        (("Device,XY,DemoCamera", "Device,Z,DemoCamera"), "Device,Z,DemoCamera,DXY", "'Z' is taken in line"),
        (("Device,XY", "Devise,XY"), "Devise", "'Devise' is no command of Micro-Manager"),
        (("Parent,XY,DHub", "Parent,XY,Hub"), "Parent,XY", "names 'Hub', which no line"),
        (("Label,Emission,9", "Label,Emmission,9"), "Label,Emm", "names 'Emmission'"),
        (("Core,Focus,Z", "Core,Focus,Zed"), "Property,Core,Focus", "names 'Zed'"),
        (("Core,Initialize,1", "Core,Initialize,0"), None, "no device is initialised"),
        (("Device,LED Shutter,Utilities", "Device,LED Shutter,Utilitees"), None, "no adapter 'Utilitees'"),
        (("Device,XY,DemoCamera,DXYStage\n", "\n"), None, "there is no device 'XY' in mine.cfg"),
    ],
)
def test_a_broken_cfg_is_named_with_its_own_line(
    tmp_path: Path, change: tuple[str, str], line: str | None, words: str
) -> None:
    code, _, err = stedfast("check", write(tmp_path, cfg=change))
    assert code == 2
    place = "" if line is None else f"mine.cfg:{line_of((tmp_path / 'mine.cfg').read_text(), line)}: "
    assert any(place in problem and words in problem for problem in err.splitlines()), err


def test_a_cfg_that_is_no_text_or_not_there_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_bytes(b"\0\1")
    with pytest.raises(ConfigurationError, match="which is text"):
        read_config(tmp_path / "x.cfg")
    with pytest.raises(ConfigurationError, match="No such file"):
        read_config(tmp_path / "y.cfg")


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CFG)), st.sampled_from([",", "\n", "#", "é", "Device,", ""]))))
def test_any_text_gives_problems_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, str]]
) -> None:
    text = CFG
    for position, word in edits:
        text = text[:position] + word + text[position + 1 :]
    path = tmp_path_factory.mktemp("cfg") / "x.cfg"
    path.write_text(text)
    for problem in read_config(path).problems:
        assert problem.startswith("x.cfg:")


def test_a_computer_without_the_adapters_checks_what_it_can(tmp_path: Path) -> None:
    path = write(tmp_path, ('"mm_test_adapters"', '"C:/Program Files/Micro-Manager-2.0"'), cfg=("#", "#"))
    code, out, err = stedfast("check", path)
    assert code == 0, err
    assert "note: adapters: C:/Program Files/Micro-Manager-2.0 is not on this computer" in out


def test_the_pymmcore_of_another_interface_is_noted(tmp_path: Path) -> None:
    _, out, _ = stedfast("check", write(tmp_path, ("device_interface = 75", "device_interface = 70")))
    assert "note: device_interface: 70 is asked, the pymmcore of this computer" in out
    code, _, err = stedfast("check", tmp_path / "scope.toml", "--live")
    assert code == 2
    assert "microscope.options.device_interface: 70 is asked, this pymmcore has" in err


def test_live_reads_every_setting_and_writes_nothing_but_darkness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    real = mmcore.load_core

    def watched(*arguments: Any) -> Any:
        return Watched(real(*arguments), told)

    monkeypatch.setattr(mmcore, "load_core", watched)
    code, out, err = stedfast("check", write(tmp_path), "--live", "--json")
    assert code == 0, err
    readings = {reading["setting"]: reading for reading in json.loads(out)["readings"]}
    assert list(readings) == ["stage", "pixels", "pixel_size_m", "frame_s", "excitation_w"]
    assert readings["excitation_w"] == {
        "setting": "excitation_w", "place": "Camera.BeadBrightness", "told": ["0.1250"], "si": [1.25e-6],
        "unit": "W",
    }  # fmt: skip
    writes = [call for call in told if call.startswith("set")]
    allowed = ("setTimeoutMs", "setAutoShutter", "setShutterDevice", "setCameraDevice")
    dark = (
        "setShutterOpen('White Light Shutter', False)",
        "setProperty('Camera', 'BeadBrightness', '0.1250')",
    )
    assert all(call.startswith(allowed) or call in dark for call in writes), writes
    assert set(dark) <= set(writes)


class Watched:
    """Writes down every call of a core."""

    def __init__(self, core: Any, told: list[str]) -> None:
        self._core, self._told = core, told

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._core, name)

        def call(*arguments: Any) -> Any:
            self._told.append(f"{name}{arguments!r}")
            return real(*arguments)

        return call


def test_the_exercise_moves_a_little_and_back_and_stays_dark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    real = mmcore.load_core
    monkeypatch.setattr(mmcore, "load_core", lambda *a: Watched(real(*a), told))
    code, out, err = stedfast("check", write(tmp_path), "--exercise", "--json")
    assert code == 0, err
    steps: dict[str, list[Any]] = {}
    for step in json.loads(out)["steps"]:
        assert step["is_inside"], step
        assert step["write_s"] >= 0
        steps.setdefault(step["setting"], []).append(step["wanted"])
    corner = pytest.approx([-5e-6, -5e-6])
    assert steps["stage"][0] == corner
    assert len(steps["stage"]) == 5
    assert steps["stage"][-1] == pytest.approx([0.0, 0.0]), "and back"
    assert steps["frame_s"] == [[1e-3], [10.0], [0.01]]
    assert steps["pixels"][0] == [16, 16]
    assert steps["excitation_w"] == [[1.25e-6]], "a light only goes to its safe value"
    assert not [call for call in told if call.startswith("setShutterOpen") and "True" in call]
    assert not [call for call in told if call.startswith("snapImage")]


def opened(experiment: Experiment) -> DeviceBench:
    """Open a bench by the driver itself: the test closes it."""
    builder = Builder.fresh(experiment)
    driver, options = builder.driver()
    assert isinstance(driver, Checkable)
    found = driver.open_bench(options, builder.resources("microscope", None))
    assert isinstance(found, DeviceBench)
    return found


def bench(tmp_path: Path, *changes: tuple[str, str], proxy: Any = None) -> DeviceBench:
    found = opened(load(write(tmp_path, *changes)))
    if proxy is not None:
        found._devices.core = proxy(found._devices.core)
    return found


FOCUS = """[microscope.options.settings.focus_m]
target = { kind = "focus", device = "Z" }
low = -50e-6
high = 50e-6
max_step = 4e-6
tolerance = 1e-7

[limits]
"""


def steps_of(found: list[Step], setting: str) -> list[Step]:
    return [step for step in found if step.setting == setting]


def test_a_focus_is_exercised_only_inside_limits_and_steps_that_someone_set(tmp_path: Path) -> None:
    with_drive = (("[limits]\n", FOCUS), ('order = ["stage", ', 'order = ["stage", "focus_m", '))
    for limits, count in (("", 0), ("focus_min_m = -1e-6\nfocus_max_m = 50e-6\n", 3)):
        devices = bench(tmp_path, *with_drive, ("[limits]\n", f"[limits]\n{limits}"))
        found = steps_of(list(devices.exercise()), "focus_m")
        devices.close()
        assert not any(step.has_failed for step in found)
        if count:
            assert [step.wanted for step in found] == [(-1e-6,), (2e-6,), (0.0,)]
        else:
            assert (
                found[0].problem == "focus_min_m and focus_max_m are not set in [limits]; nothing was moved"
            )


def test_a_stage_outside_the_limits_is_not_moved(tmp_path: Path) -> None:
    devices = bench(
        tmp_path,
        ("center_yx_m = [0.0, 0.0], size_yx_m = [4e-3", "center_yx_m = [3e-3, 0.0], size_yx_m = [4e-3"),
    )
    (step,) = steps_of(list(devices.exercise()), "stage")
    devices.close()
    assert step.problem is not None
    assert "it stands at" in step.problem
    assert not step.wanted


@pytest.mark.parametrize(
    ("method", "answer", "words"),
    [
        ("setXYPosition", RuntimeError("the motor is off"), "the motor is off"),
        ("setXYPosition", None, "OUTSIDE its tolerance"),
        ("waitForDevice", RuntimeError("timed out"), "timed out"),
    ],
)
def test_a_device_that_fails_its_exercise_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, answer: Any, words: str
) -> None:
    class Broken:
        def __init__(self, core: Any) -> None:
            self._core, self.calls = core, 0

        def __getattr__(self, name: str) -> Any:
            real = getattr(self._core, name)

            def call(*arguments: Any) -> Any:
                if name == method and arguments[0] == "XY":
                    if isinstance(answer, Exception):
                        raise answer
                    return None
                return real(*arguments)

            return call

    real = mmcore.load_core
    monkeypatch.setattr(mmcore, "load_core", lambda *a: Broken(real(*a)))
    code, out, _ = stedfast("check", write(tmp_path), "--exercise")
    assert code == 1
    assert words in out
    assert "excitation_w   Camera.BeadBrightness" in out, "the rest goes on"


def test_nothing_is_moved_unless_it_is_dark(tmp_path: Path) -> None:
    class Stuck:
        def __init__(self, core: Any) -> None:
            self._core = core

        def __getattr__(self, name: str) -> Any:
            if name == "getShutterOpen":
                return lambda _: True
            assert name not in {"setXYPosition", "setExposure", "setROI"}, "moved in the light"
            return getattr(self._core, name)

    devices = bench(tmp_path, proxy=Stuck)
    with pytest.raises(DeviceError, match="the light is not off: nothing is moved"):
        next(devices.exercise())
    with pytest.raises(DeviceError, match="close the shutter by hand"):
        devices.close()


def test_a_reading_that_its_calibration_does_not_know_is_shown_and_not_exercised(tmp_path: Path) -> None:
    table = 'calibration = { kind = "table", value = [1e-3, 10.0], device = [0.02, 10.0] }\nlow = 1e-3'
    devices = bench(tmp_path, ("low = 1e-3", table))
    assert Reading("frame_s", "Camera", ("0.01",), (), "s") in devices.readings()
    (step,) = steps_of(list(devices.exercise()), "frame_s")
    devices.close()
    assert "it reads a value that its calibration does not know" in str(step.problem)


def test_simulated_microscopes_are_started_and_cannot_be_exercised() -> None:
    simulated = shipped_hardware("sim_sted.toml")
    code, out, _ = stedfast("check", simulated)
    assert code == 0
    assert "first decision of 'regions'" in out
    assert stedfast("check", simulated, "--live")[:2] == (0, out)
    code, _, err = stedfast("check", simulated, "--exercise")
    assert code == 2
    assert "has no devices that could be moved" in err


def test_a_dry_run_connects_and_asks_the_policy(tmp_path: Path) -> None:
    code, out, err = stedfast("run", write(tmp_path), "--dry")
    assert code == 0, err
    assert "first decision of 'events'" in out


def test_corner_scans_are_inside_the_limits_and_reach_their_edges() -> None:
    limits = LIMITS.replace(focus_min_m=-1e-5, focus_max_m=2e-5)
    scans = list(corner_scans(limits, ("confocal", "sted")))
    assert 0 < len(scans) < 2000
    assert not [scan for scan in scans if limits.violations(scan, "here")]
    for name in ("excitation_w", "sted_w", "pixel_size_m", "focus_m", "dwell_s", "line_averages"):
        values = {getattr(scan, name) for scan in scans} - {None}
        field = name.removesuffix("_w").removesuffix("_m").removesuffix("_s")
        most = next(
            getattr(limits, key)
            for key in (f"{field}_max_w", f"{field}_max_m", f"{field}_max_s", f"{field}_max")
            if hasattr(limits, key)
        )
        assert max(values) == most, name
    for unset in corner_scans(LIMITS, ("overview",)):
        assert unset.focus_m is None


def test_a_new_experiment_brings_the_cfg_of_its_microscope(tmp_path: Path) -> None:
    write(tmp_path, cfg=("#", "#"))
    code, out, _ = stedfast("new", tmp_path / "mine", "--hardware", tmp_path / "scope.toml")
    assert code == 0
    assert "mine.cfg" in out
    assert (tmp_path / "mine/mine.cfg").read_text() == (tmp_path / "mine.cfg").read_text()
    code, _, err = stedfast("check", tmp_path / "mine")
    assert code == 0, err
    assert "session_energy_j = 0.01 " in (tmp_path / "mine/experiment.toml").read_text()
