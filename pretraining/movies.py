"""Simulated movies to learn denoising from: two-photon calcium imaging, and STED and confocal time-lapses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.core.frame import FloatImage
from simulator.datasets import STEDDataset, STEDDatasetOptions
from simulator.two_photon.datasets import TwoPhotonDataset, TwoPhotonDatasetOptions

#: Movies of the simulators are no one's, and neither are these.
LICENCE = "CC0-1.0"

_SPECIMENS = ("synapses", "filaments", "microtubules", "vesicles", "beads", "neurons")
_MEAN_PHOTONS = (0.1, 20.0)


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedMovie:
    """What a detector would show, and what it would show without noise; in photons, ``(t, y, x)``."""

    name: str
    photons: NDArray[np.float32]
    expected: NDArray[np.float32]
    read_variance: float


def movies(count: int, *, seed: int, side_px: int, frames: int) -> Iterator[SimulatedMovie]:
    """Yield movies, of the brain and of STED samples in turn; each its own sample and light."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        if number % 2 == 0:
            name, expected = _brain(rng, side_px, frames)
        else:
            name, expected = _time_lapse(rng, side_px, frames)
        yield _with_noise(name, expected, rng)


def _brain(rng: np.random.Generator, side_px: int, frames: int) -> tuple[str, NDArray[np.float32]]:
    options = TwoPhotonDatasetOptions(
        frames=frames,
        size_px=side_px,
        pixel_size_m=float(rng.choice([0.5e-6, 1e-6, 1.5e-6, 2e-6])),
        focus_m=float(rng.choice([110e-6, 150e-6, 190e-6])),
    )
    item = TwoPhotonDataset(options, int(rng.integers(2**62))).item(0)
    return f"two-photon, {options.pixel_size_m * 1e6:g} µm pixels", item.images["expected"]


def _time_lapse(rng: np.random.Generator, side_px: int, frames: int) -> tuple[str, NDArray[np.float32]]:
    """Return a STED or confocal sample that drifts and bleaches, with a part of it that moves."""
    margin = 24
    specimen, moving = rng.choice(_SPECIMENS), rng.choice(_SPECIMENS)
    sted_w = float(rng.choice([0.0, 30e-3, 150e-3]))
    still, other = (
        _sample(str(name), sted_w, side_px + 2 * margin, int(rng.integers(2**62)))
        for name in (specimen, moving)
    )
    share = float(rng.choice([0.0, 0.3, 0.6, 1.0]))
    drift = np.cumsum(rng.normal(0, rng.choice([0.02, 0.1, 0.3]), (frames, 2)), axis=0)
    flow = drift + rng.normal(0, 0.7, 2) * np.arange(frames)[:, None]
    kept = np.exp(-np.arange(frames) / frames * rng.uniform(0, 1))
    crop = slice(margin, margin + side_px)
    movie = [
        ((1 - share) * _moved(still, d) + share * _moved(other, f))[crop, crop] * k
        for d, f, k in zip(np.clip(drift, -margin, margin), flow, kept, strict=True)
    ]
    return f"{'STED' if sted_w else 'confocal'}, {specimen}", np.asarray(movie, np.float32)


def _sample(specimen: str, sted_w: float, side_px: int, seed: int) -> FloatImage:
    options = STEDDatasetOptions(specimens=(specimen,), size_px=side_px, sted_w=sted_w)  # type: ignore[arg-type]
    image = STEDDataset(options, seed).item(0).images["expected"]
    return np.asarray(image / max(float(image.mean()), 1e-6), np.float32)


def _moved(image: FloatImage, shift: NDArray[np.float64]) -> FloatImage:
    moved: FloatImage = ndimage.shift(image, shift, order=1, mode="grid-wrap")
    return moved


def _with_noise(name: str, expected: NDArray[np.float32], rng: np.random.Generator) -> SimulatedMovie:
    """Light a movie at random, and count it with a photon counter or a detector that adds noise."""
    low, high = np.log(_MEAN_PHOTONS)
    mean = float(np.exp(rng.uniform(low, high)))
    ground = mean * float(rng.choice([0.02, 0.1, 0.3]))
    expected = np.asarray(expected * (mean / max(float(expected.mean()), 1e-6)) + ground, np.float32)
    photons = rng.poisson(expected).astype(np.float32)
    read_variance = 0.0
    if rng.random() < 0.3:
        read_variance = float(mean * rng.uniform(0.1, 1.0))
        photons += rng.normal(0, np.sqrt(read_variance), photons.shape).astype(np.float32)
    return SimulatedMovie(f"{name}, {mean:.2g} photons a pixel", photons, expected, read_variance)
