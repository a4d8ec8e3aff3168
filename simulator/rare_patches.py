"""Small STED-like images of which few show what somebody is looking for, and a person who tags them.

For measuring how well questions are chosen: tens of thousands of patches in a minute, each with its truth.
So they are drawn, not scanned: every structure is a sum of Gaussian profiles, as wide as itself and the
focal spot together, in light and background of its own, and its photons are Poisson counts. There is no
bleaching, no scan and no motion; the microscopes of :mod:`simulator.sted` have these.

Rings are those of actin along axons, every 190 nm [1]_. No time of a microscopist was measured for this:
what a tag takes are guesses, in two models, because it depends on them which questions pay.

References
----------
.. [1] K. Xu, G. Zhong, X. Zhuang, Science 339, 452, 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from controller.core.settings import NonNegative, Positive, Settings

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
CostModel = Literal["rare_is_slow", "dim_is_slow"]

CLASS_NAMES = ("background", "clusters", "fibers", "rings")
BACKGROUND, CLUSTERS, FIBERS, RINGS = range(4)

SIDE_PX = 48
PIXEL_SIZE_M = 20e-9
RING_PERIOD_M = 190e-9

#: Standard deviation of the focal spot: 50 nm across at half of its height.
_SPOT_M = 50e-9 / 2.355
_JITTER_M = 8e-9

#: Photons of the peaks of the dimmest and of the brightest structures. So few that 250 tags of random
#: patches are worth much less than ten times as many: that leaves something for good questions to gain.
_DIMMEST, _BRIGHTEST = 0.6, 4.8

#: What a tag of each class takes if it is clear and bright, where rare classes are slow.
_TAG_S = (0.8, 2.5, 3.5, 5.0)
#: What it takes of any class, where only dim ones are slow.
_ANY_TAG_S = 0.75


class PatchMix(Settings):
    """How often each class is, and how hard it is to see."""

    shares: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.70, 0.18, 0.08, 0.04)
    """Of background, clusters, fibers and rings; they add up to 1."""
    most_ambiguous: Annotated[float, Field(ge=0, le=1)] = 1.0
    """At 1 the least clear patches show nearly as much of another class as of their own."""
    light: Positive = 1.0
    """A factor to all photons of structures."""
    patches_per_field: Annotated[int, Field(ge=1, le=10_000)] = 20
    """How many patches in a row come from one field of view, with similar light."""

    @field_validator("shares")
    @classmethod
    def _add_up(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not abs(sum(shares) - 1) < 1e-6:
            raise ValueError(f"shares must add up to 1, got {sum(shares):g}")
        return shares


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Images and their truth.

    Attributes
    ----------
    photons
        Counts, shape ``(n, y, x)``, uint16.
    classes
        Index into :data:`CLASS_NAMES`, shape ``(n,)``.
    ambiguity
        0 is clear; at 1 another class is nearly as strong. Shape ``(n,)``.
    dimness
        0 for the brightest structures, 1 for the dimmest, shape ``(n,)``.
    fields
        Field of view of each, shape ``(n,)``.
    """

    photons: NDArray[np.uint16]
    classes: Indices
    ambiguity: Floats
    dimness: Floats
    fields: Indices

    def __len__(self) -> int:
        return len(self.photons)


def draw_patches(count: int, rng: np.random.Generator, mix: PatchMix | None = None) -> Patches:
    """Draw so many patches of :data:`SIDE_PX` pixels at :data:`PIXEL_SIZE_M`, in order of their fields."""
    mix = mix or PatchMix()
    if count < 1:
        raise ValueError(f"count={count} must be 1 or more")
    classes = rng.choice(len(CLASS_NAMES), count, p=np.array(mix.shares) / sum(mix.shares))
    ambiguity = mix.most_ambiguous * rng.beta(1.0, 1.6, count)
    fields = np.arange(count) // mix.patches_per_field
    # Half of the differences in light are between fields, half within them.
    dimness = 0.5 * (rng.random(int(fields[-1]) + 1)[fields] + rng.random(count))
    photons = np.empty((count, SIDE_PX, SIDE_PX), np.uint16)
    for index in range(count):
        structure = _structure(int(classes[index]), float(ambiguity[index]), rng)
        light = mix.light * _BRIGHTEST * (_DIMMEST / _BRIGHTEST) ** dimness[index]
        stray = np.exp(rng.uniform(np.log(0.3), np.log(1.5)))
        photons[index] = rng.poisson(light * structure + stray)
    return Patches(photons, classes.astype(np.int64), ambiguity, dimness, fields.astype(np.int64))


def answer_seconds(patches: Patches, model: CostModel) -> Floats:
    """Return the expected seconds of a tag of each patch, shape ``(n,)``.

    ``rare_is_slow``: 0.8, 2.5, 3.5 and 5.0 s by class, up to 1.5 times as long if it is ambiguous, and if
    it is dim. So what is worth most is also what takes longest. ``dim_is_slow``: from 0.75 s for the
    brightest to 3 s for the dimmest patches, of whatever class.
    """
    if model == "dim_is_slow":
        return np.asarray(_ANY_TAG_S * 4.0**patches.dimness)
    by_class = np.array(_TAG_S)[patches.classes]
    return np.asarray(by_class * (0.8 + 0.7 * patches.ambiguity) * (0.8 + 0.4 * patches.dimness))


