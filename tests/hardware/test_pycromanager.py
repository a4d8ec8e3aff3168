"""pycromanager in this process: the driver's contract, and that no failure of it is lost or lasts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pymmcore", reason="needs the extra pycromanager")
pytest.importorskip("mm_test_adapters", reason="needs the extra pycromanager")
pytest.importorskip("pycromanager", reason="needs the extra pycromanager")

from mmpycorex.launcher import TaggedImage
from pycromanager.acquisition.acq_eng_py.internal.engine import Engine
from pycromanager.acquisition.acquisition_superclass import EventQueue
from pycromanager.acquisition.python_backend_acquisitions import PythonBackendAcquisition

from controller.config import load, shipped_hardware
from controller.core.clock import SystemClock
from controller.core.errors import (
    AcquisitionStoppedError,
    ConfigurationError,
    DeviceError,
    InvalidRequestError,
)
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Microscope, Streams
from controller.core.settings import Region, ScanSettings
from controller.microscopes import pycromanager as driver
from controller.microscopes.device_mapping import DeviceMapping
from controller.microscopes.mmcore import MMCoreMicroscope, load_core
from controller.microscopes.pycromanager import EngineMicroscope, PycromanagerMicroscope
from controller.plugins import find
from controller.recording.reader import SessionReader
from controller.testing import MicroscopeContract, resources
from tests.hardware.test_mmcore import RECORDER, TESTED, commands, recorder_core

pytestmark = pytest.mark.timeout(40)

SHIPPED = load(shipped_hardware("mm_demo.toml")).hardware.config
SCAN = ScanSettings(
    modality="confocal",
    region=Region(center_yx_m=(5e-6, -3e-6), size_yx_m=(64e-6, 48e-6)),
    pixel_size_m=1e-6,
    dwell_s=1e-6,
    excitation_w=10e-6,
)
ACQUISITION = "PythonBackendAcquisition"
HOOKS = ("event_generation_hook_fn", "pre_hardware_hook_fn", "post_hardware_hook_fn", "post_camera_hook_fn")


def options(**changes: Any) -> PycromanagerMicroscope.Options:
    settings = {**SHIPPED.microscope.options, **changes}
    return PycromanagerMicroscope.Options.model_validate_json(json.dumps(settings))


def connected(**changes: Any) -> MMCoreMicroscope:
    given = replace(resources(clock=SystemClock()), limits=SHIPPED.limits, safe=SHIPPED.safe)
    return PycromanagerMicroscope.from_options(options(**changes), given)


class Core:
    """The core of the demo devices, some of whose methods are others, once it is ``armed``."""

    def __init__(self, **others: Callable[..., Any]) -> None:
        self.real: Any = load_core(options(), Path())
        self.others, self.armed = others, False
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.called.append(name)
        return self.others[name] if self.armed and name in self.others else getattr(self.real, name)


def faulty(core: Core, **changes: Any) -> GuardedMicroscope:
    microscope = EngineMicroscope(core, options(**changes), SystemClock())  # type: ignore[arg-type]
    core.armed = True
    return GuardedMicroscope(microscope, SHIPPED.limits)


def fail(*_: Any) -> None:
    raise RuntimeError("this goes wrong")


class TestInProcess(MicroscopeContract):
    settings = SCAN

    def make(self) -> Microscope:
        return connected()


def test_it_is_found_by_its_name_and_streams() -> None:
    assert find("microscopes", "pycromanager").__name__ == "PycromanagerMicroscope"
    microscope = connected()
    assert isinstance(microscope, Streams)
    assert len(list(microscope.stream(SCAN, 3))) == 3
    assert "pycromanager" in str(microscope.capabilities().details["route"])
    microscope.close()
    with pytest.raises(DeviceError, match="closed"):
        microscope.acquire(SCAN)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config_file": ""}, "config_file is needed, or a port"),
        ({"adapters": ""}, "adapters is needed, or a port"),
        ({"port": 4827}, "config_file and port do not go together"),
        ({"port": 0, "config_file": "", "adapters": ""}, "greater than or equal to 1"),
    ],
)
def test_the_devices_are_loaded_here_or_there(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        options(**changes)


def test_the_engine_takes_the_image_and_tells_the_devices_nothing() -> None:
    mapping = DeviceMapping.model_validate_json(json.dumps(RECORDER))
    told = []
    for kind in (MMCoreMicroscope, EngineMicroscope):
        microscope = kind(recorder_core(), mapping, SystemClock())
        microscope.acquire(TESTED)
        told.append(commands(microscope.acquire(TESTED.replace(excitation_w=20e-6))))
        microscope.close()
    assert told[0] == told[1]
    assert told[1][-1] == ("TShutter", "ShutterState", True), "and takes it in the light"


def test_the_light_is_out_before_the_image_is_read() -> None:
    core = Core()
    guard = faulty(core)
    core.called.clear()
    guard.acquire(SCAN)
    order = [name for name in core.called if name in {"setShutterOpen", "snapImage", "getImage"}]
    assert order[:4] == ["setShutterOpen", "snapImage", "setShutterOpen", "getImage"]
    guard.close()


# --- what pycromanager 1.0.2 drops, or waits for without an end


def injected(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
    monkeypatch.setattr(driver, ACQUISITION, partial(PythonBackendAcquisition, **functions))


def event(**keys: Any) -> dict[str, Any]:
    return {"axes": {"time": 0}, **keys}


EVENTS = {
    "a property": (event(properties=[["Camera", "Gain", "5"]]), "setProperty"),
    "an invalid property": (event(properties=[["Camera", "Brightness", "x"]]), "setProperty"),
    "a channel": (event(config_group=["Channel", "DAPI"]), "has no attribute|set_config"),
    "an exposure": (event(exposure=5.0), "setExposure"),
    "a place": (event(x=1.0, y=2.0), "no Core-XYStage device"),
    "a focus": (event(z=1.0), "no Core-Focus device"),
    "a camera": (event(camera="Camera"), "set_camera_device"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_can_set_nothing_and_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    guard = faulty(core)
    content, words = EVENTS[name]
    monkeypatch.setattr(driver, "_EVENT", content)
    with pytest.raises(DeviceError, match=words):
        guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


@pytest.mark.parametrize("method", ["snapImage", "getImage"])
def test_a_camera_that_fails_is_heard(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(**{method: fail})
    guard = faulty(core)
    with pytest.raises(DeviceError, match="pycromanager: this goes wrong"):
        guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_is_no_silence(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    guard = faulty(core)
    injected(monkeypatch, **{hook: fail})
    with pytest.raises(DeviceError, match="ended the acquisition without an image"):
        guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


@pytest.mark.parametrize("hook", HOOKS[:3])
def test_a_hook_that_cancels_the_event_is_no_silence(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    guard = faulty(core)
    injected(monkeypatch, **{hook: lambda _: None})
    with pytest.raises(DeviceError, match="ended the acquisition without an image"):
        guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


def test_a_processor_that_raises_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    guard = faulty(core)
    monkeypatch.setattr(driver._OneImage, "_take", lambda self, pixels, tags: fail())
    with pytest.raises(DeviceError, match="ended the acquisition without an image"):
        guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


def test_nothing_is_saved_so_that_no_saving_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    guard = faulty(core)
    injected(monkeypatch, image_saved_fn=lambda axes, dataset: fail())
    guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


def test_an_abort_ends_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    guard = faulty(core)
    microscope: Any = guard._microscope

    def snap() -> None:
        microscope._one_image._acquisition.abort()

    core.others["snapImage"] = snap
    with pytest.raises(DeviceError, match="ended the acquisition without an image"):
        guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


def test_the_end_of_events_is_not_lost_when_a_scan_fails_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(snapImage=fail)
    guard = faulty(core)
    is_aborted, calls = threading.Event(), count()
    get, abort = EventQueue.get, driver._OneImage._abort

    def get_the_end_late(queue: Any, *how: Any) -> Any:
        if next(calls) == 1:
            is_aborted.wait(20)
        return get(queue, *how)

    def tell_of_abort(image: Any) -> None:
        abort(image)
        is_aborted.set()

    monkeypatch.setattr(EventQueue, "get", get_the_end_late)
    monkeypatch.setattr(driver._OneImage, "_abort", tell_of_abort)
    with pytest.raises(DeviceError, match="this goes wrong"):
        guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


def test_the_last_of_several_scans_fails_as_the_first_would(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    guard = faulty(core)
    for _ in range(2):
        guard.acquire(SCAN)

    def write(device: str, name: str, text: str) -> None:
        if text == "2.0000":
            fail()
        core.real.setProperty(device, name, text)

    core.others["setProperty"] = write
    with pytest.raises(DeviceError, match="this goes wrong"):
        guard.acquire(SCAN.replace(excitation_w=20e-6))
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


def test_no_thread_of_an_engine_that_does_not_start_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    guard = faulty(core)
    monkeypatch.setattr(driver, ACQUISITION, lambda **_: fail())
    with pytest.raises(DeviceError, match="this goes wrong"):
        guard.acquire(SCAN)
    assert_it_is_dark_and_goes_on(guard, core, monkeypatch)


def test_a_refused_scan_writes_nothing() -> None:
    core = Core()
    microscope = EngineMicroscope(core, options(), SystemClock())  # type: ignore[arg-type]
    core.called.clear()
    with pytest.raises(InvalidRequestError, match="excitation_w"):
        microscope.acquire(SCAN.replace(excitation_w=1e-9))
    assert core.called == []
    microscope.close()


def test_a_camera_that_hangs_costs_the_scan_and_blocks_the_next_until_it_is_back() -> None:
    is_back = threading.Event()
    core = Core(snapImage=lambda: is_back.wait(30))
    guard = faulty(core, timeout_s=0.2)
    with pytest.raises(DeviceError, match="end of pycromanager's acquisition"):
        guard.acquire(SCAN)
    assert not core.real.getShutterOpen("White Light Shutter")
    with pytest.raises(DeviceError, match="kill this program"):
        guard.acquire(SCAN)
    core.armed = False
    is_back.set()
    assert driver._engine_is_free.acquire(timeout=20)
    driver._engine_is_free.release()
    assert guard.acquire(SCAN).photons.shape == SCAN.shape_yx
    guard.close()


def test_a_stop_while_the_camera_exposes_ends_the_scan_in_the_dark() -> None:
    core = Core()
    guard = faulty(core)

    def snap() -> None:
        threading.Thread(target=guard._microscope.stop).start()
        while core.real.getShutterOpen("White Light Shutter"):
            pass
        core.real.snapImage()

    core.others["snapImage"] = snap
    with pytest.raises(AcquisitionStoppedError):
        guard.acquire(SCAN)
    guard.close()


def assert_it_is_dark_and_goes_on(
    guard: GuardedMicroscope, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever failed: the light is off, nobody waits, and the next frame is right."""
    assert not core.real.getShutterOpen("White Light Shutter")
    assert core.real.getProperty("Camera", "BeadBrightness") == "0.1250"
    assert not driver._engine_is_free.locked()
    monkeypatch.undo()
    core.armed = False
    assert guard.acquire(SCAN).photons.shape == SCAN.shape_yx
    guard.close()


