"""Puts the light out if a driver takes too long."""

from __future__ import annotations

import threading
import time

from controller.core.protocols import Microscope

_PAUSE_S = 0.1


class Watchdog:
    """Puts the light out, again and again until it is dark, if a scan takes too long.

    ``feed`` gives it as much patience again: each frame of a movie does. ``rest`` lets it sleep.
    """

    def __init__(self, microscope: Microscope, allowed_s: float) -> None:
        self.allowed_s = allowed_s
        self.has_fired = False
        self._microscope = microscope
        self._due_s = time.monotonic() + allowed_s
        self._stopping = threading.Lock()  # held while stop() runs, so that it cannot hit a later scan
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="scan-watchdog", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        # A stop that hangs must not make us hang, too.
        has_lock = self._stopping.acquire(timeout=self.allowed_s)
        self._done.set()
        if has_lock:
            self._stopping.release()

    def feed(self) -> None:
        """Start counting anew."""
        self._due_s = time.monotonic() + self.allowed_s

    def rest(self) -> None:
        """Be patient without an end: the driver has nothing to do."""
        self._due_s = float("inf")

    def _watch(self) -> None:
        while (left_s := self._due_s - time.monotonic()) > 0:
            # Looked at again from time to time: whoever rests may be fed.
            if self._done.wait(min(left_s, self.allowed_s)):
                return
        while True:
            with self._stopping:
                if self._done.is_set():
                    return
                self.has_fired = True
                try:
                    self._microscope.stop()
                    if self._microscope.is_dark():
                        return
                except Exception:  # noqa: BLE001, S110  # tried again: there is nobody else to put it out
                    pass
            if self._done.wait(_PAUSE_S):
                return
