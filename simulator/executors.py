"""Runs independent tasks one after another or on the cores of this computer; on a cluster see ray_executor.

Tasks and results travel between our own processes by multiprocessing, and to a cluster by Ray; both
pickle them. Nothing from a file or from anybody else is ever unpickled. Whoever can reach a Ray cluster
can run code on it, and it on you: connect to your own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import islice
from multiprocessing import connection
from typing import Generic, TypeVar

from controller.core.errors import ConfigurationError, StedfastError
from controller.core.executor import Executor, Finished

__all__ = ["Executor", "Finished", "ProcessExecutor", "SerialExecutor"]

T = TypeVar("T")
R = TypeVar("R")

#: Tasks for each process, the one under way included, so that none is idle.
AHEAD = 2
# After so many pools that broke without a single result between them, something is wrong with all tasks.
_BROKEN_POOLS_MAX = 3


class SerialExecutor:
    """Runs tasks one after another in this process."""

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[Finished[T, R]]:
        """See :class:`controller.core.executor.Executor`; an exception ends the task under way."""
        for item in items:
            yield attempt(task, item)


class ProcessExecutor:
    """Runs tasks in processes of this computer, which are started afresh and not forked.

    Parameters
    ----------
    workers
        How many processes.
    """

    def __init__(self, workers: int) -> None:
        if not workers >= 1:
            raise ConfigurationError(f"workers={workers!r} must be 1 or more")
        self._workers = workers

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[Finished[T, R]]:
        """See :class:`controller.core.executor.Executor`.

        A task whose process dies has failed, and so have those that waited beside it.
        """
        rest, broken_in_a_row = iter(items), 0
        while broken_in_a_row < _BROKEN_POOLS_MAX:
            first = list(islice(rest, self._workers * AHEAD))
            if not first:
                return
            with closing(_Pool(task, min(self._workers, len(first)))) as pool:
                for item in first:
                    pool.submit(item)
                while pool.is_busy:
                    for finished in pool.ended():
                        broken_in_a_row = 0 if finished.error is None else broken_in_a_row
                        if not pool.has_broken:
                            for item in islice(rest, 1):
                                pool.submit(item)
                        yield finished
                if not pool.has_broken:
                    return
            broken_in_a_row += 1
        raise StedfastError(
            f"{_BROKEN_POOLS_MAX} times in a row processes died before any task had ended; is there too "
            f"little memory for {self._workers} at once?"
        )


class _Pool(Generic[T, R]):
    """Processes that run one task, until one of them dies."""

    def __init__(self, task: Callable[[T], R], workers: int) -> None:
        self._task = task
        self._others = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
        )
        self._waiting: dict[Future[Finished[T, R]], T] = {}
        self.has_broken = False

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting)

    def submit(self, item: T) -> None:
        # Ctrl-C reaches all processes of a terminal; a new one inherits that it is blocked.
        with interrupts_blocked():
            try:
                future = self._pool.submit(attempt, self._task, item)
            except BrokenProcessPool as error:
                future = Future()
                future.set_exception(error)
            self._waiting[future] = item

    def ended(self) -> list[Finished[T, R]]:
        """Wait for at least one task and return those that have ended."""
        done, _ = wait(self._waiting, return_when=FIRST_COMPLETED)
        return [self._result(future, self._waiting.pop(future)) for future in done]

    def _result(self, future: Future[Finished[T, R]], item: T) -> Finished[T, R]:
        try:
            return future.result()
        except BrokenProcessPool:
            self.has_broken = True
            return Finished(item, error="its process died; was there too little memory?")
        except Exception as error:  # noqa: BLE001  # a task or result that cannot travel
            return Finished(item, error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Wait for the tasks under way; an exception meanwhile ends them at once."""
        try:
            self._pool.shutdown(wait=True, cancel_futures=True)
        except BaseException:
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
            raise


def attempt(task: Callable[[T], R], item: T) -> Finished[T, R]:
    """Run one task. An exception becomes words at once: not every one survives the way back."""
    try:
        return Finished(item, task(item))
    except StedfastError as error:
        return Finished(item, error=str(error))
    except Exception as error:  # noqa: BLE001  # the error of one item must not end the others
        return Finished(item, error=f"{type(error).__name__}: {error}")


def end_with_parent() -> None:
    """Let this process end when the one that made it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Let no Ctrl-C reach what happens inside, nor the processes that are started there."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
