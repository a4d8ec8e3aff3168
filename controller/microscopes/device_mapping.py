"""From abstract scan settings to device properties: units, calibrations, limits, order.

Micro-Manager's own ``.cfg`` stays the one place that loads devices. This mapping says which property
stands for which setting, and what may be written to it. :func:`plan` is pure: everything is checked
before the first write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from controller.core.errors import ConfigurationError, InvalidRequestError
from controller.core.settings import MAX_WAIT_S, Modality, NonNegative, Positive, ScanSettings, Settings

Name = Annotated[str, Field(min_length=1, max_length=200)]
SettingName = Literal["stage", "pixels", "pixel_size_m", "dwell_s", "frame_s", "excitation_w", "sted_w"]

#: Settings that make light; they are written last, and each has a safe value.
LIGHTS: tuple[SettingName, ...] = ("excitation_w", "sted_w")
_UNITS: Mapping[SettingName, str] = {
    "stage": "m", "pixels": "px", "pixel_size_m": "m", "dwell_s": "s", "frame_s": "s",
    "excitation_w": "W", "sted_w": "W",
}  # fmt: skip


class _Measured(Settings):
    """When a calibration was measured, and for how many days it holds."""

    measured_on: str | None = None
    valid_days: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _dates_go_together(self) -> Self:
        if (self.measured_on is None) != (self.valid_days is None):
            raise ValueError("measured_on and valid_days go together")
        if self.measured_on is not None:
            date.fromisoformat(self.measured_on)
        return self

    def expired_on(self, today: date) -> str | None:
        """Return why the calibration no longer holds, or ``None``."""
        if self.measured_on is None or self.valid_days is None:
            return None
        last = date.fromisoformat(self.measured_on) + timedelta(days=self.valid_days)
        return None if today <= last else f"the calibration of {self.measured_on} held until {last}"


class Linear(_Measured):
    """Device value = ``scale`` times SI value + ``offset``."""

    kind: Literal["linear"] = "linear"
    scale: float
    offset: float = 0.0

    @model_validator(mode="after")
    def _can_be_inverted(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale must not be 0")
        return self

    def to_device(self, value: float) -> float:
        """Return the device's number for an SI value."""
        return self.scale * value + self.offset

    def to_si(self, device: float) -> float:
        """Return the SI value of a device's number."""
        return (device - self.offset) / self.scale

    def covers(self, low: float, high: float) -> bool:  # noqa: ARG002  # a line has no ends
        """Tell whether it holds from ``low`` to ``high``, in SI units."""
        return True


class Reciprocal(_Measured):
    """Device value = ``scale`` / SI value, as of a pixel rate and a dwell time."""

    kind: Literal["reciprocal"] = "reciprocal"
    scale: Positive

    def to_device(self, value: float) -> float:
        """Return the device's number for an SI value."""
        return self.scale / value

    def to_si(self, device: float) -> float:
        """Return the SI value of a device's number."""
        return self.scale / device

    def covers(self, low: float, high: float) -> bool:
        """Tell whether it holds from ``low`` to ``high``, in SI units."""
        return 0 < low <= high


