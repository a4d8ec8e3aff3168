"""How a stage that should rest moves: it drifts away, and it trembles.

Drift has one velocity and one direction, drawn once: what moves a warm stage over minutes is heat that
flows on, so a later scan is off by more, always the same way. (A random walk would come back, and its
size is not a speed.) Vibration is that of a resonance: eight sines a few percent beside its frequency,
drawn once for each axis. Together they beat, and their root mean square over time is exact.

The shift is a function of the time: the same seed moves in the same way, whatever is scanned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SINES = 8
# Half of the width of the resonance, relative to its frequency.
_HALF_WIDTH = 0.05


class StagePath:
    """Where a moving stage is.

    Parameters
    ----------
    drift_m_per_s
        Speed at which the sample moves away.
    vibration_m, vibration_hz
        Root mean square of the vibration along each axis, and about its frequency.
    seed
        Decides the direction of the drift, and the vibration.
    """

    def __init__(
        self, drift_m_per_s: float, vibration_m: float, vibration_hz: float, seed: np.random.SeedSequence
    ) -> None:
        rng = np.random.default_rng(seed)
        direction = rng.uniform(0, 2 * np.pi)
        self._velocity_m_per_s = drift_m_per_s * np.array([np.sin(direction), np.cos(direction)])
        self._hz = vibration_hz * rng.uniform(1 - _HALF_WIDTH, 1 + _HALF_WIDTH, (_SINES, 2))
        self._phase = rng.uniform(0, 2 * np.pi, (_SINES, 2))
        self._size_m = vibration_m * np.sqrt(2 / _SINES)

    @property
    def rests(self) -> bool:
        """Tell whether nothing ever moves."""
        return self._size_m == 0 and not self._velocity_m_per_s.any()

    def shift_m(self, times_s: Floats) -> Floats:
        """Return where the sample is relative to its place of rest, shape ``(times, 2)``, y and x.

        Something at (y, x) in sample coordinates appears at (y, x) plus this.
        """
        times_s = np.asarray(times_s, dtype=np.float64)
        turns = 2 * np.pi * self._hz * times_s[:, None, None] + self._phase
        return np.asarray(
            self._velocity_m_per_s * times_s[:, None] + self._size_m * np.sin(turns).sum(axis=1)
        )
