"""The append-only journal of a session: one JSON document a line, written before it counts."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from controller.core.errors import RecordingError, SessionFolderError
from controller.recording.documents import (
    DOCUMENT,
    CycleDocument,
    Document,
    FrameDocument,
    LostDocument,
    ModelDocument,
    ReserveDocument,
    SettleDocument,
)

JOURNAL_NAME = "journal.jsonl"
_BALLAST_NAME = ".ballast"
_BALLAST_BYTES = 256 * 1024
# Numbers that were checked when the document was made, and no text from outside: readable as they are.
_OWN_WORDS = (ReserveDocument, SettleDocument, FrameDocument)


class Journal:
    """Writes documents to ``folder/journal.jsonl``; one process at a time.

    A file of ballast is kept beside it and thrown overboard when the disk is full, so that the end
    of the session can still be written down truthfully.

    Raises
    ------
    RecordingError
        If the folder cannot be written to.
    SessionFolderError
        If another process writes to this session.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / JOURNAL_NAME
        self._ballast = folder / _BALLAST_NAME
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise SessionFolderError(f"{folder}: this session is running in another process") from error
        with suppress(OSError):
            # Real bytes, not a hole: a sparse file would keep no room.
            self._ballast.write_bytes(os.urandom(_BALLAST_BYTES))

    def append(self, document: Document) -> None:
        """Write one document. It survives the death of this process; :meth:`sync`, a loss of power."""
        try:
            line = document.model_dump_json(by_alias=True).encode() + b"\n"
            if not isinstance(document, _OWN_WORDS):
                DOCUMENT.validate_json(line)  # a line that could not be read again would cost all that follow
        except (ValidationError, ValueError) as error:
            raise RecordingError(
                f"{self._path}: a {document.type} document is not well-formed: {error}"
            ) from error
        length = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, length)  # no torn line before the next document
            raise RecordingError(f"{self._path} cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        """Make all lines so far survive a loss of power."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be written: {error.strerror}") from error

    def free_ballast(self) -> None:
        """Make room for the last documents of a session that ran out of disk."""
        with suppress(OSError):
            self._ballast.unlink()

    def close(self) -> None:
        """Release the journal; a second time does nothing."""
        self.free_ballast()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        """Release a journal that nothing was written to, and leave no trace of it."""
        self.close()
        with suppress(OSError):
            self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_journal(folder: Path) -> list[Document]:
    """Return the documents of a session, in order. A line torn by a crash at the end is left out.

    Raises
    ------
    SessionFolderError
        If there is no journal, or one that is damaged before its last line.
    """
    path = folder / JOURNAL_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SessionFolderError(f"{path}: {error.strerror}; is {folder} a session folder?") from error
    documents: list[Document] = []
    for number, line in enumerate(lines[:-1], start=1):
        if number == len(lines) - 1 and _is_torn(line):
            break
        try:
            documents.append(DOCUMENT.validate_json(line))
        except ValidationError as error:
            detail = error.errors()[0]
            raise SessionFolderError(f"{path}, line {number}: {detail['msg']} ({detail['loc']})") from error
    return documents


def without_lost(documents: Sequence[Document]) -> list[Document]:
    """Return the documents that count: all but what was lost with the power.

    Those are frames, cycles, and weights that were learned from them.
    """
    kept: list[Document | None] = list(documents)
    for number, document in enumerate(documents):
        if isinstance(document, LostDocument):
            for n in range(document.since, number):
                if isinstance(documents[n], FrameDocument | CycleDocument | ModelDocument):
                    kept[n] = None
    return [document for document in kept if document is not None]


def cut_torn_line(folder: Path) -> None:
    """Remove what a crash left of a half-written last line, so that the next one starts clean."""
    path = folder / JOURNAL_NAME
    text = path.read_bytes()
    lines = text.split(b"\n")
    torn = lines[-2:] if len(lines) >= 2 and _is_torn(lines[-2]) else lines[-1:]
    keep = len(text) - sum(len(line) for line in torn) - (len(torn) - 1)
    if keep < len(text):
        os.truncate(path, keep)


def _is_torn(line: bytes) -> bool:
    """Tell whether a line is no JSON: half-written. JSON that is not understood is another matter."""
    try:
        json.loads(line)
    except ValueError:
        return True
    return False