class Table(_Measured):
    """Pairs of SI and device values, both strictly monotone; straight lines between, nothing beyond."""

    kind: Literal["table"] = "table"
    value: Annotated[tuple[float, ...], Field(min_length=2)]
    device: Annotated[tuple[float, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _is_strictly_monotone(self) -> Self:
        if len(self.value) != len(self.device):
            raise ValueError(f"{len(self.value)} values and {len(self.device)} device values do not pair")
        if not all(a < b for a, b in pairwise(self.value)):
            raise ValueError("value must rise from each entry to the next")
        steps = [b - a for a, b in pairwise(self.device)]
        if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
            raise ValueError("device must rise, or fall, from each entry to the next")
        return self

    def to_device(self, value: float) -> float:
        """Return the device's number for an SI value inside the table."""
        return _between(value, self.value, self.device)

    def to_si(self, device: float) -> float:
        """Return the SI value of a device's number inside the table."""
        if self.device[0] < self.device[-1]:
            return _between(device, self.device, self.value)
        return _between(device, self.device[::-1], self.value[::-1])

    def covers(self, low: float, high: float) -> bool:
        """Tell whether it holds from ``low`` to ``high``, in SI units."""
        return self.value[0] <= low and high <= self.value[-1]


Calibration = Annotated[Linear | Reciprocal | Table, Field(discriminator="kind")]


class PropertyTarget(Settings):
    """A property of a device, written as text with so many decimals."""

    kind: Literal["property"] = "property"
    device: Name
    property: Name
    decimals: Annotated[int, Field(ge=0, le=12)] = 6


class StageTarget(Settings):
    """An XY stage: the centre of the scanned region, in micrometres of the device."""

    kind: Literal["xy_stage"] = "xy_stage"
    device: Name


class ExposureTarget(Settings):
    """The camera's exposure, in milliseconds of the device."""

    kind: Literal["exposure"] = "exposure"


class CameraRegionTarget(Settings):
    """The camera's region of interest: as many pixels as the scan has, about the chip's middle."""

    kind: Literal["camera_region"] = "camera_region"


class FixedTarget(Settings):
    """Nothing to write: the hardware has this one value, in SI units."""

    kind: Literal["fixed"] = "fixed"
    value: Positive


Target = Annotated[
    PropertyTarget | StageTarget | ExposureTarget | CameraRegionTarget | FixedTarget,
    Field(discriminator="kind"),
]


class MappedSetting(Settings):
    """One abstract setting: where it goes and what may be written.

    ``low`` and ``high`` are limits in SI units; ``unit`` is the device's unit if it is not the SI one;
    ``tolerance`` is how far a read-back may lie off, in SI units, ``None`` if it cannot be read back.
    """

    target: Target
    unit: Name | None = None
    calibration: Calibration | None = None
    low: float | None = None
    high: float | None = None
    safe: float | None = None
    tolerance: NonNegative | None = None
    settle_s: Annotated[float, Field(ge=0, le=60)] = 0.0

    def to_device(self, value: float) -> float:
        """Return the device's number for an SI value."""
        return value if self.calibration is None else self.calibration.to_device(value)

    def to_si(self, device: float) -> float:
        """Return the SI value of a device's number."""
        return device if self.calibration is None else self.calibration.to_si(device)


class PropertyValue(Settings):
    """A property that is set once, when the microscope is connected to; never one that makes light."""

    device: Name
    property: Name
    value: str


class DeviceMapping(Settings):
    """How scans are done with the devices that a Micro-Manager configuration loads."""

    config_file: Name
    adapters: Name
    device_interface: Annotated[int, Field(ge=1)]
    camera: Name
    shutter: Name
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)]
    timeout_s: Annotated[float, Field(gt=0, le=MAX_WAIT_S)] = 5.0
    expected_devices: dict[str, str] = Field(default_factory=dict)
    startup: tuple[PropertyValue, ...] = ()
    grey_offset: float = 0.0
    grey_per_photon: Positive = 1.0
    order: tuple[SettingName, ...]
    settings: dict[SettingName, MappedSetting]

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        problems = self._order_problems()
        for name, mapped in self.settings.items():
            problems += _setting_problems(name, mapped)
        if "sted" in self.modalities and "sted_w" not in self.settings:
            problems.append("modality 'sted' needs settings.sted_w")
        problems += [
            f"settings.{name} is missing"
            for name in ("pixel_size_m", "excitation_w")
            if name not in self.settings
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _order_problems(self) -> list[str]:
        problems = []
        if sorted(self.order) != sorted(self.settings):
            problems.append(f"order {list(self.order)} must list each of {list(self.settings)} once")
        lights = [name in LIGHTS for name in self.order]
        if lights != sorted(lights):
            problems.append(f"order {list(self.order)} must have the lights {list(LIGHTS)} last")
        return problems

    def expired(self, today: date) -> list[str]:
        """Return one sentence for each calibration that no longer holds."""
        found = []
        for name, mapped in self.settings.items():
            reason = mapped.calibration.expired_on(today) if mapped.calibration else None
            if reason:
                found.append(f"settings.{name}.calibration: {reason}; measure it again")
        return found


@dataclass(frozen=True, slots=True)
class Write:
    """One command to a device, decided before anything is written.

    ``values`` is one number in the device's unit, or ``(x, y)`` for a stage, or ``(columns, rows)``.
    """

    name: SettingName
    mapped: MappedSetting
    values: tuple[float, ...]


def plan(mapping: DeviceMapping, scan: ScanSettings) -> tuple[Write, ...]:
    """Return the writes of a scan in their order; check everything first, write nothing.

    Raises
    ------
    InvalidRequestError
        Naming every setting that the devices cannot do.
    """
    rows, columns = scan.shape_yx
    (y_m, x_m), wanted = scan.region.center_yx_m, {
        "pixel_size_m": scan.pixel_size_m,
        "dwell_s": scan.pixel_time_s,
        "frame_s": scan.duration_s,
        "excitation_w": scan.excitation_w,
        "sted_w": scan.sted_w,
    }  # fmt: skip
    problems = [
        f"{name}={wanted[name]:g} {_UNITS[name]} is asked, and this microscope has no such light"
        for name in LIGHTS
        if name not in mapping.settings and wanted[name] > 0
    ]
    writes = []
    for name in mapping.order:
        mapped = mapping.settings[name]
        if name == "stage":
            pair = (x_m, y_m)
            problems += [p for value in pair for p in _limit_problems(name, mapped, value)]
            writes.append(Write(name, mapped, tuple(mapped.to_device(value) for value in pair)))
        elif name == "pixels":
            problems += [p for value in (columns, rows) for p in _limit_problems(name, mapped, float(value))]
            writes.append(Write(name, mapped, (float(columns), float(rows))))
        else:
            found = _limit_problems(name, mapped, wanted[name])
            problems += found
            if not found:
                writes.append(Write(name, mapped, (mapped.to_device(wanted[name]),)))
    if problems:
        raise InvalidRequestError("; ".join(problems))
    return tuple(writes)


def safe_writes(mapping: DeviceMapping) -> tuple[Write, ...]:
    """Return the writes that put every light to its safe value."""
    found = []
    for name in LIGHTS:
        mapped = mapping.settings.get(name)
        if mapped is not None and mapped.safe is not None:
            found.append(Write(name, mapped, (mapped.to_device(mapped.safe),)))
    return tuple(found)


def require_valid(mapping: DeviceMapping, today: date) -> None:
    """Refuse a mapping whose calibrations have expired.

    Raises
    ------
    ConfigurationError
    """
    expired = mapping.expired(today)
    if expired:
        raise ConfigurationError(*(f"microscope.options.{problem}" for problem in expired))


def _limit_problems(name: SettingName, mapped: MappedSetting, value: float) -> list[str]:
    target = mapped.target
    if isinstance(target, FixedTarget):
        close = abs(value - target.value) <= 1e-6 * target.value
        return (
            [] if close else [f"{name}={value:g} {_UNITS[name]} is asked, this hardware has {target.value:g}"]
        )
    low = float("-inf") if mapped.low is None else mapped.low
    high = float("inf") if mapped.high is None else mapped.high
    # A light that is not asked for goes to its safe value, which may lie below what may be asked.
    if low <= value <= high or (name in LIGHTS and value == mapped.safe):
        return []
    return [
        f"{name}={value:g} {_UNITS[name]} is outside {low:g}..{high:g} (microscope.options.settings.{name})"
    ]


def _setting_problems(name: SettingName, mapped: MappedSetting) -> list[str]:
    where, problems = f"settings.{name}", []
    fits = {
        "stage": StageTarget,
        "pixels": CameraRegionTarget,
        "frame_s": ExposureTarget | PropertyTarget,
    }.get(name, PropertyTarget | FixedTarget)
    if not isinstance(mapped.target, fits):
        problems.append(f"{where}.target: {mapped.target.kind!r} cannot hold this setting")
    if isinstance(mapped.target, FixedTarget):
        return problems
    if mapped.unit not in {None, _UNITS[name]} and mapped.calibration is None:
        problems.append(
            f"{where}: the device's unit {mapped.unit!r} is not {_UNITS[name]!r}: a calibration is needed"
        )
    if name in (*LIGHTS, "dwell_s", "frame_s") and (mapped.low is None or mapped.high is None):
        problems.append(f"{where}: low and high are needed")
    low = mapped.low if mapped.low is not None else 0.0
    high = mapped.high if mapped.high is not None else low
    if not low <= high:
        problems.append(f"{where}: low={low:g} is above high={high:g}")
    if name in LIGHTS:
        if mapped.safe is None:
            problems.append(f"{where}: a light needs a safe value")
        elif not mapped.safe <= high:
            problems.append(f"{where}: safe={mapped.safe:g} is above high={high:g}")
        else:
            low = min(low, mapped.safe)
    if mapped.calibration is not None and not mapped.calibration.covers(low, high):
        problems.append(f"{where}: the calibration does not reach from {low:g} to {high:g}")
    return problems


def _between(value: float, known: tuple[float, ...], answer: tuple[float, ...]) -> float:
    if not known[0] <= value <= known[-1]:
        raise ValueError(f"{value:g} is outside the calibration, {known[0]:g}..{known[-1]:g}")
    for (a, b), (u, v) in zip(pairwise(known), pairwise(answer), strict=True):
        if value <= b:
            return u + (v - u) * (value - a) / (b - a)
    return answer[-1]
