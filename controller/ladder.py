"""How much a session does with a frame: it steps down when it is too slow, and up again with care.

A slow computer costs quality of what the loop computes, never a frame of the record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from controller.core.settings import Positive, Settings

#: What :attr:`~controller.core.frame.Denoised.level` counts, the best first.
FULL, SPARSE, COARSE, FALLBACK = range(4)

#: So many frames out of the last so many over the budget are too many.
MISSES_MAX, WINDOW = 3, 10
#: So many frames in a row must look as if they fitted one level up, before it is tried.
CLEAN_FRAMES = 100
# A climb that fails again and again is tried ever more rarely, but at 30 frames a second still every
# half hour.
_WAIT_MAX = 512 * CLEAN_FRAMES


class RealTime(Settings):
    """How much time a frame may take, and how often it is segmented when that is too little.

    Without ``budget_s`` time never matters; a model that runs out of memory still steps down.
    """

    budget_s: Positive | None = None
    segment_every: Annotated[int, Field(ge=2, le=1000)] = 4


class Ladder:
    """Which level a session works at.

    It goes down after three frames over the budget in the last ten, and up after a hundred in a row that
    are likely to fit one level up. A climb that is followed by a fall within a hundred frames has failed:
    the next one waits twice as long.
    """

    def __init__(self, budget_s: float | None, levels: Sequence[int] = (FULL,)) -> None:
        self._budget_s = float("inf") if budget_s is None else budget_s
        self._levels = sorted(levels)
        self._level = self._levels[0]
        self._missed: deque[bool] = deque(maxlen=WINDOW)
        self._clean = 0
        self._wait = CLEAN_FRAMES
        self._since_climb: int | None = None

    @property
    def level(self) -> int:
        """Return the level of the next frame."""
        return self._level

    def allow(self, levels: Sequence[int]) -> None:
        """Say which levels there are now; from one that is no more, the next better one is taken."""
        self._levels = sorted(levels)
        if self._level not in self._levels:
            better = [level for level in self._levels if level < self._level]
            self._go_to(better[-1] if better else self._levels[0])

    def count(self, took_s: float, above_s: float) -> None:
        """Take note of a frame: the time that it took, and that it would have taken one level up."""
        self._missed.append(not took_s <= self._budget_s)
        self._clean = self._clean + 1 if above_s <= self._budget_s else 0
        if self._since_climb is not None:
            self._since_climb += 1
            if self._since_climb >= CLEAN_FRAMES:
                self._since_climb, self._wait = None, CLEAN_FRAMES
        if sum(self._missed) >= MISSES_MAX:
            self.fall()
        elif self._clean >= self._wait:
            self._climb()

    def fall(self, at_least: int = SPARSE) -> bool:
        """Go down to the next level, or to the first from ``at_least`` on; tell whether there is one."""
        lower = [level for level in self._levels if level > self._level and level >= at_least]
        if not lower:
            return False
        if self._since_climb is not None:
            self._since_climb, self._wait = None, min(2 * self._wait, _WAIT_MAX)
        self._go_to(lower[0])
        return True

    def follow(self, level: int) -> None:
        """Go where a record says that it was; no question if it is there already."""
        if level != self._level:
            self._go_to(level)

    def _climb(self) -> None:
        higher = [level for level in self._levels if level < self._level]
        if higher:
            self._go_to(higher[-1])
            self._since_climb = 0

    def _go_to(self, level: int) -> None:
        self._level, self._clean = level, 0
        self._missed.clear()
