"""How fast the STED engine is beside pySTED, and beside the scan itself.

``OPENBLAS_NUM_THREADS=1 python benchmarks/sted_speed.py [--quick] [--rounds N]`` prints tables of CPU
times of one process; with more threads, the time of all of them counts. Ratios are of times measured
one after the other in the same minute. "pySTED" is one call for the whole map, as its users make it;
"in bands" is how the reference engine of this package calls it, sixteen lines at a time, which spares
it much of its own work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from simulator.specimens import SpecimenName, make_specimen
from simulator.sted import pysted_reference
from simulator.sted.engine import STEDEngine
from simulator.sted.pysted_reference import PystedEngine
from simulator.sted.scanning import AdaptiveExposure, Exposure, Molecules, PixelExposure, Scanned, Seeds, Step

STED = Exposure(1, 10e-6, 10e-6, 150e-3)
DYMIN = AdaptiveExposure(
    1,
    (
        Step(10e-6, 10e-6, 0.0, fewest_photons=8),
        Step(10e-6, 10e-6, 37.5e-3, fewest_photons=8),
        Step(10e-6, 10e-6, 150e-3),
    ),
    dark_is_zero=True,
)
RESCUE = AdaptiveExposure(
    1,
    (Step(5e-6, 10e-6, 150e-3, fewest_photons=2, enough_photons=8), Step(10e-6, 10e-6, 150e-3)),
    sums=True,
    dark_is_zero=True,
    scaled_to_s=10e-6,
)
MAPS: list[tuple[int, SpecimenName, float]] = [
    (64, "synapses", 20.0),
    (64, "tubulin", 50.0),
    (128, "synapses", 20.0),
    (128, "tubulin", 50.0),
    (224, "factin", 50.0),
    (224, "tubulin", 50.0),
    (512, "beads", 5.0),
    (512, "factin", 50.0),
    (512, "tubulin", 50.0),
]


def pixel_exposure(side: int, levels: int = 96) -> PixelExposure:
    rng = np.random.default_rng(1)
    return PixelExposure(
        1,
        10e-6,
        rng.choice([5e-6, 10e-6], (side, side)),
        rng.choice(np.linspace(0, 0.15, levels), (side, side)),
    )


def seeds(number: int) -> Seeds:
    return Seeds(np.random.SeedSequence([number, 1]), np.random.SeedSequence([number, 2]))


def cpu_s(run: Callable[[Seeds], Scanned], rounds: int) -> tuple[float, Scanned]:
    """Return the median CPU time of a scan over rounds of at least a tenth of a second."""
    times_s, number, scanned = [], 0, run(seeds(0))
    for _ in range(rounds):
        started_s, count = time.process_time(), 0
        while count == 0 or time.process_time() - started_s < 0.1:
            number, count = number + 1, count + 1
            scanned = run(seeds(number))
        times_s.append((time.process_time() - started_s) / count)
    return median(times_s), scanned


def pysted_s(molecules: Molecules, exposure: Exposure, band_rows: int) -> float:
    pysted_reference._BAND_ROWS = band_rows
    started_s = time.process_time()
    PystedEngine().scan(molecules, exposure, seeds(1))
    return time.process_time() - started_s


def first_call() -> None:
    started_s = time.process_time()
    engine = STEDEngine()
    size = 64 + 2 * engine.margin_px
    engine.scan(np.ones((size, size), np.int32), STED, seeds(0))
    ours_s = time.process_time() - started_s
    started_s = time.process_time()
    margin = PystedEngine().margin_px
    theirs_s = time.process_time() - started_s
    print(f"first scan of 64 x 64 with all kernels: {ours_s * 1e3:.0f} ms; ", end="")
    print(f"pySTED imported, with its kernels (half width {margin}): {theirs_s:.1f} s\n")


def even_light(maps: list[tuple[int, SpecimenName, float]], rounds: int) -> None:
    print(
        "| map | molecules | occupied | bleached | ours | pySTED | ratio | pySTED in bands | ratio | scan |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    engine, margin = STEDEngine.like_pysted(), PystedEngine().margin_px
    for side, name, brightness in maps:
        sample = make_specimen(name, (side, side), brightness, np.random.default_rng(3)).molecules
        inside, wide = np.pad(sample, engine.margin_px), np.pad(sample, margin)
        ours_s, scanned = cpu_s(lambda chance, inside=inside: engine.scan(inside, STED, chance), rounds)  # type: ignore[misc]
        bands_s, whole_s = pysted_s(wide, STED, 16), pysted_s(wide, STED, side)
        lost = 1 - scanned.survivors.sum() / sample.sum()
        print(
            f"| {side} {name} | {sample.sum()} | {np.mean(sample > 0):.2f} | {lost:.2f} | "
            f"{ours_s * 1e3:.1f} ms | {whole_s:.2f} s | **{whole_s / ours_s:.0f}** | {bands_s:.2f} s | "
            f"{bands_s / ours_s:.0f} | {STED.dwell_s * side**2:.2f} s |",
            flush=True,
        )


def without_bleaching(maps: list[tuple[int, SpecimenName, float]], rounds: int) -> None:
    """Compare frames that bleach nothing: pySTED's own switch for that, called for the whole map."""
    print("\n| map, nothing bleaches | ours | pySTED | ratio |")
    print("|---|---|---|---|")
    engine, reference = STEDEngine.like_pysted(bleaching=0.0), PystedEngine()
    microscope = reference._pysted_microscope()
    original = microscope.get_signal_and_bleach

    def keep(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **{**options, "bleach": False})

    microscope.get_signal_and_bleach = keep
    for side, name, brightness in maps:
        sample = make_specimen(name, (side, side), brightness, np.random.default_rng(3)).molecules
        inside, wide = np.pad(sample, engine.margin_px), np.pad(sample, reference.margin_px)
        ours_s, _ = cpu_s(lambda chance, inside=inside: engine.scan(inside, STED, chance), rounds)  # type: ignore[misc]
        started_s = time.process_time()
        reference._raster(wide, STED, seed=1)
        theirs_s = time.process_time() - started_s
        print(
            f"| {side} {name} | {ours_s * 1e3:.1f} ms | {theirs_s:.2f} s | **{theirs_s / ours_s:.0f}** |",
            flush=True,
        )