def test_several_microscopes_in_one_process_take_turns() -> None:
    first, second = connected(), connected()
    assert [one.acquire(SCAN).index for one in (first, second, first, second)] == [0, 0, 1, 1]
    first.close()
    assert second.acquire(SCAN).index == 2
    second.close()
    third = connected()
    assert third.acquire(SCAN).index == 0
    third.close()


def test_somebody_elses_engine_in_this_process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = SimpleNamespace()
    monkeypatch.setattr(Engine, "singleton", theirs, raising=False)
    microscope = connected()
    microscope.acquire(SCAN)
    assert Engine.singleton is theirs
    microscope.close()


def test_a_device_interface_that_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigurationError, match="device_interface: 74 is asked"):
        connected(device_interface=74)


# --- a device adapter that crashes takes the process with it, and what the record then says

CRASHING = """
import sys
from pathlib import Path
from controller.core.clock import SystemClock
from controller.microscopes.mmcore import load_core
from controller.microscopes.pycromanager import EngineMicroscope, PycromanagerMicroscope

class Driver(PycromanagerMicroscope):
    @classmethod
    def from_options(cls, options, resources):
        microscope = Crashing(load_core(options, resources.folder), options, resources.clock)
        microscope.folder = resources.folder
        return microscope

class Crashing(EngineMicroscope):
    def _expose(self):
        if self._index == 2 and not (self.folder / "mended").exists():
            self._core.setProperty("Camera", "SimulateCrash", "Dereference Null Pointer")
        super()._expose()
"""


