"""The engine against the closed-form law and against drawing each molecule in each dwell.

Seeds are fixed and hashed, so a test that passes stays passed. Bounds are four standard errors or
more: were the seeds drawn anew, one of these tests would fail in less than a thousandth of the runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.detector import Detector
from simulator.optics import Optics
from simulator.oracle import Law, law_of_scan
from simulator.photophysics import PYSTED, RED, Light, Physics
from simulator.scanning import Exposure, FloatImage, Molecules, Scanned, ScanningEngine, Seeds, image_shape
from simulator.sted import STEDEngine

STED = Exposure(stride_px=1, dwell_s=10e-6, excitation_w=10e-6, sted_w=150e-3)
CONFOCAL = Exposure(stride_px=1, dwell_s=10e-6, excitation_w=10e-6)
#: So much light that a scan of a few pixels bleaches as much as a real one of thousands.
STRONG = Exposure(stride_px=1, dwell_s=100e-6, excitation_w=40e-6, sted_w=250e-3)


class NoiselessDetector(Detector):
    """Counts photons per millisecond without noise, so that the rate itself can be tested."""

    def counts(
        self, photons_hz: FloatImage, dwell_s: FloatImage | float, rng: np.random.Generator, **_: Any
    ) -> NDArray[np.int64]:
        return np.rint(photons_hz).astype(np.int64)


def seeds(*numbers: int) -> Seeds:
    return Seeds(np.random.SeedSequence([*numbers, 1]), np.random.SeedSequence([*numbers, 2]))


def sample(
    engine: STEDEngine, shape_yx: tuple[int, int], stride_px: int = 1, molecules: int = 30
) -> Molecules:
    rng = np.random.default_rng(8)
    shape = [pixels * stride_px + 2 * engine.margin_px for pixels in shape_yx]
    return (rng.random(shape) < 0.1).astype(np.int32) * rng.integers(1, molecules, shape, dtype=np.int32)


def one_by_one(
    molecules: Molecules, exposure: Exposure, light: Light, within_dwell: bool, rng: np.random.Generator
) -> tuple[FloatImage, Molecules]:
    """Scan by drawing for each molecule in each dwell, as pySTED does."""
    side, step = light.photons_hz.shape[0], exposure.stride_px
    image = np.zeros(image_shape(molecules, step, side // 2))
    alive = molecules.copy()
    hazard = light.bleaching_hz * (exposure.dwell_s / exposure.passes)
    for line in range(image.shape[0]):
        for _ in range(exposure.passes):
            for column in range(image.shape[1]):
                y, x = step // 2 + line * step, step // 2 + column * step
                lit = alive[y : y + side, x : x + side]
                before = lit.copy()
                lit[:] = rng.binomial(before, np.exp(-hazard))
                image[line, column] += np.sum(light.photons_hz * before)
                if within_dwell:
                    # Of one that bleaches in this dwell, the time until then is a truncated exponential.
                    lost = np.repeat(np.arange(lit.size), (before - lit).ravel())
                    uniform, total = rng.random(len(lost)), hazard.ravel()[lost]
                    part = -np.log1p(uniform * np.expm1(-total)) / total
                    image[line, column] -= np.sum(light.photons_hz.ravel()[lost] * (1 - part))
    return image / exposure.passes, alive


def check_law(molecules: Molecules, scans: list[Scanned], law: Law, *, has_variance: bool = True) -> None:
    """Compare noiseless scans with the law: means, variances, survivors in all and by place."""
    count = len(scans)
    images = np.array([scanned.photons for scanned in scans], dtype=np.float64)
    survivors = np.array([scanned.survivors for scanned in scans], dtype=np.float64)
    expected = molecules * law.survival
    spread = molecules * law.survival * (1 - law.survival)

    total = survivors.sum(axis=(1, 2))
    assert abs(total.mean() - expected.sum()) < 4 * np.sqrt(spread.sum() / count)
    assert total.var() / spread.sum() == pytest.approx(1.0, abs=4 * np.sqrt(2 / count))
    many = spread > 0.3
    z = (survivors.mean(axis=0) - expected)[many] / np.sqrt(spread[many] / count)
    assert np.mean(z**2) == pytest.approx(1.0, abs=4 * np.sqrt(2 / many.sum()) + 0.02)
    assert np.array_equal(survivors[:, ~(molecules > 0)], np.zeros_like(survivors[:, ~(molecules > 0)]))

    # Whole counts per second: the rounding is far below the spread.
    deviation = images.mean(axis=0) - law.photons_hz
    if has_variance:
        error = np.sqrt(law.variance_hz2 / count) + 1.0
        assert np.abs(deviation / error).max() < 5
        assert abs(images.var(axis=0).mean() / law.variance_hz2.mean() - 1) < 0.15
    assert abs(deviation.sum()) < 4 * np.sqrt(images.sum(axis=(1, 2)).var() / count) + images[0].size


@pytest.mark.parametrize(
    ("shape_yx", "exposure"),
    [
        ((18, 15), Exposure(1, 30e-6, 30e-6, 0.2)),
        ((1, 1), Exposure(1, 3e-3, 30e-6, 0.2)),
        ((9, 20), Exposure(2, 120e-6, 30e-6, 0.2)),
        ((7, 6), Exposure(3, 270e-6, 30e-6, 0.2)),
        ((8, 9), Exposure(1, 90e-6, 30e-6, 0.2, passes=3)),
        ((2, 3), Exposure(70, 3e-3, 30e-6, 0.2)),
    ],
)
@pytest.mark.parametrize("physics", [Physics(), PYSTED])
def test_scans_follow_the_closed_form_law(
    shape_yx: tuple[int, int], exposure: Exposure, physics: Physics
) -> None:
    engine = STEDEngine(physics=physics, detector=NoiselessDetector())
    stride_px, passes = exposure.stride_px, exposure.passes
    molecules = sample(engine, shape_yx, stride_px)
    scans = [engine.scan(molecules, exposure, seeds(number, stride_px, passes)) for number in range(300)]
    law = law_of_scan(
        molecules,
        (engine.light(30e-6, 0.2), exposure.dwell_s),
        stride_px=stride_px,
        passes=passes,
        within_dwell=physics.bleaching_within_dwell,
    )
    alone = shape_yx == (1, 1) or stride_px > 50  # no pixel sees what another one bleached
    check_law(molecules, scans, law, has_variance=passes == 1 and not alone)


@pytest.mark.parametrize("physics", [Physics(), PYSTED])
def test_scans_follow_drawing_each_molecule_in_each_dwell(physics: Physics) -> None:
    """Also where a third of the molecules bleach in a dwell and the law's variance has no closed form."""
    engine = STEDEngine(dye=RED.bleaching_faster(60), physics=physics, detector=NoiselessDetector())
    molecules = sample(engine, (6, 7))
    exposure = Exposure(1, 150e-6, 20e-6, 0.15, passes=2)
    light = engine.light(20e-6, 0.15)
    rng = np.random.default_rng(31)
    slow = [one_by_one(molecules, exposure, light, physics.bleaching_within_dwell, rng) for _ in range(300)]
    fast = [engine.scan(molecules, exposure, seeds(number, 77)) for number in range(600)]
    for theirs, ours in (
        (np.array([image for image, _ in slow]), np.array([scanned.photons for scanned in fast], float)),
        (np.array([alive for _, alive in slow], float), np.array([s.survivors for s in fast], float)),
    ):
        error = np.sqrt(theirs.var(axis=0) / len(slow) + ours.var(axis=0) / len(fast))
        apart = np.abs(ours.mean(axis=0) - theirs.mean(axis=0))
        assert np.all(apart < 5 * error + 1.0)
        assert ours.var(axis=0).sum() == pytest.approx(theirs.var(axis=0).sum(), rel=0.4)
        # Sums of pixels that vary together: known to sqrt(2 / 300) and sqrt(2 / 600) of themselves.
        totals = [data.reshape(len(data), -1).sum(axis=1) for data in (theirs, ours)]
        assert totals[1].var() == pytest.approx(totals[0].var(), rel=0.4)


