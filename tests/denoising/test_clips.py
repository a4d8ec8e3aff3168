import numpy as np
import pytest

from controller.denoising.averages import MovingAverages
from controller.denoising.clips import Clip, level_of, patch
from controller.denoising.corruption import PhotonThinning

TAUS = (2.0, 6.0)
ALL = (slice(None), slice(None))


def movie(count: int = 12, mean: float = 4.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).poisson(mean, (count, 24, 32)).astype(np.float32)


def test_the_past_of_a_frame_does_not_hold_the_frame() -> None:
    photons = movie()
    later = photons.copy()
    later[7:] = 1000
    one, other = (Clip(m, TAUS, PhotonThinning()) for m in (photons, later))
    assert (one.past[:8] == other.past[:8]).all(), "frame 7 itself is only in the past of frame 8"
    assert (one.past[8] != other.past[8]).any()


def test_the_past_is_what_the_denoiser_remembers() -> None:
    photons = movie()
    averages = MovingAverages(TAUS, (24, 32))
    clip = Clip(photons, TAUS, PhotonThinning())
    for index, frame in enumerate(photons):
        assert (clip.past[index] == averages.images).all()
        assert (clip.variances[index] == averages.variances).all()
        averages.add(frame)


def test_an_example_is_half_the_photons_to_predict_the_other_half_from() -> None:
    photons = movie()
    clip = Clip(photons, TAUS, PhotonThinning(lowest_share=0.5, highest_share=0.5))
    example = clip.example(5, ALL, np.random.default_rng(1))
    source, target = example.images[0] * example.scale, example.target * example.scale
    np.testing.assert_allclose((source + target) / 2, photons[5], atol=1e-4)
    assert abs(np.corrcoef(source.ravel(), target.ravel())[0, 1]) < 0.1
    assert example.scale == pytest.approx(level_of(float(clip.past[6][-1].mean()), 0.0), rel=1e-5)
    assert example.source_noise == 2.0
    # Half the photons, scaled to all of them, have twice the variance.
    spread = example.target_variance.mean() * example.scale**2
    assert spread == pytest.approx(2 * 4.0, rel=0.1)
    assert example.conditions[0] > clip.whole(5, ALL).conditions[0]


def test_simulated_movies_are_learned_from_their_truth() -> None:
    photons = movie()
    truth = np.full_like(photons, 4.0)
    example = Clip(photons, TAUS, PhotonThinning(), truth=truth).example(3, ALL, np.random.default_rng(2))
    np.testing.assert_allclose(example.target * example.scale, 4.0, rtol=1e-5)
    np.testing.assert_allclose(example.images[0] * example.scale, photons[3], rtol=1e-5)


def test_what_comes_first_shares_memory_and_ends_where_it_was_told() -> None:
    clip = Clip(movie(), TAUS, PhotonThinning())
    first = clip.until(9)
    assert len(first) == 9
    assert np.shares_memory(first.past, clip.past)


def test_turned_and_mirrored_patches_stay_together() -> None:
    photons = np.arange(12 * 24 * 32, dtype=np.float32).reshape(12, 24, 32)
    clip = Clip(photons, TAUS, PhotonThinning(), truth=photons)
    rng = np.random.default_rng(3)
    turned = set()
    for _ in range(16):
        example = patch(clip, 8, rng)
        np.testing.assert_allclose(example.images[0], example.target, rtol=1e-5)
        steps = np.round(example.scale * (example.target[0, 1] - example.target[0, 0]))
        turned.add(float(steps))
    assert turned == {1.0, -1.0, 32.0, -32.0}


@pytest.mark.parametrize(
    ("mean", "read_variance", "level"), [(3.0, 1.0, 3.0), (-1.0, 16.0, 1.0), (0, 0, 1e-3)]
)
def test_next_to_no_light_is_not_divided_by(mean: float, read_variance: float, level: float) -> None:
    assert level_of(mean, read_variance) == pytest.approx(level)
