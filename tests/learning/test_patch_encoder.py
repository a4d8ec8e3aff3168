"""Features of crops: learned without labels, the same for the same crop, kept without pickle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from controller.learning.augmentation import Augmentation, AugmentationError
from controller.learning.patch_encoder import (
    PatchEncoder,
    PatchEncoderOptions,
    PretrainingOptions,
    pretrain,
    untrained,
)
from controller.networks.weights import WeightsError, check, pack

SMALL = PretrainingOptions(batch=16, encoder=PatchEncoderOptions(width=8, deep=8))


def stripes(count: int, seed: int = 0, side: int = 24) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return crops with coarse (0) or fine (1) stripes, turned and dimmed by chance."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, count)
    along = np.where(kind == 1, 2 * np.pi / 5, 2 * np.pi / 11)[:, None, None] * np.arange(side)[None, :, None]
    wave = np.sin(along + rng.uniform(0, 2 * np.pi, (count, 1, 1))) > 0
    crops = np.array(
        [np.rot90(np.broadcast_to(one, (side, side)), int(rng.integers(4))) for one in wave], float
    )
    light = np.exp(rng.uniform(np.log(4), np.log(16), (count, 1, 1)))
    return rng.poisson(1 + light * crops).astype(np.uint16), kind


@pytest.fixture(scope="module")
def learned() -> PatchEncoder:
    return pretrain(stripes(200)[0], 40, np.random.default_rng(0), SMALL)


def test_the_same_chance_makes_the_same_encoder_and_the_same_features(learned: PatchEncoder) -> None:
    crops = stripes(40, seed=1)[0]
    again = pretrain(stripes(200)[0], 40, np.random.default_rng(0), SMALL)
    other = pretrain(stripes(200)[0], 40, np.random.default_rng(1), SMALL)
    assert learned.to_weights().sha256 == again.to_weights().sha256 != other.to_weights().sha256
    assert learned.encode(crops).tobytes() == again.encode(crops).tobytes()


def test_learning_leaves_the_stream_and_the_threads_of_torch_alone() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    pretrain(stripes(20)[0], 1, np.random.default_rng(0), SMALL.replace(threads=threads + 1))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_learning_brings_crops_of_a_kind_together(learned: PatchEncoder) -> None:
    """Nearest neighbours by features are of the same kind more often than with random weights."""
    crops, kind = stripes(300, seed=2)

    def agreement(encoder: PatchEncoder) -> float:
        unit = encoder.encode(crops)
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        alike = unit @ unit.T - 2 * np.eye(len(unit))
        return float((kind[alike.argmax(axis=1)] == kind).mean())

    before = untrained(np.random.default_rng(0), SMALL.encoder)
    assert agreement(learned) > max(0.85, agreement(before))


@pytest.mark.parametrize("shape", [(0, 48, 48), (1, 16, 16), (3, 17, 40), (2, 64, 64)])
@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.int64])
def test_crops_of_any_size_and_type_get_one_row_of_finite_features(
    shape: tuple[int, ...], kind: type[np.generic], learned: PatchEncoder
) -> None:
    crops = np.random.default_rng(0).poisson(3.0, shape).astype(kind)
    features = learned.encode(crops)
    assert features.shape == (shape[0], SMALL.encoder.features)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_a_crop_has_the_same_features_in_any_company(learned: PatchEncoder) -> None:
    crops = stripes(300)[0]
    np.testing.assert_allclose(learned.encode(crops)[280:], learned.encode(crops[280:]), rtol=0, atol=1e-4)


def test_features_of_an_untrained_encoder_are_of_the_size_that_a_classifier_expects() -> None:
    features = untrained(np.random.default_rng(3)).encode(stripes(50)[0])
    assert features.shape == (50, PatchEncoderOptions().features)
    assert 0.05 < features.std(axis=0).mean() < 20


@pytest.mark.parametrize(
    "crops", [np.full((4, 24, 24), -1.0), np.full((4, 24, 24), np.nan), np.full((4, 24, 24), np.inf)]
)
def test_what_is_no_image_of_photons_is_refused(crops: NDArray[np.float64], learned: PatchEncoder) -> None:
    with pytest.raises(ValueError, match="finite numbers >= 0"):
        learned.encode(crops)
    with pytest.raises(ValueError, match="finite numbers >= 0"):
        pretrain(crops, 1, np.random.default_rng(0), SMALL)


@pytest.mark.parametrize("shape", [(4, 15, 24), (24, 24), (4, 1, 24, 24)])
def test_crops_that_are_too_small_or_of_another_shape_are_refused(
    shape: tuple[int, ...], learned: PatchEncoder
) -> None:
    with pytest.raises(ValueError, match="16 x 16"):
        learned.encode(np.zeros(shape))


def test_one_crop_or_no_step_is_too_little_to_learn_from() -> None:
    for count, steps in ((1, 10), (10, 0)):
        with pytest.raises(ValueError, match="2 crops or more"):
            pretrain(stripes(count)[0], steps, np.random.default_rng(0), SMALL)


def test_denoised_crops_are_learned_from_without_thinning_and_refused_if_thinning_is_asked_for() -> None:
    crops = stripes(30)[0] + 0.5
    learned = pretrain(crops, 2, np.random.default_rng(0), SMALL)
    assert [step["kind"] for step in learned.training["augmentation"]["steps"]] == [
        "flip",
        "flip",
        "rotate_90",
    ]
    with pytest.raises(AugmentationError, match="no counts"):
        pretrain(crops, 2, np.random.default_rng(0), SMALL.replace(augmentation=Augmentation()))


def test_weights_and_their_card_make_the_same_encoder(learned: PatchEncoder) -> None:
    weights = learned.to_weights(licence="MIT", trained_on=("drawn stripes",))
    card = weights.card.model_dump_json(by_alias=True)
    back = PatchEncoder.from_weights(check(weights.data, card, "here"))
    crops = stripes(20, seed=5)[0]
    assert back.encode(crops).tobytes() == learned.encode(crops).tobytes()
    assert back.training["steps"] == 40
    assert weights.card.licence == "MIT"


def test_weights_of_another_network_are_refused(learned: PatchEncoder) -> None:
    weights = learned.to_weights()
    options = weights.card.options
    wrong = {
        "not of": pack(weights.tensors(), architecture="small-unet", options=options),
        "options": pack(weights.tensors(), architecture=weights.card.architecture, options={"width": "wide"}),
        "mean and spread": pack(
            {"mean": np.zeros(3, np.float32)}, architecture=weights.card.architecture, options=options
        ),
        "another network": pack(
            {**weights.tensors(), "more": np.zeros(1, np.float32)},
            architecture=weights.card.architecture,
            options=options,
        ),
    }
    for reason, one in wrong.items():
        with pytest.raises(WeightsError, match=reason):
            PatchEncoder.from_weights(one)
