from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.core.frame import Denoised, Frame
from controller.core.protocols import Plugin
from controller.core.settings import Region
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.networks.modules import tensors_of
from controller.networks.weights import Weights, pack, write_weights
from controller.segmentation.heads import HeadMaps, head_maps, instances
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions
from controller.segmentation.resampling import labels_resampled, map_resampled, photons_resampled
from controller.segmentation.small_unet import SHIPPED, SmallUNetSegmenter, find_weights
from controller.segmentation.spots import binary_entropy_bits
from controller.segmentation.training import build
from controller.testing import CONFOCAL, SegmenterContract, resources
from tests.support import frame_of

PIXEL_M = 20e-9
SPOT_M = 3.06 * PIXEL_M


def frame(photons: object, pixel_size_m: float = PIXEL_M) -> Frame:
    return frame_of(photons, pixel_size_m)


def spots(peak: float = 10.0, ground: float = 0.5, size: int = 96) -> tuple[NDArray[np.float64], int]:
    """Return expected photons of 16 spots, 1.3 pixels in standard deviation, and how many they are."""
    y, x = np.mgrid[:size, :size]
    image = np.full((size, size), ground)
    places = [(row, column) for row in range(12, size, 24) for column in range(12, size, 24)]
    for row, column in places:
        image += peak * np.exp(-0.5 * ((y - row) ** 2 + (x - column) ** 2) / 1.3**2)
    return image, len(places)


def segmenter(**options: object) -> SmallUNetSegmenter:
    asked = SmallUNetSegmenter.Options.model_validate({"object_size_m": SPOT_M, **options})
    return SmallUNetSegmenter.from_options(asked, resources())


def fresh_weights(**options: object) -> Weights:
    network = NetworkOptions.model_validate(
        {"kind": "objects", "object_px": 9.0, "width": 8, "deep": 8, **options}
    )
    return pack(
        tensors_of(build(network, np.random.default_rng(0))),
        architecture=ARCHITECTURE,
        options=network.model_dump(mode="json"),
    )


class TestSmallUNetSegmenter(SegmenterContract):
    def make(self) -> SmallUNetSegmenter:
        return segmenter()


class TestSmallUNetSegmenterOfCells(SegmenterContract):
    def make(self) -> SmallUNetSegmenter:
        return segmenter(weights="cells", object_size_m=320e-9)


def test_it_is_a_plugin() -> None:
    plugin: object = SmallUNetSegmenter
    assert isinstance(plugin, Plugin)


def test_what_is_shipped_is_small_and_says_where_it_comes_from() -> None:
    size = 0
    for name in SHIPPED:
        weights = find_weights(name, Path())
        size += len(weights.data)
        assert weights.card.licence == "CC0-1.0"
        assert weights.card.trained_on
        assert weights.card.training["steps"] > 0
    assert size < 1_000_000


@pytest.mark.parametrize(("peak", "with_denoiser"), [(20.0, False), (20.0, True), (4.0, False), (4.0, True)])
def test_spots_are_found_one_label_each(peak: float, with_denoiser: bool) -> None:
    expected, count = spots(peak)
    newest = frame(np.random.default_rng(0).poisson(expected))
    denoised = AdaptiveKalmanDenoiser().step(newest) if with_denoiser else None
    found = segmenter().step(newest, denoised)
    assert abs(int(found.labels.max()) - count) <= 1
    at_places = found.labels[12::24, 12::24]
    assert np.count_nonzero(at_places) >= count - 1
    assert len(np.unique(at_places[at_places > 0])) == np.count_nonzero(at_places)


@pytest.mark.parametrize("level", [0.05, 1.0, 1000.0])
def test_noise_alone_gives_next_to_nothing(level: float) -> None:
    found = segmenter().step(frame(np.random.default_rng(1).poisson(level, (128, 128))), None)
    assert found.labels.max() <= 2
    assert found.probability.mean() < 0.01


