"""Batches: the numbers of single scans with numpy, and their law with torch.

Seeds are fixed and hashed, so a test that passes stays passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.sted.batch import scan_many
from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.optics import Optics
from simulator.sted.oracle import law_of_scan
from simulator.sted.photophysics import PYSTED, RED, Physics
from simulator.sted.scanning import Exposure, FloatImage, Molecules, PixelExposure, Scanned, Seeds

#: Coarse maps, whose kernels are small: the law is the same and the tests are quick.
COARSE_M = 40e-9
LIGHT = Exposure(stride_px=1, dwell_s=30e-6, excitation_w=30e-6, sted_w=0.2)


def seeds(*numbers: int) -> Seeds:
    return Seeds(np.random.SeedSequence([*numbers, 1]), np.random.SeedSequence([*numbers, 2]))


def sample(
    shape_yx: tuple[int, int], *, stride_px: int = 1, margin_px: int = 12, molecules: int = 30, seed: int = 8
) -> Molecules:
    rng = np.random.default_rng(seed)
    shape = [pixels * stride_px + 2 * margin_px for pixels in shape_yx]
    return (rng.random(shape) < 0.1).astype(np.int32) * rng.integers(1, molecules, shape, dtype=np.int32)


def assert_same(ours: list[Scanned], theirs: list[Scanned]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.photons.dtype == np.uint32
        assert mine.survivors.dtype == np.int32
        assert np.array_equal(mine.photons, other.photons)
        assert np.array_equal(mine.survivors, other.survivors)
        assert mine.steps is None


def lights(count: int, stride_px: int = 1, passes: int = 1) -> list[Exposure]:
    """Return light of all strengths, some of it without the STED beam: kernels of few and many terms."""
    rng = np.random.default_rng(4)
    return [
        Exposure(
            stride_px,
            float(rng.uniform(10e-6, 100e-6)),
            float(rng.uniform(1e-6, 50e-6)),
            float(rng.choice([0.0, 0.05, 0.25])),
            passes,
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("shape_yx", "stride_px", "passes", "count"),
    [((40, 33), 1, 1, 19), ((9, 20), 2, 1, 3), ((7, 6), 3, 4, 8), ((1, 1), 70, 1, 2), ((20, 8), 1, 2, 1)],
)
@pytest.mark.parametrize("physics", [Physics(), PYSTED])
def test_a_batch_gives_what_each_scan_gives_alone(
    shape_yx: tuple[int, int], stride_px: int, passes: int, count: int, physics: Physics
) -> None:
    """Each with its own dye and detector, and from the second batch of eight on, too."""
    detectors = [Detector(background_hz=2000.0), Detector(dead_time_s=40e-9)]
    engines = [
        STEDEngine(
            map_pixel_size_m=COARSE_M,
            dye=RED.bleaching_faster(1 + number),
            detector=detectors[number % 2],
            physics=physics,
        )
        for number in range(count)
    ]
    maps = [sample(shape_yx, stride_px=stride_px, seed=number) for number in range(count)]
    maps[0][:] = 0
    before = [molecules.copy() for molecules in maps]
    exposures = lights(count, stride_px, passes)
    chances = [seeds(number) for number in range(count)]
    alone = [
        engine.scan(molecules, exposure, chance)
        for engine, molecules, exposure, chance in zip(engines, maps, exposures, chances, strict=True)
    ]
    assert_same(scan_many(engines, maps, exposures, chances), alone)
    assert all(np.array_equal(molecules, was) for molecules, was in zip(maps, before, strict=True))


class DetectorOfBits(Detector):
    """Counts the last bits of the rate, so that it is seen whether sums are taken in the same order."""

    def counts(
        self, photons_hz: FloatImage, dwell_s: FloatImage | float, rng: np.random.Generator, **_: Any
    ) -> NDArray[np.int64]:
        return np.ascontiguousarray(photons_hz).view(np.int64) & 0xFFFFFFFF


def test_so_many_events_that_they_are_summed_in_parts_change_nothing() -> None:
    engine = STEDEngine(map_pixel_size_m=COARSE_M, dye=RED.bleaching_faster(10), detector=DetectorOfBits())
    maps = [sample((32, 30), molecules=400, seed=number) for number in range(3)]
    chances = [seeds(number) for number in range(3)]
    alone = [engine.scan(molecules, LIGHT, chance) for molecules, chance in zip(maps, chances, strict=True)]
    assert (maps[0] - alone[0].survivors).sum() > 3 * 4096
    assert_same(scan_many(engine, maps, [LIGHT] * 3, chances), alone)


def test_an_empty_batch_is_no_scan() -> None:
    assert scan_many(STEDEngine(map_pixel_size_m=COARSE_M), [], [], []) == []


def bad_batches() -> list[tuple[dict[str, Any], str]]:
    engine = STEDEngine(map_pixel_size_m=COARSE_M)
    wide = STEDEngine(Optics(numerical_aperture=1.2), map_pixel_size_m=COARSE_M)
    assert wide.margin_px != engine.margin_px
    return [
        ({"exposures": [LIGHT]}, "1 exposures are given for 2 maps"),
        ({"engines": [engine] * 3}, "3 engines are given for 2 maps"),
        ({"maps": [sample((4, 4)), sample((4, 5))]}, "map shapes"),
        ({"exposures": [LIGHT, Exposure(2, 1e-5, 1e-5)]}, "stride_px"),
        ({"exposures": [LIGHT, Exposure(1, 1e-5, 1e-5, passes=2)]}, "passes"),
        (
            {"engines": [engine, STEDEngine(map_pixel_size_m=COARSE_M, physics=PYSTED)]},
            "bleaching_within_dwell",
        ),
        ({"engines": [engine, wide]}, "margin_px"),
        ({"exposures": [LIGHT, PixelExposure(1, 1e-5, 1e-5)]}, "PixelExposure alone"),
    ]


@pytest.mark.parametrize(("changes", "told"), bad_batches())
def test_scans_that_are_not_one_batch_are_refused(changes: dict[str, Any], told: str) -> None:
    batch: dict[str, Any] = {
        "engines": STEDEngine(map_pixel_size_m=COARSE_M),
        "maps": [sample((4, 4))] * 2,
        "exposures": [LIGHT] * 2,
    }
    with pytest.raises((ValueError, TypeError), match=told):
        scan_many(**{**batch, **changes, "seeds": [seeds(1), seeds(2)]})
    with pytest.raises(ValueError, match="1 seeds are given for 2 maps"):
        scan_many(**batch, seeds=[seeds(1)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch
class TestWithTorch:
    @pytest.fixture
    def torch_batch(self) -> Iterator[Any]:
        torch = pytest.importorskip("torch", reason="needs torch")
        from simulator.sted import torch_batch

        # Threads that wait for a busy processor take a hundred times longer than the work.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield torch_batch
        torch.set_num_threads(threads)

    @pytest.mark.parametrize(
        ("shape_yx", "exposure", "physics"),
        [
            ((14, 12), LIGHT, Physics()),
            ((14, 12), LIGHT, Physics(bleaching_within_dwell=False)),
            ((3, 4), Exposure(1, 1e-3, 30e-6, 0.2), Physics()),
            ((6, 9), Exposure(2, 120e-6, 30e-6, 0.2), Physics()),
            ((5, 4), Exposure(3, 270e-6, 30e-6, 0.2), Physics()),
            ((7, 8), Exposure(1, 90e-6, 30e-6, 0.2, passes=3), Physics()),
        ],
    )
    def test_scans_follow_the_closed_form_law(
        self, torch_batch: Any, shape_yx: tuple[int, int], exposure: Exposure, physics: Physics
    ) -> None:
        # Every photon counts, so that the bleaching shows above the noise of counting.
        detector = Detector(collected=1.0, detected=1.0, background_hz=1e5)
        engine = STEDEngine(
            map_pixel_size_m=COARSE_M, dye=RED.bleaching_faster(5), detector=detector, physics=physics
        )
        molecules, count = sample(shape_yx, stride_px=exposure.stride_px), 200
        scans = []
        for batch in range(count // 20):
            chance = np.random.SeedSequence([batch, exposure.stride_px, exposure.passes])
            scans += torch_batch.scan_many(engine, [molecules] * 20, [exposure] * 20, chance)
        law = law_of_scan(
            molecules,
            (engine.light(exposure.excitation_w, exposure.sted_w), exposure.dwell_s),
            stride_px=exposure.stride_px,
            passes=exposure.passes,
            within_dwell=physics.bleaching_within_dwell,
        )

        survivors = np.array([scanned.survivors for scanned in scans], np.float64)
        expected, spread = molecules * law.survival, molecules * law.survival * (1 - law.survival)
        total = survivors.sum(axis=(1, 2))
        assert abs(total.mean() - expected.sum()) < 4 * np.sqrt(spread.sum() / count)
        assert total.var() / spread.sum() == pytest.approx(1.0, abs=4 * np.sqrt(2 / count))
        self.check_squares((survivors.mean(axis=0) - expected)[spread > 0.3], spread[spread > 0.3] / count)

        images = np.array([scanned.photons for scanned in scans], np.float64)
        mean = (law.photons_hz + detector.background_hz) * exposure.dwell_s
        variance = mean + law.variance_hz2 * exposure.dwell_s**2
        if exposure.passes > 1:  # no closed form
            variance = images.var(axis=0)
        deviation = images.mean(axis=0) - mean
        assert np.abs(deviation / np.sqrt(variance / count)).max() < 5
        assert images.var(axis=0).mean() == pytest.approx(variance.mean(), rel=0.15)
        error = np.sqrt(images.sum(axis=(1, 2)).var() / count)
        assert abs(deviation.sum()) < 4 * error

    @staticmethod
    def check_squares(deviation: NDArray[np.float64], variance: NDArray[np.float64]) -> None:
        assert np.mean(deviation**2 / variance) == pytest.approx(
            1.0, abs=4 * np.sqrt(2 / deviation.size) + 0.02
        )

    def test_each_map_has_its_own_light_dye_and_detector(self, torch_batch: Any) -> None:
        count, shape_yx = 6, (10, 9)
        engines = [
            STEDEngine(
                map_pixel_size_m=COARSE_M,
                dye=RED.bleaching_faster(1 + number),
                detector=Detector(background_hz=1e6 * number),
            )
            for number in range(count)
        ]
        exposures = lights(count)
        maps = [sample(shape_yx, molecules=400, seed=number) for number in range(count)]
        scans = torch_batch.scan_many(engines, maps, exposures, np.random.SeedSequence(3))
        for engine, exposure, molecules, scanned in zip(engines, exposures, maps, scans, strict=True):
            light = engine.light(exposure.excitation_w, exposure.sted_w)
            law = law_of_scan(molecules, (light, exposure.dwell_s))
            spread = (molecules * law.survival * (1 - law.survival)).sum()
            assert abs(scanned.survivors.sum() - (molecules * law.survival).sum()) < 4 * np.sqrt(spread)
            rate_hz = law.photons_hz * engine.detector.efficiency + engine.detector.background_hz
            photons = rate_hz.sum() * exposure.dwell_s
            assert scanned.photons.sum() == pytest.approx(photons, rel=0.05)

    def test_the_same_seed_gives_the_same_scans_and_nothing_global_is_drawn_from(
        self, torch_batch: Any
    ) -> None:
        import torch

        engine, maps = (
            STEDEngine(map_pixel_size_m=COARSE_M, dye=RED.bleaching_faster(9)),
            [sample((10, 9))] * 2,
        )
        state = torch.get_rng_state()
        first, second, other = (
            torch_batch.scan_many(engine, maps, [LIGHT] * 2, np.random.SeedSequence(seed))
            for seed in (5, 5, 6)
        )
        assert torch.equal(torch.get_rng_state(), state)
        assert_same(first, second)
        assert not np.array_equal(first[0].photons, other[0].photons)
        assert not np.array_equal(first[0].survivors, first[1].survivors)

    def test_dark_and_empty_maps_show_nothing(self, torch_batch: Any) -> None:
        engine, nothing = STEDEngine(map_pixel_size_m=COARSE_M), sample((10, 9)) * 0
        for maps, exposure in (([nothing], LIGHT), ([sample((10, 9))], Exposure(1, 1e-5, 0.0, 0.2))):
            (scanned,) = torch_batch.scan_many(engine, maps, [exposure], np.random.SeedSequence(1))
            assert not scanned.photons.any()
            assert np.array_equal(scanned.survivors, maps[0])
        assert torch_batch.scan_many(engine, [], [], np.random.SeedSequence(1)) == []

    def test_what_it_cannot_draw_is_refused(self, torch_batch: Any) -> None:
        for engine in (
            STEDEngine(map_pixel_size_m=COARSE_M, detector=Detector(dead_time_s=1e-8)),
            STEDEngine(map_pixel_size_m=COARSE_M, physics=PYSTED),
        ):
            with pytest.raises(ValueError, match="dead_time_s"):
                torch_batch.scan_many(engine, [sample((4, 4))], [LIGHT], np.random.SeedSequence(1))
        with pytest.raises(ValueError, match="map shapes"):
            torch_batch.scan_many(
                STEDEngine(map_pixel_size_m=COARSE_M),
                [sample((4, 4)), sample((4, 5))],
                [LIGHT] * 2,
                np.random.SeedSequence(1),
            )
