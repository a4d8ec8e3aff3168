"""The policies at work on a small synthetic microscope whose truth is known here only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, AskLabel, Budget, Decision, Dose, Observation, Stop
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.limits import SafetyLimits
from controller.core.protocols import Capabilities, Policy, Resources
from controller.core.settings import Region, ScanSettings
from controller.testing import PolicyContract, resources
from policies.bandit import ThompsonPolicy
from policies.events import EventsPolicy
from policies.fixed import FixedPolicy
from policies.places import overlap_m2
from policies.regions import RegionsPolicy

QUICK = {"method": "thompson", "candidates": 60}


def limits(box_m: float = 6e-6, **changes: Any) -> SafetyLimits:
    values: dict[str, Any] = {
        "excitation_max_w": 50e-6,
        "sted_max_w": 0.2,
        "dwell_min_s": 1e-6,
        "dwell_max_s": 100e-6,
        "pixel_size_min_m": 10e-9,
        "pixel_size_max_m": 500e-9,
        "pixels_max": 2**18,
        "frame_max_s": 30.0,
        "stage_box": Region(center_yx_m=(1e-6, -2e-6), size_yx_m=(box_m, box_m)),
        "pixel_dose_max_j_per_m2": 1e12,
        "session_energy_max_j": 10.0,
    }
    return SafetyLimits(**{**values, **changes})


class World:
    """Spots in a box. STED sharpens them and bleaches those that it reaches."""

    def __init__(self, seed: int, allowed: SafetyLimits, *, trouble: float = 0.0, spots: int = 25) -> None:
        self.rng, self.allowed, self.trouble = np.random.default_rng(seed), allowed, trouble
        y0, x0, y1, x1 = allowed.stage_box.bounds_yx_m
        self.at = np.stack([self.rng.uniform(y0, y1, spots), self.rng.uniform(x0, x1, spots)])
        self.bright = self.rng.gamma(2.0, 1.5e11, spots)
        self.alive = np.ones(spots)
        self.index, self.energy_j = 0, 0.0

    def acquire(self, settings: ScanSettings) -> Frame:
        y0, x0, y1, x1 = settings.region.bounds_yx_m
        (rows, columns), step = settings.shape_yx, settings.pixel_size_m
        sigma = 100e-9 / np.sqrt(1 + settings.sted_w / 0.01)
        y = np.exp(-0.5 * ((y0 + (np.arange(rows) + 0.5) * step)[:, None] - self.at[0]) ** 2 / sigma**2)
        x = np.exp(-0.5 * ((x0 + (np.arange(columns) + 0.5) * step)[:, None] - self.at[1]) ** 2 / sigma**2)
        light = settings.excitation_w * settings.pixel_time_s
        rates = 0.5 + np.einsum("ys,xs,s->yx", y, x, self.bright * self.alive * light)
        inside = (self.at[0] >= y0) & (self.at[0] <= y1) & (self.at[1] >= x0) & (self.at[1] <= x1)
        self.alive[inside] *= np.exp(-3e-11 * settings.dose_j_per_m2)
        self.index, self.energy_j = self.index + 1, self.energy_j + settings.energy_j
        return Frame(self.rng.poisson(rates).astype(np.float32), settings, self.index - 1, float(self.index))

    def segment(self, frame: Frame) -> Segmentation:
        probability = np.clip((frame.photons - 2) / 6, 0, 1).astype(np.float32)
        labels = (probability > 0.5).astype(np.int32)
        return Segmentation(labels, probability, (1 - abs(2 * probability - 1)).astype(np.float32))


def run(
    policy: Policy, world: World, *, energy_j: float = np.inf, cycles: int = 400
) -> list[tuple[Decision, Observation]]:
    """Play the session: limits, a budget of energy, and at times a refusal or a failed stage."""
    seen = Observation(None, None, None, Dose(), Budget(energy_j=energy_j), 0.0)
    history: list[tuple[Decision, Observation]] = []
    for cycle in range(cycles):
        decision = policy.decide(seen)
        history.append((decision, seen))
        if isinstance(decision, Stop):
            return history
        seen = replace(seen, refused=None, failure=None, now_s=float(cycle))
        if isinstance(decision, AskLabel):
            continue
        assert world.allowed.violations(decision.settings, "test") == []
        luck = world.rng.random()
        if luck < world.trouble or decision.settings.energy_j > energy_j - world.energy_j:
            seen = replace(seen, refused="refused by the guard")
            continue
        frame = world.acquire(decision.settings)
        budget = Budget(energy_j=energy_j - world.energy_j)
        if luck > 1 - world.trouble / 3:
            seen = replace(seen, budget=budget, failure="the microscope failed")
            continue
        denoised: Denoised | None = Denoised(frame.photons, np.sqrt(frame.photons + 1), frame.index)
        segmentation: Segmentation | None = world.segment(frame)
        if luck > 1 - world.trouble:
            denoised = segmentation = None
        seen = Observation(frame, denoised, segmentation, Dose(), budget, float(cycle))
    raise AssertionError(f"no stop within {cycles} cycles")


def make(kind: type[Any], options: dict[str, Any], allowed: SafetyLimits, seed: int = 0) -> Policy:
    fov = (3.1e-6, 4e-6)
    able = Capabilities("world", ("overview", "confocal", "sted"), fov, simulated=True, details={})
    given = Resources(np.random.default_rng(seed), SimulatedClock(), Path(), allowed, capabilities=able)
    policy = kind.from_options(kind.Options.model_validate_json(_json(options)), given)
    assert isinstance(policy, Policy)
    return policy


def _json(options: dict[str, Any]) -> str:
    import json

    return json.dumps(options)


KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "regions": (RegionsPolicy, {"visits_max": 3, "settings": {**QUICK, "initial_trials": 1}}),
    "regions, fixed settings": (RegionsPolicy, {"visits_max": 5, "settings": {"method": "fixed"}}),
    "thompson": (ThompsonPolicy, {"trials_max": 5, "settings": QUICK}),
    "fixed": (FixedPolicy, {"steps": [{}, {"modality": "sted", "sted_w": 0.1}], "repeats": 3}),
    "events": (EventsPolicy, {"monitor_max": 12, "question": "Was that one?"}),
    "events, easily excited": (
        EventsPolicy,
        {"monitor_max": 12, "enter": 3.5, "leave": 3.0, "question": "?"},
    ),
}


class TestFixedPolicy(PolicyContract):
    def make(self, seed: int = 0) -> Policy:
        return FixedPolicy.from_options(FixedPolicy.Options(repeats=3), resources(seed))


class TestEventsPolicy(PolicyContract):
    def make(self, seed: int = 0) -> Policy:
        return EventsPolicy.from_options(EventsPolicy.Options(), resources(seed))


class TestThompsonPolicy(PolicyContract):
    def make(self, seed: int = 0) -> Policy:
        return ThompsonPolicy.from_options(ThompsonPolicy.Options(), resources(seed))


class TestRegionsPolicy(PolicyContract):
    def make(self, seed: int = 0) -> Policy:
        return RegionsPolicy.from_options(RegionsPolicy.Options(), resources(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_in_40_worlds_each_request_is_allowed_and_paid_for_and_the_session_ends(kind: str) -> None:
    """``run`` itself checks each request against the limits; 6 kinds x 40 are 240 random worlds."""
    policy_type, options = KINDS[kind]
    for seed in range(40):
        rng = np.random.default_rng([seed, 7])
        allowed = limits(box_m=float(rng.uniform(2e-6, 7e-6)))
        energy_j = float(rng.uniform(0.005, 0.3))
        world = World(seed, allowed, trouble=float(rng.choice([0.0, 0.3])), spots=int(rng.integers(1, 30)))
        history = run(make(policy_type, options, allowed, seed), world, energy_j=energy_j)
        assert world.energy_j <= energy_j
        for decision, _ in history:
            assert np.isfinite(list(decision.evidence.values())).all()


def visited(history: list[tuple[Decision, Observation]]) -> list[Region]:
    scans = [d.settings for d, _ in history if isinstance(d, Acquire)]
    regions = [s.region for s in scans if s.modality == "sted"]
    return [r for i, r in enumerate(regions) if r not in regions[:i]]


@pytest.mark.parametrize("seed", range(10))
def test_visits_lie_in_the_stage_box_and_never_overlap(seed: int) -> None:
    allowed = limits()
    options = {"visits_max": 8, "settings": {"method": "fixed"}, "fields_max": 9}
    regions = visited(run(make(RegionsPolicy, options, allowed), World(seed, allowed, spots=60)))
    assert len(regions) >= 3
    assert all(allowed.stage_box.contains(region) for region in regions)
    assert all(overlap_m2(a, b) < 1e-20 for a, b in combinations(regions, 2))


def test_bright_structures_are_visited_first_and_dim_ones_last() -> None:
    allowed = limits()
    world = World(1, allowed, spots=3)
    world.at = np.array([[-1e-6, 1e-6, 3e-6], [-4e-6, -2e-6, 0.0]])
    world.bright = np.array([3e11, 1.2e12, 6e11])
    options = {"fields_max": 9, "settings": {"method": "fixed"}}
    regions = visited(run(make(RegionsPolicy, options, allowed), world))
    centers = np.array([region.center_yx_m for region in regions])
    np.testing.assert_allclose(centers, world.at.T[[1, 2, 0]], atol=0.3e-6)


def test_without_a_segmenter_the_brightest_peaks_are_visited() -> None:
    allowed = limits()
    world = World(1, allowed, spots=2)
    world.at, world.bright = np.array([[-1e-6, 2e-6], [-4e-6, -1e-6]]), np.array([1.2e12, 6e11])
    world.segment = lambda frame: None  # type: ignore[assignment,return-value]
    regions = visited(run(make(RegionsPolicy, {"settings": {"method": "fixed"}}, allowed), world))
    np.testing.assert_allclose([r.center_yx_m for r in regions[:2]], world.at.T, atol=0.3e-6)


def test_an_empty_sample_is_not_visited() -> None:
    allowed = limits()
    world = World(0, allowed)
    world.bright[:] = 0
    history = run(make(RegionsPolicy, {}, allowed), world)
    assert visited(history) == []
    assert "no structure" in history[-1][0].reason


def test_no_visit_begins_that_might_not_fit_the_budget() -> None:
    allowed = limits()
    history = run(make(RegionsPolicy, {"settings": QUICK}, allowed), World(0, allowed), energy_j=0.05)
    scans = [d.settings for d, _ in history if isinstance(d, Acquire) and d.settings.modality != "overview"]
    # Each visit that began was finished.
    assert [s.modality for s in scans] == ["confocal", "sted", "confocal"] * (len(scans) // 3)
    assert len(scans) > 0
    assert "energy" in history[-1][0].reason


def test_questions_are_about_sted_frames_spread_over_the_visits() -> None:
    allowed = limits()
    options = {"visits_max": 8, "settings": {"method": "fixed"}, "fields_max": 9}
    history = run(make(RegionsPolicy, options, allowed), World(3, allowed, spots=60))
    count = len(visited(history))
    asked = [d.question for d, _ in history if isinstance(d, AskLabel)]
    frames = {o.frame.index: o.frame.settings for _, o in history if o.frame is not None}
    assert 1 <= len(asked) <= 4
    assert len(asked) == -(-count // -(-count // 4))
    assert all(frames[q.frame_index].modality == "sted" for q in asked)
    assert all(frames[q.frame_index].region == q.region for q in asked)
    assert asked[0].frame_index < max(frames) / 2


def test_each_decision_can_be_read_by_a_biologist() -> None:
    allowed = limits()
    history = run(make(RegionsPolicy, {"visits_max": 6, "settings": QUICK}, allowed), World(3, allowed))
    reasons = [decision.reason for decision, _ in history]
    assert re.fullmatch(r"overview 1 of 4, x -?\d+\.\d µm, y -?\d+\.\d µm", reasons[0])
    visits = [r for r in reasons if r.startswith("visit 1 of 6, x ")]
    assert visits[0].endswith("µm: confocal before STED (brightest unvisited structure)")
    assert re.search(r"µm: STED, [\d.]+ mW \(exploring\)$", visits[1])
    assert visits[2].endswith("µm: confocal after STED, for the bleaching")
    assert re.search(r"best settings so far: dwell [\d.]+ µs, excitation .* µW, STED .* mW$", reasons[-1])
    assert max(len(reason) for reason in reasons[:-1]) <= 95
    evidence = {name for decision, _ in history for name in decision.evidence}
    assert {"detail_snr", "bleached_fraction", "signal_photons", "expected_detail_snr"} <= evidence


def recorded(seen: Observation) -> Observation:
    """Return an observation as recovery makes it: equal, but of other objects."""
    frame, denoised, found = seen.frame, seen.denoised, seen.segmentation
    return replace(
        seen,
        frame=None if frame is None else replace(frame, settings=ScanSettings(**dict(frame.settings))),
        denoised=None if denoised is None else replace(denoised),
        segmentation=None if found is None else replace(found),
    )


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2]), st.floats(0.02, 0.4)
)
@settings(max_examples=8, deadline=None)
def test_decisions_depend_on_options_seed_and_observations_only(
    kind: str, seed: int, world_seed: int, trouble: float, energy_j: float
) -> None:
    """Recovery rests on it: a fresh policy that is shown what was recorded decides as it did then."""
    policy_type, options = KINDS[kind]
    allowed = limits()
    world = World(world_seed, allowed, trouble=trouble)
    history = run(make(policy_type, options, allowed, seed), world, energy_j=energy_j)
    # A policy of another session at work in between must not matter, nor what random streams it uses.
    again, stranger = (make(policy_type, options, allowed, s) for s in (seed, seed + 1))
    for decision, seen in history:
        stranger.decide(recorded(seen))
        assert again.decide(recorded(seen)) == decision


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_whose_frames_never_come_gives_up(kind: str) -> None:
    policy_type, options = KINDS[kind]
    policy = make(policy_type, options, limits())
    nothing = Observation(None, None, None, Dose(), Budget(), 0.0)
    decisions = [policy.decide(nothing) for _ in range(40)]
    assert any(isinstance(decision, Stop) for decision in decisions)


def test_refused_sted_settings_are_followed_by_gentler_ones_and_then_by_the_next_region() -> None:
    allowed = limits()
    policy, world = make(ThompsonPolicy, {"trials_max": 2}, allowed), World(0, allowed)
    seen = Observation(None, None, None, Dose(), Budget(), 0.0)
    asked: list[ScanSettings] = []
    for _ in range(30):
        decision = policy.decide(seen)
        if isinstance(decision, Stop):
            break
        assert isinstance(decision, Acquire)
        if decision.settings.modality == "sted":
            asked.append(decision.settings)
            seen = replace(seen, refused="too much light")
        else:
            seen = replace(seen, frame=world.acquire(decision.settings), refused=None)
    assert len(asked) == 6  # three settings in each of two trials
    for first, second in ((asked[0], asked[1]), (asked[1], asked[2])):
        assert any(getattr(second, n) < getattr(first, n) for n in ("dwell_s", "excitation_w", "sted_w"))
    assert asked[2].region != asked[3].region


@pytest.mark.parametrize("kind", KINDS)
def test_what_failed_is_asked_for_again_and_is_not_taken_for_a_refusal(kind: str) -> None:
    """A device that fails at each scan once does not change what is asked for."""
    policy_type, options = KINDS[kind]
    allowed = limits()
    asked: dict[bool, list[ScanSettings]] = {}
    for fails in (False, True):
        policy, world = make(policy_type, options, allowed), World(0, allowed)
        seen, new = Observation(None, None, None, Dose(), Budget(), 0.0), asked.setdefault(fails, [])
        for _ in range(60):
            decision = policy.decide(seen)
            if isinstance(decision, Stop):
                break
            seen = replace(seen, failure=None)
            if isinstance(decision, AskLabel):
                continue
            if fails:
                seen = replace(seen, failure="the shutter is stuck")
                again = policy.decide(seen)
                assert isinstance(again, Acquire)
                assert again.settings == decision.settings
                assert again.reason == f"try 2 of 3 after a failure: {decision.reason}"
            new.append(decision.settings)
            seen = replace(seen, frame=world.acquire(decision.settings), failure=None)
    assert asked[True] == asked[False]
    assert len(asked[True]) >= 5


def test_a_trial_whose_sted_scan_fails_for_good_is_given_up_and_not_learned_from() -> None:
    allowed = limits()
    policy, world = make(ThompsonPolicy, {"trials_max": 2, "settings": QUICK}, allowed), World(0, allowed)
    seen = Observation(None, None, None, Dose(), Budget(), 0.0)
    asked: list[ScanSettings] = []
    decision: Decision = Stop(reason="not asked yet")
    for _ in range(30):
        decision = policy.decide(seen)
        if isinstance(decision, Stop):
            break
        assert isinstance(decision, Acquire)
        asked.append(decision.settings)
        if decision.settings.modality == "sted":
            seen = replace(seen, failure="the modulator is stuck")
        else:
            seen = replace(seen, frame=world.acquire(decision.settings), failure=None)
    # Three tries with the same settings, no other ones, and no confocal scan after nothing.
    assert [s.modality[0] for s in asked] == ["c", "s", "s", "s"] * 2
    assert asked[1] == asked[2] == asked[3]
    assert decision.reason == "all 2 trials are done"


def test_settings_whose_dose_would_break_the_limit_of_a_point_are_not_asked_for() -> None:
    allowed = limits(pixel_dose_max_j_per_m2=4e9)
    options = {
        "trials_max": 30,
        "settings": {**QUICK, "parameters": [{"name": "sted_w", "low": 0.01, "high": 0.15}]},
        "regions": [{"center_yx_m": [1e-6, -2e-6], "size_yx_m": [1e-6, 1e-6]}],
    }
    history = run(make(ThompsonPolicy, options, allowed), World(0, allowed))
    doses = [d.settings.dose_j_per_m2 for d, _ in history if isinstance(d, Acquire)]
    assert len(doses) > 3
    assert sum(doses) < 4e9
    assert "within the dose that is left" in history[-1][0].reason


FAR_OUT = {"center_yx_m": [3.5e-6, -2e-6], "size_yx_m": [1e-6, 1e-6]}
HIGH_STED = {**QUICK, "parameters": [{"name": "sted_w", "low": 0.0, "high": 0.5}]}
SHORT_DWELL = {**QUICK, "parameters": [{"name": "dwell_s", "low": 1e-7, "high": 1e-5}]}
MISTAKES: list[tuple[type[Any], dict[str, Any], str]] = [
    (ThompsonPolicy, {"settings": HIGH_STED}, "sted_w from 0 to 0.5 W is asked, allowed is 0 to 0.2 W"),
    (RegionsPolicy, {"settings": SHORT_DWELL}, "settings.parameters: dwell_s from .*dwell_min_s"),
    (RegionsPolicy, {"overview": {"modality": "overview", "excitation_w": 1e-3}}, "overview: excitation_w"),
    (RegionsPolicy, {"overview": {"modality": "two_photon"}}, "overview: modality 'two_photon'"),
    (RegionsPolicy, {"visit": {"size_m": 12.8e-6}}, "does not fit the stage box"),
    (FixedPolicy, {"steps": [{}, {"dwell_s": 1.0}]}, r"steps\[1\]: dwell_s"),
    (EventsPolicy, {"monitor": {"pixel_size_m": 1e-6}}, "monitor: pixel_size_m"),
    (EventsPolicy, {"event_size_m": 4.2e-6}, "event: region of .* larger than the field of view"),
    (ThompsonPolicy, {"visit": {"size_m": 4.2e-6}}, "visit.confocal: region of .* field of view"),
    (
        ThompsonPolicy,
        {"regions": [{"center_yx_m": [0.0, 0.0], "size_yx_m": [1e-6, 1e-6]}, FAR_OUT]},
        r"regions\[1\]: a square .* x -2\.0 µm, y 3\.5 µm .* x -5 to 1 µm, y -2 to 4 µm \(stage_box",
    ),
]


@pytest.mark.parametrize(("policy_type", "options", "message"), MISTAKES)
def test_options_outside_the_limits_are_refused_by_name(
    policy_type: type[Any], options: dict[str, Any], message: str
) -> None:
    from controller.core.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=message):
        make(policy_type, options, limits())


@pytest.mark.parametrize(
    ("policy_type", "options"),
    [
        (EventsPolicy, {"enter": 5.0, "leave": 5.0}),
        (RegionsPolicy, {"visit": {"size_m": 1.27e-6}}),
        (RegionsPolicy, {"overview": {"modality": "sted"}}),
        (ThompsonPolicy, {"settings": {"parameters": [{"name": "dwell_s", "low": 1e-6, "high": 2e-6}] * 2}}),
        (FixedPolicy, {"steps": []}),
        (EventsPolicy, {"question": "Which?", "choices": ["yes", ""]}),
    ],
)
def test_options_that_contradict_themselves_are_refused(
    policy_type: type[Any], options: dict[str, Any]
) -> None:
    validate: Callable[[str], Any] = policy_type.Options.model_validate_json
    with pytest.raises(ValueError, match="validation error"):
        validate(_json(options))
