"""Micro-Manager's devices through pycromanager: in this process, or in a Micro-Manager that runs already.

In this process each scan is one acquisition of pycromanager's Python engine, with one event and nothing
in it: the settings are written and read back as in ``mmcore.py``, and the engine only takes the image.
With a ``port``, a running Micro-Manager does the scans, called by pycromanager's client.

pycromanager 1.0.2 drops errors: of hooks, of the last event, of what its threads run into. So it gets
no hook, no second event and no device but the camera, and :class:`_OneImage` listens everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.checking import Bench, OfflineCheck
from controller.core.errors import ConfigurationError, DeviceError
from controller.core.frame import Frame
from controller.core.limits import SafetyLimits
from controller.core.protocols import Capabilities, Clock, Resources
from controller.core.settings import ScanSettings
from controller.core.worker import within
from controller.microscopes.device_mapping import DeviceMapping
from controller.microscopes.mapping_checks import common_problems, undoable
from controller.microscopes.mmcore import MMCoreMicroscope

try:
    from mmpycorex.launcher import TaggedImage
    from pycromanager.acquisition.acq_eng_py.internal.engine import Engine
    from pycromanager.acquisition.python_backend_acquisitions import PythonBackendAcquisition
except ImportError as error:
    raise ImportError(f"{error}; it comes with: pip install 'stedfast[pycromanager]'") from error

from controller.microscopes.bridge_client import ConnectionLostError, RemoteCore, device_interface

if TYPE_CHECKING:
    from pymmcore import CMMCore

# An event of an acquisition that moves and sets nothing.
_EVENT = {"axes": {"time": 0}}
# What the engine is told when it asks for what it writes into metadata, which nobody reads. What is not
# here it cannot do: it has no stage, no channel, no property and no exposure time to change.
_ANSWERS: dict[str, object] = {
    "get_auto_focus_device": "",
    "get_bytes_per_pixel": 2,
    "get_camera_device": "camera",
    "get_exposure": 0.0,
    "get_focus_device": "",
    "get_galvo_device": "",
    "get_image_height": 0,
    "get_image_processor_device": "",
    "get_image_width": 0,
    "get_number_of_camera_channels": 1,
    "get_pixel_size_um": 1.0,
    "get_shutter_device": "",
    "get_slm_device": "",
    "get_xy_stage_device": "",
    "clear_circular_buffer": None,
    "is_sequence_running": False,
    "log_message": None,
}
_EXPOSED, _ENDED = "exposed", "ended"
# pycromanager has one engine in a process.
_engine_is_free = threading.Lock()


class PycromanagerMicroscope:
    """The driver as a configuration names it: with a port the one way, without it the other."""

    class Options(MMCoreMicroscope.Options):
        """See ``hardware_configs/README.md``. With a port the devices are loaded by Micro-Manager."""

        config_file: str = ""
        adapters: str = ""
        port: Annotated[int, Field(ge=1, le=65535)] | None = None
        call_timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 4.0

        @model_validator(mode="after")
        def _devices_are_loaded_once(self) -> Self:
            for name in ("config_file", "adapters"):
                if self.port is None and not getattr(self, name):
                    raise ValueError(f"{name} is needed, or a port where Micro-Manager runs")
                if self.port is not None and getattr(self, name):
                    raise ValueError(f"{name} and port do not go together: Micro-Manager loads its devices")
            return self

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> MMCoreMicroscope:
        """Load the devices, or connect to the Micro-Manager that has them, and check them."""
        return _way(options).from_options(options, resources)

    @classmethod
    def check_offline(cls, options: Options, resources: Resources) -> OfflineCheck:
        """Check what can be checked without the devices."""
        return _way(options).check_offline(options, resources)

    @classmethod
    def open_bench(cls, options: Options, resources: Resources) -> Bench:
        """Connect to the devices and put the lights out; write nothing else."""
        return _way(options).open_bench(options, resources)


def _way(options: PycromanagerMicroscope.Options) -> type[MMCoreMicroscope]:
    return EngineMicroscope if options.port is None else PortMicroscope


class EngineMicroscope(MMCoreMicroscope):
    """Devices in this process, imaged by pycromanager's Python engine; movies are the core's own."""

    def capabilities(self) -> Capabilities:
        """Return what the devices can do."""
        return _by(super().capabilities(), "pycromanager's Python engine, in this process")

    def acquire(self, settings: ScanSettings) -> Frame:
        """Do one scan; raises as :meth:`MMCoreMicroscope.acquire` does."""
        if self._devices.is_closed:
            raise DeviceError("this microscope is closed")
        patience_s = settings.duration_s + self._mapping.timeout_s
        # The engine starts and ends in the dark; while the devices are set it waits before the exposure.
        with closing(_OneImage(self._core, patience_s)) as self._one_image:
            self._one_image.begin()
            return super().acquire(settings)

    def _expose(self) -> None:
        self._one_image.expose()

    def _image(self) -> NDArray[Any]:
        return self._one_image.image()


class PortMicroscope(MMCoreMicroscope):
    """Devices of a Micro-Manager that runs already, called by pycromanager's client over a port."""

    # One image at a time: a movie's images would be fetched one by one, and fall behind the camera.
    stream = None  # type: ignore[assignment]

    def __init__(self, core: CMMCore, mapping: DeviceMapping, clock: Clock) -> None:
        self._remote = cast("RemoteCore", core)
        with _released_if_it_fails(self._remote):
            super().__init__(core, mapping, clock)

    @classmethod
    def check_offline(cls, options: DeviceMapping, resources: Resources) -> OfflineCheck:
        """Check the mapping alone: what Micro-Manager has loaded is known only to itself."""
        wanted = cast("PycromanagerMicroscope.Options", options)
        problems = common_problems(wanted, resources) + _patience_problems(wanted, resources.limits)
        summary = f"a Micro-Manager on port {wanted.port}, whose devices are looked at with --live"
        return OfflineCheck(summary, tuple(problems), tuple(undoable(wanted, resources.limits)))

    @classmethod
    def _load(cls, options: DeviceMapping, resources: Resources) -> CMMCore:
        wanted = cast("PycromanagerMicroscope.Options", options)
        problems = _patience_problems(wanted, resources.limits)
        if problems:
            raise ConfigurationError(*problems)
        try:
            core = RemoteCore(wanted.port or 0, wanted.call_timeout_s, wanted.timeout_s)
            with _released_if_it_fails(core):
                told = str(core.getAPIVersionInfo())
                if device_interface(told) not in {None, options.device_interface}:
                    raise ConfigurationError(
                        f"microscope.options.device_interface: {options.device_interface} is asked, the "
                        f"Micro-Manager on port {wanted.port} has {told!r}"
                    )
        except DeviceError as error:
            raise ConfigurationError(f"microscope.options.port: {error}") from error
        return cast("CMMCore", core)

    def capabilities(self) -> Capabilities:
        """Return what the devices can do."""
        return _by(super().capabilities(), "pycromanager's client, over a port")

    def acquire(self, settings: ScanSettings) -> Frame:
        """Do one scan; raises as :meth:`MMCoreMicroscope.acquire` does.

        Raises
        ------
        ConnectionLostError
            If a call did not come back, now or earlier: what the devices do is not known.
        """
        self._remote.refuse_if_lost()
        self._remote.exposure_s = settings.duration_s
        return super().acquire(settings)

    def _expose(self) -> None:
        try:
            super()._expose()
        except ConnectionLostError:
            raise
        except DeviceError:
            self._raise_if_stopped()  # a server may end a scan whose shutter is closed
            raise

    def stop(self) -> None:
        """Close the shutter and put every light to its safe value; callable from any thread.

        Raises
        ------
        ConnectionLostError
            If Micro-Manager does not answer, over a fresh connection either.
        """
        self._remote.try_anew()
        super().stop()

    def close(self) -> None:
        """Put the light out and leave the devices to Micro-Manager."""
        self._remote.try_anew()
        try:
            super().close()
        finally:
            self._remote.hang_up()


