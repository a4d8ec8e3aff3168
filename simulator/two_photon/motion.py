"""How a brain moves under a microscope: with breath and heart, slowly away, and when the animal moves.

Rigid, across the axis only. Frequencies are those of mice, amplitudes are chosen by eye and scaled
together. The motion is a function of time: the same seed moves in the same way, whatever is asked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The motion is never larger than so many times its amplitude.
LARGEST = 5.0
_BLOCK_S = 10.0
_BOUTS_HZ = 0.1
_BLOCK_ZERO = 2**32


class BrainMotion:
    """Shifts of the tissue in metres. ``amplitude_m`` is about the size of those of a restless moment."""

    def __init__(self, amplitude_m: float, seed: Sequence[int]) -> None:
        self._amplitude_m = amplitude_m
        self._seed = list(seed)
        rng = np.random.default_rng(np.random.SeedSequence([*self._seed, 0]))
        # Breath at 2 to 3 Hz, heart at 8 to 11 Hz, drift within a minute and more: Hz and amplitude.
        self._hz = np.concatenate([rng.uniform(2, 3, 1), rng.uniform(8, 11, 1), 1 / rng.uniform(60, 400, 4)])
        size = np.array([0.15, 0.05, 0.4, 0.4, 0.4, 0.4])
        self._size = size[:, None] * rng.normal(0, 1, (6, 2))
        self._phase = rng.uniform(0, 2 * np.pi, (6, 2))
        self._bouts = lru_cache(maxsize=8)(self._draw)

    @property
    def largest_m(self) -> float:
        """Return what no shift along an axis is above."""
        return LARGEST * self._amplitude_m

    def shift_m(self, times_s: Floats) -> Floats:
        """Return where the tissue is at each time relative to its place of rest, ``(times, 2)``, y and x."""
        if self._amplitude_m == 0 or len(times_s) == 0:
            return np.zeros((len(times_s), 2))
        turns = 2 * np.pi * self._hz * times_s[:, None]
        shift = (np.sin(turns[:, :, None] + self._phase) * self._size).sum(axis=1)
        first, last = (int(np.floor(times_s[end] / _BLOCK_S)) for end in (0, -1))
        for block in range(first - 1, last + 2):
            for start_s, length_s, y, x in self._bouts(block):
                shift += np.exp(-0.5 * ((times_s - start_s) / length_s) ** 2)[:, None] * (y, x)
        return np.asarray(self._amplitude_m * LARGEST * np.tanh(shift / LARGEST))

    def _draw(self, block: int) -> list[tuple[float, float, float, float]]:
        """Return the bouts of one block: middle, length, and shift in y and x."""
        rng = np.random.default_rng(np.random.SeedSequence([*self._seed, 1, block + _BLOCK_ZERO]))
        count = int(rng.poisson(_BOUTS_HZ * _BLOCK_S))
        start_s = (block + rng.random(count)) * _BLOCK_S
        length_s = rng.uniform(0.1, 0.6, count)
        way = rng.normal(0, 1, (count, 2))
        return [
            (float(a), float(b), float(y), float(x))
            for a, b, (y, x) in zip(start_s, length_s, way, strict=True)
        ]
