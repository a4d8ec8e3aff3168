"""What the page asks for, as plain functions of a person and a message; they block, so threads run them."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from controller.core.errors import SessionFolderError
from controller.labels import history
from controller.labels.queue import LEASE_S, StaleLeaseError
from controller.labels.records import (
    READ_ONLY,
    Annotator,
    Lease,
    Request,
    RequestItem,
    Sample,
    Submission,
    WorkerRecord,
    told_classes,
)
from controller.web.desk import Desk
from controller.web.messages import IDENTIFIER, NextAsked, ReleaseAsked, RenewAsked, RevisitAsked
from controller.web.pictures import PictureShelf, Sent
from controller.web.refusals import Refusal

_log = logging.getLogger(__name__)

Json = dict[str, Any]

#: Questions whose pictures are gone are passed over; so many in a row mean that the whole folder is.
_GONE_MAX = 3
#: A sample or channel that is not there, or a file that cannot be read as a picture.
_GONE = (KeyError, OSError, ValueError, SessionFolderError)

#: A worker that works gives a sign of life far more often.
LATE_S = 30.0

_MODELS_SHOWN, _EVENTS_SHOWN, _EVENTS_SENT = 20, 20, 500


class Tasks:
    """Everything that people do at a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._pictures = PictureShelf(desk.images, desk.context_px)
        self._status = OnceASecond(self._shared_status, desk.now)
        self._worth = OnceASecond(desk.worth, desk.now)
        self._newest_events: deque[Json] = deque(maxlen=_EVENTS_SHOWN)

    def me(self, who: Annotator) -> Json:
        """Return who somebody is, what is asked of them, and what they can say."""
        plan = self._desk.plan
        return {
            "annotator": {"name": who.name, "role": who.role},
            "may_answer": who.role not in READ_ONLY,
            "plan": None
            if plan is None
            else {
                "question": plan.question,
                "kind": plan.kind,
                "several": plan.several,
                "context_px": plan.context_px,
            },
            "schema": self._newest_schema(),
            "now_s": self._desk.now(),
        }

    def next(self, who: Annotator, asked: NextAsked) -> Json:
        """Return the next question with the facts of its pictures, which are asked for one by one."""
        if asked.instead_of is not None:
            self._desk.queue.release(who, asked.instead_of)
        gone = []
        for _ in range(_GONE_MAX):
            lease = self._desk.queue.claim(who, asked.kinds, live_only=asked.live_only)
            if lease is None:
                return {"task": None}
            try:
                return {"task": self._task(who, lease)}
            except _GONE as error:
                # Given back, it would be the next one again.
                self._desk.queue.release(who, lease.id, declines=True)
                self._desk.store.log("picture gone", request=lease.request.id, why=_said(error)[:500])
                gone.append(_said(error))
        raise Refusal(
            404,
            f"The pictures of {len(gone)} questions in a row cannot be opened ({gone[-1]}). Are the images "
            "still where they were?",
        )

    def answer(self, who: Annotator, submission: Submission) -> Json:
        """Store an answer, and say why it was asked for; before that it would lead."""
        record = self._desk.queue.answer(who, submission)
        why = None
        if record.request_id is not None:
            request = self._desk.store.request(record.request_id)
            why = {
                "arm": request.arm,
                "strategy": request.strategy,
                "score": request.score,
                "reason": request.reason,
                "predicted_class": request.predicted_class,
            }
        return {"answer_id": record.id, "is_kept": record.is_kept, "why": why}

    def renew(self, who: Annotator, asked: RenewAsked) -> Json:
        """Keep a question; one that was answered stays its person's anyway."""
        try:
            return {"until_s": self._desk.queue.renew(who, asked.lease_id)}
        except StaleLeaseError:
            if not history.has_answered(self._desk.store, who, asked.lease_id):
                raise
            return {"until_s": self._desk.now() + LEASE_S}

    def release(self, who: Annotator, asked: ReleaseAsked) -> Json:
        """Give a question back."""
        self._desk.queue.release(who, asked.lease_id, declines=asked.declines)
        return {}

    def revisit(self, who: Annotator, asked: RevisitAsked) -> Json:
        """Return the question of an answer again, with what was said."""
        try:
            lease, answer = history.question_of(self._desk.store, who, asked.answer_id)
            task = self._task(who, lease.replace(until_s=self._desk.now() + LEASE_S))
        except _GONE as error:
            raise Refusal(404, _said(error)) from error
        return {**task, "revises": answer.id, "reply": answer.reply.model_dump(mode="json")}

    def history(self, who: Annotator, limit: int) -> list[Json]:
        """Return somebody's newest answers, the newest first."""
        shown = []
        for answer in history.answers_of(self._desk.store, who, limit):
            asked = answer.request_id
            shown.append(
                {
                    "answer_id": answer.id,
                    "request_id": asked,
                    "kind": answer.kind,
                    "text": "" if asked is None else self._desk.store.request(asked).text,
                    "told": list(told_classes(answer.reply)),
                    "outcome": answer.reply.outcome,
                    "elapsed_s": answer.elapsed_s,
                    "created_s": answer.created_s,
                    "is_kept": answer.is_kept,
                }
            )
        return shown

    def picture(self, sample_id: str, channel: str) -> Sent:
        """Return a picture's pixels."""
        if re.fullmatch(IDENTIFIER, sample_id) is None:
            raise Refusal(404, "There is no such sample.")
        try:
            return self._pictures.picture(self._desk.store.sample(sample_id), channel)
        except _GONE as error:
            raise Refusal(404, _said(error)) from error

    def status(self, who: Annotator) -> Json:
        """Return how far everything is; what is shared is worked out at most once a second."""
        mine = history.work_of(self._desk.store, who)
        return {**self._status(), "mine": {"answers": mine.answers, "seconds": mine.seconds}}

    def events(self, after: int) -> list[Json]:
        """Return what happened after an event, the oldest first."""
        events = self._desk.store.events(since=after)[:_EVENTS_SENT]
        return [event.model_dump(mode="json") for event in events]

    def worth(self) -> Json:
        """Return what the seconds bought."""
        return self._worth()

    def _newest_schema(self) -> Json | None:
        try:
            record = self._desk.store.schema()
        except KeyError:
            return None
        schema = record.label_schema
        return {
            "id": record.id,
            "number": record.number,
            "classes": list(schema.classes),
            "names": list(schema.names),
        }

    def _task(self, who: Annotator, lease: Lease) -> Json:
        """Return a question without its score, strategy and predicted class: they would anchor the answer."""
        desk, request = self._desk, lease.request
        left = history.left_for(desk.queue, who, desk.now())
        return {
            # How long it is still theirs, because the page's clock may be another.
            "lease": {"id": lease.id, "until_s": lease.until_s, "lease_s": lease.until_s - desk.now()},
            "request": {
                "id": request.id,
                "kind": request.kind,
                "text": request.text,
                "several": request.several,
                "schema_id": request.schema_id,
                "is_live": request.is_live,
            },
            "classes": list(desk.store.schema(request.schema_id).label_schema.classes),
            "items": [self._item(request, item) for item in request.items],
            "number": history.work_of(desk.store, who).answers,
            "left": {"live": left.live, "later": left.later},
        }

    def _item(self, request: Request, item: RequestItem) -> Json:
        sample = self._desk.store.sample(item.sample_id)
        channels = self._pictures.channels(sample)
        if not channels:
            raise KeyError(f"there is no picture of sample {sample.id}")
        return {
            "sample_id": sample.id,
            "rows": sample.roi.rows,
            "columns": sample.roi.columns,
            "pixel_size_m": sample.pixel_size_m,
            "values": item.values,
            "channels": [
                _channel(sample.id, name, self._pictures.picture(sample, name)) for name in channels
            ],
            "prefill": self._proposal(request, sample),
        }

    def _proposal(self, request: Request, sample: Sample) -> Json | None:
        if self._desk.propose is None:
            return None
        try:
            proposal = self._desk.propose(request, sample)
        except Exception:  # noqa: BLE001 (a model may raise anything; the question stands without it)
            _log.exception("No proposal for request %s", request.id)
            return None
        return None if proposal is None else proposal.model_dump(mode="json")

    def _shared_status(self) -> Json:
        store, now_s = self._desk.store, self._desk.now()
        last = self._newest_events[-1]["id"] if self._newest_events else 0
        self._newest_events += [event.model_dump(mode="json") for event in store.events(since=last)]
        return {
            "counts": store.counts().model_dump(mode="json"),
            "models": [model.model_dump(mode="json") for model in store.models()[: -_MODELS_SHOWN - 1 : -1]],
            "workers": [_worker(worker, now_s) for worker in store.workers()],
            "session": None,
            "events": list(self._newest_events),
            **self._desk.status(),
        }


