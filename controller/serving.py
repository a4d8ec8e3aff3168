"""Serves a microscope to programs of others, and records all light that they ask for.

A server of the group ``stedfast.servers`` speaks to its clients; here is what makes the hours in which
it does a session like any other: each reservation is on disk before its light, each frame is recorded,
and each refusal and failure too. There is no policy: a cycle is what a client asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from controller.core.decision import Acquire, Cycle
from controller.core.dose import Reservation
from controller.core.errors import (
    DeviceError,
    EndOfRecordingError,
    InvalidRequestError,
    LightFaultError,
    LimitExceededError,
    RecordingError,
)
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Clock
from controller.core.settings import ScanSettings
from controller.plugins import Server
from controller.recording.documents import Status
from controller.recording.writer import SessionWriter
from controller.session import Outcome

#: Stands in the record where a session's policy does.
SERVED_POLICY = "micromanager_bridge"
_DECIDED_BY = "micromanager"
_REASON = "asked by a client of the Micro-Manager bridge"
# A client that asks in a loop for what is refused must not fill the disk.
_REFUSALS_WRITTEN_MAX = 50
_PATIENCE_S = 0.1


class Serving:
    """One served session, from the first client to its stop document.

    Parameters
    ----------
    microscope
        The only way to the light.
    clock, duration_s
        The session's clock, and when the session ends on it at the latest.
    offer
        Makes the server, given who takes each image.
    """

    _writer: SessionWriter

    def __init__(
        self,
        microscope: GuardedMicroscope,
        clock: Clock,
        duration_s: float,
        offer: Callable[[Callable[[ScanSettings], Frame]], Server],
    ) -> None:
        self._microscope = microscope
        self._clock = clock
        self._duration_s = duration_s
        self._one_at_a_time = threading.Lock()
        self._cycles = self._faults = self._refused_in_a_row = 0
        self._request: ScanSettings
        self._asked_s = self._began_s = 0.0
        self._stop_reason: str | None = None
        self._broken: str | None = None
        self.is_ending = False
        self.server = offer(self.take)

    def record_in(
        self,
        writer: SessionWriter,
        *,
        watch: Callable[[Cycle], None] | None = None,
        ready: Callable[[Server], None] | None = None,
    ) -> None:
        """Say how it is recorded, which must be done before :meth:`run`.

        ``watch`` is told of each finished cycle, ``ready`` once when clients may come.
        """
        self._writer, self._watch, self._ready = writer, watch, ready
        self._microscope.before_light = self._book
        self._microscope.taken = self._keep
        self._microscope.settled = writer.settle

    def stop_after_this_frame(self, reason: str) -> None:
        """Ask for an orderly end; callable from a signal handler or another thread."""
        self._stop_reason = reason

    def take(self, settings: ScanSettings) -> Frame:
        """Take one frame for a client, and record it or why there is none.

        Raises
        ------
        StedfastError
            As ``GuardedMicroscope.acquire`` does, and if there is no light for clients any more: the
            session is ending, it could not be recorded, or the microscope lit more than it was asked to.
        """
        with self._one_at_a_time:
            self._refuse_if_over()
            self._asked_s, self._began_s = self._clock.now_s(), time.perf_counter()
            try:
                return self._microscope.acquire(settings)
            except (LimitExceededError, InvalidRequestError, EndOfRecordingError) as refusal:
                self._refused_in_a_row += 1
                if self._refused_in_a_row <= _REFUSALS_WRITTEN_MAX:
                    self._record(settings, refused=str(refusal))
                raise
            except RecordingError as error:
                self._broken = str(error)
                raise
            except DeviceError as failure:
                if isinstance(failure, LightFaultError):
                    self._broken = str(failure)
                self._record(settings, failure=str(failure))
                raise

    def run(self) -> Outcome:
        """Serve until somebody asks for the end, the time is over or the server fails."""
        failures: list[BaseException] = []

        def serve() -> None:
            try:
                self.server.serve()
            except BaseException as error:  # noqa: BLE001  # told in the outcome
                failures.append(error)

        thread = threading.Thread(target=serve, name="server", daemon=True)
        status: Status = "completed"
        thread.start()
        try:
            if self._ready is not None:
                with suppress(Exception, SystemExit):  # whoever wanted to know may have gone
                    self._ready(self.server)
            # Signals are handled on this thread, which waits: none comes in the middle of a frame.
            while self._stop_reason is None and thread.is_alive():
                thread.join(_PATIENCE_S)
                self._look_at_the_clock()
            with self._one_at_a_time:
                reason = self._stop_reason or "the server ended by itself"
        except KeyboardInterrupt:
            status, reason = "interrupted", "aborted by the user in the middle of a frame"
            self._stop_reason = reason
        self.is_ending = True
        self.server.stop()
        thread.join()
        return self._finish(status, reason, failures)

    def abandon(self) -> None:
        """Let go of the server's port, after a start that failed."""
        self.server.stop()
        self.server.serve()

    def _refuse_if_over(self) -> None:
        self._look_at_the_clock()
        if self._broken is not None:
            raise DeviceError(f"there is no more light in this session, end the server: {self._broken}")
        if self._stop_reason is not None:
            raise DeviceError(f"this server is ending: {self._stop_reason}")

    def _look_at_the_clock(self) -> None:
        if self._stop_reason is None and self._clock.now_s() >= self._duration_s:
            self._stop_reason = f"{self._duration_s:g} s have passed (budget.duration_s)"

    def _book(self, booking: Reservation) -> None:
        """Put a reservation on disk before its light; the guard calls this."""
        self._request = booking.settings
        self._writer.reserve(booking, self._cycles, self._asked_s)

    def _keep(self, frame: Frame) -> None:
        """Hand a frame over to be written, before the client has it; the guard calls this."""
        self._writer.append_frame(frame, self._cycles)
        unwritten = max(0, self._refused_in_a_row - _REFUSALS_WRITTEN_MAX)
        faults = (f"{unwritten} more requests were refused before this one",) if unwritten else ()
        self._refused_in_a_row = 0
        self._record(self._request, frame=frame, faults=faults)

    def _record(
        self,
        asked: ScanSettings,
        *,
        frame: Frame | None = None,
        refused: str | None = None,
        failure: str | None = None,
        faults: tuple[str, ...] = (),
    ) -> None:
        cycle = Cycle(
            self._cycles,
            Acquire(settings=asked, reason=_REASON),
            _DECIDED_BY,
            frame=frame,
            refused=refused,
            failure=failure,
            faults=faults + ((failure,) if failure else ()),
            dose=self._microscope.dose,
            timings_s={"acquire": time.perf_counter() - self._began_s},
        )
        self._cycles += 1
        self._faults += len(cycle.faults)
        self._writer.append(cycle, self._asked_s)
        if self._watch is not None:
            with suppress(Exception, SystemExit):  # a display in trouble does not spoil a record
                self._watch(cycle)

    def _finish(self, status: Status, reason: str, failures: list[BaseException]) -> Outcome:
        """Make it dark, then write down how it ended. Nothing on the way may skip the rest."""
        try:
            self._microscope.close()
        except BaseException as error:  # noqa: BLE001  # written down below, and the exit code tells
            failures.append(error)
        troubles = [f"{type(error).__name__}: {error}" for error in failures]
        troubles += [self._broken] if self._broken is not None else []
        if troubles:
            status, reason = "failed", "; ".join([reason, *troubles])
        true_status = self._writer.finish(
            status,
            reason,
            cycles=self._cycles,
            faults=self._faults,
            dose=self._microscope.dose,
            now_s=self._clock.now_s(),
        )
        if true_status != status:
            reason = f"{reason}; recording failed: {self._writer.failure}"
        return Outcome(true_status, reason, self._cycles, self._writer.frames, self._faults)
