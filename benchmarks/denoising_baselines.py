"""What a causal denoiser is compared with: filters, and networks of its own size that see or learn less.

Filters map a movie of photons ``(t, y, x)`` to an estimate of the frames ``window``. The networks differ in
their clips alone, that is, in what they are shown and what they are to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.restoration import denoise_nl_means

from controller.core.frame import FloatImage
from controller.denoising.causal_network import CausalUNet
from controller.denoising.clips import Clip, Example
from controller.denoising.training_pair import Pair

Movie = NDArray[Any]


def gaussian_2d(movie: Movie, window: slice, sigma: float) -> Movie:
    return np.asarray(ndimage.gaussian_filter(movie[window].astype(np.float64), (0, sigma, sigma)))


def gaussian_3d(movie: Movie, window: slice, sigma_t: float, sigma: float) -> Movie:
    """Smooth over the past and the future: no live method, but what one is measured by."""
    reach = int(np.ceil(4 * sigma_t))
    first = max(0, window.start - reach)
    part = movie[first : window.stop + reach].astype(np.float64)
    smooth = ndimage.gaussian_filter(part, (sigma_t, sigma, sigma), mode="nearest")
    return np.asarray(smooth[window.start - first :][: window.stop - window.start])


def moving_average_and_gaussian(movie: Movie, window: slice, tau: float, sigma: float) -> Movie:
    """Average exponentially over the past with a gain of 1/tau, the plain mean at first; then smooth."""
    average = np.zeros(movie.shape[1:])
    averages = []
    for number, image in enumerate(movie[: window.stop], 1):
        average = average + (image - average) * max(1 / tau, 1 / number)
        averages.append(average)
    return np.asarray(ndimage.gaussian_filter(averages[window.start :], (0, sigma, sigma)))


def stabilized(photons: Movie) -> Movie:
    """Return counts as numbers whose noise has variance 1 (Anscombe, Biometrika 35, 246, 1948)."""
    return np.asarray(2 * np.sqrt(np.maximum(photons, 0) + 3 / 8))


def destabilized(values: Movie) -> Movie:
    """Return the photons that are expected where ``values`` are; the exact unbiased inverse.

    M. Mäkitalo, A. Foi, IEEE Trans. Image Process. 20, 2697 (2011), the closed form of it.
    """
    d = np.maximum(values, 2 * np.sqrt(3 / 8))
    root = np.sqrt(3 / 2)
    return np.asarray(np.maximum(d**2 / 4 + root / 4 / d - 11 / 8 / d**2 + 5 / 8 * root / d**3 - 1 / 8, 0))


def non_local_means(frames: Movie, strength: float) -> Movie:
    """Average patches that look alike, frame by frame; ``strength`` in units of the noise."""
    cleaned = [
        denoise_nl_means(image, patch_size=5, patch_distance=6, h=strength, sigma=1.0, fast_mode=True)
        for image in stabilized(frames)
    ]
    return destabilized(np.array(cleaned))


def has_bm3d() -> bool:
    return find_spec("bm3d") is not None


def bm3d(frames: Movie) -> Movie:
    """Denoise frame by frame with BM3D, which knows that the noise has variance 1."""
    denoise = import_module("bm3d").bm3d

    return destabilized(np.array([denoise(image, 1.0) for image in stabilized(frames)]))


class FrameOnlyClip(Clip):
    """Shows the frame in the place of its past, too: a network of the same size without memory."""

    def example(self, index: int, place: tuple[slice, slice], rng: np.random.Generator) -> Example:
        """Return a part of a frame to learn from."""
        one = super().example(index, place, rng)
        return replace(
            one,
            images=np.repeat(one.images[:1], len(one.images), axis=0),
            conditions=np.full_like(one.conditions, one.conditions[0]),
        )


class PastOnlyClip(Clip):
    """Shows the shortest average in the place of the frame: causal DeepInterpolation of the same size."""

    def example(self, index: int, place: tuple[slice, slice], rng: np.random.Generator) -> Example:
        """Return a part of a frame to learn from."""
        one = super().example(index, place, rng)
        images, conditions = one.images.copy(), one.conditions.copy()
        images[0], conditions[0] = images[1], conditions[1]
        return replace(one, images=images, conditions=conditions)


class WholeFrame:
    """Asks for the frame itself, which is fair only of a network that does not see it."""

    reason = "the frame is not shown"

    def pair(self, frame_in_photons: NDArray[Any], rng: np.random.Generator) -> Pair:
        """Return the frame as both."""
        frame: FloatImage = np.asarray(frame_in_photons, np.float32)
        return Pair(frame, frame, np.ones_like(frame))


def network_answers(network: CausalUNet, clip: Clip, frames: Sequence[int]) -> NDArray[np.float32]:
    """Return what a network makes of whole frames; a clip with its truth shows them as they are."""
    rng = np.random.default_rng(0)  # not used: nothing is taken apart
    answers = []
    with torch.inference_mode():
        for index in frames:
            one = clip.example(index, (slice(None), slice(None)), rng)
            answer = network(torch.from_numpy(one.images)[None], torch.from_numpy(one.conditions)[None])
            answers.append(np.maximum(answer[0, 0].numpy(), 0) * np.float32(one.scale))
    return np.array(answers)
