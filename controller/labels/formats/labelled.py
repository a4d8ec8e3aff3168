"""Labelled images between the store and a file format, and the list of files that goes with an export.

Few formats say whom a label is from, where an annotator left nothing out, or how much it counts. So every
export but COCO's, which says it itself, has a ``labels.json`` beside its files that does; an import reads it
if it is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import Field, ValidationError

from controller.core.errors import StedfastError
from controller.core.settings import Fraction, Settings
from controller.labels.records import NewSample
from controller.learning.annotations import Annotation, ClassName, Coverage, LabelSchema, ShapeYX

MANIFEST_NAME = "labels.json"

#: Kinds of annotation that are about an image as a whole.
ABOUT_IMAGE = frozenset({"tag", "grades"})

#: Files larger than this are not labels of one project, or are meant to fill the memory.
MAX_FILE_BYTES = 2**26

FileName = Annotated[str, Field(min_length=1, max_length=1000)]


class LabelFileError(StedfastError):
    """A file of labels or an image cannot be read or written; nothing was stored."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that a format cannot hold, or holds in another way."""

    image: str
    person: str
    what: str
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """An image and what people said about it.

    Attributes
    ----------
    name
        Name of its files, without a suffix.
    pixels
        Shape ``(y, x)``, as the detector gave them, less the offset if they come from a store; ``None`` if
        they were not asked for.
    said
        Annotations by the name of who made them, in pixels of the image.
    """

    name: str
    sample: NewSample
    pixels: NDArray[Any] | None
    said: Mapping[str, tuple[Annotation, ...]]

    @property
    def shape_yx(self) -> ShapeYX:
        """Return the size in pixels."""
        return self.sample.roi.shape_yx


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images that share a schema, and what could not be taken along."""

    label_schema: LabelSchema
    images: tuple[LabelledImage, ...]
    left_out: tuple[LeftOut, ...] = ()


def keeps_coverage(
    image: str, person: str, theirs: Iterable[Annotation], held: Iterable[str], left_out: list[LeftOut]
) -> bool:
    """Tell whether what somebody vouched for is still true of the kinds of annotation that a format holds.

    Where something that was drawn is missing, what is not drawn is no longer background.
    """
    drawn = [annotation for annotation in theirs if annotation.kind not in ABOUT_IMAGE]
    if all(annotation.kind in held for annotation in drawn):
        return True
    if any(annotation.coverage != "marks" for annotation in drawn):
        why = "not true any more: other annotations of this person were left out"
        left_out.append(LeftOut(image, person, "coverage", why))
    return False


class Layer(Settings):
    """One file of labels about one image: from one person, of one weight and one coverage.

    ``values`` and ``class_names`` are what the numbers in it stand for, as in a mask annotation. A file of
    points or shapes has one class, one of polygons has their classes by number from 0.
    """

    file: FileName
    kind: Literal["labels", "points", "shapes", "polygons"]
    person: Annotated[str, Field(max_length=200)] = ""
    values: Literal["objects", "classes"] = "objects"
    class_names: Annotated[tuple[ClassName, ...], Field(min_length=1)]
    coverage: Coverage = "marks"
    weight: Fraction = 1.0


class ImageEntry(Settings):
    """The files of one image; ``about_image`` is what was said of it as a whole, by person."""

    name: FileName
    file: FileName | None
    sample: NewSample
    known_files: dict[str, FileName] = Field(default_factory=dict)
    """By person, a mask: 1 where their label files say what a pixel is, 0 where they said nothing."""
    layers: tuple[Layer, ...] = ()
    about_image: dict[str, tuple[Annotation, ...]] = Field(default_factory=dict)


class Manifest(Settings):
    """All files of an export."""

    stedfast_labels: Literal[1] = 1
    """Version of this list."""
    format: Annotated[str, Field(max_length=40)]
    label_schema: LabelSchema
    images: tuple[ImageEntry, ...]


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write the list of files of an export."""
    path = folder / MANIFEST_NAME
    path.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return path


def read_manifest(path: Path) -> Manifest:
    """Read the list of files of an export.

    Raises
    ------
    LabelFileError
        If it is none; the message names the first thing that is wrong.
    """
    try:
        return Manifest.model_validate_json(read_text(path))
    except ValidationError as error:
        raise LabelFileError(f"{path}: {first_problem(error)}") from error


def read_text(path: Path) -> str:
    """Return the text of a file of at most :data:`MAX_FILE_BYTES` bytes.

    Raises
    ------
    LabelFileError
        If it is absent, too large or no UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise LabelFileError(f"{path} has {size} bytes, allowed are {MAX_FILE_BYTES}; split it")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise LabelFileError(f"{path} is not text in UTF-8 (byte {error.start})") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    LabelFileError
        If it is none, holds ``NaN``, or is nested too deeply.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        return json.loads(read_text(path), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise LabelFileError(f"{path} is not readable as JSON: {error}") from error


def first_problem(error: ValidationError) -> str:
    """Return where the first problem of a validation is, and what it is, in a line."""
    found = error.errors(include_url=False)
    where = ".".join(str(part) for part in found[0]["loc"]) or "the whole"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{where}: {found[0]['msg']}{more}"


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that lies in a folder.

    Raises
    ------
    LabelFileError
        If the name leads out of the folder, or there is nothing.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        is_there = path.exists()
    except (OSError, ValueError) as error:  # a NUL, or a name too long for the file system
        raise LabelFileError(f"{name!r} is not a name of a file: {error}") from error
    if Path(name).is_absolute() or not path.is_relative_to(root):
        raise LabelFileError(
            f"{name!r} leads out of {folder}; name files by paths inside the import's folder"
        )
    if not is_there:
        raise LabelFileError(f"{folder} has no file {name!r}")
    return path


def file_name(text: str) -> str:
    """Return a name that every file system takes; different texts may come to the same."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:80] or "unnamed"
