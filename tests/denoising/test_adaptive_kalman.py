from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from controller.core.errors import DeviceError
from controller.core.frame import Frame
from controller.core.protocols import Denoiser, Plugin
from controller.core.settings import Region, ScanSettings
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.testing import resources

Image = NDArray[np.float64]

SCAN = ScanSettings(
    modality="two_photon",
    region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(1e-4, 1e-4)),
    pixel_size_m=1e-6,
    dwell_s=1e-6,
    excitation_w=1e-2,
)


def frame(photons: object, index: int = 0, scan: ScanSettings = SCAN) -> Frame:
    return Frame(np.asarray(photons), scan, index, 0.0)


def calcium_movie(seed: int, frames: int = 50, size: int = 96) -> Image:
    """Return the expected photons of a movie (t, y, x): rings that flash, filaments, neuropil."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size].astype(float)
    ground = ndimage.gaussian_filter(rng.random((size, size)), 6)
    ground = 0.7 + 0.6 * (ground - ground.min()) / np.ptp(ground)
    lines = np.zeros((size, size))
    for row in rng.integers(0, size, 4):
        lines[(row + np.round(4 * np.sin(np.arange(size) / 9)).astype(int)) % size, np.arange(size)] = 1
    ground += 1.5 * ndimage.gaussian_filter(lines, 0.8)
    time = np.arange(40)
    kernel = (1 - np.exp(-time / 2)) * np.exp(-time / 14)
    movie = np.repeat(ground[None], frames, axis=0)
    for _ in range(9):
        center, radius = rng.random(2) * size, rng.uniform(5, 8)
        distance = np.hypot(y - center[0], x - center[1])
        ring = np.exp(-0.5 * ((distance - radius) / 1.6) ** 2) + 0.35 * (distance < radius)
        spikes = (rng.random(frames) < 0.02) * rng.uniform(1, 3, frames)
        movie += (0.5 + np.convolve(spikes, kernel)[:frames])[:, None, None] * ring
    moved = [ndimage.shift(image, rng.normal(0, 0.2, 2), order=1, mode="nearest") for image in movie]
    truth = np.maximum(ndimage.gaussian_filter(moved, (0, 1, 1)), 0.02)
    return np.asarray(truth * 1.4 / truth.mean())


def psnr_db(estimate: object, truth: Image) -> float:
    error = np.mean((np.asarray(estimate) - truth) ** 2)
    return float(10 * np.log10(np.percentile(truth, 99.9) ** 2 / error))


def best_gaussian_gain_db(noisy: Image, truth: Image) -> float:
    raw = np.mean((noisy - truth) ** 2)
    errors = [np.mean((ndimage.gaussian_filter(noisy, s) - truth) ** 2) for s in (0.7, 1, 1.5, 2, 2.5, 3)]
    return float(10 * np.log10(raw / min(errors)))


def test_it_is_a_plugin_and_a_denoiser() -> None:
    plugin: object = AdaptiveKalmanDenoiser
    assert isinstance(plugin, Plugin)
    options = AdaptiveKalmanDenoiser.Options()
    assert isinstance(AdaptiveKalmanDenoiser.from_options(options, resources()), Denoiser)


def test_it_beats_a_moving_average_and_gaussian_by_a_decibel_on_a_calcium_movie() -> None:
    truth = calcium_movie(0)
    noisy = np.random.default_rng(1).poisson(truth).astype(float)
    denoiser = AdaptiveKalmanDenoiser()
    estimate = [denoiser.step(frame(image, i)).mean for i, image in enumerate(noisy)]
    average, averages = noisy[0], []
    for image in noisy:
        average = average + (image - average) / 6
        averages.append(average)
    smooth = ndimage.gaussian_filter(averages[20:], (0, 1, 1))
    assert psnr_db(estimate[20:], truth[20:]) >= psnr_db(smooth, truth[20:]) + 1.0


@pytest.mark.parametrize(
    ("peak", "ground", "margin_db"), [(20.0, 0.5, 0.0), (4.0, 0.5, 0.3), (20.0, 5.0, 0.3)]
)
def test_the_first_frame_beats_the_best_gaussian_on_spots(
    peak: float, ground: float, margin_db: float
) -> None:
    rng = np.random.default_rng(3)
    points = np.zeros((160, 160))
    points[tuple(rng.integers(3, 157, (2, 25)))] = 1
    spots = ndimage.gaussian_filter(points, 1.3)
    truth = ground + peak * spots / spots.max()
    noisy = rng.poisson(truth).astype(float)
    estimate = AdaptiveKalmanDenoiser().step(frame(noisy)).mean
    gain_db = 10 * np.log10(np.mean((noisy - truth) ** 2) / np.mean((estimate - truth) ** 2))
    assert gain_db >= best_gaussian_gain_db(noisy, truth) + margin_db


def test_every_further_frame_of_a_still_region_helps() -> None:
    truth = calcium_movie(2, frames=1)[0]
    rng = np.random.default_rng(4)
    denoiser = AdaptiveKalmanDenoiser()
    errors = [np.mean((denoiser.step(frame(rng.poisson(truth), i)).mean - truth) ** 2) for i in range(10)]
    assert errors[1] < 0.9 * errors[0]
    assert errors[9] < 0.5 * errors[0]


def test_another_focus_begins_anew() -> None:
    photons = np.random.default_rng(3).poisson(3.0, (2, 32, 32))
    deeper = SCAN.replace(focus_m=10e-6)
    denoiser = AdaptiveKalmanDenoiser()
    denoiser.step(frame(photons[0]))
    fresh = AdaptiveKalmanDenoiser().step(frame(photons[1], 1, deeper)).mean
    assert np.array_equal(denoiser.step(frame(photons[1], 1, deeper)).mean, fresh)


def test_a_sudden_local_change_is_followed_at_once_and_the_rest_keeps_its_past() -> None:
    rng = np.random.default_rng(5)
    before = np.full((96, 96), 2.0)
    after = before.copy()
    after[40:56, 40:56] = 12.0
    denoiser = AdaptiveKalmanDenoiser()
    for i in range(12):
        denoiser.observe(frame(rng.poisson(before), i))
    last = frame(rng.poisson(after), 12)
    new = denoiser.step(last)
    assert abs(new.mean[44:52, 44:52].mean() - 12) < 1.5
    far = np.s_[:24, :24]
    fresh = AdaptiveKalmanDenoiser().step(last)
    assert np.mean((new.mean[far] - 2) ** 2) < 0.4 * np.mean((fresh.mean[far] - 2) ** 2)


def test_the_output_never_depends_on_a_later_frame() -> None:
    rng = np.random.default_rng(6)
    first, second = rng.poisson(3, (2, 8, 33, 20))
    second[:5] = first[:5]
    one, other = AdaptiveKalmanDenoiser(), AdaptiveKalmanDenoiser()
    for i in range(5):
        a, b = one.step(frame(first[i], i)), other.step(frame(second[i], i))
        assert a.mean.tobytes() == b.mean.tobytes()
        assert a.std.tobytes() == b.std.tobytes()
    held = a.mean.copy()
    one.step(frame(first[5], 5))
    np.testing.assert_array_equal(held, a.mean)


def test_observing_all_frames_and_asking_at_the_last_gives_what_asking_always_gives() -> None:
    images = np.random.default_rng(7).poisson(2, (6, 40, 31))
    asked, silent = AdaptiveKalmanDenoiser(), AdaptiveKalmanDenoiser()
    for i, image in enumerate(images):
        answer = asked.step(frame(image, 10 + i))
        assert answer.index == 10 + i
        if i < 5:
            silent.observe(frame(image, 10 + i))
    assert silent.step(frame(images[-1], 15)).mean.tobytes() == answer.mean.tobytes()


CHANGES: list[dict[str, Any]] = [
    {"region": Region(center_yx_m=(0.0, 1e-6), size_yx_m=(1e-4, 1e-4))},
    {"pixel_size_m": 2e-6},
    {"modality": "confocal"},
    {"modality": "sted", "sted_w": 0.01},
    {"excitation_w": 0.0},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_another_image_starts_afresh(change: dict[str, Any]) -> None:
    images = np.random.default_rng(8).poisson(3, (4, 24, 24))
    denoiser = AdaptiveKalmanDenoiser()
    for i in range(3):
        denoiser.observe(frame(images[i], i))
    scan = SCAN.replace(**change)
    fresh = AdaptiveKalmanDenoiser().step(frame(images[3], 3, scan))
    assert denoiser.step(frame(images[3], 3, scan)).mean.tobytes() == fresh.mean.tobytes()


def test_reset_and_another_shape_start_afresh() -> None:
    images = np.random.default_rng(9).poisson(3, (2, 24, 24))
    denoiser = AdaptiveKalmanDenoiser()
    denoiser.observe(frame(images[0]))
    denoiser.reset("the stage moved")
    fresh = AdaptiveKalmanDenoiser().step(frame(images[1]))
    assert denoiser.step(frame(images[1])).mean.tobytes() == fresh.mean.tobytes()
    assert denoiser.step(frame(images[0][:11])).mean.shape == (11, 24)


@pytest.mark.parametrize(("change", "factor"), [({"dwell_s": 4e-6}, 4.0), ({"excitation_w": 5e-3}, 0.25)])
def test_more_or_less_light_scales_the_past_instead_of_forgetting_it(
    change: dict[str, Any], factor: float
) -> None:
    truth = calcium_movie(3, frames=1)[0]
    rng = np.random.default_rng(10)
    denoiser = AdaptiveKalmanDenoiser()
    for i in range(12):
        denoiser.observe(frame(rng.poisson(truth), i))
    scan = SCAN.replace(**change)
    last = frame(rng.poisson(truth * factor), 12, scan)
    kept = np.mean((denoiser.step(last).mean - truth * factor) ** 2)
    fresh = np.mean((AdaptiveKalmanDenoiser().step(last).mean - truth * factor) ** 2)
    assert kept < 0.8 * fresh


def test_the_95_percent_interval_is_honest_on_simulated_truth() -> None:
    truth = calcium_movie(4)
    rng = np.random.default_rng(11)
    denoiser = AdaptiveKalmanDenoiser()
    covered = []
    for i, expected in enumerate(truth):
        answer = denoiser.step(frame(rng.poisson(expected), i))
        covered.append(np.mean(np.abs(answer.mean - expected) <= 1.96 * answer.std))
    assert covered[0] >= 0.8
    assert 0.88 <= np.mean(covered[10:]) <= 0.99


def test_detector_units_and_offset_change_nothing_but_the_unit() -> None:
    images = np.random.default_rng(12).poisson(4, (3, 32, 32))
    photons = AdaptiveKalmanDenoiser()
    units = AdaptiveKalmanDenoiser(AdaptiveKalmanDenoiser.Options(units_per_photon=16.0, offset_units=100.0))
    for i, image in enumerate(images):
        a, b = photons.step(frame(image, i)), units.step(frame(image * 16 + 100, i))
    np.testing.assert_allclose(b.mean, a.mean * 16 + 100, rtol=1e-5)
    np.testing.assert_allclose(b.std, a.std * 16, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    value=st.sampled_from([0.0, 0.01, 1.0, 65535.0, 4294967295.0, 1e12]),
    is_noisy=st.booleans(),
    dtype=st.sampled_from(["float32", "float64", "uint64"]),
)
def test_frames_of_any_shape_and_level_give_finite_estimates(
    shape: tuple[int, int], value: float, is_noisy: bool, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    denoiser = AdaptiveKalmanDenoiser()
    for i in range(3):
        image = np.full(shape, value) * (rng.random(shape) < 0.5 if is_noisy else 1)
        answer = denoiser.step(frame(image.astype(dtype), i))
        for result in (answer.mean, answer.std):
            assert result.shape == shape
            assert result.dtype == np.float32
            assert np.all(np.isfinite(result))
            assert np.all(result >= 0)
        assert np.all(answer.std > 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e13])
def test_what_is_no_photon_count_is_refused_and_the_past_survives(bad: float) -> None:
    images = np.random.default_rng(13).poisson(3.0, (2, 16, 16)).astype(float)
    denoiser, untouched = AdaptiveKalmanDenoiser(), AdaptiveKalmanDenoiser()
    denoiser.observe(frame(images[0]))
    untouched.observe(frame(images[0]))
    broken = images[0].copy()
    broken[3, 4] = bad
    with pytest.raises(DeviceError, match="1 of 256 pixels"):
        denoiser.step(frame(broken, 1))
    expected = untouched.step(frame(images[1], 2)).mean
    assert denoiser.step(frame(images[1], 2)).mean.tobytes() == expected.tobytes()
