"""How well the two-photon environments separate good policies from bad ones, as benchmarks/environments.py.

For CalciumEvents

- ``random``: uniform actions;
- ``default``: the whole field all the time, with the power that just uses up the dose budget;
- ``adaptive``: the whole field with less power; where an overview is brighter than the ones before, one look
  at a quarter of the side (nothing of the truth);
- ``oracle``: knows what fires, looks there, and is nearly dark otherwise. Its power is the best of a few, on
  other seeds.

For TwoPhoton

- ``random``: uniform actions;
- ``default``: 40 mW, 4 µs, the same at every depth;
- ``adaptive``: power that rises as an exponential of the depth, the best of a sweep on other seeds;
- ``oracle``: looks up the clean image, and takes the least light that makes the scan so like it. How like is
  the best of a few, on other seeds.

Usage: ``python -m benchmarks.two_photon_environments [--episodes 100] [--only Calcium] [--task easy]``
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

import simulator.env  # noqa: F401  # registers the ids
from benchmarks.environments import SWEEP, TASKS, Policy, compared, constant, print_heading, returns, uniform
from controller.core.settings import ScanSettings
from simulator.environments.two_photon_power import BLUR_PX

#: What settings are tried; more is refused as a step up from the preview.
POWERS_W = tuple(np.geomspace(5e-3, 95e-3, 12).tolist())
DWELLS_S = (1e-6, 4e-6, 16e-6)


def whole_field(env: Any) -> NDArray[np.float32]:
    """Look at the whole field with the power that lasts for the episode."""
    options = env.options
    looks = options.duration_s / (
        env.frame_s(env.settings(env.action_for(options.power.low))) + options.latency_s
    )
    light_s = looks * options.pixels**2 * options.dwell_s
    action: NDArray[np.float32] = env.action_for(0.98 * options.episode_energy_j / light_s)
    return action


class Trigger:
    """Watch the whole field; look closer, once, where it is brighter than it was on average."""

    def __init__(self, watch_w: float, close_w: float, threshold: float) -> None:
        self._watch_w, self._close_w, self._threshold = watch_w, close_w, threshold
        self._usual: NDArray[np.float64] | None = None

    def __call__(self, env: Any) -> NDArray[np.float32]:
        overview, _, last, place = env.images()
        if last is None:
            self._usual = None
        if last is not None and place.all():
            found = self._found(overview.astype(float))
            if found is not None:
                middle = np.array(env.settings(env.action_for(self._watch_w)).region.center_yx_m)
                y, x = middle + (np.array(found) + 0.5 - len(overview) / 2) * env.options.pixel_size_m
                return np.asarray(env.action_for(self._close_w, (float(y), float(x)), 0.25), np.float32)
        return np.asarray(env.action_for(self._watch_w), np.float32)

    def _found(self, overview: NDArray[np.float64]) -> tuple[int, int] | None:
        """Return where an overview, in square roots of counts, is brighter than usual by many spreads."""
        if self._usual is None:
            self._usual = overview
            return None
        change = uniform_filter(overview - self._usual, 5, mode="nearest")
        self._usual = 0.8 * self._usual + 0.2 * overview
        change -= np.median(change)
        spread = 1.48 * float(np.median(abs(change))) + 1e-9
        row, column = np.unravel_index(int(change.argmax()), change.shape)
        return (int(row), int(column)) if change[row, column] > self._threshold * spread else None


def informed(power_w: float) -> Policy:
    """Look where events are that were not seen well yet, and be nearly dark otherwise."""

    def policy(env: Any) -> NDArray[np.float32]:
        events = env.events
        is_on = events.are_on(env.now_s + env.options.latency_s) & (events.quality() < 1)
        if not is_on.any():
            return np.asarray(env.action_for(env.options.power.low), np.float32)
        centres = events.bodies.center_yx_m[events.body[is_on]]
        tried = []
        for centre, part in itertools.product(centres, (0.25, 0.5, 0.75, 1.0)):
            action = env.action_for(power_w, tuple(centre), part)
            covered = events.bodies.covered(env.settings(action).region)[events.body[is_on]]
            tried.append((covered.sum() / part, action))
        return np.asarray(max(tried, key=lambda one: one[0])[1], np.float32)

    return policy


def by_depth(surface_w: float, dwell_s: float) -> Policy:
    """Raise the power by e each 130 µm, which keeps the photons, as far as the guard allows the step."""

    def policy(env: Any) -> NDArray[np.float32]:
        low, high = POWERS_W[0], POWERS_W[-1]
        power_w = float(np.clip(surface_w * np.exp(env.depth_m / 130e-6), low, high))
        return settings_of(env, power_w, dwell_s)[0]

    return policy


def predicted_likeness(clean: NDArray[np.float64], detector: Mapping[str, float]) -> float:
    """Return how like a scan will be to its clean image, from the shot noise that blur leaves."""
    point = np.zeros((15, 15))
    point[7, 7] = 1
    left = float((gaussian_filter(point, BLUR_PX) ** 2).sum())
    noise = clean.mean() * detector["variance_per_photon"] / detector["grey_per_photon"] ** 2 * left
    truth = gaussian_filter(clean, BLUR_PX)
    # What a converter of 14 bits cuts off.
    shown = gaussian_filter(np.minimum(clean, 16383 / detector["grey_per_photon"]), BLUR_PX)
    power = truth.var() * (shown.var() + noise)
    return float(((truth - truth.mean()) * (shown - shown.mean())).mean() / np.sqrt(power))


def least_light(likeness: float) -> Policy:
    """Take the setting of least energy that makes a scan so like the clean image, or the most like."""

    def policy(env: Any) -> NDArray[np.float32]:
        details = env.capabilities().details
        dim, bright = (settings_of(env, power_w, DWELLS_S[-1])[1] for power_w in (POWERS_W[0], POWERS_W[-1]))
        # Photons go with the square of the power; what does not is background.
        squares = [settings.excitation_w**2 for settings in (dim, bright)]
        images = [env.expected_photons(settings) for settings in (dim, bright)]
        per_square = (images[1] - images[0]) / (squares[1] - squares[0])
        background = images[0] - per_square * squares[0]
        tried = []
        for power_w, dwell_s in itertools.product(POWERS_W, DWELLS_S):
            action, settings = settings_of(env, power_w, dwell_s)
            mean_w = settings.energy_j / env.frame_s(settings)
            if details["heating_estimate_c_per_w"] * mean_w > env.options.heating_max_c:
                continue
            clean = (per_square * settings.excitation_w**2 + background) * (dwell_s / DWELLS_S[-1])
            found = predicted_likeness(clean, details)
            tried.append((min(found, likeness), -settings.energy_j, action))
        return np.asarray(max(tried, key=lambda one: one[:2])[2], np.float32)

    return policy


def settings_of(env: Any, excitation_w: float, dwell_s: float) -> tuple[NDArray[np.float32], ScanSettings]:
    action = env.action_map.action({"excitation_w": excitation_w, "dwell_s": dwell_s})
    return action, env.settings(action)


def best(env: Any, policies: list[Policy], episodes: int = 4) -> Policy:
    """Return the policy that does best on seeds that are not evaluated."""
    got = [returns(env, policy, SWEEP, episodes).mean() for policy in policies]
    return policies[int(np.argmax(got))]


def policies(name: str, env: Any) -> dict[str, Policy]:
    if "Calcium" in name:
        triggers: list[Policy] = [
            Trigger(*setting) for setting in itertools.product((12e-3, 16e-3), (25e-3, 45e-3), (3.5, 4.5))
        ]
        return {
            "random": uniform(0),
            "default": whole_field,
            "adaptive": best(env, triggers),
            "oracle": best(env, [informed(power_w) for power_w in (10e-3, 20e-3, 40e-3)]),
        }
    exponentials = itertools.product((5e-3, 7e-3, 10e-3, 14e-3, 20e-3), DWELLS_S)
    return {
        "random": uniform(0),
        "default": constant(env.action_map.action({"excitation_w": 40e-3, "dwell_s": 4e-6})),
        "adaptive": best(env, [by_depth(*setting) for setting in exponentials]),
        "oracle": best(env, [least_light(likeness) for likeness in (0.85, 0.9, 0.93)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--only", default="")
    parser.add_argument("--task", default="")
    asked = parser.parse_args()
    print_heading("random", "default", "adaptive", "oracle")
    for name in ("Stedfast/CalciumEvents-v0", "Stedfast/TwoPhoton-v0"):
        if asked.only not in name:
            continue
        for task in TASKS:
            if asked.task in {"", task}:
                env = gymnasium.make(name, task=task).unwrapped
                print(compared(name, task, env, policies(name, env), asked.episodes), flush=True)


if __name__ == "__main__":
    main()
