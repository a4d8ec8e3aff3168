"""The label store: who was asked what, what they answered, and what was made of it.

Answers are only ever added. Each question and each answer is on disk when the method returns, so a killed
process loses nothing that was acknowledged; several processes may work on one store.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, func, insert, select, update

from controller.core.settings import Settings
from controller.labels import tables
from controller.labels.database import Database
from controller.labels.records import (
    Annotator,
    AnswerRecord,
    Consensus,
    Counts,
    EventRecord,
    ModelRecord,
    NewRequest,
    NewSample,
    Request,
    Role,
    Sample,
    SchemaRecord,
    Snapshot,
    Split,
    WorkerRecord,
    told_classes,
)
from controller.learning.annotations import LabelSchema

R = TypeVar("R", bound=Settings)


class LabelStore:
    """All that is known of the labels of a session, or of a lab's sessions.

    Parameters
    ----------
    database
        Where it is kept; :meth:`open` opens one.
    now
        Seconds since 1970, UTC.

    Raises
    ------
    RecordingError
        By any method, if the database fails; nothing is stored then.
    """

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self.database, self._now = database, now

    @classmethod
    def open(
        cls, where: Path | str, *, create: bool = False, now: Callable[[], float] = time.time
    ) -> LabelStore:
        """Open the store of a folder, or the one at a database's URL; see :meth:`Database.open`."""
        return cls(Database.open(where, create=create), now)

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    # What can be said, and about what.

    def add_schema(self, schema: LabelSchema) -> SchemaRecord:
        """Return the version of a schema, a new one if it was never used before."""
        content = schema.model_dump_json()
        name = hashlib.sha256(content.encode()).hexdigest()
        with self.database.writing() as connection:
            number = 1 + (connection.execute(select(func.max(tables.label_schema.c.number))).scalar() or 0)
            if not _is_there(connection, tables.label_schema, id=name):
                _add(
                    connection,
                    tables.label_schema,
                    id=name,
                    number=number,
                    content=content,
                    created_s=self._now(),
                )
        return self.schema(name)

    def schema(self, schema_id: str | None = None) -> SchemaRecord:
        """Return a version of the schema, the newest without an id.

        Raises
        ------
        KeyError
            If there is none.
        """
        schemas = self.schemas()
        for record in reversed(schemas):
            if schema_id is None or record.id == schema_id:
                return record
        raise KeyError(f"there is no label schema {schema_id or ''}".strip())

    def schemas(self) -> list[SchemaRecord]:
        """Return all versions, the oldest first."""
        table = tables.label_schema
        with self.database.reading() as connection:
            rows = connection.execute(select(table).order_by(table.c.number)).all()
        return [
            SchemaRecord(
                id=row.id, number=row.number, label_schema=LabelSchema.model_validate_json(row.content)
            )
            for row in rows
        ]

    def add_sample(self, new: NewSample) -> Sample:
        """Return the sample of an image's part; the same part again is the same sample."""
        content = new.model_dump_json()
        place = [new.session, new.uri, new.channel, new.frame_index, new.roi.model_dump()]
        key = hashlib.sha256(json.dumps(place).encode()).hexdigest()
        table = tables.sample
        with self.database.writing() as connection:
            if not _is_there(connection, table, key=key):
                _add(
                    connection,
                    table,
                    id=_new_id(),
                    key=key,
                    session=new.session,
                    field=new.field,
                    content=content,
                    created_s=self._now(),
                )
            row = connection.execute(select(table).where(table.c.key == key)).one()
        return _sample(row)

    def sample(self, sample_id: str) -> Sample:
        """Return a sample; ``KeyError`` if there is none."""
        found = self._samples(select(tables.sample).where(tables.sample.c.id == sample_id))
        if not found:
            raise KeyError(f"there is no sample {sample_id}")
        return found[0]

    def samples(self, session: str | None = None) -> list[Sample]:
        """Return all samples, or those of a session, in the order they were added."""
        query = select(tables.sample).order_by(tables.sample.c.created_s, tables.sample.c.id)
        return self._samples(query if session is None else query.where(tables.sample.c.session == session))

    def split_of(self, session: str, field: str, propose: Callable[[], Split]) -> Split:
        """Return whether a field is learned from or judged by; what was once said holds for ever."""
        table = tables.split
        key = {"session": session, "field": field}
        with self.database.writing() as connection:
            if not _is_there(connection, table, **key):
                _add(connection, table, **key, split=propose(), created_s=self._now())
            found: Split = connection.execute(_where(select(table.c.split), table, key)).scalar_one()
        return found

    def splits(self) -> dict[tuple[str, str], Split]:
        """Return the split of each ``(session, field)`` that has one."""
        with self.database.reading() as connection:
            rows = connection.execute(select(tables.split)).all()
        return {(row.session, row.field): row.split for row in rows}

    # Asking.

    def add_request(self, new: NewRequest) -> Request:
        """Ask; the same ``key`` again changes nothing and returns what there is.

        Raises
        ------
        KeyError
            If there is no such schema or sample.
        """
        self.schema(new.schema_id)
        for item in new.items:
            self.sample(item.sample_id)
        with self.database.writing() as connection:
            if not _is_there(connection, tables.request, key=new.key):
                number = _new_id()
                _add(
                    connection,
                    tables.request,
                    id=number,
                    key=new.key,
                    kind=new.kind,
                    arm=new.arm,
                    is_live=new.is_live,
                    priority=new.priority,
                    state="open",
                    content=new.model_dump_json(),
                    created_s=self._now(),
                )
                for slot in range(new.annotators):
                    _add(
                        connection,
                        tables.assignment,
                        id=_new_id(),
                        request_id=number,
                        slot=slot,
                        is_answered=False,
                    )
            row = connection.execute(select(tables.request).where(tables.request.c.key == new.key)).one()
        return request_of(row)

    def request(self, request_id: str) -> Request:
        """Return a request; ``KeyError`` if there is none."""
        with self.database.reading() as connection:
            row = connection.execute(
                select(tables.request).where(tables.request.c.id == request_id)
            ).one_or_none()
        if row is None:
            raise KeyError(f"there is no request {request_id}")
        return request_of(row)

    def requests(self) -> list[Request]:
        """Return all requests, the oldest first."""
        query = select(tables.request).order_by(tables.request.c.created_s, tables.request.c.id)
        with self.database.reading() as connection:
            return [request_of(row) for row in connection.execute(query)]

    def cancel(self, request_id: str) -> bool:
        """Take back a request that nobody has answered; return whether there was anything to take back."""
        table = tables.request
        with self.database.writing() as connection:
            done = connection.execute(
                update(table)
                .where(table.c.id == request_id, table.c.state == "open")
                .values(state="cancelled")
            )
        return bool(done.rowcount)

    # People.

    def add_annotator(self, name: str, role: Role = "expert") -> Annotator:
        """Return the annotator of that name, a new one if there is none.

        Raises
        ------
        ValueError
            If there is one in another role.
        """
        table = tables.annotator
        with self.database.writing() as connection:
            if not _is_there(connection, table, name=name):
                _add(connection, table, id=_new_id(), name=name, role=role, created_s=self._now())
            row = connection.execute(select(table).where(table.c.name == name)).one()
        if row.role != role:
            raise ValueError(f"{name!r} is {row.role!r} already, not {role!r}; choose another name")
        return Annotator(id=row.id, name=row.name, role=row.role)

    def annotators(self) -> list[Annotator]:
        """Return everybody, in the order they were added."""
        table = tables.annotator
        with self.database.reading() as connection:
            rows = connection.execute(select(table).order_by(table.c.created_s, table.c.id)).all()
        return [Annotator(id=row.id, name=row.name, role=row.role) for row in rows]

    def new_token(self, annotator: Annotator) -> str:
        """Return a new secret by which somebody is known; only its checksum is kept."""
        secret = secrets.token_urlsafe(24)
        with self.database.writing() as connection:
            _add(
                connection,
                tables.token,
                sha256=_sha256(secret),
                annotator_id=annotator.id,
                created_s=self._now(),
            )
        return secret

    def annotator_of_token(self, secret: str) -> Annotator | None:
        """Return who a secret belongs to, ``None`` if nobody."""
        people, keys = tables.annotator, tables.token
        query = (
            select(people)
            .join(keys, keys.c.annotator_id == people.c.id)
            .where(keys.c.sha256 == _sha256(secret), keys.c.revoked_s.is_(None))
        )
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Annotator(id=row.id, name=row.name, role=row.role)

    def revoke_tokens(self, annotator: Annotator) -> None:
        """Make all secrets of a person worthless."""
        with self.database.writing() as connection:
            connection.execute(
                update(tables.token)
                .where(tables.token.c.annotator_id == annotator.id)
                .values(revoked_s=self._now())
            )

    # Answers; controller.labels.queue takes them in.

    def answers(self, *, kept_only: bool = True, since: int = 0) -> list[AnswerRecord]:
        """Return answers in the order they arrived, after the first ``since`` of them.

        With ``kept_only`` those that count: of each person and request the last revision.
        """
        table = tables.answer
        newest = (
            select(table.c.assignment_id, func.max(table.c.revision).label("revision"))
            .where(table.c.assignment_id.is_not(None))
            .group_by(table.c.assignment_id)
        )
        with self.database.reading() as connection:
            last = {row.assignment_id: row.revision for row in connection.execute(newest)}
            rows = connection.execute(
                select(table).where(table.c.number > since).order_by(table.c.number)
            ).all()
        found = []
        for row in rows:
            # What was imported belongs to no assignment, and counts.
            is_kept = row.assignment_id is None or (
                row.revision is not None and row.revision == last.get(row.assignment_id)
            )
            if is_kept or not kept_only:
                found.append(AnswerRecord.model_validate_json(row.content).replace(is_kept=is_kept))
        return found

    def answered_so_far(self) -> int:
        """Return the number of the newest answer, 0 if there is none."""
        with self.database.reading() as connection:
            return connection.execute(select(func.max(tables.answer.c.number))).scalar() or 0

    # What is derived.

    def add_consensus(self, found: Iterable[Consensus]) -> None:
        """Add consensus, with the versions that they carry."""
        with self.database.writing() as connection:
            for one in found:
                _add(
                    connection,
                    tables.consensus,
                    sample_id=one.sample_id,
                    method=one.method,
                    version=one.version,
                    content=one.model_dump_json(),
                    created_s=self._now(),
                )

    def consensus(self, method: str) -> dict[str, Consensus]:
        """Return the newest consensus of each sample by a method."""
        table = tables.consensus
        query = select(table).where(table.c.method == method).order_by(table.c.version)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return {row.sample_id: Consensus.model_validate_json(row.content) for row in rows}

    def add_snapshot(self, content: dict[str, Any]) -> Snapshot:
        """Return the snapshot of a content; the same content is the same snapshot."""
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        name = _sha256(text)
        table = tables.snapshot
        with self.database.writing() as connection:
            if not _is_there(connection, table, sha256=name):
                _add(connection, table, sha256=name, content=text, created_s=self._now())
            row = connection.execute(select(table).where(table.c.sha256 == name)).one()
        return Snapshot(sha256=name, created_s=row.created_s, content=json.loads(row.content))

    def snapshot(self, sha256: str) -> Snapshot:
        """Return a snapshot; ``KeyError`` if there is none of that name."""
        table = tables.snapshot
        with self.database.reading() as connection:
            row = connection.execute(select(table).where(table.c.sha256 == sha256)).one_or_none()
        if row is None:
            raise KeyError(f"there is no snapshot {sha256}")
        return Snapshot(sha256=row.sha256, created_s=row.created_s, content=json.loads(row.content))

    def add_model(self, model: ModelRecord) -> None:
        """Add a model that was trained, published or rejected."""
        self._log(tables.model, model, sha256=model.sha256, role=model.role)

    def models(self) -> list[ModelRecord]:
        """Return all models, the oldest first."""
        with self.database.reading() as connection:
            rows = connection.execute(select(tables.model).order_by(tables.model.c.number)).all()
        return [ModelRecord.model_validate_json(row.content).replace(created_s=row.created_s) for row in rows]

    # What goes on.

    def beat(self, worker: WorkerRecord) -> None:
        """Take down a worker's sign of life."""
        table = tables.worker
        content = worker.replace(beat_s=self._now()).model_dump_json()
        with self.database.writing() as connection:
            if _is_there(connection, table, name=worker.name):
                connection.execute(update(table).where(table.c.name == worker.name).values(content=content))
            else:
                _add(connection, table, name=worker.name, content=content)

    def workers(self) -> list[WorkerRecord]:
        """Return the last sign of life of each worker."""
        with self.database.reading() as connection:
            rows = connection.execute(select(tables.worker).order_by(tables.worker.c.name)).all()
        return [WorkerRecord.model_validate_json(row.content) for row in rows]

    def log(self, what: str, **detail: Any) -> None:
        """Take down that something happened."""
        content = json.dumps(detail, allow_nan=False)
        with self.database.writing() as connection:
            _add(connection, tables.event, what=what, content=content, created_s=self._now())

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

    def counts(self) -> Counts:
        """Return how far labelling is."""
        requests, work = tables.request, tables.assignment
        with self.database.reading() as connection:
            rows = connection.execute(
                select(requests.c.state, requests.c.is_live, func.count()).group_by(
                    requests.c.state, requests.c.is_live
                )
            ).all()
            leased = connection.execute(
                select(func.count())
                .select_from(work.join(requests))
                .where(requests.c.state == "open", ~work.c.is_answered, work.c.lease_until_s > self._now())
            ).scalar_one()
        by = {(state, bool(live)): count for state, live, count in rows}
        kept = self.answers()
        per_class: dict[str, int] = {}
        for answer in kept:
            for name in told_classes(answer.reply):
                per_class[name] = per_class.get(name, 0) + 1
        return Counts(
            open_live=by.get(("open", True), 0),
            open_later=by.get(("open", False), 0),
            leased=leased,
            answered=sum(by.get(("answered", live), 0) for live in (True, False)),
            cancelled=sum(by.get(("cancelled", live), 0) for live in (True, False)),
            answers=len(kept),
            answer_s=sum(answer.elapsed_s for answer in kept),
            per_class=per_class,
        )

    def _samples(self, query: Select[Any]) -> list[Sample]:
        with self.database.reading() as connection:
            return [_sample(row) for row in connection.execute(query)]

    def _log(self, table: Table, record: Settings, **columns: Any) -> None:
        with self.database.writing() as connection:
            _add(connection, table, content=record.model_dump_json(), created_s=self._now(), **columns)


def request_of(row: Any) -> Request:
    """Return a row of the table as a request."""
    new = NewRequest.model_validate_json(row.content)
    return Request(**dict(new), id=row.id, created_s=row.created_s, state=row.state)


def _sample(row: Any) -> Sample:
    return Sample(**dict(NewSample.model_validate_json(row.content)), id=row.id, created_s=row.created_s)


def _add(connection: Connection, table: Table, **values: Any) -> None:
    connection.execute(insert(table).values(**values))


def _is_there(connection: Connection, table: Table, **key: Any) -> bool:
    query = _where(select(func.count()).select_from(table), table, key)
    return bool(connection.execute(query).scalar())


def _where(query: Select[Any], table: Table, key: dict[str, Any]) -> Select[Any]:
    for column, value in key.items():
        query = query.where(table.c[column] == value)
    return query


def _new_id() -> str:
    return str(uuid.uuid4())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
