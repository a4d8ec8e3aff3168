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
from collections.abc import Callable
from math import fsum
from pathlib import Path
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, func, insert, or_, select, update

from controller.labels import tables
from controller.labels.database import Database, insert_new, next_number
from controller.labels.derived import DerivedRecords
from controller.labels.records import (
    Annotator,
    AnswerRecord,
    Counts,
    NewRequest,
    NewSample,
    Request,
    RequestState,
    Role,
    Sample,
    SchemaRecord,
    Split,
    as_key,
    checked_name,
)
from controller.learning.annotations import LabelSchema


class LabelStore(DerivedRecords):
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
        super().__init__(database, now)

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

    def add_schema(self, schema: LabelSchema, *, is_aside: bool = False) -> SchemaRecord:
        """Return the version of a schema, a new one if it was never used before.

        One that is ``is_aside`` belongs to single questions: it becomes no newer than those that are there,
        so that models go on to learn what they learned.
        """
        content = schema.model_dump_json()
        name = _sha256(content)
        table = tables.label_schema
        with self.database.writing() as connection:
            number = next_number(connection, table)
            if is_aside:
                lowest = connection.execute(select(func.min(table.c.number))).scalar()
                number = 0 if lowest is None else min(0, lowest - 1)
            insert_new(
                connection,
                table,
                ["id"],
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
            insert_new(
                connection,
                table,
                ["key"],
                id=_new_id(),
                number=next_number(connection, table),
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
        with self.database.reading() as connection:
            return sample_in(connection, as_key(sample_id))

    def samples(self, session: str | None = None) -> list[Sample]:
        """Return all samples, or those of a session, in the order they were added."""
        query = select(tables.sample).order_by(tables.sample.c.number)
        return self._samples(
            query if session is None else query.where(tables.sample.c.session == as_key(session))
        )

    def split_of(self, session: str, field: str, propose: Callable[[], Split]) -> Split:
        """Return whether a field is learned from or judged by; what was once said holds for ever.

        ``propose`` is called for a field that has none yet. It may read the store, not write to it: nobody
        else decides meanwhile.
        """
        table = tables.split
        key = {"session": checked_name(session), "field": checked_name(field)}
        query = select(table.c.split).where(table.c.session == session, table.c.field == field)
        with self.database.reading() as connection:
            known: Split | None = connection.execute(query).scalar()
        if known is not None:
            return known
        with self.database.writing() as connection:
            known = connection.execute(query).scalar()
            if known is None:
                known = propose()
                if known not in get_args(Split):
                    raise ValueError(f"{known!r} is no split; allowed are {get_args(Split)}")
                connection.execute(insert(table).values(**key, split=known, created_s=self._now()))
        return known

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
        samples = {item.sample_id for item in new.items}
        with self.database.writing() as connection:
            _must_be_there(connection, tables.label_schema, "label schema", {new.schema_id})
            _must_be_there(connection, tables.sample, "sample", samples)
            request_id = _new_id()
            is_new = insert_new(
                connection,
                tables.request,
                ["key"],
                id=request_id,
                number=next_number(connection, tables.request),
                key=new.key,
                kind=new.kind,
                arm=new.arm,
                is_live=new.is_live,
                priority=new.priority,
                state="open",
                content=new.model_dump_json(),
                created_s=self._now(),
            )
            for slot in range(new.annotators if is_new else 0):
                connection.execute(
                    insert(tables.assignment).values(
                        id=_new_id(), request_id=request_id, slot=slot, is_answered=False
                    )
                )
            row = connection.execute(select(tables.request).where(tables.request.c.key == new.key)).one()
        return request_of(row)

    def request(self, request_id: str) -> Request:
        """Return a request; ``KeyError`` if there is none."""
        with self.database.reading() as connection:
            row = connection.execute(
                select(tables.request).where(tables.request.c.id == as_key(request_id))
            ).one_or_none()
        if row is None:
            raise KeyError(f"there is no request {request_id}")
        return request_of(row)

    def requests(self, state: RequestState | None = None) -> list[Request]:
        """Return all requests, or those in one state, the oldest first."""
        query = select(tables.request).order_by(tables.request.c.number)
        if state is not None:
            query = query.where(tables.request.c.state == state)
        with self.database.reading() as connection:
            return [request_of(row) for row in connection.execute(query)]

    def cancel(self, request_id: str) -> bool:
        """Ask nobody else for an answer to a request; return whether it was still open.

        Answers that it has are kept, and so is that of somebody who is at work on it.
        """
        table = tables.request
        with self.database.writing() as connection:
            done = connection.execute(
                update(table)
                .where(table.c.id == as_key(request_id), table.c.state == "open")
                .values(state="cancelled")
            )
        return bool(done.rowcount)

    # People.

    def add_annotator(self, name: str, role: Role = "expert") -> Annotator:
        """Return the annotator of that name, a new one if there is none.

        Raises
        ------
        ValueError
            If there is one in another role, or it is no name.
        """
        table = tables.annotator
        new = Annotator(id=_new_id(), name=name, role=role)
        with self.database.writing() as connection:
            number = next_number(connection, table)
            insert_new(connection, table, ["name"], **dict(new), number=number, created_s=self._now())
            row = connection.execute(select(table).where(table.c.name == name)).one()
        if row.role != role:
            raise ValueError(f"{name!r} is {row.role!r} already, not {role!r}; choose another name")
        return Annotator(id=row.id, name=row.name, role=row.role)

    def annotators(self) -> list[Annotator]:
        """Return everybody, in the order they were added."""
        table = tables.annotator
        with self.database.reading() as connection:
            rows = connection.execute(select(table).order_by(table.c.number)).all()
        return [Annotator(id=row.id, name=row.name, role=row.role) for row in rows]

    def new_token(self, annotator: Annotator) -> str:
        """Return a new secret by which somebody is known; only its checksum is kept."""
        secret = secrets.token_urlsafe(24)
        with self.database.writing() as connection:
            connection.execute(
                insert(tables.token).values(
                    sha256=_sha256(secret), annotator_id=annotator.id, created_s=self._now()
                )
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
                .where(tables.token.c.annotator_id == annotator.id, tables.token.c.revoked_s.is_(None))
                .values(revoked_s=self._now())
            )

    # Answers; controller.labels.queue takes them in.

    def answers(self, *, kept_only: bool = True, since: int = 0) -> list[AnswerRecord]:
        """Return answers in the order they arrived, after the first ``since`` of them.

        With ``kept_only`` those that count: of each person and request the last revision.
        """
        table = tables.answer
        query = select(table.c.content, _is_kept().label("is_kept")).where(table.c.number > since)
        if kept_only:
            query = query.where(_is_kept())
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.number)).all()
        return [
            AnswerRecord.model_validate_json(row.content).model_copy(update={"is_kept": bool(row.is_kept)})
            for row in rows
        ]

    def answered_so_far(self) -> int:
        """Return the number of the newest answer, 0 if there is none."""
        with self.database.reading() as connection:
            return connection.execute(select(func.max(tables.answer.c.number))).scalar() or 0

    # How far it is.

    def counts(self) -> Counts:
        """Return how far labelling is."""
        requests, work, answers = tables.request, tables.assignment, tables.answer
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
            said = connection.execute(
                select(answers.c.told, func.count(), func.sum(answers.c.elapsed_s))
                .where(_is_kept())
                .group_by(answers.c.told)
            ).all()
        by = {(state, bool(live)): count for state, live, count in rows}
        per_class: dict[str, int] = {}
        for told, count, _ in sorted(said):
            for name in json.loads(told):
                per_class[name] = per_class.get(name, 0) + count
        return Counts(
            open_live=by.get(("open", True), 0),
            open_later=by.get(("open", False), 0),
            leased=leased,
            answered=sum(by.get(("answered", live), 0) for live in (True, False)),
            cancelled=sum(by.get(("cancelled", live), 0) for live in (True, False)),
            answers=sum(count for _, count, _ in said),
            answer_s=fsum(seconds for _, _, seconds in said),
            per_class=per_class,
        )

    def _samples(self, query: Select[Any]) -> list[Sample]:
        with self.database.reading() as connection:
            return [_sample(row) for row in connection.execute(query)]


