"""Compact objects (nuclei, cell bodies) by a local threshold and a watershed on the distance."""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage, special
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import Resources
from controller.core.settings import NonNegative, Positive, Settings
from controller.segmentation.spots import Image, binary_entropy_bits, in_photons

#: Noise standard deviations between the classes below which more smoothing pays: both errors are then
#: 1.5 % a pixel, while noise alone, cut in two by Otsu's method, is 1.6 apart.
_CLASSES_APART = 4.4


class ThresholdWatershedSegmenter:
    """Finds what is brighter than its surroundings and splits it where it is narrow.

    A pixel is foreground if, after smoothing over a small part of an object, it is above the threshold
    of N. Otsu (IEEE Trans. Syst. Man Cybern. 9, 62, 1979), eased where the surroundings are dim, and if
    its contrast is more than noise. Otsu's threshold alone would cut an empty frame into two halves.
    """

    class Options(Settings):
        """What an object looks like, and what one photon is in the detector's units."""

        object_size_m: Positive = 1e-5
        """Expected diameter of an object, in metres."""
        threshold: Positive = 4.2
        """Standard deviations of noise that an object must stand out by."""
        smoothing: Annotated[float, Field(gt=0, le=0.5)] = 0.05
        """Standard deviation of the smoothing, as a fraction of the object's diameter."""
        local_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
        """Threshold between Otsu's of the frame (0) and the mean of the surroundings (1)."""
        smallest_area: Annotated[float, Field(ge=0, lt=1)] = 0.08
        """Objects of a smaller part of the expected disc's area are dropped."""
        units_per_photon: Positive = 1.0
        """Detector units that one photon gives (1 for a photon counter)."""
        offset_units: float = 0.0
        """Detector units at no light."""
        read_noise_units: NonNegative = 0.0
        """Standard deviation of the detector at no light, in detector units."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:  # noqa: ARG003 - the role's
        """Make the segmenter; ``options`` is a :class:`ThresholdWatershedSegmenter.Options`."""
        return cls(cls.Options.model_validate(options))

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        """Find the objects of a frame, in its denoised image if there is one.

        Returns
        -------
        Labels of whole objects; probability the logistic function of the distance to the threshold in
        units of noise. All of the shape of the frame, also for a single pixel.
        """
        options = self.options
        diameter = options.object_size_m / frame.settings.pixel_size_m
        diameter = float(np.clip(diameter, 3.0, max(3.0, 2.0 * max(frame.photons.shape))))
        values = frame.photons if denoised is None else denoised.mean
        image = in_photons(values, options.offset_units, options.units_per_photon)
        z = self._distance_to_threshold(image, diameter)
        probability = special.expit(z).astype(np.float32)
        labels = self._objects(z > 0, diameter)
        return Segmentation(labels, probability, binary_entropy_bits(probability))

    def _distance_to_threshold(self, image: Image, diameter: float) -> Image:
        """Return how far each pixel is above the threshold, in standard deviations of photon noise."""
        surroundings = ndimage.gaussian_filter(image, diameter)
        smooth, noise, otsu = self._smoothed(image, surroundings, diameter)
        weight = self.options.local_weight
        level = (1 - weight) * otsu + weight * surroundings
        # Whether there is an object at all is asked at the object's scale, where it rests on most photons.
        wide = ndimage.gaussian_filter(image, diameter / 4)
        contrast = (wide - surroundings) / self._noise(wide, surroundings, diameter / 4)
        return np.asarray(np.minimum((smooth - level) / noise, contrast - self.options.threshold))

    def _smoothed(self, image: Image, surroundings: Image, diameter: float) -> tuple[Image, Image, float]:
        """Return the image smoothed as little as its noise allows, its noise, and Otsu's threshold."""
        smooth, noise, otsu = image, image, 0.0
        for factor in (1.0, 1.6, 2.4, 3.2):
            sigma = max(0.7, factor * self.options.smoothing * diameter)
            smooth = ndimage.gaussian_filter(image, sigma)
            noise = self._noise(smooth, surroundings, sigma)
            # A frame of one value has no two classes, and Otsu's method refuses it.
            otsu = float(smooth.flat[0])
            if np.ptp(smooth) > 0:
                otsu = float(threshold_otsu(smooth))  # type: ignore[no-untyped-call]
            bright = smooth > otsu
            if not bright.any():
                break
            apart = float(smooth[bright].mean() - smooth[~bright].mean())
            if apart > _CLASSES_APART * float(noise[bright].mean()):
                break
        return smooth, noise, otsu

    def _noise(self, smooth: Image, surroundings: Image, sigma: float) -> Image:
        """Return the standard deviation of photon noise after smoothing one frame with ``sigma``."""
        read_variance = (self.options.read_noise_units / self.options.units_per_photon) ** 2
        rows, columns = (_kernel_energy(length, sigma) for length in smooth.shape)
        energy = rows[:, None] * columns[None, :]
        # Half a photon under the kernel: darkness is never certain.
        return np.sqrt((np.maximum(smooth, surroundings) + read_variance + 0.5 * energy) * energy)

    def _objects(self, mask: NDArray[np.bool_], diameter: float) -> NDArray[np.int32]:
        """Return the mask without specks and holes, divided where it is narrow."""
        if not mask.any():
            return np.zeros(mask.shape, np.int32)
        mask = ndimage.binary_fill_holes(mask)
        distance = ndimage.distance_transform_edt(mask)
        depth = ndimage.gaussian_filter(distance, max(0.5, diameter / 12), mode="nearest")
        size = 2 * max(1, round(diameter / 4)) + 1
        peaks = mask & (depth >= ndimage.maximum_filter(depth, size, mode="nearest"))
        markers, _ = ndimage.label(peaks, np.ones((3, 3)))
        labels = watershed(-depth, markers, mask=mask)  # type: ignore[no-untyped-call]
        areas = np.bincount(labels.ravel())
        keep = areas >= self.options.smallest_area * np.pi * diameter**2 / 4
        keep[0] = False
        renumbered = np.cumsum(keep) * keep
        return np.asarray(renumbered[labels], dtype=np.int32)


def _kernel_energy(length: int, sigma: float) -> Image:
    """Return the sum of a Gaussian's squared weights at each pixel of a line, shape ``(length,)``.

    At the border the mirrored pixels come twice, so that less noise is averaged out there.
    """
    reach = int(4 * sigma) + 1
    short = min(length, 2 * reach + 1)
    weights = ndimage.gaussian_filter1d(np.eye(short), sigma, axis=0)
    energy = np.sum(weights * weights, axis=1)
    inside = np.full(length - short, energy[short // 2])
    return np.concatenate((energy[: short // 2], inside, energy[short // 2 :]))
