"""What can be set on a scanning microscope, in Micro-Manager's words and units, and its SI value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

from pydantic import Field, ValidationError

from controller.core.errors import InvalidRequestError
from controller.core.limits import SafetyLimits
from controller.core.settings import Modality, NonNegative, Positive, Region, ScanSettings, Settings

CAMERA, EXCITATION, STED, XY_STAGE, Z_STAGE, SHUTTER, CORE = (
    "Scanner",
    "Excitation",
    "STED",
    "XYStage",
    "Z",
    "Shutter",
    "Core",
)
DESCRIPTIONS = {
    CAMERA: "scanner and detector",
    EXCITATION: "excitation laser, power at the sample",
    STED: "depletion laser, power at the sample",
    XY_STAGE: "centre of the field of view on the sample",
    Z_STAGE: "focus; this microscope has one plane, 0",
    SHUTTER: "whether scans to come use light",
    CORE: "roles of the devices",
}


class Knobs(Settings):
    """Everything that can be set, in SI units; ``roi`` is relative to the stage, ``None`` the full field."""

    modality: Modality
    pixel_size_m: Positive
    dwell_s: Positive
    line_averages: int = Field(default=1, ge=1)
    excitation_w: NonNegative = 0.0
    sted_w: NonNegative = 0.0
    stage_yx_m: tuple[float, float]
    roi: Region | None = None
    has_auto_shutter: bool = True
    is_shutter_open: bool = False

    def scan(self, field_yx_m: tuple[float, float]) -> ScanSettings:
        """Return the scan that an image asked for now would be."""
        roi = self.roi or Region(center_yx_m=(0.0, 0.0), size_yx_m=field_yx_m)
        (y, x), (dy, dx) = self.stage_yx_m, roi.center_yx_m
        is_lit = self.has_auto_shutter or self.is_shutter_open
        return ScanSettings(
            modality=self.modality,
            region=Region(center_yx_m=(y + dy, x + dx), size_yx_m=roi.size_yx_m),
            pixel_size_m=self.pixel_size_m,
            dwell_s=self.dwell_s,
            line_averages=self.line_averages,
            excitation_w=self.excitation_w if is_lit else 0.0,
            sted_w=self.sted_w if is_lit and self.modality == "sted" else 0.0,
        )


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number: ``10**exponent`` times its property is the knob's value in SI units."""

    knob: str
    exponent: int
    low: float
    high: float
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values; ``texts`` are what the property shows for each."""

    knob: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A property that only tells something; ``allowed`` lets a script write what it is already."""

    text: str
    is_read_only: bool = True


Property = Quantity | Choice | Fixed
_SWITCH = ((False, True), ("0", "1"))


def make_devices(limits: SafetyLimits, modalities: tuple[Modality, ...]) -> dict[str, Mapping[str, Property]]:
    """Return the properties of each device, by name."""
    devices: dict[str, Mapping[str, Property]] = {
        CAMERA: {
            "Binning": Fixed("1", is_read_only=False),
            "DwellTime_us": Quantity("dwell_s", -6, limits.dwell_min_s, limits.dwell_max_s),
            "LineAverages": Quantity("line_averages", 0, 1, limits.line_averages_max, is_whole=True),
            "Modality": Choice("modality", modalities, modalities),
            "PixelSize_nm": Quantity("pixel_size_m", -9, limits.pixel_size_min_m, limits.pixel_size_max_m),
            "PixelType": Fixed("16bit", is_read_only=False),
        },
        EXCITATION: {"Power_uW": Quantity("excitation_w", -6, 0.0, limits.excitation_max_w)},
        XY_STAGE: {},
        Z_STAGE: {},
        SHUTTER: {"State": Choice("is_shutter_open", *_SWITCH)},
        CORE: {
            "AutoShutter": Choice("has_auto_shutter", *_SWITCH),
            "Camera": Fixed(CAMERA, is_read_only=False),
            "Focus": Fixed(Z_STAGE, is_read_only=False),
            "Shutter": Fixed(SHUTTER, is_read_only=False),
            "XYStage": Fixed(XY_STAGE, is_read_only=False),
        },
    }
    if "sted" in modalities:
        devices[STED] = {"Power_mW": Quantity("sted_w", -3, 0.0, limits.sted_max_w)}
    return devices


def dark_knobs(limits: SafetyLimits, modalities: tuple[Modality, ...]) -> Knobs:
    """Return a dark scan of the full field in the middle of the stage box, 10 µs per pixel if allowed."""
    return Knobs(
        modality="confocal" if "confocal" in modalities else modalities[0],
        pixel_size_m=min(max(20e-9, limits.pixel_size_min_m), limits.pixel_size_max_m),
        dwell_s=min(max(10e-6, limits.dwell_min_s), limits.dwell_max_s),
        stage_yx_m=limits.stage_box.center_yx_m,
    )


def in_unit(value_si: float, exponent: int) -> float:
    """Return a value in units of ``10**exponent``, without the rounding of a multiplication."""
    return float(Decimal(repr(float(value_si))).scaleb(-exponent))


def in_si(value: float, exponent: int) -> float:
    """Return what ``value`` units of ``10**exponent`` are: 10 µs is exactly what ``10e-6`` reads as."""
    return in_unit(value, -exponent)


def extent_m(pixels: int, pixel_size_m: float) -> float:
    """Return the length of a row of pixels, without the rounding of a multiplication."""
    return float(pixels * Decimal(repr(pixel_size_m)))


def parsed(known: Quantity, where: str, text: str) -> float | int:
    """Return a number in SI units from a property's text; ``where`` is for the message."""
    try:
        number = float(text)
    except ValueError as error:
        raise InvalidRequestError(f"{where} is not a number") from error
    if not isfinite(number) or (known.is_whole and not number.is_integer()):
        raise InvalidRequestError(f"{where} is not a {'whole' if known.is_whole else 'finite'} number")
    return int(number) if known.is_whole else in_si(number, known.exponent)


def knobs_of(start: ScanSettings) -> Knobs:
    """Return the knobs that give this scan."""
    return Knobs(
        modality=start.modality,
        pixel_size_m=start.pixel_size_m,
        dwell_s=start.dwell_s,
        line_averages=start.line_averages,
        excitation_w=start.excitation_w,
        sted_w=start.sted_w,
        stage_yx_m=start.region.center_yx_m,
        roi=Region(center_yx_m=(0.0, 0.0), size_yx_m=start.region.size_yx_m),
    )


def problems(error: ValidationError) -> str:
    """Return what is wrong, in one line."""
    found = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in found)


def property_text(value: str | bool | float) -> str:
    """Return a property's value as Micro-Manager writes it."""
    if isinstance(value, bool):
        return str(int(value))
    return value if isinstance(value, str) else repr(value)
