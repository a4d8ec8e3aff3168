"""Which molecules a raster scan bleaches, and when: drawn for the whole scan at once.

A molecule survives a dwell with probability ``exp(-hazard)``. Surviving all dwells of a scan is then
the same as an exponential waiting time, measured in hazard instead of seconds, that is longer than the
hazards of all dwells together. So nothing needs to be drawn dwell by dwell: of the ``n`` molecules of
a map pixel a binomial number bleaches, each at a place in its summed hazard that is a truncated
exponential, and a search in the sums tells which pixel of the scan that was. The law is exactly that
of drawing for each molecule in each dwell, without an approximation.

Where the light differs from pixel to pixel, the hazard is first taken to be the largest anywhere. What
this draws is then thinned: each event is real with the probability of its pixel's hazard by that bound,
and a molecule that was spared goes on to its next one (Lewis & Shedler, Nav. Res. Logist. 26:403, 1979).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from simulator.sted.raster import Kernel, Numbers, Raster, by_visits
from simulator.sted.scanning import Molecules


@dataclass(frozen=True, slots=True, eq=False)
class Bleached:
    """When molecules bleach, one entry each.

    Attributes
    ----------
    y, x
        Map pixel of the molecule.
    line
        Image line during which it bleaches.
    row_visit, column_visit
        The line and the column as visits of the map pixel, see :mod:`simulator.sted.raster`.
    passes_before
        Passes over the line that were complete by then.
    dwell_before
        Part of the dwell of this pass that was over, 0 to 1.
    """

    y: Numbers
    x: Numbers
    line: Numbers
    row_visit: Numbers
    column_visit: Numbers
    passes_before: Numbers
    dwell_before: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.line)

    def take(self, which: NDArray[np.bool_] | Numbers | slice) -> Bleached:
        """Return some of the events."""
        return Bleached(*(getattr(self, field.name)[which] for field in fields(self)))

    def in_order(self) -> Bleached:
        """Return the events in the order of the lines."""
        return self.take(np.argsort(self.line, kind="stable"))

    @staticmethod
    def joined(parts: Sequence[Bleached]) -> Bleached:
        """Return the events of all parts."""
        return Bleached(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Bleached))
        )


class HazardTables:
    """Summed hazards of a raster scan, in the order of the scan.

    Parameters
    ----------
    hazard
        Hazard of one molecule by its place relative to the beam, for the whole time spent on an image
        pixel, odd square shape.
    raster
        The scan.
    """

    def __init__(self, hazard: Kernel, raster: Raster) -> None:
        self._raster = raster
        columns, stride_px = raster.columns, raster.stride_px
        visits = by_visits(hazard, stride_px)
        self._visits = visits.shape[1]
        self._dwells = visits.ravel()
        self._before_dwell = np.concatenate([[0.0], np.cumsum(self._dwells)])
        # Map columns that are lit by the same visits share their sums: far from the edges it is all.
        kinds, self._kind = np.unique(
            np.stack([columns.phase, columns.start, columns.stop]), axis=1, return_inverse=True
        )
        phase, start, stop = kinds
        self._kinds = len(phase)
        line = np.arange(stride_px * self._visits).reshape(stride_px, 1, self._visits)
        dwell = (line * stride_px + phase[:, None]) * self._visits
        in_line = self._before_dwell[dwell + stop[:, None]] - self._before_dwell[dwell + start[:, None]]
        self._lines = in_line.ravel()
        self._before_line = np.concatenate([[0.0], np.cumsum(self._lines)])

    def total(self, y: Numbers, x: Numbers) -> NDArray[np.float64]:
        """Return the hazard of a whole scan for molecules in these map pixels."""
        sums, rows = self._sums(y, x), self._raster.rows
        start, stop = self._before_line[sums + rows.start[y]], self._before_line[sums + rows.stop[y]]
        return np.asarray(stop - start)

    def draw(self, molecules: Molecules, rng: np.random.Generator) -> Bleached:
        """Draw what a scan of these molecules bleaches, in the order of the lines."""
        y, x, _, waited = self._first(molecules, rng)
        return self.find(y, x, waited).in_order()

    def draw_thinned(
        self,
        molecules: Molecules,
        chance: Callable[[Bleached], NDArray[np.float64]],
        rng: np.random.Generator,
    ) -> Bleached:
        """Draw the same where these hazards are bounds, and an event is real with some probability.

        Parameters
        ----------
        molecules
            The map, with its margin.
        chance
            Returns the probability for each event, 0 to 1.
        rng
            Where the chance comes from.
        """
        y, x, total, waited = self._first(molecules, rng)
        parts: list[Bleached] = []
        while len(y) or not parts:
            events = self.find(y, x, waited)
            is_real = rng.random(len(events)) < chance(events)
            parts.append(events.take(is_real))
            waited += rng.standard_exponential(len(waited))
            left = ~is_real & (waited < total)
            y, x, total, waited = y[left], x[left], total[left], waited[left]
        return Bleached.joined(parts).in_order()

    def draw_all(self, molecules: Molecules, rng: np.random.Generator) -> tuple[Bleached, Numbers]:
        """Draw every event of every molecule, as if it could bleach again and again.

        Returns the events, in the order of the lines, and for each the number of its molecule among
        those of its map pixel.
        """
        y, x = np.nonzero(molecules)
        total, count = self.total(y, x), molecules[y, x]
        events = rng.poisson(total * count)
        which = np.repeat(np.arange(len(y)), events)
        found = self.find(y[which], x[which], rng.random(len(which)) * total[which])
        order = np.argsort(found.line, kind="stable")
        return found.take(order), rng.integers(count[which])[order]

    def _first(
        self, molecules: Molecules, rng: np.random.Generator
    ) -> tuple[Numbers, Numbers, NDArray[np.float64], NDArray[np.float64]]:
        """Return the molecules with an event, their summed hazards, and when the first of it comes."""
        y, x = np.nonzero(molecules)
        total = self.total(y, x)
        lost = -np.expm1(-total)
        which = np.repeat(np.arange(len(y)), rng.binomial(molecules[y, x], lost))
        waited = -np.log1p(-rng.random(len(which)) * lost[which])
        return y[which], x[which], total[which], waited

    def _sums(self, y: Numbers, x: Numbers) -> Numbers:
        """Return where the sums over lines start for map pixels."""
        return np.asarray((self._raster.rows.phase[y] * self._kinds + self._kind[x]) * self._visits)

    def find(self, y: Numbers, x: Numbers, waited: NDArray[np.float64]) -> Bleached:
        """Return where in the scan its summed hazard reaches ``waited`` for each molecule."""
        rows, columns, visits = self._raster.rows, self._raster.columns, self._visits
        stride_px, passes = self._raster.stride_px, self._raster.passes
        sums = self._sums(y, x)
        line, left = _search(self._before_line, sums + rows.start[y], sums + rows.stop[y], waited)
        row_visit = line - sums
        done = left / np.maximum(self._lines[line], _TINY) * passes
        passes_before = np.minimum(done.astype(np.intp), passes - 1)
        left = (done - passes_before) * self._lines[line]
        dwells = ((rows.phase[y] * visits + row_visit) * stride_px + columns.phase[x]) * visits
        dwell, left = _search(self._before_dwell, dwells + columns.start[x], dwells + columns.stop[x], left)
        part = np.minimum(left / np.maximum(self._dwells[dwell], _TINY), 1.0)
        return Bleached(y, x, row_visit + rows.first[y], row_visit, dwell - dwells, passes_before, part)


_TINY = np.finfo(np.float64).tiny


def _search(
    sums: NDArray[np.float64], start: Numbers, stop: Numbers, waited: NDArray[np.float64]
) -> tuple[Numbers, NDArray[np.float64]]:
    """Return the entry of the sums from ``start`` in which ``waited`` ends, and how far into it."""
    target = sums[start] + waited
    # Rounding may put a long wait just behind the last entry.
    found = np.clip(np.searchsorted(sums, target, side="right") - 1, start, stop - 1)
    return found, np.maximum(target - sums[found], 0.0)
