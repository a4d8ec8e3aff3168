"""The sample on the stage: molecules that scans find, bleach and leave, while the sample moves.

A sample that moves is scanned line by line. Each line sees it at the place of the line's middle in time:
whole map pixels of the shift choose the part of the map, and what is left of it, in quarters of a map
pixel, the kernels of light. Neighbouring lines with the same shift are scanned together, so a slow drift
costs little. That is the law of a scan of a sample that rests during each line and jumps by 5 nm or a
multiple between two: at most 2.5 nm along each axis from where it is in the middle of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from simulator.stage import Place
from simulator.sted.optics import Offset
from simulator.sted.scanning import (
    AdaptiveExposure,
    Exposure,
    Molecules,
    Scanned,
    ScanningEngine,
    Seeds,
    child,
)

#: Parts of a map pixel that shifts are counted in.
PARTS = 4


@runtime_checkable
class MovingEngine(Protocol):
    """An engine that can also scan molecules beside the middles of their map pixels."""

    def shifted(self, offset_yx_px: Offset) -> ScanningEngine:
        """Return the engine for molecules that lie so far from the middle of their map pixels."""


def moving_engine(engine: ScanningEngine) -> MovingEngine:
    """Return the engine as one that can scan a moving sample.

    Raises
    ------
    ConfigurationError
        If it cannot.
    """
    if not isinstance(engine, MovingEngine):
        raise ConfigurationError(
            f"drift_m_per_s, vibration_m: a {type(engine).__name__} cannot scan a sample that moves"
        )
    return engine


class Sample:
    """A map of molecules with empty glass around it.

    Parameters
    ----------
    molecules
        Shape ``(…, y, x)``: with several dyes a map of each.
    margin_px
        Half width of the light's kernels: as much glass is kept on each side.
    """

    def __init__(self, molecules: Molecules, margin_px: int) -> None:
        beyond = [(0, 0)] * (molecules.ndim - 2) + [(margin_px, margin_px)] * 2
        self._margin_px = margin_px
        self._map: Molecules = np.pad(molecules, beyond)

    @property
    def molecules(self) -> Molecules:
        """The molecules that still fluoresce, without the glass: a view, to be written to."""
        inside = slice(self._margin_px, -self._margin_px)
        return self._map[..., inside, inside]

    def scan(
        self,
        engine: ScanningEngine,
        place: Place,
        exposure: Exposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool],
    ) -> Scanned:
        """Scan the sample at rest, and leave in it what survives.

        Parameters
        ----------
        engine, exposure, seeds, go_on
            As for :meth:`simulator.sted.scanning.ScanningEngine.scan`.
        place
            Where the scan lies; parts of it that lie beyond the sample are glass.
        """
        size = [pixels * place.stride_px + 2 * self._margin_px for pixels in place.shape_yx]
        # The last pixels of a scan may lie beyond the map, and all of them if it has drifted away.
        inside, glass = [], []
        for first, length, whole in zip(place.first_yx, size, self._map.shape[-2:], strict=True):
            start, stop = (min(max(edge, 0), whole) for edge in (first, first + length))
            before = min(max(-first, 0), length)
            inside.append(slice(start, stop))
            glass.append((before, length - before - (stop - start)))
        lit = self._map[..., inside[0], inside[1]]  # a view: survivors are written back to it
        beyond = [(0, 0)] * (lit.ndim - 2) + glass
        scanned = engine.scan(np.pad(lit, beyond), exposure, seeds, go_on)
        (top, _), (before, _) = glass
        height, width = lit.shape[-2:]
        lit[:] = scanned.survivors[..., top : top + height, before : before + width]
        return scanned

    def scan_moving(
        self,
        engine: MovingEngine,
        place: Place,
        exposure: Exposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool],
        *,
        shift_px: NDArray[np.float64],
    ) -> Scanned:
        """Scan while the sample moves; the survivors returned are those of the whole sample.

        Parameters
        ----------
        engine, place, exposure, seeds, go_on
            As for :meth:`scan`.
        shift_px
            Where the sample is during each line relative to its rest, in map pixels, shape
            ``(lines, 2)``, y and x.
        """
        bands: list[Scanned] = []
        goes_on = True
        for first, last, whole, part in _bands(shift_px):
            ahead = first

            def ask(done: int, ahead: int = ahead) -> bool:
                nonlocal goes_on
                goes_on = go_on(ahead + done)
                return goes_on

            y, x = place.first_yx
            there = replace(
                place,
                first_yx=(y + first * place.stride_px - whole[0], x - whole[1]),
                shape_yx=(last - first, place.shape_yx[1]),
            )
            own = Seeds(child(seeds.bleaching, first), child(seeds.photons, first))
            bands.append(self.scan(engine.shifted(part), there, exposure, own, ask))
            if not goes_on:
                break
        steps = [band.steps for band in bands if band.steps is not None]
        return Scanned(
            np.concatenate([band.photons for band in bands]),
            self._map,
            np.concatenate(steps) if steps else None,
        )


def _bands(shift_px: NDArray[np.float64]) -> Iterator[tuple[int, int, tuple[int, int], Offset]]:
    """Yield lines with the same shift: first, the one after the last, whole and further map pixels."""
    counted = np.rint(shift_px * PARTS).astype(np.int64)
    whole = -(-(2 * counted - PARTS) // (2 * PARTS))
    starts = np.flatnonzero(np.any(np.diff(counted, axis=0, prepend=counted[:1] - 1) != 0, axis=1))
    for first, last in zip(starts, [*starts[1:], len(counted)], strict=True):
        y, x = whole[first].tolist()
        down, across = ((counted[first] - PARTS * whole[first]) / PARTS).tolist()
        yield int(first), int(last), (y, x), (down, across)
