"""Group commit: what was written is synced in batches, on a thread of its own.

A written byte survives the death of the process; only a synced one survives a loss of power. A sync
of its own for each frame would cost more than the frame, so one sync takes all that has gathered,
and a scan waits only when too much light would be at stake.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from controller.recording.layers import sync

#: A loss of power forgets no more light than this, and no more frames.
LIGHT_MAX_S = 0.1
FRAMES_MAX = 32
#: Light that lasts so long waits for its reservation to be synced; beside it that costs little.
LONG_LIGHT_S = 0.05
_GATHER_S = 0.02


class GroupCommit:
    """Syncs images, then the journal lines that name them.

    ``sync_journal`` makes all lines of the journal durable; ``failed`` is told, once, what went
    wrong. After that nothing is synced any more, and nobody waits.
    """

    def __init__(self, sync_journal: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        self._sync_journal = sync_journal
        self._failed = failed
        self._changed = threading.Condition()
        # Events beside it: the thread sleeps while things gather, it is not woken by each of them.
        self._has_work, self._is_urgent = threading.Event(), threading.Event()
        self._paths: dict[Path, None] = {}
        self._light_s = 0.0  # booked or delivered, and not yet durable
        self._frames = 0
        self._written = self._synced = 0  # a count of what was added, and of what of it is durable
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="session-commit", daemon=True)
        self._thread.start()

    def add(self, paths: Sequence[Path] = (), *, frames: int = 0) -> None:
        """Take what was written; waits while more than :data:`FRAMES_MAX` frames are not yet durable."""
        with self._changed:
            self._wait_for(lambda: self._frames + frames <= FRAMES_MAX)
            self._paths.update(dict.fromkeys(paths))
            self._frames += frames
            self._count()

    def book(self, light_s: float) -> None:
        """Take a reservation that is written; returns once its light may be lit."""
        if light_s >= LONG_LIGHT_S:
            self.add()
            self.flush()
            return
        with self._changed:
            self._wait_for(lambda: self._light_s + light_s <= LIGHT_MAX_S)
            self._light_s += light_s
            self._count()

    def flush(self) -> None:
        """Return when everything that was added is durable, or has failed."""
        with self._changed:
            number = self._written
            self._wait_for(lambda: self._synced >= number)

    def close(self) -> None:
        """Sync the rest and end the thread; a second time does nothing."""
        self.flush()
        with self._changed:
            self._has_ended = True
        self._is_urgent.set()
        self._has_work.set()
        self._thread.join()

    def _count(self) -> None:
        self._written += 1
        if not self._has_work.is_set():
            self._has_work.set()

    def _wait_for(self, is_so: Callable[[], bool]) -> None:
        while not (self._has_ended or is_so()):
            self._is_urgent.set()
            self._changed.wait()

    def _run(self) -> None:
        while True:
            self._has_work.wait()
            self._is_urgent.wait(_GATHER_S)
            with self._changed:
                if self._has_ended:
                    return
                self._has_work.clear()
                self._is_urgent.clear()
                paths, self._paths = self._paths, {}
                written, light_s, frames = self._written, self._light_s, self._frames
            try:
                sync(list(paths))
                self._sync_journal()
            except BaseException as error:  # noqa: BLE001  # handed to the session, which ends
                self._failed(error)
                with self._changed:
                    self._has_ended = True
                    self._changed.notify_all()
                return
            with self._changed:
                self._synced = written
                self._light_s -= light_s
                self._frames -= frames
                self._changed.notify_all()
