"""The simulated microscope makes the adaptive scans that it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from controller.core.clock import SimulatedClock
from controller.core.errors import InvalidRequestError, LimitExceededError
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Microscope
from controller.core.settings import AdaptiveIllumination, AdaptiveStep, Region, ScanSettings
from controller.testing import LIMITS, TWO_STEPS, MicroscopeContract
from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.microscope import SimulatedMicroscope, _exposure
from simulator.sted.scanning import AdaptiveExposure, Exposure, Molecules, Scanned, Seeds, Step, always

SCAN = ScanSettings(
    modality="sted",
    region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(0.8e-6, 0.8e-6)),
    pixel_size_m=20e-9,
    dwell_s=10e-6,
    excitation_w=10e-6,
    sted_w=150e-3,
    adaptive=TWO_STEPS,
)


def microscope(engine: str = "exact", clock: SimulatedClock | None = None) -> SimulatedMicroscope:
    options = SimulatedMicroscope.Options.model_validate(
        {"specimen": "synapses", "fields_yx": (1, 1), "field_size_m": 2e-6, "engine": engine}
    )
    return SimulatedMicroscope(options, clock=clock or SimulatedClock(), seed=1)


class TestContractWithAdaptiveLight(MicroscopeContract):
    settings = SCAN

    def make(self) -> Microscope:
        return microscope()


def test_its_steps_are_those_of_the_engine() -> None:
    steps = (
        AdaptiveStep(dwell_fraction=0.2, sted_fraction=0.1, excitation_fraction=0.5, fewest_photons=3),
        AdaptiveStep(dwell_fraction=0.4, enough_photons=30),
    )
    asked = SCAN.replace(
        adaptive=AdaptiveIllumination(steps=steps, sums=True, dark_is_zero=True, scaled_to_fraction=0.5)
    )
    got = _exposure(asked, 2)
    assert isinstance(got, AdaptiveExposure)
    assert [(step.dwell_s, step.excitation_w, step.sted_w) for step in got.steps] == [
        pytest.approx((2e-6, 5e-6, 15e-3)),
        pytest.approx((4e-6, 10e-6, 150e-3)),
    ]
    assert [(step.fewest_photons, step.enough_photons) for step in got.steps] == [(3, None), (0, 30)]
    assert (got.stride_px, got.sums, got.dark_is_zero, got.scaled_to_s) == (2, True, True, 5e-6)


def test_a_frame_is_what_the_engine_gives() -> None:
    scope = microscope()
    whole = SCAN.replace(region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(2e-6, 2e-6)))
    frame = scope.acquire(whole)
    exposure = AdaptiveExposure(1, (Step(2.5e-6, 10e-6, 0.0, fewest_photons=2), Step(7.5e-6, 10e-6, 150e-3)))
    seeds = Seeds(np.random.SeedSequence([1, 2, 0]), np.random.SeedSequence([1, 3, 0]))
    engine = STEDEngine(detector=Detector(background_hz=2000.0))
    scanned = engine.scan(np.pad(scope.specimen.molecules, engine.margin_px), exposure, seeds)
    assert np.array_equal(frame.photons, scanned.photons)
    assert scope.steps_made is not None
    assert scanned.steps is not None
    assert np.array_equal(scope.steps_made, scanned.steps)
    assert 0.05 < np.mean(scanned.steps == 1) < 0.95


def test_it_bleaches_less_than_the_scan_without_steps() -> None:
    lost = []
    for adaptive in (None, TWO_STEPS):
        scope = microscope()
        scope.acquire(SCAN.replace(adaptive=adaptive))
        lost.append(1 - scope.molecules.sum() / scope.specimen.molecules.sum())
    assert 0 < lost[1] < 0.8 * lost[0]


def test_the_light_that_fell_is_at_most_what_was_booked() -> None:
    scope = microscope()
    guard = GuardedMicroscope(scope, LIMITS)
    settings = guard.acquire(SCAN).settings
    assert scope.steps_made is not None
    after_steps_j = np.cumsum([light.energy_j for light in settings.pixel_lights])
    fell_j = after_steps_j[scope.steps_made - 1].sum()
    assert 0 < fell_j < guard.dose.energy_j == pytest.approx(settings.energy_j)


def test_a_scan_takes_the_time_of_one_without_steps() -> None:
    clock = SimulatedClock()
    scope = microscope(clock=clock)
    scope.acquire(SCAN)
    begun_s = clock.now_s()
    scope.acquire(SCAN)
    assert clock.now_s() - begun_s == pytest.approx(SCAN.duration_s)


def test_other_scans_leave_the_steps_of_the_last_adaptive_one() -> None:
    scope = microscope()
    assert scope.steps_made is None
    scope.acquire(SCAN)
    made = scope.steps_made
    scope.acquire(SCAN.replace(adaptive=None))
    assert scope.steps_made is made


class EvenLight:
    """An engine that is not Stedfast's own."""

    map_pixel_size_m = 20e-9
    margin_px = 5

    def scan(
        self,
        molecules: Molecules,
        exposure: Exposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = always,
    ) -> Scanned:
        assert isinstance(exposure, Exposure), "it was given steps"
        return Scanned(molecules[5:-5, 5:-5].astype(np.uint32), molecules)


def test_another_engine_is_not_given_any() -> None:
    options = SimulatedMicroscope.Options(specimen="beads", fields_yx=(1, 1), field_size_m=0.8e-6)
    scope = SimulatedMicroscope(options, clock=SimulatedClock(), seed=1, engine=EvenLight())
    assert not scope.capabilities().adaptive
    with pytest.raises(InvalidRequestError, match=r"microscope\.options\.engine"):
        scope.acquire(SCAN)
    with pytest.raises(LimitExceededError, match="adaptive"):
        GuardedMicroscope(scope, LIMITS).acquire(SCAN)
    assert scope.acquire(SCAN.replace(adaptive=None)).index == 0
