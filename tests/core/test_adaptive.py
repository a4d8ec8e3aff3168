"""Adaptive scans: no path through their steps gets more light than the guard has booked."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.core.dose import Reservation
from controller.core.errors import DeviceError, LimitExceededError
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Capabilities
from controller.core.settings import AdaptiveIllumination, AdaptiveStep, ScanSettings
from controller.testing import CONFOCAL, LIMITS, TWO_STEPS, FakeMicroscope

STED = CONFOCAL.replace(modality="sted", sted_w=0.1)
ADAPTIVE = STED.replace(adaptive=TWO_STEPS)


class Adapting(FakeMicroscope):
    """Says that it makes adaptive scans."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), adaptive=True)


@st.composite
def illuminations(draw: st.DrawFn) -> AdaptiveIllumination:
    """Any steps whose times fit into a dwell."""
    parts = draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
    whole = math.fsum(parts) * draw(st.floats(1.0 + 1e-12, 4.0))
    photons = st.integers(0, 10**9)
    steps = tuple(
        AdaptiveStep(
            dwell_fraction=max(part / whole, 1e-3),
            excitation_fraction=draw(st.floats(0, 1)),
            sted_fraction=draw(st.floats(0, 1)),
            fewest_photons=draw(photons),
            enough_photons=draw(st.none() | photons),
        )
        for part in parts
    )
    return AdaptiveIllumination(
        steps=steps,
        sums=draw(st.booleans()),
        dark_is_zero=draw(st.booleans()),
        scaled_to_fraction=draw(st.none() | st.floats(1e-3, 1.0)),
    )


@st.composite
def adaptive_scans(draw: st.DrawFn) -> ScanSettings:
    return STED.replace(
        dwell_s=draw(st.floats(1e-6, 1e-3)),
        excitation_w=draw(st.floats(0, 1e-4)),
        sted_w=draw(st.floats(0, 0.3)),
        adaptive=draw(illuminations()),
    )


@hypothesis_settings(max_examples=60, deadline=None)
@given(adaptive_scans(), st.data())
def test_no_path_through_the_steps_gets_more_light_than_is_booked(
    scan: ScanSettings, data: st.DataObject
) -> None:
    lights = scan.pixel_lights
    made = data.draw(st.lists(st.integers(1, len(lights)), min_size=1, max_size=20))
    paths = [lights[:steps] for steps in made]
    rows, columns = scan.shape_yx
    for path in paths:
        energy_j = math.fsum(light.energy_j for light in path)
        most_j = scan.energy_j / (rows * columns)
        assert energy_j <= most_j * (1 + 1e-12)
        assert energy_j / scan.pixel_size_m**2 <= scan.dose_j_per_m2 * (1 + 1e-12)
        assert math.fsum(light.dwell_s for light in path) <= scan.dwell_s * (1 + 1e-12)
        assert all(light.excitation_w <= scan.excitation_w for light in path)
        assert all(light.sted_w <= scan.sted_w for light in path)


@hypothesis_settings(max_examples=40, deadline=None)
@given(adaptive_scans())
def test_limits_and_bookings_are_those_of_the_scan_without_steps(scan: ScanSettings) -> None:
    plain = scan.replace(adaptive=None)
    limits = LIMITS.replace(excitation_max_w=5e-5, sted_max_w=0.1, dwell_max_s=1e-4)
    assert limits.violations(scan, "here") == limits.violations(plain, "here")
    guard = GuardedMicroscope(Adapting(), LIMITS)
    for attribute in ("energy_j", "dose_j_per_m2", "duration_s"):
        booked = [getattr(guard.ledger.worst_case(one), attribute) for one in (scan, plain)]
        assert booked[0] == booked[1]


@hypothesis_settings(max_examples=40, deadline=None)
@given(adaptive_scans())
def test_it_comes_back_from_json_as_it_was(scan: ScanSettings) -> None:
    assert ScanSettings.model_validate_json(scan.model_dump_json()) == scan
    assert ScanSettings.model_validate_json(json.dumps(scan.model_dump(mode="json"))) == scan


def test_a_scan_recorded_before_there_were_adaptive_ones_still_loads() -> None:
    recorded = STED.model_dump(mode="json")
    del recorded["adaptive"]
    assert ScanSettings.model_validate_json(json.dumps(recorded)) == STED


