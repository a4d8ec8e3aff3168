"""Masks and polygons as label images: label TIFF, OME-Zarr labels, and what ilastik reads.

A pixel that is 0 in a label image is not marked. Whether that means that nothing is there says the coverage
of the layer; so that nobody takes it for background by mistake, a mask of what is known is written beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from controller.labels.formats.labelled import (
    ABOUT_IMAGE,
    ImageEntry,
    LabelFileError,
    LabelledImage,
    Layer,
    LeftOut,
    file_name,
    first_problem,
    keeps_coverage,
)
from controller.labels.formats.pictures import write_tiff
from controller.learning.annotations import (
    MAX_OBJECTS,
    NOTHING_HERE,
    Annotation,
    Coverage,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    PolygonAnnotation,
    ShapeYX,
)
from controller.learning.rasterise import rasterise
from controller.learning.shapes import filled_polygon

_NGFF = "0.5"
_HELD = frozenset({"mask", "polygon"})


@dataclass(slots=True, eq=False)
class Plane:
    """A label image while objects are put into it, int32, shape ``(y, x)``."""

    person: str
    values: Literal["objects", "classes"]
    class_names: tuple[str, ...]
    coverage: Coverage
    weight: float
    image: NDArray[np.int32] = field(repr=False)

    def takes(self, other: Plane) -> bool:
        """Tell whether the objects of another plane fit between those of this one."""
        alike = (
            self.values == other.values == "objects"
            and (self.person, self.class_names, self.coverage, self.weight)
            == (other.person, other.class_names, other.coverage, other.weight)
            and int(self.image.max()) + int(other.image.max()) <= MAX_OBJECTS
        )
        return alike and not ((self.image > 0) & (other.image > 0)).any()

    def put_in(self, other: Plane) -> None:
        """Add the objects of another plane under new numbers."""
        marked = other.image > 0
        self.image[marked] = other.image[marked] + self.image.max()

    def layer(self, name: str) -> Layer:
        """Return the entry of this plane in the list of files."""
        return Layer(
            file=name,
            kind="labels",
            person=self.person,
            values=self.values,
            class_names=self.class_names,
            coverage=self.coverage,
            weight=self.weight,
        )

    def stored(self) -> NDArray[Any]:
        """Return the image in the smallest type that every program reads."""
        return self.image.astype(np.uint16 if self.image.max() <= 65535 else np.uint32)


def planes_of(
    image: LabelledImage, elsewhere: frozenset[str] = frozenset()
) -> tuple[list[Plane], list[LeftOut]]:
    """Return the label images of an image, as few as hold every object whole, and what is not in them.

    Annotations of the kinds ``elsewhere`` are in other files.
    """
    planes: list[Plane] = []
    left_out: list[LeftOut] = []
    for person, theirs in image.said.items():
        own: list[Plane] = []
        is_whole = keeps_coverage(image.name, person, theirs, _HELD | elsewhere, left_out)
        for annotation in theirs:
            if annotation.kind in ABOUT_IMAGE | elsewhere:
                continue
            if not isinstance(annotation, MaskAnnotation | PolygonAnnotation):
                why = "label images hold areas: masks and polygons"
                left_out.append(LeftOut(image.name, person, annotation.kind, why))
                continue
            if isinstance(annotation, PolygonAnnotation):
                left_out.append(LeftOut(image.name, person, "polygon", "written as the pixels inside it"))
            new = _plane_of(annotation, person, image.shape_yx)
            new.coverage = annotation.coverage if is_whole else "marks"
            room = next((plane for plane in own if plane.takes(new)), None)
            if room is None:
                own.append(new)
            else:
                room.put_in(new)
        planes += own
    return planes, left_out


def _plane_of(annotation: MaskAnnotation | PolygonAnnotation, person: str, shape: ShapeYX) -> Plane:
    canvas = np.zeros(shape, np.int32)
    if isinstance(annotation, MaskAnnotation):
        (y, x), (rows, columns) = annotation.origin_yx, annotation.shape_yx
        canvas[y : y + rows, x : x + columns] = annotation.to_array()
        values, names = annotation.values, annotation.value_classes
    else:
        window, inside = filled_polygon(annotation.vertices_yx, shape)
        canvas[window][inside] = 1
        values, names = "objects", (annotation.class_name,)
    return Plane(person, values, names, annotation.coverage, annotation.weight, canvas)


def known_pixels(theirs: Iterable[Annotation], shape: ShapeYX, schema: LabelSchema) -> NDArray[np.uint8]:
    """Return 1 where label images say what a pixel is, 0 where they do not, shape ``(y, x)``.

    A pixel under a click is of a class that no label image shows, so it is unknown there.
    """
    everything = tuple(theirs)
    shown = tuple(a for a in everything if a.kind in _HELD)
    said, in_areas = (
        rasterise(ImageAnnotations(shape_yx=shape, label_schema=schema, annotations=some)).classes
        for some in (everything, shown)
    )
    return np.asarray((said == 0) | (said > 0) & (said == in_areas), np.uint8)


def mask_from(array: NDArray[Any], layer: Layer, shape: ShapeYX) -> MaskAnnotation:
    """Return a label image that was read as a mask.

    Raises
    ------
    LabelFileError
        If it has another shape than its image, or holds anything but numbers of objects or classes.
    """
    if tuple(array.shape) != shape:
        raise LabelFileError(f"the labels have the shape {tuple(array.shape)}, their image has {shape}")
    if array.dtype.kind not in "biu":
        raise LabelFileError(f"labels are whole numbers, these are {array.dtype}; save them as integers")
    lowest, highest = int(array.min()), int(array.max())
    most = MAX_OBJECTS if layer.values == "objects" else len(layer.class_names)
    if lowest < 0 or highest > most:
        named = "" if layer.values == "objects" else f" ({', '.join(layer.class_names)})"
        raise LabelFileError(f"labels go from {lowest} to {highest}, allowed are 0 to {most}{named}")
    try:
        return MaskAnnotation.from_array(
            array,
            values=layer.values,
            value_classes=layer.class_names,
            coverage=layer.coverage,
            weight=layer.weight,
        )
    except ValidationError as error:
        raise LabelFileError(f"labels: {first_problem(error)}") from error


def write_label_tiff(
    image: LabelledImage, folder: Path, schema: LabelSchema, elsewhere: frozenset[str] = frozenset()
) -> tuple[ImageEntry, list[Path], list[LeftOut]]:
    """Write an image and its label images as TIFF: 16 or 32 bit, one for each class of each person."""
    planes, left_out = planes_of(image, elsewhere)
    written = write_pixels(image, folder)
    layers = []
    for number, plane in enumerate(planes):
        name = f"{_plane_name(image, plane, number)}.tif"
        written.append(write_tiff(folder / name, plane.stored(), image.sample.pixel_size_m))
        layers.append(plane.layer(name))
    known = {}
    for number, (person, theirs) in enumerate(image.said.items()):
        name = f"{image.name}_known_{number}.tif"
        pixels = known_pixels(theirs, image.shape_yx, schema)
        written.append(write_tiff(folder / name, pixels, image.sample.pixel_size_m))
        known[person] = name
    return entry_of(image, layers, known=known), written, left_out


def write_ilastik(
    image: LabelledImage, folder: Path, schema: LabelSchema, *, as_hdf5: bool
) -> tuple[ImageEntry, list[Path], list[LeftOut]]:
    """Write an image and the class of each pixel, 0 where nobody said it, 1 for background.

    What was drawn comes as pixels; with ``as_hdf5`` there is an HDF5 with ilastik's axes beside each TIFF.
    """
    written = write_pixels(image, folder)
    layers, left_out = [], []
    for number, (person, theirs) in enumerate(image.said.items()):
        for annotation in theirs:
            if annotation.kind in {"box", "grades", "tag"} and annotation.class_names != (NOTHING_HERE,):
                why = "ilastik's labels are the classes of single pixels"
                left_out.append(LeftOut(image.name, person, annotation.kind, why))
            elif annotation.kind != "mask":
                why = "written as the class of each pixel"
                left_out.append(LeftOut(image.name, person, annotation.kind, why))
        if any(annotation.weight < 1 for annotation in theirs):
            left_out.append(LeftOut(image.name, person, "weight", "ilastik's labels all count alike"))
        # Boxes, too: what lies in one is not background, whatever its class.
        said = ImageAnnotations(shape_yx=image.shape_yx, label_schema=schema, annotations=theirs)
        classes = (rasterise(said).classes + 1).astype(np.uint8)
        name = f"{image.name}_ilastik_{number}"
        written.append(write_tiff(folder / f"{name}.tif", classes, image.sample.pixel_size_m))
        if as_hdf5:
            written.append(_write_hdf5(folder / f"{name}.h5", classes))
        names = schema.names[:-1]
        layer = Layer(file=f"{name}.tif", kind="labels", person=person, values="classes", class_names=names)
        layers.append(layer)
    return entry_of(image, layers, with_tags=False), written, left_out


def _write_hdf5(path: Path, classes: NDArray[np.uint8]) -> Path:
    try:
        import h5py  # type: ignore[import-not-found]
    except ImportError as error:
        raise LabelFileError(
            "ilastik_hdf5 needs h5py (pip install h5py); the format 'ilastik' writes the same as TIFF"
        ) from error
    axes = [{"key": key, "typeFlags": 2, "resolution": 0, "description": ""} for key in "yx"]
    with h5py.File(path, "x") as file:
        data = file.create_dataset("exported_data", data=classes)
        data.attrs["axistags"] = json.dumps({"axes": axes})
    return path


def write_ome_zarr(image: LabelledImage, folder: Path) -> tuple[ImageEntry, list[Path], list[LeftOut]]:
    """Write an image and its label images as an OME-Zarr (NGFF 0.5) folder of its own.

    Raises
    ------
    LabelFileError
        If the pixels are not at hand: NGFF has no labels without an image.
    """
    if image.pixels is None:
        raise LabelFileError(f"{image.name}: OME-Zarr keeps labels inside their image; export with images")
    planes, left_out = planes_of(image)
    path = folder / f"{image.name}.ome.zarr"
    _write_group(path, image.pixels, image, {})
    layers = []
    for number, plane in enumerate(planes):
        name = _plane_name(image, plane, number)
        layer = plane.layer(f"{path.name}/labels/{name}")
        properties: list[dict[str, Any]] = [
            {"label-value": value, "class": plane.class_names[0 if plane.values == "objects" else value - 1]}
            for value in np.unique(plane.image[plane.image > 0]).tolist()
        ]
        meaning: dict[str, Any] = {"version": _NGFF, "source": {"image": "../../"}}
        if properties:
            meaning["properties"] = properties
        _write_group(path / "labels" / name, plane.stored(), image, {"image-label": meaning})
        layers.append(layer)
    if layers:
        import zarr

        names = [Path(layer.file).name for layer in layers]
        group = zarr.open_group(store=path / "labels", mode="a", zarr_format=3)
        group.attrs["ome"] = {"version": _NGFF, "labels": names}
    return entry_of(image, layers, file=path.name), [path], left_out


def _write_group(path: Path, pixels: NDArray[Any], image: LabelledImage, more: dict[str, Any]) -> None:
    import zarr

    step = image.sample.pixel_size_m * 1e6
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [step, step]}]
    scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    group = zarr.create_group(store=path, zarr_format=3)
    group.create_array("0", data=pixels, chunks=pixels.shape, dimension_names=("y", "x"))
    ome: dict[str, Any] = {"version": _NGFF, "multiscales": scales, **more}
    group.attrs["ome"] = ome


def _plane_name(image: LabelledImage, plane: Plane, number: int) -> str:
    what = plane.class_names[0] if len(plane.class_names) == 1 else plane.values
    return f"{image.name}_labels_{number}_{file_name(what)}"


def write_pixels(image: LabelledImage, folder: Path) -> list[Path]:
    """Write the pixels of an image as TIFF, if they are at hand."""
    if image.pixels is None:
        return []
    return [write_tiff(folder / f"{image.name}.tif", image.pixels, image.sample.pixel_size_m)]


def entry_of(
    image: LabelledImage,
    layers: Iterable[Layer],
    *,
    known: dict[str, str] | None = None,
    file: str | None = None,
    with_tags: bool = True,
) -> ImageEntry:
    """Return the entry of an image in the list of files."""
    if file is None and image.pixels is not None:
        file = f"{image.name}.tif"
    about = {
        person: tuple(a for a in annotations if a.kind in ABOUT_IMAGE)
        for person, annotations in image.said.items()
        if with_tags
    }
    return ImageEntry(
        name=image.name,
        file=file,
        sample=image.sample,
        known_files=known or {},
        layers=tuple(layers),
        about_image={person: found for person, found in about.items() if found},
    )