@contextmanager
def _released_if_it_fails(core: RemoteCore) -> Iterator[None]:
    try:
        yield
    except BaseException:
        core.hang_up()
        raise


def _patience_problems(options: PycromanagerMicroscope.Options, limits: SafetyLimits) -> list[str]:
    if 2 * options.call_timeout_s < limits.overrun_max_s:
        return []
    problem = (
        f"microscope.options.call_timeout_s: {options.call_timeout_s:g} s is asked; it must be less than "
        f"half of limits.overrun_max_s={limits.overrun_max_s:g} s, or a stop could not tell in time that "
        f"Micro-Manager hangs"
    )
    return [problem]


class _OneImage:
    """One acquisition of one image by an unmodified pycromanager.

    Its threads tell everything to one queue, where it is raised: that the exposure, the read-out or the
    engine failed, that the acquisition ended without an image, or nothing at all for ``patience_s``.
    """

    def __init__(self, core: CMMCore, patience_s: float) -> None:
        self._patience_s = patience_s
        self._told: SimpleQueue[object] = SimpleQueue()
        self._is_taken = False
        self._camera = _CameraOnly(core, self._tell)
        if not _engine_is_free.acquire(timeout=patience_s):
            raise DeviceError(
                "pycromanager's engine has not come back from an earlier image: kill this program and look "
                "at the devices"
            )
        self._others = getattr(Engine, "singleton", None)
        self._engine = _Engine(self._camera, self._tell)
        try:
            self._acquisition = PythonBackendAcquisition(
                image_process_fn=self._take, notification_callback_fn=self._hear
            )
        except BaseException:
            self._let_go()
            raise
        self._work = self._acquisition._acq

    def begin(self) -> None:
        """Let the engine do all that comes before the exposure."""
        self._acquisition.acquire(dict(_EVENT))
        self._acquisition.mark_finished()

    def expose(self) -> None:
        """Expose the camera; its image is not read out yet."""
        self._camera.may_expose.set()
        self._next()

    def image(self) -> NDArray[Any]:
        """Return the image; it is dark again."""
        self._camera.may_read.set()
        pixels = self._next()
        self._is_taken = True
        return np.asarray(pixels)

    def close(self) -> None:
        """End the acquisition and its engine.

        Raises
        ------
        DeviceError
            If they do not end. Then no other acquisition can begin in this process.
        """
        if not self._is_taken:
            self._camera.cancel()
            self._abort()
            self._acquisition.mark_finished()  # or pycromanager would wait for an event, for ever
        within(self._patience_s, self._end, "the end of pycromanager's acquisition")

    def _end(self) -> None:
        with suppress(Exception):  # what failed was raised already
            self._acquisition.await_completion()
        self._let_go()

    def _let_go(self) -> None:
        self._engine.shutdown()
        del Engine.singleton
        if self._others is not None:
            Engine.singleton = self._others
        _engine_is_free.release()

    def _next(self) -> object:
        """Return what is told next, or raise it."""
        try:
            told = self._told.get(timeout=self._patience_s)
        except Empty:
            raise DeviceError(f"pycromanager took no image within {self._patience_s:g} s") from None
        if isinstance(told, BaseException):
            raise DeviceError(f"pycromanager: {told}") from told
        if told is _ENDED:
            raise DeviceError("pycromanager ended the acquisition without an image")
        return told

    def _tell(self, what: object) -> None:
        self._told.put(what)
        if isinstance(what, BaseException):
            # The engine itself would read out an image again and again, as fast as it can.
            self._abort()

    def _abort(self) -> None:
        # Not the acquisition's own abort(): that empties the queue of events, and if the end of events was
        # in it, waits for ever.
        self._work.abort()

    def _take(self, pixels: NDArray[Any], tags: dict[str, Any]) -> None:  # noqa: ARG002  # pycromanager counts them
        """Take the image instead of letting it be stored."""
        self._tell(pixels)

    def _hear(self, notification: Any) -> None:
        # The last thing that pycromanager tells, after it has passed on every image.
        if notification.is_data_sink_finished_notification():
            self._tell(_ENDED)