def test_a_scan_without_steps_has_one_light() -> None:
    (light,) = STED.replace(line_averages=3).pixel_lights
    assert tuple(light) == pytest.approx((30e-6, 10e-6, 0.1))
    assert light.energy_j == pytest.approx(0.10001 * 30e-6)


STEP = {"dwell_fraction": 0.5}


@pytest.mark.parametrize(
    ("adaptive", "words"),
    [
        ({"steps": []}, "at least 1"),
        ({"steps": [STEP, {"dwell_fraction": 0.6}]}, r"add up to 1\.1, allowed is 1"),
        ({"steps": [{"dwell_fraction": 0.0}]}, "greater than or equal to 0.001"),
        ({"steps": [{**STEP, "sted_fraction": 1.0000001}]}, "less than or equal to 1"),
        ({"steps": [{**STEP, "excitation_fraction": -0.1}]}, "greater than or equal to 0"),
        ({"steps": [{**STEP, "sted_fraction": "1"}]}, "valid number"),
        ({"steps": [{**STEP, "fewest_photons": 1.5}]}, "valid integer"),
        ({"steps": [{**STEP, "enough_photons": -1}]}, "greater than or equal to 0"),
        ({"steps": [{**STEP, "sted_w": 0.1}]}, "Extra inputs"),
        ({"steps": [STEP], "scaled_to_fraction": 2.0}, "less than or equal to 1"),
    ],
)
def test_steps_that_make_no_scan_are_refused(adaptive: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AdaptiveIllumination.model_validate_json(json.dumps(adaptive))


def test_the_steps_of_several_passes_are_refused() -> None:
    with pytest.raises(ValidationError, match="line_averages=2 is asked of an adaptive scan, allowed is 1"):
        ADAPTIVE.replace(line_averages=2)


def test_a_microscope_that_declares_no_adaptive_scans_is_never_given_one() -> None:
    microscope = FakeMicroscope()
    booked: list[Reservation] = []
    guard = GuardedMicroscope(microscope, LIMITS, before_light=booked.append)
    for frames in (1, 3):
        with pytest.raises(LimitExceededError, match="an adaptive scan is asked, fake makes none"):
            guard.stream(ADAPTIVE, frames, lambda _: None)
    assert microscope.commands == []
    assert booked == []
    assert guard.dose.energy_j == 0
    assert guard.ledger.energy_left_j == LIMITS.session_energy_max_j


def test_what_an_adaptive_scan_books_is_its_worst_case() -> None:
    guard = GuardedMicroscope(Adapting(), LIMITS)
    assert guard.acquire(ADAPTIVE).settings == ADAPTIVE
    assert guard.dose.energy_j == STED.energy_j


def test_a_driver_that_leaves_the_steps_out_is_at_fault() -> None:
    class Forgetful(Adapting):
        def acquire(self, settings: ScanSettings) -> Frame:
            return super().acquire(settings.replace(adaptive=None))

    guard = GuardedMicroscope(Forgetful(), LIMITS)
    with pytest.raises(DeviceError, match="scanned with None"):
        guard.acquire(ADAPTIVE)
    assert guard.dose.energy_j == STED.energy_j


def test_the_count_rate_of_each_step_is_predicted() -> None:
    """A step without the STED beam is as bright as a confocal scan."""
    limits = LIMITS.replace(count_rate_max_hz=3e6)
    bright = {"excitation_w": 60e-6}
    guard = GuardedMicroscope(Adapting(), limits)
    guard.acquire(CONFOCAL)  # about 12 counts in 10 us at 10 uW: 1.2 MHz
    with pytest.raises(LimitExceededError, match="counts/s"):
        guard.acquire(ADAPTIVE.replace(**bright))
    dimmed = tuple(step.replace(excitation_fraction=0.2) for step in TWO_STEPS.steps)
    guard.acquire(STED.replace(adaptive=TWO_STEPS.replace(steps=dimmed), **bright))


def test_an_adaptive_frame_tells_of_its_weakest_sted_light() -> None:
    guard = GuardedMicroscope(Adapting(), LIMITS.replace(count_rate_max_hz=3e6))
    guard.acquire(ADAPTIVE)
    with pytest.raises(LimitExceededError, match="counts/s"):
        guard.acquire(CONFOCAL.replace(excitation_w=60e-6))
