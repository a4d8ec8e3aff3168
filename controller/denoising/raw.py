"""The frame as it is, with an honest standard deviation: the loop's fallback."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import DeviceError
from controller.core.frame import Denoised, Frame
from controller.core.protocols import Clock, Resources
from controller.core.settings import Settings


def check_photons(frame: Frame, largest: float) -> None:
    """Refuse what is no image of photon counts.

    Raises
    ------
    DeviceError
        If the frame is not a 2-D image of finite real numbers of at most ``largest``. A ``nan`` must
        never reach a policy dressed up as an estimate.
    """
    photons = frame.photons
    if photons.ndim != 2 or photons.size == 0 or photons.dtype.kind not in "buif":
        raise DeviceError(
            f"frame {frame.index}: a denoiser needs an image (y, x) of real numbers, "
            f"got shape {photons.shape}, type {photons.dtype}"
        )
    # "within" instead of "not beyond": nan, which is the least and the largest of any image, fails too.
    if -largest <= float(photons.min()) and float(photons.max()) <= largest:
        return
    within = np.abs(photons.astype(np.float64)) <= largest
    raise DeviceError(
        f"frame {frame.index}: {np.count_nonzero(~within)} of {photons.size} pixels are not finite or "
        f"above {largest:g}, which no photon count is; check the driver's conversion"
    )


def checked_photons(frame: Frame, largest: float) -> NDArray[np.float64]:
    """Return the frame's photons as float64, shape ``(y, x)``, if :func:`check_photons` has no objection."""
    check_photons(frame, largest)
    return frame.photons.astype(np.float64)


class RawDenoiser:
    """Answers with the frame itself; keeps no state, so there is nothing that could go wrong.

    ``std`` is the square root of a smoothed photon count: the noise of a photon counter is Poisson,
    and the count of a single pixel is too poor an estimate of its own variance (0 photons would mean
    "certainly dark").
    """

    class Options(Settings):
        """It has none: a fallback that can be misconfigured is not one."""

    #: The largest count whose estimate still fits into float32.
    LARGEST = 1e38

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        """Make the denoiser; ``options`` is an (empty) :class:`RawDenoiser.Options`."""
        cls.Options.model_validate(options)
        return cls(resources.clock)

    def reset(self, reason: str) -> None:
        """Do nothing: there is no past to forget."""

    def observe(self, frame: Frame) -> None:
        """Do nothing: the next answer rests on the next frame alone."""

    def step(self, frame: Frame) -> Denoised:
        """Return the frame as the estimate of itself.

        ``std`` comes from the mean of 3x3 pixels plus one photon shared by them, the usual remedy for
        counts near zero.

        Raises
        ------
        DeviceError
            If the frame holds something that is not a number.
        """
        started_s = self._clock.now_s() if self._clock else 0.0
        photons = checked_photons(frame, self.LARGEST)
        padded = np.pad(np.maximum(photons, 0.0) / 9.0, 1, mode="edge")
        rows = padded[:-2] + padded[1:-1] + padded[2:]
        variance = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 1.0 / 9.0
        latency_s = self._clock.now_s() - started_s if self._clock else 0.0
        std = np.sqrt(variance).astype(np.float32)
        return Denoised(photons.astype(np.float32), std, frame.index, latency_s=latency_s)
