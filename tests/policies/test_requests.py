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
from policies.power_steps import LastUse
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
    assert (inbox.unanswered_in_a_row, inbox.trouble) == (1, "refused: too much light")
    inbox.expect(WANTED)
    inbox.take(replace(NOTHING, frame=frame(0)))
    assert inbox.unanswered_in_a_row == 0


@pytest.mark.parametrize(
    ("answer", "given"), [({"refused": "too much"}, []), ({"failure": "it broke"}, [CONFOCAL])]
)
def test_a_refusal_lit_nothing_and_the_light_of_a_failure_counts(
    answer: dict[str, str], given: list[object]
) -> None:
    inbox = asked()
    assert inbox.take(replace(NOTHING, **answer)) is None  # type: ignore[arg-type]
    assert inbox.given == given
    assert inbox.last_use == LastUse()


def test_a_request_at_which_the_microscope_failed_is_made_twice_more() -> None:
    inbox, reach, failed = asked(), Reach.of(resources()), replace(NOTHING, failure="the shutter is stuck")
    again = [inbox.again(failed, reach) for _ in range(3)]
    assert again == [
        Acquire(reason="try 2 of 3 after a failure: a test", settings=CONFOCAL),
        Acquire(reason="try 3 of 3 after a failure: a test", settings=CONFOCAL),
        None,
    ]
    assert inbox.take(failed) is None
    assert inbox.given == [CONFOCAL] * 3
    assert (inbox.unanswered_in_a_row, inbox.trouble) == (3, "failed: the shutter is stuck")
    inbox.expect(WANTED)
    assert inbox.again(failed, reach) is not None  # a new request has its own tries
    assert inbox.again(replace(NOTHING, refused="too much light"), reach) is None


def test_a_request_is_not_made_again_without_the_light_for_it() -> None:
    failed = replace(NOTHING, failure="the shutter is stuck")
    poor = replace(failed, budget=Budget(energy_j=CONFOCAL.energy_j / 2))
    assert asked().again(poor, Reach.of(resources())) is None
    limits = LIMITS.replace(pixel_dose_max_j_per_m2=1.5 * CONFOCAL.dose_j_per_m2)
    assert asked().again(failed, Reach.of(replace(resources(), limits=limits))) is None


def test_the_last_use_of_a_light_is_the_last_frame_that_had_it() -> None:
    inbox = asked()
    for index, (excitation_w, sted_w) in enumerate([(5e-6, 0.1), (2e-6, 0.05), (0.0, 0.02), (1e-6, 0.0)]):
        scan = CONFOCAL.replace(modality="sted", excitation_w=excitation_w, sted_w=sted_w)
        inbox.expect(Acquire(reason="a test", settings=scan))
        inbox.take(replace(NOTHING, frame=replace(frame(index), settings=scan)))
    assert inbox.last_use == LastUse(1e-6, 0.02)


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


def test_the_time_in_the_dark_counts_as_well() -> None:
    reach, budget = Reach.of(resources()), Budget(duration_s=10.0)
    assert reach.shortage([CONFOCAL], budget, wait_s=9.0) is None
    assert "of time needed" in (reach.shortage([CONFOCAL], budget, wait_s=11.0) or "")


def test_a_plan_of_any_length_costs_nothing_to_make() -> None:
    options = FixedPolicy.Options(steps=(ScanStep(), ScanStep()), repeats=10**12)
    policy = FixedPolicy.from_options(options, resources())
    first = policy.decide(NOTHING)
    assert isinstance(first, Acquire)
    assert first.reason.startswith("scan 1 of 2000000000000")
    refused = replace(NOTHING, refused="too much light")
    assert [isinstance(policy.decide(refused), Stop) for _ in range(4)] == [False, False, False, True]


def test_a_step_may_name_its_focus() -> None:
    region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(1e-6, 1e-6))
    assert ScanStep().at(region).focus_m is None
    assert ScanStep(focus_m=20e-6).at(region).focus_m == 20e-6
