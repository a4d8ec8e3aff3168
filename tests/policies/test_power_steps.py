"""The policies where the safety limits let a power rise in steps only, with the guard that counts them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.core.clock import SimulatedClock
from controller.core.decision import AskLabel, Budget, Dose, Observation, Stop
from controller.core.errors import ConfigurationError, LimitExceededError
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.limits import SafetyLimits
from controller.core.protocols import Policy, Resources
from controller.core.settings import ScanSettings
from controller.testing import LIMITS, FakeMicroscope
from policies.bandit import ThompsonPolicy
from policies.events import EventsPolicy
from policies.fixed import FixedPolicy
from policies.regions import RegionsPolicy

QUICK = {"method": "thompson", "candidates": 60}
SMALL = {"center_yx_m": [0.0, 0.0], "size_yx_m": [2e-6, 2e-6]}


class BrightSpots(FakeMicroscope):
    """Spots all over; STED makes them finer and dimmer, and bleaches nothing."""

    def acquire(self, settings: ScanSettings) -> Frame:
        frame = super().acquire(settings)
        rows, columns = np.indices(settings.shape_yx) * settings.pixel_size_m
        sharp = np.cos(rows / 40e-9) * np.cos(columns / 40e-9) * settings.sted_w / 0.2
        broad = np.cos(rows / 300e-9) * np.cos(columns / 300e-9)
        rates = 30.0 * np.maximum(0.0, broad) * (1.0 + sharp)
        return replace(frame, photons=np.random.default_rng(self.scans).poisson(rates))


def make(kind: type[Any], options: dict[str, Any], allowed: SafetyLimits) -> Policy:
    able = FakeMicroscope().capabilities()
    given = Resources(np.random.default_rng(0), SimulatedClock(), Path(), allowed, capabilities=able)
    policy = kind.from_options(kind.Options.model_validate_json(json.dumps(options)), given)
    assert isinstance(policy, Policy)
    return policy


def play(policy: Policy, allowed: SafetyLimits) -> tuple[list[ScanSettings], list[str]]:
    """Play a session behind the real guard; return what was scanned and what was refused."""
    guard = GuardedMicroscope(BrightSpots(), allowed, source="test")
    seen = Observation(None, None, None, Dose(), Budget(), 0.0)
    scans: list[ScanSettings] = []
    refusals: list[str] = []
    for _ in range(120):
        decision = policy.decide(seen)
        if isinstance(decision, Stop):
            return scans, refusals
        seen = replace(seen, refused=None)
        if isinstance(decision, AskLabel):
            continue
        try:
            seen = replace(seen, frame=guard.acquire(decision.settings))
            scans.append(decision.settings)
        except LimitExceededError as refusal:
            seen = replace(seen, refused=str(refusal))
            refusals.append(str(refusal))
    raise AssertionError("no stop within 120 cycles")


@pytest.mark.parametrize("steps", [{"sted_step_w": 0.03}, {"sted_step_w": 0.03, "excitation_step_w": 10e-6}])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ThompsonPolicy, {"trials_max": 16, "settings": QUICK}),
        (RegionsPolicy, {"visits_max": 16, "settings": QUICK, "overview": {"modality": "overview"}}),
    ],
)
def test_learned_powers_climb_step_by_step_and_none_is_refused(
    kind: type[Any], options: dict[str, Any], steps: dict[str, float]
) -> None:
    allowed = LIMITS.replace(**steps)
    scans, refusals = play(make(kind, options, allowed), allowed)
    assert refusals == []
    powers = [scan.sted_w for scan in scans if scan.modality == "sted"]
    assert len(powers) == 16
    assert powers[0] <= 0.03
    assert max(powers[:4]) > 0.03
    assert max(powers) > 0.1


ALLOWED = LIMITS.replace(sted_step_w=0.06, excitation_step_w=10e-6)
STED = {"modality": "sted", "pixel_size_m": 20e-9, "region": SMALL}
TOO_STEEP: list[tuple[type[Any], dict[str, Any], str]] = [
    (
        FixedPolicy,
        {"steps": [{}, {**STED, "sted_w": 0.1}]},
        r"steps\[1\]: sted_w=0\.1 W is a step up of 0\.1 W from the 0 W .* 0\.06 W \(sted_step_w",
    ),
    (
        FixedPolicy,
        {"steps": [{"excitation_w": x} for x in (9e-6, 18e-6, 2e-6, 13e-6)], "repeats": 2},
        r"steps\[3\]: excitation_w=1\.3e-05 W is a step up of 1\.1e-05 W from the 2e-06 W before it",
    ),
    (EventsPolicy, {"event": {"modality": "sted", "pixel_size_m": 20e-9, "sted_w": 0.07}}, "event: sted_w"),
    (EventsPolicy, {"monitor": {"excitation_w": 2e-6}, "event": {"excitation_w": 13e-6}}, "event: excitat"),
    (RegionsPolicy, {"overview": {"modality": "overview", "excitation_w": 15e-6}}, "overview: excitation_w"),
    (RegionsPolicy, {"visit": {"confocal": {"pixel_size_m": 40e-9, "excitation_w": 25e-6}}}, "confocal: exc"),
    (
        RegionsPolicy,
        {"visit": {"sted": {**STED, "region": None, "sted_w": 0.1}}, "settings": {"method": "fixed"}},
        "visit.sted: sted_w",
    ),
    (
        ThompsonPolicy,
        {"settings": {"parameters": [{"name": "sted_w", "low": 0.1, "high": 0.2}]}},
        "settings.parameters, as gentle as can be: sted_w=0.1 W",
    ),
    (
        ThompsonPolicy,
        {
            "settings": {"parameters": [{"name": "dwell_s", "low": 1e-6, "high": 2e-6}]},
            "visit": {"sted": {**STED, "region": None, "sted_w": 0.1}},
        },
        "sted_w=0.1 W",
    ),
]


@pytest.mark.parametrize(("kind", "options", "message"), TOO_STEEP)
def test_fixed_powers_that_cannot_be_reached_are_refused_by_name(
    kind: type[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(kind, options, ALLOWED)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (FixedPolicy, {"steps": [{}, {**STED, "sted_w": 0.05}, {**STED, "sted_w": 0.1}], "repeats": 1}),
        (RegionsPolicy, {"visit": {"confocal": {"pixel_size_m": 40e-9, "excitation_w": 18e-6}}}),
        (EventsPolicy, {"monitor_max": 3}),
    ],
)
def test_an_earlier_scan_may_raise_a_power_enough(kind: type[Any], options: dict[str, Any]) -> None:
    _, refusals = play(make(kind, options, ALLOWED), ALLOWED)
    assert refusals == []


def test_a_light_that_was_off_in_a_scan_keeps_its_last_use() -> None:
    steps = [{**STED, "sted_w": 0.06}, {}, {**STED, "sted_w": 0.12}, {}, {**STED, "sted_w": 0.18}]
    scans, refusals = play(make(FixedPolicy, {"steps": steps}, ALLOWED), ALLOWED)
    assert (len(scans), refusals) == (5, [])
