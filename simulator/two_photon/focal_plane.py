"""One plane of the brain as the focus sees it: what belongs to which neuron, and what lies between.

The map has square pixels of 0.5 µm and is centred on (0, 0). A value is the part of the focal spot that
is filled with dye, at the concentration of an average cell. The spot is a Gaussian in each direction, so
what is thin against it (dendrites) is drawn as its volume under that Gaussian, and what is not (cell
bodies, vessels) is cut into slices along the axis and weighted by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.two_photon.neurons import Points, Tissue, TissueOptions
from simulator.two_photon.optics import TwoPhotonOptics

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

MAP_PIXEL_M = 0.5e-6
#: Map beyond the sample: motion of the brain brings it into view. A whole number of map pixels.
MARGIN_M = 16e-6
#: Neuropil is drawn in slabs of this thickness, and blended where the focus lies between them.
_SLAB_M = 4e-6
_SLICES = 13
_SLICE_REACH = 2.2
#: Less than this of the spot filled is left out.
_FAINT = 0.01
#: Part of the neuropil that is seen through a cell body: the spot of a real objective has longer tails
#: along the axis than a Gaussian. Chosen by eye.
_SEEN_THROUGH = 0.1
#: Absorption by whole blood (NAOMi: .00674 ln 10 per µm), of light in and light out.
_BLOOD_PER_M = 2 * 0.00674e6 * float(np.log(10))


@dataclass(frozen=True, slots=True, eq=False)
class FocalPlane:
    """Footprints in one plane.

    Attributes
    ----------
    depth_m
        Of the plane, below the surface.
    pixels, neurons, values
        The footprints of neurons, sorted by map pixel (``row * width + column``): which pixel, which
        neuron, how much of it; shape ``(n,)``.
    neuropil
        What belongs to nobody in particular, shape ``(y, x)``, float32.
    labels
        Which cell body fills a map pixel, nucleus included: 0 none, else the neuron's number plus 1.
    """

    depth_m: float
    pixels: NDArray[np.int32]
    neurons: NDArray[np.int32]
    values: Floats
    neuropil: Floats
    labels: Labels


class PlaneMaker:
    """Draws planes of a tissue under a sample of ``size_yx_m`` metres."""

    def __init__(
        self,
        tissue: Tissue,
        options: TissueOptions,
        optics: TwoPhotonOptics,
        size_yx_m: tuple[float, float],
        seed: Sequence[int],
    ) -> None:
        self._tissue, self._options, self._optics = tissue, options, optics
        self._seed = list(seed)
        self.shape_yx = (map_pixels(size_yx_m[0]), map_pixels(size_yx_m[1]))
        self._offsets_m = np.linspace(-_SLICE_REACH, _SLICE_REACH, _SLICES) * optics.axial_sigma_m
        weights = np.exp(-0.5 * (self._offsets_m / optics.axial_sigma_m) ** 2)
        self._weights = weights / weights.sum()

    def draw(self, depth_m: float) -> FocalPlane:
        """Return the plane at a depth; it takes about a second."""
        bodies, filled, labels = self._bodies(depth_m)
        room = np.maximum(1 - (1 - _SEEN_THROUGH) * filled, 0)
        crossing = self._dendrites(depth_m)
        crossing = (*crossing[:2], crossing[2] * room.ravel()[crossing[0]])
        pixels, neurons, values = (np.concatenate(part) for part in zip(bodies, crossing, strict=True))
        light = self._light(depth_m)
        neuropil = self._neuropil(depth_m) * room * light
        values = values * light.ravel()[pixels]
        return FocalPlane(depth_m, *self._summed(pixels, neurons, values), neuropil, labels)

    def _summed(
        self, pixels: NDArray[np.intp], neurons: NDArray[np.intp], values: Points
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
        """Add up what a neuron has in a pixel, and leave out what is faint."""
        order = np.argsort(pixels * self._tissue.neurons + neurons, kind="stable")
        pixels, neurons, values = pixels[order], neurons[order], values[order]
        if len(values):
            starts = np.flatnonzero(
                np.concatenate([[True], (np.diff(pixels) != 0) | (np.diff(neurons) != 0)])
            )
            pixels, neurons = pixels[starts], neurons[starts]
            values = np.add.reduceat(values, starts)
        seen = values > _FAINT
        return pixels[seen].astype(np.int32), neurons[seen].astype(np.int32), values[seen].astype(np.float32)

    def _bodies(
        self, depth_m: float
    ) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp], Points], Floats, Labels]:
        """Return the footprints of cell bodies, how much of the spot they fill, and the label image."""
        tissue, reach_m = self._tissue, self._offsets_m[-1]
        filled = np.zeros(self.shape_yx, np.float32)
        labels = np.zeros(self.shape_yx, np.int32)
        pixels, neurons, values = [np.empty(0, np.intp)], [np.empty(0, np.intp)], [np.empty(0)]
        height_m = abs(tissue.somata_m[:, 0] - depth_m)
        for neuron in np.flatnonzero(height_m < tissue.radius_m + reach_m):
            corner, cell, nucleus = self._body(int(neuron), depth_m)
            place = self._inside(corner, cell.shape)
            if place is None:
                continue
            rows, columns, part = place
            cell, cytoplasm = cell[part], (cell - nucleus)[part]
            filled[rows, columns] = np.maximum(filled[rows, columns], cell)
            labels[rows, columns][cell > 0.5] = neuron + 1
            y, x = np.nonzero(cytoplasm > _FAINT)
            pixels.append((y + rows.start) * self.shape_yx[1] + x + columns.start)
            neurons.append(np.full(len(y), neuron))
            values.append(cytoplasm[y, x] * tissue.brightness[neuron])
        return (np.concatenate(pixels), np.concatenate(neurons), np.concatenate(values)), filled, labels

    def _body(self, neuron: int, depth_m: float) -> tuple[NDArray[np.intp], Points, Points]:
        """Return the first map pixel of a patch about a cell body, and how full of cell and nucleus it is."""
        from scipy import ndimage

        tissue = self._tissue
        centre, radius = tissue.somata_m[neuron], tissue.radius_m[neuron]
        middle = self._in_map(centre[None, 1:])[0]
        reach = int(1.4 * radius / MAP_PIXEL_M) + 4
        corner = np.round(middle).astype(np.intp) - reach
        y, x = ((np.arange(2 * reach + 1) + c - m) * MAP_PIXEL_M for c, m in zip(corner, middle, strict=True))
        angle = np.arctan2(y[:, None], x[None, :])
        outline = 1 + sum(
            amplitude * np.cos(order * angle + phase)
            for order, (amplitude, phase) in enumerate(tissue.waves[neuron], start=2)
        )
        distance = np.hypot(y[:, None], x[None, :]) / outline
        off = tissue.nucleus_m[neuron]
        from_nucleus = np.hypot(y[:, None] - off[1], x[None, :] - off[2])
        cell, nucleus = np.zeros(distance.shape), np.zeros(distance.shape)
        for offset_m, weight in zip(self._offsets_m, self._weights, strict=True):
            z = depth_m + offset_m - centre[0]
            inside = _disc(distance, radius, z)
            cell += weight * inside
            # The nucleus never comes nearer to the surface of the cell than 0.4 µm.
            core = _disc(from_nucleus, tissue.nucleus_radius_m[neuron], z - off[0])
            nucleus += weight * np.minimum(core, _disc(distance, radius - 0.4e-6, z))
        sigma = self._optics.lateral_sigma_m / MAP_PIXEL_M
        return corner, ndimage.gaussian_filter(cell, sigma), ndimage.gaussian_filter(nucleus, sigma)

    def _dendrites(self, depth_m: float) -> tuple[NDArray[np.intp], NDArray[np.intp], Points]:
        """Return the footprints of all dendrites that cross the focus."""
        tissue, sigma_m = self._tissue, self._optics.axial_sigma_m
        path = tissue.dendrites_m
        near = np.argwhere(abs(path[:, :, :-1, 0] - np.float32(depth_m)) < 3 * sigma_m)
        # Four points for each one along the path: further apart than the spot is wide they would show.
        here, after = (path[near[:, 0], near[:, 1], near[:, 2] + step].astype(np.float64) for step in (0, 1))
        share = (np.arange(4) + 0.5) / 4
        points = (here[:, None] + (after - here)[:, None] * share[:, None]).reshape(-1, 3)
        neuron, step = np.repeat(near[:, 0], 4), np.repeat(near[:, 2], 4)
        length_m = np.repeat(np.linalg.norm(after - here, axis=1) / 4, 4)
        volume_m3 = np.pi * tissue.dendrite_radius_m[step] ** 2 * length_m * tissue.brightness[neuron]
        along = np.exp(-0.5 * ((points[:, 0] - depth_m) / sigma_m) ** 2) / (np.sqrt(2 * np.pi) * sigma_m)
        return self._stamped(points[:, 1:], neuron, volume_m3 * along)

    def _stamped(
        self, points_yx_m: Points, neuron: NDArray[np.intp], weight_m2: Points
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Points]:
        """Draw each point as the spot across the axis, on 3 x 3 map pixels."""
        # A pixel averages over its side, too.
        sigma = np.hypot(self._optics.lateral_sigma_m / MAP_PIXEL_M, np.sqrt(1 / 12))
        place = self._in_map(points_yx_m)
        nearest = np.round(place).astype(np.intp)
        pixels, neurons, values = [np.empty(0, np.intp)], [np.empty(0, np.intp)], [np.empty(0)]
        steps = np.arange(-1, 2)
        profiles = np.exp(-0.5 * ((nearest[:, :, None] + steps - place[:, :, None]) / sigma) ** 2)
        profiles /= profiles.sum(axis=2, keepdims=True)
        for dy in steps:
            for dx in steps:
                y, x = nearest[:, 0] + dy, nearest[:, 1] + dx
                inside = (y >= 0) & (x >= 0) & (y < self.shape_yx[0]) & (x < self.shape_yx[1])
                part = profiles[:, 0, dy + 1] * profiles[:, 1, dx + 1] * weight_m2 / MAP_PIXEL_M**2
                pixels.append((y * self.shape_yx[1] + x)[inside])
                neurons.append(neuron[inside])
                values.append(part[inside])
        return np.concatenate(pixels), np.concatenate(neurons), np.concatenate(values)

    def _neuropil(self, depth_m: float) -> Floats:
        """Return the dye between cells: grains and threads too fine to tell apart, slab by slab."""
        from scipy import ndimage

        place = depth_m / _SLAB_M
        slabs = np.arange(int(np.floor(place)) - 1, int(np.floor(place)) + 3)
        weights = np.exp(-0.5 * ((slabs - place) * _SLAB_M / self._optics.axial_sigma_m) ** 2)
        total = np.zeros(self.shape_yx, np.float32)
        for slab, weight in zip(slabs, weights / weights.sum(), strict=True):
            if weight < 1e-3:
                continue
            rng = np.random.default_rng(np.random.SeedSequence([*self._seed, int(slab) + 2**16]))
            grains = rng.standard_normal(self.shape_yx, np.float32)
            fine, coarse = (ndimage.gaussian_filter(grains, size) for size in (1.0, 5.0))
            total += np.float32(weight) * (0.3 * fine / fine.std() + 0.12 * coarse / coarse.std())
        return np.asarray(self._options.neuropil_fill * np.maximum(1 + total, 0.05), dtype=np.float32)

    def _light(self, depth_m: float) -> Floats:
        """Return what vessels leave of the light: nothing inside them, less below those on the surface."""
        from scipy import ndimage

        light = np.ones(self.shape_yx, np.float32)
        tissue = self._tissue
        if not len(tissue.vessels_m):
            return light
        for offset_m, weight in zip(self._offsets_m[1::2], _odd(self._weights), strict=True):
            z = tissue.vessels_m[:, 0] - depth_m - offset_m
            cut = np.flatnonzero(abs(z) < tissue.vessel_radius_m)
            radius_m = np.sqrt(tissue.vessel_radius_m[cut] ** 2 - z[cut] ** 2)
            light -= np.float32(weight) * self._discs(tissue.vessels_m[cut, 1:], radius_m)
        widths_m = np.full(len(tissue.surface_m), tissue.surface_radius_m)
        surface = self._discs(tissue.surface_m[:, 1:], widths_m)
        # Out of focus by their distance: the cone of light is as wide there as its aperture says.
        cone_m = (depth_m - tissue.surface_m[0, 0]) * self._optics.excitation_na / 2
        shadow = ndimage.gaussian_filter(surface, cone_m / self._optics.refractive_index / MAP_PIXEL_M)
        light = ndimage.gaussian_filter(np.maximum(light, 0), 1.0)
        return np.asarray(light * np.exp(-_BLOOD_PER_M * tissue.surface_radius_m * shadow), dtype=np.float32)

    def _discs(self, centres_yx_m: Points, radii_m: Points) -> Floats:
        """Return 1 inside any of the discs, 0 outside."""
        covered = np.zeros(self.shape_yx, np.float32)
        for middle, radius in zip(self._in_map(centres_yx_m), radii_m / MAP_PIXEL_M, strict=True):
            reach = int(radius) + 2
            corner = np.round(middle).astype(np.intp) - reach
            side = np.arange(2 * reach + 1)
            distance = np.hypot(
                (side + corner[0] - middle[0])[:, None], (side + corner[1] - middle[1])[None, :]
            )
            place = self._inside(corner, distance.shape)
            if place is not None:
                rows, columns, part = place
                covered[rows, columns] = np.maximum(covered[rows, columns], distance[part] < radius)
        return covered

    def _in_map(self, points_yx_m: Points) -> Points:
        """Return where points are in map pixels; the middle of pixel 0 is at 0."""
        return np.asarray(points_yx_m / MAP_PIXEL_M + np.array(self.shape_yx) / 2 - 0.5)

    def _inside(
        self, corner: NDArray[np.intp], shape: tuple[int, ...]
    ) -> tuple[slice, slice, tuple[slice, slice]] | None:
        """Return the part of a patch that lies on the map: its rows and columns there, and in the patch."""
        low = np.maximum(corner, 0)
        high = np.minimum(corner + shape, self.shape_yx)
        if not np.all(low < high):
            return None
        first, last = low - corner, high - corner
        return (
            slice(int(low[0]), int(high[0])),
            slice(int(low[1]), int(high[1])),
            (slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))),
        )


def map_pixels(size_m: float) -> int:
    """Return how many map pixels there are along a side of a sample, with its margins."""
    return round(size_m / MAP_PIXEL_M) + 2 * round(MARGIN_M / MAP_PIXEL_M)


def _disc(distance_m: Points, radius_m: float, height_m: float) -> Points:
    """Cut a ball at a height above its middle: 1 inside, 0 outside, half a pixel of slope between."""
    cut_m = np.sqrt(max(radius_m**2 - height_m**2, 0.0))
    if cut_m == 0:
        return np.zeros_like(distance_m)
    return np.asarray(np.clip((cut_m - distance_m) / MAP_PIXEL_M + 0.5, 0, 1))


def _odd(weights: Points) -> Points:
    """Return every other slice's weight, of sum 1."""
    return np.asarray(weights[1::2] / weights[1::2].sum())
