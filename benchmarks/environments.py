"""How well each environment separates good policies from bad ones, and what a step of it costs.

For each id and task the mean return of

- ``random``: uniform actions;
- ``default``: what an expert would set, the same for every sample;
- ``oracle``: the best constant setting of a dense sweep, chosen on other seeds under common random
  numbers (7 values of each parameter, then the best dozen again on more seeds; ``--sweep-seeds``, where
  returns differ so much from dye to dye that two seeds pick a poor dozen; of more than three parameters a
  random search that ends in small steps). With ``--knowing`` it knows the dye. For ROISelect: the place with
  the most that is still to be found, which it looks up in the truth.

All play the same seeds. Intervals are 95 % bootstrap intervals over the seeds, that of ``gap`` (oracle less
random) of paired differences. ``episodes needed`` is how many it takes until the gap is ten half-widths of
its interval, which shrinks with their square root: an id is worth its place up to 200. CPU times are
``process_time`` of one process.

With ``--light``: what the best constant setting shows and bleaches with even light, DyMIN and RESCue.

Usage: ``python benchmarks/environments.py [--episodes 100] [--only DyMIN] [--task easy] [--ppo | --light]``
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from simulator.env import (
    ADAPTIVE_TASKS,
    DyMINEnv,
    DyMINOptions,
    RESCueEnv,
    SampleDistribution,
    STEDTuneEnv,
)

Policy = Callable[[Any], NDArray[np.float32]]

#: Ids whose baselines are here; others have a benchmark of their own beside this one.
NAMES = tuple(
    f"Stedfast/{name}-v0"
    for name in ("STEDTune", "STEDSequence", "DyMIN", "RESCue", "STEDPreference", "ROISelect")
)
TASKS = ("easy", "mid", "hard", "held_out")
#: What is measured of an id more than once, with which options.
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "Stedfast/STEDPreference-v0": {kind: {"preference": {"kind": kind}} for kind in ("ranked", "learned")}
}
DEFAULT = {"sted_w": 0.15, "excitation_w": 10e-6, "dwell_s": 10e-6}
EVALUATION, SWEEP = 1_000_000, 2_000_000  # seeds of the two never meet


def episode(env: Any, policy: Policy, seed: int) -> float:
    """Return the sum of rewards of an episode."""
    env.reset(seed=seed)
    total, is_over = 0.0, False
    while not is_over:
        _, reward, terminated, truncated, _ = env.step(policy(env))
        total += reward
        is_over = terminated or truncated
    return total


def returns(env: Any, policy: Policy, first_seed: int, episodes: int) -> NDArray[np.float64]:
    return np.array([episode(env, policy, first_seed + number) for number in range(episodes)])


def constant(action: NDArray[np.float32]) -> Policy:
    return lambda env: action


def uniform(seed: int) -> Policy:
    rng = np.random.default_rng(seed)
    return lambda env: rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)


def swept(env: Any, values: int = 7, seeds: int = 2) -> Policy:
    """Return the best constant action: of a grid on some seeds, then of the best dozen on six times more."""
    axes = [np.linspace(-1, 1, values)] * env.action_space.shape[0]
    grid = np.array(list(itertools.product(*axes)), np.float32)
    first = np.array([returns(env, constant(action), SWEEP, seeds).mean() for action in grid])
    best = grid[np.argsort(first)[-12:]]
    second = np.array([returns(env, constant(action), SWEEP + 100, 6 * seeds).mean() for action in best])
    return constant(best[int(second.argmax())])


def searched(env: Any, tries: int = 12, steps: int = 12) -> Policy:
    """Return a good constant action where a grid would be too large.

    What the environment leaves fixed and random actions play an episode each, the best four three more;
    then ever smaller steps from the best one, in some of its numbers, are kept if they gain on those three.
    """
    rng = np.random.default_rng(0)
    numbers = env.action_space.shape[0]

    def worth(action: NDArray[np.float32]) -> float:
        return float(returns(env, constant(action), SWEEP + 100, 3).mean())

    random = rng.uniform(-1, 1, (tries, numbers)).astype(np.float32)
    tried = np.concatenate([[env.action_map.action(env.options.fixed)], random])
    first = np.array([episode(env, constant(action), SWEEP) for action in tried])
    value, best = max(((worth(action), action) for action in tried[np.argsort(first)[-4:]]), key=_value)
    for step in np.geomspace(0.4, 0.08, steps):
        moved = rng.normal(0, step, numbers) * (rng.random(numbers) < 0.5)
        action = np.clip(best + moved, -1, 1).astype(np.float32)
        value, best = max((value, best), (worth(action), action), key=_value)
    return constant(best)


def _value(found: tuple[float, NDArray[np.float32]]) -> float:
    return found[0]


class Knowing:
    """The oracle that knows the dye, not the noise: it rehearses on other fields of the same sample.

    Of a dozen settings, each the best one for some of the dyes of a sweep, it takes the one that earns most
    on a twin: the same kind of sample, dye and background, drawn from other seeds. Then it never changes it.
    """

    def __init__(self, env: Any, values: int = 5, dyes: int = 16, rehearsals: int = 2) -> None:
        self._twin = type(env)(env.options)
        self._distribution: SampleDistribution = env._samples.distribution
        self._rehearsals = rehearsals
        self._drawn: dict[str, float] = {}
        axes = [np.linspace(-1, 1, values)] * env.action_space.shape[0]
        grid = np.array(list(itertools.product(*axes)), np.float32)
        earned = np.array([returns(self._twin, constant(action), SWEEP, dyes) for action in grid])
        chosen, best = [], np.full(dyes, -np.inf)
        for _ in range(12):
            chosen.append(int(np.maximum(earned, best).mean(axis=1).argmax()))
            best = np.maximum(best, earned[chosen[-1]])
        self._settings = grid[sorted(set(chosen))]

    def __call__(self, env: Any) -> NDArray[np.float32]:
        drawn = env._stage.drawn
        if drawn != self._drawn:
            self._drawn = drawn
            self._action = self._rehearsed(drawn)
        return self._action

    def _rehearsed(self, drawn: dict[str, float]) -> NDArray[np.float32]:
        ranges = {key: (value, value) for key, value in drawn.items() if key != "kind"}
        kind = self._distribution.kinds[int(drawn["kind"])]
        self._twin.reset(options={"task": self._distribution.replace(kinds=(kind,), **ranges)})
        earned = [
            returns(self._twin, constant(action), SWEEP + 200, self._rehearsals).mean()
            for action in self._settings
        ]
        action: NDArray[np.float32] = self._settings[int(np.argmax(earned))]
        return action


def interval(values: NDArray[np.float64]) -> float:
    """Return the half-width of the 95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(high - low) / 2


