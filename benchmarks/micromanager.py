"""The closed loop on Micro-Manager's demo camera, beside other ways to drive it from Python.

Each row closes the same loop: a property chosen from the last image, set, snap, image. All rows run
in turn, round after round, in one process, so that a noisy machine disturbs all alike.

- ``pymmcore``: the bare core, the yardstick.
- ``guard``: our driver inside its limits and dose ledger, without a record.
- ``loop``: the whole session around it, with null models, without a record.
- ``recorded``: the whole session with its record.
- ``pycromanager``: its Acquisition in this process (Python backend), the next event put into its
  queue by the image processor.
- ``pymmcore-plus``: ``mda.run`` of a generator.
- ``bare stream`` and ``our stream``: the camera keeps the time; nothing is chosen between images.
- ``recorded stream``: our stream as a movie of a recorded session.

Printed are the frame rate in shares of the bare core's, the time from an image in numpy to the next
snap, and the CPU time a frame. With ``--bridge`` also what a call over our bridge server costs.

Usage: ``python benchmarks/micromanager.py [--exposures 5 1] [--rounds 5] [--frames 60] [--bridge]``
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import mm_test_adapters  # type: ignore[import-untyped]
import numpy as np
import pymmcore

from benchmarks.loop import START, NullModel, NullWriter
from controller.config import load, shipped_hardware
from controller.core.clock import SystemClock
from controller.core.decision import Acquire, Budget, Decision, Family, Observation
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Denoiser, Policy, Resources, Segmenter
from controller.core.settings import Region, ScanSettings
from controller.microscopes.mmcore import MMCoreMicroscope
from controller.recording.writer import SessionWriter, claim_folder
from controller.session import Parts, Session
from controller.stages import Stage
from controller.testing import LIMITS as TEST_LIMITS
from controller.testing import FakeMicroscope, resources

SIDE = 512
# The demo camera's thread ends a moment after it says that it has: unloaded before, it takes us along.
CAMERA_ENDS_S = 0.05
CAMERA, PROPERTY = "Camera", "BeadBrightness"
HARDWARE = load(shipped_hardware("mm_demo.toml")).hardware.config
LIMITS = HARDWARE.limits.replace(
    dwell_min_s=1e-9, session_energy_max_j=1e3, pixel_dose_max_j_per_m2=1e12, pixels_max=SIDE**2
)
ADAPTERS = Path(mm_test_adapters.device_adapter_path())
CONFIG = ADAPTERS / "MMConfig_demo.cfg"


def choose(image: np.ndarray | None) -> float:
    """Return the property's next value, from a look at the last image."""
    return 2.0 if image is None else 1.0 + float(image[::16, ::16].mean()) % 5.0


@dataclass
class Stamps:
    """When a core was asked to snap, and when it had given an image."""

    snaps: list[float] = field(default_factory=list)
    images: list[float] = field(default_factory=list)

    @property
    def frame_s(self) -> float:
        """Return the mean time from one image to the next."""
        return (self.images[-1] - self.images[0]) / (len(self.images) - 1)

    @property
    def latencies_s(self) -> list[float]:
        """Return the time from each image to the snap after it; none while the camera keeps the time."""
        if len(self.snaps) < len(self.images):
            return []
        return [snap - image for image, snap in zip(self.images, self.snaps[1:], strict=False)]


@dataclass
class Watch:
    """Where the cores write their times: one round's stamps after the other's."""

    stamps: Stamps = field(default_factory=Stamps)


WATCH = Watch()


@lru_cache
def watched(base: Any) -> Any:
    """Return a core class that writes its times down, by both spellings of its methods."""

    def snap(core: Any) -> None:
        WATCH.stamps.snaps.append(time.perf_counter())
        base.snapImage(core)

    def start(core: Any, *arguments: Any) -> None:
        WATCH.stamps.snaps.append(time.perf_counter())
        base.startSequenceAcquisition(core, *arguments)

    def image(core: Any, *arguments: Any) -> np.ndarray:
        found: np.ndarray = base.getImage(core, *arguments)
        WATCH.stamps.images.append(time.perf_counter())
        return found

    def pop(core: Any, *arguments: Any) -> np.ndarray:
        found: np.ndarray = base.popNextImage(core, *arguments)
        WATCH.stamps.images.append(time.perf_counter())
        return found

    methods = {
        "snapImage": snap,
        "snap_image": snap,
        "startSequenceAcquisition": start,
        "getImage": image,
        "get_image": image,
        "popNextImage": pop,
    }
    return type("WatchedCore", (base,), methods)


