"""A guarded microscope as devices of pymmcore-plus, in one process.

In use::

    core = UniMMCore()
    load_devices(core, microscope)
    core.mda.run([useq.MDAEvent(channel="sted", properties=[("STED", "Power_mW", 50)])])

Python devices are experimental in pymmcore-plus: this is tried with release 0.18.1 alone, and uses as
little of it as it can. Devices and properties are those that clients of the server see.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.experimental import unicore

from controller.core.errors import InvalidRequestError
from controller.core.guard import GuardedMicroscope
from controller.core.settings import ScanSettings
from simulator.micromanager.knobs import (
    CAMERA,
    EXCITATION,
    SHUTTER,
    STED,
    XY_STAGE,
    Z_STAGE,
    Choice,
    Quantity,
    in_unit,
    property_text,
)
from simulator.micromanager.scanner import CHANNEL_GROUP, Scanner
from simulator.micromanager.strict_engine import StrictEngine


class _Device:
    """A device with the properties that the scanner has under its name."""

    def __init__(self, scanner: Scanner, name: str) -> None:
        super().__init__()
        self._scanner = scanner
        for title, known in scanner.properties(name).items():
            if title == "Binning":
                continue  # pymmcore-plus has its own
            kind: dict[str, Any] = {"is_read_only": True, "property_type": str}
            if isinstance(known, Quantity):
                limits = in_unit(known.low, known.exponent), in_unit(known.high, known.exponent)
                kind = {"limits": limits, "property_type": float}
            elif isinstance(known, Choice):
                kind = {"allowed_values": known.texts, "property_type": str}
            self.register_property(  # type: ignore[attr-defined]  # of the class that this is mixed into
                title,
                getter=lambda _, title=title: scanner.read(name, title),
                setter=lambda _, value, title=title: scanner.change(
                    lambda knobs: scanner.written(knobs, name, title, property_text(value))
                ),
                **kind,
            )


class Laser(_Device, unicore.GenericDevice):
    """The excitation or the depletion laser: its power at the sample."""


class Shutter(_Device, unicore.ShutterDevice):
    """Says whether scans to come use light, if the core's ``AutoShutter`` is off."""

    def get_open(self) -> bool:
        return self._scanner.knobs.is_shutter_open

    def set_open(self, open: bool) -> None:  # noqa: A002  # so it is called in pymmcore-plus
        self._scanner.change(lambda knobs: knobs.replace(is_shutter_open=open))


class _Stage(_Device):
    """A stage in sample coordinates: their origin stays where it is."""

    def home(self) -> None:
        raise InvalidRequestError("this stage has no home position")

    def stop(self) -> None:
        """Do nothing: a move is made when an image is taken."""

    def set_origin(self) -> None:
        raise InvalidRequestError("positions are sample coordinates: their origin cannot be moved")

    set_origin_x = set_origin_y = set_origin


class XYStage(_Stage, unicore.XYStageDevice):
    """The centre of the field of view on the sample."""

    def get_position_um(self) -> tuple[float, float]:
        y_m, x_m = self._scanner.knobs.stage_yx_m
        return in_unit(x_m, -6), in_unit(y_m, -6)

    def set_position_um(self, x: float, y: float) -> None:
        self._scanner.change(lambda knobs: self._scanner.with_stage(knobs, x, y))


class ZStage(_Stage, unicore.StageDevice):
    """The focus: there is one plane, 0."""

    def get_position_um(self) -> float:
        return 0.0

    def set_position_um(self, val: float) -> None:
        self._scanner.change(lambda knobs: self._scanner.with_focus(knobs, val))


class Camera(_Device, unicore.CameraDevice):
    """Scanner and detector; the exposure is the dwell time of a pixel."""

    #: Tells whether scans open the shutter by themselves; for a Python camera the core leaves it to that.
    has_auto_shutter: Callable[[], bool] = staticmethod(lambda: True)

    def get_exposure(self) -> float:
        return in_unit(self._scanner.knobs.dwell_s, -3)

    def set_exposure(self, exposure: float) -> None:
        self._scanner.change(lambda knobs: self._scanner.with_exposure(knobs, exposure))

    def shape(self) -> tuple[int, int]:
        return self._scanner.scan(self._scanner.knobs).shape_yx

    def dtype(self) -> DTypeLike:
        return np.uint16

    def get_roi(self) -> tuple[int, int, int, int]:
        return self._scanner.roi()

    def set_roi(self, x: int, y: int, width: int, height: int) -> None:
        self._scanner.change(lambda knobs: self._scanner.with_roi(knobs, x, y, width, height))

    def clear_roi(self) -> None:
        self._scanner.change(lambda knobs: knobs.replace(roi=None))

    def start_sequence(
        self, n: int | None, get_buffer: Callable[[Sequence[int], DTypeLike], np.ndarray]
    ) -> Iterator[Mapping[str, Any]]:
        taken = 0
        while taken != n:
            self._scanner.change(lambda knobs: knobs.replace(has_auto_shutter=self.has_auto_shutter()))
            picture = self._scanner.expose()
            get_buffer(picture.pixels.shape, picture.pixels.dtype)[:] = picture.pixels
            taken += 1
            yield picture.tags


def load_devices(
    core: unicore.UniMMCore, microscope: GuardedMicroscope, start: ScanSettings | None = None
) -> None:
    """Load the devices into a core, give them their roles, and let runs end at the first error."""
    scanner = Scanner(microscope, start)
    kinds: dict[str, type[_Device]] = {CAMERA: Camera, SHUTTER: Shutter, XY_STAGE: XYStage, Z_STAGE: ZStage}
    kinds |= {name: Laser for name in (EXCITATION, STED) if name in scanner.devices}
    devices: dict[str, Any] = {name: kind(scanner, name) for name, kind in kinds.items()}
    devices[CAMERA].has_auto_shutter = core.getAutoShutter
    for name, device in devices.items():
        core.loadPyDevice(name, device)
        core.initializeDevice(name)
    core.setCameraDevice(CAMERA)
    core.setShutterDevice(SHUTTER)
    core.setXYStageDevice(XY_STAGE)
    core.setFocusDevice(Z_STAGE)
    for modality in microscope.capabilities().modalities:
        core.defineConfig(CHANNEL_GROUP, modality, CAMERA, "Modality", modality)
    core.setChannelGroup(CHANNEL_GROUP)
    core.mda.set_engine(StrictEngine(core))
    # Its thread for callbacks must not be in Python when Python ends: that aborts the process.
    atexit.register(_end_callbacks, weakref.ref(core))


def _end_callbacks(held: weakref.ref[unicore.UniMMCore]) -> None:
    core = held()
    if core is not None:
        super(CMMCorePlus, core).registerCallback(None)
