"""What people are asked: nothing twice, chance everywhere, the strategy only where models learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from controller.core.asking import QueryStrategy
from controller.core.errors import ConfigurationError
from controller.labelling.selector import Selector
from controller.labelling.selector_process import SelectorWork, labels_of_weights, strategy_of
from controller.labelling.session_images import SessionImages
from controller.labelling.worth import worth_of
from controller.labels.plan import LabelPlan
from controller.labels.queue import LabelQueue
from controller.labels.records import Annotator, Reply, Request, Submission
from controller.labels.store import LabelStore
from controller.learning.annotations import NOTHING_HERE, TagAnnotation
from controller.recording.reader import SessionReader

PLAN = LabelPlan(classes=("spine", "shaft"), crop_px=32, field_m=2e-6, batch=5, open_max=1000)


def selector_of(reader: SessionReader, folder: Path, plan: LabelPlan = PLAN) -> Selector:
    strategy: QueryStrategy = strategy_of(plan)
    made = Selector(
        LabelStore.open(folder, create=True),
        SessionImages(reader.folder),
        plan,
        strategy,
        session=reader.start.run_id,
        seed=reader.start.seed,
        folder=folder / "labels",
        now=lambda: 0.0,
    )
    made.pool.take_in(reader)
    return made


def told(store: LabelStore, who: Annotator, reply: Reply) -> None:
    """Answer the next question."""
    queue = LabelQueue(store, lambda: 0.0)
    lease = queue.claim(who)
    assert lease is not None
    queue.answer(who, Submission(key=lease.id, lease_id=lease.id, reply=reply, elapsed_s=2.0))


def places(store: LabelStore, requests: list[Request]) -> list[tuple[int | None, int, int]]:
    samples = [store.sample(request.items[0].sample_id) for request in requests]
    return [(sample.frame_index, sample.roi.y, sample.roi.x) for sample in samples]


def test_nothing_is_asked_twice_and_chance_has_its_share(recorded: SessionReader, tmp_path: Path) -> None:
    selector = selector_of(recorded, tmp_path)
    store = LabelStore.open(tmp_path)
    asked = [request for _ in range(8) for request in selector.ask()]
    assert len(asked) == 40
    assert len(set(places(store, asked))) == 40
    arms = [request.arm for request in asked]
    assert arms.count("random_audit") == 8
    assert all(request.predicted_cost_s for request in asked)


def test_the_strategy_asks_only_where_models_learn_and_no_crop_reaches_into_both(
    recorded: SessionReader, tmp_path: Path
) -> None:
    selector = selector_of(recorded, tmp_path)
    store = LabelStore.open(tmp_path)
    asked = [request for _ in range(12) for request in selector.ask()]
    splits = store.splits()
    assert set(splits.values()) == {"train", "held_out"}
    by_arm: dict[str, set[str]] = {"policy": set(), "random_audit": set()}
    for request in asked:
        sample = store.sample(request.items[0].sample_id)
        by_arm[request.arm].add(splits[sample.session, sample.field])
    assert by_arm["policy"] == {"train"}
    assert "held_out" in by_arm["random_audit"]
    for place in selector.pool.places:
        found = {splits[place.sample.session, field] for field in place.fields}
        assert (selector.split_of(place) is None) == (len(found) == 2)


def test_who_starts_again_asks_what_would_have_been_asked(recorded: SessionReader, tmp_path: Path) -> None:
    stores = []
    for name, restarts in (("whole", False), ("killed", True)):
        folder = tmp_path / name
        folder.mkdir()
        selector = selector_of(recorded, folder)
        store = LabelStore.open(folder)
        me = store.add_annotator("me")
        for turn in range(3):
            selector.ask()
            for number in range(5):
                present = ("spine", "shaft")[(turn + number) % 2]
                told(store, me, Reply(annotations=(TagAnnotation(present=(present,)),)))
            if restarts:
                selector = selector_of(recorded, folder)
        selector.ask()
        stores.append(places(store, store.requests()))
    assert sorted(stores[0], key=str) == sorted(stores[1], key=str)


def test_what_people_said_is_known_and_who_was_unsure_said_nothing(
    recorded: SessionReader, tmp_path: Path
) -> None:
    selector = selector_of(recorded, tmp_path)
    store = LabelStore.open(tmp_path)
    me = store.add_annotator("me")
    selector.ask()
    told(store, me, Reply(annotations=(TagAnnotation(present=("shaft",)),)))
    told(store, me, Reply(outcome="nothing here"))
    told(store, me, Reply(outcome="unsure"))
    known = selector.answers.so_far()
    assert sorted(known.targets.argmax(axis=1).tolist()) == [0, 2]
    np.testing.assert_allclose(known.targets.sum(axis=1), 1, rtol=1e-6)
    assert known.answer_s.tolist() == [2.0, 2.0]


def test_there_is_no_room_while_enough_is_open(recorded: SessionReader, tmp_path: Path) -> None:
    selector = selector_of(recorded, tmp_path, PLAN.replace(open_max=5))
    assert len(selector.ask()) == 5
    assert selector.ask() == []
    store = LabelStore.open(tmp_path)
    told(store, store.add_annotator("me"), Reply(outcome="nothing here"))
    assert len(selector.ask()) == 5


def test_attention_is_spent_by_answers_and_by_what_is_open(recorded: SessionReader, tmp_path: Path) -> None:
    selector = selector_of(recorded, tmp_path, PLAN.replace(attention=0.2))
    assert len(selector.ask()) == 5  # five times four seconds are more than a fifth of a minute
    assert selector.ask() == []


def test_what_was_bought_can_be_shown(recorded: SessionReader, tmp_path: Path) -> None:
    selector = selector_of(recorded, tmp_path, PLAN.replace(audit_fraction=0.5))
    store = LabelStore.open(tmp_path)
    me = store.add_annotator("me")
    for _ in range(8):
        selector.ask()
    for number in range(40):
        answer = (Reply(outcome="nothing here"), Reply(annotations=(TagAnnotation(present=("spine",)),)))
        told(store, me, answer[number // 2 % 2])
    rng = np.random.default_rng(0)
    worth = json.loads(
        json.dumps(
            worth_of(store, selector.answers.asked_here(selector.answers.so_far()), PLAN.classes, rng),
            allow_nan=False,
        )
    )
    assert {row["class"] for row in worth["bought"]} >= {NOTHING_HERE, "spine"}
    assert len(worth["curves"]["asked by chance"]) > 1
    assert sum(row["seconds"] for row in worth["bought"]) <= 80.0


def test_a_session_asks_by_itself(recorded: SessionReader, tmp_path: Path) -> None:
    store = LabelStore.open(tmp_path, create=True)
    work = SelectorWork(recorded.folder, store, PLAN, own_folder=tmp_path)
    assert "asked 5" in (work.step() or "")
    assert len(store.requests()) == 5


def test_drawings_are_asked_for_where_something_was_found_once_the_session_has_ended(
    recorded: SessionReader, tmp_path: Path
) -> None:
    store = LabelStore.open(tmp_path, create=True)
    me = store.add_annotator("me")
    work = SelectorWork(recorded.folder, store, PLAN.replace(later_kind="mask"), own_folder=tmp_path)
    work.step()
    told(store, me, Reply(outcome="nothing here"))
    told(store, me, Reply(annotations=(TagAnnotation(present=("spine",)),)))
    for _ in range(2):
        work.step()
    (drawing,) = [request for request in store.requests() if not request.is_live]
    assert (drawing.kind, drawing.text) == ("mask", "Mark with mask: spine")
    answered = [answer for answer in store.answers() if answer.reply.annotations]
    assert [item.sample_id for item in drawing.items] == list(answered[0].sample_ids)


def test_a_strategy_that_is_not_there_or_told_nonsense_is_named() -> None:
    with pytest.raises(ConfigurationError, match="there is no strategy 'cleverest'"):
        strategy_of(PLAN.replace(strategy="cleverest"))
    with pytest.raises(ConfigurationError, match=r"labels\.strategy_options\.nonsense"):
        strategy_of(PLAN.replace(strategy_options={"nonsense": 1}))


def test_the_labels_that_weights_were_published_with_are_found(recorded: SessionReader) -> None:
    def labels(weights: str) -> Path | None:
        experiment = {**recorded.start.experiment, "segmenter": {"options": {"weights": weights}}}
        changes = {"experiment": experiment, "config_folder": "/lab"}
        return labels_of_weights(recorded.start.model_copy(update=changes))

    assert labels("monday/labels/published/0003.safetensors") == Path("/lab/monday/labels")
    assert labels("cells") is None
    assert labels("models/published/0003.safetensors") is None


def test_what_is_open_in_another_session_of_the_same_store_stops_nobody(
    recorded: SessionReader, tmp_path: Path
) -> None:
    plan = PLAN.replace(open_max=5, later_kind="box")
    first = selector_of(recorded, tmp_path, plan)
    assert len(first.ask()) == 5
    assert first.ask() == []
    store = LabelStore.open(tmp_path)
    told(store, store.add_annotator("ada"), Reply(annotations=(TagAnnotation(present=("spine",)),)))
    other = SessionReader(recorded.folder, recorded.documents)
    other.start = recorded.start.model_copy(update={"run_id": "f3a5b0c6-0000-4000-8000-000000000000"})
    second = selector_of(other, tmp_path, plan)
    asked = second.ask()
    assert [request.key for request in asked] == [f"{other.start.run_id}/select/0/{n}" for n in range(5)]
    assert "random_audit" in {request.arm for request in asked}
    assert second.ask_later() == 0
    assert first.ask_later() == 1


def test_what_was_answered_is_encoded_once_and_again_when_the_encoder_has_learned(
    recorded: SessionReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.labelling.pool.PRETRAIN_FROM", 10)
    monkeypatch.setattr("controller.labelling.pool.PRETRAIN_STEPS", 2)
    selector = selector_of(recorded, tmp_path)
    store = LabelStore.open(tmp_path)
    ada = store.add_annotator("ada")
    encode, encoded = selector.pool.encode, list[int]()

    def counted(crops: np.ndarray) -> np.ndarray:
        encoded.append(len(crops))
        return encode(crops)

    monkeypatch.setattr(selector.pool, "encode", counted)
    selector.ask()
    encoded.clear()
    for _ in range(3):
        told(store, ada, Reply(outcome="nothing here"))
        before = selector.answers.so_far()
    assert encoded == [1, 1, 1]
    assert selector.pool.pretrain()
    after = selector.answers.so_far()
    assert encoded == [1, 1, 1, 3]
    assert after.samples == before.samples
    assert not np.allclose(after.features, before.features)
    crops = np.stack([selector.answers._crops[sample] for sample in after.samples])
    np.testing.assert_allclose(after.features, encode(crops), atol=1e-5)
