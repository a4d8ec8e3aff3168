"""Hidden pixels, to be predicted from those around them: training pairs for noise of unknown size.

What a network predicts for a pixel that it does not see is free of that pixel's noise [1]_. Where neighbours
share noise, they would give it away, so they are hidden with it [2]_. What covers a hidden pixel must not
give it away either; it is copied from nearby, so that hidden places look like others.

References
----------
.. [1] A. Krull et al., Noise2Void, CVPR 2019.
.. [2] C. Broaddus et al., Removing structured noise with self-supervised blind-spot networks, ISBI 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage
from controller.denoising.training_pair import Pair, frame_and_weight

Mask = NDArray[np.bool_]

#: A blind spot is one of so many pixels along y and along x, at least.
_SPACING = 4


@dataclass(frozen=True, slots=True)
class StructuredMask:
    """Hides single pixels, with all whose noise is shared with them, behind others from nearby.

    The patch of ``2 reach_y + 1`` by ``2 reach_x + 1`` pixels around a hidden one is covered with a patch
    of the same frame, and only the hidden one counts. The cover lies so many rows away (columns, if noise is
    shared further along y) that it has no noise in common with a hidden pixel: neither with its own, nor
    with any other, since they stand in rows of fixed distance.

    Attributes
    ----------
    reach_y, reach_x
        How many pixels away noise is still shared.
    saturated_photons
        From here on, a pixel does not count.
    """

    reach_y: int = 0
    reach_x: int = 0
    saturated_photons: float = np.inf
    reason: str = "neighbours share noise"

    def __post_init__(self) -> None:
        if min(self.reach_y, self.reach_x) < 0:
            raise ValueError(f"a reach is 0 or more, got {self.reach_y} and {self.reach_x}")

    def pair(self, frame_in_photons: NDArray[Any], rng: np.random.Generator) -> Pair:
        """Return the frame with hidden pixels as source, and the frame as target.

        Raises
        ------
        ValueError
            If the frame is smaller than the distance of two hidden pixels.
        """
        frame, valid = frame_and_weight(frame_in_photons, self.saturated_photons)
        if self.reach_y > self.reach_x:  # rows that share noise are far apart: go by columns
            turned = _masked(np.ascontiguousarray(frame.swapaxes(-1, -2)), self.reach_x, self.reach_y, rng)
            source, hidden = (each.swapaxes(-1, -2) for each in turned)
        else:
            source, hidden = _masked(frame, self.reach_y, self.reach_x, rng)
        return Pair(np.ascontiguousarray(source), frame, valid * hidden)


@dataclass(frozen=True, slots=True)
class BlindSpotMask:
    """Hides single pixels behind others from nearby; only these count. For noise of unknown size."""

    saturated_photons: float = np.inf
    reason: str = "nothing is known about the noise"

    def pair(self, frame_in_photons: NDArray[Any], rng: np.random.Generator) -> Pair:
        """Return the frame with hidden pixels as source, and the frame as target."""
        return StructuredMask(saturated_photons=self.saturated_photons).pair(frame_in_photons, rng)


@dataclass(frozen=True, slots=True)
class LineThinning:
    """Hides whole lines, for noise that any pixels of one line share, however far apart.

    Every so-many-th line along ``axis`` is covered with one nearby that does not share its noise, and counts.
    More pixels count than under a mask, but a network learns to do without the rest of the line.

    Attributes
    ----------
    axis
        ``"x"``: noise is shared along x, lines are rows. ``"y"``: columns.
    reach_across
        How many lines away noise is still shared.
    saturated_photons
        From here on, a pixel does not count.
    """

    axis: str = "x"
    reach_across: int = 0
    saturated_photons: float = np.inf
    reason: str = "noise is shared along whole lines"

    def __post_init__(self) -> None:
        if self.axis not in {"x", "y"} or self.reach_across < 0:
            raise ValueError(
                f'axis "x" or "y" and reach_across >= 0 are needed, got {self.axis!r}, {self.reach_across}'
            )

    def pair(self, frame_in_photons: NDArray[Any], rng: np.random.Generator) -> Pair:
        """Return the frame with hidden lines as source, and the frame as target.

        Raises
        ------
        ValueError
            If the frame has fewer lines than lie between two hidden ones.
        """
        frame, valid = frame_and_weight(frame_in_photons, self.saturated_photons)
        lines = frame if self.axis == "x" else np.ascontiguousarray(frame.swapaxes(-1, -2))
        reach = self.reach_across
        spacing = 4 * reach + 3
        count = lines.shape[-2]
        if count < spacing:
            raise ValueError(f"{spacing} lines are needed to hide one, got {frame.shape}")
        source, hidden = lines.copy(), np.zeros(lines.shape, np.float32)
        stacks = [each.reshape(-1, *lines.shape[-2:]) for each in (lines, source, hidden)]
        around = np.arange(-reach, reach + 1)
        for image, covered, chosen in zip(*stacks, strict=True):
            centers = np.arange(int(rng.integers(spacing)), count, spacing)
            away = (2 * reach + 1) * rng.choice((-1, 1), len(centers))
            away = np.where(_holds(centers + away, reach, count), away, -away)
            fits = _holds(centers + away, reach, count)
            rows = np.clip(centers[fits, None] + around, 0, count - 1)
            covered[rows] = image[rows + away[fits, None]]
            chosen[centers[fits]] = 1
        if self.axis == "y":
            source, hidden = source.swapaxes(-1, -2), hidden.swapaxes(-1, -2)
        return Pair(np.ascontiguousarray(source), frame, valid * hidden)


def _masked(
    images: FloatImage, reach_y: int, reach_x: int, rng: np.random.Generator
) -> tuple[FloatImage, FloatImage]:
    """Return images with hidden pixels covered, and where these are.

    Hidden pixels stand in rows ``spacing`` apart. Noise of a row is shared by the ``reach_y`` rows about it,
    so a cover that is ``2 reach_y + 1`` to ``spacing - 2 reach_y - 1`` rows away from its own row shares none
    of it, and none of the next hidden rows'.
    """
    height, width = images.shape[-2:]
    nearest = 2 * reach_y + 1
    spacing = max(2 * nearest, _SPACING)
    along = max(4 * reach_x + 3, _SPACING)  # most of what is left in a hidden pixel's row is real
    if height < spacing or width < along:
        raise ValueError(f"{spacing} x {along} pixels are needed to hide one, got {height} x {width}")
    source, hidden = images.copy(), np.zeros(images.shape, np.float32)
    stacks = [each.reshape(-1, height, width) for each in (images, source, hidden)]
    patch_y, patch_x = np.mgrid[-reach_y : reach_y + 1, -reach_x : reach_x + 1].reshape(2, 1, -1)
    for image, covered, chosen in zip(*stacks, strict=True):
        rows = np.arange(int(rng.integers(spacing)), height, spacing)
        columns = rng.integers(along, size=len(rows))[:, None] + np.arange(0, width, along)
        y, x = np.repeat(rows, columns.shape[1]), columns.ravel() % width
        away = rng.integers(nearest, spacing - nearest + 1, len(y)) * rng.choice((-1, 1), len(y))
        away = np.where(_holds(y + away, reach_y, height), away, -away)
        fits = _holds(y + away, reach_y, height)
        y, x, away = y[fits, None], x[fits, None], away[fits, None]
        aside = rng.integers(-2, 3, y.shape)
        # Clipped to the border, a pixel of a patch falls on another one of the same patch.
        to_y, to_x = np.clip(y + patch_y, 0, height - 1), np.clip(x + patch_x, 0, width - 1)
        covered[to_y, to_x] = image[to_y + away, np.clip(to_x + aside, 0, width - 1)]
        chosen[y, x] = 1
    return source, hidden


def _holds(row: NDArray[np.int64], reach: int, height: int) -> Mask:
    """Tell whether all rows of a patch about ``row`` are in the image."""
    return np.asarray((row >= reach) & (row < height - reach))
