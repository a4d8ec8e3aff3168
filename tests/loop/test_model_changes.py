"""What models learn while a session runs is used between cycles, written down, and given back."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from controller.assemble import new_session, replayed_session, resumed_session
from controller.config import Experiment, load
from controller.core.decision import Acquire
from controller.core.errors import ReplayDivergedError, SessionFolderError
from controller.recording import writer as recording
from controller.recording.journal import JOURNAL_NAME
from controller.recording.reader import SessionReader
from controller.stages import Stage
from controller.testing import CONFOCAL
from tests.fake_models import LearningDenoiser
from tests.loop.test_recovery import assert_same_run
from tests.loop.test_session import Plain, Plan, session
from tests.support import FAKE_HARDWARE

EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "learning"
hardware = "hardware.toml"
seed = 5
[policy]
name = "fixed"
options = {{ repeats = 8 }}
[denoiser]
name = "tests.fake_models:LearningDenoiser"
fallback = "raw"
options = {{ {options} }}
[segmenter]
name = "{segmenter}"
"""


@pytest.fixture(autouse=True)
def _nobody_is_closed_yet() -> None:
    LearningDenoiser.closed.clear()


def experiment(folder: Path, options: str = "", segmenter: str = "spots_log") -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hardware.toml").write_text(FAKE_HARDWARE.format(frame_s=0.001, clock="simulated"))
    (folder / "experiment.toml").write_text(EXPERIMENT.format(options=options, segmenter=segmenter))
    return load(folder)


def run(tmp_path: Path, options: str = "") -> SessionReader:
    outcome = new_session(experiment(tmp_path / "config", options), tmp_path / "session").run()
    assert outcome.status == "completed"
    return SessionReader(tmp_path / "session")


def history(reader: SessionReader) -> list[tuple[int, str, float, float]]:
    return [(c.cycle, c.sha256, c.score_before, c.score_after) for c in reader.changes]


def test_what_a_model_learned_holds_from_the_next_cycle_and_is_in_the_record(tmp_path: Path) -> None:
    reader = run(tmp_path)
    assert [(c.cycle, c.role, c.score_before, c.score_after) for c in reader.changes] == [
        (3, "denoiser", 0.0, 1.0),
        (6, "denoiser", 1.0, 2.0),
    ]
    kinds = [(d.type, getattr(d, "cycle", getattr(d, "index", None))) for d in reader.documents]
    at = kinds.index(("model", 3))
    assert kinds.index(("cycle", 2)) < at < kinds.index(("cycle", 3))
    change = reader.learned(3)[0]
    assert (change.weights, change.card) == (b"weights 1", {"architecture": "gain"})
    before, after = (reader.denoised(reader.cycles[n]) for n in (2, 3))
    assert before is not None
    assert after is not None
    assert after.mean.mean() > 1.8 * before.mean.mean(), "the new gain is twice the old one"
    assert reader.problems() == []
    assert LearningDenoiser.closed == [""]


def test_weights_that_a_model_goes_back_to_are_recorded_by_their_name_alone(tmp_path: Path) -> None:
    reader = run(tmp_path, "every = 2, back_at = 3")
    first, second, back = reader.changes[:3]
    assert (back.sha256, back.reason) == (first.sha256, "the newer ones got worse")
    assert second.sha256 != first.sha256
    names = {path.name for path in (reader.folder / "models").iterdir()}
    assert names == {f"{c.sha256}{suffix}" for c in (first, second) for suffix in (".safetensors", ".json")}


def test_weights_are_on_disk_before_the_journal_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "write_model", full)
    outcome = new_session(experiment(tmp_path / "config"), tmp_path / "session").run()
    assert outcome.status == "failed"
    assert "No space left" in outcome.reason
    assert SessionReader(tmp_path / "session").changes == []


