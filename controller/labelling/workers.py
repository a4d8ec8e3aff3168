"""Processes that work beside a session: started, watched, started again if they die, and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from controller.core.errors import StedfastError
from controller.labels.records import WorkerRecord
from controller.labels.store import LabelStore

#: Deaths within this time after which a worker is left alone: whatever it is, again does not help.
_DEATHS_MAX, _WITHIN_S = 5, 600.0
#: How often a worker looks for work, and the service at its workers.
PERIOD_S = 1.0
#: What a worker has to come to its end, before it is ended by force.
_PATIENCE_S = 5.0
#: Whoever images goes first.
NICENESS = 10


@dataclass(slots=True)
class Worker:
    """One process of ``python -m module``; it ends when its standard input does."""

    name: str
    module: str
    arguments: tuple[str, ...]
    deaths: deque[float] = field(default_factory=deque)
    process: subprocess.Popen[bytes] | None = None
    is_given_up: bool = False

    def start(self) -> None:
        """Start the process."""
        self.process = subprocess.Popen(  # noqa: S603  # our own module, by its name
            # -P: nothing is imported from the folder that somebody happens to work in.
            [sys.executable, "-P", "-m", self.module, *self.arguments],
            stdin=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the service, which ends this process in order
        )

    def ask_to_end(self) -> None:
        """End the input of the process, which ends it as soon as it can."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def stop(self) -> None:
        """End the process: by the end of its input, and by force if that does not help."""
        self.ask_to_end()
        process, self.process = self.process, None
        if process is None:
            return
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Supervisor:
    """Keeps workers alive, and writes down what becomes of them.

    Parameters
    ----------
    store
        Where events and signs of life go.
    workers
        They are started by :meth:`start`.
    now
        Seconds since 1970, UTC.
    """

    def __init__(self, store: LabelStore, workers: list[Worker], now: Callable[[], float]) -> None:
        self._store, self._workers, self._now = store, workers, now
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start all workers, and watch them from now on."""
        for worker in self._workers:
            worker.start()
        self._thread.start()

    def check(self) -> None:
        """Start workers again that have died; called once a second."""
        for worker in self._workers:
            process = worker.process
            if worker.is_given_up or (process is not None and process.poll() is None):
                continue
            if process is None:
                self._start(worker)  # it could not be the last time
                continue
            code, now = process.returncode, self._now()
            worker.deaths.append(now)
            while worker.deaths and worker.deaths[0] < now - _WITHIN_S:
                worker.deaths.popleft()
            worker.is_given_up = len(worker.deaths) >= _DEATHS_MAX
            what = "not started again" if worker.is_given_up else "started again"
            message = f"the {worker.name} ended by itself (exit code {code}); {what}"
            worker.stop()  # lets go of its pipe
            self._note(worker, process.pid, message)
            if not worker.is_given_up:
                self._start(worker)

    def stop(self) -> None:
        """End all workers; nothing that was answered depends on them."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        for worker in self._workers:
            worker.ask_to_end()  # all of them first, so that they end at once and not one after the other
        for worker in self._workers:
            worker.stop()

    def _start(self, worker: Worker) -> None:
        try:
            worker.start()
        except OSError as error:  # no memory, or too many processes, for the moment
            print(f"the {worker.name} cannot be started: {error}", file=sys.stderr)  # noqa: T201

    def _note(self, worker: Worker, pid: int, message: str) -> None:
        try:
            self._store.log("worker died", worker=worker.name, message=message)
            self._store.beat(
                WorkerRecord(name=worker.name, pid=pid, state="failed", message=message, beat_s=0.0)
            )
        except StedfastError as error:
            # The disk may be what is full. The page says so when it is asked to store an answer.
            print(f"{message}; {error}", file=sys.stderr)  # noqa: T201

    def _watch(self) -> None:
        while not self._end.wait(PERIOD_S):
            self.check()


def work_until_input_ends(
    name: str, step: Callable[[], str | None], store: LabelStore, *, period_s: float = PERIOD_S
) -> None:
    """Do ``step`` again and again until standard input ends; the main of a worker.

    ``step`` returns what it did, or ``None`` if there was nothing to do. What it raises is told as a sign
    of life; the next step tries again.
    """
    os.nice(NICENESS)
    end = threading.Event()
    threading.Thread(target=_wait_for_end, args=(end,), name="input", daemon=True).start()
    last: Mapping[str, str] = {}
    while not end.is_set():
        try:
            did = step()
            state = {"state": "idle" if did is None else "working", "message": did or last.get("message", "")}
        except (StedfastError, OSError, MemoryError) as error:
            # A full disk among them: to end here again and again is to be given up.
            state = {"state": "failed", "message": f"{type(error).__name__}: {error}"}
        last = state
        try:
            store.beat(
                WorkerRecord.model_validate({"name": name, "pid": os.getpid(), "beat_s": 0.0, **state})
            )
        except StedfastError as error:
            print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        end.wait(period_s)
    with suppress(StedfastError):
        store.beat(WorkerRecord(name=name, pid=os.getpid(), state="stopped", message="ended", beat_s=0.0))


def _wait_for_end(end: threading.Event) -> None:
    sys.stdin.buffer.read()
    end.set()
