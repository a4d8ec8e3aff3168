from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from simulator.sted.aberrations import Aberrations
from simulator.sted.engine import STEDEngine
from simulator.sted.optics import FocalLight, Optics, focal_light
from simulator.sted.pupil import Pupil

PIXEL_M = 20e-9
EMISSION_M = 670e-9
KINDS = ["astigmatism_m", "oblique_astigmatism_m", "coma_y_m", "coma_x_m", "spherical_m"]


def optics(**path_m: float) -> Optics:
    return Optics(zero_residual=0.0, aberrations=Aberrations(**path_m))


def light(**path_m: float) -> FocalLight:
    return focal_light(optics(**path_m), EMISSION_M, PIXEL_M)


def lens(wavelength_m: float = 640e-9, **path_m: float) -> Pupil:
    return Pupil(1.4, 1.5, wavelength_m, Aberrations(**path_m))


def middle(kernel: NDArray[np.float64]) -> float:
    return float(kernel[kernel.shape[0] // 2, kernel.shape[1] // 2])


@pytest.mark.parametrize("part", ["excitation", "sted", "detection"])
def test_the_integral_over_both_angles_equals_the_one_of_bessel_functions(part: str) -> None:
    # So small an error leaves the shorter way and changes nothing.
    one, both = (getattr(light(coma_x_m=path_m), part) for path_m in (0.0, 1e-21))
    assert np.abs(one - both).max() < 1e-9 * one.max()
    assert not np.array_equal(one, both)


@pytest.mark.parametrize("has_vortex", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_aberrated_beam_has_the_energy_of_the_perfect_one(kind: str, has_vortex: bool) -> None:
    places_m = np.linspace(-2.4e-6, 2.4e-6, 121)
    perfect, wrong = (
        lens(**{kind: path_m}).beam(places_m, places_m, has_vortex=has_vortex).sum() for path_m in (0, 40e-9)
    )
    # Less what falls beyond these 2.4 µm, which is more with aberrations: some thousandths.
    assert wrong == pytest.approx(perfect, rel=4e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_strehl_ratio_is_marechals(kind: str) -> None:
    """``exp(-(2 pi rms / wavelength)**2)``, with coma and the rest balanced as Zernike polynomials are."""
    axis = np.zeros(1)
    for path_m in (5e-9, -15e-9, 30e-9):
        strehl = float(lens(EMISSION_M, **{kind: path_m}).image(axis, axis)[0, 0])
        marechal = np.exp(-((2 * np.pi * path_m / EMISSION_M) ** 2))
        assert 1 - strehl == pytest.approx(1 - marechal, rel=0.03)
        # A vectorial beam fills the pupil less evenly.
        vectorial = [
            float(lens(EMISSION_M, **{kind: rms_m}).beam(axis, axis, has_vortex=False)[0, 0])
            for rms_m in (0.0, path_m)
        ]
        assert 1 - vectorial[1] / vectorial[0] == pytest.approx(1 - marechal, rel=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_squares_of_path_errors_add_up(kind: str) -> None:
    alone = Aberrations(**{kind: 30e-9})
    assert alone.rms_m(1.4, 1.5) == pytest.approx(30e-9, rel=1e-4)
    every = Aberrations(**dict.fromkeys(KINDS, 30e-9))
    assert every.rms_m(1.4, 1.5) == pytest.approx(30e-9 * np.sqrt(5), rel=1e-4)


@pytest.mark.parametrize("kind", ["astigmatism_m", "oblique_astigmatism_m", "coma_y_m", "coma_x_m"])
def test_astigmatism_and_coma_fill_the_middle_of_the_donut(kind: str) -> None:
    """With the square of the error, as of what is added to a field of zero (Deng et al. 2010)."""
    filled = [middle(light(**{kind: path_m}).sted) / light().sted.max() for path_m in (0.0, 10e-9, 20e-9)]
    assert filled[0] < 1e-25
    assert 1e-4 < filled[1] < 0.05
    assert filled[2] == pytest.approx(4 * filled[1], rel=0.1)


def test_spherical_aberration_leaves_the_middle_of_the_donut_dark_and_dims_its_crest() -> None:
    sted = light(spherical_m=50e-9).sted
    assert middle(sted) < 1e-20 * sted.max()
    assert sted.max() < 0.9 * light().sted.max()


def test_coma_points_where_it_is_named_after() -> None:
    for kind, axis in (("coma_y_m", 0), ("coma_x_m", 1)):
        excitation = light(**{kind: 60e-9}).excitation
        assert np.allclose(excitation, np.flip(excitation, 1 - axis), atol=1e-9 * excitation.max())
        assert not np.allclose(excitation, np.flip(excitation, axis), atol=0.05 * excitation.max())
    down, across = (light(**{kind: 60e-9}).excitation for kind in ("coma_y_m", "coma_x_m"))
    assert np.allclose(down, across.T, atol=1e-9 * down.max())


def test_depth_in_another_index_dims_the_focus_and_none_in_the_same_index() -> None:
    same = light(depth_m=50e-6, sample_index=1.5)
    assert np.abs(same.excitation - light().excitation).max() < 1e-9 * same.excitation.max()
    peaks = [light(depth_m=depth_m, sample_index=1.45).excitation.max() for depth_m in (0.0, 2e-6, 5e-6)]
    assert peaks[0] > peaks[1] > peaks[2]
    assert middle(light(depth_m=5e-6, sample_index=1.45).sted) < 1e-20 * light().sted.max()


def test_depth_is_the_spherical_aberration_of_the_fourth_order_for_a_small_aperture() -> None:
    radius = np.sqrt((np.arange(4000) + 0.5) / 4000)
    wrong, inside, outside, aperture = Aberrations(depth_m=10e-6, sample_index=1.33), 1.33, 1.5, 0.2
    path_m = wrong.path_m(radius, np.zeros(1), aperture, outside)
    zernike = Aberrations(spherical_m=1e-9).path_m(radius, np.zeros(1), aperture, outside) / 1e-9
    # The roots in powers of the aperture, less the focus that takes the square away.
    fourth_m = -10e-6 * aperture**4 / (8 * inside) * (inside**-2 - outside**-2)
    assert np.mean(path_m * zernike) == pytest.approx(fourth_m / (6 * np.sqrt(5)), rel=0.05)
    assert abs(path_m.mean()) < 1e-15
    assert np.mean(path_m * zernike) ** 2 > 0.99 * np.mean(path_m**2)


def test_aberrations_cost_resolution() -> None:
    """The spot of a STED scan is dimmer and its middle is no longer spared."""
    perfect, wrong = (
        STEDEngine(optics(**path_m)).light(10e-6, 0.15).photons_hz
        for path_m in ({}, {"astigmatism_m": 30e-9})
    )
    assert wrong.max() < 0.7 * perfect.max()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"coma_x_m": 0.3e-6}, "coma_x_m"),
        ({"spherical_m": float("nan")}, "spherical_m"),
        ({"depth_m": -1e-6}, "depth_m"),
        ({"coma": 1e-9}, "coma"),
        ({"depth_m": 1e-6, "sample_index": 1.33}, "sample_index=1.33 must be above numerical_aperture=1.4"),
        (dict.fromkeys(KINDS, 0.2e-6), "4.472.*e-07 m rms in all"),
    ],
)
def test_impossible_aberrations_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        optics(**changes)
