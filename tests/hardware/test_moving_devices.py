"""Devices that take their time, round, refuse, or are moved by somebody else: Micro-Manager's own testers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.core.clock import SystemClock
from controller.core.errors import DeviceError, InvalidRequestError
from controller.core.guard import GuardedMicroscope
from controller.core.settings import Region, ScanSettings
from controller.microscopes.mmcore import MMCoreMicroscope, load_core
from controller.testing import LIMITS

pytest.importorskip("pymmcore", reason="needs the extra mm")
pytest.importorskip("mm_test_adapters", reason="needs the extra mm")

CFG = """Property,Core,Initialize,0
Device,DHub,DemoCamera,DHub
Device,Camera,DemoCamera,DCam
Device,Shutter,DemoCamera,DShutter
Device,Wheel,DemoCamera,DWheel
Device,XY,NotificationTester,NTAsyncXYStage
Device,Z,NotificationTester,NTAsyncStage
Device,Laser,NotificationTester,NTAsyncProperty
Parent,Camera,DHub
Parent,Shutter,DHub
Parent,Wheel,DHub
Property,Core,Initialize,1
Label,Wheel,0,blocked
Label,Wheel,3,open
Property,XY,UpdateInterval_s,0.001
Property,Z,UpdateInterval_s,0.001
Property,Laser,UpdateInterval_s,0.001
Property,XY,SlewTimePerStep_s,0.0001
Property,Z,SlewTimePerStep_s,0.0001
Property,Laser,SlewTimePerUnit_s,0.0001
"""
SETTINGS: dict[str, Any] = {
    "stage": {"target": {"kind": "xy_stage", "device": "XY"}, "tolerance": 0.15e-6},
    "focus_m": {
        "target": {"kind": "focus", "device": "Z"},
        "low": -1e-4,
        "high": 1e-4,
        "tolerance": 0.06e-6,
    },
    "pixel_size_m": {"target": {"kind": "fixed", "value": 1e-6}},
    "pixels": {"target": {"kind": "camera_region"}, "tolerance": 0.0},
    "frame_s": {"target": {"kind": "exposure"}, "low": 1e-4, "high": 1.0},
    "excitation_w": {
        "target": {"kind": "property", "device": "Laser", "property": "TestProperty"},
        "unit": "uW",
        "calibration": {"kind": "linear", "scale": 1e6},
        "low": 0.0,
        "high": 100e-6,
        "safe": 0.0,
        "tolerance": 1e-9,
    },
}
OPTIONS: dict[str, Any] = {
    "config_file": "moving.cfg",
    "adapters": "mm_test_adapters",
    "device_interface": 75,
    "camera": "Camera",
    "shutter": "Shutter",
    "modalities": ["confocal"],
    "order": ["stage", "focus_m", "pixel_size_m", "pixels", "frame_s", "excitation_w"],
}
BOX = LIMITS.replace(
    stage_box=Region(center_yx_m=(0.0, 0.0), size_yx_m=(2e-3, 2e-3)),
    pixel_size_max_m=2e-6,
    dose_cell_m=1e-6,
    focus_min_m=-1e-4,
    focus_max_m=1e-4,
)


def scan(x_m: float = 5e-6, **changes: Any) -> ScanSettings:
    settings: dict[str, Any] = {
        "modality": "confocal",
        "region": Region(center_yx_m=(-3e-6, x_m), size_yx_m=(32e-6, 32e-6)),
        "pixel_size_m": 1e-6,
        "dwell_s": 1e-6,
        "excitation_w": 10e-6,
    }
    return ScanSettings.model_validate({**settings, **changes})


class Bench:
    """A microscope of slow devices, the core it drives, and what that core was told."""

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None, **options: Any) -> None:
        (folder / "moving.cfg").write_text(CFG)
        merged = {name: {**mapped, **(settings or {}).get(name, {})} for name, mapped in SETTINGS.items()}
        mapping = MMCoreMicroscope.Options.model_validate_json(
            json.dumps({**OPTIONS, "settings": merged, **options})
        )
        self.core = load_core(mapping, folder)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.instead: dict[str, Callable[..., None]] = {}
        self.microscope = MMCoreMicroscope(self, mapping, SystemClock())  # type: ignore[arg-type]
        self.guard = GuardedMicroscope(self.microscope, BOX)

    def __getattr__(self, name: str) -> Any:
        """Stand before the core: write down each call, and do more, or else, as a test says."""
        real = getattr(self.core, name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            self.before.get(name, lambda: None)()
            return self.instead.get(name, real)(*arguments)

        return call

    def told(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]

    def joystick(self, x_um: float, y_um: float, *, wait: bool = True) -> None:
        self.core.setProperty("XY", "ExternallySetSteps", f"{round(x_um * 10)}; {round(y_um * 10)}")
        if wait:
            self.core.waitForDevice("XY")

    def position_um(self) -> tuple[float, float]:
        return self.core.getXPosition("XY"), self.core.getYPosition("XY")

    def is_all_dark(self) -> bool:
        return not self.core.getShutterOpen("Shutter") and float(
            self.core.getProperty("Laser", "TestProperty")
        ) == pytest.approx(0.0)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def new(settings: dict[str, Any] | None = None, **options: Any) -> Bench:
        made.append(Bench(tmp_path, settings, **options))
        return made[-1]

    yield new
    for bench in made:
        bench.core.unloadAllDevices()


Make = Callable[..., Bench]


def test_a_slow_stage_is_waited_for_before_the_light(make: Make) -> None:
    bench = make()
    bench.core.setProperty("XY", "SlewTimePerStep_s", "0.002")
    seen: list[tuple[float, float]] = []

    bench.before["snapImage"] = lambda: seen.append(bench.position_um())
    frame = bench.guard.acquire(scan())
    assert seen == [pytest.approx((5.0, -3.0))], "it stood there when the light was on"
    assert frame.settings == scan()
    assert bench.is_all_dark()


def test_a_stage_slower_than_the_time_out_is_an_error_and_dark(make: Make) -> None:
    bench = make(timeout_s=0.05)
    bench.core.setProperty("XY", "SlewTimePerStep_s", "10")
    with pytest.raises(DeviceError, match="XY"):
        bench.guard.acquire(scan())
    assert bench.told("snapImage") == []
    assert ("Shutter", True) not in bench.told("setShutterOpen")
    assert bench.is_all_dark()
    bench.core.stop("XY")
    bench.core.setProperty("XY", "SlewTimePerStep_s", "0.0001")
    bench.guard.acquire(scan())
    assert bench.position_um() == pytest.approx((5.0, -3.0)), "the next scan is right"


def test_a_light_that_takes_its_time_is_waited_for_on_its_way_up_and_down(make: Make) -> None:
    bench = make()
    bench.core.setProperty("Laser", "SlewTimePerUnit_s", "0.002")
    powers: list[float] = []
    bench.before["snapImage"] = lambda: powers.append(float(bench.core.getProperty("Laser", "TestProperty")))
    bench.guard.acquire(scan())
    assert powers == [pytest.approx(10.0)]
    assert bench.is_all_dark(), "and not only on its way there"


def test_what_stands_where_it_should_is_not_told_again(make: Make) -> None:
    bench = make()
    for _ in range(3):
        bench.guard.acquire(scan())
    assert len(bench.told("setXYPosition")) == 1


def test_a_stage_that_was_moved_between_two_scans_is_driven_back(make: Make) -> None:
    bench = make()
    bench.guard.acquire(scan())
    bench.joystick(80.0, 20.0)
    bench.guard.acquire(scan())
    assert bench.position_um() == pytest.approx((5.0, -3.0))
    assert len(bench.told("setXYPosition")) == 2


def test_a_drift_inside_the_tolerance_is_left_alone(make: Make) -> None:
    bench = make()
    bench.guard.acquire(scan())
    bench.joystick(5.1, -3.1)
    bench.guard.acquire(scan())
    assert bench.position_um() == pytest.approx((5.1, -3.1))
    assert len(bench.told("setXYPosition")) == 1


def test_a_stage_that_somebody_is_moving_just_now_is_not_taken_for_standing_there(make: Make) -> None:
    bench = make()
    bench.guard.acquire(scan())
    bench.core.setProperty("XY", "SlewTimePerStep_s", "0.01")
    bench.joystick(6.0, -3.0, wait=False)
    assert bench.position_um() == pytest.approx((5.0, -3.0), abs=0.11), "it has hardly begun to move"
    bench.guard.acquire(scan())
    assert bench.position_um() == pytest.approx((5.0, -3.0))
    assert len(bench.told("setXYPosition")) == 2


@pytest.mark.parametrize("frames", [1, 3])
def test_a_stage_that_is_moved_in_the_light_makes_an_error_of_the_frame(make: Make, frames: int) -> None:
    bench = make()
    bench.guard.acquire(scan())
    spent_j = bench.guard.dose.energy_j
    for method in ("getImage", "popNextImage", "snapImage"):
        bench.before[method] = lambda: bench.joystick(40.0, 0.0)
    moved = "stage: XY moved during the scan: it was set to 5e-06, -3e-06, it reads"
    with pytest.raises(DeviceError, match=moved):
        bench.guard.stream(scan(), frames, lambda _: None)
    assert bench.is_all_dark()
    assert bench.guard.dose.energy_j == pytest.approx(spent_j + frames * scan().energy_j), "its light counts"
    bench.before.clear()
    bench.guard.acquire(scan())
    assert bench.position_um() == pytest.approx((5.0, -3.0)), "and the next scan goes back"


def test_the_focus_goes_where_it_is_asked_and_stays_there_otherwise(make: Make) -> None:
    bench = make()
    frame = bench.guard.acquire(scan(focus_m=7e-6))
    assert frame.settings.focus_m == 7e-6
    assert bench.core.getPosition("Z") == pytest.approx(7.0)
    bench.core.setProperty("Z", "ExternallySetSteps", "30")
    bench.core.waitForDevice("Z")
    assert bench.guard.acquire(scan()).settings.focus_m is None
    assert bench.core.getPosition("Z") == pytest.approx(3.0), "nobody asked for a focus"
    bench.guard.acquire(scan(focus_m=7e-6))
    assert bench.core.getPosition("Z") == pytest.approx(7.0)
    names = [name for name, _ in bench.calls]
    assert names.index("setPosition") < names.index("setShutterOpen", names.index("setPosition"))


def test_a_device_that_rounds_is_held_to_the_tolerance(make: Make) -> None:
    """The tester's focus knows steps of 0.1 um."""
    make().guard.acquire(scan(focus_m=7.04e-6))
    strict = make({"focus_m": {"tolerance": 0.01e-6}})
    with pytest.raises(DeviceError, match=r"focus_m: Z was set to 7.04e-06, it reads 7e-06"):
        strict.guard.acquire(scan(focus_m=7.04e-6))
    assert strict.is_all_dark()
    assert strict.told("snapImage") == []


