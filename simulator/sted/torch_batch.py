"""Scans of many maps at once with torch, on a processor or a GPU; the only module here that needs torch.

The law is that of :class:`simulator.sted.engine.STEDEngine`, the chance is not: it comes from torch's own
generators. Nothing walks through lines. What bleaches is drawn for all maps together. A running sum over
the visits of each map pixel then tells how many of its molecules are left when a line comes by, and all
lines of all maps are one matrix product and one Fourier transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simulator.sted.batch import check_batch
from simulator.sted.engine import STEDEngine
from simulator.sted.fluorescence import Correlator
from simulator.sted.raster import Axis, Raster, by_visits
from simulator.sted.scanning import Exposure, Molecules, Scanned, image_shape

_TINY = float(np.finfo(np.float64).tiny)


def scan_many(
    engines: STEDEngine | Sequence[STEDEngine],
    maps: Sequence[Molecules],
    exposures: Sequence[Exposure],
    seed: np.random.SeedSequence,
    *,
    device: str = "cpu",
) -> list[Scanned]:
    """Scan many maps, each with its own light.

    Takes some 30 MB of the device's memory for each map of 114 x 114 pixels: give it as many as fit.

    Parameters
    ----------
    engines, maps, exposures
        As for :func:`simulator.sted.batch.scan_many`.
    seed
        Of all scans together. Images are the same for the same seed, maps and device.
    device
        One of torch's: ``"cpu"``, ``"cuda"``.

    Raises
    ------
    ValueError, TypeError
        As there; and if a detector has a dead time or an engine rounds rates to whole numbers, as pySTED
        does, which are not drawn here.
    """
    each = [engines] * len(maps) if isinstance(engines, STEDEngine) else list(engines)
    check_batch(each, maps, exposures)
    if any(engine.detector.dead_time_s > 0 or engine.physics.whole_rates for engine in each):
        raise ValueError("dead_time_s and whole_rates are not drawn with torch: use simulator.sted.batch")
    if not maps:
        return []
    light = _Light.of(
        each, exposures, image_shape(maps[0], exposures[0].stride_px, each[0].margin_px), device
    )
    rng = torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
    molecules = _tensor(np.stack(maps), device).long()
    bleached = light.draw(molecules, rng)
    before, survivors = _alive(molecules, bleached, light.visits)
    within_dwell = each[0].physics.bleaching_within_dwell
    photons_hz = (light.signal(before) - light.lost(bleached, within_dwell=within_dwell)).clamp(min=0)
    photons = torch.poisson((photons_hz * light.efficiency + light.background_hz) * light.dwell_s, rng)
    images = photons.cpu().numpy().astype(np.uint32)
    left = survivors.cpu().numpy().astype(np.int32)
    return [Scanned(*of_one) for of_one in zip(images, left, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class _Bleached:
    """When molecules bleach, one entry each; see :class:`simulator.sted.bleaching.Bleached`."""

    map: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor
    row_visit: torch.Tensor
    column_visit: torch.Tensor
    passes_before: torch.Tensor
    dwell_before: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """See :class:`simulator.sted.raster.Axis`."""

    first: torch.Tensor
    phase: torch.Tensor
    start: torch.Tensor
    stop: torch.Tensor

    @classmethod
    def of(cls, axis: Axis, device: str) -> _Axis:
        return cls(*(_tensor(values, device) for values in (axis.first, axis.phase, axis.start, axis.stop)))


@dataclass(frozen=True, slots=True, eq=False)
class _Light:
    """The light of each map, on the device. The first axis of its tensors is the map.

    Attributes
    ----------
    raster, rows, columns
        The scan and its two axes.
    kernels, hazards
        Photon rate and hazard of a molecule by the visits, see :func:`simulator.sted.raster.by_visits`.
    down, across, length
        Terms of the kernels, see :class:`simulator.sted.fluorescence.Correlator`.
    efficiency, background_hz, dwell_s
        For each map, shape ``(map, 1, 1)``.
    """

    raster: Raster
    rows: _Axis
    columns: _Axis
    kernels: torch.Tensor
    hazards: torch.Tensor
    down: torch.Tensor
    across: torch.Tensor
    length: int
    efficiency: torch.Tensor
    background_hz: torch.Tensor
    dwell_s: torch.Tensor

    @classmethod
    def of(
        cls,
        engines: Sequence[STEDEngine],
        exposures: Sequence[Exposure],
        shape_yx: tuple[int, int],
        device: str,
    ) -> _Light:
        correlators = [
            engine.plan(exposure, shape_yx)[1] for engine, exposure in zip(engines, exposures, strict=True)
        ]
        hazards = np.stack(
            [
                engine.light(exposure.excitation_w, exposure.sted_w).bleaching_hz * exposure.dwell_s
                for engine, exposure in zip(engines, exposures, strict=True)
            ]
        )
        down, across = _terms(correlators)
        raster = correlators[0].raster

        def of_each(values: list[float]) -> torch.Tensor:
            return _tensor(np.array(values)[:, None, None], device)

        return cls(
            raster=raster,
            rows=_Axis.of(raster.rows, device),
            columns=_Axis.of(raster.columns, device),
            kernels=_tensor(np.stack([correlator.at_visits[0] for correlator in correlators]), device),
            hazards=_tensor(by_visits(hazards, raster.stride_px), device),
            down=_tensor(down, device),
            across=_tensor(across, device),
            length=correlators[0].length,
            efficiency=of_each([engine.detector.efficiency for engine in engines]),
            background_hz=of_each([engine.detector.background_hz for engine in engines]),
            dwell_s=of_each([exposure.dwell_s for exposure in exposures]),
        )

    @property
    def visits(self) -> int:
        """How often a map pixel is lit along an axis, at most."""
        return int(self.kernels.shape[-1])

    def draw(self, molecules: torch.Tensor, rng: torch.Generator) -> _Bleached:
        """Draw what the scans bleach; see :mod:`simulator.sted.bleaching`."""
        rows, columns, passes = self.rows, self.columns, self.raster.passes
        before_dwell = _sums(self.hazards)  # (map, row phase, row visit, column phase, column visits)
        ends = (before_dwell[..., columns.phase, edge] for edge in (columns.stop, columns.start))
        lines = torch.sub(*ends).transpose(2, 3)  # hazards of lines: (map, row phase, x, row visit)
        before_line = _sums(lines)
        number, y, x = molecules.nonzero(as_tuple=True)
        place = (number, rows.phase[y], x)
        total = before_line[(*place, rows.stop[y])] - before_line[(*place, rows.start[y])]
        lost = -torch.expm1(-total)
        count = torch.binomial(molecules[number, y, x].double(), lost, generator=rng).long()
        which = torch.repeat_interleave(count)
        number, y, x, lost = number[which], y[which], x[which], lost[which]
        uniform = torch.rand(len(which), generator=rng, dtype=torch.float64, device=lost.device)
        waited = -torch.log1p(-uniform * lost)

        place = (number, rows.phase[y], x)
        row_visit, left = _search(before_line[place], rows.start[y], rows.stop[y], waited)
        line = lines[(*place, row_visit)]
        done = left / line.clamp(min=_TINY) * passes
        passes_before = done.long().clamp(max=passes - 1)
        left = (done - passes_before) * line
        sums = before_dwell[number, rows.phase[y], row_visit, columns.phase[x]]
        column_visit, left = _search(sums, columns.start[x], columns.stop[x], left)
        dwell = self.hazards[number, rows.phase[y], row_visit, columns.phase[x], column_visit]
        part = left / dwell.clamp(min=_TINY)
        return _Bleached(number, y, x, row_visit, column_visit, passes_before, part.clamp(max=1))

    def signal(self, before: torch.Tensor) -> torch.Tensor:
        """Return what the molecules that are there at the start of each line send, in Hz.

        ``before`` are these molecules by the row visit, shape ``(map, row visit, y, x)``.
        """
        device, step, (lines, columns) = before.device, self.raster.stride_px, self.raster.shape_yx
        line = torch.arange(lines, device=device)[:, None]
        y = step // 2 + line * step + torch.arange(self.down.shape[2], device=device)
        seen = before[:, line - self.rows.first[y], y]  # (map, line, row of the kernel, x)
        spectra = torch.fft.rfft(self.down[:, None] @ seen, self.length)
        mixed = torch.einsum("mltf,mtf->mlf", spectra, self.across)
        return torch.fft.irfft(mixed, self.length)[..., step // 2 : step // 2 + step * columns : step]

    def lost(self, bleached: _Bleached, *, within_dwell: bool) -> torch.Tensor:
        """Return what molecules that bleach during a line no longer send in it, in Hz."""
        raster, visits, device = self.raster, self.visits, self.kernels.device
        visit, now = torch.arange(visits, device=device), bleached.column_visit[:, None]
        part = (visit > now).double()
        if within_dwell:
            part += (visit == now) * (1 - bleached.dwell_before[:, None])
        part = (part + (raster.passes - 1 - bleached.passes_before[:, None])) / raster.passes
        row_phase, column_phase = self.rows.phase[bleached.y], self.columns.phase[bleached.x]
        value = self.kernels[bleached.map, row_phase, bleached.row_visit, column_phase] * part
        # Visits before the first column and after the last one fall into a margin.
        lines, columns = raster.shape_yx
        width = columns + 2 * visits
        line = bleached.map * lines + self.rows.first[bleached.y] + bleached.row_visit
        place = (line * width + visits + self.columns.first[bleached.x])[:, None] + visit
        maps = len(self.kernels)
        lost = torch.zeros(maps * lines * width, dtype=torch.float64, device=device)
        lost.index_add_(0, place.ravel(), value.ravel())
        return lost.reshape(maps, lines, width)[..., visits : visits + columns]


def _alive(molecules: torch.Tensor, bleached: _Bleached, visits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the molecules before each row visit, shape ``(map, row visit, y, x)``, and those after all."""
    maps, height, width = molecules.shape
    place = ((bleached.map * visits + bleached.row_visit) * height + bleached.y) * width + bleached.x
    lost = torch.bincount(place, minlength=maps * visits * height * width).reshape(
        maps, visits, height, width
    )
    gone = lost.cumsum(dim=1)
    return (molecules[:, None] - gone + lost).double(), molecules - gone[:, -1]