def test_a_session_that_was_cut_goes_on_with_the_weights_that_it_had(tmp_path: Path) -> None:
    whole = run(tmp_path, "every = 3, back_at = 2")
    lines = (whole.folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    changed = [n for n, line in enumerate(lines) if b'"type":"model"' in line]
    assert len(changed) == 2
    # Before the weights are named, after, and in the cycle that uses them first.
    for cut in (changed[0], changed[0] + 1, changed[0] + 3, changed[1] + 1):
        folder = tmp_path / f"cut{cut}"
        shutil.copytree(whole.folder, folder)
        (folder / JOURNAL_NAME).write_bytes(b"".join(lines[:cut]))
        assert resumed_session(folder).run().status == "completed"
        reader = SessionReader(folder)
        assert history(reader) == history(whole), cut
        assert reader.problems() == []
        if not reader.unsettled():
            assert_same_run(whole, reader)


def test_a_replay_uses_the_recorded_weights_and_learns_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = run(tmp_path)

    def learn(_: object) -> None:
        raise AssertionError("a replay does not learn")

    monkeypatch.setattr(LearningDenoiser, "improve", learn)
    assert replayed_session(recorded.folder, tmp_path / "replayed").run().status == "completed"
    replayed = SessionReader(tmp_path / "replayed")
    assert_same_run(recorded, replayed)
    assert history(replayed) == history(recorded)
    assert sum(len(cycle.faults) for cycle in replayed.cycles) == 0
    assert replayed.problems() == []


def test_a_model_that_cannot_learn_keeps_its_weights_and_is_not_asked_again(tmp_path: Path) -> None:
    reader = run(tmp_path, "fail_at = 2")
    assert len(reader.changes) == 1
    (fault,) = [fault for cycle in reader.cycles for fault in cycle.faults]
    assert fault.startswith("denoiser cannot learn")
    assert "the learner is gone" in fault
    assert {cycle.denoised.level for cycle in reader.cycles if cycle.denoised} == {0}


def test_a_model_whose_weights_cannot_be_recorded_is_replaced_by_its_fallback(tmp_path: Path) -> None:
    reader = run(tmp_path, 'fail_at = 2, problem = "nonsense"')
    assert len(reader.changes) == 1
    fault, told = [fault for cycle in reader.cycles for fault in cycle.faults]
    assert "do not match their checksum" in fault
    assert told == "the session goes on at level 3: denoised by the fallback"
    by_fallback = [cycle.denoised.level > 0 for cycle in reader.cycles if cycle.denoised]
    assert by_fallback == [False] * 6 + [True] * 2


def test_a_model_that_hangs_in_learning_is_replaced_and_the_session_goes_on(tmp_path: Path) -> None:
    released = threading.Event()

    class Hanging(Plain):
        def improve(self) -> None:
            released.wait(30)

        def adopt(self, weights: bytes, card: Any) -> None: ...

    take = Acquire(settings=CONFOCAL, reason="test")
    hanging = session(tmp_path, Plan(take, take, take), denoiser=Hanging(), deadline_s=0.05)
    outcome = hanging.run()
    assert outcome.status == "completed", outcome
    released.set()
    reader = SessionReader(tmp_path)
    assert reader.cycles[1].faults == ("denoiser cannot learn: plain gave no answer within 0.05 s",)
    assert [len(cycle.faults) for cycle in reader.cycles] == [0, 1, 0, 0]
    assert len(reader.frames) == 3


def test_damaged_weights_are_noticed_and_no_session_goes_on_with_them(tmp_path: Path) -> None:
    reader = run(tmp_path)
    weights = reader.folder / "models" / f"{reader.changes[0].sha256}.safetensors"
    weights.write_bytes(b"weights 7")
    assert "do not match their checksum" in SessionReader(reader.folder).problems()[0]
    journal = reader.folder / JOURNAL_NAME
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(SessionFolderError, match="do not match their checksum"):
        resumed_session(reader.folder)
    weights.unlink()
    with pytest.raises(SessionFolderError, match="No such file"):
        resumed_session(reader.folder)
    assert len(LearningDenoiser.closed) == 3, "nothing is left running after a start that failed"


def test_weights_that_their_model_does_not_take_end_a_resume(tmp_path: Path) -> None:
    reader = run(tmp_path)
    (reader.folder / "models" / f"{reader.changes[0].sha256}.json").write_text(json.dumps({"of": "another"}))
    journal = reader.folder / JOURNAL_NAME
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(ReplayDivergedError, match="not the card of a gain"):
        resumed_session(reader.folder)


def test_models_are_closed_when_the_session_cannot_start(tmp_path: Path) -> None:
    config = experiment(tmp_path / "config", segmenter="tests.fake_models:UnmakeableSegmenter")
    with pytest.raises(OSError, match="no weights"):
        new_session(config, tmp_path / "session")
    assert LearningDenoiser.closed == [""]
    assert not (tmp_path / "session").exists()


def test_a_model_that_cannot_be_closed_is_told_and_spoils_nothing(tmp_path: Path) -> None:
    reader = run(tmp_path, 'problem = "cannot close"')
    assert reader.stop is not None
    assert "no such process" in reader.stop.reason
    assert reader.status == "completed"


def test_a_stuck_model_is_closed_too() -> None:
    released = threading.Event()
    closed: list[str] = []

    class Stuck:
        def close(self) -> None:
            closed.append("stuck")

    class Spare:
        def close(self) -> None:
            closed.append("spare")

    stage: Stage[Any] = Stage("stuck", Stuck(), deadline_s=0.05, fallback=("spare", Spare()))
    assert stage.run(lambda _: released.wait(30) if not stage.is_replaced else 7).answer == 7
    assert stage.is_replaced
    assert stage.close() == []
    released.set()
    assert sorted(closed) == ["spare", "stuck"]
    assert stage.close() == []
    assert len(closed) == 2


def test_a_fallback_that_hangs_once_is_not_taken_for_the_model() -> None:
    released = threading.Event()

    def call(name: str) -> str:
        if name == "model":
            raise ValueError("not this time")
        released.wait(30)
        return name

    stage = Stage("model", "model", deadline_s=0.05, fallback=("spare", "spare"))
    ran = stage.run(call)
    released.set()
    assert [ran.answer, len(ran.faults)] == [None, 2]
    assert (stage.name, stage.is_lost, stage.fallback) == ("model", False, None)
    assert stage.run(call).faults == ("model failed: ValueError: not this time",)
