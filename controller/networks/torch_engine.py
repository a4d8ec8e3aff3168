"""Networks on the processor, by torch alone: what is there wherever a network was trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from controller.networks.engines import Array, Plan, empty_conditions
from controller.networks.fast_unet import quicken
from controller.networks.memory import keep_freed_memory
from controller.networks.threads import torch_threads


def has_fast_bfloat16() -> bool:
    """Tell whether this processor multiplies bfloat16 in hardware.

    Without it they are computed by way of float32, slower than those. torch has no public answer, so the
    operating system is asked where it says.
    """
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if asked is not None:
        return bool(asked())
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


class TorchEngine:
    """Runs a copy of a network on ``threads`` processor cores."""

    def __init__(self, network: nn.Module, *, precision: str, threads: int) -> None:
        use_bfloat16 = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16())
        self.name = f"torch, cpu, {'bfloat16' if use_bfloat16 else 'float32'}, threads={threads}"
        self._threads = threads
        keep_freed_memory()
        dtype = torch.bfloat16 if use_bfloat16 else torch.float32
        self._network = quicken(copy.deepcopy(network).float().train(mode=False), dtype)

    def plan(self, shape: tuple[int, int, int], conditions: int | None) -> Plan:
        """Return a plan for images of shape ``(channels, y, x)`` with so many ``conditions``."""
        return _TorchPlan(self._network, shape, conditions, self._threads)


class _TorchPlan:
    def __init__(
        self, network: nn.Module, shape: tuple[int, int, int], conditions: int | None, threads: int
    ) -> None:
        self.images = np.zeros((1, *shape), np.float32)
        self.conditions = empty_conditions(conditions)
        self._network, self._threads = network, threads
        arrays = [self.images] if self.conditions is None else [self.images, self.conditions]
        self._inputs: list[Any] = [torch.from_numpy(array) for array in arrays]  # the same memory

    def run(self) -> Array:
        """Return the answer, shape ``(1, outputs, y, x)``."""
        with torch.inference_mode(), torch_threads(self._threads):
            answer: Array = self._network(*self._inputs).numpy()
        return answer