class OnceASecond:
    """Works something out at most once a second, however many people look at it.

    Parameters
    ----------
    make, now
        What is worked out, and the time in seconds.
    """

    def __init__(self, make: Callable[[], Json], now: Callable[[], float]) -> None:
        self._make, self._now = make, now
        self._made: tuple[float, Json] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Json:
        """Return it, not older than a second."""
        with self._lock:
            now_s = self._now()
            if self._made is None or not 0 <= now_s - self._made[0] < 1.0:
                self._made = now_s, self._make()
            return self._made[1]


def _channel(sample_id: str, name: str, sent: Sent) -> Json:
    return {
        "name": name,
        "url": f"/api/picture/{quote(sample_id, safe='')}/{quote(name, safe='')}",
        "shape": list(sent.shape_yx),
        "dtype": sent.dtype,
        "origin": list(sent.origin_yx),
        "window": list(sent.window),
    }


def _worker(worker: WorkerRecord, now_s: float) -> Json:
    age_s = max(0.0, now_s - worker.beat_s)
    return {
        "name": worker.name,
        "state": worker.state,
        "message": worker.message,
        "age_s": age_s,
        "is_late": age_s > LATE_S and worker.state in {"working", "idle"},
    }


def _said(error: Exception) -> str:
    # A KeyError shows its text in quotes.
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
