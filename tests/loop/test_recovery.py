"""kill -9 at any moment loses nothing acknowledged, and the session goes on as the same run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from controller.assemble import Hooks, new_session, replayed_session, resumed_session
from controller.config import Experiment, load
from controller.core.decision import Cycle
from controller.core.errors import ConfigurationError, ReplayDivergedError, SessionFolderError
from controller.recording.journal import JOURNAL_NAME, read_journal
from controller.recording.reader import SessionReader
from tests.support import FAKE_HARDWARE

KILLS = 20

EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "test"
hardware = "hardware.toml"
seed = 7
[budget]
cycles = {cycles}
[policy]
name = "thompson"
[policy.options]
trials_max = 1000
[denoiser]
name = "adaptive_kalman"
[segmenter]
name = "spots_log"
"""


def experiment(folder: Path, *, cycles: int, frame_s: float = 0.001, clock: str = "simulated") -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hardware.toml").write_text(FAKE_HARDWARE.format(frame_s=frame_s, clock=clock))
    (folder / "experiment.toml").write_text(EXPERIMENT.format(cycles=cycles))
    return load(folder)


def decisions(reader: SessionReader) -> list[object]:
    return [cycle.decision for cycle in reader.cycles]


def assert_same_run(one: SessionReader, other: SessionReader) -> None:
    assert decisions(one) == decisions(other)
    assert one.frames.keys() == other.frames.keys()
    for index in one.frames:
        assert one.frames[index].blake2b == other.frames[index].blake2b
        assert one.frames[index].started_s == other.frames[index].started_s
    for ours, theirs in zip(one.cycles, other.cycles, strict=True):
        assert (ours.now_s, ours.dose) == (theirs.now_s, theirs.dose)
        assert (ours.denoised and ours.denoised.blake2b) == (theirs.denoised and theirs.denoised.blake2b)
        assert ours.segmentation == theirs.segmentation


def _run_command(config: Path, folder: Path) -> list[str]:
    verb = (
        ["resume", str(folder)]
        if (folder / JOURNAL_NAME).exists()
        else ["run", str(config), "-o", str(folder)]
    )
    return [sys.executable, "-m", "controller", *verb, "--no-report", "--json"]


@pytest.mark.timeout(300)
def test_killed_at_random_moments_a_session_loses_nothing_and_ends_as_one_run(tmp_path: Path) -> None:
    experiment(tmp_path, cycles=200, frame_s=0.004, clock="system")
    folder = tmp_path / "session"
    rng = np.random.default_rng(20)
    kills = 0
    safe: dict[int, str] = {}
    run_id = None
    while kills < KILLS:
        before = (folder / JOURNAL_NAME).stat().st_size if folder.exists() else 0
        process = subprocess.Popen(_run_command(tmp_path, folder), stdout=subprocess.DEVNULL)
        # Wait until it works, then a random moment more, so that the kill falls into a cycle.
        while process.poll() is None and (
            not (folder / JOURNAL_NAME).exists() or (folder / JOURNAL_NAME).stat().st_size <= before + 2000
        ):
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.05)))
        assert process.poll() is None, "the session ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        reader = SessionReader(folder)
        run_id = run_id or reader.start.run_id
        assert reader.start.run_id == run_id
        assert reader.status == "unfinished"
        assert safe.items() <= {index: frame.blake2b for index, frame in reader.frames.items()}.items()
        safe = {index: frame.blake2b for index, frame in reader.frames.items()}
        if kills % 5 == 0:
            assert reader.problems() == []
    (tmp_path / "experiment.toml").write_text("changed after the start: the journal is what counts")
    finished = subprocess.run(_run_command(tmp_path, folder), capture_output=True, text=True, check=False)
    assert json.loads(finished.stdout)["status"] == "completed", finished.stderr
    assert finished.returncode == 0
    reader = SessionReader(folder)
    assert (reader.start.run_id, reader.start.seed, len(reader.resumes)) == (run_id, 7, KILLS)
    assert [cycle.index for cycle in reader.cycles] == list(range(len(reader.cycles)))
    assert len(reader.cycles) > 190
    assert sorted(reader.frames) == list(range(len(reader.frames)))
    assert reader.problems() == []
    delivered = sum(frame.settings.energy_j for frame in reader.frames.values())
    lost = sum(booking.energy_j for booking in reader.unsettled())
    assert reader.stop is not None
    assert reader.stop.dose.energy_j == pytest.approx(delivered + lost)
    # At most the frames on their way to the disk and the one under the light, each time.
    assert len(reader.unsettled()) <= 4 * KILLS


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_a_run_cut_between_two_cycles_and_resumed_equals_one_that_was_not(tmp_path: Path, cut: int) -> None:
    config = experiment(tmp_path / "config", cycles=14)
    whole = tmp_path / "whole"
    assert new_session(config, whole).run().status == "completed"
    code = (
        "import os, sys, pathlib\n"
        "from controller.assemble import Hooks, new_session\n"
        "from controller.config import load\n"
        "def stop(cycle):\n"
        f"    if cycle.index == {cut}: flush(); os._exit(9)\n"
        "def flush():\n"
        "    import threading\n"
        "    done = threading.Event(); session.writer._jobs.put(done.set); done.wait()\n"
        "config, folder = map(pathlib.Path, sys.argv[1:])\n"
        "session = new_session(load(config), folder, hooks=Hooks(cycle=stop))\n"
        "session.run()\n"
    )
    cut_off = tmp_path / "cut"
    process = subprocess.run([sys.executable, "-c", code, config.session.path, cut_off], check=False)
    assert process.returncode == 9
    assert len(SessionReader(cut_off).cycles) == cut + 1
    assert resumed_session(cut_off).run().status == "completed"
    assert_same_run(SessionReader(whole), SessionReader(cut_off))


