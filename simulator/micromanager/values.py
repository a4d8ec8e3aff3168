"""Small Java objects that the API passes: lists, maps, rectangles, points and tagged images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import InvalidRequestError
from simulator.micromanager.objects import RemoteObject, java


class StringVector(RemoteObject):
    """A list of strings as MMCoreJ returns it."""

    java_class = "mmcorej.StrVector"

    def __init__(self, strings: list[str]) -> None:
        self._strings = strings

    @java("int size()")
    def size(self) -> int:
        return len(self._strings)

    @java("boolean isEmpty()")
    def is_empty(self) -> bool:
        return not self._strings

    @java("String get(int)")
    def get(self, index: int) -> str:
        if not 0 <= index < len(self._strings):
            raise InvalidRequestError(f"index {index} is not in 0..{len(self._strings) - 1}")
        return self._strings[index]

    @java("boolean contains(Object)")
    def contains(self, value: object) -> bool:
        return value in self._strings


class Rectangle(RemoteObject):
    """A ROI in pixels."""

    java_class = "java.awt.Rectangle"
    fields = ("x", "y", "width", "height")

    def __init__(self, x: int, y: int, width: int, height: int) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height


class Point(RemoteObject):
    """A position in µm."""

    java_class = "java.awt.geom.Point2D$Double"
    fields = ("x", "y")

    def __init__(self, x: float, y: float) -> None:
        self.x, self.y = x, y


class TaggedImage(RemoteObject):
    """An image, flat as Java has it, with its metadata."""

    java_class = "mmcorej.TaggedImage"
    fields = ("pix", "tags")

    def __init__(self, pixels: NDArray[np.uint16], tags: dict[str, Any]) -> None:
        self.pix, self.tags = pixels.ravel(), tags


class HashMap(RemoteObject):
    """The axes of an image, as a client puts them together."""

    java_class = "java.util.HashMap"

    def __init__(self) -> None:
        self.content: dict[str, int | str] = {}

    @java("void put(Object, Object)")
    def put(self, key: object, value: object) -> None:
        if not isinstance(key, str) or not isinstance(value, int | str) or len(self.content) >= 100:
            raise InvalidRequestError(f"{key!r}: {value!r} is not the name and place of an axis")
        self.content[key] = value
