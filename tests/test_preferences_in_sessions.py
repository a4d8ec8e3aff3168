"""From choices among a session's scans to another session that works for what was preferred."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from controller.assemble import new_session, replayed_session, resumed_session
from controller.cli import app
from controller.config import load
from controller.core.decision import Acquire, AskLabel
from controller.core.errors import ReplayDivergedError
from controller.core.reward import GOOD_WAYS, LearnedReward
from controller.labelling.session_questions import SessionQuestions
from controller.labels.queue import LabelQueue
from controller.labels.records import Reply, Submission
from controller.labels.store import LabelStore
from controller.recording.journal import JOURNAL_NAME
from controller.recording.reader import SessionReader
from policies.objectives import Measured
from policies.preferences import described

VISITS, INITIAL, QUESTIONS = 9, 4, 12
EXPERIMENT = f"""
schema = "stedfast-experiment/1"
name = "what is preferred"
hardware = "sim_sted.toml"
seed = 1

[policy]
name = "regions"
[policy.options]
fields_max = 1
visits_max = {VISITS}
overlap_max = 0.5
questions = {{ questions_max = 0 }}
preferences = {{ questions_max = {QUESTIONS}, scans_first = 3, scans_between = 1 }}
[policy.options.overview]
modality = "overview"
pixel_size_m = 100e-9
[policy.options.visit]
size_m = 0.96e-6
[policy.options.settings]
method = "thompson"
candidates = 200
initial_trials = {INITIAL}
REWARD

[denoiser]
name = "raw"
[segmenter]
name = "spots_wavelet"
options = {{ spot_size_m = 100e-9 }}
"""


def utility(values: Mapping[str, float]) -> float:
    """Return what the expert thinks of a scan: bright is good, and bleaching far worse than by default."""
    return values["signal_log"] - 15 * values["bleached_fraction"]


def run(folder: Path, reward: str = "") -> SessionReader:
    folder.mkdir(exist_ok=True)
    (folder / "experiment.toml").write_text(EXPERIMENT.replace("REWARD", reward))
    session = new_session(load(folder), folder / "session")
    assert session.run().status == "completed"
    return SessionReader(folder / "session")


def shown(reader: SessionReader) -> list[dict[str, float]]:
    """Return what each visit showed, by the evidence that its policy recorded."""
    found, last = [], None
    for cycle in reader.cycles:
        told = cycle.decision.evidence
        if last is not None and "bleached_fraction" in told:
            measured = Measured(**{n: told[n] for n in Measured.__dataclass_fields__ if n in told})
            values = described(measured, last)
            assert values is not None
            found.append(values)
        if isinstance(cycle.decision, Acquire) and cycle.decision.settings.modality == "sted":
            last = cycle.decision.settings
    return found


def questions(reader: SessionReader) -> list[AskLabel]:
    return [cycle.decision for cycle in reader.cycles if isinstance(cycle.decision, AskLabel)]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> SessionReader:
    """Return a session judged by the default weights, whose choices the expert has made."""
    reader = run(tmp_path_factory.mktemp("asked"))
    store = LabelStore.open(reader.folder, create=True)
    assert SessionQuestions(store).take_in(reader) == []
    queue, expert = LabelQueue(store, lambda: 0.0), store.add_annotator("expert", "simulated")
    while (lease := queue.claim(expert)) is not None:
        picked = int(np.argmax([utility(item.values) for item in lease.request.items]))
        reply = Reply(chosen=picked)
        queue.answer(expert, Submission(key=lease.id, lease_id=lease.id, reply=reply, elapsed_s=3.0))
    return reader


@pytest.fixture(scope="module")
def served(asked: SessionReader, tmp_path_factory: pytest.TempPathFactory) -> SessionReader:
    """Return the same session again, judged by what ``stedfast labels reward`` learned from the choices."""
    folder = tmp_path_factory.mktemp("served")
    file = folder / "reward.json"
    told = CliRunner().invoke(app, ["labels", "reward", str(asked.folder), "-o", str(file)])
    assert told.exit_code == 0, told.output
    assert f"{QUESTIONS} by expert" in told.output
    assert LearnedReward.read(file).sha256 in told.output
    return run(folder, 'reward = "reward.json"')


def test_the_questions_are_between_recorded_scans_that_none_of_them_beats_in_everything(
    asked: SessionReader,
) -> None:
    made = questions(asked)
    assert len(made) == QUESTIONS
    known = {cycle.frame_index: cycle.decision for cycle in asked.cycles}
    for question in made:
        options = question.question.options
        assert 2 <= len(options) <= 3
        for option in options:
            scan = known[option.frame_index]
            assert isinstance(scan, Acquire)
            assert scan.settings.modality == "sted"
            assert set(option.values) == set(GOOD_WAYS)
            assert option.values["dose_j_per_m2"] == pytest.approx(scan.settings.dose_j_per_m2)


def test_a_session_that_works_for_the_learned_reward_comes_closer_to_what_the_expert_wants(
    asked: SessionReader, served: SessionReader
) -> None:
    by_default, by_reward = (
        [utility(values) for values in shown(reader)[INITIAL:]] for reader in (asked, served)
    )
    assert len(by_default) == len(by_reward) == VISITS - INITIAL
    assert np.mean(by_reward) > np.mean(by_default) + 0.3


def test_the_record_says_which_reward_judged_and_what_it_said(served: SessionReader) -> None:
    reward = LearnedReward.read(served.folder.parent / "reward.json")
    first, *rest = [cycle.decision for cycle in served.cycles]
    assert reward.sha256 in first.reason
    assert not any(reward.sha256 in decision.reason for decision in rest)
    told = [d.evidence for d in rest if "reward_mean" in d.evidence]
    assert len(told) == VISITS
    for values, evidence in zip(shown(served), told, strict=True):
        mean, std = reward.predict(values)
        assert evidence["reward_mean"] == pytest.approx(mean)
        assert evidence["reward_std"] == pytest.approx(std)


def test_a_replay_decides_alike_and_a_changed_reward_keeps_a_session_from_going_on(
    served: SessionReader, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(served.folder, cut)
    journal = cut / JOURNAL_NAME
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:20]))
    recorded = [cycle.decision for cycle in SessionReader(cut).cycles]
    assert len(recorded) > 3

    replayed_session(cut, tmp_path / "again").run()
    assert [cycle.decision for cycle in SessionReader(tmp_path / "again").cycles] == recorded

    file = served.folder.parent / "reward.json"
    kept = file.read_bytes()
    LearnedReward.read(file).replace(beta=0.5).write(file)
    with pytest.raises(ReplayDivergedError, match="cycle 0: the policy decides"):
        resumed_session(cut)
    file.write_bytes(kept)
    session = resumed_session(cut)
    session.stop_after_this_frame("seen enough")
    session.run()
    assert [cycle.decision for cycle in SessionReader(cut).cycles][: len(recorded)] == recorded
