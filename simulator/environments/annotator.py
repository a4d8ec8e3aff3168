"""A simulated person who says what lies at a place of an image: it takes seconds, and may be wrong.

No human times of microscopists were measured for this; the seconds are priors from other fields, see
``docs/environments.md``, and can be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Settings
from simulator.environments.pixel_learner import Features, PixelLearner

LabelKind = Literal["class", "box", "contour"]
#: Kinds of questions, from the cheapest to the dearest.
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)

Mask = NDArray[np.bool_]

#: A question is about what lies this near to its place, in pixels.
_AROUND_PX = 14
#: Fewer true pixels than this are nobody's object.
_LEAST_PX = 4
_SMOOTHING_PX = 1.0
_BINS = 64


class AnnotatorOptions(Settings):
    """How long answers take, and how often they are wrong."""

    click_s: NonNegative = 1.0
    """To click on a class, on top of what choosing it takes."""
    class_s: NonNegative = 1.0
    """To choose a class, for each that there is."""
    look_s: NonNegative = 2.0
    """To look for what should be outlined; all that it takes where nothing is."""
    box_s: NonNegative = 7.0
    """A box around an object (extreme clicking: Papadopoulos et al., ICCV 2017, 4930)."""
    contour_s: NonNegative = 8.0
    """An outline of an object, on top of what its length takes."""
    perimeter_s_per_px: NonNegative = 0.1
    error: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Probability that an answer names another class than the true one."""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Part of a scan around a thing, or what looked like one.

    Attributes
    ----------
    photons
        Photons per pixel, shape ``(y, x)``.
    features
        Of its pixels, shape ``(y, x, FEATURES)``.
    truth
        Class of each pixel, shape ``(y, x)``: for the annotator alone.
    place
        Row and column of what is asked about.
    is_lit
        The pixels that stand out from the others, by Otsu's threshold.
    """

    photons: NDArray[Any]
    features: Features
    truth: NDArray[np.int32]
    place: tuple[int, int]
    is_lit: Mask = field(init=False)

    def __post_init__(self) -> None:
        smooth = _smoothed(self.photons)
        object.__setattr__(self, "is_lit", smooth > otsu_threshold(smooth))

    @property
    def around(self) -> Mask:
        """Return the pixels that a question is about."""
        y, x = np.ogrid[: self.truth.shape[0], : self.truth.shape[1]]
        return np.asarray(np.hypot(y - self.place[0], x - self.place[1]) < _AROUND_PX)

    @property
    def thing(self) -> Mask:
        """Return the pixels of what is asked about, as far as the image shows them."""
        return self.is_lit & self.around

    def probabilities(self, learner: PixelLearner) -> NDArray[np.float64]:
        """Return what a learner takes the thing for, shape ``(classes,)``."""
        pixels = self.features[self.thing]
        if not len(pixels):
            pixels = self.features[self.around]
        return np.asarray(learner.probabilities(pixels).mean(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a person said.

    Attributes
    ----------
    told
        The class that the thing was said to be, 0 for nothing.
    answer_s
        Seconds that it took.
    covered, classes
        Which pixels the answer tells about, and what it says they are; both of shape ``(y, x)``. The
        others are unknown, not background.
    """

    told: int
    answer_s: float
    covered: Mask
    classes: NDArray[np.intp]

    def teach(self, learner: PixelLearner, features: Features) -> None:
        """Let a learner learn what was said."""
        learner.learn(features[self.covered], self.classes[self.covered])


def true_class(patch: Patch) -> int:
    """Return what the thing of a patch is: the class of most of its pixels, 0 for nothing."""
    inside = patch.truth[patch.around]
    counts = np.bincount(inside[inside > 0])
    return int(counts.argmax()) if counts.sum() >= _LEAST_PX else 0


def ask(
    patch: Patch, kind: LabelKind, classes: int, options: AnnotatorOptions, rng: np.random.Generator
) -> Answer:
    """Ask about the thing of a patch.

    ``class``: one click says what it is; its lit pixels are taken for it, those of the patch that are
    not lit for background. ``box``: the same for the lit pixels in a box around it, and for what else
    lies around. ``contour``: its true pixels, and what else lies around.

    Parameters
    ----------
    classes
        How many there are, background included.
    rng
        Decides whether the answer is wrong.
    """
    true = true_class(patch)
    is_wrong = rng.random() < options.error
    if kind == "class":
        told = _another(true, range(classes), rng) if is_wrong else true
        covered = patch.thing | ~patch.is_lit
        answer_s = options.click_s + options.class_s * classes
        return Answer(told, answer_s, covered, np.where(patch.thing, told, 0))
    around = patch.around
    if not true:
        return Answer(0, options.look_s, around, np.zeros(patch.truth.shape, np.intp))
    told = _another(true, range(1, classes), rng) if is_wrong else true
    outlined = around & (patch.truth == true)
    # What is of yet another class was not asked about.
    around &= (patch.truth == true) | (patch.truth == 0)
    if kind == "box":
        outlined = _lit_in_box(patch.photons, outlined)
        answer_s = options.look_s + options.box_s
    else:
        answer_s = options.look_s + options.contour_s + options.perimeter_s_per_px * _perimeter_px(outlined)
    return Answer(told, answer_s, around, np.where(outlined & around, told, 0))


def otsu_threshold(values: NDArray[Any]) -> float:
    """Return the value that splits a histogram into the two most different parts; the largest if it is flat.

    References
    ----------
    Otsu, IEEE Trans. Systems, Man and Cybernetics 9 (1979) 62.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return high
    counts, edges = np.histogram(values, _BINS, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    total = np.cumsum(counts * centres)
    between = below * above * (total[:-1] / below - (total[-1] - total[:-1]) / above) ** 2
    return float(edges[1:-1][int(between.argmax())])


def _another(true: int, classes: range, rng: np.random.Generator) -> int:
    """Return one of the other classes, each as likely; the true one where there is no other."""
    others = [index for index in classes if index != true]
    return others[int(rng.integers(len(others)))] if others else true


def _lit_in_box(photons: NDArray[Any], outlined: Mask) -> Mask:
    """Return the pixels that stand out in the smallest box around an object, one pixel wider."""
    rows, columns = (np.flatnonzero(outlined.any(axis=axis)) for axis in (1, 0))
    box = np.s_[max(0, rows[0] - 1) : rows[-1] + 2, max(0, columns[0] - 1) : columns[-1] + 2]
    inside = _smoothed(photons)[box]
    lit = np.zeros(photons.shape, np.bool_)
    lit[box] = inside > otsu_threshold(inside)
    return lit


def _perimeter_px(mask: Mask) -> int:
    """Return how many pixels of a mask have a neighbour outside."""
    from scipy.ndimage import binary_erosion

    return int((mask & ~binary_erosion(mask)).sum())


def _smoothed(photons: NDArray[Any]) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(np.asarray(photons, np.float64), _SMOOTHING_PX))
