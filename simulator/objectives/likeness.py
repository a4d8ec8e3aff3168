"""How like one image is to another: to the truth, or a super-resolved one to its confocal image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.objectives.measure import Image, Measure, as_pair, check_positive, unmeasured


@dataclass(frozen=True, slots=True)
class ScaledError:
    """What is left between a confocal image and the super-resolved one, blurred and scaled to it.

    Attributes
    ----------
    error
        Root mean square in the unit of the confocal image (RSE).
    correlation
        Pearson's correlation, -1..1 (RSP): a score that does not depend on the brightness.
    blur_m
        Standard deviation of the Gaussian that fits best, in metres.
    """

    error: Measure
    correlation: Measure
    blur_m: Measure


def scaled_error(
    super_resolved: NDArray[Any],
    confocal: NDArray[Any],
    pixel_size_m: float,
    blur_max_m: float = 300e-9,
) -> ScaledError:
    """Compare a super-resolved image with the confocal one of the same place and sampling.

    The super-resolved image is blurred with a Gaussian, scaled and shifted so that it fits the confocal
    one best. What does not fit was made up, was lost, or has bleached. High for any image that is right
    on the coarse scale, also for one that shows no fine detail: use it beside a measure of resolution.

    Raises
    ------
    ValueError
        If the images differ in shape or are not finite.

    References
    ----------
    SQUIRREL: Culley et al., Nature Methods 15 (2018) 263, with a round Gaussian as resolution scaling
    function.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.optimize import minimize_scalar

    check_positive(pixel_size_m=pixel_size_m, blur_max_m=blur_max_m)
    fine, coarse = as_pair(super_resolved, confocal, ("super_resolved", "confocal"))
    if not _varies(fine) or not _varies(coarse):
        none = unmeasured("one of the images is uniform")
        return ScaledError(none, none, none)

    def residual(sigma: float) -> float:
        return float(((fitted(gaussian_filter(fine, sigma), coarse) - coarse) ** 2).mean())

    largest = blur_max_m / pixel_size_m
    best = minimize_scalar(residual, bounds=(0.0, largest), method="bounded", options={"xatol": 0.02})
    sigma = float(best.x)
    blurred = gaussian_filter(fine, sigma)
    if not _varies(blurred):
        none = unmeasured("the super-resolved image is uniform once it is blurred")
        return ScaledError(none, none, none)
    correlation = float(np.clip(np.corrcoef(blurred.ravel(), coarse.ravel())[0, 1], -1, 1))
    note = "the best blur is the largest allowed" if sigma > 0.98 * largest else ""
    return ScaledError(
        Measure(float(np.sqrt(residual(sigma)))), Measure(correlation), Measure(sigma * pixel_size_m, note)
    )


def fitted(image: NDArray[Any], reference: NDArray[Any]) -> Image:
    """Return an image scaled by a factor of 0 and more, and shifted, to fit a reference by least squares."""
    one, other = as_pair(image, reference, ("image", "reference"))
    centred = one - one.mean()
    power = float((centred**2).sum())
    scale = max(0.0, float((centred * (other - other.mean())).sum()) / power) if power > 0 else 0.0
    return np.asarray(scale * centred + other.mean())


def mean_squared_error(image: NDArray[Any], truth: NDArray[Any]) -> Measure:
    """Return the mean squared difference, in the squared unit of the two."""
    one, other = as_pair(image, truth, ("image", "truth"))
    return Measure(float(((one - other) ** 2).mean()))


def peak_snr_db(image: NDArray[Any], truth: NDArray[Any]) -> Measure:
    """Return the range of the truth by the root mean square difference, in decibels, at most 100.

    The range is that of the truth's own values, so no scale has to be chosen. No value for a uniform truth.
    """
    one, other = as_pair(image, truth, ("image", "truth"))
    extent = float(other.max() - other.min())
    if not extent > 0:
        return unmeasured("the truth is uniform")
    error = float(((one - other) ** 2).mean())
    if error <= extent**2 * 1e-10:
        return Measure(100.0, "the two are equal, or nearly")
    return Measure(float(10 * np.log10(extent**2 / error)))


def similarity(image: NDArray[Any], truth: NDArray[Any]) -> Measure:
    """Return the structural similarity, -1..1, 1 for equal images.

    Means, variances and covariances are taken in Gaussian windows of 1.5 pixels; the range is that of
    the truth. Use :func:`fitted` first where the two have different units. No value for a uniform truth
    or an image of fewer than 11 pixels a side.

    References
    ----------
    Wang et al., IEEE Trans. Image Processing 13 (2004) 600.
    """
    from scipy.ndimage import gaussian_filter

    one, other = as_pair(image, truth, ("image", "truth"))
    extent = float(other.max() - other.min())
    if min(one.shape) < 11:
        return unmeasured(f"an image of {one.shape} pixels is smaller than the window, 11 pixels a side")
    if not extent > 0:
        return unmeasured("the truth is uniform")

    def blurred(values: Image) -> Image:
        return np.asarray(gaussian_filter(values, 1.5, truncate=3.5))

    mean_one, mean_other = blurred(one), blurred(other)
    variance_one = blurred(one * one) - mean_one**2
    variance_other = blurred(other * other) - mean_other**2
    covariance = blurred(one * other) - mean_one * mean_other
    small, smaller = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    index = ((2 * mean_one * mean_other + small) * (2 * covariance + smaller)) / (
        (mean_one**2 + mean_other**2 + small) * (variance_one + variance_other + smaller)
    )
    # Windows that reach beyond the edge are left out, as the paper does.
    return Measure(float(np.clip(index[5:-5, 5:-5].mean(), -1, 1)))


def _varies(image: Image) -> bool:
    return bool(np.ptp(image) > 1e-12 * max(1.0, float(np.abs(image).max())))
