"""The command as a person and a script use it: what it says, and the code it ends with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli import app
from controller.config import shipped_hardware
from controller.labelling.session_questions import SessionQuestions
from controller.labels.database import LABELS_NAME
from controller.labels.queue import LabelQueue
from controller.labels.records import Reply, Submission
from controller.labels.store import LabelStore
from controller.learning.annotations import TagAnnotation
from controller.recording.reader import SessionReader

SMALL = """schema = "stedfast-experiment/1"
name = "small"
hardware = "sim_sted.toml"
[budget]
cycles = {cycles}
[policy]
name = "regions"
[policy.options]
fields_max = 1
visits_max = 2
"""


def stedfast(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short session on the simulated microscope, with its report."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "experiment.toml").write_text(SMALL.format(cycles=12))
    code, out, err = stedfast("run", folder, "-o", folder / "session")
    assert code == 0, err
    assert "completed" in out
    return folder / "session"


def test_new_makes_an_experiment_that_checks_and_runs(tmp_path: Path) -> None:
    folder = tmp_path / "my experiment"
    code, out, _ = stedfast("new", folder)
    assert code == 0
    assert "stedfast run" in out
    code, out, err = stedfast("check", folder)
    assert code == 0, err
    assert "first decision of 'regions': overview 1 of 4" in out
    code, _, err = stedfast("new", folder)
    assert code == 2
    assert "exists already" in err
    code, out, _ = stedfast("run", folder, "--dry", "--json", "--policy", "fixed")
    assert (code, json.loads(out)["policy"]) == (0, "fixed")
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.toml", "sim_sted.toml"], "no files"


def test_check_names_every_problem_and_ends_with_2(tmp_path: Path) -> None:
    text = shipped_hardware("sim_sted.toml").read_text()
    path = tmp_path / "scope.toml"
    path.write_text(text.replace("sted_max_w = 0.25", "sted_max_w = -1").replace("dwell_max_s", "dwel_max_s"))
    code, out, err = stedfast("check", path)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 3
    code, out, _ = stedfast("check", path, "--json")
    told = json.loads(out)
    assert (code, told["status"], len(told["problems"])) == (2, "bad configuration", 3)


def test_check_names_the_place_of_what_only_a_plugin_can_know(tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").write_text(
        'schema = "stedfast-experiment/1"\nname = "x"\nhardware = "sim_sted.toml"\n'
        '[policy]\nname = "regions"\n[policy.options.overview]\nmodality = "overview"\ndwell_s = 1.0\n'
    )
    code, _, err = stedfast("check", tmp_path)
    assert code == 2
    assert f"{tmp_path / 'experiment.toml'}:6: policy.options.overview: " in err
    assert "dwell" in err


def test_run_records_and_reports(recorded: Path) -> None:
    reader = SessionReader(recorded)
    assert reader.status == "completed"
    page = (recorded / "report.html").read_text()
    assert "<html" in page
    assert reader.start.run_id in page


def test_the_same_seed_is_the_same_run_and_another_seed_is_not(recorded: Path, tmp_path: Path) -> None:
    experiment = recorded.parent
    for name, seed in {"same": 0, "other": 5}.items():
        code, out, _ = stedfast(
            "run", experiment, "--seed", seed, "-o", tmp_path / name, "--json", "--no-report"
        )
        assert code == 0
        assert json.loads(out)["status"] == "completed"
    frames = {
        name: [frame.blake2b for frame in SessionReader(folder).frames.values()]
        for name, folder in {
            "first": recorded,
            "same": tmp_path / "same",
            "other": tmp_path / "other",
        }.items()
    }
    assert frames["first"] == frames["same"]
    assert frames["first"] != frames["other"]


def test_replay_says_that_the_decisions_are_identical(recorded: Path, tmp_path: Path) -> None:
    code, out, err = stedfast("replay", recorded, "-o", tmp_path / "replayed")
    assert code == 0, err
    assert "decisions: identical" in out
    code, out, _ = stedfast("replay", recorded, "-o", tmp_path / "again", "--json")
    assert json.loads(out)["identical"] is True


def test_report_and_export_of_a_session(recorded: Path, tmp_path: Path) -> None:
    code, _, _ = stedfast("report", recorded, "-o", tmp_path / "page.html")
    assert code == 0
    assert (tmp_path / "page.html").exists()
    code, _, _ = stedfast("export", recorded, tmp_path / "exported")
    assert code == 0
    assert list((tmp_path / "exported").glob("*.csv"))
    assert list((tmp_path / "exported").rglob("*.ome.tif*"))


def test_answers_of_people_are_in_the_report_and_in_the_export(recorded: Path) -> None:
    reader = SessionReader(recorded)
    store = LabelStore.open(recorded, create=True)
    assert SessionQuestions(store).take_in(reader) == []
    queue, tester = LabelQueue(store, time.time), store.add_annotator("tester")
    lease = queue.claim(tester)
    assert lease is not None
    said = store.schema(lease.request.schema_id).label_schema.classes[0]
    reply = Reply(annotations=(TagAnnotation(present=(said,)),))
    queue.answer(tester, Submission(key="1", lease_id=lease.id, reply=reply, elapsed_s=1.5))
    assert stedfast("export", recorded, recorded.parent / "with answers")[0] == 0
    assert "tester" in (recorded.parent / "with answers" / "answers.csv").read_text()
    assert stedfast("report", recorded)[0] == 0
    assert f"{said} (tester, 1.5 s)" in (recorded / "report.html").read_text()
    code, out, _ = stedfast("labels", "status", recorded, "--json")
    assert code == 0
    assert json.loads(out)["counts"]["per_class"] == {said: 1}


def test_answers_that_cannot_be_read_cost_neither_the_report_nor_the_export(
    recorded: Path, tmp_path: Path
) -> None:
    shutil.copytree(recorded, tmp_path / "old", ignore=shutil.ignore_patterns(f"{LABELS_NAME}*"))
    connection = sqlite3.connect(tmp_path / "old" / LABELS_NAME)
    connection.execute("CREATE TABLE question (id INTEGER PRIMARY KEY, question TEXT)")
    connection.close()
    for command in (("report", tmp_path / "old"), ("export", tmp_path / "old", tmp_path / "exported")):
        code, _, err = stedfast(*command)
        assert code == 0, err
        assert "earlier version of Stedfast" in err
    code, _, err = stedfast("label", tmp_path / "old", "--no-browser")
    assert code == 2
    assert "earlier version of Stedfast" in err


@pytest.mark.parametrize("command", ["resume", "replay", "report", "label"])
def test_a_folder_that_is_no_session_ends_with_2_and_a_sentence(command: str, tmp_path: Path) -> None:
    code, _, err = stedfast(command, tmp_path)
    assert code == 2
    assert str(tmp_path) in err
    assert "Traceback" not in err


def test_a_completed_session_is_not_resumed(recorded: Path) -> None:
    code, _, err = stedfast("resume", recorded)
    assert code == 2
    assert "complete" in err


def _start(folder: Path, *options: str) -> subprocess.Popen[str]:
    (folder / "experiment.toml").write_text(
        'schema = "stedfast-experiment/1"\nname = "long"\nhardware = "hardware.toml"\n'
        '[policy]\nname = "fixed"\n[policy.options]\nrepeats = 100000\n'
    )
    text = shipped_hardware("sim_sted.toml").read_text()
    limits = text.partition("[limits]")[2]
    (folder / "hardware.toml").write_text(
        'schema = "stedfast-hardware/1"\nname = "fake"\n[microscope]\n'
        'driver = "controller.testing:FakeMicroscope"\noptions = { frame_s = 0.02 }\n[limits]' + limits
    )
    command = [
        sys.executable,
        "-m",
        "controller",
        "run",
        str(folder),
        "-o",
        str(folder / "session"),
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = folder / "session" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_text().count('"cycle"') < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_the_session_in_order_with_130(tmp_path: Path, number: signal.Signals) -> None:
    process = _start(tmp_path, "--json")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    told = json.loads(out)
    assert (process.returncode, told["status"]) == (130, "interrupted"), err
    reader = SessionReader(tmp_path / "session")
    assert reader.status == "interrupted"
    assert len(reader.frames) == len(reader.cycles) == told["frames"]
    assert reader.problems() == []
    assert (tmp_path / "session" / "report.html").exists()


def test_a_run_on_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    process = _start(tmp_path)
    try:
        code, _, err = stedfast("run", tmp_path, "-o", tmp_path / "session")
        assert (code, "already holds a session" in err) == (2, True)
        code, _, err = stedfast("resume", tmp_path / "session")
        assert (code, "running in another process" in err) == (2, True)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_python_m_controller_is_the_same_command() -> None:
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "controller", "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    for command in ("new", "check", "run", "resume", "replay", "report", "export", "label"):
        assert f" {command} " in done.stdout


def test_a_closed_terminal_ends_the_session_in_order(tmp_path: Path) -> None:
    process = _start(tmp_path)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert SessionReader(tmp_path / "session").status == "interrupted"


def test_a_reader_that_goes_away_does_not_end_the_session(tmp_path: Path) -> None:
    process = _start(tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.close()
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    process.stdout.close()
    assert SessionReader(tmp_path / "session").status == "interrupted"


BROKEN = """
from controller.core.settings import Settings
from controller.testing import FakeMicroscope