class ScriptedAnnotator:
    """Tags patches in the time of a cost model, and errs as often as told.

    What they say about a patch, and how long it takes, does not depend on what they were asked before: so
    two strategies that ask the same question hear the same answer.
    """

    def __init__(self, patches: Patches, model: CostModel, error: float, rng: np.random.Generator) -> None:
        if not 0 <= error <= 1:
            raise ValueError(f"error={error:g} must be the share of wrong answers, 0..1")
        count, classes = len(patches), len(CLASS_NAMES)
        # An ambiguous patch is mistaken more often: the mean of its ambiguity stands for all.
        chance = error * patches.ambiguity / max(float(patches.ambiguity.mean()), 1e-9)
        is_wrong = rng.random(count) < (chance if patches.ambiguity.any() else error)
        other = (patches.classes + rng.integers(1, classes, count)) % classes
        self._said = np.where(is_wrong, other, patches.classes)
        # People differ from themselves by about a quarter from one tag to the next.
        self._took_s = answer_seconds(patches, model) * np.exp(rng.normal(-0.03, 0.25, count))

    def answers(self, indices: Sequence[int]) -> tuple[Indices, Floats]:
        """Return the class that is said of each patch, and the seconds that it took."""
        chosen = np.asarray(indices, np.int64)
        return self._said[chosen], self._took_s[chosen]


def _structure(kind: int, ambiguity: float, rng: np.random.Generator) -> Floats:
    """Return a structure with peaks of about 1, and some of another class over it."""
    other = int((kind + rng.integers(1, len(CLASS_NAMES))) % len(CLASS_NAMES))
    share = 0.45 * ambiguity
    return np.asarray((1 - share) * _DRAWN[kind](rng) + share * _DRAWN[other](rng))


def _places() -> tuple[Floats, Floats]:
    middle = (SIDE_PX - 1) / 2
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - middle
    return y * PIXEL_SIZE_M, x * PIXEL_SIZE_M


_Y_M, _X_M = _places()
_HALF_M = SIDE_PX * PIXEL_SIZE_M / 2


def _across(rng: np.random.Generator, off_m: float) -> tuple[Floats, Floats]:
    """Return the distance along and across a line of any direction that passes near the middle."""
    angle, shift_m = rng.uniform(0, np.pi), rng.uniform(-off_m, off_m)
    along = _Y_M * np.sin(angle) + _X_M * np.cos(angle)
    bend_per_m = rng.normal(0, 0.25e6)
    return along, _Y_M * np.cos(angle) - _X_M * np.sin(angle) - shift_m - bend_per_m * along**2


def _spots(number: int, rng: np.random.Generator, size_m: tuple[float, float]) -> Floats:
    image = np.zeros((SIDE_PX, SIDE_PX))
    for y_m, x_m in rng.uniform(-_HALF_M, _HALF_M, (number, 2)):
        variance = _SPOT_M**2 + rng.uniform(*size_m) ** 2
        image += rng.uniform(0.5, 1) * np.exp(-((_Y_M - y_m) ** 2 + (_X_M - x_m) ** 2) / (2 * variance))
    return image


def _band(across: Floats, half_m: float) -> Floats:
    """Return a band of even actin whose edges are blurred by the focal spot."""
    return np.asarray(1 / (1 + np.exp((np.abs(across) - half_m) / (0.6 * _SPOT_M))))


def _background(rng: np.random.Generator) -> Floats:
    """Draw what nobody is looking for: nothing, haze, a smooth process, or two or three lone spots."""
    what = rng.random()
    if what < 0.35:
        return np.zeros((SIDE_PX, SIDE_PX))
    if what < 0.6:
        return 0.6 * _spots(2, rng, (150e-9, 350e-9))
    if what < 0.8:
        return 0.5 * _band(_across(rng, 0.25e-6)[1], rng.uniform(0.1e-6, 0.3e-6))
    return _spots(int(rng.integers(1, 4)), rng, (0, 30e-9))


def _clusters(rng: np.random.Generator) -> Floats:
    return _spots(int(rng.integers(4, 11)), rng, (5e-9, 45e-9))


def _fibers(rng: np.random.Generator) -> Floats:
    image = np.zeros((SIDE_PX, SIDE_PX))
    for _ in range(int(rng.integers(1, 4))):
        _, across = _across(rng, 0.35e-6)
        variance = _SPOT_M**2 + rng.uniform(5e-9, 20e-9) ** 2
        image += rng.uniform(0.5, 1) * np.exp(-(across**2) / (2 * variance))
    return image


def _rings(rng: np.random.Generator) -> Floats:
    """Draw an axon with rings that are seen edge-on, as stripes, each as strong as chance has it."""
    along, across = _across(rng, 0.2e-6)
    count = int(4 * _HALF_M / RING_PERIOD_M) + 2
    ring_m = (
        np.cumsum(rng.normal(RING_PERIOD_M, _JITTER_M, count)) - 2 * _HALF_M - RING_PERIOD_M * rng.random()
    )
    variance = _SPOT_M**2 + 28e-9**2
    stripes = np.zeros((SIDE_PX, SIDE_PX))
    for middle_m, strength in zip(ring_m, rng.gamma(6, 1 / 6, count), strict=True):
        stripes += strength * np.exp(-((along - middle_m) ** 2) / (2 * variance))
    return np.asarray(_band(across, rng.uniform(0.15e-6, 0.3e-6)) * (stripes + 0.04))


_DRAWN = (_background, _clusters, _fibers, _rings)
