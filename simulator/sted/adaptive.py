"""Adaptive scans: each pixel's steps end where its photons say so (DyMIN, RESCue).

What a pixel sees decides about its light, so the pixels are walked through one by one. Bleaching is
still drawn beforehand for the whole scan: as if every step were made everywhere and every molecule
could bleach again and again. An event belongs to one step of one pixel. It is real if that step is made
and the molecule is still there; where it is not made, it is skipped. That leaves each molecule with the
law of the light that it really got.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.sted.bleaching import HazardTables
from simulator.sted.detector import Detector
from simulator.sted.fluorescence import Correlator
from simulator.sted.photophysics import Light, Physics
from simulator.sted.raster import Raster, by_visits
from simulator.sted.scanning import AdaptiveExposure, FloatImage, Molecules, Seeds, image_shape


@dataclass(frozen=True, slots=True)
class _Event:
    """One possible bleaching: of which molecule, in which step, and where its light is taken from."""

    site: int
    molecule: int
    step: int
    dwell_before: float
    row: tuple[int, int, int]
    visit: int


class AdaptiveScan:
    """Walks through the pixels of one adaptive scan, line by line.

    Parameters
    ----------
    lights
        Of each step.
    exposure, molecules, seeds, detector, physics
        As for :class:`simulator.sted.STEDEngine`.
    """

    def __init__(
        self,
        lights: list[Light],
        exposure: AdaptiveExposure,
        molecules: Molecules,
        seeds: Seeds,
        *,
        detector: Detector,
        physics: Physics,
    ) -> None:
        stride_px, margin_px = exposure.stride_px, lights[0].photons_hz.shape[0] // 2
        raster = Raster.over(image_shape(molecules, stride_px, margin_px), stride_px, margin_px)
        self._exposure, self._raster = exposure, raster
        self._whole_s = exposure.scaled_to_s or exposure.dwell_s
        self._detector, self._physics = detector, physics
        self._photons_rng = np.random.Generator(np.random.Philox(seeds.photons))
        self._alive = molecules.astype(np.float64)
        photons_hz = np.stack([light.photons_hz for light in lights])
        self._correlator = Correlator(photons_hz, raster)
        self._kernels = self._correlator.at_visits
        self._gone: set[tuple[int, int]] = set()

        hazards = np.stack(
            [light.bleaching_hz * step.dwell_s for light, step in zip(lights, exposure.steps, strict=True)]
        )
        rng = np.random.Generator(np.random.Philox(seeds.bleaching))
        tables = HazardTables(hazards.sum(axis=0), raster)
        self._events, self._molecules = tables.draw_all(molecules, rng)
        self._steps = self._draw_steps(hazards, rng)
        self._starts = np.searchsorted(self._events.line, np.arange(raster.shape_yx[0] + 1))

    @property
    def survivors(self) -> Molecules:
        """Return the molecules that have survived the lines scanned so far."""
        return self._alive.astype(np.int32)

    def scan_line(self, line: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Return the photons of each pixel of a line and how many steps it made. Once, and in order."""
        visits, columns = self._kernels.shape[-1], self._raster.shape_yx[1]
        terms = np.empty((self._correlator.terms, 1, self._raster.map_width))
        self._correlator.down(self._alive[self._correlator.window(line)], terms[:, 0])
        # Visits before the first column and after the last one fall into a margin.
        signal = np.pad(self._correlator.across(terms, None)[:, 0], ((0, 0), (0, visits)))
        events = self._events_of(line)
        photons, made = np.zeros(columns, np.uint32), np.zeros(columns, np.uint8)
        for column in range(columns):
            photons[column], made[column] = self._scan_pixel(signal, column, events.get(column, []))
        return photons, made

    def _scan_pixel(self, signal: FloatImage, column: int, events: list[_Event]) -> tuple[int, int]:
        """Make the steps of a pixel; return its photons and how many steps it made."""
        total, count, made, is_dark = 0, 0, 0, False
        is_seen = self._physics.bleaching_within_dwell
        for number, step in enumerate(self._exposure.steps):
            lost = [event for event in events if event.step == number and self._is_there(event)]
            rate_hz = signal.item(number, column)
            if lost and is_seen:
                rate_hz -= sum((1 - event.dwell_before) * self._photons_hz(event, number) for event in lost)
                self._bleach(signal, column, lost)
            count = self._detector.count(
                max(rate_hz, 0.0), step.dwell_s, self._photons_rng, whole_rates=self._physics.whole_rates
            )
            made += 1
            is_enough = step.enough_photons is not None and count > step.enough_photons
            if is_enough:
                count = round(count * self._whole_s / step.dwell_s)
            total += count
            is_dark = count < step.fewest_photons
            if is_enough or is_dark:
                break
        if not is_seen:
            self._bleach(signal, column, [event for event in events if event.step < made])
        if is_dark and self._exposure.dark_is_zero:
            return 0, made
        return (total if self._exposure.sums else count), made

    def _is_there(self, event: _Event) -> bool:
        return (event.site, event.molecule) not in self._gone

    def _photons_hz(self, event: _Event, step: int) -> float:
        return float(self._kernels[(step, *event.row, event.visit)])

    def _bleach(self, signal: FloatImage, column: int, events: list[_Event]) -> None:
        """Take molecules away, from this pixel on."""
        alive, visits = self._alive.reshape(-1), self._kernels.shape[-1]
        for event in events:
            if not self._is_there(event):
                continue
            self._gone.add((event.site, event.molecule))
            alive[event.site] -= 1
            rows = self._kernels[(slice(None), *event.row)]
            signal[:, column : column + visits - event.visit] -= rows[:, event.visit :]

    def _draw_steps(self, hazards: FloatImage, rng: np.random.Generator) -> NDArray[np.intp]:
        """Return the step that each event belongs to, in the ratio of the hazards at its place."""
        events, raster = self._events, self._raster
        at_visits = by_visits(hazards, raster.stride_px)
        row, column = raster.rows.phase[events.y], raster.columns.phase[events.x]
        sums = np.cumsum(at_visits[:, row, events.row_visit, column, events.column_visit], axis=0)
        step: NDArray[np.intp] = np.count_nonzero(sums <= rng.random(len(events)) * sums[-1], axis=0)
        return np.asarray(np.minimum(step, len(hazards) - 1))

    def _events_of(self, line: int) -> dict[int, list[_Event]]:
        """Return the events of a line by column."""
        raster = self._raster
        which = np.arange(self._starts[line], self._starts[line + 1])
        part = self._events.take(which)
        row, phase = raster.rows.phase[part.y].tolist(), raster.columns.phase[part.x].tolist()
        rows = zip(row, part.row_visit.tolist(), phase, strict=True)
        columns = raster.columns.first[part.x] + part.column_visit
        found: dict[int, list[_Event]] = {}
        for column, *values in zip(
            columns.tolist(),
            (part.y * raster.map_width + part.x).tolist(),
            self._molecules[which].tolist(),
            self._steps[which].tolist(),
            part.dwell_before.tolist(),
            rows,
            part.column_visit.tolist(),
            strict=True,
        ):
            found.setdefault(column, []).append(_Event(*values))
        return found
