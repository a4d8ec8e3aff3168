"""The sample: cells with dark nuclei, dark vessels, depth, motion, lines at their own time, and its truth."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from controller.core.settings import Region
from simulator.stage import Place
from simulator.two_photon.bleaching import Bleaching, BleachingOptions
from simulator.two_photon.brain import Brain, BrainOptions
from simulator.two_photon.calcium import ActivityOptions
from simulator.two_photon.focal_plane import MAP_PIXEL_M, MARGIN_M
from simulator.two_photon.laser_scanner import Timing
from simulator.two_photon.motion import BrainMotion
from simulator.two_photon.neurons import Tissue, TissueOptions, make_tissue
from simulator.two_photon.optics import TwoPhotonOptics

OPTICS = TwoPhotonOptics()
TISSUE = TissueOptions(top_m=100e-6, bottom_m=160e-6)
SIZE = (160e-6, 128e-6)
DEPTH_M = 130e-6
MARGIN_PX = round(MARGIN_M / MAP_PIXEL_M)
# All of the sample, 1 µm a pixel.
WHOLE = Place((MARGIN_PX, MARGIN_PX), (160, 128), 2)
AT_ONCE = Timing(160, 1e-9, 160e-9, bidirectional=False)


@cache
def brain(motion_m: float = 0.0, neuropil: float = 1.0) -> Brain:
    options = BrainOptions(tissue=TISSUE, motion_m=motion_m, activity=ActivityOptions(neuropil=neuropil))
    return Brain(options, OPTICS, SIZE, [3])


@cache
def tissue(seed: int = 3) -> Tissue:
    return make_tissue(TISSUE, SIZE, [seed])


def test_neurons_are_as_many_and_as_far_apart_as_published() -> None:
    grown = tissue()
    assert grown.neurons / TISSUE.volume_m3(SIZE) == pytest.approx(1e14, rel=0.1)
    distance = np.linalg.norm(grown.somata_m[:, None] - grown.somata_m, axis=2)
    assert distance[~np.eye(grown.neurons, dtype=np.bool_)].min() >= 16e-6
    assert grown.radius_m.mean() == pytest.approx(5.9e-6, rel=0.05)
    assert grown.brightness.mean() == pytest.approx(1, rel=0.15)


def test_no_cell_body_lies_in_a_vessel() -> None:
    grown = tissue()
    for vessel_m, radius_m in zip(grown.vessels_m[::5], grown.vessel_radius_m[::5], strict=True):
        assert np.linalg.norm(grown.somata_m - vessel_m, axis=1).min() > radius_m + 5e-6


def test_the_same_seed_grows_the_same_tissue() -> None:
    again = make_tissue(TISSUE, SIZE, [3])
    assert np.array_equal(again.dendrites_m, tissue().dendrites_m)
    assert not np.array_equal(make_tissue(TISSUE, SIZE, [4]).somata_m[:5], tissue().somata_m[:5])


def test_cell_bodies_are_rings_about_dark_nuclei_where_the_labels_say() -> None:
    sample = brain()
    labels = sample.labels(WHOLE, DEPTH_M)
    image = sample.expected(WHOLE, DEPTH_M, AT_ONCE, 0.0)
    grown, found = sample.tissue, 0
    assert labels.shape == (160, 128)
    for label in np.unique(labels)[1:]:
        z, y, x = grown.somata_m[label - 1]
        row, column = round(y / 1e-6 + 79.5), round(x / 1e-6 + 63.5)
        assert abs(z - DEPTH_M) < grown.radius_m[label - 1] + 4e-6
        if abs(z - DEPTH_M) > 1.5e-6 or not (10 < row < 150 and 10 < column < 118):
            continue
        found += 1
        assert labels[row, column] == label
        off = np.hypot(*np.ogrid[-9:10, -9:10]) * 1e-6 / grown.radius_m[label - 1]
        patch = image[row - 9 : row + 10, column - 9 : column + 10]
        nucleus, ring, outside = patch[off < 0.4], patch[(off > 0.75) & (off < 0.95)], patch[off > 1.3]
        assert ring.mean() > 4 * nucleus.mean(), "no dye in the nucleus"
        assert nucleus.mean() < outside.mean()
    assert found > 5


def test_vessels_are_dark_and_cast_shadows() -> None:
    without = Brain(
        BrainOptions(tissue=TISSUE.replace(vessels=False), motion_m=0.0), OPTICS, SIZE, [3]
    ).plane(DEPTH_M)
    plane = brain().plane(DEPTH_M)
    grown = brain().tissue
    wide = grown.vessels_m[(grown.vessel_radius_m > 5e-6) & (abs(grown.vessels_m[:, 0] - DEPTH_M) < 1e-6)]
    assert len(wide)
    inside = 0
    for _, y, x in wide:
        row, column = (
            round(at / MAP_PIXEL_M + shape / 2 - 0.5)
            for at, shape in zip((y, x), plane.neuropil.shape, strict=True)
        )
        if 0 <= row < plane.neuropil.shape[0] and 0 <= column < plane.neuropil.shape[1]:
            inside += 1
            assert plane.neuropil[row, column] < 0.02
    assert inside
    assert plane.neuropil.mean() < 0.95 * without.neuropil.mean()


def test_planes_nearby_look_alike_and_planes_far_apart_do_not() -> None:
    def likeness(away_m: float) -> float:
        here, there = (brain().expected(WHOLE, depth, AT_ONCE, 0.0) for depth in (DEPTH_M, DEPTH_M + away_m))
        return float(np.corrcoef(here.ravel(), there.ravel())[0, 1])

    near, half, far = likeness(0.5e-6), likeness(3e-6), likeness(20e-6)
    assert near > 0.95 > half > 0.3 > far


def test_a_filled_spot_reads_one() -> None:
    # A cell as large as the spot is small is all dye: 1, times the brightness of the cell.
    grown, image = brain().tissue, brain().plane(DEPTH_M)
    inside = [
        image.values[image.neurons == neuron].max() / grown.brightness[neuron]
        for neuron in np.unique(image.labels)[1:] - 1
        if abs(grown.somata_m[neuron, 0] - DEPTH_M) < 4e-6
    ]
    assert 0.7 < np.median(inside) <= 1.05


def test_coarse_and_fine_scans_show_the_same_light() -> None:
    fine = brain().expected(Place((MARGIN_PX, MARGIN_PX), (320, 256), 1), DEPTH_M, AT_ONCE, 0.0)
    for stride in (2, 4, 8):
        shape = (320 // stride, 256 // stride)
        coarse = brain().expected(Place((MARGIN_PX, MARGIN_PX), shape, stride), DEPTH_M, AT_ONCE, 0.0)
        assert coarse.shape == shape
        assert coarse.mean() == pytest.approx(fine.mean(), rel=0.03)


def test_lines_are_scanned_one_after_the_other_each_at_its_time() -> None:
    sample = brain()
    slow = Timing(160, 5e-3, 0.8, bidirectional=False)
    rolled = sample.expected(WHOLE, DEPTH_M, slow, 40.0)
    assert rolled.max() > 0
    for line in (0, 53, 159):
        at_once = sample.expected(WHOLE, DEPTH_M, AT_ONCE, 40.0 + (line + 0.5) * 5e-3)
        assert np.allclose(rolled[line], at_once[line], rtol=0.02, atol=0.01)


def test_what_is_seen_does_not_depend_on_what_was_seen_before() -> None:
    sample = brain(1e-6)
    first = sample.expected(WHOLE, DEPTH_M, AT_ONCE, 12.0)
    for depth_m in (110e-6, 120e-6, 140e-6, 150e-6):
        sample.expected(WHOLE, depth_m, AT_ONCE, 90.0)
    assert np.array_equal(sample.expected(WHOLE, DEPTH_M, AT_ONCE, 12.0), first)


def test_motion_shifts_the_image_by_what_it_says() -> None:
    sample = brain(3e-6)
    times_s = np.arange(0, 60, 0.5)
    shift = sample.motion.shift_m(times_s)
    start_s = float(times_s[np.argmax(abs(shift).max(axis=1))])
    still = sample.expected(WHOLE, DEPTH_M, AT_ONCE, start_s, moves=False)
    moved = sample.expected(WHOLE, DEPTH_M, AT_ONCE, start_s)
    dy, dx = np.round(sample.motion.shift_m(np.array([start_s]))[0] / 1e-6).astype(int)
    assert max(abs(dy), abs(dx)) >= 3
    inner = slice(25, 100)
    back = moved[25 + dy : 100 + dy, 25 + dx : 100 + dx]
    aligned = np.corrcoef(still[inner, inner].ravel(), back.ravel())[0, 1]
    asis = np.corrcoef(still[inner, inner].ravel(), moved[inner, inner].ravel())[0, 1]
    assert aligned > 0.85 > asis


@pytest.mark.parametrize("seed", range(5))
def test_motion_is_bounded_a_function_of_time_and_off_when_asked(seed: int) -> None:
    motion = BrainMotion(1e-6, [seed])
    times_s = np.arange(0, 300, 0.01)
    shift = motion.shift_m(times_s)
    assert abs(shift).max() <= motion.largest_m
    assert 0.2e-6 < shift.std() < 3e-6
    assert np.array_equal(
        BrainMotion(1e-6, [seed]).shift_m(times_s[20_000:20_100]), motion.shift_m(times_s[20_000:20_100])
    )
    assert np.allclose(motion.shift_m(times_s[5000:5100]), shift[5000:5100], atol=1e-12)
    assert not BrainMotion(0.0, [seed]).shift_m(times_s).any()


def test_backward_lines_are_shifted_by_the_phase() -> None:
    both_ways = Timing(160, 1e-9, 160e-9, bidirectional=True)
    plain = brain().expected(WHOLE, DEPTH_M, both_ways, 0.0)
    shifted = brain().expected(WHOLE, DEPTH_M, both_ways, 0.0, phase_m=2e-6)
    assert np.array_equal(shifted[::2], plain[::2])
    assert np.allclose(shifted[1::2, 2:], plain[1::2, :-2], atol=1e-6)


def region(side_m: float = 20e-6, y_m: float = 0.0, x_m: float = 0.0) -> Region:
    return Region(center_yx_m=(y_m, x_m), size_yx_m=(side_m, side_m))


def bleached(options: BleachingOptions, power_w: float = 60e-3, scans: int = 1, **where: Any) -> Bleaching:
    dye = Bleaching(options, tissue(), OPTICS, (192e-6, 160e-6))
    for scan in range(scans):
        dye.expose(region(**where), DEPTH_M, power_w, 1e3 * 87e-9 / 1e-12, scan * 1.0)
    return dye


def lost(dye: Bleaching) -> NDArray[np.float32]:
    return 1 - dye.neuropil(DEPTH_M)


def test_bleaching_goes_with_the_stated_power_of_the_light() -> None:
    for order in (2.0, 3.0, 4.0):
        options = BleachingOptions(order=order)
        one, two = (float(np.log1p(-lost(bleached(options, power)).max())) for power in (20e-3, 40e-3))
        assert two / one == pytest.approx(2**order, rel=0.05)


def test_only_what_was_scanned_bleaches_and_only_near_the_focus() -> None:
    dye = bleached(BleachingOptions(), side_m=40e-6, y_m=30e-6)
    rows, columns = np.nonzero(lost(dye) > 1e-6)
    assert (rows.min() * 16 - 96, rows.max() * 16 - 80) == (0, 64)
    assert (columns.min() * 16 - 80, columns.max() * 16 - 64) == (-32, 32)
    assert (1 - dye.neuropil(DEPTH_M + 12e-6)).max() < 0.01 * lost(dye).max()
    grown = tissue()
    far = np.hypot(grown.somata_m[:, 1] - 30e-6, grown.somata_m[:, 2]) > 45e-6
    assert np.all(dye.neurons[far] == 1)
    assert dye.neurons.min() < 1


def test_dye_recovers_from_outside_if_it_may() -> None:
    for_good, recovers = (bleached(BleachingOptions(recovery_s=t)) for t in (None, 10.0))
    before = lost(recovers).max()
    for dye in (for_good, recovers):
        dye.expose(region(), DEPTH_M, 0.0, 1.0, 10.0)
    assert lost(for_good).max() == pytest.approx(before)
    assert lost(recovers).max() == pytest.approx(before * np.exp(-1), rel=1e-3)
    assert not lost(bleached(BleachingOptions(strength=0.0))).any()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"top_m": 200e-6, "bottom_m": 100e-6}, "top_m"),
        ({"top_m": -1e-6}, "top_m"),
        ({"bottom_m": 2e-3}, "bottom_m"),
        ({"neurons_per_m3": 1e18}, "neurons_per_m3"),
        ({"neuropil_fill": 1.5}, "neuropil_fill"),
        ({"expression_sd": float("inf")}, "expression_sd"),
        ({"depth": 1e-6}, "depth"),
    ],
)
def test_tissue_that_cannot_be_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        TISSUE.replace(**changes)


def test_an_empty_brain_is_dark_but_for_its_neuropil() -> None:
    options = BrainOptions(tissue=TISSUE.replace(neurons_per_m3=0.0, neuropil_fill=0.0), motion_m=0.0)
    empty = Brain(options, OPTICS, SIZE, [1])
    assert not empty.expected(WHOLE, DEPTH_M, AT_ONCE, 5.0).any()
    assert not empty.labels(WHOLE, DEPTH_M).any()
