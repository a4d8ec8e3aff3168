"""What is made of a frame when time or memory are short, and how it is told, resumed and replayed."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.assemble import Hooks, new_session, replayed_session, resumed_session
from controller.config import Experiment, load
from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, Cycle
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import Coarsens
from controller.core.settings import Region
from controller.ladder import COARSE, FALLBACK, FULL, SPARSE, RealTime
from controller.perception import Perceived, Perception
from controller.recording.reader import SessionReader
from controller.stages import Stage
from controller.testing import CONFOCAL, FakeMicroscope
from tests.loop.test_recovery import assert_same_run
from tests.loop.test_session import Plan, session
from tests.support import FAKE_HARDWARE


class Costly:
    """A denoiser that takes time on the session's clock, and remembers what it was told."""

    def __init__(self, clock: SimulatedClock, cost_s: float = 0.0) -> None:
        self.clock, self.cost_s = clock, cost_s
        self.told: list[str] = []
        self.problem: Exception | None = None

    def reset(self, reason: str) -> None:
        self.told.append("reset")

    def observe(self, frame: Frame) -> None:
        self.told.append(f"observe {frame.index}")
        if isinstance(self.problem, MemoryError):
            raise self.problem

    def step(self, frame: Frame) -> Denoised:
        self.told.append(f"step {frame.index}")
        self.clock.sleep(self.cost_s)
        if self.problem is not None:
            raise self.problem
        return Denoised(frame.photons, np.sqrt(frame.photons), frame.index)


class Coarsening(Costly):
    def step_coarse(self, frame: Frame) -> Denoised:
        self.told.append(f"coarse {frame.index}")
        self.clock.sleep(self.cost_s / 4)
        return Denoised(frame.photons, np.sqrt(frame.photons), frame.index)


class Objects:
    def __init__(self, clock: SimulatedClock, cost_s: float = 0.0) -> None:
        self.clock, self.cost_s = clock, cost_s
        self.frames: list[int] = []

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        self.frames.append(frame.index)
        self.clock.sleep(self.cost_s)
        ones = np.ones(frame.photons.shape, np.float32)
        return Segmentation(ones.astype(np.int32), ones, np.zeros_like(ones))


class Bench:
    """Models under a ladder, one frame after the other."""

    def __init__(
        self, kind: type[Costly] = Costly, *, budget_s: float | None = 0.033, deadline_s: float = 5.0
    ) -> None:
        self.clock = SimulatedClock()
        self.model, self.spare = kind(self.clock), Costly(self.clock)
        self.objects = Objects(self.clock)
        self.stage: Stage[Any] = Stage(
            "model", self.model, deadline_s=deadline_s, fallback=("spare", self.spare)
        )
        segmenter: Stage[Any] = Stage("objects", self.objects, deadline_s=5.0)
        settings = RealTime(budget_s=budget_s, segment_every=4)
        self.perception = Perception(self.stage, segmenter, self.clock, settings)
        self.microscope = FakeMicroscope()
        self.seen: list[Perceived] = []

    def look(self, frames: int = 1, settings: Any = CONFOCAL) -> Perceived:
        for _ in range(frames):
            frame = self.microscope.acquire(settings)
            seen = self.perception.perceive(frame, {})
            self.seen.append(seen)
            decision = Acquire(settings=settings, reason="test")
            fields = (seen.denoised, seen.segmentation, seen.segmentation_of, seen.level)
            self.perception.remember(Cycle(frame.index, decision, "test", frame, *fields))
        return self.seen[-1]

    def levels(self) -> list[int]:
        return [seen.denoised.level for seen in self.seen if seen.denoised is not None]


def test_when_a_frame_takes_too_long_only_every_fourth_is_segmented_and_the_rest_keeps_the_last() -> None:
    bench = Bench()
    bench.objects.cost_s = 0.05
    bench.look(13)
    assert bench.levels() == [FULL] * 3 + [SPARSE] * 10
    assert bench.objects.frames == [0, 1, 2, 6, 10]
    kept = [None if seen.segmentation_of is None else seen.segmentation_of.index for seen in bench.seen]
    assert kept == [None, None, None, 2, 2, 2, None, 6, 6, 6, None, 10, 10]
    assert all(seen.segmentation is not None for seen in bench.seen)


def test_a_frame_of_another_place_or_sampling_is_segmented_whatever_the_level() -> None:
    bench = Bench()
    bench.objects.cost_s = 0.05
    bench.look(4)
    moved = CONFOCAL.replace(region=Region(center_yx_m=(1e-6, 0.0), size_yx_m=CONFOCAL.region.size_yx_m))
    coarse = CONFOCAL.replace(pixel_size_m=40e-9)
    for settings in (moved, coarse, CONFOCAL):
        seen = bench.look(settings=settings)
        assert seen.segmentation_of is None
        assert seen.segmentation is not None
        assert seen.segmentation.labels.shape == settings.shape_yx
    assert bench.look().segmentation_of is not None


