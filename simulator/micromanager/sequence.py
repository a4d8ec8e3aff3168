"""Images taken one after the other into a buffer, as Micro-Manager's sequence acquisition."""

from __future__ import annotations

import threading
from collections import deque

from controller.core.errors import AcquisitionStoppedError, DeviceError, StedfastError
from simulator.micromanager.scanner import BYTES_PER_PIXEL, Picture, Scanner

#: How long it may take until a stop is seen by a sequence that waits.
_STOP_LATENCY_S = 0.05


class Sequence:
    """One running or ended sequence.

    Every image is taken with what is set at its start. A full buffer ends the sequence: light for
    images that nobody could get would be spent for nothing, whatever ``stopOnOverflow`` says.

    Parameters
    ----------
    count
        Number of images, ``None`` until it is stopped.
    interval_s
        Pause after each image.
    capacity_bytes
        Size of the buffer.
    """

    def __init__(self, scanner: Scanner, count: int | None, interval_s: float, capacity_bytes: int) -> None:
        self._scanner = scanner
        self._count = count
        self._interval_s = interval_s
        self._capacity_bytes = capacity_bytes
        self._pictures: deque[Picture] = deque()
        self._last: Picture | None = None
        self._error: StedfastError | None = None
        self._stopping = threading.Event()
        self.has_overflowed = False
        scanner.is_streaming.set()
        self._thread = threading.Thread(target=self._run, name="sequence acquisition", daemon=True)
        self._thread.start()

    def is_running(self) -> bool:
        """Tell whether images are still to come."""
        return self._scanner.is_streaming.is_set() and self._thread.is_alive()

    def waiting(self) -> int:
        """Return how many images are in the buffer."""
        return len(self._pictures)

    def pop(self) -> Picture:
        """Take the oldest image out of the buffer.

        Raises
        ------
        StedfastError
            If there is none: why the sequence failed, if it did.
        """
        try:
            return self._pictures.popleft()
        except IndexError:
            self.tell_failure()
            raise DeviceError("no image is in the buffer: ask getRemainingImageCount() first") from None

    def last(self) -> Picture:
        """Return the newest image, which stays in the buffer."""
        if self._last is None:
            self.tell_failure()
            raise DeviceError("the sequence has taken no image yet")
        return self._last

    def tell_failure(self) -> None:
        """Raise what ended the sequence, once, when all its images were fetched."""
        if self._error is not None and not self._pictures:
            error, self._error = self._error, None
            raise error

    def clear(self) -> None:
        """Throw away the images in the buffer."""
        self._pictures.clear()

    def stop(self) -> None:
        """End the sequence, in the middle of a scan if need be, and wait until it is dark."""
        self._stopping.set()
        while self._thread.is_alive():
            # Again and again: a stop that comes just before a scan belongs to the one before.
            self._scanner.go_dark()
            self._thread.join(_STOP_LATENCY_S)

    def _run(self) -> None:
        taken = 0
        try:
            while taken != self._count and not self._stopping.is_set():
                self._must_have_room()
                picture = self._scanner.expose()
                picture.tags["ImageNumber"] = taken
                taken += 1
                self._last = picture
                self._pictures.append(picture)
                self._stopping.wait(self._interval_s)
        except AcquisitionStoppedError as error:
            if not self._stopping.is_set():
                self._error = error
        except StedfastError as error:
            self._error = error
        finally:
            self._scanner.is_streaming.clear()

    def _must_have_room(self) -> None:
        """Refuse to take an image that the buffer would not hold."""
        rows, columns = self._scanner.scan(self._scanner.knobs).shape_yx
        if (len(self._pictures) + 1) * rows * columns * BYTES_PER_PIXEL > self._capacity_bytes:
            self.has_overflowed = True
            raise DeviceError(
                f"the image buffer is full with {len(self._pictures)} images: the sequence was ended; fetch "
                f"images faster, or enlarge it with setCircularBufferMemoryFootprint()"
            )
