"""Images and what was made of them. Arrays are private copies and read-only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import ScanSettings

FloatImage = NDArray[np.float32]
PhotonImage = NDArray[Any]


def read_only(array: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    """Return a C-ordered copy of ``array``, in native byte order, that nobody can write to."""
    if _is_read_only_for_good(array) and dtype in {None, array.dtype.type}:
        return array
    plain = np.asarray(array, dtype=dtype)
    plain = plain.astype(plain.dtype.newbyteorder("="), copy=False)
    if plain.dtype.hasobject:
        raise TypeError(f"an image of numbers is needed, got dtype {plain.dtype}")
    # Over immutable bytes, a copy, so that the writeable flag cannot be set again.
    return np.frombuffer(plain.tobytes(), dtype=plain.dtype).reshape(plain.shape)


def _is_read_only_for_good(array: NDArray[Any]) -> bool:
    """Tell whether this module made an array, so that no copy is needed."""
    if type(array) is not np.ndarray or array.flags.writeable or not array.flags.c_contiguous:
        return False
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return type(base) is bytes and array.dtype.isnative and not array.dtype.hasobject


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One 2-D image with the settings it was taken with.

    Attributes
    ----------
    photons
        Detected photons (or detector units that the driver documents), shape ``(y, x)``.
    settings
        What the microscope really did, as far as it can tell; the guard compares it with the request.
    index
        0, 1, 2, … in the order of acquisition within a session.
    started_s
        Start of the scan on the session's clock, in seconds.
    """

    photons: PhotonImage
    settings: ScanSettings
    index: int
    started_s: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "photons", read_only(self.photons))


#: What the models do with a frame, by level; where time or memory do not suffice, a session goes down.
LEVELS = (
    "the declared models on every frame",
    "segmented on some frames only",
    "denoised at half the resolution, segmented on some frames only",
    "denoised by the fallback",
)


@dataclass(frozen=True, slots=True, eq=False)
class Denoised:
    """An estimate of the noise-free image of frame ``index``.

    ``mean`` and ``std`` are in the unit of ``Frame.photons``, shape ``(y, x)``, float32. ``level``
    is one of :data:`LEVELS`; ``latency_s`` is the wall time it took.
    """

    mean: FloatImage
    std: FloatImage
    index: int
    level: int = 0
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", read_only(self.mean, np.float32))
        object.__setattr__(self, "std", read_only(self.std, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Objects found in one frame.

    ``labels`` is int32, 0 = background, objects numbered 1, 2, …; ``probability`` of foreground and
    ``uncertainty`` (binary entropy in bits, 0 = sure, 1 = undecided) are float32 in 0..1. All have
    shape ``(y, x)``.
    """

    labels: NDArray[np.int32]
    probability: FloatImage
    uncertainty: FloatImage

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", read_only(self.labels, np.int32))
        object.__setattr__(self, "probability", read_only(self.probability, np.float32))
        object.__setattr__(self, "uncertainty", read_only(self.uncertainty, np.float32))
