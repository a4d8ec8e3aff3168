"""The only way to the light.

:class:`GuardedMicroscope` checks a request as a whole, books its worst-case dose, lets the driver
scan, checks what came back and books what was delivered. On any failure, Ctrl-C included, it puts
the lights out and reads back that they are. It refuses; it never clips.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from pydantic import ValidationError

from controller.core.decision import Dose
from controller.core.dose import DoseLedger, Reservation
from controller.core.errors import (
    DeviceError,
    EndOfRecordingError,
    InvalidRequestError,
    LightNotOffError,
    LimitExceededError,
    ReplayDivergedError,
    StedfastError,
)
from controller.core.frame import Frame
from controller.core.limits import SafetyLimits
from controller.core.protocols import Capabilities, Microscope
from controller.core.settings import ScanSettings

_STOP_ATTEMPTS = 3
# What a driver may raise only while it has moved and lit nothing yet.
_BEFORE_LIGHT = (InvalidRequestError, EndOfRecordingError, ReplayDivergedError)


class GuardedMicroscope:
    """A microscope inside its limits and its dose budget.

    Parameters
    ----------
    microscope
        The driver. Nobody else may hold it.
    limits, source
        What is allowed, and the name of the file that says so, for messages.
    before_light
        Called with the reservation before each scan, to put it on disk. If it raises, nothing is lit.
    settled
        Called after a scan that left no frame if it is known what was lit: with the delivered
        settings, or with ``None`` if the driver refused before any light.

    Both may be set later, once there is a disk to write to.
    """

    def __init__(
        self,
        microscope: Microscope,
        limits: SafetyLimits,
        *,
        source: str = "limits",
        before_light: Callable[[Reservation], None] | None = None,
        settled: Callable[[ScanSettings | None], None] | None = None,
    ) -> None:
        self._microscope = microscope
        self.settled = settled
        self.before_light = before_light
        self._source = source
        self._one_at_a_time = threading.Lock()
        self._last_power_w = {"excitation_w": 0.0, "sted_w": 0.0}
        self._brightness: list[tuple[float, float]] = []  # (sted_w, counts per s and W), brightest first
        self.limits = limits
        self.ledger = DoseLedger(limits, source)
        self.frames = 0

    @property
    def dose(self) -> Dose:
        """Return the dose delivered so far; it never decreases."""
        return self.ledger.delivered

    def capabilities(self) -> Capabilities:
        """Return what the microscope says it can do."""
        return self._microscope.capabilities()

    def check(self, settings: object) -> ScanSettings:
        """Return a private, validated copy of a request that is inside every limit but the dose.

        Raises
        ------
        InvalidRequestError
            If it is not a well-formed ``ScanSettings``.
        LimitExceededError
            If any limit is broken; all of them are named.
        """
        request = _validated_copy(settings)
        found = self.limits.violations(request, self._source)
        modalities = self._microscope.capabilities().modalities
        if request.modality not in modalities:
            found.append(f"modality {request.modality!r} is not one of this microscope's: {list(modalities)}")
        found += self._steps(request) + self._count_rate(request)
        if found:
            raise LimitExceededError("; ".join(found))
        return request

    def acquire(self, settings: object) -> Frame:
        """Take one frame, if it is inside the limits and the dose budget.

        Returns
        -------
        The frame, numbered in the order of delivery, with the light confirmed off.

        Raises
        ------
        InvalidRequestError, LimitExceededError, DoseBudgetError
            The request was refused. Nothing was moved or lit.
        DeviceError
            The microscope failed. The light is off and the dose is booked.
        LightNotOffError
            The microscope failed and does not confirm that the light is off.
        """
        with self._one_at_a_time:
            request = self.check(settings)
            booking = self.ledger.reserve(request)
            try:
                if self.before_light is not None:
                    self.before_light(booking)
            except BaseException:
                self.ledger.cancel(booking)
                raise
            delivered: ScanSettings | None = None
            try:
                frame = self._scan(request)
                delivered = frame.settings
                self._refuse_excess(delivered, booking)
                if not self._microscope.is_dark():
                    raise DeviceError("the frame is complete but the light is still on")
            except _BEFORE_LIGHT:
                self.ledger.cancel(booking)
                self.go_dark()
                if self.settled is not None:
                    self.settled(None)
                raise
            except BaseException as error:
                self.ledger.settle(booking, delivered)
                self.go_dark()
                if delivered is not None and self.settled is not None:
                    self.settled(delivered)
                if isinstance(error, Exception) and not isinstance(error, StedfastError):
                    raise DeviceError(f"the microscope failed: {type(error).__name__}: {error}") from error
                raise
            self.ledger.settle(booking, delivered)
            self._remember(frame)
            return frame

    def go_dark(self) -> None:
        """Put every light to its safe value, close the shutter and read back that it is so.

        Raises
        ------
        LightNotOffError
            If the microscope does not confirm it after several attempts.
        """
        cause: BaseException | None = None
        for _ in range(_STOP_ATTEMPTS):
            try:
                self._microscope.stop()
                if self._microscope.is_dark():
                    return
            except BaseException as error:  # noqa: BLE001  # an impatient Ctrl-C must not leave the light on
                cause = error
        raise LightNotOffError(
            f"the light could not be confirmed off after {_STOP_ATTEMPTS} attempts: close the shutter by hand"
        ) from cause

    def close(self) -> None:
        """Put the lights out and release the hardware."""
        try:
            self.go_dark()
        finally:
            self._microscope.close()

    def restore(self, settings: ScanSettings, frame: Frame | None, *, settled: bool) -> None:
        """Book a scan of an earlier part of this session, with the frame that was recorded, if any.

        ``settings`` are what was delivered if ``settled``, else what was reserved.
        """
        self.ledger.restore(settings, settled=settled)
        if frame is not None:
            self._remember(frame)

    def _scan(self, request: ScanSettings) -> Frame:
        """Let the driver scan, under a watchdog that puts the light out if it takes too long."""
        overdue = threading.Event()
        allowed_s = request.duration_s + self.limits.overrun_max_s

        def put_out() -> None:
            overdue.set()
            self._microscope.stop()

        watchdog = threading.Timer(allowed_s, put_out)
        watchdog.daemon = True
        watchdog.start()
        try:
            frame = self._microscope.acquire(request)
        except Exception as error:
            if overdue.is_set():
                raise self._overdue(allowed_s) from error
            raise
        finally:
            watchdog.cancel()
        if overdue.is_set():
            raise self._overdue(allowed_s)
        return replace(_valid_frame(frame, request), index=self.frames)

    def _overdue(self, allowed_s: float) -> DeviceError:
        return DeviceError(
            f"no frame after {allowed_s:.3g} s, the light was put out (overrun_max_s in {self._source})"
        )

    def _refuse_excess(self, actual: ScanSettings, booking: Reservation) -> None:
        # One part in a thousand: a driver may read its own settings back through a float32 register.
        if not actual.dose_j_per_m2 <= booking.dose_j_per_m2 * 1.001:
            raise DeviceError(
                f"the microscope delivered {actual.dose_j_per_m2:.4g} J/m² where {booking.dose_j_per_m2:.4g} "
                f"J/m² was the worst case of the request (dose_margin in {self._source})"
            )

    def _steps(self, request: ScanSettings) -> list[str]:
        found = []
        for name, step_w in (
            ("excitation_w", self.limits.excitation_step_w),
            ("sted_w", self.limits.sted_step_w),
        ):
            last_w, asked_w = self._last_power_w[name], getattr(request, name)
            if step_w is not None and not asked_w <= last_w + step_w:
                found.append(
                    f"{name}={asked_w:g} W is a step up of {asked_w - last_w:g} W from {last_w:g} W, "
                    f"allowed is {step_w:g} W ({name[:-2]}_step_w in {self._source})"
                )
        return found

    def _count_rate(self, request: ScanSettings) -> list[str]:
        """Predict the brightest pixel from earlier frames; more STED power can only make it darker."""
        limit_hz = self.limits.count_rate_max_hz
        known = [rate for sted_w, rate in self._brightness if sted_w <= request.sted_w]
        if limit_hz is None or not known:
            return []
        expected_hz = max(known) * request.excitation_w
        if expected_hz <= limit_hz:
            return []
        message = (
            f"excitation_w={request.excitation_w:g} W would give about {expected_hz:.3g} counts/s, judged by "
            f"earlier frames, allowed is {limit_hz:.3g} (count_rate_max_hz in {self._source})"
        )
        return [message]

    def _remember(self, frame: Frame) -> None:
        self.frames = frame.index + 1
        settings = frame.settings
        for name in self._last_power_w:
            power_w = getattr(settings, name)
            if power_w > 0:
                self._last_power_w[name] = power_w
        if settings.excitation_w > 0:
            rate_hz = _brightest_patch(frame.photons) / settings.pixel_time_s
            self._brightness.append((settings.sted_w, rate_hz / settings.excitation_w))
            # Only the brightest frame at each STED power tells anything; the list stays short.
            best = dict(sorted(self._brightness, key=lambda item: item[1]))
            self._brightness = list(best.items())


def _validated_copy(settings: object) -> ScanSettings:
    # Exactly this type: a subclass could answer one thing to the check and another to the driver.
    if type(settings) is not ScanSettings:
        raise InvalidRequestError(f"a request must be a ScanSettings, got {type(settings).__name__}")
    try:
        # Through JSON, so that no object of the caller's survives that could change after the check.
        return ScanSettings.model_validate_json(json.dumps(settings.model_dump(warnings=False)))
    except (ValidationError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidRequestError(f"the request is not well-formed: {error}") from error


def _valid_frame(frame: object, request: ScanSettings) -> Frame:
    if not isinstance(frame, Frame):
        raise DeviceError(f"the microscope returned {type(frame).__name__} instead of a Frame")
    photons, actual = frame.photons, frame.settings
    if photons.shape != request.shape_yx:
        raise DeviceError(f"a frame of {request.shape_yx} pixels was asked for, {photons.shape} came back")
    if photons.dtype.kind not in "uif" or not np.all(np.isfinite(photons)):
        raise DeviceError(f"the frame (dtype {photons.dtype}) holds values that are not finite numbers")
    half_pixel_m = request.pixel_size_m / 2
    misplaced_m = max(
        abs(a - b) for a, b in zip(actual.region.center_yx_m, request.region.center_yx_m, strict=True)
    )
    if actual.modality != request.modality or not misplaced_m <= half_pixel_m:
        raise DeviceError(
            f"the microscope scanned {actual.modality} at {actual.region.center_yx_m} m, asked was "
            f"{request.modality} at {request.region.center_yx_m} m"
        )
    return frame


def _brightest_patch(photons: np.ndarray) -> float:
    """Return the largest mean over 3 x 3 pixels: shot noise of single pixels would cry wolf."""
    image = np.asarray(photons, dtype=np.float64)
    for axis in (0, 1):
        if image.shape[axis] >= 3:
            length = image.shape[axis] - 2
            image = np.sum([np.take(image, range(k, k + length), axis=axis) for k in range(3)], axis=0) / 3
    return max(0.0, float(image.max()))
