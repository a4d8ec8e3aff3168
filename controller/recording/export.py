"""Exports a session for Fiji and for spreadsheets: OME-TIFF and CSV, in a new folder.

A movie is one file. Frames taken with exactly the same settings at the same place become one
time-lapse, so that Fiji opens what belongs together in one window; every other frame is a file of its
own. Beside it are its denoised images and its masks. The values of the pixels are those of the session.
The session itself is only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controller.core.errors import RecordingError, SessionFolderError
from controller.core.spreadsheet import write_table
from controller.recording.documents import CycleDocument, FrameDocument
from controller.recording.ome_tiff import write_denoised, write_frames, write_labels
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
)


def export_session(reader: SessionReader, folder: Path) -> list[Path]:
    """Write images and tables of a session to ``folder``, which must be new or empty.

    Images are ``<modality>_<first frame>.ome.tif``, with pixel size and position in micrometres; beside
    them ``…_denoised.ome.tif`` (channels mean and std) and ``…_labels.ome.tif``, with those of the same
    frames that were denoised and segmented. Tables: ``frames.csv`` (each frame, its files and planes),
    ``cycles.csv``, ``questions.csv`` and,
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
    cycles = {cycle.frame_index: cycle for cycle in reader.cycles if cycle.frame_index is not None}
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
        write_frames(path, documents, reader)
        files.append(path)
        written = [frame_row(d, path.name, plane, "") for plane, d in enumerate(documents)]
        derived, damaged = _write_derived(reader, path, [cycles.get(d.index) for d in documents], written)
        files += derived
        unreadable += damaged
        rows += written
    return sorted(rows, key=lambda row: int(row["frame"])), files, unreadable


def _write_derived(
    reader: SessionReader, beside: Path, cycles: Sequence[CycleDocument | None], rows: list[dict[str, Any]]
) -> tuple[list[Path], list[str]]:
    """Write what was made of some frames, and into their ``rows`` where it is.

    Returns
    -------
    The files written, and what is unreadable.
    """
    files: list[Path] = []
    unreadable: list[str] = []
    for kind, read, write in (
        ("denoised", reader.denoised, write_denoised),
        ("labels", reader.segmentation, write_labels),
    ):
        chosen = []
        for row, cycle in zip(rows, cycles, strict=True):
            try:
                if cycle is not None and read(cycle) is not None:
                    chosen.append((row, cycle))
            except (SessionFolderError, IndexError):
                # Unreadable segmentations are found, and told of, where objects are counted.
                unreadable += [f"denoised image of frame {row['frame']}"] if kind == "denoised" else []
        if chosen:
            path = beside.with_name(beside.name.replace(".ome.tif", f"_{kind}.ome.tif"))
            frames = [reader.frames[int(row["frame"])] for row, _ in chosen]
            write(path, frames, [cycle for _, cycle in chosen], reader)
            files.append(path)
            for plane, (row, _) in enumerate(chosen):
                row |= {f"{kind}_file": path.name, f"{kind}_plane": plane}
    return files, unreadable
