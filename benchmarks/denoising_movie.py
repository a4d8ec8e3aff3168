"""Denoisers on simulated two-photon movies, whose truth is known.

Filters are tuned with the truth of the very frames they are judged on; networks never see it, but for the
ceiling. All networks are of one size, and learn from the same frames for the same number of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.denoising_baselines import (
    FrameOnlyClip,
    Movie,
    PastOnlyClip,
    WholeFrame,
    bm3d,
    gaussian_2d,
    gaussian_3d,
    has_bm3d,
    moving_average_and_gaussian,
    network_answers,
    non_local_means,
)
from benchmarks.denoising_measures import (
    amplitude_ratio,
    covered_percent,
    lag_frames,
    mean_responses,
    peak_of,
    psnr_db,
    ssim,
    trace_correlation,
    traces_of,
)
from benchmarks.denoising_results import Rows
from benchmarks.movies import CalciumMovie, as_frame, calcium_scene
from controller.core.protocols import Denoiser
from controller.denoising.adaptation import AdaptationOptions, Sample, propose
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.denoising.blind_masks import BlindSpotMask
from controller.denoising.causal_network import ARCHITECTURE, CausalUNet, network_of
from controller.denoising.causal_unet import SHIPPED, CausalUNetDenoiser
from controller.denoising.clips import Clip
from controller.denoising.corruption import PhotonThinning
from controller.denoising.raw import RawDenoiser
from controller.denoising.training import TrainingOptions, fresh_network, train
from controller.denoising.training_pair import Corruption
from controller.networks.modules import tensors_of
from controller.networks.weights import Weights, pack, read_weights

RAW_DB, MEAN_PHOTONS = 15.6, 1.37

#: Frames before the judged ones whose error is measured, so that the error bars have settled.
_SETTLING = 60

_AS_IN_A_SESSION = AdaptationOptions()


#: As many more as fit into a minute of one processor.
_MORE_PROPOSALS = 3


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of everything. ``learned`` frames are learned from, ``judged`` ones after them judge.

    A few more come after, for filters that look ahead.
    """

    size_px: int = 192
    learned: int = 300
    judged: int = 100
    after: int = 12
    steps: int = 1200
    adaptation: AdaptationOptions = _AS_IN_A_SESSION
    bm3d_frames: int = 2
    nlm_frames: int = 10

    @property
    def window(self) -> slice:
        return slice(self.learned, self.learned + self.judged)

    def some(self, count: int) -> NDArray[np.int64]:
        """Return frames spread evenly over the judged ones."""
        last = self.learned + self.judged - 1
        return np.linspace(self.learned, last, min(count, self.judged)).round().astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A movie, its noisy photons, and what counts as its brightest value."""

    movie: CalciumMovie
    noisy: NDArray[np.float32]
    peak: float


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What a method makes of ``frames`` of a field; ``std`` where it gives one."""

    mean: NDArray[Any]
    frames: NDArray[np.int64] | None = None
    std: NDArray[Any] | None = None


Method = Callable[[Field], Estimate]


def field_of(seed: int, extent: Extent) -> Field:
    """Return a movie whose raw frames have the PSNR of the reference, by the brightness of its cells."""
    frames, rise = extent.window.stop + extent.after, 1.2
    for _ in range(6):
        movie = calcium_scene(
            np.random.default_rng(seed),
            extent.size_px,
            frames,
            resting=0.7,
            rise=rise,
            mean_photons=MEAN_PHOTONS,
        )
        truth = movie.expected[extent.window]
        peak = peak_of(truth)
        missing_db = RAW_DB - 10 * np.log10(peak**2 / truth.mean())  # of Poisson noise the mean is the error
        if abs(missing_db) < 0.1:
            break
        rise *= 10 ** (missing_db / 15)
    noisy = np.random.default_rng([seed, 1]).poisson(movie.expected).astype(np.float32)
    return Field(movie, noisy, peak)


def movie_rows(seed: int, same: Field, new: Field, extent: Extent) -> Rows:
    """Return the figures of all methods; the networks learn from the first frames of ``same``."""
    rows: Rows = {}
    for name, method, learned_s in methods(seed, same, extent):
        rows[name] = figures([same, new], method, extent)
        if learned_s:
            rows[name]["learning, CPU s"] = learned_s
        print(f"  seed {seed}, {name}: {rows[name]['same field, dB']:.2f} dB", flush=True)
    return rows


