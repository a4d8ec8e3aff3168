from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from controller.denoising.photon_transfer import (
    PhotonTransfer,
    estimate_photon_transfer,
    find_photon_transfer,
)

Stack = NDArray[Any]

SIZE = 128


def expected_photons(
    rng: np.random.Generator, *, frames: int = 16, dark: float = 0.2, peak: float = 8.0, shake: float = 0.0
) -> Stack:
    """Return spots on a haze, (t, y, x), that shake by so many pixels from frame to frame."""
    points = np.zeros((SIZE, SIZE))
    points[tuple(rng.integers(0, SIZE, (2, 110)))] = rng.random(110)
    spots = ndimage.gaussian_filter(points, 1.5)
    haze = ndimage.gaussian_filter(rng.random((SIZE, SIZE)), 8)
    haze = (haze - haze.min()) / np.ptp(haze)
    image = dark + peak * (0.7 * spots / np.quantile(spots, 0.999) + 0.3 * haze)
    moved = [
        ndimage.shift(image, rng.normal(0, shake, 2), order=1, mode="nearest") if shake else image
        for _ in range(frames)
    ]
    return np.array(moved)


def camera(rng: np.random.Generator, photons: Stack, gain: float = 2.1, read: float = 3.0) -> Stack:
    """Return what an sCMOS camera writes: offset 100."""
    signal = gain * rng.poisson(photons) + 100 + read * rng.standard_normal(photons.shape)
    return np.round(signal).astype(np.uint16)


def photomultiplier(rng: np.random.Generator, photons: Stack, shared: float = 0.0) -> Stack:
    """Return pulses of mean 100 with an excess noise factor of 1.23, offset 200, shared along x."""
    shape = 1 / 0.23
    counts = rng.poisson(photons)
    pulses = rng.gamma(np.maximum(counts, 1e-9) * shape) / shape * (counts > 0)
    pulses = ndimage.correlate1d(pulses, [shared, 1 - 2 * shared, shared], axis=-1)
    signal = 100 * pulses + 200 + 2.7 * rng.standard_normal(photons.shape)
    return np.round(signal).astype(np.uint16)


def found(frames: Stack) -> PhotonTransfer:
    transfer = estimate_photon_transfer(frames)
    assert transfer is not None
    return transfer


@pytest.mark.parametrize("frames", [1, 8, 32])
@pytest.mark.parametrize(("dark", "peak"), [(0.2, 8.0), (50.0, 30.0), (1.0, 0.0)])
def test_photon_counts_are_known_as_such(frames: int, dark: float, peak: float) -> None:
    rng = np.random.default_rng(1)
    transfer = found(rng.poisson(expected_photons(rng, frames=frames, dark=dark, peak=peak)))
    assert (transfer.trust, transfer.units_per_photon, transfer.offset_units) == ("counts", 1.0, 0.0)


def test_a_hundredth_of_a_photon_is_enough_in_eight_frames() -> None:
    photons = np.random.default_rng(2).poisson(np.full((8, SIZE, SIZE), 0.01))
    assert found(photons).trust == "counts"


def test_counts_in_steps_of_four_above_an_offset_become_whole_photons_again() -> None:
    rng = np.random.default_rng(3)
    photons = rng.poisson(expected_photons(rng))
    transfer = found((4 * photons + 32768).astype(np.uint16))
    assert transfer.trust == "counts"
    assert np.array_equal(transfer.as_photons((4 * photons + 32768).astype(np.uint16)), photons)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("frames", "within"), [(1, 0.25), (8, 0.08), (32, 0.05)])
