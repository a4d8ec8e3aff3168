"""Which engine runs a network: what was asked for, or the fastest of what this machine has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from controller.core.settings import Settings
from controller.networks.engines import Engine
from controller.networks.torch_engine import TorchEngine, has_fast_bfloat16


class RuntimeOptions(Settings):
    """Where a network runs, and how exactly."""

    backend: Literal["auto", "torch"] = "auto"
    """Library: ``auto`` takes the fastest that is installed."""
    device: Literal["auto", "cpu"] = "auto"
    """``auto`` takes the best there is."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto`` takes bfloat16 where the hardware multiplies it, 0.5 % off at most, or float32."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Processor cores for one image. The last bits of answers depend on it."""


def engine_for(network: nn.Module, options: RuntimeOptions) -> Engine:
    """Return the engine that fits the options best."""
    precision = options.precision
    use_bfloat16 = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16())
    return TorchEngine(network, use_bfloat16=use_bfloat16, threads=options.threads)
