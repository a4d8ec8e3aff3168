"""A Micro-Manager behind a port, in a process of its own: whatever becomes of it, each call comes back."""

from __future__ import annotations

import gc
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
import zmq

pytest.importorskip("pycromanager", reason="needs the extra pycromanager")

from controller.assemble import new_session
from controller.config import load
from controller.core.clock import SystemClock
from controller.core.errors import (
    AcquisitionStoppedError,
    ConfigurationError,
    DeviceError,
    LightNotOffError,
)
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Microscope, Streams
from controller.core.settings import Region, ScanSettings
from controller.microscopes.bridge_client import ConnectionLostError, RemoteCore, device_interface
from controller.microscopes.mmcore import MMCoreMicroscope
from controller.microscopes.pycromanager import PycromanagerMicroscope
from controller.testing import CONFOCAL, LIMITS, MicroscopeContract, resources

pytestmark = pytest.mark.timeout(60)

SERVER = Path(__file__).with_name("bridge_server.py")
HARDWARE = Path(__file__).with_name("bridge.toml")
DEVICES = load(HARDWARE).hardware.config.microscope.options
PATIENCE_S = 1.0
# A scan during which there is time to kill somebody, and how long the server takes for it.
LONG = CONFOCAL.replace(dwell_s=1e-3)
LONG_S = 1.2


def connected(port: int, **changes: Any) -> MMCoreMicroscope:
    """Connect to Stedfast's own server."""
    settings = {**DEVICES, "port": port, "timeout_s": 0.5, "call_timeout_s": PATIENCE_S, **changes}
    options = PycromanagerMicroscope.Options.model_validate_json(json.dumps(settings))
    return PycromanagerMicroscope.from_options(options, resources(clock=SystemClock()))


class Server:
    """Micro-Manager's part, played by Stedfast's own server in another process."""

    def __init__(self, kind: str, frame_s: float) -> None:
        command = [sys.executable, str(SERVER), kind, str(frame_s)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.port = int(self.line())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        self.send(signal.SIGCONT)
        self.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


@contextmanager
def server(kind: str = "fake", frame_s: float = 0.0) -> Iterator[Server]:
    started = Server(kind, frame_s)
    try:
        yield started
    finally:
        started.end()


class OverAPort(MicroscopeContract):
    kind = "fake"

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls) -> Iterator[Server]:
        with server(cls.kind) as started:
            yield started

    @pytest.fixture(autouse=True)
    def _connects(self, running: Server) -> Iterator[None]:
        self.port = running.port
        self.made: list[MMCoreMicroscope] = []
        yield
        for microscope in self.made:
            microscope.close()

    def make(self) -> Microscope:
        self.made.append(connected(self.port, call_timeout_s=4.0))
        return self.made[-1]