def test_a_frame_whose_cycle_was_lost_is_worked_on_after_the_resume(tmp_path: Path) -> None:
    config = experiment(tmp_path / "config", cycles=12)
    whole, cut_off = tmp_path / "whole", tmp_path / "cut"
    new_session(config, whole).run()
    new_session(config, cut_off).run()
    lines = (cut_off / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    keep = next(
        i for i, line in enumerate(lines) if json.loads(line).get("type") == "cycle" and b'"index":5,' in line
    )
    kept = [line for line in lines[:keep] if not (b'"reserve"' in line and json.loads(line)["cycle"] > 5)]
    later = len(SessionReader(cut_off).frames) - 6
    (cut_off / JOURNAL_NAME).write_bytes(b"".join(kept) + b'{"type":"cyc')
    assert len(SessionReader(cut_off).frames) == 6
    assert len(SessionReader(cut_off).cycles) == 5
    assert resumed_session(cut_off).run().status == "completed"
    assert_same_run(SessionReader(whole), SessionReader(cut_off))
    aside = list((cut_off / "session.ome.zarr").glob("unacknowledged_*"))
    assert len(aside) == later > 0, "later pixels are kept aside"


def test_light_without_a_frame_counts_in_full_after_the_resume(tmp_path: Path) -> None:
    config = experiment(tmp_path / "config", cycles=6)
    folder = tmp_path / "session"
    new_session(config, folder).run()
    lines = (folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    documents = [json.loads(line) for line in lines]
    last = max(document["cycle"] for document in documents if document["type"] == "reserve")
    kept = [
        line
        for line, document in zip(lines, documents, strict=True)
        if document["type"] == "start"
        or document.get("cycle", document.get("index", last)) < last
        or (document["type"] == "reserve" and document["cycle"] == last)
    ]
    (folder / JOURNAL_NAME).write_bytes(b"".join(kept))
    lost = SessionReader(folder).unsettled()
    assert len(lost) == 1
    resumed_session(folder).run()
    reader = SessionReader(folder)
    assert reader.stop is not None
    delivered = sum(frame.settings.energy_j for frame in reader.frames.values())
    assert reader.stop.dose.energy_j == pytest.approx(delivered + lost[0].energy_j)
    assert lost[0].energy_j == pytest.approx(1.25 * lost[0].settings.energy_j)


def test_a_completed_session_is_not_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    new_session(experiment(tmp_path / "config", cycles=2), folder).run()
    with pytest.raises(SessionFolderError, match="is complete"):
        resumed_session(folder)


def test_an_interrupted_session_is_resumed_to_the_same_run(tmp_path: Path) -> None:
    config = experiment(tmp_path / "config", cycles=12)
    whole, paused = tmp_path / "whole", tmp_path / "paused"
    new_session(config, whole).run()

    def stop(cycle: Cycle) -> None:
        if cycle.index == 6:
            session.stop_after_this_frame("stopped by the user")

    session = new_session(config, paused, hooks=Hooks(cycle=stop))
    assert session.run().status == "interrupted"
    assert resumed_session(paused).run().status == "completed"
    assert_same_run(SessionReader(whole), SessionReader(paused))
    kinds = [document.type for document in read_journal(paused)]
    assert kinds.count("stop") == 2
    assert kinds.count("resume") == 1


def test_a_running_session_cannot_be_resumed_by_a_second_process(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    session = new_session(experiment(tmp_path / "config", cycles=3), folder)
    try:
        with pytest.raises(SessionFolderError, match="running in another process"):
            resumed_session(folder)
    finally:
        session.run()


def test_a_policy_that_decides_otherwise_than_recorded_is_not_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "session"

    def stop(cycle: Cycle) -> None:
        session.stop_after_this_frame("stopped by the user")

    session = new_session(experiment(tmp_path / "config", cycles=3), folder, hooks=Hooks(cycle=stop))
    session.run()
    journal = folder / JOURNAL_NAME
    journal.write_text(journal.read_text().replace('"seed":7', '"seed":8').replace("trial 1", "trial 9"))
    with pytest.raises(ReplayDivergedError, match="cycle 0"):
        resumed_session(folder)
    journal.write_text(journal.read_text().replace("trial 9", "trial 1"))
    assert SessionReader(folder).status == "interrupted", "a failed resume leaves the record as it was"


def test_the_same_seed_gives_the_same_run_in_another_process(tmp_path: Path) -> None:
    config = experiment(tmp_path / "config", cycles=10)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    new_session(config, ours).run()
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run(
        _run_command(tmp_path / "config", theirs), check=True, env=environment, capture_output=True
    )
    assert_same_run(SessionReader(ours), SessionReader(theirs))


def test_a_replay_decides_the_same_on_the_recorded_frames(tmp_path: Path) -> None:
    recorded, replayed = tmp_path / "recorded", tmp_path / "replayed"
    new_session(experiment(tmp_path / "config", cycles=10), recorded).run()
    assert replayed_session(recorded, replayed).run().status == "completed"
    assert_same_run(SessionReader(recorded), SessionReader(replayed))


WATCHFUL = """
from controller.core.decision import Acquire, AskLabel, Question, Stop
from controller.core.settings import Settings
from controller.testing import CONFOCAL


class Watchful:
    '''What it asks for depends on the dose, the budget and the time, to the last bit.'''

    family = "open-loop"

    class Options(Settings):
        refuse: bool = False
        movie: bool = False

    @classmethod
    def from_options(cls, options, resources):
        policy = cls()
        policy.options, policy.cycle = options, 0
        return policy

    def decide(self, observation):
        self.cycle += 1
        if self.cycle > 9:
            return Stop(reason="done")
        if self.cycle == 4:
            region = CONFOCAL.region
            question = Question(frame_index=0, region=region, kind="choice", text="?", choices=("a",))
            return AskLabel(question=question, reason="ask")
        if self.options.refuse and self.cycle == 3:
            return Acquire(settings=CONFOCAL.replace(pixel_size_m=5e-9), reason="too fine")
        trace = observation.dose.energy_j * 1e-3 + observation.now_s * 1e-9 + self.cycle * 1e-8
        power = 10e-6 + trace % 1e-6
        again = " again" if observation.failure else ""
        frames = 3 if self.options.movie and self.cycle in (2, 6) else 1
        settings = CONFOCAL.replace(excitation_w=power)
        return Acquire(settings=settings, frames=frames, reason=f"cycle {self.cycle}{again}")
"""


def watchful(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: str = "", hardware: str = ""
) -> Experiment:
    folder.mkdir(parents=True)
    (folder / "watchful.py").write_text(WATCHFUL)
    monkeypatch.syspath_prepend(folder)
    (folder / "hardware.toml").write_text(
        FAKE_HARDWARE.format(frame_s=0.001, clock="simulated").replace(
            "frame_s = 0.001", "frame_s = 0.001" + hardware
        )
    )
    (folder / "experiment.toml").write_text(
        'schema = "stedfast-experiment/1"\nname = "w"\nhardware = "hardware.toml"\nseed = 3\n'
        f'[policy]\nname = "watchful:Watchful"\noptions = {{ {options} }}\n'
    )
    return load(folder)


@pytest.mark.parametrize("options", ["", "movie = true"])
def test_a_session_cut_at_any_line_goes_on_though_its_policy_watches_dose_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    config = watchful(tmp_path / "config", monkeypatch, options)
    whole = tmp_path / "whole"
    assert new_session(config, whole).run().status == "completed"
    lines = (whole / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        folder = tmp_path / f"cut{cut}"
        shutil.copytree(whole, folder)
        (folder / JOURNAL_NAME).write_bytes(b"".join(lines[:cut]))
        for _ in range(2):  # the second time after an interruption
            outcome = resumed_session(folder).run()
            assert outcome.status == "completed", (cut, outcome)
            kept = (folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
            (folder / JOURNAL_NAME).write_bytes(b"".join(kept[:-1]))
        reader = SessionReader(folder)
        assert reader.problems() == []
        unsettled = {booking.number for booking in reader.unsettled()}
        delivered = sum(f.settings.energy_j for f in reader.frames.values() if f.reservation not in unsettled)
        lost = sum(booking.energy_j for booking in reader.unsettled())
        assert reader.cycles[-1].dose.energy_j == pytest.approx(delivered + lost)
        if not lost:
            assert_same_run(SessionReader(whole), reader)
        assert replayed_session(folder, tmp_path / f"replay{cut}").run().status == "completed"
        assert decisions(SessionReader(tmp_path / f"replay{cut}")) == decisions(reader)


def test_light_of_a_frame_that_no_cycle_used_is_in_the_stop_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = watchful(tmp_path / "config", monkeypatch)
    folder = tmp_path / "session"
    new_session(config, folder).run()
    documents = [json.loads(line) for line in (folder / JOURNAL_NAME).read_bytes().splitlines()]
    lines = (folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    cut = next(i for i, d in enumerate(documents) if d["type"] == "frame" and d["index"] == 1)
    kept = [line for line, d in zip(lines[: cut + 1], documents, strict=False) if d.get("cycle", 0) <= 1]
    (folder / JOURNAL_NAME).write_bytes(b"".join(kept))
    session = resumed_session(folder)
    session.stop_after_this_frame("stopped at once")
    assert session.run().status == "interrupted"
    reader = SessionReader(folder)
    assert reader.stop is not None
    assert reader.stop.dose.energy_j == pytest.approx(
        sum(f.settings.energy_j for f in reader.frames.values())
    )
    assert len(reader.frames) == 2


@pytest.mark.parametrize(
    ("options", "hardware"),
    [
        ("refuse = true", ""),
        ("", ", fail_at = 2"),
        ("refuse = true", ", fail_at = 4"),
        ("movie = true", ", fail_at = 2"),
    ],
)
def test_refusals_and_failures_are_resumed_and_replayed_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, hardware: str
) -> None:
    config = watchful(tmp_path / "config", monkeypatch, options, hardware)
    whole, paused = tmp_path / "whole", tmp_path / "paused"
    assert new_session(config, whole).run().status == "completed"

    def stop(cycle: Cycle) -> None:
        if cycle.index == 6:
            session.stop_after_this_frame("stopped by the user")

    session = new_session(config, paused, hooks=Hooks(cycle=stop))
    assert session.run().status == "interrupted"
    half = tmp_path / "half replayed"
    assert replayed_session(paused, half).run().status == "completed"
    assert decisions(SessionReader(half)) == decisions(SessionReader(paused))
    assert resumed_session(paused).run().status == "completed"
    assert_same_run(SessionReader(whole), SessionReader(paused))
    again = tmp_path / "replayed"
    assert replayed_session(whole, again).run().status == "completed"
    assert decisions(SessionReader(again)) == decisions(SessionReader(whole))
    with pytest.raises(SessionFolderError, match=r"this is a replay|is complete"):
        resumed_session(half)


def test_a_session_does_not_go_on_with_limits_that_were_changed_since(tmp_path: Path) -> None:
    folder = tmp_path / "session"

    def stop(cycle: Cycle) -> None:
        session.stop_after_this_frame("stopped by the user")

    session = new_session(experiment(tmp_path / "config", cycles=5), folder, hooks=Hooks(cycle=stop))
    session.run()
    hardware = tmp_path / "config" / "hardware.toml"
    hardware.write_text(hardware.read_text().replace("sted_max_w = 0.3", "sted_max_w = 0.2"))
    with pytest.raises(ConfigurationError, match=r"limits.sted_max_w was 0.3 .* is 0.2 now"):
        resumed_session(folder)
    hardware.unlink()
    assert resumed_session(folder).run().status == "completed"