def request_of(row: Any) -> Request:
    """Return a row of the table as a request."""
    new = NewRequest.model_validate_json(row.content)
    return Request(**dict(new), id=row.id, created_s=row.created_s, state=row.state)


def sample_in(connection: Connection, sample_id: str) -> Sample:
    """Return a sample; ``KeyError`` if there is none."""
    row = connection.execute(select(tables.sample).where(tables.sample.c.id == sample_id)).one_or_none()
    if row is None:
        raise KeyError(f"there is no sample {sample_id}")
    return _sample(row)


def schema_in(connection: Connection, schema_id: str) -> LabelSchema:
    """Return a version of the schema; ``KeyError`` if there is none."""
    table = tables.label_schema
    content = connection.execute(select(table.c.content).where(table.c.id == schema_id)).scalar()
    if content is None:
        raise KeyError(f"there is no label schema {schema_id}")
    return LabelSchema.model_validate_json(content)


def _sample(row: Any) -> Sample:
    return Sample(**dict(NewSample.model_validate_json(row.content)), id=row.id, created_s=row.created_s)


def _must_be_there(connection: Connection, table: Table, what: str, ids: set[str]) -> None:
    found = set(connection.execute(select(table.c.id).where(table.c.id.in_(ids))).scalars())
    if ids - found:
        raise KeyError(f"there is no {what} {min(ids - found)}")


def _is_kept() -> ColumnElement[bool]:
    """Return whether an answer counts: an import, or the last revision of the first to its assignment."""
    table, later = tables.answer, tables.answer.alias("later")
    is_replaced = (
        select(later.c.number)
        .where(later.c.assignment_id == table.c.assignment_id, later.c.revision > table.c.revision)
        .exists()
    )
    return or_(table.c.assignment_id.is_(None), and_(table.c.revision.is_not(None), ~is_replaced))


def _new_id() -> str:
    return str(uuid.uuid4())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
