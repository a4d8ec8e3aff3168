"""What a scan is worth: utility of what it shows, less what it costs.

A reward is a function of a :class:`Scan`. Those that look at the truth can be had in a simulator only;
``measured`` can be had anywhere. Pass your own by the ``reward_function`` of an environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import NonNegative, Positive, Settings
from simulator.objectives import (
    GOALS,
    Measure,
    bleached_fraction,
    decorrelation_resolution_m,
    find_spots,
    match_spots,
    signal_ratio,
    signal_to_noise,
    unmeasured,
)
from simulator.objectives.signal import lost_fraction
from simulator.specimens import MAP_PIXEL_SIZE_M, TruthPoints

#: What is measured of each scan, in this order, and the goal that says what is bad and good.
OBJECTIVES: dict[str, str] = {
    "resolution_m": "resolution",
    "signal_to_noise": "signal_to_noise",
    "signal_ratio": "signal_ratio",
    "bleached_fraction": "bleached_fraction",
}

Photons = NDArray[Any]
Molecules = NDArray[np.int32]

#: Sigma in map pixels to which the truth is blurred before an image is compared with it: 47 nm FWHM.
_TRUTH_SIGMA_PX = 1.0
#: Sigma in image pixels of the blur with which an image is looked at.
_IMAGE_SIGMA_PX = 0.7
#: Spots match within this distance, 2 pixels of 20 nm as in gym-sted.
_MATCH_M = 40e-9
_SPOT_WIDTH_M = 80e-9


@dataclass(frozen=True, slots=True)
class ScanTruth:
    """What a simulator knows about one scan.

    Attributes
    ----------
    likeness
        Correlation of the image with what was there before the scan, at a resolution of 47 nm, 0..1.
    f1
        Spots that were found, as F1; 0 where there are neither spots nor finds.
    bleached_fraction
        Part of the field's molecules that the scan destroyed, 0..1.
    """

    likeness: float
    f1: float
    bleached_fraction: float

    def named(self) -> dict[str, float]:
        """Return the figures as they appear in ``info``."""
        return {
            "truth_likeness": self.likeness,
            "truth_f1": self.f1,
            "truth_bleached_fraction": self.bleached_fraction,
        }


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan, as a reward sees it.

    Attributes
    ----------
    scores
        0 (worst or not measured) to 1 (best) of each of ``OBJECTIVES``.
    budget_share
        Energy of the scan as a share of the whole budget, 0..1.
    truth
        What a simulator knows, else None.
    """

    scores: dict[str, float]
    budget_share: float
    truth: ScanTruth | None


RewardFunction = Callable[[Scan], float]


class RewardOptions(Settings):
    """Which reward, and what weighs how much.

    ``likeness``: ``truth_likeness - bleaching_weight * truth_bleached_fraction``.
    ``spots``: the same with ``truth_f1``; for samples with points (synapses, vesicles, beads, filaments).
    ``useful``: ``truth_likeness`` from ``useful_from`` (0) to ``useful_to`` (1), without a price on
    bleaching: what is gone is missed later.
    ``measured``: geometric mean of the scores of resolution and signal to noise, less ``bleaching_weight``
    times the measured bleaching; needs no truth. Both count as factors, and the signal ratio does not:
    by a sum of all three the best scan is one without STED light.

    From all, ``dose_weight * budget_share`` is taken.
    """

    kind: Literal["likeness", "spots", "useful", "measured"] = "likeness"
    bleaching_weight: NonNegative = 1.0
    dose_weight: NonNegative = 0.5
    useful_from: float = 0.6
    useful_to: Positive = 0.9

    @property
    def needs_truth(self) -> bool:
        """Whether this reward can be had in a simulator only."""
        return self.kind != "measured"

    def function(self) -> RewardFunction:
        """Return the reward as a function of a scan."""
        utility = {
            "likeness": self._likeness,
            "spots": self._spots,
            "useful": self._useful,
            "measured": self._measured,
        }[self.kind]
        return lambda scan: utility(scan) - self.dose_weight * scan.budget_share

    def _likeness(self, scan: Scan) -> float:
        truth = _known(scan)
        return truth.likeness - self.bleaching_weight * truth.bleached_fraction

    def _spots(self, scan: Scan) -> float:
        truth = _known(scan)
        return truth.f1 - self.bleaching_weight * truth.bleached_fraction

    def _useful(self, scan: Scan) -> float:
        span = self.useful_to - self.useful_from
        return float(np.clip((_known(scan).likeness - self.useful_from) / span, 0.0, 1.0))

    def _measured(self, scan: Scan) -> float:
        scores = scan.scores
        shown = float(np.sqrt(scores["resolution_m"] * scores["signal_to_noise"]))
        return shown - self.bleaching_weight * (1 - scores["bleached_fraction"])