def best_place(env: Any) -> NDArray[np.float32]:
    """Return the region with the most spots that are still to be found, of those around each spot."""
    left = env.points_left()
    corner = np.array(env.region(-np.ones(2, np.float32)).bounds_yx_m[:2])
    *_, visited = env.images()
    pixels = ((left - corner) / env.options.overview_pixel_m).astype(int).clip(0, len(visited) - 1)
    # What was looked at and not found is too dim to be found.
    left = left[visited[pixels[:, 0], pixels[:, 1]] == 0]
    if not len(left):
        return np.zeros(2, np.float32)
    # A little inside the region: spots at its edge are cut.
    reach_m = 0.45 * env.options.roi_m
    shifts = np.array(list(itertools.product((-0.6, 0.0, 0.6), repeat=2))) * reach_m
    centres = (left[:, None] + shifts[None]).reshape(-1, 2)
    inside = (np.abs(left[None] - centres[:, None]) <= reach_m).all(axis=2).sum(axis=1)
    action: NDArray[np.float32] = env.action_for(centres[int(inside.argmax())])
    return action


def brightest_center(env: Any) -> tuple[float, float]:
    """Return the middle of the brightest region of the overview of those that were not visited."""
    from scipy.ndimage import uniform_filter

    overview, _, visited = env.images()
    side = round(env.options.roi_m / env.options.overview_pixel_m)
    light = uniform_filter(overview.astype(float) ** 2 * (visited == 0), side, mode="constant")
    row, column = np.unravel_index(int(light.argmax()), light.shape)
    place = (np.array([row, column]) + 0.5) / len(overview) - 0.5
    y, x = place * env.options.sample_m  # from the middle of the only field, which is that of the sample
    return float(y), float(x)


