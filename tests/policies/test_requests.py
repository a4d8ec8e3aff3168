from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.core.decision import Acquire, Budget, Dose, Observation, Stop
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.settings import Region
from controller.testing import CONFOCAL, LIMITS, resources
from policies.fixed import FixedPolicy
from policies.requests import Inbox, Reach, ScanStep

NOTHING = Observation(None, None, None, Dose(), Budget(), 0.0)
WANTED = Acquire(reason="a test", settings=CONFOCAL)


def frame(index: int) -> Frame:
    return Frame(np.ones(CONFOCAL.shape_yx), CONFOCAL, index, 0.0)


def asked() -> Inbox:
    inbox = Inbox()
    inbox.take(NOTHING)
    inbox.expect(WANTED)
    return inbox


def test_a_frame_answers_one_request_only() -> None:
    inbox, seen = asked(), replace(NOTHING, frame=frame(0))
    assert inbox.take(seen) is seen.frame
    assert inbox.take(seen) is None
    inbox.expect(WANTED)
    assert inbox.take(seen) is None  # the newest frame is still the old one
    assert inbox.given == [CONFOCAL, CONFOCAL]  # the second scan was lost, its light was not


def test_refusals_are_counted_until_a_frame_comes() -> None:
    inbox = asked()
    inbox.take(replace(NOTHING, refused="too much light"))
    inbox.take(replace(NOTHING, refused="an old refusal"))
    assert inbox.refused_in_a_row == 1
    inbox.expect(WANTED)
    inbox.take(replace(NOTHING, frame=frame(0)))
    assert inbox.refused_in_a_row == 0


@pytest.mark.parametrize(("frames_booked", "given"), [(0, []), (1, [CONFOCAL])])
def test_a_refusal_after_light_is_a_failure_that_the_sample_paid_for(
    frames_booked: int, given: list[object]
) -> None:
    inbox = asked()
    assert inbox.take(replace(NOTHING, dose=Dose(frames=frames_booked), refused="it failed")) is None
    assert inbox.given == given


def test_the_dose_that_is_left_counts_the_scans_that_touch_the_cells_of_a_region() -> None:
    reach, size = Reach.of(resources()), CONFOCAL.region.size_yx_m
    left = [
        reach.dose_left_j_per_m2(Region(center_yx_m=(0.0, x), size_yx_m=size), [CONFOCAL, CONFOCAL])
        for x in (0.0, size[1] + 0.9 * LIMITS.dose_cell_m, size[1] + 1.1 * LIMITS.dose_cell_m)
    ]
    near, far = LIMITS.pixel_dose_max_j_per_m2 - 2 * CONFOCAL.dose_j_per_m2, LIMITS.pixel_dose_max_j_per_m2
    assert left == pytest.approx([near, near, far])


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(), None),
        (Budget(energy_j=0.0), "of energy needed, 0 J left"),
        (Budget(duration_s=0.5), "of time needed, 0.5 s left"),
        (Budget(cycles=1.0), "up to 2 of cycles needed, 1 left"),
        (Budget(energy_j=float("nan")), "of energy needed"),
    ],
)
def test_what_is_short_is_said(budget: Budget, said: str | None) -> None:
    slow = CONFOCAL.replace(dwell_s=1e-3)
    short = Reach.of(resources()).shortage([slow, slow], budget)
    assert (short is None) if said is None else (short is not None and said in short)


def test_a_policy_without_a_microscope_cannot_be_made() -> None:
    with pytest.raises(ConfigurationError, match="capabilities"):
        Reach.of(replace(resources(), capabilities=None))


def test_a_plan_of_any_length_costs_nothing_to_make() -> None:
    options = FixedPolicy.Options(steps=(ScanStep(), ScanStep()), repeats=10**12)
    policy = FixedPolicy.from_options(options, resources())
    first = policy.decide(NOTHING)
    assert isinstance(first, Acquire)
    assert first.reason.startswith("scan 1 of 2000000000000")
    refused = replace(NOTHING, refused="too much light")
    assert [isinstance(policy.decide(refused), Stop) for _ in range(4)] == [False, False, False, True]
