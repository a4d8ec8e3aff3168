"""Keeps a driver that hangs from taking the session, or the end of the light, with it."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from controller.core.errors import DeviceError
from controller.core.protocols import Microscope

T = TypeVar("T")

_PAUSE_S = 0.1
_END = object()


class DriverThread:
    """Runs a driver's scans on a thread of their own, one after the other.

    The thread is started by the first scan and ends with this object. If a scan never comes back, it
    is left behind: a thread cannot be ended from outside.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job[object] | None] | None = None

    def start(
        self,
        source: Callable[[], Iterable[T]],
        watchdog: Watchdog | None = None,
        *,
        in_step: bool = False,
    ) -> Job[T]:
        """Let the thread go through ``source()``, and return its items as they come.

        ``in_step``: the next item is begun only when it is asked for, so that the scans of a simulation
        do not depend on how fast its threads run.
        """
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            threading.Thread(target=_work, args=(self._jobs,), name="driver", daemon=True).start()
            weakref.finalize(self, self._jobs.put, None)
        job = Job(source, watchdog, in_step=in_step)
        self._jobs.put(job)  # type: ignore[arg-type]  # the thread does not look at the items
        return job


class Job(Generic[T]):
    """What one scan gives, in the order in which it comes."""

    def __init__(
        self, source: Callable[[], Iterable[T]], watchdog: Watchdog | None, *, in_step: bool
    ) -> None:
        self._source = source
        self._watchdog = watchdog
        self._wanted = threading.Semaphore(0) if in_step else None
        self._items: queue.SimpleQueue[tuple[T | None, BaseException | None, bool]] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._ended = threading.Event()
        self.begun = 0  # items begun, finished or not
        self.is_resting = False  # waiting for somebody to want the next item

    def items(self, timeout_s: float) -> Iterator[T]:
        """Yield each item as it comes; raise what the scan raised.

        Raises
        ------
        TimeoutError
            If nothing came for ``timeout_s``.
        """
        while True:
            if self._wanted is not None:
                self._wanted.release()
            try:
                item, error, is_end = self._items.get(timeout=timeout_s)
            except queue.Empty:
                raise TimeoutError(f"nothing came for {timeout_s:g} s") from None
            if error is not None:
                raise error
            if is_end:
                return
            yield item  # type: ignore[misc]  # an item, as there is neither an error nor the end

    def cancel(self) -> None:
        """Begin nothing more; whoever waits for light to end calls the driver's ``stop`` beside this."""
        self._cancelled.set()
        if self._wanted is not None:
            self._wanted.release()

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Tell whether the thread has come back from it, after waiting for so long at most."""
        return self._ended.wait(timeout_s)

    def work(self) -> None:
        """Go through the source; on the driver's thread."""
        error: BaseException | None = None
        try:
            items = iter(self._source())
            while self._may_go_on():
                self.begun += 1
                item = next(items, _END)
                if item is _END:
                    break
                self._items.put((item, None, False))  # type: ignore[arg-type]  # not the end mark
        except BaseException as raised:  # noqa: BLE001  # raised again where the items are taken
            error = raised
        if self._watchdog is not None:
            self._watchdog.rest()
        self._ended.set()
        self._items.put((None, error, True))

    def _may_go_on(self) -> bool:
        """Wait until the next item is wanted, if that is how it is done, and tell whether it is."""
        if self._wanted is not None:
            if self._watchdog is not None:
                self._watchdog.rest()
            self.is_resting = True
            self._wanted.acquire()
            self.is_resting = False
        if self._watchdog is not None:
            self._watchdog.feed()
        return not self._cancelled.is_set()


def _work(jobs: queue.SimpleQueue[Job[object] | None]) -> None:
    # A function, not a method: the thread must not keep alive the object whose end is its own end.
    while (job := jobs.get()) is not None:
        job.work()
        del job


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


def within(timeout_s: float, call: Callable[[], T], what: str) -> T:
    """Return what a call of the driver returns, or give it up.

    Raises
    ------
    DeviceError
        If it does not come back within ``timeout_s``.
    """
    thread = DriverThread()
    try:
        for answer in thread.start(lambda: [call()]).items(timeout_s):
            return answer
    except TimeoutError:
        raise DeviceError(f"the driver does not come back from {what} within {timeout_s:g} s") from None
    raise AssertionError("a call gives one answer")
