"""The engine against the closed-form law and against drawing each molecule in each dwell.

Seeds are fixed and hashed, so a test that passes stays passed. Bounds are four standard errors or
more: were the seeds drawn anew, one of these tests would fail in less than a thousandth of the runs.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.optics import Optics
from simulator.sted.oracle import Law, law_of_scan
from simulator.sted.photophysics import PYSTED, RED, Light, Physics
from simulator.sted.scanning import (
    AdaptiveExposure,
    Exposure,
    FloatImage,
    Molecules,
    PixelExposure,
    Scanned,
    ScanningEngine,
    Seeds,
    Step,
    image_shape,
)

STED = Exposure(stride_px=1, dwell_s=10e-6, excitation_w=10e-6, sted_w=150e-3)
CONFOCAL = Exposure(stride_px=1, dwell_s=10e-6, excitation_w=10e-6)
#: So much light that a scan of a few pixels bleaches as much as a real one of thousands.
STRONG = Exposure(stride_px=1, dwell_s=100e-6, excitation_w=40e-6, sted_w=250e-3)


class NoiselessDetector(Detector):
    """Counts photons per millisecond without noise, so that the rate itself can be tested."""

    def counts(
        self, photons_hz: FloatImage, dwell_s: FloatImage | float, rng: np.random.Generator, **_: Any
    ) -> NDArray[np.int64]:
        return np.where(np.asarray(dwell_s) > 0, np.rint(photons_hz), 0).astype(np.int64)

    def count(self, photons_hz: float, dwell_s: float, rng: np.random.Generator, **_: Any) -> int:
        return round(photons_hz)


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
    scans = [engine.scan(molecules, exposure, seeds(number, stride_px, passes)) for number in range(200)]
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


def test_an_engine_can_be_sent_to_another_process() -> None:
    engine = STEDEngine(Optics(pinhole_airy=1.0), detector=Detector(background_hz=1e4), physics=PYSTED)
    molecules = sample(engine, (10, 11))
    engine.scan(molecules, STRONG, seeds())
    sent = pickle.loads(pickle.dumps(engine))  # noqa: S301
    one, other = (each.scan(molecules, STRONG, seeds(3)) for each in (engine, sent))
    assert np.array_equal(one.photons, other.photons)
    assert np.array_equal(one.survivors, other.survivors)


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


def pixel_exposure(shape_yx: tuple[int, int], stride_px: int = 1) -> PixelExposure:
    rng = np.random.default_rng(17)
    scale = stride_px**2
    return PixelExposure(
        stride_px,
        rng.choice([0.0, 5e-6 * scale, 60e-6 * scale], shape_yx),
        rng.choice([5e-6, 40e-6], shape_yx),
        rng.choice([0.0, 0.05, 0.25], shape_yx),
    )


@pytest.mark.parametrize(("shape_yx", "stride_px"), [((16, 13), 1), ((6, 9), 2)])
@pytest.mark.parametrize("physics", [Physics(), PYSTED])
def test_a_scan_with_its_own_light_on_each_pixel_follows_the_law(
    shape_yx: tuple[int, int], stride_px: int, physics: Physics
) -> None:
    engine = STEDEngine(physics=physics, detector=NoiselessDetector())
    molecules = sample(engine, shape_yx, stride_px)
    exposure = pixel_exposure(shape_yx, stride_px)
    dwell_s, excitation_w, sted_w = (
        np.asarray(values) for values in (exposure.dwell_s, exposure.excitation_w, exposure.sted_w)
    )
    lights = [
        [
            (engine.light(excitation_w[line, column], sted_w[line, column]), float(dwell_s[line, column]))
            for column in range(shape_yx[1])
        ]
        for line in range(shape_yx[0])
    ]
    scans = [engine.scan(molecules, exposure, seeds(number, 21)) for number in range(200)]
    law = law_of_scan(molecules, lights, stride_px=stride_px, within_dwell=physics.bleaching_within_dwell)
    is_lit = dwell_s > 0
    check_law(
        molecules,
        scans,
        replace(law, photons_hz=law.photons_hz * is_lit, variance_hz2=law.variance_hz2 * is_lit),
    )


def test_the_same_light_on_each_pixel_is_a_scan_with_even_light() -> None:
    engine = STEDEngine(detector=NoiselessDetector())
    molecules = sample(engine, (14, 15))
    exposure = PixelExposure(1, 40e-6, np.full((14, 15), 30e-6), 0.2)
    scans = [engine.scan(molecules, exposure, seeds(number, 22)) for number in range(200)]
    check_law(molecules, scans, law_of_scan(molecules, (engine.light(30e-6, 0.2), 40e-6)))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"dwell_s": np.full((2, 3), -1e-6)}, "dwell_s"),
        ({"excitation_w": np.full((2, 3), np.nan)}, "excitation_w"),
        ({"sted_w": float("inf")}, "sted_w"),
        ({"sted_w": np.zeros(3)}, "sted_w"),
        ({"stride_px": 0}, "stride_px"),
    ],
)
def test_impossible_light_on_pixels_is_refused_by_name(changes: dict[str, Any], key: str) -> None:
    values: dict[str, Any] = {"stride_px": 1, "dwell_s": 1e-5, "excitation_w": 1e-5, **changes}
    with pytest.raises(ValueError, match=key):
        PixelExposure(**values)


def test_light_on_pixels_of_another_shape_or_without_end_is_refused() -> None:
    engine = STEDEngine()
    molecules = sample(engine, (40, 40))
    with pytest.raises(ValueError, match="sted_w has the shape"):
        engine.scan(molecules, PixelExposure(1, 1e-5, 1e-5, np.zeros((4, 4))), seeds())
    every = np.linspace(0, 0.1, 1600).reshape(40, 40)
    with pytest.raises(ValueError, match="1600 distinct pairs"):
        engine.scan(molecules, PixelExposure(1, 1e-5, 1e-5, every), seeds())


def test_pixels_in_the_dark_show_and_bleach_nothing() -> None:
    engine = STEDEngine()
    molecules = sample(engine, (8, 9))
    for exposure in (PixelExposure(1, 0.0, 1e-5, 0.1), PixelExposure(1, 1e-5, np.eye(8, 9) * 0.0, 0.1)):
        scanned = engine.scan(molecules, exposure, seeds())
        assert not scanned.photons.any()
        assert np.array_equal(scanned.survivors, molecules)


def adaptive_one_by_one(
    molecules: Molecules, exposure: AdaptiveExposure, engine: STEDEngine, rng: np.random.Generator
) -> tuple[FloatImage, FloatImage, Molecules]:
    """Scan adaptively by drawing for each molecule in each step; return photons, steps and survivors."""
    lights = [engine.light(step.excitation_w, step.sted_w) for step in exposure.steps]
    side, stride = lights[0].photons_hz.shape[0], exposure.stride_px
    image = np.zeros(image_shape(molecules, stride, side // 2))
    made, alive = np.zeros_like(image), molecules.copy()
    for line, column in np.ndindex(*image.shape):
        y, x = stride // 2 + line * stride, stride // 2 + column * stride
        lit = alive[y : y + side, x : x + side]
        seen, total, hazard = lit.copy(), 0, np.zeros((side, side))
        for light, step in zip(lights, exposure.steps, strict=True):
            count = int(rng.poisson(np.sum(seen * light.photons_hz) * 0.025 * step.dwell_s))
            hazard = hazard + light.bleaching_hz * step.dwell_s
            made[line, column] += 1
            is_enough = step.enough_photons is not None and count > step.enough_photons
            if is_enough:
                count = round(count * exposure.dwell_s / step.dwell_s)
            total += count
            if is_enough or count < step.fewest_photons:
                break
        image[line, column] = total if exposure.sums else count
        lit[:] = rng.binomial(lit, np.exp(-hazard))
    return image, made, alive


DYMIN = AdaptiveExposure(
    1,
    (
        Step(40e-6, 20e-6, 0.0, fewest_photons=20),
        Step(40e-6, 20e-6, 0.06, fewest_photons=6),
        Step(80e-6, 20e-6, 0.25),
    ),
)
RESCUE = AdaptiveExposure(
    1,
    (
        Step(20e-6, 20e-6, 0.2, fewest_photons=2, enough_photons=6),
        Step(80e-6, 20e-6, 0.2),
    ),
    sums=True,
)


@pytest.mark.parametrize("exposure", [DYMIN, RESCUE, replace(DYMIN, stride_px=2)])
def test_adaptive_scans_follow_drawing_each_molecule_in_each_step(exposure: AdaptiveExposure) -> None:
    engine = STEDEngine(dye=RED.bleaching_faster(4), physics=Physics(bleaching_within_dwell=False))
    molecules = sample(engine, (8, 9), exposure.stride_px, molecules=6)
    rng = np.random.default_rng(41)
    slow = [adaptive_one_by_one(molecules, exposure, engine, rng) for _ in range(150)]
    fast = [engine.scan(molecules, exposure, seeds(number, 51)) for number in range(200)]
    ours = [(scanned.photons, scanned.steps, scanned.survivors) for scanned in fast]
    for part in range(3):
        theirs, mine = (np.array([scan[part] for scan in scans], float) for scans in (slow, ours))
        error = np.sqrt(theirs.var(axis=0) / len(theirs) + mine.var(axis=0) / len(mine))
        assert np.all(np.abs(mine.mean(axis=0) - theirs.mean(axis=0)) < 4.5 * error + 0.03), part
        totals = [data.reshape(len(data), -1).sum(axis=1) for data in (theirs, mine)]
        error = np.sqrt(sum(total.var() / len(total) for total in totals))
        assert abs(totals[0].mean() - totals[1].mean()) < 4 * error, part
        assert totals[1].var() == pytest.approx(totals[0].var(), rel=0.5), part
    assert 1 < np.mean([steps for _, steps, _ in slow]) < len(exposure.steps)


@pytest.mark.parametrize("physics", [Physics(), PYSTED])
def test_adaptive_scans_that_never_end_early_follow_the_law(physics: Physics) -> None:
    engine = STEDEngine(physics=physics, detector=NoiselessDetector())
    molecules = sample(engine, (12, 11))
    exposure = AdaptiveExposure(1, (Step(40e-6, 30e-6, 0.2),))
    scans = [engine.scan(molecules, exposure, seeds(number, 61)) for number in range(200)]
    law = law_of_scan(
        molecules, (engine.light(30e-6, 0.2), 40e-6), within_dwell=physics.bleaching_within_dwell
    )
    check_law(molecules, scans, law)


def test_two_steps_of_the_same_light_bleach_and_shine_like_one() -> None:
    """The bleaching of the first step is seen in the second where bleaching within a dwell is."""
    engine = STEDEngine(dye=RED.bleaching_faster(40), detector=NoiselessDetector())
    molecules = sample(engine, (7, 6))
    half = Step(40e-6, 30e-6, 0.2)
    exposure = AdaptiveExposure(1, (half, half), sums=True)
    scans = [engine.scan(molecules, exposure, seeds(number, 71)) for number in range(200)]
    # The sum of two mean rates, each over half of the time.
    halved = [Scanned((s.photons / 2).astype(np.uint32), s.survivors) for s in scans]
    check_law(molecules, halved, law_of_scan(molecules, (engine.light(30e-6, 0.2), 80e-6)))


def test_an_adaptive_scan_can_be_stopped_and_spares_what_it_leaves_out() -> None:
    engine = STEDEngine()
    molecules = sample(engine, (40, 12), molecules=3)
    whole, again = (engine.scan(molecules, DYMIN, seeds(1)) for _ in range(2))
    stopped = engine.scan(molecules, DYMIN, seeds(1), stop_after(16))
    assert whole.steps is not None
    assert stopped.steps is not None
    assert np.array_equal(whole.photons, again.photons)
    assert np.array_equal(stopped.photons, whole.photons[:16])
    assert np.array_equal(stopped.steps, whole.steps[:16])
    everywhere = engine.scan(
        molecules,
        replace(DYMIN, steps=tuple(replace(step, fewest_photons=0) for step in DYMIN.steps)),
        seeds(1),
    )
    assert everywhere.survivors.sum() < whole.survivors.sum() < stopped.survivors.sum()


@pytest.mark.parametrize("steps", [(), (Step(1e-6, 1e-6),) * 256])
def test_adaptive_scans_have_steps(steps: tuple[Step, ...]) -> None:
    with pytest.raises(ValueError, match="steps"):
        AdaptiveExposure(1, steps)
