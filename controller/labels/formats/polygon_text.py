"""Polygons as lines of text: a class by its number, then the corners as ``(x, y)``, the ``.polys.txt`` files.

::

    0 (53.48, 1.4), (22.4, 46.2), (44.8, 58.8)
    3 (5, 5), (9, 5), (9, 9)

Positions count from the corner of the image: the first pixel reaches from 0 to 1. Nothing is evaluated:
whatever is not in this grammar is refused, by line and column.

Source: F. Lavoie-Cardinal et al., Scientific Reports 10, 11960 (2020), whose data come so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.labels.formats.labelled import LabelFileError, read_text
from controller.learning.annotations import MAX_ANNOTATIONS, MAX_VERTICES, PointYX

#: The largest file of this kind that is read; one image's polygons have a thousandth of it.
MAX_BYTES = 2**22

_SPACE = re.compile(r"[ \t]*")
_CLASS = re.compile(r"[0-9]{1,3}(?=[ \t])")
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,2})?(?![0-9A-Za-z_.])")


@dataclass(frozen=True, slots=True)
class NumberedPolygon:
    """A polygon by the number of its class, ``(y, x)`` with the first pixel's centre at (0, 0)."""

    class_number: int
    vertices_yx: tuple[PointYX, ...]
    line: int


def read_polygons(path: Path) -> list[NumberedPolygon]:
    """Read a file of polygons; empty lines are passed over.

    Raises
    ------
    LabelFileError
        If the file cannot be read, is larger than :data:`MAX_BYTES`, or is not in the grammar; the message
        names the line and the column.
    """
    text = read_text(path)
    if len(text) > MAX_BYTES:
        raise LabelFileError(f"{path} has {len(text)} characters, allowed are {MAX_BYTES} for polygons")
    try:
        return list(parse_polygons(text))
    except LabelFileError as error:
        raise LabelFileError(f"{path}, {error}") from error


def parse_polygons(text: str) -> Iterator[NumberedPolygon]:
    """Yield the polygons of a text; see :func:`read_polygons`."""
    count = 0
    # Not splitlines, which splits at characters that editors do not count as lines.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip(" \t"):
            continue
        count += 1
        if count > MAX_ANNOTATIONS:
            raise LabelFileError(f"line {number}: more than {MAX_ANNOTATIONS} polygons; split the file")
        yield _Line(line, number).polygon()


def format_polygons(polygons: Iterable[tuple[int, Sequence[PointYX]]]) -> str:
    """Return polygons, each with the number of its class, as text."""
    lines = []
    for number, vertices in polygons:
        corners = ", ".join(f"({x + 0.5!r}, {y + 0.5!r})" for y, x in vertices)
        lines.append(f"{number} {corners}\n")
    return "".join(lines)


class _Line:
    """Reads one line from its beginning to its end, without ever going back."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.at = text, number, 0

    def polygon(self) -> NumberedPolygon:
        class_number = int(self._take(_CLASS, "the number of a class, then a space"))
        corners = [self._corner()]
        while self._skips_to(","):
            if len(corners) == MAX_VERTICES:
                raise self._error(f"no more than {MAX_VERTICES} corners")
            corners.append(self._corner())
        if self.at < len(self.text):
            raise self._error("',' and another corner, or the end of the line")
        if len(corners) < 3:
            raise LabelFileError(
                f"line {self.number}: a polygon has at least 3 corners, this has {len(corners)}"
            )
        return NumberedPolygon(class_number, tuple(corners), self.number)

    def _corner(self) -> PointYX:
        self._expect("(")
        x = float(self._take(_NUMBER, "a number"))
        self._expect(",")
        y = float(self._take(_NUMBER, "a number"))
        self._expect(")")
        return y - 0.5, x - 0.5

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        self._skip_space()
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self._error(what)
        self.at = found.end()
        return found.group()

    def _expect(self, sign: str) -> None:
        if not self._skips_to(sign):
            raise self._error(repr(sign))

    def _skips_to(self, sign: str) -> bool:
        self._skip_space()
        if not self.text.startswith(sign, self.at):
            return False
        self.at += 1
        self._skip_space()
        return True

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _error(self, wanted: str) -> LabelFileError:
        rest = self.text[self.at : self.at + 12]
        found = repr(rest) if rest else "the end of the line"
        return LabelFileError(f"line {self.number}, column {self.at + 1}: expected {wanted}, found {found}")
