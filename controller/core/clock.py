"""Time comes in from outside, so that a simulated hour takes seconds and no test sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(timings: dict[str, float], name: str) -> Iterator[None]:
    """Write down how much wall time something takes, in seconds; for records only."""
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = time.perf_counter() - start


class SystemClock:
    """The computer's monotonic clock; it shows ``now_s`` when made."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._start_s = time.monotonic() - now_s

    def now_s(self) -> float:
        """Return the seconds on the session's clock."""
        return time.monotonic() - self._start_s

    def sleep(self, duration_s: float) -> None:
        """Wait ``duration_s``; not at all if it is negative."""
        if duration_s > 0:
            time.sleep(duration_s)


class SimulatedClock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        """Return the simulated seconds since the start."""
        return self._now_s

    def sleep(self, duration_s: float) -> None:
        """Move the time on by ``duration_s``, at once; not at all if it is negative."""
        self._now_s += max(0.0, duration_s)
