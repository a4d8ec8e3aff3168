"""What can be asked about in a scan: places where something seems to be, found without the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.environments.annotator import Patch
from simulator.environments.pixel_learner import Features

#: Side of a patch in pixels. Stable-Baselines3's convolutions need 36 at least.
PATCH_PX = 48

_BLOB_PX = 3.0
#: Two things nearer than half of this are one.
_APART_PX = 17

Places = NDArray[np.intp]


def find_things(photons: NDArray[Any], margin_px: int = PATCH_PX // 2) -> Places:
    """Return the pixels where something stands out, shape ``(n, 2)``, the brightest first.

    Local maxima of the slightly blurred image that are brighter than its mean, at least ``margin_px``
    inside of it.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    blurred = gaussian_filter(np.asarray(photons, np.float64), _BLOB_PX)
    is_top = (blurred == maximum_filter(blurred, _APART_PX)) & (blurred > blurred.mean())
    inside = np.zeros_like(is_top)
    rows, columns = photons.shape
    inside[margin_px : rows - margin_px, margin_px : columns - margin_px] = True
    places = np.argwhere(is_top & inside)
    return places[np.argsort(-blurred[tuple(places.T)], kind="stable")]


def cut_patch(
    place: NDArray[np.intp], photons: NDArray[Any], features: Features, truth: NDArray[np.int32]
) -> Patch:
    """Return the patch that shows a pixel of an image: around it, or at the edge that it is near to."""
    half = PATCH_PX // 2
    first = [
        min(max(0, int(at) - half), size - PATCH_PX) for at, size in zip(place, photons.shape, strict=True)
    ]
    rows, columns = (slice(start, start + PATCH_PX) for start in first)
    row, column = (int(at) for at in place - first)
    return Patch(photons[rows, columns], features[rows, columns], truth[rows, columns], (row, column))
