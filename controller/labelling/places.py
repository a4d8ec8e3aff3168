"""Which parts of which frames people could be asked about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import Region, ScanSettings
from controller.labels.plan import LabelPlan
from controller.labels.records import NewSample, Roi, Sample, Split
from controller.recording.documents import FrameDocument

#: Stands between the names of fields where a sample reaches into several, and for all if they are many.
_AND, _MANY = " + ", "many fields"
_MANY_FROM = 2

#: Two pixel sizes are the same if they differ by less.
_SAME = 1.01


class Run(NamedTuple):
    """Which session frames are of, and the name of its microscope."""

    session: str
    microscope: str


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A part of a frame that can be asked about.

    Attributes
    ----------
    key
        Where it is in the sample: a later scan of the same place has the same one.
    fields
        The fields that it reaches into; the first is the one of its middle.
    sample
        What the store is told of it.
    photons
        Its pixels, shape ``(crop_px, crop_px)``, float32.
    """

    key: tuple[int, int]
    fields: tuple[str, ...]
    sample: NewSample
    photons: NDArray[np.float32]


def places_of(
    document: FrameDocument,
    photons: NDArray[np.float32],
    plan: LabelPlan,
    run: Run,
) -> Iterator[Place]:
    """Cut a frame into squares that do not overlap, from its middle out; none if it is too small.

    Parameters
    ----------
    run
        What all samples of that session have in common.
    """
    side, settings = plan.crop_px, document.settings
    rows, columns = photons.shape
    for top in _starts(rows, side):
        for left in _starts(columns, side):
            region = _region(settings, top, left, side, (rows, columns))
            y_m, x_m = region.center_yx_m
            size_m = region.size_yx_m[0]
            fields = fields_of(region, plan.field_m)
            yield Place(
                (round(2 * y_m / size_m), round(2 * x_m / size_m)),
                fields,
                NewSample(
                    session=run.session,
                    microscope=run.microscope,
                    field=fields[0],
                    uri=document.path,
                    frame_index=document.index,
                    roi=Roi(y=top, x=left, rows=side, columns=side),
                    pixel_size_m=settings.pixel_size_m,
                    dtype=document.dtype,
                    modality=settings.modality,
                ),
                photons[top : top + side, left : left + side],
            )


def is_asked_about(settings: ScanSettings, plan: LabelPlan, finest_m: float) -> bool:
    """Tell whether a frame is of the kind that people are asked about."""
    if plan.modality is not None:
        return settings.modality == plan.modality
    return settings.pixel_size_m <= finest_m * _SAME


def field_name(region: Region, field_m: float) -> str:
    """Return the name of the field of a sample, or of all fields that it reaches into."""
    if any(side_m > _MANY_FROM * field_m for side_m in region.size_yx_m):
        return _MANY
    return _AND.join(sorted(fields_of(region, field_m)))


def splits_in(sample: Sample, split_of: Callable[[str], Split | None]) -> set[Split | None]:
    """Return the splits of all fields that a sample reaches into; a file is a field of its own.

    Parameters
    ----------
    split_of
        The split of a field of that session, ``None`` if it has none.
    """
    if sample.frame_index is None:
        return {split_of(sample.field)}
    if sample.field == _MANY:
        return {"train", "held_out"}
    return {split_of(field) for field in sample.field.split(_AND)}


def _starts(pixels: int, side: int) -> range:
    count = pixels // side
    first = (pixels - count * side) // 2
    return range(first, first + count * side, side)


def _region(settings: ScanSettings, top: int, left: int, side: int, shape: tuple[int, int]) -> Region:
    """Return the place of a square in sample coordinates."""
    y_m, x_m = settings.scanned_region.center_yx_m
    pixel_m = settings.pixel_size_m
    middle = (
        y_m + (top + side / 2 - shape[0] / 2) * pixel_m,
        x_m + (left + side / 2 - shape[1] / 2) * pixel_m,
    )
    return Region(center_yx_m=middle, size_yx_m=(side * pixel_m, side * pixel_m))


def fields_of(region: Region, field_m: float) -> tuple[str, ...]:
    """Return the names of all fields that a square touches, that of its middle first."""
    y0, x0, y1, x1 = (bound / field_m for bound in region.bounds_yx_m)
    y, x = (middle / field_m for middle in region.center_yx_m)
    middle = f"{math.floor(y)},{math.floor(x)}"
    # What ends where the next field begins does not reach into it.
    touched = {
        f"{row},{column}"
        for row in range(math.floor(y0 + 1e-9), math.ceil(y1 - 1e-9))
        for column in range(math.floor(x0 + 1e-9), math.ceil(x1 - 1e-9))
    }
    return middle, *sorted(touched - {middle})
