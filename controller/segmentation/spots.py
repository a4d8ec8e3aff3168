"""Spot detectors whose answer is a significance in units of photon noise.

Both filter the image for blobs of the expected size, compare the response with what Poisson noise of
the local background would give, and call a spot what stands out by more than ``threshold`` standard
deviations. Nothing is scaled by the brightest pixel of the image, so an empty frame stays empty.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage, special
from skimage.segmentation import watershed

from controller.core.frame import Denoised, FloatImage, Frame, Segmentation
from controller.core.protocols import Resources
from controller.core.settings import NonNegative, Positive, Settings

Image = NDArray[np.float64]

#: Full width at half maximum of a Gaussian, in standard deviations.
FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))

#: A larger count is taken for saturated: rounding errors would soon be larger than its photon noise.
LARGEST = 1e12

_B3 = np.array([1, 4, 6, 4, 1]) / 16


class SpotOptions(Settings):
    """What a spot looks like, and what one photon is in the detector's units."""

    spot_size_m: Positive = 1e-7
    """Expected width of a spot (full width at half maximum) in the image, in metres."""
    threshold: Positive = 4.0
    """Standard deviations of noise that a spot must stand out by; probability 0.5 lies here."""
    units_per_photon: Positive = 1.0
    """Detector units that one photon gives (1 for a photon counter)."""
    offset_units: float = 0.0
    """Detector units at no light."""
    read_noise_units: NonNegative = 0.0
    """Standard deviation of the detector at no light, in detector units."""


class _SpotSegmenter:
    """What both detectors share: background, significance, labels."""

    def __init__(self, options: SpotOptions) -> None:
        self.options = options

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        """Find the spots of a frame, in its denoised image too if there is one.

        Returns
        -------
        Each spot a label, numbered by rows; probability the logistic function of the significance
        above the threshold. All of the shape of the frame, also for a single pixel.
        """
        options = self.options
        sigma = options.spot_size_m / FWHM_PER_SIGMA / frame.settings.pixel_size_m
        # Below 0.7 pixels a spot is one pixel, and so is noise; larger than the image there is no spot.
        sigma = float(np.clip(sigma, 0.7, max(0.7, max(frame.photons.shape) / 4)))
        image = self._in_photons(frame.photons if denoised is None else denoised.mean)
        read_variance = (options.read_noise_units / options.units_per_photon) ** 2
        background = np.maximum(ndimage.gaussian_filter(image, 4 * sigma), 0.0) + read_variance
        if denoised is None:
            z = self._significance(image, background, None, sigma)
        else:
            std = np.nan_to_num(denoised.std.astype(np.float64), posinf=LARGEST) / options.units_per_photon
            variance = ndimage.gaussian_filter(np.square(np.minimum(std, LARGEST)), 4 * sigma)
            # A first frame's dim spots are smoothed away by the denoiser, but stand out of the frame
            # itself; after some frames it is the other way round.
            z = np.maximum(
                self._significance(image, background, variance, sigma),
                self._significance(self._in_photons(frame.photons), background, None, sigma),
            )
        probability = special.expit(z - options.threshold).astype(np.float32)
        labels = split_at_maxima(z, z > options.threshold, sigma)
        return Segmentation(labels, probability, binary_entropy_bits(probability))

    def _in_photons(self, values: NDArray[Any]) -> Image:
        return in_photons(values, self.options.offset_units, self.options.units_per_photon)

    def _significance(self, image: Image, background: Image, variance: Image | None, sigma: float) -> Image:
        raise NotImplementedError


class LogSpotSegmenter(_SpotSegmenter):
    """Laplacian of a Gaussian of the spot's own width: the matched filter on a sloping background.

    T. Lindeberg, Feature detection with automatic scale selection, Int. J. Comput. Vis. 30, 79 (1998).
    """

    class Options(SpotOptions):
        """What a spot looks like; see :class:`SpotOptions`."""

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:  # noqa: ARG003 - the role's
        """Make the segmenter; ``options`` is a :class:`LogSpotSegmenter.Options`."""
        return cls(cls.Options.model_validate(options))

    def _significance(self, image: Image, background: Image, variance: Image | None, sigma: float) -> Image:
        impulse = _impulse(int(6 * sigma) + 2)
        # The sampled kernel does not quite sum to 0, and a bright flat image would be one large spot.
        leak = float(np.sum(ndimage.gaussian_laplace(impulse, sigma)))
        kernel, response = (
            leak * ndimage.gaussian_filter(part, sigma) - ndimage.gaussian_laplace(part, sigma)
            for part in (impulse, image)
        )
        return significance(response, kernel, background, variance)


