"""Several fields side by side, so that one microscope with one dose ledger reaches them all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.specimens import Specimen, TruthPoints

#: A field and its surroundings, square.
Field = Specimen


def mosaic(fields: Sequence[Field], columns: int) -> tuple[Specimen, list[tuple[float, float]]]:
    """Return a sample of equal square fields in rows, and the middle of each in its coordinates.

    Structures of different fields have different labels. Places that are left over are empty glass.
    """
    first = fields[0]
    side = first.molecules.shape[0]
    rows = -(-len(fields) // columns)
    shape = (rows * side, columns * side)
    arrays: dict[str, NDArray[np.int32]] = {
        name: np.zeros(shape, np.int32) for name in ("molecules", "structures", "classes")
    }
    centers, points = [], []
    used = 0
    for number, field in enumerate(fields):
        row, column = divmod(number, columns)
        tile = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        arrays["molecules"][tile] = field.molecules
        arrays["structures"][tile] = np.where(field.structures > 0, field.structures + used, 0)
        arrays["classes"][tile] = field.classes
        center = [
            ((place + 0.5) * side - size / 2) * first.pixel_size_m
            for place, size in zip((row, column), shape, strict=True)
        ]
        centers.append((center[0], center[1]))
        shifted = field.points.chosen(np.ones(len(field.points), np.bool_), centers[-1])
        points.append((shifted, used))
        used += max(int(field.structures.max()), int(shifted.structures.max(initial=0)))
    together = TruthPoints(
        np.concatenate([part.center_yx_m for part, _ in points]),
        np.concatenate([part.size_m for part, _ in points]),
        np.concatenate([part.classes for part, _ in points]),
        np.concatenate([part.structures + offset for part, offset in points]),
    )
    specimen = Specimen(
        first.name,
        arrays["molecules"],
        arrays["structures"],
        arrays["classes"],
        first.class_names,
        together,
        first.pixel_size_m,
    )
    return specimen, centers
