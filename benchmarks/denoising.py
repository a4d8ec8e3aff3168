"""How good the denoisers are, and what they cost: ``python -m benchmarks.denoising``.

It prints a table for each part, medians over seeds with their range in brackets: simulated two-photon movies
whose truth is known (``movie``), processor time as a ratio to a Gaussian filter (``cost``), and real movies
whose photons are split in half (``real``, of ``--movie``). ``--quick`` is a minute that shows whether
it runs; its figures say nothing. With ``--results FILE`` it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.denoising_cost import cost_rows, network_rows
from benchmarks.denoising_movie import Extent, Field, field_of, movie_rows
from benchmarks.denoising_real import real_rows
from benchmarks.denoising_results import Results, Rows, table
from controller.denoising.adaptation import AdaptationOptions
from controller.denoising.causal_unet import SHIPPED
from controller.denoising.training import TrainingOptions
from controller.networks.weights import read_weights

PARTS = ("movie", "cost", "real")
_NOTHING = AdaptationOptions(training=TrainingOptions(steps=4, learning_rate=2e-3))
_QUICK = Extent(size_px=64, learned=70, judged=30, steps=4, adaptation=_NOTHING, bm3d_frames=1, nlm_frames=2)

_MOVIE_COLUMNS = (
    ("same field, dB", 1),
    ("new field, dB", 1),
    ("SSIM", 2),
    ("lag, frames", 2),
    ("amplitude", 2),
    ("traces", 3),
    ("95 % covers, same", 0),
    ("95 % covers, new", 0),
    ("std² / error, same", 2),
    ("std² / error, new", 2),
    ("learning, CPU s", 0),
)
_COST_COLUMNS = (
    ("CPU time, Gaussians", 2),
    ("p99, Gaussians", 2),
    ("CPU, ms", 1),
    ("wall, ms", 2),
    ("wall p99, ms", 2),
    ("frames/s", 0),
)
_REAL_COLUMNS = (
    ("gain, dB", 1),
    ("± dB", 1),
    ("error below the best causal filter's, standard errors", 1),
    ("95 % covers held-out, %", 0),
    ("std² / error", 2),
    ("learning, CPU s", 0),
    ("proposals", 0),
)


def movie_part(seeds: int, extent: Extent, results: Results) -> None:
    """Print the table of simulated movies; the new field of a seed is the movie of the next."""
    made: dict[int, Field] = {}

    def field(seed: int) -> Field:
        if seed not in made:
            for old in [one for one in made if one < seed - 1]:
                del made[old]
            made[seed] = field_of(seed, extent)
        return made[seed]

    def movie_unit(seed: int) -> Rows:
        return movie_rows(seed, field(seed), field(seed + 1), extent)

    units = [results.of(f"movie {seed}, {extent}", partial(movie_unit, seed)) for seed in range(seeds)]
    print(
        f"\n## Simulated two-photon movie, {extent.size_px} x {extent.size_px} pixels, {seeds} seeds\n\n"
        f"{table(units, _MOVIE_COLUMNS)}"
    )


def cost_part(rounds: int, results: Results) -> None:
    """Print the table of processor time."""
    rows = results.of(f"cost, {rounds} rounds", lambda: cost_rows(rounds))
    print(f"\n## A frame of 512 x 512 pixels, {rounds} rounds\n\n{table([rows], _COST_COLUMNS)}")
    print(f"\n{table([network_rows()], [('parameters', 0), ('kMAC a pixel', 2)])}")


def real_part(
    paths: Sequence[Path], seeds: int, adaptation_s: float, options: AdaptationOptions, results: Results
) -> None:
    """Print a table for each real movie; seeds are of the splitting and of the learning."""
    for path in paths:
        units = [
            results.of(
                f"real {path.name}, {seed}, {adaptation_s:g} s, {options}",
                partial(real_rows, path, adaptation_s, options, seed),
            )
            for seed in range(seeds)
        ]
        print(f"\n## {path.name}, {seeds} seeds\n\n{table(units, _REAL_COLUMNS)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=3, help="of the simulated movies")
    parser.add_argument("--movie", type=Path, nargs="*", default=[], metavar="TIFF")
    parser.add_argument("--movie-seeds", type=int, default=1, help="of each real movie")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, with commas between")
    parser.add_argument("--adaptation-s", type=float, default=60.0, help="CPU time to adapt to a real movie")
    parser.add_argument("--rounds", type=int, default=100, help="of the cost")
    parser.add_argument("--results", type=Path, help="a JSON file that keeps what was measured")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    parts = asked.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    started_s = time.process_time()
    weights = read_weights(SHIPPED).sha256[:12]
    results = Results(asked.results, weights)
    extent = _QUICK if asked.quick else Extent()
    print(f"weights as shipped: {weights}")
    if "movie" in parts:
        movie_part(1 if asked.quick else asked.seeds, extent, results)
    if "cost" in parts:
        cost_part(3 if asked.quick else asked.rounds, results)
    if "real" in parts:
        adaptation_s = 0.0 if asked.quick else asked.adaptation_s
        real_part(asked.movie, asked.movie_seeds, adaptation_s, extent.adaptation, results)
    print(f"\n{time.process_time() - started_s:.0f} s of CPU")


if __name__ == "__main__":
    main()
