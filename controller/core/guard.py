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
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
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
from controller.core.protocols import Capabilities, Microscope, Streams
from controller.core.settings import ScanSettings
from controller.core.watchdog import Watchdog
from controller.core.worker import Job, NothingCameError, Worker, within

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
        Called after a scan that failed if it lit anything else than its reservation: nothing, if the
        driver refused before any light, less, if a movie ended early, or more.
    taken
        Called with each frame of :meth:`acquire`, once it is dark and booked.

    All may be set later, once there is a disk to write to.
    """

    def __init__(
        self,
        microscope: Microscope,
        limits: SafetyLimits,
        *,
        source: str = "limits",
        before_light: Callable[[Reservation], None] | None = None,
        settled: Callable[[Lit], None] | None = None,
        taken: Callable[[Frame], None] | None = None,
    ) -> None:
        self._microscope = microscope
        self._told: Capabilities | None = None
        self._driver = Worker("driver")
        self._is_lost = False
        self.settled = settled
        self.before_light = before_light
        self.taken = taken
        self.closed: Callable[[], None] | None = None  # called once, when nobody needs it any more
        self._source = source
        self._one_at_a_time = threading.Lock()
        self._last_power_w = {"excitation_w": 0.0, "sted_w": 0.0}
        # The brightest so far, by (sted_w, photons that excite): counts per s and W to this power.
        self._brightness: dict[tuple[float, int], float] = {}
        self.limits = limits
        self.ledger = DoseLedger(limits, source)
        self.frames = 0

    @property
    def dose(self) -> Dose:
        """Return the dose delivered so far; it never decreases."""
        return self.ledger.delivered

    def capabilities(self) -> Capabilities:
        """Return what the microscope says it can do; it is asked once."""
        if self._told is None:
            self._told = self._microscope.capabilities()
        return self._told

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
        able = self.capabilities()
        if request.modality not in able.modalities:
            found.append(
                f"modality {request.modality!r} is not one of this microscope's: {list(able.modalities)}"
            )
        if request.adaptive is not None and not able.adaptive:
            found.append(f"an adaptive scan is asked, {able.name} makes none: leave adaptive out")
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
            frames: list[Frame] = []
            self._scan(settings, 1, frames.append)
            if self.taken is not None:
                self.taken(frames[0])
            return frames[0]

    def stream(self, settings: object, frames: int, take: Callable[[Frame], None]) -> None:
        """Take a movie: ``frames`` frames of one scan, without a pause if the microscope can do that.

        ``take`` gets each frame as it comes, while the next one is being taken: it should be quick, and
        if it raises, the movie ends. The whole movie is booked before the light, and it is dark when
        this returns or raises, as with :meth:`acquire`.
        """
        if frames < 1:
            raise InvalidRequestError(f"a movie of {frames} frames is asked, allowed is 1 or more")
        with self._one_at_a_time:
            self._scan(settings, frames, take)

    def _scan(self, settings: object, count: int, take: Callable[[Frame], None]) -> None:
        """Check, book, scan ``count`` times, hand over each frame, make sure it is dark, and settle."""
        self._refuse_if_lost()
        request = self.check(settings)
        booking = self.ledger.reserve(request, count)
        try:
            if self.before_light is not None:
                self.before_light(booking)
        except BaseException:
            self.ledger.cancel(booking)
            raise
        delivered: list[Lit] = []
        started_s = time.monotonic()
        watchdog = None
        if count > 1:
            watchdog = Watchdog(self._microscope, request.duration_s + self.limits.overrun_max_s)
        job = self._driver.start(
            lambda: self._frames(request, count), watchdog, in_step=self.capabilities().simulated
        )
        try:
            for frame in self._watched(job, watchdog, request):
                delivered.append(Lit.by(frame.settings))
                self._refuse_excess(frame.settings, booking)
                self._remember(frame)
                take(frame)
        except BaseException as error:
            was_dark = self._fail(error, job, booking, delivered, started_s)
            if isinstance(error, _BEFORE_LIGHT) and not was_dark:
                raise LightFaultError(f"the microscope refused with its light on: {error}") from error
            if isinstance(error, Exception) and not isinstance(error, StedfastError):
                raise DeviceError(f"the microscope failed: {type(error).__name__}: {error}") from error
            raise
        self.ledger.settle(booking, Lit.sum(delivered))

    def _frames(self, request: ScanSettings, count: int) -> Iterator[Frame]:
        """Yield the driver's frames, and make sure that it is dark; on the driver's thread."""
        microscope = self._microscope
        if count > 1 and isinstance(microscope, Streams):
            yield from microscope.stream(request, count)
        else:
            for _ in range(count - 1):
                yield microscope.acquire(request)
            last = microscope.acquire(request)
            try:
                is_dark = microscope.is_dark()  # first, so that whoever waits is woken once
            finally:
                yield last
            if is_dark:
                return
        if not microscope.is_dark():
            raise LightFaultError("the frame is complete but the light is still on")

    def _watched(self, job: Job[Frame], watchdog: Watchdog | None, request: ScanSettings) -> Iterator[Frame]:
        """Yield each frame, checked; one that takes too long is a fault of the light.

        Of a single scan this thread itself is the watchdog; of a movie it is busy with the frames.
        """
        allowed_s = request.duration_s + self.limits.overrun_max_s
        patience_s = allowed_s if watchdog is None else allowed_s + self.limits.overrun_max_s
        with watchdog or nullcontext():
            try:
                for frame in job.items(patience_s):
                    if watchdog is not None and watchdog.has_fired:
                        break
                    yield replace(_valid_frame(frame, request), index=self.frames)
            except NothingCameError as error:
                raise self._overdue(allowed_s) from error
            except Exception as error:
                if watchdog is not None and watchdog.has_fired:
                    raise self._overdue(allowed_s) from error
                raise
        if watchdog is not None and watchdog.has_fired:
            raise self._overdue(allowed_s)

    def _fail(
        self,
        error: BaseException,
        job: Job[Frame],
        booking: Reservation,
        delivered: list[Lit],
        started_s: float,
    ) -> bool:
        """Make it dark after a scan that failed, then book its light; in this order, whatever happens.

        Returns whether it was dark already.
        """
        was_dark = (job.has_ended() or job.is_resting) and self._seems_dark()
        try:
            self._put_out(job)
        finally:
            lit = self._lit_by_failure(error, job.begun, booking, delivered, started_s, was_dark=was_dark)
            if lit.energy_j == 0:
                self.ledger.cancel(booking)
            else:
                self.ledger.settle(booking, lit)
        if lit != booking.lit() and self.settled is not None:
            self.settled(lit)
        return was_dark

    def _put_out(self, job: Job[Frame]) -> None:
        """Make it dark, and wait until the driver has come back from its scan."""
        was_running = not job.has_ended()
        job.cancel()
        self.go_dark()
        if was_running:
            self._is_lost = not job.has_ended(self.limits.overrun_max_s)
            self.go_dark()  # the driver may have lit once more before it heard of the end

    def _refuse_if_lost(self) -> None:
        if self._is_lost:
            raise LightFaultError(
                "the driver has not come back from a scan: end this program and look at the devices"
            )

    def _lit_by_failure(
        self,
        error: BaseException,
        scans: int,
        booking: Reservation,
        delivered: list[Lit],
        started_s: float,
        *,
        was_dark: bool,
    ) -> Lit:
        """Return the most that a scan that failed may have lit."""
        known = Lit.sum(delivered) if delivered else booking.lit(times=0.0)
        scans = max(1, min(scans, booking.frames))
        if isinstance(error, _BEFORE_LIGHT) and was_dark:
            return known
        elapsed = self._elapsed_s(started_s) / booking.duration_s
        if isinstance(error, LightFaultError) or not was_dark:
            # It may have been lit for as long as it took to put it out.
            times = max(1.0, elapsed)
        else:
            # Of a movie that ended early, the frame that was never finished counts.
            times = min(1.0, max(scans / booking.frames, elapsed))
        lit = replace(booking.lit(times), frames=scans)
        return lit if lit.energy_j >= known.energy_j else known

    def _elapsed_s(self, started_s: float) -> float:
        # The light of a simulation does not follow the wall clock, and its runs must be repeatable.
        return 0.0 if self.capabilities().simulated else time.monotonic() - started_s

    def _seems_dark(self) -> bool:
        try:
            return within(self.limits.overrun_max_s, self._microscope.is_dark, "is_dark()")
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
                if within(self.limits.overrun_max_s, self._stop, "stop()"):
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

    def _stop(self) -> bool:
        self._microscope.stop()
        return self._microscope.is_dark()

    def close(self) -> None:
        """Put the lights out and release the hardware."""
        try:
            self.go_dark()
        except BaseException:
            with suppress(Exception):  # the light is what must be told
                self._release()
            raise
        else:
            self._release()
        finally:
            if self.closed is not None:
                self.closed()
                self.closed = None

    def _release(self) -> None:
        within(self.limits.overrun_max_s, self._microscope.close, "close()")

    def restore(self, lit: Lit, frames: Sequence[Frame]) -> None:
        """Book a scan of an earlier part of this session, with the frames that were recorded of it."""
        self.ledger.restore(lit)
        for frame in frames:
            self._remember(frame)

    def _overdue(self, allowed_s: float) -> LightFaultError:
        return LightFaultError(
            f"no frame after {allowed_s:.3g} s, the light was put out (overrun_max_s in {self._source})"
        )

    def _refuse_excess(self, actual: ScanSettings, booking: Reservation) -> None:
        asked, margin = booking.settings, self.limits.dose_margin
        worst_frame = booking.lit(1 / booking.frames)
        for name, delivered, worst, unit in (
            ("excitation power", actual.excitation_w, asked.excitation_w * margin, "W"),
            ("STED power", actual.sted_w, asked.sted_w * margin, "W"),
            ("dose", actual.dose_j_per_m2, worst_frame.dose_j_per_m2, "J/m²"),
            ("energy", actual.energy_j, worst_frame.energy_j, "J"),
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
        laws = self._photons_that_excite(request)
        known = [
            rate * light.excitation_w**photons
            for light in request.pixel_lights
            for (sted_w, photons), rate in self._brightness.items()
            if sted_w <= light.sted_w and photons in laws
        ]
        # What cannot be told (nan, after a frame with hardly any light) is not below the limit.
        if limit_hz is None or all(expected_hz <= limit_hz for expected_hz in known):
            return []
        expected_hz = max(known)
        message = (
            f"excitation_w={request.excitation_w:g} W would give about {expected_hz:.3g} counts/s, judged by "
            f"earlier frames, allowed is {limit_hz:.3g} (count_rate_max_hz in {self._source})"
        )
        return [message]

    def _photons_that_excite(self, request: ScanSettings) -> tuple[int, ...]:
        """Return the powers of the excitation with which the counts may go."""
        if request.modality == "two_photon":
            return (2,)
        if request.modality == "overview" and "two_photon" in self.capabilities().modalities:
            return (1, 2)  # nothing says which: the law that gives more counts is believed
        return (1,)

    def _remember(self, frame: Frame) -> None:
        self.frames = frame.index + 1
        settings = frame.settings
        for name in self._last_power_w:
            power_w = getattr(settings, name)
            if power_w > 0:
                self._last_power_w[name] = power_w
        if settings.excitation_w > 0 and self.limits.count_rate_max_hz is not None:
            # Of an adaptive frame this is the least that its weakest STED light can have given.
            rate_hz = _brightest_patch(frame.photons) / settings.pixel_time_s
            sted_w = min(light.sted_w for light in settings.pixel_lights)
            for photons in (1, 2):
                law = (sted_w, photons)
                rate_hz /= settings.excitation_w  # one by one: a square may be too small for a float
                # Only the brightest frame at each STED power tells anything.
                self._brightness[law] = max(rate_hz, self._brightness.get(law, 0.0))


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
    kind = photons.dtype.kind if photons.dtype.itemsize <= 8 else ""
    is_finite = kind in {"u", "i"} or (kind == "f" and bool(np.isfinite(photons).all()))
    if not is_finite or not math.isfinite(frame.started_s):
        raise DeviceError(f"the frame (dtype {photons.dtype}) holds values that are not finite numbers")
    there, wanted = actual.scanned_region.bounds_yx_m, request.scanned_region.bounds_yx_m
    misplaced_m = max(abs(a - b) for a, b in zip(there, wanted, strict=True))
    if actual.modality != request.modality or not misplaced_m <= 0.501 * request.pixel_size_m:
        raise DeviceError(
            f"the microscope scanned {actual.modality} at {actual.region}, asked was "
            f"{request.modality} at {request.region}"
        )
    if actual.focus_m != request.focus_m:
        raise DeviceError(f"the microscope scanned focus {actual.focus_m} m, asked was {request.focus_m} m")
    if actual.adaptive != request.adaptive:
        raise DeviceError(f"the microscope scanned with {actual.adaptive}, asked was {request.adaptive}")
    return replace(frame, settings=actual)


def _brightest_patch(photons: np.ndarray) -> float:
    """Return the largest mean over 3 x 3 pixels: shot noise of single pixels would cry wolf."""
    image: np.ndarray = np.asarray(photons, dtype=np.float32)
    if image.shape[0] >= 3:
        image = (image[:-2] + image[1:-1] + image[2:]) / 3
    if image.shape[1] >= 3:
        image = (image[:, :-2] + image[:, 1:-1] + image[:, 2:]) / 3
    return max(0.0, float(image.max()))
