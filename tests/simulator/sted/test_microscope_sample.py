"""The sample of the simulated STED microscope: what moves, has two labels, or is seen through bad optics."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.core.clock import SimulatedClock
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from simulator.specimens import Specimen, SpecimenOptions
from simulator.sted.aberrations import Aberrations
from simulator.sted.microscope import SimulatedMicroscope
from simulator.sted.photophysics import DEEP_RED, RED
from simulator.sted.species import SecondLabel
from tests.simulator.sted.test_microscope import (
    CONFOCAL,
    SMALL,
    STED,
    quick,
    real,
    region,
    run,
)


def one_bead(clock: SimulatedClock, **changes: Any) -> SimulatedMicroscope:
    """Return a microscope with one bright bead in the map pixel below and right of (0, 0)."""
    molecules = np.zeros((256, 256), np.int32)
    molecules[128, 128] = 200_000
    bead = Specimen("bead", molecules, np.sign(molecules), np.sign(molecules), ("background", "bead"))
    options = SMALL.replace(bleaching=0.0, background_hz=0.0, **changes)
    return SimulatedMicroscope(options, clock=clock, seed=8, specimen=bead)


def centroid_yx_m(frame: Frame) -> NDArray[np.float64]:
    """Return the middle of the light; the bead is at (10 nm, 10 nm)."""
    photons = frame.photons.astype(float)
    (y, x), pixel_m = frame.settings.region.center_yx_m, frame.settings.pixel_size_m
    place = [(np.arange(size) - (size - 1) / 2) * pixel_m for size in photons.shape]
    total = photons.sum()
    return np.array([y + photons.sum(axis=1) @ place[0] / total, x + photons.sum(axis=0) @ place[1] / total])


def test_a_drifting_sample_is_seen_where_it_has_drifted_to() -> None:
    clock = SimulatedClock()
    microscope = one_bead(clock, drift_m_per_s=20e-9)
    wide = CONFOCAL.replace(region=region(side_m=1.6e-6))
    first = microscope.acquire(wide)
    clock.sleep(17.3)
    later = microscope.acquire(wide)
    for frame in (first, later):
        # The bead is in the middle line, in the middle of the scan.
        truth = np.array(microscope.shift_m(frame.started_s + wide.duration_s / 2))
        assert centroid_yx_m(frame) - 10e-9 == pytest.approx(truth, abs=2.6e-9)
    assert np.hypot(*microscope.shift_m(clock.now_s())) == pytest.approx(20e-9 * clock.now_s())


def test_whoever_follows_the_drift_sees_the_same_place() -> None:
    clock = SimulatedClock()
    microscope = one_bead(clock, drift_m_per_s=20e-9)
    clock.sleep(25.0)
    y, x = microscope.shift_m(clock.now_s())
    frame = microscope.acquire(CONFOCAL.replace(region=region(y, x)))
    assert np.hypot(*(centroid_yx_m(frame) - (y + 10e-9, x + 10e-9))) < 15e-9


def test_vibration_displaces_line_by_line() -> None:
    microscope = one_bead(SimulatedClock(), vibration_m=30e-9, vibration_hz=40.0)
    frame = microscope.acquire(CONFOCAL.replace(region=region(side_m=1.2e-6)))
    lines = np.flatnonzero(frame.photons.sum(axis=1) > 20_000)
    assert len(lines) > 8
    x_m = (np.arange(60) - 29.5) * 20e-9 - 10e-9
    seen_m = [frame.photons[line] @ x_m / frame.photons[line].sum() for line in lines]
    truth_m = [microscope.shift_m((line + 0.5) * 60 * 10e-6)[1] for line in lines]
    assert np.ptp(truth_m) > 20e-9
    assert np.abs(np.subtract(seen_m, truth_m)).max() < 6e-9


def test_a_sample_at_rest_is_scanned_as_ever_whatever_its_vibration_would_be() -> None:
    for a, b in zip(run(real()), run(real(vibration_hz=71.0, diffusing="molecules")), strict=True):
        assert np.array_equal(a.photons, b.photons)


def test_exposing_again_brings_motion_back() -> None:
    changes: dict[str, Any] = {
        "drift_m_per_s": 1e-6,
        "vibration_m": 10e-9,
        "diffusion_m2_per_s": 1e-13,
        "specimen": "vesicles",
    }
    whole = run(real(**changes))
    resumed = real(**changes)
    for frame in whole[:3]:
        resumed.expose_again(frame.settings)
    assert np.array_equal(resumed.acquire(whole[3].settings).photons, whole[3].photons)
    assert not np.array_equal(run(real(specimen="vesicles"))[3].photons, whole[3].photons)


def test_what_diffuses_is_seen_where_it_is_told_to_be() -> None:
    clock = SimulatedClock()
    microscope = one_bead(clock, diffusion_m2_per_s=2e-15)
    wide = CONFOCAL.replace(region=region(side_m=2.4e-6))
    for _ in range(4):
        clock.sleep(1.0)
        frame = microscope.acquire(wide)
        (moved_m,) = microscope.displacements_m
        assert moved_m.shape == (2, 2)
        assert centroid_yx_m(frame) - 10e-9 == pytest.approx(moved_m[:, 1], abs=1e-9)
        assert not moved_m[:, 0].any()
    assert moved_m.any()
    assert one_bead(clock).displacements_m == ()


@pytest.mark.parametrize("diffusing", ["structures", "molecules"])
def test_a_dim_sample_that_moves_and_bleaches_loses_molecules_to_light_alone(diffusing: str) -> None:
    changes: dict[str, Any] = {"specimen": "vesicles", "molecules_per_pixel": 0.3, "diffusing": diffusing}
    clock = SimulatedClock()
    dark = real(clock=clock, diffusion_m2_per_s=1e-13, bleaching=0.0, **changes)
    before = dark.molecules
    assert 0 < before.sum() < 3000
    bright = real(diffusion_m2_per_s=1e-13, bleaching=20.0, **changes)
    left = [int(bright.molecules.sum())]
    for _ in range(6):
        clock.sleep(1.0)
        dark.acquire(STED)
        assert dark.molecules.sum() == before.sum()
        bright.acquire(STED.replace(dwell_s=50e-6))
        left.append(int(bright.molecules.sum()))
    assert not np.array_equal(dark.molecules, before)
    assert all(a >= b for a, b in pairwise(left))
    assert left[-1] < left[0]


def test_an_engine_that_scans_only_what_rests_is_refused_for_what_moves() -> None:
    with pytest.raises(ConfigurationError, match=r"drift_m_per_s.*CountingEngine"):
        quick(drift_m_per_s=1e-9)


def test_options_of_the_sample_reach_it() -> None:
    crowded = real(specimen_options=SpecimenOptions(density=4.0, rare_fraction=1.0))
    assert len(crowded.specimen.points) > 2 * len(real().specimen.points)
    assert set(crowded.specimen.points.classes.tolist()) == {2}


SECOND = SecondLabel(specimen="filaments", molecules_per_pixel=40.0)


def test_a_second_label_shines_and_bleaches_in_the_same_light() -> None:
    alone, both = real(), real(second_label=SECOND)
    assert np.array_equal(both.specimens[0].molecules, alone.specimen.molecules)
    assert [specimen.name for specimen in both.specimens] == ["beads", "filaments"]
    assert both.capabilities().details["labels"] == 2
    before = both.molecules
    assert before.shape == (2, 256, 256)
    wide = STED.replace(region=region(side_m=2.4e-6), dwell_s=30e-6)
    assert both.acquire(wide).photons.sum() > 1.2 * alone.acquire(wide).photons.sum()
    lost = 1 - both.molecules.sum(axis=(1, 2)) / before.sum(axis=(1, 2))
    assert np.all((lost > 0.01) & (lost < 0.9))


def test_a_detection_window_counts_its_part_of_each_dye() -> None:
    wide = CONFOCAL.replace(region=region(side_m=2.4e-6))
    windows = ((630e-9, 680e-9), (700e-9, 760e-9))
    dark: dict[str, Any] = {"background_hz": 0.0, "bleaching": 0.0}
    one = [real(detection_m=window, **dark).acquire(wide).photons.sum() for window in windows]
    both = [
        real(detection_m=window, second_label=SECOND, **dark).acquire(wide).photons.sum()
        for window in windows
    ]
    red, deep_red = ([dye.emitted_within(window) for window in windows] for dye in (RED, DEEP_RED))
    assert one[0] / one[1] == pytest.approx(red[0] / red[1], rel=0.05)
    second = np.subtract(both, one, dtype=float)
    assert second[0] / second[1] == pytest.approx(deep_red[0] / deep_red[1], rel=0.05)
    assert red[0] > 2 * red[1]
    assert deep_red[1] > 2 * deep_red[0]


def test_two_labels_move_together_with_the_stage_and_by_themselves() -> None:
    changes: dict[str, Any] = {
        "second_label": SECOND,
        "drift_m_per_s": 1e-6,
        "diffusion_m2_per_s": 1e-13,
        "bleaching": 0.0,
    }
    whole, resumed = (real(**changes) for _ in range(2))
    frames = run(whole)
    for frame in frames[:3]:
        resumed.expose_again(frame.settings)
    assert np.array_equal(resumed.acquire(frames[3].settings).photons, frames[3].photons)
    for now, specimen in zip(whole.molecules, whole.specimens, strict=True):
        assert now.sum() == specimen.molecules.sum()
    assert not np.array_equal(whole.molecules[0], whole.specimens[0].molecules)


def test_aberrations_dim_a_scan() -> None:
    wide = STED.replace(region=region(side_m=2.4e-6))
    sharp, blurred = (
        real(aberrations=Aberrations(astigmatism_m=path_m), bleaching=0.0, background_hz=0.0)
        for path_m in (0.0, 40e-9)
    )
    assert blurred.acquire(wide).photons.sum() < 0.8 * sharp.acquire(wide).photons.sum()