class TestOverAPort(OverAPort):
    def test_it_does_not_stream(self) -> None:
        microscope = self.make()
        assert not isinstance(microscope, Streams)
        guard, frames = GuardedMicroscope(microscope, LIMITS), []  # type: ignore[var-annotated]
        guard.stream(CONFOCAL, 3, frames.append)
        assert len(frames) == 3
        assert frames[0].photons.dtype == "u2"

    def test_what_the_server_refuses_is_told_in_its_words_and_leaves_the_connection(self) -> None:
        microscope = self.make()
        with pytest.raises(DeviceError, match=r"stage_box in limits") as caught:
            microscope.acquire(
                CONFOCAL.replace(region=Region(center_yx_m=(1.0, 0.0), size_yx_m=(1e-6, 1e-6)))
            )
        assert not isinstance(caught.value, ConnectionLostError)
        assert microscope.acquire(CONFOCAL).photons.shape == CONFOCAL.shape_yx

    def test_a_device_that_is_not_there_is_named(self) -> None:
        for changes, words in (
            ({"camera": "Kamera"}, "camera: there is no device 'Kamera'"),
            (
                {"expected_devices": {"Scanner": "OpenScan"}},
                "expected_devices.Scanner: 'OpenScan' is expected",
            ),
            ({"startup": [{"device": "Scanner", "property": "Speed", "value": "1"}]}, "no property 'Speed'"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                connected(self.port, **changes)

    def test_two_clients_do_not_disturb_each_other(self) -> None:
        one, other = self.make(), self.make()
        for microscope in (one, other, one):
            assert microscope.acquire(CONFOCAL).photons.shape == CONFOCAL.shape_yx
        one.close()
        assert other.acquire(CONFOCAL).photons.shape == CONFOCAL.shape_yx

    def test_it_can_be_checked_without_a_session(self) -> None:
        options = PycromanagerMicroscope.Options.model_validate_json(
            json.dumps({**DEVICES, "port": self.port, "call_timeout_s": 4.0})
        )
        given = resources(clock=SystemClock())
        offline = PycromanagerMicroscope.check_offline(options, given)
        assert (offline.problems, str(self.port) in offline.summary) == ((), True)
        bench = PycromanagerMicroscope.open_bench(options, given)
        assert {reading.setting for reading in bench.readings()} == set(DEVICES["settings"])
        assert not [step for step in bench.exercise() if step.has_failed]
        bench.close()

    def test_a_session_is_run_over_it(self, tmp_path: Path) -> None:
        path = tmp_path / "scope.toml"
        path.write_text(HARDWARE.read_text().replace("port = 4827", f"port = {self.port}"))
        outcome = new_session(load(path), tmp_path / "session").run()
        assert (outcome.status, outcome.frames) == ("completed", 3), outcome.reason


class TestDemoDevicesOverAPort(OverAPort):
    """The server in front of MMCore's demo devices."""

    kind = "mm_demo.toml"
    settings = ScanSettings(
        modality="confocal",
        region=Region(center_yx_m=(5e-6, -3e-6), size_yx_m=(64e-6, 48e-6)),
        pixel_size_m=1e-6,
        dwell_s=1e-6,
        excitation_w=10e-6,
    )

    def make(self) -> Microscope:
        settings = {name: content for name, content in DEVICES["settings"].items() if name != "sted_w"}
        order = [name for name in DEVICES["order"] if name in settings]
        changes = {"settings": settings, "order": order, "call_timeout_s": 4.0}
        self.made.append(connected(self.port, **changes))
        return self.made[-1]


STED = {
    "modalities": ["sted"],
    "startup": [{"device": "Scanner", "property": "Modality", "value": "sted"}],
}


def test_a_simulated_sted_microscope_behind_the_port() -> None:
    with server("sim_sted.toml") as running:
        dwell = {**DEVICES["settings"]["dwell_s"], "high": 1e-4}
        settings = {**DEVICES["settings"], "dwell_s": dwell}
        microscope = connected(running.port, **STED, settings=settings, call_timeout_s=4.0)
        sums = [
            microscope.acquire(CONFOCAL.replace(modality="sted", sted_w=sted_w)).photons.sum()
            for sted_w in (0.0, 0.1)
        ]
        microscope.close()
    assert sums[0] > 1.5 * sums[1] > 0


# --- whatever becomes of the other process

ENDS: dict[str, Callable[[Server], None]] = {
    "hangs": lambda running: running.send(signal.SIGSTOP),
    "is killed": lambda running: running.send(signal.SIGKILL),
    "is closed": lambda running: running.close(),
}


@pytest.mark.parametrize("when", ["before the scan", "in the scan"])
@pytest.mark.parametrize("end", ENDS)
def test_a_scan_comes_back_and_nobody_is_told_that_it_is_dark(end: str, when: str) -> None:
    with server(frame_s=LONG_S) as running:
        microscope = connected(running.port)
        guard = GuardedMicroscope(microscope, LIMITS)
        guard.capabilities()
        with ThreadPoolExecutor(1) as pool:
            if when == "before the scan":
                ENDS[end](running)
                if end != "hangs":
                    running.process.wait(10)
                scan = pool.submit(guard.acquire, LONG)
            else:
                scan = pool.submit(guard.acquire, LONG)
                assert running.line() == "lit"
                ENDS[end](running)
            with pytest.raises(LightNotOffError, match="close the shutter by hand"):
                scan.result(20)
        assert guard.dose.energy_j > 0, "what may have been lit is booked"
        assert_it_is_lost(microscope)
        if end == "hangs":
            running.send(signal.SIGCONT)
            microscope.stop()  # over a fresh connection
            assert microscope.is_dark()
            assert_it_is_lost(microscope)
            microscope.close()
        else:
            with pytest.raises(DeviceError, match="nothing listens"):
                microscope.close()


def assert_it_is_lost(microscope: Microscope) -> None:
    """The next scan is refused at once."""
    began_s = time.monotonic()
    with pytest.raises(ConnectionLostError, match="lost in an earlier call: look at the devices"):
        microscope.acquire(CONFOCAL)
    assert time.monotonic() - began_s < PATIENCE_S


def test_a_scan_that_takes_too_long_is_given_up_and_its_light_put_out_over_another_connection() -> None:
    with server(frame_s=3.0) as running:
        microscope = connected(running.port)
        guard = GuardedMicroscope(microscope, LIMITS)
        with pytest.raises(ConnectionLostError, match=r"did not answer snapImage\(\) within 1\.00768 s"):
            guard.acquire(CONFOCAL)
        assert microscope.is_dark()
        assert_it_is_lost(microscope)
        microscope.close()


def test_a_stop_does_not_wait_for_the_scan_that_it_stops() -> None:
    with server(frame_s=LONG_S) as running, ThreadPoolExecutor(1) as pool:
        microscope = connected(running.port)
        scan = pool.submit(microscope.acquire, LONG)
        assert running.line() == "lit"
        microscope.stop()
        assert microscope.is_dark()
        assert not scan.done()
        with pytest.raises(AcquisitionStoppedError):
            scan.result(10)
        assert microscope.acquire(LONG).photons.shape == LONG.shape_yx
        microscope.close()


def test_many_threads_may_call_at_once() -> None:
    with server() as running, ThreadPoolExecutor(8) as pool:
        microscope = connected(running.port, call_timeout_s=4.0)
        calls = [pool.submit(microscope.stop if number % 2 else microscope.is_dark) for number in range(40)]
        assert all(call.result(20) in {None, True} for call in calls)
        microscope.close()


# --- what else may listen on a port


@contextmanager
def listening(handler: type[BaseRequestHandler]) -> Iterator[int]:
    kind = ThreadingHTTPServer if issubclass(handler, BaseHTTPRequestHandler) else ThreadingTCPServer
    with kind(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found.server_address[1]
        found.shutdown()
        thread.join()


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)


class Noise(BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(bytes(range(256)) * 16)


@pytest.mark.parametrize("handler", [Web, Noise])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_another_kind_of_server_is_found_out(handler: type[BaseRequestHandler]) -> None:
    with listening(handler) as port, pytest.raises(ConfigurationError, match="is it another program"):
        connected(port)


@contextmanager
def replying(*replies: bytes) -> Iterator[int]:
    """Serve a ZMQ socket that gives these answers, one after the other, then none."""
    with zmq.Context() as context, context.socket(zmq.REP) as found:
        found.linger, port = 0, found.bind_to_random_port("tcp://127.0.0.1")
        done = threading.Event()

        def serve() -> None:
            for reply in replies:
                while not found.poll(10):
                    if done.is_set():
                        return
                found.recv_multipart()
                found.send(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield port
        done.set()
        thread.join()


HELLO = b'{"type": "none", "version": "5.1.0"}'


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([], "is it another program"),
        ([b"hello"], "is it another program"),
        ([b"[1, 2]"], "is it another program"),
        ([b"{}"], "is it another program"),
        ([b'"type"'], "is it another program"),
        ([b"\xff\xfe"], "is it another program"),
        ([b'{"type": "none", "version": "4.2.0"}'], "speaks version 4.2.0 .* this pycromanager 5.1.0"),
        ([b'{"type": "none"}'], "speaks version None"),
        ([b'{"type": "exception", "value": "no more clients"}'], "no more clients"),
        ([HELLO], r"did not answer get-constructors\(\) within"),
        ([HELLO, b'{"type": "exception", "value": "no such class"}'], "no such class"),
        ([HELLO, b'{"type": "none"}'], "is it another program"),
        ([HELLO, b'{"type": "none", "api": [{}]}'], "is it another program"),
        (
            [
                HELLO,
                b'{"type": "none", "api": [{"name": "mmcorej.CMMCore", "arguments": []}]}',
                b'{"type": "none"}',
            ],
            "is it another program",
        ),
    ],
)
def test_a_server_that_does_not_keep_to_the_protocol_is_found_out(replies: list[bytes], words: str) -> None:
    with replying(*replies) as port, pytest.raises(ConfigurationError, match=words):
        connected(port)


def test_a_port_where_nobody_listens_is_named_and_how_to_mend_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        ConfigurationError, match=f"nothing listens on port {port}.*Run server on port {port}"
    ):
        connected(port)


def test_a_micro_manager_that_hangs_is_told_apart_from_a_slow_one() -> None:
    with server() as running:
        running.send(signal.SIGSTOP)
        with pytest.raises(ConfigurationError, match="or does Micro-Manager hang"):
            connected(running.port)


def test_a_patience_that_would_outlast_the_guards_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"less than half of limits\.overrun_max_s=10 s"):
        connected(1, call_timeout_s=5.0)
    options = PycromanagerMicroscope.Options.model_validate_json(
        json.dumps({**DEVICES, "call_timeout_s": 5.0})
    )
    assert "call_timeout_s" in PycromanagerMicroscope.check_offline(options, resources()).problems[0]


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ("Device API version 75, Module API version 10", 75),
        ("no device adapters: Stedfast drives the microscope itself", None),
    ],
)
def test_the_device_interface_is_read_where_one_is_told(told: str, number: int | None) -> None:
    assert device_interface(told) == number


def test_another_device_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "Device API version 70, Module API version 10"
    monkeypatch.setattr(RemoteCore, "getAPIVersionInfo", lambda self: told, raising=False)
    with server() as running, pytest.raises(ConfigurationError, match="device_interface: 75 is asked"):
        connected(running.port)


def test_a_connection_that_is_collected_as_garbage_is_dropped_at_once() -> None:
    """Without a word to the server, who may hang, and without waiting for the sockets in the same garbage."""
    with server() as running:
        connected(running.port)
        running.send(signal.SIGSTOP)
        began_s = time.monotonic()
        gc.collect()
        assert time.monotonic() - began_s < PATIENCE_S


def test_upstream_a_socket_waits_for_ever() -> None:
    """If this fails, pyjavaz has got time-outs, and our part can shrink."""
    from pyjavaz.bridge import _DataSocket

    with zmq.Context() as context:
        wire = _DataSocket(context, 1, zmq.REQ)
        assert (wire._socket.rcvtimeo, wire._socket.sndtimeo) == (-1, -1)
        wire._socket.close(linger=0)
