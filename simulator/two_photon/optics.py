"""Two-photon excitation: how many photons, from how large a spot, at which depth."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from controller.core.settings import Positive, Settings

_PLANCK_J_S = 6.62607015e-34
_LIGHT_M_PER_S = 299792458.0
_AVOGADRO_PER_MOL = 6.02214076e23
#: A Göppert-Mayer in m⁴ s a photon.
_GM = 1e-58

#: By how much a cortex warms in minutes of scanning, for each watt of mean power: 1.8 °C for 100 mW
#: (Podgorski & Ranganathan, J. Neurophysiol. 116:1012, 2016; quoted from memory). An estimate: it goes
#: with the depth of the focus, the size of the field, the wavelength and what cools the window.
HEATING_C_PER_W = 18.0

Fraction = Annotated[float, Field(gt=0, le=1)]


class TwoPhotonOptics(Settings):
    """Objective, laser and tissue; the defaults are NAOMi's (Song et al. 2021) but for the tissue.

    Attributes
    ----------
    wavelength_m
        Of the excitation.
    excitation_na, collection_na, refractive_index
        The beam may fill less of the objective than the fluorescence.
    pulse_rate_hz, pulse_s, pulse_shape
        Of the laser; 0.588 is the second-order coherence factor of a sech² pulse.
    transmission, detector_efficiency
        For fluorescence, from the objective to the detector, and of the detector.
    dye_molar
        Concentration of the indicator in cells, in moles per litre.
    cross_section_gm, quantum_yield
        Of the indicator at rest: 2 Göppert-Mayer, against 35 when saturated with calcium.
    attenuation_length_m
        The excitation falls by 1/e on this way into the brain. Two-photon imaging of GCaMP reaches 2 to 3
        such lengths, 300 to 400 µm (Yildirim et al., Nat. Commun. 10:177, 2019).
    collection_length_m
        The collected fluorescence falls by 1/e on this way; much of what is scattered is still collected.
        An assumption, not a measured value.
    """

    wavelength_m: Positive = 920e-9
    excitation_na: Positive = 0.6
    collection_na: Positive = 0.8
    refractive_index: Positive = 1.33
    pulse_rate_hz: Positive = 80e6
    pulse_s: Positive = 150e-15
    pulse_shape: Positive = 0.588
    transmission: Fraction = 0.8
    detector_efficiency: Fraction = 0.4
    dye_molar: Positive = 10e-6
    cross_section_gm: Positive = 2.0
    quantum_yield: Fraction = 0.6
    attenuation_length_m: Positive = 150e-6
    collection_length_m: Positive = 500e-6

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        for name in ("excitation_na", "collection_na"):
            if not getattr(self, name) < self.refractive_index:
                raise ValueError(
                    f"{name}={getattr(self, name):g} must be below refractive_index={self.refractive_index:g}"
                )
        if not self.pulse_s * self.pulse_rate_hz < 1:
            raise ValueError(
                f"pulse_s={self.pulse_s:g} s at pulse_rate_hz={self.pulse_rate_hz:g} Hz: pulses would overlap"
            )
        return self

    @property
    def lateral_sigma_m(self) -> float:
        """Return the standard deviation of the spot of squared intensity, across the axis.

        The Gaussian fits of Zipfel, Williams & Webb (Nat. Biotechnol. 21:1369, 2003) to the focal field.
        """
        na = self.excitation_na
        width = 0.320 / na if na <= 0.7 else 0.325 / na**0.91
        return width * self.wavelength_m / 2

    @property
    def axial_sigma_m(self) -> float:
        """Return the standard deviation of the spot along the axis, from the same source."""
        n = self.refractive_index
        return 0.532 * self.wavelength_m / (n - float(np.sqrt(n**2 - self.excitation_na**2))) / 2

    @property
    def collected_fraction(self) -> float:
        """Return which part of the fluorescence at the surface is detected."""
        cosine = float(np.sqrt(1 - (self.collection_na / self.refractive_index) ** 2))
        return (1 - cosine) / 2 * self.transmission * self.detector_efficiency

    def power_w(self, surface_w: float, depth_m: float) -> float:
        """Return what is left in the focus of a power at the surface of the brain."""
        return surface_w * float(np.exp(-depth_m / self.attenuation_length_m))

    def photon_rate_hz(self, surface_w: float, depth_m: float) -> float:
        """Return detected photons per second where all space is filled with resting dye.

        Xu & Webb, J. Opt. Soc. Am. B 13:481 (1996), eq. 9 for a thick sample: it goes with the square of
        the power, whatever the aperture.
        """
        photons_hz = self.power_w(surface_w, depth_m) * self.wavelength_m / (_PLANCK_J_S * _LIGHT_M_PER_S)
        density_per_m3 = self.dye_molar * 1e3 * _AVOGADRO_PER_MOL
        collected = self.collected_fraction * float(np.exp(-depth_m / self.collection_length_m))
        pulses = self.pulse_shape / (self.pulse_rate_hz * self.pulse_s)
        focus_per_m = 8 * self.refractive_index / (np.pi * self.wavelength_m)
        action = self.quantum_yield * self.cross_section_gm * _GM
        return float(0.5 * collected * density_per_m3 * action * pulses * focus_per_m * photons_hz**2)
