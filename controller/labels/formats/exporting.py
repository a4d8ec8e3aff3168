"""Writes the labels of a store for other programs, in a new folder.

What a format cannot hold is listed in ``left_out.csv``, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controller.core.errors import RecordingError
from controller.core.spreadsheet import write_table
from controller.labels.formats.coco import write_coco
from controller.labels.formats.label_images import (
    entry_of,
    write_ilastik,
    write_label_tiff,
    write_ome_zarr,
    write_pixels,
)
from controller.labels.formats.labelled import (
    ABOUT_IMAGE,
    ImageEntry,
    LabelFileError,
    LabelledImage,
    LabelledImages,
    Layer,
    LeftOut,
    Manifest,
    file_name,
    keeps_coverage,
    write_manifest,
)
from controller.labels.formats.napari import not_exact, write_tables
from controller.labels.formats.pictures import write_tiff
from controller.labels.formats.polygon_text import format_polygons
from controller.labels.images import ImageSource
from controller.labels.records import Annotator, AnswerRecord, Sample, told_classes
from controller.labels.store import LabelStore
from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    Coverage,
    LabelSchema,
    PolygonAnnotation,
    TagAnnotation,
)

CSV_NAME, LEFT_OUT_NAME = "answers.csv", "left_out.csv"
CSV_COLUMNS = (
    *("answer", "annotator", "role", "kind", "arm", "outcome", "classes", "chosen", "score"),
    *("elapsed_s", "idle_s", "is_kept", "revises", "session", "field", "samples", "pixel_size_m"),
    *("channel_shown", "prefill_sha256", "client", "schema", "created_s"),
)

Written = tuple[ImageEntry, list[Path], list[LeftOut]]


def export_labels(
    store: LabelStore,
    images: ImageSource | None,
    target: Path,
    format: str,  # noqa: A002
    *,
    session: str | None = None,
    annotator: str | None = None,
) -> list[Path]:
    """Write the answers that count to ``target``, which must be new or empty.

    Parameters
    ----------
    images
        Where the pixels come from; ``None`` leaves them out, which OME-Zarr does not allow.
    format
        One of :data:`EXPORT_FORMATS`.
    session, annotator
        Only samples of this session, only answers of the person of this name.

    Returns
    -------
    All files written, or the folder of each OME-Zarr image.

    Raises
    ------
    LabelFileError
        If the format is not known, ``target`` holds something, there is nothing to write, or an image is
        gone; ``target`` is then not complete.
    RecordingError
        If a file cannot be written.
    """
    if format not in EXPORT_FORMATS:
        raise LabelFileError(f"there is no format {format!r}; known are {', '.join(EXPORT_FORMATS)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LabelFileError(f"{target} is not empty; export to a new folder, nothing is overwritten")
    try:
        target.mkdir(parents=True, exist_ok=True)
        if format == "csv":
            return [write_answers(store, target / CSV_NAME, session=session, annotator=annotator)]
        labelled = collect(store, images, session=session, annotator=annotator)
        written, left_out = _write_all(labelled, target, format)
        if left_out:
            written.append(_write_left_out(target / LEFT_OUT_NAME, left_out))
    except OSError as error:
        raise RecordingError(f"{target} cannot be written: {error.strerror or error}") from error
    return written


def collect(
    store: LabelStore,
    images: ImageSource | None = None,
    *,
    session: str | None = None,
    annotator: str | None = None,
) -> LabelledImages:
    """Return what was said of each sample, with its pixels if ``images`` gives them.

    Raises
    ------
    LabelFileError
        If there is nothing, there is no such annotator, or an image is gone.
    """
    people = _people(store, annotator)
    samples = {sample.id: sample for sample in store.samples(session)}
    said: dict[str, dict[str, list[Annotation]]] = {}
    left_out: list[LeftOut] = []
    names = _image_names(samples.values())
    schemas = {record.id: record.label_schema for record in store.schemas()}
    used: dict[str, None] = {}
    for answer in store.answers():
        if answer.annotator_id not in people or not set(answer.sample_ids) <= set(samples):
            continue
        person, sample_id = people[answer.annotator_id].name, answer.sample_ids[0]
        annotations = annotations_of(answer)
        if not annotations:
            what = answer.kind if answer.reply.outcome == "answered" else answer.reply.outcome
            left_out.append(LeftOut(names[sample_id], person, what, "it marks nothing; see the format csv"))
            continue
        used |= dict.fromkeys(schemas[answer.schema_id].classes)
        said.setdefault(sample_id, {}).setdefault(person, []).extend(annotations)
    if not said:
        raise LabelFileError("there are no answers about pixels or images to export yet")
    found = [
        LabelledImage(
            names[sample_id],
            samples[sample_id],
            _pixels(images, samples[sample_id]),
            {person: tuple(annotations) for person, annotations in said[sample_id].items()},
        )
        for sample_id in samples
        if sample_id in said
    ]
    return LabelledImages(LabelSchema(classes=tuple(used)), tuple(found), tuple(left_out))


def annotations_of(answer: AnswerRecord) -> tuple[Annotation, ...]:
    """Return what an answer says of its image; 'nothing here' is a tag of the whole image."""
    if answer.reply.outcome == "nothing here" and len(answer.sample_ids) == 1:
        return (TagAnnotation(present=(NOTHING_HERE,)),)
    return answer.reply.annotations


def _people(store: LabelStore, annotator: str | None) -> dict[str, Annotator]:
    everybody = store.annotators()
    people = {person.id: person for person in everybody if annotator in {None, person.name}}
    if annotator is not None and not people:
        names = ", ".join(repr(person.name) for person in everybody) or "nobody"
        raise LabelFileError(f"there is no annotator {annotator!r}; there is {names}")
    return people


def _image_names(samples: Iterable[Sample]) -> dict[str, str]:
    """Return a name for the files of each sample: its session, where it is, and a number if need be."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for sample in samples:
        frame = "" if sample.frame_index is None else f"_{sample.frame_index:06d}"
        name = file_name(f"{sample.session}{frame}_{sample.field}_{sample.roi.y}_{sample.roi.x}")
        number = 1
        unique = name
        while unique.lower() in taken:  # some file systems do not tell A from a
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique.lower())
        names[sample.id] = unique
    return names


