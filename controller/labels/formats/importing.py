"""Takes labels that were made elsewhere into a store, as answers of one person, or nothing at all."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from controller.core.decision import QuestionKind
from controller.core.errors import RecordingError
from controller.labels.database import Database
from controller.labels.formats.file_readers import IMPORT_FORMATS, Found, ImportOptions, Reading, read_files
from controller.labels.formats.labelled import (
    ABOUT_IMAGE,
    LabelFileError,
    first_problem,
)
from controller.labels.formats.pictures import (
    checksum,
    keep_image,
    offset_of,
)
from controller.labels.queue import LabelQueue
from controller.labels.records import (
    MAX_ANNOTATIONS,
    READ_ONLY,
    Annotator,
    AnswerRecord,
    Display,
    NewSample,
    Reply,
    Roi,
)
from controller.labels.store import LabelStore
from controller.learning.annotations import (
    AMBIGUOUS,
    NOTHING_HERE,
    Annotation,
    GradesAnnotation,
    ImageAnnotations,
    LabelSchema,
    TagAnnotation,
)


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import brought.

    Attributes
    ----------
    samples, answers
        Ids of the samples and of the answers, those among them that were there already.
    notes
        What was found, changed or left out, for a person to read.
    """

    samples: tuple[str, ...]
    answers: tuple[str, ...]
    notes: tuple[str, ...]


def import_labels(  # noqa: PLR0913  # whose labels, from where to where, and how
    store: LabelStore,
    source: Path,
    format: str,  # noqa: A002
    annotator: str,
    *,
    folder: Path,
    options: ImportOptions | None = None,
    now: Callable[[], float] = time.time,
) -> ImportResult:
    """Take labels from files into a store, as answers of a person; the same files again change nothing.

    Parameters
    ----------
    source
        A folder, a COCO file or an OME-Zarr image.
    format
        One of :data:`IMPORT_FORMATS`.
    annotator
        Name of the person whose labels they are.
    folder
        The store's folder, in which the images are kept.
    now
        Seconds since 1970, UTC.

    Raises
    ------
    LabelFileError
        If anything about the files is wrong; nothing is stored then.
    RecordingError
        If the database or the disk fails; nothing is stored then.
    """
    if format not in IMPORT_FORMATS:
        raise LabelFileError(f"{format!r} cannot be imported; {', '.join(IMPORT_FORMATS)} can")
    if not source.exists():
        raise LabelFileError(f"{source} does not exist")
    reading = Reading(source if source.is_dir() else source.parent, options or ImportOptions())
    read_files(reading, source, format)
    schema = _schema_of(reading)
    samples = [_sample(reading, found, source) for found in reading.found]
    for found in reading.found:
        found.said = {
            person: tuple(_renamed(annotation, reading.options.rename) for annotation in theirs)
            for person, theirs in found.said.items()
        }
        _check(found, schema)
    return _stored(store, folder, reading, samples, _Whose(annotator, schema, format, now))


def _renamed(annotation: Annotation, rename: dict[str, str]) -> Annotation:
    """Return an annotation under our names of the classes."""
    if annotation.kind == "mask":
        names = tuple(rename.get(name, name) for name in annotation.value_classes)
        return annotation.replace(value_classes=names)
    if isinstance(annotation, TagAnnotation | GradesAnnotation):
        return annotation
    return annotation.replace(class_name=rename.get(annotation.class_name, annotation.class_name))


def _schema_of(reading: Reading) -> LabelSchema:
    """Return the classes that the files or the options name, or else those that were found."""
    rename = reading.options.rename
    classes = reading.schema.classes if reading.schema else reading.options.classes
    named = dict.fromkeys(rename.get(name, name) for name in classes)
    if not named:
        named = dict.fromkeys(
            rename.get(name, name)
            for found in reading.found
            for annotations in found.said.values()
            for annotation in annotations
            for name in annotation.class_names
        )
    try:
        return LabelSchema(classes=tuple(name for name in named if name not in {NOTHING_HERE, AMBIGUOUS}))
    except ValidationError as error:
        raise LabelFileError(f"the classes cannot be used: {first_problem(error)}") from error


def _check(found: Found, schema: LabelSchema) -> None:
    """Refuse annotations that do not fit their image."""
    rows, columns = found.image.pixels.shape
    for theirs in found.said.values():
        try:
            ImageAnnotations(shape_yx=(rows, columns), label_schema=schema, annotations=theirs)
        except ValidationError as error:
            raise LabelFileError(f"{found.name}: {first_problem(error)}") from error