def figures(fields: list[Field], method: Method, extent: Extent) -> dict[str, float]:
    """Return how near the estimates of the same and of the new field are to the truth."""
    found = [method(field) for field in fields]
    judged = [field.movie.expected[extent.window] for field in fields]
    some = [
        truth if one.frames is None else truth[one.frames - extent.learned]
        for truth, one in zip(judged, found, strict=True)
    ]
    values = {}
    for name, field, one, truth in zip(("same", "new"), fields, found, some, strict=True):
        values[f"{name} field, dB"] = psnr_db(one.mean, truth, field.peak)
        if one.std is not None:
            values[f"95 % covers, {name}"] = covered_percent(one.mean, one.std, truth)
            expected, error = float(np.mean(one.std**2)), float(np.mean((one.mean - truth) ** 2))
            values[f"std² / error, {name}"] = expected / error
    values["SSIM"] = ssim(found[0].mean, some[0], fields[0].peak)
    if any(one.frames is not None for one in found):
        return values
    traces, true = [], []
    for field, one, truth in zip(fields, found, judged, strict=True):
        traces.append(traces_of(one.mean, field.movie.footprints))
        true.append(traces_of(truth, field.movie.footprints))
    spikes = [field.movie.spikes[:, extent.window] for field in fields]
    responses = mean_responses(traces, true, spikes)
    values["lag, frames"], values["amplitude"] = lag_frames(*responses), amplitude_ratio(*responses)
    values["traces"] = trace_correlation(traces[0], true[0])
    return values


def methods(seed: int, same: Field, extent: Extent) -> Iterator[tuple[str, Method, float]]:
    """Yield names, methods, and how long each learned, in seconds of CPU."""
    yield "raw", lambda field: streamed(RawDenoiser(), field, extent), 0
    for name, method in filters(extent):
        yield name, method, 0
    for name, clip_type, corruption in (
        ("N2V, 2-D", FrameOnlyClip, BlindSpotMask()),
        ("frame only, thinned", FrameOnlyClip, PhotonThinning()),
        ("past only (causal DeepInterpolation)", PastOnlyClip, WholeFrame()),
    ):
        network, learned_s = learned(seed, same, clip_type, corruption, extent)
        yield name, _by_network(network, clip_type, extent), learned_s
    yield "adaptive Kalman", lambda field: streamed(AdaptiveKalmanDenoiser(), field, extent), 0
    shipped = read_weights(SHIPPED)
    yield "**ours, as shipped**", _by_weights(shipped, extent), 0
    adapted, adapted_s = adapted_weights([seed, 3], same, shipped, extent)
    yield "**ours, adapted once**", _by_weights(adapted, extent), adapted_s
    for proposal in range(_MORE_PROPOSALS):
        adapted, more_s = adapted_weights([seed, 3, proposal], same, adapted, extent)
        adapted_s += more_s
    yield f"**ours, adapted {1 + _MORE_PROPOSALS} times**", _by_weights(adapted, extent), adapted_s
    for name, has_truth in (("ours, from scratch", False), ("ceiling: the same, taught the truth", True)):
        network, learned_s = learned(seed, same, Clip, PhotonThinning(), extent, has_truth=has_truth)
        yield name, _by_weights(packed(network), extent), learned_s


