"""How a focus is moved over a sample: how long lines and frames take, and when each line is scanned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.errors import InvalidRequestError
from controller.core.settings import NonNegative, Positive, ScanSettings, Settings

ScannerName = Literal["resonant", "galvo"]

_WHERE = "scanner of the microscope's options"


class ScannerOptions(Settings):
    """A scanner. The defaults are those of common instruments, not of one.

    Attributes
    ----------
    kind
        ``resonant``: lines take half a period of the mirror, whatever they are, and every other one is
        scanned backwards. ``galvo``: lines take as long as their pixels and the way back.
    resonant_hz, resonant_fill
        Frequency of the resonant mirror, and the part of each line in which there is light: 0.71 is the
        middle nine tenths of a sinusoidal sweep, (2/π) arcsin 0.9.
    galvo_fill, galvo_line_min_s
        The part of each line in which there is light, and the shortest line.
    flyback_s
        From the last line of a frame to the first of the next one.
    phase_error_m
        By how much backward lines are shifted against forward ones, as with a phase that is not set well.
    """

    kind: ScannerName = "resonant"
    resonant_hz: Positive = 8000.0
    resonant_fill: Annotated[float, Field(gt=0, le=1)] = 0.713
    galvo_fill: Annotated[float, Field(gt=0, le=1)] = 0.8
    galvo_line_min_s: Positive = 0.5e-3
    flyback_s: NonNegative = 1.33e-3
    phase_error_m: Annotated[float, Field(ge=-5e-6, le=5e-6)] = 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """When a frame's lines are scanned.

    ``line_s`` is the time of a line, all its passes together, ``frame_s`` that of a frame and the way
    back; in a ``bidirectional`` scan every other line runs backwards.
    """

    lines: int
    line_s: float
    frame_s: float
    bidirectional: bool

    def middles_s(self, started_s: float, lines: NDArray[np.intp] | None = None) -> NDArray[np.float64]:
        """Return when the beam is in the middle of each line; lines before and after it are held."""
        wanted = np.arange(self.lines) if lines is None else np.clip(lines, 0, self.lines - 1)
        return np.asarray(started_s + (wanted + 0.5) * self.line_s)

    def lines_done(self, elapsed_s: float) -> int:
        """Return how many lines are complete so long after the start."""
        return int(min(self.lines, max(0, np.floor(elapsed_s / self.line_s + 1e-6))))


def timing(settings: ScanSettings, options: ScannerOptions) -> Timing:
    """Plan a scan.

    Raises
    ------
    InvalidRequestError
        If the scanner is too slow for it.
    """
    lines, columns = settings.shape_yx
    light_s = columns * settings.dwell_s
    if options.kind == "resonant":
        pass_s = 0.5 / options.resonant_hz
        room_s = pass_s * options.resonant_fill
        # A line of the guard's settings may come back through a rounding.
        if not light_s <= room_s * (1 + 1e-9):
            most_s, pixels = room_s / columns, int(room_s / settings.dwell_s)
            raise InvalidRequestError(
                f"dwell_s={settings.dwell_s:g} s on {columns} pixels is {light_s:.4g} s of light a line, a "
                f"resonant mirror of {options.resonant_hz:g} Hz has {room_s:.4g} s: allowed is a dwell_s up "
                f"to {most_s:.4g} s, or {pixels} pixels, or kind = 'galvo' ({_WHERE})"
            )
    else:
        pass_s = max(light_s / options.galvo_fill, options.galvo_line_min_s)
    line_s = pass_s * settings.line_averages
    bidirectional = options.kind == "resonant" and settings.line_averages % 2 == 1
    return Timing(lines, line_s, lines * line_s + options.flyback_s, bidirectional)
