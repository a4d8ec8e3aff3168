"""Pieces of movies to learn from: each frame with what a denoiser would remember when it came."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage
from controller.denoising.averages import MovingAverages
from controller.denoising.causal_network import conditions_of
from controller.denoising.training_pair import Corruption, Pair

#: A mean below this many photons a pixel, or this share of the read noise, is taken for that: where there is
#: next to no light, nothing is divided by zero, nor noise blown up beyond what the network knows.
_DARKEST, _DARKEST_READ_NOISE = 1e-3, 0.25

Images = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One thing to learn: an input and what should be answered, in units of ``scale`` photons.

    ``weight`` is 0 where a pixel must not count, ``target_variance`` what is known of the
    noise of the target, ``source_noise`` is the variance of the input's noise as a multiple of a frame's.
    """

    images: Images
    conditions: Images
    target: FloatImage
    weight: FloatImage
    target_variance: FloatImage
    scale: float
    source_noise: float


def level_of(mean: float, read_variance: float) -> float:
    """Return the photons a pixel that images are divided by: their mean, if there is enough light."""
    return max(mean, _DARKEST, _DARKEST_READ_NOISE * float(np.sqrt(read_variance)))


class Clip:
    """A piece of a movie with the moving averages before each of its frames.

    Parameters
    ----------
    photons
        Consecutive frames of one place in photons, shape ``(t, y, x)``.
    taus_frames
        Time constants of the averages.
    corruption
        Makes pairs of independent noise from a frame; not asked where there is a ``truth``.
    truth
        Expected photons of each frame, of a simulated movie.
    read_variance
        Of the detector in the dark, photons².
    """

    def __init__(
        self,
        photons: NDArray[np.float32],
        taus_frames: Sequence[float],
        corruption: Corruption,
        *,
        truth: NDArray[np.float32] | None = None,
        read_variance: float = 0.0,
    ) -> None:
        self.photons, self.truth = photons, truth
        self.corruption, self.read_variance = corruption, read_variance
        averages = MovingAverages(taus_frames, photons.shape[1:])
        self.past = np.empty((len(photons), len(taus_frames), *photons.shape[1:]), np.float32)
        self.variances = np.empty((len(photons), len(taus_frames)))
        self.levels = np.empty(len(photons))
        for index, frame in enumerate(photons):
            self.past[index], self.variances[index] = averages.images, averages.variances
            averages.add(frame)
            self.levels[index] = level_of(float(averages.images[-1].mean()), read_variance)

    def __len__(self) -> int:
        return len(self.photons)

    def is_lit(self, index: int) -> bool:
        """Tell whether there is enough light for images to be divided by their own mean."""
        return bool(self.levels[index] > level_of(0.0, self.read_variance))

    def until(self, end: int) -> Clip:
        """Return the first ``end`` frames, sharing memory."""
        first = copy(self)
        first.photons, first.past = self.photons[:end], self.past[:end]
        first.truth = None if self.truth is None else self.truth[:end]
        return first

    def example(self, index: int, place: tuple[slice, slice], rng: np.random.Generator) -> Example:
        """Return a part of frame ``index`` to learn from."""
        frame = self.photons[index][place]
        if self.truth is None:
            return self._example(index, place, self.corruption.pair(frame, rng))
        return self._example(index, place, Pair(frame, self.truth[index][place], np.ones_like(frame)))

    def whole(self, index: int, place: tuple[slice, slice]) -> Example:
        """Return a part of frame ``index`` as it is denoised: with all its photons."""
        frame = self.photons[index][place]
        return self._example(index, place, Pair(frame, frame, np.ones_like(frame)))

    def _example(self, index: int, place: tuple[slice, slice], pair: Pair) -> Example:
        scale = float(self.levels[index])
        noise = np.zeros_like(pair.target) if pair.target_variance is None else pair.target_variance
        past = self.past[index][:, *place]
        images: Images = np.concatenate((pair.source[None], past)) * np.float32(1 / scale)
        variances = np.concatenate(([pair.source_noise], self.variances[index]))
        return Example(
            images,
            conditions_of(variances, scale, self.read_variance),
            pair.target / np.float32(scale),
            pair.weight,
            noise / np.float32(scale**2),
            scale,
            pair.source_noise,
        )


def patch(clip: Clip, side: int, rng: np.random.Generator) -> Example:
    """Return a square of a frame, turned and mirrored at random.

    Every fourth comes from the first ten frames, where the past is short: a session has many beginnings.
    """
    frames, rows, columns = clip.photons.shape
    newest = min(10, frames) if rng.random() < 0.25 else frames
    index = int(rng.integers(newest))
    height, width = min(side, rows), min(side, columns)
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    example = clip.example(index, (slice(top, top + height), slice(left, left + width)), rng)
    turns = int(rng.integers(4)) if height == width else 2 * int(rng.integers(2))
    mirrored = bool(rng.integers(2))

    def placed(image: Images) -> Images:
        image = np.rot90(image, turns, axes=(-2, -1))
        return np.ascontiguousarray(image[..., ::-1] if mirrored else image)

    return Example(
        placed(example.images),
        example.conditions,
        placed(example.target),
        placed(example.weight),
        placed(example.target_variance),
        example.scale,
        example.source_noise,
    )
