"""What was asked survives, whoever writes when; splits hold for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from controller.labels.queue import LabelQueue
from controller.labels.records import (
    AnswerRecord,
    Consensus,
    Counts,
    Display,
    ModelRecord,
    NewRequest,
    Reply,
    Split,
    WorkerRecord,
)
from controller.labels.store import LabelStore
from controller.learning.annotations import LabelSchema, TagAnnotation
from tests.labels.support import (
    FIBER,
    RING,
    SCHEMA,
    Place,
    Watch,
    add_person,
    ask,
    at_once,
    claimed,
    imported,
    new_sample,
    submission,
)


def test_what_was_stored_is_there_when_the_store_is_opened_again(place: Place, watch: Watch) -> None:
    store = LabelStore.open(place, create=True, now=watch)
    request, person = ask(store, samples=3, arm="random_audit", annotators=2), add_person(store)
    sample = store.add_sample(new_sample(7, acquisition={"dwell_s": 1e-5, "gated": True, "note": "ü"}))
    watch.time_s += 5
    store.log("asked", count=1)
    store.close()
    again = LabelStore.open(place)
    assert again.requests() == [request] == [again.request(request.id)]
    assert again.annotators() == [person]
    assert again.sample(sample.id) == sample
    assert len(again.samples()) == 4
    assert again.schema().label_schema == SCHEMA
    assert [(event.what, event.detail, event.created_s) for event in again.events()] == [
        ("asked", {"count": 1}, 1005.0)
    ]
    again.close()


def test_a_schema_that_was_used_before_is_the_same_version(store: LabelStore) -> None:
    first = store.add_schema(SCHEMA)
    second = store.add_schema(LabelSchema(classes=("ring", "fiber", "blob")))
    assert (first.number, second.number) == (1, 2)
    assert store.add_schema(SCHEMA) == first
    assert store.schemas() == [first, second]
    assert store.schema() == second
    assert store.schema(first.id) == first


def test_the_same_part_of_an_image_is_the_same_sample_and_another_is_another(store: LabelStore) -> None:
    first = store.add_sample(new_sample(0))
    assert store.add_sample(new_sample(0)) == first
    others: list[dict[str, Any]] = [
        {"session": "tuesday"},
        {"uri": "other.zarr"},
        {"channel": "denoised"},
        {"frame_index": 3},
        {"roi": new_sample(1).roi},
    ]
    assert len({first.id} | {store.add_sample(new_sample(0, **changes)).id for changes in others}) == 6
    assert [sample.session for sample in store.samples("tuesday")] == ["tuesday"]


def test_asking_again_with_the_same_key_changes_nothing(store: LabelStore) -> None:
    first = ask(store, annotators=2)
    again = ask(store, annotators=5, text="Something else?")
    assert again == first == store.request(first.id)
    assert store.counts().open_live == 1


def test_a_question_about_what_is_not_there_is_refused_and_not_stored(store: LabelStore) -> None:
    request = ask(store)
    fields = {name: value for name, value in dict(request).items() if name in NewRequest.model_fields}
    new = NewRequest(**fields).replace(key="another")
    with pytest.raises(KeyError, match="no label schema gone"):
        store.add_request(new.replace(schema_id="gone"))
    with pytest.raises(KeyError, match="no sample gone"):
        store.add_request(new.replace(items=({"sample_id": "gone"},)))
    assert store.requests() == [request]


def test_what_is_not_there_is_a_key_error(store: LabelStore) -> None:
    ask(store)
    looks = {
        "sample": store.sample,
        "request": store.request,
        "label schema": store.schema,
        "snapshot": store.snapshot,
    }
    for what, look in looks.items():
        for name in ("gone", "", "nul \0", "half \ud800", "' OR 1=1 --", "x" * 10_000):
            with pytest.raises(KeyError, match=f"there is no {what}"):
                look(name)


def test_a_cancelled_question_is_asked_nobody_and_the_answer_of_who_is_at_it_is_kept(
    store: LabelStore, queue: LabelQueue
) -> None:
    first, second = ask(store, 1, annotators=2), ask(store, 2)
    ada, bob = add_person(store, "ada"), add_person(store, "bob")
    lease = claimed(queue.claim(ada))
    assert store.cancel(first.id)
    assert not store.cancel(first.id)
    assert not store.cancel("nul \0")
    assert store.request(first.id).state == "cancelled"
    assert claimed(queue.claim(bob)).request.id == second.id
    queue.answer(ada, submission(lease))
    assert [answer.request_id for answer in store.answers()] == [first.id]
    assert store.request(first.id).state == "cancelled"


def test_somebody_is_known_by_their_token_until_it_is_revoked(store: LabelStore, watch: Watch) -> None:
    ada, bob = add_person(store, "ada"), add_person(store, "bob", role="reader")
    tokens = [store.new_token(ada), store.new_token(ada), store.new_token(bob)]
    assert [store.annotator_of_token(token) for token in tokens] == [ada, ada, bob]
    assert len(set(tokens)) == 3
    watch.time_s += 1
    store.revoke_tokens(ada)
    assert [store.annotator_of_token(token) for token in tokens] == [None, None, bob]
    for wrong in ("", "nul \0", "half \ud800", tokens[2] + "x", "' OR 1=1 --"):
        assert store.annotator_of_token(wrong) is None


def test_a_token_is_nowhere_in_the_database(store: LabelStore) -> None:
    from controller.labels import tables

    secret = store.new_token(add_person(store))
    with store.database.reading() as connection:
        for table in tables.metadata.sorted_tables:
            assert secret not in str(connection.execute(table.select()).all())


def test_nobody_takes_over_a_name_in_another_role(store: LabelStore) -> None:
    add_person(store, "ada", role="reader")
    with pytest.raises(ValueError, match="'ada' is 'reader' already, not 'admin'; choose another name"):
        add_person(store, "ada", role="admin")
    with pytest.raises(ValueError, match="role"):
        add_person(store, "eve", role="owner")
    assert [person.role for person in store.annotators()] == ["reader"]


def work(number: int = 1, **changes: Any) -> WorkerRecord:
    fields: dict[str, Any] = {
        "name": "trainer",
        "pid": number,
        "state": "working",
        "message": "",
        "beat_s": 0.0,
    }
    return WorkerRecord(**fields | changes)


def test_the_last_sign_of_life_of_each_worker_is_kept_with_its_time(store: LabelStore, watch: Watch) -> None:
    store.beat(work(1))
    watch.time_s += 3
    store.beat(work(2, state="failed", message="out of memory"))
    store.beat(work(3, name="chooser"))
    assert [(w.name, w.pid, w.state, w.beat_s) for w in store.workers()] == [
        ("chooser", 3, "working", 1003.0),
        ("trainer", 2, "failed", 1003.0),
    ]


def test_the_newest_consensus_of_each_sample_is_returned_and_versions_are_never_replaced(
    store: LabelStore,
) -> None:
    request = ask(store, samples=2)
    first, second = (item.sample_id for item in request.items)

    def consensus(sample: str, version: int, method: str = "majority") -> Consensus:
        return Consensus(
            sample_id=sample,
            schema_id=request.schema_id,
            method=method,
            version=version,
            inputs=(),
            confidence=version / 10,
        )

    store.add_consensus([consensus(first, 2), consensus(first, 1), consensus(second, 1)])
    store.add_consensus([consensus(first, 9, "staple")])
    found = store.consensus("majority")
    assert {sample: one.version for sample, one in found.items()} == {first: 2, second: 1}
    late = consensus(first, 2).replace(confidence=0.99)
    assert store.add_consensus([consensus(second, 2), late]) == [consensus(second, 2)]
    assert store.consensus("majority") == {first: found[first], second: consensus(second, 2)}


def test_a_snapshot_is_named_by_its_content(store: LabelStore) -> None:
    first = store.add_snapshot({"answers": ["a", "b"], "weights": {"x": 0.1}})
    assert store.add_snapshot({"weights": {"x": 0.1}, "answers": ["a", "b"]}) == first
    assert store.add_snapshot({"answers": ["b", "a"]}).sha256 != first.sha256
    assert store.snapshot(first.sha256) == first
    with pytest.raises(ValueError, match="JSON compliant"):
        store.add_snapshot({"weight": float("nan")})


def test_models_are_listed_in_the_order_they_were_added(store: LabelStore) -> None:
    for number, verdict in enumerate(("published", "rejected", "published")):
        store.add_model(
            ModelRecord.model_validate(
                {
                    "sha256": "a" * 64,
                    "role": "segmenter",
                    "parent": None,
                    "snapshot_sha256": "b" * 64,
                    "verdict": verdict,
                    "reason": "-",
                    "metrics": {"dice": 0.5},
                    "answers": number,
                    "answer_s": 1.0,
                }
            )
        )
    assert [(model.answers, model.created_s) for model in store.models()] == [(i, 1000.0) for i in range(3)]


def test_counts_follow_what_is_asked_and_answered(store: LabelStore, queue: LabelQueue, watch: Watch) -> None:
    assert store.counts() == Counts(
        open_live=0, open_later=0, leased=0, answered=0, cancelled=0, answers=0, answer_s=0, per_class={}
    )
    ada, bob = add_person(store, "ada"), add_person(store, "bob")
    for number in range(6):
        ask(store, number, is_live=number < 5, priority=-number, annotators=2 if number == 0 else 1)
    replies = [RING, RING, FIBER, Reply(outcome="unsure")]
    for person, key, reply in zip((ada, bob, ada, ada), "abcd", replies, strict=True):
        queue.answer(person, submission(claimed(queue.claim(person)), key, reply))
    claimed(queue.claim(bob))
    store.cancel(ask(store, 6).id)
    expected = Counts(
        open_live=2,
        open_later=1,
        leased=1,
        answered=3,
        cancelled=1,
        answers=4,
        answer_s=6.0,
        per_class={"ambiguous": 1, "fiber": 1, "ring": 2},
    )
    assert store.counts() == expected
    watch.time_s += 1000
    assert store.counts() == expected.replace(leased=0)


# Several processes at once.


def add_everything(place: Place, name: str) -> list[str]:
    """Add the same of everything, and something of one's own; return what it is called."""
    store = LabelStore.open(place)
    found = []
    for number in range(4):
        request = ask(store, number, annotators=3)
        store.add_schema(LabelSchema(classes=(f"{name} {number}",)))
        store.beat(work(number))
        store.log(name, number=number)
        person = add_person(store, f"person {number}")
        snapshot = store.add_snapshot({"number": number})
        split = store.split_of("monday", f"field {number}", lambda: "train" if name == "a" else "held_out")
        found += [
            request.id,
            request.items[0].sample_id,
            request.schema_id,
            person.id,
            snapshot.sha256,
            split,
        ]
    store.close()
    return found


