from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.testing import LIMITS, resources
from policies.bandit import ThompsonPolicy
from policies.choosers import OBJECTIVES, ThompsonChooser, ThompsonSettings, Utility, make_chooser
from policies.objectives import Measured
from policies.requests import Reach
from policies.visits import Choice, Room, VisitOptions


def test_the_utility_is_the_weighted_sum_that_its_docstring_says() -> None:
    weights = Utility(w_detail=2.0, w_signal=0.5, w_bleaching=3.0, w_dose=0.25, w_duration=4.0)
    objectives = {n: np.array([v]) for n, v in zip(OBJECTIVES, (1.0, 0.2, 2.0), strict=True)}
    value = weights.of(objectives, np.array([2e10]), np.array([0.5]))
    assert value[0] == pytest.approx(2 * 1 + 0.5 * 2 - 3 * 0.2 - 0.25 * 2 - 4 * 0.5)


def chooser(options: ThompsonSettings | None = None) -> ThompsonChooser:
    made = make_chooser(
        options or ThompsonSettings(candidates=50),
        VisitOptions(),
        Reach.of(resources()),
        np.random.default_rng(0),
    )
    assert isinstance(made, ThompsonChooser)
    return made


def test_what_was_not_measured_is_not_learned() -> None:
    learner = chooser()
    for measured in (Measured(), Measured(detail_snr=1.0), Measured(bleached_fraction=0.1, bleached_std=9.0)):
        choice = learner.choose(Room(), [])
        assert choice is not None
        learner.learn(choice, measured)
    best = learner.best()
    assert best is not None
    assert set(best) == {"dwell_s", "excitation_w", "sted_w"}


def test_the_expected_figures_come_close_to_what_was_measured_again_and_again() -> None:
    learner = chooser()
    for _ in range(12):
        choice = learner.choose(Room(), [])
        assert choice is not None
        learner.learn(choice, Measured(3.0, 0.2, 0.01, 7.0))
    last = learner.choose(Room(), [])
    assert last is not None
    assert last.expected["expected_detail_snr"] == pytest.approx(3.0, rel=1e-3)
    assert last.expected["expected_bleached_fraction"] == pytest.approx(0.2, rel=1e-3)
    assert last.expected["expected_signal_photons"] == pytest.approx(7.0, rel=1e-3)


def test_a_brighter_region_is_not_taken_for_better_settings() -> None:
    learner = chooser()
    for brightness in (5.0, 10.0, 20.0, 2.5) * 3:
        choice = learner.choose(Room(confocal_photons=brightness), [])
        assert choice is not None
        learner.learn(choice, Measured(0.6 * brightness, 0.2, 0.01, brightness / 2, brightness))
    for brightness in (5.0, 20.0):
        next_one = learner.choose(Room(confocal_photons=brightness), [])
        assert next_one is not None
        assert next_one.expected["expected_detail_snr"] == pytest.approx(0.6 * brightness, rel=1e-3)
        assert next_one.expected["expected_signal_photons"] == pytest.approx(brightness / 2, rel=1e-3)


def test_finer_pixels_may_be_tuned_too_and_cost_the_most_at_the_fine_end() -> None:
    parameters = [{"name": "pixel_size_m", "low": 20e-9, "high": 60e-9}]
    options = ThompsonPolicy.Options.model_validate({"settings": {"parameters": tuple(parameters)}})
    learner = chooser(options.settings)
    assert learner.worst() == {"pixel_size_m": 20e-9}
    policy = ThompsonPolicy.from_options(options, resources())
    assert policy is not None
    assert not LIMITS.violations(VisitOptions().confocal.at(VisitOptions().square((0.0, 0.0))), "test")


@given(st.floats(0, 25e-6), st.floats(0, 0.3), st.floats(1e-7, 30e-6), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_what_is_chosen_lies_within_the_steps_of_power(
    lowest_w: float, sted_w: float, width_w: float, trials: int
) -> None:
    ranges = {"excitation_w": (lowest_w, lowest_w + width_w), "sted_w": (0.0, sted_w)}
    learner = chooser()
    for _ in range(trials):
        early = learner.choose(Room(), [])
        assert early is not None
        learner.learn(early, Measured(3.0, 0.2, 0.01, 7.0))
    choice = learner.choose(Room(powers_w=ranges), [])
    if lowest_w > 12e-6 or lowest_w + width_w < 2e-6:  # what may be tuned is 2 to 12 uW
        assert choice is None
        return
    assert choice is not None
    assert all(low <= choice.values[name] <= high for name, (low, high) in ranges.items())


def test_the_best_settings_are_told_in_units_that_people_use() -> None:
    learner = chooser()
    assert learner.summary() == ""
    learner.learn(Choice({}, "a test", np.array([0.5, 0.25, 0.75])), Measured(3.0, 0.2, 0.01, 7.0))
    assert learner.summary() == "best settings so far: dwell 16 µs, excitation 3.1 µW, STED 150 mW"
