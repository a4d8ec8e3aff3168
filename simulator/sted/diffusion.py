"""Molecules that move between scans: whole structures, or each by itself.

Each thing that moves takes a Brownian path, ``2 D t`` of variance along each axis, and is turned back at
the edges of the sample, so that no molecule is ever lost but by light. Places on the map are whole map
pixels; the path itself is not rounded, so that slow things get somewhere, too. During a scan all rest:
that is right where ``sqrt(2 D t)`` of a scan is below a map pixel.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulator.sted.scanning import Molecules

Moving = Literal["structures", "molecules"]
Floats = NDArray[np.float64]


class Diffusion:
    """The molecules of one dye, as a list of those at one place that move together.

    Parameters
    ----------
    molecules
        The map at first, without margin.
    structures
        Labels of the same shape. What has none, 0, stays where it is if structures move.
    moving
        What moves as a whole.
    """

    def __init__(self, molecules: Molecules, structures: NDArray[np.int32], moving: Moving) -> None:
        y, x = np.nonzero(molecules)
        count = molecules[y, x].astype(np.int64)
        if moving == "molecules":
            y, x = np.repeat(y, count), np.repeat(x, count)
            count = np.ones(len(y), np.int64)
            self._thing, things = np.arange(len(y)), len(y)
        else:
            self._thing, things = structures[y, x].astype(np.intp), int(structures.max(initial=0)) + 1
        self._home, self._count = np.stack([y, x]), count
        self._path_px = np.zeros((2, things))
        self._is_free = np.ones(things, np.bool_)
        self._is_free[:1] = moving == "molecules"
        self._low, self._high = self._room(molecules.shape, things)
        self._drawn = molecules.copy()

    @property
    def displacement_px(self) -> NDArray[np.intp]:
        """Return how far each thing is from its first place: whole map pixels, shape ``(2, things)``."""
        low, high = self._low - 0.5, self._high + 0.5
        width = high - low
        folded = np.abs((self._path_px - low + width) % (2 * width) - width)
        # Of the path that was turned back at the edges, which are those of the outermost pixels.
        return np.clip(np.rint(low + folded), self._low, self._high).astype(np.intp)

    def move(self, molecules: Molecules, variance_px2: float, rng: np.random.Generator) -> None:
        """Move everything on the map, in place.

        Parameters
        ----------
        molecules
            What the scans since the last call left of the map.
        variance_px2
            Variance of the steps along each axis, in map pixels squared.
        rng
            Where the steps come from, and which of several things in a pixel has lost its molecules.
        """
        self._bleach(self._drawn - molecules, rng)
        steps = rng.normal(0.0, np.sqrt(variance_px2), self._path_px.shape)
        self._path_px += steps * self._is_free
        y, x = self._places
        self._drawn = np.zeros_like(molecules)
        np.add.at(self._drawn, (y, x), self._count.astype(molecules.dtype))
        molecules[:] = self._drawn

    @property
    def _places(self) -> NDArray[np.intp]:
        return np.asarray(self._home + self.displacement_px[:, self._thing])

    def _room(self, shape_yx: tuple[int, ...], things: int) -> tuple[Floats, Floats]:
        """Return the displacements between which no molecule of a thing leaves the map."""
        first, last = np.full((2, things), np.inf), np.full((2, things), -np.inf)
        for axis in (0, 1):
            np.minimum.at(first[axis], self._thing, self._home[axis])
            np.maximum.at(last[axis], self._thing, self._home[axis])
        is_empty = np.isinf(first)
        low = np.where(is_empty, 0.0, -first)
        high = np.where(is_empty, 0.0, np.array(shape_yx[-2:])[:, None] - 1 - last)
        return low, high

    def _bleach(self, lost: NDArray[np.int32], rng: np.random.Generator) -> None:
        """Take the molecules that scans have bleached from the things that were there.

        All molecules of a pixel had the same light, so those of each thing in it are a draw without
        replacement.
        """
        y, x = self._places
        site = y * lost.shape[1] + x
        order = np.argsort(site, kind="stable")
        first = np.concatenate([[True], np.diff(site[order]) > 0]) if len(order) else np.zeros(0, np.bool_)
        starts = np.flatnonzero(first)
        sizes = np.diff([*starts, len(order)])
        left = lost.ravel()[site[order[starts]]].astype(np.int64)
        there = np.add.reduceat(self._count[order], starts) if len(starts) else left
        for rank in range(int(sizes.max(initial=0))):
            has = np.flatnonzero((sizes > rank) & (left > 0))
            which = order[starts[has] + rank]
            own = self._count[which]
            taken = rng.hypergeometric(own, there[has] - own, left[has])
            self._count[which] -= taken
            left[has] -= taken
            there[has] -= own
