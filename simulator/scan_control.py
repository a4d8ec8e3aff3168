"""What every simulated scanner has: one scan at a time, and a light that any thread can put out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from controller.core.clock import SimulatedClock
from controller.core.errors import AcquisitionStoppedError, DeviceError
from controller.core.protocols import Clock

#: How long it may take until a stop from another thread ends a wait.
STOP_LATENCY_S = 0.05


class ScanControl:
    """The light of a simulated microscope and the right to use it.

    Parameters
    ----------
    clock
        Tells the time, and lets it pass.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stopping = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._switch = threading.Lock()
        self._is_closed = False
        self.is_lit = False

    @contextmanager
    def scanning(self) -> Iterator[None]:
        """Hold the sample for one scan or movie; it is dark afterwards.

        A stop that came before it belongs to an earlier one.

        Raises
        ------
        DeviceError
            If the microscope is closed or already scanning.
        """
        if not self._one_at_a_time.acquire(blocking=False):
            raise DeviceError("the simulated microscope is already scanning: wait for the frame or stop it")
        try:
            self._stopping.clear()
            if self._is_closed:
                raise DeviceError("the simulated microscope is closed: make a new one")
            yield
        finally:
            self.is_lit = False
            self._one_at_a_time.release()

    @contextmanager
    def light(self) -> Iterator[None]:
        """Have the light on.

        Raises
        ------
        AcquisitionStoppedError
            If the scan was stopped already.
        """
        # Together with the lock in stop(): a stop between the check and the light would be lost.
        with self._switch:
            self.raise_if_stopped("the acquisition was stopped before the light")
            self.is_lit = True
        try:
            yield
        finally:
            self.is_lit = False

    def raise_if_stopped(self, message: str) -> None:
        """Raise :class:`AcquisitionStoppedError` if a stop came since the scan began."""
        if self._stopping.is_set():
            raise AcquisitionStoppedError(message)

    def wait_until(self, due_s: float, at_once_s: float = STOP_LATENCY_S) -> bool:
        """Let time pass until ``due_s`` or a stop, ``at_once_s`` at once; tell whether to go on."""
        longest_s = min(at_once_s, STOP_LATENCY_S)
        while not self._stopping.is_set() and (left_s := due_s - self._clock.now_s()) > 0:
            self._clock.sleep(min(left_s, longest_s))
        return not self._stopping.is_set()

    def wait_in_hindsight(self, due_s: float, at_once_s: float = STOP_LATENCY_S) -> bool:
        """Do as :meth:`wait_until` for a scan of the past: only a simulated clock is moved on."""
        return self.wait_until(due_s, at_once_s) if isinstance(self._clock, SimulatedClock) else True

    def stop(self) -> None:
        """Put the light out, from any thread; a running scan ends."""
        self._stopping.set()
        with self._switch:
            self.is_lit = False

    def close(self) -> None:
        """Stop and take no more scans."""
        self._is_closed = True
        self.stop()
