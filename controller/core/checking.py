"""Checking a microscope of real devices: from its files alone, by reading it, and by moving it.

A driver class that offers :class:`Checkable` is not connected to by a plain ``stedfast check``:
connecting may initialise and home devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, runtime_checkable

from controller.core.limits import SafetyLimits
from controller.core.protocols import Resources
from controller.core.settings import Modality, Region, ScanSettings


@dataclass(frozen=True, slots=True)
class OfflineCheck:
    """What the files alone say of a microscope.

    ``problems`` are to be mended, each beginning with its key (``microscope.options.…: ``); ``notes``
    are what the limits allow and the devices cannot do, and what could not be looked at from here.
    """

    summary: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What one setting reads: ``told`` as the device says it, ``si`` in ``unit``.

    ``si`` is empty if the device says something that its calibration does not know.
    """

    setting: str
    place: str
    told: tuple[str, ...]
    si: tuple[float, ...]
    unit: str


@dataclass(frozen=True, slots=True)
class Step:
    """One write of an exercise: what was wanted and what it reads, in ``unit``, and how long it took.

    ``is_inside`` tells whether the read-back is within the tolerance, ``None`` if none is set.
    ``problem`` says what went wrong, or, if nothing was wanted, why nothing was moved.
    """

    setting: str
    place: str
    wanted: tuple[float, ...] = ()
    read: tuple[float, ...] = ()
    unit: str = ""
    write_s: float = 0.0
    is_inside: bool | None = None
    problem: str | None = None

    @property
    def has_failed(self) -> bool:
        """Tell whether a write failed, or reads something else than was wanted."""
        return bool(self.wanted) and (self.problem is not None or self.is_inside is False)


@runtime_checkable
class Bench(Protocol):
    """Devices that are connected to for a check: dark from the first moment to the last."""

    def readings(self) -> list[Reading]:
        """Return what every setting reads; nothing is written."""

    def exercise(self) -> Iterator[Step]:
        """Move every setting that makes no light a little, and back, with the lights safe."""

    def close(self) -> None:
        """Put the lights out and release the devices."""


@runtime_checkable
class Checkable(Protocol):
    """A driver class whose microscope can be checked without a session."""

    @classmethod
    def check_offline(cls, options: Any, resources: Resources) -> OfflineCheck:
        """Check the files; connect to nothing."""

    @classmethod
    def open_bench(cls, options: Any, resources: Resources) -> Bench:
        """Connect to the devices and put the lights out; write nothing else."""


def corner_scans(limits: SafetyLimits, modalities: Iterable[Modality]) -> Iterator[ScanSettings]:
    """Yield scans at the edges of what the limits allow: powers, times, sampling, sizes, places."""
    for modality in modalities:
        powers = product((0.0, limits.excitation_max_w), (0.0, limits.sted_max_w * (modality == "sted")))
        times = product((limits.dwell_min_s, limits.dwell_max_s), (1, limits.line_averages_max))
        sampling = (limits.pixel_size_min_m, limits.pixel_size_max_m)
        cases = product(set(powers), set(times), set(sampling), (True, False))
        for (excitation_w, sted_w), (dwell_s, averages), pixel_m, is_large in cases:
            side_px = _largest_side_px(limits, pixel_m, dwell_s * averages) if is_large else 1
            for centre in _places(limits, side_px * pixel_m):
                for focus_m in {None, limits.focus_min_m, limits.focus_max_m}:
                    scan = ScanSettings(
                        modality=modality,
                        region=Region(center_yx_m=centre, size_yx_m=(side_px * pixel_m, side_px * pixel_m)),
                        pixel_size_m=pixel_m,
                        dwell_s=dwell_s,
                        excitation_w=excitation_w,
                        sted_w=sted_w,
                        line_averages=averages,
                        focus_m=focus_m,
                    )
                    if not limits.violations(scan, "limits"):
                        yield scan


def _largest_side_px(limits: SafetyLimits, pixel_m: float, pixel_time_s: float) -> int:
    pixels = min(limits.pixels_max, int(limits.frame_max_s / pixel_time_s))
    return max(1, min(math.isqrt(max(0, pixels)), int(min(limits.stage_box.size_yx_m) / pixel_m)))


def _places(limits: SafetyLimits, side_m: float) -> list[tuple[float, float]]:
    """Return the middle of the stage box, and two opposite corners, for the centre of a square."""
    (y, x), (height, width) = limits.stage_box.center_yx_m, limits.stage_box.size_yx_m
    dy, dx = (height - side_m) / 2, (width - side_m) / 2
    return [(y, x), (y - dy, x - dx), (y + dy, x + dx)] if dy > 0 and dx > 0 else [(y, x)]
