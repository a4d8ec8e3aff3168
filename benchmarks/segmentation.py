"""How good the segmenters are: the network that comes with Stedfast beside the classical methods.

``python -m benchmarks.segmentation [--nuclei IMAGE LABELS] [--seeds N] [--only PART]`` prints one table a
part: spots, cells, nuclei, labels, time. All but the nuclei is drawn here, so the truth is known; no seed
was used in training. Figures are medians over seeds; times are CPU times on one thread, as ratios to a
Gaussian filter (sigma 1.5) of the same frame in the same process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.classical_models import SPOT_SIGMA, print_medians, segmenters, spot_image
from benchmarks.movies import PIXEL_M, as_frame
from benchmarks.segmentation_annotations import KINDS, annotated, seconds
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import Segmenter
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.learning.calibration import brier_score, error_auroc, expected_calibration_error
from controller.learning.measures import (
    OVERLAPS,
    average_precision,
    boundary_f1,
    dice,
    match_spots,
    spot_places,
)
from controller.networks.weights import Weights
from controller.segmentation.labelled_image import LabelledImage
from controller.segmentation.network_options import options_of
from controller.segmentation.objects import ThresholdWatershedSegmenter
from controller.segmentation.resampling import labels_resampled, photons_resampled
from controller.segmentation.small_unet import SmallUNetSegmenter, find_weights
from controller.segmentation.training import TrainingOptions, train
from pretraining.segmentation_images import CELL_PX, Sample, cells

#: Added to every seed, so that none meets one of the training.
_FRESH = 50_000
Labels = NDArray[Any]
Figures = dict[str, float]


@cache
def learned(kind: str, size_m: float) -> SmallUNetSegmenter:
    options = SmallUNetSegmenter.Options(weights=kind, object_size_m=size_m)
    return SmallUNetSegmenter(options, find_weights(kind, Path()))


def with_weights(weights: Weights, size_m: float) -> SmallUNetSegmenter:
    return SmallUNetSegmenter(SmallUNetSegmenter.Options(object_size_m=size_m), weights)


def denoised_after(frames: int, expected: Any, rng: np.random.Generator) -> tuple[Frame, Denoised]:
    """Return the newest of some frames, and the denoiser's estimate from all of them."""
    denoiser = AdaptiveKalmanDenoiser()
    for index in range(frames):
        frame = as_frame(rng.poisson(expected), index)
        denoised = denoiser.step(frame)
    return frame, denoised


def spots(seed: int) -> Figures:
    """F1 of 60 spots of one brightness on 0.5 photons, within 2 pixels; how far off; false ones in noise."""
    figures: Figures = {}
    rng = np.random.default_rng(seed + _FRESH)
    size_m = 2.355 * SPOT_SIGMA * PIXEL_M
    methods = {**dict(list(segmenters().items())[:2]), "learned": learned("spots", size_m)}
    for peak in (20, 8, 4, 2):
        expected, places = spot_image(rng, peak, 0.5)
        frame, one = denoised_after(1, expected, rng)
        latest, eight = denoised_after(8, expected, rng)
        for name, segmenter in methods.items():
            for text, where, clean in (
                ("", frame, None),
                (", denoised", frame, one),
                (", 8 frames", latest, eight),
            ):
                found = match_spots(spot_places(segmenter.step(where, clean)), places)
                figures[f"{name}, peak {peak}{text}: F1"] = found.f1
                if peak == 4 and not text:
                    figures[f"{name}, peak 4: off by, pixels"] = found.localisation_rmse_px
    for level in (0.05, 1.0, 1000.0):
        noise = as_frame(rng.poisson(level, (256, 256)))
        for name, segmenter in methods.items():
            count = float(segmenter.step(noise, None).labels.max())
            figures[f"{name}, noise of {level:g} photons: false spots"] = count
    return figures


def cell_figures(seed: int) -> Figures:
    """Objects, areas, outlines and honesty on drawn cells at four photon levels, three images each."""
    size_m = CELL_PX * PIXEL_M
    classical = ThresholdWatershedSegmenter(ThresholdWatershedSegmenter.Options(object_size_m=size_m))
    methods: dict[str, Segmenter] = {"classical": classical, "learned": learned("cells", size_m)}
    figures: Figures = {}
    for photons in (30.0, 10.0, 3.0, 1.0):
        rows: list[Figures] = []
        for number in range(3):
            rng = np.random.default_rng([seed + _FRESH, number])
            sample = _some_cells(rng, photons)
            rows.append(_cell_row(methods, sample, rng))
        for name in rows[0]:
            figures[f"{photons:g} photons, {name}"] = float(np.mean([row[name] for row in rows]))
    return figures


def _some_cells(rng: np.random.Generator, photons: float) -> Sample:
    while True:
        sample = cells(rng, 192, photons)
        if sample.labels.max() >= 5:
            return sample


