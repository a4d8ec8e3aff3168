"""COCO's JSON: outlines, boxes and run-length masks of many images in one file.

COCO's positions are ``(x, y)`` from the corner of the image, ours ``(y, x)`` from the centre of its first
pixel, so half a pixel lies between them. Its runs go down the columns. What COCO has no word for, such as
coverage, is under the key ``stedfast``, which other programs pass over.

Source: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", 2014; cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.core.settings import Fraction, Settings
from controller.labels.formats.label_images import mask_from
from controller.labels.formats.labelled import (
    ABOUT_IMAGE,
    LabelFileError,
    LabelledImages,
    Layer,
    LeftOut,
    first_problem,
    keeps_coverage,
    read_text,
)
from controller.labels.records import NewSample
from controller.learning.annotations import (
    AMBIGUOUS,
    MAX_OBJECTS,
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    ClassName,
    Coverage,
    LabelSchema,
    MaskAnnotation,
    PolygonAnnotation,
    Rectangle,
    ShapeYX,
)
from controller.learning.shapes import filled_polygon, objects_of

COCO_NAME = "labels.coco.json"
_HELD = ("box", "polygon", "mask")


class _Read(BaseModel):
    """COCO files hold more than is read here."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


class OwnImage(Settings):
    """What COCO has no word for, of an image."""

    sample: NewSample
    about_image: dict[str, tuple[Annotation, ...]] = Field(default_factory=dict)


class OwnAnnotation(Settings):
    """What COCO has no word for, of an annotation; those of one ``mask`` belong together."""

    person: Annotated[str, Field(max_length=200)] = ""
    coverage: Coverage = "marks"
    weight: Fraction = 1.0
    mask: int | None = None
    value: Annotated[int, Field(ge=1, le=MAX_OBJECTS)] = 1


class _Runs(_Read):
    size: tuple[int, int]
    counts: tuple[Annotated[int, Field(ge=0)], ...] | str


class CocoImage(_Read):
    """An image of a COCO file."""

    id: int
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    file_name: Annotated[str, Field(min_length=1, max_length=1000)]
    stedfast: OwnImage | None = None


class CocoCategory(_Read):
    """A class of a COCO file."""

    id: int
    name: ClassName


