"""Wrong paths of light on its way to the focus: what an imperfect microscope or sample does to a beam.

The coefficients are those of Zernike polynomials with a root mean square of 1 over the pupil (Noll, J.
Opt. Soc. Am. 66:207, 1976), so each is the rms error of the path that it causes, and their squares add up.
One path holds for every wavelength: an error of 32 nm is a twentieth of a wave at 640 nm.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Positive, Settings

Floats = NDArray[np.float64]

#: Beyond these nothing is left of a focus: of each coefficient, and of all of them together.
_PATH_MAX_M = 250e-9
_RMS_MAX_M = 300e-9
_DEPTH_MAX_M = 100e-6

# The middles of rings of the same area.
_RINGS = np.sqrt((np.arange(500) + 0.5) / 500)

PathError = Annotated[float, Field(ge=-_PATH_MAX_M, le=_PATH_MAX_M)]


class Aberrations(Settings):
    """Errors of the path, rms in metres: at most 250 nm each and 300 nm in all. 0 in a perfect microscope."""

    astigmatism_m: PathError = 0.0
    """Along and across the lines, Noll's number 6."""
    oblique_astigmatism_m: PathError = 0.0
    """At 45 degrees, Noll's number 5."""
    coma_y_m: PathError = 0.0
    """Down the image, Noll's number 7."""
    coma_x_m: PathError = 0.0
    """Along the lines, Noll's number 8."""
    spherical_m: PathError = 0.0
    """Noll's number 11."""
    depth_m: Annotated[NonNegative, Field(le=_DEPTH_MAX_M)] = 0.0
    """How deep the focus is in a sample of another refractive index. It is focused anew there."""
    sample_index: Positive = 1.45
    """Refractive index of that sample."""

    @property
    def is_perfect(self) -> bool:
        """Tell whether no path is wrong."""
        return self == Aberrations(sample_index=self.sample_index)

    def check(self, numerical_aperture: float, index: float) -> None:
        """Refuse what a lens cannot have.

        Raises
        ------
        ValueError
            If light of the whole aperture does not enter the sample, or the path is too wrong.
        """
        if self.depth_m > 0 and not numerical_aperture < self.sample_index:
            raise ValueError(
                f"aberrations.sample_index={self.sample_index:g} must be above "
                f"numerical_aperture={numerical_aperture:g} where aberrations.depth_m is not 0"
            )
        if self.is_perfect:
            return
        if not (rms_m := self.rms_m(numerical_aperture, index)) <= _RMS_MAX_M:
            raise ValueError(
                f"aberrations: an error of the path of {rms_m:g} m rms in all leaves no focus, at most "
                f"{_RMS_MAX_M:g} m can be computed"
            )

    def rms_m(self, numerical_aperture: float, index: float) -> float:
        """Return the root mean square of the error of the path over the pupil."""
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        return float(np.std(self.path_m(_RINGS[:, None], angle, numerical_aperture, index)))

    def path_m(self, radius: Floats, angle: Floats, numerical_aperture: float, index: float) -> Floats:
        """Return the error of the path at places of the pupil.

        Parameters
        ----------
        radius
            Distance from the axis, 1 at the edge of the aperture.
        angle
            From the direction of x, growing towards y, in radians.
        numerical_aperture, index
            Of the lens, and the refractive index that it is made for.
        """
        coma = math.sqrt(8) * (3 * radius**3 - 2 * radius)
        path_m = (
            self.astigmatism_m * math.sqrt(6) * radius**2 * np.cos(2 * angle)
            + self.oblique_astigmatism_m * math.sqrt(6) * radius**2 * np.sin(2 * angle)
            + self.coma_y_m * coma * np.sin(angle)
            + self.coma_x_m * coma * np.cos(angle)
            + self.spherical_m * math.sqrt(5) * (6 * radius**4 - 6 * radius**2 + 1)
        )
        if self.depth_m > 0:
            path_m = path_m + self.depth_m * _at_depth(radius, numerical_aperture, index, self.sample_index)
        return np.asarray(path_m)


def _at_depth(radius: Floats, numerical_aperture: float, index: float, sample_index: float) -> Floats:
    """Return the error of the path by depth in a sample of another index.

    Booth, Neil & Wilson, J. Microsc. 192:90 (1998), eq. 3, less the phase of a shifted focus and a
    constant that come nearest to it over the pupil: that is what focusing anew does.
    """

    def path(at: Floats) -> tuple[Floats, Floats]:
        inside, outside = (np.sqrt(n**2 - (numerical_aperture * at) ** 2) for n in (sample_index, index))
        return inside - outside, outside

    error, focus = path(_RINGS)
    slope = np.cov(error, focus)[0, 1] / np.var(focus, ddof=1)
    here, focus_here = path(radius)
    return np.asarray(here - error.mean() - slope * (focus_here - focus.mean()))
