"""Trains the causal denoiser on movies of one's own, and tells whether it is better than what was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.core.frame import FloatImage, Frame
from controller.denoising.adaptation import AdaptationOptions, Sample, held_out_errors, propose, split
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.denoising.causal_network import CausalUNet, network_of
from controller.denoising.clips import Clip, Example
from controller.denoising.corruption import PhotonThinning, Recorruption, choose_corruption
from controller.denoising.photon_transfer import PhotonTransfer, find_photon_transfer
from controller.networks.weights import Weights
from controller.training.denoised_movie import detector_in_words, first_frames, scan_of
from controller.training.movie_files import MovieFile

#: Pieces of movies are squares of at most so many pixels and windows of at most so many frames.
_SIDE_PX, _WINDOW_FRAMES = 160, 160
#: All pieces together hold no more pixels than this; with their averages in float32 that is 240 MB.
_PIXELS_MAX = 12_000_000
_SMALLEST_PX = 8

#: Squared errors on held-out photons of each judged frame, and what of them is the photons' own noise.
Errors = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Detector:
    """What a photon is in the units of the movies, if that is known."""

    units_per_photon: float
    offset_units: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What one movie gives to learn from, and how its noise was taken apart, in words."""

    sample: Sample
    detector: str
    scheme: str

    @property
    def is_noise_known(self) -> bool:
        """Tell whether the noise of what judges is known, and can be taken off."""
        return isinstance(self.sample.corruption, PhotonThinning | Recorruption)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What came of a training.

    Attributes
    ----------
    weights
        The new ones, better or not.
    gains_db
        How far the error on held-out photons lies below that of the frames themselves, on average over the
        movies: of ``before``, ``after`` and ``adaptive_kalman``.
    is_better, is_better_than_kalman
        Whether the new weights beat what was there by more than chance would.
    frame, before, after
        The last frame of a piece in photons, and what the old and the new weights make of it.
    """

    weights: Weights
    gains_db: dict[str, float]
    is_better: bool
    is_better_than_kalman: bool
    frame: FloatImage
    before: FloatImage
    after: FloatImage


def material_of(
    movie: MovieFile, rng: np.random.Generator, pixels: int, detector: Detector | None = None
) -> Material:
    """Cut pieces of a movie, at most ``pixels`` in all, and find out how to take its noise apart.

    Raises
    ------
    ConfigurationError
        If its frames are too small, or cannot be read.
    """
    if min(movie.shape[1:]) < _SMALLEST_PX:
        raise ConfigurationError(
            f"{movie.path}: frames of {movie.shape[1]} x {movie.shape[2]} pixels; to learn from, "
            f"{_SMALLEST_PX} x {_SMALLEST_PX} are needed"
        )
    transfer, told = _transfer(movie, detector)
    pieces = [transfer.as_photons(piece) for piece in _pieces(movie, rng, pixels)]
    if transfer.trust == "counts" and not all(_are_whole(piece) for piece in pieces):
        transfer = replace(transfer, trust="line")
    corruption = choose_corruption(transfer)
    count = sum(len(piece) for piece in pieces)
    source = f"{movie.path.name}, {count} frames of {pieces[0].shape[1]} x {pieces[0].shape[2]} pixels"
    sample = Sample(pieces, corruption, transfer.read_noise_photons**2, (source,))
    return Material(sample, told, corruption.reason)


def materials_of(movies: Sequence[MovieFile], seed: int, detector: Detector | None = None) -> list[Material]:
    """Return what each movie gives to learn from; together they fit into a gigabyte."""
    return [
        material_of(movie, np.random.default_rng([seed, number]), _PIXELS_MAX // len(movies), detector)
        for number, movie in enumerate(movies)
    ]


def try_denoiser(
    materials: Sequence[Material],
    parent: Weights,
    options: AdaptationOptions,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> Trial:
    """Train ``parent`` further, and compare on the last frames of each piece, which nobody learned from.

    Raises
    ------
    ConfigurationError
        If there is nothing to judge by.
    """
    samples = [material.sample for material in materials]
    verdict = propose([parent], samples, options, seed=[seed], progress=progress)
    if verdict.learned is None:
        raise ConfigurationError(f"nothing is learned from these movies: {verdict.reason}")
    old, new = network_of(parent), network_of(verdict.learned)
    clips = [clip for sample in samples for clip in sample.clips(old.options.taus_frames)]
    movie_of = {id(clip): n for n, clip in zip(_owners(samples), clips, strict=True)}
    _, judged = split(clips, options.held_out)
    owners = np.array([movie_of[id(clip)] for clip, _ in judged])
    errors: dict[str, Errors] = {
        "before": held_out_errors(old, judged, np.random.default_rng([seed, 1])),
        "after": held_out_errors(new, judged, np.random.default_rng([seed, 1])),
        **_classical_errors(judged, np.random.default_rng([seed, 1])),
    }
    gains = {
        name: _gain_db(errors["raw"], errors[name], owners) for name in ("before", "after", "adaptive_kalman")
    }
    metrics = {f"held_out_gain_{name}_db": gain for name, gain in gains.items()}
    card = verdict.learned.card.replace(metrics=metrics)
    clip = clips[0]
    return Trial(
        Weights(verdict.learned.data, card),
        gains,
        _is_better(errors["after"], errors["before"], owners, options.standard_errors),
        _is_better(errors["after"], errors["adaptive_kalman"], owners, options.standard_errors),
        clip.photons[-1],
        _denoised(old, clip),
        _denoised(new, clip),
    )


def _transfer(movie: MovieFile, detector: Detector | None) -> tuple[PhotonTransfer, str]:
    """Return what is known of the detector, and that in words."""
    if detector is not None:
        gain, offset = detector.units_per_photon, detector.offset_units
        found = find_photon_transfer((first_frames(movie) - offset) / gain).transfer
        # Whether photons are counted and whether neighbours share noise is seen in the frames all the same.
        trust = "counts" if found is not None and found.trust == "counts" else "line"
        shared = (found.correlation_y, found.correlation_x) if found is not None else (0.0, 0.0)
        reach = (found.reach_y, found.reach_x) if found is not None else (0, 0)
        given = PhotonTransfer(gain, offset, 0.0, *shared, None, trust, *reach, "given")  # type: ignore[arg-type]
        return given, detector_in_words(gain, "given")
    finding = find_photon_transfer(first_frames(movie))
    if finding.transfer is None:
        assumed = PhotonTransfer(1.0, 0.0, 0.0, 0.0, 0.0, None, "assumed", reason=finding.reason)
        return assumed, f"the size of a photon is unknown ({finding.reason})"
    return finding.transfer, detector_in_words(finding.transfer.units_per_photon, finding.reason)


def _pieces(movie: MovieFile, rng: np.random.Generator, pixels: int) -> list[NDArray[np.generic]]:
    """Return parts of the movie from all over the field and the time, in a random order."""
    lengths = [
        min(size, most) for size, most in zip(movie.shape, (_WINDOW_FRAMES, _SIDE_PX, _SIDE_PX), strict=True)
    ]
    starts = [
        np.linspace(0, size - length, -(-size // length)).round().astype(int)
        for size, length in zip(movie.shape, lengths, strict=True)
    ]
    places = [(int(t), int(y), int(x)) for t in starts[0] for y in starts[1] for x in starts[2]]
    count = max(1, min(len(places), pixels // int(np.prod(lengths))))
    chosen = rng.permutation(len(places))[:count]
    return [
        movie.piece(*(slice(start, start + length) for start, length in zip(places[n], lengths, strict=True)))
        for n in chosen
    ]


def _are_whole(photons: NDArray[np.float32]) -> bool:
    return bool((np.abs(photons - np.rint(photons)) < 1e-3).all() and (photons > -0.5).all())


def _classical_errors(judged: Sequence[tuple[Clip, int]], rng: np.random.Generator) -> dict[str, Errors]:
    """Return the errors of the frames themselves and of the adaptive Kalman filter, on the same photons."""
    raw: list[tuple[float, float]] = []
    filtered: list[tuple[float, float]] = []
    kalman, clip_of_past, seen = AdaptiveKalmanDenoiser(), None, 0
    for clip, index in judged:
        rows, columns = (length // 4 * 4 for length in clip.photons.shape[1:])
        inside = (slice(rows), slice(columns))
        example = clip.example(index, inside, rng)
        if clip is not clip_of_past:
            kalman, clip_of_past, seen = AdaptiveKalmanDenoiser(), clip, 0
        scan = scan_of((rows, columns), 1e-6)
        while seen < index:
            kalman.observe(Frame(clip.photons[seen][inside], scan, seen, 0.0))
            seen += 1
        # A part of the photons is a frame of less light, as far as the filter is concerned.
        light = 1 / example.source_noise
        source = example.images[0] * np.float32(example.scale)
        dimmer = scan.replace(dwell_s=scan.dwell_s * light)
        answer = deepcopy(kalman).step(Frame(source * np.float32(light), dimmer, index, 0.0))
        raw.append(_error(source, example))
        filtered.append(_error(answer.mean / np.float32(light), example))
    return {"raw": _as_errors(raw), "adaptive_kalman": _as_errors(filtered)}


def _error(photons: FloatImage, example: Example) -> tuple[float, float]:
    """Return the mean squared difference to held-out photons, and their own noise, as the network's are."""
    count = max(float(example.weight.sum()), 1e-9)
    difference = photons / np.float32(example.scale) - example.target
    error = float((example.weight * difference**2).sum()) / count
    return error, float((example.weight * example.target_variance).sum()) / count


