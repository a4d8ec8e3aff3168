"""A guarded scanning microscope as Micro-Manager sees one: devices, properties, positions, a snap.

What a scan needs is kept as Micro-Manager keeps it, set one by one, and becomes one
``ScanSettings`` when an image is taken. A value that breaks a limit by itself is refused when it is
set; what depends on several (pixels, frame time, region, dose) is refused by the same guard when the
image is asked for. Either way nothing is clipped.

How the words map:

- the *stage* position is the centre of the field of view, in sample coordinates;
- the *ROI* is a rectangle of the sample. It is set in pixels of the full field, and a new pixel size
  samples the same rectangle anew;
- the *exposure* is the dwell time of a pixel, in milliseconds, so that it does not depend on the ROI;
- *Modality* says which lights a scan uses: STED power counts in ``sted`` alone;
- light is on during a scan only. The *shutter* says whether the scans to come use light: with
  ``AutoShutter`` they do, without it only while the shutter is open. Powers start at 0;
- the microscope has one focal plane: *Z* stays at 0.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from controller.core.errors import DeviceError, InvalidRequestError, LimitExceededError, StedfastError
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.settings import Region, ScanSettings
from simulator.micromanager.knobs import (
    CAMERA,
    XY_STAGE,
    Choice,
    Fixed,
    Knobs,
    Property,
    Quantity,
    dark_knobs,
    extent_m,
    in_si,
    in_unit,
    knobs_of,
    make_devices,
    parsed,
    problems,
)

CHANNEL_GROUP = "Channel"
FULL_SCALE = 2**16 - 1
BYTES_PER_PIXEL = 2


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image in 16 bit, shape ``(y, x)``, and what is known about it."""

    pixels: NDArray[np.uint16]
    tags: dict[str, Any]


