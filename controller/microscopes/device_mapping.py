"""What stands for what: abstract settings, the devices they go to, their units, limits and order.

A mapping is refused when it is loaded if it could mislead. How a scan becomes writes is in
``device_plan.py``, what the units mean in ``calibrations.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from controller.core.errors import ConfigurationError
from controller.core.limits import SafeValues
from controller.core.settings import MAX_WAIT_S, Modality, NonNegative, Positive, Settings
from controller.microscopes.calibrations import Calibration, Choice, Told

Name = Annotated[str, Field(min_length=1, max_length=200)]
SettingName = Literal[
    "stage", "focus_m", "pixels", "pixel_size_m", "dwell_s", "frame_s", "excitation_w", "sted_w"
]
FactorName = Literal["pixel_size_m", "dwell_s", "frame_s", "excitation_w", "sted_w"]
TargetKind = Literal["property", "xy_stage", "focus", "exposure", "camera_region", "parameter", "fixed"]

#: Settings that make light; they are written last, and each has a safe value.
LIGHTS: tuple[Literal["excitation_w", "sted_w"], ...] = ("excitation_w", "sted_w")
UNITS: Mapping[SettingName, str] = {
    "stage": "m", "focus_m": "m", "pixels": "px", "pixel_size_m": "m", "dwell_s": "s", "frame_s": "s",
    "excitation_w": "W", "sted_w": "W",
}  # fmt: skip
_TARGETS: Mapping[SettingName, tuple[TargetKind, ...]] = {
    "stage": ("xy_stage", "parameter"),
    "focus_m": ("focus", "property", "parameter"),
    "pixels": ("camera_region", "parameter"),
    "frame_s": ("exposure", "property", "parameter"),
}
#: Less of these is less light, so a device that knows certain values only may take the next one below.
MAY_ROUND_DOWN: tuple[SettingName, ...] = ("dwell_s", *LIGHTS)
# A slip in the unit of one of these burns a sample or breaks an objective.
_NEED_LIMITS: tuple[SettingName, ...] = ("dwell_s", "frame_s", "focus_m", *LIGHTS)


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


class FocusTarget(Settings):
    """A focus drive, in micrometres of the device."""

    kind: Literal["focus"] = "focus"
    device: Name


class ExposureTarget(Settings):
    """The camera's exposure, in milliseconds of the device."""

    kind: Literal["exposure"] = "exposure"


class CameraRegionTarget(Settings):
    """The camera's region of interest: as many pixels as the scan has, about the chip's middle."""

    kind: Literal["camera_region"] = "camera_region"


ParameterPath = Annotated[str, Field(pattern=r"^[^/\s]+(/[^/\s]+)+$", max_length=200)]


class ParameterTarget(Settings):
    """A parameter of Imspector, by its path; ``[x, y]`` where a setting has two."""

    kind: Literal["parameter"] = "parameter"
    path: ParameterPath | tuple[ParameterPath, ParameterPath]


class FixedTarget(Settings):
    """Nothing to write: the hardware has this one value, in SI units."""

    kind: Literal["fixed"] = "fixed"
    value: Positive


Target = Annotated[
    PropertyTarget
    | StageTarget
    | FocusTarget
    | ExposureTarget
    | CameraRegionTarget
    | ParameterTarget
    | FixedTarget,
    Field(discriminator="kind"),
]


class MappedSetting(Settings):
    """One abstract setting: where it goes and what may be written.

    ``low`` and ``high`` are limits in SI units; ``unit`` is the device's unit if it is not the SI one;
    ``max_step`` is the largest change from one scan to the next; ``tolerance`` is how far a read-back may
    lie off, ``None`` if it cannot be read back. Both are in SI units.
    """

    target: Target
    unit: Name | None = None
    calibration: Calibration | None = None
    low: float | None = None
    high: float | None = None
    max_step: Positive | None = None
    safe: float | None = None
    tolerance: NonNegative | None = None
    settle_s: Annotated[float, Field(ge=0, le=60)] = 0.0

    def to_device(self, value: float) -> Told:
        """Return what the device is told for an SI value."""
        return value if self.calibration is None else self.calibration.to_device(value)

    def to_si(self, told: Told) -> float:
        """Return the SI value of what a device tells."""
        return float(told) if self.calibration is None else self.calibration.to_si(told)

    def achievable(self, value: float) -> float:
        """Return the SI value that the device takes for one that is asked."""
        return value if self.calibration is None else self.calibration.achievable(value)

    def rounding_problem(self, value: float) -> str | None:
        """Return how the decimals of a property change an SI value, if that is more than may be.

        May be: the tolerance, or a thousandth of the largest value.
        """
        told = self.to_device(value)
        if not isinstance(self.target, PropertyTarget) or isinstance(told, str):
            return None
        text = f"{told:.{self.target.decimals}f}"
        slack = max(abs(value), abs(self.high or 0.0)) * 1e-3
        try:
            off = abs(self.to_si(text) - value)
        except ValueError as error:
            return f"the device would be told {text}: {error}"
        if off <= (slack if self.tolerance is None else max(self.tolerance, 1e-9 * abs(value))):
            return None
        return f"the device would be told {text}, which is {self.to_si(text):g}; give target.decimals"


