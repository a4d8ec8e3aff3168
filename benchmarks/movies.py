"""Simulated movies whose truth is known, for benchmarks of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.core.frame import Frame
from controller.core.settings import Region, ScanSettings

Image = NDArray[np.float64]
PIXEL_M = 20e-9
RATE_HZ = 30


@dataclass(frozen=True, slots=True, eq=False)
class CalciumMovie:
    """A movie without noise, and the cells in it.

    ``expected`` photons have shape ``(t, y, x)``; ``footprints`` the light of each cell, shape
    ``(cells, y, x)``, each adding up to 1; ``spikes`` their sizes, 0 where there is none, shape
    ``(cells, t)``.
    """

    expected: Image
    footprints: Image
    spikes: Image


def as_frame(photons: NDArray[Any], index: int = 0, pixel_size_m: float = PIXEL_M) -> Frame:
    rows, columns = photons.shape
    region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(rows * pixel_size_m, columns * pixel_size_m))
    scan = ScanSettings(
        modality="two_photon", region=region, pixel_size_m=pixel_size_m, dwell_s=1e-6, excitation_w=1e-2
    )
    return Frame(photons, scan, index, index / RATE_HZ)


def calcium_movie(rng: np.random.Generator, size: int = 160, frames: int = 80) -> Image:
    """Return expected photons (t, y, x), mean 1.4, of cells that are hardly brighter than what is around."""
    return calcium_scene(rng, size, frames).expected


def calcium_scene(
    rng: np.random.Generator,
    size: int = 160,
    frames: int = 80,
    *,
    resting: float = 0.5,
    rise: float = 0.8,
    mean_photons: float = 1.4,
) -> CalciumMovie:
    """Make a movie of flashing rings, filaments, neuropil and jitter.

    Parameters
    ----------
    resting, rise
        Brightness of a cell at rest, and what a spike of size 1 adds at its peak; the ground is about 1.
    mean_photons
        Of a pixel, over the movie.
    """
    y, x = np.mgrid[:size, :size].astype(float)
    ground = ndimage.gaussian_filter(rng.random((size, size)), 8)
    ground = 0.7 + 0.6 * (ground - ground.min()) / np.ptp(ground)
    ground += 1.5 * ndimage.gaussian_filter(_filaments(rng, size), 0.8)
    neuropil = ndimage.gaussian_filter1d(rng.normal(0, 1, frames + 40), 6)[20:-20]
    movie = ground * (1 + 0.12 * neuropil / neuropil.std())[:, None, None]
    since = np.arange(60)
    transient = (1 - np.exp(-since / 2)) * np.exp(-since / 14)  # GCaMP6f at 30 Hz
    rings, spikes, activity = [], [], []
    for _ in range((size // 24) ** 2):
        row, column, radius = *(rng.random(2) * size), rng.uniform(5, 8)
        distance = np.hypot(y - row, (x - column) * rng.uniform(0.85, 1.15))
        rings.append(np.exp(-0.5 * ((distance - radius) / 1.6) ** 2) + 0.35 * (distance < radius))
        spikes.append((rng.random(frames) < 0.01) * rng.uniform(1, 3, frames))
        response = np.convolve(spikes[-1], transient / transient.max())[:frames]
        activity.append(resting + rise * response)
    movie += np.tensordot(np.array(activity).T, np.array(rings), 1)
    moved = [ndimage.shift(image, rng.normal(0, 0.2, 2), order=1, mode="nearest") for image in movie]
    truth = np.maximum(ndimage.gaussian_filter(moved, (0, 1, 1)), 0.02)
    footprints = np.array([ring / ring.sum() for ring in rings])
    return CalciumMovie(truth * mean_photons / truth.mean(), footprints, np.array(spikes))


def _filaments(rng: np.random.Generator, size: int) -> Image:
    filaments = np.zeros((size, size))
    for _ in range(size // 16):
        place, angle = rng.random(2) * size, rng.random() * 2 * np.pi
        while np.all((place >= 0) & (place < size)):
            filaments[tuple(place.astype(int))] = 1
            angle += rng.normal(0, 0.12)
            place += np.array([np.sin(angle), np.cos(angle)])
    return filaments
