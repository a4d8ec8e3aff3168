"""From what people said about an image to arrays that a network can be trained with.

Rules
-----
- Two marks that give a pixel different classes: the pixel is excluded, nobody learns from it. So is one
  that somebody called ambiguous, whatever others say.
- A mark counts more than the coverage of another: a pixel is background by coverage only where nobody
  drew anything, so the marks of one annotator may come as one annotation each.
- A click or a stroke on an object does not say how far the object reaches. Around it, coverage makes
  background only beyond ``RasterOptions.reach_px``; without that, nowhere in the image.
- Two whole objects of one class that overlap share the class there, but it is of neither object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from controller.core.errors import StedfastError
from controller.core.settings import NonNegative, Positive, Settings
from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    GradesAnnotation,
    ImageAnnotations,
    MaskAnnotation,
    PointsAnnotation,
    PointYX,
    PolygonAnnotation,
    ScribbleAnnotation,
    TagAnnotation,
)
from controller.learning.shapes import (
    Mask,
    Window,
    disc,
    drawn_stroke,
    edge_distances,
    filled_polygon,
    nearest_pixel,
    objects_of,
    pixels_of,
)

Plane = NDArray[Any]

UNLABELLED = -1
#: Number of a pixel of some whole object, unknown of which.
SHARED = -1

#: Boxes about one pixel; more are a mistake, and each takes a plane of memory.
MAX_BOX_LAYERS = 16


class ContradictoryLabelsError(StedfastError):
    """Annotations of one image cannot be true together."""


class Source(IntEnum):
    """What a pixel's class rests on; the loss has a term for each kind."""

    NONE = 0
    AREA = 1
    """A polygon, a mask, or their coverage: pixels in the image's own proportions."""
    BOX = 2
    """The outside of boxes in their coverage."""
    SCRIBBLE = 3
    POINT = 4
    EXCLUDED = 5
    """Contradictory or ambiguous: unlabelled, and not counted among unlabelled pixels either."""


