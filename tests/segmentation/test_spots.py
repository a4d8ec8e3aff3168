from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, optimize

from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import Plugin, Segmenter
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.denoising.raw import RawDenoiser
from controller.segmentation.spots import LogSpotSegmenter, WaveletSpotSegmenter
from tests.support import frame_of

Method = type[LogSpotSegmenter] | type[WaveletSpotSegmenter]
METHODS: list[Method] = [LogSpotSegmenter, WaveletSpotSegmenter]
PIXEL_M = 20e-9
SIGMA_PIXELS = 1.3
FWHM_M = 2.355 * SIGMA_PIXELS * PIXEL_M


def frame(photons: object, pixel_size_m: float = PIXEL_M) -> Frame:
    return frame_of(photons, pixel_size_m)


def spots(
    rng: np.random.Generator, peak: float, count: int = 30, size: int = 180, sigma: float = SIGMA_PIXELS
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return an image of ``count`` spots on half a photon of background, and their places (y, x)."""
    places = rng.uniform(4, size - 4, (count, 2))
    y, x = np.mgrid[:size, :size]
    image = np.full((size, size), 0.5)
    for row, column in places:
        image += peak * np.exp(-0.5 * ((y - row) ** 2 + (x - column) ** 2) / sigma**2)
    return rng.poisson(image), places


def f1(found: Segmentation, places: NDArray[np.float64], tolerance: float = 2.0) -> float:
    count = int(found.labels.max())
    if count == 0:
        return 0.0
    centers = np.array(ndimage.center_of_mass(found.probability, found.labels, np.arange(1, count + 1)))
    distance = np.linalg.norm(centers[:, None] - places[None], axis=2)
    rows, columns = optimize.linear_sum_assignment(np.minimum(distance, 2 * tolerance))
    hits = np.count_nonzero(distance[rows, columns] <= tolerance)
    return float(2 * hits / (count + len(places)))


def segmenter(method: Method, **options: Any) -> Segmenter:
    options = {"spot_size_m": FWHM_M, **options}
    if method is WaveletSpotSegmenter:
        return WaveletSpotSegmenter(WaveletSpotSegmenter.Options(**options))
    return LogSpotSegmenter(LogSpotSegmenter.Options(**options))


@pytest.mark.parametrize("method", METHODS)
def test_it_is_a_plugin_and_a_segmenter(method: Method) -> None:
    plugin: object = method
    assert isinstance(plugin, Plugin)
    assert isinstance(segmenter(method), Segmenter)


@pytest.mark.parametrize(
    ("method", "peak", "least"),
    [
        (LogSpotSegmenter, 20, 0.95),
        (LogSpotSegmenter, 8, 0.95),
        (LogSpotSegmenter, 4, 0.85),
        (WaveletSpotSegmenter, 20, 0.94),
        (WaveletSpotSegmenter, 8, 0.92),
        (WaveletSpotSegmenter, 4, 0.88),
        (WaveletSpotSegmenter, 2, 0.65),
    ],
)
def test_spots_are_found_down_to_few_photons(method: Method, peak: float, least: float) -> None:
    scores = []
    for seed in range(3):
        photons, places = spots(np.random.default_rng(seed), peak)
        scores.append(f1(segmenter(method).step(frame(photons), None), places))
    assert np.median(scores) >= least


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", [0.01, 0.1, 1.0, 10.0, 1000.0])
def test_noise_alone_gives_nearly_no_objects_at_any_photon_level(method: Method, level: float) -> None:
    objects = 0
    for seed in range(3):
        photons = np.random.default_rng(seed).poisson(level, (128, 128))
        found = segmenter(method).step(frame(photons), None)
        objects += int(found.labels.max())
        assert np.mean(found.probability) < 0.2
        assert np.mean(found.probability > 0.5) < 1e-3
    assert objects <= 5


@pytest.mark.parametrize("method", METHODS)
def test_noise_after_the_denoiser_gives_nearly_no_objects(
    method: Method,
) -> None:
    rng = np.random.default_rng(0)
    denoiser = AdaptiveKalmanDenoiser()
    for _ in range(6):
        newest = frame(rng.poisson(2.0, (128, 128)))
        found = segmenter(method).step(newest, denoiser.step(newest))
        assert found.labels.max() <= 2


@pytest.mark.parametrize("method", METHODS)
def test_the_raw_denoiser_changes_nothing_and_a_better_one_helps_over_time(
    method: Method,
) -> None:
    rng = np.random.default_rng(1)
    photons, places = spots(rng, 3)
    first = frame(photons)
    plain = segmenter(method).step(first, None)
    np.testing.assert_array_equal(
        segmenter(method).step(first, RawDenoiser().step(first)).labels, plain.labels
    )
    truth = np.full((180, 180), 0.5)
    y, x = np.mgrid[:180, :180]
    for row, column in places:
        truth += 2 * np.exp(-0.5 * ((y - row) ** 2 + (x - column) ** 2) / SIGMA_PIXELS**2)
    denoiser = AdaptiveKalmanDenoiser()
    frames = [frame(rng.poisson(truth)) for _ in range(10)]
    answers = [denoiser.step(one) for one in frames]
    alone = f1(segmenter(method).step(frames[-1], None), places)
    together = f1(segmenter(method).step(frames[-1], answers[-1]), places)
    assert together > alone
    assert together > 0.85


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_spot_size_is_in_metres_so_the_sampling_may_change(method: Method, factor: float) -> None:
    sigma = SIGMA_PIXELS / factor
    photons, places = spots(np.random.default_rng(2), 30, count=15, sigma=sigma)
    found = segmenter(method).step(frame(photons, PIXEL_M * factor), None)
    assert f1(found, places) > 0.85


@pytest.mark.parametrize("method", METHODS)
def test_detector_units_change_nothing(method: Method) -> None:
    photons, _ = spots(np.random.default_rng(3), 8, size=80, count=6)
    counted = segmenter(method).step(frame(photons), None)
    units = segmenter(method, units_per_photon=255.0, offset_units=90.0)
    np.testing.assert_array_equal(units.step(frame(photons * 255.0 + 90.0), None).labels, counted.labels)


def test_touching_spots_are_two() -> None:
    y, x = np.mgrid[:40, :40]
    image = np.full((40, 40), 0.5)
    for column in (17, 22):
        image += 100 * np.exp(-0.5 * ((y - 20) ** 2 + (x - column) ** 2) / SIGMA_PIXELS**2)
    found = segmenter(LogSpotSegmenter).step(frame(np.random.default_rng(4).poisson(image)), None)
    assert found.labels[20, 17] != found.labels[20, 22]
    assert found.labels[20, 17] * found.labels[20, 22] > 0


@settings(deadline=None, max_examples=30)
@given(
    method=st.sampled_from(METHODS),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    value=st.sampled_from([0.0, 1e-3, 1.0, 65535.0, 1e12, 1e30]),
    is_noisy=st.booleans(),
    is_denoised=st.booleans(),
    pixel_size_m=st.sampled_from([1e-9, 20e-9, 1e-6]),
)
def test_frames_of_any_shape_and_level_give_a_sound_answer(  # noqa: PLR0917 - hypothesis fills them
    method: Method,
    shape: tuple[int, int],
    value: float,
    is_noisy: bool,
    is_denoised: bool,
    pixel_size_m: float,
) -> None:
    image = np.full(shape, value) * (np.random.default_rng(0).random(shape) < 0.5 if is_noisy else 1)
    newest = frame(image, pixel_size_m)
    denoised = Denoised(image.astype(np.float32), np.zeros(shape, np.float32), 0) if is_denoised else None
    found = segmenter(method).step(newest, denoised)
    again = segmenter(method).step(newest, denoised)
    assert found.labels.dtype == np.int32
    for result in (found.probability, found.uncertainty):
        assert result.dtype == np.float32
        assert np.all((result >= 0) & (result <= 1))
    assert found.labels.shape == found.probability.shape == found.uncertainty.shape == shape
    assert np.all(found.probability[found.labels > 0] >= 0.5)
    np.testing.assert_array_equal(found.labels, again.labels)
    if not is_noisy:
        assert found.labels.max() == 0