def test_a_device_that_changes_a_value_silently_is_found_before_the_light(make: Make) -> None:
    bench = make()
    real = bench.core.setProperty

    def stronger(device: str, name: str, value: str) -> None:
        real(device, name, str(1.5 * float(value)) if device == "Laser" else value)

    bench.instead["setProperty"] = stronger
    with pytest.raises(DeviceError, match="excitation_w: Laser was set to 10, it reads 15"):
        bench.guard.acquire(scan())
    assert ("Shutter", True) not in bench.told("setShutterOpen")
    assert bench.is_all_dark()


def test_a_value_that_the_device_refuses_is_an_error_and_dark(make: Make) -> None:
    bench = make(
        {
            "pixel_size_m": {
                "target": {"kind": "property", "device": "Camera", "property": "Binning", "decimals": 0},
                "unit": "binning",
                "calibration": {"kind": "linear", "scale": 1e6},
                "low": 1e-6,
                "high": 8e-6,
            }
        }
    )
    region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(60e-6, 60e-6))
    with pytest.raises(DeviceError, match=r"Micro-Manager: .*Binning"):
        bench.microscope.acquire(scan(region=region, pixel_size_m=3e-6))
    assert bench.is_all_dark()
    assert bench.told("snapImage") == []


SWITCH = [{"device": "Wheel", "property": "State", "lit": "3", "dark": "0"}]


