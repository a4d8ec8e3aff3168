"""Whose turn it is to answer what: leases, answers, and what becomes of two answers to one lease."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from controller.core.decision import QuestionKind
from controller.core.errors import StedfastError
from controller.labels import tables
from controller.labels.records import (
    READ_ONLY,
    Annotator,
    AnswerRecord,
    Lease,
    Reply,
    Request,
    Submission,
    check_reply,
)
from controller.labels.store import LabelStore, request_of

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
    """

    def __init__(self, store: LabelStore, now: Callable[[], float], lease_s: float = LEASE_S) -> None:
        self.store, self._now, self._lease_s = store, now, lease_s

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
        requests, work, no = tables.request, tables.assignment, tables.declined
        now = self._now()
        other = work.alias("other")
        taken_part = (
            select(other.c.id)
            .where(
                other.c.request_id == work.c.request_id,
                other.c.annotator_id == annotator.id,
                or_(other.c.is_answered, other.c.lease_until_s > now),
            )
            .exists()
        )
        refused = (
            select(no.c.request_id)
            .where(no.c.request_id == work.c.request_id, no.c.annotator_id == annotator.id)
            .exists()
        )
        conditions = [
            requests.c.state == "open",
            ~work.c.is_answered,
            or_(work.c.lease_until_s.is_(None), work.c.lease_until_s <= now),
            ~taken_part,
            ~refused,
        ]
        if kinds is not None:
            conditions.append(requests.c.kind.in_(list(kinds)))
        if live_only:
            conditions.append(requests.c.is_live)
        query = (
            select(work.c.id, requests)
            .join(requests, requests.c.id == work.c.request_id)
            .where(and_(*conditions))
            .order_by(
                requests.c.is_live.desc(),
                requests.c.priority.desc(),
                requests.c.created_s,
                work.c.slot,
                work.c.id,
            )
            .limit(1)
        )
        if self.store.database.is_postgresql:
            query = query.with_for_update(skip_locked=True, of=work)
        lease, until_s = str(uuid.uuid4()), now + self._lease_s
        with self.store.database.writing() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None
            connection.execute(
                update(work)
                .where(work.c.id == row[0])
                .values(annotator_id=annotator.id, lease_id=lease, lease_until_s=until_s)
            )
            request = _request(connection, row[1])
        return Lease(
            id=lease, assignment_id=row[0], request=request, annotator_id=annotator.id, until_s=until_s
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
                    work.c.lease_id == lease_id,
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
                    work.c.lease_id == lease_id, work.c.annotator_id == annotator.id, ~work.c.is_answered
                )
            ).first()
            if row is None:
                return
            connection.execute(update(work).where(work.c.id == row.id).values(lease_until_s=self._now()))
            if declines:
                key = {"request_id": row.request_id, "annotator_id": annotator.id}
                if connection.execute(_declined(key)).first() is None:
                    connection.execute(insert(tables.declined).values(**key, created_s=self._now()))

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
            If the reply does not answer the question; nothing is stored.
        """
        self._must_answer(annotator)
        work, answers = tables.assignment, tables.answer
        with self.store.database.writing() as connection:
            earlier = connection.execute(
                select(answers).where(answers.c.annotator_id == annotator.id, answers.c.key == submission.key)
            ).first()
            if earlier is not None:
                return AnswerRecord.model_validate_json(earlier.content)
            query = select(work).where(work.c.lease_id == submission.lease_id)
            if self.store.database.is_postgresql:
                query = query.with_for_update()  # two answers to one lease come one after the other
            row = connection.execute(query).first()
            if row is None or row.annotator_id != annotator.id:
                raise StaleLeaseError(
                    "this question is no longer yours: its lease ended and somebody else has it; nothing was "
                    "stored, ask for the next one"
                )
            request = _request(connection, row.request_id)
            self._check(request, submission.reply)
            revision = self._revision(connection, annotator, row.id, submission)
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
        """Take in an answer that nobody was asked for here, from an import; the same key is the same answer."""
        answers = tables.answer
        with self.store.database.writing() as connection:
            earlier = connection.execute(
                select(answers).where(answers.c.annotator_id == annotator.id, answers.c.key == record.key)
            ).first()
            if earlier is not None:
                return AnswerRecord.model_validate_json(earlier.content)
            _insert(connection, record, assignment_id=None, revision=None)
        return record

    def _must_answer(self, annotator: Annotator) -> None:
        if annotator.role in READ_ONLY:
            raise NotAllowedError(f"{annotator.name} may look, but not answer (role {annotator.role!r})")

    def _check(self, request: Request, reply: Reply) -> None:
        sample = self.store.sample(request.items[0].sample_id)
        schema = self.store.schema(request.schema_id).label_schema
        check_reply(request, schema, sample.roi.shape_yx, reply)

    def _revision(
        self, connection: Connection, annotator: Annotator, assignment: str, submission: Submission
    ) -> int | None:
        """Return which revision of its assignment's answer this is; ``None`` if it came second."""
        answers = tables.answer
        newest: int | None = connection.execute(
            select(func.max(answers.c.revision)).where(answers.c.assignment_id == assignment)
        ).scalar()
        if newest is None:
            return 0
        if submission.revises is None:
            return None
        revised = connection.execute(
            select(answers).where(
                answers.c.id == submission.revises,
                answers.c.annotator_id == annotator.id,
                answers.c.assignment_id == assignment,
            )
        ).first()
        if revised is None or revised.revision is None:
            raise ValueError(f"there is no answer {submission.revises!r} of yours to this question to revise")
        return newest + 1


def _request(connection: Connection, request_id: str) -> Request:
    row = connection.execute(select(tables.request).where(tables.request.c.id == request_id)).one()
    return request_of(row)


def _declined(key: dict[str, str]) -> Any:
    no = tables.declined
    return select(no).where(no.c.request_id == key["request_id"], no.c.annotator_id == key["annotator_id"])


def _insert(
    connection: Connection, record: AnswerRecord, *, assignment_id: str | None, revision: int | None
) -> None:
    connection.execute(
        insert(tables.answer).values(
            id=record.id,
            key=record.key,
            assignment_id=assignment_id,
            revision=revision,
            annotator_id=record.annotator_id,
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
