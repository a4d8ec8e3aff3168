from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from policies.thompson_sampling import SamplerOptions, ThompsonSampler

NAMES = ("detail_log", "bleached_fraction")


def truth(points: np.ndarray) -> dict[str, np.ndarray]:
    """A landscape like that of STED: detail needs photons and depletion, both bleach."""
    dwell, excitation, sted = points.T
    photons = np.exp(1.5 * (dwell + excitation))
    detail = np.log1p(photons * (1 - np.exp(-4 * sted)))
    bleached = 1 - np.exp(-np.exp(1.5 * dwell + 0.8 * excitation) * (0.05 + 0.5 * sted**2))
    return {"detail_log": detail, "bleached_fraction": bleached}


def utility(objectives: Mapping[str, np.ndarray], points: np.ndarray) -> np.ndarray:
    del points
    return np.asarray(objectives["detail_log"] - 4.0 * objectives["bleached_fraction"])


def anywhere(points: np.ndarray) -> np.ndarray:
    return np.ones(len(points), dtype=bool)


def noisy(point: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    return {
        name: float(value[0] + std * rng.standard_normal())
        for (name, value), std in zip(truth(point[None]).items(), (0.2, 0.05), strict=True)
    }


def thompson(seed: int, trials: int = 30) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    sampler = ThompsonSampler(3, NAMES, np.random.default_rng(seed), SamplerOptions(candidates=400))
    for _ in range(trials):
        point = sampler.ask(utility, anywhere)
        assert point is not None
        sampler.tell(point, noisy(point, rng))
    best = sampler.best(utility)
    assert best is not None
    return best


def random_search(seed: int, trials: int = 30) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    points = np.random.default_rng(seed).random((trials, 3))
    measured = [noisy(point, rng) for point in points]
    seen = {name: np.array([m[name] for m in measured]) for name in NAMES}
    return np.asarray(points[int(np.argmax(utility(seen, points)))])


def regret(points: list[np.ndarray]) -> np.ndarray:
    axis = np.linspace(0, 1, 31)
    grid = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    chosen = np.array(points)
    return np.asarray(utility(truth(grid), grid).max() - utility(truth(chosen), chosen))


def test_thirty_trials_find_far_better_settings_than_random_search() -> None:
    seeds = range(12)
    learned = regret([thompson(seed) for seed in seeds])
    at_random = regret([random_search(seed) for seed in seeds])
    assert np.median(learned) < 0.4 * np.median(at_random)
    assert np.median(learned) < 0.1


def test_the_same_seed_makes_the_same_proposals() -> None:
    np.testing.assert_array_equal(thompson(3, trials=8), thompson(3, trials=8))


def test_the_first_trials_cover_each_axis_evenly() -> None:
    sampler = ThompsonSampler(3, NAMES, np.random.default_rng(0), SamplerOptions(initial_trials=5))
    points = []
    for _ in range(5):
        point = sampler.ask(utility, anywhere)
        assert point is not None
        points.append(point)
        sampler.tell(point, {"detail_log": 1.0})
    strata = np.sort(np.floor(5 * np.array(points)), axis=0)
    np.testing.assert_array_equal(strata, np.repeat(np.arange(5)[:, None], 3, axis=1))


def test_where_nothing_is_allowed_nothing_is_proposed() -> None:
    sampler = ThompsonSampler(3, NAMES, np.random.default_rng(0), SamplerOptions())
    assert sampler.ask(utility, lambda points: np.zeros(len(points), dtype=bool)) is None


def test_nothing_is_proposed_outside_the_box_that_can_be_reached() -> None:
    sampler = ThompsonSampler(3, NAMES, np.random.default_rng(0), SamplerOptions(candidates=200))
    rng, low, high = np.random.default_rng(1), np.array([0.2, 0.0, 0.0]), np.array([0.3, 1.0, 0.15])
    for _ in range(12):
        point = sampler.ask(utility, anywhere, (low, high))
        assert point is not None
        assert ((point >= low) & (point <= high)).all()
        sampler.tell(point, noisy(point, rng))


def test_preferences_may_change_without_learning_anew() -> None:
    sampler = ThompsonSampler(3, NAMES, np.random.default_rng(0), SamplerOptions(candidates=200))
    rng = np.random.default_rng(1)
    for point in rng.random((40, 3)):
        sampler.tell(point, noisy(point, rng))
    careful = sampler.best(lambda o, _: np.asarray(o["detail_log"] - 50 * o["bleached_fraction"]))
    greedy = sampler.best(lambda o, _: np.asarray(o["detail_log"]))
    assert careful is not None
    assert greedy is not None
    assert truth(careful[None])["bleached_fraction"][0] < 0.2 < truth(greedy[None])["bleached_fraction"][0]
