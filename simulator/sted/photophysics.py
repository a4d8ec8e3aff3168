"""What light does to a dye: how much it fluoresces into the gate, and how fast it bleaches.

Everything is worked out for one pulse period at each place of the focus:

1. An excitation pulse brings a molecule to its excited state S1 with probability
   ``1 - exp(-absorption * photons)``.
2. While the STED pulse is on, S1 is emptied ``1 + gamma`` times as fast as by itself, with ``gamma``
   after Leutenegger et al., Opt. Express 18:26417 (2010): proportional to the STED intensity, levelling
   off where the vibrational relaxation of the ground state cannot follow.
3. What decays by itself inside the gate is a photon, with the quantum yield as its probability.
4. The STED light destroys molecules in S1 at ``sted_bleaching * I**sted_bleaching_order`` per second,
   after Oracz et al., Sci. Rep. 7:11354 (2017).
5. Each S1 that is left to decay by itself is the molecule's last with probability
   ``excitation_bleaching`` (Eggeling et al., Anal. Chem. 70:2651, 1998).

pySTED has 1 to 4 and not 5: without the STED beam nothing bleaches in it, whatever the excitation. And
its count rates are low by the ratio of the emission to the STED wavelength, because it takes power
for photons of one and reads it as photons of the other. :data:`PYSTED` switches to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field
from scipy.constants import c, h

from controller.core.settings import NonNegative, Positive, Settings
from simulator.sted.optics import FocalLight, Kernel, Optics

#: Shortest and longest wavelength in metres.
Window = tuple[float, float]

Fraction = Annotated[float, Field(ge=0, le=1)]


class Dye(Settings):
    """A fluorescent dye."""

    name: str
    excitation_m: Positive
    """Wavelength at which it is excited: that of the absorption cross-section."""
    sted_m: Positive
    """Wavelength at which it is depleted: that of the cross-section for stimulated emission."""
    emission_m: Positive
    """Wavelength of the detected fluorescence."""
    emission_width_m: Positive = 45e-9
    """Full width at half maximum of its spectrum, a Gaussian. Only detection windows depend on it."""
    quantum_yield: Annotated[float, Field(gt=0, le=1)]
    """Photons by excitation that decays by itself."""
    lifetime_s: Positive
    """Of the excited state."""
    absorption_m2: Positive
    """Cross-section for excitation."""
    stimulated_emission_m2: Positive
    """Cross-section for stimulated emission."""
    vibration_s: Positive = 1e-12
    """Relaxation time of the ground state's vibrations."""
    sted_bleaching: NonNegative
    """Rate of bleaching from S1 by STED light of 1 W/m², in 1/s."""
    sted_bleaching_order: Positive
    """Power of the STED intensity that the rate grows with."""
    excitation_bleaching: Annotated[float, Field(ge=0, le=1)]
    """Probability that an excitation is the molecule's last, without STED light."""

    def emitted_within(self, window: Window | None) -> float:
        """Return the part of the fluorescence between two wavelengths in metres; ``None`` is all of it.

        Raises
        ------
        ValueError
            If the window ends before it begins.
        """
        if window is None:
            return 1.0
        shortest_m, longest_m = window
        if not 0 < shortest_m < longest_m:
            raise ValueError(
                f"a detection window from {shortest_m!r} to {longest_m!r} m must begin before it ends"
            )
        # erf of the distance in widths: 2 sqrt(ln 2) of them are the argument of a Gaussian.
        scale = 2 * math.sqrt(math.log(2)) / self.emission_width_m
        below = [math.erf((edge_m - self.emission_m) * scale) for edge_m in (shortest_m, longest_m)]
        return (below[1] - below[0]) / 2

    def check_lasers(self, excitation_m: float, sted_m: float) -> None:
        """Refuse lasers for which the cross-sections do not hold.

        Raises
        ------
        ValueError
            If a wavelength is more than 20 nm from the dye's.
        """
        for beam, laser_m in (("excitation_m", excitation_m), ("sted_m", sted_m)):
            own_m = getattr(self, beam)
            if not abs(laser_m - own_m) <= 20e-9:
                raise ValueError(
                    f"{beam}={laser_m:g} of the optics is far from {own_m:g}, for which the cross-sections "
                    f"of the dye {self.name!r} hold"
                )

    def bleaching_faster(self, times: float) -> Self:
        """Return this dye with ``times`` its bleaching rates; 0 is one that never bleaches."""
        return self.replace(
            sted_bleaching=self.sted_bleaching * times,
            excitation_bleaching=self.excitation_bleaching * times,
        )


