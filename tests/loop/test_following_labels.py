"""A model that was trained from people's answers takes over between the cycles of a running session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from controller.assemble import Hooks, new_session, replayed_session, resumed_session
from controller.config import Experiment, load
from controller.core.decision import Cycle
from controller.networks.modules import tensors_of
from controller.networks.weights import Weights, pack
from controller.recording.documents import DOCUMENT, CycleDocument
from controller.recording.journal import JOURNAL_NAME
from controller.recording.reader import SessionReader
from controller.recording.tables import cycle_rows
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions
from controller.segmentation.published import path_of, publish, published_folder
from controller.segmentation.training import build
from tests.loop.test_recovery import assert_same_run
from tests.support import FAKE_HARDWARE

EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "following"
hardware = "hardware.toml"
seed = 5
[policy]
name = "fixed"
options = {{ repeats = 8 }}
[denoiser]
name = "raw"
[segmenter]
name = "small_unet"
options = {{ follow_labels = {follows} }}
"""


def experiment(folder: Path, *, follows: bool = True) -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hardware.toml").write_text(FAKE_HARDWARE.format(frame_s=0.001, clock="simulated"))
    (folder / "experiment.toml").write_text(EXPERIMENT.format(follows=str(follows).lower()))
    return load(folder)


def model(number: int, **about: object) -> Weights:
    """Return a fresh network that says it was published under a number."""
    options = NetworkOptions(kind="spots", object_px=3.0, width=8, deep=8, classes=("background", "ring"))
    return pack(
        tensors_of(build(options, np.random.default_rng(number))),
        architecture=ARCHITECTURE,
        options=options.model_dump(mode="json"),
        training={"published": number, "reason": f"taught by test {number}", **about},
        metrics={"score_before": 0.5, "score": 0.5 + number / 100},
    )


Action = Callable[[Path], object]


def run(tmp_path: Path, actions: dict[int, Action], *, follows: bool = True) -> SessionReader:
    """Run a session; after each cycle that ``actions`` names, its action is done to the folder of models."""
    session = tmp_path / "session"

    def act(cycle: Cycle) -> None:
        if cycle.index in actions:
            actions[cycle.index](published_folder(session))

    made = new_session(experiment(tmp_path / "config", follows=follows), session, hooks=Hooks(cycle=act))
    assert made.run().status == "completed"
    return SessionReader(session)


def put(number: int) -> Action:
    return lambda folder: publish(model(number), folder, number)


def test_a_published_model_takes_over_in_the_next_cycle_and_the_journal_names_it(tmp_path: Path) -> None:
    reader = run(tmp_path, {2: put(1), 5: put(2)})
    told = [(c.cycle, c.role, c.sha256, c.score_before, c.score_after) for c in reader.changes]
    assert told == [
        (3, "segmenter", model(1).sha256, 0.5, 0.51),
        (6, "segmenter", model(2).sha256, 0.5, 0.52),
    ]
    assert reader.changes[0].reason == "published model 1: taught by test 1"
    one, two = ({"segmenter": model(n).sha256[:12]} for n in (1, 2))
    assert [cycle.weights for cycle in reader.cycles] == [{}] * 3 + [one] * 3 + [two] * (
        len(reader.cycles) - 6
    )
    entries = [cycle.segmentation for cycle in reader.cycles]
    assert all(entry is not None for entry in entries[:8])
    assert sum(len(cycle.faults) for cycle in reader.cycles) == 0
    assert reader.problems() == []
    assert [row["weights"] for row in cycle_rows(reader)][2:4] == ["", f"segmenter:{model(1).sha256[:12]}"]


def test_a_replay_and_a_resumed_session_follow_the_record_and_not_the_folder(tmp_path: Path) -> None:
    recorded = run(tmp_path, {2: put(1), 5: put(2)})
    assert replayed_session(recorded.folder, tmp_path / "replayed").run().status == "completed"
    replayed = SessionReader(tmp_path / "replayed")
    assert_same_run(recorded, replayed)
    assert [c.weights for c in replayed.cycles] == [c.weights for c in recorded.cycles]

    lines = (recorded.folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    ends = [n for n, line in enumerate(lines) if b'"type":"cycle"' in line]
    folder = tmp_path / "cut"
    shutil.copytree(recorded.folder, folder)
    # Cut off between the two models; the newer one lies in the folder and is taken at once then.
    (folder / JOURNAL_NAME).write_bytes(b"".join(lines[: ends[3] + 1]))
    assert resumed_session(folder).run().status == "completed"
    resumed = SessionReader(folder)
    assert [c.sha256 for c in resumed.changes] == [model(1).sha256, model(2).sha256]
    assert [c.cycle for c in resumed.changes] == [3, 4]
    assert [c.weights for c in resumed.cycles[:4]] == [c.weights for c in recorded.cycles[:4]]
    assert resumed.cycles[-1].weights == recorded.cycles[-1].weights


def test_a_resumed_session_never_goes_back_to_an_older_model(tmp_path: Path) -> None:
    recorded = run(tmp_path, {2: put(2)})
    lines = (recorded.folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    named = next(n for n, line in enumerate(lines) if b'"type":"model"' in line)
    (recorded.folder / JOURNAL_NAME).write_bytes(b"".join(lines[: named + 4]))
    publish(model(1), published_folder(recorded.folder), 1)
    assert resumed_session(recorded.folder).run().status == "completed"
    assert [c.sha256 for c in SessionReader(recorded.folder).changes] == [model(2).sha256]


def _damage(number: int, content: bytes) -> Action:
    def act(folder: Path) -> None:
        publish(model(number), folder, number)
        path_of(folder, number).write_bytes(content)

    return act


def _of_another_kind(folder: Path) -> None:
    card = json.loads(path_of(folder, 1).with_suffix(".json").read_text())
    other = model(3)
    publish(Weights(other.data, other.card.replace(architecture="causal_unet/1")), folder, 3)
    assert card["architecture"] == ARCHITECTURE


def test_a_model_that_cannot_be_used_is_told_once_and_the_next_one_is_taken(tmp_path: Path) -> None:
    reader = run(tmp_path, {1: put(1), 2: _damage(2, b"cut off"), 3: _of_another_kind, 5: put(4)})
    assert [(c.cycle, c.sha256) for c in reader.changes] == [(2, model(1).sha256), (6, model(4).sha256)]
    faults = {cycle.index: cycle.faults for cycle in reader.cycles if cycle.faults}
    assert sorted(faults) == [3, 4]
    assert "published model 2 is passed over" in faults[3][0]
    assert "damaged" in faults[3][0]
    assert "causal_unet" in faults[4][0]


def test_without_the_option_a_session_looks_at_no_model(tmp_path: Path) -> None:
    reader = run(tmp_path, {1: put(1)}, follows=False)
    assert reader.changes == []
    assert all(cycle.weights == {} for cycle in reader.cycles)


def test_journals_from_before_weights_were_named_are_still_read(tmp_path: Path) -> None:
    reader = run(tmp_path, {})
    line = reader.cycles[0].model_dump(mode="json", by_alias=True)
    del line["weights"]
    old = DOCUMENT.validate_json(json.dumps(line))
    assert isinstance(old, CycleDocument)
    assert old == reader.cycles[0]
