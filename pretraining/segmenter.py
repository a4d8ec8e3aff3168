"""Trains the segmenter weights that come with Stedfast: ``python -m pretraining.segmenter FOLDER``.

Drawn spots and cells (``pretraining/segmentation_images.py``), each seen at a photon level of its own, once
as one noisy frame and once with the denoiser's estimate after 1 to 8 frames. One thread, about two minutes
each; the same seed gives the same files on the same machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.movies import as_frame
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.networks.weights import write_weights
from controller.segmentation.labelled_image import LabelledImage
from controller.segmentation.network_options import NetworkOptions
from controller.segmentation.training import Checkpoint, TrainingOptions, train
from pretraining.segmentation_images import CELL_PX, SPOT_PX, Sample, cells, spots

NETWORKS = {
    "spots": NetworkOptions(kind="spots", object_px=SPOT_PX),
    "cells": NetworkOptions(kind="objects", object_px=CELL_PX, classes=("background", "cell")),
}
DRAW: dict[str, Callable[..., Sample]] = {"spots": spots, "cells": cells}
IMAGES, HELD_OUT, SIDE_PX = 600, 60, 96


def seen_twice(sample: Sample, rng: np.random.Generator) -> list[LabelledImage]:
    """Return a sample as one frame, and as a frame with its denoised image after some frames."""
    alone = rng.poisson(sample.expected).astype(np.float32)
    denoiser = AdaptiveKalmanDenoiser()
    for index in range(int(rng.choice([1, 1, 2, 4, 8]))):
        photons = rng.poisson(sample.expected).astype(np.float32)
        denoised = denoiser.step(as_frame(photons, index))
    return [
        LabelledImage(alone, sample.labels),
        LabelledImage(photons, sample.labels, mean=denoised.mean, std=denoised.std),
    ]


def images(kind: str, seed: int, first: int, count: int) -> list[LabelledImage]:
    """Return images ``first`` to ``first + count``, each drawn from a stream of its own."""
    seen = []
    for index in range(first, first + count):
        rng = np.random.default_rng([seed, index])
        seen += seen_twice(DRAW[kind](rng, SIDE_PX), rng)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=sorted(NETWORKS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1200)
    arguments = parser.parse_args()
    for kind in [arguments.only] if arguments.only else sorted(NETWORKS):
        start_s = time.process_time()

        def tell(checkpoint: Checkpoint) -> None:
            used_s = time.process_time() - start_s  # noqa: B023  # called before the next kind
            print(
                f"  step {checkpoint.step}: held-out loss {checkpoint.held_out_loss:.4f}, {used_s:.0f} s CPU"
            )

        print(kind)
        done = train(
            images(kind, arguments.seed, 0, IMAGES),
            images(kind, arguments.seed, 1_000_000, HELD_OUT),
            NETWORKS[kind],
            TrainingOptions(steps=arguments.steps, learning_rate=4e-3),
            np.random.default_rng(arguments.seed),
            report=tell,
            trained_on=(f"{IMAGES} drawn {kind}, pretraining/segmentation_images.py, seed {arguments.seed}",),
            licence="CC0-1.0",
            versions={name: version(name) for name in ("stedfast", "torch", "numpy", "scipy")},
        )
        card = done.weights.card
        write_weights(done.weights, arguments.folder / f"{kind}.safetensors")
        print(
            f"  temperature {card.options['temperature']:.2f}, threshold {card.options['center_threshold']}"
        )


if __name__ == "__main__":
    main()
