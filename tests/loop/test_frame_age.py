"""A policy is not shown a frame that is too old to decide from; it may ask for a new one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from controller.assemble import Hooks, new_session, replayed_session, resumed_session
from controller.config import Experiment, load
from controller.core.clock import SimulatedClock
from controller.core.decision import Cycle
from controller.core.frame import Denoised, Frame
from controller.progress import Progress
from controller.recording.reader import SessionReader
from controller.session import Outcome
from controller.testing import FakeMicroscope
from tests.loop.test_recovery import assert_same_run
from tests.loop.test_session import ASK, TAKE, TOO_BRIGHT, Plain, Plan, session
from tests.support import FAKE_HARDWARE


class Slow(Plain):
    """Takes ``cost_s`` of the session's clock for the frames named in ``slow``."""

    def __init__(self, clock: SimulatedClock, slow: tuple[int, ...], cost_s: float = 2.0) -> None:
        super().__init__()
        self.clock, self.slow, self.cost_s = clock, slow, cost_s

    def step(self, frame: Frame, denoised: Denoised | None = None) -> Any:
        if frame.index in self.slow:
            self.clock.sleep(self.cost_s)
        return Denoised(frame.photons, np.sqrt(frame.photons), frame.index)


def run(tmp_path: Path, plan: Plan, slow: tuple[int, ...], age_max_s: float = 1.0) -> tuple[Outcome, Any]:
    clock = SimulatedClock()
    microscope = FakeMicroscope(clock=clock)
    running = session(tmp_path, plan, microscope=microscope, denoiser=Slow(clock, slow))
    running.parts = replace(running.parts, clock=clock)
    running.progress = Progress(running.parts.budget, age_max_s)
    return running.run(), SessionReader(tmp_path)


def test_a_frame_that_is_too_old_is_not_shown_and_counts_as_failed(tmp_path: Path) -> None:
    plan = Plan(TAKE, TAKE, TAKE)
    outcome, reader = run(tmp_path, plan, slow=(1,))
    assert (outcome.status, outcome.frames, outcome.faults) == ("completed", 3, 1), reader.cycles
    _, fresh, stale, again = plan.seen
    assert (fresh.frame is None, again.frame is None) == (False, False)
    assert (stale.frame, stale.denoised, stale.segmentation) == (None, None, None)
    assert stale.frame_age_s is stale.segmentation_age_s is None
    assert "too old to decide from; allowed are 1 s (policy.frame_age_max_s)" in (stale.failure or "")
    assert reader.cycles[2].faults == (stale.failure,)
    assert reader.cycles[2].decided_on_age_s is None
    assert again.failure is None
    assert reader.denoised(reader.cycles[1]) is not None, "the record has it"


def test_what_the_policy_was_told_before_is_no_new_failure(tmp_path: Path) -> None:
    """A refusal and a question say nothing of the frame, which only grows older meanwhile."""
    plan = Plan(TAKE, TOO_BRIGHT, ASK, TAKE)
    outcome, _ = run(tmp_path, plan, slow=(0,))
    assert outcome.faults == 3
    assert [seen.failure is None for seen in plan.seen] == [True, False, True, True, True]
    assert plan.seen[2].refused is not None
    assert [seen.frame is None for seen in plan.seen] == [True, True, True, True, False]


def test_a_policy_that_gives_up_for_want_of_fresh_frames_has_failed(tmp_path: Path) -> None:
    outcome, reader = run(tmp_path, Plan(TAKE, TAKE, TAKE), slow=(0, 1, 2))
    assert (outcome.status, reader.status, outcome.frames) == ("failed", "failed", 3)


def test_without_a_limit_every_frame_is_shown(tmp_path: Path) -> None:
    plan = Plan(TAKE, TAKE)
    assert run(tmp_path, plan, slow=(0, 1), age_max_s=float("inf"))[0].faults == 0
    assert [seen.frame is None for seen in plan.seen] == [True, False, False]


EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "slow"
hardware = "hardware.toml"
[policy]
name = "fixed"
frame_age_max_s = 0.04
options = { repeats = 3 }
[denoiser]
name = "tests.fake_models:SlowDenoiser"
"""


def experiment(folder: Path) -> Experiment:
    folder.mkdir(parents=True)
    (folder / "hardware.toml").write_text(FAKE_HARDWARE.format(frame_s=0.1, clock="simulated"))
    (folder / "experiment.toml").write_text(EXPERIMENT)
    return load(folder)


def test_the_policies_ask_for_a_scan_again_whose_frame_was_too_old(tmp_path: Path) -> None:
    """A frame of 100 ms that takes 50 ms to denoise, when 40 ms are allowed."""
    config = experiment(tmp_path / "config")
    whole, paused = tmp_path / "whole", tmp_path / "paused"
    outcome = new_session(config, whole).run()
    reader = SessionReader(whole)
    reasons = [cycle.decision.reason for cycle in reader.cycles]
    assert reasons[1].startswith("try 2 of 3 after a failure")
    assert outcome.status == "failed"

    def stop(cycle: Cycle) -> None:
        if cycle.index == 1:
            running.stop_after_this_frame("stopped by the user")

    running = new_session(config, paused, hooks=Hooks(cycle=stop))
    running.run()
    assert resumed_session(paused).run().frames >= 3, "the policy decides as it did where it was not shown"
    replayed_session(whole, tmp_path / "replayed").run()
    assert_same_run(reader, SessionReader(tmp_path / "replayed"))
