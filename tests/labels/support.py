"""What the tests of the label store begin with, and how they run several processes at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from controller.labels.records import (
    Annotator,
    AnswerRecord,
    Display,
    Lease,
    NewRequest,
    NewSample,
    Reply,
    Request,
    Roi,
    Submission,
)
from controller.labels.store import LabelStore
from controller.learning.annotations import LabelSchema, TagAnnotation

#: A folder, or the URL of a PostgreSQL.
Place = str

SCHEMA = LabelSchema(classes=("ring", "fiber"))
RING = Reply(annotations=(TagAnnotation(present=("ring",)),))
FIBER = Reply(annotations=(TagAnnotation(present=("fiber",)),))

#: A process that has said nothing for so long hangs.
_PATIENCE_S = 60.0


class Watch:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def __call__(self) -> float:
        return self.time_s


def new_sample(number: int = 0, **changes: Any) -> NewSample:
    """Return the part of an image that has a place of its own for each number."""
    fields: dict[str, Any] = {
        "session": "monday",
        "field": f"field {number}",
        "uri": "frames.zarr",
        "roi": Roi(y=64 * number, x=0, rows=64, columns=48),
        "pixel_size_m": 20e-9,
        "dtype": "uint16",
    }
    return NewSample(**fields | changes)


def ask(store: LabelStore, number: int = 0, *, samples: int = 1, **changes: Any) -> Request:
    """Ask a question about one sample, or a choice among several."""
    items = tuple({"sample_id": store.add_sample(new_sample(10 * number + i)).id} for i in range(samples))
    fields: dict[str, Any] = {
        "key": f"question {number}",
        "kind": "tag" if samples == 1 else "choice",
        "text": "What is it?",
        "schema_id": store.add_schema(SCHEMA).id,
        "items": items,
    }
    return store.add_request(NewRequest.model_validate(fields | changes))


def submission(lease: Lease, key: str = "first", reply: Reply = RING, **changes: Any) -> Submission:
    """Return an answer to a leased question."""
    fields: dict[str, Any] = {"key": key, "lease_id": lease.id, "reply": reply, "elapsed_s": 1.5}
    return Submission(**fields | changes)


def imported(person: Annotator, request: NewRequest, key: str, **changes: Any) -> AnswerRecord:
    """Return an answer about a question's sample as it comes from an import."""
    fields: dict[str, Any] = {
        "id": key,
        "key": key,
        "request_id": None,
        "sample_ids": (request.items[0].sample_id,),
        "annotator_id": person.id,
        "schema_id": request.schema_id,
        "kind": "tag",
        "reply": RING,
        "arm": "import",
        "elapsed_s": 0.0,
        "idle_s": 0.0,
        "display": Display(),
        "prefill_sha256": None,
        "client": "test",
        "revises": None,
        "is_kept": True,
        "created_s": 5.0,
    }
    return AnswerRecord(**fields | changes)


def claimed(lease: Lease | None) -> Lease:
    """Return a lease that must be there."""
    assert lease is not None
    return lease


# Processes. They are forked from one that has only the imports, so that one begins within milliseconds.

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.labels.support", "controller.labels.queue", "psycopg"])


class Worker:
    """A process that runs ``work(connection, *arguments)``; both ends of the connection can talk."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self.connection, theirs = _context.Pipe()
        self.process: BaseProcess = _context.Process(
            target=_run, args=(work, theirs, *arguments), daemon=True
        )
        self.process.start()
        theirs.close()

    def heard(self) -> Any:
        """Return the next thing that it says; ``EOFError`` if it is gone."""
        assert self.connection.poll(_PATIENCE_S), "the process says nothing"
        found = self.connection.recv()
        if isinstance(found, Exception):
            raise found
        return found

    def end(self) -> None:
        """Wait until it has ended, and let go of it."""
        self.process.join(_PATIENCE_S)
        assert self.process.exitcode is not None, "the process does not end"
        self.connection.close()
        self.process.close()


def at_once(work: Callable[..., Any], each: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return what ``work`` returns in several processes that begin at the same moment."""
    workers = [Worker(_at_a_signal, work, *arguments) for arguments in each]
    for worker in workers:
        assert worker.heard() == "ready"
    for worker in workers:
        worker.connection.send("go")
    ready: list[Any] = [worker.connection for worker in workers]
    while ready:  # whoever fails first is heard first
        done = wait(ready, _PATIENCE_S)
        assert done, "no process says anything"
        ready = [connection for connection in ready if connection not in done]
    found = [worker.heard() for worker in workers]
    for worker in workers:
        worker.end()
    return found


def _run(work: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    try:
        work(connection, *arguments)
    except Exception as error:  # noqa: BLE001 - the test that started this process raises it
        connection.send(AssertionError(f"{type(error).__name__}: {error}"))


def _at_a_signal(connection: Connection, work: Callable[..., Any], *arguments: Any) -> None:
    connection.send("ready")
    connection.recv()
    connection.send(work(*arguments))


def add_person(store: LabelStore, name: str = "ada", **changes: Any) -> Annotator:
    """Return somebody who answers."""
    return store.add_annotator(name, **changes)
