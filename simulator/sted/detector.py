"""From the rate of photons to counts: efficiency, background, dead time.

A detector with a dead time is blind for that long after each count and then waits for the next photon
(non-paralysable). The time until its k-th count is then (k - 1) dead times and a sum of k exponential
waits, so the law of the number of counts is known exactly: ``P(N <= k)`` is that of a Poisson number
with the mean ``rate * (dwell - k * dead time)`` (Müller, Nucl. Instrum. Methods 112:47, 1973).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Settings

FloatImage = NDArray[np.float64]


class Detector(Settings):
    """A counting detector."""

    collected: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Part of the fluorescence that the objective collects."""
    detected: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Part of the collected photons that is counted."""
    background_hz: NonNegative = 0.0
    """Counts per second inside the gate without any sample: dark counts and stray light."""
    dead_time_s: NonNegative = 0.0
    """How long it counts nothing after a count."""

    @property
    def efficiency(self) -> float:
        """Return the counts by photon that a molecule emits into the gate."""
        return self.collected * self.detected

    def counts(
        self,
        photons_hz: FloatImage,
        dwell_s: FloatImage | float,
        rng: np.random.Generator,
        *,
        whole_rates: bool = False,
    ) -> NDArray[np.int64]:
        """Return what is counted during ``dwell_s`` of fluorescence at ``photons_hz``, same shape.

        With ``whole_rates`` the rate is rounded down and thinned as a whole number before it is
        multiplied by the time, as pySTED does.
        """
        if whole_rates:
            detected_hz = rng.binomial(np.floor(photons_hz).astype(np.int64), self.efficiency)
            return np.asarray(rng.poisson((detected_hz + self.background_hz) * dwell_s))
        rate_hz = photons_hz * self.efficiency + self.background_hz
        if self.dead_time_s > 0:
            return self._counts_with_gaps(rate_hz, np.broadcast_to(dwell_s, rate_hz.shape), rng)
        return np.asarray(rng.poisson(rate_hz * dwell_s))

    def count(
        self, photons_hz: float, dwell_s: float, rng: np.random.Generator, *, whole_rates: bool = False
    ) -> int:
        """Return the same for one pixel, which is faster for one."""
        if self.dead_time_s > 0 and not whole_rates:
            return int(self.counts(np.array([photons_hz]), dwell_s, rng)[0])
        if whole_rates:
            rate_hz = float(rng.binomial(int(photons_hz), self.efficiency))
        else:
            rate_hz = photons_hz * self.efficiency
        return int(rng.poisson((rate_hz + self.background_hz) * dwell_s))

    def _counts_with_gaps(
        self, rate_hz: FloatImage, dwell_s: FloatImage, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw from the exact law by bisection: the smallest k with ``P(N <= k)`` above a uniform."""
        from scipy.special import pdtr

        uniform = rng.random(rate_hz.shape)
        low = np.full(rate_hz.shape, -1, dtype=np.int64)
        # With k dead times in the dwell there cannot be more than k + 1 counts.
        high: NDArray[np.int64] = np.floor(dwell_s / self.dead_time_s).astype(np.int64) + 1
        # More than the mean without gaps and ten standard deviations is not drawn either.
        mean = rate_hz * dwell_s
        high = np.minimum(high, np.ceil(mean + 10 * np.sqrt(mean) + 20).astype(np.int64))
        for _ in range(int(high.max(initial=0) + 1).bit_length() + 1):
            middle = (low + high) // 2
            open_s = np.maximum(dwell_s - np.maximum(middle, 0) * self.dead_time_s, 0)
            reaches = (middle >= 0) & (pdtr(np.maximum(middle, 0), rate_hz * open_s) >= uniform)
            high = np.where(reaches, middle, high)
            low = np.where(reaches, low, middle)
        return high