class PropertyValue(Settings):
    """A property that is set once, when the microscope is connected to; never one that makes light."""

    device: Name
    property: Name
    value: str


class Switch(Settings):
    """A property with two values: one while a scan is lit, one whenever it is dark."""

    device: Name
    property: Name
    lit: str
    dark: str


class ProductLimit(Settings):
    """The product of some settings of a scan, in SI units, is at most ``max``."""

    factors: Annotated[tuple[FactorName, ...], Field(min_length=2)]
    max: Positive


class ScanMapping(Settings):
    """How scans are done by devices: what is common to all ways of talking to them."""

    target_kinds: ClassVar[tuple[TargetKind, ...]] = ()

    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)]
    timeout_s: Annotated[float, Field(gt=0, le=MAX_WAIT_S)] = 5.0
    products: tuple[ProductLimit, ...] = ()
    order: tuple[SettingName, ...]
    settings: dict[SettingName, MappedSetting]

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        problems = self._order_problems()
        for name, mapped in self.settings.items():
            kind = mapped.target.kind
            if kind not in self.target_kinds:
                problems.append(
                    f"settings.{name}.target: kind {kind!r} is not of this driver; "
                    f"allowed are {list(self.target_kinds)}"
                )
            problems += _setting_problems(name, mapped)
        problems += self._clashes()
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

    def _clashes(self) -> list[str]:
        """Two settings of one property: the second write would undo the first."""
        problems: list[str] = []
        taken: dict[str, SettingName] = {}
        for name, mapped in self.settings.items():
            target = mapped.target
            places: tuple[str, ...] = ()
            if isinstance(target, PropertyTarget):
                places = (f"{target.device}, {target.property}",)
            elif isinstance(target, ParameterTarget):
                places = (target.path,) if isinstance(target.path, str) else target.path
            for place in places:
                if place in taken:
                    problems.append(f"settings.{name}.target: {place!r} is that of {taken[place]}, too")
                taken[place] = name
        return problems

    def _order_problems(self) -> list[str]:
        problems = []
        if sorted(self.order) != sorted(self.settings):
            problems.append(f"order {list(self.order)} must list each of {list(self.settings)} once")
        lights = [name in LIGHTS for name in self.order]
        if lights != sorted(lights):
            problems.append(f"order {list(self.order)} must have the lights {list(LIGHTS)} last")
        sampling = [name for name in self.order if name in {"pixels", "pixel_size_m"}]
        if sampling == ["pixels", "pixel_size_m"] and self._changes_pixel_size:
            problems.append(
                f"order {list(self.order)} must have pixel_size_m before pixels, whose number it may change"
            )
        return problems

    @property
    def _changes_pixel_size(self) -> bool:
        mapped = self.settings.get("pixel_size_m")
        return mapped is not None and not isinstance(mapped.target, FixedTarget)

    def expired(self, today: date) -> list[str]:
        """Return one sentence for each calibration that no longer holds."""
        found = []
        for name, mapped in self.settings.items():
            reason = mapped.calibration.expired_on(today) if mapped.calibration else None
            if reason:
                found.append(f"microscope.options.settings.{name}.calibration: {reason}; measure it again")
        return found

    def unsafe(self, safe: SafeValues) -> list[str]:
        """Return one sentence for each light whose safe value is not the one of the table ``[safe]``."""
        found = []
        for name in LIGHTS:
            mapped, wanted_w = self.settings.get(name), getattr(safe, name)
            safe_w = 0.0 if mapped is None or mapped.safe is None else mapped.safe
            if not math.isclose(safe_w, wanted_w, rel_tol=1e-6, abs_tol=1e-15):
                found.append(
                    f"microscope.options.settings.{name}.safe: {safe_w:g} W, and [safe] {name} says "
                    f"{wanted_w:g} W; both must be the same"
                )
        return found


