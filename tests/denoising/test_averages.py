import numpy as np
import pytest

from controller.denoising.averages import MovingAverages

TAUS = (2.0, 6.0, 20.0)


def test_until_its_time_constant_an_average_is_the_plain_mean() -> None:
    frames = np.random.default_rng(0).poisson(3, (6, 5, 4)).astype(np.float32)
    averages = MovingAverages(TAUS, (5, 4))
    assert np.isinf(averages.variances).all()
    for frame in frames:
        averages.add(frame)
    for number in (1, 2):
        np.testing.assert_allclose(averages.images[number], frames.mean(0), rtol=1e-5)
        assert averages.variances[number] == pytest.approx(1 / 6)
    assert np.abs(averages.images[0] - frames.mean(0)).max() > 0.1


@pytest.mark.parametrize("count", [1, 3, 15, 60])
def test_the_variance_that_is_left_is_what_a_simulation_finds(count: int) -> None:
    frames = np.random.default_rng(1).normal(10, 2, (count, 100, 100)).astype(np.float32)
    averages = MovingAverages(TAUS, (100, 100))
    for frame in frames:
        averages.add(frame)
    np.testing.assert_allclose(averages.images.var(axis=(1, 2)) / 4, averages.variances, rtol=0.06)


def test_scaled_averages_are_those_of_frames_with_more_light() -> None:
    dim = np.random.default_rng(2).poisson(40, (8, 100, 100)).astype(np.float32)
    averages = MovingAverages(TAUS, (100, 100))
    for frame in dim:
        averages.add(frame)
    averages.scale(4.0)
    assert averages.images[2].mean() == pytest.approx(160, rel=0.01)
    # A frame of 160 photons has a variance of 160.
    np.testing.assert_allclose(averages.images.var(axis=(1, 2)) / 160, averages.variances, rtol=0.06)


def test_converted_averages_are_those_of_converted_frames() -> None:
    frames = np.random.default_rng(3).poisson(5, (4, 8, 8)).astype(np.float32)
    one, other = MovingAverages(TAUS, (8, 8)), MovingAverages(TAUS, (8, 8))
    for frame in frames:
        one.add(frame)
        other.add(2 * frame - 3)
    one.convert(2.0, -3.0)
    np.testing.assert_allclose(one.images, other.images, rtol=1e-4)
    assert (one.variances == other.variances).all()


def test_the_mean_with_the_next_frame_is_known_before_it_is_added() -> None:
    averages = MovingAverages(TAUS, (6, 6))
    for frame in np.random.default_rng(4).poisson(5, (30, 6, 6)).astype(np.float32):
        foretold = averages.mean_with(frame)
        averages.add(frame)
        assert foretold == pytest.approx(float(averages.images[-1].mean()), rel=1e-5)
