"""Which structures of a sample were seen well, and which of them a learner tells right. Truth only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.core.settings import Region
from simulator.environments.pixel_learner import Features, PixelLearner
from simulator.environments.rare_samples import RARE
from simulator.environments.rewards import likeness
from simulator.environments.samples import Truth
from simulator.specimens import MAP_PIXEL_SIZE_M

#: A structure with less of its pixels in a region was not seen there, but cut.
_WHOLE = 0.8
#: Pixels around a structure with which it is compared: without background there is no contrast.
_MARGIN_PX = 6


@dataclass(frozen=True, slots=True)
class Counts:
    """Structures that were seen well; those of them told right; and of these the rare ones."""

    seen: int
    right: int
    rare_right: int


@dataclass(slots=True, eq=False)
class SeenStructures:
    """The structures of a sample.

    Attributes
    ----------
    classes
        The true class of each structure, by its label.
    places_yx_m
        The middle of each, in sample coordinates.
    pixels
        How many pixels each has, by its label.
    seen
        Features of the pixels of those that were seen well, by their label.
    """

    truth: Truth
    likeness: float
    classes: dict[int, int]
    places_yx_m: dict[int, tuple[float, float]]
    pixels: NDArray[np.intp]
    seen: dict[int, Features] = field(default_factory=dict)

    @classmethod
    def of(cls, truth: Truth | None, field_of_view: Region, likeness: float) -> SeenStructures:
        """Return those in a part of a sample, none of them seen yet.

        Raises
        ------
        ConfigurationError
            If there is no truth.
        """
        if truth is None:
            raise ConfigurationError("a sample without a truth is under the microscope")
        labels = truth.structures(field_of_view)
        there = set(np.unique(labels).tolist()) - {0}
        specimen = truth.microscope.specimen
        classes = {label: index for label, index in specimen.structure_classes.items() if label in there}
        places = _middles(labels, list(classes), field_of_view)
        return cls(truth, likeness, classes, places, np.bincount(specimen.structures.ravel()))

    def look(self, region: Region, photons: NDArray[Any], features: Features) -> None:
        """Note what an image shows well: whole structures, like the molecules they had at the beginning.

        The best image of a structure is not looked for: the last good one counts.
        """
        labels = self.truth.structures(region)
        molecules = self.truth.molecules_at_start(region)
        inside = np.bincount(labels.ravel(), minlength=len(self.pixels))
        for label in np.flatnonzero(inside[1:]) + 1:
            if label not in self.classes or inside[label] < _WHOLE * self.pixels[label]:
                continue
            rows, columns = np.nonzero(labels == label)
            around = (
                slice(max(0, rows.min() - _MARGIN_PX), rows.max() + _MARGIN_PX + 1),
                slice(max(0, columns.min() - _MARGIN_PX), columns.max() + _MARGIN_PX + 1),
            )
            if likeness(photons[around], molecules[around]) >= self.likeness:
                self.seen[int(label)] = features[rows, columns]

    def left(self) -> dict[int, tuple[float, float]]:
        """Return where the structures are that were not seen well yet, in sample coordinates, by label."""
        return {label: place for label, place in self.places_yx_m.items() if label not in self.seen}

    def told(self, learner: PixelLearner) -> dict[int, int]:
        """Return the class that a learner takes each seen structure for, 0 where it knows none."""
        if not self.seen or not learner.answers[1:].any():
            return dict.fromkeys(self.seen, 0)
        sizes = [len(features) for features in self.seen.values()]
        likely = learner.probabilities(np.concatenate(list(self.seen.values())))[:, 1:]
        sums = np.add.reduceat(likely, np.concatenate([[0], np.cumsum(sizes)[:-1]]), axis=0)
        return {label: 1 + int(row.argmax()) for label, row in zip(self.seen, sums, strict=True)}

    def counts(self, learner: PixelLearner) -> Counts:
        """Return how many were seen well, and how many of them a learner tells right."""
        right = [label for label, index in self.told(learner).items() if index == self.classes[label]]
        rare = sum(self.classes[label] == RARE for label in right)
        return Counts(len(self.seen), len(right), rare)

    def worth(self, learner: PixelLearner, rare_worth: float) -> float:
        """Return 1 for each usual structure that is seen well and told right, and more for a rare one."""
        counts = self.counts(learner)
        return counts.right - counts.rare_right + rare_worth * counts.rare_right


def _middles(labels: NDArray[np.int32], wanted: list[int], region: Region) -> dict[int, tuple[float, float]]:
    """Return the middles of labelled parts of a region, in sample coordinates."""
    from scipy.ndimage import center_of_mass

    corner = np.array(region.bounds_yx_m[:2])
    found = np.array(center_of_mass(labels > 0, labels, wanted)).reshape(-1, 2)
    places = corner + (found + 0.5) * MAP_PIXEL_SIZE_M
    return {label: (float(y), float(x)) for label, (y, x) in zip(wanted, places, strict=True)}