def test_processes_that_add_the_same_at_once_find_the_same(place: Place) -> None:
    LabelStore.open(place, create=True).close()
    first, *others = at_once(add_everything, [(place, name) for name in "abc"])
    assert all(other == first for other in others)
    store = LabelStore.open(place)
    assert (len(store.requests()), len(store.samples()), len(store.annotators())) == (4, 4, 4)
    assert [schema.number for schema in store.schemas()] == list(range(1, 14))
    assert len(store.workers()) == 1
    for name in "abc":
        assert [e.detail["number"] for e in store.events() if e.what == name] == list(range(4))
    from controller.labels import tables

    with store.database.reading() as connection:
        slots = connection.execute(tables.assignment.select()).all()
    assert sorted(row.slot for row in slots) == sorted([0, 1, 2] * 4)
    store.close()


SPLITS: list[Split] = ["train", "held_out"]


def decide_splits(place: Place, seed: int) -> dict[str, Split]:
    store = LabelStore.open(place)
    rng = random.Random(seed)
    said: dict[str, Split] = {}
    for _ in range(3):  # and again, when all is decided
        fields = [f"field {number}" for number in range(12)]
        rng.shuffle(fields)
        for field in fields:
            split = store.split_of("monday", field, lambda: rng.choice(SPLITS))
            assert said.setdefault(field, split) == split
    store.close()
    return said


