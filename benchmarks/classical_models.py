"""How good the models without training are: denoising, spots, cells, objects.

``python -m benchmarks.classical_models [--nuclei IMAGE LABELS] [--seeds N]`` prints five tables.
Everything but the nuclei is simulated here, so the truth is known; figures are medians over seeds, and
times are ratios to a Gaussian filter (sigma 1.5) of the same frame in the same process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.movies import PIXEL_M, Image, as_frame, calcium_movie
from controller.core.protocols import Segmenter
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.learning.measures import Matches, average_precision, match_objects, match_spots, spot_places
from controller.segmentation.correlation import CorrelationImageSegmenter
from controller.segmentation.objects import ThresholdWatershedSegmenter
from controller.segmentation.spots import LogSpotSegmenter, WaveletSpotSegmenter
from simulator.two_photon.analog_detector import DetectorOptions
from simulator.two_photon.brain import BrainOptions
from simulator.two_photon.calcium import ActivityOptions
from simulator.two_photon.datasets import TwoPhotonDataset, TwoPhotonDatasetOptions
from simulator.two_photon.neurons import TissueOptions

SPOT_SIGMA = 1.3


def spot_image(rng: np.random.Generator, peak: float, ground: float) -> tuple[Image, Image]:
    """Return expected photons of 60 spots in 256x256 pixels and their places (y, x)."""
    places = rng.uniform(4, 252, (60, 2))
    y, x = np.mgrid[:256, :256]
    image = np.full((256, 256), float(ground))
    for row, column in places:
        image += peak * np.exp(-0.5 * ((y - row) ** 2 + (x - column) ** 2) / SPOT_SIGMA**2)
    return image, places


def psnr_db(estimate: Any, truth: Image) -> float:
    error = np.mean((np.asarray(estimate) - truth) ** 2)
    return float(10 * np.log10(np.percentile(truth, 99.9) ** 2 / error))


def gain_db(estimate: Any, noisy: Image, truth: Image) -> float:
    return float(10 * np.log10(np.mean((noisy - truth) ** 2) / np.mean((estimate - truth) ** 2)))


def moving_average_db(noisy: Image, truth: Image, tau: float, sigma: float, start: int) -> float:
    average, averages = noisy[0], []
    for image in noisy:
        average = average + (image - average) / tau
        averages.append(average)
    return psnr_db(ndimage.gaussian_filter(averages[start:], (0, sigma, sigma)), truth[start:])


def covered_percent(mean: Any, std: Any, truth: Image) -> float:
    return float(100 * np.mean(np.abs(np.asarray(mean) - truth) <= 1.96 * np.asarray(std)))


def movie_figures(seed: int, start: int = 30) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    truth = calcium_movie(rng)
    noisy = rng.poisson(truth).astype(float)
    denoiser = AdaptiveKalmanDenoiser()
    answers = [denoiser.step(as_frame(image, i)) for i, image in enumerate(noisy)]
    mean, std = (np.array([getattr(a, name) for a in answers]) for name in ("mean", "std"))
    grid = [(tau, sigma) for tau in (3, 4, 6) for sigma in (1.0, 1.3, 1.6)]
    bright = truth >= np.quantile(truth, 0.9)
    return {
        "raw, dB": psnr_db(noisy[start:], truth[start:]),
        "best Gaussian, dB": max(
            psnr_db(ndimage.gaussian_filter(noisy[start:], (0, s, s)), truth[start:]) for s in (1.5, 2, 2.5)
        ),
        "moving average 6 + Gaussian 1, dB": moving_average_db(noisy, truth, 6, 1.0, start),
        "moving average + Gaussian, best of 9, dB": max(
            moving_average_db(noisy, truth, tau, sigma, start) for tau, sigma in grid
        ),
        "adaptive Kalman, dB": psnr_db(mean[start:], truth[start:]),
        "95 % interval covers, %": covered_percent(mean[start:], std[start:], truth[start:]),
        "... of the brightest tenth, %": covered_percent(mean[bright], std[bright], truth[bright]),
        "... in the first frame, %": covered_percent(mean[0], std[0], truth[0]),
    }


def first_frame_figures(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    scenes = {
        "movie": calcium_movie(rng, frames=10)[5],
        "spots 20 on 0.5": spot_image(rng, 20, 0.5)[0],
        "spots 4 on 0.5": spot_image(rng, 4, 0.5)[0],
        "spots 20 on 5": spot_image(rng, 20, 5)[0],
    }
    figures = {}
    for name, truth in scenes.items():
        noisy = rng.poisson(truth).astype(float)
        answer = AdaptiveKalmanDenoiser().step(as_frame(noisy))
        best = max(
            gain_db(ndimage.gaussian_filter(noisy, s), noisy, truth) for s in (0.7, 1, 1.5, 2, 2.5, 3, 4)
        )
        fixed = gain_db(ndimage.gaussian_filter(noisy, 1.5), noisy, truth)
        figures[f"first frame, {name}: over the best Gaussian, dB"] = (
            gain_db(answer.mean, noisy, truth) - best
        )
        figures[f"first frame, {name}: over Gaussian 1.5, dB"] = gain_db(answer.mean, noisy, truth) - fixed
        figures[f"first frame, {name}: 95 % interval covers, %"] = covered_percent(
            answer.mean, answer.std, truth
        )
    return figures


def process_time_s(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(9):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times))


def cost_figures(seed: int) -> dict[str, float]:
    photons = np.random.default_rng(seed).poisson(3.0, (512, 512))
    floats, frame = photons.astype(float), as_frame(photons)
    gaussian_s = process_time_s(lambda: ndimage.gaussian_filter(floats, 1.5))
    denoiser = AdaptiveKalmanDenoiser()
    figures = {
        "adaptive Kalman, step, Gaussians": process_time_s(lambda: denoiser.step(frame)) / gaussian_s,
        "adaptive Kalman, observe, Gaussians": process_time_s(lambda: denoiser.observe(frame)) / gaussian_s,
    }
    for name, segmenter in segmenters().items():
        figures[f"{name}, Gaussians"] = process_time_s(partial(segmenter.step, frame, None)) / gaussian_s
    correlation = CorrelationImageSegmenter(CorrelationImageSegmenter.Options(cell_size_m=12 * PIXEL_M))
    for _ in range(12):  # before that it does not answer
        correlation.observe(frame)
    for name, work in (("observe", correlation.observe), ("step", partial(correlation.step, denoised=None))):
        figures[f"correlation, {name}, Gaussians"] = process_time_s(partial(work, frame)) / gaussian_s
    return figures


def segmenters() -> dict[str, Segmenter]:
    size_m = 2.355 * SPOT_SIGMA * PIXEL_M
    return {
        "LoG": LogSpotSegmenter(LogSpotSegmenter.Options(spot_size_m=size_m)),
        "wavelet": WaveletSpotSegmenter(WaveletSpotSegmenter.Options(spot_size_m=size_m)),
        "objects": ThresholdWatershedSegmenter(
            ThresholdWatershedSegmenter.Options(object_size_m=20 * PIXEL_M)
        ),
    }


def spot_figures(seed: int) -> dict[str, float]:
    figures = {}
    rng = np.random.default_rng(seed)
    images = {peak: spot_image(rng, peak, 0.5) for peak in (20, 8, 4, 2)}
    frames = {peak: as_frame(rng.poisson(image)) for peak, (image, _) in images.items()}
    for name, segmenter in list(segmenters().items())[:2]:
        for peak, frame in frames.items():
            places = images[peak][1]
            denoised = AdaptiveKalmanDenoiser().step(frame)
            for text, clean in (("", None), (", denoised", denoised)):
                matches = match_spots(spot_places(segmenter.step(frame, clean)), places)
                figures[f"{name}, peak {peak}{text}: F1"] = matches.f1
        for level in (0.05, 1.0, 1000.0):
            noise = as_frame(rng.poisson(level, (256, 256)))
            found = segmenter.step(noise, None)
            figures[f"{name}, noise of {level:g} photons: false spots"] = float(found.labels.max())
    return figures


def nuclei_figures(image: Image, truth: NDArray[Any], seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    # The pixel size of the image is not known; half a micrometre makes its nuclei 10 µm wide.
    segmenter = ThresholdWatershedSegmenter()
    figures = {"as it is: AP": average_precision(_labels(segmenter, image), truth)}
    for peak in (9.0, 3.0, 0.9):
        photons = rng.poisson(image * peak / np.percentile(image, 99))
        figures[f"{peak:g} photons: AP"] = average_precision(_labels(segmenter, photons), truth)
    return figures


def calcium_figures(seed: int) -> dict[str, float]:
    """Return how well active cells of a simulated brain are found after 100 frames, at an IoU above 0.3.

    A cell is active if its ΔF/F changes by 0.3; whoever finds a quiet one is neither right nor wrong. The
    options for the mean image are the best of 48 on movies of other seeds, chosen with the truth.
    """
    tissue = TissueOptions(top_m=120e-6, bottom_m=180e-6)
    figures = {}
    for text, line_averages, rate_hz, motion_m in (
        ("2.9 photons, lively", 3, 0.4, 0.0),
        ("2.9 photons, lively, moving", 3, 0.4, 0.7e-6),
        ("2.7 photons, quiet", 3, 0.08, 0.0),
        ("1 photon, lively", 1, 0.4, 0.0),
    ):
        activity = ActivityOptions(burst_rate_hz=rate_hz)
        brain = BrainOptions(tissue=tissue, activity=activity, motion_m=motion_m)
        options = TwoPhotonDatasetOptions(frames=100, line_averages=line_averages, brain=brain)
        item = TwoPhotonDataset(options, seed).item(0)
        neurons, sizes = np.unique(item.labels["neurons"], return_counts=True)
        traces = item.tables["traces"]
        visible = {n for n, size in zip(neurons, sizes, strict=True) if n > 0 and size >= 30}
        active = {n for n in visible if np.ptp(traces[f"neuron_{n}"]) > 0.3}
        truth, wanted = (
            np.where(np.isin(item.labels["neurons"], list(some)), item.labels["neurons"], 0)
            for some in (visible, active)
        )
        for name, labels in _calcium_labels(item.images["frames"]).items():
            everyone, found = (match_objects(labels, some, 0.3) for some in (truth, wanted))
            figures[f"{text}, {name}: F1 of active cells"] = Matches(
                found.hits, everyone.wrong, found.missed
            ).f1
            figures[f"{text}, {name}: F1 of all cells"] = everyone.f1
    return figures


def _calcium_labels(movie: NDArray[Any]) -> dict[str, NDArray[np.int32]]:
    photons = (movie - DetectorOptions().offset_units) / DetectorOptions().units_per_photon
    correlation = CorrelationImageSegmenter()
    frames = [as_frame(image, i, pixel_size_m=1e-6) for i, image in enumerate(photons)]
    for frame in frames[:-1]:
        correlation.observe(frame)
    objects = ThresholdWatershedSegmenter.Options(
        object_size_m=12e-6, threshold=20.0, smallest_area=0.5, smoothing=0.15, local_weight=0.0
    )
    total = as_frame(np.maximum(photons.sum(axis=0), 0), pixel_size_m=1e-6)
    return {
        "correlation": correlation.step(frames[-1], None).labels,
        "mean image": ThresholdWatershedSegmenter(objects).step(total, None).labels,
    }


def _labels(segmenter: Segmenter, image: NDArray[Any]) -> NDArray[np.int32]:
    return segmenter.step(as_frame(image, pixel_size_m=0.5e-6), None).labels


def print_medians(title: str, figures: list[dict[str, float]]) -> None:
    print(f"\n{title}")
    for name in figures[0]:
        print(f"  {name:<58} {np.median([one[name] for one in figures]):8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", nargs=2, type=Path, metavar=("IMAGE", "LABELS"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    print_medians("Calcium movie", [movie_figures(seed) for seed in seeds])
    print_medians("First frame", [first_frame_figures(seed) for seed in seeds])
    print_medians("Spots (sigma 1.3 pixels on 0.5 photons)", [spot_figures(seed) for seed in seeds])
    # Seeds that nothing was tuned on.
    print_medians("Active cells of calcium movies", [calcium_figures(1000 + seed) for seed in seeds])
    if arguments.nuclei:
        image, truth = (tifffile.imread(path) for path in arguments.nuclei)
        print_medians("Nuclei", [nuclei_figures(image.astype(float), truth, seed) for seed in seeds])
    print_medians("Cost of a 512x512 frame", [cost_figures(0)])


if __name__ == "__main__":
    main()
