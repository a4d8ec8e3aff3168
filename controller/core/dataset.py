"""What a labelled data set is made of: simulated images with the truth about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import ScanSettings, Settings

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class DatasetItem:
    """One image or movie, and the truth about it.

    Attributes
    ----------
    settings
        The scan that all arrays belong to. ``(y, x)`` below is its shape.
    images
        By name, shape ``(y, x)``, or ``(t, y, x)`` of a movie; the first is what the detector wrote, and
        carries the labels.
    labels
        Label images by name, int32, shape ``(y, x)``, 0 = background.
    tables
        Columns of equal length by name, by the name of the table.
    details
        What else is known, as plain numbers, texts, lists and dicts.
    group
        Items of one group share something that was not drawn anew; they stay in one part of a split.
    licence
        SPDX expression of what was generated.
    frame_s
        Time from frame to frame of a movie, ``None`` for an image.
    """

    settings: ScanSettings
    images: Mapping[str, NDArray[Any]]
    labels: Mapping[str, NDArray[np.int32]]
    tables: Mapping[str, Columns]
    group: str
    licence: str
    details: Mapping[str, Any] = field(default_factory=dict)
    frame_s: float | None = None


class DatasetMaker(Protocol):
    """Simulates the items of a data set. An item depends on options, seed and its number alone."""

    def item(self, index: int) -> DatasetItem:
        """Simulate item number ``index``, 0 or more."""


class DatasetMakerClass(Protocol):
    """The class of a :class:`DatasetMaker`: validated options and a seed in, maker out."""

    Options: type[Settings]

    def __call__(self, options: Any, seed: int) -> DatasetMaker:
        """Check what can be checked without simulating; anything slow waits for the first item.

        Raises
        ------
        ConfigurationError
            If no item could be made.
        """
