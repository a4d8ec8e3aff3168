"""Brings a session back to where its journal ends, so that it can go on as if nothing had happened.

Nothing but the journal and the images is needed. The policy is asked again at each recorded cycle,
with what it saw then, and must decide as it did then; so it arrives at the state it had. The ledger
books each recorded scan again, and a simulated sample is exposed to the same light again. Light that
was reserved but left no frame is booked in full: it may have fallen on the sample.
"""

from __future__ import annotations

from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, Cycle, Dose
from controller.core.errors import ReplayDivergedError
from controller.core.frame import Frame
from controller.core.protocols import Microscope, RemembersLight
from controller.core.settings import ScanSettings
from controller.recording.documents import (
    CycleDocument,
    ReserveDocument,
    ResumeDocument,
)
from controller.recording.reader import SessionReader
from controller.session import Session


class Recovery:
    """Feeds a journal to a fresh :class:`Session`."""

    def __init__(self, session: Session, reader: SessionReader, microscope: Microscope) -> None:
        self._session = session
        self._reader = reader
        self._microscope = microscope
        self._open: list[ReserveDocument] = []
        self._frame_of = {frame.reservation: frame.index for frame in reader.frames.values()}

    def run(self) -> None:
        """Go through the journal once.

        Raises
        ------
        ReplayDivergedError
            If the policy does not decide as it did; its code or its libraries have changed.
        """
        for document in self._reader.documents:
            if isinstance(document, ReserveDocument):
                self._open.append(document)
            elif isinstance(document, CycleDocument):
                self._cycle(document)
            elif isinstance(document, ResumeDocument):
                self._book_lost_light()
        self._book_lost_light()
        if self._open:
            self._session.take_up(self._pending_frame)

    def _cycle(self, document: CycleDocument) -> None:
        session, stage = self._session, self._session.parts.policy
        if document.decided_by != stage.name:
            stage.switch_to_fallback()
        decision, faults, _ = stage.run(lambda policy: policy.decide(session.observe(document.now_s)))
        if decision != document.decision:
            raise ReplayDivergedError(
                f"cycle {document.index}: the policy decides {decision!r} {faults or ''}, recorded is "
                f"{document.decision!r}; the session cannot go on with other code than it began with"
            )
        if isinstance(document.decision, Acquire) and isinstance(session.parts.clock, SimulatedClock):
            session.wait(document.decision, document.now_s)
        frame = None
        for booking in [booking for booking in self._open if booking.cycle == document.index]:
            frame = self._book(booking)
        if frame is not None:
            session.parts.denoiser.run(lambda denoiser: denoiser.observe(frame))
        session.remember(
            Cycle(
                index=document.index,
                decision=document.decision,
                decided_by=document.decided_by,
                frame=frame,
                denoised=self._reader.denoised(document),
                segmentation=self._reader.segmentation(document),
                refused=document.refused,
                failure=document.failure,
                faults=document.faults,
                dose=Dose(**document.dose.model_dump()),
            )
        )

    def _book_lost_light(self) -> None:
        for booking in [booking for booking in self._open if booking.number not in self._frame_of]:
            self._book(booking)

    def _book(self, booking: ReserveDocument) -> Frame | None:
        """Book one scan again, in ledger and simulated sample; return its frame if it left one."""
        self._open.remove(booking)
        index = self._frame_of.get(booking.number)
        frame = None if index is None else self._reader.frame(index)
        lit = self._reader.settled.get(booking.number, booking.settings) if frame is None else frame.settings
        if lit is None:
            return None  # the driver refused before any light
        settled = frame is not None or booking.number in self._reader.settled
        self._session.parts.microscope.restore(lit, frame, settled=settled)
        if isinstance(self._microscope, RemembersLight):
            self._microscope.expose_again(booking.settings)
        return frame

    def _pending_frame(self, asked: ScanSettings) -> Frame:
        booking = self._open[0]
        if asked != booking.settings:
            raise ReplayDivergedError(
                f"cycle {booking.cycle}: the policy asks {asked!r}, recorded is a scan "
                f"with {booking.settings!r}"
            )
        frame = self._book(booking)
        if frame is None:
            raise ReplayDivergedError(f"cycle {booking.cycle}: the recorded frame is gone")
        return frame


def last_time_s(reader: SessionReader) -> float:
    """Return the latest time on the session's clock that the journal knows of."""
    times = [0.0, *(cycle.now_s for cycle in reader.cycles)]
    times += [frame.started_s for frame in reader.frames.values()]
    return max(times)
