"""What a person would say of an image whose truth is known, and how long that would take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    PointsAnnotation,
    Rectangle,
    ScribbleAnnotation,
    TagAnnotation,
)

Labels = NDArray[Any]

KINDS = ("tags", "points", "scribbles", "boxes", "masks", "boxes and masks")

#: Seconds for an image, and for each object in it; masks take 0.1 s for each pixel of outline, too. From the
#: annotation literature (Bearman 2016; Papadopoulos 2017; Englbrecht 2021: 8.4 s a nucleus), not measured.
_SECONDS = {
    "tags": (2.0, 0.0),
    "points": (2.0, 1.5),
    "scribbles": (3.0, 8.0),
    "boxes": (0.0, 7.0),
    "masks": (0.0, 8.4),
}
_OUTLINE_S = 0.1


def seconds(kind: str, labels: Labels) -> float:
    """Return the seconds that labels of a kind take; of a mix, half of the images are each."""
    objects = len(np.unique(labels[labels > 0]))
    if kind == "boxes and masks":
        return (seconds("boxes", labels) + seconds("masks", labels)) / 2
    image_s, object_s = _SECONDS[kind]
    outline = 0
    if kind == "masks":
        outline = int(np.count_nonzero((labels > 0) & (ndimage.minimum_filter(labels, 3) != labels)))
    return image_s + object_s * objects + _OUTLINE_S * outline


def annotated(
    kind: str, labels: Labels, classes: tuple[str, ...], rng: np.random.Generator
) -> ImageAnnotations:
    """Return annotations of one kind, about all objects of an image."""
    rows, columns = labels.shape
    if kind == "boxes and masks":
        kind = "boxes" if rng.random() < 0.5 else "masks"
    numbers = [int(n) for n in np.unique(labels) if n > 0]
    said = _SAY[kind](labels, numbers, classes[0], rng)
    return ImageAnnotations(
        shape_yx=(rows, columns), label_schema=LabelSchema(classes=classes), annotations=said
    )


def _tags(labels: Labels, numbers: list[int], name: str, rng: np.random.Generator) -> tuple[Annotation, ...]:
    return (TagAnnotation(present=(name if numbers else NOTHING_HERE,)),)


def _points(
    labels: Labels, numbers: list[int], name: str, rng: np.random.Generator
) -> tuple[Annotation, ...]:
    """One click inside each object, and as many on background."""
    inside = tuple(_middle(labels == n) for n in numbers)
    outside = np.argwhere(ndimage.distance_transform_edt(labels == 0) > 1.5)
    chosen = outside[rng.integers(0, len(outside), max(4, len(numbers)))] if len(outside) else outside
    said: list[Annotation] = []
    if inside:
        said.append(PointsAnnotation(class_name=name, points_yx=inside))
    if len(chosen):
        said.append(
            PointsAnnotation(
                class_name=NOTHING_HERE, points_yx=tuple((float(y), float(x)) for y, x in chosen)
            )
        )
    return tuple(said)


def _scribbles(
    labels: Labels, numbers: list[int], name: str, rng: np.random.Generator
) -> tuple[Annotation, ...]:
    """One stroke inside each object, and one along the background for every three."""
    said: list[Annotation] = [_stroke(labels == n, name, 0.5, rng) for n in numbers]
    background = labels == 0
    if background.any():
        said += [_stroke(background, NOTHING_HERE, 1.0, rng) for _ in range(1 + len(numbers) // 3)]
    return tuple(said)


def _boxes(labels: Labels, numbers: list[int], name: str, rng: np.random.Generator) -> tuple[Annotation, ...]:
    said = []
    for number in numbers:
        pixels = np.argwhere(labels == number)
        (top, left), (bottom, right) = pixels.min(axis=0), pixels.max(axis=0)
        extent = Rectangle(
            y_min=float(top) - 0.5,
            x_min=float(left) - 0.5,
            y_max=float(bottom) + 0.49,
            x_max=float(right) + 0.49,
        )
        said.append(BoxAnnotation(class_name=name, extent=extent, coverage="image"))
    return tuple(said)


def _masks(labels: Labels, numbers: list[int], name: str, rng: np.random.Generator) -> tuple[Annotation, ...]:
    return (MaskAnnotation.from_array(labels, value_classes=(name,), coverage="image"),)


_SAY = {"tags": _tags, "points": _points, "scribbles": _scribbles, "boxes": _boxes, "masks": _masks}


def _middle(own: NDArray[np.bool_]) -> tuple[float, float]:
    depth = ndimage.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(depth), depth.shape)
    return float(row), float(column)


def _stroke(own: NDArray[np.bool_], name: str, part: float, rng: np.random.Generator) -> ScribbleAnnotation:
    """Return a line between two pixels of a region that stays inside it, as long as chance finds."""
    pixels = np.argwhere(own)
    best = pixels[:1].repeat(2, axis=0)
    for _ in range(20):
        ends = pixels[rng.integers(0, len(pixels), 2)]
        steps = np.linspace(0, 1, 64)[:, None]
        line = np.round(ends[0] + steps * (ends[1] - ends[0])).astype(int)
        if own[line[:, 0], line[:, 1]].all() and np.ptp(ends, axis=0).sum() > np.ptp(best, axis=0).sum():
            best = ends
    first, last = best.astype(float)
    last = first + part * (last - first) if part < 1 else last
    return ScribbleAnnotation(
        class_name=name, vertices_yx=((first[0], first[1]), (last[0], last[1])), width_px=1.0
    )