def _sample(reading: Reading, found: Found, source: Path) -> NewSample:
    """Return the sample of an image; where it is kept comes later."""
    options, pixels = reading.options, found.image.pixels
    offset = float(offset_of(pixels)) if options.offset_units is None else options.offset_units
    if offset and options.offset_units is None:
        reading.notes.append(
            f"{found.name}: offset-binary image, its darkest pixel is {int(pixels.min())}; {offset:.0f} is "
            f"subtracted (offset_units)"
        )
    fields: dict[str, Any] = {
        "uri": found.name,
        "roi": Roi(y=0, x=0, rows=pixels.shape[0], columns=pixels.shape[1]),
        "dtype": pixels.dtype.name,
        "channel": "raw",
        "offset_units": offset,
        "blake2b": checksum(pixels),
    }
    if found.sample is not None:
        if found.sample.roi.shape_yx != pixels.shape:
            raise LabelFileError(
                f"{found.name}: the image has the shape {pixels.shape}, the list of files says "
                f"{found.sample.roi.shape_yx}"
            )
        return found.sample.replace(**fields, **({"session": options.session} if options.session else {}))
    pixel_size_m = options.pixel_size_m or found.image.pixel_size_m
    if pixel_size_m is None:
        raise LabelFileError(f"{found.name}: the image does not say its pixel size; say it (pixel_size_m)")
    try:
        return NewSample(
            session=options.session or f"import {source.name}"[:200],
            field=found.name[:200],
            pixel_size_m=pixel_size_m,
            units_per_photon=options.units_per_photon,
            modality=options.modality,
            **fields,
        )
    except ValidationError as error:
        raise LabelFileError(f"{found.name}: {first_problem(error)}") from error


@dataclass(frozen=True, slots=True)
class _Whose:
    """Whose labels an import brings, and when."""

    annotator: str
    schema: LabelSchema
    format: str
    now: Callable[[], float]


def _stored(
    store: LabelStore, folder: Path, reading: Reading, samples: list[NewSample], whose: _Whose
) -> ImportResult:
    """Store everything in one transaction; images that came with a failed one are taken away again."""
    new_files: list[Path] = []
    try:
        # Before the transaction: nobody else can write while it lasts.
        placed = []
        for found, sample in zip(reading.found, samples, strict=True):
            uri, is_new = keep_image(folder, found.image, sample.pixel_size_m)
            new_files += [folder / uri] if is_new else []
            placed.append(sample.replace(uri=uri))
        with store.database.writing() as connection:
            # A store that does everything in this one transaction.
            inner = LabelStore(_OneTransaction(connection, store.database.name), whose.now)
            ids, answers = _written(inner, reading.found, placed, whose)
    except BaseException as error:
        for path in new_files:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RecordingError(f"{folder} cannot be written: {error.strerror or error}") from error
        if isinstance(error, ValueError):  # the store's own objections
            raise LabelFileError(f"{reading.root}: {error}") from error
        raise
    return ImportResult(tuple(dict.fromkeys(ids)), tuple(answers), tuple(reading.notes))


class _OneTransaction(Database):
    """A database of which everything is one transaction that somebody else begins and ends."""

    def __init__(self, connection: Connection, name: str) -> None:
        super().__init__(connection.engine, name)
        self._connection = connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        yield self._connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        yield self._connection


def _written(
    store: LabelStore, images: list[Found], samples: list[NewSample], whose: _Whose
) -> tuple[list[str], list[str]]:
    """Write samples and answers; return their ids."""
    person = _person(store, whose.annotator)
    schema_id = store.add_schema(whose.schema).id
    queue = LabelQueue(store, whose.now)
    ids: list[str] = []
    answers: list[str] = []
    for found, new in zip(images, samples, strict=True):
        sample = store.add_sample(new)
        ids.append(sample.id)
        records = _answers(found, whose, (sample.id, person.id, schema_id))
        answers += [queue.take_in(person, record).id for record in records]
    store.log("import", format=whose.format, annotator=person.name, samples=len(ids), answers=len(answers))
    return ids, answers


def _person(store: LabelStore, name: str) -> Annotator:
    """Return who an import is from: somebody who is known and may answer, or a new expert."""
    found = next((person for person in store.annotators() if person.name == name), None)
    if found is None:
        return store.add_annotator(name)
    if found.role in READ_ONLY:
        raise LabelFileError(f"{name!r} may look, but not answer (role {found.role!r}); name somebody else")
    return found


def _answers(found: Found, whose: _Whose, ids: tuple[str, str, str]) -> Iterator[AnswerRecord]:
    """Yield the answers that annotations of an image come to: what was drawn together, each tag by itself."""
    sample_id, annotator_id, schema_id = ids
    for person, theirs in found.said.items():
        drawn = [a for a in theirs if a.kind not in ABOUT_IMAGE]
        groups = [drawn[i : i + MAX_ANNOTATIONS] for i in range(0, len(drawn), MAX_ANNOTATIONS)]
        groups += [[a] for a in theirs if a.kind in ABOUT_IMAGE]
        for number, group in enumerate(groups):
            reply = Reply(annotations=tuple(group))
            said = f"{sample_id} {schema_id} {person} {number} {reply.model_dump_json()}"
            yield AnswerRecord(
                id=str(uuid.uuid4()),
                key=f"import {hashlib.sha256(said.encode()).hexdigest()}",
                request_id=None,
                sample_ids=(sample_id,),
                annotator_id=annotator_id,
                schema_id=schema_id,
                kind=_kind_of(group),
                reply=reply,
                arm="import",
                elapsed_s=0.0,
                idle_s=0.0,
                display=Display(),
                prefill_sha256=None,
                client=f"import {whose.format}",
                revises=None,
                is_kept=True,
                created_s=whose.now(),
            )


def _kind_of(annotations: list[Annotation]) -> QuestionKind:
    """Return the kind of question that annotations answer: their own, or a mask, which takes all kinds."""
    kinds = {annotation.kind for annotation in annotations}
    return kinds.pop() if len(kinds) == 1 else "mask"