def growth(rounds: int) -> None:
    """Print how the time of a scan grows with its pixels, and with the molecules on as many pixels."""
    engine = STEDEngine.like_pysted()
    print("\n| tubulin, pixels | molecules | ms | µs a pixel |")
    print("|---|---|---|---|")
    cases = [(side, 50.0) for side in (64, 128, 256, 512, 1024)]
    cases += [(256, brightness) for brightness in (5.0, 500.0, 5000.0)]
    for side, brightness in cases:
        sample = make_specimen("tubulin", (side, side), brightness, np.random.default_rng(3)).molecules
        inside = np.pad(sample, engine.margin_px)
        ours_s, _ = cpu_s(lambda chance, inside=inside: engine.scan(inside, STED, chance), rounds)  # type: ignore[misc]
        print(
            f"| {side} x {side} | {sample.sum()} | {ours_s * 1e3:.1f} | {ours_s / side**2 * 1e6:.2f} |",
            flush=True,
        )


def other_scans(rounds: int, side: int = 48) -> None:
    print("\n| scan of 48 x 48 synapses | ours | pySTED | ratio |")
    print("|---|---|---|---|")
    engine, reference = STEDEngine.like_pysted(), PystedEngine()
    sample = make_specimen("synapses", (side, side), 40.0, np.random.default_rng(3)).molecules
    inside, wide = np.pad(sample, engine.margin_px), np.pad(sample, reference.margin_px)
    for name, exposure in (
        ("even light", STED),
        ("192 lights by pixel", pixel_exposure(side)),
        ("DyMIN, 3 steps", DYMIN),
        ("RESCue", RESCUE),
    ):
        ours_s, _ = cpu_s(lambda chance, light=exposure: engine.scan(inside, light, chance), rounds)  # type: ignore[misc]
        reference.scan(wide, exposure, seeds(0))
        started_s = time.process_time()
        reference.scan(wide, exposure, seeds(1))
        theirs_s = time.process_time() - started_s
        print(
            f"| {name} | {ours_s * 1e3:.1f} ms | {theirs_s:.2f} s | **{theirs_s / ours_s:.0f}** |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small maps only")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    first_call()
    even_light(MAPS[:4] if arguments.quick else MAPS, arguments.rounds)
    without_bleaching(MAPS[:4] if arguments.quick else MAPS[:6], arguments.rounds)
    other_scans(arguments.rounds)
    growth(arguments.rounds)


if __name__ == "__main__":
    main()
