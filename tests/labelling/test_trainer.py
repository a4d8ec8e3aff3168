"""A trainer waits for enough answers, publishes what is not worse, and starts again where it was killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sqlalchemy")

from controller.core.errors import RecordingError, StedfastError
from controller.labelling import trainer as training
from controller.labelling.snapshots import collect
from controller.labels.records import ModelRecord, Reply
from controller.learning.annotations import LabelSchema, TagAnnotation
from controller.networks.weights import Weights, pack, read_weights
from controller.segmentation.network_options import ARCHITECTURE, options_of
from controller.segmentation.published import path_of, published_numbers
from controller.segmentation.training import Trained
from tests.labelling.answered import Answered, discs, fresh, painted

LEARNED, JUDGES = range(100, 112), range(9)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answered, ModelRecord]:
    """A store with painted discs, and the first model that was trained from them."""
    answered = Answered(tmp_path_factory.mktemp("first"))
    answered.masks(LEARNED, "train")
    answered.masks(JUDGES, "held_out")
    record = answered.trainer(steps=40).look()
    assert record is not None
    return answered, record


def published(answered: Answered) -> Weights:
    folder = answered.folder / "labels" / "published"
    return read_weights(path_of(folder, published_numbers(folder)[-1]))


def state(answered: Answered) -> tuple[str, str]:
    (worker,) = answered.store.workers()
    return worker.state, worker.message


def test_a_model_that_finds_more_on_fields_it_never_saw_is_published_with_its_card(
    first: tuple[Answered, ModelRecord],
) -> None:
    answered, record = first
    metrics = record.metrics
    assert record.verdict == "published", record.reason
    assert metrics["f1"] > 0.7
    assert metrics["f1_before"] < 0.3
    assert metrics["dice"] > metrics["dice_before"]
    assert (metrics["samples"], metrics["samples_held_out"], record.answers) == (12, 9, 21)
    assert record.answer_s == pytest.approx(21 * 3.0)
    assert metrics["training_s"] > 0
    card = published(answered).card
    assert card.sha256 == record.sha256
    assert card.parent == record.parent == fresh().sha256
    assert card.metrics == metrics
    assert card.training["snapshot"] == record.snapshot_sha256
    assert card.training["published"] == 1
    assert answered.store.models() == [record.replace(created_s=answered.now_s)]
    assert state(answered)[1].startswith("the last model was published")


def test_the_same_answers_and_steps_give_the_same_bits(
    first: tuple[Answered, ModelRecord], tmp_path: Path
) -> None:
    answered, _ = first
    material = collect(answered.store, 0.25)
    assert material is not None
    found = []
    for name in "ab":
        trainer = answered.trainer(steps=3)
        trainer.beginning = training.Beginning(
            fresh(), trainer.beginning.options, tmp_path / name, seed=7, steps=3
        )
        found.append(trainer._learn(material).sha256)
    assert found[0] == found[1]
    trainer.beginning = training.Beginning(
        fresh(), trainer.beginning.options, tmp_path / "c", seed=8, steps=3
    )
    assert trainer._learn(material).sha256 != found[0]


def test_the_next_model_is_trained_from_the_last_one_on_all_answers(tmp_path: Path) -> None:
    answered = Answered(tmp_path)
    answered.masks(LEARNED, "train")
    answered.masks(JUDGES, "held_out")
    trainer = answered.trainer(steps=10)
    one = trainer.look()
    assert one is not None
    assert one.verdict == "published", one.reason
    assert trainer.look() is None, "nobody has answered since"
    answered.masks([200, 201, 202], "train")
    assert trainer.look() is None
    assert "3 new answers" in state(answered)[1]
    answered.masks([203], "train")
    other = trainer.look()
    assert other is not None
    assert (other.parent, other.metrics["samples"]) == (one.sha256, 16)
    assert answered.store.snapshot(one.snapshot_sha256).content != (
        answered.store.snapshot(other.snapshot_sha256).content
    )


def _nobody(answered: Answered) -> None: ...


def _few(answered: Answered) -> None:
    answered.masks(range(3), "train")


def _no_judges(answered: Answered) -> None:
    answered.masks(range(12), "train")
    answered.masks(range(7), "held_out")


def _judges_alike(answered: Answered) -> None:
    answered.masks(range(6), "train")
    answered.tags([0, 3, 6, 9, 12, 15, 18, 21, 24], "held_out")


def _judges_that_a_strategy_liked(answered: Answered) -> None:
    answered.masks(range(6), "train")
    answered.masks(range(12), "held_out", arm="policy")


def _only_judges(answered: Answered) -> None:
    answered.masks(range(12), "held_out")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (_nobody, "0 new answers; training begins at 4"),
        (_few, "3 new answers; training begins at 4"),
        (_no_judges, "7 about 2 kind(s) of outcome"),
        (_judges_alike, "9 about 1 kind(s) of outcome"),
        (_judges_that_a_strategy_liked, "0 about 0 kind(s) of outcome"),
        (_only_judges, "0 samples to learn from"),
    ],
)
def test_with_too_few_answers_it_says_what_is_missing_and_waits(
    tmp_path: Path, answer: object, told: str
) -> None:
    answered = Answered(tmp_path)
    assert callable(answer)
    answer(answered)
    assert answered.trainer().look() is None
    assert state(answered)[0] == "idle"
    assert told in state(answered)[1]
    assert answered.store.models() == []


def test_a_worse_model_is_rejected_with_the_reason_and_is_not_trained_again(
    first: tuple[Answered, ModelRecord], tmp_path: Path
) -> None:
    good = published(first[0])
    answered = Answered(tmp_path)
    answered.masks(JUDGES, "held_out")
    for number in LEARNED:  # somebody who paints what is none
        photons, labels = discs(number)
        answered.split(f"train {number}", "train")
        answered.answer(
            answered.sample(f"train {number}", photons), painted(np.asarray(labels == 0, np.int32))
        )
    trainer = answered.trainer(good, steps=10)
    record = trainer.look()
    assert record is not None
    assert record.verdict == "rejected"
    assert record.reason.startswith("worse: F1")
    assert record.metrics["f1"] < record.metrics["f1_before"]
    assert published_numbers(answered.folder / "labels" / "published") == []
    assert [model.verdict for model in answered.store.models()] == ["rejected"]
    assert trainer.look() is None
    again = answered.trainer(good, steps=10)
    assert again.look() is None, "another trainer would make the same"
    assert "0 new answers" in state(answered)[1]


def test_tags_alone_teach_what_is_there_and_leave_the_finding_of_objects_as_it_was(tmp_path: Path) -> None:
    answered = Answered(tmp_path)
    answered.tags(range(300, 312), "train")
    answered.tags(range(9), "held_out")
    record = answered.trainer(steps=12).look()
    assert record is not None
    assert {"f1", "dice"} & record.metrics.keys() == set()
    assert record.metrics["log_loss"] < record.metrics["log_loss_before"]
    assert record.verdict == "published", record.reason
    assert "tags say what, not where" in record.reason
    before, after = fresh().tensors(), published(answered).tensors()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"leave.weight", "leave.bias"}
    shared = {name: (before[name][-8:], after[name][-8:]) for name in changed}  # depth and centres
    assert all(np.array_equal(*pair) for pair in shared.values())


def test_tags_that_would_cost_a_model_its_objects_are_no_reason_to_publish(
    first: tuple[Answered, ModelRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Answered(tmp_path)
    answered.tags(range(300, 312), "train")
    answered.tags(range(9), "held_out")
    blind = fresh().card.options

    def forget(*_: object, **__: object) -> Trained:
        tensors = published(first[0]).tensors()
        tensors["leave.bias"] = tensors["leave.bias"] - np.float32(20)
        return Trained(pack(tensors, architecture=ARCHITECTURE, options=blind), ())

    monkeypatch.setattr(training, "train", forget)
    record = answered.trainer(published(first[0]), steps=2).look()
    assert record is not None
    assert record.verdict == "rejected"
    assert record.metrics["objects_kept"] == 0.0
    assert "draw some, too" in record.reason


def test_rare_classes_are_shown_more_often_and_that_is_said(tmp_path: Path) -> None:
    answered = Answered(tmp_path, LabelSchema(classes=("disc", "ring")))
    answered.masks(JUDGES, "held_out")
    for number in range(100, 108):
        photons, _ = discs(number)
        answered.split(f"train {number}", "train")
        said = Reply(annotations=(TagAnnotation(present=("ring" if number == 100 else "disc",)),))
        answered.answer(answered.sample(f"train {number}", photons), said, "tag")
    record = answered.trainer(steps=3).look()
    assert record is not None
    assert record.metrics["oversampling"] == 0.5
    assert "because rare: ring" in record.reason


def test_a_network_of_other_classes_is_given_those_of_the_schema(
    first: tuple[Answered, ModelRecord],
) -> None:
    answered, _ = first
    trainer = answered.trainer(fresh(classes=("background", "object")), steps=3)
    trainer.beginning = training.Beginning(
        fresh(classes=("background", "object")), trainer.beginning.options, answered.folder / "none", steps=3
    )
    parent, start = trainer._parent(answered.schema.label_schema)
    assert options_of(parent.card).classes == ("background", "object")
    assert options_of(start.card).classes == ("background", "disc")


def test_a_trainer_that_was_killed_loses_a_training_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Answered(tmp_path)
    answered.masks(LEARNED, "train")
    answered.masks(JUDGES, "held_out")

    class KilledError(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(training, "publish", kill)
        with pytest.raises(KilledError):
            answered.trainer(steps=5).look()
    assert answered.store.models() == []
    with monkeypatch.context() as patched:
        patched.setattr(answered.store, "add_model", kill)
        with pytest.raises(KilledError):
            answered.trainer(steps=5).look()
    sha256 = published(answered).sha256
    assert answered.store.models() == [], "it was published, but nobody knows of it"
    answered.trainer(steps=5).run(lambda _: True)
    (record,) = answered.store.models()
    assert (record.sha256, record.verdict) == (sha256, "published")
    assert record.metrics == published(answered).card.metrics
    assert state(answered) == ("stopped", "ended")


def test_what_fails_is_told_and_tried_again_after_longer_and_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Answered(tmp_path)
    waited: list[float] = []
    trainer = answered.trainer()

    def full(*_: object) -> int:
        raise RecordingError("the disk is full")

    monkeypatch.setattr(answered.store, "answered_so_far", full)

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        if len(waited) == 4:
            assert state(answered) == ("failed", "the disk is full")
            monkeypatch.undo()
        return len(waited) == 5

    trainer.run(wait)
    assert waited == [2.0, 4.0, 8.0, 16.0, 1.0]


def test_samples_whose_images_are_gone_are_left_out(tmp_path: Path) -> None:
    answered = Answered(tmp_path)
    answered.masks(LEARNED, "train")
    answered.masks(JUDGES, "held_out")
    gone = list(answered.images.photons)
    for sample in gone[:3]:
        del answered.images.photons[sample]
    record = answered.trainer(steps=2).look()
    assert record is not None
    assert "9 samples" in record.reason
    answered.images.photons.clear()
    answered.masks([400, 401, 402, 403], "train")

    def ends(_: float) -> bool:
        assert state(answered) == ("failed", "the images of the answers cannot be read")
        return True

    answered.trainer(steps=2).run(ends)


def test_no_model_is_judged_by_the_few_answers_whose_images_are_left(tmp_path: Path) -> None:
    answered = Answered(tmp_path)
    answered.masks(JUDGES, "held_out")
    gone = list(answered.images.photons)[: 1 + len(JUDGES) - training.JUDGES_MIN]
    answered.masks(LEARNED, "train")
    for sample in gone:
        del answered.images.photons[sample]
    with pytest.raises(StedfastError, match=f"only {training.JUDGES_MIN - 1} have an image"):
        answered.trainer(steps=2).look()
