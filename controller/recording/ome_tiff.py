"""Images of a session as OME-TIFF: the frames, and what was made of them, with size, place and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from controller.core.errors import RecordingError
from controller.recording.documents import CycleDocument, FrameDocument
from controller.recording.reader import SessionReader

# What OME-XML has a name for; other kinds of numbers are written as the smallest of these that holds them.
_OME_KINDS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Planes:
    """What goes into one file: a time-lapse of images, shape ``(c, y, x)`` each, one for each frame."""

    frames: Sequence[FrameDocument]
    images: Iterator[NDArray[Any]]
    channels: tuple[str, ...]
    dtype: np.dtype[Any]


def write_frames(path: Path, frames: Sequence[FrameDocument], reader: SessionReader) -> None:
    """Write frames that were taken with the same settings; the values are those of the session."""
    dtype = _dtype(frames, reader)
    # One by one: a movie may be larger than the memory.
    images = (reader.frame(frame.index).photons.astype(dtype)[None] for frame in frames)
    _write(path, Planes(frames, images, (frames[0].settings.modality,), dtype), reader)


def write_denoised(
    path: Path, frames: Sequence[FrameDocument], cycles: Sequence[CycleDocument], reader: SessionReader
) -> None:
    """Write mean and standard deviation of denoised frames, as two channels."""

    def images() -> Iterator[NDArray[Any]]:
        for cycle in cycles:
            if (clean := reader.denoised(cycle)) is not None:
                yield np.stack([clean.mean, clean.std])

    _write(path, Planes(frames, images(), ("mean", "std"), np.dtype(np.float32)), reader)


def write_labels(
    path: Path, frames: Sequence[FrameDocument], cycles: Sequence[CycleDocument], reader: SessionReader
) -> None:
    """Write masks: 0 is background, objects are numbered from 1 in each of them."""
    most = max(cycle.segmentation.objects for cycle in cycles if cycle.segmentation)
    # Fiji shows 16 bits as numbers; 32 it takes for fractions.
    dtype = np.dtype(np.uint16 if most <= np.iinfo(np.uint16).max else np.int32)

    def images() -> Iterator[NDArray[Any]]:
        for cycle in cycles:
            if (found := reader.segmentation(cycle)) is not None:
                yield found.labels.astype(dtype)[None]

    _write(path, Planes(frames, images(), ("labels",), dtype), reader)


def _write(path: Path, planes: Planes, reader: SessionReader) -> None:
    settings = planes.frames[0].settings
    pixel_um = settings.pixel_size_m * 1e6
    channels = len(planes.channels)
    numbers = ", ".join(str(frame.index) for frame in planes.frames)
    y_um, x_um = (centre * 1e6 for centre in settings.region.center_yx_m)
    each = [frame for frame in planes.frames for _ in range(channels)]
    count = len(each)
    metadata: dict[str, Any] = {
        "axes": "TCYX",
        "Name": path.name.removesuffix(".ome.tif"),
        "Description": f"Stedfast run {reader.start.run_id}, frames {numbers}",
        "PhysicalSizeX": pixel_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel_um,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": list(planes.channels)},
        "Plane": {
            "PositionX": [x_um] * count,
            "PositionXUnit": ["µm"] * count,
            "PositionY": [y_um] * count,
            "PositionYUnit": ["µm"] * count,
            "DeltaT": [frame.started_s for frame in each],
            "DeltaTUnit": ["s"] * count,
            "ExposureTime": [settings.pixel_time_s] * count,
            "ExposureTimeUnit": ["s"] * count,
        },
    }
    per_cm = 1e4 / pixel_um
    tifffile.imwrite(
        path,
        (channel for image in planes.images for channel in image),
        shape=(len(planes.frames), channels, *settings.shape_yx),
        dtype=planes.dtype,
        ome=True,
        photometric="minisblack",
        resolution=(per_cm, per_cm),  # for readers of TIFF that do not read OME-XML
        resolutionunit="CENTIMETER",
        metadata=metadata,
    )


def _dtype(frames: Sequence[FrameDocument], reader: SessionReader) -> np.dtype[Any]:
    """Return the kind of number that holds the values of all frames."""
    dtype = np.dtype(frames[0].dtype)
    if dtype.name in _OME_KINDS:
        return dtype
    return np.result_type(*{storable(reader.frame(frame.index).photons).dtype for frame in frames})


def storable(image: NDArray[Any]) -> NDArray[Any]:
    """Return ``image`` in a kind of number that OME-TIFF knows, with the same values."""
    if image.dtype.name in _OME_KINDS:
        return image
    for kind in _OME_KINDS:
        with np.errstate(all="ignore"):
            converted = image.astype(kind)
            is_same = np.array_equal(converted.astype(image.dtype), image, equal_nan=image.dtype.kind == "f")
        if is_same:
            return converted
    raise RecordingError(f"OME-TIFF cannot hold these {image.dtype} values exactly")