class Scanner:
    """The devices over one guarded microscope. Methods may be called from any thread.

    Parameters
    ----------
    microscope
        The only way to the light.
    start
        Settings at the start; by default a dark confocal scan (or the microscope's first modality)
        of the full field in the middle of the stage box, 10 µs per pixel.
    acquire
        Who takes each image with the microscope, to record it for example; by default nobody else.
    """

    def __init__(
        self,
        microscope: GuardedMicroscope,
        start: ScanSettings | None = None,
        acquire: Callable[[ScanSettings], Frame] | None = None,
    ) -> None:
        self._microscope = microscope
        self._acquire = acquire or microscope.acquire
        self._lock = threading.Lock()
        self._capabilities = microscope.capabilities()
        limits, modalities = microscope.limits, self._capabilities.modalities
        self._knobs = knobs_of(start) if start is not None else dark_knobs(limits, modalities)
        self.devices = make_devices(limits, modalities)
        self._exposing = 0
        self._is_put_out = False
        #: Set while a sequence runs: untagged images do not tell their shape, so that it must not change.
        self.is_streaming = threading.Event()

    @property
    def name(self) -> str:
        """Return what the microscope calls itself."""
        return self._capabilities.name

    @property
    def knobs(self) -> Knobs:
        """Return what is set now."""
        return self._knobs

    def scan(self, knobs: Knobs) -> ScanSettings:
        """Return the scan that an image taken with ``knobs`` is."""
        try:
            return knobs.scan(self._capabilities.fov_size_yx_m)
        except ValidationError as error:
            raise InvalidRequestError(problems(error)) from error

    def change(self, changed: Callable[[Knobs], Knobs]) -> None:
        """Set what the next image is taken with; nothing is set if ``changed`` raises."""
        with self._lock:
            knobs = changed(self._knobs)
            is_reshaped = (knobs.roi, knobs.pixel_size_m) != (self._knobs.roi, self._knobs.pixel_size_m)
            if is_reshaped and self.is_streaming.is_set():
                raise DeviceError("the shape of the image cannot change while a sequence runs: stop it first")
            self._knobs = knobs

    def find(self, device: str, name: str) -> Property:
        """Return a property, or say which there are."""
        properties = self.properties(device)
        if name not in properties:
            raise InvalidRequestError(
                f"device {device} has no property {name!r}; it has {', '.join(properties) or 'none'}"
            )
        return properties[name]

    def properties(self, device: str) -> Mapping[str, Property]:
        """Return the properties of a device, or say which devices there are."""
        if device not in self.devices:
            raise InvalidRequestError(f"no device {device!r} here; there are {', '.join(self.devices)}")
        return self.devices[device]

    def read(self, device: str, name: str) -> str:
        """Return a property as Micro-Manager shows it."""
        return self._text(self.find(device, name), self._knobs)

    def written(self, knobs: Knobs, device: str, name: str, text: str) -> Knobs:
        """Return ``knobs`` with one property written, if its value is allowed by itself."""
        known, where = self.find(device, name), f"{device}.{name}={text}"
        match known:
            case Fixed():
                if known.is_read_only or text != known.text:
                    raise InvalidRequestError(f"{where}: the property is {known.text} and cannot be changed")
                return knobs
            case Choice():
                if text not in known.texts:
                    raise InvalidRequestError(f"{where} is not one of {', '.join(known.texts)}")
                return self.turned(knobs, where, known.knob, known.values[known.texts.index(text)])
            case Quantity():
                return self.turned(knobs, where, known.knob, parsed(known, where, text))

    def turned(self, knobs: Knobs, where: str, knob: str, value: Any) -> Knobs:
        """Return ``knobs`` with one changed, if the guard allows the value by itself.

        Raises
        ------
        InvalidRequestError, LimitExceededError
            With the guard's words, if it does not.
        """
        try:
            turned = knobs.replace(**{knob: value})
            self._ask_guard(knob, value)
        except ValidationError as error:
            raise InvalidRequestError(f"{where}: {problems(error)}") from error
        except StedfastError as error:
            raise type(error)(f"{where}: {error}") from error
        return turned

    def with_stage(self, knobs: Knobs, x_um: float, y_um: float) -> Knobs:
        """Return ``knobs`` with the stage elsewhere."""
        place = (in_si(y_um, -6), in_si(x_um, -6))
        return self.turned(knobs, f"{XY_STAGE} ({x_um:g}, {y_um:g}) µm", "stage_yx_m", place)

    def with_exposure(self, knobs: Knobs, exposure_ms: float) -> Knobs:
        """Return ``knobs`` with another dwell time, given as an exposure."""
        return self.turned(knobs, f"exposure {exposure_ms:g} ms", "dwell_s", in_si(exposure_ms, -3))

    def with_preset(self, knobs: Knobs, group: str, preset: str) -> Knobs:
        """Return ``knobs`` with a preset of a group; the one group is the modality."""
        if group != CHANNEL_GROUP:
            raise InvalidRequestError(f"no group {group!r} here; the one group is {CHANNEL_GROUP}")
        return self.written(knobs, CAMERA, "Modality", preset)

    def with_focus(self, knobs: Knobs, z_um: float) -> Knobs:
        """Return ``knobs`` as they are: there is one plane, and every other focus is refused."""
        if z_um != 0:
            raise InvalidRequestError(f"Z={z_um:g} µm is asked, this microscope has one plane: 0")
        return knobs

    def with_roi(self, knobs: Knobs, x: int, y: int, width: int, height: int) -> Knobs:
        """Return ``knobs`` with a rectangle of the full field, in its pixels."""
        rows, columns = self._field_shape_yx(knobs)
        fits = 0 <= x < x + width <= columns and 0 <= y < y + height <= rows
        if not fits:
            raise LimitExceededError(
                f"a ROI of {width} x {height} pixels at ({x}, {y}) is not inside the field of view of "
                f"{columns} x {rows} pixels (width x height)"
            )
        pixel = knobs.pixel_size_m
        centre = ((y + height / 2 - rows / 2) * pixel, (x + width / 2 - columns / 2) * pixel)
        size = (extent_m(height, pixel), extent_m(width, pixel))
        return knobs.replace(roi=Region(center_yx_m=centre, size_yx_m=size))

    def roi(self) -> tuple[int, int, int, int]:
        """Return the ROI as x, y, width and height in pixels of the full field."""
        knobs = self._knobs
        rows, columns = self._field_shape_yx(knobs)
        if knobs.roi is None:
            return 0, 0, columns, rows
        (y, x), (height, width) = knobs.roi.center_yx_m, knobs.roi.size_yx_m
        pixel = knobs.pixel_size_m
        left, top = round((x - width / 2) / pixel + columns / 2), round((y - height / 2) / pixel + rows / 2)
        return left, top, max(1, round(width / pixel)), max(1, round(height / pixel))

    def snap(self) -> Picture:
        """Take one image, as :meth:`expose`, unless a sequence runs."""
        if self.is_streaming.is_set():
            raise DeviceError("an image cannot be snapped while a sequence runs: stop it first")
        return self.expose()

    def expose(self) -> Picture:
        """Take one image through the guard.

        Counts are rounded, and limited to 0..65535 as by a 16-bit camera; the tag ``SaturatedPixels``
        says how many were above.

        Raises
        ------
        StedfastError
            As ``GuardedMicroscope.acquire`` does.
        """
        knobs = self._knobs
        with self._lock:
            self._exposing += 1
            self._is_put_out = False
        try:
            return self._picture(self._acquire(self.scan(knobs)), knobs)
        finally:
            with self._lock:
                self._exposing -= 1

    @property
    def is_shutter_open(self) -> bool:
        """Tell whether the shutter is open, or a scan has its light on."""
        return self._knobs.is_shutter_open or (self._exposing > 0 and not self._is_put_out)

    def shut(self) -> None:
        """Close the shutter; a scan that runs for somebody else ends in the dark."""
        self.change(lambda knobs: knobs.replace(is_shutter_open=False))
        if self._exposing:
            self.go_dark()
            self._is_put_out = True  # confirmed by the guard, though the scan may still be coming back

    def go_dark(self) -> None:
        """Put the lights out, which ends a running scan; from any thread."""
        self._microscope.go_dark()

    def _field_shape_yx(self, knobs: Knobs) -> tuple[int, int]:
        height, width = (round(side / knobs.pixel_size_m) for side in self._capabilities.fov_size_yx_m)
        return max(1, height), max(1, width)

    def _picture(self, frame: Frame, knobs: Knobs) -> Picture:
        counts = np.rint(frame.photons)
        height, width = counts.shape
        (y_m, x_m), (stage_y_m, stage_x_m) = frame.settings.region.center_yx_m, knobs.stage_yx_m
        tags: dict[str, Any] = {
            "Width": width,
            "Height": height,
            "PixelType": "GRAY16",
            "BitDepth": 16,
            "Camera": CAMERA,
            "Channel": frame.settings.modality,
            "PixelSize_um": in_unit(frame.settings.pixel_size_m, -6),
            "Exposure": in_unit(frame.settings.dwell_s, -3),
            "XPosition_um": in_unit(stage_x_m, -6),
            "YPosition_um": in_unit(stage_y_m, -6),
            "ZPosition_um": 0.0,
            "RegionCenterX_um": in_unit(x_m, -6),
            "RegionCenterY_um": in_unit(y_m, -6),
            "FrameIndex": frame.index,
            "StartedTime_s": frame.started_s,
            "SaturatedPixels": int(np.count_nonzero(counts > FULL_SCALE)),
        }
        for device, properties in self.devices.items():
            tags |= {f"{device}-{name}": self._text(known, knobs) for name, known in properties.items()}
        return Picture(np.clip(counts, 0, FULL_SCALE).astype(np.uint16), tags)

    def _text(self, known: Property, knobs: Knobs) -> str:
        match known:
            case Fixed():
                return known.text
            case Choice():
                return known.texts[known.values.index(getattr(knobs, known.knob))]
            case Quantity():
                return f"{in_unit(getattr(knobs, known.knob), known.exponent):.15g}"

    def _ask_guard(self, knob: str, value: Any) -> None:
        """Let the guard check one value in a scan of one pixel whose other settings are harmless."""
        limits = self._microscope.limits
        changes: dict[str, Any] = {}
        pixel_m, centre = limits.pixel_size_min_m, limits.stage_box.center_yx_m
        if knob == "stage_yx_m":
            centre = value
        elif knob == "pixel_size_m":
            pixel_m = value
        elif knob in ScanSettings.model_fields:
            changes[knob] = value
        if knob == "sted_w":
            changes["modality"] = "sted"
        probe = ScanSettings(
            modality=self._capabilities.modalities[0],
            region=Region(center_yx_m=centre, size_yx_m=(pixel_m, pixel_m)),
            pixel_size_m=pixel_m,
            dwell_s=limits.dwell_min_s,
            excitation_w=0.0,
        )
        self._microscope.check(probe.replace(**changes))