def filters(extent: Extent) -> Iterator[tuple[str, Method]]:
    """Yield the methods that learn nothing, each the best of its settings for the frames it is judged on."""
    window = extent.window
    yield (
        "Gaussian 2-D (oracle)",
        _best([partial(gaussian_2d, window=window, sigma=s) for s in (1.25, 1.5, 1.75, 2.0, 2.5)], extent),
    )
    averages = [
        partial(moving_average_and_gaussian, window=window, tau=tau, sigma=sigma)
        for tau in (3, 4, 6, 9)
        for sigma in (0.7, 1.0, 1.3, 1.6)
    ]
    yield "moving average + Gaussian (oracle)", _best(averages, extent)
    one = partial(moving_average_and_gaussian, window=window, tau=6, sigma=1.0)
    yield "moving average 6 + Gaussian 1", _best([one], extent)
    in_time = [
        partial(gaussian_3d, window=window, sigma_t=sigma_t, sigma=sigma)
        for sigma_t in (1.5, 2, 3, 4)
        for sigma in (0.8, 1.0, 1.3)
    ]
    yield "Gaussian 3-D (oracle), sees the future", _best(in_time, extent)
    few = extent.some(extent.nlm_frames)
    strengths = [partial(non_local_means, strength=h) for h in (0.6, 0.8, 1.0, 1.3)]
    yield f"non-local means (oracle), {len(few)} frames", _best(strengths, extent, few)
    if has_bm3d():
        fewer = extent.some(extent.bm3d_frames)
        yield f"BM3D, {len(fewer)} frames", _best([bm3d], extent, fewer)


def _best(
    settings: Sequence[Callable[[Movie], Movie]], extent: Extent, frames: NDArray[np.int64] | None = None
) -> Method:
    """Return the method that tries all settings and takes the one nearest to the truth.

    With ``frames``, the settings get these alone.
    """

    def method(field: Field) -> Estimate:
        truth = field.movie.expected[extent.window if frames is None else frames]
        noisy = field.noisy if frames is None else field.noisy[frames]
        tried = [setting(noisy) for setting in settings]
        return Estimate(min(tried, key=lambda mean: float(np.mean((mean - truth) ** 2))), frames)

    return method


def streamed(denoiser: Denoiser, field: Field, extent: Extent) -> Estimate:
    """Return what a denoiser answers that gets the frames one by one."""
    answers = []
    for index in range(extent.window.stop):
        frame = as_frame(field.noisy[index], index)
        if index < extent.learned - _SETTLING:
            denoiser.observe(frame)
        else:
            answers.append(denoiser.step(frame))
    judged = answers[-extent.judged :]
    return Estimate(np.array([one.mean for one in judged]), None, np.array([one.std for one in judged]))


def _by_weights(weights: Weights, extent: Extent) -> Method:
    def method(field: Field) -> Estimate:
        options = CausalUNetDenoiser.Options(learn=False)
        return streamed(CausalUNetDenoiser(options, weights), field, extent)

    return method


def _by_network(network: CausalUNet, clip_type: type[Clip], extent: Extent) -> Method:
    def method(field: Field) -> Estimate:
        stop = extent.window.stop
        truth = field.movie.expected[:stop].astype(np.float32)
        taus = network.options.taus_frames
        clip = clip_type(field.noisy[:stop], taus, PhotonThinning(), truth=truth)
        return Estimate(network_answers(network, clip, range(stop)[extent.window]))

    return method


def learned(
    seed: int,
    field: Field,
    clip_type: type[Clip],
    corruption: Corruption,
    extent: Extent,
    *,
    has_truth: bool = False,
) -> tuple[CausalUNet, float]:
    """Train a fresh network on the first frames of a field; also return the seconds of CPU it took."""
    started_s = time.process_time()
    rng = np.random.default_rng([seed, 2])
    options = network_of(read_weights(SHIPPED)).options
    network = fresh_network(options, rng)
    truth = field.movie.expected[: extent.learned].astype(np.float32) if has_truth else None
    clip = clip_type(field.noisy[: extent.learned], options.taus_frames, corruption, truth=truth)
    train(network, [clip], TrainingOptions(steps=extent.steps), rng)
    return network, time.process_time() - started_s


def adapted_weights(seed: list[int], field: Field, weights: Weights, extent: Extent) -> tuple[Weights, float]:
    """Return the better weights that a session would come to use; the same if none are better."""
    started_s = time.process_time()
    sample = Sample([field.noisy[: extent.learned]], PhotonThinning())
    verdict = propose([weights], sample, extent.adaptation, seed=seed)
    return verdict.best, time.process_time() - started_s


def packed(network: CausalUNet) -> Weights:
    """Return a network as weights, so that it runs like those of a session."""
    return pack(
        tensors_of(network),
        architecture=ARCHITECTURE,
        options=network.options.model_dump(mode="json"),
        trained_on=("a simulated movie",),
        training={},
        metrics={},
        licence="CC0-1.0",
        versions={},
    )