Runner = Callable[[float, int], float]
"""Runs one round: the exposure in ms, the number of frames; returns CPU seconds."""


@contextmanager
def bare_core(exposure_ms: float) -> Iterator[Any]:
    core = watched(pymmcore.CMMCore)()
    core.setDeviceAdapterSearchPaths([str(ADAPTERS)])
    core.loadSystemConfiguration(str(CONFIG))
    set_up(core, exposure_ms)
    try:
        yield core
    finally:
        core.unloadAllDevices()


def set_up(core: Any, exposure_ms: float) -> None:
    core.setProperty(CAMERA, "Mode", "Fluorescent Beads")
    core.setProperty(CAMERA, "PixelType", "16bit")
    core.setExposure(exposure_ms)
    core.waitForSystem()


def run_bare(exposure_ms: float, frames: int) -> float:
    with bare_core(exposure_ms) as core:
        cpu_s, image = time.process_time(), None
        for _ in range(frames):
            core.setProperty(CAMERA, PROPERTY, f"{choose(image):.4f}")
            core.snapImage()
            image = core.getImage()
        return time.process_time() - cpu_s


def run_bare_stream(exposure_ms: float, frames: int) -> float:
    with bare_core(exposure_ms) as core:
        cpu_s = time.process_time()
        core.startSequenceAcquisition(frames, 0.0, True)
        for _ in range(frames):
            while core.getRemainingImageCount() == 0:
                time.sleep(0.0002)
            core.popNextImage()
        core.stopSequenceAcquisition()
        cpu_s = time.process_time() - cpu_s
        time.sleep(CAMERA_ENDS_S)
        return cpu_s


def scan(exposure_ms: float, brightness: float) -> ScanSettings:
    side_m = SIDE * 1e-6
    return ScanSettings(
        modality="overview",
        region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(side_m, side_m)),
        pixel_size_m=1e-6,
        dwell_s=1e-3 * exposure_ms / SIDE**2,
        excitation_w=round(brightness, 4) * 1e-5,
    )


def guarded() -> GuardedMicroscope:
    """Return our driver on a watched core, with the camera's grey levels as they are."""
    options = {**HARDWARE.microscope.options, "grey_offset": 0.0}
    options["startup"] = [
        {"device": CAMERA, "property": "Mode", "value": "Fluorescent Beads"},
        {"device": CAMERA, "property": "PixelType", "value": "16bit"},
    ]
    known = resources()
    wanted = Resources(
        rng=known.rng, clock=SystemClock(), folder=known.folder, limits=LIMITS, safe=HARDWARE.safe
    )
    with mock.patch.object(pymmcore, "CMMCore", watched(pymmcore.CMMCore)):
        driver = MMCoreMicroscope.from_options(
            MMCoreMicroscope.Options.model_validate_json(json.dumps(options)), wanted
        )
    return GuardedMicroscope(driver, LIMITS)


def run_guard(exposure_ms: float, frames: int) -> float:
    microscope = guarded()
    cpu_s, image = time.process_time(), None
    for _ in range(frames):
        image = microscope.acquire(scan(exposure_ms, choose(image))).photons
    cpu_s = time.process_time() - cpu_s
    microscope.close()
    return cpu_s


class ChoosingPolicy:
    """Chooses the brightness from the last image; or asks for one movie."""

    family: ClassVar[Family] = "open-loop"

    def __init__(self, exposure_ms: float, movie: int = 1) -> None:
        self._exposure_ms, self._movie = exposure_ms, movie

    def decide(self, observation: Observation) -> Decision:
        photons = observation.frame.photons if observation.frame else None
        settings = scan(self._exposure_ms, choose(photons))
        if self._movie > 1:
            return Acquire(settings=settings, reason="benchmark", frames=self._movie)
        return Acquire(settings=settings, reason="benchmark")


