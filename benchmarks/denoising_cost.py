"""What denoising costs: processor time as a ratio to a Gaussian filter of the same frame; on a GPU, latency.

All parts take turns in one process, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.denoising_results import Rows
from benchmarks.movies import as_frame
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.denoising.causal_network import CausalUNet, network_of
from controller.denoising.causal_unet import SHIPPED, CausalUNetDenoiser
from controller.denoising.noise_model import DetectorOptions
from controller.networks.cuda_engine import is_available
from controller.networks.runtime import Runtime, RuntimeOptions
from controller.networks.small_unet import macs_per_pixel, parameter_count
from controller.networks.weights import read_weights

SIDE_PX = 512
SIGMA = 1.5
_PHOTONS = 3.0
_FIRST_FRAMES = 5

_ON_PROCESSOR = (
    RuntimeOptions(device="cpu", precision="float32"),
    RuntimeOptions(device="cpu", precision="bfloat16"),
    RuntimeOptions(backend="openvino", device="cpu", precision="float32"),
    RuntimeOptions(backend="openvino", device="cpu", precision="bfloat16"),
    RuntimeOptions(backend="onnxruntime", device="cpu", precision="float32"),
)

Work = Callable[[], object]


def cost_rows(rounds: int, seed: int = 0) -> Rows:
    """Return what each part of each denoiser costs on this machine."""
    photons = np.random.default_rng(seed).poisson(_PHOTONS, (4, SIDE_PX, SIDE_PX)).astype(np.float64)
    works, on_gpu = _works(photons)
    cpu_s, wall_s = _times(works, rounds)
    gaussian_s = float(np.median(cpu_s["Gaussian"]))
    rows: Rows = {}
    for name in works:
        share = cpu_s[name] / gaussian_s
        rows[name] = {
            "CPU time, Gaussians": float(np.median(share)),
            "p99, Gaussians": float(np.percentile(share, 99)),
            "CPU, ms": 1e3 * float(np.median(cpu_s[name])),
        }
        if name in on_gpu:
            latency_s = wall_s[name]
            rows[name]["wall, ms"] = 1e3 * float(np.median(latency_s))
            rows[name]["wall p99, ms"] = 1e3 * float(np.percentile(latency_s, 99))
            rows[name]["frames/s"] = 1 / float(np.median(latency_s))
    return rows


def network_rows() -> Rows:
    """Return the size of the network."""
    network = network_of(read_weights(SHIPPED))
    channels = network.channels
    return {
        "network": {
            "parameters": float(parameter_count(network)),
            "kMAC a pixel": macs_per_pixel(network, channels, channels) / 1e3,
        }
    }


def _works(photons: NDArray[np.float64]) -> tuple[dict[str, Work], set[str]]:
    """Return what to time by name, and the names of what runs on a GPU."""
    frames = [as_frame(image, index) for index, image in enumerate(photons)]
    kalman = AdaptiveKalmanDenoiser()
    works: dict[str, Work] = {
        "Gaussian": lambda: ndimage.gaussian_filter(photons[0], SIGMA),
        "adaptive Kalman, observe": lambda: kalman.observe(frames[0]),
        "adaptive Kalman, step": lambda: kalman.step(frames[1]),
    }
    network = network_of(read_weights(SHIPPED))
    on_gpu: set[str] = set()
    gpu = (RuntimeOptions(device="cuda"),) if is_available() else ()
    for options in (*_ON_PROCESSOR, *gpu):
        try:
            made = _of_runtime(network, options, frames)
        except ConfigurationError as error:
            print(f"  left out: {error}")
            continue
        works |= made
        if options.device == "cuda":
            on_gpu |= set(made)
    return works, on_gpu


def _of_runtime(network: CausalUNet, options: RuntimeOptions, frames: list[Frame]) -> dict[str, Work]:
    """Return the parts of the denoiser on one engine; each has run before."""
    detector = DetectorOptions(units_per_photon=1.0)  # known, so that it is not looked for meanwhile
    denoiser = CausalUNetDenoiser(CausalUNetDenoiser.Options(runtime=options, detector=detector, learn=False))
    runtime = Runtime(network, options)
    images = np.random.default_rng(0).random((1, network.channels, SIDE_PX, SIDE_PX), np.float32)
    conditions = np.zeros((1, network.channels), np.float32)
    works: dict[str, Work] = {
        f"ours, observe ({runtime.name})": lambda: denoiser.observe(frames[2]),
        f"ours, step ({runtime.name})": lambda: denoiser.step(frames[3]),
        f"the network alone ({runtime.name})": lambda: runtime.run(images, conditions),
    }
    for work in works.values():
        for _ in range(_FIRST_FRAMES):  # of a place cost more: their error is measured on all of them
            work()
    return works


def _times(
    works: dict[str, Work], rounds: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Return seconds of the processor and of the clock on the wall, of each round."""
    cpu_s: dict[str, list[float]] = {name: [] for name in works}
    wall_s: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started_s, started_wall_s = time.process_time(), time.perf_counter()
            work()
            if number:  # the first round warms up
                cpu_s[name].append(time.process_time() - started_s)
                wall_s[name].append(time.perf_counter() - started_wall_s)
    return {name: np.array(s) for name, s in cpu_s.items()}, {name: np.array(s) for name, s in wall_s.items()}
