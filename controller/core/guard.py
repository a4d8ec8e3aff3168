"""The only way to the light.

:class:`GuardedMicroscope` checks a request as a whole, books its worst-case dose, lets the driver
scan, checks what came back and books what was delivered. On any failure, Ctrl-C included, it puts
the lights out and reads back that they are. It refuses; it never clips.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from pydantic import ValidationError

from controller.core.decision import Dose
from controller.core.dose import DoseLedger, Lit, Reservation
from controller.core.errors import (
    DeviceError,
    EndOfRecordingError,
    InvalidRequestError,
    LightFaultError,
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
_STOP_PAUSE_S = 0.1
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
        Called after a scan that left no frame if it lit anything else than its reservation: nothing,
        if the driver refused before any light, or more.

    Both may be set later, once there is a disk to write to.
    """

    def __init__(
        self,
        microscope: Microscope,
        limits: SafetyLimits,
        *,
        source: str = "limits",
        before_light: Callable[[Reservation], None] | None = None,
        settled: Callable[[Lit], None] | None = None,
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
            started_s = time.monotonic()
            try:
                frame = self._scan(request)
                delivered = frame.settings
                self._refuse_excess(delivered, booking)
                if not self._microscope.is_dark():
                    raise LightFaultError("the frame is complete but the light is still on")
            except BaseException as error:
                was_dark = self._fail(error, booking, delivered, started_s)
                if isinstance(error, _BEFORE_LIGHT) and not was_dark:
                    raise LightFaultError(f"the microscope refused with its light on: {error}") from error
                if isinstance(error, Exception) and not isinstance(error, StedfastError):
                    raise DeviceError(f"the microscope failed: {type(error).__name__}: {error}") from error
                raise
            self.ledger.settle(booking, Lit.by(delivered))
            self._remember(frame)
            return frame

    def _fail(
        self, error: BaseException, booking: Reservation, delivered: ScanSettings | None, started_s: float
    ) -> bool:
        """Make it dark after a scan that failed, then book its light; in this order, whatever happens.

        Returns whether it was dark already.
        """
        was_dark = self._seems_dark()
        try:
            self.go_dark()
        finally:
            lit = booking.lit()
            if isinstance(error, _BEFORE_LIGHT) and was_dark:
                lit = booking.lit(times=0.0)
            elif isinstance(error, LightFaultError) or not was_dark:
                # It may have been lit for as long as it took to put it out.
                lit = booking.lit(max(1.0, self._elapsed_s(started_s) / booking.settings.duration_s))
            if delivered is not None and delivered.energy_j > lit.energy_j:
                lit = Lit.by(delivered)
            if lit.energy_j == 0 and isinstance(error, _BEFORE_LIGHT):
                self.ledger.cancel(booking)
            else:
                self.ledger.settle(booking, lit)
        if lit != booking.lit() and self.settled is not None:
            self.settled(lit)
        return was_dark

    def _elapsed_s(self, started_s: float) -> float:
        # The light of a simulation does not follow the wall clock, and its runs must be repeatable.
        return 0.0 if self._microscope.capabilities().simulated else time.monotonic() - started_s

    def _seems_dark(self) -> bool:
        try:
            return self._microscope.is_dark()
        except Exception:  # noqa: BLE001  # a driver that cannot tell is not dark
            return False

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
                    break
            except BaseException as error:  # noqa: BLE001  # an impatient Ctrl-C must not leave the light on
                cause = error
        else:
            raise LightNotOffError(
                f"the light could not be confirmed off after {_STOP_ATTEMPTS} attempts: "
                f"close the shutter by hand"
            ) from cause
        if isinstance(cause, KeyboardInterrupt):
            raise cause

    def close(self) -> None:
        """Put the lights out and release the hardware."""
        try:
            self.go_dark()
        finally:
            self._microscope.close()

    def restore(self, lit: Lit, frame: Frame | None) -> None:
        """Book a scan of an earlier part of this session, with the frame that was recorded, if any."""
        self.ledger.restore(lit)
        if frame is not None:
            self._remember(frame)

    def _scan(self, request: ScanSettings) -> Frame:
        """Let the driver scan, under a watchdog that puts the light out if it takes too long."""
        watchdog = _Watchdog(self._microscope, request.duration_s + self.limits.overrun_max_s)
        try:
            with watchdog:
                frame = self._microscope.acquire(request)
        except Exception as error:
            if watchdog.has_fired:
                raise self._overdue(watchdog.allowed_s) from error
            raise
        if watchdog.has_fired:
            raise self._overdue(watchdog.allowed_s)
        return replace(_valid_frame(frame, request), index=self.frames)

    def _overdue(self, allowed_s: float) -> LightFaultError:
        return LightFaultError(
            f"no frame after {allowed_s:.3g} s, the light was put out (overrun_max_s in {self._source})"
        )

    def _refuse_excess(self, actual: ScanSettings, booking: Reservation) -> None:
        asked, margin = booking.settings, self.limits.dose_margin
        for name, delivered, worst, unit in (
            ("excitation power", actual.excitation_w, asked.excitation_w * margin, "W"),
            ("STED power", actual.sted_w, asked.sted_w * margin, "W"),
            ("dose", actual.dose_j_per_m2, booking.dose_j_per_m2, "J/m²"),
            ("energy", actual.energy_j, booking.energy_j, "J"),
        ):
            # One part in a thousand: a driver may read settings back through a float32 register.
            if not delivered <= worst * 1.001:
                raise LightFaultError(
                    f"the microscope delivered a {name} of {delivered:.4g} {unit} where {worst:.4g} {unit} "
                    f"was the worst case of the request (dose_margin in {self._source})"
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


class _Watchdog:
    """Puts the light out, again and again until it is dark, if a scan takes too long."""

    def __init__(self, microscope: Microscope, allowed_s: float) -> None:
        self.allowed_s = allowed_s
        self.has_fired = False
        self._microscope = microscope
        self._scanning = threading.Lock()  # held while stop() runs, so that it cannot hit a later scan
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="scan-watchdog", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with self._scanning:
            self._done.set()

    def _watch(self) -> None:
        if self._done.wait(self.allowed_s):
            return
        while True:
            with self._scanning:
                if self._done.is_set():
                    return
                self.has_fired = True
                try:
                    self._microscope.stop()
                    if self._microscope.is_dark():
                        return
                except Exception:  # noqa: BLE001, S110  # tried again: there is nobody else to put it out
                    pass
            self._done.wait(_STOP_PAUSE_S)


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
    photons = frame.photons
    try:
        actual = _validated_copy(frame.settings)
    except InvalidRequestError as error:
        raise DeviceError(f"the microscope reports impossible settings: {error}") from error
    if photons.shape != request.shape_yx:
        raise DeviceError(f"a frame of {request.shape_yx} pixels was asked for, {photons.shape} came back")
    known = photons.dtype.kind in "uif" and photons.dtype.itemsize <= 8
    if not known or not np.all(np.isfinite(photons)) or not math.isfinite(frame.started_s):
        raise DeviceError(f"the frame (dtype {photons.dtype}) holds values that are not finite numbers")
    there, wanted = actual.scanned_region.bounds_yx_m, request.scanned_region.bounds_yx_m
    misplaced_m = max(abs(a - b) for a, b in zip(there, wanted, strict=True))
    if actual.modality != request.modality or not misplaced_m <= 0.501 * request.pixel_size_m:
        raise DeviceError(
            f"the microscope scanned {actual.modality} at {actual.region}, asked was "
            f"{request.modality} at {request.region}"
        )
    return replace(frame, settings=actual)


def _brightest_patch(photons: np.ndarray) -> float:
    """Return the largest mean over 3 x 3 pixels: shot noise of single pixels would cry wolf."""
    image = np.asarray(photons, dtype=np.float64)
    for axis in (0, 1):
        if image.shape[axis] >= 3:
            length = image.shape[axis] - 2
            image = np.sum([np.take(image, range(k, k + length), axis=axis) for k in range(3)], axis=0) / 3
    return max(0.0, float(image.max()))