def run_session(exposure_ms: float, frames: int, *, recorded: bool, movie: bool = False) -> float:
    parts = Parts(
        microscope=guarded(),
        policy=Stage[Policy](
            "choosing", ChoosingPolicy(exposure_ms, frames if movie else 1), deadline_s=10.0
        ),
        denoiser=Stage[Denoiser]("denoiser", NullModel(), deadline_s=10.0),  # type: ignore[arg-type]
        segmenter=Stage[Segmenter]("segmenter", NullModel(), deadline_s=10.0),  # type: ignore[arg-type]
        clock=SystemClock(),
        budget=Budget(cycles=1 if movie else frames),
    )
    with tempfile.TemporaryDirectory() as place:
        start = {**START, "run_id": str(uuid.uuid4())}
        writer = (
            SessionWriter.create(claim_folder(Path(place) / "session"), start) if recorded else NullWriter()
        )
        session = Session(parts, writer)  # type: ignore[arg-type]
        cpu_s = time.process_time()
        outcome = session.run()
        cpu_s = time.process_time() - cpu_s
    if outcome.status != "completed":
        raise SystemExit(f"the session failed: {outcome.reason}")
    return cpu_s


def run_loop(exposure_ms: float, frames: int) -> float:
    return run_session(exposure_ms, frames, recorded=False)


def run_recorded(exposure_ms: float, frames: int) -> float:
    return run_session(exposure_ms, frames, recorded=True)


def run_recorded_stream(exposure_ms: float, frames: int) -> float:
    return run_session(exposure_ms, frames, recorded=True, movie=True)


def run_our_stream(exposure_ms: float, frames: int) -> float:
    microscope = guarded()
    cpu_s = time.process_time()
    microscope.stream(scan(exposure_ms, choose(None)), frames, lambda frame: None)
    cpu_s = time.process_time() - cpu_s
    time.sleep(CAMERA_ENDS_S)
    microscope.close()
    return cpu_s


def run_pymmcore_plus(exposure_ms: float, frames: int) -> float:
    from pymmcore_plus import CMMCorePlus
    from useq import MDAEvent

    core = watched(CMMCorePlus)(mm_path=None, adapter_paths=[str(ADAPTERS)])
    core.loadSystemConfiguration(str(CONFIG))
    set_up(core, exposure_ms)
    newest: list[np.ndarray] = []

    def events() -> Iterator[MDAEvent]:
        for number in range(frames):
            value = choose(newest[-1] if newest else None)
            wanted = [(CAMERA, PROPERTY, f"{value:.4f}")]
            yield MDAEvent(index={"t": number}, exposure=exposure_ms, properties=wanted)

    core.mda.events.frameReady.connect(lambda image, event, meta: newest.append(image))
    cpu_s = time.process_time()
    core.mda.run(events())
    cpu_s = time.process_time() - cpu_s
    core.unloadAllDevices()
    return cpu_s


def run_pycromanager(exposure_ms: float, frames: int) -> float:
    from mmpycorex import launcher
    from pycromanager import Acquisition, start_headless
    from pycromanager.acquisition.acq_eng_py.internal.engine import Engine

    if not launcher.is_pymmcore_active():
        start_headless(str(ADAPTERS), str(CONFIG), python_backend=True, buffer_size_mb=64)
    core = Engine.get_core()
    kind: Any = type(core)
    if kind.__name__ != "WatchedCore":  # its engine cannot take another core
        core.__class__ = watched(kind)
    core.set_property(CAMERA, "Mode", "Fluorescent Beads")
    core.set_property(CAMERA, "PixelType", "16bit")
    core.set_exposure(exposure_ms)
    core.wait_for_system()

    def event(number: int, image: np.ndarray | None) -> dict[str, Any]:
        wanted = [[CAMERA, PROPERTY, f"{choose(image):.4f}"]]
        return {"axes": {"time": number}, "exposure": exposure_ms, "properties": wanted}

    taken = 0

    def process(image: np.ndarray, tags: dict[str, Any], events: Any) -> None:
        nonlocal taken
        taken += 1
        events.put(event(taken, image) if taken < frames else None)

    cpu_s = time.process_time()
    acquisition = Acquisition(image_process_fn=process)
    acquisition.acquire(event(0, None))
    acquisition.await_completion()
    return time.process_time() - cpu_s


