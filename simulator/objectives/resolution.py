"""How fine the details are that an image shows: decorrelation analysis and Fourier ring correlation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.objectives.measure import Image, Measure, as_image, as_pair, check_positive, unmeasured

#: Fewer pixels a side hold too few frequencies for either measure.
_LEAST_SIDE = 16

_RADII = 200
_FILTERS = 10
#: The strongest high-pass filter, and how much a peak must stand out, both as published.
_STRONGEST = 0.15
_DIP = 1e-3
#: In small images noise makes peaks by chance. A peak must stand out from the scatter of the correlation
#: by as much, and the spectrum just inside it from the one outside by so many standard deviations.
_DIP_BY_SCATTER = 0.2
_SIGNIFICANCE = 3.0
#: Just inside: from this part of the radius.
_RIM = 0.8
#: Peaks lower than this are noise's.
_LEAST_PEAK = 0.05


def decorrelation_resolution_m(photons: NDArray[Any], pixel_size_m: float) -> Measure:
    """Return the resolution of one image by decorrelation analysis, in metres.

    The image is correlated with a copy of itself whose Fourier amplitudes are all 1 and which is cut to
    a disc of radius r. Signal makes that correlation rise with r, noise makes it fall, so it peaks near
    the last frequency with signal. The image is then high-pass filtered more and more, which moves the
    peak outwards until only noise is left: the farthest peak is the cut-off frequency of the image.

    The result is the period of that frequency, between two pixels and half the image's side. It depends
    on the noise as well as on the optics: of the same blur, a brighter image has the better resolution.
    Empty images, pure noise and very faint structures have none. In 64 pixels a side, a period of 10
    pixels is found to within a tenth; the scatter is a fifth of a frequency step of the image.

    Returns
    -------
    Metres; without a value if there is no peak at all.

    References
    ----------
    Descloux, Grussmayer & Radenovic, Nature Methods 16 (2019) 918: equations 1 and 2, and the search
    over filters. Three things differ, for the sake of small images: edges are faded over a quarter of
    the image, and the one frequency step by which that spreads a spectrum is taken off; a peak counts
    only if the spectrum drops there by more than chance; and the correlation is summed exactly over all
    frequencies, so the radius needs no second, finer search.
    """
    check_positive(pixel_size_m=pixel_size_m)
    image = as_image(photons)
    if min(image.shape) < _LEAST_SIDE:
        return unmeasured(f"an image of {image.shape} pixels is smaller than {_LEAST_SIDE} a side")
    window = _faded(image.shape[0])[:, None] * _faded(image.shape[1])
    if not np.ptp(image) > 1e-12 * float(np.abs(image).max()):
        return unmeasured("the image is uniform")
    discs = _discs(*image.shape)
    amplitude = np.abs(np.fft.rfft2((image - image.mean()) * window)).ravel()[discs.order]
    drops = _drops(amplitude, discs, _spread(image, window))
    unfiltered = float(_peaks(amplitude[None], discs, drops)[0])
    widest = 2 / unfiltered if unfiltered > 0 else max(image.shape) / 2
    widths = np.geomspace(max(widest, 2 * _STRONGEST), _STRONGEST, _FILTERS)
    peaks = _filtered_peaks(amplitude, widths, discs, drops)
    # Once more, between the neighbours of the best filter.
    best = int(np.argmax(peaks))
    finer = np.geomspace(widths[max(best - 1, 0)], widths[min(best + 1, _FILTERS - 1)], _FILTERS)
    finest = float(_filtered_peaks(amplitude, finer, discs, drops).max())
    farthest = max(unfiltered, float(peaks.max()), finest)
    if not farthest > 0:
        return unmeasured("the correlation has no peak: noise, or nothing that is finer than the image")
    # Fading multiplies the image by a window, whose spectrum reaches about one step to either side.
    return Measure(2 * pixel_size_m / (farthest - 2 / min(image.shape)))


@dataclass(frozen=True, slots=True, eq=False)
class _Discs:
    """Frequencies inside the Nyquist circle, by distance from zero.

    ``order`` picks them out of the flat half spectrum; ``radius`` is 1 at Nyquist; ``weight`` is 2 where
    one stands for itself and its mirror image. For each of ``radii``, ``rim`` and ``last`` are the
    indices of the first frequency of the disc's rim and of its last one; ``count`` is how many
    frequencies it holds.
    """

    order: NDArray[np.intp]
    radius: Image
    weight: Image
    radii: Image
    rim: NDArray[np.intp]
    last: NDArray[np.intp]
    count: Image


@lru_cache(maxsize=16)
def _discs(rows: int, columns: int) -> _Discs:
    y, x = np.fft.fftfreq(rows, 0.5), np.fft.rfftfreq(columns, 0.5)
    radius = np.hypot(y[:, None], x)
    weight = np.full(radius.shape, 2.0)
    weight[:, 0] = 1.0
    if columns % 2 == 0:
        weight[:, -1] = 1.0
    flat = radius.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[(flat[order] > 0) & (flat[order] <= 1)]
    sorted_radius, sorted_weight = flat[order], weight.ravel()[order]
    # Discs of a few frequencies correlate by chance alone.
    radii = np.linspace(3 * 2 / min(rows, columns), 1, _RADII)
    last = np.searchsorted(sorted_radius, radii, side="right") - 1
    rim = np.searchsorted(sorted_radius, _RIM * radii, side="right")
    count = np.cumsum(sorted_weight)[last]
    return _Discs(order, sorted_radius, sorted_weight, radii, rim, last, count)


def _spread(image: Image, window: Image) -> float:
    """Return over which part of the image shot noise is spread, 0..1.

    Noise of a few bright pixels has a smooth spectrum: only so many of its frequencies are independent.
    """
    noise = window**2 * np.abs(image)
    return float(noise.sum() ** 2 / (noise.size * (noise**2).sum()))


def _drops(amplitude: Image, discs: _Discs, spread: float) -> NDArray[np.bool_]:
    """Tell at which radii the mean power just inside is above the one outside, by more than chance."""
    power = np.concatenate([[0.0], np.cumsum(amplitude**2 * discs.weight)])
    count = np.concatenate([[0.0], np.cumsum(discs.weight)])
    end = discs.last + 1
    inside, outside = count[end] - count[discs.rim], np.maximum(count[-1] - count[end], 1.0)
    mean_inside = (power[end] - power[discs.rim]) / inside
    mean_outside = (power[-1] - power[end]) / outside
    # The power of noise scatters by its own mean; half of the frequencies mirror the others.
    scatter = np.sqrt(2 / spread * (1 / inside + 1 / outside))
    return np.asarray(mean_inside > mean_outside * (1 + _SIGNIFICANCE * scatter))


def _filtered_peaks(amplitude: Image, widths: Image, discs: _Discs, drops: NDArray[np.bool_]) -> Image:
    """Return the radius of the peak after each high-pass filter, 0 where there is none."""
    high_pass = -np.expm1(-2 * (widths[:, None] * discs.radius) ** 2)
    return _peaks(amplitude * high_pass, discs, drops)


def _peaks(amplitudes: Image, discs: _Discs, drops: NDArray[np.bool_]) -> Image:
    """Return where the correlation with its own phases is highest, for each row; 0 if at no inner radius."""
    inside = np.cumsum(amplitudes * discs.weight, axis=1)[:, discs.last]
    power = (amplitudes**2 * discs.weight).sum(axis=1, keepdims=True)
    correlation = inside / np.sqrt(power * discs.count)
    fall = correlation - np.minimum.accumulate(correlation[:, ::-1], axis=1)[:, ::-1]
    is_peak = np.zeros(correlation.shape, np.bool_)
    middle = correlation[:, 1:-1]
    is_peak[:, 1:-1] = (middle > correlation[:, :-2]) & (middle >= correlation[:, 2:])
    scatter = correlation / np.sqrt(discs.count)
    is_peak &= (fall >= np.maximum(_DIP, _DIP_BY_SCATTER * scatter)) & (correlation > _LEAST_PEAK) & drops
    highest = np.where(is_peak, correlation, -1).argmax(axis=1)
    return np.where(is_peak.any(axis=1), discs.radii[highest], 0.0)


def frc(first: NDArray[Any], second: NDArray[Any], pixel_size_m: float) -> tuple[Image, Image]:
    """Return the Fourier ring correlation of two images of the same place with independent noise.

    Rings are as wide as one frequency step of the shorter side; images are faded at their edges.

    Returns
    -------
    Frequencies in cycles per metre, up to that of two pixels, and the correlation of each ring, -1..1.

    References
    ----------
    Nieuwenhuizen et al., Nature Methods 10 (2013) 557, equation 1.
    """
    check_positive(pixel_size_m=pixel_size_m)
    one, other = as_pair(first, second, ("first", "second"))
    window = np.hanning(one.shape[0] + 2)[1:-1, None] * np.hanning(one.shape[1] + 2)[1:-1]
    spectra = [np.fft.fft2((image - image.mean()) * window) for image in (one, other)]
    y, x = (np.fft.fftfreq(size, pixel_size_m) for size in one.shape)
    step = 1 / (min(one.shape) * pixel_size_m)
    ring = np.rint(np.hypot(y[:, None], x) / step).astype(np.intp).ravel()
    count = min(one.shape) // 2 + 1
    sums = [
        np.bincount(ring, weights=values.ravel(), minlength=count)[:count]
        for values in (
            (spectra[0] * spectra[1].conj()).real,
            np.abs(spectra[0]) ** 2,
            np.abs(spectra[1]) ** 2,
        )
    ]
    power = np.sqrt(sums[1] * sums[2])
    correlation = np.divide(sums[0], power, out=np.zeros(count), where=power > 0)
    return np.arange(1, count) * step, np.clip(correlation[1:], -1, 1)


def frc_resolution_m(
    first: NDArray[Any], second: NDArray[Any], pixel_size_m: float, threshold: float = 1 / 7
) -> Measure:
    """Return the resolution of two images of the same place by Fourier ring correlation, in metres.

    It is the period at which the correlation, averaged over three rings, first falls below the
    threshold. 1/7 between two halves of the data stands for the resolution of **both together**: the
    sum of the two images has it. Noise that is the same in both images, such as a fixed pattern,
    counts as signal.

    Returns
    -------
    Metres, between two pixels and a third of the image; two pixels, with a reason, if the correlation
    never falls below the threshold; no value if it is never above it.

    References
    ----------
    Nieuwenhuizen et al., Nature Methods 10 (2013) 557; the threshold: Rosenthal & Henderson, J. Mol.
    Biol. 333 (2003) 721.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold!r} must lie between 0 and 1")
    one, other = as_pair(first, second, ("first", "second"))
    if min(one.shape) < _LEAST_SIDE:
        return unmeasured(f"an image of {one.shape} pixels is smaller than {_LEAST_SIDE} a side")
    frequency, correlation = frc(one, other, pixel_size_m)
    # Rings of equal weight: each mean is centred on the middle ring.
    frequency = frequency[1:-1]
    smooth = np.convolve(correlation, np.full(3, 1 / 3), mode="valid")
    below = np.flatnonzero(smooth < threshold)
    if below.size == 0:
        return Measure(2 * pixel_size_m, "the correlation is high up to the finest detail pixels can show")
    index = int(below[0])
    if index == 0:
        return unmeasured("the two images have nothing in common but noise")
    share = (smooth[index - 1] - threshold) / (smooth[index - 1] - smooth[index])
    crossing = frequency[index - 1] + share * (frequency[index] - frequency[index - 1])
    return Measure(float(1 / crossing))