class RasterOptions(Settings):
    """How marks become pixels. Lengths are in pixels of the image."""

    core_px: NonNegative = 0.0
    """Pixels within this distance of a click on an object belong to it; 0: the clicked pixel alone."""
    reach_px: Positive | None = None
    """No part of an object is farther than this from a click or stroke on it; ``None``: not known."""
    centre_sigma_px: Annotated[float, Field(ge=0.5, le=100)] = 2.0
    """Standard deviation of the Gaussian that marks a centre in the heat-map."""
    largest_distance_px: Annotated[float, Field(ge=1, le=1000)] = 16.0
    """Distances to an object's edge are cut here; deep inside they say nothing more."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What is known of one image. Planes have shape ``(y, x)``, boxes ``(layers, y, x)``.

    Attributes
    ----------
    classes
        int16: -1 unlabelled, 0 background, 1, 2, … the classes of the schema.
    sources
        uint8: the :class:`Source` of the class.
    weights
        float32 in 0..1: the weight of the annotation; 0 where unlabelled.
    instances
        int32: 1, 2, … whole objects, 0 of none, -1 of several.
    distances
        float32: pixels to the edge of the object, cut; true where ``is_shape_known``.
    clicks
        int16: class of a click, on its pixel alone; -1 elsewhere.
    centres, centre_weights
        float32: a heat-map with a Gaussian of height 1 at each centre, and the weight of whoever tells of
        it, 0 where it is unknown.
    vouched
        bool: within the coverage of some annotation.
    box_ids, box_classes, box_weights
        int32, int16, float32: number, class and weight of the box about a pixel, 0 for none; boxes that
        overlap lie in different layers.
    tags, tag_weights
        int8 and float32, shape ``(classes,)``: 1 present, 0 absent, -1 unknown, and how much each counts;
        the first is background and unknown.
    """

    classes: Plane
    sources: Plane
    weights: Plane
    instances: Plane
    distances: Plane
    clicks: Plane
    centres: Plane
    centre_weights: Plane
    vouched: Plane
    box_ids: Plane
    box_classes: Plane
    box_weights: Plane
    tags: NDArray[np.int8]
    tag_weights: NDArray[np.float32]

    @property
    def is_shape_known(self) -> Mask:
        """Return where ``distances`` is true: in whole objects and on background."""
        known = (self.instances > 0) | (self.classes == 0) & (self.instances == 0)
        return np.asarray(known & (self.sources != Source.EXCLUDED))

    def planes(self) -> dict[str, Plane]:
        """Return all spatial arrays by name; their last two axes are y and x."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("tag")}

    def with_planes(self, planes: dict[str, Plane]) -> Target:
        """Return a copy with planes that were all flipped or rotated alike."""
        return replace(self, **planes)

    def cropped(self, rows: slice, columns: slice) -> Target:
        """Return a part of it. What was present may now be outside, so it is unknown; absent stays absent."""
        planes = {name: np.ascontiguousarray(p[..., rows, columns]) for name, p in self.planes().items()}
        is_all = planes["classes"].shape == self.classes.shape
        tags = self.tags if is_all else np.where(self.tags == 1, -1, self.tags).astype(np.int8)
        return replace(self, **planes, tags=tags)


def rasterise(image: ImageAnnotations, options: RasterOptions | None = None) -> Target:
    """Return the arrays that say what is known of an image.

    See the module's rules for what happens where annotations disagree or say nothing.
    """
    canvas = _Canvas(image, options or RasterOptions())
    for annotation in image.annotations:
        canvas.draw(annotation)
    return canvas.finished()


class _Canvas:
    """The planes of a target while annotations are drawn into them, in any order."""

    def __init__(self, image: ImageAnnotations, options: RasterOptions) -> None:
        shape = image.shape_yx
        self.shape = shape
        self.image = image
        self.options = options
        self.classes = np.full(shape, UNLABELLED, np.int16)
        self.sources = np.zeros(shape, np.uint8)
        self.weights = np.zeros(shape, np.float32)
        self.instances = np.zeros(shape, np.int32)
        self.clicks = np.full(shape, UNLABELLED, np.int16)
        self.open_ended = np.zeros(shape, np.bool_)  # on an object of unknown extent
        self.boxes: list[tuple[Window, int, float]] = []
        self.points: list[tuple[PointYX, float]] = []
        self.vouched_weights = np.zeros(shape, np.float32)
        self.objects = 0

    def draw(self, annotation: Annotation) -> None:
        """Draw one annotation's marks; a tag has none."""
        match annotation:
            case MaskAnnotation():
                self._draw_mask(annotation)
            case PolygonAnnotation():
                inside = filled_polygon(annotation.vertices_yx, self.shape)
                self._mark(*inside, annotation.class_name, Source.AREA, annotation.weight, is_object=True)
            case BoxAnnotation():
                self._draw_box(annotation)
            case ScribbleAnnotation():
                stroke = drawn_stroke(annotation.vertices_yx, annotation.width_px, self.shape)
                self._mark(*stroke, annotation.class_name, Source.SCRIBBLE, annotation.weight)
            case PointsAnnotation():
                self._draw_points(annotation)

    def _mark(
        self, window: Window, mask: Mask, name: str, source: Source, weight: float, *, is_object: bool = False
    ) -> None:
        """Give pixels a class, or exclude those that have another already."""
        label = self.image.label_schema.index(name)
        classes, sources = self.classes[window], self.sources[window]
        clash = mask & ((sources == Source.EXCLUDED) | (classes != UNLABELLED) & (classes != label))
        if label == UNLABELLED:
            clash = mask
        good = mask & ~clash
        # What is sure of a whole area is not weakened by a click into it.
        sources[good] = np.where(sources[good] == Source.NONE, source, np.minimum(sources[good], source))
        classes[good] = label
        self.weights[window][good] = np.maximum(self.weights[window][good], weight)
        classes[clash], sources[clash], self.weights[window][clash] = UNLABELLED, Source.EXCLUDED, 0.0
        if label > 0 and is_object:
            self.objects += 1
            numbers = self.instances[window]
            numbers[mask] = np.where(numbers[mask] == 0, self.objects, SHARED)
        elif label > 0 and source != Source.AREA:
            self.open_ended[window] |= mask

    def _draw_mask(self, annotation: MaskAnnotation) -> None:
        values = annotation.to_array()
        y, x = annotation.origin_yx
        is_object = annotation.values == "objects"
        for value, part in objects_of(values):
            rows, columns = part
            window = slice(rows.start + y, rows.stop + y), slice(columns.start + x, columns.stop + x)
            name = annotation.value_classes[0 if is_object else value - 1]
            mask = np.asarray(values[part] == value)
            self._mark(window, mask, name, Source.AREA, annotation.weight, is_object=is_object)

    def _draw_box(self, annotation: BoxAnnotation) -> None:
        window = pixels_of(annotation.extent, self.shape)
        label = self.image.label_schema.index(annotation.class_name)
        if label > 0:
            self.boxes.append((window, label, annotation.weight))
        else:
            inside = np.ones((window[0].stop - window[0].start, window[1].stop - window[1].start), np.bool_)
            self._mark(window, inside, annotation.class_name, Source.BOX, annotation.weight)

    def _draw_points(self, annotation: PointsAnnotation) -> None:
        label = self.image.label_schema.index(annotation.class_name)
        for place in annotation.points_yx:
            row, column = nearest_pixel(place, self.shape)
            window, mask = disc((row, column), self.options.core_px if label > 0 else 0.0, self.shape)
            self._mark(window, mask, annotation.class_name, Source.POINT, annotation.weight)
            self.clicks[row, column] = label
            if label > 0:
                self.points.append(((float(row), float(column)), annotation.weight))

    def finished(self) -> Target:
        """Return the target: coverage comes last, because every mark counts more than it."""
        vouched = self._fill_coverage()
        self.instances[self.sources == Source.EXCLUDED] = 0
        box_ids, box_classes, box_weights = self._box_layers()
        tags, tag_weights = self._tags()
        centres, centre_weights = self._centres(vouched)
        return Target(
            classes=self.classes,
            sources=self.sources,
            weights=self.weights,
            instances=self.instances,
            distances=edge_distances(self.instances, self.options.largest_distance_px),
            clicks=self.clicks,
            centres=centres,
            centre_weights=centre_weights,
            vouched=vouched,
            box_ids=box_ids,
            box_classes=box_classes,
            box_weights=box_weights,
            tags=tags,
            tag_weights=tag_weights,
        )

    def _fill_coverage(self) -> Mask:
        """Make background of what is vouched for and not marked; return where somebody vouches."""
        taken = (self.sources != Source.NONE) | (self.instances != 0)
        for window, _, _ in self.boxes:
            taken[window] = True
        open_ended = self.open_ended & (self.instances == 0) & (self.sources != Source.AREA)
        if open_ended.any():
            reach = self.options.reach_px
            taken |= True if reach is None else ndimage.distance_transform_edt(~open_ended) <= reach
        vouched = np.zeros(self.shape, np.bool_)
        # In the order of sources, so that what comes with areas keeps the image's own proportions.
        for (source, *edges), weight in sorted(self._coverages().items()):
            window = slice(*edges[:2]), slice(*edges[2:])
            vouched[window] = True
            self.vouched_weights[window] = np.maximum(self.vouched_weights[window], weight)
            empty = ~taken[window]
            self.classes[window][empty] = 0
            sources = self.sources[window]
            sources[empty & (sources == Source.NONE)] = source
            self.weights[window][empty] = np.maximum(self.weights[window][empty], weight)
        return vouched

    def _coverages(self) -> dict[tuple[int, ...], float]:
        """Return each source and window ``(row, last, column, last)`` once, with its weight."""
        found: dict[tuple[int, ...], float] = {}
        for annotation in self.image.annotations:
            for rows, columns in self._covered(annotation):
                key = _source_of_coverage(annotation), rows.start, rows.stop, columns.start, columns.stop
                found[key] = max(found.get(key, 0.0), annotation.weight)
        return found

    def _covered(self, annotation: Annotation) -> Iterator[Window]:
        is_empty = annotation.kind == "tag" and annotation.present == (NOTHING_HERE,)
        if is_empty or (annotation.kind not in {"tag", "grades"} and annotation.coverage == "image"):
            yield slice(0, self.shape[0]), slice(0, self.shape[1])
        elif isinstance(annotation.coverage, tuple):
            yield from (pixels_of(part, self.shape) for part in annotation.coverage)

    def _box_layers(self) -> tuple[Plane, Plane, Plane]:
        """Put each box into the first layer where it overlaps none."""
        layers: list[Plane] = []
        placed = []
        for number, (window, label, weight) in enumerate(self.boxes, start=1):
            layer = next((i for i, plane in enumerate(layers) if not plane[window].any()), len(layers))
            if layer == MAX_BOX_LAYERS:
                raise ContradictoryLabelsError(
                    f"more than {MAX_BOX_LAYERS} boxes overlap about pixel {window[0].start}, "
                    f"{window[1].start}; a box holds one object"
                )
            if layer == len(layers):
                layers.append(np.zeros(self.shape, np.int32))
            layers[layer][window] = number
            placed.append(((layer, *window), label, weight))
        shape = len(layers), *self.shape
        ids = np.stack(layers) if layers else np.zeros(shape, np.int32)
        classes, weights = np.zeros(shape, np.int16), np.zeros(shape, np.float32)
        for where, label, weight in placed:
            classes[where], weights[where] = label, weight
        return ids, classes, weights

    def _centres(self, vouched: Mask) -> tuple[Plane, Plane]:
        """Return the heat-map of centres and what it counts: nothing where it is not known.

        A click is the centre of its object, unless it lies in one whose outline is known; the middle of
        a box is one, unless somebody marked a centre in it.
        """
        sigma = self.options.centre_sigma_px
        middles = [(p, float(self.weights[self.instances == n].max())) for n, p in _centroids(self.instances)]
        middles += [(p, w) for p, w in self.points if self.instances[int(p[0]), int(p[1])] == 0]
        marked = np.zeros(self.shape, np.bool_)
        for place, _ in middles:
            marked[nearest_pixel(place, self.shape)] = True
        for window, _, weight in self.boxes:
            if not marked[window].any():
                rows, columns = window
                place = (rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2
                middles.append((place, weight))
        heat = np.zeros(self.shape, np.float32)
        known = vouched | (self.classes == 0) | (self.instances > 0)
        weights = np.where(known, np.maximum(self.weights, self.vouched_weights), 0).astype(np.float32)
        for (y, x), weight in middles:
            window, near = disc((y, x), 3 * sigma, self.shape)
            row, column = np.ogrid[window]
            spot = np.exp(-0.5 * ((row - y) ** 2 + (column - x) ** 2) / sigma**2)
            heat[window] = np.maximum(heat[window], np.where(near, spot, 0))
            weights[window] = np.maximum(weights[window], np.where(near, weight, 0))
        weights[self.sources == Source.EXCLUDED] = 0
        return heat, weights

    def _tags(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return what is present and absent; annotations that disagree leave a class unknown."""
        schema = self.image.label_schema
        weights = np.zeros((2, schema.count), np.float32)
        for annotation in self.image.annotations:
            if isinstance(annotation, TagAnnotation):
                empty = annotation.present == (NOTHING_HERE,)
                absent = schema.classes if empty else annotation.absent
                for value, names in enumerate((absent, () if empty else annotation.present)):
                    for index in map(schema.index, names):
                        weights[value, index] = max(weights[value, index], annotation.weight)
            elif isinstance(annotation, GradesAnnotation):
                for name, grade in annotation.grades.items():
                    # Halfway says nothing; from there on it says it the more, the further it goes.
                    value, index = int(grade >= 0.5), schema.index(name)
                    said = annotation.weight * abs(2 * grade - 1)
                    weights[value, index] = max(weights[value, index], said)
        is_said = weights > 0
        tags = np.where(is_said.all(axis=0) | ~is_said.any(axis=0), -1, is_said[1])
        return tags.astype(np.int8), np.where(tags >= 0, weights.max(axis=0), 0).astype(np.float32)


def _source_of_coverage(annotation: Annotation) -> Source:
    match annotation.kind:
        case "box":
            return Source.BOX
        case "scribble":
            return Source.SCRIBBLE
        case "points":
            return Source.POINT
        case _:
            return Source.AREA


def _centroids(instances: Plane) -> Iterator[tuple[int, PointYX]]:
    """Return the number and the centre of mass of each whole object."""
    for number, part in objects_of(instances):
        rows, columns = np.nonzero(instances[part] == number)
        yield number, (float(rows.mean() + part[0].start), float(columns.mean() + part[1].start))