def brightest_place(env: Any) -> NDArray[np.float32]:
    """Return the action for the brightest region that was not visited."""
    action: NDArray[np.float32] = env.action_for(brightest_center(env))
    return action


def policies(name: str, env: Any, *, sweep_seeds: int, knowing: bool) -> dict[str, Policy]:
    if "ROISelect" in name:
        return {"random": uniform(0), "default": brightest_place, "oracle": best_place}
    default = constant(env.action_map.action({**env.options.fixed, **DEFAULT}))
    if knowing:
        oracle: Policy = Knowing(env)
    else:
        oracle = swept(env, seeds=sweep_seeds) if len(env.action_map) <= 3 else searched(env)
    return {"random": uniform(0), "default": default, "oracle": oracle}


def timed(env: Any) -> tuple[float, float]:
    """Return the median CPU seconds of a step and of a reset."""
    policy = uniform(1)
    env.reset(seed=0)
    steps, resets = [], []
    for seed in range(15):
        begun = time.process_time()
        env.reset(seed=seed)
        resets.append(time.process_time() - begun)
        begun = time.process_time()
        _, _, terminated, truncated, _ = env.step(policy(env))
        steps.append(time.process_time() - begun)
        for _ in range(4):
            if terminated or truncated:
                break
            begun = time.process_time()
            _, _, terminated, truncated, _ = env.step(policy(env))
            steps.append(time.process_time() - begun)
    return float(np.median(steps)), float(np.median(resets))


def compared(label: str, task: str, env: Any, known: dict[str, Policy], episodes: int) -> str:
    """Return a line of the table: what each policy gets, how far they lie apart, and what a step costs."""
    got = {policy: returns(env, known[policy], EVALUATION, episodes) for policy in known}
    gap = got["oracle"] - got["random"]
    step_s, reset_s = timed(env)  # now that every map is made
    needed = episodes * (10 * interval(gap) / gap.mean()) ** 2
    cells = " | ".join(f"{values.mean():.2f} ± {interval(values):.2f}" for values in got.values())
    return (
        f"| {label.removeprefix('Stedfast/')} | {task} | {cells} | {gap.mean():.2f} ± {interval(gap):.2f} | "
        f"{needed:.0f} | {1e3 * step_s:.1f} | {1e3 * reset_s:.1f} |"
    )


def print_heading(*policies: str) -> None:
    """Print the heading of the table."""
    columns = ("id", "task", *policies, "gap", "episodes needed", "step, ms", "reset, ms")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


def row(name: str, kind: str, task: str, asked: argparse.Namespace) -> str:
    env = gymnasium.make(name, task=task, **KINDS.get(name, {}).get(kind, {})).unwrapped
    known = policies(name, env, sweep_seeds=asked.sweep_seeds, knowing=asked.knowing)
    return compared(f"{name} {kind}".rstrip(), task, env, known, asked.episodes)