def test_switches_are_on_while_it_is_lit_and_off_whenever_it_is_dark(make: Make) -> None:
    bench = make(switches=SWITCH)
    states: list[str] = []
    bench.before["snapImage"] = lambda: states.append(bench.core.getProperty("Wheel", "State"))
    bench.guard.acquire(scan())
    assert states == ["3"]
    assert bench.core.getProperty("Wheel", "State") == "0"
    bench.core.setProperty("Wheel", "State", "3")
    assert not bench.microscope.is_dark()
    bench.guard.go_dark()
    assert bench.core.getProperty("Wheel", "State") == "0"
    shutter = bench.calls.index(("setShutterOpen", (True,)))
    assert bench.calls.index(("setProperty", ("Wheel", "State", "3"))) < shutter


def test_a_switch_goes_off_although_a_light_before_it_fails(make: Make) -> None:
    bench = make(switches=SWITCH)
    bench.core.setProperty("Wheel", "State", "3")
    real, broken = bench.core.setProperty, [True]

    def fails_once(device: str, *rest: str) -> None:
        if device == "Laser" and broken:
            broken.clear()
            raise RuntimeError("the laser does not answer")
        real(device, *rest)

    bench.instead["setProperty"] = fails_once
    with pytest.raises(DeviceError, match="the laser does not answer"):
        bench.microscope.stop()
    assert bench.core.getProperty("Wheel", "State") == "0"


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ({"property": "Stat"}, "switches.0.property: Wheel has no property 'Stat'"),
        ({"property": "Label", "lit": "on"}, "switches.0.lit: 'on' is none of the values of 'Label'"),
        ({"device": "Camera", "property": "CameraID"}, "is read-only"),
        ({"device": "Camera", "property": "MaximumExposureMs"}, "is read when the device is initialised"),
    ],
)
def test_a_switch_that_cannot_work_is_refused_before_anything_is_written(
    make: Make, switch: dict[str, str], words: str
) -> None:
    with pytest.raises(Exception, match=words):
        make(switches=[{**SWITCH[0], **switch}])