class DeviceMapping(ScanMapping):
    """How scans are done with the devices that a Micro-Manager configuration loads.

    Micro-Manager's own ``.cfg`` stays the one place that loads devices.
    """

    target_kinds: ClassVar[tuple[TargetKind, ...]] = (
        "property", "xy_stage", "focus", "exposure", "camera_region", "fixed",
    )  # fmt: skip

    config_file: Name
    adapters: Name
    device_interface: Annotated[int, Field(ge=1)]
    camera: Name
    shutter: Name
    expected_devices: dict[str, str] = Field(default_factory=dict)
    startup: tuple[PropertyValue, ...] = ()
    switches: tuple[Switch, ...] = ()
    grey_offset: float = 0.0
    grey_per_photon: Positive = 1.0


def require_valid(mapping: ScanMapping, safe: SafeValues, today: date) -> None:
    """Refuse a mapping whose calibrations have expired, or whose safe values contradict the limits'.

    Raises
    ------
    ConfigurationError
    """
    problems = mapping.expired(today) + mapping.unsafe(safe)
    if problems:
        raise ConfigurationError(*problems)


def _setting_problems(name: SettingName, mapped: MappedSetting) -> list[str]:
    where, target, calibration = f"settings.{name}", mapped.target, mapped.calibration
    problems = []
    if target.kind not in _TARGETS.get(name, ("property", "parameter", "fixed")):
        problems.append(f"{where}.target: {target.kind!r} cannot hold this setting")
    if isinstance(target, ParameterTarget) and name in {"stage", "pixels"} and isinstance(target.path, str):
        problems.append(f"{where}.target.path: two paths are needed, [x, y]")
    if isinstance(target, FixedTarget):
        return problems
    if mapped.unit not in {None, UNITS[name]} and calibration is None:
        problems.append(
            f"{where}: the device's unit {mapped.unit!r} is not {UNITS[name]!r}: a calibration is needed"
        )
    if isinstance(calibration, Choice):
        if not isinstance(target, PropertyTarget | ParameterTarget):
            problems.append(f"{where}.calibration: a choice goes to a property, not to {target.kind!r}")
        if calibration.pick == "down" and name not in MAY_ROUND_DOWN:
            problems.append(
                f"{where}.calibration: pick = 'down' is for {list(MAY_ROUND_DOWN)}, which then give less "
                f"light than asked; here 'exact' is allowed"
            )
    if calibration is not None and calibration.where != "sample" and name not in LIGHTS:
        problems.append(f"{where}.calibration: where = {calibration.where!r} is for lights")
    if mapped.max_step is not None and name in LIGHTS:
        problems.append(f"{where}: max_step is not for lights; see {name[:-2]}_step_w in [limits]")
    if name in _NEED_LIMITS and (mapped.low is None or mapped.high is None):
        problems.append(f"{where}: low and high are needed")
    return problems + _range_problems(where, name, mapped)


def _range_problems(where: str, name: SettingName, mapped: MappedSetting) -> list[str]:
    low = mapped.low if mapped.low is not None else 0.0
    high = mapped.high if mapped.high is not None else low
    problems = []
    if not low <= high:
        problems.append(f"{where}: low={low:g} is above high={high:g}")
    if name in LIGHTS:
        if mapped.safe is None:
            return [*problems, f"{where}: a light needs a safe value"]
        if not 0 <= mapped.safe <= high:
            return [*problems, f"{where}: safe={mapped.safe:g} is outside 0..high={high:g}"]
        low = min(low, mapped.safe)
    elif mapped.safe is not None:
        problems.append(f"{where}: safe is for lights")
    if mapped.calibration is not None and not mapped.calibration.covers(low, high):
        problems.append(f"{where}: the calibration does not reach from {low:g} to {high:g}")
    elif mapped.safe is not None:
        problems += _safe_problems(where, mapped, mapped.safe)
    return problems


def _safe_problems(where: str, mapped: MappedSetting, safe: float) -> list[str]:
    try:
        problem = mapped.rounding_problem(safe)
        if problem is None and not math.isclose(mapped.achievable(safe), safe, rel_tol=2e-6):
            problem = f"the device would go to {mapped.achievable(safe):g}"
    except ValueError as error:
        problem = str(error)
    return [] if problem is None else [f"{where}: safe={safe:g}: {problem}"]
