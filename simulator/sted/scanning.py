"""What a scan is to an engine: light on pixels, seeds in, photons and survivors out.

Coordinates: an engine takes a map of molecules that reaches ``margin_px`` map pixels beyond each edge
of the scanned region, and scans what lies inside. With a stride of s map pixels, the beam of image
pixel ``(r, c)`` rests on map pixel ``(margin_px + s // 2 + r * s, margin_px + s // 2 + c * s)``: the
middle of the image pixel, or just below and right of it if the stride is even.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Molecules = NDArray[np.int32]
FloatImage = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Exposure:
    """The same light on every pixel.

    Attributes
    ----------
    stride_px
        Pixel size in map pixels.
    dwell_s
        Time on a pixel, all passes together.
    excitation_w, sted_w
        Mean powers at the sample.
    passes
        How often each line is scanned before the next one, ``dwell_s / passes`` on a pixel each time.
    """

    stride_px: int
    dwell_s: float
    excitation_w: float
    sted_w: float = 0.0
    passes: int = 1

    def __post_init__(self) -> None:
        _check_whole("stride_px", self.stride_px)
        _check_whole("passes", self.passes)
        _check_light(self.dwell_s, self.excitation_w, self.sted_w)


@dataclass(frozen=True, slots=True, eq=False)
class PixelExposure:
    """Its own light for each pixel, each scanned once, line by line.

    ``dwell_s``, ``excitation_w`` and ``sted_w`` are arrays of the image's shape ``(y, x)``, or numbers
    that hold for every pixel. Where the dwell time is 0 the pixel is left out.
    """

    stride_px: int
    dwell_s: FloatImage | float
    excitation_w: FloatImage | float
    sted_w: FloatImage | float = 0.0

    def __post_init__(self) -> None:
        _check_whole("stride_px", self.stride_px)
        for name in ("dwell_s", "excitation_w", "sted_w"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.ndim not in (0, 2) or not bool(np.all((values >= 0) & np.isfinite(values))):
                raise ValueError(f"{name} must be finite numbers ≥ 0, one for all pixels or one for each")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an adaptive pixel: its light, and what its photons decide.

    Attributes
    ----------
    dwell_s, excitation_w, sted_w
        The light of this step.
    fewest_photons
        With fewer photons in this step the pixel ends here.
    enough_photons
        With more photons than this in this step the pixel ends here, and the step's photons are
        scaled up to the whole pixel's time. ``None``: never.
    """

    dwell_s: float
    excitation_w: float
    sted_w: float = 0.0
    fewest_photons: int = 0
    enough_photons: int | None = None

    def __post_init__(self) -> None:
        _check_light(self.dwell_s, self.excitation_w, self.sted_w)


@dataclass(frozen=True, slots=True)
class AdaptiveExposure:
    """Steps on each pixel that end early where the photons say so: DyMIN and RESCue.

    DyMIN (Heine et al., PNAS 114:9797, 2017) raises the STED power from step to step and ends a pixel
    without signal: give ``fewest_photons`` and ``sums=False``. RESCue (Staudt et al., Opt. Express
    19:5644, 2011) keeps the light and ends early where it is dark or bright: give both thresholds and
    ``sums=True``.

    Attributes
    ----------
    stride_px
        Pixel size in map pixels.
    steps
        In this order, at least one.
    sums
        Whether a pixel's value is the photons of all its steps, or those of the last one made.
    dark_is_zero
        Whether a pixel that ends for want of photons counts 0, as in pySTED, or what it has seen.
    scaled_to_s
        The time that a step's photons are scaled up to where they are enough; ``None`` is that of all
        steps together. pySTED takes the last step alone.
    """

    stride_px: int
    steps: tuple[Step, ...]
    sums: bool = False
    dark_is_zero: bool = False
    scaled_to_s: float | None = None

    def __post_init__(self) -> None:
        _check_whole("stride_px", self.stride_px)
        if not 1 <= len(self.steps) <= 255:
            raise ValueError(f"steps has {len(self.steps)} entries: an adaptive pixel has 1 to 255")

        if self.scaled_to_s is not None and not (self.scaled_to_s > 0 and isfinite(self.scaled_to_s)):
            raise ValueError(f"scaled_to_s={self.scaled_to_s!r} must be a finite time above 0 s")

    @property
    def dwell_s(self) -> float:
        """Return the time on a pixel that makes all its steps."""
        return sum(step.dwell_s for step in self.steps)


