"""Processes beside a session: watched, started again, given up, and ended; what goes wrong is told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from controller.core.errors import RecordingError
from controller.labelling.workers import Supervisor, Worker, work_until_input_ends
from controller.labels.store import LabelStore

# Modules of Python's own: one ends at once, one waits for its input to end.
ENDS, WAITS = "this", "code"


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore.open(tmp_path, create=True)


def test_a_worker_that_dies_is_started_again_until_it_is_hopeless(store: LabelStore) -> None:
    now_s = [0.0]
    worker = Worker("asker", ENDS, ())
    supervisor = Supervisor(store, [worker], lambda: now_s[0])
    worker.start()
    for death in range(5):
        assert worker.process is not None
        worker.process.wait(20)
        now_s[0] += 10.0
        supervisor.check()
        assert len(store.events()) == death + 1
    assert worker.is_given_up
    supervisor.check()
    assert len(store.events()) == 5
    assert "not started again" in str(store.events()[-1].detail["message"])
    assert store.workers()[0].state == "failed"


def test_a_worker_that_cannot_be_started_again_is_tried_until_it_can(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker("asker", ENDS, ())
    supervisor = Supervisor(store, [worker], lambda: 0.0)
    worker.start()
    assert worker.process is not None
    worker.process.wait(20)
    started = []
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", _no_memory)
        for _ in range(2):
            supervisor.check()
            started.append(worker.process is not None)
    supervisor.check()
    started.append(worker.process is not None)
    supervisor.stop()
    assert started == [False, False, True]


def _no_memory(*_: object, **__: object) -> None:
    raise OSError(12, "Cannot allocate memory")


def test_deaths_that_lie_far_apart_are_borne(store: LabelStore) -> None:
    now_s = [0.0]
    worker = Worker("asker", ENDS, ())
    supervisor = Supervisor(store, [worker], lambda: now_s[0])
    worker.start()
    for _ in range(7):
        assert worker.process is not None
        worker.process.wait(20)
        now_s[0] += 300.0
        supervisor.check()
    assert not worker.is_given_up
    supervisor.stop()


def test_a_worker_ends_with_its_input(store: LabelStore) -> None:
    worker = Worker("asker", WAITS, ())
    supervisor = Supervisor(store, [worker], lambda: 0.0)
    supervisor.start()
    process = worker.process
    assert process is not None
    supervisor.stop()
    assert process.poll() is not None
    assert store.events() == []


def test_steps_are_told_and_failures_do_not_end_them(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    seen: list[tuple[str, str]] = []
    full = OSError(28, "No space left on device")
    done = iter(["did one thing", None, RecordingError("the disk is full"), full, "went on"])

    def step() -> str | None:
        if workers := store.workers():
            seen.append((workers[0].state, workers[0].message))
        what = next(done, None)
        if what == "went on":
            os.close(write)
        if isinstance(what, Exception):
            raise what
        return what

    stdin = io.TextIOWrapper(os.fdopen(read, "rb"))
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(os, "nice", lambda _: None)
    thread = threading.Thread(
        target=work_until_input_ends, args=("asker", step, store), kwargs={"period_s": 0.01}
    )
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    stdin.close()
    assert seen[:4] == [
        ("working", "did one thing"),
        ("idle", "did one thing"),
        ("failed", "RecordingError: the disk is full"),
        ("failed", "OSError: [Errno 28] No space left on device"),
    ]
    assert store.workers()[0].state == "stopped"