def stedfast(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller", *arguments, "--no-report", "--json"],
        env={"PYTHONPATH": f"{folder}:{Path(driver.__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.timeout(120)
def test_an_adapter_that_crashes_ends_the_process_and_the_record_tells_the_truth(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    text = shipped_hardware("mm_demo.toml").read_text()
    text = text.replace('driver = "mmcore"', 'driver = "crashing:Driver"').replace(
        "cycles = 20", "cycles = 4"
    )
    (tmp_path / "scope.toml").write_text(text)
    session = tmp_path / "session"
    crashed = stedfast(tmp_path, "run", str(tmp_path / "scope.toml"), "-o", str(session))
    assert crashed.returncode == -signal.SIGSEGV, crashed.stderr
    reader = SessionReader(session)
    assert (reader.status, sorted(reader.frames), len(reader.unsettled())) == ("unfinished", [0, 1], 1)
    assert reader.problems() == []
    (tmp_path / "mended").touch()
    resumed = stedfast(tmp_path, "resume", str(session))
    assert resumed.returncode == 0, resumed.stderr
    reader = SessionReader(session)
    assert reader.stop is not None
    assert reader.stop.status == "completed"
    delivered = sum(frame.settings.energy_j for frame in reader.frames.values())
    lost = sum(booking.energy_j for booking in reader.unsettled())
    assert lost > 0
    assert reader.stop.dose.energy_j == pytest.approx(delivered + lost), "the lost scan counts in full"


# --- what is worked around: if one of these fails, pycromanager has changed, and our part can shrink


class Camera:
    """The least core that pycromanager's engine can image with."""

    TaggedImage = TaggedImage

    def __init__(self) -> None:
        self.properties: list[tuple[str, ...]] = []

    def setProperty(self, *what: str) -> None:  # noqa: N802
        self.properties.append(what)
        if what[-1] == "invalid":
            fail()

    def snap_image(self) -> None:
        pass

    def get_tagged_image(self, *_: object) -> Any:
        return self.TaggedImage({}, SCAN.shape_yx)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: driver._ANSWERS.get(name)


@pytest.fixture
def camera() -> Iterator[Camera]:
    made = Camera()
    engine = Engine(made)
    yield made
    engine.shutdown()
    del Engine.singleton


def test_upstream_an_error_of_the_last_event_is_dropped(camera: Camera) -> None:
    acquisition = PythonBackendAcquisition(image_process_fn=lambda pixels, tags: None)
    acquisition.acquire(event(properties=[["Laser", "Power", "invalid"]]))
    acquisition.mark_finished()
    acquisition.await_completion()
    assert camera.properties
    assert acquisition._exception is None


def test_upstream_an_error_of_a_hook_is_dropped(camera: Camera) -> None:
    acquisition = PythonBackendAcquisition(
        image_process_fn=lambda pixels, tags: None, post_hardware_hook_fn=fail
    )
    acquisition.acquire(event())
    acquisition.mark_finished()
    acquisition.await_completion()
    assert acquisition._exception is None


def test_upstream_an_abort_leaves_a_thread_that_waits_for_ever(camera: Camera) -> None:
    acquisition = PythonBackendAcquisition(image_process_fn=lambda pixels, tags: None)
    acquisition.abort()
    acquisition._acq.block_until_events_finished(10)
    assert acquisition._event_thread.is_alive()
    assert acquisition._event_queue.empty()
    acquisition.mark_finished()
    acquisition.await_completion()


def test_upstream_there_is_one_engine_for_ever(camera: Camera) -> None:
    Engine(SimpleNamespace())
    assert Engine.get_core() is camera


def test_upstream_events_that_differ_in_a_property_become_one_without_it(camera: Camera) -> None:
    from pycromanager.acquisition.acq_eng_py.main.acquisition_event import AcquisitionEvent

    events = [
        AcquisitionEvent.from_json(event(properties=[["Laser", "Power", str(power)]]), None)
        for power in (1, 2)
    ]
    engine = Engine.get_instance()
    assert engine.is_sequencable(events[:1], events[1], 2)
    assert engine.merge_sequence_event(events).get_additional_properties() == []
