"""The engine against pySTED itself, on small maps; ``benchmarks/sted_equality.py`` is the whole of it.

Seeds are fixed. Of 28 probabilities, one below 0.001 would come up in three of a hundred runs were the
seeds drawn anew and the laws the same.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import pytest

from simulator.specimens import make_specimen
from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.equality import compare
from simulator.sted.pysted_reference import PystedEngine
from simulator.sted.scanning import AdaptiveExposure, Exposure, Molecules, PixelExposure, Scanned, Seeds, Step

SIDE_PX = 20
STED = Exposure(1, 25e-6, 20e-6, 0.2)
DYMIN = AdaptiveExposure(
    1,
    (
        Step(10e-6, 10e-6, 0.0, fewest_photons=8),
        Step(10e-6, 10e-6, 0.05, fewest_photons=8),
        Step(60e-6, 10e-6, 0.2),
    ),
    dark_is_zero=True,
)
RESCUE = AdaptiveExposure(
    1,
    (Step(10e-6, 10e-6, 0.2, fewest_photons=2, enough_photons=6), Step(60e-6, 10e-6, 0.2)),
    sums=True,
    dark_is_zero=True,
    scaled_to_s=60e-6,
)
_RNG = np.random.default_rng(3)
PIXELS = PixelExposure(
    1,
    _RNG.choice([5e-6, 40e-6], (SIDE_PX, SIDE_PX)),
    _RNG.choice([5e-6, 20e-6], (SIDE_PX, SIDE_PX)),
    _RNG.choice([0.02, 0.2], (SIDE_PX, SIDE_PX)),
)


@lru_cache(maxsize=1)
def sample() -> Molecules:
    """Return a sample with the reference's margin; the engine's own is narrower."""
    margin = PystedEngine().margin_px
    side = SIDE_PX + 2 * margin
    return make_specimen("synapses", (side, side), 60.0, np.random.default_rng(1)).molecules


def seeds(engine: int, number: int) -> Seeds:
    return Seeds(np.random.SeedSequence([engine, number, 1]), np.random.SeedSequence([engine, number, 2]))


def scans_of_pysted(exposure: Exposure | PixelExposure | AdaptiveExposure, count: int) -> list[Scanned]:
    engine, edge = PystedEngine(), PystedEngine().margin_px - STEDEngine().margin_px
    scans = [engine.scan(sample(), exposure, seeds(1, number)) for number in range(count)]
    return [replace(scanned, survivors=scanned.survivors[edge:-edge, edge:-edge]) for scanned in scans]


def scans(
    engine: STEDEngine, exposure: Exposure | PixelExposure | AdaptiveExposure, count: int, stream: int = 2
) -> list[Scanned]:
    edge = PystedEngine().margin_px - engine.margin_px
    inside = np.ascontiguousarray(sample()[edge:-edge, edge:-edge])
    return [engine.scan(inside, exposure, seeds(stream, number)) for number in range(count)]


@pytest.mark.parametrize("exposure", [STED, PIXELS, DYMIN, RESCUE], ids=["even", "pixels", "dymin", "rescue"])
def test_it_has_the_law_of_pysted(exposure: Exposure | PixelExposure | AdaptiveExposure) -> None:
    pytest.importorskip("pysted")
    theirs = scans_of_pysted(exposure, 30)
    ours = scans(STEDEngine.like_pysted(), exposure, 80)
    found = asdict(compare(ours, theirs, np.random.default_rng(9), permutations=1999))
    assert min(found.values()) > 0.001, found


def test_the_comparison_finds_small_differences() -> None:
    """A tenth more bleaching, or four parts in a hundred more light, do not pass."""
    pytest.importorskip("pysted")
    theirs = scans(STEDEngine.like_pysted(), STED, 80, stream=3)
    rng = np.random.default_rng(9)
    more_bleaching = compare(scans(STEDEngine.like_pysted(bleaching=1.1), STED, 80), theirs, rng)
    assert more_bleaching.survivors < 0.001
    more_light = scans(STEDEngine.like_pysted(Detector(collected=0.052)), STED, 80)
    found = compare(more_light, theirs, rng)
    assert max(found.means, found.photons) < 0.01
    assert min(found.survivors, found.survivors_by_place) > 0.001
