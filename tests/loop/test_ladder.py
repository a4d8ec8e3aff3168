"""Down after three slow frames in ten, up after a hundred that would fit; a climb that fails waits longer."""

from __future__ import annotations

import numpy as np
import pytest

from controller.ladder import CLEAN_FRAMES, COARSE, FALLBACK, FULL, SPARSE, Ladder

BUDGET_S = 0.033
ALL = (FULL, SPARSE, COARSE, FALLBACK)
SLOW, QUICK = 0.05, 0.01


def count(ladder: Ladder, took_s: float, times: int = 1, above_s: float | None = None) -> int:
    for _ in range(times):
        ladder.count(took_s, took_s if above_s is None else above_s)
    return ladder.level


def test_three_slow_frames_in_ten_go_one_level_down() -> None:
    ladder = Ladder(BUDGET_S, ALL)
    assert count(ladder, SLOW, 2) == FULL
    assert count(ladder, QUICK, 7) == FULL
    assert count(ladder, SLOW) == SPARSE, "the tenth is the third"


def test_three_slow_frames_in_more_than_ten_are_borne() -> None:
    ladder = Ladder(BUDGET_S, ALL)
    for _ in range(20):
        count(ladder, SLOW)
        count(ladder, QUICK, 4)
    assert ladder.level == FULL, "two in ten, for ever"


def test_it_ends_at_the_lowest_level_there_is() -> None:
    assert count(Ladder(BUDGET_S, ALL), SLOW, 100) == FALLBACK
    assert count(Ladder(BUDGET_S, (FULL, SPARSE)), SLOW, 100) == SPARSE
    assert count(Ladder(BUDGET_S), SLOW, 100) == FULL


def test_a_hundred_frames_that_would_fit_above_go_one_level_up() -> None:
    ladder = Ladder(BUDGET_S, ALL)
    ladder.fall()
    assert count(ladder, QUICK, CLEAN_FRAMES - 1) == SPARSE
    assert count(ladder, QUICK) == FULL


def test_frames_that_fit_here_but_not_above_never_lead_up() -> None:
    ladder = Ladder(BUDGET_S, ALL)
    ladder.fall()
    assert count(ladder, QUICK, 5 * CLEAN_FRAMES, above_s=SLOW) == SPARSE


def test_one_frame_that_would_not_fit_begins_the_hundred_again() -> None:
    ladder = Ladder(BUDGET_S, ALL)
    ladder.fall()
    count(ladder, QUICK, CLEAN_FRAMES - 1)
    count(ladder, QUICK, above_s=SLOW)
    assert count(ladder, QUICK, CLEAN_FRAMES - 1) == SPARSE
    assert count(ladder, QUICK) == FULL


def climbs(ladder: Ladder, frames: int) -> list[int]:
    """Return the frames at which it goes up, on a computer that is too slow for the level above."""
    found = []
    for frame in range(frames):
        before = ladder.level
        if count(ladder, SLOW if before == FULL else QUICK) < before:
            found.append(frame)
    return found


def test_a_climb_that_fails_waits_twice_as_long_each_time() -> None:
    ladder = Ladder(BUDGET_S, (FULL, FALLBACK))
    waits = np.diff(climbs(ladder, 4000))
    assert [wait - 3 for wait in waits] == [200, 400, 800, 1600], "three slow frames, then the wait"


def test_a_climb_that_holds_is_forgiven() -> None:
    ladder = Ladder(BUDGET_S, (FULL, FALLBACK))
    climbs(ladder, 1000)
    count(ladder, QUICK, 4000)
    assert ladder.level == FULL
    count(ladder, SLOW, 3)
    assert count(ladder, QUICK, CLEAN_FRAMES) == FULL


def test_it_does_not_flap_on_a_computer_that_is_just_too_slow() -> None:
    """Frame times about the budget, for an hour at 30 Hz: it changes some dozens of times, not thousands."""
    rng = np.random.default_rng(3)
    ladder, changes, before = Ladder(BUDGET_S, (FULL, SPARSE)), 0, FULL
    for took_s in BUDGET_S * rng.lognormal(0.0, 0.2, 108_000):
        # Without the segmentation a frame takes half the time.
        at_full = ladder.level == FULL
        ladder.count(float(took_s) if at_full else float(took_s) / 2, float(took_s))
        changes += ladder.level != before
        before = ladder.level
    assert changes < 60
    assert ladder.level == SPARSE


def test_without_a_budget_time_never_matters_and_memory_does() -> None:
    ladder = Ladder(None, ALL)
    assert count(ladder, 1e9, 50) == FULL
    assert ladder.fall(COARSE)
    assert ladder.level == COARSE
    assert count(ladder, 1e9, CLEAN_FRAMES) == SPARSE


@pytest.mark.parametrize("took_s", [float("nan"), float("inf")])
def test_a_time_that_is_none_counts_as_too_slow(took_s: float) -> None:
    assert count(Ladder(BUDGET_S, ALL), took_s, 3) == SPARSE


def test_a_level_that_is_no_more_is_left() -> None:
    ladder = Ladder(BUDGET_S, ALL)
    ladder.fall(FALLBACK)
    ladder.allow((FULL, SPARSE, COARSE))
    assert ladder.level == COARSE
    ladder.allow((FALLBACK,))
    assert ladder.level == FALLBACK
    assert not ladder.fall()


def test_it_follows_a_record_and_begins_to_count_anew() -> None:
    ladder = Ladder(BUDGET_S, ALL)
    count(ladder, SLOW, 2)
    ladder.follow(FULL)
    assert count(ladder, SLOW) == SPARSE, "being told what it knows changes nothing"
    ladder.follow(COARSE)
    assert count(ladder, SLOW, 2) == COARSE
    assert count(ladder, SLOW) == FALLBACK