def _pixels(images: ImageSource | None, sample: Sample) -> Any:
    if images is None:
        return None
    try:
        channels = images.channels(sample)
        channel = sample.channel if sample.channel in channels else "raw"
        picture = images.picture(sample, channel, 0)
    except KeyError as error:
        raise LabelFileError(
            f"the image of sample {sample.id} ({sample.uri}) is gone: {error}; export without images, or "
            f"bring it back"
        ) from error
    if picture.pixels.shape != sample.roi.shape_yx:
        raise LabelFileError(
            f"the image of sample {sample.id} is {picture.pixels.shape} pixels, it was {sample.roi.shape_yx}"
        )
    return picture.pixels


def _write_all(labelled: LabelledImages, target: Path, format_name: str) -> tuple[list[Path], list[LeftOut]]:
    left_out = list(labelled.left_out)
    written: list[Path] = []
    if format_name == "coco":
        path, missing = write_coco(labelled, target)
        written = [
            write_tiff(target / f"{image.name}.tif", image.pixels, image.sample.pixel_size_m)
            for image in labelled.images
            if image.pixels is not None
        ]
        return [path, *written], left_out + missing
    entries = []
    for image in labelled.images:
        entry, files, missing = _WRITERS[format_name](image, target, labelled.label_schema)
        entries.append(entry)
        written += files
        left_out += missing
    manifest = Manifest(format=format_name, label_schema=labelled.label_schema, images=tuple(entries))
    return [write_manifest(target, manifest), *written], left_out


def _write_napari(image: LabelledImage, folder: Path, schema: LabelSchema) -> Written:
    """Write label images as those of label TIFF, and tables for all else that is drawn."""
    in_tables = frozenset({"points", "scribble", "box", "polygon"})
    entry, written, left_out = write_label_tiff(image, folder, schema, in_tables)
    layers, tables = write_tables(image, folder)
    return entry.replace(layers=(*entry.layers, *layers)), written + tables, left_out + not_exact(image)


