"""What makes a STED scan good: detail, signal, and what they cost in bleaching.

The STED frame shows detail and signal, the pair of confocal frames around it the bleaching; :func:`measure`
puts them together. All measures take photons per pixel: a detector that does not count photons has to be
calibrated first, because the white noise level is predicted from the counts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import Frame
from policies.box_filters import Image, box_sum


@dataclass(frozen=True, slots=True)
class Measured:
    """What one visit showed; ``None`` where it could not be measured.

    ``detail_snr`` and ``bleached_fraction`` are pure numbers, ``bleached_std`` is the standard error
    of ``bleached_fraction``; ``signal_photons`` (STED) and ``confocal_photons`` (the confocal scan
    before) are in photons per pixel of the foreground.
    """

    detail_snr: float | None = None
    bleached_fraction: float | None = None
    bleached_std: float | None = None
    signal_photons: float | None = None
    confocal_photons: float | None = None

    def evidence(self) -> dict[str, float]:
        """Return the figures that could be measured, by name."""
        named = {
            "detail_snr": self.detail_snr,
            "bleached_fraction": self.bleached_fraction,
            "bleached_std": self.bleached_std,
            "signal_photons": self.signal_photons,
            "confocal_photons": self.confocal_photons,
        }
        return {name: value for name, value in named.items() if value is not None and np.isfinite(value)}

    def objectives(self, brightness: float = 1.0) -> dict[str, float]:
        """Return what could be measured as it is learned: counts as log(1 + x), and ``bleached_fraction``.

        ``brightness`` is how many times brighter the region was than the one that is learned about.
        """
        values: dict[str, float] = {}
        if self.detail_snr is not None:
            values["detail_log"] = float(np.log1p(max(self.detail_snr / brightness, -0.5)))
        if self.signal_photons is not None:
            values["signal_log"] = float(np.log1p(max(self.signal_photons / brightness, 0.0)))
        # A ratio of two nearly empty images is no measurement; half of everything is the line.
        if self.bleached_fraction is not None and (self.bleached_std or 0.0) < 0.5:
            values["bleached_fraction"] = self.bleached_fraction
        return values


def measure(before: Frame | None, sted: Frame | None, after: Frame | None, cutoff_per_m: float) -> Measured:
    """Measure one visit: a STED frame, and the confocal frames before and after it."""
    detail = signal = fraction = std = None
    if sted is not None:
        detail = detail_snr(sted.photons, sted.settings.pixel_size_m, cutoff_per_m)
        signal = signal_photons(sted.photons)
    if before is not None and after is not None and before.photons.shape == after.photons.shape:
        bleached = bleached_fraction(before.photons, after.photons)
        fraction, std = bleached if bleached is not None else (None, None)
    brightness = None if before is None else signal_photons(before.photons)
    return Measured(detail, fraction, std, signal, brightness)


def detail_snr(photons: NDArray[Any], pixel_size_m: float, cutoff_per_m: float) -> float | None:
    """Return the structure that only super-resolution can show, relative to the photon noise.

    The mean power spectral density beyond ``cutoff_per_m`` (cycles per metre; a confocal image has
    no signal there), less the white level that Poisson noise puts everywhere, divided by that white
    level. 0 for an image without such detail, with a standard error of about
    ``2.75 / sqrt(frequencies beyond the cut-off)``; it grows in proportion to the photons. The white
    level of Poisson noise is the windowed sum of the photons, so it needs no fit. A Hann window
    keeps the image's edges from looking like detail.

    Returns
    -------
    Pure number, about 0 and above; None for an image without photons or with no frequency beyond
    the cut-off (pixels too coarse, or fewer than 8 a side).

    References
    ----------
    Spectral signal to noise: Unser et al., Ultramicroscopy 23 (1987) 39. The white Poisson level:
    Goodman, Statistical Optics (1985), chapter 9.
    """
    image = np.asarray(photons, dtype=float)
    rows, columns = image.shape
    if min(rows, columns) < 8:
        return None
    window = np.outer(np.hanning(rows), np.hanning(columns))
    white = float((window**2 * image).sum())
    radius = np.hypot(
        np.fft.fftfreq(rows, pixel_size_m)[:, None], np.fft.fftfreq(columns, pixel_size_m)[None, :]
    )
    # The corners beyond the Nyquist circle are left out: they exist along the diagonals only.
    band = (radius > cutoff_per_m) & (radius < 0.5 / pixel_size_m)
    if not white > 0 or not band.any():
        return None
    mean = float((window * image).sum() / window.sum())
    power = np.abs(np.fft.fft2(window * (image - mean))) ** 2
    return float(power[band].mean() / white - 1.0)


def bleached_fraction(before: NDArray[Any], after: NDArray[Any]) -> tuple[float, float] | None:
    """Return the fraction of the foreground's fluorescence lost between two equal scans, and its error.

    Which pixels are foreground is decided by the two frames together, and for each pixel by its
    neighbours only. Chosen by its own value in the first frame, a pixel would be picked for being
    bright there by chance, and an unbleached pair would seem to bleach.

    Returns
    -------
    Fraction, clipped to -1..1 (negative: brighter afterwards, by noise or by drift), and its standard
    error from photon noise; None if the first frame's foreground does not stand out by three
    standard deviations.

    References
    ----------
    Photobleaching objective of Durand et al., Nature Communications 9 (2018) 5247, without its
    selection bias.
    """
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    inside, outside = foreground(surroundings(first + second))
    if not inside.any() or not outside.any():
        return None
    pixels, reference = int(inside.sum()), int(outside.sum())
    signals, variances = [], []
    for image in (first, second):
        background = float(image[outside].mean())
        signals.append(float(image[inside].sum()) - pixels * background)
        variances.append(float(image[inside].sum()) + pixels**2 * max(background, 0.0) / reference)
    if not signals[0] > 3.0 * np.sqrt(variances[0]) > 0:
        return None
    ratio = signals[1] / signals[0]
    std = float(np.sqrt(variances[1] + ratio**2 * variances[0])) / signals[0]
    return float(np.clip(1.0 - ratio, -1.0, 1.0)), std


def signal_photons(photons: NDArray[Any]) -> float | None:
    """Return the mean photons per pixel of the foreground above the background.

    Whether a pixel is foreground is decided by its neighbours only, so that noise is not taken for
    signal. None for an image without any foreground.
    """
    image = np.asarray(photons, dtype=float)
    inside, outside = foreground(surroundings(image))
    if not inside.any() or not outside.any():
        return None
    return float(image[inside].mean() - image[outside].mean())


def surroundings(image: Image) -> Image:
    """Return the mean of the up to eight neighbours of each pixel, without the pixel itself."""
    others = np.maximum(box_sum(np.ones(image.shape), 1) - 1.0, 1.0)
    return (box_sum(image, 1) - image) / others


def foreground(smooth: Image) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Split a smoothed image into foreground and the darker half of the rest, as two masks.

    The threshold lies midway between the means of the two classes it makes (Ridler and Calvard, IEEE
    Trans. SMC 8 (1978) 630). The brighter half of the rest belongs to neither: it holds the blurred
    rims of the foreground.
    """
    threshold = float(smooth.mean())
    for _ in range(50):
        above = smooth > threshold
        if not above.any() or above.all():
            break
        updated = 0.5 * float(smooth[above].mean() + smooth[~above].mean())
        if abs(updated - threshold) <= 1e-6 * abs(threshold):
            break
        threshold = updated
    inside = smooth > threshold
    if not inside.any() or inside.all():
        return inside, ~inside
    return inside, ~inside & (smooth <= np.median(smooth[~inside]))
