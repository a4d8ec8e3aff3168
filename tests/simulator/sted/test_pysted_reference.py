from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.sted import pysted_reference
from simulator.sted.detector import Detector
from simulator.sted.photophysics import RED
from simulator.sted.pysted_reference import PystedEngine
from simulator.sted.scanning import AdaptiveExposure, Exposure, PixelExposure, Scanned, Seeds, Step

pytest.importorskip("pysted")

CONFOCAL = Exposure(stride_px=1, dwell_s=10e-6, excitation_w=10e-6)
STED = Exposure(stride_px=1, dwell_s=10e-6, excitation_w=10e-6, sted_w=150e-3)


@pytest.fixture(scope="module")
def engine() -> PystedEngine:
    return PystedEngine()


def seeds(number: int = 0) -> Seeds:
    return Seeds(np.random.SeedSequence([number, 1]), np.random.SeedSequence([number, 2]))


def sparse_map(engine: PystedEngine, side_px: int, molecules: int = 20) -> NDArray[np.int32]:
    rng = np.random.default_rng(5)
    shape = (side_px + 2 * engine.margin_px, side_px + 2 * engine.margin_px)
    return (rng.random(shape) < 0.03).astype(np.int32) * molecules


def point(engine: PystedEngine, side_px: int, molecules: int = 2000) -> NDArray[np.int32]:
    size = side_px + 2 * engine.margin_px
    sample = np.zeros((size, size), np.int32)
    sample[size // 2, size // 2] = molecules
    return sample


def full_width_half_maximum_m(profile: NDArray[Any]) -> float:
    profile = np.asarray(profile, dtype=float) / np.max(profile)
    peak = int(np.argmax(profile))
    places = np.arange(len(profile))
    right = np.interp(-0.5, -profile[peak:], places[peak:])
    left = np.interp(0.5, profile[: peak + 1], places[: peak + 1])
    return float(right - left) * 20e-9


@pytest.mark.parametrize("stride_px", [1, 3, 4])
def test_confocal_rates_equal_a_true_scan_of_pysted(engine: PystedEngine, stride_px: int) -> None:
    sample = sparse_map(engine, 12)
    exposure = Exposure(stride_px=stride_px, dwell_s=10e-6, excitation_w=10e-6)
    ours_w = engine._illuminate(sample, exposure)
    theirs_w, survivors = engine._raster(sample, exposure, seed=1)
    assert ours_w.shape == theirs_w.shape
    assert np.max(np.abs(ours_w - theirs_w)) < 1e-9 * theirs_w.max()
    assert np.array_equal(survivors, sample), "pySTED's hazard is zero without the STED beam"


def test_depletion_narrows_the_point_spread_function(engine: PystedEngine) -> None:
    widths_m = []
    for sted_w in (0.0, 50e-3, 100e-3, 200e-3):
        psf = engine.effective_psf(10e-6, sted_w)
        widths_m.append(full_width_half_maximum_m(psf[psf.shape[0] // 2]))
    assert 200e-9 < widths_m[0] < 270e-9
    assert 55e-9 < widths_m[-1] < 80e-9
    assert widths_m == sorted(widths_m, reverse=True)


def test_an_image_of_a_bead_is_narrower_with_sted(engine: PystedEngine) -> None:
    sample = point(engine, 31)
    confocal = engine.scan(sample, CONFOCAL, seeds()).photons
    sted = engine.scan(sample, STED, seeds()).photons
    assert full_width_half_maximum_m(sted.sum(axis=0)) < 0.5 * full_width_half_maximum_m(confocal.sum(axis=0))


@pytest.mark.parametrize("exposure", [CONFOCAL, STED])
def test_a_scan_is_a_pure_function_of_its_seeds(engine: PystedEngine, exposure: Exposure) -> None:
    sample = sparse_map(engine, 16)
    before = sample.copy()
    np.random.seed(3)  # noqa: NPY002
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    first = engine.scan(sample, exposure, seeds(7))
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert repr(state) == repr(after), "numpy's global random state was touched"
    np.random.seed(99)  # noqa: NPY002
    second = engine.scan(sample, exposure, seeds(7))
    other = engine.scan(sample, exposure, seeds(8))
    assert np.array_equal(sample, before)
    assert np.array_equal(first.photons, second.photons)
    assert np.array_equal(first.survivors, second.survivors)
    assert not np.array_equal(first.photons, other.photons)
    assert first.photons.dtype == np.uint32
    assert first.survivors.dtype == np.int32


def test_the_global_random_state_survives_a_failing_scan(
    engine: PystedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        np.random.seed(0)  # noqa: NPY002
        raise RuntimeError("on purpose")

    sample = sparse_map(engine, 4)
    state = repr(np.random.get_state(legacy=False))  # noqa: NPY002
    monkeypatch.setattr(pysted_reference, "_pysted_microscope", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        engine._raster(sample, STED, seed=1)
    assert repr(np.random.get_state(legacy=False)) == state  # noqa: NPY002


def test_seeds_for_pysted_are_never_zero_and_fit_31_bits() -> None:
    words = pysted_reference._pysted_seeds(np.random.SeedSequence(1), 5000)
    assert min(words) >= 1
    assert max(words) < 2**31
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("stride_px", [1, 2])
def test_survival_follows_the_hazard_of_every_pixel_of_the_scan_once(
    engine: PystedEngine, stride_px: int
) -> None:
    """Points far apart, in and beyond the region; the scan is cut into bands and must not show it."""
    from scipy.constants import c, h

    side, margin = 80, engine.margin_px
    sample = np.zeros((side + 2 * margin, side + 2 * margin), np.int32)
    places = [
        (margin + 40, margin + 40),
        (margin + 16, margin + 3),
        (margin - 6, margin + 60),
        (margin + 77, 20),
    ]
    for place in places:
        sample[place] = 20_000
    exposure = Exposure(stride_px=stride_px, dwell_s=10e-6 * stride_px**2, excitation_w=10e-6, sted_w=150e-3)
    survivors = engine.scan(sample, exposure, seeds()).survivors

    scope = engine._pysted_microscope()
    excitation, sted, _ = scope.cache(20e-9)
    hazard = exposure.dwell_s * scope.fluo.get_k_bleach(
        640e-9,
        775e-9,
        excitation * exposure.excitation_w / (h * c / 640e-9),
        sted * exposure.sted_w * 400e-12 * 40e6 / (h * c / 775e-9),
        400e-12,
        25e-9,
        exposure.dwell_s,
    )
    for row, column in places:
        total = 0.0
        for y in range(stride_px // 2, side, stride_px):
            for x in range(stride_px // 2, side, stride_px):
                dy, dx = row - margin - y, column - margin - x
                if max(abs(dy), abs(dx)) <= margin:
                    total += hazard[margin + dy, margin + dx]
        expected = float(np.exp(-total))
        deviation = np.sqrt(20_000 * expected * (1 - expected))
        assert abs(survivors[row, column] - 20_000 * expected) < 4 * deviation + 20


def lost(scanned: Scanned, sample: NDArray[np.int32]) -> float:
    return 1 - float(scanned.survivors.sum()) / float(sample.sum())


def test_bleaching_grows_with_sted_power_and_with_dwell_time(engine: PystedEngine) -> None:
    sample = point(engine, 41)
    figures = [
        lost(engine.scan(sample, Exposure(1, dwell_s, 10e-6, sted_w), seeds()), sample)
        for dwell_s, sted_w in (
            (10e-6, 0.0),
            (10e-6, 50e-3),
            (10e-6, 150e-3),
            (20e-6, 150e-3),
            (20e-6, 200e-3),
        )
    ]
    assert figures[0] == 0
    assert figures == sorted(figures)
    assert 0.1 < figures[2] < 0.3
    assert 0.3 < figures[4] < 0.55


def test_a_dye_can_be_asked_for_that_never_bleaches() -> None:
    engine = PystedEngine(dye=RED.bleaching_faster(0.0))
    sample = sparse_map(engine, 8)
    assert np.array_equal(engine.scan(sample, STED, seeds()).survivors, sample)


def test_molecules_beyond_the_region_shine_into_it_and_are_bleached(engine: PystedEngine) -> None:
    margin = engine.margin_px
    sample = np.zeros((16 + 2 * margin, 16 + 2 * margin), np.int32)
    sample[margin - 4, margin + 8] = 4000
    scanned = engine.scan(sample, STED, seeds())
    assert engine.scan(sample, CONFOCAL, seeds()).photons.sum() > 1000
    assert scanned.photons[0].sum() > scanned.photons[-1].sum()
    assert 0 < lost(scanned, sample) < 0.5


def test_counts_are_poisson_around_pysteds_rate(engine: PystedEngine) -> None:
    size = 64 + 2 * engine.margin_px
    flat = np.full((size, size), 1, np.int32)
    photons = engine.scan(flat, CONFOCAL, seeds(11)).photons.astype(float)
    power_w = engine._illuminate(flat, CONFOCAL)
    photon_j = 6.62607015e-34 * 299_792_458 / 670e-9
    expected = power_w.mean() / photon_j * 0.05 * 0.5 * CONFOCAL.dwell_s
    # 4096 pixels: the mean is known to sqrt(mean)/64, the ratio to sqrt(2/4096) = 0.022.
    assert abs(photons.mean() - expected) < 4 * np.sqrt(expected) / 64
    assert abs(photons.var() / photons.mean() - 1) < 4 * 0.022


def test_background_is_the_rate_that_was_asked_for() -> None:
    engine = PystedEngine(detector=Detector(background_hz=200e3))
    size = 64 + 2 * engine.margin_px
    photons = engine.scan(np.zeros((size, size), np.int32), CONFOCAL, seeds()).photons
    assert abs(photons.mean() - 2.0) < 4 * np.sqrt(2.0) / 64


def test_a_stopped_scan_returns_its_lines_and_leaves_the_rest_of_the_sample_alone(
    engine: PystedEngine,
) -> None:
    sample = sparse_map(engine, 48)
    done: list[int] = []

    def go_on(lines: int) -> bool:
        done.append(lines)
        return len(done) < 2

    scanned = engine.scan(sample, STED, seeds(), go_on)
    assert done == [16, 32]
    assert scanned.photons.shape == (32, 48)
    untouched = 32 + 2 * engine.margin_px
    assert np.array_equal(scanned.survivors[untouched:], sample[untouched:])
    assert scanned.survivors.sum() < sample.sum()


@pytest.mark.parametrize("shape", [(60, 90), (61 + 1, 90), (0, 0)])
def test_a_map_without_whole_pixels_inside_its_margin_is_refused(
    engine: PystedEngine, shape: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="margin of 30"):
        engine.scan(np.zeros(shape, np.int32), Exposure(4, 1e-5, 1e-5), seeds())


def dymin(**changes: Any) -> AdaptiveExposure:
    steps = (
        Step(10e-6, 10e-6, 0.0, fewest_photons=8),
        Step(10e-6, 10e-6, 0.04, fewest_photons=8),
        Step(30e-6, 10e-6, 0.16),
    )
    return AdaptiveExposure(**{"stride_px": 1, "steps": steps, "dark_is_zero": True, **changes})


RESCUE = AdaptiveExposure(
    1,
    (
        Step(10e-6, 10e-6, 0.15, fewest_photons=2, enough_photons=5),
        Step(40e-6, 10e-6, 0.15),
    ),
    sums=True,
    dark_is_zero=True,
    scaled_to_s=40e-6,
)
PIXELS = PixelExposure(1, 10e-6, np.where(np.eye(12) > 0, 1e-6, 2e-5), np.where(np.eye(12) > 0, 0.01, 0.2))


@pytest.mark.parametrize("exposure", [dymin(), RESCUE, PIXELS])
def test_scans_with_light_that_differs_are_pure_functions_of_their_seeds(
    engine: PystedEngine, exposure: AdaptiveExposure | PixelExposure
) -> None:
    sample = sparse_map(engine, 12, molecules=4)
    first, second, other = (engine.scan(sample, exposure, seeds(number)) for number in (1, 1, 2))
    assert np.array_equal(first.photons, second.photons)
    assert np.array_equal(first.survivors, second.survivors)
    assert not np.array_equal(first.photons, other.photons)
    assert first.survivors.sum() < sample.sum()
    if isinstance(exposure, AdaptiveExposure):
        assert first.steps is not None
        assert first.steps.min() == 1
        assert first.steps.max() == len(exposure.steps)


@pytest.mark.parametrize(
    "exposure",
    [
        dymin(stride_px=2),
        dymin(dark_is_zero=False),
        dymin(sums=True),
        dymin(steps=(Step(1e-5, 1e-5, 0.1, 5), Step(1e-5, 2e-5, 0.2))),
        replace(RESCUE, scaled_to_s=None),
    ],
)
def test_adaptive_scans_that_pysted_does_not_know_are_refused(
    engine: PystedEngine, exposure: AdaptiveExposure
) -> None:
    with pytest.raises(ValueError, match="pySTED"):
        engine.scan(sparse_map(engine, 8), exposure, seeds())
