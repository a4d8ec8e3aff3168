"""The loop: what is recorded, what is survived, and how it ends."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from controller.core.clock import SimulatedClock, SystemClock
from controller.core.decision import (
    Acquire,
    AskLabel,
    Budget,
    Decision,
    Family,
    Observation,
    Question,
    Stop,
)
from controller.core.errors import DeviceError, InvalidRequestError
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Denoiser, Policy, Segmenter
from controller.core.settings import ScanSettings
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from controller.session import Outcome, Parts, Session
from controller.stages import Stage
from controller.testing import CONFOCAL, LIMITS, FakeMicroscope
from tests.support import START


class Plan:
    """Does what a list says, then stops; remembers what it saw."""

    family: ClassVar[Family] = "open-loop"

    def __init__(self, *steps: Decision | Exception) -> None:
        self.steps = list(steps)
        self.seen: list[Observation] = []

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        step = self.steps.pop(0) if self.steps else Stop(reason="the plan is done")
        if isinstance(step, Exception):
            raise step
        return step


class Plain:
    """A denoiser and segmenter that fail when told to."""

    def __init__(self, fail: Exception | None = None, hang: threading.Event | None = None) -> None:
        self.fail, self.hang = fail, hang

    def reset(self, reason: str) -> None: ...

    def observe(self, frame: Frame) -> None: ...

    def step(self, frame: Frame, denoised: Denoised | None = None) -> Any:
        if self.hang is not None:
            self.hang.wait(30)
        if self.fail is not None:
            raise self.fail
        return Denoised(frame.photons, np.sqrt(frame.photons), frame.index)


class Everything:
    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        ones = np.ones(frame.photons.shape, np.float32)
        return Segmentation(ones.astype(np.int32), ones, np.zeros_like(ones))


TAKE = Acquire(settings=CONFOCAL, reason="the plan says so")
TOO_BRIGHT = Acquire(settings=CONFOCAL.model_copy(update={"excitation_w": 1.0}), reason="greedy")
ASK = AskLabel(
    question=Question(frame_index=0, region=CONFOCAL.region, kind="choice", text="What?", choices=("a", "b")),
    reason="unsure",
)


def session(
    folder: Path,
    policy: Policy,
    *,
    microscope: FakeMicroscope | None = None,
    denoiser: Denoiser | None = None,
    fallback: tuple[str, Any] | None = None,
    deadline_s: float = 5.0,
    budget: Budget | None = None,
) -> Session:
    segmenter: Segmenter = Everything()
    parts = Parts(
        microscope=GuardedMicroscope(microscope or FakeMicroscope(), LIMITS, source="scope.toml"),
        policy=Stage("plan", policy, deadline_s=5.0, fallback=fallback, forgiving=False),
        denoiser=Stage("plain", denoiser or Plain(), deadline_s=deadline_s),
        segmenter=Stage("everything", segmenter, deadline_s=5.0),
        clock=SimulatedClock(),
        budget=budget or Budget(),
    )
    return Session(parts, SessionWriter.create(claim_folder(folder), START))


def run(folder: Path, policy: Policy, **options: Any) -> tuple[Outcome, SessionReader]:
    outcome = session(folder, policy, **options).run()
    return outcome, SessionReader(folder)


class Watching(Plain):
    """Remembers what it was shown and asked."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def observe(self, frame: Frame) -> None:
        self.told.append(f"observe {frame.index}")

    def step(self, frame: Frame, denoised: Denoised | None = None) -> Any:
        self.told.append(f"step {frame.index}")
        return super().step(frame, denoised)


def test_a_movie_is_one_cycle_whose_every_frame_is_recorded_and_seen_by_the_denoiser(tmp_path: Path) -> None:
    movie = Acquire(settings=CONFOCAL, reason="a transient", frames=4)
    plan, denoiser = Plan(TAKE, movie, TAKE), Watching()
    outcome, reader = run(tmp_path, plan, denoiser=denoiser)
    assert (outcome.status, outcome.frames) == ("completed", 6)
    assert denoiser.told == ["step 0", "observe 1", "observe 2", "observe 3", "step 4", "step 5"]
    assert [observed.frame and observed.frame.index for observed in plan.seen] == [None, 0, 4, 5]
    assert [cycle.frame_index for cycle in reader.cycles] == [0, 4, 5, None]
    assert [reader.frames[index].plane for index in range(6)] == [None, 0, 1, 2, 3, None]
    assert reader.reservations[1].frames == 4
    assert reader.lit(reader.reservations[1]).energy_j == pytest.approx(4 * CONFOCAL.energy_j)
    assert plan.seen[2].dose.energy_j == pytest.approx(5 * CONFOCAL.energy_j)
    assert reader.problems() == []