ROWS: dict[str, Runner] = {
    "pymmcore": run_bare,
    "guard": run_guard,
    "loop": run_loop,
    "recorded": run_recorded,
    "pycromanager": run_pycromanager,
    "pymmcore-plus": run_pymmcore_plus,
    "bare stream": run_bare_stream,
    "our stream": run_our_stream,
    "recorded stream": run_recorded_stream,
}


def measure(
    rows: list[str], exposure_ms: float, rounds: int, frames: int
) -> dict[str, list[tuple[Stamps, float]]]:
    found: dict[str, list[tuple[Stamps, float]]] = {row: [] for row in rows}
    for number in range(rounds + 1):
        for row in rows:
            stamps = WATCH.stamps = Stamps()
            cpu_s = ROWS[row](exposure_ms, frames)
            if len(stamps.images) != frames:
                raise SystemExit(f"{row}: {len(stamps.images)} images instead of {frames}")
            if number > 0:  # the first round imports and warms up
                found[row].append((stamps, cpu_s / frames))
    return found


def print_table(exposure_ms: float, found: dict[str, list[tuple[Stamps, float]]]) -> None:
    columns = "ms a frame | rate ÷ bare | image → snap, ms | p99 | CPU ms a frame"
    print(f"\n| exposure {exposure_ms:g} ms | {columns} |")
    print("|---|---|---|---|---|---|")
    bare = [stamps.frame_s for stamps, _ in found["pymmcore"]]
    for row, rounds in found.items():
        frame_s = statistics.median(stamps.frame_s for stamps, _ in rounds)
        # Of each round with its neighbour: what disturbed one, disturbed the other.
        share = statistics.median(
            yardstick / stamps.frame_s for yardstick, (stamps, _) in zip(bare, rounds, strict=True)
        )
        latencies = [seconds for stamps, _ in rounds for seconds in stamps.latencies_s]
        between = (
            f"{1e3 * statistics.median(latencies):.2f} | {1e3 * float(np.percentile(latencies, 99)):.2f}"
            if latencies
            else "- | -"
        )
        cpu_s = statistics.median(cpu_s for _, cpu_s in rounds)
        print(f"| {row} | {1e3 * frame_s:.2f} | {share:.2f} | {between} | {1e3 * cpu_s:.2f} |")


def serve(answer: Connection) -> None:
    """Serve a fake microscope to clients in other processes until they are done."""
    from simulator.micromanager.server import MicroManagerServer

    microscope = GuardedMicroscope(FakeMicroscope(), TEST_LIMITS)
    with MicroManagerServer(microscope, port=0) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        answer.send(server.port)
        answer.recv()
        server.stop()
        thread.join()


def print_bridge(calls: int) -> None:
    """Print the round trip of a getter over our bridge server, by pycromanager's own client."""
    from mmpycorex.core import ZMQRemoteMMCoreJ

    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    core = ZMQRemoteMMCoreJ(port=ours.recv())
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        core.get_exposure()
        times.append(time.perf_counter() - start)
    ours.send("done")
    del core
    server.join()
    median, worst = statistics.median(times), float(np.percentile(times, 99))
    print(f"\nbridge: a getter takes {1e6 * median:.0f} µs, p99 {1e6 * worst:.0f} µs ({calls} calls)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exposures", type=float, nargs="+", default=[5.0, 1.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--bridge", action="store_true")
    asked = parser.parse_args()
    rows = ["pymmcore", *(row for row in asked.rows if row != "pymmcore")]
    print(f"{asked.rounds} rounds of {asked.frames} frames of {SIDE} x {SIDE} pixels, 16 bit, medians")
    for exposure_ms in asked.exposures:
        print_table(exposure_ms, measure(rows, exposure_ms, asked.rounds, asked.frames))
    if asked.bridge:
        print_bridge(2000)


if __name__ == "__main__":
    main()
