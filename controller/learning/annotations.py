"""What people say about an image, as they say it: tags, points, scribbles, boxes, polygons, masks.

Coordinates are ``(y, x)`` in pixels of the image. The centre of its first pixel is at (0, 0), so an
image of ``(rows, columns)`` reaches from -0.5 to ``rows - 0.5`` and ``columns - 0.5``.

Nothing follows from what was not marked, unless the annotator vouches for it: ``coverage`` is where
nothing of the schema's classes was left out. Outside it a pixel without a mark is unknown, never
background: a network that is taught otherwise learns to leave out what the annotator had no time for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from controller.core.settings import MAX_PIXELS, Fraction, Settings

#: The two classes that every schema has. The first is background, the second is never learned from.
NOTHING_HERE = "nothing here"
AMBIGUOUS = "ambiguous"

#: More than a person draws, and little enough to be checked and filled at once.
MAX_VERTICES = 10_000
MAX_POINTS = 100_000
MAX_ANNOTATIONS = 10_000
MAX_RUNS = 500_000
MAX_OBJECTS = 100_000
MAX_MASK_PIXELS = 2**24
MAX_PAINTED_PIXELS = 2**26
MAX_CLASSES = 64
MAX_PARTS = 1000
MAX_WIDTH_PX = 200.0

ClassName = Annotated[str, Field(min_length=1, max_length=80)]
PointYX = tuple[float, float]
Points = Annotated[tuple[PointYX, ...], Field(min_length=1, max_length=MAX_POINTS)]
Vertices = Annotated[tuple[PointYX, ...], Field(min_length=1, max_length=MAX_VERTICES)]
Outline = Annotated[tuple[PointYX, ...], Field(min_length=3, max_length=MAX_VERTICES)]
Length = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
ShapeYX = tuple[Length, Length]
#: A value and how many pixels in a row have it.
Run = tuple[Annotated[int, Field(ge=0, le=MAX_OBJECTS)], Annotated[int, Field(ge=1, le=MAX_MASK_PIXELS)]]


def checked_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of classes; ``ValueError`` if they could be taken for each other."""
    for name in classes:
        if name in {NOTHING_HERE, AMBIGUOUS}:
            raise ValueError(f"{name!r} is part of every schema; leave it out of classes")
        if name != name.strip() or classes.count(name) > 1:
            raise ValueError(f"classes need names that differ, without spaces around them; got {name!r}")
    return classes


