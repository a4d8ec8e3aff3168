"""Simulated images with the truth about every object: what the shipped segmenters learn from.

Spots and compact cells are drawn as they look after a microscope's blur, in expected photons; noise comes
later, so one sample can be seen at any photon level. Sizes are in pixels: a network is told the size of
its objects when it is used, and images are resampled to the size that it was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]

#: Full width at half maximum of a spot, diameter of a cell: what training is centred on.
SPOT_PX, CELL_PX = 3.06, 16.0


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Expected photons ``(y, x)``, labels of the objects (0 = none), and their centres ``(n, 2)``."""

    expected: Image
    labels: NDArray[np.int32]
    centers_yx_px: Image


def spots(rng: np.random.Generator, size: int = 128, photons: float | None = None) -> Sample:
    """Draw small spots on uneven ground; ``photons`` is the mean peak above it, by default 0.7..50."""
    peak = float(np.exp(rng.uniform(np.log(0.7), np.log(50)))) if photons is None else photons
    ground = float(np.exp(rng.uniform(np.log(0.03), np.log(3)))) * np.sqrt(peak / 4)
    count = int(rng.poisson(np.exp(rng.uniform(np.log(3), np.log(250))) * (size / 256) ** 2))
    sigma = SPOT_PX / 2.355 * np.exp(rng.uniform(-0.3, 0.3))
    spread = rng.choice([0.0, 0.2, 0.4])
    places = rng.uniform(-2, size + 2, (count, 2))
    if rng.random() < 0.3 and count > 1:  # some in pairs and clusters
        followers = rng.random(count) < 0.3
        places[followers] = places[rng.integers(0, count, followers.sum())] + rng.normal(
            0, 3 * sigma, (followers.sum(), 2)
        )
    image = np.full((size, size), ground)
    if rng.random() < 0.6:
        image *= np.exp(rng.uniform(0, 0.8) * _field(rng, size, rng.uniform(8, 30)))
    if rng.random() < 0.3:
        image += rng.uniform(0, 0.5) * peak * _threads(rng, size, sigma)
    y, x = np.mgrid[:size, :size].astype(float)
    nearest = np.full((size, size), np.inf)
    labels = np.zeros((size, size), np.int32)
    for number, (row, column) in enumerate(places, 1):
        own = sigma * np.exp(rng.normal(0, 0.5 * spread * 0.3))
        square = (y - row) ** 2 + (x - column) ** 2
        image += peak * np.exp(rng.normal(0, spread)) * np.exp(-0.5 * square / own**2)
        mine = (square <= (1.5 * own) ** 2) & (square < nearest)
        nearest[mine], labels[mine] = square[mine], number
    return Sample(image, labels, places)


def cells(rng: np.random.Generator, size: int = 128, photons: float | None = None) -> Sample:
    """Draw compact cells, many touching; ``photons`` is their mean brightness, by default 0.3..100."""
    bright = float(np.exp(rng.uniform(np.log(0.3), np.log(100)))) if photons is None else photons
    ground = bright * float(np.exp(rng.uniform(np.log(0.02), np.log(0.4))))
    typical = CELL_PX * np.exp(rng.uniform(-0.3, 0.3))
    cover = rng.uniform(0.02, 0.6)
    wanted = rng.poisson(cover * size**2 / (np.pi * typical**2 / 4))
    clusters = rng.uniform(0, size, (max(1, wanted // 6), 2)) if rng.random() < 0.5 else None
    y, x = np.mgrid[:size, :size].astype(float)
    depth = np.zeros((size, size))
    labels = np.zeros((size, size), np.int32)
    level = np.zeros((size, size))
    is_ring = rng.random() < 0.15
    spread = rng.choice([0.1, 0.3, 0.6])
    for number in range(1, wanted + 1):
        place = rng.uniform(-4, size + 4, 2)
        if clusters is not None and rng.random() < 0.8:
            place = clusters[rng.integers(len(clusters))] + rng.normal(0, 1.2 * typical, 2)
        inside = _outline(rng, y - place[0], x - place[1], typical * np.exp(rng.normal(0, 0.18)))
        # Cells press against each other: a shared pixel belongs to whose border is farther.
        mine = inside > np.maximum(depth, 0)
        if np.count_nonzero(mine) < 0.55 * np.count_nonzero(inside > 0):
            continue
        depth[mine], labels[mine] = inside[mine], number
        profile = np.minimum(1.0, 0.75 + 0.8 * inside)
        if is_ring:
            profile = np.where(inside > 0.55, rng.uniform(0.3, 0.6), 1.0)
        level[mine] = (bright * np.exp(rng.normal(0, spread)) * profile)[mine]
    level *= np.exp(rng.uniform(0, 0.35) * _field(rng, size, rng.uniform(1, 4)))
    haze = rng.uniform(0, 0.3) * ndimage.gaussian_filter(level, typical / 1.5)
    uneven = ground * np.exp(rng.uniform(0, 0.5) * _field(rng, size, rng.uniform(15, 40)))
    image = ndimage.gaussian_filter(level, rng.uniform(0.6, 1.6)) + haze + uneven
    numbers, dense = np.unique(labels, return_inverse=True)
    labels = dense.reshape(labels.shape).astype(np.int32)
    centers = np.array(ndimage.center_of_mass(labels > 0, labels, np.arange(1, len(numbers))))
    return Sample(np.maximum(image, 1e-3), labels, centers.reshape(-1, 2))


def _field(rng: np.random.Generator, size: int, scale: float) -> Image:
    """Return smooth chance of mean 0 and standard deviation 1; no smoother than the image is large."""
    field = ndimage.gaussian_filter(rng.normal(size=(size, size)), min(scale, size / 4), mode="wrap")
    return np.asarray((field - field.mean()) / field.std())


def _threads(rng: np.random.Generator, size: int, sigma: float) -> Image:
    """Return filaments of peak 1: what a spot detector should not break into spots."""
    image = np.zeros((size, size))
    for _ in range(rng.integers(1, 5)):
        place, angle = rng.random(2) * size, rng.random() * 2 * np.pi
        while np.all((place >= 0) & (place < size)):
            image[tuple(place.astype(int))] = 1
            angle += rng.normal(0, 0.1)
            place = place + np.array([np.sin(angle), np.cos(angle)])
    return np.asarray(ndimage.gaussian_filter(image, sigma) * np.sqrt(2 * np.pi) * sigma)


def _outline(rng: np.random.Generator, y: Image, x: Image, diameter: float) -> Image:
    """Return how deep a pixel lies in a rounded cell: 1 in its middle, 0 at its border, negative outside."""
    angle = np.arctan2(y, x)
    turn, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(0, 0.45))
    along, across = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    radius = diameter / 2 * np.ones_like(y)
    for order in (2, 3, 4):
        radius *= 1 + rng.normal(0, 0.12 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(1 - np.hypot(along / stretch**0.5, across * stretch**0.5) / radius)
