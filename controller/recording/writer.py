"""Writes a session while it runs: pixels first, then metadata, then the journal line.

A frame is acknowledged when its pixels, its checksum and its journal line are on disk. Writing
happens on a thread of its own behind a short queue; when the disk is slow, the queue makes the scan
wait. It never drops a frame.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from controller.core.decision import AskLabel, Cycle, Dose, Question
from controller.core.dose import Reservation
from controller.core.errors import RecordingError, SessionFolderError
from controller.core.frame import Frame
from controller.core.settings import ScanSettings
from controller.recording import layers
from controller.recording.documents import (
    CycleDocument,
    DenoisedEntry,
    DoseEntry,
    FrameDocument,
    ReserveDocument,
    ResumeDocument,
    SegmentationEntry,
    SettleDocument,
    StartDocument,
    Status,
    StopDocument,
)
from controller.recording.journal import JOURNAL_NAME, Journal, cut_torn_line, read_journal

_QUEUE_LENGTH = 4
_FRAMES_ON_THE_WAY = 1
_LIST_EVERY = 32


def now_utc() -> str:
    """Return the wall time, for names and records only."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class SessionWriter:
    """Records one session in ``folder``.

    Use :meth:`create` or :meth:`reopen`. ``ask`` receives each question on the writer's thread;
    ``acknowledged`` is told the index of each frame that is safe.

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
        ask: Callable[[int, Question], None] | None = None,
        acknowledged: Callable[[int], None] | None = None,
    ) -> None:
        self.folder = folder
        self.bundle = folder / layers.BUNDLE_NAME
        self.run_id = run_id
        self._journal = journal
        self._journal_lock = threading.Lock()
        self._ask = ask
        self._acknowledged = acknowledged
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=_QUEUE_LENGTH)
        self._on_the_way = threading.Condition()
        self._frames_on_the_way = 0
        self._failure: BaseException | None = None
        self._reservations = 0
        self._frame_paths: list[str] = []
        self._thread = threading.Thread(target=self._write, name="session-writer", daemon=True)
        self._thread.start()

    @classmethod
    def create(cls, folder: Path, start: dict[str, Any], **hooks: Any) -> SessionWriter:
        """Make a session folder and write its ``start`` document; ``start`` holds its other fields."""
        run_id = str(start["run_id"])
        if (folder / JOURNAL_NAME).exists():
            raise SessionFolderError(f"{folder} already holds a session; choose another folder or resume it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            journal = Journal(folder)
            layers.create_bundle(folder / layers.BUNDLE_NAME, {"run_id": run_id})
        except OSError as error:
            raise RecordingError(f"{folder} cannot be written: {error.strerror or error}") from error
        writer = cls(folder, journal, run_id, **hooks)
        writer._journal.append(StartDocument(uid=writer._uid("start"), created_utc=now_utc(), **start))
        return writer

    @classmethod
    def reopen(cls, folder: Path, **hooks: Any) -> SessionWriter:
        """Take hold of a session that was cut off; :meth:`resume` goes on writing it."""
        journal = Journal(folder)
        cut_torn_line(folder)
        start = read_journal(folder)[0]
        if not isinstance(start, StartDocument):
            raise SessionFolderError(f"{folder}: the journal does not begin with a start document")
        return cls(folder, journal, start.run_id, **hooks)

    def resume(self, *, now_s: float, versions: dict[str, str]) -> None:
        """Tidy up after the crash and write down that the session goes on."""
        documents = read_journal(self.folder)
        cycles = [document for document in documents if isinstance(document, CycleDocument)]
        self._frame_paths = [document.path for document in documents if isinstance(document, FrameDocument)]
        derived = {cycle.denoised.path for cycle in cycles if cycle.denoised}
        for entry in (cycle.segmentation for cycle in cycles if cycle.segmentation):
            derived |= {f"{entry.path}/labels", f"{entry.path}_probability"}
        layers.tidy_after_crash(self.bundle, set(self._frame_paths), derived)
        self._reservations = sum(isinstance(document, ReserveDocument) for document in documents)
        document = ResumeDocument(
            uid=self._uid(f"resume/{len(documents)}"), created_utc=now_utc(), now_s=now_s, versions=versions
        )
        with self._journal_lock:
            self._journal.append(document)

    def reserve(self, booking: Reservation, cycle: int) -> None:
        """Put a reservation on disk before its light, once earlier frames are safe."""
        with self._on_the_way:
            self._on_the_way.wait_for(
                lambda: self._failure is not None or self._frames_on_the_way <= _FRAMES_ON_THE_WAY
            )
        self._raise_failure()
        number, self._reservations = self._reservations, self._reservations + 1
        document = ReserveDocument(
            uid=self._uid(f"reserve/{number}"),
            number=number,
            cycle=cycle,
            settings=booking.settings,
            energy_j=booking.energy_j,
            dose_j_per_m2=booking.dose_j_per_m2,
        )
        with self._journal_lock:
            self._journal.append(document)

    def settle(self, delivered: ScanSettings | None) -> None:
        """Write down what the newest reservation lit, though it left no frame; ``None`` for nothing."""
        number = self._reservations - 1
        document = SettleDocument(uid=self._uid(f"settle/{number}"), reservation=number, settings=delivered)
        with self._journal_lock:
            self._journal.append(document)

    def append_frame(self, frame: Frame, cycle: int) -> None:
        """Hand a frame over at once after its scan, before anything is computed from it."""
        with self._on_the_way:
            self._frames_on_the_way += 1
        reservation = self._reservations - 1
        self._put(lambda: self._write_frame(frame, reservation, cycle))

    def append(self, cycle: Cycle, now_s: float) -> None:
        """Hand over a finished cycle."""
        self._put(lambda: self._write_cycle(cycle, now_s))

    def finish(
        self, status: Status, reason: str, *, cycles: int, faults: int, dose: Dose, now_s: float
    ) -> Status:
        """Write everything that is waiting, then the stop document; return the status that is true."""
        self._jobs.put(None)
        self._thread.join()
        frames = len(self._frame_paths)
        if self._failure is not None:
            status, reason = "failed", f"recording failed: {self._failure}"
            self._journal.free_ballast()
        stop = StopDocument(
            uid=self._uid(f"stop/{cycles}/{self._reservations}"),
            created_utc=now_utc(),
            status=status,
            reason=reason,
            cycles=cycles,
            frames=frames,
            faults=faults,
            dose=DoseEntry(**asdict(dose)),
            now_s=now_s,
        )
        try:
            self._journal.append(stop)
            layers.list_images(self.bundle, self._frame_paths)
        except (RecordingError, OSError) as error:
            if self._failure is None:
                self._failure = error
            status = "failed"
        finally:
            self._journal.close()
        return status

    def abandon(self) -> None:
        """Let go of the folder without a stop document, after a start that failed."""
        self._jobs.put(None)
        self._thread.join()
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
            raise RecordingError(f"{self.folder}: {self._failure}") from self._failure

    def _write(self) -> None:
        """Do the jobs in order. After a failure the rest is thrown away: order is what makes it safe."""
        while (job := self._jobs.get()) is not None:
            if self._failure is not None:
                continue
            try:
                job()
            except BaseException as error:  # noqa: BLE001  # handed to the session, which ends
                with self._on_the_way:
                    self._failure = error
                    self._on_the_way.notify_all()

    def _write_frame(self, frame: Frame, reservation: int, cycle: int) -> None:
        path = f"{frame.index:06d}"
        attributes = {
            "index": frame.index,
            "started_s": frame.started_s,
            "settings": frame.settings.model_dump(mode="json"),
        }
        layers.write_image(self.bundle, path, frame.photons, frame.settings, attributes=attributes)
        document = FrameDocument(
            uid=self._uid(f"frame/{frame.index}"),
            index=frame.index,
            reservation=reservation,
            cycle=cycle,
            path=path,
            settings=frame.settings,
            started_s=frame.started_s,
            dtype=str(frame.photons.dtype),
            blake2b=layers.checksum(frame.photons),
        )
        with self._journal_lock:
            self._journal.append(document)
        self._frame_paths.append(path)
        with self._on_the_way:
            self._frames_on_the_way -= 1
            self._on_the_way.notify_all()
        if self._acknowledged is not None:
            self._acknowledged(frame.index)
        if len(self._frame_paths) % _LIST_EVERY == 0:
            layers.list_images(self.bundle, self._frame_paths)

    def _write_cycle(self, cycle: Cycle, now_s: float) -> None:
        document = CycleDocument(
            uid=self._uid(f"cycle/{cycle.index}"),
            index=cycle.index,
            now_s=now_s,
            decision=cycle.decision,
            decided_by=cycle.decided_by,
            frame_index=None if cycle.frame is None else cycle.frame.index,
            refused=cycle.refused,
            failure=cycle.failure,
            faults=cycle.faults,
            denoised=self._write_denoised(cycle),
            segmentation=self._write_segmentation(cycle),
            dose=DoseEntry(**asdict(cycle.dose)),
            timings_s=cycle.timings_s,
        )
        if isinstance(cycle.decision, AskLabel) and cycle.refused is None and self._ask is not None:
            # Before the journal line: a question may be asked twice after a crash, never lost.
            self._ask(cycle.index, cycle.decision.question)
        with self._journal_lock:
            self._journal.append(document)

    def _write_denoised(self, cycle: Cycle) -> DenoisedEntry | None:
        frame, denoised = cycle.frame, cycle.denoised
        if frame is None or denoised is None:
            return None
        path = f"{frame.index:06d}_denoised"
        image = np.stack([denoised.mean, denoised.std])
        layers.write_image(
            self.bundle,
            path,
            image,
            frame.settings,
            channels=("mean", "std"),
            attributes={"derived_from": f"{frame.index:06d}", "level": denoised.level},
        )
        return DenoisedEntry(
            path=path, level=denoised.level, latency_s=denoised.latency_s, blake2b=layers.checksum(image)
        )

    def _write_segmentation(self, cycle: Cycle) -> SegmentationEntry | None:
        frame, segmentation = cycle.frame, cycle.segmentation
        if frame is None or segmentation is None:
            return None
        path = f"{frame.index:06d}"
        maps = np.stack([segmentation.probability, segmentation.uncertainty])
        layers.write_image(
            self.bundle,
            f"{path}_probability",
            maps,
            frame.settings,
            channels=("probability", "uncertainty"),
            attributes={"derived_from": path},
        )
        layers.write_labels(self.bundle, path, segmentation.labels, frame.settings, source="model")
        return SegmentationEntry(
            path=path,
            objects=int(segmentation.labels.max()),
            blake2b=layers.checksum(segmentation.labels, maps),
        )

    def _uid(self, name: str) -> str:
        return str(uuid.uuid5(uuid.UUID(self.run_id), name))
