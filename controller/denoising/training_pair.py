"""A training pair made of one noisy frame, and the role of what makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What to predict from, what to predict, and where it counts: float32, shape ``(…, y, x)``, photons.

    ``weight`` is 1 where the difference of prediction and ``target`` counts in the loss, and 0 where it
    must not: pixels that ``source`` shows, saturated ones, and those that are no number.
    ``source_noise`` is the variance of the noise of ``source`` in units of that of the frame;
    ``target_variance`` estimates that of ``target`` without bias, in photons², where it is known.
    """

    source: FloatImage
    target: FloatImage
    weight: FloatImage
    source_noise: float = 1.0
    target_variance: FloatImage | None = None


class Corruption(Protocol):
    """Makes training pairs from single noisy frames."""

    @property
    def reason(self) -> str:
        """Why this one, in one sentence."""

    def pair(self, frame_in_photons: NDArray[Any], rng: np.random.Generator) -> Pair:
        """Return a pair made of each frame ``(…, y, x)``, another one each time."""


def frame_and_weight(frame: NDArray[Any], saturated: float) -> tuple[FloatImage, FloatImage]:
    """Return frames as float32 with 0 for what is no number, and the weight of each pixel."""
    images = np.array(frame, np.float32, order="C")
    if images.ndim < 2:
        raise ValueError(f"frames (…, y, x) are needed, got shape {images.shape}")
    known = np.isfinite(images)
    if not known.all():
        images[~known] = 0
    return images, (known & (images < saturated)).astype(np.float32)
