"""Two pictures of the same truth made from one noisy frame: what a denoiser learns from without clean images.

A network that predicts ``target`` from ``source`` learns the truth, not the noise, if the noise of the one
says nothing about the noise of the other, and ``target`` is right on average [1]_. How a frame can be taken
apart like that depends on its noise:

photons
    Each photon goes to the one or the other by chance. Counts of Poisson noise taken apart so are
    independent, exactly [2]_.
Gaussian noise of known variance
    ``y + alpha z`` and ``y - z / alpha``, with fresh noise z of the same variance: their covariance is
    ``var(y) - var(z) = 0`` [3]_, [4]_. With z correlated as the noise is, that holds for noise shared by
    neighbours, too. It rests on second moments; so for a few photons, whose noise is skewed, it is not
    what is wanted.
noise of unknown size
    A pixel is hidden and predicted from those around it [5]_. Where neighbours share noise, these have to be
    hidden with it [6]_.

References
----------
.. [1] J. Lehtinen et al., Noise2Noise, ICML 2018.
.. [2] J. F. C. Kingman, Poisson Processes, Oxford 1993: colouring theorem.
.. [3] T. Pang et al., Recorrupted-to-Recorrupted, CVPR 2021.
.. [4] B. Monroy, J. Bacca, J. Tachella, Generalized Recorrupted-to-Recorrupted, CVPR 2025.
.. [5] A. Krull et al., Noise2Void, CVPR 2019.
.. [6] C. Broaddus et al., Removing structured noise with self-supervised blind-spot networks, ISBI 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage
from controller.denoising.blind_masks import BlindSpotMask, LineThinning, StructuredMask
from controller.denoising.noise_tiles import LAGS
from controller.denoising.photon_transfer import PhotonTransfer
from controller.denoising.training_pair import Corruption, Pair, frame_and_weight

#: Neighbours whose noise is correlated more than this must not predict each other.
CORRELATED = 0.1

#: More in one pixel is not a count that could be split.
_LARGEST_COUNT = 2.0**31


@dataclass(frozen=True, slots=True)
class PhotonThinning:
    """Deals out the photons of each pixel: a share to the source, the rest to the target.

    Both are scaled to the full light. The share is drawn anew for each frame, so that a network
    sees many photon levels. Only for counts whose variance is their mean; anything else is refused, since
    the parts of what is no count of independent photons share noise.

    Attributes
    ----------
    lowest_share, highest_share
        Of the photons that go to the source.
    saturated_photons
        From here on, a pixel does not count.
    """

    lowest_share: float = 0.4
    highest_share: float = 0.8
    saturated_photons: float = np.inf
    reason: str = "photons were counted one by one"

    def __post_init__(self) -> None:
        if not 0 < self.lowest_share <= self.highest_share < 1:
            raise ValueError(
                f"shares need 0 < lowest_share <= highest_share < 1, "
                f"got {self.lowest_share:g} and {self.highest_share:g}"
            )

    def pair(self, frame_in_photons: NDArray[Any], rng: np.random.Generator) -> Pair:
        """Return thinned source and target.

        Raises
        ------
        ValueError
            If a pixel is no whole number of photons >= 0.
        """
        frame, weight = frame_and_weight(frame_in_photons, self.saturated_photons)
        images = frame.reshape(-1, frame.shape[-2] * frame.shape[-1])
        counts = _whole(images)
        source, target = np.empty_like(images), np.empty_like(images)
        variance, noise = np.empty_like(images), np.empty(len(images))
        for row in range(len(images)):
            share = rng.uniform(self.lowest_share, self.highest_share)
            kept = _binomial(counts[row], share, rng)
            np.multiply(kept, np.float32(1 / share), out=source[row])
            np.multiply(counts[row] - kept, np.float32(1 / (1 - share)), out=target[row])
            np.multiply(target[row], np.float32(1 / (1 - share)), out=variance[row])
            noise[row] = 1 / share
        return Pair(
            source.reshape(frame.shape),
            target.reshape(frame.shape),
            weight,
            float(noise.mean()),
            variance.reshape(frame.shape),
        )


@dataclass(frozen=True, slots=True)
class Recorruption:
    """Adds noise that is taken off again from the target, for analog detectors.

    ``source = y + alpha z`` and ``target = y - z / alpha`` with ``var(z)`` of each pixel from the photon
    transfer: expected photons plus the variance of the read noise. The expected photons are the mean
    of the 8 pixels around, without the pixel itself: a variance that follows a pixel's own noise n makes
    ``E[n z²]`` differ from 0, and source and target dependent beyond their covariance. The price is a small
    covariance where the light changes from one pixel to the next.

    Attributes
    ----------
    read_noise_photons
        Standard deviation at no light.
    alpha
        How much noise the source gets. Its variance is ``1 + alpha²`` of the frame's, that of the target
        ``1 + 1 / alpha²``.
    correlation_y, correlation_x
        Of the noise of direct neighbours, -1/2 to 1/2; z is given the same.
    saturated_photons
        From here on, a pixel does not count.
    """

    read_noise_photons: float = 0.0
    alpha: float = 0.5
    correlation_y: float = 0.0
    correlation_x: float = 0.0
    saturated_photons: float = np.inf
    reason: str = "the variance of the noise is known"

    def __post_init__(self) -> None:
        if not (0 < self.alpha < np.inf and 0 <= self.read_noise_photons < np.inf):
            raise ValueError(
                f"alpha > 0 and read_noise_photons >= 0 are needed, "
                f"got {self.alpha:g} and {self.read_noise_photons:g}"
            )
        if not max(abs(self.correlation_y), abs(self.correlation_x)) <= 0.5:
            raise ValueError(
                f"direct neighbours alone share noise up to a correlation of 1/2, "
                f"got {self.correlation_y:g} and {self.correlation_x:g}; hide pixels with StructuredMask"
            )

    def pair(self, frame_in_photons: NDArray[Any], rng: np.random.Generator) -> Pair:
        """Return source and target, both with noise added."""
        frame, weight = frame_and_weight(frame_in_photons, self.saturated_photons)
        noise = rng.standard_normal(frame.shape, np.float32)
        noise = _shared(noise, self.correlation_y, -2)
        noise = _shared(noise, self.correlation_x, -1)
        variance = _mean_around(frame)
        variance += np.float32(self.read_noise_photons**2)
        noise *= np.sqrt(np.maximum(variance, 0, out=variance))
        return Pair(
            frame + np.float32(self.alpha) * noise,
            frame - np.float32(1 / self.alpha) * noise,
            weight,
            1 + self.alpha**2,
            np.float32(1 + self.alpha**-2) * variance,
        )


def choose_corruption(transfer: PhotonTransfer | None) -> Corruption:
    """Return how frames with such noise can be taken apart; its ``reason`` says why."""
    if transfer is None:
        return BlindSpotMask(reason="the photon transfer is unknown: single pixels are hidden")
    saturated = transfer.saturated_photons
    shared_y = max(transfer.reach_y, 1) if abs(transfer.correlation_y) > CORRELATED else 0
    shared_x = max(transfer.reach_x, 1) if abs(transfer.correlation_x) > CORRELATED else 0
    if transfer.trust == "processed":  # smoothing goes on below what is told from chance
        shared_y, shared_x = max(shared_y, transfer.reach_y), max(shared_x, transfer.reach_x)
    if shared_y or shared_x:
        axes = " and ".join(
            f"{axis} ({correlation:.2f})"
            for axis, correlation, reach in (
                ("y", transfer.correlation_y, shared_y),
                ("x", transfer.correlation_x, shared_x),
            )
            if reach
        )
        if max(shared_y, shared_x) >= LAGS and min(shared_y, shared_x) == 0:
            reason = f"noise is shared along {axes} further than {LAGS} pixels: whole lines are hidden"
            return LineThinning("x" if shared_x else "y", saturated_photons=saturated, reason=reason)
        reason = f"neighbours share noise along {axes}: they are hidden together"
        return StructuredMask(shared_y, shared_x, saturated, reason)
    if transfer.trust == "counts":
        return PhotonThinning(
            saturated_photons=saturated, reason="photons were counted one by one: they are dealt out"
        )
    if transfer.trust in {"line", "gain only"}:
        reason = "an analog signal of known variance: noise is added to one part and taken off the other"
        return Recorruption(transfer.read_noise_photons, saturated_photons=saturated, reason=reason)
    return BlindSpotMask(saturated, f"the scale of the noise is {transfer.trust}: single pixels are hidden")


def split_photons(
    counts: NDArray[Any], fraction: float, rng: np.random.Generator
) -> tuple[FloatImage, FloatImage]:
    """Deal out photons: ``fraction`` of them, by chance, and the rest. Their noise is independent.

    Parameters
    ----------
    counts
        Whole photons, any shape.
    fraction
        0..1, of the first part.
    rng
        Where the chance comes from.

    Returns
    -------
    Both parts, float32, not scaled: they add up to ``counts``.

    Raises
    ------
    ValueError
        If a pixel is no whole number >= 0, or the fraction no fraction.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction:g} is outside 0..1")
    whole = _whole(np.asarray(counts))
    kept = _binomial(whole.reshape(-1), fraction, rng).reshape(whole.shape)
    return kept.astype(np.float32), (whole - kept).astype(np.float32)


