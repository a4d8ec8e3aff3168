"""How much light the sample has had: a ledger that only grows, and a map of where it fell.

Light is booked in two steps. The worst case is reserved before a scan; what was delivered is
settled after it. A reservation that is never settled (a crash, a pulled cable) counts in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from controller.core.decision import Dose
from controller.core.errors import DoseBudgetError
from controller.core.limits import SafetyLimits
from controller.core.settings import Region, ScanSettings

_TILE = 256


class DoseMap:
    """Light energy per area on a grid over the sample, kept in tiles so that a stage may travel far.

    A scan counts in full in each cell that its region touches, so the map never underestimates.
    """

    def __init__(self, cell_m: float) -> None:
        self.cell_m = cell_m
        self._tiles: dict[tuple[int, int], NDArray[np.float64]] = {}

    def add(self, region: Region, dose_j_per_m2: float) -> float:
        """Add a dose to each cell that ``region`` touches; return the largest that one has now, in J/m²."""
        row0, column0, row1, column1 = self._cells(region)
        peak = 0.0
        for tile_row in range(row0 // _TILE, (row1 - 1) // _TILE + 1):
            for tile_column in range(column0 // _TILE, (column1 - 1) // _TILE + 1):
                if (tile_row, tile_column) not in self._tiles:
                    self._tiles[tile_row, tile_column] = np.zeros((_TILE, _TILE))
                origin_row, origin_column = tile_row * _TILE, tile_column * _TILE
                cells = self._tiles[tile_row, tile_column][
                    max(0, row0 - origin_row) : row1 - origin_row,
                    max(0, column0 - origin_column) : column1 - origin_column,
                ]
                cells += dose_j_per_m2
                peak = max(peak, float(cells.max()))
        return peak

    def peak(self, region: Region) -> float:
        """Return the largest dose within ``region``, in J/m²."""
        return float(self.over(region).max())

    def over(self, region: Region) -> NDArray[np.float64]:
        """Return the doses of all cells that ``region`` touches, shape ``(y, x)``, in J/m²."""
        row0, column0, row1, column1 = self._cells(region)
        doses = np.zeros((row1 - row0, column1 - column0))
        for (tile_row, tile_column), tile in self._tiles.items():
            top, left = tile_row * _TILE, tile_column * _TILE
            rows = slice(max(row0, top), min(row1, top + _TILE))
            columns = slice(max(column0, left), min(column1, left + _TILE))
            if rows.start < rows.stop and columns.start < columns.stop:
                doses[
                    rows.start - row0 : rows.stop - row0, columns.start - column0 : columns.stop - column0
                ] = tile[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return doses

    def _cells(self, region: Region) -> tuple[int, int, int, int]:
        # A thousandth of a cell of slack: regions that share an edge must not share cells by rounding.
        y0, x0, y1, x1 = (bound / self.cell_m for bound in region.bounds_yx_m)
        row0, column0 = floor(y0 + 1e-3), floor(x0 + 1e-3)
        return row0, column0, max(row0 + 1, ceil(y1 - 1e-3)), max(column0 + 1, ceil(x1 - 1e-3))


@dataclass(frozen=True, slots=True)
class Lit:
    """Light that fell: where, how much in all, how much on each place, and in how many scans."""

    region: Region
    energy_j: float
    dose_j_per_m2: float
    frames: int = 1

    @classmethod
    def by(cls, settings: ScanSettings) -> Lit:
        """Return the light of a scan that was done exactly so."""
        return cls(settings.scanned_region, settings.energy_j, settings.dose_j_per_m2)

    @classmethod
    def sum(cls, lit: Sequence[Lit]) -> Lit:
        """Return the light of one or more scans of the same region."""
        if len(lit) == 1:
            return lit[0]
        energy_j, dose = sum(one.energy_j for one in lit), sum(one.dose_j_per_m2 for one in lit)
        return cls(lit[0].region, energy_j, dose, sum(one.frames for one in lit))


@dataclass(frozen=True, slots=True)
class Reservation:
    """The worst case of one scan, or of all ``frames`` of a movie, booked before its light."""

    settings: ScanSettings
    energy_j: float
    dose_j_per_m2: float
    frames: int = 1

    @property
    def duration_s(self) -> float:
        """Return the light time that is booked."""
        return self.frames * self.settings.duration_s

    def lit(self, times: float = 1.0) -> Lit:
        """Return the light of the worst case, or of so many ``times`` its duration."""
        region = self.settings.scanned_region
        return Lit(region, times * self.energy_j, times * self.dose_j_per_m2, self.frames)


class DoseLedger:
    """The dose of one session: reserved before light, settled after it, never smaller.

    Raises
    ------
    DoseBudgetError
        By :meth:`reserve`, if the worst case of a scan does not fit the budget.
    """

    def __init__(self, limits: SafetyLimits, source: str) -> None:
        self._limits = limits
        self._source = source
        self._reserved: Reservation | None = None
        self.map = DoseMap(limits.dose_cell_m)
        self.delivered = Dose()

    @property
    def energy_left_j(self) -> float:
        """Return the energy that may still be reserved, in joules."""
        reserved_j = self._reserved.energy_j if self._reserved else 0.0
        return max(0.0, self._limits.session_energy_max_j - self.delivered.energy_j - reserved_j)

    def worst_case(self, settings: ScanSettings, frames: int = 1) -> Reservation:
        """Return what a scan, or a movie of it, would book: its request times the margin of the limits."""
        times = frames * self._limits.dose_margin
        return Reservation(settings, settings.energy_j * times, settings.dose_j_per_m2 * times, frames)

    def reserve(self, settings: ScanSettings, frames: int = 1) -> Reservation:
        """Book the worst case of a scan, or of a movie of so many ``frames``, or refuse it."""
        if self._reserved is not None:
            raise DoseBudgetError("a scan is still booked; settle it before the next one is reserved")
        booking, limits = self.worst_case(settings, frames), self._limits
        energy_j = self.delivered.energy_j + booking.energy_j
        if not energy_j <= limits.session_energy_max_j:
            raise DoseBudgetError(
                f"this scan needs up to {booking.energy_j:.3g} J, left is {self.energy_left_j:.3g} J of "
                f"{limits.session_energy_max_j:.3g} J (session_energy_max_j in {self._source})"
            )
        before = self.delivered.peak_j_per_m2
        if not before + booking.dose_j_per_m2 <= limits.pixel_dose_max_j_per_m2:
            # Not everywhere; but perhaps here.
            before = self.map.peak(_grown(settings.scanned_region, settings.pixel_size_m / 2))
        if not before + booking.dose_j_per_m2 <= limits.pixel_dose_max_j_per_m2:
            raise DoseBudgetError(
                f"this scan puts up to {booking.dose_j_per_m2:.3g} J/m² on its region, which has had up to "
                f"{before:.3g} J/m²; allowed is {limits.pixel_dose_max_j_per_m2:.3g} J/m² "
                f"(pixel_dose_max_j_per_m2 in {self._source})"
            )
        self._reserved = booking
        return booking

    def cancel(self, reservation: Reservation) -> None:
        """Take a reservation back, before anything was lit."""
        self._check_open(reservation)
        self._reserved = None

    def settle(self, reservation: Reservation, lit: Lit) -> None:
        """Book what a scan delivered."""
        self._check_open(reservation)
        self._deliver(lit)
        self._reserved = None

    def restore(self, lit: Lit) -> None:
        """Book a scan of an earlier part of this session, from its record."""
        self._deliver(lit)

    def _check_open(self, reservation: Reservation) -> None:
        if self._reserved is not reservation:
            raise ValueError("this reservation is not the open one")

    def _deliver(self, lit: Lit) -> None:
        # The total first: an interrupt half-way must not leave light out of the budget.
        self.delivered = replace(
            self.delivered,
            energy_j=self.delivered.energy_j + lit.energy_j,
            frames=self.delivered.frames + lit.frames,
        )
        peak = max(self.delivered.peak_j_per_m2, self.map.add(lit.region, lit.dose_j_per_m2))
        self.delivered = replace(self.delivered, peak_j_per_m2=peak)


def _grown(region: Region, by_m: float) -> Region:
    """Return the region and what a driver that snaps to its own grid may scan beside it."""
    height, width = region.size_yx_m
    return region.replace(size_yx_m=(height + 2 * by_m, width + 2 * by_m))
