"""Scans to compare with: made by a simulated expert, or told by a file of choices.

All scans are drawn from a seed and taken through the guard, as those of a policy are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from controller.core.errors import ConfigurationError
from controller.core.settings import NonNegative, Positive, Settings
from simulator.environments.preference_model import Utility, Vector, vector
from simulator.environments.rewards import OBJECTIVES, scores
from simulator.environments.sted_tune import STEDTuneEnv, STEDTuneOptions
from simulator.objectives import Measure, unmeasured

Points = NDArray[np.float32]

#: How far from the best settings so far an expert tries others, of the -1..1 of each parameter.
_REACH = 0.5

# Streams of a seed.
_EXPERT, _POOL, _PAIRS = 1, 2, 3


class ScanFigures(Settings):
    """Objectives of one scan, as ``info["objectives"]`` tells them; None where nothing was measured."""

    resolution_m: Positive | None
    signal_to_noise: NonNegative | None
    signal_ratio: NonNegative | None
    bleached_fraction: Annotated[float, Field(le=1)] | None

    def scores(self) -> Vector:
        """Return the scores in the order of ``OBJECTIVES``."""
        figures = {name: getattr(self, name) for name in OBJECTIVES}
        return vector(scores({name: _measure(figure) for name, figure in figures.items()}))


class Comparison(Settings):
    """Two scans, and which of them somebody preferred."""

    preferred: ScanFigures
    other: ScanFigures


class Comparisons(Settings):
    """What a file of comparisons holds."""

    schema_: Literal["stedfast-comparisons/1"] = Field(alias="schema")
    comparisons: Annotated[tuple[Comparison, ...], Field(min_length=1, max_length=100_000)]


def read_comparisons(path: Path) -> tuple[Vector, Vector]:
    """Return the scores of the preferred and of the other scans of a JSON file, each ``(n, objectives)``.

    Raises
    ------
    ConfigurationError
        If it cannot be read, or is no file of comparisons; each key to mend is named.
    """
    try:
        found = Comparisons.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)
        lines = (f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong[:20])
        raise ConfigurationError(*lines) from error
    preferred = np.array([one.preferred.scores() for one in found.comparisons])
    return preferred, np.array([one.other.scores() for one in found.comparisons])


def demonstrated(
    options: STEDTuneOptions, utility: Utility, *, samples: int, scans: int, seed: int
) -> Vector:
    """Return the scores of what a simulated expert scans, shape ``(samples * scans, objectives)``.

    On each sample the expert begins in the middle of the parameters and then tries others near the best
    ones so far, judged by ``utility``. So the first scans are fair and the last ones good, as those of a
    person who tunes.
    """
    return _demonstrated(_key(options), _key(utility), samples, scans, seed).copy()


def compared(
    options: STEDTuneOptions, utility: Utility, *, noise: float, samples: int, pairs: int, seed: int
) -> tuple[Vector, Vector]:
    """Return the choices of a simulated expert between scans with random settings.

    Parameters
    ----------
    options
        Of the environment in which ``samples`` episodes are scanned.
    utility, noise
        What the expert prefers; the odds of a choice are ``exp`` of the difference of utility over
        ``noise``. Without noise the better one is always chosen.
    samples, pairs, seed
        How many samples are scanned, how many choices are made between their scans, and the seed of both.

    Returns
    -------
    The scores of the preferred and of the other scans, each of shape ``(pairs, objectives)``.
    """
    pool = _pool(_key(options), samples, seed)
    rng = np.random.default_rng([seed, _PAIRS])
    first = rng.integers(len(pool), size=pairs)
    second = (first + rng.integers(1, len(pool), size=pairs)) % len(pool)
    gain = utility.model().utilities(pool[first]) - utility.model().utilities(pool[second])
    if noise > 0:
        # The difference of two Gumbel variables has the odds of Bradley and Terry.
        gain = gain + noise * rng.logistic(size=pairs)
    chosen = np.where(gain >= 0, first, second)
    return pool[chosen], pool[np.where(gain >= 0, second, first)]


def _measure(figure: float | None) -> Measure:
    return unmeasured("not measured") if figure is None else Measure(figure)


def _key(settings: Settings) -> str:
    return settings.model_dump_json()


@lru_cache(maxsize=8)
def _demonstrated(options: str, utility: str, samples: int, scans: int, seed: int) -> Vector:
    judge = Utility.model_validate_json(utility).model()

    def next_to_best(rng: np.random.Generator, tried: Points, seen: Vector) -> Points:
        if not len(tried):
            return np.zeros(tried.shape[1], np.float32)
        best = tried[int(judge.utilities(seen).argmax())]
        low, high = np.maximum(best - _REACH, -1), np.minimum(best + _REACH, 1)
        return np.asarray(rng.uniform(low, high), np.float32)

    return _scanned(options, samples, scans, np.random.SeedSequence([seed, _EXPERT]), next_to_best)


@lru_cache(maxsize=8)
def _pool(options: str, samples: int, seed: int) -> Vector:
    def anywhere(rng: np.random.Generator, tried: Points, seen: Vector) -> Points:  # noqa: ARG001
        return np.asarray(rng.uniform(-1, 1, tried.shape[1]), np.float32)

    scans = STEDTuneOptions.model_validate_json(options).steps
    return _scanned(options, samples, scans, np.random.SeedSequence([seed, _POOL]), anywhere)


def _scanned(
    options: str,
    samples: int,
    scans: int,
    seeds: np.random.SeedSequence,
    choose: Callable[[np.random.Generator, Points, Vector], Points],
) -> Vector:
    """Return the scores of so many scans on each of so many samples; those that were refused are left out.

    ``choose`` is given the actions of a sample so far and their scores, and returns the next action.
    """
    env = STEDTuneEnv(STEDTuneOptions.model_validate_json(options).replace(steps=scans))
    found: list[Vector] = []
    for one in seeds.spawn(samples):
        rng = np.random.default_rng(one)
        env.reset(seed=int(rng.integers(2**31)))
        tried, seen = np.zeros((0, len(env.action_map)), np.float32), np.zeros((0, len(OBJECTIVES)))
        is_over = False
        while not is_over:
            action = choose(rng, tried, seen)
            _, _, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated
            if not info["refused"]:
                figures = {name: _measure(value) for name, value in info["objectives"].items()}
                tried, seen = np.vstack([tried, action]), np.vstack([seen, vector(scores(figures))])
        found.extend(seen)
    env.close()
    if len(found) < 2:
        raise ConfigurationError(
            f"of {samples * scans} scans to compare with {len(found)} were made, the guard refused the rest: "
            f"raise episode_energy_j"
        )
    return np.array(found)
