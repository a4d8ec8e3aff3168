"""Takes hold of a session that was cut off, and puts its images in order before it goes on."""

from __future__ import annotations

from controller.recording import layers
from controller.recording.commit import FRAMES_MAX
from controller.recording.documents import (
    CycleDocument,
    FrameDocument,
    LostDocument,
    ResumeDocument,
    StopDocument,
    now_utc,
    uid_of,
)
from controller.recording.journal import Journal, read_journal
from controller.recording.reader import SessionReader

#: Light that a killed process may lose: the frame under the light and those on their way to the disk.
FRAMES_AT_STAKE = 4
# The newest images that the group commit may not have synced: of each frame, its own and its cycle's.
_UNSYNCED_MAX = 2 * (FRAMES_MAX + FRAMES_AT_STAKE)


def take_back_lost(journal: Journal, reader: SessionReader) -> None:
    """Write down which frames and cycles lost their pixels, if the power failed before they were synced.

    Only the newest can be among them; an older image that is damaged is another matter.
    """
    documents = read_journal(reader.folder)
    newest: list[tuple[int, FrameDocument | CycleDocument]] = []
    for number, document in enumerate(documents):
        if isinstance(document, ResumeDocument | StopDocument | LostDocument):
            newest = []  # these are synced with all before them
        elif isinstance(document, FrameDocument) or (
            isinstance(document, CycleDocument) and (document.denoised or document.segmentation)
        ):
            newest.append((number, document))
    newest = newest[-_UNSYNCED_MAX:]
    movies = {d.path: _movie(d) for _, d in newest if isinstance(d, FrameDocument)}
    for path, movie in movies.items():
        if movie is not None:
            layers.set_length(reader.bundle, path, movie)
    for number, document in newest:
        if (reason := reader.problem(document)) is not None:
            uid = uid_of(reader.start.run_id, f"lost/{len(documents)}")
            journal.append(LostDocument(uid=uid, created_utc=now_utc(), since=number, reason=reason))
            journal.sync()
            return


def tidy_images(reader: SessionReader) -> None:
    """Set aside or remove the images that a crash left behind and that no document names."""
    derived = {cycle.denoised.path for cycle in reader.cycles if cycle.denoised}
    for entry in (cycle.segmentation for cycle in reader.cycles if cycle.segmentation):
        derived |= {f"{entry.path}/labels", f"{entry.path}_probability"}
    frames = {frame.path: _movie(frame) for frame in reader.frames.values()}
    layers.tidy_after_crash(reader.bundle, frames, derived)


def _movie(newest: FrameDocument) -> layers.Movie | None:
    if newest.plane is None:
        return None
    return layers.Movie(newest.plane + 1, newest.settings.shape_yx, newest.dtype)
