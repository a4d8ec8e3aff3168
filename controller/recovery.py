"""Goes through the record of a session: to resume it after a crash, or to replay it.

Nothing but the journal and the images is needed. To resume, the policy is asked again at each recorded
cycle, with what it saw then, and must decide as it did then; so it arrives at the state it had. The
ledger books each recorded scan again, and a simulated sample is exposed to the same light again. Light
that was reserved but left no frame is booked in full: it may have fallen on the sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, Cycle, Dose
from controller.core.errors import (
    EndOfRecordingError,
    InvalidRequestError,
    ReplayDivergedError,
    SessionFolderError,
)
from controller.core.frame import Frame, Segmentation
from controller.core.protocols import Microscope, ModelChange, RemembersLight
from controller.microscopes.replay import RecordedSession
from controller.recording.documents import CycleDocument, ReserveDocument, ResumeDocument
from controller.recording.reader import SessionReader
from controller.session import Session


@dataclass(frozen=True, slots=True)
class Step:
    """One cycle and its light, in the order in which a session books it.

    ``before`` and ``after`` is light of earlier parts of the session that was lost in a crash; ``own``
    is the scan of this cycle. ``cycle`` is ``None`` for what follows the last recorded cycle.
    """

    cycle: CycleDocument | None
    before: list[ReserveDocument]
    own: list[ReserveDocument]
    after: list[ReserveDocument]


def timeline(reader: SessionReader) -> list[Step]:
    """Return the steps of a session; the last one is what its journal leaves open.

    A scan whose frame is on disk but whose cycle was lost comes first; then the light that was lost
    while it was on its way to the disk.
    """
    opened: list[ReserveDocument] = []
    lost: set[int] = set()
    steps: list[Step] = []

    def close(cycle: CycleDocument | None) -> None:
        own = [b for b in opened if b.number not in lost and (cycle is None or b.cycle == cycle.index)]
        first = own[0].number if own else float("inf")
        before = [b for b in opened if b.number in lost and b.number < first]
        after = [b for b in opened if b.number in lost and b.number > first]
        for booking in [*before, *own, *after]:
            opened.remove(booking)
        steps.append(Step(cycle, before, own, after))

    def lose() -> None:
        # A movie that was cut off is lost, too: its frames stay in the record, and it is taken again.
        lost.update(b.number for b in opened if not reader.is_whole(b))

    for document in reader.documents:
        if isinstance(document, ReserveDocument):
            opened.append(document)
        elif isinstance(document, ResumeDocument):
            lose()
        elif isinstance(document, CycleDocument):
            close(document)
    lose()
    close(None)
    return steps


class Recovery:
    """Brings a fresh :class:`Session` to where a journal ends, so that it can go on."""

    def __init__(self, session: Session, reader: SessionReader, microscope: Microscope) -> None:
        self._session = session
        self._reader = reader
        self._sample = (
            microscope
            if isinstance(microscope, RemembersLight) and microscope.capabilities().simulated
            else None
        )
        self._open = Step(None, [], [], [])

    def run(self) -> None:
        """Go through the journal once.

        Raises
        ------
        ReplayDivergedError
            If the policy does not decide as it did; its code or its libraries have changed.
        """
        *done, self._open = timeline(self._reader)
        for step in done:
            self._repeat(step)
        self._adopt(len(done))
        self._book(self._open.before)
        if self._open.own:
            self._session.script = self

    def begin(self, cycle: int) -> float | None:
        """Return when the policy decided on the scan that is on disk already."""
        return self._open.own[0].now_s if self._open.own and self._open.own[0].cycle == cycle else None

    def levels(self, cycle: int) -> None:
        """Let the clock choose the levels again."""

    def learned(self, cycle: int) -> None:  # what is recorded was adopted before
        """Let the models learn by themselves again."""

    def scanned(self, decision: Acquire) -> tuple[Frame, None] | None:
        """Return the frame that is on disk already, and book its light."""
        if not self._open.own:
            return None
        booking = self._open.own[0]
        _require_same(decision, booking)
        self._wait(decision)
        frames = self._book_open()
        for frame in frames[:-1]:
            self._session.observe_frame(frame)
        return frames[-1], None

    def close(self) -> None:
        """Book the open light, if the session ends before it is used."""
        self._book_open()

    def _book_open(self) -> list[Frame]:
        step, self._open = self._open, Step(None, [], [], [])
        frames = self._book(step.own)
        self._book(step.after)
        return frames

    def _repeat(self, step: Step) -> None:
        document, session = step.cycle, self._session
        assert document is not None  # noqa: S101  # only the last step is without
        self._adopt(document.index)
        self._book(step.before)
        stage = session.parts.policy
        if document.decided_by != stage.name:
            stage.switch_to_fallback()
        ran = stage.run(lambda policy: policy.decide(session.observe(document.now_s)))
        if ran.answer != document.decision:
            raise ReplayDivergedError(
                f"cycle {document.index}: the policy decides {ran.answer!r} {ran.faults or ''}, recorded is "
                f"{document.decision!r}; the session cannot go on with other code than it began with"
            )
        if isinstance(document.decision, Acquire) and step.own:
            self._wait(document.decision)
        frames = self._book(step.own)
        self._book(step.after)
        for frame in frames:
            session.observe_frame(frame)
        segmentation, kept_from = self._segmentation(document)
        session.remember(
            Cycle(
                index=document.index,
                decision=document.decision,
                decided_by=document.decided_by,
                frame=frames[-1] if document.frame_index is not None else None,
                denoised=self._reader.denoised(document),
                segmentation=segmentation,
                segmentation_of=kept_from,
                level=document.level,
                refused=document.refused,
                failure=document.failure,
                faults=document.faults,
                dose=Dose(**document.dose.model_dump()),
            )
        )

    def _segmentation(self, document: CycleDocument) -> tuple[Segmentation | None, Frame | None]:
        """Return what the policy was shown after a cycle, and the earlier frame it was kept from."""
        if document.segmentation_frame is None:
            return self._reader.segmentation(document), None
        kept = self._session.perception.kept
        if kept is None or kept[1].index != document.segmentation_frame:
            raise SessionFolderError(
                f"cycle {document.index}: there is no segmentation of frame {document.segmentation_frame}"
            )
        return kept

    def _adopt(self, cycle: int) -> None:
        """Give the models the weights that they had from this cycle on."""
        for change in self._reader.learned(cycle):
            self._session.changes.adopt(change)

    def _wait(self, decision: Acquire) -> None:
        if isinstance(self._session.parts.clock, SimulatedClock):
            self._session.wait(decision)

    def _book(self, bookings: list[ReserveDocument]) -> list[Frame]:
        """Book scans again, in ledger and simulated sample; return the frames of the last."""
        frames: list[Frame] = []
        for booking in bookings:
            lit = self._reader.lit(booking)
            frames = [self._reader.frame(index) for index in self._reader.frames_of.get(booking.number, ())]
            if lit.energy_j > 0 or frames:
                self._session.parts.microscope.restore(lit, frames)
                self._expose(booking, lit.frames)
        return frames

    def _expose(self, booking: ReserveDocument, times: int) -> None:
        if self._sample is None:
            return
        try:
            for _ in range(times):
                self._sample.expose_again(booking.settings)
        except (InvalidRequestError, EndOfRecordingError):
            return  # the driver refused it then, too, and was cut off before it was written down


class Replay:
    """Leads a session through the recorded cycles of another, on its recorded frames."""

    def __init__(
        self, session: Session, reader: SessionReader, microscope: RecordedSession, clock: RecordedClock
    ) -> None:
        self._session, self._reader, self._microscope, self._clock = session, reader, microscope, clock
        self._steps = timeline(reader)
        self._failed: tuple[ReserveDocument | None, str] | None = None

    def begin(self, cycle: int) -> float | None:
        """Set the stage for a recorded cycle; end after the last one."""
        if cycle >= len(self._steps) - 1:
            raise EndOfRecordingError(f"all {cycle} recorded cycles have been replayed")
        step, document = self._steps[cycle], self._steps[cycle].cycle
        assert document is not None  # noqa: S101  # only the last step is without
        for booking in [*(self._steps[cycle - 1].after if cycle else []), *step.before]:
            if self._reader.lit(booking).energy_j > 0:
                frames = [self._reader.frame(i) for i in self._reader.frames_of.get(booking.number, ())]
                self._session.parts.microscope.restore(self._reader.lit(booking), frames)
        stage = self._session.parts.policy
        if document.decided_by != stage.name:
            stage.switch_to_fallback()
        self._clock.show(document.now_s)
        own = step.own[-1] if step.own else None
        indices = self._reader.frames_of.get(own.number, ()) if own else ()
        self._failed = None if document.failure is None else (own, document.failure)
        self._microscope.expect(
            own.settings if own else None,
            frames=[self._reader.frame(index) for index in indices],
            refused=document.refused,
        )
        return document.now_s

    def levels(self, cycle: int) -> tuple[int, int]:
        """Return the recorded levels: the clock of today does not choose them."""
        documents = self._reader.cycles
        entry = documents[cycle].denoised
        before = documents[cycle - 1].level if cycle else 0
        return before if entry is None else entry.level, documents[cycle].level

    def learned(self, cycle: int) -> list[ModelChange]:
        """Return what the models had learned before a recorded cycle; they learn nothing else."""
        return self._reader.learned(cycle)

    def scanned(self, decision: Acquire) -> tuple[None, str] | None:
        """Return a recorded failure, with its light booked as it was.

        Frames come through the guard, from the recorded microscope.
        """
        if self._failed is None:
            return None
        booking, failure = self._failed
        if booking is not None:
            _require_same(decision, booking)
            frames = [self._reader.frame(i) for i in self._reader.frames_of.get(booking.number, ())]
            self._session.parts.microscope.restore(self._reader.lit(booking), frames)
            for frame in frames:
                self._session.observe_frame(frame)
        return None, failure

    def close(self) -> None:
        """Do nothing: no light was spent."""


def _require_same(decision: Acquire, booking: ReserveDocument) -> None:
    if (decision.settings, decision.frames) != (booking.settings, booking.frames):
        raise ReplayDivergedError(
            f"cycle {booking.cycle}: the policy asks {decision.frames} x {decision.settings!r}, recorded "
            f"is {booking.frames} x {booking.settings!r}"
        )


class RecordedClock:
    """Shows the recorded time of each cycle, and what was slept in it."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def show(self, now_s: float) -> None:
        """Set the time."""
        self._now_s = now_s

    def now_s(self) -> float:
        """Return the time on the recorded session's clock."""
        return self._now_s

    def sleep(self, duration_s: float) -> None:
        """Move on at once."""
        self._now_s += max(0.0, duration_s)


def last_time_s(reader: SessionReader) -> float:
    """Return the latest time on the session's clock that the journal knows of."""
    times = [0.0, *(cycle.now_s for cycle in reader.cycles)]
    times += [frame.started_s for frame in reader.frames.values()]
    times += [resume.now_s for resume in reader.resumes]
    return max(times)