class Broken(FakeMicroscope):
    class Options(Settings):
        '''None.'''

    @classmethod
    def from_options(cls, options, resources):
        raise RuntimeError("the controller does not answer")
"""


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_driver_that_cannot_start_is_one_object_and_leaves_no_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    text = shipped_hardware("sim_sted.toml").read_text()
    limits = text.partition("[limits]")[2]
    (tmp_path / "scope.toml").write_text(
        'schema = "stedfast-hardware/1"\nname = "x"\n[microscope]\ndriver = "broken:Broken"\n'
        '[experiment.policy]\nname = "fixed"\n[limits]' + limits
    )
    folder = ["-o", tmp_path / "session"] if command == "run" else []
    code, out, _ = stedfast(command, tmp_path / "scope.toml", "--json", *folder)
    told = json.loads(out)
    assert (code, told["status"]) == (1, "failed")
    assert "the controller does not answer" in told["problems"][0]
    assert not (tmp_path / "session" / "journal.jsonl").exists()


def test_new_takes_any_name_for_a_folder(tmp_path: Path) -> None:
    code, _, _ = stedfast("new", tmp_path / 'synapses "é" 🔬')
    assert code == 0
    code, _, err = stedfast("check", tmp_path / 'synapses "é" 🔬')
    assert code == 0, err


def test_a_microscope_alone_is_not_run_by_a_slip(tmp_path: Path) -> None:
    path = tmp_path / "scope.toml"
    text = shipped_hardware("sim_sted.toml").read_text()
    start, end = text.index("[experiment]"), text.index("[microscope]")
    path.write_text(text[:start] + text[end:])
    code, _, err = stedfast("run", path, "-o", tmp_path / "session")
    assert code == 2
    assert "stedfast new DIR --hardware" in err
    assert stedfast("new", tmp_path / "mine", "--hardware", path)[0] == 0
    assert (tmp_path / "mine" / "scope.toml").exists()


def test_a_policy_that_gave_up_is_not_called_completed(tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").write_text(
        'schema = "stedfast-experiment/1"\nname = "x"\nhardware = "sim_sted.toml"\n'
        '[policy]\nname = "fixed"\n[policy.options]\nsteps = [{ pixel_size_m = 25e-9 }]\n'
    )
    code, out, _ = stedfast("run", tmp_path, "-o", tmp_path / "session")
    assert code == 1
    assert "failed: the plan is done: 0 of 1 scans gave a frame" in out


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sted_max_w = 0.25", "sted_max_w = 250.0"),
        ("dwell_max_s = 100e-6", "dwell_max_s = 100.0"),
        ("size_yx_m = [20.48e-6, 20.48e-6]", "size_yx_m = [20.48, 20.48]"),
    ],
)
def test_a_mistaken_unit_is_refused_with_a_hint(tmp_path: Path, old: str, new: str) -> None:
    text = shipped_hardware("sim_sted.toml").read_text()
    assert old in text
    path = tmp_path / "scope.toml"
    path.write_text(text.replace(old, new))
    code, _, err = stedfast("check", path)
    assert code == 2
    assert "is implausible" in err
    assert "are e-" in err
