"""A short memory of a movie: its moving averages at several time constants.

Exponential moving averages hold what a network needs of the past in a handful of images, however long the
movie is: short ones follow events, long ones hardly have noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage


class MovingAverages:
    """Averages of all frames so far, one for each time constant.

    An average of ``tau`` frames begins as the plain mean of what there is, and forgets exponentially once
    it has seen ``tau`` frames, so the first frames count as much as they should.

    Attributes
    ----------
    images
        Shape ``(len(taus), y, x)``, float32; zeros before the first frame.
    variances
        Noise variance left in each average, as a fraction of that of one frame, shape
        ``(len(taus),)``; infinite before the first frame.
    frames
        How many frames were added.
    """

    def __init__(self, taus: Sequence[float], shape: tuple[int, int]) -> None:
        self.taus = np.asarray(taus, np.float64)
        self.images: NDArray[np.float32] = np.zeros((len(taus), *shape), np.float32)
        self.variances = np.full(len(taus), np.inf)
        self.frames = 0
        self._difference = np.empty(shape, np.float32)

    def add(self, photons: FloatImage) -> None:
        """Take a frame into all averages."""
        self.frames += 1
        gains = np.maximum(1 / self.taus, 1 / self.frames)
        for number, gain in enumerate(gains):
            np.subtract(photons, self.images[number], out=self._difference)
            self._difference *= np.float32(gain)
            self.images[number] += self._difference
        before = np.where(np.isfinite(self.variances), self.variances, 0.0)
        self.variances = (1 - gains) ** 2 * before + gains**2

    def mean_with(self, photons: FloatImage) -> float:
        """Return the mean of the longest average, once ``photons`` are in it."""
        gain = max(1 / float(self.taus[-1]), 1 / (self.frames + 1))
        before = float(self.images[-1].mean())
        return before + gain * (float(photons.mean()) - before)

    def scale(self, ratio: float) -> None:
        """Turn the averages into those of frames with ``ratio`` times the light.

        ``n`` frames of ``v`` photons are ``n / ratio`` frames of ``v * ratio`` photons.
        """
        self.images *= np.float32(ratio)
        self.variances = self.variances * ratio

    def convert(self, ratio: float, shift: float) -> None:
        """Turn the averages into those of ``ratio * photons + shift``: the detector is known better now."""
        self.images *= np.float32(ratio)
        self.images += np.float32(shift)