def test_no_field_changes_its_split_whoever_asks_in_whatever_order(place: Place) -> None:
    LabelStore.open(place, create=True).close()
    first, second = at_once(decide_splits, [(place, 1), (place, 2)])
    assert first == second
    store = LabelStore.open(place)
    assert store.splits() == {("monday", field): split for field, split in first.items()}
    assert len(set(first.values())) == 2
    assert store.split_of("tuesday", "field 0", lambda: "held_out") == "held_out"
    store.close()


def test_a_split_is_proposed_only_where_none_is_and_only_of_the_two(store: LabelStore) -> None:
    assert store.split_of("monday", "field 0", lambda: "held_out") == "held_out"

    def never() -> Split:
        raise AssertionError("proposed again")

    assert store.split_of("monday", "field 0", never) == "held_out"
    with pytest.raises(ValueError, match="'test' is no split; allowed are"):
        store.split_of("monday", "field 1", lambda: "test")  # type: ignore[arg-type, return-value]
    # What proposes may look at what was said.
    assert store.split_of("monday", "field 2", lambda: store.splits()["monday", "field 0"]) == "held_out"
    assert len(store.splits()) == 2


# What somebody hostile, or a broken program, sends.

STORED = [
    "'; DROP TABLE answer; --",
    "<script>alert(1)</script>",
    "ünï cödé 細胞 🔬",
    "%s %(x)s {0} :name ?",
    "tab\t newline\n \x01\x7f",
    "\\x00 \\u0000 \\",
    "x" * 200,
]
REFUSED = ["", "nul \0 inside", "half a pair \ud800", "x" * 201]


