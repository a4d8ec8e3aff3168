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
        self._paths: dict[Path, None] = {}
        self._light_s = 0.0  # booked or delivered, and not yet durable
        self._frames = 0
        self._written = self._synced = 0  # a count of what was added, and of what of it is durable
        self._is_urgent = self._is_closed = self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="session-commit", daemon=True)
        self._thread.start()

    def add(self, paths: Sequence[Path] = (), *, frames: int = 0) -> None:
        """Take what was written; waits while more than :data:`FRAMES_MAX` frames are not yet durable."""
        with self._changed:
            self._wait_for(lambda: self._frames + frames <= FRAMES_MAX)
            self._paths.update(dict.fromkeys(paths))
            self._frames += frames
            self._written += 1
            self._changed.notify_all()

    def book(self, light_s: float) -> None:
        """Take a reservation that is written; returns once its light may be lit."""
        if light_s >= LONG_LIGHT_S:
            self.add()
            self.flush()
            return
        with self._changed:
            self._wait_for(lambda: self._light_s + light_s <= LIGHT_MAX_S)
            self._light_s += light_s
            self._written += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Return when everything that was added is durable, or has failed."""
        with self._changed:
            number = self._written
            self._wait_for(lambda: self._synced >= number)

    def close(self) -> None:
        """Sync the rest and end the thread; a second time does nothing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _wait_for(self, is_so: Callable[[], bool]) -> None:
        while not (is_so() or self._has_failed or self._is_closed):
            self._is_urgent = True
            self._changed.notify_all()
            self._changed.wait()

    def _run(self) -> None:
        while self._next():
            with self._changed:
                paths, self._paths = self._paths, {}
                written, light_s, frames = self._written, self._light_s, self._frames
                self._is_urgent = False
            try:
                sync(list(paths))
                self._sync_journal()
            except BaseException as error:  # noqa: BLE001  # handed to the session, which ends
                self._failed(error)
                with self._changed:
                    self._has_failed = True
                    self._changed.notify_all()
                return
            with self._changed:
                self._synced = written
                self._light_s -= light_s
                self._frames -= frames
                self._changed.notify_all()

    def _next(self) -> bool:
        """Wait for something to sync, and a little longer for more, unless somebody waits for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._written > self._synced or self._is_closed)
            self._changed.wait_for(lambda: self._is_urgent or self._is_closed, timeout=_GATHER_S)
            return self._written > self._synced
