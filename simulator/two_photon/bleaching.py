"""How the dye of neurons and neuropil fades under two-photon light: expected fractions, no chance.

There are many molecules everywhere, so what is left is a number between 0 and 1 for each neuron (its dye
mixes) and for each tile of 16 µm of each slab of neuropil.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Positive, Region, Settings
from simulator.two_photon.neurons import Points, Tissue
from simulator.two_photon.optics import TwoPhotonOptics

TILE_M = 16e-6
_SLAB_M = 4e-6

#: The light that ``strength`` refers to: 40 mW, 150 µm deep, 87 ns on pixels of 1 µm; chosen so that
#: ten minutes at 30 Hz take a sixth of the neuropil in the focus. Not from a publication.
_REFERENCE_W = 40e-3
_REFERENCE_DEPTH_M = 150e-6
_REFERENCE_S_PER_M2 = 87e-9 / 1e-12
_REFERENCE_HAZARD = 1e-5


class BleachingOptions(Settings):
    """How fast the dye fades.

    Attributes
    ----------
    strength
        Relative to a dye of which ten minutes of a usual scan take a sixth; 0 never bleaches.
    order
        Power of the intensity. Thin samples of fluorescein had 3 or more (Patterson & Piston, Biophys. J.
        78:2159, 2000), eGFP in cells 3 and 4 (Kalies et al., Biomed. Opt. Express 2:805, 2011).
    recovery_s
        Time constant with which fresh dye comes in from outside the focus. ``None``: it does not.
    """

    strength: NonNegative = 1.0
    order: Annotated[float, Field(ge=1, le=6)] = 3.0
    recovery_s: Positive | None = None


class Bleaching:
    """The dye that is left, from the light so far.

    ``size_yx_m`` is the sample's, with its margins.
    """

    def __init__(
        self,
        options: BleachingOptions,
        tissue: Tissue,
        optics: TwoPhotonOptics,
        size_yx_m: tuple[float, float],
    ) -> None:
        self._options, self._optics, self._tissue = options, optics, tissue
        self._tiles_yx = tuple(int(np.ceil(size / TILE_M - 1e-6)) for size in size_yx_m)
        self._low_m = tuple(-size / 2 for size in size_yx_m)
        self.neurons: Points = np.ones(tissue.neurons)
        self._slabs: dict[int, Points] = {}
        self._updated_s = 0.0
        # The intensity to this power falls off along the axis like a Gaussian of this width.
        self._sigma_m = optics.axial_sigma_m * float(np.sqrt(2 / options.order))

    def expose(
        self, scanned: Region, depth_m: float, power_w: float, time_s_per_m2: float, now_s: float
    ) -> None:
        """Bleach what one scan has lit.

        Parameters
        ----------
        scanned
            The region, as far as it was scanned.
        depth_m, power_w
            Of the focus, and the mean power at the surface.
        time_s_per_m2
            How long the beam rested, by area.
        now_s
            On the session's clock.
        """
        self._recover(now_s)
        options = self._options
        reference_w = self._optics.power_w(_REFERENCE_W, _REFERENCE_DEPTH_M)
        strength = options.strength * (self._optics.power_w(power_w, depth_m) / reference_w) ** options.order
        hazard = _REFERENCE_HAZARD * strength * time_s_per_m2 / _REFERENCE_S_PER_M2
        if hazard == 0:
            return
        self._expose_neurons(scanned, depth_m, hazard)
        y0, x0, y1, x1 = scanned.bounds_yx_m
        rows = _covered(self._low_m[0], self._tiles_yx[0], y0, y1)
        columns = _covered(self._low_m[1], self._tiles_yx[1], x0, x1)
        part = rows[:, None] * columns[None, :]
        for slab in self._near(depth_m):
            weight = np.exp(-0.5 * ((slab * _SLAB_M - depth_m) / self._sigma_m) ** 2)
            left = self._slabs.setdefault(slab, np.ones(self._tiles_yx))
            # Only what was scanned fades; the tile mixes.
            left *= 1 - part * (1 - np.exp(-hazard * weight))

    def neuropil(self, depth_m: float) -> NDArray[np.float32]:
        """Return what is left of the neuropil around a depth, by tiles."""
        slabs = self._near(depth_m)
        weights = np.array([np.exp(-0.5 * ((s * _SLAB_M - depth_m) / self._sigma_m) ** 2) for s in slabs])
        left = sum(
            weight * self._slabs.get(slab, np.ones(self._tiles_yx))
            for slab, weight in zip(slabs, weights / weights.sum(), strict=True)
        )
        return np.asarray(left, dtype=np.float32)

    def _expose_neurons(self, scanned: Region, depth_m: float, hazard: float) -> None:
        tissue = self._tissue
        radius = tissue.radius_m
        off = tissue.somata_m - (depth_m, *scanned.center_yx_m)
        half = np.array(scanned.size_yx_m) / 2
        reach = half[None, :] + radius[:, None] - abs(off[:, 1:])
        overlap = np.clip(reach / np.minimum(2 * radius[:, None], 2 * half[None, :]), 0, 1).prod(axis=1)
        overlap *= np.minimum(half / radius[:, None], 1).prod(axis=1)
        # The part of the cell's depth that is in the focus; of a cell that is not cut it is little.
        depth = np.exp(-0.5 * (np.maximum(abs(off[:, 0]) - radius, 0) / self._sigma_m) ** 2)
        in_focus = np.minimum(1, np.sqrt(2 * np.pi) * self._sigma_m / (2 * radius)) * depth
        self.neurons *= np.exp(-hazard * in_focus * overlap)

    def _recover(self, now_s: float) -> None:
        elapsed_s, self._updated_s = max(0.0, now_s - self._updated_s), now_s
        if self._options.recovery_s is None or elapsed_s == 0:
            return
        kept = np.exp(-elapsed_s / self._options.recovery_s)
        self.neurons = 1 - (1 - self.neurons) * kept
        self._slabs = {slab: 1 - (1 - left) * kept for slab, left in self._slabs.items()}

    def _near(self, depth_m: float) -> range:
        """Return the slabs that the focus reaches."""
        reach_m = 3 * self._sigma_m
        return range(
            int(np.ceil((depth_m - reach_m) / _SLAB_M)), int(np.floor((depth_m + reach_m) / _SLAB_M)) + 1
        )


def _covered(low_m: float, tiles: int, from_m: float, to_m: float) -> Points:
    """Return which part of each tile along one axis lies between two places."""
    edges = low_m + np.arange(tiles + 1) * TILE_M
    inside = np.minimum(edges[1:], to_m) - np.maximum(edges[:-1], from_m)
    return np.asarray(np.clip(inside / TILE_M, 0, 1))
