"""Reads labels that were made elsewhere into a store, as answers of one person, or nothing at all.

What an export wrote is read by its ``labels.json``. Files of other programs are found by their names:

============ ==========================================================================================
label_tiff   ``cell.tif`` and ``cell_labels.tif``; numbers of objects, or of classes if several are named
ome_zarr     a folder with OME-Zarr images, or one itself; each label image is of one class
napari       a folder with one image, tables of points and shapes, and label images
ilastik      as label_tiff, the numbers being classes
polys        ``cell.tif`` and ``cell.polys.txt``
coco         a JSON file, its images beside it
============ ==========================================================================================
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from sqlalchemy import Connection

from controller.core.decision import QuestionKind
from controller.core.errors import RecordingError
from controller.core.settings import Positive, Settings
from controller.labels.database import Database
from controller.labels.formats.coco import CocoFile, annotations_of, read_coco
from controller.labels.formats.label_images import mask_from
from controller.labels.formats.labelled import (
    ABOUT_IMAGE,
    MANIFEST_NAME,
    ImageEntry,
    LabelFileError,
    Layer,
    Manifest,
    first_problem,
    inside,
    read_json,
    read_manifest,
)
from controller.labels.formats.napari import read_table
from controller.labels.formats.pictures import (
    ReadImage,
    checksum,
    keep_image,
    offset_of,
    read_image,
)
from controller.labels.formats.polygon_text import read_polygons
from controller.labels.queue import LabelQueue
from controller.labels.records import (
    MAX_ANNOTATIONS,
    READ_ONLY,
    Annotator,
    AnswerRecord,
    Display,
    Name,
    NewSample,
    Reply,
    Roi,
)
from controller.labels.store import LabelStore
from controller.learning.annotations import (
    AMBIGUOUS,
    NOTHING_HERE,
    Annotation,
    ClassName,
    GradesAnnotation,
    ImageAnnotations,
    LabelSchema,
    PolygonAnnotation,
    TagAnnotation,
)

IMPORT_FORMATS = ("label_tiff", "ome_zarr", "napari", "ilastik", "polys", "coco")
_IMAGES = (".tif", ".tiff")
_POLYGONS = ".polys.txt"


class ImportOptions(Settings):
    """What files of other programs do not say."""

    classes: tuple[ClassName, ...] = ()
    """Names of the classes in the order of their numbers: from 0 in polygons, from 1 in label images."""
    rename: dict[ClassName, ClassName] = Field(default_factory=dict)
    """Our name of a class by its name there; ``{"unclear rings": "ambiguous"}`` learns nothing from them."""
    coverage: Literal["marks", "image"] = "marks"
    """``image``: nothing was left out anywhere, so that what is not marked is background."""
    pixel_size_m: Positive | None = None
    """Needed where an image does not say it; it overrules what images say."""
    offset_units: float | None = None
    """What to subtract from pixels; without it images are looked at for an offset of 32768."""
    units_per_photon: Positive = 1.0
    session: Name | None = None
    """Name that the images get together; models are judged by whole fields of such a session."""
    modality: Name = "unknown"
    labels_suffix: Annotated[str, Field(min_length=1, max_length=40)] = "_labels"
    """``cell_labels.tif`` has the labels of ``cell.tif``."""


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


@dataclass(slots=True, eq=False)
class _Found:
    """An image and its labels, as far as they were read."""

    name: str
    image: ReadImage
    said: dict[str, tuple[Annotation, ...]]
    sample: NewSample | None = None


@dataclass(slots=True)
class _Reading:
    """An import while its files are read."""

    root: Path
    options: ImportOptions
    found: list[_Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    schema: LabelSchema | None = None


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
    reading = _Reading(source if source.is_dir() else source.parent, options or ImportOptions())
    manifest = source / MANIFEST_NAME
    if manifest.is_file() and format != "coco":
        _read_listed(reading, read_manifest(manifest), format)
    else:
        _READERS[format](reading, source)
    if not reading.found:
        raise LabelFileError(f"{source} has no labelled images in the format {format!r}")
    schema = _schema_of(reading)
    samples = [_sample(reading, found, source) for found in reading.found]
    for found in reading.found:
        found.said = {
            person: tuple(_renamed(annotation, reading.options.rename) for annotation in theirs)
            for person, theirs in found.said.items()
        }
        _check(found, schema)
    return _stored(store, folder, reading, samples, _Whose(annotator, schema, format, now))


def _read_listed(reading: _Reading, manifest: Manifest, format_name: str) -> None:
    """Read the files of an export by their list."""
    if manifest.format.removesuffix("_hdf5") != format_name:
        raise LabelFileError(f"{reading.root} was exported as {manifest.format!r}, not as {format_name!r}")
    reading.schema = manifest.label_schema
    for entry in manifest.images:
        if entry.file is None:
            raise LabelFileError(f"{entry.name} was exported without its image; labels need one")
        image = read_image(inside(reading.root, entry.file))
        said = {person: list(annotations) for person, annotations in entry.about_image.items()}
        for layer in entry.layers:
            said.setdefault(layer.person, []).extend(_read_layer(reading, entry, layer, image))
        together = {person: tuple(annotations) for person, annotations in said.items()}
        reading.found.append(_Found(entry.name, image, together, entry.sample))


def _read_layer(reading: _Reading, entry: ImageEntry, layer: Layer, image: ReadImage) -> list[Annotation]:
    path = inside(reading.root, layer.file)
    how: dict[str, Any] = {"coverage": layer.coverage, "weight": layer.weight}
    if layer.kind == "labels":
        return [_mask(path, layer, image)]
    if layer.kind == "polygons":
        return _polygons(path, layer.class_names, how)
    found, left_out = read_table(path, layer.class_names[0], how)
    reading.notes += [f"{entry.name}: {path.name}, {what}" for what in left_out]
    return found


def _read_pairs(reading: _Reading, _: Path, *, are_classes: bool = False) -> None:
    """Read ``cell.tif`` and ``cell_labels.tif``."""
    classes = _named_classes(reading, "the numbers in label images")
    suffix = reading.options.labels_suffix
    is_one = len(classes) == 1 and not are_classes
    for path in _files(reading.root, _IMAGES):
        if not path.stem.endswith(suffix):
            continue
        image = read_image(_partner(path, path.stem.removesuffix(suffix)))
        layer = Layer(
            file=path.name,
            kind="labels",
            values="objects" if is_one else "classes",
            class_names=classes,
            coverage=reading.options.coverage,
        )
        reading.found.append(
            _Found(path.stem.removesuffix(suffix), image, {"": (_mask(path, layer, image),)})
        )


def _read_polygon_files(reading: _Reading, _: Path) -> None:
    classes = _named_classes(reading, "the numbers in front of polygons")
    how = {"coverage": reading.options.coverage}
    for path in _files(reading.root, (_POLYGONS,)):
        name = path.name.removesuffix(_POLYGONS)
        image = read_image(_partner(path, name))
        said = tuple(_polygons(path, classes, how)) or _nothing(reading)
        if not said:
            reading.notes.append(f"{path.name} has no polygons; its image was left out")
            continue
        reading.found.append(_Found(name, image, {"": said}))


def _read_zarrs(reading: _Reading, source: Path) -> None:
    groups = (
        [source]
        if (source / "zarr.json").exists() or (source / ".zattrs").exists()
        else sorted(path.parent for pattern in ("*/zarr.json", "*/.zattrs") for path in source.glob(pattern))
    )
    for group in groups:
        image = read_image(group)
        said = []
        for number, name in enumerate(_label_names(group)):
            path = inside(group, f"labels/{name}")
            class_name = reading.options.classes[number : number + 1] or (Path(name).name,)
            layer = Layer(file=name, kind="labels", class_names=class_name, coverage=reading.options.coverage)
            said.append(_mask(path, layer, image))
        if said:
            reading.found.append(_Found(group.name.partition(".")[0], image, {"": tuple(said)}))
        else:
            reading.notes.append(f"{group.name} has no labels; it was left out")


def _label_names(group: Path) -> list[str]:
    for name in ("zarr.json", ".zattrs"):
        path = group / "labels" / name
        if path.exists():
            content = read_json(path)
            found = content.get("attributes", content) if isinstance(content, dict) else {}
            found = found.get("ome", found) if isinstance(found, dict) else {}
            names = found.get("labels", []) if isinstance(found, dict) else []
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise LabelFileError(f"{path}: labels must be a list of names")
            return names
    return []


def _read_napari(reading: _Reading, _: Path) -> None:
    options = reading.options
    suffix = options.labels_suffix
    images = [path for path in _files(reading.root, _IMAGES) if suffix not in path.stem]
    if len(images) != 1:
        raise LabelFileError(
            f"{reading.root}: one image is wanted beside napari's layers, found {len(images)}"
        )
    image = read_image(images[0])
    said: list[Annotation] = []
    one = options.classes[0] if len(options.classes) == 1 else None
    for path in _files(reading.root, (".csv",)):
        found, left_out = read_table(path, one, {"coverage": options.coverage})
        said += found
        reading.notes += [f"{path.name}, {what}" for what in left_out]
    for path in _files(reading.root, _IMAGES):
        if suffix in path.stem:
            layer = Layer(
                file=path.name,
                kind="labels",
                values="objects" if one else "classes",
                class_names=_named_classes(reading, "the numbers in label images"),
                coverage=options.coverage,
            )
            said.append(_mask(path, layer, image))
    if said:
        reading.found.append(_Found(images[0].stem, image, {"": tuple(said)}))


def _read_coco_file(reading: _Reading, source: Path) -> None:
    path = source
    if source.is_dir():
        files = _files(source, (".json",))
        if len(files) != 1:
            raise LabelFileError(f"{source} has {len(files)} JSON files; name the one to import")
        (path,) = files
    content: CocoFile = read_coco(path)
    if content.stedfast is not None:
        reading.schema = content.stedfast.label_schema
    for entry in content.images:
        image = read_image(inside(reading.root, entry.file_name))
        if image.pixels.shape != (entry.height, entry.width):
            raise LabelFileError(
                f"{entry.file_name} has the shape {image.pixels.shape}; {path.name} says "
                f"{(entry.height, entry.width)}"
            )
        options = reading.options
        try:
            said, notes = annotations_of(content, entry, options.coverage)
        except LabelFileError as error:
            raise LabelFileError(f"{path}, {error}") from error
        reading.notes += notes
        about = entry.stedfast.about_image if entry.stedfast else {}
        together = {who: (*about.get(who, ()), *said.get(who, ())) for who in {**about, **said}}
        if not together and _nothing(reading):
            together = {"": _nothing(reading)}
        if together:
            sample = entry.stedfast.sample if entry.stedfast else None
            reading.found.append(_Found(Path(entry.file_name).stem, image, together, sample))
        else:
            reading.notes.append(f"{entry.file_name} has no annotations; it was left out")


_READERS: dict[str, Callable[[_Reading, Path], None]] = {
    "label_tiff": _read_pairs,
    "ome_zarr": _read_zarrs,
    "napari": _read_napari,
    "ilastik": lambda reading, source: _read_pairs(reading, source, are_classes=True),
    "polys": _read_polygon_files,
    "coco": _read_coco_file,
}


def _files(root: Path, endings: Iterable[str]) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.name.lower().endswith(tuple(endings)) and p.is_file())


def _partner(path: Path, name: str) -> Path:
    """Return the image that a file of labels belongs to."""
    for ending in _IMAGES:
        image = path.with_name(f"{name}{ending}")
        if image.is_file():
            return image
    raise LabelFileError(f"{path} has labels, but there is no {name}.tif beside it")


def _nothing(reading: _Reading) -> tuple[Annotation, ...]:
    """Return what it means that nothing is drawn in an image: that nothing is there, if nothing was left out."""
    return (TagAnnotation(present=(NOTHING_HERE,)),) if reading.options.coverage == "image" else ()


def _named_classes(reading: _Reading, what: str) -> tuple[str, ...]:
    if not reading.options.classes:
        raise LabelFileError(f"{what} stand for classes; name them in their order (classes)")
    return reading.options.classes


def _mask(path: Path, layer: Layer, image: ReadImage) -> Annotation:
    rows, columns = image.pixels.shape
    try:
        return mask_from(read_image(path).pixels, layer, (rows, columns))
    except LabelFileError as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise LabelFileError(f"{where}{error}") from error


def _polygons(path: Path, classes: tuple[str, ...], how: dict[str, Any]) -> list[Annotation]:
    found: list[Annotation] = []
    for polygon in read_polygons(path):
        if polygon.class_number >= len(classes):
            raise LabelFileError(
                f"{path}, line {polygon.line}: there is no class {polygon.class_number}; named are 0 to "
                f"{len(classes) - 1}: {', '.join(classes)}"
            )
        name = classes[polygon.class_number]
        try:
            found.append(PolygonAnnotation(class_name=name, vertices_yx=polygon.vertices_yx, **how))
        except ValidationError as error:
            raise LabelFileError(f"{path}, line {polygon.line}: {first_problem(error)}") from error
    return found


def _renamed(annotation: Annotation, rename: dict[str, str]) -> Annotation:
    """Return an annotation under our names of the classes."""
    if annotation.kind == "mask":
        names = tuple(rename.get(name, name) for name in annotation.value_classes)
        return annotation.replace(value_classes=names)
    if isinstance(annotation, TagAnnotation | GradesAnnotation):
        return annotation
    return annotation.replace(class_name=rename.get(annotation.class_name, annotation.class_name))


def _schema_of(reading: _Reading) -> LabelSchema:
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


def _check(found: _Found, schema: LabelSchema) -> None:
    """Refuse annotations that do not fit their image."""
    rows, columns = found.image.pixels.shape
    for theirs in found.said.values():
        try:
            ImageAnnotations(shape_yx=(rows, columns), label_schema=schema, annotations=theirs)
        except ValidationError as error:
            raise LabelFileError(f"{found.name}: {first_problem(error)}") from error


def _sample(reading: _Reading, found: _Found, source: Path) -> NewSample:
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
    store: LabelStore, folder: Path, reading: _Reading, samples: list[NewSample], whose: _Whose
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
    store: LabelStore, images: list[_Found], samples: list[NewSample], whose: _Whose
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


def _answers(found: _Found, whose: _Whose, ids: tuple[str, str, str]) -> Iterator[AnswerRecord]:
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
