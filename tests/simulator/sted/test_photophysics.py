from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from simulator.sted.optics import Optics, focal_light
from simulator.sted.photophysics import DYES, GYM_RED, PYSTED, RED, Dye, DyeInFocus, DyeName, Gate, Physics
from simulator.sted.scanning import FloatImage

PIXEL_M = 20e-9


def in_focus(dye: Dye = RED, gate: Gate | None = None, physics: Physics | None = None) -> DyeInFocus:
    optics = Optics(excitation_m=dye.excitation_m, sted_m=dye.sted_m)
    focus = focal_light(optics, dye.emission_m, PIXEL_M)
    return DyeInFocus(focus, optics, dye, gate or Gate(), physics or Physics())


def full_width_px(kernel: FloatImage) -> int:
    line = kernel[kernel.shape[0] // 2]
    return int(np.count_nonzero(line > line.max() / 2))


@pytest.mark.parametrize(
    ("excitation_w", "sted_w"), [(10e-6, 0.0), (10e-6, 150e-3), (50e-6, 350e-3), (1e-6, 1e-3)]
)
@pytest.mark.parametrize(
    ("dye", "gate"),
    [
        (RED, Gate()),
        (RED, Gate(delay_s=400e-12, width_s=20e-9)),
        (GYM_RED, Gate()),
    ],
)
def test_rates_equal_pysteds(excitation_w: float, sted_w: float, dye: Dye, gate: Gate) -> None:
    pytest.importorskip("pysted")
    from scipy.constants import c, h

    from simulator.sted.pysted_reference import PystedEngine

    focus = in_focus(dye.replace(excitation_bleaching=0.0), gate, PYSTED)
    light = focus.light(excitation_w, sted_w)
    engine = PystedEngine(dye=dye, gate=gate)
    edge = engine.margin_px - light.photons_hz.shape[0] // 2
    theirs_hz = engine.effective_psf(excitation_w, sted_w)[edge:-edge, edge:-edge] / (h * c / dye.emission_m)
    assert np.abs(light.photons_hz - theirs_hz).max() < 1e-12 * theirs_hz.max()

    optics, scope = focus.optics, engine._pysted_microscope()
    excitation, sted, _ = (kernel[edge:-edge, edge:-edge] for kernel in scope.cache(PIXEL_M))
    theirs_hz = scope.fluo.get_k_bleach(
        optics.excitation_m,
        optics.sted_m,
        excitation * excitation_w / (h * c / optics.excitation_m),
        sted * sted_w * optics.sted_duty / (h * c / optics.sted_m),
        optics.pulse_s,
        1 / optics.pulse_rate_hz,
        10e-6,
    )
    assert np.abs(light.bleaching_hz - theirs_hz).max() <= 1e-12 * theirs_hz.max()


def test_the_photon_energy_switch_is_the_ratio_of_two_wavelengths() -> None:
    real, pysteds = (
        in_focus(physics=physics).light(10e-6, 50e-3).photons_hz for physics in (Physics(), PYSTED)
    )
    assert np.allclose(pysteds, real * (670 / 775), rtol=1e-12)


def test_depletion_narrows_the_spot() -> None:
    widths = [full_width_px(in_focus().light(10e-6, power).photons_hz) for power in (0, 50e-3, 200e-3)]
    assert widths[0] > widths[1] > widths[2]


def test_excitation_alone_bleaches_once_per_so_many_decays() -> None:
    focus = in_focus()
    light = focus.light(10e-6, 0.0)
    assert np.allclose(light.bleaching_hz, RED.excitation_bleaching * focus.excited_hz(10e-6), rtol=1e-12)
    # And STED light protects from it, as far as it empties S1 first.
    protected = in_focus(RED.replace(sted_bleaching=0.0)).light(10e-6, 150e-3).bleaching_hz
    assert np.all(protected <= light.bleaching_hz)
    crest = protected / light.bleaching_hz
    assert crest.min() < 0.2


def test_a_wide_gate_sees_every_photon_and_a_late_one_none_of_the_early() -> None:
    whole = in_focus(gate=Gate(delay_s=0.0, width_s=25e-9))
    light = whole.light(10e-6, 0.0)
    expected = whole.excited_hz(10e-6) * RED.quantum_yield * whole.focus.detection
    assert np.allclose(light.photons_hz, expected, rtol=1e-12)
    early, late = (
        in_focus(gate=Gate(delay_s=delay, width_s=1e-9)).light(10e-6, 0.0) for delay in (0.0, 5e-9)
    )
    assert np.allclose(late.photons_hz, early.photons_hz * np.exp(-5e-9 / RED.lifetime_s), rtol=1e-12)


def test_gates_side_by_side_add_up_also_within_the_pulse() -> None:
    edges_s = [0.0, 100e-12, 400e-12, 1e-9, 25e-9]
    parts = [
        in_focus(gate=Gate(delay_s=start, width_s=stop - start)).light(10e-6, 80e-3).photons_hz
        for start, stop in pairwise(edges_s)
    ]
    whole = in_focus(gate=Gate(delay_s=0.0, width_s=25e-9)).light(10e-6, 80e-3).photons_hz
    assert np.allclose(sum(parts), whole, rtol=1e-12)


def test_bleaching_can_be_scaled_and_switched_off() -> None:
    once, twice, never = (
        in_focus(RED.bleaching_faster(times)).light(10e-6, 0.1) for times in (1.0, 2.0, 0.0)
    )
    assert np.allclose(twice.bleaching_hz, 2 * once.bleaching_hz, rtol=1e-12)
    assert not never.bleaching_hz.any()


def test_no_light_does_nothing() -> None:
    light = in_focus().light(0.0, 0.0)
    assert not light.photons_hz.any()
    assert not light.bleaching_hz.any()
    assert not in_focus().light(0.0, 0.2).bleaching_hz.any(), "nothing is in S1 without excitation"


def test_a_gate_beyond_the_next_pulse_is_refused() -> None:
    with pytest.raises(ValueError, match="gate"):
        in_focus(gate=Gate(delay_s=1e-9, width_s=25e-9))


def test_a_dye_that_emits_below_the_excitation_is_refused() -> None:
    with pytest.raises(ValueError, match="emission_m"):
        replace(in_focus(), dye=RED.replace(emission_m=600e-9))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"quantum_yield": 1.5}, "quantum_yield"),
        ({"lifetime_s": 0.0}, "lifetime_s"),
        ({"absorption_m2": float("nan")}, "absorption_m2"),
        ({"excitation_bleaching": -1e-6}, "excitation_bleaching"),
    ],
)
def test_impossible_dyes_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        RED.replace(**changes)


def test_lasers_far_from_the_wavelengths_of_the_dye_are_refused() -> None:
    with pytest.raises(ValueError, match="sted_m"):
        replace(in_focus(), optics=Optics(sted_m=700e-9))


def test_dyes_are_found_by_their_own_names() -> None:
    assert all(name == dye.name for name, dye in DYES.items())
    assert set(DYES) == set(get_args(DyeName))
    for dye in DYES.values():
        assert in_focus(dye).light(10e-6, 50e-3).photons_hz.max() > 0
