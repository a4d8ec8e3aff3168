"""What runs a network: one engine a library, one plan a shape.

An engine holds a network's numbers in the form its library wants. A plan is made of them for one shape of
images; it owns the arrays it reads and writes, so nothing large is allocated for a frame.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Plan(Protocol):
    """A network for images of one shape. Fill the arrays, then run."""

    images: Array
    """What goes in, shape ``(1, channels, y, x)``; to be written to."""
    conditions: Array | None
    """Numbers about the image, shape ``(1, conditions)``, where the network takes any."""

    def run(self) -> Array:
        """Return the answer, shape ``(1, outputs, y, x)``; it is overwritten by the next run."""


class Engine(Protocol):
    """A network in the form that its library wants."""

    name: str
    """Library, device and precision, for people and records."""

    def plan(self, shape: tuple[int, int, int], conditions: int | None) -> Plan:
        """Return a plan for images of shape ``(channels, y, x)`` with so many ``conditions``."""


def empty_conditions(conditions: int | None) -> Array | None:
    """Return an array for conditions, ``None`` for a network that takes none."""
    return None if conditions is None else np.zeros((1, conditions), np.float32)


def ran_out_of_memory(error: Exception) -> bool:
    """Tell whether an error of whatever library means that there was not enough memory.

    Libraries raise RuntimeErrors with words of their own; there is no better sign.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error).lower()
    signs = ("not enough memory", "can't allocate memory", "out of memory", "bad_alloc", "bad allocation")
    return isinstance(error, RuntimeError) and any(sign in words for sign in signs)
