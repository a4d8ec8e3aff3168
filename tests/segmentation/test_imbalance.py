"""Rare classes are shown more often, or count more, where training is asked to."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

pytest.importorskip("torch")

from controller.learning.weak_losses import LossOptions
from controller.segmentation.imbalance import Imbalance
from controller.segmentation.labelled_image import LabelledImage, example_of
from controller.segmentation.network_options import NetworkOptions
from controller.segmentation.training import Trainer, TrainingOptions, build

#: One image of ten shows class 2, in one corner.
COMMON = np.zeros((32, 32), np.int64)
COMMON[4:12, 4:12] = 1
RARE = COMMON.copy()
RARE[28:30, 28:30] = 2
IMAGES = [RARE, *[COMMON] * 9]


def test_by_default_all_images_places_and_classes_are_alike() -> None:
    nothing = Imbalance()
    assert nothing.image_chances(IMAGES, 3) is None
    assert nothing.class_weights(IMAGES, 3) is None
    rng = np.random.default_rng(0)
    corners = np.array([nothing.corner(RARE, 16, rng) for _ in range(600)])
    assert np.abs(corners.mean(axis=0) - 8).max() < 0.8


def test_images_and_places_of_a_rare_class_come_up_more_often() -> None:
    often = Imbalance(oversampling=1.0)
    chances = often.image_chances(IMAGES, 3)
    assert chances is not None
    assert chances.sum() == pytest.approx(1.0)
    assert chances[0] == pytest.approx(10 * chances[1])
    rng = np.random.default_rng(0)
    corners = [often.corner(RARE, 16, rng) for _ in range(300)]
    shown = np.mean([(RARE[y : y + 16, x : x + 16] == 2).any() for y, x in corners])
    # A third of the places are drawn around it; of all places it is in one of seven.
    assert shown > 0.3
    assert all(0 <= corner <= 16 for pair in corners for corner in pair)


def test_images_without_a_labelled_pixel_are_drawn_as_often_as_before() -> None:
    boxes_alone = np.full((32, 32), -1, np.int64)
    chances = Imbalance(oversampling=0.5).image_chances([*IMAGES, boxes_alone], 3)
    assert chances is not None
    assert chances[-1] == pytest.approx(1 / 11)
    assert chances.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("weighting", ["inverse frequency", "median frequency", "effective number"])
def test_errors_of_a_rare_class_count_more(weighting: str) -> None:
    weights = Imbalance.model_validate({"weighting": weighting}).class_weights(IMAGES, 3)
    assert weights is not None
    assert weights[2] > 2 * weights[0]


def test_a_class_that_is_nowhere_has_no_weight_to_be_found() -> None:
    assert Imbalance(weighting="inverse frequency").class_weights([COMMON], 3) is None


def test_training_takes_the_weights_of_its_images() -> None:
    options = NetworkOptions(kind="objects", object_px=9.0, heads=2, width=8, deep=8)
    training = TrainingOptions(
        steps=1, batch=2, patch_px=16, imbalance=Imbalance(oversampling=0.5, weighting="inverse frequency")
    )
    labels = COMMON.astype(np.int32)
    image = LabelledImage(np.random.default_rng(0).poisson(3.0, labels.shape).astype(np.float32), labels)
    trainer = Trainer(build(options, np.random.default_rng(0)), options, training, np.random.default_rng(1))
    trainer.fit([example_of(image, options)], [])
    share = 64 / 32**2
    assert trainer._class_weights is not None
    assert trainer._class_weights[1] / trainer._class_weights[0] == pytest.approx(
        min((1 - share) / share, 10)
    )


def test_two_ways_to_weigh_classes_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave one of them out"):
        TrainingOptions(
            loss=LossOptions(class_weights=(1.0, 2.0)), imbalance=Imbalance(weighting="median frequency")
        )
