from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from controller.denoising.blind_masks import BlindSpotMask, LineThinning, StructuredMask
from controller.denoising.corruption import (
    PhotonThinning,
    Recorruption,
    choose_corruption,
    split_photons,
)
from controller.denoising.photon_transfer import PhotonTransfer, Trust, estimate_photon_transfer
from controller.denoising.training_pair import Corruption

Images = NDArray[Any]
Noise = Callable[[Images, np.random.Generator], Images]

READ_PHOTONS = 1.4


@cache
def truth(seed: int, frames: int = 24, size: int = 64, mean: float = 8.0) -> Images:
    """Return expected photons (t, y, x): spots and filaments on a haze, another field in each."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(frames):
        points = np.zeros((size, size))
        points[tuple(rng.integers(0, size, (2, size * size // 100)))] = 1
        spots = ndimage.gaussian_filter(points, 1.3)
        haze = ndimage.gaussian_filter(rng.random((size, size)), 5)
        images.append(0.2 + spots / spots.max() + (haze - haze.min()) / np.ptp(haze))
    return np.asarray(np.array(images) * mean / np.mean(images))


def counted(photons: Images, rng: np.random.Generator) -> Images:
    return rng.poisson(photons)


def counted_with_afterpulses(photons: Images, rng: np.random.Generator) -> Images:
    """Return counts of which each is followed by another one in the next pixel, with a chance of 0.4."""
    counts = rng.poisson(photons / 1.4)
    return np.asarray(counts + np.roll(rng.binomial(counts, 0.4), 1, -1))


def camera(photons: Images, rng: np.random.Generator) -> Images:
    """Return an sCMOS in photons; the read noise differs from pixel to pixel by a fifth."""
    spread = 1 + 0.2 * rng.standard_normal(photons.shape[-2:])
    read = READ_PHOTONS * spread / np.sqrt(np.mean(spread**2))
    return np.asarray(rng.poisson(photons) + read * rng.standard_normal(photons.shape))


def photomultiplier(photons: Images, rng: np.random.Generator) -> Images:
    """Return pulses of gamma distributed height, scaled so that their variance is their mean."""
    shape = 1 / 0.23
    counts = rng.poisson(photons * 1.23)
    pulses = rng.gamma(np.maximum(counts, 1e-9) * shape) / shape * (counts > 0) / 1.23
    return np.asarray(pulses + 0.03 * rng.standard_normal(photons.shape))


#: What an amplifier that is slower than a pixel does to a pulse.
SLOW = np.array([0.125, 0.75, 0.125])

#: Correlation of neighbours that it gives, and how much of the variance it leaves.
SLOW_CORRELATION = float(2 * SLOW[0] * SLOW[1] / np.sum(SLOW**2))


def slow_photomultiplier(photons: Images, rng: np.random.Generator) -> Images:
    """Return the same with a quarter of each pulse in the pixels beside it, in units of its variance."""
    pulses = photomultiplier(photons, rng)
    return np.asarray(ndimage.correlate1d(pulses, SLOW, axis=-1) / np.sum(SLOW**2))


def two_lines_added(photons: Images, rng: np.random.Generator) -> Images:
    """Return counts of pixels that are read out two by two, each one twice."""
    counts = rng.poisson(photons / 2)
    return np.asarray(counts + np.roll(counts, 1, -2))


def lines_that_jump(photons: Images, rng: np.random.Generator) -> Images:
    """Return shot noise plus an offset that is another one in each row."""
    return rng.poisson(photons) + 2.0 * rng.standard_normal((*photons.shape[:-1], 1))


FITTING: list[tuple[Corruption, Noise]] = [
    (PhotonThinning(), counted),
    (Recorruption(), photomultiplier),
    (Recorruption(READ_PHOTONS), camera),
    (BlindSpotMask(), counted),
    (BlindSpotMask(), photomultiplier),
    (StructuredMask(0, 1), counted_with_afterpulses),
    (StructuredMask(0, 2), slow_photomultiplier),
    (LineThinning("x"), slow_photomultiplier),
    (Recorruption(correlation_y=0.5), two_lines_added),
    (LineThinning("x"), lines_that_jump),
]


def of_scheme(case: object) -> str:
    return getattr(case, "__name__", type(case).__name__)


def seen_through(noise: Noise, photons: Images) -> Images:
    """Return what frames show on average."""
    if noise is slow_photomultiplier:
        return np.asarray(ndimage.correlate1d(photons, SLOW, axis=-1) / np.sum(SLOW**2))
    if noise is counted_with_afterpulses:
        return np.asarray((photons + 0.4 * np.roll(photons, 1, -1)) / 1.4)
    if noise is two_lines_added:
        return np.asarray((photons + np.roll(photons, 1, -2)) / 2)
    return photons


def shared_noise(scheme: Corruption, noise: Noise, *, mean: float = 8.0, frames: int = 160) -> Images:
    """Return correlations of the target's noise with the source's, up to 3 pixels away, in standard errors.

    The truth is flat, so all noise is alike and its mean is known.
    """
    rng = np.random.default_rng(3)
    flat = np.full((frames, 64, 64), mean)
    pair, level = scheme.pair(noise(flat, rng), rng), seen_through(noise, flat).mean()
    target, source = pair.weight * (pair.target - level), pair.source - level
    scores = np.empty((7, 7))
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            product = (target * np.roll(source, (dy, dx), (-2, -1)))[:, 4:-4, 4:-4]
            frame_sums = product.sum((1, 2))  # frames are independent, pixels may not be
            scores[dy + 3, dx + 3] = frame_sums.mean() / frame_sums.std() * np.sqrt(frames)
    return scores


@pytest.mark.parametrize(("scheme", "noise"), FITTING, ids=of_scheme)
def test_the_target_shares_no_noise_with_any_pixel_of_the_source(scheme: Corruption, noise: Noise) -> None:
    assert np.abs(shared_noise(scheme, noise)).max() < 4.5  # of 49; by chance in 1 of 3000


@pytest.mark.parametrize(
    ("scheme", "noise"),
    [
        (PhotonThinning(), counted_with_afterpulses),
        (PhotonThinning(), two_lines_added),
        (BlindSpotMask(), slow_photomultiplier),
        (StructuredMask(1, 0), slow_photomultiplier),
        (StructuredMask(0, 1), lines_that_jump),
        (Recorruption(), slow_photomultiplier),
        (Recorruption(0.0), camera),
    ],
    ids=of_scheme,
)
def test_a_scheme_for_other_noise_shares_it(scheme: Corruption, noise: Noise) -> None:
    assert np.abs(shared_noise(scheme, noise)).max() > 10


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize(("noise", "read"), [(counted, 0.0), (camera, READ_PHOTONS)])
def test_recorruption_knows_that_shot_noise_is_skewed(noise: Noise, read: float, alpha: float) -> None:
    rng = np.random.default_rng(4)
    pair = Recorruption(read, alpha).pair(noise(np.full((200, 64, 64), 6.0), rng), rng)
    source, target = pair.source - 6.0, pair.target - 6.0
    product = target * source**2
    error = product.std() / np.sqrt(product.size)
    # The third moment of 6 photons is 6; noise of the right variance alone would leave all of it.
    assert error < 0.3
    assert abs(product.mean()) < 0.15 * 6


@pytest.mark.parametrize(("scheme", "noise"), FITTING, ids=of_scheme)
def test_the_target_is_the_truth_on_average(scheme: Corruption, noise: Noise) -> None:
    rng = np.random.default_rng(5)
    photons = truth(6, frames=1)
    pair = scheme.pair(noise(np.repeat(photons, 500, axis=0), rng), rng)
    off = pair.weight * (pair.target - seen_through(noise, photons))
    error = off.std(0) / np.sqrt(len(off))
    scores = off.mean(0)[error > 0] / error[error > 0]
    assert np.abs(scores).max() < 6
    totals = off.sum((1, 2))  # frames are independent, pixels may not be
    assert abs(totals.mean()) < 4.5 * totals.std() / np.sqrt(len(totals))


def patches(images: Images, chosen: Images) -> Images:
    """Return the 5 x 5 pixels around each chosen one, and 1, shape (pixels, 26)."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    views = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))[chosen].reshape(-1, 25)
    return np.concatenate([views, np.ones((len(views), 1))], axis=1)