@pytest.mark.parametrize("text", STORED)
def test_strange_texts_are_stored_as_they_are(store: LabelStore, queue: LabelQueue, text: str) -> None:
    person = add_person(store, text)
    sample = store.add_sample(new_sample(session=text, field=text, uri=text, microscope=text))
    request = ask(store, key=text, text=text, reason=text, strategy=text, predicted_class=text)
    split = store.split_of(text, text, lambda: "train")
    answer = queue.answer(
        person, submission(claimed(queue.claim(person)), text, client=text, display=Display(lut=text))
    )
    store.log(text, text=text)
    store.beat(work(name=text, message=text))
    assert store.annotators() == [person]
    assert store.samples(text) == [sample]
    assert store.requests()[0].replace(state="open") == request
    assert store.answers() == [answer]
    assert store.splits() == {(text, text): split}
    assert [(event.what, event.detail) for event in store.events()] == [(text, {"text": text})]
    assert [(worker.name, worker.message) for worker in store.workers()] == [(text, text)]
    assert (person.name, sample.session, request.text, answer.client) == (text,) * 4


@pytest.mark.parametrize("text", REFUSED)
def test_texts_that_a_database_cannot_hold_are_refused(store: LabelStore, text: str) -> None:
    ask(store)
    lease = claimed(LabelQueue(store, lambda: 0.0).claim(add_person(store)))
    tries: list[Callable[[], object]] = [
        lambda: add_person(store, text),
        lambda: new_sample(session=text),
        lambda: new_sample(field=text),
        lambda: ask(store, 1, key=text),
        lambda: ask(store, 1, strategy=text),
        lambda: submission(lease, text),
        lambda: submission(lease, client=text),
        lambda: submission(lease, lease_id=text),
        lambda: submission(lease, revises=text),
        lambda: store.split_of(text, "field 0", lambda: "train"),
        lambda: store.split_of("monday", text, lambda: "train"),
        lambda: store.log(text),
        lambda: work(name=text),
    ]
    for attempt in tries:
        with pytest.raises(ValueError, match=r"NUL|nicode|at (least|most)"):
            attempt()
    assert (len(store.annotators()), len(store.requests()), store.splits(), store.events()) == (1, 1, {}, [])


def test_half_a_character_deep_inside_is_refused_and_nothing_is_stored(store: LabelStore) -> None:
    broken: list[dict[str, Any]] = [
        {"note": "\ud800"},
        {"\ud800": [1]},
        {"a": {"b": ["\udfff"]}},
        {"power_w": float("nan")},
        {"set": {1, 2}},
    ]
    for acquisition in broken:
        with pytest.raises(ValueError, match="acquisition"):
            store.add_sample(new_sample(acquisition=acquisition))
    with pytest.raises(ValueError, match="JSON compliant"):
        store.log("what", value=float("inf"))
    assert (store.samples(), store.events()) == ([], [])


def test_an_import_is_taken_in_once_and_refused_if_it_does_not_fit(
    store: LabelStore, queue: LabelQueue
) -> None:
    ada, request = add_person(store), ask(store)
    first, second = imported(ada, request, "1"), imported(ada, request, "2", reply=FIBER)
    blob = Reply(annotations=(TagAnnotation(present=("blob",)),))
    wrong: list[tuple[AnswerRecord, type[Exception], str]] = [
        (first.replace(sample_ids=("gone",)), KeyError, "no sample gone"),
        (first.replace(schema_id="gone"), KeyError, "no label schema gone"),
        (first.replace(annotator_id="bob"), ValueError, "somebody else's; 'ada' sent it"),
        (first.replace(reply=blob), ValueError, "there is no class 'blob'"),
    ]
    for bad, error, message in wrong:
        with pytest.raises(error, match=message):
            queue.take_in(ada, bad)
    assert store.answers(kept_only=False) == []
    assert [queue.take_in(ada, record) for record in (first, second)] == [first, second]
    assert queue.take_in(ada, first.replace(reply=FIBER)) == first
    assert store.answers() == [first, second]
    assert store.answers(since=1) == [second]
    assert store.counts().per_class == {"fiber": 1, "ring": 1}
