"""How bright an image is against its noise, and how much of that brightness a scan has cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.objectives.measure import Image, Measure, as_image, as_pair, unmeasured


def signal_to_noise(photons: NDArray[Any]) -> Measure:
    """Return the signal of a foreground pixel by its shot noise.

    ``(F - B) / sqrt(F)`` with the mean photons of foreground and background pixels: what a Poisson
    number of photons allows for one pixel of the structure, whatever the structure looks like. Grows
    with the square root of the photons.

    Returns
    -------
    Pure number, 0 and more; no value for an image without foreground.
    """
    image = as_image(photons)
    split = foreground(image)
    if split is None:
        return unmeasured("the image has no foreground")
    inside, outside = split
    bright, dark = float(image[inside].mean()), float(image[outside].mean())
    if not bright > 0:
        return unmeasured("the image has no photons")
    return Measure(max(0.0, bright - dark) / np.sqrt(bright).item())


def signal_ratio(sted: NDArray[Any], confocal: NDArray[Any]) -> Measure:
    """Return the signal of a STED image relative to the confocal one of the same place and dwell time.

    Both are means of the pixels that are foreground in the confocal image, less the background of each.
    STED makes details narrower as well as dimmer: 0.05 to 0.4 in the simulated microscope.

    Returns
    -------
    Pure number, 0 and more, clipped at 10; no value without a confocal foreground.

    References
    ----------
    After the signal ratio of Durand et al., Nature Communications 9 (2018) 5247.
    """
    fine, coarse = as_pair(sted, confocal, ("sted", "confocal"))
    split = foreground(coarse)
    if split is None:
        return unmeasured("the confocal image has no foreground")
    inside, outside = split
    whole = float(coarse[inside].mean() - coarse[outside].mean())
    left = float(fine[inside].mean() - fine[outside].mean())
    if not whole > 0:
        return unmeasured("the confocal foreground is not brighter than its background")
    return Measure(float(np.clip(left / whole, 0, 10)))


def bleached_fraction(before: NDArray[Any], after: NDArray[Any]) -> Measure:
    """Return the part of the foreground's signal that was lost between two equal scans.

    Both images together decide what is foreground, and for each pixel only its neighbours do. Were it
    chosen by its own value in the first image, a pixel would be in for being bright there by chance, and
    without any bleaching some would seem to be lost.

    Returns
    -------
    Pure number, clipped to -1..1 (negative: brighter afterwards, by noise or drift), with its standard
    error from photon noise; no value if the first image has no foreground, or one that stands out by
    less than three standard deviations.

    References
    ----------
    Photobleaching objective of Durand et al., Nature Communications 9 (2018) 5247, without its
    selection bias.
    """
    first, second = as_pair(before, after, ("before", "after"))
    split = foreground(first + second)
    if split is None:
        return unmeasured("the images have no foreground")
    inside, outside = split
    pixels, reference = int(inside.sum()), int(outside.sum())
    signals, variances = [], []
    for image in (first, second):
        bright, dark = float(image[inside].sum()), max(float(image[outside].mean()), 0.0)
        signals.append(bright - pixels * dark)
        variances.append(bright + pixels**2 * dark / reference)
    if not signals[0] > 3 * np.sqrt(variances[0]) > 0:
        return unmeasured("the first image is not bright enough")
    left = signals[1] / signals[0]
    std = float(np.sqrt(max(variances[1] + left**2 * variances[0], 0.0))) / signals[0]
    return Measure(float(np.clip(1 - left, -1, 1)), std=std)


def lost_fraction(before: NDArray[Any], after: NDArray[Any]) -> Measure:
    """Return the part of all molecules that no longer fluoresce: the truth, which a simulator knows.

    Takes maps of molecules. No value for a map without any.
    """
    first, second = as_pair(before, after, ("before", "after"))
    total = float(first.sum())
    if not total > 0:
        return unmeasured("there are no molecules")
    return Measure(1 - float(second.sum()) / total)


def foreground(photons: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Split an image into foreground and the darker half of the rest, as two masks.

    A pixel is judged by the mean of its eight neighbours, without itself. The threshold lies midway
    between the means of the two classes it makes (Ridler & Calvard, IEEE Trans. SMC 8 (1978) 630). The
    brighter half of the rest, blurred rims, belongs to neither. None if all neighbourhoods are equal.
    """
    from scipy.ndimage import uniform_filter

    image = as_image(photons)
    around: Image = (9 * uniform_filter(image, 3, mode="reflect") - image) / 8
    threshold = float(around.mean())
    for _ in range(50):
        above = around > threshold
        if not above.any() or above.all():
            return None
        updated = 0.5 * float(around[above].mean() + around[~above].mean())
        if abs(updated - threshold) <= 1e-6 * abs(threshold):
            break
        threshold = updated
    inside = around > threshold
    if not inside.any() or inside.all():
        return None
    return inside, ~inside & (around <= np.median(around[~inside]))
