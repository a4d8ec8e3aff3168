"""Networks on images: any size, float32 arrays in and out, on the fastest of what is installed.

``Runtime(network, RuntimeOptions()).run(images, conditions)`` answers each image by itself, so a batch
has the same bits as its frames one by one, and the same frame has the same bits every time on the same
machine. Images of one size share their memory from frame to frame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from controller.networks.backends import RuntimeOptions, engine_for
from controller.networks.engines import Array, Engine, Plan, ran_out_of_memory
from controller.networks.small_unet import MULTIPLE_OF

__all__ = ["Runtime", "RuntimeOptions"]

#: Plans of so many image sizes are kept: a whole frame and a coarse one, each with and without a crop.
_SIZES_KEPT = 4

_Key = tuple[tuple[int, int, int], int | None]


class _Ready(NamedTuple):
    """A plan that has run, and how many channels it answered."""

    plan: Plan
    outputs: int


class Runtime:
    """Runs one network.

    Parameters
    ----------
    network
        Maps ``(n, channels, y, x)``, and ``(n, conditions)`` where it takes any, to
        ``(n, outputs, y, x)``; y and x are multiples of 4. Its numbers are copied.
    options
        Where and how it runs.

    Raises
    ------
    ConfigurationError
        If what the options ask for is not on this machine.
    """

    def __init__(self, network: nn.Module, options: RuntimeOptions | None = None) -> None:
        self.options = options or RuntimeOptions()
        self._engine = self._build(network)
        self._ready: OrderedDict[_Key, _Ready] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Return library, device and precision, for people and records."""
        return self._engine.name

    def replace(self, network: nn.Module) -> None:
        """Run another network from the next call on. May be called while another thread runs images.

        What the new one needs is made ready before the old one goes, so no frame waits for it. A ValueError
        says that it does not run on the images there were; then the old one stays.
        """
        engine = self._build(network)
        with self._lock:
            keys = list(self._ready)
        ready = OrderedDict((key, _made_ready(engine, key)) for key in keys)
        with self._lock:
            self._engine, self._ready = engine, ready

    def run(self, images: NDArray[np.float32], conditions: NDArray[np.float32] | None = None) -> Array:
        """Return the network's answers.

        Parameters
        ----------
        images
            Shape ``(n, channels, y, x)``, any y and x from 1: they are mirrored at the lower and right
            edge to what the network needs, and the answer is cropped.
        conditions
            Shape ``(n, conditions)``, if the network takes any.

        Returns
        -------
        Shape ``(n, outputs, y, x)``, float32; the caller's own.

        Raises
        ------
        ValueError
            If the shapes do not fit each other or the network.
        MemoryError
            If the images are too large for this machine.
        """
        count, _, height, width = _checked_shape(images, conditions)
        try:
            with self._lock:
                ready = self._ready_for(images, conditions)
                plan = ready.plan
                answers = np.empty((count, ready.outputs, height, width), np.float32)
                for index in range(count):
                    _fill(plan.images[0], images[index])
                    if plan.conditions is not None and conditions is not None:
                        plan.conditions[0] = conditions[index]
                    answers[index] = plan.run()[0, :, :height, :width]
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            with self._lock:
                self._ready.clear()  # whatever is tried next has the memory of all of them
            raise MemoryError(
                f"no memory to run a network on images of {height} x {width} pixels "
                f"({self.name}); scan fewer pixels, or choose a smaller network"
            ) from error
        return answers

    def _build(self, network: nn.Module) -> Engine:
        return engine_for(network, self.options)

    def _ready_for(self, images: Array, conditions: Array | None) -> _Ready:
        """Return the plan for images of this size, a new one if need be; the oldest go."""
        _, channels, height, width = images.shape
        shape = (channels, _rounded_up(height), _rounded_up(width))
        key = (shape, None if conditions is None else conditions.shape[1])
        ready = self._ready.pop(key, None)
        if ready is None:
            while len(self._ready) >= _SIZES_KEPT:
                self._ready.popitem(last=False)
            ready = _made_ready(self._engine, key)
        self._ready[key] = ready
        return ready


def _made_ready(engine: Engine, key: _Key) -> _Ready:
    """Return a plan that has run once, so that the first frame does not wait for what that prepares."""
    (channels, height, width), conditions = key
    try:
        plan = engine.plan((channels, height, width), conditions)
        answer = plan.run()
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise ValueError(
            f"the network does not run on images of {channels} channels with {conditions or 'no'} conditions "
            f"({engine.name}): {error}"
        ) from error
    if answer.ndim != 4 or answer.shape[2:] != (height, width):
        raise ValueError(
            f"the network must answer (n, outputs, y, x) of the same y and x, got {answer.shape} "
            f"for images of {height} x {width} pixels"
        )
    return _Ready(plan, answer.shape[1])


def _checked_shape(images: Array, conditions: Array | None) -> tuple[int, int, int, int]:
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have a shape (n, channels, y, x) without zeros, got {images.shape}")
    count, channels, height, width = images.shape
    if conditions is not None and (conditions.ndim != 2 or len(conditions) != count):
        raise ValueError(f"conditions of {count} images must have shape ({count}, k), got {conditions.shape}")
    return count, channels, height, width


def _rounded_up(size: int) -> int:
    return -(-size // MULTIPLE_OF) * MULTIPLE_OF


def _fill(target: Array, image: Array) -> None:
    """Write ``image`` to the upper left of ``target``, and its mirror image to the rest."""
    height, width = image.shape[-2:]
    target[:, :height, :width] = image
    for column in range(width, target.shape[-1]):
        target[:, :height, column] = target[:, :height, max(2 * width - 1 - column, 0)]
    for row in range(height, target.shape[-2]):
        target[:, row] = target[:, max(2 * height - 1 - row, 0)]
