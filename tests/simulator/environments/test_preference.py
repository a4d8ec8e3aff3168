"""STEDPreference: ranks among demonstrations, learned utilities, files of choices, rewards that come late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra gym")

from pydantic import ValidationError  # noqa: E402

from controller.core.errors import ConfigurationError  # noqa: E402
from controller.core.guard import GuardedMicroscope  # noqa: E402
from controller.core.settings import Region  # noqa: E402
from controller.testing import LIMITS, FakeMicroscope  # noqa: E402
from simulator.env import (  # noqa: E402
    Learned,
    MicroscopeFields,
    STEDPreferenceEnv,
    STEDPreferenceOptions,
    STEDTuneEnv,
    STEDTuneOptions,
    Utility,
)
from simulator.environments import demonstrations  # noqa: E402
from simulator.environments.demonstrations import compared, demonstrated, read_comparisons  # noqa: E402
from simulator.environments.preference_model import PreferenceModel, fitted, vector  # noqa: E402
from simulator.environments.rewards import OBJECTIVES, RewardOptions, Scan  # noqa: E402

EASY = STEDTuneOptions(task="easy", reward=RewardOptions(kind="measured", dose_weight=0.0))
QUICK = {"kind": "ranked", "samples": 2, "scans": 3}
BEST = dict.fromkeys(OBJECTIVES, 1.0)
WORST = dict.fromkeys(OBJECTIVES, 0.0)

FIGURES = {
    "resolution_m": 80e-9,
    "signal_to_noise": 5.0,
    "signal_ratio": 0.2,
    "bleached_fraction": 0.3,
}
BLEACHED = {**FIGURES, "bleached_fraction": 0.6}


def written(folder: Path, *comparisons: Any, **more: Any) -> Path:
    path = folder / "choices.json"
    path.write_text(
        json.dumps({"schema": "stedfast-comparisons/1", "comparisons": comparisons, **more}), encoding="utf-8"
    )
    return path


def choices(weights: Any, count: int, seed: int, noise: float) -> tuple[Any, Any]:
    """Return choices between random scores of somebody with these weights."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(size=(2, count, len(OBJECTIVES)))
    gain = (first - second) @ weights + noise * rng.logistic(size=count)
    is_first = (gain >= 0)[:, None]
    return np.where(is_first, first, second), np.where(is_first, second, first)


def test_a_fit_finds_the_weights_that_made_the_choices() -> None:
    weights = np.array([4.0, 1.0, 0.0, 8.0])
    model = fitted(*choices(weights, 20_000, seed=1, noise=1.0))
    # The standard error of 20000 choices is below 0.1 for each.
    assert np.allclose(model.weights, weights, atol=0.4)
    again = fitted(*choices(weights, 20_000, seed=1, noise=1.0))
    assert model.weights.tobytes() == again.weights.tobytes()


def test_choices_without_contradiction_have_finite_weights_that_predict_others() -> None:
    weights = np.array([1.0, 2.0, 3.0, -1.0])
    model = fitted(*choices(weights, 500, seed=2, noise=0.0))
    assert np.isfinite(model.weights).all()
    preferred, others = choices(weights, 1000, seed=3, noise=0.0)
    assert (model.utilities(preferred) > model.utilities(others)).mean() > 0.95
    assert model.weights[3] < 0


def test_a_utility_goes_from_nothing_to_everything_whatever_its_signs() -> None:
    model = PreferenceModel(np.array([2.0, 0.0, 1.0, -1.0]))
    assert model.utilities(np.array([[0, 0, 0, 1.0], [1, 0, 1, 0.0]])).tolist() == [0.0, 1.0]
    assert model.named() == {
        "resolution_m": 0.5,
        "signal_to_noise": 0.0,
        "signal_ratio": 0.25,
        "bleached_fraction": -0.25,
    }


def test_choices_that_tell_nothing_are_refused() -> None:
    alike = np.full((3, len(OBJECTIVES)), 0.5)
    with pytest.raises(ConfigurationError, match="score alike"):
        fitted(alike, alike)
    better = np.eye(len(OBJECTIVES))
    with pytest.raises(ConfigurationError, match="contradict"):
        fitted(np.vstack([better, alike[:0], 0 * better]), np.vstack([0 * better, better]))
    with pytest.raises(ValidationError, match="worth more than 0"):
        Utility(**dict.fromkeys(OBJECTIVES, 0.0))