class CocoAnnotation(_Read):
    """An object, or a region of several (``iscrowd``), of a COCO file."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    segmentation: _Runs | tuple[tuple[float, ...], ...] = ()
    iscrowd: Annotated[int, Field(ge=0, le=1)] = 0
    stedfast: OwnAnnotation | None = None


class _OwnFile(Settings):
    label_schema: LabelSchema


class CocoFile(_Read):
    """A COCO file."""

    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    annotations: tuple[CocoAnnotation, ...] = ()
    stedfast: _OwnFile | None = None


def coco_of(labelled: LabelledImages) -> tuple[dict[str, Any], list[LeftOut]]:
    """Return the content of a COCO file, and what is not in it."""
    names = (*labelled.label_schema.classes, NOTHING_HERE, AMBIGUOUS)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    left_out: list[LeftOut] = []
    for number, image in enumerate(labelled.images, start=1):
        about: dict[str, Any] = {}
        for person, said in image.said.items():
            about |= {person: [a.model_dump(mode="json") for a in said if a.kind in ABOUT_IMAGE]}
            is_whole = keeps_coverage(image.name, person, said, _HELD, left_out)
            for order, annotation in enumerate(said):
                if annotation.kind in {"points", "scribble"}:
                    why = "COCO holds objects: boxes, polygons and masks"
                    left_out.append(LeftOut(image.name, person, annotation.kind, why))
                if isinstance(annotation, MaskAnnotation) and not any(v for v, _ in annotation.runs):
                    why = "nothing is marked in it, and COCO holds objects"
                    left_out.append(LeftOut(image.name, person, "mask", why))
                for fields in _entries(annotation, image.shape_yx, order):
                    own = fields.pop("stedfast")
                    coverage = annotation.model_dump(mode="json")["coverage"]
                    own |= {"person": person, "coverage": coverage if is_whole else "marks"}
                    fields["category_id"] = numbers[fields["category_id"]]
                    found.append({"id": len(found) + 1, "image_id": number, **fields, "stedfast": own})
        own_image = {
            "sample": image.sample.model_dump(mode="json", include=set(NewSample.model_fields)),
            "about_image": {person: found for person, found in about.items() if found},
        }
        rows, columns = image.shape_yx
        images.append(
            {
                "id": number,
                "width": columns,
                "height": rows,
                "file_name": f"{image.name}.tif",
                "stedfast": own_image,
            }
        )
    used = {one["category_id"] for one in found}
    keep = {numbers[name] for name in labelled.label_schema.classes} | used
    categories = [{"id": n, "name": name} for name, n in numbers.items() if n in keep]
    own_file = {"label_schema": labelled.label_schema.model_dump(mode="json")}
    content = {
        "images": images,
        "categories": categories,
        "annotations": found,
        "stedfast": own_file,
    }
    return content, left_out


def write_coco(labelled: LabelledImages, folder: Path) -> tuple[Path, list[LeftOut]]:
    """Write a COCO file; the images are written by whoever calls this."""
    content, left_out = coco_of(labelled)
    path = folder / COCO_NAME
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return path, left_out


def read_coco(path: Path) -> CocoFile:
    """Read a COCO file.

    Raises
    ------
    LabelFileError
        If it is none, or if an annotation is of an image or a class that it does not have.
    """
    try:
        content = CocoFile.model_validate_json(read_text(path))
    except ValidationError as error:
        raise LabelFileError(f"{path} is no COCO file: {first_problem(error)}") from error
    for what, numbers in (
        ("images", [image.id for image in content.images]),
        ("categories", [category.id for category in content.categories]),
    ):
        if len(set(numbers)) < len(numbers):
            raise LabelFileError(f"{path}: two of the {what} have the same id")
    images, categories = ({one.id for one in many} for many in (content.images, content.categories))
    for number, annotation in enumerate(content.annotations):
        if annotation.image_id not in images or annotation.category_id not in categories:
            raise LabelFileError(
                f"{path}: annotations.{number} is of image {annotation.image_id}, category "
                f"{annotation.category_id}; the file does not have both"
            )
    return content


def annotations_of(
    content: CocoFile, image: CocoImage, coverage: Coverage
) -> tuple[dict[str, tuple[Annotation, ...]], list[str]]:
    """Return what a COCO file says of an image by person, and what had to be changed.

    Parameters
    ----------
    coverage
        Where nothing was left out, if the file does not say.
    """
    names = {category.id: category.name for category in content.categories}
    shape = (image.height, image.width)
    said: dict[str, list[Annotation]] = defaultdict(list)
    masks: dict[tuple[Any, ...], list[tuple[CocoAnnotation, str, NDArray[np.intp]]]] = defaultdict(list)
    notes: list[str] = []
    for number, annotation in enumerate(content.annotations):
        if annotation.image_id != image.id:
            continue
        own = annotation.stedfast or OwnAnnotation(coverage=coverage)
        name = names[annotation.category_id]
        try:
            drawn = _drawn(annotation, name, own)
            if drawn is not None:
                said[own.person].append(drawn)
                continue
            if not isinstance(annotation.segmentation, _Runs):
                notes.append(f"{image.file_name}: the outlines of one object were filled to a mask")
            pixels = _pixels(annotation, shape)
        except (LabelFileError, ValidationError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise LabelFileError(f"annotations.{number}: {problem}") from error
        key = (own.person, own.mask, "" if own.mask is not None else name, annotation.iscrowd)
        masks[key].append((annotation, name, pixels))
    for (person, _, _, is_region), parts in masks.items():
        said[person] += _masks(parts, shape, coverage, is_region=bool(is_region))
    return {person: tuple(annotations) for person, annotations in said.items()}, notes


def _entries(annotation: Annotation, shape: ShapeYX, order: int) -> Iterator[dict[str, Any]]:
    """Yield what an annotation is in COCO, with the name of its category in place of the number."""
    own: dict[str, Any] = {"weight": annotation.weight}
    if isinstance(annotation, BoxAnnotation):
        box = annotation.extent
        y, x, height, width = box.y_min, box.x_min, box.y_max - box.y_min, box.x_max - box.x_min
        bbox = [x + 0.5, y + 0.5, width, height]
        yield {
            "category_id": annotation.class_name,
            "bbox": bbox,
            "area": width * height,
            "segmentation": [],
            "iscrowd": 0,
            "stedfast": own,
        }
    elif isinstance(annotation, PolygonAnnotation):
        corners = np.array(annotation.vertices_yx)[:, ::-1] + 0.5
        low, high = corners.min(axis=0), corners.max(axis=0)
        _, inside = filled_polygon(annotation.vertices_yx, shape)
        yield {
            "category_id": annotation.class_name,
            "bbox": [*low.tolist(), *(high - low).tolist()],
            "area": float(inside.sum()),
            "segmentation": [corners.ravel().tolist()],
            "iscrowd": 0,
            "stedfast": own,
        }
    elif isinstance(annotation, MaskAnnotation):
        values = annotation.to_array()
        (top, left), is_region = annotation.origin_yx, annotation.values == "classes"
        for value, (rows, columns) in objects_of(values):
            corner = np.array([left + columns.start, top + rows.start])
            found = corner + np.argwhere((values[rows, columns] == value).T)
            yield {
                "category_id": annotation.value_classes[value - 1 if is_region else 0],
                "bbox": [*found.min(axis=0).tolist(), *(np.ptp(found, axis=0) + 1).tolist()],
                "area": float(len(found)),
                "segmentation": {"size": list(shape), "counts": _counts(found, shape)},
                "iscrowd": int(is_region),
                "stedfast": {**own, "mask": order, "value": value},
            }


def _counts(columns_rows: NDArray[np.intp], shape: ShapeYX) -> list[int]:
    """Return runs down the columns, not marked and marked by turns, of pixels in that order."""
    places = columns_rows[:, 0] * shape[0] + columns_rows[:, 1]
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    first, last = places[np.r_[0, breaks]], places[np.r_[breaks - 1, -1]]
    edges = np.stack([first, last + 1], axis=1).ravel()
    return [int(n) for n in np.diff(np.r_[0, edges, shape[0] * shape[1]])]


def _drawn(annotation: CocoAnnotation, name: str, own: OwnAnnotation) -> Annotation | None:
    """Return a box or a polygon; ``None`` if it is neither."""
    how: dict[str, Any] = {"class_name": name, "coverage": own.coverage, "weight": own.weight}
    if isinstance(annotation.segmentation, _Runs) or len(annotation.segmentation) > 1:
        return None
    if annotation.segmentation:
        (ring,) = annotation.segmentation
        return PolygonAnnotation(vertices_yx=_corners(ring), **how)
    if annotation.bbox is None:
        raise LabelFileError("it has neither a segmentation nor a bbox")
    x, y, width, height = annotation.bbox
    extent = Rectangle(y_min=y - 0.5, x_min=x - 0.5, y_max=y + height - 0.5, x_max=x + width - 0.5)
    return BoxAnnotation(extent=extent, **how)


def _corners(ring: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    if len(ring) % 2:
        raise LabelFileError(f"an outline is x and y by turns, this has {len(ring)} numbers")
    return tuple((y - 0.5, x - 0.5) for x, y in zip(ring[::2], ring[1::2], strict=True))


def _pixels(annotation: CocoAnnotation, shape: ShapeYX) -> NDArray[np.intp]:
    """Return the pixels of an object, ``(row, column)``, shape ``(n, 2)``."""
    found = annotation.segmentation
    if not isinstance(found, _Runs):
        inside = np.zeros(shape, np.bool_)
        for ring in found:
            window, mask = filled_polygon(_corners(ring), shape)
            inside[window] |= mask
        return np.argwhere(inside)
    if isinstance(found.counts, str):
        raise LabelFileError("counts are text (compressed); write them as a list of numbers")
    if found.size != shape or sum(found.counts) != shape[0] * shape[1]:
        raise LabelFileError(
            f"the runs are of size {found.size} and hold {sum(found.counts)} pixels, the image has {shape}"
        )
    ends = np.cumsum(found.counts)
    runs = zip(ends[::2], ends[1::2], strict=False)
    places = np.concatenate([np.arange(0), *(np.arange(start, stop) for start, stop in runs)])
    return np.stack([places % shape[0], places // shape[0]], axis=1)


def _masks(
    parts: list[tuple[CocoAnnotation, str, NDArray[np.intp]]],
    shape: ShapeYX,
    coverage: Coverage,
    *,
    is_region: bool,
) -> list[Annotation]:
    """Return masks of objects that came one by one: as few as keep every object whole."""
    own = parts[0][0].stedfast or OwnAnnotation(coverage=coverage)
    canvases: list[NDArray[np.int32]] = []
    most = max(a.stedfast.value if a.stedfast else 0 for a, _, _ in parts)
    names = [parts[0][1]] * most
    for annotation, name, pixels in parts:
        place = tuple(pixels.T)
        canvas = next((c for c in canvases if not c[place].any()), None)
        if canvas is None:
            canvas = np.zeros(shape, np.int32)
            canvases.append(canvas)
        value = annotation.stedfast.value if annotation.stedfast else 1 if is_region else 1 + canvas.max()
        canvas[place] = value
        if annotation.stedfast:
            names[value - 1] = name
    used = tuple(names) if is_region and most else (parts[0][1],)
    layer = Layer(
        file="COCO",
        kind="labels",
        values="classes" if is_region else "objects",
        class_names=used,
        coverage=own.coverage,
        weight=own.weight,
    )
    return [mask_from(canvas, layer, shape) for canvas in canvases]