class LabelSchema(Settings):
    """What can be said of a pixel: :data:`NOTHING_HERE`, one of the ``classes``, or :data:`AMBIGUOUS`."""

    classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=MAX_CLASSES - 1)]
    """Kinds of structure that exclude each other in a pixel; the two reserved names are not among them."""

    @field_validator("classes")
    @classmethod
    def _differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return checked_classes(classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Return everything an annotation may say."""
        return NOTHING_HERE, *self.classes, AMBIGUOUS

    @property
    def count(self) -> int:
        """Return how many classes a network tells apart, background among them."""
        return 1 + len(self.classes)

    def index(self, name: str) -> int:
        """Return the number of a class: 0 for background, -1 for :data:`AMBIGUOUS`.

        Raises
        ------
        ValueError
            If the schema has no such class.
        """
        if name == AMBIGUOUS:
            return -1
        if name not in self.names:
            raise ValueError(
                f"there is no class {name!r}; this schema has {', '.join(map(repr, self.names))}"
            )
        return self.names.index(name)


class Rectangle(Settings):
    """A part of an image by its edges, in pixels; it holds the pixels whose centres lie inside."""

    y_min: float
    x_min: float
    y_max: float
    x_max: float

    @model_validator(mode="after")
    def _has_an_area(self) -> Self:
        if not (self.y_min < self.y_max and self.x_min < self.x_max):
            raise ValueError(
                f"y_min..y_max = {self.y_min:g}..{self.y_max:g} and x_min..x_max = {self.x_min:g}.."
                f"{self.x_max:g} must both go upwards"
            )
        return self

    @property
    def corners(self) -> tuple[PointYX, PointYX]:
        """Return the first and the last corner, ``(y, x)``."""
        return (self.y_min, self.x_min), (self.y_max, self.x_max)


#: Where an annotation left nothing out: nowhere but in its own marks, in the whole image, or in parts of it.
Coverage = (
    Literal["marks", "image"] | Annotated[tuple[Rectangle, ...], Field(min_length=1, max_length=MAX_PARTS)]
)


class _Annotation(Settings):
    """What all kinds have; each kind adds its marks."""

    weight: Fraction = 1.0
    """How much it counts, such as the confidence of a consensus."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes it speaks of."""
        raise NotImplementedError

    @property
    def places(self) -> tuple[PointYX, ...]:
        """Return positions ``(y, x)`` that must lie in the image."""
        return ()


class _Mark(_Annotation):
    """Something drawn, of one class."""

    class_name: ClassName
    """:data:`NOTHING_HERE` makes it explicit background, :data:`AMBIGUOUS` unlabelled for good."""
    coverage: Coverage = "marks"

    @property
    def class_names(self) -> tuple[str, ...]:
        return (self.class_name,)


class TagAnnotation(_Annotation):
    """What is in the image, and what is not; classes that are not mentioned are unknown.

    ``present=("nothing here",)`` says that all of the image is background.
    """

    kind: Literal["tag"] = "tag"
    present: Annotated[tuple[ClassName, ...], Field(max_length=MAX_CLASSES)] = ()
    absent: Annotated[tuple[ClassName, ...], Field(max_length=MAX_CLASSES)] = ()
    ambiguous: Annotated[tuple[ClassName, ...], Field(max_length=MAX_CLASSES)] = ()
    """Looked for, without a result: kept for the record, not learned from."""
    coverage: Literal["image"] = "image"

    @model_validator(mode="after")
    def _says_each_once(self) -> Self:
        said = self.class_names
        if not said:
            raise ValueError("a tag needs a class in present, absent or ambiguous")
        twice = sorted({name for name in said if said.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} is said twice; a class is present, absent or ambiguous")
        if AMBIGUOUS in said or NOTHING_HERE in self.absent + self.ambiguous:
            raise ValueError(f"present may hold {NOTHING_HERE!r}; otherwise name the classes themselves")
        if NOTHING_HERE in self.present and len(self.present) > 1:
            raise ValueError(f"present = {list(self.present)}: {NOTHING_HERE!r} excludes the others")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.present + self.absent + self.ambiguous


class GradesAnnotation(_Annotation):
    """How much of each class is in the image, from 0 (none) to 1 (clearly); others are unknown."""

    kind: Literal["grades"] = "grades"
    grades: Annotated[dict[ClassName, Fraction], Field(min_length=1, max_length=MAX_CLASSES)]
    ambiguous: Annotated[tuple[ClassName, ...], Field(max_length=MAX_CLASSES)] = ()
    """Looked for, without a result: kept for the record, not learned from."""
    coverage: Literal["image"] = "image"

    @model_validator(mode="after")
    def _says_each_once(self) -> Self:
        twice = sorted(set(self.grades) & set(self.ambiguous))
        if twice or len(set(self.ambiguous)) < len(self.ambiguous):
            raise ValueError(f"{(twice or list(self.ambiguous))[0]!r} is said twice: graded, or ambiguous")
        reserved = {NOTHING_HERE, AMBIGUOUS} & set(self.class_names)
        if reserved:
            raise ValueError(f"grades are for the classes themselves, not for {min(reserved)!r}")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        return *self.grades, *self.ambiguous


class PointsAnnotation(_Mark):
    """Clicks on objects, one each, or on background."""

    kind: Literal["points"] = "points"
    points_yx: Points

    @property
    def places(self) -> tuple[PointYX, ...]:
        return self.points_yx


class ScribbleAnnotation(_Mark):
    """A stroke that stays inside an object, or inside the background; one vertex makes a dot."""

    kind: Literal["scribble"] = "scribble"
    vertices_yx: Vertices
    width_px: Annotated[float, Field(gt=0, le=MAX_WIDTH_PX)] = 1.0

    @property
    def places(self) -> tuple[PointYX, ...]:
        return self.vertices_yx


class BoxAnnotation(_Mark):
    """A tight box about one object: the object touches all four sides."""

    kind: Literal["box"] = "box"
    extent: Rectangle

    @property
    def places(self) -> tuple[PointYX, ...]:
        return self.extent.corners


class PolygonAnnotation(_Mark):
    """The outline of one object, closed from its last vertex to its first.

    It may cross itself, as outlines by hand do; a pixel is inside by the even-odd rule.
    """

    kind: Literal["polygon"] = "polygon"
    vertices_yx: Outline

    @field_validator("vertices_yx")
    @classmethod
    def _is_no_line(cls, vertices: tuple[PointYX, ...]) -> tuple[PointYX, ...]:
        # The area between the lines would be 0 for a symmetric figure of eight, which has an inside.
        centred = np.subtract(vertices, np.mean(vertices, axis=0))
        if not np.linalg.svd(centred, compute_uv=False)[1] > 1e-6:
            raise ValueError("the vertices of a polygon lie on one line; it has no inside")
        return vertices

    @property
    def places(self) -> tuple[PointYX, ...]:
        return self.vertices_yx


class MaskAnnotation(_Annotation):
    """Pixels painted one by one, as runs of equal values, row by row. The value 0 is: not painted.

    With ``values="objects"`` a value is the number of an object of the one class in ``value_classes``;
    with ``"classes"`` the value v is the class ``value_classes[v - 1]``.
    """

    kind: Literal["mask"] = "mask"
    shape_yx: ShapeYX
    origin_yx: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)
    """Pixel of the image where the mask's first pixel lies."""
    runs: Annotated[tuple[Run, ...], Field(min_length=1, max_length=MAX_RUNS)]
    values: Literal["objects", "classes"] = "objects"
    value_classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=MAX_CLASSES + 1)]
    coverage: Coverage = "marks"

    @model_validator(mode="after")
    def _fills_its_shape(self) -> Self:
        pixels = self.shape_yx[0] * self.shape_yx[1]
        if pixels > MAX_MASK_PIXELS:
            raise ValueError(f"a mask of {self.shape_yx} has {pixels} pixels, allowed are {MAX_MASK_PIXELS}")
        held = sum(length for _, length in self.runs)
        if held != pixels:
            raise ValueError(f"the runs hold {held} pixels, a mask of {self.shape_yx} has {pixels}")
        names = len(self.value_classes)
        if self.values == "objects" and names != 1:
            raise ValueError(f"objects are of one class, got {names}; draw one mask for each class")
        highest = max(value for value, _ in self.runs)
        if self.values == "classes" and highest > names:
            raise ValueError(f"the value {highest} has no class; value_classes has {names}")
        return self

    @classmethod
    def from_array(cls, image: NDArray[Any], **fields: Any) -> Self:
        """Make a mask of a label image, shape ``(y, x)``, whole numbers ≥ 0; ``fields`` are the others."""
        array = np.asarray(image)
        if array.ndim != 2 or not array.size or array.dtype.kind not in "biu":
            raise ValueError(f"a mask is a 2-D image of whole numbers, got {array.dtype} {array.shape}")
        flat = array.ravel()
        starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
        lengths = np.diff(np.append(starts, flat.size))
        runs = tuple(zip(flat[starts].astype(int).tolist(), lengths.tolist(), strict=True))
        return cls(shape_yx=(array.shape[0], array.shape[1]), runs=runs, **fields)

    def to_array(self) -> NDArray[np.int32]:
        """Return the label image, shape ``shape_yx``."""
        values, lengths = np.array(self.runs, np.int64).T
        return np.repeat(values, lengths).astype(np.int32).reshape(self.shape_yx)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.value_classes

    @property
    def places(self) -> tuple[PointYX, ...]:
        (y, x), (rows, columns) = self.origin_yx, self.shape_yx
        return (y, x), (y + rows - 1, x + columns - 1)