# Eggeling et al. (1998) find 1e-7 to 1e-6 for rhodamines in water under weak light, and more under the
# light of a confocal microscope.
_LAST_EXCITATION = 1e-6

#: Resembles ATTO 647N. The red dye of gym-sted with its excitation moved from 635 to 640 nm and its STED
#: cross-section at 750 nm taken for 775 nm; less sted_bleaching than there, so that a scan of 10 µW,
#: 150 mW and 10 µs at 20 nm costs about a fifth of the signal.
RED = Dye(
    name="red",
    excitation_m=640e-9,
    sted_m=775e-9,
    emission_m=670e-9,
    quantum_yield=0.65,
    lifetime_s=3.5e-9,
    absorption_m2=2.14e-20,
    stimulated_emission_m2=3.0e-22,
    sted_bleaching=3.5e-16,
    sted_bleaching_order=1.6,
    excitation_bleaching=_LAST_EXCITATION,
)
#: The red dye of gym-sted as it is there (Bilodeau et al., Nat. Mach. Intell. 6:1197, 2024): it bleaches
#: almost four times as fast in STED light.
GYM_RED = RED.replace(
    name="gym_red", excitation_m=635e-9, sted_m=750e-9, emission_m=690e-9, sted_bleaching=1.3e-15
)

#: Made up to go with ``RED`` under the same lasers, to no dye's measurements: it emits 40 nm farther in the
#: red, so it absorbs less at 640 nm and is depleted more easily at 775 nm.
DEEP_RED = RED.replace(
    name="deep_red",
    emission_m=710e-9,
    quantum_yield=0.5,
    lifetime_s=2.5e-9,
    absorption_m2=1.4e-20,
    stimulated_emission_m2=5.0e-22,
)

DyeName = Literal["red", "gym_red", "deep_red"]

#: Dyes by name.
DYES: dict[str, Dye] = {dye.name: dye for dye in (RED, GYM_RED, DEEP_RED)}


class Gate(Settings):
    """When the detector looks, counted from the start of the STED pulse."""

    delay_s: NonNegative = 750e-12
    width_s: Positive = 8e-9


class Physics(Settings):
    """What of the physics is simulated; each switch has the value with which pySTED computes."""

    photon_energy: Literal["emission", "pysted"] = "emission"
    """``"pysted"``: count rates are low by the emission wavelength over the STED wavelength."""
    bleaching_within_dwell: bool = True
    """Whether a molecule that bleaches during a dwell shines in the part of it before."""
    whole_rates: bool = False
    """Whether the photon rate is rounded down and thinned as a whole number before it is counted."""


PYSTED = Physics(photon_energy="pysted", bleaching_within_dwell=False, whole_rates=True)


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """What one setting of the powers does to a molecule at each place of the focus.

    Kernels on the map's grid, odd square shape ``(y, x)``, the beam in the middle.

    Attributes
    ----------
    photons_hz
        Photons per second of one molecule that reach the detector's fibre inside the gate.
    bleaching_hz
        Its rate of bleaching per second.
    """

    photons_hz: Kernel
    bleaching_hz: Kernel


