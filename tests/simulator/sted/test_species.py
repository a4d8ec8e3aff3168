from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.optics import Optics
from simulator.sted.oracle import law_of_scan
from simulator.sted.photophysics import DEEP_RED, GYM_RED, RED, Dye
from simulator.sted.scanning import AdaptiveExposure, Exposure, Molecules, PixelExposure, Seeds, Step
from simulator.sted.species import SpeciesEngine

DYES = [RED, DEEP_RED]
WINDOWS = [(630e-9, 685e-9), (685e-9, 760e-9)]
LIGHT = Exposure(1, 40e-6, 30e-6, 0.2)


def seeds(*numbers: int) -> Seeds:
    return Seeds(np.random.SeedSequence([*numbers, 1]), np.random.SeedSequence([*numbers, 2]))


def sample(margin_px: int, shape: tuple[int, int] = (8, 9), dyes: int = 2) -> Molecules:
    rng = np.random.default_rng(4)
    inside = (rng.random((dyes, *shape)) < 0.3) * rng.integers(1, 80, (dyes, *shape))
    return np.pad(inside, [(0, 0), (margin_px, margin_px), (margin_px, margin_px)]).astype(np.int32)


def lasting(dye: Dye) -> Dye:
    return dye.bleaching_faster(0.0)


def test_windows_count_their_part_of_a_spectrum() -> None:
    assert RED.emitted_within(None) == 1
    assert RED.emitted_within((670e-9 - 22.5e-9, 670e-9 + 22.5e-9)) == pytest.approx(0.761, abs=1e-3)
    assert RED.emitted_within((500e-9, 670e-9)) == pytest.approx(0.5, abs=1e-6)
    parts = [RED.emitted_within(window) for window in [(500e-9, 655e-9), (655e-9, 700e-9), (700e-9, 900e-9)]]
    assert sum(parts) == pytest.approx(1, abs=1e-9)
    detected = SpeciesEngine(DYES, windows=WINDOWS).detected
    assert np.diag(detected).min() > 0.7
    assert max(detected[0, 1], detected[1, 0]) < 0.3


def test_every_dye_bleaches_by_its_own_law_and_photons_leak_as_spectra_do() -> None:
    dyes = [dye.bleaching_faster(1.5) for dye in DYES]
    engine = SpeciesEngine(dyes, windows=WINDOWS)
    molecules = sample(engine.margin_px)
    scans = [engine.scan_channels(molecules, LIGHT, seeds(number)) for number in range(120)]
    optics = [
        # The pinhole is that of the first dye, in metres.
        Optics(pinhole_airy=0.7 * RED.emission_m / dye.emission_m)
        for dye in dyes
    ]
    own = [STEDEngine(each, dye) for each, dye in zip(optics, dyes, strict=True)]
    laws = [
        law_of_scan(each, (of_dye.light(30e-6, 0.2), 40e-6))
        for each, of_dye in zip(molecules, own, strict=True)
    ]
    survivors = np.array([scan.survivors for scan in scans], float).sum(axis=(2, 3))
    for dye, law in enumerate(laws):
        expected = molecules[dye] * law.survival
        spread = (expected * (1 - law.survival)).sum()
        assert abs(survivors[:, dye].mean() - expected.sum()) < 4 * np.sqrt(spread / len(scans))
        assert 0.05 < 1 - expected.sum() / molecules[dye].sum() < 0.9
    assert abs(np.corrcoef(survivors.T)[0, 1]) < 0.35

    photons = np.array([scan.photons for scan in scans], float)
    rates_hz = np.stack([law.photons_hz for law in laws])
    expected = np.tensordot(engine.detected, rates_hz, 1) * 0.025 * 40e-6
    error = np.sqrt(photons.var(axis=0) / len(scans)) + 0.03
    assert np.abs((photons.mean(axis=0) - expected) / error).max() < 4.5
    # And so the dyes can be told apart again.
    apart = np.linalg.solve(engine.detected, photons.mean(axis=0).reshape(2, -1)).reshape(expected.shape)
    assert np.corrcoef(apart[0].ravel(), rates_hz[0].ravel())[0, 1] > 0.99
    assert np.corrcoef(apart[1].ravel(), rates_hz[1].ravel())[0, 1] > 0.99


