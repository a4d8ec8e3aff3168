"""Runs calls that may hang on a thread of their own, so that whoever waits can give up."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from controller.core.errors import DeviceError

T = TypeVar("T")

_END = object()


class NothingCameError(Exception):
    """A call did not come back in time; not a ``TimeoutError``, which the call may raise itself."""


class Attention(Protocol):
    """Somebody who watches over a job: ``feed`` when an item is begun, ``rest`` while there is none."""

    def feed(self) -> None: ...

    def rest(self) -> None: ...


class Worker:
    """Runs jobs on a thread of its own, one after the other.

    The thread is started by the first job and ends with this object. If a job never comes back, it is
    left behind: a thread cannot be ended from outside.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Job[object] | None] | None = None

    def start(
        self,
        source: Callable[[], Iterable[T]],
        watchdog: Attention | None = None,
        *,
        in_step: bool = False,
    ) -> Job[T]:
        """Let the thread go through ``source()``, and return its items as they come.

        ``in_step``: the next item is begun only when it is asked for, so that the scans of a simulation
        do not depend on how fast its threads run.
        """
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True).start()
            weakref.finalize(self, self._jobs.put, None)
        job = Job(source, watchdog, in_step=in_step)
        self._jobs.put(job)  # type: ignore[arg-type]  # the thread does not look at the items
        return job

    def ask(self, call: Callable[[], T], timeout_s: float) -> T:
        """Return what ``call`` returns, or raise what it raises.

        Raises
        ------
        NothingCameError
            If it does not come back within ``timeout_s``; this worker is lost then.
        """
        for answer in self.start(lambda: [call()]).items(timeout_s):
            return answer
        raise AssertionError("a call gives one answer")


class Job(Generic[T]):
    """The items of one job, in the order in which they come."""

    def __init__(
        self, source: Callable[[], Iterable[T]], watchdog: Attention | None, *, in_step: bool
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
        """Yield each item as it comes; raise what the job raised.

        Raises
        ------
        NothingCameError
            If nothing came for ``timeout_s``.
        """
        while True:
            if self._wanted is not None:
                self._wanted.release()
            try:
                item, error, is_end = self._items.get(timeout=timeout_s)
            except queue.Empty:
                raise NothingCameError(f"nothing came for {timeout_s:g} s") from None
            if error is not None:
                raise error
            if is_end:
                return
            yield item  # type: ignore[misc]  # an item, as there is neither an error nor the end

    def cancel(self) -> None:
        """Begin no further item."""
        self._cancelled.set()
        if self._wanted is not None:
            self._wanted.release()

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Tell whether the thread has come back from it, after waiting for so long at most."""
        return self._ended.wait(timeout_s)

    def work(self) -> None:
        """Go through the source; on the worker's thread."""
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


def within(timeout_s: float, call: Callable[[], T], what: str) -> T:
    """Return what a call of the driver returns, or give it up.

    Raises
    ------
    DeviceError
        If it does not come back within ``timeout_s``.
    """
    try:
        return Worker(what).ask(call, timeout_s)
    except NothingCameError:
        raise DeviceError(f"the driver does not come back from {what} within {timeout_s:g} s") from None
