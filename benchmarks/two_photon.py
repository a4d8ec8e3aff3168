"""The two-photon simulator: how fast it is, and how its noise compares with that of recorded movies.

``python benchmarks/two_photon.py [--frames 90] [--movie FILE[:OFFSET] ...] [--picture FILE]`` prints two
tables. Times are process CPU time with everything a frame needs (activity, motion, noise, bleaching), also
as ratios to a Gaussian filter (sigma 1.5) of a 512 x 512 image in the same process. ``--movie`` takes
recorded movies (t, y, x) as TIFF, with the grey level of darkness. ``--picture`` writes a PNG of single
frames and means side by side.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from controller.core.clock import SimulatedClock
from controller.core.settings import Region, ScanSettings
from simulator.two_photon.analog_detector import DetectorOptions
from simulator.two_photon.laser_scanner import ScannerOptions
from simulator.two_photon.microscope import TwoPhotonMicroscope

Movie = NDArray[np.float64]
FULL = ScanSettings(
    modality="two_photon",
    region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(512e-6, 512e-6)),
    pixel_size_m=1e-6,
    dwell_s=87e-9,
    excitation_w=80e-3,
)


def part(rows: int, columns: int, pixel_size_m: float = 1e-6) -> ScanSettings:
    """Return a scan of so many pixels, each as long as a resonant mirror allows."""
    size = (rows * pixel_size_m, columns * pixel_size_m)
    return FULL.replace(
        region=Region(center_yx_m=(0.0, 0.0), size_yx_m=size),
        pixel_size_m=pixel_size_m,
        dwell_s=0.999 * 62.5e-6 * 0.713 / columns,
    )


def microscope(**changes: Any) -> TwoPhotonMicroscope:
    options = TwoPhotonMicroscope.Options().replace(**changes)
    return TwoPhotonMicroscope(options, clock=SimulatedClock(), seed=1)


def gaussian_ms() -> float:
    """Return the CPU time of the yardstick."""
    image = np.random.default_rng(0).random((512, 512), np.float32)
    start = time.process_time()
    for _ in range(20):
        ndimage.gaussian_filter(image, 1.5)
    return (time.process_time() - start) / 20 * 1e3


def speed(frames: int) -> None:
    print("| scan | scanner's frames/s | CPU ms a frame, median | p95 | Gaussian filters | of real time |")
    print("|---|---|---|---|---|---|")
    counting = DetectorOptions(kind="photon_counting")
    galvo = ScannerOptions(kind="galvo")
    for name, scope, scan in (
        ("512 x 512, photomultiplier", microscope(), FULL),
        ("512 x 512, photon counting", microscope(detector=counting), FULL),
        ("256 x 256, photomultiplier", microscope(), part(256, 256, 2e-6)),
        ("512 x 512, galvo, 1 µs", microscope(scanner=galvo), FULL.replace(dwell_s=1e-6)),
    ):
        scope.acquire(scan)  # draws the plane
        yardstick_ms, took = gaussian_ms(), list[float]()
        start = time.process_time()
        for _ in scope.stream(scan, frames):
            took.append((time.process_time() - start) * 1e3)
            start = time.process_time()
        frame_s = scope.timing(scan).frame_s
        median = float(np.median(took))
        print(
            f"| {name} | {1 / frame_s:.1f} | {median:.1f} | {np.percentile(took, 95):.1f} "
            f"| {median / yardstick_ms:.1f} | {median / 1e3 / frame_s:.2f} |"
        )


def neighbours(noise: Movie, axis: int) -> float:
    """Return the correlation of neighbouring pixels along an axis."""
    one = noise.take(np.arange(noise.shape[axis] - 1), axis)
    other = noise.take(np.arange(1, noise.shape[axis]), axis)
    return float((one * other).mean() / np.sqrt((one**2).mean() * (other**2).mean()))


def statistics(name: str, movie: Movie) -> None:
    """Print how noise goes with brightness; differences of frames leave out what does not change."""
    noise = np.diff(movie, axis=0) / np.sqrt(2)
    mean, variance = movie.mean(axis=0).ravel(), (noise**2).mean(axis=0).ravel()
    order = np.argsort(mean)
    groups = np.array([(mean[g].mean(), variance[g].mean()) for g in np.array_split(order, 40)[2:-2]])
    slope = float(np.polyfit(groups[:, 0], groups[:, 1], 1)[0])
    contrast = movie.mean(axis=0).std() / movie.mean()
    dark = np.mean(movie < 0.05 * np.percentile(movie, 99.9))
    print(
        f"| {name} | {len(movie)} x {movie.shape[1]} x {movie.shape[2]} | {movie.mean():.4g} "
        f"| {(noise**2).mean() / movie.mean():.3g} | {slope:.3g} | {neighbours(noise, 2):.2f} "
        f"| {neighbours(noise, 1):.2f} | {dark:.2f} | {contrast:.2f} |"
    )


def simulated(frames: int, excitation_w: float, **changes: Any) -> Movie:
    """Return a simulated movie of 128 x 256 pixels, darkness taken off."""
    scope = microscope(**changes)
    scan = part(128, 256).replace(excitation_w=excitation_w)
    offset = float(scope.capabilities().details["offset_grey"])
    return np.array([frame.photons for frame in scope.stream(scan, frames)]) - offset


def recorded(text: str) -> tuple[str, Movie]:
    path, _, offset = text.partition(":")
    return path.rsplit("/", 1)[-1], tifffile.imread(path).astype(float) - float(offset or 0)


def picture(path: str, movies: list[Movie]) -> None:
    """Write a row a movie: a frame, the mean, the largest change from the mean, each in its own range."""
    rows = []
    for movie in movies:
        crop = movie[:, :128, :256]
        images = (crop[len(crop) // 2], crop.mean(axis=0), crop.max(axis=0) - crop.mean(axis=0))
        tiles = []
        for image in images:
            tile = np.zeros((128, 256))
            low, high = np.percentile(image, [1, 99.7])
            tile[: image.shape[0], : image.shape[1]] = np.clip((image - low) / (high - low), 0, 1)
            tiles.append(np.pad(tile, 2, constant_values=1))
        rows.append(np.concatenate(tiles, axis=1))
    Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--movie", action="append", default=[])
    parser.add_argument("--picture")
    given = parser.parse_args()
    speed(given.frames)
    print()
    print(
        "| movie | t, y, x | mean | noise variance / mean | its slope over pixels | neighbours in a line "
        "| in a column | dark pixels | contrast of the mean |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    movies = [recorded(text) for text in given.movie]
    # As strong as in a movie of few photons that was cut off at 12 bits.
    strong = DetectorOptions(
        grey_per_photon=800.0, offset_grey=0.0, read_noise_grey=40.0, bandwidth_hz=4.2e6, bits=12
    )
    movies += [
        ("simulated, 80 mW", simulated(60, 80e-3)),
        ("simulated, 80 mW, strong amplifier of 4.2 MHz", simulated(20, 80e-3, detector=strong)),
        ("simulated, 80 mW, photons", simulated(60, 80e-3, detector=DetectorOptions(kind="photon_counting"))),
    ]
    for name, movie in movies:
        statistics(name, movie)
    if given.picture:
        picture(given.picture, [movie for _, movie in movies])


if __name__ == "__main__":
    main()
