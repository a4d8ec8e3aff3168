"""What the detector does to photons, and so how a frame is taken apart: given, or found at the start."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage
from controller.core.settings import NonNegative, Positive, Settings
from controller.denoising.corruption import PhotonThinning, choose_corruption
from controller.denoising.photon_transfer import PhotonTransfer, Trust, find_photon_transfer
from controller.denoising.training_pair import Pair

#: The detector is looked at after so many frames of one place, and then left alone.
_LOOKS = (1, 8, 32)

#: More of the newest frames than these say nothing more, and a live session waits meanwhile.
_FEWEST_FRAMES, _ENOUGH_PIXELS = 4, 1_000_000

#: Of the newest frames of one place so many are kept, each as a square of so many pixels in the middle:
#: enough to see the noise, and a look takes no longer for a large camera.
_FRAMES_KEPT, _SIDE_KEPT = 16, 256


class DetectorOptions(Settings):
    """What a photon is in the detector's units; what is left out is found in the first frames."""

    units_per_photon: Positive | None = None
    """Detector units that one photon gives (1 for a photon counter)."""
    offset_units: float = 0.0
    """Detector units at no light; only read if ``units_per_photon`` is given."""
    read_noise_units: NonNegative = 0.0
    """Standard deviation at no light, in detector units; only read if ``units_per_photon`` is given."""


class NoiseModel:
    """The photon transfer in use, and the corruption that fits it."""

    def __init__(self, options: DetectorOptions) -> None:
        self._given = options.units_per_photon is not None
        gain = options.units_per_photon or 1.0
        trust: Trust = "counts" if gain == 1 and options.read_noise_units == 0 else "line"
        self.transfer = PhotonTransfer(
            gain,
            options.offset_units if self._given else 0.0,
            options.read_noise_units if self._given else 0.0,
            0.0,
            0.0,
            None,
            trust if self._given else "assumed",
            reason="given" if self._given else "nothing was seen yet",
        )
        self.corruption = choose_corruption(self.transfer)
        self._frames: deque[NDArray[Any]] = deque(maxlen=_FRAMES_KEPT)
        self._seen = self._rests_on = 0
        self._is_settled = self._given

    def forget(self) -> None:
        """Begin to look again: another place may show the detector better. What was found stays in use."""
        self._frames.clear()
        self._seen = 0

    def look(self, frame: NDArray[Any]) -> PhotonTransfer | None:
        """Take in a frame in detector units; return the new photon transfer, if it changed."""
        if self._is_settled:
            return None
        self._frames.append(_middle(frame))
        self._seen += 1
        # Fewer frames of another place know less than those that the transfer in use was found in.
        if self._seen not in _LOOKS or self._seen < self._rests_on:
            return None
        newest = list(self._frames)[-max(_FEWEST_FRAMES, _ENOUGH_PIXELS // frame.size) :]
        found = find_photon_transfer(np.stack(newest)).transfer
        self._is_settled = self._seen == max(_LOOKS)
        if found is None:
            return None
        self._rests_on = self._seen
        if found == self.transfer:
            return None
        self.transfer, self.corruption = found, choose_corruption(found)
        return found

    def pair(self, photons: FloatImage, rng: np.random.Generator) -> Pair | None:
        """Take a frame apart; ``None`` if it is too small for that.

        Where photons seemed to be counted one by one, and a frame then shows parts of one, they were not: the
        noise is taken for that of an analog signal from then on.
        """
        try:
            return self.corruption.pair(photons, rng)
        except ValueError:
            if not isinstance(self.corruption, PhotonThinning):
                return None
        reason = f"{self.transfer.reason}; but a later frame holds parts of photons"
        self.transfer = replace(self.transfer, trust="line", reason=reason)
        self.corruption = choose_corruption(self.transfer)
        return self.pair(photons, rng)


def _middle(frame: NDArray[Any]) -> NDArray[Any]:
    top, left = (max(0, (side - _SIDE_KEPT) // 2) for side in frame.shape)
    return frame[top : top + _SIDE_KEPT, left : left + _SIDE_KEPT]