def test_an_expert_tunes_for_what_it_prefers() -> None:
    nothing = dict.fromkeys(OBJECTIVES, 0.0)
    last = {}
    for wanted in ("signal_ratio", "bleached_fraction"):
        utility = Utility(**{**nothing, wanted: 1.0})
        bank = demonstrated(EASY, utility, samples=2, scans=6, seed=0).reshape(2, 6, -1)
        last[wanted] = dict(zip(OBJECTIVES, bank[:, 3:].mean(axis=(0, 1)), strict=True))
    signal, bleaching = last["signal_ratio"], last["bleached_fraction"]
    assert signal["signal_ratio"] > bleaching["signal_ratio"] + 0.1
    assert bleaching["bleached_fraction"] > signal["bleached_fraction"] + 0.1


def test_a_confocal_scan_is_not_the_best_by_default() -> None:
    """It bleaches least and has the best signal: a utility that forgot resolution would ask for it."""
    env = STEDTuneEnv(EASY)
    found = []
    for sted_w in (0.0, 0.15):
        env.reset(seed=0)
        told = [
            env.step(env.action_map.action({"sted_w": sted_w, "excitation_w": 5e-6, "dwell_s": 30e-6}))[4]
            for _ in range(3)
        ]
        seen = [demonstrations.ScanFigures(**info["objectives"]).scores() for info in told]
        found.append(float(Utility().model().utilities(np.array(seen)).mean()))
    env.close()
    assert found[1] > found[0] + 0.1


def test_the_seed_says_what_is_demonstrated() -> None:
    bank = demonstrated(EASY, Utility(), samples=3, scans=3, seed=0)
    assert bank.shape == (9, len(OBJECTIVES))
    assert ((bank >= 0) & (bank <= 1)).all()
    demonstrations._demonstrated.cache_clear()
    assert demonstrated(EASY, Utility(), samples=3, scans=3, seed=0).tobytes() == bank.tobytes()
    assert demonstrated(EASY, Utility(), samples=3, scans=3, seed=1).tobytes() != bank.tobytes()


def test_an_expert_without_noise_never_errs_and_one_with_noise_sometimes() -> None:
    model = Utility().model()
    erred = []
    for noise in (0.0, 0.1):
        preferred, others = compared(EASY, Utility(), noise=noise, samples=2, pairs=200, seed=0)
        erred.append(float((model.utilities(preferred) < model.utilities(others)).mean()))
    assert erred[0] == 0
    assert 0.05 < erred[1] < 0.45


def test_the_learned_preference_is_that_of_the_expert() -> None:
    for utility in (Utility(), Utility(resolution_m=3.0, bleached_fraction=0.0)):
        model = Learned(utility=utility, samples=3).model(EASY)
        declared = utility.model().named()
        assert all(abs(share - declared[name]) < 0.12 for name, share in model.named().items())


def test_the_best_scan_beats_all_demonstrations_and_the_worst_none() -> None:
    env = STEDPreferenceEnv(task="easy", preference=QUICK)
    assert env._reward(Scan(BEST, 0.0, None)) == 1.0
    assert env._reward(Scan(WORST, 0.0, None)) == 0.0
    bank = demonstrated(env.options.tuning(), Utility(), samples=2, scans=3, seed=0)
    ranks = sorted(env._reward(Scan(dict(zip(OBJECTIVES, one, strict=True)), 0.0, None)) for one in bank)
    # Each beats those below it and half of itself.
    assert np.allclose(ranks, (np.arange(6) + 0.5) / 6)


@pytest.mark.parametrize("preference", [QUICK, {"kind": "learned", "samples": 2}])
def test_rewards_do_not_look_at_the_truth(preference: Any) -> None:
    region = (Region(center_yx_m=(0.0, 0.0), size_yx_m=(1.28e-6, 1.28e-6)),)
    limits = LIMITS.replace(session_energy_max_j=0.25)
    for samples in (None, MicroscopeFields(GuardedMicroscope(FakeMicroscope(), limits), region)):
        env = STEDPreferenceEnv(samples=samples, task="easy", preference=preference, steps=1)
        env.reset(seed=0)
        _, reward, _, truncated, info = env.step(np.zeros(3, np.float32))
        assert 0 <= reward <= 1
        assert truncated
        assert ("truth_likeness" in info) is (samples is None)
        env.close()


