"""Whatever goes wrong in a session: dark, recorded, a true status, never a hang.

Every case is a whole session on MMCore's demo devices, or on the fake microscope, in which one call of
one method goes wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from controller.config import load, shipped_hardware
from controller.core.clock import SystemClock
from controller.core.decision import Acquire, Budget, Decision, Family, Observation, Stop
from controller.core.frame import Denoised, Frame
from controller.core.guard import GuardedMicroscope
from controller.core.limits import SafetyLimits
from controller.core.protocols import Denoiser, Segmenter
from controller.core.settings import Region, ScanSettings
from controller.microscopes.device_mapping import DeviceMapping
from controller.microscopes.mmcore import MMCoreMicroscope, load_core
from controller.recording.documents import FrameDocument
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from controller.session import Outcome, Parts, Session
from controller.stages import Stage
from controller.testing import CONFOCAL, LIMITS, FakeMicroscope, FaultyProxy
from tests.support import START

SCANS = 3
CALLS = range(1, 7)

# By method: what can go wrong with it.
DO = ("raise", "hang", "interrupt")
CORE_FAULTS: dict[str, tuple[str, ...]] = {
    "setProperty": (*DO, "ignore"),
    "setXYPosition": (*DO, "ignore"),
    "setROI": (*DO, "ignore"),
    "setExposure": (*DO, "ignore"),
    "setShutterOpen": (*DO, "ignore"),
    "waitForDevice": DO,
    "snapImage": DO,
    "getImage": (*DO, "nan", "wrong", "short"),
    "getProperty": (*DO, "nan", "wrong"),
    "getShutterOpen": (*DO, "wrong"),
    "getXPosition": (*DO, "nan", "wrong"),
    "getExposure": (*DO, "nan", "wrong"),
    "getROI": (*DO, "wrong"),
}
STREAM_FAULTS: dict[str, tuple[str, ...]] = {
    "startSequenceAcquisition": (*DO, "ignore"),
    "stopSequenceAcquisition": DO,
    "getRemainingImageCount": DO,
    "popNextImage": (*DO, "nan", "wrong", "short"),
    "isBufferOverflowed": ("raise", "wrong"),
    "setShutterOpen": (*DO, "ignore"),
}
DRIVER_FAULTS: dict[str, tuple[str, ...]] = {
    "acquire": (*DO, "ignore", "nan", "wrong", "short"),
    "stop": (*DO, "ignore"),
    "is_dark": (*DO, "wrong"),
    "close": DO,
}


def cases(faults: dict[str, tuple[str, ...]], calls: range) -> list[tuple[str, int, str]]:
    # To wait for what hangs takes half a second; three calls of each tell enough.
    return [
        (method, call, fault)
        for method, known in faults.items()
        for fault in known
        for call in calls
        if fault != "hang" or call <= 3
    ]


class Rounds:
    """Scans, each at another place, with other settings, then stops."""

    family: ClassVar[Family] = "open-loop"

    def __init__(self, settings: ScanSettings, frames: int = 1) -> None:
        self.settings, self.frames = settings, frames
        self.left = SCANS

    def decide(self, observation: Observation) -> Decision:
        if not self.left:
            return Stop(reason="the plan is done")
        self.left -= 1
        moved = self.settings.region
        if self.frames == 1:
            step_m = self.left * self.settings.pixel_size_m
            (y_m, x_m), (height_m, width_m) = moved.center_yx_m, moved.size_yx_m
            moved = Region(center_yx_m=(y_m, x_m + step_m), size_yx_m=(height_m + step_m, width_m))
        wanted = self.settings.replace(
            region=moved, excitation_w=self.settings.excitation_w * (1 + self.left)
        )
        return Acquire(settings=wanted, reason=f"scan {SCANS - self.left}", frames=self.frames)


class Nothing:
    def reset(self, reason: str) -> None: ...

    def observe(self, frame: Frame) -> None: ...

    def step(self, frame: Frame, denoised: Denoised | None = None) -> Any: ...


def run(folder: Path, microscope: Any, limits: SafetyLimits, policy: Rounds) -> Outcome:
    nothing: Any = Nothing()
    parts = Parts(
        microscope=GuardedMicroscope(microscope, limits),
        policy=Stage("rounds", policy, deadline_s=5.0),
        denoiser=Stage[Denoiser]("nothing", nothing, deadline_s=5.0),
        segmenter=Stage[Segmenter]("nothing", nothing, deadline_s=5.0),
        clock=SystemClock(),
        budget=Budget(),
    )
    return Session(parts, SessionWriter.create(claim_folder(folder), START)).run()


def assert_recorded_and_true(folder: Path, outcome: Outcome, asked: int, proxy: FaultyProxy) -> None:
    """The record is whole, and says what the outcome says."""
    reader = SessionReader(folder)
    assert reader.problems() == []
    assert reader.stop is not None
    assert (reader.stop.status, reader.stop.reason) == (outcome.status, outcome.reason)
    assert outcome.frames == len(reader.frames)
    written = [document for document in reader.documents if isinstance(document, FrameDocument)]
    assert [document.index for document in written] == list(range(len(written)))
    lit_j = sum(reader.lit(booking).energy_j for booking in reader.reservations)
    assert reader.stop.dose.energy_j == pytest.approx(lit_j)
    if outcome.status == "completed":
        failed = sum(cycle.failure is not None for cycle in reader.cycles)
        assert failed == outcome.faults
        assert failed or outcome.frames == asked
    else:
        # On a machine that is too busy the watchdog may come without a fault; that is true, too.
        assert proxy.has_struck or "no frame after" in outcome.reason, outcome


# ---- the real MMCore with its demo devices

DEMO = load(shipped_hardware("mm_demo.toml")).hardware.config
DEMO_SCAN = ScanSettings(
    modality="confocal",
    region=Region(center_yx_m=(5e-6, -3e-6), size_yx_m=(32e-6, 32e-6)),
    pixel_size_m=1e-6,
    dwell_s=1e-6,
    excitation_w=10e-6,
)


class KeptCore:
    """A core whose devices stay loaded when a microscope is closed: loading them takes long."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return (lambda: None) if name == "unloadAllDevices" else getattr(self._core, name)


