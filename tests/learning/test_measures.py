"""Measures of segmentations, against cases that were counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from controller.core.frame import Segmentation
from controller.learning.measures import (
    OVERLAPS,
    ObjectMatches,
    average_precision,
    boundary_f1,
    dice,
    match_objects,
    match_spots,
    spot_places,
)


def squares(*places: tuple[int, int, int]) -> NDArray[np.int32]:
    """Return labels of squares, numbered from 1, each with (row, column, side)."""
    labels = np.zeros((40, 40), np.int32)
    for number, (row, column, side) in enumerate(places, 1):
        labels[row : row + side, column : column + side] = number
    return labels


TRUTH = squares((0, 0, 10), (0, 20, 10), (20, 0, 10))


def test_objects_are_counted_as_by_hand() -> None:
    # The first as it is (IoU 1); the second moved by 2 columns: 80 of 120 pixels; the third missed;
    # one where nothing is.
    found = squares((0, 0, 10), (0, 22, 10), (30, 30, 5))
    matches = match_objects(found, TRUTH)
    assert (matches.hits, matches.wrong, matches.missed) == (2, 1, 1)
    assert matches.overlaps == pytest.approx(1 + 80 / 120)
    assert matches.precision == matches.recall == matches.f1 == pytest.approx(2 / 3)
    assert matches.average_precision == pytest.approx(2 / 4)
    assert matches.segmentation_quality == pytest.approx((1 + 2 / 3) / 2)
    assert matches.panoptic_quality == pytest.approx((1 + 2 / 3) / 2 * 2 / 3)
    assert match_objects(found, TRUTH, 0.7).hits == 1


def test_average_precision_over_overlaps_is_the_mean() -> None:
    found = squares((0, 0, 10), (0, 22, 10), (20, 0, 10))
    # The second counts at .5, .55, .6 and .65: AP is 1 there, and 2 / 4 at the other five.
    assert len(OVERLAPS) == 9
    assert average_precision(found, TRUTH, OVERLAPS) == pytest.approx((4 * 1 + 5 * 0.5) / 9)


def test_two_halves_of_an_object_are_not_two_hits() -> None:
    halves = np.zeros((40, 40), np.int32)
    halves[:5, :10], halves[5:10, :10] = 1, 2
    truth = squares((0, 0, 10))
    assert match_objects(halves, truth).hits == 0
    lenient = match_objects(halves, truth, 0.4)
    assert (lenient.hits, lenient.wrong, lenient.missed) == (1, 1, 0)


def test_as_many_objects_as_possible_are_matched_at_a_small_overlap() -> None:
    # The larger one found shares 8 of 13 pixels with the first, 3 of 11 with the second; the smaller one
    # shares 2 of 10 with the first. One good match is not worth two.
    truth = np.array([[1] * 10 + [2] * 3])
    found = np.array([[2] * 2 + [1] * 11])
    assert match_objects(found, truth, 0.15).hits == 2
    assert match_objects(found, truth, 0.3).hits == 1


def test_numbers_may_have_gaps_and_any_order() -> None:
    renamed = np.choose(TRUTH, [0, 70, 3, 900])
    assert match_objects(renamed, TRUTH) == match_objects(TRUTH, TRUTH) == ObjectMatches(3, 0, 0, 3.0)


def test_nothing_found_is_right_only_where_nothing_is() -> None:
    nothing = np.zeros((40, 40), np.int32)
    for measure in (average_precision, dice, boundary_f1):
        assert measure(nothing, nothing) == 1
        assert measure(nothing, TRUTH) == measure(TRUTH, nothing) == 0
    matches = match_objects(nothing, TRUTH)
    assert matches.precision == matches.segmentation_quality == matches.panoptic_quality == 0


def test_counts_of_images_are_added_before_a_ratio_is_taken() -> None:
    nothing = np.zeros((40, 40), np.int32)
    both = match_objects(TRUTH, TRUTH) + match_objects(squares((5, 5, 5)), nothing)
    assert both.f1 == pytest.approx(6 / 7)
    with pytest.raises(TypeError):
        both + match_spots(np.zeros((0, 2)), np.zeros((0, 2)))  # type: ignore[operator]


def test_dice_counts_areas() -> None:
    assert dice(squares((0, 0, 10)), squares((0, 5, 10))) == pytest.approx(2 * 50 / 200)


def test_an_outline_two_pixels_off_is_right_and_three_are_not() -> None:
    stripes = np.zeros((3, 10, 40), np.int32)
    for stripe, first in zip(stripes, (10, 12, 13), strict=True):
        stripe[:, first : first + 20] = 1
    assert boundary_f1(stripes[1], stripes[0]) == 1
    assert boundary_f1(stripes[2], stripes[0]) == 0
    # Outlines between objects that touch count, those along the border of the image do not.
    touching = np.zeros((10, 20), np.int32)
    touching[:, :10], touching[:, 10:] = 1, 2
    assert boundary_f1(touching, touching) == 1
    assert boundary_f1(np.ones((10, 20), np.int32), touching) == 0


def test_half_of_an_outline_is_half_of_the_recall() -> None:
    truth = squares((5, 5, 10), (5, 25, 10))
    assert boundary_f1(squares((5, 5, 10)), truth) == pytest.approx(2 * 0.5 / 1.5)


def test_spots_are_counted_as_by_hand() -> None:
    truth = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]])
    found = np.array([[10.0, 11.0], [22.0, 20.0], [30.0, 32.5], [0.0, 0.0]])
    matches = match_spots(found, truth)
    assert (matches.hits, matches.wrong, matches.missed) == (2, 2, 1)
    assert matches.f1 == pytest.approx(4 / 7)
    assert matches.localisation_rmse_px == pytest.approx(np.sqrt((1 + 4) / 2))
    assert match_spots(found, truth, 3).hits == 3


def test_a_spot_is_no_hit_for_two() -> None:
    assert match_spots(np.array([[5.0, 5.0]]), np.array([[5.0, 6.0], [5.0, 4.5]])).hits == 1


def test_as_many_spots_as_possible_are_matched() -> None:
    # The nearest pair would leave the others alone.
    matches = match_spots(np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([[0.0, 1.9], [0.0, 3.9]]))
    assert matches.hits == 2


def test_no_spots_are_no_error() -> None:
    none = np.zeros((0, 2))
    assert match_spots(none, none).f1 == 1
    assert np.isnan(match_spots(none, none).localisation_rmse_px)
    assert match_spots(none, np.ones((3, 2))).f1 == 0


def test_places_are_weighted_by_probability() -> None:
    labels = np.array([[1, 1, 0, 2]], np.int32)
    probability = np.array([[1.0, 0.5, 0.0, 1.0]], np.float32)
    places = spot_places(Segmentation(labels, probability, probability))
    np.testing.assert_allclose(places, np.array([[0, 1 / 3], [0, 3]]))
    nothing = np.zeros((3, 3), np.float32)
    assert spot_places(Segmentation(nothing.astype(np.int32), nothing, nothing)).shape == (0, 2)


@given(st.integers(0, 2**32 - 1))
def test_measures_do_not_care_which_image_is_the_truth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 4, (2, 6, 7))
    assert match_objects(one, other, 0.3).f1 == pytest.approx(match_objects(other, one, 0.3).f1)
    assert dice(one, other) == pytest.approx(dice(other, one))
    assert boundary_f1(one, other, 1) == pytest.approx(boundary_f1(other, one, 1))


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_out_of_range_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="outside 0 <= overlap < 1"):
        match_objects(TRUTH, TRUTH, overlap)


def test_images_of_different_shape_are_refused() -> None:
    for measure in (average_precision, dice, boundary_f1):
        with pytest.raises(ValueError, match="one shape"):
            measure(TRUTH, TRUTH[1:])
