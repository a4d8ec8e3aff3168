"""Whose turn it is to answer what: leases, answers, and what becomes of two answers to one lease."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, insert, or_, select, update

from controller.core.decision import QuestionKind
from controller.core.errors import StedfastError
from controller.labels import tables
from controller.labels.database import insert_new, next_number
from controller.labels.records import (
    READ_ONLY,
    Annotator,
    AnswerRecord,
    Lease,
    Reply,
    Request,
    Submission,
    as_key,
    check_reply,
    told_classes,
)
from controller.labels.store import LabelStore, request_of, sample_in, schema_in
from controller.learning.annotations import ImageAnnotations

#: A dead tab gives its question back after this; a living one renews its lease.
LEASE_S = 120.0


class StaleLeaseError(StedfastError):
    """A lease has ended, and somebody else has the question now; or there never was one."""


class NotAllowedError(StedfastError):
    """Somebody may look, but not answer."""


class LabelQueue:
    """Gives out questions and takes in answers.

    Parameters
    ----------
    store
        What it works on.
    now
        Seconds since 1970, UTC.
    lease_s
        How long a question belongs to whoever asked for it.
    session
        Only its questions are given out: a lab's store holds those of other sessions, whose images are
        elsewhere. All without it.
    """

    def __init__(
        self,
        store: LabelStore,
        now: Callable[[], float],
        lease_s: float = LEASE_S,
        *,
        session: str | None = None,
    ) -> None:
        self.store, self._now, self._lease_s = store, now, lease_s
        self.session = session

    def claim(
        self, annotator: Annotator, kinds: Sequence[QuestionKind] | None = None, *, live_only: bool = False
    ) -> Lease | None:
        """Return the next question for somebody, the most urgent and then the oldest; ``None`` without any.

        Nobody gets the same question twice, nor one that others are at work on.

        Raises
        ------
        NotAllowedError
            If this person may only look.
        """
        self._must_answer(annotator)
        work, now = tables.assignment, self._now()
        conditions: list[ColumnElement[bool]] = []
        if kinds is not None:
            conditions.append(tables.request.c.kind.in_(list(kinds)))
        if live_only:
            conditions.append(tables.request.c.is_live)
        conditions += of_session(self.session)
        lease, until_s = str(uuid.uuid4()), now + self._lease_s
        with self.store.database.writing() as connection:
            row = connection.execute(_next(annotator, now).where(*conditions)).first()
            if row is None:
                return None
            # An ended lease of theirs on another part of the same question: nobody answers one twice.
            connection.execute(
                update(work)
                .where(work.c.request_id == row.id, work.c.annotator_id == annotator.id)
                .values(annotator_id=None, lease_id=None, lease_until_s=None)
            )
            connection.execute(
                update(work)
                .where(work.c.id == row.assignment_id)
                .values(annotator_id=annotator.id, lease_id=lease, lease_until_s=until_s)
            )
        return Lease(
            id=lease,
            assignment_id=row.assignment_id,
            request=request_of(row),
            annotator_id=annotator.id,
            until_s=until_s,
        )

    def renew(self, annotator: Annotator, lease_id: str) -> float:
        """Hold on to a question; return until when.

        Raises
        ------
        StaleLeaseError
            If somebody else has it by now.
        """
        work, until_s = tables.assignment, self._now() + self._lease_s
        with self.store.database.writing() as connection:
            done = connection.execute(
                update(work)
                .where(
                    work.c.lease_id == as_key(lease_id),
                    work.c.annotator_id == annotator.id,
                    ~work.c.is_answered,
                )
                .values(lease_until_s=until_s)
            )
        if not done.rowcount:
            raise StaleLeaseError("this question is no longer yours: its lease ended; ask for the next one")
        return until_s

    def release(self, annotator: Annotator, lease_id: str, *, declines: bool = False) -> None:
        """Give a question back at once; ``declines`` never asks this person again."""
        work = tables.assignment
        with self.store.database.writing() as connection:
            row = connection.execute(
                select(work).where(
                    work.c.lease_id == as_key(lease_id),
                    work.c.annotator_id == annotator.id,
                    ~work.c.is_answered,
                )
            ).first()
            if row is None:
                return
            connection.execute(update(work).where(work.c.id == row.id).values(lease_until_s=self._now()))
            if declines:
                key = {"request_id": row.request_id, "annotator_id": annotator.id}
                insert_new(connection, tables.declined, list(key), **key, created_s=self._now())

    def answer(self, annotator: Annotator, submission: Submission) -> AnswerRecord:
        """Take in an answer; it is on disk when this returns.

        Of two answers to one lease the first is the answer, the other is kept as evidence
        (``is_kept`` is false). The same ``key`` again returns what was stored then. A lease that has
        ended counts as long as nobody else has the question.

        Raises
        ------
        StaleLeaseError
            If the lease is unknown, or somebody else has the question by now; nothing is stored.
        NotAllowedError
            If this person may only look.
        ValueError
            If the reply does not answer the question, or the key belongs to an answer to another one;
            nothing is stored.
        """
        self._must_answer(annotator)
        work = tables.assignment
        with self.store.database.writing() as connection:
            earlier = _stored(connection, annotator, submission.key)
            row = connection.execute(select(work).where(work.c.lease_id == submission.lease_id)).first()
            if earlier is not None:
                if row is not None and row.request_id != earlier.request_id:
                    raise ValueError(
                        f"the key {submission.key!r} belongs to an answer to another question; each answer "
                        f"needs a key of its own"
                    )
                return earlier
            if row is None or row.annotator_id != annotator.id:
                raise StaleLeaseError(
                    "this question is no longer yours: its lease ended and it was given out again; nothing "
                    "was stored, ask for the next one"
                )
            request = _request(connection, row.request_id)
            _check(connection, request, submission.reply)
            revision = _revision(connection, row.id, submission.revises)
            record = AnswerRecord(
                id=str(uuid.uuid4()),
                request_id=request.id,
                sample_ids=tuple(item.sample_id for item in request.items),
                annotator_id=annotator.id,
                schema_id=request.schema_id,
                kind=request.kind,
                arm=request.arm,
                is_kept=revision is not None,
                created_s=self._now(),
                **{name: value for name, value in dict(submission).items() if name != "lease_id"},
            )
            _insert(connection, record, assignment_id=row.id, revision=revision)
            connection.execute(update(work).where(work.c.id == row.id).values(is_answered=True))
            _close_if_done(connection, request.id)
        return record

    def take_in(self, annotator: Annotator, record: AnswerRecord) -> AnswerRecord:
        """Take in an answer that nobody was asked for here, from an import.

        The same ``key`` again returns what was stored then.

        Raises
        ------
        NotAllowedError
            If this person may only look.
        KeyError
            If there is no such schema or sample.
        ValueError
            If the answer is somebody else's, or does not fit its sample.
        """
        self._must_answer(annotator)
        if record.annotator_id != annotator.id:
            raise ValueError(f"answer {record.key!r} is somebody else's; {annotator.name!r} sent it")
        with self.store.database.writing() as connection:
            earlier = _stored(connection, annotator, record.key)
            if earlier is not None:
                return earlier
            _check_import(connection, record)
            taken = record.replace(is_kept=True)
            _insert(connection, taken, assignment_id=None, revision=None)
        return taken

    def _must_answer(self, annotator: Annotator) -> None:
        if annotator.role in READ_ONLY:
            raise NotAllowedError(f"{annotator.name} may look, but not answer (role {annotator.role!r})")


def of_session(session: str | None) -> list[ColumnElement[bool]]:
    """Return the conditions on a request to be one of a session: its key begins with it."""
    if session is None:
        return []
    return [tables.request.c.key.startswith(f"{session}/", autoescape=True)]


def _next(annotator: Annotator, now_s: float) -> Select[Any]:
    """Return the query for a request that somebody can be asked, and which part of it."""
    requests, work, no = tables.request, tables.assignment, tables.declined
    other = work.alias("other")
    takes_part = (
        select(other.c.id)
        .where(
            other.c.request_id == work.c.request_id,
            other.c.annotator_id == annotator.id,
            or_(other.c.is_answered, other.c.lease_until_s > now_s),
        )
        .exists()
    )
    declined = (
        select(no.c.request_id)
        .where(no.c.request_id == work.c.request_id, no.c.annotator_id == annotator.id)
        .exists()
    )
    return (
        select(work.c.id.label("assignment_id"), requests)
        .join(requests, requests.c.id == work.c.request_id)
        .where(
            requests.c.state == "open",
            ~work.c.is_answered,
            or_(work.c.lease_until_s.is_(None), work.c.lease_until_s <= now_s),
            ~takes_part,
            ~declined,
        )
        .order_by(
            requests.c.is_live.desc(),
            requests.c.priority.desc(),
            requests.c.number,
            work.c.slot,
        )
        .limit(1)
    )


def _request(connection: Connection, request_id: str) -> Request:
    row = connection.execute(select(tables.request).where(tables.request.c.id == request_id)).one()
    return request_of(row)


def _stored(connection: Connection, annotator: Annotator, key: str) -> AnswerRecord | None:
    """Return the answer that somebody has sent under a key, as it was stored."""
    answers = tables.answer
    content = connection.execute(
        select(answers.c.content).where(answers.c.annotator_id == annotator.id, answers.c.key == key)
    ).scalar()
    return None if content is None else AnswerRecord.model_validate_json(content)


def _check(connection: Connection, request: Request, reply: Reply) -> None:
    schema = schema_in(connection, request.schema_id)
    check_reply(request, schema, sample_in(connection, request.items[0].sample_id).roi.shape_yx, reply)


def _check_import(connection: Connection, record: AnswerRecord) -> None:
    schema = schema_in(connection, record.schema_id)
    for sample_id in record.sample_ids:
        shape_yx = sample_in(connection, sample_id).roi.shape_yx
        ImageAnnotations(shape_yx=shape_yx, label_schema=schema, annotations=record.reply.annotations)


def _revision(connection: Connection, assignment_id: str, revises: str | None) -> int | None:
    """Return which revision of its assignment's answer this is; ``None`` if it came second."""
    answers = tables.answer
    revisions: dict[str, int | None] = {
        row.id: row.revision
        for row in connection.execute(
            select(answers.c.id, answers.c.revision).where(answers.c.assignment_id == assignment_id)
        )
    }
    if revises is None:
        return None if revisions else 0
    if revisions.get(revises) is None:
        raise ValueError(f"there is no answer {revises!r} of yours to this question to revise")
    return 1 + max(revision for revision in revisions.values() if revision is not None)


def _insert(
    connection: Connection, record: AnswerRecord, *, assignment_id: str | None, revision: int | None
) -> None:
    connection.execute(
        insert(tables.answer).values(
            number=next_number(connection, tables.answer),
            id=record.id,
            key=record.key,
            assignment_id=assignment_id,
            revision=revision,
            annotator_id=record.annotator_id,
            told=json.dumps(told_classes(record.reply)),
            elapsed_s=record.elapsed_s,
            content=record.model_dump_json(),
            created_s=record.created_s,
        )
    )
    for position, sample_id in enumerate(record.sample_ids):
        connection.execute(
            insert(tables.answer_sample).values(answer_id=record.id, position=position, sample_id=sample_id)
        )


def _close_if_done(connection: Connection, request_id: str) -> None:
    work, requests = tables.assignment, tables.request
    left = connection.execute(
        select(func.count()).where(work.c.request_id == request_id, ~work.c.is_answered)
    ).scalar_one()
    if not left:
        connection.execute(update(requests).where(requests.c.id == request_id).values(state="answered"))
