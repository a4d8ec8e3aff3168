"""The devices of a mapping, through Micro-Manager's core: write, wait, read back, make dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from controller.core.errors import ConfigurationError, DeviceError, StedfastError
from controller.core.protocols import Clock
from controller.microscopes.calibrations import Choice, Told
from controller.microscopes.device_mapping import (
    CameraRegionTarget,
    DeviceMapping,
    ExposureTarget,
    FocusTarget,
    MappedSetting,
    PropertyTarget,
    PropertyValue,
    StageTarget,
    Switch,
)
from controller.microscopes.device_plan import Values, Write, safe_writes

if TYPE_CHECKING:
    from pymmcore import CMMCore

_MICRO = 1e6
_MILLI = 1e3
_DEFAULT_TOLERANCE = 1e-6


class Devices:
    """Writes to devices and reads them back, as a mapping says. Dark from the first moment.

    Parameters
    ----------
    core
        A core with its devices loaded. Nobody else may use it.
    mapping
        Which property stands for which setting.
    clock
        Only settling waits on it.

    Raises
    ------
    ConfigurationError
        If the mapping does not fit the loaded devices; nothing was written.
    """

    def __init__(self, core: CMMCore, mapping: DeviceMapping, clock: Clock) -> None:
        self.core, self.mapping, self._clock = core, mapping, clock
        self.is_closed = False
        pixels = mapping.settings.get("pixels")
        self._has_region = pixels is not None and isinstance(pixels.target, CameraRegionTarget)
        problems = connection_problems(core, mapping)
        if problems:
            raise ConfigurationError(*problems)
        core.setTimeoutMs(int(mapping.timeout_s * _MILLI))
        core.setAutoShutter(False)
        core.setShutterDevice(mapping.shutter)
        core.setCameraDevice(mapping.camera)
        self.put_out()
        self.chip = self._region()

    def start_up(self) -> None:
        """Set what is set once, and find the camera's whole chip."""
        for start in self.mapping.startup:
            self.core.setProperty(start.device, start.property, start.value)
        self.core.waitForSystem()
        self.core.clearROI()
        self.chip = self._region()

    def apply(self, write: Write) -> None:
        """Write one setting, wait for its device with a bound, and read it back.

        Raises
        ------
        DeviceError
            If it does not read what was written.
        """
        device = self.device_of(write.mapped)
        if write.mapped.tolerance is not None:
            if device:
                self.core.waitForDevice(device)  # somebody else may be moving it: what it reads is not final
            if self.reads(write):
                return  # it is there already: nothing has to move
        self.send(write)
        if device:
            self.core.waitForDevice(device)
        if write.mapped.settle_s > 0:
            self._clock.sleep(write.mapped.settle_s)
        if write.mapped.tolerance is not None:
            self.require(write, "was set to")
        if write.name == "pixel_size_m" and device and self._has_region:
            # Some scanners change their number of pixels with it, and with that the middle of the chip.
            self.core.clearROI()
            self.chip = self._region()

    def require(self, write: Write, what: str) -> None:
        """Make sure that a setting reads what was written.

        Raises
        ------
        DeviceError
        """
        if not self.reads(write):
            raise DeviceError(
                f"{write.name}: {self.device_of(write.mapped)} {what} {_told(write.told)}, it reads "
                f"{_told(self.read(write.mapped))} (microscope.options.settings.{write.name}.tolerance)"
            )

    def open_shutter(self) -> None:
        """Let the light on the sample: the switches, then the shutter."""
        for switch in self.mapping.switches:
            self.core.setProperty(switch.device, switch.property, switch.lit)
        for switch in self.mapping.switches:
            self.core.waitForDevice(switch.device)
        self.core.setShutterOpen(True)
        self.core.waitForDevice(self.mapping.shutter)

    def put_out(self) -> None:
        """Close the shutter, then every light to safe; one that fails does not keep the next one on.

        Raises
        ------
        DeviceError
            If a step failed. Whether it is dark all the same is for the caller to find out.
        """
        if self.is_closed:
            return
        core, lights = self.core, safe_writes(self.mapping)
        steps: list[Callable[[], object]] = [lambda: core.setShutterOpen(self.mapping.shutter, False)]
        steps += [lambda write=write: self.send(write) for write in lights]  # type: ignore[misc]
        steps += [
            lambda switch=switch: core.setProperty(switch.device, switch.property, switch.dark)  # type: ignore[misc]
            for switch in self.mapping.switches
        ]
        # All are told before any is waited for: a slow light must not keep the next one on.
        waited = [self.device_of(write.mapped) for write in lights]
        waited += [switch.device for switch in self.mapping.switches]
        steps += [lambda device=device: core.waitForDevice(device) for device in dict.fromkeys(waited)]  # type: ignore[misc]
        failures = []
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001  # the next light must go out, too
                failures.append(str(error))
        if failures:
            raise DeviceError(f"putting the light out failed: {'; '.join(failures)}")

    def is_dark(self) -> bool:
        """Read back whether the shutter is closed, every light at its safe value and every switch off."""
        if self.is_closed:
            return True  # closed in the dark, and no device is loaded any more
        if self.core.getShutterOpen(self.mapping.shutter):
            return False
        return all(self.reads(write) for write in safe_writes(self.mapping)) and all(
            _is_same(self.core.getProperty(switch.device, switch.property), switch.dark)
            for switch in self.mapping.switches
        )

    def close(self) -> None:
        """Put the light out and unload the devices."""
        if not self.is_closed:
            self.put_out()
            self.is_closed = True
            self.core.unloadAllDevices()

    def send(self, write: Write) -> None:
        """Tell a device its value, without waiting for it."""
        target, told = write.mapped.target, write.told
        if isinstance(target, PropertyTarget):
            text = told[0] if isinstance(told[0], str) else f"{told[0]:.{target.decimals}f}"
            self.core.setProperty(target.device, target.property, text)
            return
        numbers = [float(value) for value in told]
        if isinstance(target, StageTarget):
            self.core.setXYPosition(target.device, numbers[0] * _MICRO, numbers[1] * _MICRO)
        elif isinstance(target, FocusTarget):
            self.core.setPosition(target.device, numbers[0] * _MICRO)
        elif isinstance(target, ExposureTarget):
            self.core.setExposure(numbers[0] * _MILLI)
        elif isinstance(target, CameraRegionTarget):
            x, y, width, height = self.chip
            columns, rows = (int(value) for value in numbers)
            self.core.setROI(x + (width - columns) // 2, y + (height - rows) // 2, columns, rows)

    def read(self, mapped: MappedSetting) -> tuple[Told, ...]:
        """Return what a device tells, in its own unit; nothing for what is fixed."""
        target = mapped.target
        if isinstance(target, PropertyTarget):
            return (self.core.getProperty(target.device, target.property),)
        if isinstance(target, StageTarget):
            x_um, y_um = self.core.getXPosition(target.device), self.core.getYPosition(target.device)
            return x_um / _MICRO, y_um / _MICRO
        if isinstance(target, FocusTarget):
            return (self.core.getPosition(target.device) / _MICRO,)
        if isinstance(target, ExposureTarget):
            return (self.core.getExposure() / _MILLI,)
        if isinstance(target, CameraRegionTarget):
            _, _, columns, rows = self.core.getROI()
            return float(columns), float(rows)
        return ()

    def read_si(self, mapped: MappedSetting) -> Values:
        """Return what a device tells, in SI units; nothing if its calibration does not know that."""
        try:
            return tuple(mapped.to_si(told) for told in self.read(mapped))
        except ValueError:
            return ()

    def reads(self, write: Write) -> bool:
        """Tell whether a device reads what was written, to within the setting's tolerance in SI units."""
        mapped, told = write.mapped, self.read(write.mapped)
        if not told:
            return True  # fixed
        tolerance = _DEFAULT_TOLERANCE if mapped.tolerance is None else mapped.tolerance
        try:
            read = [mapped.to_si(value) for value in told]
        except ValueError:
            return False  # beyond the calibration, or not a number
        # As the device was told: what its decimals cut off is the plan's affair.
        return all(abs(now - wanted) <= tolerance for now, wanted in zip(read, write.si, strict=True))

    def device_of(self, mapped: MappedSetting) -> str:
        """Return the label of the device that holds a setting."""
        target = mapped.target
        if isinstance(target, PropertyTarget | StageTarget | FocusTarget):
            return target.device
        return self.mapping.camera if isinstance(target, ExposureTarget | CameraRegionTarget) else ""

    def _region(self) -> tuple[int, int, int, int]:
        x, y, columns, rows = self.core.getROI()
        return int(x), int(y), int(columns), int(rows)


@contextmanager
def told_as_device_errors() -> Iterator[None]:
    """Turn what MMCore raises into :class:`DeviceError`."""
    try:
        yield
    except StedfastError:
        raise
    except Exception as error:
        raise DeviceError(f"Micro-Manager: {error}") from error


def connection_problems(core: CMMCore, mapping: DeviceMapping) -> list[str]:
    """Return what of a mapping does not fit the loaded devices, a sentence each; nothing is written."""
    loaded = {str(label) for label in core.getLoadedDevices()}
    problems = [
        f"microscope.options.{key}: there is no device {device!r}; loaded are {sorted(loaded)}"
        for key, device in (("camera", mapping.camera), ("shutter", mapping.shutter))
        if device not in loaded
    ]
    for label, library in mapping.expected_devices.items():
        found = str(core.getDeviceLibrary(label)) if label in loaded else "nothing"
        if found != library:
            problems.append(
                f"microscope.options.expected_devices.{label}: {library!r} is expected, loaded is {found!r}"
            )
    for number, start in enumerate(mapping.startup):
        where = f"microscope.options.startup.{number}"
        problems += _property_problems(core, where, start, loaded, {"value": start.value})
    for number, switch in enumerate(mapping.switches):
        where, values = f"microscope.options.switches.{number}", {"lit": switch.lit, "dark": switch.dark}
        problems += _property_problems(core, where, switch, loaded, values)
    for name, mapped in mapping.settings.items():
        where, target = f"microscope.options.settings.{name}", mapped.target
        if isinstance(target, StageTarget | FocusTarget) and target.device not in loaded:
            problems.append(f"{where}.target.device: there is no device {target.device!r}")
        elif isinstance(target, PropertyTarget):
            choices = mapped.calibration.device if isinstance(mapped.calibration, Choice) else ()
            values = {f"calibration.device {value}": str(value) for value in choices}
            found_here = _property_problems(core, f"{where}.target", target, loaded, values)
            problems += found_here or _range_problems(core, f"{where}.target", target, mapped)
    return problems


def _property_problems(
    core: CMMCore,
    where: str,
    target: PropertyTarget | PropertyValue | Switch,
    loaded: set[str],
    values: dict[str, str],
) -> list[str]:
    if target.device not in loaded:
        return [f"{where}.device: there is no device {target.device!r}"]
    if not core.hasProperty(target.device, target.property):
        known = sorted(core.getDevicePropertyNames(target.device))
        return [f"{where}.property: {target.device} has no property {target.property!r}; it has {known}"]
    if core.isPropertyReadOnly(target.device, target.property):
        return [f"{where}.property: {target.property!r} of {target.device} is read-only"]
    if core.isPropertyPreInit(target.device, target.property):
        when = f"{target.property!r} of {target.device} is read when the device is initialised"
        return [f"{where}.property: {when}; set it in the .cfg"]
    allowed = [str(value) for value in core.getAllowedPropertyValues(target.device, target.property)]
    return [
        f"{where}.{key}: {value!r} is none of the values of {target.property!r}: {allowed}"
        for key, value in values.items()
        if allowed and not any(_is_same(value, known) for known in allowed)
    ]


def _range_problems(core: CMMCore, where: str, target: PropertyTarget, mapped: MappedSetting) -> list[str]:
    """Compare our limits with the adapter's own, in the device's unit."""
    known = core.hasPropertyLimits(target.device, target.property)
    if mapped.low is None or mapped.high is None or not known or isinstance(mapped.calibration, Choice):
        return []
    low = mapped.low if mapped.safe is None else min(mapped.low, mapped.safe)
    ours = sorted(float(mapped.to_device(value)) for value in (low, mapped.high))
    theirs = (
        core.getPropertyLowerLimit(target.device, target.property),
        core.getPropertyUpperLimit(target.device, target.property),
    )
    slack = 1e-9 * max(abs(theirs[0]), abs(theirs[1]), 1.0)
    if theirs[0] - slack <= ours[0] and ours[1] <= theirs[1] + slack:
        return []
    return [f"{where}: low and high are {ours} in the device's unit, the device allows {theirs}"]


def _is_same(read: str, wanted: str) -> bool:
    """Compare two property values: as numbers, if both are, since 1 may come as "1.0000"."""
    try:
        return math.isclose(float(read), float(wanted), rel_tol=1e-9)
    except ValueError:
        return read == wanted


def _told(values: tuple[Told, ...]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