@dataclass(frozen=True, slots=True, eq=False)
class DyeInFocus:
    """A dye in the focus of an instrument: turns powers into rates.

    Raises
    ------
    ValueError
        If the gate does not fit between two pulses.
    """

    focus: FocalLight
    optics: Optics
    dye: Dye
    gate: Gate
    physics: Physics

    def __post_init__(self) -> None:
        period_s = 1 / self.optics.pulse_rate_hz
        if not self.gate.delay_s + self.gate.width_s <= period_s * (1 + 1e-9):
            raise ValueError(
                f"gate: delay_s={self.gate.delay_s:g} and width_s={self.gate.width_s:g} reach beyond the "
                f"period of {period_s:g} s (pulse_rate_hz)"
            )
        self.dye.check_lasers(self.optics.excitation_m, self.optics.sted_m)
        if not self.dye.emission_m > self.optics.excitation_m:
            raise ValueError(
                f"emission_m={self.dye.emission_m:g} of {self.dye.name!r} must be longer than "
                f"excitation_m={self.optics.excitation_m:g}"
            )

    def light(self, excitation_w: float, sted_w: float) -> Light:
        """Return the rates at these mean powers."""
        excited_hz = self.excited_hz(excitation_w)
        sted_w_per_m2 = self.focus.sted * sted_w
        faster = self._depletion(sted_w_per_m2)
        gated, alone = self._decays(faster)
        photons_hz = excited_hz * gated * self.focus.detection * self.dye.quantum_yield
        if self.physics.photon_energy == "pysted":
            photons_hz *= self.dye.emission_m / self.optics.sted_m
        bleaching_hz = excited_hz * (
            self.dye.excitation_bleaching * alone
            + self.dye.sted_bleaching
            * sted_w_per_m2**self.dye.sted_bleaching_order
            * self._time_excited_s(faster)
        )
        return Light(photons_hz, bleaching_hz)

    def excited_hz(self, excitation_w: float) -> Kernel:
        """Return how often a molecule is excited, per second."""
        photons = self.focus.excitation * (
            excitation_w * self.optics.excitation_m / (h * c * self.optics.pulse_rate_hz)
        )
        return np.asarray(-np.expm1(-self.dye.absorption_m2 * photons) * self.optics.pulse_rate_hz)

    def _depletion(self, sted_w_per_m2: Kernel) -> Kernel:
        """Return ``gamma``: how much faster S1 is emptied by STED light than by itself."""
        saturation_w_per_m2 = (
            h * c / self.optics.sted_m / (self.dye.stimulated_emission_m2 * self.dye.lifetime_s)
        )
        relative = sted_w_per_m2 / saturation_w_per_m2
        return relative / (1 + relative * self.dye.vibration_s / self.dye.lifetime_s)

    def _decays(self, faster: Kernel) -> tuple[Kernel, Kernel]:
        """Return the parts of the excitations that decay by themselves: in the gate, and at any time.

        Both are relative to an excitation left alone for one period.
        """
        lifetime_s, period_s = self.dye.lifetime_s, 1 / self.optics.pulse_rate_hz
        whole = -np.expm1(-period_s / lifetime_s)
        gate = self.gate
        in_gate = self._decayed(faster, gate.delay_s + gate.width_s) - self._decayed(faster, gate.delay_s)
        return in_gate / whole, self._decayed(faster, period_s) / whole

    def _decayed(self, faster: Kernel, until_s: float) -> Kernel:
        """Return the part that has decayed by itself some time after the start of the STED pulse."""
        lifetime_s, pulse_s = self.dye.lifetime_s, self.optics.pulse_s
        early = -np.expm1(-(1 + faster) * min(until_s, pulse_s) / lifetime_s) / (1 + faster)
        if until_s <= pulse_s:
            return np.asarray(early)
        left = np.exp(-(1 + faster) * pulse_s / lifetime_s)
        return np.asarray(early - left * np.expm1(-(until_s - pulse_s) / lifetime_s))

    def _time_excited_s(self, faster: Kernel) -> Kernel:
        """Return the mean time that an excited molecule spends in S1 under the STED pulse."""
        rate_hz = (1 + faster) / self.dye.lifetime_s
        return np.asarray(-np.expm1(-rate_hz * self.optics.pulse_s) / rate_hz)
