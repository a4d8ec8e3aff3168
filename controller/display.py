"""What a person sees in the terminal: progress of a session, and an image to label."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from controller.core.decision import Acquire, AskLabel, Cycle

_LINES = 6


class SessionProgress:
    """Shows a running session: dose against its budget, what was decided last, and why.

    On a terminal one live panel; elsewhere (a log file, CI) one line a cycle.
    """

    def __init__(self, console: Console, energy_budget_j: float) -> None:
        self._console = console
        self._safe_frames = 0
        self._lines: list[Text] = []
        self._bar = Progress(
            TextColumn("dose"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>5.1f} %  {task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("dose", total=energy_budget_j, state="connecting …")
        self._live = Live(self._view(), console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def waiting(self, whom: str) -> None:
        """Show that it is somebody else's turn."""
        self._bar.update(self._task, state=f"waiting for {whom}")

    def acknowledged(self, index: int) -> None:
        """Count a frame that is safe on disk; called from the writer's thread."""
        self._safe_frames = index + 1

    def cycle(self, cycle: Cycle) -> None:
        """Show a finished cycle."""
        self._lines = [*self._lines, _line(cycle)][-_LINES:]
        if not self._console.is_terminal:
            self._console.print(self._lines[-1], soft_wrap=True)
            return
        state = f"cycle {cycle.index + 1}, {self._safe_frames} frames on disk"
        self._bar.update(self._task, completed=cycle.dose.energy_j, state=state)
        self._live.update(self._view())

    def _view(self) -> RenderableType:
        return Group(*self._lines, self._bar)


def _line(cycle: Cycle) -> Text:
    decision = cycle.decision
    what: str
    if isinstance(decision, Acquire):
        what, style = decision.settings.modality, "cyan"
    elif isinstance(decision, AskLabel):
        what, style = "question", "magenta"
    else:
        what, style = "stop", "green"
    text = Text.assemble((f"{cycle.index:4d} ", "dim"), (f"{what:<9} ", style), decision.reason)
    if cycle.refused:
        text.append(f"  refused: {cycle.refused}", "yellow")
    for fault in cycle.faults:
        text.append(f"  fault: {fault}", "red")
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def image_for_terminal(image: NDArray[np.floating], columns: int = 64) -> Text:
    """Return a grey-scale image as text, two pixels a character cell, for a terminal with colours."""
    height, width = image.shape
    scale = max(width / columns, 1e-9)
    rows = max(2, 2 * round(height / scale / 2))
    y = np.minimum((np.arange(rows) * height / rows).astype(int), height - 1)
    x = np.minimum((np.arange(columns) * width / columns).astype(int), width - 1)
    low, high = np.percentile(image, [1, 99.8])
    grey = np.clip((image[np.ix_(y, x)] - low) / max(high - low, 1e-9), 0, 1)
    levels = (255 * np.sqrt(grey)).astype(int)
    text = Text()
    for upper, lower in zip(levels[::2], levels[1::2], strict=True):
        for a, b in zip(upper, lower, strict=True):
            text.append("▀", f"rgb({a},{a},{a}) on rgb({b},{b},{b})")
        text.append("\n")
    return text