def _whole(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Return counts as integers, refusing what is none."""
    with np.errstate(invalid="ignore"):
        rounded = np.rint(counts)
        fits = bool(np.all((rounded >= 0) & (rounded < _LARGEST_COUNT) & (np.abs(counts - rounded) < 1e-3)))
    if not fits:
        raise ValueError(
            "only whole photons >= 0 can be dealt out; take Recorruption or a mask for analog signals"
        )
    return np.asarray(rounded, np.int64)


def _binomial(counts: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how many of each pixel's photons are kept, shape ``(pixels,)``."""
    # In the order of the counts: numpy sets its sampler up anew at every other count, and a setup costs
    # more than a sample.
    short = counts.astype(np.uint16) if counts.max(initial=0) < 2**16 else counts
    order = np.argsort(short, kind="stable")
    kept = np.empty_like(counts)
    kept[order] = rng.binomial(counts[order], share)
    return kept


def _mean_around(images: FloatImage) -> FloatImage:
    """Return the mean of the 8 pixels around each; at the border, of a mirror image."""
    if min(images.shape[-2:]) < 2:
        raise ValueError(f"2 x 2 pixels are needed to have neighbours, got {images.shape}")
    edges = [(0, 0)] * (images.ndim - 2) + [(1, 1), (1, 1)]
    padded = np.pad(images, edges, mode="reflect")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :]
    rows += padded[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1]
    total += rows[..., 2:]
    total -= images
    total *= np.float32(1 / 8)
    return np.asarray(total)


def _shared(noise: FloatImage, correlation: float, axis: int) -> FloatImage:
    """Return white noise of variance 1 with a correlation of neighbours along an axis."""
    if correlation == 0:
        return noise
    # n[i] = a w[i] + b w[i + 1] with a² + b² = 1 and a b = correlation
    angle = 0.5 * np.arcsin(np.clip(2 * correlation, -1, 1))
    shared = np.float32(np.cos(angle)) * noise + np.float32(np.sin(angle)) * np.roll(noise, -1, axis)
    return np.asarray(shared)