def test_the_gain_of_a_camera_is_found(seed: int, frames: int, within: float) -> None:
    rng = np.random.default_rng(seed)
    transfer = found(camera(rng, expected_photons(rng, frames=frames, peak=40.0)))
    assert transfer.units_per_photon == pytest.approx(2.1, rel=within)
    assert transfer.trust in {"line", "gain only"}
    assert max(abs(transfer.correlation_y), abs(transfer.correlation_x)) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_at_any_light_is_right_even_where_the_offset_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    transfer = found(camera(rng, expected_photons(rng, dark=20.0, peak=40.0)))
    for photons in (25.0, 40.0):
        mean = 100 + 2.1 * photons
        predicted = transfer.units_per_photon * (mean - transfer.offset_units) + transfer.read_noise_units**2
        assert predicted == pytest.approx(2.1**2 * photons + 9, rel=0.06)
    assert transfer.trust == "gain only"  # nothing in it is dark


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("frames", "within"), [(1, 0.25), (8, 0.06), (32, 0.03)])
def test_a_photomultiplier_is_found_with_its_excess_noise_and_offset(
    seed: int, frames: int, within: float
) -> None:
    rng = np.random.default_rng(seed)
    transfer = found(photomultiplier(rng, expected_photons(rng, frames=frames, dark=0.05, peak=4.0)))
    assert transfer.units_per_photon == pytest.approx(123, rel=within)
    assert transfer.offset_units == pytest.approx(200, abs=62)  # half a photon


@pytest.mark.parametrize("frames", [1, 16])
def test_noise_shared_along_the_line_is_measured(frames: int) -> None:
    rng = np.random.default_rng(5)
    transfer = found(photomultiplier(rng, expected_photons(rng, frames=frames, peak=4.0), shared=0.1))
    # [0.1, 0.8, 0.1]: 0.16 of 0.66 at lag 1, 0.01 at lag 2
    assert transfer.correlation_x == pytest.approx(0.16 / 0.66, abs=0.04)
    assert abs(transfer.correlation_y) < 0.08
    assert (transfer.reach_y, transfer.reach_x) == (0, 1)


def test_noise_shared_between_lines_is_measured() -> None:
    rng = np.random.default_rng(6)
    light = camera(rng, expected_photons(rng, peak=40.0)).astype(float)
    transfer = found(0.5 * (light + np.roll(light, 1, axis=1)))
    assert transfer.correlation_y == pytest.approx(0.5, abs=0.04)
    assert (transfer.reach_y, transfer.reach_x) == (1, 0)


@pytest.mark.parametrize("shake", [0.2, 0.5])
def test_motion_is_not_taken_for_noise(shake: float) -> None:
    rng = np.random.default_rng(7)
    moving = expected_photons(rng, peak=40.0, shake=shake)
    transfer = found(camera(rng, moving))
    assert transfer.units_per_photon == pytest.approx(2.1, rel=0.15)
    assert max(transfer.correlation_y, transfer.correlation_x) < 0.1
    assert found(rng.poisson(moving)).trust == "counts"


def test_activity_of_a_few_frames_is_not_taken_for_noise() -> None:
    rng = np.random.default_rng(8)
    photons = expected_photons(rng, frames=32, peak=40.0)
    photons[10:13, 30:70, 30:70] *= 3
    assert found(camera(rng, photons)).units_per_photon == pytest.approx(2.1, rel=0.08)


@pytest.mark.parametrize("frames", [1, 8])
@pytest.mark.parametrize("sigma", [0.7, 1.5])
def test_smoothed_frames_are_never_taken_for_independent_photons(frames: int, sigma: float) -> None:
    rng = np.random.default_rng(9)
    photons = rng.poisson(expected_photons(rng, frames=frames)).astype(float)
    transfer = found(np.round(50 * ndimage.gaussian_filter(photons, (0, sigma, sigma))))
    assert transfer.trust == "processed"
    assert min(transfer.correlation_y, transfer.correlation_x) > 0.3
    assert min(transfer.reach_y, transfer.reach_x) >= 1


def test_frames_averaged_in_time_are_known_as_processed() -> None:
    rng = np.random.default_rng(10)
    photons = rng.poisson(expected_photons(rng, frames=20)).astype(float)
    transfer = found(ndimage.uniform_filter1d(photons, 3, axis=0))
    assert transfer.trust == "processed"
    assert "successive frames" in transfer.reason


