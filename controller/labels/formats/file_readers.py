"""Reads images and labels from the files of an import, before anything is stored.

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

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from controller.core.settings import Positive, Settings
from controller.labels.formats.coco import CocoFile, annotations_of, read_coco
from controller.labels.formats.label_images import mask_from
from controller.labels.formats.labelled import (
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
    read_image,
)
from controller.labels.formats.polygon_text import read_polygons
from controller.labels.records import (
    Name,
    NewSample,
)
from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    ClassName,
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


@dataclass(slots=True, eq=False)
class Found:
    """An image and its labels, as far as they were read."""

    name: str
    image: ReadImage
    said: dict[str, tuple[Annotation, ...]]
    sample: NewSample | None = None


@dataclass(slots=True)
class Reading:
    """An import while its files are read."""

    root: Path
    options: ImportOptions
    found: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    schema: LabelSchema | None = None


def read_files(reading: Reading, source: Path, format_name: str) -> None:
    """Read all images and labels of an import; those of an export by its list of files.

    Raises
    ------
    LabelFileError
        If anything is wrong with them, or there are none.
    """
    manifest = source / MANIFEST_NAME
    if manifest.is_file() and format_name != "coco":
        _read_listed(reading, read_manifest(manifest), format_name)
    else:
        _READERS[format_name](reading, source)
    if not reading.found:
        raise LabelFileError(f"{source} has no labelled images in the format {format_name!r}")


def _read_listed(reading: Reading, manifest: Manifest, format_name: str) -> None:
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
        reading.found.append(Found(entry.name, image, together, entry.sample))


def _read_layer(reading: Reading, entry: ImageEntry, layer: Layer, image: ReadImage) -> list[Annotation]:
    path = inside(reading.root, layer.file)
    how: dict[str, Any] = {"coverage": layer.coverage, "weight": layer.weight}
    if layer.kind == "labels":
        return [_mask(path, layer, image)]
    if layer.kind == "polygons":
        return _polygons(path, layer.class_names, how)
    found, left_out = read_table(path, layer.class_names[0], how)
    reading.notes += [f"{entry.name}: {path.name}, {what}" for what in left_out]
    return found


def _read_pairs(reading: Reading, _: Path, *, are_classes: bool = False) -> None:
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
        reading.found.append(Found(path.stem.removesuffix(suffix), image, {"": (_mask(path, layer, image),)}))


def _read_polygon_files(reading: Reading, _: Path) -> None:
    classes = _named_classes(reading, "the numbers in front of polygons")
    how = {"coverage": reading.options.coverage}
    for path in _files(reading.root, (_POLYGONS,)):
        name = path.name.removesuffix(_POLYGONS)
        image = read_image(_partner(path, name))
        said = tuple(_polygons(path, classes, how)) or _nothing(reading)
        if not said:
            reading.notes.append(f"{path.name} has no polygons; its image was left out")
            continue
        reading.found.append(Found(name, image, {"": said}))


def _read_zarrs(reading: Reading, source: Path) -> None:
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
            reading.found.append(Found(group.name.partition(".")[0], image, {"": tuple(said)}))
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


def _read_napari(reading: Reading, _: Path) -> None:
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
        reading.found.append(Found(images[0].stem, image, {"": tuple(said)}))


def _read_coco_file(reading: Reading, source: Path) -> None:
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
            reading.found.append(Found(Path(entry.file_name).stem, image, together, sample))
        else:
            reading.notes.append(f"{entry.file_name} has no annotations; it was left out")


_READERS: dict[str, Callable[[Reading, Path], None]] = {
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


def _nothing(reading: Reading) -> tuple[Annotation, ...]:
    """Return what it means that nothing is drawn: that nothing is there, if nothing was left out."""
    return (TagAnnotation(present=(NOTHING_HERE,)),) if reading.options.coverage == "image" else ()


def _named_classes(reading: Reading, what: str) -> tuple[str, ...]:
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
