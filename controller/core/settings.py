"""What a scan is: region, sampling, dwell time and powers, in SI units.

Everything read from a file or a socket derives from :class:`Settings`: frozen, strict (``"0.1"``
and ``true`` are not numbers), without unknown keys, ``nan`` or ``inf``.
"""

from __future__ import annotations

from math import fsum
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Modality = Literal["overview", "confocal", "sted", "two_photon"]

#: A frame with more pixels than this is a mistake in a unit, not an image.
MAX_PIXELS = 2**26

#: Timers of the operating system take no more than this; it is eleven days.
MAX_WAIT_S = 1e6

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PartOfDwell = Annotated[float, Field(ge=1e-3, le=1)]
Photons = Annotated[int, Field(ge=0, le=10**9)]


class Settings(BaseModel):
    """Base of all validated settings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with ``changes`` applied."""
        return type(self).model_validate({**dict(self), **changes})


class Region(Settings):
    """A rectangle of the sample, in sample coordinates.

    ``center_yx_m`` is its centre and ``size_yx_m`` its height and width, both in metres.
    """

    center_yx_m: tuple[float, float]
    size_yx_m: tuple[Positive, Positive]

    @property
    def bounds_yx_m(self) -> tuple[float, float, float, float]:
        """Return ``(y_min, x_min, y_max, x_max)`` in metres."""
        (y, x), (height, width) = self.center_yx_m, self.size_yx_m
        return y - height / 2, x - width / 2, y + height / 2, x + width / 2

    def contains(self, other: Region, tolerance_m: float = 1e-12) -> bool:
        """Tell whether ``other`` lies inside this region, to within ``tolerance_m``."""
        y0, x0, y1, x1 = self.bounds_yx_m
        v0, u0, v1, u1 = other.bounds_yx_m
        return (
            v0 >= y0 - tolerance_m
            and u0 >= x0 - tolerance_m
            and v1 <= y1 + tolerance_m
            and u1 <= x1 + tolerance_m
        )


class AdaptiveStep(Settings):
    """One step on each pixel of an adaptive scan: its part of the scan's light, and when the pixel ends.

    Time and powers are fractions of the scan's own ``dwell_s``, ``excitation_w`` and ``sted_w``. A pixel
    with fewer photons than ``fewest_photons`` in this step ends here, and so does one with more than
    ``enough_photons``, whose photons are then scaled up to the whole time (``None``: never).
    """

    dwell_fraction: PartOfDwell
    excitation_fraction: Fraction = 1.0
    sted_fraction: Fraction = 1.0
    fewest_photons: Photons = 0
    enough_photons: Photons | None = None


class AdaptiveIllumination(Settings):
    """Steps on each pixel, which ends early where its photons say so (DyMIN, RESCue).

    All steps together take no longer than the scan's ``dwell_s`` and no step has more power than the
    scan, so whatever the photons decide, no pixel gets more light than without the steps.

    A pixel's value is the photons of all its steps if ``sums``, otherwise those of the last one that it
    made; with ``dark_is_zero`` it is 0 where it ended for want of photons. ``scaled_to_fraction`` is the
    part of ``dwell_s`` that photons are scaled up to where they are enough; ``None`` is that of all
    steps together.

    Sources: DyMIN, Heine et al., PNAS 114:9797 (2017); RESCue, Staudt et al., Opt. Express 19:5644 (2011).
    """

    steps: Annotated[tuple[AdaptiveStep, ...], Field(min_length=1, max_length=255)]
    sums: bool = False
    dark_is_zero: bool = False
    scaled_to_fraction: PartOfDwell | None = None

    @model_validator(mode="after")
    def _steps_fit_into_a_dwell(self) -> Self:
        total = fsum(step.dwell_fraction for step in self.steps)
        if not total <= 1:
            raise ValueError(f"the dwell_fraction of all steps add up to {total!r}, allowed is 1")
        return self


