"""Answers of several people come to one, in versions, and to what a network learns from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from controller.core.decision import QuestionKind
from controller.labels.consensus import Updated, annotator_skills, soft_mask, update_consensus
from controller.labels.queue import LabelQueue
from controller.labels.records import (
    Annotator,
    AnswerRecord,
    NewRequest,
    NewSample,
    Reply,
    RequestItem,
    Roi,
    Sample,
    Submission,
)
from controller.labels.soft_annotations import all_annotations_for_training
from controller.labels.store import LabelStore
from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    Coverage,
    GradesAnnotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    PointsAnnotation,
    PolygonAnnotation,
    Rectangle,
    TagAnnotation,
)
from controller.learning.rasterise import Source, Target, rasterise

SIZE = 24
SCHEMA = LabelSchema(classes=("ring", "fibre"))
UNSURE, NOTHING = Reply(outcome="unsure"), Reply(outcome="nothing here")


def _hurry(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


class Lab:
    """A store with people who answer what they are told to."""

    def __init__(self, folder: Path) -> None:
        self._seconds = itertools.count(1_000.0)
        self.store = LabelStore.open(folder, create=True, now=lambda: next(self._seconds))
        # What is on disk when is tested elsewhere; here it only takes time.
        event.listen(self.store.database._engine, "connect", _hurry)
        self.queue = LabelQueue(self.store, now=lambda: 0.0)
        self.schema = self.store.add_schema(SCHEMA)
        self._numbers = itertools.count()
        self._people: dict[str, Annotator] = {}

    def person(self, name: str) -> Annotator:
        if name not in self._people:
            self._people[name] = self.store.add_annotator(name)
        return self._people[name]

    def sample(self, number: int = 0) -> Sample:
        return self.store.add_sample(
            NewSample(
                session="monday",
                field=f"field {number}",
                uri=f"frames/{number}.tif",
                roi=Roi(y=0, x=0, rows=SIZE, columns=SIZE),
                pixel_size_m=20e-9,
                dtype="uint16",
            )
        )

    def answer(
        self, who: str, sample: Sample, kind: QuestionKind, reply: Reply, *, several: bool = False
    ) -> AnswerRecord:
        number = next(self._numbers)
        request = NewRequest(
            key=f"request {number}",
            kind=kind,
            text="What is it?",
            schema_id=self.schema.id,
            items=(RequestItem(sample_id=sample.id),),
            several=several,
        )
        self.store.add_request(request)
        lease = self.queue.claim(self.person(who))
        assert lease is not None
        assert lease.request.key == request.key
        return self.queue.answer(
            self.person(who), Submission(key=f"{number}", lease_id=lease.id, reply=reply, elapsed_s=1.0)
        )

    def revise(self, who: str, answer: AnswerRecord, lease_id: str, reply: Reply) -> AnswerRecord:
        return self.queue.answer(
            self.person(who),
            Submission(
                key=f"{next(self._numbers)}", lease_id=lease_id, reply=reply, elapsed_s=1.0, revises=answer.id
            ),
        )

    def target(self, sample: Sample) -> Target:
        return rasterise(self.known(sample))

    def known(self, sample: Sample) -> ImageAnnotations:
        return all_annotations_for_training(self.store, [sample])[sample.id].image


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.store.close()


def said(*annotations: Annotation) -> Reply:
    return Reply(annotations=annotations)


def tag(name: str) -> Reply:
    return NOTHING if name == NOTHING_HERE else said(TagAnnotation(present=(name,)))


def square(first: int, size: int, name: str = "ring", coverage: Coverage = "image") -> Annotation:
    """Return a mask of a square object."""
    return MaskAnnotation.from_array(
        np.ones((size, size), np.uint8), origin_yx=(first, first), value_classes=(name,), coverage=coverage
    )


def box(first: int, size: int, name: str = "ring") -> BoxAnnotation:
    low, high = first - 0.5, first + size - 0.5
    extent = Rectangle(y_min=low, x_min=low, y_max=high, x_max=high)
    return BoxAnnotation(class_name=name, extent=extent, coverage="image")


def by_method(updated: Updated) -> dict[str, Any]:
    return {one.method: one for one in updated.new}


def test_one_person_is_trusted_as_stated(lab: Lab) -> None:
    sample = lab.sample()
    answer = lab.answer("a", sample, "tag", tag("fibre"))
    (found,) = update_consensus(lab.store).new
    assert (found.method, found.version, found.inputs) == ("dawid-skene", 1, (answer.id,))
    assert found.names == (NOTHING_HERE, "ring", "fibre")
    assert found.classes == pytest.approx((0.05, 0.05, 0.9))
    assert found.confidence == pytest.approx(0.9)
    target = lab.target(sample)
    assert target.tags.tolist() == [-1, 0, 1]
    assert target.tag_weights[2] == pytest.approx(0.8)


def test_the_same_answers_make_no_new_version_and_another_answer_does(lab: Lab) -> None:
    samples = [lab.sample(number) for number in range(2)]
    lab.answer("a", samples[0], "tag", tag("ring"))
    lab.answer("a", samples[1], "mask", said(square(4, 6)))
    first = update_consensus(lab.store)
    assert {one.version for one in first.new} == {1}
    assert update_consensus(lab.store).new == ()
    lab.answer("b", samples[0], "tag", tag("fibre"))
    (second,) = update_consensus(lab.store).new
    assert (second.sample_id, second.version, len(second.inputs)) == (samples[0].id, 2, 2)
    assert second.classes == pytest.approx((0.05 * 0.05 * 3, 0.4865, 0.4865), abs=0.03)
    assert lab.store.consensus("dawid-skene")[samples[0].id] == second


def test_unsure_is_missing_and_nothing_here_is_a_class(lab: Lab) -> None:
    sample, other = lab.sample(), lab.sample(1)
    lab.answer("a", sample, "tag", UNSURE)
    lab.answer("a", other, "tag", NOTHING)
    (found,) = update_consensus(lab.store).new
    assert found.sample_id == other.id
    assert found.classes[0] == pytest.approx(0.9)
    assert lab.known(sample).annotations == ()
    target = lab.target(other)
    assert (target.classes == 0).all()
    np.testing.assert_allclose(target.weights, 0.8)
    assert target.tags.tolist() == [-1, 0, 0]


def test_where_several_classes_may_be_each_is_judged_by_itself(lab: Lab) -> None:
    sample, graded = lab.sample(), lab.sample(1)
    both = TagAnnotation(present=("ring",), absent=("fibre",))
    lab.answer("a", sample, "tag", said(both), several=True)
    lab.answer("b", sample, "tag", said(TagAnnotation(present=("ring",))), several=True)
    lab.answer("a", graded, "grades", said(GradesAnnotation(grades={"ring": 0.75, "fibre": 0.5})))
    found = {one.sample_id: one for one in update_consensus(lab.store).new}
    ring, fibre = found[sample.id].classes
    assert found[sample.id].method == "dawid-skene each"
    assert ring > 0.95
    assert fibre == pytest.approx(0.1)
    # Half way says nothing, and three quarters less than all.
    assert found[graded.id].names == ("ring",)
    assert found[graded.id].classes[0] == pytest.approx(0.75)
    assert lab.target(graded).tags.tolist() == [-1, 1, -1]


def test_good_annotators_outvote_bad_ones_and_skills_say_who_is_who(lab: Lab) -> None:
    rng = np.random.default_rng(3)
    names = (NOTHING_HERE, *SCHEMA.classes)
    truth = np.arange(15) % 3
    samples = [lab.sample(number) for number in range(len(truth))]
    for who, skill in {"good": 1.0, "fair": 0.9, "bad": 0.3}.items():
        for sample, true in zip(samples, truth, strict=True):
            answer = true if rng.random() < skill else (true + rng.integers(1, 3)) % 3
            lab.answer(who, sample, "tag", tag(names[answer]))
    update_consensus(lab.store)
    found = lab.store.consensus("dawid-skene")
    right = [np.argmax(found[s.id].classes) == true for s, true in zip(samples, truth, strict=True)]
    assert np.mean(right) > 0.9
    judged = {skill.annotator_id: skill for skill in annotator_skills(lab.store)}
    good, fair, bad = (judged[lab.person(who).id] for who in ("good", "fair", "bad"))
    assert good.accuracy is not None
    assert fair.accuracy is not None
    assert bad.accuracy is not None
    assert bad.accuracy < 0.65 < fair.accuracy <= good.accuracy
    assert (good.names, np.shape(good.confusion), good.shared) == (names, (3, 3), 15)


def test_with_too_few_shared_answers_nobody_is_judged(lab: Lab) -> None:
    for number in range(3):
        for who in "ab":
            lab.answer(who, lab.sample(number), "tag", tag("ring"))
    for skill in annotator_skills(lab.store):
        assert (skill.answers, skill.shared, skill.accuracy, skill.confusion) == (3, 3, None, ())


def test_one_persons_mask_is_learned_from_with_its_objects(lab: Lab) -> None:
    sample = lab.sample()
    touching = (square(4, 4), square(8, 4), square(15, 5, "fibre"))
    lab.answer("a", sample, "mask", said(*touching))
    found = by_method(update_consensus(lab.store))
    assert sorted(found) == [f"staple masks: {name}" for name in ("fibre", NOTHING_HERE, "ring")]
    mask = soft_mask(found["staple masks: ring"])
    assert sorted(np.unique(mask).tolist()) == pytest.approx([0.1, 0.9], abs=1 / 255)
    target = lab.target(sample)
    np.testing.assert_array_equal(np.unique(target.classes, return_counts=True)[1], [24**2 - 57, 32, 25])
    assert len(np.unique(target.instances[target.classes == 1])) == 2
    np.testing.assert_allclose(target.weights, 0.8)
    assert (target.sources == Source.AREA).all()


def test_nobody_is_taught_anything_outside_of_what_somebody_looked_at(lab: Lab) -> None:
    sample = lab.sample()
    part = (Rectangle(y_min=-0.5, x_min=-0.5, y_max=11.5, x_max=11.5),)
    lab.answer("a", sample, "mask", said(square(2, 4, coverage=part)))
    lab.answer("b", sample, "polygon", said(square(2, 5, coverage="marks")))
    found = by_method(update_consensus(lab.store))
    mask = soft_mask(found["staple masks: ring"])
    assert np.isfinite(mask[:12, :12]).all()
    assert np.isnan(mask).sum() == SIZE**2 - 144
    target = lab.target(sample)
    outside = np.ones((SIZE, SIZE), np.bool_)
    outside[:12, :12] = False
    assert (target.classes[outside] == -1).all()
    assert (target.weights[outside] == 0).all()
    assert (target.classes[2:6, 2:6] == 1).all()
    # Where one person alone looked, nothing is surer than one person is.
    np.testing.assert_allclose(mask[7:12, 7:12], 0.1, atol=1 / 255)


def test_three_masks_come_to_one_that_weighs_more_where_they_agree(lab: Lab) -> None:
    sample = lab.sample()
    for who, size in (("a", 8), ("b", 10), ("c", 11)):
        lab.answer(who, sample, "mask", said(square(4, size)))
    found = by_method(update_consensus(lab.store))
    mask = soft_mask(found["staple masks: ring"])
    assert (mask[4:12, 4:12] > 0.9).all()
    assert (mask[16:, 16:] < 0.1).all()
    assert 0.5 < found["staple masks: ring"].confidence <= 1
    target = lab.target(sample)
    assert len(np.unique(target.instances[target.instances > 0])) == 1
    assert target.weights[4:12, 4:12].min() >= target.weights[target.classes == 1].min()
    skills = {(s.annotator_id, s.method): s for s in annotator_skills(lab.store)}
    small = skills[lab.person("a").id, "staple masks: ring"]
    large = skills[lab.person("c").id, "staple masks: ring"]
    assert small.sensitivity is not None
    assert large.sensitivity is not None
    assert small.sensitivity < large.sensitivity


def test_boxes_stay_boxes(lab: Lab) -> None:
    sample, empty = lab.sample(), lab.sample(1)
    for who, grow in (("a", 0), ("b", 0), ("c", 1)):
        lab.answer(who, sample, "box", said(box(3, 6 + grow), box(14, 5, "fibre")))
    lab.answer("a", empty, "box", NOTHING)
    update_consensus(lab.store)
    image = lab.known(sample)
    boxes = [a for a in image.annotations if a.kind == "box"]
    assert [(b.class_name, b.extent.y_min, b.extent.y_max) for b in boxes] == [
        ("ring", 2.5, 8.5),
        ("fibre", 13.5, 18.5),
    ]
    assert all(b.weight > 0.5 for b in boxes)
    target = rasterise(image)
    assert target.classes[5, 5] == -1  # a box is not filled
    assert target.classes[0, 0] == 0
    np.testing.assert_allclose(lab.target(empty).weights, 0.8)


def test_points_are_taken_as_given_with_the_weight_of_one_word(lab: Lab) -> None:
    sample = lab.sample()
    points = PointsAnnotation(class_name="ring", points_yx=((3.0, 4.0),))
    lab.answer("a", sample, "points", said(points))
    assert update_consensus(lab.store).new == ()
    (found,) = lab.known(sample).annotations
    assert found.weight == pytest.approx(0.8)
    assert found.replace(weight=1.0) == points


def test_what_was_taken_back_is_no_longer_learned_from(lab: Lab) -> None:
    sample = lab.sample()
    lab.store.add_request(
        NewRequest(
            key="q", kind="mask", text="?", schema_id=lab.schema.id, items=(RequestItem(sample_id=sample.id),)
        )
    )
    lease = lab.queue.claim(lab.person("a"))
    assert lease is not None
    reply = said(square(4, 6))
    first = lab.queue.answer(
        lab.person("a"), Submission(key="first", lease_id=lease.id, reply=reply, elapsed_s=1.0)
    )
    update_consensus(lab.store)
    assert (lab.target(sample).classes == 1).sum() == 36
    second = lab.revise("a", first, lease.id, said(square(4, 6, "fibre")))
    update_consensus(lab.store)
    target = lab.target(sample)
    assert (target.classes == 2).sum() == 36
    assert (target.classes == 1).sum() == 0
    lab.revise("a", second, lease.id, UNSURE)
    update_consensus(lab.store)
    assert lab.known(sample).annotations == ()


def test_the_last_of_two_drawings_of_one_person_counts(lab: Lab) -> None:
    sample = lab.sample()
    lab.answer("a", sample, "mask", said(square(4, 6)))
    update_consensus(lab.store)
    lab.answer("a", sample, "mask", said(square(4, 6, "fibre")))
    update_consensus(lab.store)
    target = lab.target(sample)
    assert [(target.classes == number).sum() for number in (1, 2)] == [0, 36]
    assert (target.sources != Source.EXCLUDED).all()


def test_what_becomes_known_of_people_makes_new_versions_of_what_they_said(lab: Lab) -> None:
    names = (NOTHING_HERE, *SCHEMA.classes)
    disputed = lab.sample(99)
    for who, name in (("a", "ring"), ("b", "fibre")):
        lab.answer(who, disputed, "tag", tag(name))
    (first,) = update_consensus(lab.store).new
    assert first.classes[1] == pytest.approx(first.classes[2])
    for number in range(12):
        for who, shift in (("a", 0), ("b", 1 + number % 2), ("c", 0)):
            lab.answer(who, lab.sample(number), "tag", tag(names[(number + shift) % 3]))
    new = {one.sample_id: one for one in update_consensus(lab.store).new}
    assert (new[disputed.id].version, new[disputed.id].inputs) == (2, first.inputs)
    assert new[disputed.id].classes[1] > 0.8


def test_answers_of_an_older_schema_count_for_the_classes_that_still_are(lab: Lab) -> None:
    ring, nothing = lab.sample(), lab.sample(1)
    lab.answer("a", ring, "tag", tag("ring"))
    lab.answer("a", nothing, "tag", NOTHING)
    update_consensus(lab.store)
    lab.schema = lab.store.add_schema(LabelSchema(classes=("ring", "cluster")))
    found = {one.sample_id: one for one in update_consensus(lab.store).new}
    assert sorted(found) == [ring.id]
    assert found[ring.id].names == (NOTHING_HERE, "ring", "cluster")
    # That nothing is there was not said of clusters.
    assert lab.known(nothing).annotations == ()


def test_answers_that_cannot_be_true_are_left_out_with_the_reason(lab: Lab) -> None:
    sample = lab.sample()
    heap = tuple(box(3, 6 + number % 3) for number in range(20))
    bad = lab.answer("a", sample, "mask", said(*heap, square(12, 5)))
    lab.answer("b", sample, "mask", said(square(12, 5)))
    updated = update_consensus(lab.store)
    assert list(updated.refused) == [bad.id]
    assert "overlap" in updated.refused[bad.id]
    assert by_method(updated)["staple masks: ring"].mask_shape_yx == (SIZE, SIZE)


def test_a_polygon_that_two_people_drew_differently_is_one_object(lab: Lab) -> None:
    sample = lab.sample()
    for who, shift in (("a", 0.0), ("b", 1.0)):
        outline = tuple(
            (y + shift, x + shift) for y, x in ((3.0, 3.0), (3.0, 14.0), (14.0, 14.0), (14.0, 3.0))
        )
        polygon = PolygonAnnotation(class_name="ring", vertices_yx=outline, coverage="image")
        lab.answer(who, sample, "polygon", said(polygon))
    update_consensus(lab.store)
    target = lab.target(sample)
    assert np.unique(target.instances[target.classes == 1]).size == 1


def test_all_samples_are_read_at_once_with_the_versions_they_rest_on(lab: Lab) -> None:
    samples = [lab.sample(number) for number in range(3)]
    lab.answer("a", samples[0], "tag", tag("ring"))
    lab.answer("a", samples[1], "mask", NOTHING)
    update_consensus(lab.store)
    found = all_annotations_for_training(lab.store, samples)
    assert found[samples[0].id].versions == {"dawid-skene": 1}
    assert found[samples[1].id].versions == {f"staple masks: {NOTHING_HERE}": 1}
    assert found[samples[2].id].versions == {}


def test_processes_that_come_to_the_same_version_at_once_do_not_disturb_each_other(lab: Lab) -> None:
    sample = lab.sample()
    lab.answer("a", sample, "tag", tag("ring"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: update_consensus(lab.store).new, range(4)))
    assert sum(len(new) for new in found) == 1
    (first,) = (one for new in found for one in new)
    # One that knew of fewer answers was faster: what it did not know is in the next version.
    lab.answer("b", sample, "tag", tag("fibre"))
    lab.store.add_consensus([first.replace(version=2)])
    (second,) = update_consensus(lab.store).new
    assert (second.version, len(second.inputs)) == (3, 2)


def test_a_store_without_a_schema_has_no_consensus(tmp_path: Path) -> None:
    store = LabelStore.open(tmp_path, create=True)
    assert update_consensus(store).new == ()
    assert annotator_skills(store) == ()
    with pytest.raises(KeyError, match="nothing was asked"):
        all_annotations_for_training(store, [])
    store.close()
