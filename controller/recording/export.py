"""Exports a session for Fiji and for spreadsheets: OME-TIFF and CSV, in a new folder.

A movie is one file. Frames taken with exactly the same settings at the same place become one
time-lapse, so that Fiji opens what belongs together in one window; every other frame is a file of its
own. The values of the
pixels are those of the session. The session itself is only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from controller.core.errors import RecordingError, SessionFolderError
from controller.recording.documents import FrameDocument
from controller.recording.reader import SessionReader
from controller.recording.tables import (
    FRAME_COLUMNS,
    OBJECT_COLUMNS,
    QUESTION_COLUMNS,
    cycle_columns,
    cycle_rows,
    frame_row,
    object_rows,
    question_rows,
    write_table,
)

# What OME-XML has a name for; other kinds of numbers are written as the smallest of these that holds them.
_OME_KINDS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def export_session(reader: SessionReader, folder: Path) -> list[Path]:
    """Write images and tables of a session to ``folder``, which must be new or empty.

    Images are ``<modality>_<first frame>.ome.tif``, with pixel size and position in micrometres.
    Tables: ``frames.csv`` (each frame, its file and plane), ``cycles.csv``, ``questions.csv`` and,
    if anything was segmented, ``objects.csv``; SI units, named in each column.

    Returns
    -------
    All files written.

    Raises
    ------
    SessionFolderError
        If ``folder`` holds something already or lies inside the recorded images; nothing is written
        then. Also, after everything readable has been written, if an image is unreadable.
    RecordingError
        If a file cannot be written.
    """
    _refuse_if_taken(reader, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rows, written, unreadable = _write_images(reader, folder)
        written.append(write_table(folder / "frames.csv", FRAME_COLUMNS, rows))
        written.append(write_table(folder / "cycles.csv", cycle_columns(reader), cycle_rows(reader)))
        written.append(write_table(folder / "questions.csv", QUESTION_COLUMNS, question_rows(reader)))
        if any(cycle.segmentation for cycle in reader.cycles):
            objects, damaged = object_rows(reader)
            unreadable += damaged
            written.append(write_table(folder / "objects.csv", OBJECT_COLUMNS, objects))
    except OSError as error:
        raise RecordingError(f"{folder} cannot be written: {error.strerror or error}") from error
    if unreadable:
        raise SessionFolderError(
            f"{folder} holds everything but {len(unreadable)} unreadable images: {'; '.join(unreadable)}"
        )
    return written


def _refuse_if_taken(reader: SessionReader, folder: Path) -> None:
    bundle, target = reader.bundle.resolve(), folder.resolve()
    if target == bundle or bundle in target.parents:
        raise SessionFolderError(f"{folder} lies inside the recorded images; export to another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SessionFolderError(f"{folder} is not empty; export to a new folder, nothing is overwritten")


def _write_images(reader: SessionReader, folder: Path) -> tuple[list[dict[str, Any]], list[Path], list[str]]:
    """Write each group of frames; return the rows of ``frames.csv``, the files and what is unreadable."""
    together: dict[tuple[str, str], list[FrameDocument]] = {}
    for index in sorted(reader.frames):
        document = reader.frames[index]
        alike = document.settings.model_dump_json() if document.plane is None else document.path
        together.setdefault((alike, document.dtype), []).append(document)
    rows: list[dict[str, Any]] = []
    files: list[Path] = []
    unreadable: list[str] = []
    for group in together.values():
        documents = []
        for document in group:
            if (problem := reader.problem(document)) is None:
                documents.append(document)
            else:
                unreadable.append(f"frame {document.index}")
                rows.append(frame_row(document, "", None, problem))
        if not documents:
            continue
        path = folder / f"{documents[0].settings.modality}_{documents[0].index:06d}.ome.tif"
        _write_tiff(path, documents, reader)
        files.append(path)
        rows += [frame_row(d, path.name, plane, "") for plane, d in enumerate(documents)]
    return sorted(rows, key=lambda row: int(row["frame"])), files, unreadable


def _write_tiff(path: Path, frames: Sequence[FrameDocument], reader: SessionReader) -> None:
    settings = frames[0].settings
    pixel_um = settings.pixel_size_m * 1e6
    count = len(frames)
    dtype = _dtype(frames, reader)
    numbers = ", ".join(str(frame.index) for frame in frames)
    y_um, x_um = (centre * 1e6 for centre in settings.region.center_yx_m)
    metadata: dict[str, Any] = {
        "axes": "TYX",
        "Name": path.name.removesuffix(".ome.tif"),
        "Description": f"Stedfast run {reader.start.run_id}, frames {numbers}",
        "PhysicalSizeX": pixel_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel_um,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": [settings.modality]},
        "Plane": {
            "PositionX": [x_um] * count,
            "PositionXUnit": ["µm"] * count,
            "PositionY": [y_um] * count,
            "PositionYUnit": ["µm"] * count,
            "DeltaT": [frame.started_s for frame in frames],
            "DeltaTUnit": ["s"] * count,
            "ExposureTime": [settings.pixel_time_s] * count,
            "ExposureTimeUnit": ["s"] * count,
        },
    }
    per_cm = 1e4 / pixel_um
    tifffile.imwrite(
        path,
        # One by one: a movie may be larger than the memory.
        (reader.frame(frame.index).photons.astype(dtype) for frame in frames),
        shape=(count, *settings.shape_yx),
        dtype=dtype,
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