class _Engine(Engine):  # type: ignore[misc]
    """pycromanager's engine, which tells why it ends instead of dropping that with a future."""

    def __init__(self, core: _CameraOnly, tell: Callable[[object], None]) -> None:
        # Its constructor does nothing if there is another one in the process.
        if hasattr(Engine, "singleton"):
            del Engine.singleton
        super().__init__(core)
        self._tell = tell

    def submit_event_iterator(self, event_iterator: Any) -> Any:
        future = super().submit_event_iterator(event_iterator)
        future.add_done_callback(self._tell_failure)
        return future

    def _tell_failure(self, future: Any) -> None:
        if future.exception() is not None:
            self._tell(future.exception())


class _CameraOnly:
    """The core as pycromanager's engine gets it: it can take an image when it may, and nothing else.

    Left alone, the engine would be slow to expose while the light is on, and then read the image out
    before the light is off.
    """

    TaggedImage = TaggedImage

    def __init__(self, core: CMMCore, tell: Callable[[object], None]) -> None:
        self._core, self._tell = core, tell
        self.may_expose, self.may_read = threading.Event(), threading.Event()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Let the engine go on, without an exposure."""
        self._is_cancelled = True
        self.may_expose.set()
        self.may_read.set()

    def snap_image(self) -> None:
        self.may_expose.wait()
        try:
            if self._is_cancelled:
                raise DeviceError("the scan ended before its exposure")
            self._core.snapImage()
        except Exception as error:
            self._tell(error)
            raise
        self._tell(_EXPOSED)

    def get_tagged_image(self, *_: object) -> Any:
        """Read the image out; if that fails, the engine tries again until it is aborted."""
        self.may_read.wait()
        try:
            return TaggedImage({}, self._core.getImage())
        except Exception as error:
            self._tell(error)
            raise

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name not in _ANSWERS:
            error = AttributeError(f"the engine asks for {name}(), which it is not given")
            self._tell(error)
            raise error
        return lambda *_: _ANSWERS[name]


def _by(capabilities: Capabilities, route: str) -> Capabilities:
    return replace(capabilities, details={**capabilities.details, "route": route})
