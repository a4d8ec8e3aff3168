"""Trains the causal denoiser's weights that come with Stedfast: ``python -m pretraining.denoiser``.

Everything it learns from is simulated here, so its targets have no noise. The result is the same, bit for
bit, on the same kind of processor with the same versions. It replaces the files in
``controller/denoising/weights``; ``--output`` writes elsewhere.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from controller.denoising.causal_network import ARCHITECTURE, CausalUNet, CausalUNetOptions
from controller.denoising.clips import Clip
from controller.denoising.corruption import PhotonThinning
from controller.denoising.held_out import error_features
from controller.denoising.training import TrainingOptions, fresh_network, train
from controller.networks.memory import keep_freed_memory
from controller.networks.modules import tensors_of
from controller.networks.weights import pack, write_weights
from pretraining.movies import LICENCE, SimulatedMovie, movies

SHIPPED = Path("controller/denoising/weights/causal_unet.safetensors")
#: Frames at which the error is compared with what the network was told: short pasts and long ones.
_JUDGED = (0, 1, 2, 4, 8, 16, 32, 64)
_HELD_OUT, _HELD_OUT_SEED = 24, 1_000_000


def clip_of(movie: SimulatedMovie, options: CausalUNetOptions) -> Clip:
    """Return a movie to learn from, with its truth."""
    return Clip(
        movie.photons,
        options.taus_frames,
        PhotonThinning(),
        truth=movie.expected,
        read_variance=movie.read_variance,
    )


def gain_db(network: CausalUNet, clip: Clip, start: int) -> float:
    """Return how far the squared error is below that of the frames themselves, in dB."""
    truth = clip.photons if clip.truth is None else clip.truth
    everything = (slice(None), slice(None))
    errors, raw = [], []
    with torch.inference_mode():
        for index in range(start, len(clip)):
            example = clip.example(index, everything, np.random.default_rng(0))
            answer = network(
                torch.from_numpy(example.images)[None], torch.from_numpy(example.conditions)[None]
            )
            estimate = np.maximum(answer[0, 0].numpy() * example.scale, 0)
            errors.append(np.mean((estimate - truth[index]) ** 2))
            raw.append(np.mean((clip.photons[index] - truth[index]) ** 2))
    return float(10 * np.log10(np.mean(raw) / np.mean(errors)))


def usual_error(network: CausalUNet, clips: list[Clip]) -> tuple[float, ...]:
    """Fit the logarithm of the squared error on noise and brightness, as ``held_out`` takes it."""
    features, logarithms, weights = [], [], []
    edges = np.geomspace(0.1, 10, 12)
    for clip in clips:
        truth = clip.photons if clip.truth is None else clip.truth
        for index in (*(n for n in _JUDGED if n < len(clip) - 1), len(clip) - 1):
            example = clip.example(index, (slice(None), slice(None)), np.random.default_rng(0))
            images, conditions = (torch.from_numpy(a)[None] for a in (example.images, example.conditions))
            with torch.inference_mode():
                estimate = np.maximum(network(images, conditions)[0, 0].numpy(), 0)
            error = (estimate - truth[index] / example.scale) ** 2
            bins = np.searchsorted(edges, estimate)
            for number in np.unique(bins):
                inside = bins == number
                if np.count_nonzero(inside) < 50:
                    continue
                features.append(error_features(example.conditions, float(estimate[inside].mean())))
                logarithms.append(np.log(max(float(error[inside].mean()), 1e-9)))
                weights.append(np.sqrt(np.count_nonzero(inside)))
    design, weight = np.array(features), np.array(weights)
    found, *_ = np.linalg.lstsq(design * weight[:, None], np.array(logarithms) * weight, rcond=None)
    left = np.array(logarithms) - design @ found
    off = np.exp(np.sqrt(np.average(left**2, weights=weight)))
    print(f"usual error: {found.round(3)}, off by a factor of {off:.2f}")
    return tuple(float(value) for value in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--movies", type=int, default=160)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--steps", type=int, default=24000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    options = CausalUNetOptions()
    size = {"side_px": arguments.side, "frames": arguments.frames}
    clips = [clip_of(m, options) for m in movies(arguments.movies, seed=arguments.seed, **size)]
    rng = np.random.default_rng([arguments.seed, 1])
    network = fresh_network(options, rng)
    training = TrainingOptions(steps=arguments.steps)
    started_s = time.process_time()

    def tell(step: int, loss: float) -> None:
        if step % 500 == 0:
            print(f"step {step}: {loss:.4f}, {time.process_time() - started_s:.0f} s of CPU", flush=True)

    train(network, clips, training, rng, tell)
    held_out = [clip_of(m, options) for m in movies(_HELD_OUT, seed=_HELD_OUT_SEED, **size)]
    gains = [gain_db(network, clip, start=arguments.frames // 3) for clip in held_out]
    learned = (
        f"{arguments.movies} simulated movies of {arguments.frames} frames of {arguments.side} x "
        f"{arguments.side} pixels (pretraining.movies, seed {arguments.seed}), {LICENCE}"
    )
    weights = pack(
        tensors_of(network),
        architecture=ARCHITECTURE,
        options=options.replace(usual_error=usual_error(network, held_out)).model_dump(mode="json"),
        trained_on=(learned,),
        training={**training.model_dump(mode="json"), "seed": arguments.seed, **size},
        metrics={"held_out_gain_db": float(np.mean(gains)), "worst_held_out_gain_db": min(gains)},
        licence="BSD-3-Clause",
        versions={name: version(name) for name in ("numpy", "torch", "stedfast")},
    )
    write_weights(weights, arguments.output)
    print(f"{arguments.output}: gains on held-out movies, dB: {', '.join(f'{g:.1f}' for g in gains)}")


if __name__ == "__main__":
    main()
