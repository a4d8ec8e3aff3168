"""Points and shapes as napari's own tables, in which ``axis-0`` and ``axis-1`` are y and x.

napari takes further columns of points for properties, and passes over those of shapes; so the class, and the
width of a stroke, are there too. Pixels count as ours do: the centre of the first one is at (0, 0).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from controller.labels.formats.labelled import (
    LabelFileError,
    LabelledImage,
    Layer,
    LeftOut,
    file_name,
    first_problem,
    read_text,
)
from controller.learning.annotations import (
    Annotation,
    BoxAnnotation,
    Coverage,
    PointsAnnotation,
    PointYX,
    PolygonAnnotation,
    Rectangle,
    ScribbleAnnotation,
)

POINT_COLUMNS = ("index", "axis-0", "axis-1", "class", "annotation")
SHAPE_COLUMNS = ("index", "shape-type", "vertex-index", "axis-0", "axis-1", "class", "width_px")
_MAX_ROWS = 200_000


def write_tables(image: LabelledImage, folder: Path) -> tuple[list[Layer], list[Path]]:
    """Write the points and the shapes of an image: one table for each class, person, coverage and weight."""
    layers: list[Layer] = []
    written: list[Path] = []
    for (kind, person, name, coverage, weight), theirs in _together(image):
        file = f"{image.name}_{kind}_{len(layers)}_{file_name(name)}.csv"
        if kind == "points":
            _write(folder / file, POINT_COLUMNS, _point_rows(theirs))
        else:
            _write(folder / file, SHAPE_COLUMNS, _shape_rows(theirs))
        written.append(folder / file)
        layers.append(
            Layer(
                file=file,
                kind="points" if kind == "points" else "shapes",
                person=person,
                class_names=(name,),
                coverage=coverage,
                weight=weight,
            )
        )
    return layers, written


def read_table(
    path: Path, class_name: str | None, how: Mapping[str, Any]
) -> tuple[list[Annotation], list[str]]:
    """Read a table of points or shapes.

    Parameters
    ----------
    class_name
        The class of everything in it; ``None`` if its own column says it.
    how
        Weight and coverage of the annotations.

    Returns
    -------
    The annotations, and what is left out.

    Raises
    ------
    LabelFileError
        If it is no such table; the message names the line.
    """
    columns, rows = _read(path)
    try:
        if {"shape-type", "vertex-index"} <= set(columns):
            return _shapes(rows, class_name, how)
        return _points(rows, class_name, how), []
    except LabelFileError as error:
        raise LabelFileError(f"{path}, {error}") from error
    except ValidationError as error:
        raise LabelFileError(f"{path}: {first_problem(error)}") from error


def _together(
    image: LabelledImage,
) -> list[tuple[tuple[str, str, str, Coverage, float], list[Annotation]]]:
    """Return the points and shapes of an image, those together that one table holds."""
    found: dict[tuple[str, str, str, Coverage, float], list[Annotation]] = {}
    for person, theirs in image.said.items():
        for annotation in theirs:
            if isinstance(annotation, PointsAnnotation):
                kind = "points"
            elif isinstance(annotation, BoxAnnotation | PolygonAnnotation | ScribbleAnnotation):
                kind = "shapes"
            else:
                continue
            key = (kind, person, annotation.class_name, annotation.coverage, annotation.weight)
            found.setdefault(key, []).append(annotation)
    return list(found.items())


def not_exact(image: LabelledImage) -> list[LeftOut]:
    """Return the annotations that napari shows in another way than they were drawn."""
    why = "napari's line has no width; the column width_px says it to Stedfast alone"
    return [
        LeftOut(image.name, person, "scribble", why)
        for person, annotations in image.said.items()
        for annotation in annotations
        if isinstance(annotation, ScribbleAnnotation) and annotation.width_px != 1
    ]


def _point_rows(annotations: Iterable[Annotation]) -> Iterator[tuple[Any, ...]]:
    index = 0
    for number, annotation in enumerate(annotations):
        if isinstance(annotation, PointsAnnotation):
            for y, x in annotation.points_yx:
                yield index, y, x, annotation.class_name, number
                index += 1


def _shape_rows(annotations: Iterable[Annotation]) -> Iterator[tuple[Any, ...]]:
    for index, annotation in enumerate(annotations):
        width: float | str = ""
        if isinstance(annotation, BoxAnnotation):
            kind, ((y0, x0), (y1, x1)) = "rectangle", annotation.extent.corners
            vertices: tuple[PointYX, ...] = ((y0, x0), (y0, x1), (y1, x1), (y1, x0))
        elif isinstance(annotation, PolygonAnnotation):
            kind, vertices = "polygon", annotation.vertices_yx
        elif isinstance(annotation, ScribbleAnnotation):
            kind, vertices, width = "path", annotation.vertices_yx, annotation.width_px
            if len(vertices) == 1:  # a path of one vertex cannot be drawn by napari
                vertices *= 2
        else:
            continue
        for vertex, (y, x) in enumerate(vertices):
            yield index, kind, vertex, y, x, annotation.class_name, width


def _write(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns of a table, and its rows with the number of their line."""
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        reader = csv.reader(io.StringIO(read_text(path)), strict=True)
        columns = next(reader, [])
        if not {"axis-0", "axis-1"} <= set(columns) or len(set(columns)) < len(columns):
            raise LabelFileError(f"{path} is no table of napari: it has no columns axis-0 and axis-1")
        if "axis-2" in columns:
            raise LabelFileError(f"{path} has an axis-2; labels of one 2-D image are wanted")
        for row in reader:
            if len(rows) == _MAX_ROWS or len(row) != len(columns):
                raise LabelFileError(
                    f"{path}, line {reader.line_num}: {len(columns)} columns and at most {_MAX_ROWS} rows "
                    f"are allowed"
                )
            rows.append((reader.line_num, dict(zip(columns, row, strict=True))))
    except csv.Error as error:
        raise LabelFileError(f"{path} is no table of napari: {error}") from error
    return columns, rows


