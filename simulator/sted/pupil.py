"""Focal fields as integrals over both angles of a pupil: for aberrated beams and for any place.

A lens sends light of the amplitude ``A`` from the direction (sin θ cos φ, sin θ sin φ). In the focal plane
the field is the sum of all directions (Wolf, Proc. R. Soc. A 253:349, 1959), and an error of the path is a
factor ``exp(2πi path / wavelength)`` in it. The intensity of a circularly polarised beam is the sum of
three such fields, one for each component: the beam's own polarisation, along the axis, and the opposite
circular one. Their amplitudes turn with φ none, one and two times, and a vortex adds one turn to each.

Without aberrations the integral over φ is a Bessel function, and :mod:`simulator.sted.optics` takes that
shorter way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.sted.aberrations import Aberrations

Floats = NDArray[np.float64]

# Enough for paths as wrong as :class:`Aberrations` allows. Twice as many change kernels by less than 1e-12
# of their maximum, and by 1e-4 at most where light enters a deep sample almost along its surface.
_RADII = 32
_ANGLES = 64


@dataclass(frozen=True, slots=True)
class Pupil:
    """A lens for light of one wavelength.

    Attributes
    ----------
    numerical_aperture, refractive_index, wavelength_m, aberrations
        As of :class:`simulator.sted.optics.Optics`.
    """

    numerical_aperture: float
    refractive_index: float
    wavelength_m: float
    aberrations: Aberrations

    def beam(self, rows_m: Floats, columns_m: Floats, *, has_vortex: bool) -> Floats:
        """Return the intensity of a circularly polarised beam, in the units of the Bessel integrals.

        Parameters
        ----------
        rows_m, columns_m
            Distances from the axis, down and across; the result has the shape ``(rows, columns)``.
        has_vortex
            Whether its phase turns once around the axis, in the sense of the polarisation.
        """
        aperture = np.arcsin(self.numerical_aperture / self.refractive_index)
        angle, weight = _nodes(0.0, aperture)
        cos, sin = np.cos(angle), np.sin(angle)
        # sqrt(cos): an aplanatic lens conserves energy.
        weight = weight * np.sqrt(cos) * sin
        parts = np.stack([1 + cos, np.sqrt(2) * sin, 1 - cos]) * weight
        turns = np.array([0.0, 1.0, 2.0]) + has_vortex
        return self._intensity(sin / np.sin(aperture), parts, turns, rows_m, columns_m)

    def image(self, rows_m: Floats, columns_m: Floats) -> Floats:
        """Return the intensity of the scalar image of a point, 1 in the middle without aberrations."""
        radius, weight = _nodes(0.0, 1.0)
        return self._intensity(radius, 2 * (radius * weight)[None], np.zeros(1), rows_m, columns_m)

    def _intensity(
        self,
        radius: Floats,
        parts: Floats,
        turns: Floats,
        rows_m: Floats,
        columns_m: Floats,
    ) -> Floats:
        """Return the summed intensity of fields whose amplitudes at ``radius`` are ``parts``."""
        angle = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
        path_m = self.aberrations.path_m(
            radius[:, None], angle, self.numerical_aperture, self.refractive_index
        )
        error = np.exp(2j * np.pi / self.wavelength_m * path_m)
        wavenumber = 2 * np.pi * self.numerical_aperture / self.wavelength_m * radius[:, None]
        down = np.exp(1j * rows_m[:, None] * (wavenumber * np.sin(angle)).ravel())
        across = np.exp(1j * (wavenumber * np.cos(angle)).ravel()[:, None] * columns_m)
        intensity = np.zeros((len(rows_m), len(columns_m)))
        for part, turn in zip(parts, turns, strict=True):
            amplitude = part[:, None] * np.exp(1j * turn * angle) * error / _ANGLES
            field = (down * amplitude.ravel()) @ across
            intensity += field.real**2 + field.imag**2
        return intensity


def _nodes(start: float, stop: float) -> tuple[Floats, Floats]:
    """Return places and weights of a Gauss-Legendre sum between two numbers."""
    nodes, weights = np.polynomial.legendre.leggauss(_RADII)
    half = (stop - start) / 2
    return start + half * (nodes + 1), half * weights
