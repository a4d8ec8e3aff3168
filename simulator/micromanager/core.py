"""The part of Micro-Manager's Core that is about images: camera, shutter, snap, sequence."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import DeviceError, InvalidRequestError
from simulator.micromanager.devices import RemoteDevices
from simulator.micromanager.knobs import CAMERA, SHUTTER, in_si, in_unit
from simulator.micromanager.objects import caller, java
from simulator.micromanager.scanner import BYTES_PER_PIXEL, Picture, Scanner
from simulator.micromanager.sequence import Sequence
from simulator.micromanager.values import Rectangle, TaggedImage

_BUFFER_MB = 250
_MAX_BUFFER_MB = 4096


class CoreState:
    """What all clients' cores share: the devices, the last image and the sequence."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.snapped: Picture | None = None
        self.sequence: Sequence | None = None
        self.buffer_mb = _BUFFER_MB
        self.lock = threading.Lock()


class RemoteCore(RemoteDevices):
    """``mmcorej.CMMCore`` for one client: what is neither here nor in its base cannot be called."""

    def __init__(self, state: CoreState) -> None:
        super().__init__(state.scanner)
        self._state = state

    @java("void setExposure(double)", "void setExposure(String, double)")
    def set_exposure(self, *value: Any) -> None:
        *device, exposure_ms = value
        self._must_be(device[0] if device else CAMERA, CAMERA)
        self._scanner.change(lambda knobs: self._scanner.with_exposure(knobs, exposure_ms))

    @java("double getExposure()", "double getExposure(String)")
    def exposure(self, device: str = CAMERA) -> float:
        self._must_be(device, CAMERA)
        return in_unit(self._scanner.knobs.dwell_s, -3)

    @java("void setROI(int, int, int, int)", "void setROI(String, int, int, int, int)")
    def set_roi(self, *place: Any) -> None:
        *device, x, y, width, height = place
        self._must_be(device[0] if device else CAMERA, CAMERA)
        self._scanner.change(lambda knobs: self._scanner.with_roi(knobs, x, y, width, height))

    @java("java.awt.Rectangle getROI()", "java.awt.Rectangle getROI(String)")
    def roi(self, device: str = CAMERA) -> Rectangle:
        self._must_be(device, CAMERA)
        return Rectangle(*self._scanner.roi())

    @java("void clearROI()")
    def clear_roi(self) -> None:
        self._scanner.change(lambda knobs: knobs.replace(roi=None))

    @java("long getImageWidth()")
    def image_width(self) -> int:
        return self._scanner.scan(self._scanner.knobs).shape_yx[1]

    @java("long getImageHeight()")
    def image_height(self) -> int:
        return self._scanner.scan(self._scanner.knobs).shape_yx[0]

    @java("long getBytesPerPixel()")
    def bytes_per_pixel(self) -> int:
        return BYTES_PER_PIXEL

    @java("long getImageBitDepth()")
    def bit_depth(self) -> int:
        return 16

    @java("long getImageBufferSize()")
    def image_bytes(self) -> int:
        return self.image_width() * self.image_height() * BYTES_PER_PIXEL

    @java("long getNumberOfComponents()", "long getNumberOfCameraChannels()")
    def one(self) -> int:
        return 1

    @java("String getCameraChannelName(long)")
    def camera_channel(self, index: int) -> str:
        if index != 0:
            raise InvalidRequestError(f"camera channel {index} is asked, there is channel 0 alone")
        return CAMERA

    @java("double getPixelSizeUm()")
    def pixel_size(self) -> float:
        return in_unit(self._scanner.knobs.pixel_size_m, -6)

    @java("void setAutoShutter(boolean)")
    def set_auto_shutter(self, is_on: bool) -> None:
        self._scanner.change(lambda knobs: knobs.replace(has_auto_shutter=is_on))

    @java("boolean getAutoShutter()")
    def auto_shutter(self) -> bool:
        return self._scanner.knobs.has_auto_shutter

    @java("void setShutterOpen(boolean)", "void setShutterOpen(String, boolean)")
    def set_shutter_open(self, *value: Any) -> None:
        *device, is_open = value
        self._must_be(device[0] if device else SHUTTER, SHUTTER)
        if is_open:
            self._scanner.change(lambda knobs: knobs.replace(is_shutter_open=True))
        else:
            self._scanner.shut()

    @java("boolean getShutterOpen()", "boolean getShutterOpen(String)")
    def is_shutter_open(self, device: str = SHUTTER) -> bool:
        self._must_be(device, SHUTTER)
        return self._scanner.is_shutter_open

    # --- images

    @java("void snapImage()")
    def snap(self) -> None:
        self._state.snapped = None
        # A client that dies while it waits for the image ends the scan.
        at_loss = caller().at_loss
        at_loss["snap"] = self._scanner.go_dark
        try:
            self._state.snapped = self._scanner.snap()
        finally:
            at_loss.pop("snap", None)

    @java("Object getImage()", "Object getImage(long)")
    def image(self, channel: int = 0) -> NDArray[np.uint16]:
        return self._snapped(channel).pixels.ravel()

    @java("mmcorej.TaggedImage getTaggedImage()", "mmcorej.TaggedImage getTaggedImage(int)")
    def tagged_image(self, channel: int = 0) -> TaggedImage:
        picture = self._snapped(channel)
        return TaggedImage(picture.pixels, picture.tags)

    @java(
        "void startSequenceAcquisition(int, double, boolean)",
        "void startSequenceAcquisition(String, int, double, boolean)",
    )
    def start_sequence(self, *how: Any) -> None:
        *device, count, interval_ms, _ = how
        self._must_be(device[0] if device else CAMERA, CAMERA)
        if not count >= 1:
            raise InvalidRequestError(f"a sequence of {count} images is asked, the least is 1")
        self._start(count, interval_ms)

    @java("void startContinuousSequenceAcquisition(double)")
    def start_continuous(self, interval_ms: float) -> None:
        self._start(None, interval_ms)

    @java("void stopSequenceAcquisition()", "void stopSequenceAcquisition(String)")
    def stop_sequence(self, device: str = CAMERA) -> None:
        self._must_be(device, CAMERA)
        if self._state.sequence is not None:
            self._state.sequence.stop()
            self._state.sequence.tell_failure()

    @java("boolean isSequenceRunning()", "boolean isSequenceRunning(String)")
    def sequence_running(self, device: str = CAMERA) -> bool:
        self._must_be(device, CAMERA)
        sequence = self._state.sequence
        if sequence is None or sequence.is_running():
            return sequence is not None
        sequence.tell_failure()
        return False

    @java("int getRemainingImageCount()")
    def remaining(self) -> int:
        return self._state.sequence.waiting() if self._state.sequence is not None else 0

    @java("Object popNextImage()")
    def pop_image(self) -> NDArray[np.uint16]:
        return self._running().pop().pixels.ravel()

    @java("mmcorej.TaggedImage popNextTaggedImage()")
    def pop_tagged_image(self) -> TaggedImage:
        picture = self._running().pop()
        return TaggedImage(picture.pixels, picture.tags)

    @java("Object getLastImage()")
    def last_image(self) -> NDArray[np.uint16]:
        return self._running().last().pixels.ravel()

    @java("mmcorej.TaggedImage getLastTaggedImage()")
    def last_tagged_image(self) -> TaggedImage:
        picture = self._running().last()
        return TaggedImage(picture.pixels, picture.tags)

    @java("void clearCircularBuffer()", "void initializeCircularBuffer()")
    def clear_buffer(self) -> None:
        if self._state.sequence is not None:
            self._state.sequence.clear()

    @java("void setCircularBufferMemoryFootprint(int)")
    def set_buffer(self, size_mb: int) -> None:
        if not 1 <= size_mb <= _MAX_BUFFER_MB:
            raise InvalidRequestError(f"a buffer of {size_mb} MB is asked, allowed are 1..{_MAX_BUFFER_MB}")
        self._state.buffer_mb = size_mb

    @java("int getCircularBufferMemoryFootprint()")
    def buffer_size(self) -> int:
        return self._state.buffer_mb

    @java("boolean isBufferOverflowed()")
    def is_overflowed(self) -> bool:
        return self._state.sequence is not None and self._state.sequence.has_overflowed

    def _start(self, count: int | None, interval_ms: float) -> None:
        if not 0 <= interval_ms <= 1e6:
            raise InvalidRequestError(f"an interval of {interval_ms:g} ms is asked, allowed is 0..1e6")
        capacity_bytes = self._state.buffer_mb * 2**20
        with self._state.lock:
            if self._scanner.is_streaming.is_set():
                raise DeviceError("a sequence is running already: stop it first")
            sequence = Sequence(self._scanner, count, in_si(interval_ms, -3), capacity_bytes)
            self._state.sequence = sequence
        caller().at_loss["sequence"] = sequence.stop

    def _snapped(self, channel: int) -> Picture:
        self.camera_channel(channel)
        if self._state.snapped is None:
            raise DeviceError("there is no image: call snapImage() first")
        return self._state.snapped

    def _running(self) -> Sequence:
        if self._state.sequence is None:
            raise DeviceError("there is no image: start a sequence first")
        return self._state.sequence
