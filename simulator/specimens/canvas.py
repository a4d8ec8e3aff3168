"""A map in the making: what the generators draw on.

Places are in map pixels, ``(y, x)``; pixel ``i`` reaches from ``i - 0.5`` to ``i + 0.5``. Densities are
relative to the brightest pixels of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.specimens.specimen import MAP_PIXEL_SIZE_M, Specimen, SpecimenOptions, TruthPoints

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

#: Distance of the points of a path, in map pixels.
STEP_PX = 1 / 3
#: Distance of the samples across a path. Where a wide band bends, its outer samples are half as far apart
#: again as in the middle; closer than this to each other there is still one in each pixel.
_WIDE_STEP_PX = 0.6
_WIDE_M = 0.12e-6

#: Full width at half maximum of a Gaussian by its standard deviation.
FWHM_BY_SIGMA: float = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Samples of the strip along a path: pixel, point of the path, and distance from it in metres.

    ``pixels`` are indices into the flat map, ``index`` into the path, ``across_m`` is negative on one
    side; all have shape ``(n,)``. Samples beyond the map are left out.
    """

    pixels: Places
    index: Places
    across_m: Floats


class Canvas:
    """Density, structures, classes and points of a sample that is being made."""

    def __init__(self, shape_yx: tuple[int, int], class_names: tuple[str, ...]) -> None:
        self.shape_yx = shape_yx
        self.class_names = class_names
        size = shape_yx[0] * shape_yx[1]
        self.density = np.zeros(size, np.float32)
        self.structures = np.zeros(size, np.int32)
        self.classes = np.zeros(size, np.int32)
        self.structure_count = 0
        self._sums = np.zeros(size, np.float32)
        self._counts = np.zeros(size, np.float32)
        self._points: list[tuple[Floats, Floats, int, int]] = []

    @property
    def area_m2(self) -> float:
        """Return the area of the map."""
        return self.shape_yx[0] * self.shape_yx[1] * MAP_PIXEL_SIZE_M**2

    def holds(self, place_yx: Floats) -> NDArray[np.bool_]:
        """Tell which places, shape ``(…, 2)``, lie on the map."""
        return np.asarray(np.all((place_yx >= -0.5) & (place_yx < np.array(self.shape_yx) - 0.5), axis=-1))

    def new_structure(self) -> int:
        """Return the label of the next structure."""
        self.structure_count += 1
        return self.structure_count

    def band(self, path: Floats, reach_m: float) -> Band:
        """Sample the strip within ``reach_m`` of a path, whose points are ``STEP_PX`` apart."""
        reach = reach_m / MAP_PIXEL_SIZE_M
        near = np.all((path > -reach - 1) & (path < np.array(self.shape_yx) + reach), axis=1)
        tangent = np.gradient(path, axis=0)
        tangent /= np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
        index = np.flatnonzero(near)
        step = STEP_PX if reach_m < _WIDE_M else _WIDE_STEP_PX
        across = np.arange(-np.floor(reach / step), np.floor(reach / step) + 1) * step
        y = path[index, 0, None] + tangent[index, 1, None] * across
        x = path[index, 1, None] - tangent[index, 0, None] * across
        rows, columns = np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)
        inside = (rows >= 0) & (rows < self.shape_yx[0]) & (columns >= 0) & (columns < self.shape_yx[1])
        return Band(
            (rows * self.shape_yx[1] + columns)[inside],
            np.broadcast_to(index[:, None], inside.shape)[inside],
            np.broadcast_to(across * MAP_PIXEL_SIZE_M, inside.shape)[inside],
        )

    def add(self, pixels: Places, values: Floats) -> None:
        """Add to each pixel the mean of the values that were sampled in it."""
        np.add.at(self._sums, pixels, values.astype(np.float32))
        np.add.at(self._counts, pixels, np.float32(1))
        # All samples of a pixel write the same number, so it does not matter which is the last.
        self.density[pixels] = self.density[pixels] + self._sums[pixels] / self._counts[pixels]
        self._sums[pixels] = 0
        self._counts[pixels] = 0

    def spots(self, centres: Floats, sigma_m: ArrayLike, height: ArrayLike) -> tuple[Places, Floats]:
        """Add Gaussian spots, each averaged over the pixels that it covers.

        ``height`` is that of a spot much larger than a pixel. Returns pixels and values, shape
        ``(n, k * k)``; pixels beyond the map are -1.
        """
        from scipy.special import ndtr

        centres = np.asarray(centres, dtype=np.float64).reshape(-1, 2)
        sigma = np.broadcast_to(np.asarray(sigma_m, dtype=np.float64), len(centres)) / MAP_PIXEL_SIZE_M
        heights = np.broadcast_to(np.asarray(height, dtype=np.float64), len(centres))
        reach = int(np.ceil(4 * sigma.max(initial=0.1))) + 1
        offsets = np.arange(-reach, reach + 1)
        nearest = np.rint(centres).astype(np.intp)
        weights, lines = [], []
        for axis in (0, 1):
            line = nearest[:, axis, None] + offsets
            edge = (line - centres[:, axis, None]) / sigma[:, None]
            half = 0.5 / sigma[:, None]
            weights.append((ndtr(edge + half) - ndtr(edge - half)) * (np.sqrt(2 * np.pi) * sigma[:, None]))
            lines.append(line)
        values = heights[:, None, None] * weights[0][:, :, None] * weights[1][:, None, :]
        rows, columns = lines[0][:, :, None], lines[1][:, None, :]
        inside = (rows >= 0) & (rows < self.shape_yx[0]) & (columns >= 0) & (columns < self.shape_yx[1])
        pixels = np.where(inside, rows * self.shape_yx[1] + columns, -1)
        np.add.at(self.density, pixels[inside], values[inside].astype(np.float32))
        return pixels.reshape(len(centres), -1), values.reshape(len(centres), -1)

    def mark(self, pixels: Places, class_index: int, structure: int | None = None) -> None:
        """Say what some pixels are; ``structure`` None leaves the structures as they are."""
        self.classes[pixels] = class_index
        if structure is not None:
            self.structures[pixels] = structure

    def mark_spots(self, found: tuple[Places, Floats], above: float, class_index: int, label: int) -> None:
        """Mark the pixels of :meth:`spots` where a spot alone is brighter than ``above``."""
        pixels, values = found
        self.mark(pixels[(values > above) & (pixels >= 0)], class_index, label)

    def point(self, centres: Floats, size_m: ArrayLike, class_index: int, structure: int) -> None:
        """Note the true places of things, shape ``(n, 2)``; those beyond the map are left out."""
        centres = np.asarray(centres, dtype=np.float64).reshape(-1, 2)
        sizes = np.broadcast_to(np.asarray(size_m, dtype=np.float64), len(centres))
        inside = self.holds(centres)
        if inside.any():
            self._points.append((centres[inside], sizes[inside], class_index, structure))

    def finish(
        self, name: str, molecules_per_pixel: float, options: SpecimenOptions, rng: np.random.Generator
    ) -> Specimen:
        """Draw molecules and return the sample."""
        expected = np.asarray(self.density + np.float32(options.unspecific), dtype=np.float64)
        # Most pixels of most samples are empty; drawing in the others alone is several times faster.
        lit = np.flatnonzero(expected > 0)
        molecules = np.zeros(expected.size, np.int32)
        molecules[lit] = rng.poisson(expected[lit] * molecules_per_pixel)
        return Specimen(
            name,
            molecules.reshape(self.shape_yx),
            self.structures.reshape(self.shape_yx),
            self.classes.reshape(self.shape_yx),
            self.class_names,
            self._truth(),
        )

    def _truth(self) -> TruthPoints:
        if not self._points:
            return TruthPoints()
        counts = [len(centres) for centres, _, _, _ in self._points]
        centres = np.concatenate([centres for centres, _, _, _ in self._points])
        return TruthPoints(
            (centres + 0.5 - np.array(self.shape_yx) / 2) * MAP_PIXEL_SIZE_M,
            np.concatenate([sizes for _, sizes, _, _ in self._points]),
            np.repeat([index for _, _, index, _ in self._points], counts).astype(np.int32),
            np.repeat([label for _, _, _, label in self._points], counts).astype(np.int32),
        )