def _cell_row(methods: dict[str, Segmenter], sample: Sample, rng: np.random.Generator) -> Figures:
    row: Figures = {}
    frame, one = denoised_after(1, sample.expected, rng)
    latest, eight = denoised_after(8, sample.expected, rng)
    for name, segmenter in methods.items():
        for text, where, clean in (
            ("raw", frame, None),
            ("denoised", frame, one),
            ("8 frames", latest, eight),
        ):
            found = segmenter.step(where, clean)
            row[f"{name}, {text}: AP@.5"] = average_precision(found.labels, sample.labels)
            row[f"{name}, {text}: AP@.5:.9"] = average_precision(found.labels, sample.labels, OVERLAPS)
            row[f"{name}, {text}: Dice"] = dice(found.labels, sample.labels)
            row[f"{name}, {text}: boundary F1"] = boundary_f1(found.labels, sample.labels)
            if text == "denoised":
                row |= {
                    f"{name}, {text}: {key}": value for key, value in honesty(found, sample.labels).items()
                }
    return row


def honesty(found: Segmentation, truth: Labels) -> Figures:
    """Return calibration error and Brier score of the probability, and how well uncertainty finds errors."""
    is_true = (truth > 0).astype(np.int64)
    return {
        "ECE": expected_calibration_error(found.probability, is_true),
        "Brier": brier_score(found.probability, is_true),
        "error against uncertainty, AUROC": error_auroc(
            found.uncertainty, (found.probability > 0.5) != (is_true > 0)
        ),
    }


def nuclei(image: Labels, truth: Labels, seed: int) -> Figures:
    """AP of the right half of a real image; the left half, in some rows, is what is learned from."""
    rng = np.random.default_rng(seed + _FRESH)
    middle = image.shape[1] // 2
    areas = np.bincount(truth.ravel())[1:]
    size_m = float(np.sqrt(4 / np.pi * np.median(areas[areas > 0]))) * PIXEL_M
    classical = ThresholdWatershedSegmenter(ThresholdWatershedSegmenter.Options(object_size_m=size_m))
    figures: Figures = {}
    for text, photons in _photon_levels(image, rng):
        denoised = AdaptiveKalmanDenoiser().step(as_frame(photons))
        tuned: Segmenter = with_weights(_tuned(photons, denoised, truth, size_m, rng), size_m)
        methods: dict[str, Segmenter] = {
            "classical": classical,
            "shipped": learned("cells", size_m),
            "learned from the left": tuned,
        }
        for name, segmenter in methods.items():
            for how, clean in (("raw", None), ("denoised", denoised)):
                found = segmenter.step(as_frame(photons), clean).labels[:, middle:]
                for kind, overlaps in (("AP@.5", (0.5,)), ("AP@.5:.9", OVERLAPS)):
                    figures[f"{text}, {name}, {how}: {kind}"] = average_precision(
                        found, truth[:, middle:], overlaps
                    )
    return figures


def _photon_levels(image: Labels, rng: np.random.Generator) -> Iterator[tuple[str, Labels]]:
    yield "as it is", image.astype(np.float32)
    for peak in (9.0, 3.0, 0.9):
        yield f"{peak:g} photons", rng.poisson(image * peak / np.percentile(image, 99)).astype(np.float32)


def _tuned(
    photons: Labels, denoised: Denoised, truth: Labels, size_m: float, rng: np.random.Generator
) -> Weights:
    """Learn from the left half, the lower quarter of which is held out."""
    start = find_weights("cells", Path())
    factor = options_of(start.card).object_px * PIXEL_M / size_m
    rows, middle = photons.shape[0], photons.shape[1] // 2
    cut = 3 * rows // 4

    def part(where: slice, clean: bool) -> LabelledImage:
        shape = round((where.stop - where.start) * factor), round(middle * factor)
        planes = [photons] + ([denoised.mean, denoised.std] if clean else [])
        light = [photons_resampled(plane[where, :middle], shape) for plane in planes]
        labels = labels_resampled(truth[where, :middle].astype(np.int32), shape)
        return LabelledImage(light[0], labels, None, *light[1:])

    both = (False, True)
    images = [part(slice(0, cut), clean) for clean in both]
    held_out = [part(slice(cut, rows), clean) for clean in both]
    return train(images, held_out, start, TrainingOptions(steps=150, learning_rate=1e-3), rng).weights


