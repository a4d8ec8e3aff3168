"""How well the environments that ask people separate good policies from bad ones; see environments.py.

For LabelRequest:

- ``random``: uniform actions;
- ``default``: uncertainty sampling, a click on the class of the thing that the learner is least sure of,
  among the brighter half of those that are shown;
- ``oracle``: looks up what each answer would be and what it would teach, and takes the largest gain of the
  held-out score per second.

For Session:

- ``random``: uniform actions;
- ``default``: the brightest place of the overview that was not visited, with the settings that are the
  default of the scan environments, and a question at every step;
- ``oracle``: looks up where the structures are that are worth most and were not visited, scans with the
  best of a grid of settings, chosen on other seeds, and asks where the learner tells a structure wrong.

Usage: ``python -m benchmarks.label_environments [--episodes 100] [--only LabelRequest] [--task easy]``
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmarks.environments import (
    DEFAULT,
    SWEEP,
    TASKS,
    Policy,
    brightest_center,
    compared,
    print_heading,
    returns,
    uniform,
)
from simulator.environments.annotator import LABEL_KINDS
from simulator.environments.rare_samples import RARE


def least_sure(env: Any) -> NDArray[np.float32]:
    """Click on the class of the thing whose class the learner is least sure of, of the brighter half."""
    shown = env.shown()
    light = np.array([float(image.astype(float).sum()) for image in env.images()[: len(shown)]])
    sure = np.where(light >= np.median(light), env.probabilities().max(axis=1), np.inf)
    action: NDArray[np.float32] = env.action_for(shown[int(sure.argmin())], "class")
    return action


def best_question(env: Any) -> NDArray[np.float32]:
    """Ask what adds most to the held-out score per second."""
    asked = [(thing, kind) for thing in env.shown() for kind in LABEL_KINDS]
    worth = [gain / answer_s for gain, answer_s in (env.gain(*question) for question in asked)]
    action: NDArray[np.float32] = env.action_for(*asked[int(np.argmax(worth))])
    return action


def brightest_region(env: Any) -> NDArray[np.float32]:
    """Scan the brightest region that was not visited, and ask about it."""
    action: NDArray[np.float32] = env.action_for(brightest_center(env), DEFAULT, ask=True)
    return action


def richest_center(env: Any) -> tuple[float, float]:
    """Return the middle of the region with most worth in places that were not visited."""
    structures, (*_, visited) = env.structures, env.images()
    labels = list(structures.left())
    places = np.array(list(structures.left().values())).reshape(-1, 2)
    pixels = ((places / env.options.sample_m + 0.5) * len(visited)).astype(int).clip(0, len(visited) - 1)
    # What was looked at and not seen well will not be the next time.
    is_new = visited[pixels[:, 0], pixels[:, 1]] == 0
    places = places[is_new]
    if not len(places):
        return 0.0, 0.0
    is_rare = np.array([structures.classes[label] == RARE for label in labels])[is_new]
    worth = np.where(is_rare, env.options.rare_worth, 1.0)
    # What is cut by the edge is not seen.
    reach_m = 0.85 * env.options.roi_m / 2
    shifts = np.array(list(itertools.product((-0.8, -0.4, 0.0, 0.4, 0.8), repeat=2))) * reach_m
    centers = (places[:, None] + shifts[None]).reshape(-1, 2)
    is_inside = (np.abs(places[None] - centers[:, None]) <= reach_m).all(axis=2)
    y, x = centers[int((is_inside @ worth).argmax())]
    return float(y), float(x)


def needs_teaching(env: Any) -> bool:
    """Tell whether the learner has not heard of a class, or would tell a structure wrong."""
    told = env.structures.told(env.learner)
    is_wrong = any(index != env.structures.classes[label] for label, index in told.items())
    return is_wrong or not bool((env.learner.answers[1:] > 0).all())


def richest_region(settings: dict[str, float]) -> Policy:
    """Scan where most is to be gained with these settings, and ask if there is something to be learned."""
    return lambda env: env.action_for(richest_center(env), settings, ask=needs_teaching(env))


def best_settings(env: Any) -> dict[str, float]:
    """Return the best of a grid of settings for the oracle, on three seeds of its own."""
    grid = [
        {"sted_w": sted_w, "excitation_w": excitation_w, "dwell_s": dwell_s}
        for sted_w, excitation_w, dwell_s in itertools.product(
            (0.05, 0.1, 0.15, 0.2), (4e-6, 10e-6, 25e-6), (10e-6, 30e-6)
        )
    ]
    mean = [returns(env, richest_region(settings), SWEEP, 3).mean() for settings in grid]
    return grid[int(np.argmax(mean))]


def policies(name: str, env: Any) -> dict[str, Policy]:
    """Return the policies that are compared."""
    if "Session" in name:
        return {
            "random": uniform(0),
            "default": brightest_region,
            "oracle": richest_region(best_settings(env)),
        }
    return {"random": uniform(0), "default": least_sure, "oracle": best_question}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--only", default="")
    parser.add_argument("--task", default="")
    asked = parser.parse_args()
    print_heading("random", "default", "oracle")
    for name in ("Stedfast/LabelRequest-v0", "Stedfast/Session-v0"):
        for task in TASKS:
            if asked.only in name and asked.task in {"", task}:
                env = gymnasium.make(name, task=task).unwrapped
                print(compared(name, task, env, policies(name, env), asked.episodes), flush=True)


if __name__ == "__main__":
    main()
