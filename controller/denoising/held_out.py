"""How far to trust a denoised image, measured without the truth: by photons that the network did not see.

A frame is split into two images of independent noise. The network denoises one; the other, whose noise
variance is known, tells how wrong the answer is on average [1]_. That is precise for many pixels only, so it
corrects what is expected from simulated movies: an error that grows with the noise and the brightness.
The correction is one factor for each range of brightness, drawn towards a common one, and that towards 1,
as strongly as their own uncertainty says [2]_.

References
----------
.. [1] J. Batson, L. Royer, Noise2Self, ICML 2019: the self-supervised loss is the error plus the noise of
   the target, for any answer that is independent of it.
.. [2] A. Gelman et al., Bayesian Data Analysis, 3rd ed. 2013, chapter 5: partial pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage

#: Logarithm of the squared error: constant, noise of the frame and of the shortest and longest average,
#: brightness. Fitted on simulated movies with the weights that come with Stedfast.
USUAL_ERROR = (-2.5, 0.5, 0.3, 0.6, 1.2)

#: Brightness in units of the image's mean that divides the ranges.
_EDGES = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])

_CENTERS = np.concatenate(([_EDGES[0] / 2], np.sqrt(_EDGES[1:] * _EDGES[:-1]), [_EDGES[-1] * 1.5]))

#: The error is worked out for so many steps of the root of the brightness, and looked up for a pixel.
_STEPS = 32
_BRIGHTNESS = ((np.arange(1024) + 0.5) / _STEPS) ** 2

#: Added to the brightness before its logarithm is taken.
_DARK = 0.1

#: Relative uncertainty of what is expected from simulated movies, and of one range beside the others.
_EXPECTED_OFF_BY, _RANGE_OFF_BY = 1.0, 1.0

_SMALLEST_FACTOR = 0.2

#: The pixels of a range and its frames are not all alike, so 1.96 roots of their mean squared error hold less
#: than 95 % of them: 90 to 96 % on four simulated movies, and 93 to 98 % with this.
WIDER = 1.1


def error_features(conditions: NDArray[np.float32], brightness: float) -> NDArray[np.float64]:
    """Return what the logarithm of the squared error is a linear function of, shape ``(5,)``.

    ``conditions`` is what the network was told of the noise; ``brightness`` in units of the image's mean.
    """
    noise = (conditions[0], conditions[1], conditions[-1])
    return np.array([1.0, *noise, np.log(max(brightness, 0.0) + _DARK)], np.float64)


class HeldOutError:
    """The squared error of a denoiser as a function of noise and brightness.

    All images are in units of their mean, so that it survives a change of the light. Old frames are
    forgotten exponentially.

    Parameters
    ----------
    usual
        Coefficients of :func:`error_features` for the logarithm of the squared error.
    memory_frames
        Frames that the correction rests on.
    """

    def __init__(self, usual: Sequence[float] = USUAL_ERROR, memory_frames: float = 60.0) -> None:
        self._usual = np.asarray(usual, np.float64)
        self._kept = 1 - 1 / memory_frames
        # Of each range: measured times expected error, and expected error squared, both by precision.
        self._products = np.zeros((2, len(_EDGES) + 1))
        self._factors = np.ones(len(_EDGES) + 1)

    def forget(self) -> None:
        """Begin anew, with another sample or another network."""
        self._products[:] = 0
        self._factors[:] = 1

    def add(
        self,
        estimate: FloatImage,
        target: FloatImage,
        target_variance: FloatImage,
        weight: FloatImage,
        conditions: NDArray[np.float32],
    ) -> None:
        """Take in what was answered to one image of a pair, and the other one.

        Parameters
        ----------
        target_variance
            Unbiased estimate of the noise variance of ``target``, pixel by pixel.
        weight
            0 where a pixel does not count.
        conditions
            What the network was told of the noise.
        """
        error = (estimate - target) ** 2 - target_variance
        expected = self._expected(estimate, conditions)
        bins = np.searchsorted(_EDGES, estimate.ravel())
        count = len(_EDGES) + 1

        def total(values: NDArray[np.float32]) -> NDArray[np.float64]:
            return np.bincount(bins, (weight * values).ravel(), count).astype(np.float64)

        # A square of Gaussian noise scatters by the square root of 2 of its mean. That mean is not taken from
        # the few photons of a range itself: none at all would look like certainty.
        light = np.maximum(estimate, 0) + np.float32(_DARK)
        per_light = float(np.mean(target_variance)) / float(np.mean(light))
        scatter = np.maximum(2 * (np.float32(per_light) * light + expected) ** 2, np.float32(1e-30))
        new = np.stack([total(error * expected / scatter), total(expected * expected / scatter)])
        self._products = self._kept * self._products + new
        self._correct()

    def std(self, estimate: FloatImage, conditions: NDArray[np.float32]) -> FloatImage:
        """Return the standard deviation of each pixel of an estimate: 1.96 of it hold 95 % of the errors."""
        factors = np.interp(_BRIGHTNESS, _CENTERS, self._factors)
        expected = self._expected(_BRIGHTNESS.astype(np.float32), conditions)
        table = (WIDER * np.sqrt(expected * factors)).astype(np.float32)
        numbers = (np.sqrt(np.maximum(estimate, 0)) * np.float32(_STEPS)).astype(np.intp)
        return table.take(numbers, mode="clip")

    def _expected(self, estimate: FloatImage, conditions: NDArray[np.float32]) -> FloatImage:
        at_mean = float(np.exp(error_features(conditions, 1 - _DARK) @ self._usual))
        expected: FloatImage = np.maximum(estimate, 0) + np.float32(_DARK)
        return np.float32(at_mean) * expected ** np.float32(self._usual[-1])

    def _correct(self) -> None:
        measured, precision = self._products
        shared_precision = precision.sum() + 1 / _EXPECTED_OFF_BY**2
        shared = (measured.sum() + 1 / _EXPECTED_OFF_BY**2) / shared_precision
        # What is not known of the error is part of it.
        shared = max(shared, _SMALLEST_FACTOR) + 1 / np.sqrt(shared_precision)
        pull = 1 / (_RANGE_OFF_BY * shared) ** 2
        self._factors = np.maximum((measured + pull * shared) / (precision + pull), _SMALLEST_FACTOR)
