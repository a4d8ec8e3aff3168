"""A microscope through Micro-Manager's core (MMCore) in this process: no Java, one C++ call a command.

The order of a scan: stage, sampling and exposure are written, then the lights, each waited for with a
bound and read back; the shutter opens for the exposure alone; then the shutter closes and the lights go
to their safe values. Any failure: lights to safe, shutter closed, then the error.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import (
    AcquisitionStoppedError,
    ConfigurationError,
    DeviceError,
    StedfastError,
)
from controller.core.frame import Frame
from controller.core.protocols import Capabilities, Clock, Resources
from controller.core.settings import ScanSettings
from controller.microscopes.device_mapping import (
    CameraRegionTarget,
    DeviceMapping,
    ExposureTarget,
    MappedSetting,
    PropertyTarget,
    PropertyValue,
    StageTarget,
    Write,
    plan,
    require_valid,
    safe_writes,
)

if TYPE_CHECKING:
    from pymmcore import CMMCore

_MICRO = 1e6
_MILLI = 1e3
_DEFAULT_TOLERANCE = 1e-6
_POLL_S = 2e-4


class MMCoreMicroscope:
    """Drives devices of Micro-Manager as a :class:`~controller.core.guard.GuardedMicroscope` asks.

    Parameters
    ----------
    core
        A core with its devices loaded. Nobody else may use it.
    mapping
        Which property stands for which setting.
    clock
        The session's clock; only settling waits on it.
    """

    class Options(DeviceMapping):
        """See ``DeviceMapping`` and ``hardware_configs/README.md``."""

    def __init__(self, core: CMMCore, mapping: DeviceMapping, clock: Clock) -> None:
        self._core, self._mapping, self._clock = core, mapping, clock
        self._stopping = threading.Event()
        self._index = 0
        self._is_closed = False
        problems = connection_problems(core, mapping)
        if problems:
            raise ConfigurationError(*problems)
        core.setTimeoutMs(int(mapping.timeout_s * _MILLI))
        core.setAutoShutter(False)
        core.setShutterDevice(mapping.shutter)
        core.setCameraDevice(mapping.camera)
        self.stop()
        for start in mapping.startup:
            core.setProperty(start.device, start.property, start.value)
        core.waitForSystem()
        self._chip = self._whole_chip()

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Load the Micro-Manager configuration that the options name, and check it against them."""
        require_valid(options, datetime.now(UTC).date())
        return cls(load_core(options, resources.folder), options, resources.clock)

    def capabilities(self) -> Capabilities:
        """Return what the devices can do."""
        columns, rows = self._chip[2:]
        pixel_m = self._pixel_size_m()
        return Capabilities(
            name=f"Micro-Manager camera {self._mapping.camera}",
            modalities=self._mapping.modalities,
            fov_size_yx_m=(rows * pixel_m, columns * pixel_m),
            simulated=False,
            details={
                "core": str(self._core.getVersionInfo()),
                "interface": str(self._core.getAPIVersionInfo()),
                "devices": ", ".join(self._core.getLoadedDevices()),
            },
        )

    def acquire(self, settings: ScanSettings) -> Frame:
        """Do one scan.

        Raises
        ------
        InvalidRequestError
            If the devices cannot do it; nothing was written.
        DeviceError
            If a device failed, did not take a value, or was too slow. The light is off.
        AcquisitionStoppedError
            If :meth:`stop` was called meanwhile.
        """
        with self._lit(settings) as started_s:
            self._expose()
        with _told_as_device_errors():
            grey = self._image()
        return self._frame(grey, settings, started_s)

    def stream(self, settings: ScanSettings, frames: int) -> Iterator[Frame]:
        """Do one scan again and again without a pause; the camera keeps the time.

        The light stays on from the first frame to the last. Raises as :meth:`acquire` does, also if the
        camera's buffer ran over, which loses frames.
        """
        with self._lit(settings) as started_s:
            self._core.startSequenceAcquisition(frames, 0.0, True)
            try:
                for number in range(frames):
                    grey = self._next_image(settings.duration_s)
                    yield self._frame(grey, settings, started_s + number * settings.duration_s)
            finally:
                self._core.stopSequenceAcquisition()

    @contextmanager
    def _lit(self, settings: ScanSettings) -> Iterator[float]:
        """Write the settings, open the shutter, and make it dark again on every way out.

        Gives the time on the session's clock at which the light went on.
        """
        if self._is_closed:
            raise DeviceError("this microscope is closed")
        writes = plan(self._mapping, settings)
        self._stopping.clear()
        with _told_as_device_errors():
            try:
                for write in writes:
                    self._apply(write)
                self._raise_if_stopped()
                started_s = self._clock.now_s()
                self._core.setShutterOpen(True)
                self._core.waitForDevice(self._mapping.shutter)
                yield started_s
            finally:
                self._put_out()
        self._raise_if_stopped()

    def _expose(self) -> None:
        """Take an image; the light is on."""
        self._core.snapImage()

    def _image(self) -> NDArray[Any]:
        """Return the image that was taken, in grey levels; the light is off again."""
        return np.asarray(self._core.getImage())

    def _next_image(self, expected_s: float) -> NDArray[Any]:
        """Return the next image of a running sequence, within the time-out of the devices."""
        core, patience_s = self._core, _POLL_S
        due_s = time.monotonic() + expected_s + self._mapping.timeout_s
        while core.getRemainingImageCount() == 0:
            self._raise_if_stopped()
            if core.isBufferOverflowed():
                raise DeviceError("the camera's buffer ran over: frames are lost; ask for a slower movie")
            if time.monotonic() > due_s:
                raise DeviceError(f"no image came within {expected_s + self._mapping.timeout_s:g} s")
            self._stopping.wait(patience_s)
        return np.asarray(core.popNextImage())

    def _frame(self, grey: NDArray[Any], settings: ScanSettings, started_s: float) -> Frame:
        if self._mapping.grey_offset or self._mapping.grey_per_photon != 1:
            photons = grey.astype(np.float32)
            photons -= np.float32(self._mapping.grey_offset)
            np.maximum(photons, 0, out=photons)
            photons /= np.float32(self._mapping.grey_per_photon)
            grey = photons
        index, self._index = self._index, self._index + 1
        return Frame(grey, settings, index, started_s)

    def stop(self) -> None:
        """Close the shutter and put every light to its safe value; callable from any thread."""
        self._stopping.set()
        self._put_out()

    def is_dark(self) -> bool:
        """Read back whether the shutter is closed and every light at its safe value."""
        if self._is_closed:
            return True  # closed in the dark, and no device is loaded any more
        if self._core.getShutterOpen(self._mapping.shutter):
            return False
        return all(self._reads(write) for write in safe_writes(self._mapping))

    def close(self) -> None:
        """Put the light out and unload the devices."""
        if not self._is_closed:
            self.stop()
            self._is_closed = True
            self._core.unloadAllDevices()

    def _apply(self, write: Write) -> None:
        """Write one setting, wait for its device with a bound, and read it back."""
        self._raise_if_stopped()
        if write.mapped.tolerance is not None and self._reads(write):
            return  # it is there already: nothing has to move
        self._send(write)
        device = self._device(write)
        if device:
            self._core.waitForDevice(device)
        if write.mapped.settle_s > 0:
            self._clock.sleep(write.mapped.settle_s)
        if write.mapped.tolerance is not None and not self._reads(write):
            raise DeviceError(
                f"{write.name}: {device} was set to {write.values}, it reads {self._read(write)} "
                f"(microscope.options.settings.{write.name}.tolerance)"
            )

    def _send(self, write: Write) -> None:
        target, values = write.mapped.target, write.values
        if isinstance(target, PropertyTarget):
            self._core.setProperty(target.device, target.property, f"{values[0]:.{target.decimals}f}")
        elif isinstance(target, StageTarget):
            self._core.setXYPosition(target.device, values[0] * _MICRO, values[1] * _MICRO)
        elif isinstance(target, ExposureTarget):
            self._core.setExposure(values[0] * _MILLI)
        elif isinstance(target, CameraRegionTarget):
            x, y, width, height = self._chip
            columns, rows = (int(value) for value in values)
            self._core.setROI(x + (width - columns) // 2, y + (height - rows) // 2, columns, rows)

    def _read(self, write: Write) -> tuple[float, ...]:
        target = write.mapped.target
        if isinstance(target, PropertyTarget):
            return (float(self._core.getProperty(target.device, target.property)),)
        if isinstance(target, StageTarget):
            x_um, y_um = self._core.getXPosition(target.device), self._core.getYPosition(target.device)
            return x_um / _MICRO, y_um / _MICRO
        if isinstance(target, ExposureTarget):
            return (self._core.getExposure() / _MILLI,)
        if isinstance(target, CameraRegionTarget):
            _, _, columns, rows = self._core.getROI()
            return float(columns), float(rows)
        return write.values

    def _reads(self, write: Write) -> bool:
        """Tell whether a device reads what was written, to within the setting's tolerance in SI units."""
        mapped = write.mapped
        tolerance = _DEFAULT_TOLERANCE if mapped.tolerance is None else mapped.tolerance
        for read, wanted in zip(self._read(write), write.values, strict=True):
            try:
                off = abs(mapped.to_si(read) - mapped.to_si(wanted))
            except (ValueError, ZeroDivisionError):
                return False  # beyond the calibration
            if not off <= tolerance:
                return False
        return True

    def _put_out(self) -> None:
        """Close the shutter, then every light to safe; one that fails does not keep the next one on."""
        if self._is_closed:
            return
        failures = []
        steps: list[Callable[[], None]] = [lambda: self._core.setShutterOpen(self._mapping.shutter, False)]
        steps += [lambda write=write: self._send(write) for write in safe_writes(self._mapping)]  # type: ignore[misc]
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001  # the next light must go out, too
                failures.append(str(error))
        if failures:
            # Whether it is dark all the same is for the guard to find out: it tries again.
            raise DeviceError(f"putting the light out failed: {'; '.join(failures)}")

    def _raise_if_stopped(self) -> None:
        if self._stopping.is_set():
            raise AcquisitionStoppedError("the acquisition was stopped")

    def _device(self, write: Write) -> str:
        target = write.mapped.target
        if isinstance(target, PropertyTarget | StageTarget):
            return target.device
        return self._mapping.camera if isinstance(target, ExposureTarget | CameraRegionTarget) else ""

    def _whole_chip(self) -> tuple[int, int, int, int]:
        self._core.clearROI()
        x, y, columns, rows = self._core.getROI()
        return int(x), int(y), int(columns), int(rows)

    def _pixel_size_m(self) -> float:
        target = self._mapping.settings["pixel_size_m"].target
        return float(getattr(target, "value", self._core.getPixelSizeUm() / _MICRO))


@contextmanager
def _told_as_device_errors() -> Iterator[None]:
    try:
        yield
    except StedfastError:
        raise
    except Exception as error:
        raise DeviceError(f"Micro-Manager: {error}") from error


def load_core(mapping: DeviceMapping, folder: Path) -> CMMCore:
    """Return a core with the devices of a Micro-Manager ``.cfg`` loaded.

    Raises
    ------
    ConfigurationError
        Naming the file, the adapter or the interface number that does not fit.
    """
    import pymmcore

    core = pymmcore.CMMCore()
    told = str(core.getAPIVersionInfo())
    if f"Device API version {mapping.device_interface}," not in told:
        raise ConfigurationError(
            f"microscope.options.device_interface: {mapping.device_interface} is asked, this pymmcore has "
            f"{told!r}; install the pymmcore whose interface is that of your Micro-Manager"
        )
    adapters = _adapter_folder(mapping.adapters, folder)
    core.setDeviceAdapterSearchPaths([str(adapters)])
    config = next(
        (path for path in (folder / mapping.config_file, adapters / mapping.config_file) if path.exists()),
        None,
    )
    if config is None:
        raise ConfigurationError(
            f"microscope.options.config_file: {mapping.config_file!r} is neither in {folder} "
            f"nor in {adapters}"
        )
    try:
        core.loadSystemConfiguration(str(config))
    except Exception as error:
        core.unloadAllDevices()
        raise ConfigurationError(f"microscope.options.config_file: {config}: {error}") from error
    return core


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
        problems += _property_problems(core, f"microscope.options.startup.{number}", start, loaded)
    for name, mapped in mapping.settings.items():
        where, target = f"microscope.options.settings.{name}.target", mapped.target
        if isinstance(target, StageTarget) and target.device not in loaded:
            problems.append(f"{where}.device: there is no device {target.device!r}")
        elif isinstance(target, PropertyTarget):
            problems += _property_problems(core, where, target, loaded)
            if not problems:
                problems += _range_problems(core, where, target, mapped)
    return problems


def _property_problems(
    core: CMMCore, where: str, target: PropertyTarget | PropertyValue, loaded: set[str]
) -> list[str]:
    if target.device not in loaded:
        return [f"{where}.device: there is no device {target.device!r}"]
    if not core.hasProperty(target.device, target.property):
        known = sorted(core.getDevicePropertyNames(target.device))
        return [f"{where}.property: {target.device} has no property {target.property!r}; it has {known}"]
    if core.isPropertyReadOnly(target.device, target.property):
        return [f"{where}.property: {target.property!r} of {target.device} is read-only"]
    return []


def _range_problems(core: CMMCore, where: str, target: PropertyTarget, mapped: MappedSetting) -> list[str]:
    """Compare our limits with the adapter's own, in the device's unit."""
    known = core.hasPropertyLimits(target.device, target.property)
    if mapped.low is None or mapped.high is None or not known:
        return []
    ours = sorted((mapped.to_device(mapped.low), mapped.to_device(mapped.high)))
    theirs = (
        core.getPropertyLowerLimit(target.device, target.property),
        core.getPropertyUpperLimit(target.device, target.property),
    )
    slack = 1e-9 * max(abs(theirs[0]), abs(theirs[1]), 1.0)
    if theirs[0] - slack <= ours[0] and ours[1] <= theirs[1] + slack:
        return []
    return [f"{where}: low and high are {ours} in the device's unit, the device allows {theirs}"]


def _adapter_folder(name: str, folder: Path) -> Path:
    """Return the folder of device adapters: a path, or an installed package that brings them."""
    for path in (Path(name), folder / name):
        if path.is_dir():
            return path
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is not None and found.origin is not None:
        package = Path(found.origin).parent
        return package / "libs" if (package / "libs").is_dir() else package
    raise ConfigurationError(
        f"microscope.options.adapters: {name!r} is neither a folder nor an installed package of adapters"
    )
