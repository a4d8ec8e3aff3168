"""Time of one cycle, split by stage, and what the loop itself costs.

Three rows, interleaved in one run so that a noisy machine disturbs all alike:

- ``null``: no optics, no models, nothing to decide. What is left is the loop's own overhead: guard,
  ledger, threads with deadlines, journal with fsync, OME-Zarr.
- ``models``: the default models on the same frames.
- ``bare``: the microscope alone, without guard or record, as the yardstick.

Usage: ``python benchmarks/loop.py [--frames 60] [--side 256] [--rounds 5]``
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import ClassVar

import numpy as np

from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, Budget, Cycle, Decision, Family, Observation
from controller.core.frame import Denoised, Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Denoiser, Segmenter
from controller.core.settings import Region, ScanSettings
from controller.plugins import find
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
    """Returns the same image again and again."""

    def __init__(self, image: np.ndarray) -> None:
        super().__init__()
        self._image = image

    def acquire(self, settings: ScanSettings) -> Frame:
        return Frame(self._image, settings, 0, 0.0)


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


def session(
    settings: ScanSettings, image: np.ndarray, folder: Path, frames: int, *, models: bool
) -> list[Cycle]:
    """Run one session and return its cycles."""
    denoiser: object = NullModel()
    segmenter: object = NullModel()
    if models:
        kalman, spots = find("denoisers", "adaptive_kalman"), find("segmenters", "spots_wavelet")
        denoiser = kalman.from_options(kalman.Options(), resources())
        segmenter = spots.from_options(spots.Options(), resources())
    parts = Parts(
        microscope=GuardedMicroscope(NullMicroscope(image), LIMITS.replace(session_energy_max_j=1e3)),
        policy=Stage("null", NullPolicy(settings), deadline_s=10.0),
        denoiser=Stage[Denoiser]("denoiser", denoiser, deadline_s=10.0),  # type: ignore[arg-type]
        segmenter=Stage[Segmenter]("segmenter", segmenter, deadline_s=10.0),  # type: ignore[arg-type]
        clock=SimulatedClock(),
        budget=Budget(cycles=frames),
    )
    cycles: list[Cycle] = []
    writer = SessionWriter.create(claim_folder(folder), {**START, "run_id": str(uuid.uuid4())})
    outcome = Session(parts, writer, cycles.append).run()
    if outcome.status != "completed":
        raise SystemExit(f"the session failed: {outcome.reason}")
    return cycles


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    size = asked.side * CONFOCAL.pixel_size_m
    settings = CONFOCAL.replace(region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(size, size)))
    image = np.random.default_rng(0).poisson(3.0, settings.shape_yx).astype(np.uint16)

    stages: dict[str, dict[str, list[float]]] = {"null": {}, "models": {}}
    whole: dict[str, list[float]] = {"bare": [], "null": [], "models": []}
    for _ in range(asked.rounds):
        bare = NullMicroscope(image)
        start = time.perf_counter()
        for _ in range(asked.frames):
            bare.acquire(settings)
        whole["bare"].append((time.perf_counter() - start) / asked.frames)
        for kind in ("null", "models"):
            folder = Path(tempfile.mkdtemp())
            start = time.perf_counter()
            cycles = session(settings, image, folder / "session", asked.frames, models=kind == "models")
            whole[kind].append((time.perf_counter() - start) / asked.frames)
            for cycle in cycles:
                for stage, seconds in cycle.timings_s.items():
                    stages[kind].setdefault(stage, []).append(seconds)
            shutil.rmtree(folder)

    print(f"{asked.rounds} rounds of {asked.frames} frames of {asked.side} x {asked.side} pixels, uint16")
    print(f"\n{'row':<8}{'stage':<10}{'median ms':>10}{'p99 ms':>10}")
    for kind, split in stages.items():
        for stage, times in split.items():
            print(f"{kind:<8}{stage:<10}{1e3 * statistics.median(times):>10.2f}", end="")
            print(f"{1e3 * float(np.percentile(times, 99)):>10.2f}")
    print(f"\n{'row':<8}{'ms a frame, median of rounds':>30}")
    for kind, rounds in whole.items():
        print(f"{kind:<8}{1e3 * statistics.median(rounds):>30.3f}")


if __name__ == "__main__":
    main()