#: One answer about an image; its ``kind`` says which.
Annotation = Annotated[
    TagAnnotation
    | GradesAnnotation
    | PointsAnnotation
    | ScribbleAnnotation
    | BoxAnnotation
    | PolygonAnnotation
    | MaskAnnotation,
    Field(discriminator="kind"),
]


class ImageAnnotations(Settings):
    """All that is known about one image; refused as a whole if one annotation does not fit it."""

    shape_yx: ShapeYX
    label_schema: LabelSchema
    annotations: Annotated[tuple[Annotation, ...], Field(max_length=MAX_ANNOTATIONS)] = ()

    @model_validator(mode="after")
    def _fit_the_image(self) -> Self:
        rows, columns = self.shape_yx
        if rows * columns > MAX_PIXELS:
            raise ValueError(f"an image of {self.shape_yx} has more than {MAX_PIXELS} pixels")
        painted = sum(a.shape_yx[0] * a.shape_yx[1] for a in self.annotations if a.kind == "mask")
        if painted > MAX_PAINTED_PIXELS:
            raise ValueError(f"the masks have {painted} pixels together, allowed are {MAX_PAINTED_PIXELS}")
        parts = {part for a in self.annotations if isinstance(a.coverage, tuple) for part in a.coverage}
        if len(parts) > MAX_PARTS:
            raise ValueError(f"coverage has {len(parts)} different parts, allowed are {MAX_PARTS}")
        for number, annotation in enumerate(self.annotations):
            where = f"annotations[{number}] ({annotation.kind})"
            for name in annotation.class_names:
                if name not in self.label_schema.names:
                    names = ", ".join(map(repr, self.label_schema.names))
                    raise ValueError(f"{where}: there is no class {name!r}; the schema has {names}")
            self._check_inside(annotation, where)
        return self

    def _check_inside(self, annotation: Annotation, where: str) -> None:
        """Refuse positions outside the image: they were meant for another one."""
        places = list(annotation.places)
        if isinstance(annotation.coverage, tuple):
            places += [corner for part in annotation.coverage for corner in part.corners]
        if not places:
            return
        found, last = np.array(places), np.array(self.shape_yx) - 0.5
        outside = ~((found >= -0.5) & (found <= last)).all(axis=1)
        if outside.any():
            y, x = found[np.argmax(outside)]
            raise ValueError(
                f"{where}: ({y:g}, {x:g}) lies outside the image, which reaches from (-0.5, -0.5) to "
                f"({last[0]:g}, {last[1]:g})"
            )