def test_touching_cells_are_divided() -> None:
    y, x = np.mgrid[:96, :96]
    near, far = (np.hypot(y - 48, x - column) < 8 for column in (40, 55))
    photons = np.random.default_rng(0).poisson(np.where(near | far, 20.0, 2.0))
    found = segmenter(weights="cells", object_size_m=16 * PIXEL_M).step(frame(photons), None)
    assert found.labels.max() == 2
    assert found.labels[48, 36] != found.labels[48, 59]


def test_a_frame_of_finer_pixels_is_brought_to_the_scale_of_the_training() -> None:
    expected, count = spots(20.0)
    fine = np.repeat(np.repeat(expected / 9, 3, axis=0), 3, axis=1)
    found = segmenter().step(frame(np.random.default_rng(0).poisson(fine), PIXEL_M / 3), None)
    assert found.labels.shape == fine.shape
    assert abs(int(found.labels.max()) - count) <= 1
    alone = segmenter(resample_beyond=4.0).step(
        frame(np.random.default_rng(0).poisson(fine), PIXEL_M / 3), None
    )
    assert alone.labels.max() != found.labels.max()


def test_a_detector_with_gain_and_offset_gives_the_same_as_photons() -> None:
    photons = np.random.default_rng(0).poisson(spots()[0])
    plain = segmenter().step(frame(photons), None)
    units = segmenter(units_per_photon=40.0, offset_units=100.0).step(frame(photons * 40 + 100), None)
    np.testing.assert_array_equal(plain.labels, units.labels)


def test_uncertainty_is_the_entropy_of_the_heads_mean_and_holds_their_disagreement() -> None:
    assessed = segmenter().assess(frame(np.random.default_rng(0).poisson(spots(2.0)[0])), None)
    uncertainty = assessed.segmentation.uncertainty
    np.testing.assert_allclose(uncertainty, binary_entropy_bits(assessed.segmentation.probability), atol=1e-6)
    assert np.all(assessed.disagreement_bits >= 0)
    assert np.all(assessed.disagreement_bits <= uncertainty + 1e-5)
    assert assessed.disagreement_bits.max() > 1e-4
    np.testing.assert_allclose(assessed.classes.sum(axis=0), 1, atol=1e-5)


def test_heads_that_say_opposite_things_disagree_by_one_bit() -> None:
    sure = np.array([[[1.0]], [[0.0]]], np.float32)
    undecided = np.full((2, 1, 1), 0.5, np.float32)
    flat = np.zeros((1, 1), np.float32)
    assert HeadMaps(sure, sure, flat, flat).disagreement_bits[0, 0] == pytest.approx(1.0)
    assert HeadMaps(undecided, undecided, flat, flat).disagreement_bits[0, 0] == pytest.approx(0.0)


