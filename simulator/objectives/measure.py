"""A figure that may be absent, with the reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """What was measured, or why it could not be.

    Attributes
    ----------
    value
        A finite number in the unit that the measuring function states, or None.
    reason
        Why there is no value, or what to know about the one there is; empty if all is well.
    std
        Standard error of the value in its unit, where the function knows it.
    """

    value: float | None
    reason: str = ""
    std: float | None = None

    def __post_init__(self) -> None:
        for number in (self.value, self.std):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"a measure is finite or None, got {number!r}")
        if self.value is None and not self.reason:
            raise ValueError("a measure without a value needs a reason")


def unmeasured(reason: str) -> Measure:
    """Return the measure of what cannot be measured."""
    return Measure(None, reason)


def as_image(photons: NDArray[Any], name: str = "photons") -> Image:
    """Return an image as floats.

    Raises
    ------
    ValueError
        If it is not a 2-D image of finite numbers: that is a mistake of the caller, not of the microscope.
    """
    image = np.asarray(photons, dtype=np.float64)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"{name} must be an image (y, x), got shape {image.shape}")
    if not np.isfinite(image).all():
        raise ValueError(f"{name} holds nan or infinite pixels")
    return image


def as_pair(first: NDArray[Any], second: NDArray[Any], names: tuple[str, str]) -> tuple[Image, Image]:
    """Return two images of one shape as floats; raises ``ValueError`` if they are not."""
    one, other = as_image(first, names[0]), as_image(second, names[1])
    if one.shape != other.shape:
        raise ValueError(f"{names[0]} has shape {one.shape}, {names[1]} {other.shape}: they must be equal")
    return one, other


def check_positive(**lengths: float) -> None:
    """Raise ``ValueError`` naming the first argument that is not a finite number above 0."""
    for name, value in lengths.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be a finite number above 0")