def test_one_dye_alone_is_the_engine_of_that_dye() -> None:
    class Noiseless(Detector):
        def counts(self, photons_hz: NDArray[np.float64], *_: Any, **__: Any) -> NDArray[np.int64]:
            return np.rint(photons_hz).astype(np.int64)

    one = SpeciesEngine([lasting(RED)], detector=Noiseless())
    molecules = sample(one.margin_px, dyes=1)
    expected = STEDEngine(dye=lasting(RED), detector=Noiseless()).scan(molecules[0], LIGHT, seeds())
    assert np.array_equal(one.scan(molecules, LIGHT, seeds()).photons, expected.photons)
    both = SpeciesEngine([lasting(RED), lasting(DEEP_RED)], detector=Noiseless())
    with_nothing = np.concatenate([molecules, np.zeros_like(molecules)])
    assert np.array_equal(both.scan(with_nothing, LIGHT, seeds()).photons, expected.photons)


def test_light_for_one_dye_bleaches_the_other() -> None:
    engine = SpeciesEngine([lasting(RED), DEEP_RED.bleaching_faster(6)])
    molecules = sample(engine.margin_px)
    left = engine.scan(molecules, LIGHT, seeds(1)).survivors
    assert np.array_equal(left[0], molecules[0])
    assert left[1].sum() < molecules[1].sum()


def test_scans_of_several_dyes_are_pure_can_be_stopped_and_sent_away() -> None:
    engine = SpeciesEngine(DYES, windows=WINDOWS)
    molecules = sample(engine.margin_px, (40, 6))
    before = molecules.copy()
    whole = engine.scan_channels(molecules, LIGHT, seeds(2))
    again = pickle.loads(pickle.dumps(engine)).scan_channels(molecules, LIGHT, seeds(2))  # noqa: S301
    stopped = engine.scan_channels(molecules, LIGHT, seeds(2), lambda lines: lines < 16)
    assert np.array_equal(molecules, before)
    assert np.array_equal(whole.photons, again.photons)
    assert np.array_equal(whole.survivors, again.survivors)
    assert np.array_equal(stopped.photons, whole.photons[:, :16])
    assert whole.survivors.sum() < stopped.survivors.sum() < molecules.sum()
    first = engine.scan(molecules, LIGHT, seeds(2))
    assert np.array_equal(first.photons, whole.photons[0])


def test_light_that_differs_from_pixel_to_pixel_is_shared_too() -> None:
    engine = SpeciesEngine(DYES)
    molecules = sample(engine.margin_px)
    dwell_s = np.zeros((8, 9))
    dwell_s[:, 5:] = 40e-6
    scanned = engine.scan_channels(molecules, PixelExposure(1, dwell_s, 30e-6, 0.2), seeds(3))
    assert not scanned.photons[0, :, :5].any()
    assert scanned.photons[0, :, 5:].any()


def test_what_no_microscope_of_several_dyes_can_do_is_refused() -> None:
    engine = SpeciesEngine(DYES)
    molecules = sample(engine.margin_px)
    with pytest.raises(ValueError, match="are not 2 maps"):
        engine.scan(molecules[0], LIGHT, seeds())
    with pytest.raises(TypeError, match="adaptive scan of several dyes"):
        engine.scan(molecules, AdaptiveExposure(1, (Step(1e-6, 1e-6),)), seeds())
    with pytest.raises(ValueError, match="dyes and windows"):
        SpeciesEngine([])
    with pytest.raises(ValueError, match="begin before it ends"):
        SpeciesEngine(DYES, windows=[(700e-9, 650e-9)])
    with pytest.raises(ValueError, match=r"sted_m=7.75e-07 .* 'gym_red'"):
        SpeciesEngine([RED, GYM_RED])
