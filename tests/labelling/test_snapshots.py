"""What is learned from and what judges never meet, and the same answers are the same snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("torch")

from controller.labelling.snapshots import answers_in, collect
from controller.labels.records import Reply
from controller.learning.annotations import NOTHING_HERE, GradesAnnotation, PointsAnnotation, TagAnnotation
from tests.labelling.answered import Answered, discs, painted


def test_no_field_that_judges_is_learned_from_however_its_samples_are_asked(tmp_path: Path) -> None:
    answered = Answered(tmp_path)
    for number in range(24):
        photons, labels = discs(number)
        answered.answer(answered.sample(f"field {number % 8}", photons), painted(labels))
    material = collect(answered.store, 0.5)
    assert material is not None
    learned, judges = ({item.sample.field for item in part} for part in (material.learned, material.judges))
    assert learned
    assert judges
    assert learned & judges == set()
    assert len(material.learned) + len(material.judges) == 24
    again = collect(answered.store, 0.01)
    assert again is not None
    assert again.content() == material.content(), "a split is locked once and for ever"


def test_the_same_answers_are_the_same_snapshot_and_another_answer_is_not(tmp_path: Path) -> None:
    answered = Answered(tmp_path)
    answered.masks(range(6), "train")
    one, other = collect(answered.store, 0.25), collect(answered.store, 0.25)
    assert one is not None
    assert other is not None
    names = {answered.store.add_snapshot(material.content()).sha256 for material in (one, other)}
    assert len(names) == 1
    answered.masks([7], "train")
    more = collect(answered.store, 0.25)
    assert more is not None
    assert answered.store.add_snapshot(more.content()).sha256 not in names
    assert answers_in(one.content()) < answers_in(more.content())


def test_answers_that_teach_nothing_are_in_the_snapshot_too(tmp_path: Path) -> None:
    # Otherwise they would be new for ever, and the trainer would never rest.
    answered = Answered(tmp_path)
    photons, labels = discs(1)
    unsure = answered.answer(answered.sample("a", photons), Reply(outcome="unsure"))
    answered.split("b", "held_out")
    liked = answered.answer(answered.sample("b", photons), painted(labels), arm="policy")
    kept = answered.answer(answered.sample("c", photons), painted(labels))
    material = collect(answered.store, 0.25)
    assert material is not None
    assert set(material.passed_over) == {unsure.id, liked.id}
    assert answers_in(material.content()) == {unsure.id, liked.id, kept.id}
    assert [item.answers for item in material.items] == [(kept.id,)]
    assert material.answers == 1


@pytest.mark.parametrize(
    ("reply", "kind", "outcomes"),
    [
        (Reply(outcome="nothing here"), "tag", {NOTHING_HERE}),
        (Reply(annotations=(TagAnnotation(present=("disc",)),)), "tag", {"disc"}),
        (Reply(annotations=(GradesAnnotation(grades={"disc": 1.0}),)), "grades", {"disc"}),
        (Reply(annotations=(GradesAnnotation(grades={"disc": 0.0}),)), "grades", {NOTHING_HERE}),
        (painted(discs(1)[1]), "mask", {"disc", NOTHING_HERE}),
        (painted(discs(1)[1], coverage="marks"), "mask", {"disc"}),
        (
            Reply(annotations=(PointsAnnotation(class_name="disc", points_yx=((3.0, 3.0),)),)),
            "points",
            {"disc"},
        ),
    ],
)
def test_an_answer_is_about_the_outcomes_that_it_tells(
    tmp_path: Path, reply: Reply, kind: str, outcomes: set[str]
) -> None:
    answered = Answered(tmp_path)
    answered.answer(answered.sample("a"), reply, kind)
    material = collect(answered.store, 0.25)
    assert material is not None
    (item,) = material.items
    assert item.outcomes == outcomes


def test_without_anything_to_ask_there_is_nothing_to_learn(tmp_path: Path) -> None:
    from controller.labels.store import LabelStore

    assert collect(LabelStore.open(tmp_path, create=True), 0.25) is None


@pytest.mark.parametrize("arm", ["policy", "session"])
def test_what_somebody_liked_to_ask_judges_nothing(tmp_path: Path, arm: str) -> None:
    answered = Answered(tmp_path)
    answered.masks([1], "held_out", arm=arm)
    answered.masks([2], "train", arm=arm)
    material = collect(answered.store, 0.25)
    assert material is not None
    assert [item.sample.field for item in material.items] == ["train 2"]


@pytest.mark.parametrize(
    ("field", "is_learned"),
    [("1,1", True), ("1,1 + 1,2", True), ("1,2 + 1,3", False), ("1,3", False), ("many fields", False)],
)
def test_a_question_of_the_session_is_learned_from_only_where_nothing_judges(
    tmp_path: Path, field: str, is_learned: bool
) -> None:
    answered = Answered(tmp_path)
    for name, split in (("1,1", "train"), ("1,2", "train"), ("1,3", "held_out")):
        answered.split(name, split)
    photons, labels = discs(1)
    answered.answer(answered.sample(field, photons, frame_index=7), painted(labels), arm="session")
    material = collect(answered.store, 0.25)
    assert material is not None
    assert len(material.learned) == is_learned
    assert material.judges == ()
    assert set(answered.store.splits()) == {("monday", name) for name in ("1,1", "1,2", "1,3")}


def test_only_answers_whose_images_are_here_are_learned_from(tmp_path: Path) -> None:
    answered = Answered(tmp_path)
    photons, labels = discs(1)
    for field, about in (
        ("1,1", {"session": "monday", "frame_index": 1}),
        ("1,2", {"session": "tuesday", "frame_index": 1}),
        ("cells.tif", {"session": "import cells"}),
    ):
        answered.answer(answered.sample(field, photons, **about), painted(labels))
    material = collect(answered.store, 0.25, "tuesday")
    assert material is not None
    assert {item.sample.field for item in material.items} == {"1,2", "cells.tif"}
    assert material.passed_over == ()
