"""A served microscope: what clients ask for is recorded like a session, and it ends as one."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from controller.cli import app
from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire
from controller.core.errors import (
    DeviceError,
    DoseBudgetError,
    LightFaultError,
    LimitExceededError,
    RecordingError,
)
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.settings import ScanSettings
from controller.recording import layers
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from controller.serving import Serving
from controller.session import Outcome
from controller.testing import CONFOCAL, LIMITS, FakeMicroscope
from tests.support import FAKE_HARDWARE, START

CLIENT = Path(__file__).parent / "simulator/micromanager/client.py"
TIMEOUT_S = 60.0
TOO_BRIGHT = CONFOCAL.replace(excitation_w=1.0)

Take = Callable[[ScanSettings], Frame]


class Scripted:
    """A server whose clients are one function. It serves until that returns."""

    port = 4827
    devices = ("Scanner",)

    def __init__(self, clients: Callable[[Take], object], take: Take) -> None:
        self._clients, self._take = clients, take
        self.stopping = threading.Event()

    def serve(self) -> None:
        self._clients(self._take)

    def stop(self) -> None:
        self.stopping.set()


def serving(
    folder: Path,
    clients: Callable[[Take], object],
    microscope: FakeMicroscope | None = None,
    *,
    duration_s: float = float("inf"),
    **limits: Any,
) -> Serving:
    driver = microscope or FakeMicroscope()
    guard = GuardedMicroscope(driver, LIMITS.replace(**limits), source="limits.toml")
    made = Serving(guard, driver._clock, duration_s, lambda take: Scripted(clients, take))
    made.record_in(SessionWriter.create(claim_folder(folder), START))
    return made


def said(kind: type[Exception], take: Take, settings: ScanSettings = CONFOCAL) -> str:
    with pytest.raises(kind) as error:
        take(settings)
    return str(error.value)


def test_frames_refusals_and_failures_are_cycles_in_their_order(tmp_path: Path) -> None:
    taken: list[Frame] = []

    def clients(take: Take) -> None:
        taken.append(take(CONFOCAL))
        assert "excitation_max_w in limits.toml" in said(LimitExceededError, take, TOO_BRIGHT)
        assert "scan 1 fails" in said(DeviceError, take)
        taken.append(take(CONFOCAL))

    microscope = FakeMicroscope(options=FakeMicroscope.Options(fail_at=1))
    outcome = serving(tmp_path, clients, microscope).run()
    assert outcome == Outcome("completed", "the server ended by itself", 4, 2, 1)
    reader = SessionReader(tmp_path)
    assert reader.problems() == []
    assert [cycle.decision for cycle in reader.cycles] == [
        Acquire(settings=settings, reason="asked by a client of the Micro-Manager bridge")
        for settings in (CONFOCAL, TOO_BRIGHT, CONFOCAL, CONFOCAL)
    ]
    assert {cycle.decided_by for cycle in reader.cycles} == {"micromanager"}
    first, refused, failed, last = reader.cycles
    assert (first.frame_index, last.frame_index) == (0, 1)
    assert "excitation_max_w" in str(refused.refused)
    assert "scan 1 fails" in str(failed.failure)
    for index, frame in enumerate(taken):
        assert np.array_equal(reader.frame(index).photons, frame.photons)
    assert [booking.cycle for booking in reader.reservations] == [0, 2, 3], "a refusal books nothing"
    assert len(reader.unsettled()) == 1
    assert reader.stop is not None
    assert reader.stop.dose.energy_j == pytest.approx(3 * CONFOCAL.energy_j)
    assert microscope.commands[-1] == "close"


def test_the_reservation_is_on_disk_before_the_light(tmp_path: Path) -> None:
    class Looking(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            found.append(len(SessionReader(tmp_path).reservations))
            return super().acquire(settings)

    found: list[int] = []
    serving(tmp_path, lambda take: [take(CONFOCAL), take(CONFOCAL)], Looking()).run()
    assert found == [1, 2]


def test_the_energy_budget_holds(tmp_path: Path) -> None:
    def clients(take: Take) -> None:
        take(CONFOCAL)
        assert "session_energy_max_j" in said(DoseBudgetError, take)

    enough_for_one = 1.5 * CONFOCAL.energy_j * LIMITS.dose_margin
    outcome = serving(tmp_path, clients, session_energy_max_j=enough_for_one).run()
    assert (outcome.status, outcome.frames, outcome.cycles) == ("completed", 1, 2)


def test_the_duration_holds_on_the_session_s_clock(tmp_path: Path) -> None:
    def clients(take: Take) -> None:
        take(CONFOCAL)
        take(CONFOCAL)
        assert "budget.duration_s" in said(DeviceError, take)

    microscope = FakeMicroscope(clock=SimulatedClock(), options=FakeMicroscope.Options(frame_s=60.0))
    outcome = serving(tmp_path, clients, microscope, duration_s=100.0).run()
    assert (outcome.status, outcome.frames) == ("completed", 2)
    assert outcome.reason == "100 s have passed (budget.duration_s)"


def test_without_a_record_there_is_no_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_after_one(bundle: Path, path: str, *arguments: Any, **options: Any) -> Any:
        if path != "000000":
            raise OSError(28, "No space left on device")
        return write(bundle, path, *arguments, **options)

    def clients(take: Take) -> None:
        # The writer may be some frames behind; then nothing is lit any more.
        frames = (take(CONFOCAL) for _ in range(20))
        with pytest.raises(RecordingError, match="No space left on device"):
            list(frames)
        lit = microscope.scans
        assert "no more light in this session" in said(DeviceError, take)
        assert "No space left on device" in said(DeviceError, take)
        assert microscope.scans == lit

    write = layers.write_image
    monkeypatch.setattr(layers, "write_image", full_after_one)
    microscope = FakeMicroscope()
    outcome = serving(tmp_path, clients, microscope).run()
    assert outcome.status == "failed"
    assert "No space left on device" in outcome.reason
    reader = SessionReader(tmp_path)
    assert (reader.status, len(reader.frames), reader.problems()) == ("failed", 1, [])


def test_after_a_light_fault_there_is_no_more_light(tmp_path: Path) -> None:
    class Greedy(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            frame = super().acquire(settings)
            return Frame(frame.photons, settings.replace(excitation_w=90e-6), frame.index, frame.started_s)

    def clients(take: Take) -> None:
        assert "was the worst case" in said(LightFaultError, take)
        assert "no more light in this session" in said(DeviceError, take)

    outcome = serving(tmp_path, clients, Greedy()).run()
    assert outcome.status == "failed"
    assert "was the worst case" in outcome.reason
    assert SessionReader(tmp_path).cycles[0].failure is not None


def test_a_light_that_stays_on_at_the_end_is_a_failure(tmp_path: Path) -> None:
    class Stuck(FakeMicroscope):
        def is_dark(self) -> bool:
            return False

    outcome = serving(tmp_path, lambda take: None, Stuck()).run()
    assert outcome.status == "failed"
    assert "close the shutter by hand" in outcome.reason


def test_a_client_that_asks_in_a_loop_does_not_fill_the_record(tmp_path: Path) -> None:
    def clients(take: Take) -> None:
        for _ in range(60):
            said(LimitExceededError, take, TOO_BRIGHT)
        take(CONFOCAL)

    assert serving(tmp_path, clients).run().cycles == 51
    assert SessionReader(tmp_path).cycles[-1].faults == ("10 more requests were refused before this one",)


def test_asked_to_end_it_finishes_the_frame_and_refuses_the_next(tmp_path: Path) -> None:
    def clients(take: Take) -> None:
        take(CONFOCAL)
        assert "this server is ending: enough" in said(DeviceError, take)

    class Asked(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            made.stop_after_this_frame("enough")
            return super().acquire(settings)

    made = serving(tmp_path, clients, Asked())
    assert made.run() == Outcome("completed", "enough", 1, 1, 0)


def test_a_server_that_fails_is_told(tmp_path: Path) -> None:
    def clients(take: Take) -> None:
        raise RuntimeError("the socket is gone")

    outcome = serving(tmp_path, clients).run()
    assert outcome.status == "failed"
    assert "RuntimeError: the socket is gone" in outcome.reason


# --- the command, with unmodified clients


class Served:
    """A running ``stedfast serve``."""

    def __init__(self, folder: Path, *options: str, frame_s: float = 0.0) -> None:
        pytest.importorskip("zmq")
        self.session = folder / "session"
        (folder / "scope.toml").write_text(FAKE_HARDWARE.format(frame_s=frame_s, clock="system"))
        self.command = [sys.executable, "-m", "controller", "serve", str(folder / "scope.toml")]
        more = ["--port", "0", "--output", str(self.session), "--json", *options]
        self.process = subprocess.Popen(
            [*self.command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        assert (ready["status"], ready["session"]) == ("serving", str(self.session))
        self.port = str(ready["port"])

    def client(self, *scenario: str) -> Any:
        """Run a scenario of the unmodified client in a process of its own and return what it found."""
        done = subprocess.run(
            [sys.executable, str(CLIENT), self.port, *scenario],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def start_client(self, scenario: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(CLIENT), self.port, scenario]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self, *signals: signal.Signals) -> tuple[int, Any]:
        """Send signals; return the exit code and what was told at the end."""
        for number in signals:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        assert "Traceback" not in err
        return self.process.returncode, json.loads(out)

    def wait_until(self, happened: Callable[[SessionReader], bool]) -> None:
        due_s = time.monotonic() + TIMEOUT_S
        while not happened(SessionReader(self.session)):
            assert time.monotonic() < due_s
            time.sleep(0.01)


@contextmanager
def served(folder: Path, *options: str, frame_s: float = 0.0) -> Iterator[Served]:
    running = Served(folder, *options, frame_s=frame_s)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def stedfast(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_what_a_client_took_is_a_session(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        found = server.client("snap", "sted", "150")
        assert "pixels_max" in server.client("refusals")["too large"]
        code, told = server.end(signal.SIGINT)
    assert (code, told["status"], told["reason"]) == (0, "completed", "stopped by the user (SIGINT)")
    assert (told["cycles"], told["frames"]) == (2, 1)
    reader = SessionReader(server.session)
    assert reader.problems() == []
    frame = reader.frame(0)
    assert np.array_equal(frame.photons, found["pixels"])
    assert (frame.settings.modality, frame.settings.sted_w) == ("sted", 150e-3)
    assert "pixels_max" in str(reader.cycles[1].refused)
    assert reader.start.experiment["policy"]["name"] == "micromanager_bridge"
    assert "denoiser" not in reader.start.experiment
    assert "micromanager_bridge" in Path(told["report"]).read_text()
    assert stedfast("export", server.session, tmp_path / "tiffs")[0] == 0
    assert stedfast("report", server.session)[0] == 0
    for command, why in (("resume", "its clients are gone"), ("replay", "no policy decided")):
        code, out = stedfast(command, server.session)
        assert (code, why in out) == (2, True), out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_it_ends_in_order_however_it_is_asked(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path, "--no-report") as server:
        code, told = server.end(number)
    assert (code, told["status"], told["report"]) == (0, "completed", None)
    assert SessionReader(server.session).status == "completed"


def test_twice_asked_it_ends_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    with served(tmp_path, frame_s=1.5) as server, server.start_client("dies_in_snap") as client:
        server.wait_until(lambda reader: len(reader.reservations) > 0)
        server.process.send_signal(signal.SIGINT)
        # The first is heard when the next one cannot be taken for it.
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.3)
        code, told = server.end(signal.SIGINT)
        client.kill()
    assert (code, told["status"]) == (130, "interrupted")
    reader = SessionReader(server.session)
    assert (reader.status, len(reader.frames), len(reader.unsettled())) == ("interrupted", 0, 1)


def test_a_port_in_use_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        code, out = stedfast(
            "serve", tmp_path / "scope.toml", "--port", server.port, "-o", tmp_path / "other"
        )
        assert code == 2
        assert f"port {server.port} of 127.0.0.1 cannot be used" in out
        assert "choose another port" in out
        assert not (tmp_path / "other").exists()
        code, out = stedfast("serve", tmp_path / "scope.toml", "--port", 0, "-o", server.session)
        assert (code, "already holds a session" in out) == (2, True)
        assert server.end(signal.SIGINT)[0] == 0


def test_what_cannot_be_served_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scope.toml").write_text(FAKE_HARDWARE.format(frame_s=0.0, clock="system"))
    code, out = stedfast("serve", tmp_path / "scope.toml", "--data", tmp_path / "absent")
    assert (code, "make it first" in out) == (2, True)
    monkeypatch.setitem(sys.modules, "simulator.micromanager.server", None)
    code, out = stedfast("serve", tmp_path / "scope.toml")
    assert (code, "pip install 'stedfast[mm]'" in out) == (2, True)


def test_acquisitions_are_saved_where_it_is_allowed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with served(tmp_path, "--data", str(data)) as server:
        found = server.client("disk", str(data))
        assert server.end(signal.SIGINT)[0] == 0
    reader = SessionReader(server.session)
    assert [reader.frame(index).photons.mean() for index in range(3)] == pytest.approx(found["means"])


def test_a_client_that_dies_is_recorded_and_the_next_one_is_served(tmp_path: Path) -> None:
    with served(tmp_path, frame_s=0.005) as server:
        with server.start_client("dies_in_acquisition") as dying:
            assert dying.wait(TIMEOUT_S) == -signal.SIGKILL
        assert server.client("shutter")["open"]
        code, told = server.end(signal.SIGINT)
    assert (code, told["status"]) == (0, "completed")
    reader = SessionReader(server.session)
    assert reader.problems() == []
    assert told["frames"] == len(reader.frames) >= 3
    assert [cycle.index for cycle in reader.cycles] == list(range(told["cycles"]))


def test_what_is_no_request_does_no_harm_to_a_served_session(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\xff"):
            with socket.create_connection(("127.0.0.1", int(server.port))) as raw:
                raw.sendall(greeting)
        said = server.client("errors")
        assert "exposure_ms" in said["key"]
        assert server.client("shutter")["open"]
        assert server.end(signal.SIGINT)[0] == 0
    reader = SessionReader(server.session)
    assert (reader.status, reader.problems()) == ("completed", [])


def test_a_served_session_that_is_killed_has_lost_nothing_acknowledged(tmp_path: Path) -> None:
    with served(tmp_path, frame_s=0.005) as server, server.start_client("long_acquisition") as client:
        server.wait_until(lambda reader: len(reader.frames) >= 5)
        server.process.kill()
        server.process.wait()
        client.kill()
    reader = SessionReader(server.session)
    assert (reader.status, reader.problems()) == ("unfinished", [])
    assert len(reader.frames) >= 5
    # At most the frame on its way to the disk and the one being scanned: their light counts in full.
    assert len(reader.unsettled()) <= 2
    assert len(reader.reservations) == len(reader.frames) + len(reader.unsettled())
    code, out = stedfast("resume", server.session)
    assert (code, "a served session cannot be resumed" in out) == (2, True)
    assert stedfast("report", server.session)[0] == 0
