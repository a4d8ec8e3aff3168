"""Follows the journal of a session that runs, or reads the one of a session that has ended."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from controller.core.errors import SessionFolderError
from controller.recording.documents import DOCUMENT, Document
from controller.recording.journal import JOURNAL_NAME, without_lost
from controller.recording.reader import SessionReader


class FollowedSession:
    """A session as far as it is written, looked at again and again.

    Only what was added since the last time is read. It never writes and takes no lock.

    Raises
    ------
    SessionFolderError
        If there is no journal, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._documents: list[Document] = []
        self._reader: SessionReader | None = None
        self._read_bytes = 0
        self.update()
        if not self._documents:
            raise SessionFolderError(f"{folder}: the journal is empty; is a session about to begin there?")

    def update(self) -> bool:
        """Read what is new; return whether there was anything."""
        path = self.folder / JOURNAL_NAME
        try:
            with path.open("rb") as file:
                file.seek(self._read_bytes)
                added = file.read()
        except OSError as error:
            raise SessionFolderError(
                f"{path}: {error.strerror}; is {self.folder} a session folder?"
            ) from error
        # A line that is still being written is read the next time.
        whole = added[: added.rfind(b"\n") + 1]
        try:
            new = [DOCUMENT.validate_json(line) for line in whole.splitlines()]
        except ValidationError as error:
            detail = error.errors()[0]
            raise SessionFolderError(f"{path}: {detail['msg']} ({detail['loc']})") from error
        self._documents += new
        self._read_bytes += len(whole)
        if new:
            self._reader = None
        return bool(new)

    def reader(self) -> SessionReader:
        """Return the session as it was at the last update; the same one until there is anything new."""
        if self._reader is None:
            self._reader = SessionReader(self.folder, without_lost(self._documents))
        return self._reader
