from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controller.core.clock import SimulatedClock, SystemClock
from controller.core.errors import (
    AcquisitionStoppedError,
    ConfigurationError,
    DeviceError,
    LimitExceededError,
    StedfastError,
)
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Capabilities, Microscope
from controller.core.settings import Region, ScanSettings
from controller.testing import CONFOCAL, LIMITS, FakeMicroscope
from simulator.micromanager.bridge import MAX_MESSAGE_BYTES
from simulator.micromanager.core import CoreState, RemoteCore
from simulator.micromanager.scanner import Scanner
from simulator.micromanager.server import MicroManagerServer

CLIENT = Path(__file__).with_name("client.py")
TIMEOUT_S = 40.0
# What the client's scenarios snap: 32 x 24 pixels in the middle of the field.
SNAPPED = CONFOCAL.replace(region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(0.48e-6, 0.64e-6)))


def guarded(microscope: Microscope) -> GuardedMicroscope:
    return GuardedMicroscope(microscope, LIMITS, source="limits.toml")


@contextmanager
def served(microscope: Microscope, **options: Any) -> Iterator[MicroManagerServer]:
    """Serve a microscope on a free port, from a thread that must end."""
    with MicroManagerServer(guarded(microscope), port=0, **options) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
    assert microscope.is_dark()


def client(server: MicroManagerServer, *scenario: str) -> Any:
    """Run a scenario of the unmodified client in a process of its own and return what it found."""
    command = [sys.executable, str(CLIENT), str(server.port), *scenario]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def start_client(server: MicroManagerServer, scenario: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CLIENT), str(server.port), scenario]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wait_until(happened: Any) -> None:
    due_s = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < due_s
        time.sleep(0.01)


