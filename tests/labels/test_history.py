"""Everybody can look back at what they said, change it, and see what is left."""

from __future__ import annotations

import pytest

from controller.labels import history
from controller.labels.queue import LabelQueue
from controller.labels.records import Reply, Submission
from controller.labels.store import LabelStore
from tests.labels.support import FIBER, RING, Watch, ask


def test_what_somebody_said_can_be_looked_at_and_changed(
    store: LabelStore, queue: LabelQueue, watch: Watch
) -> None:
    ada, ben = store.add_annotator("ada"), store.add_annotator("ben")
    for number in range(3):
        ask(store, number, annotators=2, priority=-number)
    later = ask(store, 3, is_live=False)
    assert history.left_for(queue, ada, watch()) == (3, 1)
    assert history.work_of(store, ada) == (0, 0.0)
    assert history.answers_of(store, ada, 10) == []

    said, leases = [], []
    for number in range(2):
        lease = queue.claim(ada)
        assert lease is not None
        assert history.left_for(queue, ada, watch()) == (2 - number, 1)
        assert not history.has_answered(store, ada, lease.id)
        said.append(queue.answer(ada, submission(lease.id, f"k{number}", RING)))
        leases.append(lease.id)
        assert history.has_answered(store, ada, lease.id)
        assert not history.has_answered(store, ben, lease.id)
    watch.time_s += 1000

    lease, counting = history.question_of(store, ada, said[0].id)
    assert (lease.id, lease.request.id, counting) == (leases[0], said[0].request_id, said[0])
    changed = queue.answer(ada, submission(lease.id, "k3", FIBER, revises=counting.id))
    second_tab = queue.answer(ada, submission(lease.id, "k4", RING))
    found = history.answers_of(store, ada, 10)
    assert [answer.id for answer in found] == [second_tab.id, changed.id, said[1].id, said[0].id]
    assert [answer.is_kept for answer in found] == [False, True, True, False]
    assert history.answers_of(store, ada, 2) == found[:2]
    for answer in (said[0], changed, second_tab):
        assert history.question_of(store, ada, answer.id) == (lease, changed)
    assert history.work_of(store, ada) == (2, 8.0)
    assert history.left_for(queue, ada, watch()) == (1, 1)
    assert history.left_for(queue, ben, watch()) == (3, 1)

    declined = queue.claim(ada)
    assert declined is not None
    queue.release(ada, declined.id, declines=True)
    assert history.left_for(queue, ada, watch()) == (0, 1)
    store.cancel(later.id)
    assert history.left_for(queue, ada, watch()) == (0, 0)


def test_nobody_goes_back_to_what_others_said_or_what_nobody_asked(
    store: LabelStore, queue: LabelQueue
) -> None:
    ada, ben = store.add_annotator("ada"), store.add_annotator("ben")
    ask(store)
    lease = queue.claim(ada)
    assert lease is not None
    answer = queue.answer(ada, submission(lease.id, "k", RING))
    imported = queue.take_in(ada, answer.replace(id="from elsewhere", key="i", request_id=None))
    assert [one.is_kept for one in history.answers_of(store, ada, 10)] == [True, True]
    for who, answer_id in ((ben, answer.id), (ada, imported.id), (ada, "unknown")):
        with pytest.raises(KeyError, match="no answer"):
            history.question_of(store, who, answer_id)


def submission(lease_id: str, key: str, reply: Reply, **more: str) -> Submission:
    return Submission(key=key, lease_id=lease_id, reply=reply, elapsed_s=2.0, **more)  # type: ignore[arg-type]