@dataclass(frozen=True, slots=True)
class Seeds:
    """Hashed seeds of one scan, one stream for each kind of chance."""

    bleaching: np.random.SeedSequence
    photons: np.random.SeedSequence


def child(parent: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """Return a seed below another one. Unlike ``spawn`` it is the same whenever it is asked for."""
    return np.random.SeedSequence(parent.entropy, spawn_key=(*parent.spawn_key, number))


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """What a scan left.

    Attributes
    ----------
    photons
        Detected counts, shape ``(lines, x)``, uint32. Fewer lines than asked if it was stopped.
    survivors
        Molecules that still fluoresce, same shape and grid as the map that went in, int32.
    steps
        How many steps each pixel of an adaptive scan made, shape of ``photons``, uint8. ``None`` for
        other scans.
    """

    photons: NDArray[np.uint32]
    survivors: Molecules
    steps: NDArray[np.uint8] | None = None


def always(lines: int) -> bool:  # noqa: ARG001
    """Go on to the end of the scan."""
    return True


class ScanningEngine(Protocol):
    """What turns a map of molecules into an image. Pure: the map that goes in stays as it is."""

    @property
    def map_pixel_size_m(self) -> float:
        """Pixel size of the maps it takes, in metres."""

    @property
    def margin_px(self) -> int:
        """Map pixels beyond each edge of the scanned region that the light still reaches."""

    def scan(
        self,
        molecules: Molecules,
        exposure: Exposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = ...,
    ) -> Scanned:
        """Scan the inside of a map, line by line.

        Parameters
        ----------
        molecules
            Molecules per map pixel, int32, shape ``(y, x)``: the scanned region and ``margin_px``
            beyond each of its edges.
        exposure, seeds
            How each pixel is lit, and the chance of this scan. The microscope says which engines it gives
            adaptive ones (``Capabilities.adaptive``).
        go_on
            Called after a few lines with the number of lines done; ``False`` ends the scan there.

        Raises
        ------
        ValueError
            If the map without its margin is not a whole number of image pixels, at least one.
        """


def image_shape(molecules: Molecules, stride_px: int, margin_px: int) -> tuple[int, int]:
    """Return how many lines and columns a scan of a map has.

    Raises
    ------
    ValueError
        If the map without its margin is not a whole number of image pixels, at least one.
    """
    lines, columns = ((size - 2 * margin_px) // stride_px for size in molecules.shape)
    inside = (lines * stride_px + 2 * margin_px, columns * stride_px + 2 * margin_px)
    if not (lines >= 1 and columns >= 1 and molecules.shape == inside):
        raise ValueError(
            f"a map of {molecules.shape} is not a margin of {margin_px} around whole pixels of {stride_px}"
        )
    return lines, columns


def _check_whole(name: str, value: int) -> None:
    if not (value >= 1 and value == int(value)):
        raise ValueError(f"{name}={value!r} must be a whole number, at least 1")


def _check_light(dwell_s: float, excitation_w: float, sted_w: float) -> None:
    if not (dwell_s > 0 and isfinite(dwell_s)):
        raise ValueError(f"dwell_s={dwell_s!r} must be a finite time above 0 s")
    for name, power_w in (("excitation_w", excitation_w), ("sted_w", sted_w)):
        if not (power_w >= 0 and isfinite(power_w)):
            raise ValueError(f"{name}={power_w!r} must be a finite power of at least 0 W")
