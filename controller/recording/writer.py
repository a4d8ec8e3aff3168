"""Writes a session while it runs: pixels first, then metadata, then the journal line.

A frame is acknowledged when its pixels, its checksum and its journal line are written: then it
survives the death of the process. A loss of power it survives once the group commit has synced it,
a moment later. Writing happens on a thread of its own behind a short queue; when the disk is slow,
the queue makes the scan wait. It never drops a frame.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from controller.core.decision import Cycle, Dose
from controller.core.dose import Lit, Reservation
from controller.core.errors import RecordingError, SessionFolderError
from controller.core.frame import Frame
from controller.core.protocols import ModelChange, ModelRole
from controller.recording import layers
from controller.recording.commit import GroupCommit
from controller.recording.documents import (
    CycleDocument,
    Document,
    DoseEntry,
    FrameDocument,
    ModelDocument,
    ReserveDocument,
    ResumeDocument,
    SettleDocument,
    StartDocument,
    Status,
    StopDocument,
    now_utc,
    printable,
    uid_of,
)
from controller.recording.image_writer import ImageWriter
from controller.recording.journal import JOURNAL_NAME, Journal, cut_torn_line
from controller.recording.models import write_model
from controller.recording.reader import SessionReader
from controller.recording.reopening import FRAMES_AT_STAKE, take_back_lost, tidy_images

_QUEUE_LENGTH = 8
# The loop has the processor for itself until its next scan runs (which sets up its devices first), but
# not for longer than this: who writes beside it makes its threads wait for each other.
_HOLD_BACK_S, _SET_UP_S = 0.005, 0.001
_LIST_EVERY = 32


def claim_folder(folder: Path) -> Journal:
    """Take an empty place for a session, before a microscope is connected to.

    Raises
    ------
    SessionFolderError
        If there is a session already.
    RecordingError
        If the folder cannot be written.
    """
    for name in (JOURNAL_NAME, layers.BUNDLE_NAME):
        if (folder / name).exists():
            raise SessionFolderError(f"{folder} already holds a session; choose another folder or resume it")
    if folder.exists() and not folder.is_dir():
        raise SessionFolderError(f"{folder} is a file; a session needs a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"{folder} cannot be written: {error.strerror or error}") from error
    return Journal(folder)


def _why(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text or type(error).__name__)


class SessionWriter:
    """Records one session in ``folder``.

    Use :meth:`create` or :meth:`reopen`. ``acknowledged`` is told the index of each frame that is safe.
    Questions are journal lines like all decisions: whoever asks people reads them there.

    Raises
    ------
    RecordingError
        By any method, as soon as something could not be written; all acknowledged frames stay
        readable.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        run_id: str,
        *,
        acknowledged: Callable[[int], None] | None = None,
    ) -> None:
        self.folder = folder
        self.bundle = folder / layers.BUNDLE_NAME
        self.run_id = run_id
        self._journal = journal
        self._journal_lock = threading.Lock()
        self._acknowledged = acknowledged
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=_QUEUE_LENGTH)
        self._on_the_way = threading.Condition()
        self._frames_on_the_way = 0
        self._failure: BaseException | None = None
        self._reservations = self._earlier = 0
        self._weights: dict[ModelRole, str] = {}  # of models that changed, on the writer's thread
        self._scanning = threading.Event()
        self._commit = GroupCommit(journal.sync, self._fail)
        self._images = ImageWriter(self.bundle, self._commit)
        self._thread = threading.Thread(target=self._write, name="session-writer", daemon=True)
        self._thread.start()

    @classmethod
    def create(cls, journal: Journal, start: dict[str, Any], **hooks: Any) -> SessionWriter:
        """Write the ``start`` document of a session; ``start`` holds its other fields.

        ``journal`` is what :func:`claim_folder` returned; it is discarded if this fails.
        """
        folder = journal.folder
        try:
            layers.create_bundle(folder / layers.BUNDLE_NAME, {"run_id": start["run_id"]})
            uid = uid_of(start["run_id"], "start")
            journal.append(StartDocument(uid=uid, created_utc=now_utc(), **start))
            journal.sync()
            layers.sync_up_to_root(folder)
        except (OSError, RecordingError) as error:
            shutil.rmtree(folder / layers.BUNDLE_NAME, ignore_errors=True)
            journal.discard()
            raise RecordingError(f"{folder} cannot be written: {_why(error)}") from error
        return cls(folder, journal, str(start["run_id"]), **hooks)

    @classmethod
    def reopen(cls, folder: Path, **hooks: Any) -> SessionWriter:
        """Take hold of a session that was cut off; :meth:`resume` goes on writing it."""
        if not (folder / JOURNAL_NAME).exists():
            raise SessionFolderError(f"{folder}: there is no {JOURNAL_NAME}; is this a session folder?")
        journal = Journal(folder)
        try:
            cut_torn_line(folder)
            reader = SessionReader(folder)
            take_back_lost(journal, reader)
        except BaseException:
            journal.close()
            raise
        return cls(folder, journal, reader.start.run_id, **hooks)

    def resume(self, *, now_s: float, versions: dict[str, str]) -> None:
        """Tidy up after the crash and write down that the session goes on."""
        reader = SessionReader(self.folder)
        tidy_images(reader)
        self._images.know(reader.frames.values())
        self._weights = {change.role: change.sha256 for change in reader.changes}
        self._reservations = len(reader.reservations)
        self._earlier = len(reader.documents)
        self._append(
            ResumeDocument(
                uid=self._uid(f"resume/{self._earlier}"),
                created_utc=now_utc(),
                now_s=now_s,
                versions=versions,
            )
        )
        self._images.list_images()
        os.sync()  # also what the part before wrote and had not synced when it was cut off

    def reserve(self, booking: Reservation, cycle: int, now_s: float) -> None:
        """Write a reservation before its light, once earlier frames are safe.

        A long scan waits until it is synced; of short ones a loss of power may forget a moment.
        """
        with self._on_the_way:
            self._on_the_way.wait_for(
                lambda: self._failure is not None or self._frames_on_the_way < FRAMES_AT_STAKE
            )
        self._raise_failure()
        number, self._reservations = self._reservations, self._reservations + 1
        self._append(
            ReserveDocument(
                uid=self._uid(f"reserve/{number}"),
                number=number,
                cycle=cycle,
                now_s=now_s,
                settings=booking.settings,
                energy_j=booking.energy_j,
                dose_j_per_m2=booking.dose_j_per_m2,
                frames=booking.frames,
            )
        )
        self._commit.book(booking.duration_s)
        self._raise_failure()
        self._scanning.set()

    def settle(self, lit: Lit) -> None:
        """Write down what the newest reservation lit, though it left not all its frames."""
        number = self._reservations - 1
        self._append(
            SettleDocument(
                uid=self._uid(f"settle/{number}"),
                reservation=number,
                energy_j=lit.energy_j,
                dose_j_per_m2=lit.dose_j_per_m2,
                frames=lit.frames,
            )
        )
        self._commit.add()

    def append_frame(self, frame: Frame, cycle: int, plane: int | None = None) -> None:
        """Hand a frame over at once after its scan, before anything is computed from it.

        ``plane`` is its number within a movie, 0 for the first: the frames of a movie share a group.
        """
        if plane is None:
            self._scanning.clear()
        with self._on_the_way:
            self._frames_on_the_way += 1
        reservation = self._reservations - 1
        self._put(lambda: self._write_frame(frame, reservation, cycle, plane))

    def append(self, cycle: Cycle, now_s: float) -> None:
        """Hand over a finished cycle."""
        self._put(lambda: self._write_cycle(cycle, now_s))

    def append_model(self, change: ModelChange, cycle: int) -> None:
        """Hand over what a model has learned; it holds from ``cycle`` on."""
        self._put(lambda: self._write_model(change, cycle))

    def finish(
        self, status: Status, reason: str, *, cycles: int, faults: int, dose: Dose, now_s: float
    ) -> Status:
        """Write everything that is waiting, then the stop document; return the status that is true."""
        self._scanning.set()
        self._jobs.put(None)
        self._thread.join()
        try:
            self._images.list_images()
        except Exception as error:  # noqa: BLE001  # told by the stop document that follows
            self._fail(error)
        self._commit.close()
        if self._failure is not None:
            status, reason = "failed", f"recording failed: {_why(self._failure)}"
            self._journal.free_ballast()
        try:
            stop = StopDocument(
                uid=self._uid(f"stop/{self._earlier}/{self._reservations}"),
                created_utc=now_utc(),
                status=status,
                reason=printable(reason),
                cycles=cycles,
                frames=self.frames,
                faults=faults,
                dose=DoseEntry(**asdict(dose)),
                now_s=now_s,
            )
            try:
                self._append(stop)
            except RecordingError as error:
                # The disk is full to the last byte: throw the ballast overboard and tell the truth.
                self._journal.free_ballast()
                failed = {"status": "failed", "reason": f"recording failed: {_why(error)}"}
                self._append(stop.model_copy(update=failed))
            self._journal.sync()
        except Exception as error:  # noqa: BLE001  # the status and the exit code tell
            self._fail(error)
        finally:
            self._journal.close()
        return "failed" if self._failure is not None else status

    @property
    def frames(self) -> int:
        """Return how many frames are safe on disk."""
        return len(self._images.frames)

    def abandon(self) -> None:
        """Let go of the folder without a stop document, after a start that failed."""
        self._scanning.set()
        self._jobs.put(None)
        self._thread.join()
        self._commit.close()
        self._journal.close()

    @property
    def failure(self) -> BaseException | None:
        """Return what went wrong in writing, if anything did."""
        return self._failure

    def _put(self, job: Callable[[], None]) -> None:
        self._raise_failure()
        self._jobs.put(job)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise RecordingError(f"{self.folder}: {_why(self._failure)}") from self._failure

    def _append(self, document: Document) -> None:
        """Append to the journal, from either thread; a failure ends the recording."""
        with self._journal_lock:
            try:
                self._journal.append(document)
            except BaseException as error:
                self._fail(error)
                raise

    def _fail(self, error: BaseException) -> None:
        with self._on_the_way:
            self._failure = self._failure or error
            self._on_the_way.notify_all()

    def _write(self) -> None:
        """Do the jobs in order. After a failure the rest is thrown away: order is what makes it safe."""
        while (job := self._jobs.get()) is not None:
            if self._failure is not None:
                continue
            try:
                job()
            except BaseException as error:  # noqa: BLE001  # handed to the session, which ends
                self._fail(error)

    def _write_frame(self, frame: Frame, reservation: int, cycle: int, plane: int | None) -> None:
        # Not if there is more to write already: then the loop is faster than the disk.
        if plane is None and self._frames_on_the_way == 1 and self._scanning.wait(_HOLD_BACK_S):
            time.sleep(_SET_UP_S)
        path = self._images.write_frame(frame, plane)
        document = FrameDocument(
            uid=self._uid(f"frame/{self._earlier}/{frame.index}"),
            index=frame.index,
            reservation=reservation,
            cycle=cycle,
            path=path,
            settings=frame.settings,
            started_s=frame.started_s,
            dtype=str(frame.photons.dtype),
            blake2b=layers.checksum(frame.photons),
            plane=plane,
        )
        self._append(document)
        self._commit.add(frames=1)
        self._images.frames[frame.index] = path, plane
        with self._on_the_way:
            self._frames_on_the_way -= 1
            self._on_the_way.notify_all()
        if self._acknowledged is not None:
            with suppress(Exception):  # a display in trouble does not spoil a record
                self._acknowledged(frame.index)
        if self.frames % _LIST_EVERY == 0:
            self._images.list_images()

    def _write_cycle(self, cycle: Cycle, now_s: float) -> None:
        frame, denoised, segmentation = cycle.frame, None, None
        kept_from = cycle.segmentation_of
        if frame is not None and cycle.denoised is not None:
            denoised = self._images.write_denoised(frame, cycle.denoised)
        if frame is not None and cycle.segmentation is not None and kept_from is None:
            segmentation = self._images.write_segmentation(frame, cycle.segmentation)
        document = CycleDocument(
            uid=self._uid(f"cycle/{self._earlier}/{cycle.index}"),
            index=cycle.index,
            now_s=now_s,
            decision=cycle.decision,
            decided_by=cycle.decided_by,
            frame_index=None if frame is None else frame.index,
            refused=None if cycle.refused is None else printable(cycle.refused),
            failure=None if cycle.failure is None else printable(cycle.failure),
            faults=tuple(printable(fault) for fault in cycle.faults),
            denoised=denoised,
            segmentation=segmentation,
            segmentation_frame=None if kept_from is None else kept_from.index,
            level=cycle.level,
            decided_on_age_s=cycle.decided_on_age_s,
            weights={role: sha256[:12] for role, sha256 in self._weights.items()},
            dose=DoseEntry(**asdict(cycle.dose)),
            timings_s=cycle.timings_s,
        )
        self._append(document)
        self._commit.add()

    def _write_model(self, change: ModelChange, cycle: int) -> None:
        write_model(self.folder, change)
        document = ModelDocument(
            uid=self._uid(f"model/{self._earlier}/{cycle}/{change.role}"),
            cycle=cycle,
            role=change.role,
            sha256=change.sha256,
            score_before=change.score_before,
            score_after=change.score_after,
            reason=printable(change.reason),
        )
        self._append(document)
        self._weights[change.role] = change.sha256
        self._commit.add()

    def _uid(self, name: str) -> str:
        return uid_of(self.run_id, name)
