"""What batches of STED scans and vector environments gain, measured in one run.

``OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/sted_batch.py [--quick] [--rounds N]``

Medians over rounds in which every way has its turn, so that what else the machine does meets them all. CPU
is that of this process and of those that it started; wall times say little on a machine that is shared.
Actions are random, so nearly every STED scan has light that was not worked out before.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import gymnasium
import numpy as np

from simulator.specimens import SpecimenName, make_specimen
from simulator.sted.batch import scan_many
from simulator.sted.engine import STEDEngine
from simulator.sted.scanning import Exposure, Seeds

STED = Exposure(1, 10e-6, 10e-6, 150e-3)
MAPS: list[tuple[int, SpecimenName, float]] = [
    (32, "synapses", 20.0),
    (64, "synapses", 20.0),
    (64, "tubulin", 50.0),
    (128, "synapses", 20.0),
]


def seeds(number: int) -> Seeds:
    return Seeds(np.random.SeedSequence([number, 1]), np.random.SeedSequence([number, 2]))


def with_torch(engine: STEDEngine, maps: list[Any]) -> Callable[[], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    from simulator.sted import torch_batch

    torch.set_num_threads(1)
    exposures, seed = [STED] * len(maps), np.random.SeedSequence(1)
    return lambda: torch_batch.scan_many(engine, maps, exposures, seed)


def scans(rounds: int, counts: tuple[int, ...]) -> None:
    print("Milliseconds a scan, CPU (wall):\n")
    print("| map | maps | one by one | two threads | batch | ratio | torch, CPU |")
    print("|---|---|---|---|---|---|---|")
    engine = STEDEngine()
    for side, name, brightness in MAPS:
        for count in counts:
            maps = [
                np.pad(
                    make_specimen(name, (side, side), brightness, np.random.default_rng(number)).molecules,
                    engine.margin_px,
                )
                for number in range(count)
            ]
            chances, exposures = [seeds(number) for number in range(count)], [STED] * count

            def alone(number: int, maps: Any = maps, chances: Any = chances) -> Any:
                return engine.scan(maps[number], STED, chances[number])

            with ThreadPoolExecutor(2) as pool:
                ways: dict[str, Callable[[], Any] | None] = {
                    "one by one": lambda count=count: [alone(number) for number in range(count)],  # type: ignore[misc]
                    "two threads": lambda count=count: list(pool.map(alone, range(count))),  # type: ignore[misc]
                    "batch": lambda maps=maps, lights=exposures, chances=chances: scan_many(  # type: ignore[misc]
                        engine, maps, lights, chances
                    ),
                    "torch": with_torch(engine, maps),
                }
                took: dict[str, list[tuple[float, float]]] = {label: [] for label in ways}
                for number in range(rounds + 1):
                    for label, run in ways.items():
                        if run is None:
                            continue
                        wall, cpu = time.perf_counter(), time.process_time()
                        run()
                        spent = (time.process_time() - cpu, time.perf_counter() - wall)
                        if number:  # the first round makes what the others share
                            took[label].append((spent[0] / count, spent[1] / count))
            cells = " | ".join(shown(took[label]) for label in ("one by one", "two threads", "batch"))
            ratio = median(cpu for cpu, _ in took["one by one"]) / median(cpu for cpu, _ in took["batch"])
            print(
                f"| {side} {name} | {count} | {cells} | **{ratio:.2f}** | {shown(took['torch'])} |",
                flush=True,
            )


def shown(times_s: list[tuple[float, float]]) -> str:
    if not times_s:
        return "no torch"
    cpu, wall = (1e3 * median(column) for column in zip(*times_s, strict=True))
    return f"{cpu:.1f} ({wall:.1f})"


def cpu_of_all(pids: list[int]) -> float:
    """Return the CPU seconds of this process and of these, user and system."""
    total = time.process_time()
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            fields = file.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def children() -> list[int]:
    """Return the processes that this one started and that still run (Linux)."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123
        return [int(pid) for pid in file.read().split()]


def environments(rounds: int, num_envs: int, steps: int) -> None:
    print(f"\n{num_envs} STEDTune environments, steps of single ones in a second:\n")
    print("| how | processes | of wall time | of CPU time |")
    print("|---|---|---|---|")
    made: dict[str, Any] = {
        "SyncVectorEnv": ("sync", {}),
        "AsyncVectorEnv": ("async", {}),
        "ours": ("vector_entry_point", {}),
        "ours, workers=2": ("vector_entry_point", {"workers": 2}),
    }
    envs, owned = {}, {}
    for label, (mode, options) in made.items():
        before = set(children())
        envs[label] = gymnasium.make_vec(
            "simulator:Stedfast/STEDTune-v0",
            num_envs=num_envs,
            vectorization_mode=mode,
            task="easy",
            **options,
        )
        envs[label].reset(seed=1)
        envs[label].action_space.seed(1)
        owned[label] = sorted(set(children()) - before)
    rates: dict[str, list[tuple[float, float]]] = {label: [] for label in envs}
    for number in range(rounds + 1):
        for label, env in envs.items():
            wall, cpu = time.perf_counter(), cpu_of_all(owned[label])
            for _ in range(steps):
                env.step(env.action_space.sample())
            spent = (time.perf_counter() - wall, cpu_of_all(owned[label]) - cpu)
            if number:  # the first round makes the maps
                rates[label].append((num_envs * steps / spent[0], num_envs * steps / spent[1]))
    for label, env in envs.items():
        wall_rate, cpu_rate = (median(column) for column in zip(*rates[label], strict=True))
        print(f"| {label} | {1 + len(owned[label])} | {wall_rate:.0f} | {cpu_rate:.0f} |", flush=True)
        env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer maps, environments and rounds")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("scans", "environments"))
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    if arguments.only != "environments":
        scans(rounds, (8,) if arguments.quick else (8, 32))
    if arguments.only != "scans":
        environments(rounds, 4 if arguments.quick else 8, 5 if arguments.quick else 11)


if __name__ == "__main__":
    main()
