"""Time of one cycle, split by stage, and what the loop and its record cost.

Rows, interleaved in one run so that a noisy machine disturbs all alike:

- ``bare``: the microscope alone, without guard or record, as the yardstick.
- ``null``: no optics, no models, nothing to decide. What is left is the loop's own overhead: guard,
  ledger, threads with deadlines, journal, OME-Zarr; as fast as the disk takes it.
- ``models``: the default models on the same frames.
- ``unrecorded`` and ``recorded``: scans that take ``--scan-ms``, without models; without a record, and
  with one. Their difference is what the record costs a loop that is paced by its camera.

Usage: ``python benchmarks/loop.py [--frames 60] [--side 256] [--rounds 5] [--scan-ms 5]``
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, Budget, Cycle, Decision, Family, Observation
from controller.core.dose import Lit, Reservation
from controller.core.frame import Denoised, Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Denoiser, Segmenter
from controller.core.settings import Region, ScanSettings
from controller.plugins import find
from controller.recording.documents import Status
from controller.recording.writer import SessionWriter, claim_folder
from controller.session import Parts, Session
from controller.stages import Stage
from controller.testing import CONFOCAL, LIMITS, FakeMicroscope, resources

START = {
    "seed": 0,
    "experiment": {},
    "hardware": {},
    "config_sha256": "",
    "config_folder": ".",
    "hardware_path": "",
    "microscope": {},
    "versions": {},
}


class NullMicroscope(FakeMicroscope):
    """Returns the same image again and again, each after ``scan_s`` of real time."""

    def __init__(self, image: np.ndarray, scan_s: float = 0.0) -> None:
        super().__init__()
        self._image, self._scan_s = image, scan_s

    def acquire(self, settings: ScanSettings) -> Frame:
        if self._scan_s > 0:
            time.sleep(self._scan_s)
        return Frame(self._image.copy(), settings, 0, 0.0)


class NullPolicy:
    """Asks for the same scan again and again."""

    family: ClassVar[Family] = "open-loop"

    def __init__(self, settings: ScanSettings) -> None:
        self._decision = Acquire(settings=settings, reason="benchmark")

    def decide(self, observation: Observation) -> Decision:
        return self._decision


class NullModel:
    """A denoiser that answers nothing; as a segmenter, nothing either."""

    def reset(self, reason: str) -> None: ...

    def observe(self, frame: Frame) -> None: ...

    def step(self, frame: Frame, denoised: Denoised | None = None) -> None:
        return None


class NullWriter:
    """Records nothing."""

    failure: BaseException | None = None
    frames = 0

    def reserve(self, booking: Reservation, cycle: int, now_s: float) -> None: ...

    def settle(self, lit: Lit) -> None: ...

    def append_frame(self, frame: Frame, cycle: int, plane: int | None = None) -> None: ...

    def append(self, cycle: Cycle, now_s: float) -> None: ...

    def finish(self, status: Status, reason: str, **counts: object) -> Status:
        return status


class TimedWriter(SessionWriter):
    """Adds up the time that the loop spends in the record."""

    def __init__(self, *arguments: Any, **hooks: Any) -> None:
        super().__init__(*arguments, **hooks)
        self.in_loop_s: list[float] = [0.0]

    def reserve(self, booking: Reservation, cycle: int, now_s: float) -> None:
        self.in_loop_s.append(self._time(lambda: super(TimedWriter, self).reserve(booking, cycle, now_s)))

    def append_frame(self, frame: Frame, cycle: int, plane: int | None = None) -> None:
        self.in_loop_s[-1] += self._time(lambda: super(TimedWriter, self).append_frame(frame, cycle, plane))

    def append(self, cycle: Cycle, now_s: float) -> None:
        self.in_loop_s[-1] += self._time(lambda: super(TimedWriter, self).append(cycle, now_s))

    @staticmethod
    def _time(call: Callable[[], None]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


@dataclass
class Run:
    """What one session took."""

    wall_s: float
    cpu_s: float
    record_s: list[float]
    cycles: list[Cycle]


def session(
    settings: ScanSettings, image: np.ndarray, frames: int, *, models: bool, scan_s: float, recorded: bool
) -> Run:
    """Run one session."""
    denoiser: object = NullModel()
    segmenter: object = NullModel()
    if models:
        kalman, spots = find("denoisers", "adaptive_kalman"), find("segmenters", "spots_wavelet")
        denoiser = kalman.from_options(kalman.Options(), resources())
        segmenter = spots.from_options(spots.Options(), resources())
    limits = LIMITS.replace(session_energy_max_j=1e3, dwell_min_s=1e-9)
    parts = Parts(
        microscope=GuardedMicroscope(NullMicroscope(image, scan_s), limits),
        policy=Stage("null", NullPolicy(settings), deadline_s=10.0),
        denoiser=Stage[Denoiser]("denoiser", denoiser, deadline_s=10.0),  # type: ignore[arg-type]
        segmenter=Stage[Segmenter]("segmenter", segmenter, deadline_s=10.0),  # type: ignore[arg-type]
        clock=SimulatedClock(),
        budget=Budget(cycles=frames),
    )
    cycles: list[Cycle] = []
    with tempfile.TemporaryDirectory() as place:
        start = {**START, "run_id": str(uuid.uuid4())}
        writer = (
            TimedWriter.create(claim_folder(Path(place) / "session"), start) if recorded else NullWriter()
        )
        loop = Session(parts, writer, cycles.append)  # type: ignore[arg-type]
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        outcome = loop.run()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    if outcome.status != "completed":
        raise SystemExit(f"the session failed: {outcome.reason}")
    record_s = writer.in_loop_s if isinstance(writer, TimedWriter) else [0.0]
    return Run(wall_s / frames, cpu_s / frames, record_s, cycles)


KINDS: dict[str, dict[str, bool]] = {
    "null": {"models": False, "paced": False, "recorded": True},
    "models": {"models": True, "paced": False, "recorded": True},
    "unrecorded": {"models": False, "paced": True, "recorded": False},
    "recorded": {"models": False, "paced": True, "recorded": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scan-ms", type=float, default=5.0)
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=list(KINDS))
    asked = parser.parse_args()
    size = asked.side * CONFOCAL.pixel_size_m
    # As much light as a camera's exposure: a longer scan would wait for each sync.
    settings = CONFOCAL.replace(
        region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(size, size)),
        dwell_s=1e-3 * asked.scan_ms / asked.side**2,
    )
    image = np.random.default_rng(0).poisson(3.0, settings.shape_yx).astype(np.uint16)

    runs: dict[str, list[Run]] = {kind: [] for kind in asked.rows}
    bare_s = []
    for _ in range(asked.rounds):
        bare = NullMicroscope(image)
        start = time.perf_counter()
        for _ in range(asked.frames):
            bare.acquire(settings)
        bare_s.append((time.perf_counter() - start) / asked.frames)
        for kind in asked.rows:
            how = KINDS[kind]
            scan_s = 1e-3 * asked.scan_ms if how["paced"] else 0.0
            run = session(
                settings, image, asked.frames, models=how["models"], scan_s=scan_s, recorded=how["recorded"]
            )
            runs[kind].append(run)

    print(f"{asked.rounds} rounds of {asked.frames} frames of {asked.side} x {asked.side} pixels, uint16")
    print(f"\n{'row':<12}{'stage':<10}{'median ms':>10}{'p99 ms':>10}")
    for kind, rounds in runs.items():
        for stage in rounds[0].cycles[0].timings_s:
            _print_times(kind, stage, [cycle.timings_s[stage] for run in rounds for cycle in run.cycles])
        if KINDS[kind]["recorded"]:
            _print_times(kind, "(record)", [seconds for run in rounds for seconds in run.record_s[1:]])
    print("(record): the loop's own time in reserve, append_frame and append, a part of acquire and record")
    print(f"\n{'row, medians of rounds':<24}{'ms a frame':>12}{'CPU ms a frame':>16}")
    print(f"{'bare':<24}{1e3 * statistics.median(bare_s):>12.3f}")
    for kind, rounds in runs.items():
        wall_s, cpu_s = (
            statistics.median(run.wall_s for run in rounds),
            statistics.median(run.cpu_s for run in rounds),
        )
        print(f"{kind:<24}{1e3 * wall_s:>12.3f}{1e3 * cpu_s:>16.3f}")


def _print_times(kind: str, stage: str, times: list[float]) -> None:
    median, worst = statistics.median(times), float(np.percentile(times, 99))
    print(f"{kind:<12}{stage:<10}{1e3 * median:>10.2f}{1e3 * worst:>10.2f}")


if __name__ == "__main__":
    main()