def test_a_power_that_is_rounded_down_is_what_the_frame_and_the_ledger_say(make: Make) -> None:
    steps = {"kind": "choice", "value": [0.0, 8e-6, 20e-6], "device": [0, 8, 20], "pick": "down"}
    bench = make({"excitation_w": {"calibration": steps, "high": 20e-6}})
    frame = bench.guard.acquire(scan(excitation_w=15e-6))
    assert frame.settings.excitation_w == 8e-6
    assert bench.guard.dose.energy_j == pytest.approx(scan(excitation_w=8e-6).energy_j)


@pytest.mark.parametrize("tolerance", [0.15e-6, None])
def test_steps_are_counted_from_where_the_stage_reads_or_was_last_sent(
    make: Make, tolerance: float | None
) -> None:
    bench = make({"stage": {"max_step": 10e-6, "tolerance": tolerance}})
    if tolerance is None:
        bench.guard.acquire(scan(60e-6))  # it is not known where it stands
    else:
        bench.joystick(60.0, 0.0)
    with pytest.raises(InvalidRequestError, match=r"is a step of 5.5e-05 from 6e-05, allowed is 1e-05"):
        bench.guard.acquire(scan(5e-6))
    assert bench.position_um()[0] == pytest.approx(60.0), "nothing was moved"
    bench.guard.acquire(scan(52e-6))
