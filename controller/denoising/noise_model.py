"""What the detector does to photons, and so how a frame is taken apart: given, or found at the start."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import NonNegative, Positive, Settings
from controller.denoising.corruption import choose_corruption
from controller.denoising.photon_transfer import PhotonTransfer, Trust, find_photon_transfer

#: The detector is looked at after so many frames of one place, and then left alone.
_LOOKS = (1, 8, 32)


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
        self._frames: deque[NDArray[Any]] = deque(maxlen=max(_LOOKS))
        self._seen = 0
        self._is_settled = self._given

    def forget(self) -> None:
        """Begin to look again: another place may show the detector better. What was found stays in use."""
        self._frames.clear()
        self._seen = 0

    def look(self, frame: NDArray[Any]) -> PhotonTransfer | None:
        """Take in a frame in detector units; return the new photon transfer, if it changed."""
        if self._is_settled:
            return None
        self._frames.append(frame)
        self._seen += 1
        if self._seen not in _LOOKS:
            return None
        found = find_photon_transfer(np.stack(self._frames)).transfer
        self._is_settled = self._seen == max(_LOOKS)
        if found is None or found == self.transfer:
            return None
        self.transfer, self.corruption = found, choose_corruption(found)
        return found
