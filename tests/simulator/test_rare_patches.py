"""Drawn patches with rare classes, and the person who tags them."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from simulator.rare_patches import (
    BACKGROUND,
    CLASS_NAMES,
    PIXEL_SIZE_M,
    RING_PERIOD_M,
    RINGS,
    SIDE_PX,
    CostModel,
    Patches,
    PatchMix,
    ScriptedAnnotator,
    answer_seconds,
    draw_patches,
)


@pytest.fixture(scope="module")
def patches() -> Patches:
    return draw_patches(3000, np.random.default_rng(0))


def only(kind: int) -> PatchMix:
    shares = (float(kind == 0), float(kind == 1), float(kind == 2), float(kind == 3))
    return PatchMix(shares=shares, most_ambiguous=0.0, light=20.0)


def test_the_same_seed_draws_the_same_patches() -> None:
    first, again, other = (draw_patches(30, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.photons.tobytes() == again.photons.tobytes() != other.photons.tobytes()
    assert (first.classes == again.classes).all()


def test_classes_are_as_rare_as_the_mix_says(patches: Patches) -> None:
    found = np.bincount(patches.classes, minlength=4) / len(patches)
    assert found == pytest.approx(PatchMix().shares, abs=0.03)
    assert patches.photons.shape == (3000, SIDE_PX, SIDE_PX)


def test_pixels_are_poisson_counts() -> None:
    """Of patches without structure, whose expected count is the same everywhere: variance = mean."""
    empty = draw_patches(400, np.random.default_rng(0), only(BACKGROUND).replace(light=1e-9)).photons
    mean, variance = empty.mean(axis=(1, 2)), empty.var(axis=(1, 2), ddof=1)
    assert (variance / mean).mean() == pytest.approx(1, abs=0.01)


def test_rings_repeat_every_190_nm_and_nothing_else_does() -> None:
    frequency_px = PIXEL_SIZE_M / RING_PERIOD_M
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]

    def periodic(kind: int) -> float:
        """Return the strongest wave of the period of rings, by direction, as a share of the light."""
        images = draw_patches(60, np.random.default_rng(3), only(kind)).photons.astype(float)
        images -= images.mean(axis=(1, 2), keepdims=True)
        turns = np.linspace(0, np.pi, 18, endpoint=False)
        waves = [np.exp(-2j * np.pi * frequency_px * (y * np.sin(a) + x * np.cos(a))) for a in turns]
        strength = [np.abs((images * wave).sum(axis=(1, 2))) for wave in waves]
        return float(np.median(np.max(strength, axis=0) / np.abs(images).sum(axis=(1, 2))))

    found = [periodic(kind) for kind in range(len(CLASS_NAMES))]
    assert found[RINGS] > 1.5 * max(found[:RINGS])


def test_dim_patches_have_fewer_photons() -> None:
    patches = draw_patches(2000, np.random.default_rng(1), PatchMix(light=10))
    for kind in range(1, len(CLASS_NAMES)):
        own = patches.classes == kind
        # The stray light, which has nothing to do with it, is in the median.
        low, high = np.percentile(patches.photons[own], (50, 99), axis=(1, 2))
        assert stats.spearmanr(patches.dimness[own], high - low).statistic < -0.5


def test_patches_of_a_field_share_their_light(patches: Patches) -> None:
    by_field = [patches.dimness[patches.fields == field] for field in range(int(patches.fields[-1]) + 1)]
    assert len(by_field) == 150
    assert np.std([one.mean() for one in by_field]) > 2 * np.mean([one.std() for one in by_field]) / np.sqrt(
        20
    )


def test_rare_classes_are_slow_in_one_model_and_as_quick_as_others_in_the_other(patches: Patches) -> None:
    rarity = -np.log(np.array(PatchMix().shares))[patches.classes]
    slow = answer_seconds(patches, "rare_is_slow")
    dim = answer_seconds(patches, "dim_is_slow")
    assert stats.spearmanr(rarity, slow).statistic > 0.7
    assert abs(stats.spearmanr(rarity, dim).statistic) < 0.06
    assert stats.spearmanr(patches.dimness, dim).statistic == pytest.approx(1)
    # So that a budget buys about as many answers in both.
    assert slow.mean() == pytest.approx(dim.mean(), rel=0.1)


@pytest.mark.parametrize("model", ["rare_is_slow", "dim_is_slow"])
def test_an_annotator_takes_the_seconds_of_the_model_and_errs_as_often_as_told(
    model: CostModel, patches: Patches
) -> None:
    said, took_s = ScriptedAnnotator(patches, model, 0.1, np.random.default_rng(5)).answers(range(3000))
    is_wrong = said != patches.classes
    assert is_wrong.mean() == pytest.approx(0.1, abs=0.02)
    assert patches.ambiguity[is_wrong].mean() > patches.ambiguity[~is_wrong].mean() + 0.1
    assert took_s.mean() == pytest.approx(answer_seconds(patches, model).mean(), rel=0.05)
    assert took_s.min() > 0


def test_who_never_errs_says_the_truth_and_says_it_again(patches: Patches) -> None:
    annotator = ScriptedAnnotator(patches, "dim_is_slow", 0.0, np.random.default_rng(0))
    assert (annotator.answers([5, 7, 5])[0] == patches.classes[[5, 7, 5]]).all()
    assert annotator.answers([7])[1] == annotator.answers([5, 7])[1][1]


def test_errors_come_even_if_nothing_is_ambiguous() -> None:
    clear = draw_patches(500, np.random.default_rng(0), PatchMix(most_ambiguous=0.0))
    said, _ = ScriptedAnnotator(clear, "dim_is_slow", 0.2, np.random.default_rng(0)).answers(range(500))
    assert (said != clear.classes).mean() == pytest.approx(0.2, abs=0.06)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match="add up to 1"):
        PatchMix(shares=(0.7, 0.7, 0.0, 0.0))
    with pytest.raises(ValueError, match="count=0"):
        draw_patches(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="share of wrong answers"):
        ScriptedAnnotator(
            draw_patches(2, np.random.default_rng(0)), "dim_is_slow", 1.5, np.random.default_rng(0)
        )
