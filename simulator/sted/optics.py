"""Light in the focus: the excitation spot, the STED donut and what the pinhole lets through.

Vectorial focal fields of circularly polarised beams that fill the pupil evenly, in the focal plane:

- excitation after Richards & Wolf, Proc. R. Soc. A 253:358 (1959), eq. 2.31 to 2.32 with the
  aplanatic apodisation; three integrals over the angle of incidence;
- the donut with a vortex phase of 0 to 2π turning with the polarisation, after Deng et al., Opt.
  Express 18:1657 (2010) and Xie et al., J. Opt. Soc. Am. A 30:1640 (2013). The phase raises the order
  of each Bessel function by one, and the centre is dark to the last digit;
- detection: the Airy pattern of the emission, averaged over each map pixel, seen through a round
  pinhole.

Aberrated beams, and molecules that do not lie in the middle of their map pixels, are sums over both
angles of the pupil instead (:mod:`simulator.sted.pupil`), detection included. Such a beam has the energy
of the perfect one; what it sends beyond the kernel's edge is lost, as is what the perfect one sends there.

Each kernel reaches to the second dark ring of its own wavelength and is zero beyond; the energy of a
beam is counted inside that square. pySTED does the same, and its kernels are these to 1e-12.

The integrals are Gauss-Legendre sums, once for each distinct distance from the axis. All kernels of a
setting take a few milliseconds, which is why they are kept in memory only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.settings import Positive, Settings
from simulator.sted.aberrations import Aberrations
from simulator.sted.pupil import Pupil

Kernel = NDArray[np.float64]
Offset = tuple[float, float]

#: In the middle of the map pixels, where the shorter integrals hold.
CENTRED: Offset = (0.0, 0.0)

#: Radius of the second dark ring of an Airy pattern in wavelengths by numerical aperture: the second
#: zero of J1, over 2 pi.
_SECOND_DARK_RING: float = 7.015586669815619 / (2 * math.pi)
#: Radius of the first dark ring, by which pinholes are counted ("Airy units").
_AIRY_UNIT = 0.61

# The integrands are smooth: 32 nodes give 15 digits up to the second dark ring at NA 1.4.
_NODES = 32
_PIXEL_NODES = 6
# Fewer, since these patterns take longer: a pixel of 20 nm is averaged to 1e-11 with them.
_PIXEL_NODES_ABERRATED = 4

_TINY = 1e-30

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class Optics(Settings):
    """Objective, beams and pinhole. Wavelengths and lengths in metres, powers are at the sample."""

    excitation_m: Positive = 640e-9
    """Vacuum wavelength of the excitation."""
    sted_m: Positive = 775e-9
    """Vacuum wavelength of the STED beam."""
    numerical_aperture: Positive = 1.4
    """Of the objective; below the refractive index."""
    refractive_index: Positive = 1.5
    """Of the immersion and the sample."""
    pinhole_airy: Positive = 0.7
    """Pinhole radius in Airy units, 0.61 emission wavelengths by numerical aperture."""
    zero_residual: Fraction = 0.005
    """Light in the middle of the donut, relative to its crest."""
    pulse_s: Positive = 400e-12
    """Length of a STED pulse. Excitation pulses are short against it and come just before."""
    pulse_rate_hz: Positive = 40e6
    """Pulses per second, of both beams."""
    excitation_transmission: PositiveFraction = 0.85
    """Part of the stated excitation power that is in the kernel."""
    sted_transmission: PositiveFraction = 0.85
    """Part of the stated STED power that is in the kernel."""
    emission_transmission: PositiveFraction = 0.85
    """Of the objective, for fluorescence."""
    aberrations: Aberrations = Aberrations()
    """Errors of the path, the same for both beams and the fluorescence."""

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if not self.numerical_aperture < self.refractive_index:
            raise ValueError(
                f"numerical_aperture={self.numerical_aperture:g} must be below "
                f"refractive_index={self.refractive_index:g}"
            )
        self.aberrations.check(self.numerical_aperture, self.refractive_index)
        if not self.sted_m > self.excitation_m:
            raise ValueError(f"sted_m={self.sted_m:g} must be longer than excitation_m={self.excitation_m:g}")
        for name in ("excitation_m", "sted_m"):
            _check_visible(name, getattr(self, name))
        if not self.pulse_s * self.pulse_rate_hz <= 1:
            raise ValueError(
                f"pulse_s={self.pulse_s:g} is longer than the {1 / self.pulse_rate_hz:g} s between pulses "
                f"(pulse_rate_hz)"
            )
        return self

    @property
    def sted_duty(self) -> float:
        """Return the part of the time that the STED beam is on."""
        return self.pulse_s * self.pulse_rate_hz


@dataclass(frozen=True, slots=True, eq=False)
class FocalLight:
    """Kernels on the map's grid, odd square shape ``(y, x)``, the beam in the middle.

    Attributes
    ----------
    excitation
        Intensity in W/m² by W of mean excitation power, averaged over time.
    sted
        Intensity in W/m² by W of mean STED power, during a pulse.
    detection
        Part of a molecule's fluorescence that passes objective and pinhole, relative to the middle.
    """

    excitation: Kernel
    sted: Kernel
    detection: Kernel

    @property
    def margin_px(self) -> int:
        """Half width of the kernels in map pixels."""
        return int(self.excitation.shape[0]) // 2


# A microscope whose sample drifts has kernels for sixteen offsets.
@lru_cache(maxsize=64)
def focal_light(
    optics: Optics, emission_m: float, pixel_size_m: float, offset_yx_px: Offset = CENTRED
) -> FocalLight:
    """Return the kernels of a setting. A molecule emits only where it is excited, so none is larger.

    Parameters
    ----------
    optics, emission_m, pixel_size_m
        The setting.
    offset_yx_px
        Where molecules lie relative to the middle of their map pixels.

    Raises
    ------
    ValueError
        If the pixel is so large that the whole spot lies in one, or a wavelength makes no sense.
    """
    _check_visible("emission_m", emission_m)
    if not pixel_size_m > 0:
        raise ValueError(f"pixel_size_m={pixel_size_m!r} must be above 0 m")
    half = reach_px(optics.excitation_m, optics.numerical_aperture, pixel_size_m)
    if not 1 <= half <= 2000:
        raise ValueError(
            f"pixel_size_m={pixel_size_m:g}: the spot of {optics.excitation_m:g} m at numerical aperture "
            f"{optics.numerical_aperture:g} reaches {half} pixels, 1 to 2000 can be computed"
        )
    area_m2 = pixel_size_m**2
    spot = _beam(optics, optics.excitation_m, pixel_size_m, offset_yx_px, has_vortex=False)
    donut = _beam(optics, optics.sted_m, pixel_size_m, offset_yx_px, has_vortex=True)
    crest = donut.max()
    # What fills the middle is added everywhere and the crest keeps its height.
    donut = (donut + optics.zero_residual * crest) / (1 + optics.zero_residual)
    sted_scale = optics.sted_transmission / optics.sted_duty / area_m2
    return FocalLight(
        _frozen(_cut(spot, half) * (optics.excitation_transmission / area_m2)),
        _frozen(_cut(donut, half) * sted_scale),
        _frozen(_cut(_seen_through_pinhole(optics, emission_m, pixel_size_m, offset_yx_px), half)),
    )


def reach_px(wavelength_m: float, numerical_aperture: float, pixel_size_m: float) -> int:
    """Return how many whole pixels lie between the axis and the second dark ring."""
    return math.floor(_SECOND_DARK_RING * wavelength_m / numerical_aperture / pixel_size_m)


def _beam(
    optics: Optics, wavelength_m: float, pixel_size_m: float, offset_yx_px: Offset, *, has_vortex: bool
) -> Kernel:
    """Return a beam's intensity; without aberrations, in the middle of the pixels, its sum is 1."""
    pupil = _Pupil(optics, wavelength_m, pixel_size_m)
    # A vortex raises each order by one, and leaves nothing in the middle.
    first = int(has_vortex)
    intensity = (
        pupil.integral(first, 1 + pupil.cos) ** 2
        + 2 * pupil.integral(first + 1, pupil.sin) ** 2
        + pupil.integral(first + 2, 1 - pupil.cos) ** 2
    )
    image = pupil.spread(intensity)
    if not (optics.aberrations.is_perfect and offset_yx_px == CENTRED):
        rows_m, columns_m = _places_m(image.shape[0] // 2, pixel_size_m, offset_yx_px)
        beam = _lens(optics, wavelength_m).beam(rows_m, columns_m, has_vortex=has_vortex)
        return np.asarray(beam / image.sum())
    return np.asarray(image / image.sum())


def _lens(optics: Optics, wavelength_m: float) -> Pupil:
    return Pupil(optics.numerical_aperture, optics.refractive_index, wavelength_m, optics.aberrations)


def _places_m(half: int, pixel_size_m: float, offset_yx_px: Offset) -> tuple[Kernel, Kernel]:
    """Return how far rows and columns of a kernel are from the axis."""
    rows_m, columns_m = (
        np.asarray(pixel_size_m * (_offsets(half) + offset), np.float64) for offset in offset_yx_px
    )
    return rows_m, columns_m


class _Pupil:
    """Integrals over the angle of incidence at the distances of a square of pixels from its middle."""

    def __init__(self, optics: Optics, wavelength_m: float, pixel_size_m: float) -> None:
        half = reach_px(wavelength_m, optics.numerical_aperture, pixel_size_m)
        squared = _offsets(half)[:, None] ** 2 + _offsets(half) ** 2
        distinct, self._where = np.unique(squared, return_inverse=True)
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        aperture = np.arcsin(optics.numerical_aperture / optics.refractive_index)
        angle = aperture / 2 * (nodes + 1)
        self.cos, self.sin = np.cos(angle), np.sin(angle)
        # sqrt(cos): an aplanatic lens conserves energy.
        self._weights = aperture / 2 * weights * np.sqrt(self.cos) * self.sin
        wavenumber = 2 * np.pi * optics.refractive_index / wavelength_m
        self._phase = wavenumber * self.sin * (pixel_size_m * np.sqrt(distinct))[:, None]

    def integral(self, order: int, factor: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of ``factor`` times the Bessel function, for each distinct distance."""
        from scipy.special import jv

        return np.asarray(jv(order, self._phase) @ (self._weights * factor))

    def spread(self, radial: NDArray[np.float64]) -> Kernel:
        """Return a function of the distance as an image."""
        image: Kernel = radial[self._where]
        return image


def _seen_through_pinhole(
    optics: Optics, emission_m: float, pixel_size_m: float, offset_yx_px: Offset
) -> Kernel:
    """Return the detection's kernel, its largest value the transmission of a perfect objective."""
    from scipy import fft

    half = reach_px(emission_m, optics.numerical_aperture, pixel_size_m)
    radius_m = optics.pinhole_airy * _AIRY_UNIT * emission_m / optics.numerical_aperture
    distance_m = pixel_size_m * np.hypot(_offsets(half)[:, None], _offsets(half))
    hole = (distance_m <= radius_m).astype(np.float64)
    side = fft.next_fast_len(2 * len(hole) - 1, real=True)

    def seen(pattern: Kernel) -> Kernel:
        spectrum = fft.rfft2(pattern, (side, side)) * fft.rfft2(hole, (side, side))
        return np.asarray(fft.irfft2(spectrum, (side, side))[half : 3 * half + 1, half : 3 * half + 1])

    perfect = seen(_airy(optics, emission_m, pixel_size_m, half))
    if optics.aberrations.is_perfect and offset_yx_px == CENTRED:
        return np.asarray(perfect / perfect.max() * optics.emission_transmission)
    pattern = _pattern(optics, emission_m, pixel_size_m, half, offset_yx_px)
    # The Fourier transform leaves rounding noise of either sign where nothing is seen.
    return np.asarray(np.maximum(seen(pattern) / perfect.max() * optics.emission_transmission, 0.0))


def _airy(optics: Optics, emission_m: float, pixel_size_m: float, half: int) -> Kernel:
    """Return the Airy pattern averaged over each pixel, 1 at its maximum."""
    nodes, weights = np.polynomial.legendre.leggauss(_PIXEL_NODES)
    # One quadrant: rows and columns of sub-pixel points, in pixels from the axis.
    points = (np.arange(half + 1)[:, None] + nodes / 2).ravel()
    inside = _airy_at(optics, emission_m, pixel_size_m, points, points)
    inside = inside.reshape(half + 1, _PIXEL_NODES, half + 1, _PIXEL_NODES)
    quadrant = np.einsum("i,yixj,j->yx", weights / 2, inside, weights / 2)
    folded = np.abs(np.arange(-half, half + 1))
    return np.asarray((quadrant / quadrant.max())[np.ix_(folded, folded)])


def _airy_at(
    optics: Optics, emission_m: float, pixel_size_m: float, rows_px: Kernel, columns_px: Kernel
) -> Kernel:
    """Return the Airy pattern, 1 in the middle, at distances from the axis in pixels."""
    from scipy.special import j1

    argument = (2 * np.pi * optics.numerical_aperture / emission_m * pixel_size_m) * np.hypot(
        rows_px[:, None], columns_px
    )
    argument = np.maximum(argument, _TINY)
    return np.asarray((2 * j1(argument) / argument) ** 2)


def _pattern(
    optics: Optics, emission_m: float, pixel_size_m: float, half: int, offset_yx_px: Offset
) -> Kernel:
    """Return the same as :func:`_airy` with aberrations and at any place, on the same scale."""
    nodes, weights = np.polynomial.legendre.leggauss(_PIXEL_NODES_ABERRATED)

    def averaged(optics: Optics, half: int, offset_yx_px: Offset) -> Kernel:
        rows_px, columns_px = (
            (_offsets(half)[:, None] + offset + nodes / 2).ravel() for offset in offset_yx_px
        )
        if optics.aberrations.is_perfect:
            inside = _airy_at(optics, emission_m, pixel_size_m, rows_px, columns_px)
        else:
            lens = _lens(optics, emission_m)
            inside = lens.image(pixel_size_m * rows_px, pixel_size_m * columns_px)
        split = inside.reshape(2 * half + 1, len(nodes), 2 * half + 1, len(nodes))
        return np.asarray(np.einsum("i,yixj,j->yx", weights / 2, split, weights / 2))

    perfect = averaged(optics.replace(aberrations=Aberrations()), 0, CENTRED)
    return averaged(optics, half, offset_yx_px) / perfect


def _offsets(half: int) -> NDArray[np.intp]:
    return np.arange(-half, half + 1)


def _cut(kernel: Kernel, half: int) -> Kernel:
    """Return the middle of a kernel; a kernel that is smaller is zero beyond its edge."""
    own = kernel.shape[0] // 2
    padded = np.pad(kernel, max(0, half - own))
    start = max(0, own - half)
    return padded[start : start + 2 * half + 1, start : start + 2 * half + 1]


def _frozen(kernel: Kernel) -> Kernel:
    kernel.setflags(write=False)
    return kernel


def _check_visible(name: str, wavelength_m: float) -> None:
    if not 200e-9 <= wavelength_m <= 2000e-9:
        raise ValueError(f"{name}={wavelength_m!r} must be a wavelength in metres, 200e-9 to 2000e-9")
