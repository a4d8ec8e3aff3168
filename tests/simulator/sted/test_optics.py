from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simulator.sted.optics import Optics, focal_light, reach_px

PIXEL_M = 20e-9
EMISSION_M = 670e-9


def test_the_donut_is_dark_in_the_middle_but_for_what_was_asked_for() -> None:
    for residual in (0.0, 0.01):
        sted = focal_light(Optics(zero_residual=residual), EMISSION_M, PIXEL_M).sted
        middle = sted[sted.shape[0] // 2, sted.shape[1] // 2]
        assert middle / sted.max() == pytest.approx(residual / (1 + residual), abs=1e-15)


def test_excitation_carries_the_power_that_the_objective_lets_through() -> None:
    light = focal_light(Optics(excitation_transmission=0.5), EMISSION_M, PIXEL_M)
    assert light.excitation.sum() * PIXEL_M**2 == pytest.approx(0.5, rel=1e-12)


def test_kernels_are_round_and_reach_as_far_as_the_excitation() -> None:
    light = focal_light(Optics(), EMISSION_M, PIXEL_M)
    for kernel in (light.excitation, light.sted, light.detection):
        assert kernel.shape == (51, 51)
        assert np.allclose(kernel, kernel[::-1], rtol=1e-12, atol=0)
        assert np.allclose(kernel, kernel.T, rtol=1e-12, atol=0)
        assert not kernel.flags.writeable


def test_a_focus_sampled_finer_is_the_same_focus() -> None:
    coarse = focal_light(Optics(), EMISSION_M, 20e-9).excitation
    fine = focal_light(Optics(), EMISSION_M, 10e-9).excitation
    middle, half = fine.shape[0] // 2, coarse.shape[0] // 2
    same = fine[middle - 2 * half : middle + 2 * half + 1 : 2, middle - 2 * half : middle + 2 * half + 1 : 2]
    # Sums over pixels stand for the integral, and the reach is a whole number of pixels.
    assert np.allclose(same / same.max(), coarse / coarse.max(), rtol=1e-12)
    assert same.max() == pytest.approx(coarse.max(), rel=0.01)


@pytest.mark.parametrize("pixel_size_m", [13.7e-9, 15e-9, 20.9e-9, 63e-9])
@pytest.mark.parametrize("excitation_m", [483e-9, 504.5e-9])
def test_any_wavelength_and_pixel_size_can_be_asked_for(pixel_size_m: float, excitation_m: float) -> None:
    optics = Optics(excitation_m=excitation_m, sted_m=592e-9)
    light = focal_light(optics, 530e-9, pixel_size_m)
    assert light.margin_px == reach_px(excitation_m, 1.4, pixel_size_m)
    assert np.all(np.isfinite(light.excitation))


def test_a_larger_aperture_focuses_tighter_and_a_smaller_pinhole_sees_less() -> None:
    def widths(**changes: Any) -> tuple[float, float]:
        light = focal_light(Optics(**changes), EMISSION_M, 5e-9)
        line = light.margin_px
        return tuple(
            float(np.count_nonzero(k[line] > k[line].max() / 2)) for k in (light.excitation, light.detection)
        )  # type: ignore[return-value]

    assert widths(numerical_aperture=1.0)[0] > widths()[0]
    assert widths(pinhole_airy=0.3)[1] < widths()[1] < widths(pinhole_airy=1.5)[1]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"numerical_aperture": 1.5}, "numerical_aperture"),
        ({"numerical_aperture": float("nan")}, "numerical_aperture"),
        ({"sted_m": 600e-9}, "sted_m"),
        ({"excitation_m": 640.0}, "excitation_m"),
        ({"pulse_s": 30e-9}, "pulse_s"),
        ({"zero_residual": -0.1}, "zero_residual"),
        ({"excitation_transmission": 0.0}, "excitation_transmission"),
        ({"pinhole": 0.7}, "pinhole"),
    ],
)
def test_impossible_optics_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Optics(**changes)


@pytest.mark.parametrize("pixel_size_m", [0.0, -1e-9, float("nan"), 20.0, 1e-13])
def test_impossible_pixels_are_refused(pixel_size_m: float) -> None:
    with pytest.raises(ValueError, match="pixel_size_m"):
        focal_light(Optics(), EMISSION_M, pixel_size_m)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"zero_residual": 0.0, "pinhole_airy": 1.3},
        {"numerical_aperture": 1.2, "refractive_index": 1.33, "excitation_m": 561e-9},
    ],
)
def test_kernels_equal_pysteds(changes: dict[str, Any]) -> None:
    pytest.importorskip("pysted")
    from simulator.sted.photophysics import RED
    from simulator.sted.pysted_reference import PystedEngine

    optics = Optics(**changes)
    ours = focal_light(optics, RED.emission_m, PIXEL_M)
    theirs = PystedEngine(optics)._pysted_microscope().cache(PIXEL_M)
    for kernel, theirs_whole in zip((ours.excitation, ours.sted, ours.detection), theirs, strict=True):
        edge = theirs_whole.shape[0] // 2 - ours.margin_px
        theirs_cut = theirs_whole[edge:-edge, edge:-edge]
        assert np.abs(kernel - theirs_cut).max() < 1e-12 * theirs_whole.max()
