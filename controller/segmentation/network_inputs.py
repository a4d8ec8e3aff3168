"""What a segmentation network sees of a frame: seven images in units of photon noise.

The same sample gives nearly the same images at any photon level: differences from the surroundings are
divided by the noise that Poisson statistics expect, and large ones are compressed. So one network serves
all powers and dwell times, and three of the images say what is left to know: how bright the surroundings
are, how strong the contrast is, and how precise the denoiser's estimate is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatImages = NDArray[np.float32]

#: Version of this mapping; weights that were trained with another one are refused.
INPUTS = "photons/1"

CHANNELS = ("raw", "fine", "coarse", "denoised", "contrast", "precision", "surroundings")
"""What each image shows; :func:`network_inputs` tells how."""

_FINE_SIGMA, _COARSE_SIGMA = 1.0, 2.5
#: Twice a mean over so many pixels: wider than anything that is to be found.
_SURROUNDINGS_PX = 31
#: Half a photon in the surroundings is always possible; without it darkness would be certain.
_DARK = 0.5 / _SURROUNDINGS_PX**2
#: Standard deviations up to which differences stay linear.
_LINEAR = 3.0
#: Where contrast is measured against next to nothing it means nothing.
_FAINT = 0.05


def network_inputs(
    photons: FloatImages, mean: FloatImages | None = None, std: FloatImages | None = None
) -> FloatImages:
    """Return the images that a segmentation network sees.

    Parameters
    ----------
    photons
        Detected photons, shape ``(y, x)``, float32, ≥ 0, finite.
    mean, std
        The denoiser's estimate and its standard deviation, in photons. Without them a Gaussian filter
        and its Poisson noise stand in.

    Returns
    -------
    Shape ``(7, y, x)``, float32, about -3..3: the frame itself and smoothed by 1 and 2.5 pixels, each as
    noise standard deviations above its surroundings (F. J. Anscombe, Biometrika 35, 246, 1948, on the
    photons under the kernel); the denoised image in units of its own ``std``; its contrast, -1..1; the
    logarithms of its variance relative to one frame's and of the light in the surroundings.
    """
    around = photons
    for _ in range(2):
        around = ndimage.uniform_filter(around, _SURROUNDINGS_PX, mode="reflect")
    around = np.maximum(around, np.float32(_DARK))
    fine = ndimage.gaussian_filter(photons, _FINE_SIGMA, truncate=3.0)
    # Smoothed once more, the fine image is the coarse one.
    coarse = ndimage.gaussian_filter(fine, np.sqrt(_COARSE_SIGMA**2 - _FINE_SIGMA**2), truncate=3.0)
    if mean is None or std is None:
        mean, std = fine, np.sqrt(np.maximum(fine, around) * np.float32(_energy(_FINE_SIGMA)))
    std = np.maximum(std, np.float32(1e-3) * np.sqrt(around))
    channels = [
        _excess(photons, around, 1.0),
        _excess(fine, around, _energy(_FINE_SIGMA)),
        _excess(coarse, around, _energy(_COARSE_SIGMA)),
        _compressed((mean - around) / std),
        (mean - around) / (mean + around + np.float32(_FAINT)),
        np.log(std * std / around) / np.float32(4),
        np.log(around) / np.float32(4),
    ]
    stacked: FloatImages = np.stack(channels).astype(np.float32, copy=False)
    return np.clip(stacked, -8, 8)


def _energy(sigma: float) -> float:
    """Return the sum of the squared weights of a wide Gaussian filter."""
    return 1 / (4 * np.pi * sigma**2)


def _excess(image: FloatImages, around: FloatImages, energy: float) -> FloatImages:
    """Return noise standard deviations above the surroundings, of counts under a kernel."""
    counts, expected = image / np.float32(energy), around / np.float32(energy)
    offset = np.float32(3 / 8)
    return _compressed(np.float32(2) * (np.sqrt(counts + offset) - np.sqrt(expected + offset)))


def _compressed(deviations: FloatImages) -> FloatImages:
    return np.asarray(np.arcsinh(deviations / np.float32(_LINEAR)))
