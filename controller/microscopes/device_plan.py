"""From a scan to the writes that do it. Pure: everything is checked before the first write."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from controller.core.errors import InvalidRequestError
from controller.core.settings import ScanSettings
from controller.microscopes.calibrations import Told
from controller.microscopes.device_mapping import (
    LIGHTS,
    MAY_ROUND_DOWN,
    UNITS,
    FixedTarget,
    MappedSetting,
    ProductLimit,
    ScanMapping,
    SettingName,
)

_WHERE = "microscope.options"
Values = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """One command to a device: ``si`` in SI units, ``told`` in the device's own.

    Both hold one value, or ``(x, y)`` of a stage, or ``(columns, rows)``.
    """

    name: SettingName
    mapped: MappedSetting
    si: Values
    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The writes of a scan in their order, and the scan as the devices will really do it."""

    scan: ScanSettings
    writes: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that the devices cannot do; ``amount`` tells which of two is more extreme."""

    subject: str
    amount: float
    text: str


def plan(
    mapping: ScanMapping,
    scan: ScanSettings,
    stands: Mapping[SettingName, Values] = MappingProxyType({}),
) -> Plan:
    """Return how a scan is done; check everything first, write nothing.

    ``stands`` is where the devices stand now, as far as that is known, for the settings that may only
    change in steps.

    Raises
    ------
    InvalidRequestError
        Naming every setting that the devices cannot do.
    """
    planned, refused = _planned(mapping, scan, stands)
    if refused:
        raise InvalidRequestError("; ".join(refusal.text for refusal in refused))
    return planned


def refusals(mapping: ScanMapping, scan: ScanSettings) -> list[Refusal]:
    """Return everything of a scan that the devices cannot do, wherever they stand."""
    return _planned(mapping, scan, {})[1]


def safe_writes(mapping: ScanMapping) -> tuple[Write, ...]:
    """Return the writes that put every light to its safe value."""
    return tuple(
        write_of(name, mapped, (mapped.safe,))
        for name, mapped in ((name, mapping.settings.get(name)) for name in LIGHTS)
        if mapped is not None and mapped.safe is not None
    )


def write_of(name: SettingName, mapped: MappedSetting, si: Values) -> Write:
    """Return the write of one setting.

    Raises
    ------
    ValueError
        If its calibration does not know the value.
    """
    return Write(name, mapped, si, tuple(mapped.to_device(value) for value in si))


def _planned(
    mapping: ScanMapping, scan: ScanSettings, stands: Mapping[SettingName, Values]
) -> tuple[Plan, list[Refusal]]:
    refused = _missing(mapping, scan)
    scan, found = _rounded_down(mapping, scan)
    refused += found
    wanted, writes = _wanted(scan), []
    for name in mapping.order:
        mapped, values = mapping.settings[name], wanted[name]
        found = _limit_refusals(name, mapped, values) + _step_refusals(name, mapped, values, stands.get(name))
        if values and not found:
            try:
                writes.append(write_of(name, mapped, values))
                problems = [mapped.rounding_problem(value) for value in values]
            except ValueError as error:
                problems = [str(error)]
            found = [
                _refusal(name, values[0], f"cannot be set: {problem}") for problem in problems if problem
            ]
        refused += found
    refused += [refusal for limit in mapping.products for refusal in _product_refusals(limit, wanted)]
    return Plan(scan, tuple(writes)), list(dict.fromkeys(refused))


def _wanted(scan: ScanSettings) -> dict[SettingName, Values]:
    """Return the SI values of each setting; none for one that the scan leaves alone."""
    (rows, columns), (y_m, x_m) = scan.shape_yx, scan.region.center_yx_m
    return {
        "stage": (x_m, y_m),
        "focus_m": () if scan.focus_m is None else (scan.focus_m,),
        "pixels": (float(columns), float(rows)),
        "pixel_size_m": (scan.pixel_size_m,),
        "dwell_s": (scan.pixel_time_s,),
        "frame_s": (scan.duration_s,),
        "excitation_w": (scan.excitation_w,),
        "sted_w": (scan.sted_w,),
    }


def _missing(mapping: ScanMapping, scan: ScanSettings) -> list[Refusal]:
    found = [
        Refusal(name, value, f"{name}={value:g} W is asked, and this microscope has no such light")
        for name, value in (("excitation_w", scan.excitation_w), ("sted_w", scan.sted_w))
        if name not in mapping.settings and value > 0
    ]
    if scan.focus_m is not None and "focus_m" not in mapping.settings:
        asked = f"focus_m={scan.focus_m:g} m is asked"
        text = f"{asked}, and this microscope has no focus drive ({_WHERE}.settings.focus_m)"
        found.append(Refusal("focus_m", scan.focus_m, text))
    return found


def _rounded_down(mapping: ScanMapping, scan: ScanSettings) -> tuple[ScanSettings, list[Refusal]]:
    """Return the scan with what the devices make of it: less light than asked, never more."""
    refused: list[Refusal] = []
    changes: dict[str, float] = {}
    for name in MAY_ROUND_DOWN:
        mapped = mapping.settings.get(name)
        if mapped is None:
            continue
        (asked,) = _wanted(scan)[name]
        found = _limit_refusals(name, mapped, (asked,))
        try:
            taken = mapped.achievable(asked)
        except ValueError as error:
            found = found or [_refusal(name, asked, f"cannot be set: {error}")]
        else:
            if not math.isclose(taken, asked, rel_tol=2e-6):
                changes[name] = taken / scan.line_averages if name == "dwell_s" else taken
        refused += found
    return (scan.replace(**changes) if changes and not refused else scan), refused


def _limit_refusals(name: SettingName, mapped: MappedSetting, values: Iterable[float]) -> list[Refusal]:
    target = mapped.target
    if isinstance(target, FixedTarget):
        return [
            _refusal(name, value, f"is asked, this hardware has {target.value:g}")
            for value in values
            if not math.isclose(value, target.value, rel_tol=1e-6)
        ]
    low = float("-inf") if mapped.low is None else mapped.low
    high = float("inf") if mapped.high is None else mapped.high
    return [
        _refusal(name, value, f"is outside {low:g}..{high:g}")
        for value in values
        # A light that is not asked for goes to its safe value, which may lie below what may be asked.
        if not (low <= value <= high or (name in LIGHTS and value == mapped.safe))
    ]


def _step_refusals(
    name: SettingName, mapped: MappedSetting, values: Values, stands: Values | None
) -> list[Refusal]:
    if mapped.max_step is None or stands is None:
        return []
    return [
        _refusal(
            name, value, f"is a step of {abs(value - now):g} from {now:g}, allowed is {mapped.max_step:g}"
        )
        for value, now in zip(values, stands, strict=False)
        if not abs(value - now) <= mapped.max_step * (1 + 1e-9)
    ]


def _product_refusals(limit: ProductLimit, wanted: Mapping[SettingName, Values]) -> list[Refusal]:
    product = math.prod(wanted[factor][0] for factor in limit.factors)
    if product <= limit.max:
        return []
    factors = " * ".join(limit.factors)
    text = f"{factors} = {product:g} in SI units, allowed is {limit.max:g} ({_WHERE}.products)"
    return [Refusal(factors, product, text)]


def _refusal(name: SettingName, value: float, words: str) -> Refusal:
    return Refusal(name, value, f"{name}={value:g} {UNITS[name]} {words} ({_WHERE}.settings.{name})")