def excess_error(scheme: Corruption, noise: Noise) -> float:
    """Return the error of a linear filter learned from pairs over that of one learned from clean targets.

    Both learn from the same sources, and answer for the same pixels of new fields.
    """
    rng = np.random.default_rng(7)
    # Masks let few pixels count.
    frames = 20 if isinstance(scheme, PhotonThinning | Recorruption) else 150
    clean, new = truth(8, frames=frames), truth(9, frames=frames // 2)
    pair, unseen = (scheme.pair(noise(each, rng), rng) for each in (clean, new))
    clean, new = seen_through(noise, clean), seen_through(noise, new)
    counts, counts_new = pair.weight > 0, unseen.weight > 0
    learned, asked = patches(pair.source, counts), patches(unseen.source, counts_new)
    errors = []
    for target in (pair.target, clean):
        weights = np.linalg.solve(learned.T @ learned, learned.T @ target[counts])
        errors.append(np.mean((asked @ weights - new[counts_new]) ** 2))
    return float(errors[0] / errors[1])


@pytest.mark.parametrize(
    ("scheme", "noise"),
    # A fortieth of its noise is shared by pixels 2 apart, and not given to the recorruption.
    [*FITTING, (Recorruption(correlation_x=SLOW_CORRELATION), slow_photomultiplier)],
    ids=of_scheme,
)
def test_a_filter_learned_from_pairs_is_as_good_as_one_learned_from_the_truth(
    scheme: Corruption, noise: Noise
) -> None:
    assert excess_error(scheme, noise) < 1.05


@pytest.mark.parametrize(
    ("scheme", "noise"),
    [
        (PhotonThinning(), counted_with_afterpulses),
        (BlindSpotMask(), slow_photomultiplier),
        (Recorruption(), slow_photomultiplier),
    ],
    ids=of_scheme,
)
def test_a_filter_learned_by_the_wrong_scheme_is_visibly_worse(scheme: Corruption, noise: Noise) -> None:
    assert excess_error(scheme, noise) > 1.3


@pytest.mark.parametrize("scheme", [case[0] for case in FITTING[::2]], ids=of_scheme)
@pytest.mark.parametrize("shape", [(24, 17), (2, 3, 24, 33)])
def test_pairs_are_float32_of_the_shape_of_the_frame_which_stays(
    scheme: Corruption, shape: tuple[int, ...]
) -> None:
    frame = np.random.default_rng(10).poisson(3.0, shape).astype(np.float32)
    before = frame.copy()
    pair, again, other = (scheme.pair(frame, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for part in (pair.source, pair.target, pair.weight):
        assert part.dtype == np.float32
        assert part.shape == shape
    assert set(np.unique(pair.weight)) <= {0.0, 1.0}
    assert pair.weight.any()
    assert np.array_equal(frame, before)
    assert np.array_equal(pair.source, again.source)
    assert not np.array_equal(pair.source, other.source)


@pytest.mark.parametrize(
    "scheme_type", [PhotonThinning, Recorruption, BlindSpotMask, StructuredMask, LineThinning]
)
def test_saturated_pixels_and_those_that_are_no_number_never_count(scheme_type: type) -> None:
    frame = np.random.default_rng(11).poisson(5.0, (60, 24, 24)).astype(float)
    frame[:, 4, :] = np.nan
    frame[:, :, 7] = 30.0
    pair = scheme_type(saturated_photons=30.0).pair(frame, np.random.default_rng(12))
    assert not pair.weight[:, 4, :].any()
    assert not pair.weight[:, :, 7].any()
    assert pair.weight.any(axis=0).sum() > 0.9 * 23 * 23
    assert np.isfinite(pair.source).all()
    assert np.isfinite(pair.target).all()


def test_thinning_adds_up_to_the_photons_of_each_pixel() -> None:
    counts = np.arange(64 * 64).reshape(1, 64, 64) % 300
    pair = PhotonThinning(0.25, 0.25).pair(counts, np.random.default_rng(13))
    np.testing.assert_allclose(0.25 * pair.source + 0.75 * pair.target, counts, rtol=1e-5, atol=1e-4)
    share = 0.25 * pair.source.sum() / counts.sum()
    assert share == pytest.approx(0.25, abs=0.004)
    expected = np.sqrt(counts * 0.25 * 0.75) + 1e-9
    assert (np.abs(0.25 * pair.source - 0.25 * counts) / expected).max() < 5


@pytest.mark.parametrize("frame", [[[0.5, 1.0]], [[-1.0, 2.0]], [[1e12, 2.0]]])
def test_what_is_no_count_is_not_thinned(frame: object) -> None:
    with pytest.raises(ValueError, match="only whole photons"):
        PhotonThinning().pair(np.array(frame), np.random.default_rng(0))
    with pytest.raises(ValueError, match="only whole photons"):
        split_photons(np.array(frame), 0.5, np.random.default_rng(0))


@pytest.mark.parametrize("reach", [(0, 2), (2, 0), (1, 1)])
def test_all_that_shares_noise_with_a_hidden_pixel_is_covered(reach: tuple[int, int]) -> None:
    frame = np.arange(40 * 40, dtype=float).reshape(40, 40)  # each value tells its place
    pair = StructuredMask(*reach).pair(frame, np.random.default_rng(14))
    hidden = np.argwhere(pair.weight > 0)
    assert len(hidden) > 20
    for y, x in hidden:
        near_y, near_x = (
            slice(max(y - reach[0], 0), y + reach[0] + 1),
            slice(max(x - reach[1], 0), x + reach[1] + 1),
        )
        own = frame[near_y, near_x]
        assert not np.isin(pair.source[near_y, near_x], own).any()
        assert not np.isin(pair.source, frame[y, x]).any()


@pytest.mark.parametrize("scheme", [BlindSpotMask(), StructuredMask(3, 3), LineThinning("y"), Recorruption()])
def test_a_frame_that_is_too_small_is_refused(scheme: Corruption) -> None:
    with pytest.raises(ValueError, match="needed"):
        scheme.pair(np.ones((1, 1)), np.random.default_rng(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: PhotonThinning(0.0, 0.5),
        lambda: PhotonThinning(0.6, 0.5),
        lambda: Recorruption(alpha=0.0),
        lambda: Recorruption(read_noise_photons=np.nan),
        lambda: Recorruption(correlation_x=0.6),
        lambda: StructuredMask(-1, 0),
        lambda: LineThinning("z"),
        lambda: split_photons(np.ones((2, 2)), 1.5, np.random.default_rng(0)),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"got|outside"):
        make()


def test_split_photons_add_up_and_are_independent() -> None:
    rng = np.random.default_rng(15)
    counts = rng.poisson(4.0, (50, 64, 64))
    part, rest = split_photons(counts, 0.3, rng)
    assert np.array_equal(part + rest, counts)
    assert part.mean() == pytest.approx(1.2, abs=0.02)
    assert abs(np.corrcoef(part.ravel(), rest.ravel())[0, 1]) < 4.5 / np.sqrt(counts.size)
    assert not split_photons(counts, 0.0, rng)[0].any()
    assert not split_photons(counts, 1.0, rng)[1].any()


def transfer(trust: Trust, y: float = 0.0, x: float = 0.0, **more: Any) -> PhotonTransfer:
    return PhotonTransfer(2.0, 100.0, 3.0, y, x, 500.0, trust, **more)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        (transfer("counts"), PhotonThinning(saturated_photons=200.0)),
        (transfer("line"), Recorruption(1.5, saturated_photons=200.0)),
        (transfer("gain only"), Recorruption(1.5, saturated_photons=200.0)),
        (transfer("line", mean_photons=10.0), Recorruption(1.5, saturated_photons=200.0)),
        (PhotonTransfer(2.0, 0.0, 0.1, 0.0, 0.0, None, "line", mean_photons=0.3), BlindSpotMask()),
        (transfer("assumed"), BlindSpotMask(200.0)),
        (transfer("processed"), BlindSpotMask(200.0)),
        (None, BlindSpotMask()),
        (
            transfer("line", x=0.18, reach_x=1),
            Recorruption(1.5, correlation_x=0.18, saturated_photons=200.0),
        ),
        (
            transfer("gain only", y=0.47, x=0.14, reach_y=1, reach_x=1),
            Recorruption(1.5, correlation_y=0.47, correlation_x=0.14, saturated_photons=200.0),
        ),
        (transfer("line", x=0.3, reach_x=2), StructuredMask(0, 2, 200.0)),
        (transfer("assumed", y=0.48, x=0.2, reach_y=1, reach_x=1), StructuredMask(1, 1, 200.0)),
        (transfer("counts", y=0.48, reach_y=2), StructuredMask(2, 0, 200.0)),
        (transfer("processed", y=0.07, x=0.06, reach_y=1, reach_x=1), StructuredMask(1, 1, 200.0)),
        (transfer("line", x=0.3, reach_x=4), LineThinning("x", saturated_photons=200.0)),
    ],
)
def test_the_scheme_is_chosen_by_the_noise(found: PhotonTransfer | None, chosen: Corruption) -> None:
    scheme = choose_corruption(found)
    assert len(scheme.reason) > 20
    assert type(scheme) is type(chosen)
    fields = {name: getattr(chosen, name) for name in chosen.__dataclass_fields__ if name != "reason"}  # type: ignore[attr-defined]
    assert {name: getattr(scheme, name) for name in fields} == fields


def smoothed(photons: Images, rng: np.random.Generator) -> Images:
    return np.asarray(ndimage.gaussian_filter(rng.poisson(photons).astype(float), (0, 1, 1)))


@pytest.mark.parametrize(
    ("noise", "chosen"),
    [
        (counted, PhotonThinning),
        (camera, Recorruption),
        (slow_photomultiplier, Recorruption),
        (counted_with_afterpulses, Recorruption),
        (two_lines_added, Recorruption),
        (smoothed, StructuredMask),
    ],
)
def test_the_scheme_is_chosen_from_the_frames_alone(noise: Noise, chosen: type) -> None:
    rng = np.random.default_rng(16)
    frames = noise(np.repeat(truth(17, frames=1, size=96), 16, axis=0), rng)
    scheme = choose_corruption(estimate_photon_transfer(frames))
    assert type(scheme) is chosen


@pytest.mark.parametrize("noise", [counted, camera, photomultiplier, slow_photomultiplier, two_lines_added])
def test_a_filter_learned_as_the_frames_tell_is_as_good_as_one_learned_from_the_truth(noise: Noise) -> None:
    rng = np.random.default_rng(18)
    found = estimate_photon_transfer(noise(np.repeat(truth(19, frames=1, size=96), 16, axis=0), rng))
    assert found is not None
    scheme = choose_corruption(found)

    def in_photons(photons: Images, rng: np.random.Generator) -> Images:
        return found.as_photons(noise(photons, rng))

    clean = truth(8, frames=20)
    pair = scheme.pair(in_photons(clean, rng), rng)
    seen, asked = patches(pair.source, pair.weight > 0), truth(9, frames=10)
    unseen = scheme.pair(in_photons(asked, rng), rng)
    errors = []
    for target in (pair.target, found.as_photons(seen_through(noise, clean))):
        weights = np.linalg.solve(seen.T @ seen, seen.T @ target[pair.weight > 0])
        predicted = patches(unseen.source, unseen.weight > 0) @ weights
        wanted = found.as_photons(seen_through(noise, asked))[unseen.weight > 0]
        errors.append(np.mean((predicted - wanted) ** 2))
    assert errors[0] < 1.1 * errors[1]
