"""What one person said, and what is left to ask them."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Select, func, or_, select

from controller.labels import tables
from controller.labels.queue import LabelQueue, of_session
from controller.labels.records import Annotator, AnswerRecord, Lease
from controller.labels.store import LabelStore, request_of


class Work(NamedTuple):
    """Questions that somebody answered, and the seconds that it took, changes of mind among them."""

    answers: int
    seconds: float


class Left(NamedTuple):
    """Questions that somebody could still be asked."""

    live: int
    later: int


def work_of(store: LabelStore, annotator: Annotator) -> Work:
    """Return how much somebody did."""
    table = tables.answer
    query = select(func.count().filter(table.c.revision == 0), func.sum(table.c.elapsed_s)).where(
        table.c.annotator_id == annotator.id
    )
    with store.database.reading() as connection:
        answers, seconds = connection.execute(query).one()
    return Work(answers, seconds or 0.0)


def left_for(queue: LabelQueue, annotator: Annotator, now_s: float) -> Left:
    """Return how many open questions somebody neither has nor had, and would not rather be spared."""
    requests, work, no = tables.request, tables.assignment, tables.declined
    mine = work.alias("mine")
    had = select(mine.c.id).where(
        mine.c.request_id == requests.c.id,
        mine.c.annotator_id == annotator.id,
        or_(mine.c.is_answered, mine.c.lease_until_s > now_s),
    )
    refused = select(no.c.request_id).where(
        no.c.request_id == requests.c.id, no.c.annotator_id == annotator.id
    )
    query = (
        select(requests.c.is_live, func.count())
        .where(requests.c.state == "open", ~had.exists(), ~refused.exists(), *of_session(queue.session))
        .group_by(requests.c.is_live)
    )
    with queue.store.database.reading() as connection:
        count = {bool(row[0]): row[1] for row in connection.execute(query)}
    return Left(live=count.get(True, 0), later=count.get(False, 0))


def answers_of(store: LabelStore, annotator: Annotator, limit: int) -> list[AnswerRecord]:
    """Return the newest answers of somebody, the newest first."""
    table = tables.answer
    query = select(table).where(table.c.annotator_id == annotator.id)
    return _answers(store, query.order_by(table.c.number.desc()).limit(limit))


def question_of(store: LabelStore, annotator: Annotator, answer_id: str) -> tuple[Lease, AnswerRecord]:
    """Return the lease by which somebody may change an answer of theirs, and what counts of it now.

    A question that was answered is nobody else's any more, so its lease holds for ever.

    Raises
    ------
    KeyError
        If there is no such answer of theirs, or nobody had asked for it.
    """
    answers, work, requests = tables.answer, tables.assignment, tables.request
    with store.database.reading() as connection:
        found = connection.execute(
            select(answers.c.assignment_id).where(
                answers.c.id == answer_id, answers.c.annotator_id == annotator.id
            )
        ).scalar()
        row = connection.execute(
            select(work).where(work.c.id == found, work.c.annotator_id == annotator.id)
        ).first()
        if row is None:
            raise KeyError(f"there is no answer {answer_id} of yours to a question that was asked here")
        asked = connection.execute(select(requests).where(requests.c.id == row.request_id)).one()
    newest = select(answers).where(answers.c.assignment_id == row.id, answers.c.revision.is_not(None))
    counting = _answers(store, newest.order_by(answers.c.revision.desc()).limit(1))[0]
    lease = Lease(
        id=row.lease_id,
        assignment_id=row.id,
        request=request_of(asked),
        annotator_id=annotator.id,
        until_s=row.lease_until_s,
    )
    return lease, counting


def has_answered(store: LabelStore, annotator: Annotator, lease_id: str) -> bool:
    """Tell whether somebody answered by this lease, so that it is theirs for good."""
    work = tables.assignment
    query = select(work.c.is_answered).where(work.c.lease_id == lease_id, work.c.annotator_id == annotator.id)
    with store.database.reading() as connection:
        return bool(connection.execute(query).scalar())


def _answers(store: LabelStore, query: Select[Any]) -> list[AnswerRecord]:
    """Return rows of the table as answers, which count if no later one replaced them."""
    table = tables.answer
    with store.database.reading() as connection:
        rows = connection.execute(query).all()
        asked = {row.assignment_id for row in rows if row.assignment_id is not None}
        newest = {
            row.assignment_id: row.revision
            for row in connection.execute(
                select(table.c.assignment_id, func.max(table.c.revision).label("revision"))
                .where(table.c.assignment_id.in_(asked))
                .group_by(table.c.assignment_id)
            )
        }
    found = []
    for row in rows:
        # What was imported belongs to no assignment, and counts.
        is_kept = row.assignment_id is None or (
            row.revision is not None and row.revision == newest[row.assignment_id]
        )
        found.append(AnswerRecord.model_validate_json(row.content).replace(is_kept=is_kept))
    return found
