"""A sample that moves while it is scanned, against the closed-form law of each line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from simulator.stage import Place
from simulator.sted.engine import STEDEngine
from simulator.sted.motion import StagePath
from simulator.sted.optics import Optics, focal_light
from simulator.sted.oracle import law_of_scan
from simulator.sted.photophysics import RED
from simulator.sted.sample import Sample, moving_engine
from simulator.sted.scanning import Exposure, Scanned, Seeds

SHAPE = (6, 7)
LIGHT = Exposure(1, 40e-6, 30e-6, 0.2)


def seeds(number: int) -> Seeds:
    return Seeds(np.random.SeedSequence([number, 1]), np.random.SeedSequence([number, 2]))


def path(drift_m_per_s: float = 0.0, vibration_m: float = 0.0, hz: float = 50.0, seed: int = 5) -> StagePath:
    return StagePath(drift_m_per_s, vibration_m, hz, np.random.SeedSequence(seed))


def molecules(shape: tuple[int, int] = SHAPE) -> NDArray[np.int32]:
    rng = np.random.default_rng(3)
    return (rng.random(shape) < 0.3).astype(np.int32) * rng.integers(1, 60, shape, dtype=np.int32)


def scan(
    sample: Sample,
    engine: STEDEngine,
    shift_px: NDArray[np.float64],
    number: int = 0,
    *,
    go_on: Callable[[int], bool] = lambda _: True,
    exposure: Exposure = LIGHT,
) -> Scanned:
    place = Place((0, 0), (len(shift_px), SHAPE[1]), exposure.stride_px)
    return sample.scan_moving(engine, place, exposure, seeds(number), go_on, shift_px=shift_px)


def test_drift_goes_one_way_at_its_speed_and_the_seed_says_which() -> None:
    shift_m = path(3e-9).shift_m(np.array([0.0, 1.0, 100.0]))
    assert np.array_equal(shift_m[0], [0, 0])
    assert np.hypot(*shift_m[1]) == pytest.approx(3e-9)
    assert np.allclose(shift_m[2], 100 * shift_m[1], rtol=1e-12, atol=0)
    assert not np.allclose(shift_m[1], path(3e-9, seed=6).shift_m(np.ones(1))[0], rtol=0.01, atol=0)


def test_vibration_has_its_size_and_frequency_and_no_memory() -> None:
    times_s = np.arange(0, 400, 1e-3)
    shift_m = path(vibration_m=5e-9, hz=80.0).shift_m(times_s)
    assert np.sqrt((shift_m**2).mean(axis=0)) == pytest.approx(5e-9, rel=0.02)
    assert np.abs(shift_m).max() <= 4 * 5e-9 * (1 + 1e-9)
    power = np.abs(np.fft.rfft(shift_m, axis=0)) ** 2
    hz = np.fft.rfftfreq(len(times_s), 1e-3)
    outside = np.abs(hz - 80.0) > 4.2
    assert power[outside].sum() < 0.01 * power.sum()
    again = path(vibration_m=5e-9, hz=80.0).shift_m(times_s[[300_000, 7]])
    assert np.array_equal(again, shift_m[[300_000, 7]])


def test_a_stage_without_motion_rests() -> None:
    assert path().rests
    assert not path().shift_m(np.arange(5.0)).any()
    assert not path(1e-12).rests
    assert not path(vibration_m=1e-12).rests


@pytest.mark.parametrize("part", ["excitation", "sted", "detection"])
def test_kernels_beside_the_middle_are_the_same_kernels_elsewhere(part: str) -> None:
    centred, shifted = (
        getattr(focal_light(Optics(), 670e-9, 20e-9, offset), part) for offset in ((0.0, 0.0), (1.0, -2.0))
    )
    apart = np.abs(shifted[1:-1, 3:-1] - centred[2:, 1:-3]) / centred.max()
    assert apart[15:-15, 15:-15].max() < 1e-12
    # Detection has lost what the pinhole would bring in from beyond the edge of its pattern.
    assert apart.max() < (1e-3 if part == "detection" else 1e-12)


@pytest.mark.parametrize("exposure", [LIGHT, Exposure(2, 160e-6, 30e-6, 0.2, passes=2)])
def test_moving_scans_follow_the_law_of_each_line(exposure: Exposure) -> None:
    engine = STEDEngine(dye=RED.bleaching_faster(8))
    stride, margin = exposure.stride_px, engine.margin_px
    shape = (SHAPE[0] * stride, SHAPE[1] * stride)
    shift_px = np.random.default_rng(2).normal(0, 1.2, (SHAPE[0], 2))
    shift_px[3] = shift_px[2] + 0.01
    runs = [Sample(molecules(shape), margin) for _ in range(80)]
    counts = np.array([scan(s, engine, shift_px, n, exposure=exposure).photons for n, s in enumerate(runs)])
    survivors = np.array([sample.molecules for sample in runs], float)

    # The law, with wide glass around it: each line finds what the lines before it have left.
    glass = 10
    left = np.pad(molecules(shape).astype(float), margin + glass)
    expected = np.zeros(SHAPE)
    for line, shift in enumerate(shift_px):
        quarters = np.rint(shift * 4)
        whole = np.ceil(quarters / 4 - 0.5).astype(int)
        down, across = (quarters / 4 - whole).tolist()
        light = engine.shifted((down, across)).light(exposure.excitation_w, exposure.sted_w)
        y, x = (glass + line * stride - whole[0], glass - whole[1])
        seen = np.s_[y : y + stride + 2 * margin, x : x + shape[1] + 2 * margin]
        law = law_of_scan(
            left[seen],
            (light, exposure.dwell_s),
            stride_px=stride,
            passes=exposure.passes,
        )
        expected[line] = law.photons_hz[0] * 0.025 * exposure.dwell_s
        left[seen] *= law.survival
    left = left[glass + margin : -glass - margin, glass + margin : -glass - margin]
    error = np.sqrt(counts.var(axis=0) / len(runs)) + 0.05
    assert np.abs((counts.mean(axis=0) - expected) / error).max() < 4.5
    assert abs(counts.mean() - expected.mean()) < 4 * counts.mean(axis=(1, 2)).std() / np.sqrt(len(runs))
    total = survivors.sum(axis=(1, 2))
    assert abs(total.mean() - left.sum()) < 4 * total.std() / np.sqrt(len(runs))
    error = np.sqrt(survivors.var(axis=0) / len(runs)) + 0.05
    assert np.abs((survivors.mean(axis=0) - left) / error).max() < 4.5


def test_a_moving_scan_can_be_stopped_and_repeated() -> None:
    engine = STEDEngine()
    shift_px = np.linspace(0, 4, SHAPE[0])[:, None] * [1.0, -1.0]
    told: list[int] = []

    def stop_after_three(done: int) -> bool:
        told.append(done)
        return done < 3

    whole, again, stopped = (Sample(molecules(), engine.margin_px) for _ in range(3))
    full = scan(whole, engine, shift_px)
    assert np.array_equal(full.photons, scan(again, engine, shift_px).photons)
    part = scan(stopped, engine, shift_px, go_on=stop_after_three)
    assert np.array_equal(part.photons, full.photons[: len(part.photons)])
    assert told[-1] == len(part.photons) == 3
    assert whole.molecules.sum() < stopped.molecules.sum() < molecules().sum()


def test_a_sample_that_has_drifted_away_is_dark_and_keeps_its_molecules() -> None:
    engine = STEDEngine()
    for shift in ([500.0, 0.0], [0.0, -500.0], [-41.5, 70.0]):
        sample = Sample(molecules(), engine.margin_px)
        scanned = scan(sample, engine, np.tile(shift, (SHAPE[0], 1)))
        assert scanned.photons.shape == SHAPE
        assert not scanned.photons.any()
        assert np.array_equal(sample.molecules, molecules())


def test_an_engine_that_knows_no_shift_is_refused() -> None:
    class RestingEngine:
        map_pixel_size_m = 20e-9
        margin_px = 5

        def scan(self, *_: object, **__: object) -> Scanned:
            raise AssertionError

    with pytest.raises(ConfigurationError, match="RestingEngine cannot scan a sample that moves"):
        moving_engine(RestingEngine())
