"""The law of a scan in closed form: what every engine must agree with, pySTED included.

Molecules are independent. One that survives the dwells before a pixel with probability S and has the
signal kernel E there sends ``E * S`` on average, with variance ``E**2 * S * (1 - S)``; S is the
exponential of minus the hazards summed until then. The sums are taken pixel by pixel in the order of
the scan, slowly and plainly: this is for tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.sted.photophysics import Light
from simulator.sted.scanning import FloatImage, Molecules, image_shape


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """What to expect of a scan.

    Attributes
    ----------
    photons_hz, variance_hz2
        Mean and variance of the photon rate that reaches the detector, averaged over the time on each
        image pixel, shape ``(y, x)``. The variance is that of the bleaching; counting comes on top.
        It is that of one pass.
    survival
        Probability that a molecule survives the scan, on the grid of the map.
    """

    photons_hz: FloatImage
    variance_hz2: FloatImage
    survival: FloatImage


def law_of_scan(
    molecules: Molecules,
    lights: list[list[tuple[Light, float]]] | tuple[Light, float],
    *,
    stride_px: int = 1,
    passes: int = 1,
    within_dwell: bool = True,
) -> Law:
    """Return the law of a raster scan.

    Parameters
    ----------
    molecules
        As for an engine.
    lights
        Light and dwell time, of all pixels or of each: ``lights[row][column]``.
    stride_px, passes
        As in :class:`simulator.sted.scanning.Exposure`; the dwell time is that of all passes.
    within_dwell
        Whether a molecule that bleaches shines in the first part of that dwell.
    """
    side = (lights[0] if isinstance(lights, tuple) else lights[0][0][0]).photons_hz.shape[0]
    lines, columns = image_shape(molecules, stride_px, side // 2)
    hazard = np.zeros(molecules.shape)
    photons_hz, variance_hz2 = np.zeros((lines, columns)), np.zeros((lines, columns))
    for line in range(lines):
        for _ in range(passes):
            for column in range(columns):
                light, dwell_s = lights if isinstance(lights, tuple) else lights[line][column]
                y, x = (stride_px // 2 + number * stride_px for number in (line, column))
                lit = np.s_[y : y + side, x : x + side]
                dwell = light.bleaching_hz * (dwell_s / passes)
                alive = np.exp(-hazard[lit])
                mean, square = _shines(dwell) if within_dwell else (1.0, 1.0)
                signal, count = light.photons_hz, molecules[lit]
                photons_hz[line, column] += np.sum(count * signal * alive * mean) / passes
                variance_hz2[line, column] += np.sum(
                    count * signal**2 * (alive * square - (alive * mean) ** 2)
                )
                hazard[lit] += dwell
    return Law(photons_hz, variance_hz2, np.exp(-hazard))


def _shines(hazard: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Return the mean and the mean square of the part of a dwell before a molecule bleaches."""
    # The series where the difference of nearly equal numbers would lose its digits.
    small = hazard < 1e-3
    safe = np.where(small, 1.0, hazard)
    mean = np.where(small, 1 - hazard / 2 + hazard**2 / 6, -np.expm1(-safe) / safe)
    exact = 2 * (-np.expm1(-safe) - safe * np.exp(-safe)) / safe**2
    square = np.where(small, 1 - 2 * hazard / 3 + hazard**2 / 4, exact)
    return mean, square