class Wire:
    """A client that may send anything."""

    def __init__(self, port: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.RCVTIMEO, 10_000)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._pushing: list[zmq.Socket[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.destroy(linger=0)

    def send(self, *parts: bytes) -> Any:
        self._socket.send_multipart(parts)
        return json.loads(self._socket.recv_multipart()[0])

    def ask(self, command: str, **keys: Any) -> Any:
        keys = {name.replace("_", "-"): value for name, value in keys.items()}
        return self.send(json.dumps({"command": command, **keys}).encode())

    def make(self, classpath: str, **arguments: int) -> int:
        """Return the handle of a new object; arguments are handles by Java class, ``_`` for ``.``."""
        types = [kind.replace("_", ".") for kind in arguments]
        reply = self.ask(
            "constructor",
            classpath=classpath,
            argument_types=types,
            argument_deserialization_types=types,
            arguments=[{"hash-code": handle} for handle in arguments.values()],
        )
        return int(reply["hash-code"])

    def acquisition(self) -> int:
        core = self.make("mmcorej.CMMCore")
        factory = self.make("org.micromanager.remote.RemoteAcquisitionFactory", mmcorej_CMMCore=core)
        types = ["java.lang.String", "java.lang.String", "boolean", "int", "boolean"]
        made = self.run(factory, "createAcquisition", None, "wire", False, 20, False, types=types)
        return int(made["hash-code"])

    def push(self, port: int, *parts: bytes) -> None:
        """Send a message where the server listens for one-way messages."""
        pushing = self._context.socket(zmq.PUSH)
        pushing.bind(f"tcp://127.0.0.1:{port}")
        pushing.send_multipart(parts)
        self._pushing.append(pushing)

    def failure(self, acquisition: int) -> str:
        """Return what ended an acquisition."""
        wait_until(lambda: self.run(acquisition, "isFinished")["value"])
        return str(self.run(acquisition, "checkForExceptions")["value"])

    def run(self, handle: object, name: str, *arguments: Any, types: list[str] | None = None) -> Any:
        kinds = types or []
        return self.ask(
            "run-method",
            hash_code=handle,
            static=False,
            name=name,
            argument_types=kinds,
            argument_deserialization_types=kinds,
            arguments=list(arguments),
        )


@pytest.fixture
def fake() -> Iterator[tuple[FakeMicroscope, MicroManagerServer]]:
    microscope = FakeMicroscope()
    with served(microscope) as server:
        yield microscope, server


# --- the unmodified client


def test_a_client_finds_devices_properties_limits_and_positions(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    microscope, server = fake
    found = client(server, "devices")
    assert found["version"].endswith("MMCore: fake")
    assert found["devices"] == ["Scanner", "Excitation", "XYStage", "Z", "Shutter", "Core", "STED"]
    assert {"DwellTime_us", "PixelSize_nm", "Modality", "LineAverages"} <= set(found["properties"])
    assert found["modalities"] == found["presets"] == ["overview", "confocal", "sted"]
    assert found["modality"] == "sted"
    assert found["limits"] == [0.0, 300.0]
    assert found["has"] == [True, False, False, False]
    assert (found["power"], found["dwell"], found["pixel_size"]) == ("150", "20", 0.02)
    assert found["roles"] == ["Scanner", "Shutter", "XYStage", "Z"]
    assert found["position"] == [0.0, 1.75, -2.0, 0.0]
    assert found["roi"] == [234, 238, 32, 24]
    assert found["image"] == [32, 24, 2, 16]
    assert not found["auto_shutter"]
    assert not microscope.requests, "none of this takes light"
    assert found["round_trip_ms"] < 5


def test_what_is_out_of_limits_or_unknown_is_refused_when_it_is_set(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    microscope, server = fake
    said = client(server, "refusals")
    assert "sted_w=9.999 W is outside 0..0.3 W (sted_max_w in limits.toml)" in said["power"]
    assert "finite number" in said["nan"]
    assert "finite number" in said["nan as a number"]
    assert "greater than or equal to 0" in said["negative"]
    assert "not a number" in said["word"]
    assert "whole number" in said["averages"]
    assert "overview, confocal, sted" in said["modality"]
    assert "no device 'Laser'" in said["device"]
    assert "it has Power_mW" in said["property"]
    assert "dwell_max_s in limits.toml" in said["exposure"]
    assert "stage_box in limits.toml" in said["stage"]
    assert "one plane" in said["focus"]
    assert "500 x 500 pixels" in said["roi"]
    assert "snapImage() first" in said["no image"]
    assert "'java.lang.Runtime' is not offered" in said["class"]
    assert said["unchanged"] == "0"
    assert "pixels_max in limits.toml" in said["too large"]
    assert not microscope.requests


def test_a_snap_asks_for_what_was_set_and_returns_the_frame(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    microscope, server = fake
    found = client(server, "snap", "sted", "150")
    assert microscope.requests == [SNAPPED.replace(modality="sted", sted_w=150e-3)]
    assert found["dtype"] == "uint16"
    assert found["same"]
    assert np.array_equal(found["pixels"], FakeMicroscope().acquire(microscope.requests[0]).photons)
    tags = found["tags"]
    assert (tags["Width"], tags["Height"], tags["PixelType"], tags["SaturatedPixels"]) == (
        32,
        24,
        "GRAY16",
        0,
    )
    assert (tags["STED-Power_mW"], tags["Exposure"], tags["FrameIndex"]) == ("150", 0.01, 0)


def test_without_auto_shutter_light_needs_an_open_shutter(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    microscope, server = fake
    assert client(server, "shutter")["open"]
    assert [request.excitation_w for request in microscope.requests] == [0.0, 10e-6]


def test_a_sequence_streams_images_and_says_why_it_ended(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    _, server = fake
    found = client(server, "sequence")
    assert found["numbers"] == [0, 1, 2, 3, 4]
    assert "no image is in the buffer" in found["empty"]
    assert all("while a sequence runs" in said for said in found["busy"])
    assert found["size"] == 32 * 24
    assert found["kept"] == 2**20 // (32 * 24 * 2)
    assert f"full with {found['kept']} images" in found["overflow"]


def test_an_acquisition_calls_its_hooks_processor_and_callbacks(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    microscope, server = fake
    found = client(server, "hooks")
    assert found["calls"] == [
        "generation 0", "pre 0", "post 0", "camera 0",
        "generation 1", "pre 1",
        "generation 2", "pre 2", "post 2", "camera 2",
    ]  # fmt: skip
    assert found["saved"] == found["axes"] == [0, 2]
    assert found["least"] >= 1000, "the processor's image is the one that is kept"
    # Properties of each event of a list are applied, none are merged away.
    assert [request.excitation_w for request in microscope.requests] == [1e-6, 3e-6]
    assert [request.region.center_yx_m[1] for request in microscope.requests] == [0.0, 1e-6]
    assert (found["power"], found["dwell"], found["x"], found["after"]) == ("3", "20", 1.0, 1.0)
    assert found["tags"] == {"why": "test"}
    assert found["shape"] == [2, 1, 24, 32]
    told = found["milestones"]
    assert told[0] == "acq_started"
    assert told[-2:] == ["acq_events_finished", "data_sink_finished"]
    assert told.count("image_saved") == told.count("post_snap") == told.count("pre_snap") == 2
    assert told.count("pre_hardware") == 3


def test_the_next_event_may_be_chosen_from_the_last_image_and_may_be_refused(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    microscope, server = fake
    found = client(server, "adaptive")
    *chosen, _, _, _ = [1e6 * request.excitation_w for request in microscope.requests]
    assert found["powers"] == pytest.approx(chosen)
    assert found["images"] == len(chosen) == 10
    refused = found["then"]
    assert "Excitation.Power_uW=135.0" in refused["error"]
    assert "excitation_max_w in limits.toml" in refused["error"]
    assert refused["images"] == 3


def test_errors_of_events_hooks_and_processors_reach_the_client(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    microscope, server = fake
    said = client(server, "errors")
    assert "sted_max_w in limits.toml" in said["property"]
    assert "magic is not one of" in said["channel"]
    assert "exposure_ms" in said["key"]
    assert said["hook"] == "the script is wrong"
    assert "the script is wrong" in said["processor"]
    assert "stage_box in limits.toml" in said["stage"]
    assert "neither '@' nor lists" in said["at sign"]
    assert "no data folder" in said["directory"]
    assert float(said["abort_s"]) < 3, "the second event was a minute away"
    assert len(microscope.requests) == 3, "abort, processor and at sign took one image each"


def test_an_acquisition_is_saved_as_ndtiff(tmp_path: Path) -> None:
    microscope = FakeMicroscope()
    with served(microscope, data_folder=tmp_path) as server:
        found = client(server, "disk", str(tmp_path / "data"))
    assert Path(found["path"]) == tmp_path / "data" / "demo_1"
    assert found["power"] == "10"
    # Also the client that reads while the next image is being written reads what was taken.
    other = FakeMicroscope()
    assert found["means"] == pytest.approx([other.acquire(SNAPPED).photons.mean() for _ in range(3)])
    assert found["size"] < 20_000


def test_the_same_seed_gives_the_same_image_in_process_and_through_the_server() -> None:
    pytest.importorskip("pysted")
    from simulator.sted.microscope import SimulatedMicroscope

    options = SimulatedMicroscope.Options(specimen="beads", fields_yx=(1, 1), field_size_m=1.28e-6)

    def simulated() -> SimulatedMicroscope:
        return SimulatedMicroscope(options, clock=SimulatedClock(), seed=3)

    asked = SNAPPED.replace(modality="sted", sted_w=40e-3)
    expected = guarded(simulated()).acquire(asked)
    with served(simulated()) as server:
        found = client(server, "snap", "sted", "40")
    assert expected.photons.max() > 0
    assert np.array_equal(found["pixels"], expected.photons)
    assert found["tags"]["StartedTime_s"] == expected.started_s


@pytest.mark.parametrize("scenario", ["dies_in_sequence", "dies_in_hook", "dies_in_acquisition"])
def test_a_client_that_dies_leaves_it_dark_and_the_next_one_is_served(scenario: str) -> None:
    microscope = FakeMicroscope(clock=SystemClock(), options=FakeMicroscope.Options(frame_s=0.02))
    with served(microscope) as server:
        with start_client(server, scenario) as dying:
            assert dying.wait(TIMEOUT_S) == -9
        wait_until(lambda: not threads_named("sequence acquisition", "acquisition default_acq_name"))
        assert microscope.is_dark()
        done = microscope.scans
        with Wire(server.port) as wire:
            assert wire.run(wire.make("mmcorej.CMMCore"), "snapImage")["type"] == "null"
        assert microscope.scans == done + 1


def test_a_client_that_dies_while_it_waits_for_an_image_ends_the_scan() -> None:
    microscope = FakeMicroscope(clock=SystemClock(), options=FakeMicroscope.Options(frame_s=1.0))
    with served(microscope) as server, start_client(server, "dies_in_snap") as dying:
        wait_until(lambda: microscope.light_on)
        dying.kill()
        start_s = time.monotonic()
        wait_until(microscope.is_dark)
        assert time.monotonic() - start_s < 0.6


def test_stop_ends_a_running_scan() -> None:
    microscope = FakeMicroscope(clock=SystemClock(), options=FakeMicroscope.Options(frame_s=1.0))
    with served(microscope) as server, start_client(server, "dies_in_snap") as waiting:
        wait_until(lambda: microscope.light_on)
        server.stop()
        wait_until(microscope.is_dark)
        waiting.kill()


def threads_named(*names: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in names]


# --- anything else on the wire


def test_what_is_no_request_gets_an_error_and_the_server_lives_on(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    _, server = fake
    nested = b"[" * 100_000
    handle = {"hash-code": 1}
    with Wire(server.port) as wire:
        for parts in (
            [b""],
            [b"\xff\xfe garbage"],
            [b"[]"],
            [nested],
            [b'{"command": '],
            [b'{"command": "connect", "unknown": 1}'],
            [b'{"command": "eval", "code": "1+1"}'],
            [b'{"command": "connect"}', b"more"],
            [json.dumps({"command": "destructor", "hash-code": "x"}).encode()],
            [json.dumps({"command": "get-field", "name": "pix", **handle}).encode()],
        ):
            assert wire.send(*parts)["type"] == "exception", parts[0][:40]
        assert wire.ask("connect") == {"type": "none", "version": "5.1.0"}


def test_only_what_is_declared_can_be_reached(fake: tuple[FakeMicroscope, MicroManagerServer]) -> None:
    _, server = fake
    with Wire(server.port) as wire:
        core = wire.make("mmcorej.CMMCore")
        strings = wire.run(core, "getLoadedDevices")["hash-code"]
        refused = [
            wire.run(core, "__init__"),
            wire.run(core, "set_property"),
            wire.run(core, "loadDevice", types=["java.lang.String"]),
            wire.run(core, "setExposure", 1.0),
            wire.run(core, "setExposure", "1", types=["double"]),
            wire.run(core, "setExposure", None, types=["double"]),
            wire.run(core, "setExposure", True, types=["double"]),
            wire.run(core, "setExposure", 1.0, 2.0, types=["double"]),
            wire.run(core, "setExposure", {"hash-code": core}, types=["double"]),
            wire.run(strings, "get", 99, types=["int"]),
            wire.run(strings, "get", -1, types=["int"]),
            wire.run(10**30, "size"),
            wire.ask("get-field", hash_code=core, name="_scanner"),
            wire.ask("get-field", hash_code=core, name="__class__"),
            wire.ask("set-field", hash_code=core, name="_scanner", value=1),
            wire.ask("get-class", classpath="java.lang.Runtime"),
            wire.ask("get-constructors", classpath="os.system"),
        ]
        assert [reply["type"] for reply in refused] == ["exception"] * len(refused)
        assert wire.run(core, "getCameraDevice")["value"] == "Scanner"


@pytest.mark.parametrize(
    "message",
    [
        b"garbage",
        b"[]",
        b'{"events": 3}',
        b'{"events": ["snap"]}',
        b'{"events": [{"axes": {"time": NaN}}]}',
        b'{"events": [{"axes": {}, "slm_pattern": "@1_0"}]}',
        b'{"events": [{"axes": {"time": 0}, "exposure": 1e999}]}',
        b'{"events": [{"axes": {"time": 0}, "properties": [["Scanner"]]}]}',
        b'{"events": [{"axes": {"time": 0}, "properties": [["Scanner", "DwellTime_us", [1]]]}]}',
    ],
)
def test_what_is_no_event_ends_the_acquisition_with_an_error(
    fake: tuple[FakeMicroscope, MicroManagerServer], message: bytes
) -> None:
    microscope, server = fake
    with Wire(server.port) as wire:
        acquisition = wire.acquisition()
        wire.push(wire.run(acquisition, "getEventPort")["value"], message)
        assert wire.failure(acquisition)
    assert not microscope.requests


GOOD = {"Axes": {"time": 0}, "PixelType": "GRAY16", "Height": 2, "Width": 3}


@pytest.mark.parametrize(
    ("tags", "frames"),
    [
        (GOOD, []),
        (GOOD, [b"1234", b"\0" * 11]),
        (GOOD, [b"1234", b"\0" * 8]),
        (GOOD, [b"1234", b"\0" * 12, b"1234", b"\0" * 12]),
        (GOOD | {"Height": -2, "Width": -3}, [b"1234", b"\0" * 12]),
        (GOOD | {"Height": "2"}, [b"1234", b"\0" * 12]),
        (GOOD | {"PixelType": "GRAY8"}, [b"1234", b"\0" * 6]),
        (GOOD | {"Axes": None}, [b"1234", b"\0" * 12]),
        (GOOD | {"Axes": {"time": [0]}}, [b"1234", b"\0" * 12]),
        (None, [b"1234", b"\0" * 12]),
    ],
)
def test_what_is_no_processed_image_ends_the_acquisition_with_an_error(
    fake: tuple[FakeMicroscope, MicroManagerServer], tags: object, frames: list[bytes]
) -> None:
    _, server = fake
    with Wire(server.port) as wire:
        acquisition = wire.acquisition()
        processor = wire.make("org.micromanager.remote.RemoteImageProcessor")
        kind = "org.micromanager.remote.RemoteImageProcessor"
        wire.run(acquisition, "addImageProcessor", {"hash-code": processor}, types=[kind])
        port = wire.run(processor, "getPullPort")["value"]
        wire.push(port, json.dumps({"metadata": tags, "pixels": "@1_0"}).encode(), *frames)
        wait_until(lambda: wire.run(acquisition, "isAbortRequested")["value"])
        assert "image processor" in wire.run(acquisition, "checkForExceptions")["value"]


def test_a_huge_message_is_dropped_and_the_server_lives_on(
    fake: tuple[FakeMicroscope, MicroManagerServer],
) -> None:
    _, server = fake
    with Wire(server.port) as wire:
        wire._socket.setsockopt(zmq.RCVTIMEO, 300)
        with pytest.raises(zmq.Again):
            wire.send(bytes(MAX_MESSAGE_BYTES + 1))
    with Wire(server.port) as wire:
        assert wire.ask("connect")["version"] == "5.1.0"


def test_what_does_not_even_speak_zmq_does_no_harm(fake: tuple[FakeMicroscope, MicroManagerServer]) -> None:
    _, server = fake
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\xff"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(greeting)
    with Wire(server.port) as wire:
        assert wire.ask("connect")["version"] == "5.1.0"


def test_a_port_in_use_is_refused_with_a_way_out() -> None:
    with (
        MicroManagerServer(guarded(FakeMicroscope()), port=0) as server,
        pytest.raises(ConfigurationError, match=f"port {server.port} .* choose another"),
    ):
        MicroManagerServer(guarded(FakeMicroscope()), port=server.port)


def test_a_server_serves_once() -> None:
    with MicroManagerServer(guarded(FakeMicroscope()), port=0) as server:
        server.stop()
        server.serve()
        with pytest.raises(DeviceError, match="served already"):
            server.serve()


class TwoPhotonMicroscope(FakeMicroscope):
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), modalities=("two_photon",))


def test_a_microscope_without_depletion_has_no_such_device() -> None:
    scanner = Scanner(guarded(TwoPhotonMicroscope()))
    core = RemoteCore(CoreState(scanner))
    assert "STED" not in scanner.devices
    core.set_property("Excitation", "Power_uW", 20)
    core.set_roi(0, 0, 8, 8)
    with pytest.raises(LimitExceededError, match="excitation_max_w"):
        core.set_property("Excitation", "Power_uW", 1e5)
    assert scanner.snap().tags["Channel"] == "two_photon"


def test_a_rectangle_of_the_sample_stays_when_the_pixel_size_changes() -> None:
    scanner = Scanner(guarded(FakeMicroscope()))
    core = RemoteCore(CoreState(scanner))
    core.set_roi(100, 50, 40, 20)
    before = scanner.scan(scanner.knobs).region
    core.set_property("Scanner", "PixelSize_nm", 40)
    roi = core.roi()
    assert (roi.x, roi.y, roi.width, roi.height) == (50, 25, 20, 10)
    assert scanner.scan(scanner.knobs).region == before


def test_the_start_may_be_given() -> None:
    start = SNAPPED.replace(modality="sted", excitation_w=5e-6, sted_w=0.1, line_averages=2)
    scanner = Scanner(guarded(FakeMicroscope()), start)
    assert scanner.scan(scanner.knobs) == start


class BrightMicroscope(FakeMicroscope):
    def acquire(self, settings: ScanSettings) -> Frame:
        frame = super().acquire(settings)
        photons = np.full(frame.photons.shape, 7.6)
        photons[0, :2] = 65535.2, 70000.0
        return Frame(photons, frame.settings, frame.index, frame.started_s)


def test_an_image_saturates_as_a_16_bit_camera_and_says_so() -> None:
    with served(BrightMicroscope()) as server:
        found = client(server, "snap")
    assert found["pixels"][0][:3] == [65535, 65535, 8]
    assert found["tags"]["SaturatedPixels"] == 1


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["DwellTime_us", "PixelSize_nm", "LineAverages"]),
    st.floats() | st.text(max_size=20) | st.booleans() | st.integers(),
)
def test_no_value_of_a_property_gets_past_its_limits(name: str, value: Any) -> None:
    core = RemoteCore(CoreState(Scanner(guarded(FakeMicroscope()))))
    with suppress(StedfastError):
        core.set_property("Scanner", name, value)
    number = float(core.get_property("Scanner", name))
    low, high = core.lower_limit("Scanner", name), core.upper_limit("Scanner", name)
    assert math.isfinite(number)
    assert low <= number <= high


class WaitingMicroscope(FakeMicroscope):
    """Scans until it is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.is_scanning, self.is_stopped = threading.Event(), threading.Event()

    def acquire(self, settings: ScanSettings) -> Frame:
        self.light_on = True
        self.is_stopped.clear()
        self.is_scanning.set()
        assert self.is_stopped.wait(TIMEOUT_S)
        raise AcquisitionStoppedError("stopped")

    def stop(self) -> None:
        super().stop()
        self.is_stopped.set()


@pytest.mark.parametrize("way", ["setShutterOpen", "setProperty"])
def test_closing_the_shutter_ends_a_scan_of_somebody_else(way: str) -> None:
    microscope = WaitingMicroscope()
    scanner = Scanner(guarded(microscope), SNAPPED)
    core = RemoteCore(CoreState(scanner))
    errors: list[BaseException] = []

    def snap() -> None:
        try:
            scanner.snap()
        except StedfastError as error:
            errors.append(error)

    thread = threading.Thread(target=snap)
    thread.start()
    assert microscope.is_scanning.wait(TIMEOUT_S)
    assert core.is_shutter_open(), "the light is on"
    if way == "setShutterOpen":
        core.set_shutter_open(False)
    else:
        core.set_property("Shutter", "State", "0")
    assert microscope.is_dark()
    thread.join(TIMEOUT_S)
    assert not core.is_shutter_open()
    assert "stopped" in str(errors[0])
