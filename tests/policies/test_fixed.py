from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controller.core.decision import Acquire, Budget, Decision, Dose, Observation, Stop
from controller.core.frame import Frame
from controller.testing import resources
from policies.fixed import FixedPolicy
from policies.requests import ScanStep


def play(scan_s: float, duration_s: float = np.inf, **options: Any) -> tuple[list[float | None], str]:
    """Play a plan whose scans take ``scan_s``, from 2 s on; return its start times and its last words."""
    policy = FixedPolicy.from_options(FixedPolicy.Options(**options), resources())
    frame, now_s = None, 2.0
    starts: list[float | None] = []
    for index in range(50):
        budget = Budget(duration_s=duration_s - now_s)
        decision = policy.decide(Observation(frame, None, None, Dose(), budget, now_s))
        if isinstance(decision, Stop):
            return starts, decision.reason
        assert isinstance(decision, Acquire)
        starts.append(decision.start_s)
        started_s = max(now_s, decision.start_s or 0.0)
        frame = Frame(np.ones(decision.settings.shape_yx), decision.settings, index, started_s)
        now_s = started_s + scan_s
    raise AssertionError("no stop within 50 cycles")


TWO = (ScanStep(), ScanStep())


@pytest.mark.parametrize(
    ("scan_s", "options", "starts"),
    [
        (1.0, {"repeats": 3}, [None] * 3),
        (1.0, {"repeats": 4, "interval_s": 60.0}, [None, 62.0, 122.0, 182.0]),
        (1.0, {"repeats": 3, "interval_s": 60.0, "steps": TWO}, [None, None, 62.0, None, 122.0, None]),
        # Rounds that take longer than the interval follow at once.
        (40.0, {"repeats": 3, "interval_s": 60.0, "steps": TWO}, [None] * 6),
    ],
)
def test_rounds_start_an_interval_apart(
    scan_s: float, options: dict[str, Any], starts: list[float | None]
) -> None:
    assert play(scan_s, **options)[0] == starts


def test_a_round_that_would_start_too_late_is_not_waited_for() -> None:
    starts, last_words = play(1.0, duration_s=100.0, repeats=9, interval_s=60.0)
    assert starts == [None, 62.0]
    assert "the plan ends early" in last_words
    assert "of time needed" in last_words


def test_a_step_at_which_the_microscope_fails_is_tried_again_and_then_passed_over() -> None:
    options = FixedPolicy.Options(steps=TWO, repeats=3, interval_s=60.0)
    policy = FixedPolicy.from_options(options, resources())
    failed = Observation(None, None, None, Dose(), Budget(), 2.0, failure="the shutter is stuck")
    decisions = [policy.decide(failed) for _ in range(13)]
    asked = [d for d in decisions if isinstance(d, Acquire)]
    # Two rounds, two steps, three tries; a wait before the first try of the second round only.
    assert [d.start_s for d in asked] == [None] * 6 + [62.0] + [None] * 5
    assert asked[1].reason == "try 2 of 3 after a failure: scan 1 of 6, step 1: confocal"
    assert asked[6].reason == "scan 3 of 6, step 1: confocal, due at 62.0 s"
    last = decisions[-1]
    assert isinstance(last, Stop)
    assert "step 2 failed: the shutter is stuck" in last.reason


def test_a_movie_is_asked_for_as_one_and_fits_the_budget_as_a_whole() -> None:
    def decide(energy_j: float) -> Decision:
        policy = FixedPolicy.from_options(FixedPolicy.Options(frames=50), resources())
        return policy.decide(Observation(None, None, None, Dose(), Budget(energy_j=energy_j), 0.0))

    movie = decide(np.inf)
    assert isinstance(movie, Acquire)
    assert movie.frames == 50
    needed_j = 50 * movie.settings.energy_j
    assert decide(1.01 * needed_j) == movie
    short = decide(0.99 * needed_j)
    assert isinstance(short, Stop)
    assert "energy" in short.reason
