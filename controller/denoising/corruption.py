"""Two pictures of the same truth made from one noisy frame: what a denoiser learns from without clean images.

A network that predicts ``target`` from ``source`` learns the truth, not the noise, if the noise of the one
says nothing about the noise of the other, and ``target`` is right on average [1]_. How a frame can be taken
apart like that depends on its noise:

photons
    Each photon goes to the one or the other by chance. Counts of Poisson noise taken apart so are
    independent, exactly [2]_.
analog noise of known variance
    ``y + alpha z`` and ``y - z / alpha``, with fresh noise z of the same variance: their covariance is
    ``var(y) - var(z) = 0`` [3]_, [4]_. With z correlated as the noise is, that holds for noise shared by
    neighbours, too. It rests on moments, and the noise of a photon now and then has too many of them.
other noise
    A pixel is hidden and predicted from those around it (:mod:`~controller.denoising.blind_masks`).

References
----------
.. [1] J. Lehtinen et al., Noise2Noise, ICML 2018.
.. [2] J. F. C. Kingman, Poisson Processes, Oxford 1993: colouring theorem.
.. [3] T. Pang et al., Recorrupted-to-Recorrupted, CVPR 2021.
.. [4] B. Monroy, J. Bacca, J. Tachella, Generalized Recorrupted-to-Recorrupted, CVPR 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage
from controller.denoising.blind_masks import BlindSpotMask, LineThinning, StructuredMask
from controller.denoising.noise_tiles import LAGS
from controller.denoising.photon_transfer import CORRELATED, PhotonTransfer
from controller.denoising.training_pair import Corruption, Pair, frame_and_weight

#: Noise more skewed than this, that of one photon a pixel, is not described by its second and third moments.
#: On simulated pulses of a photomultiplier, small networks learned 5 dB less from recorruption than from
#: hidden pixels at 0.5 photons, and 0.5 dB more at 2 (benchmarks/corruption.py).
SKEWNESS_MAX = 1.0

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
    """Adds noise to the source that is taken off the target, for analog detectors.

    ``source = y + alpha z`` and ``target = y - z / alpha``. With n the noise of y, their covariance
    ``var(n) - var(z)`` is 0 if z has the variance of the photon transfer: expected photons plus that of the
    read noise. Expected photons are the mean of the 8 pixels around [3]_, without the pixel itself, as is
    right for Gaussian noise, whose z must not depend on n. Shot noise is skewed: the next moment,
    ``E[target source²] = E[n³] + (alpha² - 2) E[n z²]`` of the noises, is 0 only if z² follows n. So the
    pixel itself replaces the mean around it to the share that ``(2 - alpha²) E[n z²] = E[n³]`` asks for,
    with ``E[n³]`` as of photons. What is left are higher moments, which count when photons are few.

    Attributes
    ----------
    read_noise_photons
        Standard deviation at no light.
    alpha
        How much noise the source gets, above 0, to 1. Its variance is ``1 + alpha²`` of the frame's, that
        of the target ``1 + 1 / alpha²``.
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
        if not (0 < self.alpha <= 1 and 0 <= self.read_noise_photons < np.inf):
            raise ValueError(
                f"0 < alpha <= 1 and a finite read_noise_photons >= 0 are needed, "
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
        variance = self._variance(frame)
        noise *= np.sqrt(variance)
        more, less = np.float32(self.alpha), np.float32(1 / self.alpha)
        variance *= 1 + less**2
        return Pair(frame + more * noise, frame - less * noise, weight, 1 + self.alpha**2, variance)

    def _variance(self, frame: FloatImage) -> FloatImage:
        """Return the variance of z at each pixel, in photons²."""
        around = _mean_around(frame)
        read = np.float32(self.read_noise_photons**2)
        shot = np.maximum(around, np.float32(1e-6))
        share = shot / (shot + read)
        share *= np.float32(1 / (2 - self.alpha**2))
        variance = around + share * (frame - around)
        variance += read
        return np.maximum(variance, 0, out=variance)


def choose_corruption(transfer: PhotonTransfer | None) -> Corruption:
    """Return how frames with such noise can be taken apart; its ``reason`` says why.

    Photons that were counted are dealt out. Where the variance of the noise is known, and what direct
    neighbours share of it, noise is added: in simulations, networks learned more from it than from hidden
    pixels, and by far more where neighbours shared noise. Else pixels are hidden.
    """
    if transfer is None:
        return BlindSpotMask(reason="the photon transfer is unknown: single pixels are hidden")
    saturated = transfer.saturated_photons
    reach_yx = _shared_reach(transfer)
    if transfer.trust == "counts" and not any(reach_yx):
        reason = "photons were counted one by one: they are dealt out"
        return PhotonThinning(saturated_photons=saturated, reason=reason)
    few = _skewness(transfer) > SKEWNESS_MAX
    if transfer.trust in {"line", "gain only"} and max(reach_yx) <= 1 and not few:
        return _recorruption(transfer)
    if any(reach_yx):
        return _hiding_neighbours(transfer, reach_yx)
    reason = f"the scale of the noise is {transfer.trust}: single pixels are hidden"
    if few:
        reason = f"{transfer.mean_photons:.2g} photons a pixel are too few to add noise like theirs"
        reason += ": single pixels are hidden"
    return BlindSpotMask(saturated, reason)


def _shared_reach(transfer: PhotonTransfer) -> tuple[int, int]:
    """Return how far noise is shared along y and x, as far as it matters."""
    if transfer.trust == "processed":  # smoothing goes on below what is told from chance
        return transfer.reach_y, transfer.reach_x
    return (
        max(transfer.reach_y, 1) if abs(transfer.correlation_y) > CORRELATED else 0,
        max(transfer.reach_x, 1) if abs(transfer.correlation_x) > CORRELATED else 0,
    )


def _skewness(transfer: PhotonTransfer) -> float:
    """Return the skewness of the noise where the light is as on average; a Gaussian's is 0."""
    photons = max(transfer.mean_photons, 1e-6)
    if not np.isfinite(photons):
        return 0.0
    return float(photons / (photons + transfer.read_noise_photons**2) ** 1.5)


def _recorruption(transfer: PhotonTransfer) -> Recorruption:
    """Return what adds noise of the same variance and correlation."""
    y, x = (
        float(np.clip(correlation, -0.5, 0.5)) if abs(correlation) > CORRELATED / 2 else 0.0
        for correlation in (transfer.correlation_y, transfer.correlation_x)
    )
    reason = "an analog signal of known variance: noise is added to one part and taken off the other"
    if y or x:
        reason += f", shared by neighbours as theirs is ({y:.2f} along y, {x:.2f} along x)"
    return Recorruption(
        transfer.read_noise_photons,
        correlation_y=y,
        correlation_x=x,
        saturated_photons=transfer.saturated_photons,
        reason=reason,
    )


def _hiding_neighbours(transfer: PhotonTransfer, reach_yx: tuple[int, int]) -> Corruption:
    """Return what hides pixels whose noise is shared with those they are predicted from."""
    shared_yx = (f"y ({transfer.correlation_y:.2f})", f"x ({transfer.correlation_x:.2f})")
    axes = " and ".join(name for name, reach in zip(shared_yx, reach_yx, strict=True) if reach)
    saturated = transfer.saturated_photons
    if max(reach_yx) >= LAGS and min(reach_yx) == 0:
        reason = f"noise is shared along {axes} further than {LAGS} pixels: whole lines are hidden"
        return LineThinning("x" if reach_yx[1] else "y", saturated_photons=saturated, reason=reason)
    reason = f"neighbours share noise along {axes}: they are hidden together"
    return StructuredMask(*reach_yx, saturated, reason)


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
