"""The part of Micro-Manager's Core that is about devices: what is there, what is set, where the stage is."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

from controller.core.errors import InvalidRequestError
from simulator.micromanager.knobs import (
    CAMERA,
    DESCRIPTIONS,
    SHUTTER,
    XY_STAGE,
    Z_STAGE,
    Choice,
    Fixed,
    Quantity,
    in_unit,
    property_text,
)
from simulator.micromanager.objects import RemoteObject, java
from simulator.micromanager.scanner import CHANNEL_GROUP, Scanner
from simulator.micromanager.values import Point, StringVector

_log = logging.getLogger(__name__)


class RemoteDevices(RemoteObject):
    """Devices, properties, presets and stages of ``mmcorej.CMMCore``."""

    java_class = "mmcorej.CMMCore"

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner

    # --- what is there

    @java("String getVersionInfo()")
    def version_info(self) -> str:
        return f"Stedfast {version('stedfast')} behind the API of MMCore: {self._scanner.name}"

    @java("String getAPIVersionInfo()")
    def api_version_info(self) -> str:
        return "no device adapters: Stedfast drives the microscope itself"

    @java("mmcorej.StrVector getLoadedDevices()")
    def loaded_devices(self) -> StringVector:
        return StringVector(list(self._scanner.devices))

    @java("String getDeviceLibrary(String)", "String getDeviceName(String)")
    def device_library(self, device: str) -> str:
        self._scanner.properties(device)
        return "Stedfast"

    @java("String getDeviceDescription(String)")
    def device_description(self, device: str) -> str:
        self._scanner.properties(device)
        return DESCRIPTIONS[device]

    @java("String getCameraDevice()")
    def camera(self) -> str:
        return CAMERA

    @java("String getShutterDevice()")
    def shutter(self) -> str:
        return SHUTTER

    @java("String getXYStageDevice()")
    def xy_stage(self) -> str:
        return XY_STAGE

    @java("String getFocusDevice()")
    def focus(self) -> str:
        return Z_STAGE

    @java(
        "String getAutoFocusDevice()",
        "String getGalvoDevice()",
        "String getSLMDevice()",
        "String getImageProcessorDevice()",
    )
    def absent_device(self) -> str:
        return ""

    @java("void setCameraDevice(String)")
    def set_camera(self, device: str) -> None:
        self._must_be(device, CAMERA)

    @java("void setShutterDevice(String)")
    def set_shutter_device(self, device: str) -> None:
        self._must_be(device, SHUTTER)

    @java("void setXYStageDevice(String)")
    def set_xy_stage(self, device: str) -> None:
        self._must_be(device, XY_STAGE)

    @java("void setFocusDevice(String)")
    def set_focus(self, device: str) -> None:
        self._must_be(device, Z_STAGE)

    # --- properties

    @java("mmcorej.StrVector getDevicePropertyNames(String)")
    def property_names(self, device: str) -> StringVector:
        return StringVector(list(self._scanner.properties(device)))

    @java("boolean hasProperty(String, String)")
    def has_property(self, device: str, name: str) -> bool:
        return name in self._scanner.properties(device)

    @java("String getProperty(String, String)", "String getPropertyFromCache(String, String)")
    def get_property(self, device: str, name: str) -> str:
        return self._scanner.read(device, name)

    @java(
        "void setProperty(String, String, String)",
        "void setProperty(String, String, boolean)",
        "void setProperty(String, String, long)",
        "void setProperty(String, String, double)",
    )
    def set_property(self, device: str, name: str, value: str | bool | float) -> None:
        text = property_text(value)
        self._scanner.change(lambda knobs: self._scanner.written(knobs, device, name, text))
        if device == SHUTTER and not self._scanner.knobs.is_shutter_open:
            self._scanner.shut()

    @java("boolean isPropertyReadOnly(String, String)")
    def is_read_only(self, device: str, name: str) -> bool:
        known = self._scanner.find(device, name)
        return isinstance(known, Fixed) and known.is_read_only

    @java("boolean isPropertyPreInit(String, String)", "boolean isPropertySequenceable(String, String)")
    def is_not(self, device: str, name: str) -> bool:
        self._scanner.find(device, name)
        return False

    @java("mmcorej.StrVector getAllowedPropertyValues(String, String)")
    def allowed_values(self, device: str, name: str) -> StringVector:
        known = self._scanner.find(device, name)
        match known:
            case Choice():
                return StringVector(list(known.texts))
            case Fixed():
                return StringVector([known.text])
            case Quantity():
                return StringVector([])

    @java("boolean hasPropertyLimits(String, String)")
    def has_limits(self, device: str, name: str) -> bool:
        return isinstance(self._scanner.find(device, name), Quantity)

    @java("double getPropertyLowerLimit(String, String)")
    def lower_limit(self, device: str, name: str) -> float:
        known = self._scanner.find(device, name)
        return in_unit(known.low, known.exponent) if isinstance(known, Quantity) else 0.0

    @java("double getPropertyUpperLimit(String, String)")
    def upper_limit(self, device: str, name: str) -> float:
        known = self._scanner.find(device, name)
        return in_unit(known.high, known.exponent) if isinstance(known, Quantity) else 0.0

    # --- one group of presets: the modality

    @java("mmcorej.StrVector getAvailableConfigGroups()")
    def groups(self) -> StringVector:
        return StringVector([CHANNEL_GROUP])

    @java("boolean isGroupDefined(String)")
    def is_group(self, group: str) -> bool:
        return group == CHANNEL_GROUP

    @java("mmcorej.StrVector getAvailableConfigs(String)")
    def presets(self, group: str) -> StringVector:
        return self.allowed_values(CAMERA, "Modality") if self.is_group(group) else StringVector([])

    @java("boolean isConfigDefined(String, String)")
    def is_preset(self, group: str, preset: str) -> bool:
        return self.presets(group).contains(preset)

    @java("String getCurrentConfig(String)")
    def current_preset(self, group: str) -> str:
        self._must_be(group, CHANNEL_GROUP)
        return self._scanner.knobs.modality

    @java("void setConfig(String, String)")
    def set_preset(self, group: str, preset: str) -> None:
        self._scanner.change(lambda knobs: self._scanner.with_preset(knobs, group, preset))

    @java("String getChannelGroup()")
    def channel_group(self) -> str:
        return CHANNEL_GROUP

    @java("void setChannelGroup(String)")
    def set_channel_group(self, group: str) -> None:
        self._must_be(group, CHANNEL_GROUP)

    # --- waiting: every setter returns when it is done

    @java("void waitForSystem()")
    def wait_for_system(self) -> None:
        return None

    @java("void waitForDevice(String)")
    def wait_for_device(self, device: str) -> None:
        self._scanner.properties(device)

    @java("void waitForConfig(String, String)")
    def wait_for_preset(self, group: str, preset: str) -> None:
        if not self.is_preset(group, preset):
            raise InvalidRequestError(f"no preset {preset!r} in a group {group!r} here")

    @java("boolean deviceBusy(String)")
    def device_busy(self, device: str) -> bool:
        self._scanner.properties(device)
        return device == CAMERA and self._scanner.is_streaming.is_set()

    @java("boolean systemBusy()")
    def system_busy(self) -> bool:
        return False

    @java("void logMessage(String)", "void logMessage(String, boolean)")
    def log_message(self, text: str, is_debug: bool = False) -> None:
        _log.log(logging.DEBUG if is_debug else logging.INFO, "a client says: %r", text[:1000])

    # --- stages

    @java("void setXYPosition(double, double)", "void setXYPosition(String, double, double)")
    def set_xy(self, *place: Any) -> None:
        *device, x_um, y_um = place
        self._must_be(device[0] if device else XY_STAGE, XY_STAGE)
        self._scanner.change(lambda knobs: self._scanner.with_stage(knobs, x_um, y_um))

    @java("void setRelativeXYPosition(double, double)", "void setRelativeXYPosition(String, double, double)")
    def move_xy(self, *way: Any) -> None:
        *device, dx_um, dy_um = way
        self._must_be(device[0] if device else XY_STAGE, XY_STAGE)
        self._scanner.change(
            lambda knobs: self._scanner.with_stage(
                knobs,
                in_unit(knobs.stage_yx_m[1], -6) + dx_um,
                in_unit(knobs.stage_yx_m[0], -6) + dy_um,
            )
        )

    @java("double getXPosition()", "double getXPosition(String)")
    def x_position(self, device: str = XY_STAGE) -> float:
        self._must_be(device, XY_STAGE)
        return in_unit(self._scanner.knobs.stage_yx_m[1], -6)

    @java("double getYPosition()", "double getYPosition(String)")
    def y_position(self, device: str = XY_STAGE) -> float:
        self._must_be(device, XY_STAGE)
        return in_unit(self._scanner.knobs.stage_yx_m[0], -6)

    @java(
        "java.awt.geom.Point2D$Double getXYStagePosition()",
        "java.awt.geom.Point2D$Double getXYStagePosition(String)",
    )
    def xy_position(self, device: str = XY_STAGE) -> Point:
        return Point(self.x_position(device), self.y_position(device))

    @java("void setPosition(double)", "void setPosition(String, double)")
    def set_z(self, *place: Any) -> None:
        *device, z_um = place
        self._must_be(device[0] if device else Z_STAGE, Z_STAGE)
        self._scanner.change(lambda knobs: self._scanner.with_focus(knobs, z_um))

    @java("double getPosition()", "double getPosition(String)")
    def z_position(self, device: str = Z_STAGE) -> float:
        self._must_be(device, Z_STAGE)
        return 0.0

    def _must_be(self, asked: str, known: str) -> None:
        if asked != known:
            raise InvalidRequestError(f"{asked!r} is asked where {known!r} is the only one here")
