"""How often a learned reward picks what an expert would pick, by the number of choices it was learned from.

The expert picks one of 12 scans by resolution, bleaching and signal to noise, mostly but not quite in
proportion to each, and with a little inconsistency. Run: ``python -m benchmarks.preferences [seeds]``.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from controller.learning.preferences import Choice, PreferenceOptions, fit_reward

NAMES = ("bleached_fraction", "resolution_nm", "signal_to_noise")
OPTIONS, TRIALS = 12, 500
NETWORKS_FROM = {"linear": 10**6, "networks": 2}


def scans(rng: np.random.Generator, count: int = OPTIONS) -> NDArray[np.float64]:
    """Return scans: depletion buys resolution with bleaching, excitation signal with bleaching."""
    depletion, excitation = rng.uniform(0, 1, (2, count))
    resolution = 250 / np.sqrt(1 + 30 * depletion) * np.exp(rng.normal(0, 0.1, count))
    bleached = (1 - np.exp(-2 * depletion * (0.3 + excitation))) * np.exp(rng.normal(0, 0.15, count))
    signal = 6 * excitation * (1 - 0.6 * depletion) * np.exp(rng.normal(0, 0.15, count)) + 0.3
    return np.stack([bleached, resolution, signal], axis=1)


def expert(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what the expert thinks of scans: three lines, each with a bend."""
    bleached, resolution, signal = found.T
    bends = 3 * np.maximum(bleached - 0.35, 0) + 2 * np.maximum(resolution / 60 - 2, 0)
    bends += 0.5 * np.maximum(signal - 3, 0)
    return np.asarray(-4 * bleached - resolution / 60 + signal / 2 - 0.4 * bends)


def choices(rng: np.random.Generator, count: int) -> list[Choice]:
    """Return choices of the expert."""
    made = []
    for _ in range(count):
        found = scans(rng)
        picked = int((expert(found) + rng.gumbel(0, 0.15, OPTIONS)).argmax())
        made.append(Choice(tuple(dict(zip(NAMES, row, strict=True)) for row in found.tolist()), picked))
    return made


def hits(model: str, count: int, seed: int) -> float:
    """Return how often the learned reward picks what the expert would."""
    rng = np.random.default_rng(seed)
    options = PreferenceOptions(networks_from=NETWORKS_FROM[model])
    reward = fit_reward(choices(rng, count), rng, options)
    unseen = np.random.default_rng(10_000 + seed)
    right = 0
    for _ in range(TRIALS):
        found = scans(unseen)
        right += int(reward.predict_many(found)[0].argmax() == expert(found).argmax())
    return right / TRIALS


def main(seeds: int) -> None:
    counts = (25, 50, 100, 200, 400)
    print("| model |", " | ".join(map(str, counts)), "|")
    for model in NETWORKS_FROM:
        cells = []
        for count in counts:
            found = [hits(model, count, seed) for seed in range(seeds)]
            cells.append(f"{np.mean(found):.3f} ± {np.std(found, ddof=1) / seeds**0.5:.3f}")
        print(f"| {model} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