def test_a_movie_that_fails_leaves_its_frames_and_the_session_goes_on(tmp_path: Path) -> None:
    movie = Acquire(settings=CONFOCAL, reason="a transient", frames=4)
    plan, denoiser = Plan(movie, movie), Watching()
    microscope = FakeMicroscope(options=FakeMicroscope.Options(fail_at=2))
    outcome, reader = run(tmp_path, plan, denoiser=denoiser, microscope=microscope)
    assert (outcome.status, outcome.frames, outcome.faults) == ("completed", 6, 1)
    assert plan.seen[1].frame is None
    assert "scan 2 fails" in str(plan.seen[1].failure)
    assert denoiser.told == [*(f"observe {index}" for index in range(5)), "step 5"]
    assert [frame.reservation for frame in reader.frames.values()] == [0, 0, 1, 1, 1, 1]
    assert reader.stop is not None
    # The light was on when it failed: all of the first movie counts.
    assert reader.stop.dose.energy_j == pytest.approx(8 * CONFOCAL.energy_j)


def test_a_session_records_everything_it_did_and_why(tmp_path: Path) -> None:
    policy = Plan(TAKE, ASK, TAKE)
    outcome, reader = run(tmp_path, policy)
    assert (outcome.status, outcome.reason) == ("completed", "the plan is done")
    assert reader.stop is not None
    assert (reader.stop.cycles, reader.stop.frames, reader.stop.faults) == (4, 2, 0)
    assert [type(cycle.decision) for cycle in reader.cycles] == [Acquire, AskLabel, Acquire, Stop]
    assert all(cycle.decided_by == "plan" and cycle.decision.reason for cycle in reader.cycles)
    seen = policy.seen[1].frame
    assert seen is not None
    assert np.array_equal(reader.frame(0).photons, seen.photons)
    assert reader.problems() == []
    denoised, segmentation = reader.denoised(reader.cycles[0]), reader.segmentation(reader.cycles[0])
    assert denoised is not None
    assert segmentation is not None
    assert np.array_equal(denoised.mean, seen.photons)
    assert segmentation.labels.all()
    assert reader.unsettled() == []
    assert not (tmp_path / "labels.sqlite").exists()  # who asks people reads the journal


def test_the_policy_sees_each_new_frame_the_dose_and_what_is_left(tmp_path: Path) -> None:
    policy = Plan(TAKE, TAKE)
    run(tmp_path, policy, budget=Budget(cycles=7, questions=3))
    first, second, third = policy.seen
    assert first.frame is None
    assert second.frame is not None
    assert third.frame is not None
    assert (second.frame.index, third.frame.index) == (0, 1)
    assert second.denoised is not None
    assert second.denoised.index == 0
    assert [seen.budget.cycles for seen in policy.seen] == [7, 6, 5]
    assert third.dose.energy_j == pytest.approx(2 * CONFOCAL.energy_j)
    assert third.budget.energy_j == pytest.approx(LIMITS.session_energy_max_j - 2 * CONFOCAL.energy_j)


def test_a_refusal_is_recorded_told_to_the_policy_and_lights_nothing(tmp_path: Path) -> None:
    policy, microscope = Plan(TOO_BRIGHT, TAKE), FakeMicroscope()
    outcome, reader = run(tmp_path, policy, microscope=microscope)
    assert outcome.status == "completed"
    assert "excitation_w=1 W is outside" in (reader.cycles[0].refused or "")
    assert policy.seen[1].refused == reader.cycles[0].refused
    assert policy.seen[2].refused is None
    assert microscope.requests == [CONFOCAL]


