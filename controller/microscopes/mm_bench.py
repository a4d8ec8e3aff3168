"""Micro-Manager devices for ``stedfast check``: their files, what they read, and a short exercise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from controller.core.checking import OfflineCheck, Reading, Step
from controller.core.errors import ConfigurationError, DeviceError
from controller.core.limits import SafetyLimits
from controller.core.protocols import Resources
from controller.microscopes.calibrations import Choice
from controller.microscopes.device_mapping import (
    LIGHTS,
    UNITS,
    CameraRegionTarget,
    DeviceMapping,
    FixedTarget,
    MappedSetting,
    PropertyTarget,
    SettingName,
)
from controller.microscopes.device_plan import Values, Write, write_of
from controller.microscopes.mapping_checks import common_problems, undoable
from controller.microscopes.micromanager_config import (
    adapter_folder,
    find_config,
    mapping_problems,
    missing_libraries,
    read_config,
)
from controller.microscopes.mm_devices import Devices, told_as_device_errors

#: How far an exercise moves a stage or focus from where it stands, in all.
_REACH_M = 10e-6


def check_offline(mapping: DeviceMapping, resources: Resources) -> OfflineCheck:
    """Check a mapping and the ``.cfg`` that it names as files; connect to nothing."""
    problems, notes = common_problems(mapping, resources), []
    summary = ""
    try:
        config = read_config(find_config(mapping, resources.folder))
    except ConfigurationError as error:
        problems += error.problems
    else:
        summary = f"{config.path}: {len(config.devices)} devices of {', '.join(config.libraries)}"
        problems += [f"microscope.options.config_file: {problem}" for problem in config.problems]
        problems += mapping_problems(mapping, config)
        adapters = adapter_folder(mapping.adapters, resources.folder)
        if adapters is None:
            notes.append(f"adapters: {mapping.adapters} is not on this computer and was not looked at")
        else:
            problems += [
                f"microscope.options.adapters: {adapters} has no adapter {library!r}, which "
                f"{config.path.name} loads"
                for library in missing_libraries(config, adapters)
            ]
    notes += _interface_notes(mapping.device_interface)
    return OfflineCheck(summary, tuple(problems), (*notes, *undoable(mapping, resources.limits)))


def _interface_notes(wanted: int) -> list[str]:
    try:
        installed = version("pymmcore")
    except PackageNotFoundError:
        return ["pymmcore is not installed here: --live needs: pip install 'stedfast[mm]'"]
    numbers = installed.split(".")
    if len(numbers) > 3 and numbers[3] != str(wanted):
        return [f"device_interface: {wanted} is asked, the pymmcore of this computer ({installed}) differs"]
    return []


class DeviceBench:
    """Devices that are connected to for a check: dark from the first moment to the last.

    Parameters
    ----------
    devices
        Dark already.
    limits
        An exercise stays inside them.
    """

    def __init__(self, devices: Devices, limits: SafetyLimits) -> None:
        self._devices, self._limits = devices, limits

    def readings(self) -> list[Reading]:
        """Return what every setting reads; nothing is written."""
        found = []
        with told_as_device_errors():
            for name in self._devices.mapping.order:
                mapped = self._devices.mapping.settings[name]
                target = mapped.target
                if isinstance(target, FixedTarget):
                    found.append(Reading(name, "fixed", (), (target.value,), UNITS[name]))
                else:
                    told = tuple(str(value) for value in self._devices.read(mapped))
                    si = self._devices.read_si(mapped)
                    found.append(Reading(name, self._place(mapped), told, si, UNITS[name]))
        return found

    def exercise(self) -> Iterator[Step]:
        """Move every setting that makes no light a little, and back, with the lights safe.

        Raises
        ------
        DeviceError
            If it is not dark; nothing is moved from then on.
        """
        devices = self._devices
        with told_as_device_errors():
            devices.put_out()
            self._require_dark()
            devices.start_up()
            for name in devices.mapping.order:
                self._require_dark()
                mapped = devices.mapping.settings[name]
                if isinstance(mapped.target, FixedTarget):
                    continue
                if name in LIGHTS:
                    yield self._step(write_of(name, mapped, (mapped.safe or 0.0,)))
                else:
                    yield from self._stepped(name, mapped)

    def close(self) -> None:
        """Put the lights out, make sure that they are, and release the devices.

        Raises
        ------
        DeviceError
            If it is not dark.
        """
        with told_as_device_errors():
            try:
                self._devices.put_out()
                is_dark = self._devices.is_dark()
            finally:
                self._devices.close()
            if not is_dark:
                raise DeviceError("the light could not be confirmed off: close the shutter by hand")

    def _require_dark(self) -> None:
        if not self._devices.is_dark():
            raise DeviceError("the light is not off: nothing is moved; --live shows what the lights read")

    def _stepped(self, name: SettingName, mapped: MappedSetting) -> Iterator[Step]:
        before = self._devices.read_si(mapped)
        stations = self._stations(name, mapped, before)
        if isinstance(stations, str):
            yield Step(name, self._place(mapped), unit=UNITS[name], problem=stations)
            return
        for values in (*stations, before):
            try:
                write = write_of(name, mapped, values)
            except ValueError as error:
                yield Step(name, self._place(mapped), values, unit=UNITS[name], problem=str(error))
            else:
                yield self._step(write)

    def _step(self, write: Write) -> Step:
        """Write one setting and read it back; a failure is told, and does not end the exercise."""
        devices, mapped = self._devices, write.mapped
        problem, device = None, devices.device_of(mapped)
        start_s = time.monotonic()
        try:
            devices.send(write)
            if device:
                devices.core.waitForDevice(device)
        except Exception as error:  # noqa: BLE001  # told as a step that failed
            problem = str(error)
        write_s = time.monotonic() - start_s
        try:
            read = devices.read_si(mapped)
            is_inside = None if mapped.tolerance is None else devices.reads(write)
        except Exception as error:  # noqa: BLE001  # as above
            read, is_inside, problem = (), None, problem or str(error)
        place, unit = self._place(mapped), UNITS[write.name]
        return Step(write.name, place, write.si, read, unit, write_s, is_inside, problem)

    def _stations(self, name: SettingName, mapped: MappedSetting, before: Values) -> tuple[Values, ...] | str:
        """Return where to go from ``before``, or why nowhere."""
        if not before:
            return "it reads a value that its calibration does not know; nothing was moved"
        if name == "pixels":
            return self._regions(mapped)
        if name == "focus_m" and self._limits.focus_min_m is None:
            return "focus_min_m and focus_max_m are not set in [limits]; nothing was moved"
        is_place = name in {"stage", "focus_m"}
        ranges = self._ranges(name, mapped)
        if is_place and not all(low <= now <= high for now, (low, high) in zip(before, ranges, strict=True)):
            allowed = ", ".join(f"{low:g}..{high:g}" for low, high in ranges)
            stands = ", ".join(f"{now:g}" for now in before)
            return f"it stands at {stands} {UNITS[name]}, outside {allowed}; nothing was moved"
        reach = _REACH_M / 2 if is_place else float("inf")
        if mapped.max_step is not None:
            reach = min(reach, mapped.max_step / 2)  # from one end to the other is a step, too
        ends = [
            (max(low, now - reach), min(high, now + reach))
            for now, (low, high) in zip(before, ranges, strict=True)
        ]
        if name == "stage":
            (left, right), (top, bottom) = ends
            return (left, top), (right, top), (right, bottom), (left, bottom)
        return tuple((end,) for end in dict.fromkeys(ends[0]))

    def _ranges(self, name: SettingName, mapped: MappedSetting) -> list[tuple[float, float]]:
        """Return the lowest and highest value that limits and mapping allow, for each axis."""
        limits = self._limits
        y0, x0, y1, x1 = limits.stage_box.bounds_yx_m
        outer = {
            "stage": [(x0, x1), (y0, y1)],
            "focus_m": [(limits.focus_min_m or 0.0, limits.focus_max_m or 0.0)],
            "pixel_size_m": [(limits.pixel_size_min_m, limits.pixel_size_max_m)],
            "dwell_s": [(limits.dwell_min_s, limits.dwell_max_s * limits.line_averages_max)],
            "frame_s": [(0.0, limits.frame_max_s)],
        }[name]
        lowest = float("-inf") if mapped.low is None else mapped.low
        highest = float("inf") if mapped.high is None else mapped.high
        inner = [(max(low, lowest), min(high, highest)) for low, high in outer]
        if not isinstance(mapped.calibration, Choice):
            return inner
        known = [value for value in mapped.calibration.value if inner[0][0] <= value <= inner[0][1]]
        return [(known[0], known[-1])] if known else inner

    def _regions(self, mapped: MappedSetting) -> tuple[Values, ...]:
        columns, rows = self._devices.chip[2:]
        low, high = int(mapped.low or 16), int(mapped.high or max(columns, rows))
        small, large = (min(low, columns), min(low, rows)), (min(high, columns), min(high, rows))
        return tuple((float(x), float(y)) for x, y in (small, large))

    def _place(self, mapped: MappedSetting) -> str:
        device = self._devices.device_of(mapped)
        if isinstance(mapped.target, PropertyTarget):
            return f"{device}.{mapped.target.property}"
        return f"{device} region" if isinstance(mapped.target, CameraRegionTarget) else device