def thinned(photons: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Split an image of photons into two with half the photons each and independent noise.

    Each photon goes to one of the two by the toss of a coin. Halves of a Poisson number are independent
    Poisson numbers, so this is as good as two scans of half the time, without their drift and bleaching.

    Raises
    ------
    ValueError
        If there are pixels that are not whole numbers of photons.
    """
    image = as_image(photons)
    if not (image >= 0).all() or not (image == np.rint(image)).all():
        raise ValueError("photons must be whole numbers of 0 and more: only counts can be split")
    first = rng.binomial(image.astype(np.int64), 0.5)
    return first, image.astype(np.int64) - first


def single_frame_frc_resolution_m(
    photons: NDArray[Any], pixel_size_m: float, rng: np.random.Generator, threshold: float = 1 / 7
) -> Measure:
    """Return the resolution of one image of photons, by the ring correlation of its two random halves.

    As :func:`frc_resolution_m`; the resolution is that of the image itself. Only shot noise is independent
    between the halves: read-out noise or a detector with afterpulses looks like signal.

    References
    ----------
    Rieger et al., Optics Express 32 (2024) 21767 (single image Fourier ring correlation).
    """
    first, second = thinned(photons, rng)
    return frc_resolution_m(first, second, pixel_size_m, threshold)


@lru_cache(maxsize=32)
def _faded(size: int) -> Image:
    """Return a window that is 1 but for cosine flanks."""
    width = size // 4
    window = np.ones(size)
    flank = 0.5 - 0.5 * np.cos(np.pi * (np.arange(width) + 0.5) / width)
    window[:width], window[size - width :] = flank, flank[::-1]
    window.setflags(write=False)
    return window