def test_a_policy_that_only_asks_for_what_is_refused_ends_the_session_as_failed(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, Plan(*[TOO_BRIGHT] * 200))
    assert outcome.status == "failed"
    assert "in a row were refused" in outcome.reason


def test_questions_beyond_their_budget_are_refused(tmp_path: Path) -> None:
    _, reader = run(tmp_path, Plan(TAKE, ASK, ASK), budget=Budget(questions=1))
    assert [cycle.refused is None for cycle in reader.cycles] == [True, True, False, True]


def test_a_failing_model_costs_its_answer_but_not_the_frame(tmp_path: Path) -> None:
    policy = Plan(TAKE, TAKE)
    outcome, reader = run(tmp_path, policy, denoiser=Plain(fail=ValueError("no weights")))
    assert outcome.status == "completed"
    assert outcome.faults == 2
    assert reader.cycles[0].faults == ("plain failed: ValueError: no weights",)
    assert reader.frame(1).photons.shape == CONFOCAL.shape_yx
    assert policy.seen[1].denoised is None
    assert policy.seen[1].segmentation is not None


def test_a_model_that_hangs_misses_its_deadline_and_the_loop_goes_on(tmp_path: Path) -> None:
    released, microscope = threading.Event(), FakeMicroscope()
    outcome, reader = run(
        tmp_path, Plan(TAKE, TAKE), microscope=microscope, denoiser=Plain(hang=released), deadline_s=0.05
    )
    released.set()
    assert outcome.status == "completed"
    assert reader.cycles[0].faults == ("plain gave no answer within 0.05 s",)
    assert reader.cycles[1].faults == (), "a stuck model is not asked again"
    assert microscope.is_dark()


def test_a_failing_policy_hands_over_to_its_fallback_for_good(tmp_path: Path) -> None:
    fallback = Plan(TAKE, TAKE)
    outcome, reader = run(tmp_path, Plan(TAKE, KeyError("lost"), TAKE), fallback=("spare", fallback))
    assert outcome.status == "completed"
    assert [cycle.decided_by for cycle in reader.cycles] == ["plan", "spare", "spare", "spare"]
    assert "plan failed: KeyError" in reader.cycles[1].faults[0]


def test_a_failing_policy_without_a_fallback_ends_as_failed_and_dark(tmp_path: Path) -> None:
    microscope = FakeMicroscope()
    outcome, reader = run(tmp_path, Plan(TAKE, RuntimeError("bug")), microscope=microscope)
    assert outcome.status == "failed"
    assert "bug" in outcome.reason
    assert reader.status == "failed"
    assert microscope.commands[-1] == "close"
    assert microscope.is_dark()
    assert len(reader.frames) == 1


def test_a_policy_that_answers_nonsense_is_a_failing_policy(tmp_path: Path) -> None:
    class Nonsense(Plan):
        def decide(self, observation: Observation) -> Any:
            return "scan there"

    outcome, _ = run(tmp_path, Nonsense())
    assert outcome.status == "failed"
    assert "must answer Acquire, AskLabel or Stop, got str" in outcome.reason


def test_a_passing_failure_of_the_microscope_is_survived_and_recorded(tmp_path: Path) -> None:
    microscope = FakeMicroscope(options=FakeMicroscope.Options(fail_at=1))
    policy = Plan(TAKE, TAKE, TAKE)
    outcome, reader = run(tmp_path, policy, microscope=microscope)
    assert (outcome.status, outcome.frames, outcome.faults) == ("completed", 2, 1)
    assert "scan 1 fails" in (policy.seen[2].failure or "")
    assert policy.seen[2].refused is None
    assert policy.seen[3].failure is None
    assert len(reader.unsettled()) == 1, "the light of the failed scan counts in full"
    assert reader.stop is not None
    assert reader.stop.dose.energy_j == pytest.approx(3 * CONFOCAL.energy_j)