def light(task: str, episodes: int) -> Iterator[str]:
    """Yield what the best constant setting without and with adaptive light shows and costs.

    The same samples, reward and search for all three.
    """
    even: NDArray[np.float64] | None = None
    for make in (STEDTuneEnv, DyMINEnv, RESCueEnv):
        env: Any = make(task=ADAPTIVE_TASKS[task], reward=DyMINOptions().reward)
        action = searched(env)(env)
        scans = np.array([shown(env, action, EVALUATION + number) for number in range(episodes)])
        even = scans if even is None else even
        spared = even[:, 1] - scans[:, 1]
        cells = [f"{values.mean():.3g} ± {interval(values):.2g}" for values in [*scans.T, spared]]
        settings = env.action_map.settings(action).items()
        found = ", ".join(f"{name} {value:.3g}" for name, value in settings)
        yield f"| {make.__name__} | {task} | {' | '.join(cells)} | {found} |"


def shown(env: Any, action: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Return the mean likeness, percent bleached and millijoules of the scans of an episode."""
    env.reset(seed=seed)
    infos = [env.step(action)[4] for _ in range(env.options.steps)]
    figures = [
        (
            info["truth_likeness"],
            100 * info["truth_bleached_fraction"],
            1e3 * info.get("truth_energy_j", info["energy_j"]),
        )
        for info in infos
    ]
    mean: NDArray[np.float64] = np.array(figures).mean(axis=0)
    return mean


def ppo(steps: int, task: str) -> str:
    """Train PPO on STEDTune and compare it with random actions on seeds it has not seen.

    Compare it with what it does before it has learned, too: an untrained network stays near the middle of
    the box, which may be a good place.
    """
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(1)
    torch.manual_seed(0)
    name = "Stedfast/STEDTune-v0"

    def make() -> Any:
        env = gymnasium.make(name, task=task)
        return gymnasium.wrappers.FilterObservation(env, filter_keys=["history", "budget"])

    model = PPO(
        "MultiInputPolicy",
        DummyVecEnv([make] * 4),
        n_steps=64,
        batch_size=64,
        n_epochs=10,
        gamma=0.5,
        seed=0,
        learning_rate=1e-3,
        policy_kwargs={"net_arch": [32, 32]},
        device="cpu",
    )
    env = make()

    def play(number: int) -> float:
        observation, _ = env.reset(seed=EVALUATION + number)
        total, is_over = 0.0, False
        while not is_over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, is_over = total + reward, terminated or truncated
        return total

    played = {"untrained": np.array([play(number) for number in range(50)])}
    begun = time.process_time()
    model.learn(steps)
    trained_s = time.process_time() - begun
    played["trained"] = np.array([play(number) for number in range(50)])
    played["random"] = returns(gymnasium.make(name, task=task).unwrapped, uniform(0), EVALUATION, 50)
    for other in ("untrained", "random"):
        played[f"gain over {other}"] = played["trained"] - played[other]
    told = ", ".join(
        f"{label} {values.mean():.2f} ± {interval(values):.2f}" for label, values in played.items()
    )
    return f"PPO on STEDTune {task}, {steps} steps, {trained_s:.0f} s of CPU: {told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--only", default="")
    parser.add_argument("--task", default="")
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--sweep-seeds", type=int, default=2)
    parser.add_argument("--knowing", action="store_true", help="the oracle of a scan knows the dye")
    parser.add_argument("--ppo", action="store_true")
    parser.add_argument("--ppo-steps", type=int, default=4096)
    asked = parser.parse_args()
    if asked.ppo:
        print(ppo(asked.ppo_steps, asked.task or "hard"))
        return
    if asked.light:
        print("| env | task | likeness | bleached, % | light, mJ | bleached less, % | settings |")
        print("|---|---|---|---|---|---|---|")
        for line in light(asked.task or "easy", asked.episodes):
            print(line, flush=True)
        return
    print_heading("random", "default", "oracle")
    for name in NAMES:
        for kind, task in itertools.product(KINDS.get(name, {"": {}}), TASKS):
            if asked.only in f"{name} {kind}" and asked.task in {"", task}:
                print(row(name, kind, task, asked), flush=True)


if __name__ == "__main__":
    main()