def labels(seed: int) -> Figures:
    """Dice after so many seconds of a person's time, by the kind of label; a network that knows nothing."""
    options = options_of(find_weights("cells", Path()).card).replace(width=16, deep=16)
    training = TrainingOptions(steps=150, batch=8, patch_px=48, learning_rate=1e-2, checkpoints=3)
    unseen = [_seen(np.random.default_rng([seed + _FRESH, 1, n])) for n in range(6)]
    figures: Figures = {}
    for budget_s in (300.0, 900.0):
        for kind in KINDS:
            rng = np.random.default_rng([seed + _FRESH, 2])
            images, spent_s, number = [], 0.0, 0
            while spent_s < budget_s:
                sample, photons = _seen(np.random.default_rng([seed + _FRESH, 3, number]))
                spent_s += seconds(kind, sample.labels)
                images.append(
                    LabelledImage(photons, annotated(kind, sample.labels, options.classes[1:], rng))
                )
                number += 1
            judges = images[:: max(2, len(images) // 4)][:6]
            weights = train(images, judges, options, training, rng).weights
            segmenter = with_weights(weights, CELL_PX * PIXEL_M)
            found = [segmenter.step(as_frame(photons), None).probability > 0.5 for _, photons in unseen]
            score = np.mean([dice(f, s.labels) for f, (s, _) in zip(found, unseen, strict=True)])
            figures[f"{budget_s:g} s of {kind}: Dice"] = float(score)
            figures[f"{budget_s:g} s of {kind}: images"] = float(len(images))
    shipped: Segmenter = learned("cells", CELL_PX * PIXEL_M)
    found = [shipped.step(as_frame(photons), None).probability > 0.5 for _, photons in unseen]
    figures["0 s, the weights that come with it: Dice"] = float(
        np.mean([dice(f, s.labels) for f, (s, _) in zip(found, unseen, strict=True)])
    )
    return figures


def _seen(rng: np.random.Generator) -> tuple[Sample, Labels]:
    """Return a small image of cells of 10 photons, and a frame of it."""
    while True:
        sample = cells(rng, 64, 10.0)
        if 1 <= sample.labels.max() <= 15:
            return sample, rng.poisson(sample.expected).astype(np.float32)


def timing(seed: int) -> Figures:
    """CPU time of a 512 x 512 frame, in Gaussian filters: median, and the slowest of 20 and of 100."""
    rng = np.random.default_rng(seed + _FRESH)
    frame, denoised = denoised_after(2, ndimage.zoom(spot_image(rng, 8, 0.5)[0], 2, order=1), rng)
    floats = frame.photons.astype(float)
    ours: dict[str, Segmenter] = {
        "learned spots": learned("spots", 2 * 2.355 * SPOT_SIGMA * PIXEL_M / 2),
        "learned cells": learned("cells", CELL_PX * PIXEL_M),
        **segmenters(),
    }
    figures: Figures = {}
    gaussian = _times_s(lambda: ndimage.gaussian_filter(floats, 1.5))
    for name, segmenter in ours.items():
        for text, clean in (("", None), (", denoised", denoised)):
            ratios = _times_s(partial(segmenter.step, frame, clean)) / np.median(gaussian)
            for percent in (50, 95, 99):
                figures[f"{name}{text}: p{percent}"] = float(np.percentile(ratios, percent))
    return figures


def _times_s(work: Callable[[], object], repeats: int = 40) -> NDArray[np.float64]:
    work()
    times = []
    for _ in range(repeats):
        start_s = time.process_time()
        work()
        times.append(time.process_time() - start_s)
    return np.array(times)


def fine_tuning(seed: int) -> Figures:
    """CPU seconds of learning from 20 labelled 128 x 128 patches, and what it brings on others like them."""
    start = find_weights("cells", Path())
    drawn = [_rings(np.random.default_rng([seed + _FRESH, 4, n])) for n in range(30)]
    images = [LabelledImage(photons, sample.labels) for sample, photons in drawn]
    begin_s = time.process_time()
    done = train(images[:16], images[16:20], start, TrainingOptions(), np.random.default_rng(seed))
    spent_s = time.process_time() - begin_s
    figures = {"20 patches of 128 x 128: CPU seconds": spent_s}
    size_m = CELL_PX * PIXEL_M
    for name, weights in (("before", start), ("after", done.weights)):
        segmenter = with_weights(weights, size_m)
        found = [segmenter.step(as_frame(photons), None).labels for _, photons in drawn[20:]]
        scores = [average_precision(f, s.labels) for f, (s, _) in zip(found, drawn[20:], strict=True)]
        figures[f"cells with dark middles, {name}: AP@.5"] = float(np.mean(scores))
    return figures


def _rings(rng: np.random.Generator) -> tuple[Sample, Labels]:
    """Return cells of which only the rim is bright, and a frame of them."""
    sample = cells(rng, 128, 8.0)
    inside = np.zeros(sample.labels.shape)
    for number in range(1, int(sample.labels.max()) + 1):
        inside = np.maximum(inside, ndimage.distance_transform_edt(sample.labels == number))
    expected = np.where(inside > 3, sample.expected.min() * 1.2, sample.expected)
    rim = Sample(ndimage.gaussian_filter(expected, 0.8), sample.labels, sample.centers_yx_px)
    return rim, rng.poisson(rim.expected).astype(np.float32)


PARTS: dict[str, Callable[[int], Figures]] = {
    "spots": spots,
    "cells": cell_figures,
    "labels": labels,
    "tuning": fine_tuning,
    "time": timing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", nargs=2, type=Path, metavar=("IMAGE", "LABELS"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=[*PARTS, "nuclei"], action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = arguments.only or [*PARTS, "nuclei"]
    for name, part in PARTS.items():
        if name in wanted:
            count = 1 if name == "time" else arguments.seeds
            print_medians(name.capitalize(), [part(seed) for seed in range(count)])
    if arguments.nuclei and "nuclei" in wanted:
        image, truth = (tifffile.imread(path) for path in arguments.nuclei)
        print_medians("Nuclei", [nuclei(image, truth, seed) for seed in range(arguments.seeds)])


if __name__ == "__main__":
    main()
