"""What a small network learns from one noisy frame at a time, by scheme and by noise.

``python benchmarks/corruption.py [--seeds 3] [--steps 300]`` trains the same convolutional network (5 k
weights) on pairs made by each scheme and on clean targets, and prints by how many dB the squared error falls
on new fields. It needs torch. ``--files MOVIE…`` prints instead what the photon transfer of each TIFF is
found to be, and which scheme that chooses.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.denoising.blind_masks import BlindSpotMask, LineThinning, StructuredMask
from controller.denoising.corruption import PhotonThinning, Recorruption, choose_corruption
from controller.denoising.photon_transfer import find_photon_transfer
from controller.denoising.training_pair import Corruption

Images = NDArray[Any]
SIZE = 48
SLOW = np.array([0.125, 0.75, 0.125])


def expected_photons(rng: np.random.Generator, fields: int, mean: float) -> Images:
    images = []
    for _ in range(fields):
        points = np.zeros((SIZE, SIZE))
        points[tuple(rng.integers(0, SIZE, (2, SIZE * SIZE // 120)))] = rng.random(SIZE * SIZE // 120)
        spots = ndimage.gaussian_filter(points, 1.3)
        haze = ndimage.gaussian_filter(rng.random((SIZE, SIZE)), 6)
        images.append(0.1 + 1.5 * spots / spots.max() + 0.5 * (haze - haze.min()) / np.ptp(haze))
    return np.asarray(np.array(images) * mean / np.mean(images))


def pulses(photons: Images, rng: np.random.Generator) -> Images:
    """Return a photomultiplier's (excess noise factor 1.23) in units in which variance is the mean."""
    counts = rng.poisson(photons * 1.23)
    heights = rng.gamma(np.maximum(counts, 1e-9) / 0.23) * 0.23 * (counts > 0) / 1.23
    return np.asarray(heights + 0.03 * rng.standard_normal(photons.shape))


def slowed(images: Images) -> Images:
    return np.asarray(ndimage.correlate1d(images, SLOW, axis=-1) / np.sum(SLOW**2))


@dataclass(frozen=True)
class Case:
    """A detector, the light on it, and the schemes to compare."""

    name: str
    mean: float
    noise: Callable[[Images, np.random.Generator], Images]
    schemes: dict[str, Corruption]
    seen: Callable[[Images], Images] = np.asarray


MASK: dict[str, Corruption] = {"blind spot": BlindSpotMask()}
SHARED: dict[str, Corruption] = {
    "recorruption, shared": Recorruption(0.03, correlation_x=float(2 * SLOW[0] * SLOW[1] / np.sum(SLOW**2))),
    "recorruption": Recorruption(0.03),
    "structured mask": StructuredMask(0, 1),
    "lines": LineThinning(),
    **MASK,
}
CASES = [
    Case("counter", 2.0, lambda p, rng: rng.poisson(p), {"thinning": PhotonThinning(), **MASK}),
    *(
        Case(f"photomultiplier, {mean:g}", mean, pulses, {"recorruption": Recorruption(0.03), **MASK})
        for mean in (0.5, 2.0, 8.0)
    ),
    *(
        Case(
            f"camera, {mean:g}",
            mean,
            lambda p, rng: rng.poisson(p) + 1.4 * rng.standard_normal(p.shape),
            {"recorruption": Recorruption(1.4), **MASK},
        )
        for mean in (2.0, 20.0)
    ),
    Case("slow photomultiplier, 4", 4.0, lambda p, rng: slowed(pulses(p, rng)), SHARED, slowed),
]


def learned(
    pairs: Callable[[NDArray[np.intp], np.random.Generator], tuple[Images, Images, Images]],
    fields: int,
    scale: float,
    steps: int,
    seed: int,
) -> Callable[[Images], Images]:
    """Train the network on batches of 8 fields; return what it does to images."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    layers: list[Any] = [nn.Conv2d(1, 16, 5, padding=2), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(16, 1, 3, padding=1))
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)

    def answer(images: Images) -> Any:
        return network(torch.from_numpy(images.astype(np.float32))[:, None] / scale)[:, 0] * scale

    for _ in range(steps):
        source, target, weight = pairs(rng.integers(0, fields, 8), rng)
        counts = torch.from_numpy(weight)
        error = (counts * (answer(source) - torch.from_numpy(target)) ** 2).sum() / counts.sum() / scale**2
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    return lambda images: np.asarray(answer(images).detach().numpy())


def gains_db(case: Case, steps: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    light, new_light = expected_photons(rng, 48, case.mean), expected_photons(rng, 32, case.mean)
    frames, new = (case.noise(each, rng).astype(np.float32) for each in (light, new_light))
    truth, new_truth = (case.seen(each).astype(np.float32) for each in (light, new_light))

    def clean(chosen: NDArray[np.intp], rng: np.random.Generator) -> tuple[Images, Images, Images]:
        return frames[chosen], truth[chosen], np.ones_like(frames[chosen])

    def of(scheme: Corruption) -> Callable[..., tuple[Images, Images, Images]]:
        def pairs(chosen: NDArray[np.intp], rng: np.random.Generator) -> tuple[Images, Images, Images]:
            pair = scheme.pair(frames[chosen], rng)
            return pair.source, pair.target, pair.weight

        return pairs

    def gain(estimate: Images) -> float:
        raw, left = (np.mean((each - new_truth) ** 2) for each in (new, estimate))
        return float(10 * np.log10(raw / left))

    widths = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
    found = {"best Gaussian": max(gain(ndimage.gaussian_filter(new, (0, s, s))) for s in widths)}
    for name, pairs in {"clean": clean, **{k: of(v) for k, v in case.schemes.items()}}.items():
        found[name] = gain(learned(pairs, len(frames), float(frames.std()), steps, seed)(new))
    return found


def tell_of(path: Path) -> None:
    import tifffile

    frames = tifffile.imread(path)
    started_s = time.process_time()
    finding = find_photon_transfer(frames)
    spent_s = time.process_time() - started_s
    print(f"{path.name} {frames.shape}, {spent_s:.2f} s of CPU: {finding.reason}")
    print(f"  {finding.transfer}\n  {choose_corruption(finding.transfer).reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    asked = parser.parse_args()
    for path in asked.files:
        tell_of(path)
    if asked.files:
        return
    for case in CASES:
        found = [gains_db(case, asked.steps, seed) for seed in range(asked.seeds)]
        gains = {name: [each[name] for each in found] for name in found[0]}
        cells = (f"{name} {np.mean(each):.1f} ± {np.std(each):.1f}" for name, each in gains.items())
        print(f"{case.name}: {', '.join(cells)} dB", flush=True)


if __name__ == "__main__":
    main()
