"""Traits of monitor frames: the one number by which an event is told, and the place it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from controller.core.frame import Frame, Segmentation
from policies.box_filters import Image, box_mean

TraitName = Literal["mean_signal", "max_change", "object_count", "object_area_fraction"]

# Weight of the newest quiet frame in the running baselines: they remember about ten frames.
_NEWEST = 0.2

#: The largest multiple of the quiet level that a relative trait tells. Against a level of 0 (no object in
#: the quiet sample) any positive value is that much.
RELATIVE_MAX = 1e6


@dataclass(frozen=True, slots=True)
class Trait:
    """The trait of one monitor frame, and the place it is about in metres."""

    value: float
    center_yx_m: tuple[float, float]


class TraitMeter:
    """Measures the trait of monitor frames, against running baselines where it needs them.

    A measured frame enters the baselines only by :meth:`learn`: while an event is looked at it must
    not, or a long event would become the new normal.
    """

    def __init__(self, name: TraitName, *, relative: bool) -> None:
        self._name, self._relative = name, relative
        self._image: Image | None = None
        self._level: float | None = None
        self._next_image: Image | None = None
        self._next_level: float | None = None

    def learn(self) -> None:
        """Take the frame that was measured last into the baselines."""
        self._image, self._level = self._next_image, self._next_level

    def measure(self, frame: Frame, segmentation: Segmentation | None) -> Trait | None:
        """Return the trait; None where it cannot be measured (no segmentation, or no baseline yet)."""
        self._next_image, self._next_level = self._image, self._level
        if self._name in {"object_count", "object_area_fraction"}:
            trait = self._of_objects(frame, segmentation)
        else:
            trait = self._of_image(frame)
        if trait is None or not self._relative:
            return trait
        level = self._level
        self._next_level = trait.value if level is None else (1 - _NEWEST) * level + _NEWEST * trait.value
        if level is None:
            return None
        return Trait(_multiple(trait.value, level), trait.center_yx_m)

    def _of_objects(self, frame: Frame, segmentation: Segmentation | None) -> Trait | None:
        if segmentation is None or segmentation.labels.shape != frame.photons.shape:
            return None
        labels = segmentation.labels
        areas = np.bincount(labels.ravel())[1:]
        if not areas.any():
            return Trait(0.0, frame.settings.region.center_yx_m)
        rows, columns = np.nonzero(labels == 1 + int(np.argmax(areas)))
        center = _position(frame, float(rows.mean()), float(columns.mean()))
        if self._name == "object_count":
            return Trait(float(np.count_nonzero(areas)), center)
        return Trait(float(areas.sum() / labels.size), center)

    def _of_image(self, frame: Frame) -> Trait | None:
        photons = np.asarray(frame.photons, dtype=float)
        smooth = box_mean(photons, 1)
        if self._name == "mean_signal":
            return Trait(float(photons.mean()), _brightest(frame, smooth))
        baseline = self._image
        if baseline is None or baseline.shape != smooth.shape:
            self._next_image = smooth
            return None
        self._next_image = (1 - _NEWEST) * baseline + _NEWEST * smooth
        # Twice the root of a Poisson count has unit variance (Anscombe 1948); the count here is that
        # of 3 x 3 pixels. The baseline's own noise adds a share of it.
        change = 2 * np.sqrt(9 * smooth + 3 / 8) - 2 * np.sqrt(9 * np.maximum(baseline, 0) + 3 / 8)
        change /= np.sqrt(1 + _NEWEST / (2 - _NEWEST))
        change -= float(np.median(change))
        # Never below 1: an image that is mostly empty would show no spread at all.
        spread = max(1.0, 1.4826 * float(np.median(abs(change))))
        # Gains only. A loss is what bleaching does everywhere the policy has looked.
        return Trait(float(change.max()) / spread, _brightest(frame, change))


def _multiple(value: float, level: float) -> float:
    """Return how many times the quiet level a value is; nothing over nothing is 0, and no event."""
    if not value > 0:
        return 0.0
    return min(value / level, RELATIVE_MAX) if level > 0 else RELATIVE_MAX


def _position(frame: Frame, row: float, column: float) -> tuple[float, float]:
    """Return the place of a pixel in metres."""
    y_min, x_min, _, _ = frame.settings.region.bounds_yx_m
    (height, width), (rows, columns) = frame.settings.region.size_yx_m, frame.photons.shape
    return y_min + (row + 0.5) * height / rows, x_min + (column + 0.5) * width / columns


def _brightest(frame: Frame, image: Image) -> tuple[float, float]:
    row, column = np.unravel_index(int(np.argmax(image)), image.shape)
    return _position(frame, float(row), float(column))