def _sums(values: torch.Tensor) -> torch.Tensor:
    """Return the sums of the entries before each one along the last axis, and of all."""
    return torch.nn.functional.pad(values.cumsum(dim=-1), (1, 0))


def _search(
    sums: torch.Tensor, start: torch.Tensor, stop: torch.Tensor, waited: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the entry of each row of sums, from ``start``, in which ``waited`` ends, and how far into it."""
    target = sums.gather(1, start[:, None]) + waited[:, None]
    # Rounding may put a long wait just behind the last entry.
    found = torch.searchsorted(sums.contiguous(), target, right=True) - 1
    found = found.clamp(min=start[:, None]).clamp(max=stop[:, None] - 1)
    return found[:, 0], (target - sums.gather(1, found)).clamp(min=0)[:, 0]


def _terms(correlators: Sequence[Correlator]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the terms of all kernels; those of fewer terms than another get some that are 0."""
    # Light of no power has none, which some Fourier transforms cannot bear.
    most = max(1, *(correlator.terms for correlator in correlators))
    pattern = correlators[0]
    down = np.zeros((len(correlators), most, pattern.side))
    across = np.zeros((len(correlators), most, pattern.length // 2 + 1), np.complex128)
    for number, correlator in enumerate(correlators):
        down[number, : correlator.terms] = correlator.down_terms
        across[number, : correlator.terms] = correlator.across_terms
    return down, across


def _tensor(values: NDArray[Any], device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