class WaveletSpotSegmenter(_SpotSegmenter):
    """Product of neighbouring wavelet planes: a spot shows at several scales at one place, noise does not.

    J.-C. Olivo-Marin, Extraction of spots in biological images using multiscale products, Pattern
    Recognit. 35, 1989 (2002). The planes are divided by their noise before they are multiplied, and the
    product's root is taken, so that the threshold keeps its unit.
    """

    class Options(SpotOptions):
        """What a spot looks like, and how many scales must show it."""

        threshold: Positive = 3.5
        """Noise standard deviations (geometric mean over the planes) at which probability is 0.5."""
        planes: Annotated[int, Field(ge=1, le=3)] = 2
        """Neighbouring wavelet planes that are multiplied, from the spot's own scale on."""

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:  # noqa: ARG003 - the role's
        """Make the segmenter; ``options`` is a :class:`WaveletSpotSegmenter.Options`."""
        return cls(cls.Options.model_validate(options))

    def __init__(self, options: WaveletSpotSegmenter.Options) -> None:
        super().__init__(options)
        self._planes = options.planes

    def _significance(self, image: Image, background: Image, variance: Image | None, sigma: float) -> Image:
        # After j smoothings the kernel's variance is (4**j - 1) / 3; the plane below spans that width.
        first = max(1, int(np.ceil(np.log2(3 * sigma**2 + 1) / 2)))
        count = first + self._planes - 1
        kernels = _wavelet_planes(_impulse(2 * 2 ** (count + 1)), count)[first - 1 :]
        product = np.ones_like(image)
        for plane, kernel in zip(_wavelet_planes(image, count)[first - 1 :], kernels, strict=True):
            product *= np.maximum(significance(plane, kernel, background, variance), 0.0)
        return np.asarray(product ** (1 / self._planes))


def significance(response: Image, kernel: Image, background: Image, variance: Image | None) -> Image:
    """Return how far a filter's response lies above the noise, in standard deviations.

    The response is expressed as an excess of counts over those of the background under the kernel, and
    both are made Gaussian by the power 2/3, which removes the skewness of Poisson counts (F. J. Anscombe,
    J. R. Stat. Soc. B 15, 229, 1953): with few counts their tail is much longer than that of a Gaussian
    of the same variance.

    Parameters
    ----------
    response, kernel
        The filtered image and the filter's response to a unit impulse.
    background
        Expected photons of a pixel without a spot, ≥ 0.
    variance
        Of a pixel of the denoised image where that is what was filtered. Denoising in space only lowers
        the noise of a response, so the Poisson noise of one frame is a safe bound; the estimate's own
        error, correlated over whatever length the filter likes best, is another. The lower one holds.
    """
    energy = float(np.sum(kernel * kernel))
    # Area of the top-hat that answers to white noise as the kernel does: one photon is one count.
    area = energy / float(np.max(np.abs(kernel))) ** 2
    counts = background * area
    excess = response * np.sqrt(area / energy)
    if variance is not None:
        bound = background * energy + 1e-30
        exposure = bound / np.clip(variance * _largest_noise_gain(kernel), bound / 1e3, bound)
        counts = counts * exposure
        excess = excess * exposure
    # A tenth of a count keeps a single photon in the dark from being infinitely significant.
    expected = counts + 0.1
    found = np.maximum(expected + excess, 0.0)
    z = 1.5 * (np.cbrt(found) ** 2 - np.cbrt(expected) ** 2) / expected ** (1 / 6)
    return np.asarray(z)


def _largest_noise_gain(kernel: Image) -> float:
    """Return the most variance that noise of variance 1 can leave in a filter's response.

    Over all Gaussian correlations of the noise, from none to as wide as the kernel.
    """
    rows, columns = (2 * n for n in kernel.shape)
    power = np.abs(np.fft.rfft2(kernel, (rows, columns))) ** 2
    square = np.fft.fftfreq(rows)[:, None] ** 2 + np.fft.rfftfreq(columns)[None, :] ** 2
    widths = np.concatenate(([0.0], np.geomspace(0.4, max(1.0, kernel.shape[0] / 4), 12)))
    spectra = (np.exp(-((2 * np.pi * width) ** 2) * square) for width in widths)
    return max(float(np.sum(power * s) / np.sum(s)) for s in spectra)


def in_photons(values: NDArray[Any], offset: float, units_per_photon: float) -> Image:
    """Return detector values as photons, ≥ 0 and finite; saturated or huge ones stay huge."""
    image = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=LARGEST, neginf=0.0)
    return np.clip((image - offset) / units_per_photon, 0.0, LARGEST)


def split_at_maxima(height: Image, mask: NDArray[np.bool_], radius: float) -> NDArray[np.int32]:
    """Return ``mask`` divided among the maxima of ``height`` that are at least ``radius`` pixels apart."""
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    size = 2 * int(np.ceil(radius)) + 1
    peaks = mask & (height >= ndimage.maximum_filter(height, size, mode="nearest"))
    # A plateau is one maximum, not many.
    markers, _ = ndimage.label(peaks, np.ones((3, 3)))
    labels = watershed(-height, markers, mask=mask)  # type: ignore[no-untyped-call]
    return np.asarray(labels, dtype=np.int32)


def binary_entropy_bits(probability: FloatImage) -> FloatImage:
    """Return the entropy of a yes-or-no question in bits, 0..1."""
    entropy = special.entr(probability) + special.entr(1 - probability)
    return np.asarray(np.clip(entropy / np.log(2), 0, 1), dtype=np.float32)


def _impulse(reach: int) -> Image:
    impulse = np.zeros((2 * reach + 1, 2 * reach + 1))
    impulse[reach, reach] = 1.0
    return impulse


def _wavelet_planes(image: Image, count: int) -> list[Image]:
    """Return the first ``count`` planes of the à-trous transform with the B3 spline, fine to coarse."""
    planes = []
    for level in range(count):
        kernel = np.zeros(4 * 2**level + 1)
        kernel[:: 2**level] = _B3
        smooth = image
        for axis in (0, 1):
            smooth = ndimage.correlate1d(smooth, kernel, axis=axis, mode="reflect")
        planes.append(image - smooth)
        image = smooth
    return planes