def test_a_denoiser_that_is_still_too_slow_works_at_half_the_resolution_where_it_can() -> None:
    able, unable = Bench(Coarsening), Bench()
    assert isinstance(able.model, Coarsens)
    for bench in (able, unable):
        bench.model.cost_s = 0.08
        bench.look(9)
    assert able.levels() == [FULL] * 3 + [SPARSE] * 3 + [COARSE] * 3
    assert able.model.told[-1] == "coarse 8"
    assert unable.levels() == [FULL] * 3 + [SPARSE] * 3 + [FALLBACK] * 3
    assert unable.spare.told[-3:] == ["step 6", "step 7", "step 8"]


def test_the_fallback_is_warm_when_its_turn_comes_and_so_is_the_denoiser_afterwards() -> None:
    bench = Bench()
    bench.model.cost_s = 0.08
    bench.look(7)
    assert bench.spare.told == ["reset", "observe 3", "observe 4", "observe 5", "step 6"]
    bench.look()
    assert bench.model.told[-3:] == ["step 5", "observe 6", "observe 7"]
    bench.model.cost_s = 0.0
    bench.look(100)
    assert bench.levels()[-1] == SPARSE
    assert "reset" not in bench.model.told


def test_frames_of_a_movie_are_shown_to_both_from_level_one_on() -> None:
    bench = Bench()
    frames = [bench.microscope.acquire(CONFOCAL) for _ in range(2)]
    bench.perception.observe(frames[0])
    bench.perception.ladder.fall()
    bench.perception.observe(frames[1])
    assert bench.model.told == ["observe 0", "observe 1"]
    assert bench.spare.told == ["reset", "observe 1"]


def test_a_segmenter_that_remembers_is_shown_every_frame_of_a_movie() -> None:
    class Remembering(Objects):
        def observe(self, frame: Frame) -> None:
            self.frames.append(-frame.index)

    clock = SimulatedClock()
    objects, model = Remembering(clock), Costly(clock)
    denoiser: Stage[Any] = Stage("model", model, deadline_s=5.0)
    segmenter: Stage[Any] = Stage("objects", objects, deadline_s=5.0)
    perception = Perception(denoiser, segmenter, clock, RealTime())
    frames = [FakeMicroscope().acquire(CONFOCAL)]
    frames += [replace(frames[0], index=number) for number in (1, 2, 3)]
    for frame in frames[1:3]:
        assert perception.observe(frame) == []
    perception.perceive(frames[3], {})
    assert objects.frames == [-1, -2, 3]


def test_it_climbs_again_only_when_a_segmented_frame_would_fit() -> None:
    bench = Bench()
    bench.objects.cost_s = 0.05
    bench.look(200)
    assert bench.levels()[-1] == SPARSE, "the fourth part of it fits, the whole does not"
    bench.objects.cost_s = 0.02
    bench.look(105)
    assert bench.levels()[-1] == FULL


def test_a_clock_that_the_models_do_not_move_never_degrades() -> None:
    bench = Bench(budget_s=1e-9)
    bench.look(50)
    assert set(bench.levels()) == {FULL}
    assert bench.objects.frames == list(range(50))


@pytest.mark.parametrize(
    ("kind", "level"), [(Coarsening, COARSE), (Costly, FALLBACK)], ids=["half the resolution", "fallback"]
)
@pytest.mark.parametrize("problem", [MemoryError("no room"), RuntimeError("CUDA out of memory")])
def test_a_denoiser_without_memory_costs_its_answer_once_and_the_session_goes_on_below(
    kind: type[Costly], level: int, problem: Exception
) -> None:
    bench = Bench(kind, budget_s=None)
    bench.look(2)
    bench.model.problem = problem
    seen = bench.look()
    assert seen.denoised is not None
    assert seen.denoised.level == FALLBACK, "the fallback steps in for this frame"
    assert str(problem) in seen.faults[0]
    assert seen.faults[1].startswith(f"the session goes on at level {level}: denoised ")
    bench.look(3)
    assert bench.levels() == [FULL, FULL, FALLBACK, level, level, level]
    assert bench.objects.frames == list(range(6)), "there is no lack of time"


def test_a_denoiser_that_cannot_even_take_frames_in_is_told_of_once_and_starts_afresh() -> None:
    bench = Bench(budget_s=None)
    bench.look(2)
    bench.model.problem = MemoryError("no room")
    bench.look(20)
    assert [len(seen.faults) for seen in bench.seen] == [0, 0, 2, 1, *[0] * 18]
    bench.model.problem = None
    bench.look(100)
    assert bench.levels()[-1] < FALLBACK
    after = bench.model.told[bench.model.told.index("observe 3") + 1 :]
    assert after[0] == "reset"
    assert after[1].startswith(("observe", "step"))


def test_any_other_failure_costs_its_answer_and_no_level() -> None:
    bench = Bench()
    bench.model.problem = ValueError("odd frame")
    bench.look(5)
    assert bench.levels() == [FALLBACK] * 5
    assert {seen.level for seen in bench.seen} == {FULL}
    assert bench.spare.told[:2] == ["step 0", "step 1"], "it has seen every frame, so it keeps its past"