def _write_polygons(image: LabelledImage, folder: Path, schema: LabelSchema) -> Written:
    """Write the polygons of an image, one file for each person, coverage and weight."""
    together: dict[tuple[str, Coverage, float], list[PolygonAnnotation]] = {}
    left_out: list[LeftOut] = []
    for person, theirs in image.said.items():
        is_whole = keeps_coverage(image.name, person, theirs, ("polygon",), left_out)
        for annotation in theirs:
            if isinstance(annotation, PolygonAnnotation):
                key = (person, annotation.coverage if is_whole else "marks", annotation.weight)
                together.setdefault(key, []).append(annotation)
            elif annotation.kind not in ABOUT_IMAGE:
                why = "the file holds polygons alone"
                left_out.append(LeftOut(image.name, person, annotation.kind, why))
    names = (*schema.classes, *(name for name in schema.names if name not in schema.classes))
    written = write_pixels(image, folder)
    layers = []
    for number, ((person, coverage, weight), polygons) in enumerate(together.items()):
        file = f"{image.name}{f'_{number}' if number else ''}.polys.txt"
        text = format_polygons((names.index(p.class_name), p.vertices_yx) for p in polygons)
        (folder / file).write_text(text, encoding="utf-8")
        written.append(folder / file)
        layers.append(
            Layer(
                file=file, kind="polygons", person=person, class_names=names, coverage=coverage, weight=weight
            )
        )
    return entry_of(image, layers), written, left_out


_WRITERS: dict[str, Callable[[LabelledImage, Path, LabelSchema], Written]] = {
    "label_tiff": write_label_tiff,
    "ome_zarr": lambda image, folder, _: write_ome_zarr(image, folder),
    "napari": _write_napari,
    "ilastik": lambda image, folder, schema: write_ilastik(image, folder, schema, as_hdf5=False),
    "ilastik_hdf5": lambda image, folder, schema: write_ilastik(image, folder, schema, as_hdf5=True),
    "polys": _write_polygons,
}
EXPORT_FORMATS = (*_WRITERS, "coco", "csv")


def _write_left_out(path: Path, left_out: Iterable[LeftOut]) -> Path:
    counted: dict[LeftOut, int] = {}
    for one in left_out:
        counted[one] = counted.get(one, 0) + 1
    columns = ("image", "annotator", "what", "count", "why")
    rows = (
        {"image": one.image, "annotator": one.person, "what": one.what, "count": count, "why": one.why}
        for one, count in counted.items()
    )
    return write_table(path, columns, rows)


def write_answers(
    store: LabelStore, path: Path, *, session: str | None = None, annotator: str | None = None
) -> Path:
    """Write all answers, those that were replaced among them."""
    people = _people(store, annotator)
    samples = {sample.id: sample for sample in store.samples(session)}
    schemas = {record.id: record.number for record in store.schemas()}
    rows = []
    for answer in store.answers(kept_only=False):
        if answer.annotator_id in people and set(answer.sample_ids) <= set(samples):
            seen = [samples[sample_id] for sample_id in answer.sample_ids]
            rows.append(_row(answer, people[answer.annotator_id], seen, schemas[answer.schema_id]))
    return write_table(path, CSV_COLUMNS, rows)


def _row(answer: AnswerRecord, person: Annotator, seen: Sequence[Sample], schema: int) -> dict[str, Any]:
    reply = answer.reply
    return {
        "answer": answer.id,
        "annotator": person.name,
        "role": person.role,
        "kind": answer.kind,
        "arm": answer.arm,
        "outcome": reply.outcome,
        "classes": "; ".join(told_classes(reply)),
        "chosen": "" if reply.chosen is None else reply.chosen,
        "score": "" if reply.score is None else reply.score,
        "elapsed_s": answer.elapsed_s,
        "idle_s": answer.idle_s,
        "is_kept": int(answer.is_kept),
        "revises": answer.revises or "",
        "session": seen[0].session,
        "field": seen[0].field,
        "samples": " ".join(answer.sample_ids),
        "pixel_size_m": float(np.min([sample.pixel_size_m for sample in seen])),
        "channel_shown": answer.display.channel,
        "prefill_sha256": answer.prefill_sha256 or "",
        "client": answer.client,
        "schema": schema,
        "created_s": answer.created_s,
    }
