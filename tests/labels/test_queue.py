"""Each question is answered by as many people as were wanted, once each, whoever comes and goes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from controller.core.errors import RecordingError
from controller.labels import tables
from controller.labels.history import left_for
from controller.labels.queue import LEASE_S, LabelQueue, NotAllowedError, StaleLeaseError
from controller.labels.records import Annotator, AnswerRecord, Lease, Reply
from controller.labels.store import LabelStore
from controller.learning.annotations import TagAnnotation
from tests.labels.support import (
    FIBER,
    RING,
    Place,
    Watch,
    add_person,
    ask,
    at_once,
    claimed,
    imported,
    submission,
)


@pytest.fixture
def ada(store: LabelStore) -> Annotator:
    return add_person(store, "ada")


@pytest.fixture
def bob(store: LabelStore) -> Annotator:
    return add_person(store, "bob")


def test_live_questions_come_first_then_urgent_ones_then_old_ones(
    store: LabelStore, queue: LabelQueue, ada: Annotator
) -> None:
    asked = [
        ask(store, 0, is_live=False, priority=9.0),
        ask(store, 1, priority=0.0),
        ask(store, 2, priority=1.0),
        ask(store, 3, priority=1.0),
        ask(store, 4, is_live=False, priority=10.0),
    ]
    order = [claimed(queue.claim(ada)).request.id for _ in asked]
    assert order == [asked[i].id for i in (2, 3, 1, 4, 0)]
    assert queue.claim(ada) is None


def test_only_the_kinds_and_times_that_were_asked_for_are_given_out(
    store: LabelStore, queue: LabelQueue, ada: Annotator
) -> None:
    box, later = ask(store, 0, kind="box"), ask(store, 1, is_live=False)
    assert queue.claim(ada, ["mask"]) is None
    assert queue.claim(ada, []) is None
    assert queue.claim(ada, ["tag"], live_only=True) is None
    assert claimed(queue.claim(ada, ["tag", "mask"])).request == later
    assert claimed(queue.claim(ada, live_only=True)).request == box


def test_who_may_only_look_is_refused(store: LabelStore, queue: LabelQueue, ada: Annotator) -> None:
    request = ask(store)
    lease, reader = claimed(queue.claim(ada)), add_person(store, "eve", role="reader")
    for attempt in (
        lambda: queue.claim(reader),
        lambda: queue.answer(reader, submission(lease)),
        lambda: queue.take_in(reader, imported(reader, request, "1")),
    ):
        with pytest.raises(NotAllowedError, match="eve may look, but not answer"):
            attempt()
    assert store.answers(kept_only=False) == []


def test_each_person_answers_a_question_once_and_it_is_closed_by_the_last(
    store: LabelStore, queue: LabelQueue, ada: Annotator, bob: Annotator
) -> None:
    request = ask(store, annotators=2)
    first = claimed(queue.claim(ada))
    assert queue.claim(ada) is None  # at work on it
    queue.answer(ada, submission(first))
    assert queue.claim(ada) is None  # has answered it
    assert store.request(request.id).state == "open"
    second = claimed(queue.claim(bob))
    assert second.assignment_id != first.assignment_id
    queue.answer(bob, submission(second, reply=FIBER))
    assert store.request(request.id).state == "answered"
    assert [(a.annotator_id, a.reply) for a in store.answers()] == [(ada.id, RING), (bob.id, FIBER)]
    assert all(answer.request_id == request.id and answer.is_kept for answer in store.answers())


def test_an_answer_says_what_was_asked_how_and_when(
    store: LabelStore, queue: LabelQueue, ada: Annotator, watch: Watch
) -> None:
    request = ask(store, samples=3, arm="random_audit")
    lease = claimed(queue.claim(ada))
    watch.time_s += 7
    sent = submission(
        lease, reply=Reply(chosen=2), elapsed_s=4.5, idle_s=2.0, client="page", prefill_sha256="ab"
    )
    answer = queue.answer(ada, sent)
    assert store.answers() == [answer]
    assert dict(answer) == {
        **{name: value for name, value in dict(sent).items() if name != "lease_id"},
        "id": answer.id,
        "request_id": request.id,
        "sample_ids": tuple(item.sample_id for item in request.items),
        "annotator_id": ada.id,
        "schema_id": request.schema_id,
        "kind": "choice",
        "arm": "random_audit",
        "is_kept": True,
        "created_s": 1007.0,
    }


def test_a_lease_that_ended_counts_until_somebody_else_has_the_question(
    store: LabelStore, queue: LabelQueue, ada: Annotator, bob: Annotator, watch: Watch
) -> None:
    ask(store)
    first = claimed(queue.claim(ada))
    assert first.until_s == 1000.0 + LEASE_S
    watch.time_s = first.until_s - 0.01
    assert queue.claim(bob) is None
    watch.time_s = first.until_s
    assert queue.renew(ada, first.id) == first.until_s + LEASE_S  # nobody has it yet
    assert queue.claim(bob) is None
    watch.time_s += LEASE_S
    second = claimed(queue.claim(bob))
    for attempt in (
        lambda: queue.renew(ada, first.id),
        lambda: queue.answer(ada, submission(first)),
        lambda: queue.answer(ada, submission(second)),  # with somebody else's lease
        lambda: queue.renew(ada, second.id),
        lambda: queue.answer(ada, submission(first, lease_id="never given")),
        lambda: queue.renew(ada, "nul \0"),
    ):
        with pytest.raises(StaleLeaseError, match="no longer yours"):
            attempt()
    queue.release(ada, first.id)  # changes nothing
    queue.release(ada, second.id, declines=True)
    queue.release(ada, "half \ud800")
    assert store.answers(kept_only=False) == []
    assert store.counts().leased == 1
    queue.answer(bob, submission(second))
    assert [answer.annotator_id for answer in store.answers()] == [bob.id]
    with pytest.raises(StaleLeaseError, match="no longer yours"):
        queue.renew(bob, second.id)  # it is answered


def test_an_answer_after_its_lease_ended_counts_if_nobody_else_took_over(
    store: LabelStore, queue: LabelQueue, ada: Annotator, watch: Watch
) -> None:
    ask(store)
    lease = claimed(queue.claim(ada))
    watch.time_s += 10 * LEASE_S
    assert queue.answer(ada, submission(lease)).is_kept
    assert queue.claim(ada) is None


def test_nobody_answers_a_question_twice_through_leases_that_ended(
    store: LabelStore, queue: LabelQueue, ada: Annotator, bob: Annotator, watch: Watch
) -> None:
    ask(store, annotators=2)
    of_bob, old = claimed(queue.claim(bob)), claimed(queue.claim(ada))
    watch.time_s += LEASE_S
    new = claimed(queue.claim(ada))  # the first part, that was bob's
    assert new.assignment_id == of_bob.assignment_id != old.assignment_id
    with pytest.raises(StaleLeaseError, match="no longer yours"):
        queue.answer(ada, submission(old))
    queue.answer(ada, submission(new))
    queue.answer(bob, submission(claimed(queue.claim(bob)), "second"))
    assert sorted(answer.annotator_id for answer in store.answers()) == sorted([ada.id, bob.id])


def test_what_is_given_back_is_asked_again_and_what_is_declined_only_of_others(
    store: LabelStore, queue: LabelQueue, ada: Annotator, bob: Annotator
) -> None:
    request = ask(store)
    queue.release(ada, claimed(queue.claim(ada)).id)
    again = claimed(queue.claim(ada))
    queue.release(ada, again.id, declines=True)
    queue.release(ada, again.id, declines=True)
    assert queue.claim(ada) is None
    assert claimed(queue.claim(bob)).request == request


def test_the_same_key_is_the_same_answer_and_belongs_to_one_question(
    store: LabelStore, queue: LabelQueue, ada: Annotator, bob: Annotator
) -> None:
    ask(store, 0, annotators=2)
    ask(store, 1)
    lease, of_bob = claimed(queue.claim(ada)), claimed(queue.claim(bob))
    first = queue.answer(ada, submission(lease))
    assert queue.answer(ada, submission(lease)) == first
    assert queue.answer(ada, submission(lease, reply=FIBER)) == first
    assert queue.answer(bob, submission(of_bob)).id != first.id  # keys are each person's own
    other = claimed(queue.claim(ada))
    with pytest.raises(ValueError, match="key 'first' belongs to an answer to another question"):
        queue.answer(ada, submission(other))
    assert len(store.answers(kept_only=False)) == 2
    assert queue.answer(ada, submission(other, "second")).is_kept


def test_a_second_answer_to_a_lease_is_evidence_only(
    store: LabelStore, queue: LabelQueue, ada: Annotator
) -> None:
    ask(store)
    lease = claimed(queue.claim(ada))
    first = queue.answer(ada, submission(lease, "1"))
    second = queue.answer(ada, submission(lease, "2", FIBER))
    assert (first.is_kept, second.is_kept) == (True, False)
    assert store.answers() == [first]
    assert store.answers(kept_only=False) == [first, second]
    assert store.counts().per_class == {"ring": 1}
    assert queue.answer(ada, submission(lease, "2", FIBER)) == second


def test_who_goes_back_replaces_the_answer_and_every_version_remains(
    store: LabelStore, queue: LabelQueue, ada: Annotator, bob: Annotator
) -> None:
    ask(store, annotators=2)
    lease, of_bob = claimed(queue.claim(ada)), claimed(queue.claim(bob))
    first = queue.answer(ada, submission(lease, "1"))
    evidence = queue.answer(ada, submission(lease, "2", FIBER))
    second = queue.answer(ada, submission(lease, "3", FIBER, revises=first.id))
    third = queue.answer(ada, submission(lease, "4", Reply(outcome="unsure"), revises=first.id))
    said = store.answers(kept_only=False)
    assert [answer.id for answer in said] == [first.id, evidence.id, second.id, third.id]
    assert [answer.is_kept for answer in said] == [False, False, False, True]
    assert store.answers() == [third]
    assert (store.answers(since=4), store.answered_so_far()) == ([], 4)
    assert store.counts().per_class == {"ambiguous": 1}
    of_bobs = queue.answer(bob, submission(of_bob, "1"))
    for revises in (evidence.id, of_bobs.id, "gone", "' OR 1=1 --"):
        with pytest.raises(ValueError, match=r"there is no answer .* of yours to this question to revise"):
            queue.answer(ada, submission(lease, "5", revises=revises))
    assert len(store.answers(kept_only=False)) == 5


def test_a_first_answer_cannot_replace_another(store: LabelStore, queue: LabelQueue, ada: Annotator) -> None:
    ask(store)
    with pytest.raises(ValueError, match="no answer 'gone' of yours"):
        queue.answer(ada, submission(claimed(queue.claim(ada)), revises="gone"))
    assert (store.answers(kept_only=False), store.counts().open_live) == ([], 1)


def test_a_reply_that_is_no_answer_is_refused_and_the_question_stays(
    store: LabelStore, queue: LabelQueue, ada: Annotator
) -> None:
    ask(store)
    lease = claimed(queue.claim(ada))
    blob = Reply(annotations=(TagAnnotation(present=("blob",)),))
    for reply in (blob, Reply(), Reply(chosen=0), Reply(score=0.5)):
        with pytest.raises(ValueError, match=r"question|no class"):
            queue.answer(ada, submission(lease, reply=reply))
    assert store.answers(kept_only=False) == []
    assert queue.answer(ada, submission(lease)).is_kept


def test_an_unknown_person_cannot_take_a_question(store: LabelStore, queue: LabelQueue) -> None:
    ask(store)
    with pytest.raises(RecordingError, match=r"(?i)foreign key"):
        queue.claim(Annotator(id="gone", name="ghost", role="expert"))
    assert store.counts().leased == 0


# Whatever people do, in whatever order.


class _Rules:
    """Some people, some questions, and everything that may never happen."""

    def __init__(self, store: LabelStore, watch: Watch) -> None:
        self.store, self.watch, self.queue = store, watch, LabelQueue(store, watch, lease_s=10.0)
        self.round = len(store.requests())
        for request in store.requests():  # of the example before
            store.cancel(request.id)
        self.people = [add_person(store, f"{self.round} person {i}") for i in range(3)]
        self.wanted = {
            ask(store, self.round + i, annotators=i + 1, key=f"{self.round} question {i}").id: i + 1
            for i in range(3)
        }
        self.leases: list[Lease] = []
        self.acknowledged: list[AnswerRecord] = []
        self.declined: set[tuple[str, str]] = set()

    def claim(self, person: int) -> None:
        lease = self.queue.claim(self.people[person])
        if lease is not None:
            assert (lease.request.id, lease.annotator_id) not in self.declined
            self.leases.append(lease)

    def answer(self, which: int, key: int) -> None:
        if self.leases:
            lease = self.leases[which % len(self.leases)]
            person = next(person for person in self.people if person.id == lease.annotator_id)
            try:
                answer = self.queue.answer(person, submission(lease, f"{lease.request.id} {key}"))
            except StaleLeaseError:
                return
            if answer not in self.acknowledged:
                self.acknowledged.append(answer)

    def release(self, which: int, declines: bool) -> None:
        if self.leases:
            lease = self.leases[which % len(self.leases)]
            person = next(person for person in self.people if person.id == lease.annotator_id)
            self.queue.release(person, lease.id, declines=declines)

    def check(self) -> None:
        said = [a for a in self.store.answers(kept_only=False) if a.request_id in self.wanted]
        assert [a.id for a in said] == [a.id for a in self.acknowledged]
        kept = Counter((a.request_id, a.annotator_id) for a in said if a.is_kept)
        assert max(kept.values(), default=0) <= 1
        per_request = Counter(request for request, _ in kept)
        for request, wanted in self.wanted.items():
            assert per_request[request] <= wanted
            is_done = per_request[request] == wanted
            assert self.store.request(request).state == ("answered" if is_done else "open")


_step = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 2)),
    st.tuples(st.just("answer"), st.integers(0, 5), st.integers(0, 2)),
    st.tuples(st.just("release"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 10.0])),
)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(_step, min_size=8, max_size=20))
def test_no_order_of_events_gives_one_person_two_answers_or_a_question_too_many(
    store: LabelStore, watch: Watch, steps: list[tuple[str, float, int]]
) -> None:
    rules = _Rules(store, watch)
    for name, *arguments in steps:
        if name == "wait":
            watch.time_s += arguments[0]
        else:
            getattr(rules, name)(*arguments)
    rules.check()


# Several processes at once.


def answer_until_nothing_is_left(place: Place, name: str, seed: int) -> list[str]:
    """Answer all that is given out, sometimes twice, sometimes giving it back; return what was kept."""
    store, rng = LabelStore.open(place), random.Random(seed)
    queue, person, kept = LabelQueue(store, Watch()), add_person(store, name), []
    for number in range(200):
        lease = queue.claim(person)
        if lease is None:
            break
        if rng.random() < 0.2:
            queue.release(person, lease.id)
            continue
        if rng.random() < 0.2:
            queue.renew(person, lease.id)
        answer = queue.answer(person, submission(lease, f"{number}"))
        assert answer.is_kept
        kept.append(answer.id)
    store.close()
    return kept


def test_processes_answer_each_question_as_often_as_wanted_and_each_person_once(place: Place) -> None:
    store = LabelStore.open(place, create=True)
    wanted = {ask(store, i, annotators=1 + i % 3).id: 1 + i % 3 for i in range(9)}
    found = at_once(answer_until_nothing_is_left, [(place, f"person {i}", i) for i in range(3)])
    # A question that is in somebody's hands when the others look is left over; nobody else is at work now.
    found.append(answer_until_nothing_is_left(place, "person 3", 3))
    for number in range(3):
        found.append(answer_until_nothing_is_left(place, f"person {number}", number + 10))
    answers = store.answers(kept_only=False)
    assert sorted(a.id for a in answers) == sorted(number for kept in found for number in kept)
    assert all(answer.is_kept for answer in answers)
    assert Counter(a.request_id for a in answers) == wanted
    assert max(Counter((a.request_id, a.annotator_id) for a in answers).values()) == 1
    assert {request.state for request in store.requests()} == {"answered"}
    with store.database.reading() as connection:
        numbers = connection.execute(select(tables.answer.c.number)).scalars().all()
    assert sorted(numbers) == list(range(1, sum(wanted.values()) + 1))
    store.close()


def claim_all(place: Place) -> list[str]:
    store = LabelStore.open(place)
    queue, person, found = LabelQueue(store, Watch()), add_person(store), []
    while (lease := queue.claim(person)) is not None:
        found.append(lease.request.id)
    store.close()
    return found


def test_somebody_with_several_pages_open_gets_no_question_twice(place: Place) -> None:
    store = LabelStore.open(place, create=True)
    wanted = [ask(store, i, annotators=3).id for i in range(5)]
    found = at_once(claim_all, [(place,)] * 3)
    assert sorted(request for part in found for request in part) == sorted(wanted)
    store.close()


def answer_this(place: Place, lease: Lease, key: str, present: str) -> AnswerRecord:
    store = LabelStore.open(place)
    person = add_person(store)
    reply = Reply(annotations=(TagAnnotation(present=(present,)),))
    answer = LabelQueue(store, Watch()).answer(person, submission(lease, key, reply))
    store.close()
    return answer


@pytest.fixture
def lease(place: Place) -> Iterator[Lease]:
    store = LabelStore.open(place, create=True)
    ask(store)
    yield claimed(LabelQueue(store, Watch()).claim(add_person(store)))
    store.close()


def test_of_answers_to_one_lease_at_once_one_is_kept_and_the_others_are_evidence(
    place: Place, lease: Lease
) -> None:
    found = at_once(answer_this, [(place, lease, f"{i}", "ring" if i % 2 else "fiber") for i in range(4)])
    store = LabelStore.open(place)
    said = store.answers(kept_only=False)
    assert sorted(said, key=lambda a: a.id) == sorted(found, key=lambda a: a.id)
    assert [answer.is_kept for answer in said] == [True, False, False, False]
    assert store.answers() == said[:1]
    assert store.counts().answers == 1
    store.close()


def test_an_answer_that_is_sent_several_times_at_once_is_stored_once(place: Place, lease: Lease) -> None:
    found = at_once(answer_this, [(place, lease, "same", "ring")] * 4)
    store = LabelStore.open(place)
    assert store.answers(kept_only=False) == found[:1]
    assert all(answer == found[0] for answer in found)
    store.close()


def test_of_a_store_of_several_sessions_only_the_questions_of_the_own_one_are_given_out(
    store: LabelStore, ada: Annotator
) -> None:
    other, own = (ask(store, n, key=f"{day}/select/0/0") for n, day in enumerate(("day_1", "day%1")))
    queue = LabelQueue(store, lambda: 0.0, session="day%1")
    assert left_for(queue, ada, 0.0).live == 1
    assert claimed(queue.claim(ada)).request.id == own.id
    assert queue.claim(ada) is None
    assert claimed(LabelQueue(store, lambda: 0.0).claim(ada)).request.id == other.id
