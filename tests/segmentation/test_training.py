import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from controller.networks.weights import WeightsError, pack
from controller.segmentation.heads import head_maps, instances
from controller.segmentation.held_out import Matches, fitted, matches, score
from controller.segmentation.network_inputs import CHANNELS, network_inputs
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions, options_of
from controller.segmentation.network_targets import UNLABELLED, dense_targets
from controller.segmentation.training import (
    LabelledImage,
    Trained,
    TrainingOptions,
    batch_of,
    build,
    example_of,
    loss_of,
    network_of,
    train,
)

DISCS = NetworkOptions(kind="objects", object_px=9.0, heads=2, width=8, deep=8)
SHORT = TrainingOptions(steps=60, batch=6, patch_px=32, learning_rate=1e-2, checkpoints=3)


def discs(seed: int, photons: float = 12.0, size: int = 48) -> LabelledImage:
    """Return noisy bright discs on dark ground."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for number in range(9):
        row, column = np.array(divmod(number, 3)) * 16 + 8 + rng.uniform(-3, 3, 2)
        if rng.random() < 0.7:
            labels[np.hypot(y - row, x - column) < 4.5] = number + 1
    expected = np.where(labels > 0, photons, photons / 6)
    return LabelledImage(rng.poisson(expected).astype(np.float32), labels)


def answers(images: list[LabelledImage], trained: Trained) -> list[NDArray[np.float32]]:
    network = network_of(trained.weights, options_of(trained.weights.card)).eval()
    with torch.inference_mode():
        return [network(torch.from_numpy(network_inputs(image.photons)[None]))[0].numpy() for image in images]


@pytest.fixture(scope="module")
def trained() -> Trained:
    images, held_out = [discs(n) for n in range(12)], [discs(100 + n) for n in range(4)]
    return train(images, held_out, DISCS, SHORT, np.random.default_rng(0))


def test_a_short_training_finds_discs_that_a_fresh_network_does_not(trained: Trained) -> None:
    unseen = [discs(200 + n) for n in range(4)]
    options = options_of(trained.weights.card)
    found = [instances(head_maps(out, options), options) for out in answers(unseen, trained)]
    learned = score(zip(found, [image.labels for image in unseen], strict=True), "objects", 9.0)
    assert learned.dice > 0.85
    assert learned.f1 > 0.9, learned
    fresh = build(DISCS, np.random.default_rng(0)).eval()
    with torch.inference_mode():
        outputs = [fresh(torch.from_numpy(network_inputs(i.photons)[None]))[0].numpy() for i in unseen]
    nothing = [instances(head_maps(out, DISCS), DISCS) for out in outputs]
    assert score(zip(nothing, [i.labels for i in unseen], strict=True), "objects", 9.0).dice < 0.4


def test_the_same_seed_gives_the_same_bits_and_another_does_not(trained: Trained) -> None:
    images, held_out = [discs(n) for n in range(12)], [discs(100 + n) for n in range(4)]
    state = torch.random.get_rng_state()
    again = train(images, held_out, DISCS, SHORT, np.random.default_rng(0))
    assert again.weights.data == trained.weights.data
    assert torch.equal(state, torch.random.get_rng_state())
    few = SHORT.replace(steps=2, checkpoints=1)
    assert (
        train(images, held_out, DISCS, few, np.random.default_rng(1)).weights.data
        != train(images, held_out, DISCS, few, np.random.default_rng(2)).weights.data
    )


def test_training_goes_on_from_weights_and_keeps_them_if_nothing_is_better(trained: Trained) -> None:
    start = trained.weights
    spoilt = [
        LabelledImage(image.photons, np.random.default_rng(5).integers(0, 2, (48, 48)).astype(np.int32))
        for image in (discs(1), discs(2))
    ]
    done = train(spoilt, [discs(100), discs(101)], start, SHORT, np.random.default_rng(0))
    assert done.weights.card.parent == start.sha256
    assert done.weights.data == start.data
    assert [checkpoint.step for checkpoint in done.history] == [0, 20, 40, 60]


def test_what_nobody_labelled_gives_no_gradient() -> None:
    image = discs(3)
    labels = image.labels.copy()
    labels[:, 24:] = UNLABELLED
    example = example_of(LabelledImage(image.photons, labels), DISCS, 48)
    outputs = torch.randn(
        1, DISCS.outputs, 48, 48, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    loss_of(outputs, batch_of([example]), DISCS, SHORT, torch.ones(1, 2)).backward()
    assert outputs.grad is not None
    assert torch.all(outputs.grad[..., 24:] == 0)
    assert torch.all(outputs.grad[..., :24].abs().sum(dim=1) > 0)


def test_a_head_that_gives_an_image_no_weight_learns_nothing_from_it() -> None:
    outputs = torch.zeros(1, DISCS.outputs, 48, 48, requires_grad=True)
    loss_of(
        outputs, batch_of([example_of(discs(3), DISCS, 48)]), DISCS, SHORT, torch.tensor([[0.0, 2.0]])
    ).backward()
    assert outputs.grad is not None
    assert torch.all(outputs.grad[0, 0] == 0)
    assert torch.all(outputs.grad[0, 1] != 0)


def test_small_images_are_mirrored_and_the_mirror_is_unlabelled() -> None:
    example = example_of(LabelledImage(np.ones((5, 7), np.float32), np.ones((5, 7), np.int32)), DISCS, 32)
    assert example.inputs.shape == (len(CHANNELS), 32, 32)
    assert np.count_nonzero(example.targets.classes != UNLABELLED) == 35
    assert np.count_nonzero(example.targets.is_known) == 35


def test_centres_and_depth_mark_each_object_once() -> None:
    labels = np.zeros((30, 40), np.int32)
    labels[5:14, 5:14] = 1
    labels[5:14, 14:23] = 3
    labels[20:, :5] = UNLABELLED
    targets = dense_targets(labels, 9.0)
    assert targets.centers[9, 9] == targets.centers[9, 18] == 1
    assert targets.centers[9, 13] < 0.1
    assert targets.depth[9, 9] == 1
    assert targets.depth[9, 13] == targets.depth[9, 14] == pytest.approx(0.2)
    assert set(np.unique(targets.classes[20:, :5])) == {UNLABELLED}
    assert not targets.is_known[20:, :5].any()


def test_the_centre_of_a_ring_lies_on_it() -> None:
    y, x = np.mgrid[:41, :41]
    distance = np.hypot(y - 20, x - 20)
    ring = ((distance > 12) & (distance < 16)).astype(np.int32)
    centers = dense_targets(ring, 30.0).centers
    assert ring[np.unravel_index(np.argmax(centers), centers.shape)] == 1


@pytest.mark.parametrize("photons", [1.0, 5.0, 50.0, 5000.0])
def test_noise_looks_alike_at_any_photon_level(photons: float) -> None:
    inputs = network_inputs(np.random.default_rng(0).poisson(photons, (96, 96)).astype(np.float32))
    for name in ("raw", "fine", "coarse"):
        channel = inputs[CHANNELS.index(name)]
        # In units of noise, compressed: a third of 1.
        assert np.std(channel) == pytest.approx(0.32, abs=0.08)
        assert abs(np.mean(channel)) < 0.12


def test_the_temperature_makes_too_sure_scores_honest() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (64, 64))
    truth = (rng.random((64, 64)) < 1 / (1 + np.exp(-scores))).astype(np.int64)
    outputs = np.stack([3 * scores, 3 * scores, scores, scores]).astype(np.float32)
    options = fitted([outputs], [truth], [truth.astype(np.int32)], DISCS)
    assert options.temperature == pytest.approx(3.0, rel=0.1)


def test_the_temperature_stays_where_nothing_is_labelled() -> None:
    nobody = np.full((8, 8), UNLABELLED)
    outputs = np.zeros((4, 8, 8), np.float32)
    assert fitted([outputs], [nobody], [nobody.astype(np.int32)], DISCS) == DISCS


def test_objects_match_by_overlap_and_spots_by_their_places() -> None:
    truth = np.zeros((20, 20), np.int32)
    truth[2:8, 2:8], truth[12:18, 12:18] = 1, 2
    found = np.zeros_like(truth)
    found[2:8, 3:8], found[12:15, 12:15], found[2:5, 14:17] = 1, 2, 3
    assert matches(found, truth, "objects", 6.0) == Matches(found=1, invented=2, missed=1)
    assert matches(found, truth, "spots", 6.0) == Matches(found=2, invented=1, missed=0)
    truth[:6, 12:] = UNLABELLED
    assert matches(found, truth, "spots", 6.0) == Matches(found=2, invented=0, missed=0)
    assert matches(np.zeros_like(truth), np.zeros_like(truth), "spots", 6.0).f1 == 1.0


def test_a_card_of_another_model_is_refused() -> None:
    tensors = {"a": np.zeros(1, np.float32)}
    with pytest.raises(WeightsError, match="a segmenter needs"):
        options_of(pack(tensors, architecture="denoiser/1", options={}).card)
    with pytest.raises(WeightsError, match="object_px"):
        options_of(
            pack(tensors, architecture=ARCHITECTURE, options={"kind": "spots", "object_px": -1.0}).card
        )
    with pytest.raises(WeightsError, match="inputs"):
        options_of(
            pack(
                tensors,
                architecture=ARCHITECTURE,
                options={"kind": "spots", "object_px": 3.0, "inputs": "photons/9"},
            ).card
        )


def test_options_survive_the_card() -> None:
    card = pack(
        {"a": np.zeros(1, np.float32)}, architecture=ARCHITECTURE, options=DISCS.model_dump(mode="json")
    ).card
    assert options_of(type(card).model_validate_json(card.model_dump_json(by_alias=True))) == DISCS