def test_a_microscope_that_keeps_failing_ends_the_session(tmp_path: Path) -> None:
    class Dead(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            raise DeviceError("no answer from the laser")

    outcome, reader = run(tmp_path, Plan(*[TAKE] * 9), microscope=Dead())
    assert outcome.status == "failed"
    assert "no answer from the laser" in outcome.reason
    assert len(reader.reservations) == 4


def test_a_frame_with_nan_never_reaches_the_policy(tmp_path: Path) -> None:
    policy = Plan(TAKE, TAKE)
    microscope = FakeMicroscope(options=FakeMicroscope.Options(nan_at=0))
    _, reader = run(tmp_path, policy, microscope=microscope)
    assert policy.seen[1].frame is None
    assert "not finite" in reader.cycles[0].faults[0]


@pytest.mark.parametrize(
    ("budget", "cycles", "word"),
    [(Budget(cycles=3), 3, "budget.cycles"), (Budget(duration_s=0.0), 0, "budget.duration_s")],
)
def test_a_spent_budget_completes_the_session(tmp_path: Path, budget: Budget, cycles: int, word: str) -> None:
    outcome, _ = run(tmp_path, Plan(*[TAKE] * 9), budget=budget)
    assert (outcome.status, outcome.cycles) == ("completed", cycles)
    assert word in outcome.reason


def test_a_first_ctrl_c_ends_after_the_cycle_and_says_interrupted(tmp_path: Path) -> None:
    running: list[Session] = []

    class Impatient(Plan):
        def decide(self, observation: Observation) -> Decision:
            if len(self.seen) == 1:
                running[0].stop_after_this_frame("stopped by the user")
            return super().decide(observation)

    microscope = FakeMicroscope()
    running.append(session(tmp_path, Impatient(*[TAKE] * 9), microscope=microscope))
    outcome = running[0].run()
    reader = SessionReader(tmp_path)
    assert (outcome.status, reader.status, outcome.frames) == ("interrupted", "interrupted", 2)
    assert len(reader.frames) == len(reader.cycles) == 2
    assert microscope.is_dark()


def test_a_second_ctrl_c_aborts_the_frame_and_leaves_it_dark_and_readable(tmp_path: Path) -> None:
    class Aborted(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            if self.scans == 2:
                self.light_on = True
                raise KeyboardInterrupt
            return super().acquire(settings)

    microscope = Aborted()
    outcome, reader = run(tmp_path, Plan(*[TAKE] * 9), microscope=microscope)
    assert outcome.status == reader.status == "interrupted"
    assert microscope.is_dark()
    assert len(reader.frames) == 2
    assert reader.problems() == []
    assert reader.stop is not None
    assert reader.stop.dose.energy_j == pytest.approx(3 * CONFOCAL.energy_j)


def test_a_light_that_cannot_be_put_out_is_never_survived(tmp_path: Path) -> None:
    class Stuck(FakeMicroscope):
        def is_dark(self) -> bool:
            return self.scans == 0

    outcome, reader = run(tmp_path, Plan(TAKE, TAKE), microscope=Stuck())
    assert outcome.status == reader.status == "failed"
    assert "by hand" in outcome.reason


def test_a_scan_that_the_driver_refuses_before_light_costs_nothing_and_is_told(tmp_path: Path) -> None:
    class Gridded(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            if settings.pixel_size_m != CONFOCAL.pixel_size_m:
                raise InvalidRequestError("pixel_size_m is not on the grid")
            return super().acquire(settings)

    policy = Plan(Acquire(settings=CONFOCAL.replace(pixel_size_m=40e-9), reason="coarse"), TAKE)
    outcome, reader = run(tmp_path, policy, microscope=Gridded())
    assert (outcome.status, outcome.frames) == ("completed", 1)
    assert policy.seen[1].refused == "pixel_size_m is not on the grid"
    assert reader.unsettled() == []
    assert reader.stop is not None
    assert reader.stop.dose.energy_j == pytest.approx(CONFOCAL.energy_j)


def test_a_scan_that_is_not_due_waits_in_the_dark(tmp_path: Path) -> None:
    policy = Plan(Acquire(settings=CONFOCAL, reason="later", start_s=3600.0), TAKE)
    run(tmp_path, policy)
    assert [seen.now_s for seen in policy.seen] == [0.0, 3600.0, 3600.0]


def test_a_stop_while_waiting_ends_without_the_scan(tmp_path: Path) -> None:
    class Waiting(SystemClock):
        def sleep(self, duration_s: float) -> None:
            waiting.stop_after_this_frame("stopped by the user")

    microscope = FakeMicroscope()
    policy = Plan(Acquire(settings=CONFOCAL, reason="later", start_s=3600.0))
    waiting = session(tmp_path, policy, microscope=microscope)
    waiting.parts = replace(waiting.parts, clock=Waiting())
    outcome = waiting.run()
    assert (outcome.status, outcome.reason) == ("interrupted", "stopped by the user")
    assert microscope.requests == []


def test_a_scan_due_after_the_end_of_the_session_is_refused(tmp_path: Path) -> None:
    late = Acquire(settings=CONFOCAL, reason="later", start_s=1e17)
    outcome, reader = run(tmp_path, Plan(late), budget=Budget(duration_s=10.0))
    assert outcome.frames == 0
    assert "budget.duration_s" in (reader.cycles[0].refused or "")


@pytest.mark.parametrize(
    "bad",
    [
        Acquire(settings=CONFOCAL.model_copy(update={"excitation_w": math.nan}), reason="nan"),
        Acquire(settings=CONFOCAL.model_copy(update={"excitation_w": -1e-6}), reason="negative"),
        Acquire.model_construct(settings=CONFOCAL, reason="nan", evidence={"x": math.nan}),
    ],
    ids=["nan", "negative", "evidence"],
)
def test_a_decision_that_cannot_be_written_down_is_a_failing_policy_and_spoils_nothing(
    tmp_path: Path, bad: Decision
) -> None:
    outcome, reader = run(tmp_path, Plan(TAKE, bad))
    assert outcome.status == reader.status == "failed"
    assert reader.frame(0).photons.shape == CONFOCAL.shape_yx


SMALL = np.ones((2, 2), np.float32)


class _Answers(Plain):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def step(self, frame: Frame, denoised: Denoised | None = None) -> Any:
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [np.ones(3), {}, Denoised(SMALL, SMALL, 0), Denoised(SMALL[[0] * 32][:, [0] * 24] * np.nan, SMALL, 0)],
    ids=["array", "dict", "shape", "nan"],
)
def test_a_model_that_answers_nonsense_is_a_failing_model_and_loses_no_frame(
    tmp_path: Path, answer: Any
) -> None:
    outcome, reader = run(tmp_path, Plan(TAKE, TAKE), denoiser=_Answers(answer))
    assert (outcome.status, outcome.frames, outcome.faults) == ("completed", 2, 2)
    assert reader.denoised(reader.cycles[0]) is None


def test_a_question_about_a_frame_that_is_not_there_is_refused(tmp_path: Path) -> None:
    _, reader = run(tmp_path, Plan(ASK, TAKE))
    assert "there is no frame 0" in (reader.cycles[0].refused or "")


def test_a_display_in_trouble_does_not_end_a_session(tmp_path: Path) -> None:
    shown = session(tmp_path, Plan(TAKE))

    def broken(_: object) -> None:
        raise BrokenPipeError

    shown._watch = broken
    assert shown.run().status == "completed"


def test_a_driver_that_exits_the_process_ends_the_session_as_failed_and_dark(tmp_path: Path) -> None:
    class Exiting(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            self.light_on = True
            raise SystemExit(0)

    microscope = Exiting()
    outcome, reader = run(tmp_path, Plan(TAKE), microscope=microscope)
    assert outcome.status == reader.status == "failed"
    assert microscope.is_dark()


def test_more_light_than_asked_for_is_never_survived(tmp_path: Path) -> None:
    class Excessive(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            frame = super().acquire(settings)
            return Frame(frame.photons, settings.replace(excitation_w=9e-5), 0, 0.0)

    outcome, reader = run(tmp_path, Plan(TAKE, TAKE), microscope=Excessive())
    assert outcome.status == "failed"
    assert reader.stop is not None
    assert reader.stop.dose.energy_j == pytest.approx(9 * CONFOCAL.energy_j)
    assert reader.lit(reader.reservations[0]).energy_j == pytest.approx(9 * CONFOCAL.energy_j)