def test_a_stuck_denoiser_is_replaced_for_good_and_the_level_says_so() -> None:
    released = threading.Event()

    class Stuck(Costly):
        def step(self, frame: Frame) -> Denoised:
            released.wait(30)
            return super().step(frame)

    bench = Bench(Stuck, deadline_s=0.05)
    seen = bench.look()
    released.set()
    assert seen.faults == (
        "model gave no answer within 0.05 s",
        "the session goes on at level 3: denoised by the fallback",
    )
    bench.look(150)
    assert set(bench.levels()) == {FALLBACK}, "its thread still holds it"
    assert sum(len(later.faults) for later in bench.seen) == 2


def test_a_policy_is_told_how_old_frame_and_segmentation_are(tmp_path: Path) -> None:
    clock = SimulatedClock()
    plan = Plan(*[Acquire(settings=CONFOCAL, reason="test")] * 6)
    running = session(tmp_path, plan, denoiser=Costly(clock, 0.01))
    objects: Any = Objects(clock, 0.05)
    running.parts.segmenter.plugin = objects
    running.perception = Perception(
        running.parts.denoiser, running.parts.segmenter, clock, RealTime(budget_s=0.033)
    )
    object.__setattr__(running.parts, "clock", clock)
    running.parts.microscope._microscope._clock = clock  # type: ignore[attr-defined]
    assert running.run().status == "completed"
    first, *others = plan.seen
    assert first.frame_age_s is first.segmentation_age_s is None
    scan_s = CONFOCAL.duration_s
    frame_ages = [seen.frame_age_s for seen in others]
    assert frame_ages == pytest.approx([0.06 - scan_s] * 3 + [0.01 - scan_s] * 3)
    ages = [seen.segmentation_age_s for seen in others]
    assert ages == pytest.approx([0.06 - scan_s] * 3 + [0.06 - scan_s + 0.01 * n for n in (1, 2, 3)])
    reader = SessionReader(tmp_path)
    assert [cycle.decided_on_age_s for cycle in reader.cycles] == [None, *frame_ages]
    assert [cycle.level for cycle in reader.cycles] == [0, 0, 1, 1, 1, 1, 1]
    assert [cycle.segmentation_frame for cycle in reader.cycles] == [None, None, None, 2, 2, 2, None]
    assert [cycle.segmentation is None for cycle in reader.cycles] == [False] * 3 + [True] * 4
    assert reader.problems() == []


EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "slow"
hardware = "hardware.toml"
seed = 5
[real_time]
budget_s = 0.03
[policy]
name = "fixed"
options = { repeats = 12 }
[denoiser]
name = "tests.fake_models:SlowDenoiser"
fallback = "adaptive_kalman"
[segmenter]
name = "spots_log"
"""


def experiment(folder: Path) -> Experiment:
    folder.mkdir(parents=True)
    (folder / "hardware.toml").write_text(FAKE_HARDWARE.format(frame_s=0.001, clock="simulated"))
    (folder / "experiment.toml").write_text(EXPERIMENT)
    return load(folder)


def levels(reader: SessionReader) -> list[tuple[int, int | None, int | None]]:
    return [(c.level, c.denoised.level if c.denoised else None, c.segmentation_frame) for c in reader.cycles]


def test_a_replay_follows_the_recorded_levels_not_the_clock_of_today(tmp_path: Path) -> None:
    """Replayed, the fake model's time does not count: the clock is the recorded one."""
    recorded = tmp_path / "recorded"
    assert new_session(experiment(tmp_path / "config"), recorded).run().status == "completed"
    reader = SessionReader(recorded)
    assert [level for _, level, _ in levels(reader)][:12] == [0, 0, 0, 1, 1, 1, *[3] * 6]
    again = recorded
    for name in ("replay", "replay of the replay"):
        assert replayed_session(again, tmp_path / name).run().status == "completed"
        again = tmp_path / name
        assert levels(SessionReader(again)) == levels(reader)
        assert_same_run(reader, SessionReader(again))


@pytest.mark.parametrize("cut", [4, 6])
def test_a_resumed_session_goes_on_at_the_level_where_it_was(tmp_path: Path, cut: int) -> None:
    def stop(cycle: Cycle) -> None:
        if cycle.index == cut:
            running.stop_after_this_frame("stopped by the user")

    folder = tmp_path / "session"
    running = new_session(experiment(tmp_path / "config"), folder, hooks=Hooks(cycle=stop))
    assert running.run().status == "interrupted"
    before = levels(SessionReader(folder))
    assert before[-1][0] == (SPARSE if cut == 4 else FALLBACK)
    resumed = resumed_session(folder)
    assert resumed.perception.ladder.level == before[-1][0]
    assert resumed.perception.kept is not None
    assert resumed.perception.kept[1].index == (2 if cut == 4 else 6)
    assert resumed.run().status == "completed"
    reader = SessionReader(folder)
    assert levels(reader)[: len(before)] == before
    assert reader.problems() == []
    assert len(reader.frames) == 12
