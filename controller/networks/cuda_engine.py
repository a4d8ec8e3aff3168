"""Networks on an NVIDIA GPU, each size of images recorded once as a CUDA graph and then replayed.

A small network is some dozens of kernels of a few microseconds; to launch them one by one takes longer
than to run them. A graph launches them at once.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
from torch import nn

from controller.networks.engines import Array, Plan
from controller.networks.fast_unet import quicken

#: Runs before the recording: the library chooses its algorithms and takes its memory meanwhile.
_WARM_UP_RUNS = 3

# torch allows one recording at a time in a process.
_RECORDING = threading.Lock()


def is_available() -> bool:
    """Tell whether torch can use a GPU here."""
    return bool(torch.cuda.is_available())


class CUDAEngine:
    """Runs a copy of a network on the first GPU."""

    def __init__(self, network: nn.Module, *, precision: str) -> None:
        has_bfloat16 = torch.cuda.get_device_capability()[0] >= 8
        use_bfloat16 = precision == "bfloat16" or (precision == "auto" and has_bfloat16)
        self.name = f"torch, cuda, {'bfloat16' if use_bfloat16 else 'float32'}"
        copied = copy.deepcopy(network).float().train(mode=False)
        self._network = quicken(copied, torch.bfloat16 if use_bfloat16 else torch.float32).cuda()

    def plan(self, shape: tuple[int, int, int], conditions: int | None) -> Plan:
        """Return a plan for images of shape ``(channels, y, x)`` with so many ``conditions``."""
        return _CUDAPlan(self._network, shape, conditions)


class _CUDAPlan:
    def __init__(self, network: nn.Module, shape: tuple[int, int, int], conditions: int | None) -> None:
        # Memory that the operating system cannot move is copied without the processor's help.
        sizes = [(1, *shape)] if conditions is None else [(1, *shape), (1, conditions)]
        self._here: list[Any] = [torch.zeros(size, pin_memory=True) for size in sizes]
        self._there: list[Any] = [tensor.cuda() for tensor in self._here]
        self.images: Array = self._here[0].numpy()
        self.conditions: Array | None = None if conditions is None else self._here[1].numpy()
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())  # where all of this was put there
        # The same algorithms each time, and no 10-bit products in what is called float32.
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with torch.inference_mode(), exact, _RECORDING:
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP_RUNS):
                    network(*self._there)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._answer = network(*self._there)
        self._answer_here = torch.zeros(self._answer.shape, pin_memory=True)

    def run(self) -> Array:
        """Return the answer, shape ``(1, outputs, y, x)``."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for here, there in zip(self._here, self._there, strict=True):
                there.copy_(here, non_blocking=True)
            self._graph.replay()
            self._answer_here.copy_(self._answer, non_blocking=True)
        self._stream.synchronize()
        answer: Array = self._answer_here.numpy()
        return answer
