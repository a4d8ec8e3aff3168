"""What a sample is: molecules on a map, and the truth about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.errors import ConfigurationError
from controller.core.frame import read_only
from controller.core.settings import Region, Settings

MAP_PIXEL_SIZE_M = 20e-9

Labels = NDArray[np.int32]
Floats = NDArray[np.float64]


class SpecimenOptions(Settings):
    """What can be chosen of a generated sample. The maps that pysted ships take ``unspecific`` only."""

    density: Annotated[float, Field(gt=0, le=20)] = 1.0
    """How crowded the sample is: things by area, relative to the usual."""
    rare_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Part of the things that are of the rare class; each sample has its own, see docs/specimens.md."""
    unspecific: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Label that stuck where it should not: molecules everywhere, relative to the brightest pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class TruthPoints:
    """Where small things are, one row each. All arrays are read-only.

    Attributes
    ----------
    center_yx_m
        Places in sample coordinates (the middle of the map is 0, 0), in metres, shape ``(n, 2)``.
    size_m
        Diameters in metres, of spots with a soft rim the full width at half maximum; shape ``(n,)``.
    classes
        Index into the class names of the sample, int32, shape ``(n,)``.
    structures
        Label of the structure that each belongs to, int32, shape ``(n,)``. One whose pixels others lie
        upon, or that is too dim to be marked, may have none left in the map.
    """

    center_yx_m: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    size_m: Floats = field(default_factory=lambda: np.zeros(0))
    classes: Labels = field(default_factory=lambda: np.zeros(0, np.int32))
    structures: Labels = field(default_factory=lambda: np.zeros(0, np.int32))

    def __post_init__(self) -> None:
        centers = np.asarray(self.center_yx_m, dtype=np.float64).reshape(-1, 2)
        object.__setattr__(self, "center_yx_m", read_only(centers, np.float64))
        object.__setattr__(self, "size_m", read_only(self.size_m, np.float64))
        object.__setattr__(self, "classes", read_only(self.classes, np.int32))
        object.__setattr__(self, "structures", read_only(self.structures, np.int32))
        lengths = {len(centers), *(len(array) for array in (self.size_m, self.classes, self.structures))}
        if len(lengths) > 1:
            raise ValueError(f"truth points need one size, class and structure each, got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.center_yx_m)

    def inside(self, region: Region) -> TruthPoints:
        """Return the points in a region of the sample, in the same coordinates."""
        y0, x0, y1, x1 = region.bounds_yx_m
        y, x = self.center_yx_m.T
        return self.chosen((y >= y0) & (y < y1) & (x >= x0) & (x < x1))

    def of_class(self, index: int) -> TruthPoints:
        """Return the points of one class."""
        return self.chosen(self.classes == index)

    def chosen(self, mask: NDArray[np.bool_], shift_yx_m: tuple[float, float] = (0.0, 0.0)) -> TruthPoints:
        """Return the points where ``mask`` holds, moved by ``shift_yx_m``."""
        return TruthPoints(
            self.center_yx_m[mask] + np.array(shift_yx_m),
            self.size_m[mask],
            self.classes[mask],
            self.structures[mask],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """A sample and the truth about it. No policy ever sees one.

    Attributes
    ----------
    name
        Which kind of sample.
    molecules
        Fluorescent molecules per map pixel, shape ``(y, x)``, int32, read-only.
    structures
        What is worth imaging, as a label image of the same shape: 0 background, objects 1, 2, ….
    classes
        What each pixel is, of the same shape, int32: an index into ``class_names``.
    class_names
        Names of the classes; the first is ``"background"``.
    points
        Places of small things (nanodomains, rings, beads, …); empty for a sample that has none, and for
        the shipped maps, whose truth nobody knows so finely.
    pixel_size_m
        Map pixel size in metres.
    """

    name: str
    molecules: Labels
    structures: Labels
    classes: Labels
    class_names: tuple[str, ...]
    points: TruthPoints = field(default_factory=TruthPoints)
    pixel_size_m: float = MAP_PIXEL_SIZE_M

    def __post_init__(self) -> None:
        for name in ("molecules", "structures", "classes"):
            object.__setattr__(self, name, read_only(getattr(self, name), np.int32))

    @property
    def points_yx_m(self) -> Floats:
        """Return the places of all points in sample coordinates, in metres, shape ``(n, 2)``."""
        return self.points.center_yx_m

    @property
    def structure_classes(self) -> dict[int, int]:
        """Return the class of each structure that has pixels: the one of most of its pixels."""
        inside = self.structures > 0
        names = len(self.class_names)
        pairs, counts = np.unique(
            self.structures[inside].astype(np.int64) * names + self.classes[inside], return_counts=True
        )
        # The last of equal keys stays: the class with the most pixels.
        order = np.argsort(counts, kind="stable")
        return {int(pair // names): int(pair % names) for pair in pairs[order]}

    def crop(self, first_yx: tuple[int, int], shape_yx: tuple[int, int]) -> Self:
        """Return a part of the sample as a sample of its own, its middle at (0, 0).

        Labels keep their numbers. Making one large sample and cutting many small ones from it is far
        cheaper than making them, and their edges look like the middle of something larger.

        Raises
        ------
        ConfigurationError
            If the part does not lie inside the sample.
        """
        (y, x), (height, width) = first_yx, shape_yx
        rows, columns = self.molecules.shape
        if not (height >= 1 and width >= 1 and 0 <= y <= rows - height and 0 <= x <= columns - width):
            raise ConfigurationError(
                f"first_yx={first_yx}, shape_yx={shape_yx} does not lie inside the sample of "
                f"{self.molecules.shape} map pixels"
            )
        part = np.s_[y : y + height, x : x + width]
        middle = [
            (first + size / 2 - whole / 2) * self.pixel_size_m
            for first, size, whole in zip(first_yx, shape_yx, self.molecules.shape, strict=True)
        ]
        region = Region(
            center_yx_m=(middle[0], middle[1]),
            size_yx_m=(height * self.pixel_size_m, width * self.pixel_size_m),
        )
        points = self.points.inside(region)
        every = np.ones(len(points), np.bool_)
        return type(self)(
            self.name,
            self.molecules[part],
            self.structures[part],
            self.classes[part],
            self.class_names,
            points.chosen(every, (-middle[0], -middle[1])),
            self.pixel_size_m,
        )
