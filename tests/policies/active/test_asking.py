"""The policy that asks in between: its rule, its limits, and that the policy inside never notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.decision import (
    Acquire,
    AskLabel,
    Budget,
    Decision,
    Dose,
    Family,
    Observation,
    Question,
    Stop,
)
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame, Segmentation
from controller.core.protocols import Closes, Policy
from controller.core.settings import Region, ScanSettings
from controller.testing import PolicyContract, resources
from policies.active.asking import (
    AskingPolicy,
    FrameGains,
    entropy_bits,
    least_sure_square,
    price_s,
)
from policies.places import overlap_fraction, overlap_m2

SIDE_M = 3.2e-6
PIXEL_M = 100e-9


def scan(y_um: float = 0.0, x_um: float = 0.0, **changes: Any) -> ScanSettings:
    region = Region(center_yx_m=(y_um * 1e-6, x_um * 1e-6), size_yx_m=(SIDE_M, SIDE_M))
    settings = ScanSettings(
        modality="confocal", region=region, pixel_size_m=PIXEL_M, dwell_s=1e-3, excitation_w=10e-6
    )
    return settings.replace(**changes)


def segmented(frame: Frame, probability: float) -> Segmentation:
    """Return a map that takes each pixel for foreground with the same probability."""
    shape = frame.photons.shape
    uncertainty = np.full(shape, entropy_bits(probability), np.float32)
    return Segmentation(np.zeros(shape, np.int32), np.full(shape, probability, np.float32), uncertainty)


class Scripted:
    """Wants these decisions, then stops; keeps what it was shown."""

    family: ClassVar[Family] = "open-loop"

    def __init__(self, wanted: Sequence[Decision]) -> None:
        self.wanted, self.seen, self.is_closed = list(wanted), list[Observation](), False

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return self.wanted.pop(0) if self.wanted else Stop(reason="the script is over")

    def close(self) -> None:
        self.is_closed = True


def acquire(settings: ScanSettings) -> Acquire:
    return Acquire(reason="scripted", settings=settings)


def play(
    policy: AskingPolicy, look: Any, *, budget: Budget | None = None, frame_s: float = 10.0
) -> list[Decision]:
    """Drive a policy; ``look`` segments each frame. Each frame takes ``frame_s`` on the clock."""
    decisions: list[Decision] = []
    now_s, index = 0.0, 0
    seen = Observation(None, None, None, Dose(), budget or Budget(), now_s)
    while True:
        decision = policy.decide(seen)
        decisions.append(decision)
        seen = replace(seen, budget=replace(seen.budget, cycles=seen.budget.cycles - 1))
        if isinstance(decision, Stop):
            return decisions
        if isinstance(decision, Acquire):
            now_s += frame_s
            frame = Frame(np.ones(decision.settings.shape_yx), decision.settings, index, now_s)
            index += 1
            seen = replace(seen, frame=frame, segmentation=look(frame), now_s=now_s)


def make(wanted: Sequence[Decision], **options: Any) -> tuple[AskingPolicy, Scripted]:
    inner = Scripted(wanted)
    usual: dict[str, Any] = {
        "interval_s": 0.0,
        "answer_s": 2.0,
        "size_m": 0.8e-6,
        "choices": ("ring", "fiber"),
    }
    return AskingPolicy(AskingPolicy.Options(**{**usual, **options}), inner), inner


def kinds(decisions: Sequence[Decision]) -> str:
    return "".join(
        "?" if isinstance(d, AskLabel) else "s" if isinstance(d, Acquire) else "." for d in decisions
    )


def questions(decisions: Sequence[Decision]) -> list[AskLabel]:
    return [d for d in decisions if isinstance(d, AskLabel)]


class TestAskingPolicy(PolicyContract):
    def make(self, seed: int = 0) -> Policy:
        return AskingPolicy.from_options(AskingPolicy.Options(), resources(seed))


class TestAskingPolicyAroundAPlan(PolicyContract):
    def make(self, seed: int = 0) -> Policy:
        options: dict[str, Any] = {
            "policy": "fixed",
            "policy_options": {"repeats": 6, "steps": [{}, {"dwell_s": 2e-5}]},
        }
        return AskingPolicy.from_options(AskingPolicy.Options(**options), resources(seed))


def test_a_frame_that_shows_something_new_is_worth_more_than_a_question() -> None:
    """A sure frame of a half-full place tells 1 bit a pixel; a scan takes 1.02 s, an answer 2 s."""
    policy, _ = make([acquire(scan(x_um=5.0 * n)) for n in range(5)])
    decisions = play(policy, lambda frame: half_full(frame, doubt=0.9))
    assert kinds(decisions) == "sssss."
    evidence = decisions[2].evidence
    assert evidence["answer_bits_per_s"] == pytest.approx(0.9 / 2.0)
    assert evidence["frame_bits_per_s"] == pytest.approx(evidence["frame_bits"] / 1.024)
    assert evidence["frame_bits"] == pytest.approx(1 - 0.9 * 64 / 1024, abs=1e-3)


def half_full(frame: Frame, doubt: float) -> Segmentation:
    half = np.zeros(frame.photons.shape, np.float32)
    half[:16] = 1
    uncertainty = np.zeros(half.shape, np.float32)
    uncertainty[4:12, 20:28] = doubt
    return Segmentation(half.astype(np.int32), half, uncertainty)


def test_where_the_same_is_imaged_again_a_question_is_worth_more() -> None:
    policy, inner = make([acquire(scan()) for _ in range(3)])
    decisions = play(policy, lambda frame: half_full(frame, doubt=0.9))
    # The second frame shows that looking again changes nothing.
    assert kinds(decisions) == "ss?s."
    (asked,) = questions(decisions)
    assert asked.evidence["frame_bits"] == 0.0
    assert asked.evidence["doubt_bits"] == pytest.approx(0.9)
    assert asked.question.frame_index == 1
    # 20 of 32 columns and 4 of 32 rows from the corner of a field about 0, then half a square.
    assert asked.question.region.center_yx_m == pytest.approx((-0.8e-6, 0.8e-6))
    assert asked.question.choices == ("ring", "fiber")
    assert len(inner.seen) == 4


@pytest.mark.parametrize(
    ("options", "is_asked"),
    [
        ({}, True),
        ({"person_worth": 1000.0}, False),
        ({"answer_s": 2000.0}, False),
        ({"doubt_min_bits": 0.95}, False),
        ({"modality": "sted"}, False),
        ({"modality": "confocal"}, True),
        ({"questions_max": 0}, False),
        ({"size_m": 3.2e-6}, False),
    ],
)
def test_each_price_and_each_limit_decides(options: dict[str, Any], *, is_asked: bool) -> None:
    """Looking again takes a tenth of a doubt of .06 bits a pixel away: .006 bits in 1 s."""
    policy, _ = make([acquire(scan()) for _ in range(6)], **options)
    decisions = play(policy, lambda frame: half_full(frame, doubt=0.9 * 0.9 ** min(frame.index, 1)))
    assert bool(questions(decisions)) == is_asked


@pytest.mark.parametrize(
    ("budget", "expected_s"),
    [
        (Budget(), 1.024),
        (Budget(energy_j=1e-3), 1.024),
        (Budget(energy_j=1e-3, duration_s=10.0), 1.024),
        (Budget(energy_j=1e-4, duration_s=1000.0), 102.4),
        (Budget(energy_j=0.0, duration_s=1000.0), 1.024),
    ],
)
def test_a_frame_costs_its_time_or_that_in_which_its_light_is_earned(
    budget: Budget, expected_s: float
) -> None:
    assert scan().duration_s == pytest.approx(1.024)
    assert scan().energy_j == pytest.approx(10.24e-6)
    assert price_s(scan(), budget) == pytest.approx(expected_s)


def test_scarce_light_makes_questions_worth_asking() -> None:
    script = [acquire(scan(x_um=5.0 * n)) for n in range(4)]
    scarce = Budget(energy_j=1e-4, duration_s=1000.0)
    found = [
        kinds(play(make(script)[0], lambda frame: half_full(frame, doubt=0.9), budget=budget))
        for budget in (Budget(), scarce)
    ]
    assert found == ["ssss.", "s?s?s?s."]


def test_nothing_is_asked_twice_about_one_place_nor_more_than_may_be() -> None:
    policy, _ = make([acquire(scan()) for _ in range(40)], questions_max=12)
    asked = questions(play(policy, lambda frame: segmented(frame, 0.4)))
    assert len(asked) == 12
    regions = [a.question.region for a in asked]
    assert all(overlap_m2(a, b) < 1e-20 for a, b in combinations(regions, 2))
    assert all(scan().region.contains(region) for region in regions)
    all_of_it, _ = make([acquire(scan()) for _ in range(40)], questions_max=40)
    asked = questions(play(all_of_it, lambda frame: segmented(frame, 0.4)))
    assert len(asked) <= 16  # so many squares fit side by side


@pytest.mark.parametrize(("interval_s", "count"), [(0.0, 13), (10.0, 13), (25.0, 5), (1000.0, 1)])
def test_a_person_has_time_to_answer(interval_s: float, count: int) -> None:
    policy, _ = make([acquire(scan()) for _ in range(14)], interval_s=interval_s, size_m=0.4e-6)
    asked = questions(play(policy, lambda frame: segmented(frame, 0.4)))
    assert len(asked) == count


@pytest.mark.parametrize(
    ("budget", "count"),
    [(Budget(questions=0), 0), (Budget(cycles=60), 5), (Budget(cycles=9), 0), (Budget(), 20)],
)
def test_questions_keep_to_the_budget_and_leave_nine_of_ten_cycles_to_imaging(
    budget: Budget, count: int
) -> None:
    policy, inner = make([acquire(scan()) for _ in range(30)], size_m=0.3e-6)
    asked = questions(play(policy, lambda frame: segmented(frame, 0.4), budget=budget))
    assert len(asked) == count
    left = [seen.budget.cycles for seen in inner.seen]
    assert left[0] >= 0.9 * budget.cycles
    # To the policy inside a frame is one cycle less, with or without a question before it.
    assert np.isinf(left[0]) or all(later >= before - 1 for before, later in pairwise(left))


def test_cycles_that_no_question_needs_are_all_used_for_imaging() -> None:
    policy, inner = make([acquire(scan()) for _ in range(100)])
    play(policy, lambda frame: segmented(frame, 0.0), budget=Budget(cycles=100))
    cycles = [seen.budget.cycles for seen in inner.seen]
    assert cycles[0] == 90
    assert cycles[-10:] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_the_policy_inside_sees_the_same_with_and_without_questions() -> None:
    script = [acquire(scan(x_um=n % 3)) for n in range(12)]
    seen = []
    for questions_max in (0, 20):
        policy, inner = make(script, questions_max=questions_max)
        decisions = play(policy, lambda frame: segmented(frame, 0.4))
        assert bool(questions(decisions)) == (questions_max > 0)
        taken = [d.settings for d in decisions if isinstance(d, Acquire)]
        assert taken == [a.settings for a in script]
        seen.append([(o.frame and o.frame.index, o.now_s) for o in inner.seen])
    assert seen[0] == seen[1]


def test_after_a_refused_question_the_frame_is_taken_and_nothing_more_is_asked() -> None:
    policy, _ = make([acquire(scan()) for _ in range(8)])
    frame = Frame(np.ones(scan().shape_yx), scan(), 0, 0.0)
    policy.decide(Observation(None, None, None, Dose(), Budget(), 0.0))
    seen = Observation(frame, None, segmented(frame, 0.4), Dose(), Budget(), 1.0)
    assert isinstance(policy.decide(seen), AskLabel)
    assert isinstance(policy.decide(replace(seen, refused="no more questions")), Acquire)
    for index in range(1, 5):
        newer = replace(seen, frame=replace(frame, index=index), now_s=100.0 * index)
        assert isinstance(policy.decide(newer), Acquire)


def test_a_frame_is_considered_once_even_if_no_newer_one_comes() -> None:
    policy, _ = make([acquire(scan()) for _ in range(6)])
    frame = Frame(np.ones(scan().shape_yx), scan(), 0, 0.0)
    seen = Observation(frame, None, segmented(frame, 0.4), Dose(), Budget(), 1.0)
    assert isinstance(policy.decide(seen), AskLabel)
    for now_s in (2.0, 3.0, 4.0):
        failed = replace(seen, failure="no light", now_s=now_s)
        assert isinstance(policy.decide(failed), Acquire)


def test_what_looking_again_tells_is_the_fall_since_the_last_look() -> None:
    gains = FrameGains()
    for index, doubt in enumerate((0.9, 0.6, 0.6)):
        frame = Frame(np.ones(scan().shape_yx), scan(), index, 0.0)
        flat = np.full(scan().shape_yx, doubt, np.float32)
        found = Segmentation(np.zeros(flat.shape, np.int32), flat, flat)
        gains.learn(Observation(frame, None, found, Dose(), Budget(), 1.0))
    # The mean of a fall by .3 and none, of which the newest counts .3.
    assert gains.expected_bits(scan()) == pytest.approx(0.7 * 0.3, abs=1e-6)


def test_choices_of_the_policy_inside_are_all_passed_on_because_they_are_not_about_a_place() -> None:
    region = scan().region
    choice = Question(frame_index=0, region=region, kind="choice", text="Which one?")
    wanted: list[Decision] = [acquire(scan()), *5 * [AskLabel(reason="scripted", question=choice)]]
    policy, _ = make(wanted, doubt_min_bits=1.0)
    assert questions(play(policy, lambda f: segmented(f, 0.5))) == wanted[1:]


def test_a_question_of_the_policy_inside_is_passed_on_unless_its_place_was_asked_about() -> None:
    def ask(region: Region) -> AskLabel:
        question = Question(frame_index=0, region=region, kind="score", text="How good?")
        return AskLabel(reason="scripted", question=question)

    elsewhere = Region(center_yx_m=(9e-6, 9e-6), size_yx_m=(1e-6, 1e-6))
    here = scan().region
    script: list[Decision] = [
        acquire(scan()),
        ask(elsewhere),
        acquire(scan()),
        ask(elsewhere),
        ask(here),
        acquire(scan()),
    ]
    policy, _ = make(script, size_m=3.2e-6)
    decisions = play(policy, lambda frame: segmented(frame, 0.4))
    # The second question about "elsewhere" and the script's about "here" are left out.
    regions = [a.question.region for a in questions(decisions)]
    assert regions[0] == elsewhere
    assert sum(overlap_fraction(region, here) > 0.9 for region in regions) == 1
    assert sum(isinstance(d, Acquire) for d in decisions) == 3
    assert isinstance(decisions[-1], Stop)
    for_ever, _ = make([ask(elsewhere)] * 50)
    assert kinds(play(for_ever, None)) == "?."


@pytest.mark.parametrize("broken", ["no segmentation", "another shape", "no frame"])
def test_without_a_map_of_doubt_nothing_is_asked(broken: str) -> None:
    policy, _ = make([acquire(scan()) for _ in range(4)])
    frame = Frame(np.ones(scan().shape_yx), scan(), 0, 0.0)
    small = Frame(np.ones((4, 4)), scan(), 0, 0.0)
    segmentation = {
        "no segmentation": None,
        "another shape": segmented(small, 0.5),
        "no frame": segmented(frame, 0.5),
    }[broken]
    seen = Observation(None if broken == "no frame" else frame, None, segmentation, Dose(), Budget(), 50.0)
    assert isinstance(policy.decide(seen), Acquire)


def test_a_map_that_was_kept_from_an_earlier_frame_teaches_nothing_new() -> None:
    gains = FrameGains()
    frame = Frame(np.ones(scan().shape_yx), scan(), 0, 0.0)
    seen = Observation(frame, None, half_full(frame, doubt=0.9), Dose(), Budget(), 1.0)
    gains.learn(seen)
    first = gains.expected_bits(scan(x_um=50.0))
    assert first > 0.9
    kept = replace(seen, frame=replace(frame, index=1), frame_age_s=0.1, segmentation_age_s=5.0)
    gains.learn(kept)
    assert gains.expected_bits(scan()) == first
    gains.learn(replace(kept, segmentation_age_s=0.1))
    assert gains.expected_bits(scan()) == 0.0
    assert gains.expected_bits(scan(modality="sted", sted_w=0.01)) == first


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.05e-6, 6e-6),
    st.lists(st.tuples(st.floats(-2e-6, 2e-6), st.floats(-2e-6, 2e-6)), max_size=6),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_the_least_sure_square_lies_in_the_frame_and_beside_what_was_asked(
    rows: int, columns: int, size_m: float, centers: list[tuple[float, float]], seed: int
) -> None:
    region = Region(center_yx_m=(1e-6, -1e-6), size_yx_m=(rows * PIXEL_M, columns * PIXEL_M))
    settings = scan().replace(region=region)
    frame = Frame(np.ones((rows, columns)), settings, 0, 0.0)
    doubt = np.random.default_rng(seed).random((rows, columns), np.float32)
    found = Segmentation(np.zeros((rows, columns), np.int32), doubt, doubt)
    avoid = [Region(center_yx_m=(1e-6 + y, -1e-6 + x), size_yx_m=(0.5e-6, 0.7e-6)) for y, x in centers]
    bits, square = least_sure_square(frame, found, size_m, avoid)
    assert 0 <= bits <= 1
    if square is None:
        assert avoid
        return
    assert region.contains(square)
    assert all(overlap_m2(square, other) <= 1e-2 * PIXEL_M * SIDE_M for other in avoid)
    y0, x0, y1, x1 = (
        round((bound - edge) / PIXEL_M)
        for bound, edge in zip(square.bounds_yx_m, region.bounds_yx_m[:2] * 2, strict=True)
    )
    assert bits == pytest.approx(doubt[y0:y1, x0:x1].mean(), abs=1e-6)


def test_it_closes_what_it_wraps_and_refuses_what_is_not_there() -> None:
    policy, inner = make([])
    assert isinstance(policy, Closes)
    policy.close()
    assert inner.is_closed
    for options, words in (
        ({"policy": "regoins"}, "'regoins' is none of asking"),
        ({"policy": "asking"}, "cannot wrap itself"),
        ({"policy": "fixed", "policy_options": {"repeats": 0}}, "policy_options.repeats"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            AskingPolicy.from_options(AskingPolicy.Options(**options), resources())