def _known(scan: Scan) -> ScanTruth:
    if scan.truth is None:
        raise ValueError('this reward needs the truth: use RewardOptions(kind="measured")')
    return scan.truth


def measure(before: Photons, sted: Photons, after: Photons, pixel_size_m: float) -> dict[str, Measure]:
    """Return ``OBJECTIVES`` of a STED image between two equal confocal ones, all in photons per pixel."""
    return {
        "resolution_m": decorrelation_resolution_m(sted, pixel_size_m),
        "signal_to_noise": signal_to_noise(sted),
        "signal_ratio": signal_ratio(sted, before),
        "bleached_fraction": bleached_fraction(before, after),
    }


def scores(measures: dict[str, Measure]) -> dict[str, float]:
    """Return 0 (worst or not measured) to 1 (best) of each."""
    return {name: GOALS[OBJECTIVES[name]].score(measured) for name, measured in measures.items()}


def values(measures: dict[str, Measure]) -> dict[str, float]:
    """Return the values in their units; the worst of the goal where nothing could be measured."""
    return {
        name: GOALS[OBJECTIVES[name]].worst if measured.value is None else measured.value
        for name, measured in measures.items()
    }


def judge(
    sted: Photons, molecules: Molecules, survivors: Molecules, points: TruthPoints, center_yx_m: Place
) -> ScanTruth:
    """Compare a scan with the truth.

    Parameters
    ----------
    sted
        The image, shape ``(y, x)``; its pixel is a whole number of map pixels.
    molecules, survivors
        Molecules of the scanned region before and after the scan, on the map's pixels.
    points, center_yx_m
        Small things in the region, and the middle of the region, in sample coordinates.
    """
    stride = molecules.shape[0] // sted.shape[0]
    places = points.center_yx_m - np.array(center_yx_m)
    found = find_spots(sted, stride * MAP_PIXEL_SIZE_M, _SPOT_WIDTH_M)
    f1 = match_spots(found, places, _MATCH_M).f1
    lost = lost_fraction(molecules, survivors)
    return ScanTruth(
        likeness=likeness(sted, molecules),
        f1=f1.value or 0.0,
        bleached_fraction=lost.value or 0.0,
    )


Place = tuple[float, float]


def likeness(image: Photons, molecules: Molecules) -> float:
    """Return the correlation of an image with the molecules, both slightly blurred, 0..1.

    Scale and background do not matter, noise, blur and bleaching during the scan do. 0 for an image
    or a map without any contrast.
    """
    from scipy.ndimage import gaussian_filter

    stride = molecules.shape[0] // image.shape[0]
    truth = gaussian_filter(molecules.astype(np.float64), _TRUTH_SIGMA_PX)
    if stride > 1:
        rows, columns = image.shape
        truth = truth.reshape(rows, stride, columns, stride).mean(axis=(1, 3))
    seen = gaussian_filter(np.asarray(image, np.float64), _IMAGE_SIGMA_PX)
    truth, seen = truth - truth.mean(), seen - seen.mean()
    power = float((truth**2).sum() * (seen**2).sum())
    if not power > 0:
        return 0.0
    return max(0.0, float((truth * seen).sum() / np.sqrt(power)))


NOTHING_MEASURED = {name: unmeasured("nothing was scanned") for name in OBJECTIVES}
