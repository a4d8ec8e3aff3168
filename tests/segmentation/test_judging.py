"""Models are judged by what people said of samples, whatever kind of answer that was."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    PointsAnnotation,
    Rectangle,
    TagAnnotation,
)
from controller.segmentation import judging
from controller.segmentation.judging import Worth, judged, objects_kept, presence, verdict
from controller.segmentation.labelled_image import Example, LabelledImage, example_of
from controller.segmentation.network_options import NetworkOptions
from controller.segmentation.network_targets import target_of_labels
from controller.segmentation.training import TrainingOptions
from tests.labelling.answered import fresh

SIDE = 32
OPTIONS = NetworkOptions(
    kind="objects", object_px=9.0, heads=2, width=8, deep=8, classes=("background", "disc", "ring")
)
SCHEMA = LabelSchema(classes=OPTIONS.classes[1:])
LOSS = TrainingOptions().loss
PLACES = ((8, 8), (22, 20))


def objects(*places: tuple[int, int]) -> NDArray[np.int32]:
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.int32)
    for number, (row, column) in enumerate(places, 1):
        labels[np.hypot(y - row, x - column) < 4.5] = number
    return labels


def answer(labels: NDArray[np.int32], name: str = "disc") -> NDArray[np.float32]:
    """Return what a network says that finds exactly these objects, and calls all of them by one name."""
    target = target_of_labels(labels, OPTIONS)
    scores = np.full((4, SIDE, SIDE), -9.0, np.float32)
    scores[SCHEMA.classes.index(name) :: 2, labels > 0] = 9.0
    depth = np.where(labels > 0, target.distances, 0.01)
    centers = np.clip(target.centres, 0.001, 0.999)
    return np.concatenate(
        [scores, [np.log(depth / (1.001 - depth)), np.log(centers / (1 - centers))]]
    ).astype(np.float32)


def example(*said: Annotation) -> Example:
    image = ImageAnnotations(shape_yx=(SIDE, SIDE), label_schema=SCHEMA, annotations=said)
    return example_of(LabelledImage(np.ones((SIDE, SIDE), np.float32), image), OPTIONS)


def worth(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[NDArray[np.float32], Example]) -> Worth:
    answers = iter([output for output, _ in pairs])
    monkeypatch.setattr(judging, "answer_of", lambda *_: next(answers))
    weights = fresh(classes=OPTIONS.classes)
    return judged(weights, [one for _, one in pairs], LOSS)


def painted(labels: NDArray[np.int32], values: str = "objects") -> MaskAnnotation:
    shown = labels if values == "objects" else (labels > 0).astype(np.int32)
    return MaskAnnotation.from_array(shown, values=values, value_classes=("disc",), coverage="image")


def clicks(*places: tuple[int, int]) -> PointsAnnotation:
    return PointsAnnotation(class_name="disc", points_yx=tuple((float(y), float(x)) for y, x in places))


def box(row: int, column: int) -> BoxAnnotation:
    extent = Rectangle(y_min=row - 4.5, x_min=column - 4.5, y_max=row + 4.5, x_max=column + 4.5)
    return BoxAnnotation(class_name="disc", extent=extent, coverage="image")


BOTH = objects(*PLACES)
SAID: dict[str, tuple[Annotation, ...]] = {
    "objects": (painted(BOTH),),
    "classes": (painted(BOTH, "classes"),),
    "clicks": (clicks(*PLACES),),
    "boxes": (box(*PLACES[0]), box(*PLACES[1])),
}


@pytest.mark.parametrize("kind", SAID)
def test_who_finds_all_objects_is_perfect_and_who_misses_one_is_not(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = example(*SAID[kind])
    best, half, none = (
        worth(monkeypatch, (answer(objects(*places)), shown)).score for places in (PLACES, PLACES[:1], ())
    )
    assert best == 1.0
    assert half == pytest.approx(2 / 3, abs=0.02)
    assert none == 0.0


def test_objects_that_nobody_marked_count_where_somebody_vouched(monkeypatch: pytest.MonkeyPatch) -> None:
    more = answer(objects(*PLACES, (8, 24)))
    assert worth(monkeypatch, (more, example(*SAID["clicks"]))).f1 == 1.0
    f1 = worth(monkeypatch, (more, example(*SAID["boxes"]))).f1
    assert f1 == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("found", "accuracy"),
    [
        ((("disc", 2), ("ring", 2), ("disc", 0)), 1.0),
        ((("disc", 2), ("disc", 2), ("disc", 0)), 2 / 3),
        ((("disc", 0), ("disc", 0), ("disc", 0)), 1 / 3),
    ],
)
def test_tags_are_judged_by_outcome_so_that_the_common_one_does_not_hide_the_rest(
    found: tuple[tuple[str, int], ...], accuracy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (
        TagAnnotation(present=("disc",), absent=("ring",)),
        TagAnnotation(present=("ring",), absent=("disc",)),
        TagAnnotation(present=(NOTHING_HERE,)),
    )
    pairs = [
        (answer(objects(*PLACES[:count]), name), example(tag))
        for (name, count), tag in zip(found, said, strict=True)
    ]
    one = worth(monkeypatch, *pairs)
    assert one.balanced_accuracy == pytest.approx(accuracy)
    assert (one.f1, one.dice) == (None, None)
    assert one.score == one.balanced_accuracy
    assert one.log_loss is not None
    assert (one.log_loss < 0.2) == (accuracy == 1.0)


def test_who_always_says_the_same_is_not_judged_by_a_single_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = example(TagAnnotation(present=(NOTHING_HERE,)))
    one = worth(monkeypatch, (answer(BOTH), shown), (answer(BOTH), shown))
    assert one.balanced_accuracy is None
    assert one.score is None
    assert verdict(one, one) == (False, "no held-out answer tells what it is worth")


def test_presence_is_a_probability_of_each_class() -> None:
    target = example(TagAnnotation(present=("disc",), absent=("ring",))).target
    chances = presence(answer(BOTH), target, OPTIONS, LOSS.pooling_sharpness)
    assert chances.shape == (2,)
    assert chances[0] > 0.9
    assert chances[1] < 0.1


def what(f1: float, loss: float = 1.0) -> Worth:
    return Worth(f1=f1, dice=None, balanced_accuracy=None, log_loss=None, loss=loss)


@pytest.mark.parametrize(
    ("before", "after", "passes", "told"),
    [
        (what(0.5), what(0.6), True, "F1 0.500 before, F1 0.600 after"),
        (what(0.5), what(0.5, 0.9), True, "F1 0.500"),
        (what(0.5), what(0.5), True, "F1 0.500"),
        (what(0.5), what(0.5, 1.1), False, "its held-out loss rose from 1 to 1.1"),
        (what(0.5), what(0.51, 1.1), False, "its held-out loss rose from 1 to 1.1"),
        (what(0.5), what(0.51, 0.9), True, "F1 0.510 after"),
        (what(0.5), what(0.6, 1.1), True, "F1 0.600 after"),
        (what(0.5), what(0.499, 0.1), False, "worse"),
        (what(0.5), what(0.9, float("nan")), False, "worse"),
        (what(0.5), what(0.9, float("inf")), False, "worse"),
    ],
)
def test_a_model_may_take_over_only_if_it_is_not_worse(
    before: Worth,
    after: Worth,
    passes: bool,
    told: str,
) -> None:
    may_publish, reason = verdict(before, after)
    assert may_publish == passes
    assert told in reason


def test_a_model_that_no_longer_finds_what_is_there_has_kept_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    present = example(TagAnnotation(present=("disc",)))
    empty = example(TagAnnotation(present=(NOTHING_HERE,)))
    one, other = fresh(classes=OPTIONS.classes), fresh(classes=OPTIONS.classes, center_threshold=0.5)

    def kept(before: NDArray[np.float32], after: NDArray[np.float32], *shown: Example) -> float | None:
        answers = iter([after, before] * len(shown))
        monkeypatch.setattr(judging, "answer_of", lambda *_: next(answers))
        return objects_kept(one, other, shown)

    none = answer(objects())
    assert kept(answer(BOTH), answer(BOTH), present) == 1.0
    assert kept(answer(BOTH), none, present) == 0.0
    assert kept(answer(BOTH), answer(objects(PLACES[0])), present) == pytest.approx(2 / 3)
    assert kept(none, none, present) is None
    assert kept(answer(BOTH), none, empty) is None, "where nothing is, nothing needs to be found"
