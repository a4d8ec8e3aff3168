"""Several masks come to one, and tell who draws well."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from controller.labels.staple import SILENT, StapleOptions, staple

Masks = NDArray[np.int8]


def contours(seed: int, size: int = 96) -> tuple[Masks, Masks]:
    """Return a true mask and five of it, too large or too small and ragged, ``(raters, y, x)``."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.normal(size=(size, size)), 6)
    truth = np.asarray(blobs > np.quantile(blobs, 0.8))
    inside, outside = (np.asarray(ndimage.distance_transform_edt(one)) for one in (truth, ~truth))
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=truth.shape), 2) for _ in range(5)])
    bias = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None, None]
    return truth.astype(np.int8), (inside - outside + bias + 5 * noise > 0).astype(np.int8)


def dice(mask: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mask_is_that_of_simple_itk(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, an oracle, is absent")
        _, masks = contours(seed)
        oracle = sitk.STAPLEImageFilter()
        oracle.SetForegroundValue(1)
        expected = oracle.Execute([sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks])
    found = staple(masks)
    np.testing.assert_allclose(found.probability, sitk.GetArrayFromImage(expected), atol=1e-4)
    np.testing.assert_allclose(found.sensitivity, oracle.GetSensitivity(), atol=1e-4)
    np.testing.assert_allclose(found.specificity, oracle.GetSpecificity(), atol=1e-4)


def test_who_draws_too_small_misses_and_who_draws_too_large_adds() -> None:
    truth, masks = contours(3)
    found = staple(masks)
    assert found.sensitivity.argmin() == 0
    assert found.specificity.argmin() == 4
    assert dice(found.probability > 0.5, truth == 1) > max(dice(mask == 1, truth == 1) for mask in masks[:2])


def test_outside_of_what_a_rater_looked_at_the_others_decide() -> None:
    _, masks = contours(4)
    whole = staple(masks[1:])
    partly = masks.copy()
    partly[0] = SILENT
    alone = staple(partly)
    np.testing.assert_allclose(alone.probability, whole.probability)
    np.testing.assert_allclose(alone.sensitivity[1:], whole.sensitivity)
    assert np.isnan(alone.sensitivity[0])
    assert np.isnan(alone.specificity[0])
    partly[:, :10] = SILENT
    found = staple(partly)
    assert np.isnan(found.probability[:10]).all()
    assert np.isfinite(found.probability[10:]).all()


@pytest.mark.parametrize(("value", "nan_is"), [(0, "sensitivity"), (1, "specificity")])
def test_where_all_say_the_same_that_is_so_and_the_other_skill_is_unknown(value: int, nan_is: str) -> None:
    found = staple(np.full((3, 4, 4), value, np.int8))
    np.testing.assert_allclose(found.probability, value, atol=1e-6)
    assert np.isnan(getattr(found, nan_is)).all()


def test_a_prior_decides_where_raters_are_divided() -> None:
    masks = np.array([[[1, 0, 1, 0]], [[0, 1, 1, 0]]], np.int8)
    low, high = (staple(masks, StapleOptions(prior=prior)).probability[0, 0] for prior in (0.1, 0.9))
    assert low < high


def test_who_marks_little_and_wildly_is_not_taken_for_faultless() -> None:
    published, careful = 0.0, 0.0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth, masks = contours(seed)
        strays = ndimage.binary_dilation(rng.random(truth.shape) < 0.01, iterations=2)
        masks[0] = masks[0] & (truth == 1) | strays
        near = np.asarray(ndimage.binary_dilation(np.any(masks == 1, axis=0), iterations=3))
        published += dice(staple(masks).probability >= 0.5, truth == 1)
        options = StapleOptions(prior_part=0.3)
        careful += dice(staple(masks, options, near).probability >= 0.5, truth == 1)
    assert careful > published


@given(
    said=st.lists(st.integers(-1, 1), min_size=24, max_size=24),
    prior=st.one_of(st.none(), st.floats(0.01, 0.99)),
)
@settings(max_examples=60, deadline=None)
def test_any_masks_give_probabilities_where_somebody_looked(said: list[int], prior: float | None) -> None:
    masks = np.array(said, np.int8).reshape(4, 2, 3)
    found = staple(masks, StapleOptions(prior=prior))
    looked = (masks != SILENT).any(axis=0)
    assert (np.isfinite(found.probability) == looked).all()
    assert ((found.probability[looked] >= 0) & (found.probability[looked] <= 1)).all()


def test_more_raters_than_fit_into_a_number_are_told_apart() -> None:
    _, masks = contours(5, 32)
    many = np.concatenate([masks] * 9)
    found = staple(many)
    np.testing.assert_allclose(found.sensitivity[:5], found.sensitivity[40:])
    assert len(found.sensitivity) == 45


@pytest.mark.parametrize("masks", [np.full((2, 3, 3), 2), np.zeros((3, 3)), np.full((1, 2, 2), np.nan)])
def test_other_values_are_refused(masks: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        staple(masks)
