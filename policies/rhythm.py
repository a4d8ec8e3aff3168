"""When the next of a row of scans is due."""

from __future__ import annotations


class Rhythm:
    """Starts a fixed interval apart, counted from the start before; what is late begins at once."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._started_s: float | None = None

    def next_start_s(self, now_s: float, *, at_once: bool = False) -> float | None:
        """Return when the next one is to start, on the session's clock; None is now.

        It then counts as started. With ``at_once`` there is no waiting.
        """
        due_s = now_s if at_once or self._started_s is None else self._started_s + self._interval_s
        self._started_s = max(now_s, due_s)
        return due_s if due_s > now_s else None