def _number(line: int, row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LabelFileError(f"line {line}: {column} is {row[column][:20]!r}, a number is wanted")
    return value


def _name(line: int, row: Mapping[str, str], class_name: str | None) -> str:
    name = class_name or row.get("class", "")
    if not name:
        raise LabelFileError(f"line {line}: no class; give the table a column 'class', or name one class")
    return name


def _points(
    rows: list[tuple[int, dict[str, str]]],
    class_name: str | None,
    how: Mapping[str, Any],
) -> list[Annotation]:
    found: dict[tuple[str, str], list[PointYX]] = {}
    for line, row in rows:
        key = (_name(line, row, class_name), row.get("annotation", ""))
        found.setdefault(key, []).append((_number(line, row, "axis-0"), _number(line, row, "axis-1")))
    return [PointsAnnotation(class_name=name, points_yx=tuple(p), **how) for (name, _), p in found.items()]


def _shapes(
    rows: list[tuple[int, dict[str, str]]],
    class_name: str | None,
    how: Mapping[str, Any],
) -> tuple[list[Annotation], list[str]]:
    found: list[Annotation] = []
    left_out: list[str] = []
    for _, grouped in groupby(rows, key=lambda row: row[1]["index"]):
        shape = list(grouped)
        line, first = shape[0]
        vertices = tuple((_number(n, row, "axis-0"), _number(n, row, "axis-1")) for n, row in shape)
        kind = first["shape-type"]
        what: dict[str, Any] = {"class_name": _name(line, first, class_name), **how}
        if kind == "rectangle" and _is_upright(vertices):
            low, high = np.min(vertices, axis=0).tolist(), np.max(vertices, axis=0).tolist()
            extent = Rectangle(y_min=low[0], x_min=low[1], y_max=high[0], x_max=high[1])
            found.append(BoxAnnotation(extent=extent, **what))
        elif kind in {"polygon", "rectangle"}:
            found.append(PolygonAnnotation(vertices_yx=vertices, **what))
        elif kind in {"path", "line"}:
            width = _number(line, first, "width_px") if first.get("width_px") else 1.0
            is_dot = len(vertices) == 2 and vertices[0] == vertices[1]
            found.append(
                ScribbleAnnotation(vertices_yx=vertices[:1] if is_dot else vertices, width_px=width, **what)
            )
        else:
            left_out.append(f"line {line}: a {kind[:20]!r} is none of our kinds")
    return found, left_out


def _is_upright(vertices: tuple[PointYX, ...]) -> bool:
    """Tell whether four corners are those of a rectangle along the axes."""
    return len(vertices) == 4 and all(len({vertex[axis] for vertex in vertices}) == 2 for axis in (0, 1))
