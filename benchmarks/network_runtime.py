"""How fast a network of the size that denoises runs, by each library that is installed.

``python -m benchmarks.network_runtime [--rounds 15] [--side 512] [--threads 1 2] [--outputs 1]`` prints one
row for each library, precision and number of threads. Each alternates with
``scipy.ndimage.gaussian_filter(sigma=1.5)`` on one float32 frame of the same size, so a busy computer
disturbs both alike; figures are medians. CPU time is that of all threads together, the ratio is CPU time
over the filter's, and the error the largest one, as a part of the range of the answers. Rows ``as trained``
are the network itself.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from controller.core.errors import ConfigurationError
from controller.networks.runtime import Runtime, RuntimeOptions
from controller.networks.small_unet import SmallUNet, SmallUNetOptions, macs_per_pixel, parameter_count

Array = NDArray[np.float32]
INPUTS = 5
WARM_UP_ROUNDS = 2
PAUSE_S = 0.02


@dataclass
class Row:
    """One way to run something, and how long it took."""

    name: str
    run: Callable[[], Array]
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    answer: Array = field(default_factory=lambda: np.zeros(1, np.float32))

    def once(self) -> None:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        self.answer = self.run()
        self.cpu_s.append(time.process_time() - cpu_s)
        self.wall_s.append(time.perf_counter() - wall_s)


def network_of(outputs: int) -> SmallUNet:
    network = SmallUNet(SmallUNetOptions(inputs=INPUTS, outputs=outputs, conditions=INPUTS))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def as_trained(network: SmallUNet, arguments: list[Array], use_bfloat16: bool) -> Row:
    tensors = [torch.from_numpy(argument) for argument in arguments]

    def run() -> Array:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=use_bfloat16):
            answer: Array = network(*tensors).float().numpy()
        return answer

    return Row(f"as trained, cpu, {'bfloat16' if use_bfloat16 else 'float32'}, threads=1", run)


def rows_of(network: SmallUNet, arguments: list[Array], threads: int) -> list[Row]:
    rows = []
    for device, backends in (("cpu", ("torch", "openvino", "onnxruntime")), ("cuda", ("torch",))):
        for backend in backends:
            for precision in ("float32", "bfloat16"):
                options = RuntimeOptions.model_validate(
                    {"backend": backend, "device": device, "precision": precision, "threads": threads}
                )
                with contextlib.suppress(ConfigurationError):  # not on this machine: no row
                    runtime = Runtime(network, options)
                    rows.append(Row(runtime.name, partial(runtime.run, *arguments)))
    return rows


def measure(row: Row, gaussian: Row, rounds: int) -> None:
    for number in range(rounds + WARM_UP_ROUNDS):
        for each in (gaussian, row):
            # Threads go on spinning for a moment after their work, and that is not the next one's doing.
            time.sleep(PAUSE_S)
            each.once()
            if number < WARM_UP_ROUNDS:
                each.cpu_s.clear()
                each.wall_s.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast a network runs, by library")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--outputs", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    arguments = [
        rng.random(shape, np.float32) for shape in ((1, INPUTS, asked.side, asked.side), (1, INPUTS))
    ]
    network = network_of(asked.outputs)
    exact, shortened = (as_trained(network, arguments, use_bfloat16) for use_bfloat16 in (False, True))
    print(
        f"{parameter_count(network)} parameters, {macs_per_pixel(network, INPUTS, INPUTS):.0f} "
        f"multiplications a pixel, frames of {asked.side} x {asked.side}; torch {torch.__version__}\n\n"
        "| library, device, precision | CPU ms (filter) | wall ms | ratio (10-90 %) | largest error |\n"
        "|---|---|---|---|---|"
    )
    rows = [exact, shortened]
    for threads in asked.threads:
        rows += rows_of(network, arguments, threads)
    for row in rows:
        gaussian = Row("Gaussian filter", partial(ndimage.gaussian_filter, arguments[0][0, 0], 1.5))
        measure(row, gaussian, asked.rounds)
        print(line_of(row, gaussian, exact), flush=True)


def line_of(row: Row, gaussian: Row, exact: Row) -> str:
    # Round by round: what disturbs one disturbs its neighbour.
    ratios = sorted(mine / yardstick for mine, yardstick in zip(row.cpu_s, gaussian.cpu_s, strict=True))
    tenth = len(ratios) // 10
    error = np.abs(row.answer - exact.answer).max() / np.ptp(exact.answer)
    return (
        f"| {row.name} | {1e3 * statistics.median(row.cpu_s):.1f} "
        f"({1e3 * statistics.median(gaussian.cpu_s):.1f}) | "
        f"{1e3 * statistics.median(row.wall_s):.1f} | {statistics.median(ratios):.1f} "
        f"({ratios[tenth]:.1f}-{ratios[-1 - tenth]:.1f}) | {error:.1e} |"
    )


if __name__ == "__main__":
    main()
