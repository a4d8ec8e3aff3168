"""The causal denoiser learns in sessions: it is in the record, and the same seed gives the same bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from controller.assemble import new_session, replayed_session, resumed_session
from controller.config import Experiment, load
from controller.denoising.causal_unet import SHIPPED
from controller.networks.weights import read_weights, write_weights
from controller.recording.journal import JOURNAL_NAME
from controller.recording.reader import SessionReader
from tests.denoising.test_adaptation import spoilt
from tests.loop.test_recovery import assert_same_run
from tests.support import FAKE_HARDWARE

EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "learning"
hardware = "hardware.toml"
seed = 5
[policy]
name = "fixed"
[policy.options]
repeats = 14
[[policy.options.steps]]
pixel_size_m = 20e-9
region = { center_yx_m = [0.0, 0.0], size_yx_m = [0.64e-6, 0.64e-6] }
[denoiser]
name = "controller.denoising.causal_unet:CausalUNetDenoiser"
fallback = "raw"
deadline_s = 5.0
[denoiser.options]
weights = "start.safetensors"
detector = { units_per_photon = 1.0 }
[denoiser.options.learner]
first_frames = 6
every_frames = 50
settle_frames = 3
side_px = 32
[denoiser.options.learner.adaptation]
standard_errors = 0.0
[denoiser.options.learner.adaptation.training]
steps = 20
batch = 4
patch_px = 32
learning_rate = 1e-3
[segmenter]
name = "spots_log"
"""


def experiment(folder: Path) -> Experiment:
    folder.mkdir(parents=True)
    (folder / "hardware.toml").write_text(FAKE_HARDWARE.format(frame_s=0.001, clock="simulated"))
    (folder / "experiment.toml").write_text(EXPERIMENT)
    # Weights that can be made better in a few steps.
    write_weights(spoilt(read_weights(SHIPPED), 0.3), folder / "start.safetensors")
    return load(folder)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> SessionReader:
    folder = tmp_path_factory.mktemp("recorded")
    assert new_session(experiment(folder / "config"), folder / "session").run().status == "completed"
    return SessionReader(folder / "session")


def test_what_it_learns_in_a_session_is_in_the_record(recorded: SessionReader) -> None:
    (change,) = recorded.changes
    assert (change.role, change.cycle) == ("denoiser", 9)
    assert change.score_after > change.score_before
    assert recorded.learned(9)[0].card["parent"]
    assert recorded.problems() == []
    assert [fault for cycle in recorded.cycles for fault in cycle.faults] == []
    assert {cycle.denoised.level for cycle in recorded.cycles if cycle.denoised} == {0}


def test_the_same_seed_gives_the_same_bits(recorded: SessionReader, tmp_path: Path) -> None:
    assert new_session(experiment(tmp_path / "config"), tmp_path / "again").run().status == "completed"
    again = SessionReader(tmp_path / "again")
    assert_same_run(recorded, again)
    assert [change.sha256 for change in again.changes] == [change.sha256 for change in recorded.changes]


@pytest.mark.parametrize("cycles", [8, 11])
def test_a_session_that_was_cut_ends_as_if_it_had_not_been(
    recorded: SessionReader, tmp_path: Path, cycles: int
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(recorded.folder, folder)
    lines = (folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    begun = [number for number, line in enumerate(lines) if b'"type":"reserve"' in line]
    # Where no scan is under way: one that was begun has bleached, and is not repeated.
    for end in range(begun[cycles], len(lines)):
        (folder / JOURNAL_NAME).write_bytes(b"".join(lines[:end]))
        if not SessionReader(folder).unsettled():
            break
    assert resumed_session(folder).run().status == "completed"
    resumed = SessionReader(folder)
    assert_same_run(recorded, resumed)
    assert [change.sha256 for change in resumed.changes] == [change.sha256 for change in recorded.changes]
    assert resumed.problems() == []


def test_a_replay_denoises_as_the_session_did(recorded: SessionReader, tmp_path: Path) -> None:
    assert replayed_session(recorded.folder, tmp_path / "replayed").run().status == "completed"
    assert_same_run(recorded, SessionReader(tmp_path / "replayed"))