def test_noise_cut_off_in_the_dark_is_known_as_processed() -> None:
    rng = np.random.default_rng(11)
    dim = camera(rng, expected_photons(rng, dark=0.0, peak=3.0))
    assert found(np.maximum(dim, 100) - 100).trust == "processed"


def test_saturated_pixels_are_found_and_left_out() -> None:
    rng = np.random.default_rng(12)
    frames = np.minimum(camera(rng, expected_photons(rng, peak=40.0)), 150)
    transfer = found(frames)
    assert transfer.saturated_units == 150
    assert transfer.saturated_photons == pytest.approx(
        (150 - transfer.offset_units) / transfer.units_per_photon
    )
    assert transfer.units_per_photon == pytest.approx(2.1, rel=0.12)


def test_dead_hot_and_missing_pixels_change_nothing() -> None:
    rng = np.random.default_rng(13)
    frames = camera(rng, expected_photons(rng, peak=40.0)).astype(float)
    clean = found(frames)
    frames[:, *rng.integers(0, SIZE, (2, 15))] = 0
    frames[:, 5, 5] = 65535
    frames[:, 9, 9] = np.nan
    dirty = found(frames)
    assert dirty.trust == clean.trust
    assert dirty.units_per_photon == pytest.approx(clean.units_per_photon, rel=0.06)
    assert dirty.saturated_units == 65535


def test_noise_that_does_not_grow_with_light_gives_no_gain() -> None:
    rng = np.random.default_rng(14)
    photons = expected_photons(rng, peak=40.0)
    assert found(100 + photons + 4 * rng.standard_normal(photons.shape)).trust == "assumed"


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.full((4, 64, 64), 7), "same value"),
        (np.ones((3, 8, 8)) * np.arange(8), "fewer than"),
        (np.full((64, 64), np.nan), "same value"),
        (np.eye(1), "same value"),
    ],
)
def test_what_shows_no_noise_gives_none_and_a_reason(frames: Stack, reason: str) -> None:
    finding = find_photon_transfer(frames)
    assert finding.transfer is None
    assert reason in finding.reason


@pytest.mark.parametrize("frames", [np.zeros(5), np.zeros((0, 4, 4)), np.full((4, 4), "a")])
def test_what_is_no_movie_is_refused(frames: Stack) -> None:
    with pytest.raises(ValueError, match=r"\(t, y, x\)"):
        find_photon_transfer(frames)


def test_units_and_photons_convert_into_each_other_at_a_large_offset() -> None:
    transfer = PhotonTransfer(0.1, 32768.0, 0.0, 0.0, 0.0, None, "line")
    units = np.array([[32768.0, 32768.5], [32778.0, 32700.0]])
    photons = transfer.as_photons(units)
    assert photons.dtype == np.float32
    np.testing.assert_allclose(photons, [[0, 5], [100, -680]], rtol=1e-5)
    np.testing.assert_allclose(transfer.as_units(photons), units, rtol=1e-6)


@pytest.mark.parametrize(("gain", "read"), [(0.0, 1.0), (-1.0, 1.0), (np.nan, 0.0), (1.0, -1.0)])
def test_a_transfer_that_cannot_be_is_refused(gain: float, read: float) -> None:
    with pytest.raises(ValueError, match="positive gain"):
        PhotonTransfer(gain, 0.0, read, 0.0, 0.0, None, "line")


def test_a_drifting_sample_is_not_taken_for_averaged_frames() -> None:
    rng = np.random.default_rng(15)
    still = expected_photons(rng, frames=1, peak=40.0)[0]
    drifting = np.array([ndimage.shift(still, (0.4 * t, 0.3 * t), order=1, mode="wrap") for t in range(16)])
    transfer = found(camera(rng, drifting))
    assert transfer.trust in {"line", "gain only"}
    assert transfer.units_per_photon == pytest.approx(2.1, rel=0.15)


def test_a_frame_that_is_shown_again_says_nothing_new() -> None:
    frame = np.random.default_rng(0).poisson(3, (128, 128))
    alone, repeated = (find_photon_transfer(np.stack([frame] * count)) for count in (1, 8))
    assert repeated == alone
    assert repeated.transfer is not None
