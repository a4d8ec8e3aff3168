import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from controller.learning.annotations import (
    Annotation,
    BoxAnnotation,
    ImageAnnotations,
    LabelSchema,
    PointsAnnotation,
    Rectangle,
    TagAnnotation,
)
from controller.learning.measures import Matches
from controller.learning.weak_losses import Targets
from controller.networks.weights import Weights, WeightsError, pack
from controller.segmentation.heads import head_maps, instances
from controller.segmentation.held_out import fitted, matches, score
from controller.segmentation.labelled_image import LabelledImage, example_of
from controller.segmentation.network_inputs import CHANNELS, network_inputs
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions, options_of
from controller.segmentation.network_targets import UNLABELLED, target_of_labels
from controller.segmentation.training import (
    Trained,
    TrainingOptions,
    answer_of,
    build,
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


def answers(images: list[LabelledImage], weights: Weights | None) -> list[NDArray[np.int32]]:
    """Return the objects that a network finds; a fresh one without weights."""
    options = DISCS if weights is None else options_of(weights.card)
    fresh = build(DISCS, np.random.default_rng(0))
    network = fresh if weights is None else network_of(weights, options)
    return [
        instances(head_maps(answer_of(network, example_of(i, options)), options), options) for i in images
    ]


def dice(found: list[NDArray[np.int32]], truth: list[LabelledImage]) -> float:
    return score(zip(found, [np.asarray(image.labels) for image in truth], strict=True), "objects", 9.0).dice


@pytest.fixture(scope="module")
def trained() -> Trained:
    images, held_out = [discs(n) for n in range(12)], [discs(100 + n) for n in range(4)]
    return train(images, held_out, DISCS, SHORT, np.random.default_rng(0))


def test_a_short_training_finds_discs_that_a_fresh_network_does_not(trained: Trained) -> None:
    unseen = [discs(200 + n) for n in range(4)]
    found = answers(unseen, trained.weights)
    learned = score(zip(found, [np.asarray(i.labels) for i in unseen], strict=True), "objects", 9.0)
    assert learned.dice > 0.85
    assert learned.f1 > 0.9
    assert dice(answers(unseen, None), unseen) < 0.4


def annotated(kind: str, seed: int) -> LabelledImage:
    """Return a picture of discs with what somebody says of them who has little time."""
    image = discs(seed)
    truth = np.asarray(image.labels)
    schema = LabelSchema(classes=("object",))
    numbers = [n for n in range(1, truth.max() + 1) if (truth == n).any()]
    places = [tuple(np.argwhere(truth == n).mean(axis=0).round()) for n in numbers]
    nothing = PointsAnnotation(
        class_name="nothing here",
        points_yx=tuple((float(y), float(x)) for y, x in np.argwhere(truth == 0)[::97]),
    )
    said: tuple[Annotation, ...]
    if kind == "points":
        clicks = PointsAnnotation(
            class_name="object", points_yx=tuple((float(y), float(x)) for y, x in places)
        )
        said = (clicks, nothing)
    elif kind == "boxes":
        corners = [
            (np.argwhere(truth == n).min(axis=0), np.argwhere(truth == n).max(axis=0)) for n in numbers
        ]
        said = tuple(
            BoxAnnotation(
                class_name="object",
                coverage="image",
                extent=Rectangle(
                    y_min=float(low[0]) - 0.5,
                    x_min=float(low[1]) - 0.5,
                    y_max=float(high[0]) + 0.49,
                    x_max=float(high[1]) + 0.49,
                ),
            )
            for low, high in corners
        )
    else:
        said = (TagAnnotation(present=("object",)), nothing)
    return LabelledImage(
        image.photons, ImageAnnotations(shape_yx=(48, 48), label_schema=schema, annotations=said)
    )


@pytest.mark.parametrize(("kind", "least"), [("points", 0.6), ("a mix", 0.6)])
def test_it_learns_from_what_people_say_in_less_time_than_a_mask_takes(kind: str, least: float) -> None:
    unseen = [discs(200 + n) for n in range(4)]
    kinds = ("points", "boxes", "tags") if kind == "a mix" else (kind,)
    images = [annotated(kinds[n % len(kinds)], n) for n in range(12)]
    done = train(images, [discs(100)], DISCS, SHORT, np.random.default_rng(0))
    assert dice(answers(unseen, done.weights), unseen) > least


def test_a_tag_is_learned_from_the_whole_image_only() -> None:
    example = example_of(annotated("tags", 0), DISCS)
    assert example.needs_whole
    assert not example_of(annotated("points", 0), DISCS).needs_whole
    patch = example.patch(32, SHORT.augmentation, SHORT.imbalance, np.random.default_rng(0))
    assert (patch.target.tags != 1).all()


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    images, held_out = [discs(n) for n in range(4)], [discs(100)]
    few = SHORT.replace(steps=4, checkpoints=1)
    state = torch.random.get_rng_state()
    one, again, other = (
        train(images, held_out, DISCS, few, np.random.default_rng(seed)).weights for seed in (0, 0, 1)
    )
    assert one.data == again.data
    assert one.card == again.card
    assert one.data != other.data
    assert torch.equal(state, torch.random.get_rng_state())


def test_training_goes_on_from_weights_and_keeps_them_if_nothing_is_better(trained: Trained) -> None:
    start = trained.weights
    spoilt = [
        LabelledImage(image.photons, np.random.default_rng(5).integers(0, 2, (48, 48)).astype(np.int32))
        for image in (discs(1), discs(2))
    ]
    few = SHORT.replace(steps=15)
    done = train(spoilt, [discs(100), discs(101)], start, few, np.random.default_rng(0))
    assert done.weights.card.parent == start.sha256
    assert done.weights.data == start.data
    assert [checkpoint.step for checkpoint in done.history] == [0, 5, 10, 15]


def test_what_nobody_labelled_gives_no_gradient() -> None:
    image = discs(3)
    labels = np.asarray(image.labels).copy()
    labels[:, 24:] = UNLABELLED
    target = Targets.stack([example_of(LabelledImage(image.photons, labels), DISCS).target])
    noise = torch.Generator().manual_seed(0)
    outputs = torch.randn(1, DISCS.outputs, 48, 48, generator=noise, requires_grad=True)
    loss_of(outputs, target, DISCS, SHORT.loss, torch.ones(1, 2)).backward()
    assert outputs.grad is not None
    assert torch.all(outputs.grad[..., 24:] == 0)
    assert torch.all(outputs.grad[..., :24].abs().sum(dim=1) > 0)


def test_a_head_that_gives_an_image_no_weight_learns_nothing_from_it() -> None:
    outputs = torch.zeros(1, DISCS.outputs, 48, 48, requires_grad=True)
    target = Targets.stack([example_of(discs(3), DISCS).target])
    loss_of(outputs, target, DISCS, SHORT.loss, torch.tensor([[0.0, 2.0]])).backward()
    assert outputs.grad is not None
    assert torch.all(outputs.grad[0, 0] == 0)
    assert torch.all(outputs.grad[0, 1] != 0)


def test_small_images_are_mirrored_and_the_mirror_is_unlabelled() -> None:
    image = LabelledImage(np.ones((5, 7), np.float32), np.ones((5, 7), np.int32))
    example = example_of(image, DISCS, 32)
    assert example.inputs.shape == (len(CHANNELS), 32, 32)
    assert np.count_nonzero(example.target.classes != UNLABELLED) == 35
    assert np.count_nonzero(example.target.is_shape_known) == 35
    assert np.count_nonzero(example.target.centre_weights) == 35


def test_patches_turn_image_and_labels_alike() -> None:
    labels = np.arange(40 * 40, dtype=np.int32).reshape(40, 40)
    example = example_of(LabelledImage(np.ones((40, 40), np.float32), labels), DISCS)
    example.inputs[0] = labels
    for seed in range(8):
        patch = example.patch(32, SHORT.augmentation, SHORT.imbalance, np.random.default_rng(seed))
        np.testing.assert_array_equal(patch.inputs[0], patch.target.instances)


def test_centres_and_depth_mark_each_object_once() -> None:
    labels = np.zeros((30, 40), np.int32)
    labels[5:14, 5:14] = 1
    labels[5:14, 14:23] = 3
    labels[20:, :5] = UNLABELLED
    targets = target_of_labels(labels, DISCS)
    assert targets.centres[9, 9] == targets.centres[9, 18] == 1
    assert targets.centres[9, 13] < 0.1
    assert targets.distances[9, 9] == 1
    assert targets.distances[9, 13] == targets.distances[9, 14] == pytest.approx(0.2)
    assert set(np.unique(targets.classes[20:, :5])) == {UNLABELLED}
    assert not targets.is_shape_known[20:, :5].any()


def test_the_centre_of_a_ring_lies_on_it() -> None:
    y, x = np.mgrid[:41, :41]
    distance = np.hypot(y - 20, x - 20)
    ring = ((distance > 12) & (distance < 16)).astype(np.int32)
    centers = target_of_labels(ring, DISCS.replace(object_px=30.0)).centres
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
    options = fitted([outputs], [target_of_labels(truth.astype(np.int32), DISCS)], DISCS)
    assert options.temperature == pytest.approx(3.0, rel=0.1)


def test_the_temperature_stays_where_nothing_is_labelled() -> None:
    nobody = np.full((8, 8), UNLABELLED)
    outputs = np.zeros((4, 8, 8), np.float32)
    assert fitted([outputs], [target_of_labels(nobody.astype(np.int32), DISCS)], DISCS) == DISCS


def test_objects_match_by_overlap_and_spots_by_their_places() -> None:
    truth = np.zeros((20, 20), np.int32)
    truth[2:8, 2:8], truth[12:18, 12:18] = 1, 2
    found = np.zeros_like(truth)
    found[2:8, 3:8], found[12:15, 12:15], found[2:5, 14:17] = 1, 2, 3
    assert matches(found, truth, "objects", 6.0) == Matches(hits=1, wrong=2, missed=1)
    assert matches(found, truth, "spots", 6.0) == Matches(hits=2, wrong=1, missed=0)
    truth[:6, 12:] = UNLABELLED
    assert matches(found, truth, "spots", 6.0) == Matches(hits=2, wrong=0, missed=0)
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
