"""pycromanager's ``Acquisition``: events in, hooks asked, images taken, processed, kept and announced.

Each event is one image and is applied as a whole or not at all, one after the other. Events are
never merged into hardware sequences, so the properties of each are applied and hooks are asked about
each by itself. The first error ends the acquisition and reaches the client by ``checkForExceptions``.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import AcquisitionStoppedError, DeviceError, InvalidRequestError, StedfastError
from controller.core.protocols import Clock
from simulator.micromanager.bridge import Constructor
from simulator.micromanager.events import parsed_event
from simulator.micromanager.feedback import Hook, Notifier, Processor
from simulator.micromanager.knobs import (
    CAMERA,
    SHUTTER,
    XY_STAGE,
    Z_STAGE,
    in_unit,
)
from simulator.micromanager.objects import RemoteObject, caller, java
from simulator.micromanager.scanner import Picture, Scanner
from simulator.micromanager.sockets import LATENCY_S, Context, Inbox
from simulator.micromanager.storage import Axes, DataSink, make_storage

_EVENT_GENERATION, _BEFORE_HARDWARE, _AFTER_HARDWARE, _AFTER_CAMERA = range(4)
_JAVA_CLASS = "org.micromanager.acqj.main.Acquisition"
#: The longest that one call of a client waits here; it asks again.
_MAX_WAIT_S = 1.0

_log = logging.getLogger(__name__)


class _CancelledError(Exception):
    """The acquisition was aborted, or its client is gone."""


@dataclass(frozen=True, slots=True)
class Laboratory:
    """What all acquisitions share. One event is carried out at a time."""

    scanner: Scanner
    context: Context
    clock: Clock
    data_folder: Path | None
    one_event: threading.Lock = field(default_factory=threading.Lock)


class Acquisition(RemoteObject):
    """One acquisition, with a thread that carries its events out."""

    java_class = _JAVA_CLASS
    fields = (
        "EVENT_GENERATION_HOOK",
        "BEFORE_HARDWARE_HOOK",
        "AFTER_HARDWARE_HOOK",
        "AFTER_CAMERA_HOOK",
    )
    EVENT_GENERATION_HOOK = _EVENT_GENERATION
    BEFORE_HARDWARE_HOOK = _BEFORE_HARDWARE
    AFTER_HARDWARE_HOOK = _AFTER_HARDWARE
    AFTER_CAMERA_HOOK = _AFTER_CAMERA

    def __init__(self, laboratory: Laboratory, directory: str | None, name: str) -> None:
        scanner = laboratory.scanner
        self._laboratory = laboratory
        self._connection = caller()
        self._storage = make_storage(_summary(scanner, name), directory, name, laboratory.data_folder)
        self._events = Inbox(laboratory.context)
        self._held: list[Inbox | Hook | Notifier | Processor] = [self._events]
        self._hooks: list[tuple[int, Hook]] = []
        self._processor: Processor | None = None
        self._processing: threading.Thread | None = None
        self._notifier: Notifier | None = None
        self._error: Exception | None = None
        self._is_scanning = False
        self._lock = threading.Lock()
        self._aborted = threading.Event()
        self._closing = threading.Event()
        self._events_finished = threading.Event()
        self._started_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"acquisition {name}", daemon=True)
        self._thread.start()
        self._connection.at_loss[self] = self.close

    # --- what a client calls

    @java("int getEventPort()")
    def event_port(self) -> int:
        return self._events.port

    @java("org.micromanager.acqj.api.AcqEngJDataSink getDataSink()")
    def data_sink(self) -> DataSink:
        return DataSink(self._storage)

    @java("boolean areEventsFinished()")
    def are_events_finished(self) -> bool:
        return self._events_finished.is_set()

    @java("boolean isFinished()")
    def is_finished(self) -> bool:
        return self._events_finished.is_set() and self._storage.is_finished()

    @java("boolean isAbortRequested()")
    def is_abort_requested(self) -> bool:
        return self._aborted.is_set()

    @java("void blockUntilEventsFinished(Double)")
    def block_until_events_finished(self, timeout_s: float) -> None:
        self._events_finished.wait(min(max(timeout_s, 0.0), _MAX_WAIT_S))

    @java("void waitForCompletion()")
    def wait_for_completion(self) -> None:
        while not self.is_finished() and not self._closing.is_set():
            self._closing.wait(LATENCY_S)

    @java("void checkForExceptions()")
    def check_for_exceptions(self) -> None:
        if self._error is not None:
            raise DeviceError(str(self._error)) from self._error

    @java("void abort()")
    def abort(self) -> None:
        self._aborted.set()
        if self._is_scanning:
            self._laboratory.scanner.go_dark()

    @java("void addHook(org.micromanager.remote.RemoteAcqHook, int)")
    def add_hook(self, hook: Hook, kind: int) -> None:
        if kind not in range(4):
            raise InvalidRequestError(f"a hook of kind {kind} is not offered")
        self._hooks.append((kind, hook))

    @java("void addImageProcessor(org.micromanager.remote.RemoteImageProcessor)")
    def add_processor(self, processor: Processor) -> None:
        if self._processor is not None:
            raise InvalidRequestError("this acquisition has an image processor already")
        processor.belong()
        self._held.append(processor)
        self._processor = processor
        self._processing = threading.Thread(
            target=self._take_back, args=(processor,), name="processed images", daemon=True
        )
        self._processing.start()

    def make_hook(self) -> Hook:
        """Return a new hook, which works once it is added."""
        hook = Hook(self._laboratory.context)
        self._held.append(hook)
        return hook

    def make_notifier(self) -> Notifier:
        """Return what tells the client what happens."""
        if self._notifier is not None:
            raise InvalidRequestError("this acquisition has a notification handler already")
        self._notifier = Notifier(self._laboratory.context, self.is_open)
        self._held.append(self._notifier)
        self._tell("global", "acq_started")
        return self._notifier

    def is_open(self) -> bool:
        """Tell whether there is a client to wait for."""
        return not self._closing.is_set()

    def released(self) -> None:
        """Close it: no client can ask for it any more."""
        self.close()

    def close(self) -> None:
        """End it at once, dark, and release what it holds; the images stay readable."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        self._connection.at_loss.pop(self, None)
        self._aborted.set()
        while self._thread.is_alive():
            # Again and again: a stop that comes just before a scan belongs to the one before.
            self.abort()
            self._thread.join(LATENCY_S)
        for held in self._held:
            held.close()
        self._storage.close()

    # --- its own thread

    def _run(self) -> None:
        try:
            self._carry_out()
        except _CancelledError:
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is told
            self._fail(error)
        for end in (self._end_hooks, self._end_images):
            try:
                end()
            except Exception as error:  # noqa: BLE001
                self._fail(error)

    def _carry_out(self) -> None:
        while True:
            self._go_on_or_leave()
            received = self._events.receive()
            if received is None:
                continue
            events = received[0].get("events")
            if not isinstance(events, list):
                raise InvalidRequestError("a message without a list of events came from the client")
            for event in events:
                if not isinstance(event, dict):
                    raise InvalidRequestError(f"{json.dumps(event)[:80]} is not an event")
                if event.get("special") == "acquisition-end":
                    return
                for wanted in self._asked(_EVENT_GENERATION, event):
                    self._in_turn(wanted)

    def _in_turn(self, event: dict[str, Any]) -> None:
        while not self._laboratory.one_event.acquire(timeout=LATENCY_S):
            self._go_on_or_leave()
        try:
            self._image(event)
        finally:
            self._laboratory.one_event.release()

    def _image(self, event: dict[str, Any]) -> None:
        """Carry one event out."""
        self._tell("hardware", "pre_hardware", event)
        wanted = self._one(_BEFORE_HARDWARE, event)
        if wanted is None:
            return
        asked = parsed_event(wanted)
        self._wait_for(asked.min_start_time)
        scanner = self._laboratory.scanner
        scanner.change(lambda knobs: asked.turned(scanner, knobs))
        self._tell("hardware", "pre_z_drive", wanted)
        self._tell("hardware", "post_hardware", wanted)
        wanted = self._one(_AFTER_HARDWARE, wanted)
        if wanted is None:
            return
        asked = parsed_event(wanted)
        self._wait_for(asked.min_start_time)
        self._tell("camera", "pre_snap", wanted)
        elapsed_ms = 1e3 * (self._laboratory.clock.now_s() - self._begin_s())
        picture = self._scan()
        self._tell("camera", "post_snap", wanted)
        self._asked(_AFTER_CAMERA, wanted)
        tags = {**picture.tags, "Axes": asked.axes, "ElapsedTime-ms": elapsed_ms}
        if asked.tags:
            tags["tags"] = asked.tags
        if self._processor is not None:
            self._processor.send(picture.pixels, tags, self.is_open)
        else:
            self._keep(asked.axes, picture.pixels, tags)

    def _scan(self) -> Picture:
        self._is_scanning = True
        try:
            self._go_on_or_leave()
            return self._laboratory.scanner.snap()
        except AcquisitionStoppedError:
            self._go_on_or_leave()
            raise
        finally:
            self._is_scanning = False

    def _asked(self, kind: int, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what the hooks of one kind make of an event."""
        events = [event]
        for of_kind, hook in self._hooks:
            if of_kind == kind:
                events = [answer for one in events for answer in hook.ask(one, self.is_open)]
                self._go_on_or_leave()
        return events

    def _one(self, kind: int, event: dict[str, Any]) -> dict[str, Any] | None:
        answers = self._asked(kind, event)
        if len(answers) > 1:
            raise InvalidRequestError(
                f"a hook made {len(answers)} events of one; only an event generation hook may do so"
            )
        return answers[0] if answers else None

    def _keep(self, axes: Axes, pixels: NDArray[np.uint16], tags: dict[str, Any]) -> None:
        payload = self._storage.put(axes, pixels, tags)
        if self._notifier is not None:
            self._notifier.tell("image", "image_saved", payload)

    def _take_back(self, processor: Processor) -> None:
        """Keep what the client's image processor returns, until it says that it is done."""
        while self.is_open():
            try:
                came = processor.receive()
                if came is False:
                    return
                if not isinstance(came, bool):
                    self._keep(*came)
            except Exception as error:  # noqa: BLE001  # the client is told, and goes on to the end
                self._fail(error)

    def _end_hooks(self) -> None:
        for _, hook in self._hooks:
            hook.end(self.is_open)
        self._events_finished.set()
        self._tell("global", "acq_events_finished")

    def _end_images(self) -> None:
        try:
            if self._processor is not None and self._processing is not None:
                self._processor.end(self.is_open)
                self._processing.join()
        finally:
            self._storage.finish()
            self._tell("image", "data_sink_finished")

    def _tell(self, kind: str, milestone: str, event: dict[str, Any] | None = None) -> None:
        if self._notifier is not None:
            payload = json.dumps(event.get("axes", {})) if event is not None else None
            self._notifier.tell(kind, milestone, payload)

    def _wait_for(self, start_s: float | None) -> None:
        clock = self._laboratory.clock
        # Times are compared on the clock itself: a rest too short to move it must not be waited for.
        due_s = self._begin_s() + (start_s or 0.0)
        while (left_s := due_s - clock.now_s()) > 0:
            self._go_on_or_leave()
            clock.sleep(min(left_s, LATENCY_S))

    def _begin_s(self) -> float:
        """Return when the first event was carried out, on the clock."""
        if self._started_s is None:
            self._started_s = self._laboratory.clock.now_s()
        return self._started_s

    def _go_on_or_leave(self) -> None:
        if self._aborted.is_set() or self._closing.is_set():
            raise _CancelledError

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, StedfastError):
            _log.error("an acquisition failed", exc_info=error)
        if self._error is None:
            self._error = error
        self._aborted.set()


