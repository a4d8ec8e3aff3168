"""Which engine runs a network: what was asked for, or the best of what this machine has."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from controller.core.errors import ConfigurationError
from controller.core.settings import Settings
from controller.networks.cuda_engine import CUDAEngine, is_available
from controller.networks.engines import Engine
from controller.networks.graph_engines import ONNXRuntimeEngine, OpenVINOEngine
from controller.networks.torch_engine import TorchEngine, has_fast_bfloat16


class RuntimeOptions(Settings):
    """Where a network runs, and how exactly."""

    backend: Literal["auto", "torch", "openvino", "onnxruntime"] = "auto"
    """Library. ``auto`` is torch, which was as fast as the others on one core; on several it is OpenVINO
    where that is installed: torch's threads wait by spinning, and on a busy computer took 6 times as long."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` is a GPU that torch can use, if there is one and ``backend`` allows."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto`` is bfloat16 where the hardware multiplies it (answers of a U-Net are then off by up to 1 % of
    the largest), otherwise float32. Elsewhere bfloat16 is slow."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Processor cores for one image. The last bits of answers may depend on it."""


def engine_for(network: nn.Module, options: RuntimeOptions) -> Engine:
    """Return the engine that fits the options best.

    Raises
    ------
    ConfigurationError
        If this machine lacks what is asked for.
    """
    backend, device, precision = options.backend, options.device, options.precision
    if device == "cuda" and backend in {"openvino", "onnxruntime"}:
        raise ConfigurationError(
            f"backend = {backend!r} runs on the processor; set device = 'cpu', or backend = 'torch'"
        )
    if device == "cuda" and not is_available():
        raise ConfigurationError(
            "device = 'cuda' needs a GPU and a torch that can use it (torch.cuda.is_available() is false); "
            "set device = 'auto' or 'cpu'"
        )
    use_cuda = device == "cuda" or (device == "auto" and backend in {"auto", "torch"} and is_available())
    if backend == "auto" and not use_cuda and options.threads > 1 and _suits_openvino(precision):
        backend = "openvino"
    if backend == "openvino":
        return OpenVINOEngine(network, precision=precision, threads=options.threads)
    if backend == "onnxruntime":
        return ONNXRuntimeEngine(network, precision=precision, threads=options.threads)
    if use_cuda:
        return CUDAEngine(network, precision=precision)
    return TorchEngine(network, precision=precision, threads=options.threads)


def _suits_openvino(precision: str) -> bool:
    return find_spec("openvino") is not None and (precision != "bfloat16" or has_fast_bfloat16())
