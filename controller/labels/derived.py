"""What is made of the answers, and what goes on beside the session: consensus, snapshots, models, events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import insert, select, update

from controller.labels import tables
from controller.labels.database import Database, insert_new
from controller.labels.records import (
    Consensus,
    EventRecord,
    ModelRecord,
    Snapshot,
    WorkerRecord,
    as_key,
    checked_name,
)


class DerivedRecords:
    """The part of the label store that could be made again, and the log of what goes on."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self.database, self._now = database, now

    def add_consensus(self, found: Iterable[Consensus]) -> list[Consensus]:
        """Add consensus, with the versions that they carry; return those that were not there.

        Of two processes that come to the same version at once, the first adds it.
        """
        rows = [(one, one.model_dump_json()) for one in found]  # before anybody else has to wait
        key = ["sample_id", "method", "version"]
        with self.database.writing() as connection:
            return [
                one
                for one, content in rows
                if insert_new(
                    connection,
                    tables.consensus,
                    key,
                    **{name: getattr(one, name) for name in key},
                    content=content,
                    created_s=self._now(),
                )
            ]

    def consensus(self, method: str) -> dict[str, Consensus]:
        """Return the newest consensus of each sample by a method."""
        table = tables.consensus
        query = select(table).where(table.c.method == method).order_by(table.c.version)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        newest = {row.sample_id: row.content for row in rows}
        return {number: Consensus.model_validate_json(content) for number, content in newest.items()}

    def add_snapshot(self, content: dict[str, Any]) -> Snapshot:
        """Return the snapshot of a content; the same content is the same snapshot."""
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        name = hashlib.sha256(text.encode()).hexdigest()
        table = tables.snapshot
        with self.database.writing() as connection:
            insert_new(connection, table, ["sha256"], sha256=name, content=text, created_s=self._now())
            row = connection.execute(select(table).where(table.c.sha256 == name)).one()
        return Snapshot(sha256=name, created_s=row.created_s, content=json.loads(row.content))

    def snapshot(self, sha256: str) -> Snapshot:
        """Return a snapshot; ``KeyError`` if there is none of that name."""
        table = tables.snapshot
        with self.database.reading() as connection:
            row = connection.execute(select(table).where(table.c.sha256 == as_key(sha256))).one_or_none()
        if row is None:
            raise KeyError(f"there is no snapshot {sha256}")
        return Snapshot(sha256=row.sha256, created_s=row.created_s, content=json.loads(row.content))

    def add_model(self, model: ModelRecord) -> None:
        """Add a model that was trained, published or rejected."""
        with self.database.writing() as connection:
            connection.execute(
                insert(tables.model).values(
                    sha256=model.sha256,
                    role=model.role,
                    content=model.model_dump_json(),
                    created_s=self._now(),
                )
            )

    def models(self) -> list[ModelRecord]:
        """Return all models, the oldest first."""
        with self.database.reading() as connection:
            rows = connection.execute(select(tables.model).order_by(tables.model.c.number)).all()
        return [ModelRecord.model_validate_json(row.content).replace(created_s=row.created_s) for row in rows]

    def beat(self, worker: WorkerRecord) -> None:
        """Take down a worker's sign of life."""
        table = tables.worker
        content = worker.replace(beat_s=self._now()).model_dump_json()
        with self.database.writing() as connection:
            if not insert_new(connection, table, ["name"], name=worker.name, content=content):
                connection.execute(update(table).where(table.c.name == worker.name).values(content=content))

    def workers(self) -> list[WorkerRecord]:
        """Return the last sign of life of each worker."""
        with self.database.reading() as connection:
            rows = connection.execute(select(tables.worker).order_by(tables.worker.c.name)).all()
        return [WorkerRecord.model_validate_json(row.content) for row in rows]

    def log(self, what: str, **detail: Any) -> None:
        """Take down that something happened.

        Raises
        ------
        ValueError
            If ``what`` is no short text, or ``detail`` cannot be written as JSON.
        """
        content = json.dumps(detail, allow_nan=False)
        with self.database.writing() as connection:
            connection.execute(
                insert(tables.event).values(what=checked_name(what), content=content, created_s=self._now())
            )

    def events(self, since: int = 0) -> list[EventRecord]:
        """Return what happened after the event of that number."""
        table = tables.event
        query = select(table).where(table.c.id > since).order_by(table.c.id)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            EventRecord(id=row.id, what=row.what, detail=json.loads(row.content), created_s=row.created_s)
            for row in rows
        ]
