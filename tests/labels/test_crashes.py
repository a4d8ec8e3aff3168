"""What was acknowledged is there, whatever happened to the process or to the disk."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
from multiprocessing.connection import Connection
from pathlib import Path

from sqlalchemy import select

from controller.core.errors import RecordingError
from controller.labels import tables
from controller.labels.database import LABELS_NAME
from controller.labels.queue import LabelQueue
from controller.labels.store import LabelStore
from tests.labels.support import Place, Watch, Worker, add_person, ask, claimed, submission


def answer_and_say_so(connection: Connection, place: Place, name: str) -> None:
    """Ask, claim and answer without end; say the id of each answer as soon as it is stored."""
    store = LabelStore.open(place)
    queue, person, number = LabelQueue(store, Watch()), add_person(store, "ada"), 0
    while True:
        request = ask(store, key=f"{name} {number}")
        lease = claimed(queue.claim(person))
        assert lease.request == request
        connection.send(queue.answer(person, submission(lease, f"{name} {number}")).id)
        number += 1


def test_a_process_that_is_killed_at_any_moment_loses_no_answer_that_it_acknowledged(place: Place) -> None:
    store, rng = LabelStore.open(place, create=True), random.Random(6)
    acknowledged: list[str] = []
    for round_ in range(4):
        worker = Worker(answer_and_say_so, place, f"round {round_}")
        acknowledged += [worker.heard() for _ in range(rng.randrange(1, 6))]
        # Somewhere in the middle of what it does next.
        worker.process.join(rng.uniform(0, 0.03))
        worker.process.kill()
        while True:
            try:
                acknowledged.append(worker.heard())
            except EOFError:
                break
        worker.end()
        # Nothing is half there: every answer has its sample, and its question is closed.
        answers = {answer.id: answer for answer in store.answers(kept_only=False)}
        assert set(acknowledged) <= set(answers)
        with store.database.reading() as connection:
            rows = connection.execute(select(tables.answer_sample)).all()
        assert {row.answer_id for row in rows} == set(answers)
        states = {request.id: request.state for request in store.requests()}
        closed = {answer.request_id for answer in answers.values()}
        assert {number for number, state in states.items() if state == "answered"} == closed
        assert len(answers) - len(acknowledged) <= round_ + 1  # stored, and killed before saying so
        for request_id, state in states.items():
            if state == "open":
                store.cancel(request_id)
    assert len(acknowledged) >= 4
    store.close()
    if "://" not in place:
        file = sqlite3.connect(Path(place) / LABELS_NAME)
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("PRAGMA foreign_key_check").fetchall() == []
        file.close()


def answer_on_a_full_disk(connection: Connection, place: Place) -> None:
    """Answer, then find the disk full, then not any more; say what happened each time."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = LabelStore.open(place)
    queue, person = LabelQueue(store, Watch()), add_person(store)
    leases = [claimed(queue.claim(person)) for _ in range(3)]
    connection.send(queue.answer(person, submission(leases[0], "before")).id)
    # The log is the longest file, and every answer makes it longer.
    room = max(path.stat().st_size for path in Path(place).iterdir())
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, unlimited[1]))
    for key in ("full", "still full"):
        try:
            connection.send(queue.answer(person, submission(leases[1], key)).id)
        except RecordingError as error:
            connection.send(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    connection.send(queue.answer(person, submission(leases[1], "full")).id)
    connection.send(queue.answer(person, submission(leases[2], "after")).id)
    store.close()


def test_on_a_full_disk_an_answer_is_refused_whole_and_later_ones_are_stored(tmp_path: Path) -> None:
    store = LabelStore.open(tmp_path, create=True)
    for number in range(3):
        ask(store, number)
    worker = Worker(answer_on_a_full_disk, str(tmp_path))
    before, full, still, again, after = (worker.heard() for _ in range(5))
    worker.end()
    for message in (full, still):
        assert "labels.sqlite: " in message
        assert "disk" in message
    assert [answer.id for answer in store.answers(kept_only=False)] == [before, again, after]
    assert [answer.key for answer in store.answers()] == ["before", "full", "after"]
    store.close()
    file = sqlite3.connect(tmp_path / LABELS_NAME)
    assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    file.close()