def test_counts_are_poisson_around_the_rate() -> None:
    engine = STEDEngine(dye=RED.bleaching_faster(0.0), detector=Detector(background_hz=5e4))
    size = 96 + 2 * engine.margin_px
    photons = engine.scan(np.ones((size, size), np.int32), CONFOCAL, seeds(3)).photons
    rate_hz = engine.light(10e-6).photons_hz.sum() * 0.05 * 0.5 + 5e4
    expected = rate_hz * 10e-6
    assert photons.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / photons.size))
    assert photons.var() / photons.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / photons.size))


def test_it_is_a_scanning_engine_and_pure() -> None:
    engine: ScanningEngine = STEDEngine()
    molecules = sample(STEDEngine(), (20, 16))
    before = molecules.copy()
    state = repr(np.random.get_state(legacy=False))  # noqa: NPY002
    first, second, other = (engine.scan(molecules, STRONG, seeds(number)) for number in (7, 7, 8))
    assert repr(np.random.get_state(legacy=False)) == state  # noqa: NPY002
    assert np.array_equal(molecules, before)
    assert np.array_equal(first.photons, second.photons)
    assert np.array_equal(first.survivors, second.survivors)
    assert not np.array_equal(first.photons, other.photons)
    assert not np.array_equal(first.survivors, other.survivors)
    assert first.photons.dtype == np.uint32
    assert first.survivors.dtype == np.int32
    assert first.photons.shape == (20, 16)


