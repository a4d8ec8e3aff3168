"""Reads a session folder: a finished one, a running one, or what a crash left."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from controller.core.dose import Lit
from controller.core.errors import SessionFolderError
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import ModelChange
from controller.recording import layers
from controller.recording.documents import (
    CycleDocument,
    Document,
    FrameDocument,
    ModelDocument,
    ReserveDocument,
    ResumeDocument,
    SettleDocument,
    StartDocument,
    Status,
    StopDocument,
)
from controller.recording.journal import read_journal, without_lost
from controller.recording.models import read_model


class SessionReader:
    """A recorded session.

    Attributes
    ----------
    start, stop
        First and last document; ``stop`` is ``None`` while the session runs or after a crash.
    cycles
        All finished cycles, in order.
    frames
        All acknowledged frames by index.
    frames_of, frame_of
        By the number of a reservation: the indices of its frames, and the last of them.
    documents
        The whole journal, in order, but for frames and cycles that were lost with the power.
    changes
        Each change of the weights of a model, in order.
    reservations
        What was booked before each scan, in order.
    settled
        By the number of a reservation that left not all its frames: what was lit, if that is known.

    Raises
    ------
    SessionFolderError
        If the folder is not a session, is damaged, or an image does not match its checksum.
    """

    def __init__(self, folder: Path, documents: list[Document] | None = None) -> None:
        """Read the journal, unless its ``documents`` are known already."""
        self.folder = folder
        self.bundle = folder / layers.BUNDLE_NAME
        self.documents = documents = without_lost(read_journal(folder)) if documents is None else documents
        if not documents or not isinstance(documents[0], StartDocument):
            raise SessionFolderError(f"{folder}: the journal does not begin with a start document")
        self.start = documents[0]
        self.resumes = [d for d in documents if isinstance(d, ResumeDocument)]
        self.cycles = [d for d in documents if isinstance(d, CycleDocument)]
        self.frames = {d.index: d for d in documents if isinstance(d, FrameDocument)}
        self.changes = [d for d in documents if isinstance(d, ModelDocument)]
        self.reservations = [d for d in documents if isinstance(d, ReserveDocument)]
        self.settled = {d.reservation: d for d in documents if isinstance(d, SettleDocument)}
        self.frames_of: dict[int, list[int]] = {}
        for document in self.frames.values():
            self.frames_of.setdefault(document.reservation, []).append(document.index)
        self.frame_of = {number: indices[-1] for number, indices in self.frames_of.items()}
        last = documents[-1]
        self.stop = last if isinstance(last, StopDocument) else None

    @property
    def status(self) -> Status | Literal["unfinished"]:
        """Return how the session ended; ``unfinished`` if it runs or was cut off."""
        return self.stop.status if self.stop else "unfinished"

    def unsettled(self) -> list[ReserveDocument]:
        """Return the reservations of which nothing more is known: their light counts in full."""
        return [b for b in self.reservations if not self.is_whole(b) and b.number not in self.settled]

    def lit(self, booking: ReserveDocument) -> Lit:
        """Return the light of a scan or movie: as it was settled, as its frames say, or its worst case."""
        if self.is_whole(booking) and booking.number not in self.settled:
            return Lit.sum([Lit.by(self.frames[index].settings) for index in self.frames_of[booking.number]])
        known = self.settled.get(booking.number, booking)
        return Lit(booking.settings.scanned_region, known.energy_j, known.dose_j_per_m2, known.frames)

    def frame(self, index: int) -> Frame:
        """Return an acknowledged frame, checked against its checksum."""
        document = self._frame_document(index)
        photons = layers.read_array(self.bundle, document.path, document.plane)
        if layers.checksum(photons) != document.blake2b:
            raise SessionFolderError(f"{self._where(document)}: the pixels do not match their checksum")
        return Frame(photons, document.settings, index, document.started_s)

    def denoised(self, cycle: CycleDocument) -> Denoised | None:
        """Return the denoised image of a cycle, if it has one."""
        entry = cycle.denoised
        if entry is None or cycle.frame_index is None:
            return None
        image = layers.read_array(self.bundle, entry.path)
        if layers.checksum(image) != entry.blake2b:
            raise SessionFolderError(f"{self.bundle / entry.path}: the pixels do not match their checksum")
        return Denoised(image[0], image[1], cycle.frame_index, entry.level, entry.latency_s)

    def segmentation(self, cycle: CycleDocument) -> Segmentation | None:
        """Return the segmentation of a cycle, if it has one."""
        entry = cycle.segmentation
        if entry is None:
            return None
        labels = layers.read_array(self.bundle, f"{entry.path}/labels/segmentation").astype(np.int32)
        labels = labels.reshape(labels.shape[-2:])  # that of a movie has its place in time, too
        maps = layers.read_array(self.bundle, f"{entry.path}_probability")
        if layers.checksum(labels, maps) != entry.blake2b:
            raise SessionFolderError(
                f"{self.bundle / entry.path}: the segmentation does not match its checksum"
            )
        return Segmentation(labels, maps[0], maps[1])

    def learned(self, cycle: int) -> list[ModelChange]:
        """Return the weights that models changed to before a cycle, checked against their checksums."""
        return [read_model(self.folder, change) for change in self.changes if change.cycle == cycle]

    def problems(self) -> list[str]:
        """Check all acknowledged images and weights by their checksums; return what is wrong, a line each."""
        counted: list[FrameDocument | CycleDocument | ModelDocument]
        counted = [*self.frames.values(), *self.cycles, *self.changes]
        return [text for text in (self.problem(document) for document in counted) if text is not None]

    def problem(self, document: FrameDocument | CycleDocument | ModelDocument) -> str | None:
        """Return what is wrong with the images or weights that a document names, if anything is."""
        try:
            if isinstance(document, FrameDocument):
                self.frame(document.index)
            elif isinstance(document, ModelDocument):
                read_model(self.folder, document)
            else:
                self.denoised(document)
                self.segmentation(document)
        except SessionFolderError as error:
            return str(error)
        return None

    def is_whole(self, booking: ReserveDocument) -> bool:
        """Tell whether all frames of a booking are in the record."""
        return len(self.frames_of.get(booking.number, ())) == booking.frames

    def _where(self, document: FrameDocument) -> str:
        where = str(self.bundle / document.path)
        return where if document.plane is None else f"{where}, plane {document.plane}"

    def _frame_document(self, index: int) -> FrameDocument:
        try:
            return self.frames[index]
        except KeyError:
            raise SessionFolderError(f"{self.folder}: there is no frame {index}") from None
