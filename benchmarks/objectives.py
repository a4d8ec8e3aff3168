"""How well the objectives measure: known band limits, simulated samples, recorded images, and time.

``python benchmarks/objectives.py [--images TIFF … --pixel-size-m 20e-9] [--seeds N]`` prints four tables.
Figures are medians over seeds. ``--images`` takes recorded images of counts, if there are any.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from simulator import objectives as measures
from simulator.specimens import MAP_PIXEL_SIZE_M, Specimen, SpecimenName, make_specimen
from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.scanning import Exposure, Seeds

Image = NDArray[Any]
SAMPLES: tuple[SpecimenName, ...] = ("synapses", "filaments", "microtubules", "vesicles", "beads")
POWERS_W = (0.0, 0.05, 0.1, 0.15, 0.25)


def median(values: Iterable[float | None], scale: float = 1.0) -> str:
    """Return the median of those that were measured, and how many were not."""
    found = list(values)
    known = [value * scale for value in found if value is not None]
    missing = f" ({len(found) - len(known)} none)" if len(known) < len(found) else ""
    return f"{np.median(known):.3g}{missing}" if known else "none"


def band_limited(side: int, period_px: float, photons: float, rng: np.random.Generator) -> Image:
    """Return photons of a random field without details finer than a period."""
    frequency = np.hypot(np.fft.fftfreq(2 * side)[:, None], np.fft.fftfreq(2 * side))
    spectrum = np.fft.fft2(rng.normal(size=(2 * side, 2 * side))) * (frequency < 1 / period_px)
    field = np.fft.ifft2(spectrum).real[:side, :side]
    return np.asarray(rng.poisson(photons * np.maximum(0, 1 + 0.25 * field / field.std())))


def known_limits(seeds: int) -> None:
    print("decorrelation: found by true period (mean, largest error of one image)")
    for side in (64, 128, 256):
        for period in (10.0, 5.0, 2.5):
            cells = []
            for photons in (10, 100, 1000):
                ratios = []
                for seed in range(4 * seeds):
                    rng = np.random.default_rng([seed, side, int(10 * period), photons])
                    image = band_limited(side, period, photons, rng)
                    value = measures.decorrelation_resolution_m(image, 1.0).value
                    ratios.append(np.nan if value is None else value / period)
                known = np.array(ratios)[np.isfinite(ratios)]
                worst = np.abs(known - 1).max(initial=0.0)
                share = f"{known.mean():.2f}, {worst:.0%}" if known.size else "none"
                cells.append(f"{photons} photons: {share} ({known.size}/{len(ratios)})")
            print(f"  {side:4} px, period {period:4} px: " + "; ".join(cells))


def scan(specimen: Specimen, sted_w: float, dwell_s: float, seed: int) -> Image:
    engine = STEDEngine(detector=Detector(background_hz=2000.0))
    seeds = Seeds(np.random.SeedSequence([seed, 1]), np.random.SeedSequence([seed, 2]))
    exposure = Exposure(1, dwell_s, 10e-6, sted_w)
    return np.asarray(engine.scan(np.pad(specimen.molecules, engine.margin_px), exposure, seeds).photons)


def simulated(seeds: int) -> None:
    print(
        "simulated, 224 px of 20 nm, 10 µW, 30 µs: decorrelation nm | ring correlation nm | SNR | F1 in 60 nm"
    )
    for name in SAMPLES:
        for power_w in POWERS_W:
            rows = []
            for seed in range(seeds):
                sample = make_specimen(name, (224, 224), 5.0, np.random.default_rng(seed))
                rows.append(_measured(sample, scan(sample, power_w, 30e-6, seed), seed))
            decorrelation, ring, snr, f1 = zip(*rows, strict=True)
            print(
                f"  {name:13} {power_w * 1e3:4.0f} mW: {median(decorrelation, 1e9)} | {median(ring, 1e9)} | "
                f"{median(snr)} | {median(f1)}"
            )


def _measured(sample: Specimen, photons: Image, seed: int) -> tuple[float | None, ...]:
    decorrelation = measures.decorrelation_resolution_m(photons, MAP_PIXEL_SIZE_M).value
    ring = measures.single_frame_frc_resolution_m(photons, MAP_PIXEL_SIZE_M, np.random.default_rng(seed))
    f1 = None
    if len(sample.points) and sample.name != "filaments":
        width_m = max(80e-9, 0.8 * (decorrelation or 250e-9))
        found = measures.find_spots(photons, MAP_PIXEL_SIZE_M, width_m)
        f1 = measures.match_spots(found, sample.points_yx_m, 60e-9).f1.value
    return decorrelation, ring.value, measures.signal_to_noise(photons).value, f1


def recorded(paths: list[Path], pixel_size_m: float) -> None:
    print("recorded: mean photons | decorrelation nm | ring correlation nm | SNR")
    for path in paths:
        image = tifffile.imread(path).astype(float)
        # 16-bit files without a sign have their zero in the middle.
        image -= 2**15 if image.min() >= 2**15 else 0
        ring = measures.single_frame_frc_resolution_m(image, pixel_size_m, np.random.default_rng(0))
        figures = [measures.decorrelation_resolution_m(image, pixel_size_m).value, ring.value]
        snr = measures.signal_to_noise(image).value
        print(
            f"  {path.name}: {image.mean():.1f} | {median(figures[:1], 1e9)} | {median(figures[1:], 1e9)} | "
            f"{median([snr])}"
        )


def times() -> None:
    print("processor time in ms, 64 and 224 px a side")
    calls: dict[str, Callable[[Image], object]] = {
        "decorrelation": lambda image: measures.decorrelation_resolution_m(image, 20e-9),
        "ring correlation, one frame": lambda image: measures.single_frame_frc_resolution_m(
            image, 20e-9, np.random.default_rng(0)
        ),
        "signal to noise": measures.signal_to_noise,
        "bleached fraction": lambda image: measures.bleached_fraction(image, image),
        "find spots": lambda image: measures.find_spots(image, 20e-9, 100e-9),
        "scaled error": lambda image: measures.scaled_error(image, image.T, 20e-9),
        "similarity": lambda image: measures.similarity(image, image.T),
    }
    for name, call in calls.items():
        spent = []
        for side in (64, 224):
            image = band_limited(side, 5.0, 100, np.random.default_rng(0))
            call(image)
            samples = []
            for _ in range(15):
                start = time.process_time()
                call(image)
                samples.append(time.process_time() - start)
            spent.append(float(np.median(samples)) * 1e3)
        print(f"  {name}: {spent[0]:.2f}, {spent[1]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, nargs="*", default=[])
    parser.add_argument("--pixel-size-m", type=float, default=20e-9)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    known_limits(arguments.seeds)
    simulated(arguments.seeds)
    recorded(arguments.images, arguments.pixel_size_m)
    times()


if __name__ == "__main__":
    main()