def _as_errors(found: list[tuple[float, float]]) -> Errors:
    errors, noise = np.array(found, np.float64).T
    return errors, noise


def _owners(samples: Sequence[Sample]) -> list[int]:
    """Return the number of the movie that each clip is of."""
    return [number for number, sample in enumerate(samples) for _ in sample.movies]


def _gain_db(raw: Errors, other: Errors, owners: NDArray[np.int64]) -> float:
    """Return the mean gain of the movies in dB."""
    gains = []
    for owner in np.unique(owners):
        mine = owners == owner
        before, after = (float((error - noise)[mine].mean()) for error, noise in (raw, other))
        smallest = 1e-3 * float(raw[0][mine].mean())
        gains.append(10 * np.log10(max(before, smallest) / max(after, smallest)))
    return float(np.mean(gains))


def _is_better(new: Errors, old: Errors, owners: NDArray[np.int64], standard_errors: float) -> bool:
    """Tell whether errors are smaller than others by more than chance; each movie has the same say."""
    usual = np.array([old[0][owners == owner].mean() for owner in owners])
    difference = (old[0] - new[0]) / np.maximum(usual, 1e-12)
    doubt = float(difference.std() / np.sqrt(max(len(difference) - 1, 1)))
    return float(difference.mean()) > standard_errors * doubt


def _denoised(network: CausalUNet, clip: Clip) -> FloatImage:
    """Return what a network makes of the last frame of a clip, in photons."""
    rows, columns = (length // 4 * 4 for length in clip.photons.shape[1:])
    shown = clip.whole(len(clip) - 1, (slice(rows), slice(columns)))
    with torch.inference_mode():
        answer = network(torch.from_numpy(shown.images)[None], torch.from_numpy(shown.conditions)[None])
    photons: FloatImage = np.maximum(answer[0, 0].numpy(), 0) * np.float32(shown.scale)
    return photons
