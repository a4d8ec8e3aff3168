"""The newest frames of a session, place by place: what the learning process learns from."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage


class RecentFrames:
    """Keeps the last frames of the last places, each place as a square of at most ``side_px`` pixels.

    A square in the middle is enough: weights are the same everywhere, and what is sent to another process
    must not grow with the camera.
    """

    def __init__(self, frames_max: int, side_px: int) -> None:
        self._frames_max, self._side = frames_max, side_px
        self._places: deque[list[FloatImage]] = deque()

    def __len__(self) -> int:
        return sum(len(place) for place in self._places)

    def add(self, photons: FloatImage, *, is_new_place: bool) -> None:
        """Take in the newest frame; ``is_new_place`` if the one before shows something else."""
        rows, columns = photons.shape
        top, left = max(0, (rows - self._side) // 2), max(0, (columns - self._side) // 2)
        if is_new_place or not self._places:
            self._places.append([])
        square = photons[top : top + self._side, left : left + self._side]
        self._places[-1].append(square.copy())
        while len(self) > self._frames_max:
            self._places[0].pop(0)
            if not self._places[0]:
                self._places.popleft()

    def convert(self, ratio: float, shift: float) -> None:
        """Turn the frames into those of ``ratio * photons + shift``: the detector is known better now."""
        for place in self._places:
            for photons in place:
                photons *= np.float32(ratio)  # noqa: PLW2901  # in place
                photons += np.float32(shift)  # noqa: PLW2901

    def movies(self) -> list[NDArray[np.float32]]:
        """Return the frames of each place, shape ``(t, y, x)``, but those smaller than 4 x 4 pixels."""
        return [np.stack(place) for place in self._places if min(place[0].shape) >= 4]