class PixelLight(NamedTuple):
    """What one pixel gets without a change of power."""

    dwell_s: float
    excitation_w: float
    sted_w: float

    @property
    def energy_j(self) -> float:
        """Return its energy, in joules."""
        return (self.excitation_w + self.sted_w) * self.dwell_s


class ScanSettings(Settings):
    """One scan: where, how finely sampled, for how long and with how much light.

    ``excitation_w`` and ``sted_w`` are mean powers at the sample in watts, ``dwell_s`` is the time
    the beam rests on a pixel in one pass, and each line is scanned ``line_averages`` times.
    ``focus_m`` is where the focus goes; ``None`` leaves it where it is. With ``adaptive``, all these
    are the most that a pixel may get, and so are time, dose and energy below.
    """

    modality: Modality
    region: Region
    pixel_size_m: Positive
    dwell_s: Positive
    excitation_w: NonNegative
    sted_w: NonNegative = 0.0
    line_averages: Annotated[int, Field(ge=1, le=100_000)] = 1
    focus_m: float | None = None
    adaptive: AdaptiveIllumination | None = None

    @model_validator(mode="after")
    def _is_one_scan(self) -> Self:
        if self.adaptive is not None and self.line_averages != 1:
            raise ValueError(f"line_averages={self.line_averages} is asked of an adaptive scan, allowed is 1")
        if self.modality != "sted" and self.sted_w > 0:
            raise ValueError(f"sted_w={self.sted_w:g} W is asked of a {self.modality} scan, allowed is 0")
        extents = [size / self.pixel_size_m for size in self.region.size_yx_m]
        # Each extent before the product: two infinities or 1e308 must not pass as a number of pixels.
        if not all(0.5 <= extent <= MAX_PIXELS for extent in extents) or not (
            extents[0] * extents[1] <= MAX_PIXELS
        ):
            raise ValueError(
                f"region of {self.region.size_yx_m} m sampled at pixel_size_m={self.pixel_size_m:g} "
                f"has {extents[0]:.3g} x {extents[1]:.3g} pixels, allowed is 1 to {MAX_PIXELS} in all"
            )
        return self

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Return the frame's shape ``(y, x)`` in pixels, at least one pixel each way."""
        height, width = self.region.size_yx_m
        return max(1, round(height / self.pixel_size_m)), max(1, round(width / self.pixel_size_m))

    @property
    def scanned_region(self) -> Region:
        """Return what the light covers: whole pixels about the centre, so perhaps more than ``region``."""
        rows, columns = self.shape_yx
        size = rows * self.pixel_size_m, columns * self.pixel_size_m
        return Region(center_yx_m=self.region.center_yx_m, size_yx_m=size)

    @property
    def pixel_time_s(self) -> float:
        """Return the time the beam spends on each pixel, all passes together, in seconds."""
        return self.dwell_s * self.line_averages

    @property
    def pixel_lights(self) -> tuple[PixelLight, ...]:
        """Return what a pixel gets, one entry for each step of an adaptive scan, otherwise one in all."""
        if self.adaptive is None:
            return (PixelLight(self.pixel_time_s, self.excitation_w, self.sted_w),)
        return tuple(
            PixelLight(
                self.dwell_s * step.dwell_fraction,
                self.excitation_w * step.excitation_fraction,
                self.sted_w * step.sted_fraction,
            )
            for step in self.adaptive.steps
        )

    @property
    def duration_s(self) -> float:
        """Return the time light is on for the whole frame, in seconds."""
        rows, columns = self.shape_yx
        return self.pixel_time_s * rows * columns

    @property
    def dose_j_per_m2(self) -> float:
        """Return the light energy per area that this scan puts on each point of its region."""
        return (self.excitation_w + self.sted_w) * self.pixel_time_s / self.pixel_size_m**2

    @property
    def energy_j(self) -> float:
        """Return the light energy of the whole scan, in joules."""
        return (self.excitation_w + self.sted_w) * self.duration_s
