"""A microscope through Micro-Manager's core (MMCore) in this process: no Java, one C++ call a command.

The order of a scan: stage, sampling and exposure are written, then the lights, each waited for with a
bound and read back; the shutter opens for the exposure alone; then the shutter closes and the lights go
to their safe values. Any failure: shutter closed, lights to safe, then the error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.checking import Bench, OfflineCheck
from controller.core.errors import AcquisitionStoppedError, ConfigurationError, DeviceError
from controller.core.frame import Frame
from controller.core.protocols import Capabilities, Clock, Resources
from controller.core.settings import ScanSettings
from controller.microscopes.device_mapping import (
    LIGHTS,
    DeviceMapping,
    FixedTarget,
    SettingName,
    require_valid,
)
from controller.microscopes.device_plan import Plan, Values, plan
from controller.microscopes.micromanager_config import adapter_folder, find_config
from controller.microscopes.mm_bench import DeviceBench, check_offline
from controller.microscopes.mm_devices import Devices, told_as_device_errors

if TYPE_CHECKING:
    from pymmcore import CMMCore

_MICRO = 1e6
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
        self._written: dict[SettingName, Values] = {}
        with told_as_device_errors():
            self._devices = Devices(core, mapping, clock)
            self._devices.start_up()

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Load the Micro-Manager configuration that the options name, and check it against them."""
        require_valid(options, resources.safe, datetime.now(UTC).date())
        return cls(cls._load(options, resources), options, resources.clock)

    @classmethod
    def check_offline(cls, options: Options, resources: Resources) -> OfflineCheck:
        """Check mapping and ``.cfg`` as files; connect to nothing."""
        return check_offline(options, resources)

    @classmethod
    def open_bench(cls, options: Options, resources: Resources) -> Bench:
        """Connect to the devices and put the lights out; write nothing else."""
        require_valid(options, resources.safe, datetime.now(UTC).date())
        with told_as_device_errors():
            devices = Devices(cls._load(options, resources), options, resources.clock)
        return DeviceBench(devices, resources.limits)

    @classmethod
    def _load(cls, options: DeviceMapping, resources: Resources) -> CMMCore:
        return load_core(options, resources.folder)

    def capabilities(self) -> Capabilities:
        """Return what the devices can do."""
        columns, rows = self._devices.chip[2:]
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
            If a device failed, did not take a value, was too slow, or did not stay where it was put.
            The light is off.
        AcquisitionStoppedError
            If :meth:`stop` was called meanwhile.
        """
        with self._lit(settings) as (planned, started_s):
            self._expose()
        with told_as_device_errors():
            grey = self._image()
        return self._frame(grey, planned.scan, started_s)

    def stream(self, settings: ScanSettings, frames: int) -> Iterator[Frame]:
        """Do one scan again and again without a pause; the camera keeps the time.

        The light stays on from the first frame to the last. Raises as :meth:`acquire` does, also if the
        camera's buffer ran over, which loses frames.
        """
        with self._lit(settings) as (planned, started_s):
            frame_s = planned.scan.duration_s
            self._core.startSequenceAcquisition(frames, 0.0, True)
            try:
                for number in range(frames):
                    grey = self._next_image(frame_s)
                    yield self._frame(grey, planned.scan, started_s + number * frame_s)
            finally:
                self._core.stopSequenceAcquisition()

    @contextmanager
    def _lit(self, settings: ScanSettings) -> Iterator[tuple[Plan, float]]:
        """Write the settings, open the shutter, and make it dark again on every way out.

        Gives the plan, and the time on the session's clock at which the light went on.
        """
        devices = self._devices
        if devices.is_closed:
            raise DeviceError("this microscope is closed")
        with told_as_device_errors():
            planned = plan(self._mapping, settings, self._stands())
        self._stopping.clear()
        with told_as_device_errors():
            try:
                for write in planned.writes:
                    self._raise_if_stopped()
                    self._written.pop(write.name, None)  # nobody knows where a failed write ends
                    devices.apply(write)
                    self._written[write.name] = write.si
                self._raise_if_stopped()
                started_s = self._clock.now_s()
                devices.open_shutter()
                yield planned, started_s
            finally:
                devices.put_out()
            self._raise_if_stopped()
            for write in planned.writes:
                # Somebody may have moved it while the light was on: the frame shows another place.
                if write.mapped.tolerance is not None and write.name not in LIGHTS:
                    devices.require(write, "moved during the scan: it was set to")

    def _stands(self) -> dict[SettingName, Values]:
        """Return where the devices stand that may only move in steps: as read, or else as last written."""
        stands = {}
        for name, mapped in self._mapping.settings.items():
            if mapped.max_step is not None:
                read = self._devices.read_si(mapped) if mapped.tolerance is not None else ()
                known = read or self._written.get(name)
                if known:
                    stands[name] = known
        return stands

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
        self._devices.put_out()

    def is_dark(self) -> bool:
        """Read back whether the shutter is closed and every light at its safe value."""
        return self._devices.is_dark()

    def close(self) -> None:
        """Put the light out and unload the devices."""
        self._stopping.set()
        self._devices.close()

    def _raise_if_stopped(self) -> None:
        if self._stopping.is_set():
            raise AcquisitionStoppedError("the acquisition was stopped")

    def _pixel_size_m(self) -> float:
        """Return the sampling at which the whole chip shows all that can be reached."""
        mapped = self._mapping.settings["pixel_size_m"]
        if isinstance(mapped.target, FixedTarget):
            return mapped.target.value
        return mapped.high or float(self._core.getPixelSizeUm()) / _MICRO


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
    adapters = adapter_folder(mapping.adapters, folder)
    if adapters is None:
        raise ConfigurationError(
            f"microscope.options.adapters: {mapping.adapters!r} is neither a folder nor an installed package "
            f"of adapters"
        )
    config = find_config(mapping, folder)
    core.setDeviceAdapterSearchPaths([str(adapters)])
    try:
        core.loadSystemConfiguration(str(config))
    except Exception as error:
        core.unloadAllDevices()
        raise ConfigurationError(f"microscope.options.config_file: {config}: {error}") from error
    return core