@pytest.fixture(scope="module")
def core() -> Iterator[Any]:
    pytest.importorskip("pymmcore", reason="needs the extra mm")
    pytest.importorskip("mm_test_adapters", reason="needs the extra mm")
    options = MMCoreMicroscope.Options.model_validate_json(json.dumps(DEMO.microscope.options))
    loaded = load_core(options, Path())
    yield loaded
    loaded.unloadAllDevices()


def assert_dark(core: Any) -> None:
    assert not core.getShutterOpen("White Light Shutter")
    safe = DEMO.microscope.options["settings"]["excitation_w"]["safe"]
    assert float(core.getProperty("Camera", "BeadBrightness")) == pytest.approx(safe * 1e5)


def play_on_core(core: Any, folder: Path, fault: tuple[str, int, str], frames: int, overrun_s: float) -> None:
    proxy = FaultyProxy(KeptCore(core), *fault)
    mapping = DeviceMapping.model_validate_json(json.dumps(DEMO.microscope.options))
    microscope = MMCoreMicroscope(proxy, mapping, SystemClock())  # type: ignore[arg-type]
    proxy.armed = True
    try:
        outcome = run(
            folder, microscope, DEMO.limits.replace(overrun_max_s=overrun_s), Rounds(DEMO_SCAN, frames)
        )
        assert_dark(core)
        assert_recorded_and_true(folder, outcome, SCANS * frames, proxy)
    finally:
        proxy.let_go()


@pytest.mark.parametrize("fault", cases(CORE_FAULTS, CALLS), ids=str)
def test_a_device_that_fails(core: Any, tmp_path: Path, fault: tuple[str, int, str]) -> None:
    play_on_core(core, tmp_path, fault, frames=1, overrun_s=0.15)


@pytest.mark.parametrize("fault", cases(STREAM_FAULTS, range(1, 3)), ids=str)
def test_a_device_that_fails_in_a_movie(core: Any, tmp_path: Path, fault: tuple[str, int, str]) -> None:
    # The demo camera takes 0.15 s to paint its beads before the first frame of a movie.
    play_on_core(core, tmp_path, fault, frames=3, overrun_s=0.5)


class Vanishing(KeptCore):
    """A core whose devices are gone from some call on, as if a cable was pulled."""

    def __init__(self, core: Any, calls: int) -> None:
        super().__init__(core)
        self.left = calls

    def __getattr__(self, name: str) -> Any:
        real = super().__getattr__(name)

        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError(f"{name}: no answer from the device")
            return real(*arguments)

        return call


@pytest.mark.parametrize("calls", [0, 5, 12, 25, 40])
def test_devices_that_vanish_end_the_session_with_what_to_do(core: Any, tmp_path: Path, calls: int) -> None:
    vanishing = Vanishing(core, 10**9)
    mapping = DeviceMapping.model_validate_json(json.dumps(DEMO.microscope.options))
    microscope = MMCoreMicroscope(vanishing, mapping, SystemClock())  # type: ignore[arg-type]
    vanishing.left = calls
    outcome = run(tmp_path, microscope, DEMO.limits.replace(overrun_max_s=0.15), Rounds(DEMO_SCAN))
    assert outcome.status == "failed"
    assert "close the shutter by hand" in outcome.reason
    reader = SessionReader(tmp_path)
    assert reader.problems() == []
    assert reader.stop is not None
    assert reader.stop.status == "failed"
    # Nobody knows how long the light stayed on: at least all that was booked counts.
    assert reader.stop.dose.energy_j >= 0.999 * sum(b.energy_j for b in reader.reservations)
    core.setShutterOpen("White Light Shutter", False)


# ---- any driver


@pytest.mark.parametrize("fault", cases(DRIVER_FAULTS, range(1, 5)), ids=str)
def test_a_driver_that_fails(tmp_path: Path, fault: tuple[str, int, str]) -> None:
    fake = FakeMicroscope()
    proxy = FaultyProxy(fake, *fault)
    proxy.armed = True
    try:
        outcome = run(tmp_path, proxy, LIMITS.replace(overrun_max_s=0.05), Rounds(CONFOCAL))
        assert not fake.light_on
        assert_recorded_and_true(tmp_path, outcome, SCANS, proxy)
    finally:
        proxy.let_go()


def test_there_are_more_than_three_hundred_cases() -> None:
    counted = len(cases(CORE_FAULTS, CALLS)) + len(cases(STREAM_FAULTS, range(1, 3)))
    assert counted + len(cases(DRIVER_FAULTS, range(1, 5))) >= 300
