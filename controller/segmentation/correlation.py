"""Active cells of a calcium movie: what flickers together over a cell's width, and noise does not.

A frame shows a cell by its brightness; a movie shows it by its activity. The correlation image [1]_ gives
each pixel the correlation of its trace with those of its 8 neighbours. With one photon a pixel that
correlation is small, and a cell has many pairs of pixels that are no neighbours, so here every pair under
a cell-sized Gaussian counts, as in suite2p's detection [2]_. Two sums tell what all pairs have in common,
without any pair being looked at: the variance in time of the blurred movie, and the same if the pixels
were independent. Their ratio is 1 for any noise that is independent from pixel to pixel.

Pairs on the same line are left out: a photomultiplier's amplifier smears each photon along the line, which
is a correlation, too. So "independent" means "from line to line" here.

All is kept in running sums: the memory does not grow, whatever the length of the movie.

References
----------
.. [1] S. L. Smith, M. Häusser, Parallel processing of visual space by neighboring neurons in mouse visual
   cortex, Nat. Neurosci. 13, 1144 (2010); as local_correlations in CaImAn, A. Giovannucci et al.,
   eLife 8, e38173 (2019).
.. [2] M. Pachitariu et al., Suite2p: beyond 10,000 neurons with standard two-photon microscopy,
   bioRxiv 061507 (2016).
.. [3] E. B. Wilson, M. M. Hilferty, The distribution of chi-square, Proc. Natl. Acad. Sci. 17, 684
   (1931): the cube root of a variance is nearly Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage, special

from controller.core.continuity import brightness_ratio
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import Resources
from controller.core.settings import NonNegative, Positive, ScanSettings, Settings
from controller.segmentation.spots import Image, binary_entropy_bits, in_photons, split_at_maxima

#: Standard deviation of the blur, in cell diameters. Tuned on simulated movies, where 1/3 to 1/4 are alike.
_BLUR = 1 / 3.5

#: Width of the square whose mean is taken for neuropil, in cell diameters.
_SURROUND = 7

#: Part of the common activity around a place that may have come there by taking away the mean of that
#: square: one cell covers (π / 4) / 49 of it; eight times so much, for larger cells and several.
_LEAK = 2 * np.pi / _SURROUND**2

#: Frames before the first answer: of fewer, a variance in time says nothing.
_FEWEST_FRAMES = 10

#: Half a photon under the kernel (sigma 1 pixel) that the mean is smoothed with: darkness is never certain.
_FLOOR_PHOTONS = 0.04


#: What fluctuated in much more or less light says nothing of now.
_LARGEST_CHANGE = 2.0


@dataclass(slots=True)
class _State:
    """What is known of the region, all of shape ``(y, x)`` but the counts.

    ``mean`` in photons. ``in_lines`` and ``in_all`` are the variances in time of the fluctuations, in units
    of shot noise, blurred along the lines and both ways. ``frames`` counts up to the memory's length, and
    ``weights_squared`` is the sum of the squared weights that the averages give to their frames.
    """

    settings: ScanSettings
    mean: Image
    in_lines: Image
    in_all: Image
    frames: int
    weights_squared: float


class CorrelationImageSegmenter:
    """Finds cells by what their pixels do together in time; a cell that does nothing is not found.

    It remembers: each answer rests on the frames of this region so far, the newest ``memory_frames`` above
    all. It starts afresh when the region, the focus, the sampling, the modality, the STED power or (by more
    than a factor of 2) the light change. The denoised image is not looked at: its noise is correlated in
    space and time, and correlation is what is measured here.

    What it cannot know: motion of the sample lets edges flicker, bleaching and changes of the laser's power
    let bright places do so, and a cell above or below the focus is as active as one in it.
    """

    class Options(Settings):
        """What a cell looks like, how long to remember, and what one photon is in the detector's units."""

        cell_size_m: Positive = 1.2e-5
        """Expected diameter of a cell, in metres."""
        threshold: Positive = 5.0
        """Standard deviations of noise that a correlation must stand out by; probability 0.5 lies here."""
        memory_frames: Annotated[int, Field(ge=10, le=1_000_000)] = 500
        """Frames after which what was seen has lost about two thirds of its weight."""
        edge: Annotated[float, Field(gt=0, lt=1)] = 0.3
        """A cell ends where the variance of its common activity falls below this part of its maximum."""
        smallest_area: Annotated[float, Field(ge=0, lt=1)] = 0.2
        """Objects of a smaller part of the expected disc's area are dropped."""
        units_per_photon: Positive = 1.0
        """Detector units that one photon gives (1 for a photon counter)."""
        offset_units: float = 0.0
        """Detector units at no light."""
        read_noise_units: NonNegative = 0.0
        """Standard deviation of the detector at no light, in detector units."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self._state: _State | None = None

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:  # noqa: ARG003 - the role's
        """Make the segmenter; ``options`` is a :class:`CorrelationImageSegmenter.Options`."""
        return cls(cls.Options.model_validate(options))

    def reset(self, reason: str) -> None:  # noqa: ARG002 - as a denoiser's
        """Forget the past: the next frame is the first of its region."""
        self._state = None

    def observe(self, frame: Frame) -> None:
        """Take a frame into the averages, without an answer."""
        options = self.options
        photons = in_photons(frame.photons, options.offset_units, options.units_per_photon)
        state = _carried_over(self._state, frame.settings, photons.shape)
        if state is None:
            nothing = np.zeros_like(photons)
            self._state = _State(frame.settings, photons, nothing, nothing, 1, 1.0)
            return
        lines, everywhere = self._fluctuations(state, photons)
        # The first frame only sets the mean; the second is the first that fluctuates about it.
        share = 1 / min(state.frames, options.memory_frames)
        state.in_lines = state.in_lines + share * (lines - state.in_lines)
        state.in_all = state.in_all + share * (everywhere - state.in_all)
        state.weights_squared = (1 - share) ** 2 * state.weights_squared + share**2
        state.frames = min(state.frames, options.memory_frames) + 1
        state.mean = state.mean + (photons - state.mean) / state.frames
        state.settings = frame.settings
        self._state = state

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:  # noqa: ARG002 - the role's
        """Take a frame into the averages and return the cells that the movie shows until now.

        Returns
        -------
        Each cell a label, numbered by rows; probability the logistic function of the significance of the
        common activity above the threshold. All of the shape of the frame, also for a single pixel.
        Nothing is found in the first frames of a region.
        """
        self.observe(frame)
        common, significance = self.correlation()
        probability = special.expit(significance - self.options.threshold).astype(np.float32)
        labels = self._cells(common, significance > self.options.threshold)
        return Segmentation(labels, probability, binary_entropy_bits(probability))

    def correlation(self) -> tuple[Image, Image]:
        """Return what the frames so far show in common over a cell's width, as size and significance.

        Returns
        -------
        The variance in time that pixels on different lines have in common, under the blur, in units of
        shot noise; and how far it lies above that of independent noise, in standard deviations. Both of
        shape ``(y, x)``; the second is 0 while there are too few frames to tell.

        Raises
        ------
        RuntimeError
            If there was no frame.
        """
        state = self._state
        if state is None:
            raise RuntimeError("there is no correlation before the first frame")
        if state.frames < _FEWEST_FRAMES:
            return np.zeros_like(state.mean), np.zeros_like(state.mean)
        weights = _blur_weights(self._cell_px(state) * _BLUR)
        independent = _along_columns(state.in_lines, weights**2)
        common = state.in_all - independent
        side = self._surround_px(state)
        common -= _LEAK * ndimage.uniform_filter(np.maximum(common, 0), side)
        # In the dark, noise is less than what even half a photon makes: there, that is what is expected.
        expected = _along_columns(np.full_like(common, np.sum(weights**2)), weights**2)
        noise = np.maximum(independent, expected)
        # Of the squared sum over lines, the products of a line with itself are not counted.
        same_line = _along_columns(state.in_lines**2, weights**4)
        pairs = np.clip(1 - same_line / noise**2, 1e-3, 1.0)
        deviation = np.sqrt(2 * pairs * state.weights_squared)
        return common, 3 * (np.cbrt(np.maximum(1 + common / noise, 0)) - 1) / deviation

    def _cell_px(self, state: _State) -> float:
        """Return the diameter of a cell in pixels; below 3 it has no width to look over."""
        diameter = self.options.cell_size_m / state.settings.pixel_size_m
        return float(np.clip(diameter, 3.0, max(3.0, 2.0 * max(state.mean.shape))))

    def _surround_px(self, state: _State) -> int:
        return 2 * int(_SURROUND * self._cell_px(state) / 2) + 1

    def _fluctuations(self, state: _State, photons: Image) -> tuple[Image, Image]:
        """Return the squared fluctuations of a frame about the mean, blurred along lines and both ways."""
        options = self.options
        smooth = ndimage.gaussian_filter(state.mean, 1.0)
        variance = smooth + (options.read_noise_units / options.units_per_photon) ** 2 + _FLOOR_PHOTONS
        # The mean has noise of its own, so that a frame differs from it by more than the frame's.
        variance *= 1 + 1 / min(state.frames, options.memory_frames)
        change = (photons - state.mean) / np.sqrt(variance)
        # Neuropil flickers together over many cells' width.
        change -= ndimage.uniform_filter(change, self._surround_px(state))
        weights = _blur_weights(self._cell_px(state) * _BLUR)
        lines = ndimage.correlate1d(change, weights, axis=1, mode="constant")
        # Outside the frame there is nothing. A mirrored line would be correlated with itself.
        return lines**2, _along_columns(lines, weights) ** 2

    def _cells(self, common: Image, mask: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Return one label for each maximum of the common activity, as far as it is a good part of it."""
        state = self._state
        if state is None or not mask.any():
            return np.zeros(mask.shape, np.int32)
        diameter = self._cell_px(state)
        height = ndimage.gaussian_filter(common, 0.1 * diameter)
        labels = split_at_maxima(height, mask, diameter / 2)
        count = int(labels.max())
        tops = np.asarray(ndimage.maximum(height, labels, np.arange(count + 1)))
        labels = labels * (height >= self.options.edge * tops[labels])
        areas = np.bincount(labels.ravel(), minlength=count + 1)
        keep = areas >= max(1.0, self.options.smallest_area * np.pi * diameter**2 / 4)
        keep[0] = False
        renumbered = np.cumsum(keep) * keep
        return np.asarray(renumbered[labels], dtype=np.int32)


def _carried_over(state: _State | None, settings: ScanSettings, shape: tuple[int, ...]) -> _State | None:
    """Return the state with the mean scaled to the light of ``settings``, ``None`` if it does not apply."""
    if state is None or state.mean.shape != shape:
        return None
    ratio = brightness_ratio(state.settings, settings)
    if ratio is None or not 1 / _LARGEST_CHANGE <= ratio <= _LARGEST_CHANGE:
        return None
    if ratio != 1:
        state.mean = state.mean * ratio
    return state


def _blur_weights(sigma: float) -> Image:
    """Return the weights of a Gaussian, sum 1, as far as 3 standard deviations."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _along_columns(image: Image, weights: Image) -> Image:
    return np.asarray(ndimage.correlate1d(image, weights, axis=0, mode="constant"))