def test_rewards_that_are_delayed_come_at_the_end_and_add_up_to_the_same() -> None:
    earned: dict[bool, list[float]] = {}
    for delayed in (False, True):
        env = STEDPreferenceEnv(task="easy", preference=QUICK, delayed=delayed, steps=3)
        env.action_space.seed(1)
        env.reset(seed=5)
        earned[delayed] = []
        for _ in range(2):  # a second episode begins at 0
            earned[delayed] += [env.step(env.action_space.sample())[1] for _ in range(3)]
            env.reset()
        env.close()
    at_once, late = earned[False], earned[True]
    assert late == [0, 0, sum(at_once[:3]), 0, 0, sum(at_once[3:])]
    assert late[2] > 0


def test_an_episode_that_ends_early_still_pays_what_is_due() -> None:
    env = STEDPreferenceEnv(task="easy", preference=QUICK, delayed=True, episode_energy_j=0.15)
    env.reset(seed=0)
    strong = np.ones(3, np.float32)
    first = env.step(strong)
    second = env.step(strong)
    assert (first[1], first[2]) == (0.0, False)
    assert second[2]
    assert second[4]["refused"] == 1
    assert -1 <= second[1] <= 0  # a rank, less the cost of the refused scan


def test_a_file_of_choices_is_learned_from(tmp_path: Path) -> None:
    path = written(tmp_path, {"preferred": FIGURES, "other": BLEACHED})
    env = STEDPreferenceEnv(preference={"kind": "learned", "file": str(path)})
    gentle = env._reward(Scan({**WORST, "bleached_fraction": 1.0}, 0.0, None))
    assert gentle == 1.0  # nothing else is known to matter
    assert env._reward(Scan(WORST, 0.0, None)) == 0.0


def test_what_was_not_measured_is_the_worst(tmp_path: Path) -> None:
    path = written(tmp_path, {"preferred": FIGURES, "other": {**FIGURES, "resolution_m": None}})
    preferred, others = read_comparisons(path)
    expected = (preferred - others)[0]
    assert np.allclose(expected, vector({**WORST, "resolution_m": (250 - 80) / 210}), rtol=1e-12)


@pytest.mark.parametrize(
    ("comparison", "named"),
    [
        ({"preferred": FIGURES}, r"comparisons\.0\.other: Field required"),
        ({"preferred": FIGURES, "other": BLEACHED, "who": "me"}, r"comparisons\.0\.who"),
        ({"preferred": FIGURES, "other": {**FIGURES, "resolution_m": "80 nm"}}, r"0\.other\.resolution_m"),
        ({"preferred": FIGURES, "other": {**FIGURES, "bleached_fraction": 30.0}}, r"bleached_fraction"),
        ({"preferred": {**FIGURES, "resolution_m": -1.0}, "other": FIGURES}, r"preferred\.resolution_m"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_its_key(comparison: Any, named: str, tmp_path: Path) -> None:
    path = written(tmp_path, comparison)
    with pytest.raises(ConfigurationError, match=named) as refused:
        STEDPreferenceEnv(preference={"kind": "learned", "file": str(path)})
    assert "choices.json" in str(refused.value)


def test_a_file_that_is_absent_empty_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", written(tmp_path), written(tmp_path, schema="stedfast-other/1")):
        with pytest.raises(ConfigurationError, match=path.name):
            read_comparisons(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"preference": {"kind": "liked"}}, "preference"),
        ({"preference": {"kind": "ranked", "scan": 3}}, r"preference.ranked.scan"),
        ({"preference": {"kind": "ranked", "utility": {"resolution": 1.0}}}, "utility.resolution"),
        ({"reward": {"kind": "spots"}}, "'preference'"),
        ({"delayed": 1}, "delayed"),
    ],
)
def test_options_that_are_wrong_are_refused_by_their_key(changes: Any, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        STEDPreferenceOptions.model_validate(changes)
    with pytest.raises(ValidationError, match=named):
        gymnasium.make("simulator:Stedfast/STEDPreference-v0", **changes)