class _Factory(RemoteObject):
    """Makes acquisitions."""

    java_class = "org.micromanager.remote.RemoteAcquisitionFactory"

    def __init__(self, laboratory: Laboratory) -> None:
        self._laboratory = laboratory

    @java(f"{_JAVA_CLASS} createAcquisition(String?, String, boolean, int, boolean)")
    def create(self, directory: str | None, name: str, *_: object) -> Acquisition:
        """Make one; nothing is displayed, and images are kept as fast as they come."""
        return Acquisition(self._laboratory, directory, name)


def acquisition_constructors(laboratory: Laboratory) -> dict[str, Constructor]:
    """Return the classes that a client needs for acquisitions, by Java name."""
    return {
        _Factory.java_class: Constructor(lambda _: _Factory(laboratory), ("mmcorej.CMMCore",)),
        Hook.java_class: Constructor(Acquisition.make_hook, (_JAVA_CLASS,)),
        Processor.java_class: Constructor(lambda: Processor(laboratory.context)),
        Notifier.java_class: Constructor(Acquisition.make_notifier, (_JAVA_CLASS,)),
    }


def _summary(scanner: Scanner, name: str) -> dict[str, Any]:
    height, width = scanner.scan(scanner.knobs).shape_yx
    return {
        "Prefix": name,
        "PixelType": "GRAY16",
        "PixelSize_um": in_unit(scanner.knobs.pixel_size_m, -6),
        "Width": width,
        "Height": height,
        "Core-Camera": CAMERA,
        "Core-Focus": Z_STAGE,
        "Core-Shutter": SHUTTER,
        "Core-XYStage": XY_STAGE,
        "Microscope": scanner.name,
    }
