import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from controller.core.frame import Denoised, Frame
from controller.core.protocols import Plugin, Segmenter
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.segmentation.objects import ThresholdWatershedSegmenter
from tests.support import frame_of

DIAMETER = 20
PIXEL_M = 0.5e-6


def frame(photons: object, pixel_size_m: float = PIXEL_M) -> Frame:
    return frame_of(photons, pixel_size_m)


def discs(size: int = 160) -> NDArray[np.int64]:
    """Return the labels of 16 discs, two of which touch."""
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int64)
    places = [(row, column) for row in range(20, size, 40) for column in range(20, size, 40)]
    places[1] = (20, 39)
    for number, (row, column) in enumerate(places, 1):
        labels[np.hypot(y - row, x - column) <= DIAMETER / 2] = number
    return labels


def found_fraction(labels: NDArray[np.int32], truth: NDArray[np.int64]) -> float:
    """Return true / (true + false + missed) objects at an overlap (IoU) above one half."""
    counts = np.zeros((labels.max() + 1, truth.max() + 1))
    np.add.at(counts, (labels.ravel(), truth.ravel()), 1)
    union = counts.sum(1)[:, None] + counts.sum(0)[None] - counts
    hits = int(np.count_nonzero((counts / np.maximum(union, 1))[1:, 1:] > 0.5))
    objects = int(labels.max()) + int(truth.max())
    return hits / max(objects - hits, 1)


def segmenter() -> ThresholdWatershedSegmenter:
    options = ThresholdWatershedSegmenter.Options(object_size_m=DIAMETER * PIXEL_M)
    return ThresholdWatershedSegmenter(options)


def test_it_is_a_plugin_and_a_segmenter() -> None:
    plugin: object = ThresholdWatershedSegmenter
    assert isinstance(plugin, Plugin)
    assert isinstance(segmenter(), Segmenter)


@pytest.mark.parametrize(("bright", "dark", "least"), [(100, 10, 1.0), (10, 1, 0.95), (3, 0.5, 0.8)])
def test_discs_are_found_and_touching_ones_divided(bright: float, dark: float, least: float) -> None:
    truth = discs()
    photons = np.random.default_rng(0).poisson(np.where(truth > 0, bright, dark))
    assert found_fraction(segmenter().step(frame(photons), None).labels, truth) >= least


def test_discs_are_found_in_the_denoised_image() -> None:
    truth = discs()
    newest = frame(np.random.default_rng(1).poisson(np.where(truth > 0, 5.0, 0.5)))
    found = segmenter().step(newest, AdaptiveKalmanDenoiser().step(newest))
    assert found_fraction(found.labels, truth) >= 0.8


def test_the_object_size_is_in_metres_so_the_sampling_may_change() -> None:
    truth = discs()[::2, ::2]
    photons = np.random.default_rng(2).poisson(np.where(truth > 0, 30, 3))
    assert found_fraction(segmenter().step(frame(photons, 2 * PIXEL_M), None).labels, truth) >= 0.9


def test_light_that_falls_off_across_the_frame_hides_no_objects() -> None:
    truth = discs()
    slope = np.linspace(1.0, 0.35, 160)[None, :]
    photons = np.random.default_rng(3).poisson(np.where(truth > 0, 100, 15) * slope)
    assert found_fraction(segmenter().step(frame(photons), None).labels, truth) >= 0.9


@pytest.mark.parametrize("level", [0.01, 0.3, 3.0, 100.0, 10000.0])
def test_noise_alone_gives_nearly_no_objects_at_any_photon_level(level: float) -> None:
    objects = 0
    for seed in range(3):
        found = segmenter().step(frame(np.random.default_rng(seed).poisson(level, (160, 160))), None)
        objects += int(found.labels.max())
        assert np.mean(found.probability) < 0.1
    assert objects <= 1


def test_the_edge_is_less_sure_than_the_inside() -> None:
    truth = discs()
    photons = np.random.default_rng(4).poisson(np.where(truth > 0, 20, 2))
    found = segmenter().step(frame(photons), None)
    y, x = np.mgrid[:160, :160]
    distance = np.hypot(y - 140, x - 140)
    assert found.uncertainty[distance < 5].mean() < 0.1
    assert found.uncertainty[np.abs(distance - 10) < 1.5].mean() > 0.2


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    value=st.sampled_from([0.0, 1e-3, 1.0, 65535.0, 1e12, 1e30]),
    is_noisy=st.booleans(),
    is_denoised=st.booleans(),
    pixel_size_m=st.sampled_from([20e-9, 0.5e-6, 1e-4]),
)
def test_frames_of_any_shape_and_level_give_a_sound_answer(
    shape: tuple[int, int], value: float, is_noisy: bool, is_denoised: bool, pixel_size_m: float
) -> None:
    image = np.full(shape, value) * (np.random.default_rng(0).random(shape) < 0.5 if is_noisy else 1)
    newest = frame(image, pixel_size_m)
    denoised = Denoised(image.astype(np.float32), np.zeros(shape, np.float32), 0) if is_denoised else None
    found = segmenter().step(newest, denoised)
    assert found.labels.shape == found.probability.shape == found.uncertainty.shape == shape
    for result in (found.probability, found.uncertainty):
        assert np.all((result >= 0) & (result <= 1))
    np.testing.assert_array_equal(found.labels, segmenter().step(newest, denoised).labels)
    if not is_noisy:
        assert found.labels.max() == 0