def test_several_classes_add_up_and_the_first_is_background() -> None:
    options = NetworkOptions(kind="objects", object_px=9.0, classes=("nothing", "cell", "debris"), heads=2)
    outputs = np.random.default_rng(0).normal(size=(options.outputs, 8, 8)).astype(np.float32)
    maps = head_maps(outputs, options)
    assert maps.classes.shape == (3, 8, 8)
    np.testing.assert_allclose(maps.classes.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(maps.foreground, 1 - maps.classes[0], atol=1e-6)
    hot = head_maps(outputs, options.replace(temperature=100.0))
    assert np.ptp(hot.classes) < np.ptp(maps.classes)


def test_an_object_without_a_centre_is_still_an_object() -> None:
    options = NetworkOptions(kind="objects", object_px=9.0, heads=1)
    outputs = np.full((3, 32, 32), -9.0, np.float32)
    outputs[:2, 10:20, 10:20] = 9.0
    assert instances(head_maps(outputs, options), options).max() == 1
    outputs[:2, 25, 25] = 9.0  # a speck
    assert instances(head_maps(outputs, options), options).max() == 1


def test_weights_of_a_file_are_found_from_the_configurations_folder(tmp_path: Path) -> None:
    write_weights(fresh_weights(pixel_size_m=PIXEL_M), tmp_path / "own.safetensors")
    made = SmallUNetSegmenter.from_options(
        SmallUNetSegmenter.Options(weights=str(tmp_path / "own.safetensors")), resources()
    )
    assert made.network_options.object_px == 9.0
    assert made.step(frame(np.ones((10, 10))), None).labels.shape == (10, 10)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [("nuclei", "neither one of spots, cells"), ("none.safetensors", "cannot be read")],
)
def test_weights_that_are_not_there_are_a_configuration_error(weights: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        segmenter(weights=weights)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    right = fresh_weights()
    card = right.card.replace(options={**right.card.options, "width": 12})
    write_weights(Weights(right.data, card), tmp_path / "own.safetensors")
    with pytest.raises(ConfigurationError, match="of another network"):
        segmenter(weights=str(tmp_path / "own.safetensors"))


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    value=st.sampled_from([0.0, 1e-3, 1.0, 65535.0, 1e12, 1e30, float("nan"), float("inf")]),
    is_denoised=st.booleans(),
    pixel_size_m=st.sampled_from([2e-9, 20e-9, 0.5e-6, 1e-4]),
)
def test_frames_of_any_shape_and_level_give_a_sound_answer(
    shape: tuple[int, int], value: float, is_denoised: bool, pixel_size_m: float
) -> None:
    image = np.where(np.random.default_rng(0).random(shape) < 0.5, value, 0.0)
    newest = frame(image, pixel_size_m)
    denoised = Denoised(image.astype(np.float32), np.zeros(shape, np.float32), 0) if is_denoised else None
    found = SHARED.step(newest, denoised)
    assert found.labels.shape == found.probability.shape == found.uncertainty.shape == shape
    for result in (found.probability, found.uncertainty):
        assert np.all((result >= 0) & (result <= 1))
    assert set(np.unique(found.labels)) - {0} == set(range(1, int(found.labels.max()) + 1))


SHARED = segmenter()


@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    new=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
@settings(deadline=None, max_examples=40)
def test_resampling_keeps_every_photon(shape: tuple[int, int], new: tuple[int, int]) -> None:
    photons = np.random.default_rng(0).poisson(3.0, shape)
    resampled = photons_resampled(photons, new)
    assert resampled.shape == new
    assert np.all(resampled >= 0)
    assert resampled.sum() == pytest.approx(photons.sum(), rel=1e-5)


def test_whole_multiples_of_a_pixel_hold_the_sum_of_their_pixels() -> None:
    photons = np.random.default_rng(0).poisson(3.0, (12, 9))
    np.testing.assert_array_equal(
        photons_resampled(photons, (4, 3)), photons.reshape(4, 3, 3, 3).sum(axis=(1, 3))
    )


def test_maps_and_labels_come_back_to_where_they_were() -> None:
    y, x = np.mgrid[:24, :24]
    labels = ((np.hypot(y - 8, x - 8) < 5) + 2 * (np.hypot(y - 17, x - 17) < 4)).astype(np.int32)
    large = labels_resampled(labels, (72, 72))
    np.testing.assert_array_equal(labels_resampled(large, (24, 24)), labels)
    np.testing.assert_array_equal(map_resampled(labels.astype(np.float32), (24, 24)), labels)
    lost = labels_resampled(np.array([[1, 2, 3, 4, 5, 6, 7, 8]], np.int32), (1, 3))
    assert set(np.unique(lost)) == {1, 2, 3}


def test_an_image_that_would_be_made_too_large_is_refused_with_the_way_out() -> None:
    size_m = 2048 * 80e-9
    scan = CONFOCAL.replace(
        pixel_size_m=80e-9, region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(size_m, size_m))
    )
    frame = Frame(np.zeros((2048, 2048), np.uint8), scan, 0, 0.0)
    with pytest.raises(MemoryError, match="object_size_m"):
        segmenter(object_size_m=60e-9).step(frame, None)
