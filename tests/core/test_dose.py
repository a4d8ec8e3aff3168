"""The ledger only grows, adds up, and never underestimates a place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.dose import DoseLedger, DoseMap, Lit
from controller.core.errors import DoseBudgetError
from controller.core.settings import Region
from controller.testing import CONFOCAL, LIMITS

places = st.floats(-9e-6, 9e-6)
sides = st.floats(2e-8, 2e-6)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    return Region(center_yx_m=(draw(places), draw(places)), size_yx_m=(draw(sides), draw(sides)))


@given(
    st.lists(st.tuples(regions(), st.floats(0, 1e9)), min_size=1, max_size=8), st.integers(0, 7), st.data()
)
def test_each_point_of_a_map_has_at_least_the_doses_that_fell_on_it(
    scans: list[tuple[Region, float]], which: int, data: st.DataObject
) -> None:
    dose_map = DoseMap(1e-7)
    for region, dose in scans:
        dose_map.add(region, dose)
    y0, x0, y1, x1 = scans[which % len(scans)][0].bounds_yx_m
    y, x = data.draw(st.floats(y0, y1)), data.draw(st.floats(x0, x1))
    fallen = 0.0
    for region, dose in scans:
        v0, u0, v1, u1 = region.bounds_yx_m
        if v0 <= y < v1 and u0 <= x < u1:
            fallen += dose
    spot = Region(center_yx_m=(y, x), size_yx_m=(1e-7, 1e-7))
    assert dose_map.peak(spot) >= fallen * (1 - 1e-12)


def test_neighbours_that_share_an_edge_do_not_share_a_dose() -> None:
    dose_map = DoseMap(1e-7)
    left = Region(center_yx_m=(0.0, -0.5e-6), size_yx_m=(1e-6, 1e-6))
    right = Region(center_yx_m=(0.0, 0.5e-6), size_yx_m=(1e-6, 1e-6))
    dose_map.add(left, 1.0)
    dose_map.add(right, 1.0)
    assert dose_map.peak(left) == dose_map.peak(right) == 1.0
    assert dose_map.over(left).shape == (10, 10)


def test_a_map_reaches_as_far_as_a_stage() -> None:
    dose_map = DoseMap(1e-7)
    far = Region(center_yx_m=(0.1, -0.1), size_yx_m=(60e-6, 60e-6))
    dose_map.add(far, 2.0)
    assert np.all(dose_map.over(far) == 2.0)
    assert dose_map.peak(CONFOCAL.region) == 0.0


def test_a_scan_that_is_not_settled_blocks_the_next_one() -> None:
    ledger = DoseLedger(LIMITS, "test")
    booking = ledger.reserve(CONFOCAL)
    with pytest.raises(DoseBudgetError, match="still booked"):
        ledger.reserve(CONFOCAL)
    assert ledger.energy_left_j == pytest.approx(LIMITS.session_energy_max_j - CONFOCAL.energy_j)
    ledger.cancel(booking)
    assert ledger.delivered.energy_j == 0
    with pytest.raises(ValueError, match="not the open one"):
        ledger.settle(booking, booking.lit())


def test_what_a_record_books_again_equals_what_was_booked() -> None:
    limits = LIMITS.replace(dose_margin=1.3)
    lived, restored = DoseLedger(limits, "test"), DoseLedger(limits, "test")
    lived.settle(lived.reserve(CONFOCAL), Lit.by(CONFOCAL))
    worst = lived.reserve(CONFOCAL)
    lived.settle(worst, worst.lit())
    restored.restore(Lit.by(CONFOCAL))
    restored.restore(worst.lit())
    assert restored.delivered == lived.delivered
    assert restored.delivered.energy_j == pytest.approx(2.3 * CONFOCAL.energy_j)
