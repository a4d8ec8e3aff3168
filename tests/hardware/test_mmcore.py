"""The driver on the real MMCore: its contract, the order of every command, and what failures leave."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controller.config import load, shipped_hardware
from controller.core.clock import SimulatedClock, SystemClock
from controller.core.errors import (
    ConfigurationError,
    DeviceError,
    InvalidRequestError,
    LightNotOffError,
)
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Microscope, Resources
from controller.core.settings import Region, ScanSettings
from controller.microscopes.device_mapping import DeviceMapping
from controller.microscopes.device_plan import Write
from controller.microscopes.mm_devices import Devices
from controller.microscopes.mmcore import MMCoreMicroscope, load_core
from controller.testing import MicroscopeContract, resources

pymmcore = pytest.importorskip("pymmcore", reason="needs the extra mm")
adapters = pytest.importorskip("mm_test_adapters", reason="needs the extra mm")
msgpack = pytest.importorskip("msgpack", reason="needs msgpack to read the flight recorder")

DEMO_CONFIG = load(shipped_hardware("mm_demo.toml")).hardware.config
DEMO = DEMO_CONFIG.microscope.options


def demo_resources(**changes: Any) -> Resources:
    return dataclasses.replace(resources(), limits=DEMO_CONFIG.limits, safe=DEMO_CONFIG.safe, **changes)


def demo_options(**changes: Any) -> MMCoreMicroscope.Options:
    return MMCoreMicroscope.Options.model_validate_json(json.dumps({**DEMO, **changes}))


def scan(side_px: int = 64, **changes: Any) -> ScanSettings:
    side_m = side_px * 1e-6
    settings = {
        "modality": "confocal",
        "region": Region(center_yx_m=(5e-6, -3e-6), size_yx_m=(side_m, side_m)),
        "pixel_size_m": 1e-6,
        "dwell_s": 1e-6,
        "excitation_w": 10e-6,
    }
    return ScanSettings.model_validate({**settings, **changes})


def square(side_m: float) -> Region:
    return Region(center_yx_m=(5e-6, -3e-6), size_yx_m=(side_m, side_m))


class TestDemoDevices(MicroscopeContract):
    settings = scan()

    def make(self) -> Microscope:
        return MMCoreMicroscope.from_options(demo_options(), demo_resources(clock=SystemClock()))


def test_brighter_light_makes_a_brighter_picture() -> None:
    microscope = MMCoreMicroscope.from_options(demo_options(), demo_resources())
    dim, bright = (microscope.acquire(scan(128, excitation_w=w)).photons for w in (10e-6, 40e-6))
    microscope.close()
    assert bright.sum() > 2 * dim.sum()


def test_a_chip_whose_pixels_change_with_their_size_is_measured_again() -> None:
    settings = json.loads(json.dumps(DEMO["settings"]))
    # Resolution as a scanner sets it: fewer pixels on the same field, so larger ones.
    settings["pixel_size_m"] = {
        "target": {"kind": "property", "device": "Camera", "property": "OnCameraCCDXSize"},
        "unit": "px",
        "calibration": {"kind": "reciprocal", "scale": 512e-6},
        "low": 1e-6,
        "high": 4e-6,
        "tolerance": 1e-9,
    }
    startup = [{"device": "Camera", "property": "OnCameraCCDYSize", "value": "512"}]
    order = ["stage", "pixel_size_m", "pixels", "frame_s", "excitation_w"]
    microscope = MMCoreMicroscope.from_options(
        demo_options(settings=settings, startup=startup, order=order), demo_resources()
    )
    core = microscope._core
    for pixel_size_m, first_column in ((1e-6, 224), (4e-6, 32), (1e-6, 224)):
        frame = microscope.acquire(scan(64, pixel_size_m=pixel_size_m, region=square(64 * pixel_size_m)))
        assert frame.photons.shape == (64, 64)
        assert core.getROI()[0] == first_column, "in the middle of the chip as it is now"
    microscope.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device_interface": 74}, "device_interface: 74 is asked"),
        ({"config_file": "absent.cfg"}, "config_file: 'absent.cfg' is neither in"),
        ({"adapters": "no_such_adapters"}, "adapters: 'no_such_adapters' is neither a folder"),
        ({"camera": "Kamera"}, "camera: there is no device 'Kamera'"),
        ({"shutter": "Lid"}, "shutter: there is no device 'Lid'"),
        (
            {"expected_devices": {"Camera": "HamamatsuHam"}},
            "expected_devices.Camera: 'HamamatsuHam' is expected",
        ),
    ],
)
def test_what_does_not_fit_the_devices_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        MMCoreMicroscope.from_options(demo_options(**changes), demo_resources())


@pytest.mark.parametrize(
    ("target", "extra", "words"),
    [
        ({"device": "Laser", "property": "Power"}, {}, "there is no device 'Laser'"),
        ({"device": "Camera", "property": "Brightness"}, {}, "has no property 'Brightness'; it has"),
        ({"device": "Camera", "property": "CameraID"}, {}, "is read-only"),
        ({"device": "Camera", "property": "BeadBrightness"}, {"high": 200e-6}, "the device allows"),
    ],
)
def test_a_property_that_cannot_hold_the_setting_is_named(
    target: dict[str, Any], extra: dict[str, Any], words: str
) -> None:
    settings = json.loads(json.dumps(DEMO["settings"]))
    settings["excitation_w"] |= {"target": {"kind": "property", **target}, **extra}
    with pytest.raises(ConfigurationError, match=words):
        MMCoreMicroscope.from_options(demo_options(settings=settings), demo_resources())


def test_a_broken_configuration_of_micro_manager_is_named(tmp_path: Path) -> None:
    (tmp_path / "scope.cfg").write_text("Device,Camera,NoSuchAdapter,DCam\n")
    with pytest.raises(ConfigurationError, match=r"scope.cfg.*NoSuchAdapter"):
        MMCoreMicroscope.from_options(demo_options(config_file="scope.cfg"), demo_resources(folder=tmp_path))


# ---- the flight recorder: SequenceTester writes down every command it gets, in its images ----

RECORDER_CONFIG = load(shipped_hardware("mm_sequence_tester.toml")).hardware.config
RECORDER = RECORDER_CONFIG.microscope.options


def recorder_mapping() -> DeviceMapping:
    return MMCoreMicroscope.Options.model_validate_json(json.dumps(RECORDER))


def recorder_core() -> Any:
    return load_core(recorder_mapping(), shipped_hardware("x").parent)


def recorder() -> tuple[MMCoreMicroscope, Any]:
    core = recorder_core()
    return MMCoreMicroscope(core, recorder_mapping(), SimulatedClock()), core


def commands(frame: Frame) -> list[tuple[str, str, Any]]:
    """Return what the devices were told before this image: device, what, value."""
    unpacker = msgpack.Unpacker(io.BytesIO(frame.photons.astype(np.uint8).tobytes()), strict_map_key=False)
    history = unpacker.unpack()[6]
    return [(key[0], key[1], value[1]) for key, value, _ in history if key[1] != "Busy"]


FULL = Region(center_yx_m=(20e-6, 10e-6), size_yx_m=(384e-6, 384e-6))
TESTED = ScanSettings(
    modality="sted", region=FULL, pixel_size_m=1e-6, dwell_s=1e-7, excitation_w=30e-6, sted_w=70e-6
)


def test_a_scan_tells_the_devices_in_the_one_safe_order() -> None:
    microscope, _ = recorder()
    microscope.acquire(TESTED)
    told = commands(microscope.acquire(TESTED.replace(excitation_w=20e-6)))
    assert told == [
        ("TShutter", "ShutterState", False),
        ("TSwitcher1", "Position", 0),
        ("TSwitcher2", "Position", 0),
        ("TXYStage", "XPositionSteps", pytest.approx(10, abs=1e4)),
        ("TXYStage", "YPositionSteps", pytest.approx(20, abs=1e4)),
        ("TCamera", "Exposure", pytest.approx(14.7456)),
        ("TSwitcher1", "Position", 2),
        ("TSwitcher2", "Position", 7),
        ("TShutter", "ShutterState", True),
    ]


@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.floats(-1e-3, 1e-3), st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=5
    )
)
def test_nothing_ever_moves_in_the_light(scans: list[tuple[float, int, int]]) -> None:
    microscope, _ = recorder()
    told: list[tuple[str, str, Any]] = []
    for x_m, excitation, sted in scans:
        region = Region(center_yx_m=(0.0, x_m), size_yx_m=FULL.size_yx_m)
        settings = TESTED.replace(region=region, excitation_w=excitation * 1e-5, sted_w=sted * 1e-5)
        told += commands(microscope.acquire(settings))
    is_open, power = False, {"TSwitcher1": 0, "TSwitcher2": 0}
    for device, what, value in told:
        if device == "TShutter":
            is_open = value
        elif device in power:
            power[device] = value
            assert not is_open, "lights change behind a closed shutter"
        else:
            assert not is_open, f"{device} {what} in the light"
            assert power == {"TSwitcher1": 0, "TSwitcher2": 0}, "lights are safe while anything moves"
    assert microscope.is_dark()


def test_a_request_that_the_devices_cannot_do_sends_no_command() -> None:
    microscope, _ = recorder()
    microscope.acquire(TESTED)
    with pytest.raises(InvalidRequestError, match=r"excitation_w=0.0002 W is outside 0\.\.0\.0001"):
        microscope.acquire(TESTED.replace(excitation_w=200e-6, region=FULL.replace(center_yx_m=(0.0, 0.0))))
    told = commands(microscope.acquire(TESTED))
    assert [device for device, _, _ in told].count("TXYStage") == 2, "one move, for the scan that was made"


class FaultyCore:
    """A core whose ``call``-th call of ``method`` goes wrong."""

    def __init__(self, core: Any, method: str, call: int, fault: str) -> None:
        self.core, self.method, self.call, self.fault = core, method, call, fault
        self.armed = False
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.core, name)
        if name != self.method or not self.armed:
            return real

        def call(*arguments: Any) -> Any:
            self.count += 1
            if self.count != self.call:
                return real(*arguments)
            if self.fault == "raise":
                raise RuntimeError("the device does not answer")
            if self.fault == "ignore":
                return None
            if self.fault == "nan":
                return float("nan")
            raise KeyboardInterrupt

        return call


METHODS = {
    "setProperty": ("raise", "ignore", "interrupt"),
    "setXYPosition": ("raise", "interrupt"),
    "setExposure": ("raise", "interrupt"),
    "waitForDevice": ("raise", "interrupt"),
    "setShutterOpen": ("raise", "interrupt"),
    "snapImage": ("raise", "interrupt"),
    "getImage": ("raise", "interrupt"),
    "getProperty": ("raise", "nan"),
    "getShutterOpen": ("raise",),
}
CASES = [
    (method, call, fault) for method, faults in METHODS.items() for fault in faults for call in range(1, 7)
]


@pytest.mark.parametrize(("method", "call", "fault"), CASES)
def test_whatever_goes_wrong_it_ends_dark_and_the_next_frame_is_right(
    method: str, call: int, fault: str
) -> None:
    core = recorder_core()
    proxy = FaultyCore(core, method, call, fault)
    microscope = MMCoreMicroscope(proxy, recorder_mapping(), SimulatedClock())  # type: ignore[arg-type]
    guard = GuardedMicroscope(microscope, RECORDER_CONFIG.limits)
    proxy.armed = True
    errors: list[BaseException] = []
    for _ in range(2):
        try:
            guard.acquire(TESTED)
        except (DeviceError, KeyboardInterrupt) as error:
            errors.append(error)
        assert not core.getShutterOpen("TShutter")
        assert core.getProperty("TSwitcher1", "State") == core.getProperty("TSwitcher2", "State") == "0"
    assert len(errors) <= 1
    assert not any(isinstance(error, LightNotOffError) for error in errors)
    if proxy.count >= call and fault in {"raise", "interrupt"} and method in {"snapImage", "getImage"}:
        assert len(errors) == 1
    proxy.armed = False
    assert guard.acquire(TESTED).photons.shape == (384, 384)


def test_a_device_that_ignores_a_write_is_found_by_its_read_back() -> None:
    core = recorder_core()
    proxy = FaultyCore(core, "setProperty", 1, "ignore")
    microscope = MMCoreMicroscope(proxy, recorder_mapping(), SimulatedClock())  # type: ignore[arg-type]
    proxy.armed = True
    with pytest.raises(DeviceError, match=r"excitation_w: TSwitcher1 was set to .* it reads"):
        microscope.acquire(TESTED)
    assert microscope.is_dark()


def test_a_stop_from_the_session_comes_before_the_light(monkeypatch: pytest.MonkeyPatch) -> None:
    microscope, core = recorder()
    real = Devices.apply

    def stop_half_way(self: Devices, write: Write) -> None:
        real(self, write)
        if write.name == "frame_s":
            microscope.stop()

    monkeypatch.setattr(Devices, "apply", stop_half_way)
    with pytest.raises(DeviceError, match="stopped"):
        microscope.acquire(TESTED)
    assert not core.getShutterOpen("TShutter")
    monkeypatch.undo()
    microscope.acquire(TESTED)


def test_the_demo_configuration_is_found_beside_the_experiment_or_the_adapters() -> None:
    core = load_core(demo_options(), Path("/nowhere"))
    assert "Camera" in core.getLoadedDevices()