def stop_after(lines: int) -> Callable[[int], bool]:
    return lambda done: done < lines


def test_a_stopped_scan_is_the_beginning_of_the_whole_one() -> None:
    engine = STEDEngine()
    molecules = sample(engine, (48, 12))
    whole = engine.scan(molecules, STRONG, seeds(1))
    stopped = engine.scan(molecules, STRONG, seeds(1), stop_after(32))
    assert stopped.photons.shape == (32, 12)
    assert np.array_equal(stopped.photons, whole.photons[:32])
    reach = 32 + 2 * engine.margin_px
    assert np.array_equal(stopped.survivors[reach:], molecules[reach:])
    assert whole.survivors.sum() < stopped.survivors.sum() < molecules.sum()
    assert np.all(whole.survivors <= stopped.survivors)


def test_going_on_line_by_line_changes_nothing() -> None:
    engine = STEDEngine()
    molecules = sample(engine, (40, 9))
    told: list[int] = []

    def go_on(done: int) -> bool:
        told.append(done)
        return True

    watched = engine.scan(molecules, STRONG, seeds(4), go_on)
    assert told == [16, 32, 40]
    assert np.array_equal(watched.photons, engine.scan(molecules, STRONG, seeds(4)).photons)


def test_a_confocal_scan_bleaches_unless_like_pysted() -> None:
    molecules = sample(STEDEngine(), (40, 40), molecules=300)
    real, pysteds = (
        engine.scan(molecules, CONFOCAL, seeds(2)) for engine in (STEDEngine(), STEDEngine.like_pysted())
    )
    assert 0.001 < 1 - real.survivors.sum() / molecules.sum() < 0.03
    assert np.array_equal(pysteds.survivors, molecules)


def test_an_empty_map_gives_an_empty_image() -> None:
    engine = STEDEngine()
    scanned = engine.scan(np.zeros((60, 61), np.int32), STED, seeds())
    assert scanned.photons.shape == (10, 11)
    assert not scanned.photons.any()
    assert not scanned.survivors.any()


def test_light_of_no_power_shows_and_bleaches_nothing() -> None:
    engine = STEDEngine()
    molecules = sample(engine, (10, 11))
    for exposure in (Exposure(1, 1e-5, 0.0, 0.0), Exposure(1, 1e-5, 0.0, 0.2)):
        scanned = engine.scan(molecules, exposure, seeds())
        assert not scanned.photons.any()
        assert np.array_equal(scanned.survivors, molecules)


def test_light_that_bleaches_everything_bleaches_everything() -> None:
    engine = STEDEngine(dye=RED.bleaching_faster(1e6))
    molecules = sample(engine, (5, 6))
    assert not engine.scan(molecules, STRONG, seeds()).survivors.any()


def test_a_scan_at_another_map_pixel_size_sees_the_same_light() -> None:
    fine, coarse = (STEDEngine(map_pixel_size_m=size) for size in (10e-9, 20e-9))
    powers = [engine.light(10e-6, 0.1).photons_hz.max() for engine in (fine, coarse)]
    assert powers[0] == pytest.approx(powers[1], rel=0.02)
    molecules = np.zeros((2 * fine.margin_px + 8, 2 * fine.margin_px + 8), np.int32)
    assert fine.scan(molecules, STED, seeds()).photons.shape == (8, 8)


@pytest.mark.parametrize("shape", [(50, 90), (53, 90), (0, 0)])
def test_a_map_without_whole_pixels_inside_its_margin_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="margin of 25"):
        STEDEngine().scan(np.zeros(shape, np.int32), Exposure(4, 1e-5, 1e-5), seeds())


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ((0, 1e-5, 1e-5), "stride_px"),
        ((1.5, 1e-5, 1e-5), "stride_px"),
        ((1, 0.0, 1e-5), "dwell_s"),
        ((1, float("nan"), 1e-5), "dwell_s"),
        ((1, float("inf"), 1e-5), "dwell_s"),
        ((1, 1e-5, -1e-6), "excitation_w"),
        ((1, 1e-5, float("nan")), "excitation_w"),
        ((1, 1e-5, 1e-5, -0.1), "sted_w"),
        ((1, 1e-5, 1e-5, float("inf")), "sted_w"),
        ((1, 1e-5, 1e-5, 0.1, 0), "passes"),
    ],
)
def test_impossible_exposures_are_refused_by_name(values: tuple[Any, ...], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Exposure(*values)


def test_pixels_too_large_for_the_focus_are_refused() -> None:
    with pytest.raises(ValueError, match="pixel_size_m"):
        STEDEngine(Optics(), map_pixel_size_m=1e-6)
