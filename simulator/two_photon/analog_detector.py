"""From photons to what a detector writes down: counts, or grey levels of a photomultiplier or a camera."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Positive, Settings

DetectorName = Literal["photon_counting", "pmt", "scmos"]
Floats = NDArray[np.float32]

#: What a pixel gets of another one is left out below this, and further away than so many pixels.
_TAIL = 1e-3
_TAPS_MAX = 16


class DetectorOptions(Settings):
    """A detector and its electronics.

    The photomultiplier is NAOMi's (Song et al., J. Neurosci. Methods 358:109173, 2021): 100 grey levels a
    photon with a variance of 2300, electronic noise of 2.7, with gamma distributed pulses instead of
    lognormal ones, because sums of them are gamma distributed, too.

    Attributes
    ----------
    kind
        ``photon_counting`` gives photons; ``pmt`` and ``scmos`` give grey levels.
    grey_per_photon, offset_grey, read_noise_grey
        Mean of a photon's pulse, darkness, and electronic noise.
    excess_noise
        Excess noise factor of a photomultiplier: the variance of many photons' pulses over that of as
        many equal ones. 1 is none.
    bandwidth_hz
        Of a photomultiplier's amplifier, a single pole: what comes too late is in the next pixel. With
        pixels of 87 ns the default correlates neighbours by 0.17; those of a real movie were by 0.18.
    background_hz
        Dark counts and stray light; 0.05 a pixel (NAOMi) at about 130 ns.
    bits
        Of the converter of grey levels.
    """

    kind: DetectorName = "pmt"
    grey_per_photon: Positive = 100.0
    offset_grey: NonNegative = 200.0
    read_noise_grey: NonNegative = 2.7
    excess_noise: Annotated[float, Field(ge=1, le=10)] = 1.23
    bandwidth_hz: Positive = 9e6
    background_hz: NonNegative = 3.7e5
    bits: Annotated[int, Field(ge=8, le=16)] = 14

    @property
    def unit(self) -> str:
        """Return what a frame of this detector counts."""
        return "photons" if self.kind == "photon_counting" else "grey levels"

    @property
    def offset_units(self) -> float:
        """Return what a frame reads without any light."""
        return 0.0 if self.kind == "photon_counting" else self.offset_grey

    @property
    def units_per_photon(self) -> float:
        """Return by how much a photon raises what a frame reads, on average."""
        return 1.0 if self.kind == "photon_counting" else self.grey_per_photon

    @property
    def variance_per_photon(self) -> float:
        """Return the variance of the output of one expected photon, noise of the amplifier left out."""
        if self.kind == "photon_counting":
            return 1.0
        excess = self.excess_noise if self.kind == "pmt" else 1.0
        return excess * self.grey_per_photon**2


def bleed(bandwidth_hz: float, dwell_s: float) -> tuple[NDArray[np.float64], int]:
    """Return how a photon's pulse is shared by the pixels about its own, and the first one's place.

    Photons come at any time of a pixel of length T. The amplifier spreads their charge over time as
    ``exp(-t / τ) / τ``, and the clock of the pixels runs late by its mean delay τ, as it is set on a
    microscope. With ``H(t) = t - τ (1 - exp(-t / τ))`` for t > 0, pixel k has
    ``(H((k + 1) T + τ) - 2 H(k T + τ) + H((k - 1) T + τ)) / T``. The sum is 1.
    """
    delay = 1 / (2 * np.pi * bandwidth_hz * dwell_s)  # in pixels
    edges = np.arange(-_TAPS_MAX - 1, _TAPS_MAX + 2) + delay
    late = np.maximum(edges, 0)
    charge = np.diff(late - delay * (1 - np.exp(-late / delay)), n=2)
    kept = np.flatnonzero(charge > _TAIL)
    taps = charge[kept[0] : kept[-1] + 1]
    return taps / taps.sum(), int(kept[0]) - _TAPS_MAX


def slowest_bandwidth_hz(dwell_s: float) -> float:
    """Return the smallest bandwidth at which pixels of a dwell time can still be told apart."""
    return 1 / (2 * np.pi * 2.0 * dwell_s)


def detect(
    photons: Floats,
    dwell_s: float,
    options: DetectorOptions,
    rng: np.random.Generator,
    *,
    bidirectional: bool = False,
) -> NDArray[Any]:
    """Return what the detector writes for an image of expected photons.

    Parameters
    ----------
    photons
        Expected photons of each pixel, background included, shape ``(y, x)``.
    dwell_s
        Time of a pixel.
    options
        The detector.
    rng
        Where the chance comes from.
    bidirectional
        Every other line is scanned from right to left.

    Returns
    -------
    Photons as uint32, or grey levels as uint16, of the same shape.
    """
    counted = rng.poisson(photons)
    if options.kind == "photon_counting":
        return counted.astype(np.uint32)
    signal = counted.astype(np.float32)
    if options.kind == "pmt":
        signal = _multiplied(signal, options.excess_noise, rng)
        signal = _smeared(signal, *bleed(options.bandwidth_hz, dwell_s), bidirectional=bidirectional)
    signal *= np.float32(options.grey_per_photon)
    signal += rng.standard_normal(signal.shape, np.float32) * np.float32(options.read_noise_grey)
    signal += np.float32(options.offset_grey + 0.5)  # half a level more, cut off, is rounding
    return np.clip(signal, 0, 2**options.bits - 1, out=signal).astype(np.uint16)


def _multiplied(counts: Floats, excess_noise: float, rng: np.random.Generator) -> Floats:
    """Give each photon a pulse of mean 1 and variance ``excess_noise - 1``."""
    if excess_noise <= 1:
        return counts
    shape = np.float32(1 / (excess_noise - 1))
    lit = counts > 0
    pulses = np.zeros_like(counts)
    pulses[lit] = rng.standard_gamma(counts[lit] * shape, dtype=np.float32) / shape
    return pulses


def _smeared(signal: Floats, taps: NDArray[np.float64], first: int, *, bidirectional: bool) -> Floats:
    """Give a part of each pixel to those before and after it in time."""
    if len(taps) == 1:
        return signal
    if bidirectional:
        signal[1::2] = signal[1::2, ::-1].copy()
    out = np.zeros_like(signal)
    for step, tap in enumerate(taps, start=first):
        if abs(step) >= signal.shape[1]:
            continue
        if step < 0:
            out[:, :step] += np.float32(tap) * signal[:, -step:]
        else:
            out[:, step:] += np.float32(tap) * signal[:, : signal.shape[1] - step]
    if bidirectional:
        out[1::2] = out[1::2, ::-1].copy()
    return out
