"""Denoisers on real movies, without the truth: each frame is split into two of independent noise.

One half is what the denoisers get, the other is right on average, so the squared difference to it, less the
variance of its noise, estimates the squared error. Photons are dealt out; to an analog signal noise of its
own variance is added in one half and taken off in the other, which gives each half the noise of half the
light. Both rest on what the photon transfer says. Where neighbours share noise, the added noise is made
to, too; where frames share noise or its size is not known, no score can be trusted, and that is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.denoising_baselines import Movie, gaussian_2d, gaussian_3d, moving_average_and_gaussian
from benchmarks.denoising_results import Rows
from benchmarks.movies import as_frame
from controller.core.protocols import Denoiser
from controller.denoising.adaptation import AdaptationOptions, Sample, propose
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.denoising.causal_unet import SHIPPED, CausalUNetDenoiser
from controller.denoising.corruption import Recorruption, choose_corruption, split_photons
from controller.denoising.photon_transfer import CORRELATED, PhotonTransfer, find_photon_transfer
from controller.networks.weights import Weights, read_weights

#: Part of the frames, the first ones, that networks may learn from; the rest judges.
_LEARNED = 0.75
_MOST_SHARED = 0.5

_BEST_CAUSAL = "best causal filter: moving average + Gaussian (oracle)"
_BETTER = "error below the best causal filter's, standard errors"


@dataclass(frozen=True, slots=True, eq=False)
class Halves:
    """A movie split in two, in photons of half the light, shape ``(t, y, x)``.

    ``variance`` estimates that of the noise of ``reference``; ``weight`` is 0 where a pixel must not
    count; ``doubt`` says why scores are not to be trusted, empty if they are.
    """

    seen: NDArray[np.float32]
    reference: NDArray[np.float32]
    variance: NDArray[np.float32]
    weight: NDArray[np.float32]
    read_photons: float
    doubt: str

    @property
    def judged(self) -> slice:
        return slice(round(_LEARNED * len(self.seen)), len(self.seen))

    def errors(self, estimate: Movie) -> NDArray[np.float64]:
        """Estimate the mean squared error of an estimate of the judged frames, each by itself.

        The noise of the reference is the same for all estimates: differences of two are surer than each.
        """
        part = self.judged
        weight = self.weight[part]
        difference = weight * ((estimate - self.reference[part]) ** 2 - self.variance[part])
        return np.asarray(difference.sum((1, 2)) / np.maximum(weight.sum((1, 2)), 1), np.float64)

    def error(self, estimate: Movie) -> float:
        """Estimate the mean squared error of an estimate of the judged frames."""
        return float(self.errors(estimate).mean())


def halves_of(movie: NDArray[Any], rng: np.random.Generator) -> Halves:
    """Split a movie in detector units.

    Raises
    ------
    ValueError
        If nothing is known about its noise.
    """
    found = find_photon_transfer(movie)
    transfer = found.transfer
    if transfer is None:
        raise ValueError(f"this movie cannot be split: {found.reason}")
    photons = transfer.as_photons(movie)
    if transfer.trust == "counts":
        seen, reference = split_photons(photons, 0.5, rng)
        weight = (photons < transfer.saturated_photons).astype(np.float32)
        return Halves(seen, reference, reference, weight, 0.0, _doubt(transfer))
    pair = Recorruption(
        transfer.read_noise_photons,
        alpha=1.0,
        correlation_y=float(np.clip(transfer.correlation_y, -_MOST_SHARED, _MOST_SHARED)),
        correlation_x=float(np.clip(transfer.correlation_x, -_MOST_SHARED, _MOST_SHARED)),
        saturated_photons=transfer.saturated_photons,
    ).pair(photons, rng)
    variance = pair.target_variance
    if variance is None:
        raise ValueError("this movie cannot be split: the variance of its noise is not known")
    half, read_photons = np.float32(0.5), transfer.read_noise_photons / np.sqrt(2)
    source, target = half * pair.source, half * pair.target
    return Halves(source, target, half**2 * variance, pair.weight, read_photons, _doubt(transfer))


def _doubt(transfer: PhotonTransfer) -> str:
    if transfer.trust in {"assumed", "processed"}:
        return f"not to be trusted: {transfer.reason}"
    shared = max(abs(transfer.correlation_y), abs(transfer.correlation_x))
    if shared > CORRELATED:
        return (
            f"doubtful: neighbours share noise ({transfer.correlation_y:.2f} along y, "
            f"{transfer.correlation_x:.2f} along x), and the halves are independent only as far as "
            "the added noise is shared in the same way"
        )
    return ""


def real_rows(path: Path, adaptation_s: float, options: AdaptationOptions, seed: int = 0) -> Rows:
    """Return the figures of all methods for one movie, of the frames that nothing was learned from."""
    movie = tifffile.imread(path)
    if movie.ndim != 3:
        raise ValueError(f"{path}: a movie (t, y, x) is needed, got shape {movie.shape}")
    halves = halves_of(movie, np.random.default_rng([seed, 0]))
    print(f"  {path.name}: {halves.doubt or 'photons split in half'}", flush=True)
    tuned = _tuned(halves)
    scale = _Scale(halves.errors(halves.seen[halves.judged]), halves.errors(tuned[_BEST_CAUSAL]))
    rows: Rows = {"raw": {"gain, dB": 0.0}}
    rows |= {name: scale.figures(halves.errors(estimate)) for name, estimate in tuned.items()}
    rows["adaptive Kalman"] = _answered(halves, scale, _kalman(halves))
    shipped = read_weights(SHIPPED)
    denoiser = _ours(shipped)
    rows["**ours, as shipped**"] = _answered(halves, scale, denoiser)
    sample = _sample(halves, denoiser.transfer)
    adapted, spent_s, rounds = _adapted(sample, shipped, adaptation_s, options, seed)
    rows["**ours, adapted**"] = _answered(halves, scale, _ours(adapted)) | {
        "learning, CPU s": spent_s,
        "proposals": float(rounds),
    }
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class _Scale:
    """What errors are compared with: those of each raw frame, and of the best causal filter."""

    raw: NDArray[np.float64]
    filtered: NDArray[np.float64]

    def figures(self, errors: NDArray[np.float64]) -> dict[str, float]:
        """Return the gain over raw, how sure it is, and how sure that over the best causal filter."""
        error, raw = float(errors.mean()), float(self.raw.mean())
        if not (error > 0 and raw > 0):  # so near to the truth that the reference cannot tell
            return {}
        better = self.filtered - errors
        doubt = _standard_error(better)
        return {
            "gain, dB": float(10 * np.log10(raw / error)),
            "± dB": float(10 / np.log(10) * _standard_error(errors) / error),
            _BETTER: float(better.mean()) / doubt if doubt > 0 else 0.0,
        }


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _tuned(halves: Halves) -> dict[str, Movie]:
    """Return the best of each kind of filter, chosen with the reference it is judged by."""
    window, seen = halves.judged, halves.seen
    sigmas, taus = (0.0, 0.5, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0), (1, 1.5, 2, 3, 4, 6, 10, 20, 40)
    kinds: dict[str, list[Callable[[], Movie]]] = {
        "Gaussian 2-D (oracle)": [partial(gaussian_2d, seen, window, sigma) for sigma in sigmas],
        _BEST_CAUSAL: [
            partial(moving_average_and_gaussian, seen, window, tau, sigma)
            for tau in taus
            for sigma in sigmas[:7]
        ],
        "Gaussian 3-D (oracle), sees the future": [
            partial(gaussian_3d, seen, window, sigma_t, sigma)
            for sigma_t in (1.0, 2.0, 4.0, 8.0)
            for sigma in (0.5, 1.0, 1.5, 2.0)
        ],
    }
    return {name: min((make() for make in tried), key=halves.error) for name, tried in kinds.items()}


def _kalman(halves: Halves) -> AdaptiveKalmanDenoiser:
    return AdaptiveKalmanDenoiser(AdaptiveKalmanDenoiser.Options(read_noise_units=halves.read_photons))


def _ours(weights: Weights) -> CausalUNetDenoiser:
    """Return the denoiser as in a session: it finds out itself what the detector does."""
    return CausalUNetDenoiser(CausalUNetDenoiser.Options(learn=False), weights)


def _answered(halves: Halves, scale: _Scale, denoiser: Denoiser) -> dict[str, float]:
    """Return gain and error bars of a denoiser that gets the frames one by one."""
    answers = [denoiser.step(as_frame(image, index)) for index, image in enumerate(halves.seen)]
    part = halves.judged
    mean = np.array([one.mean for one in answers[part]])
    std = np.array([one.std for one in answers[part]])
    errors = halves.errors(mean)
    error = float(errors.mean())
    # The variance of one pixel is taken from around it: a pixel without photons has noise, too.
    noise = np.array([ndimage.uniform_filter(image, 5) for image in halves.variance[part]])
    within = np.abs(mean - halves.reference[part]) <= 1.96 * np.sqrt(std**2 + noise)
    expected = float((halves.weight[part] * std**2).sum() / halves.weight[part].sum())
    return scale.figures(errors) | {
        "95 % covers held-out, %": 100 * float(within.mean()),
        "std² / error": expected / error if error > 0 else float("nan"),
    }


def _sample(halves: Halves, transfer: PhotonTransfer) -> Sample:
    """Return the first frames as the learning process of a session gets them."""
    frames = transfer.as_photons(halves.seen[: halves.judged.start])
    return Sample([frames], choose_corruption(transfer), transfer.read_noise_photons**2)


def _adapted(
    sample: Sample, weights: Weights, budget_s: float, options: AdaptationOptions, seed: int
) -> tuple[Weights, float, int]:
    """Return the weights after proposals for ``budget_s`` of CPU, the time spent, and their number.

    Each proposal begins with the best weights so far, as in a session; there is at least one.
    """
    best, spent_s, last_s, rounds = weights, 0.0, 0.0, 0
    while rounds == 0 or spent_s + last_s <= budget_s:
        started_s = time.process_time()
        verdict = propose([best], sample, options, seed=[seed, 1, rounds])
        best, rounds = verdict.best, rounds + 1
        last_s = time.process_time() - started_s
        spent_s += last_s
        print(f"    proposal {rounds}: {verdict.reason}", flush=True)
    return best, spent_s, rounds
