"""What ``stedfast labels consensus`` tells of two people: to read, and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli import app
from controller.labels.queue import LabelQueue
from controller.labels.store import LabelStore
from tests.labels.support import FIBER, RING, Watch, add_person, ask, claimed, submission


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder where two people answered four questions and agreed about three."""
    watch = Watch()
    store = LabelStore.open(tmp_path, create=True, now=watch)
    queue, people = LabelQueue(store, watch), [add_person(store, name) for name in ("ada", "ben")]
    said = [(RING, RING), (FIBER, FIBER), (RING, RING), (RING, FIBER)]
    for number, replies in enumerate(said):
        ask(store, number, annotators=2)
        for person, reply in zip(people, replies, strict=True):
            lease = claimed(queue.claim(person))
            queue.answer(person, submission(lease, f"{person.name} {number}", reply))
    store.close()
    return tmp_path


def test_consensus_tells_who_agrees_with_whom_and_how_good_everybody_is(folder: Path) -> None:
    told = CliRunner().invoke(app, ["labels", "consensus", str(folder)])
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert lines[0] == "4 new or changed; 0 answers could not be used"
    assert lines[1].endswith("4 samples")
    # Of four, three alike; by chance 3/4 * 1/2 + 1/4 * 1/2 = 1/2 of them.
    assert "  Cohen's kappa, ada and ben: 0.50 (4 items)" in lines
    assert any(
        line.startswith("ada, ") and line.endswith("(4 of 4 also answered by others)") for line in lines
    )


def test_programs_are_told_the_same_in_json(folder: Path) -> None:
    told = CliRunner().invoke(app, ["labels", "consensus", str(folder), "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.output)
    assert (found["status"], found["new"], found["refused"]) == ("ok", 4, {})
    (question,) = found["questions"]
    assert question["cohen"]["ada and ben"]["value"] == pytest.approx(0.5)
    assert {skill["annotator"] for skill in found["skills"]} == {"ada", "ben"}
