"""Whether a question is worth a person's seconds: another policy images, and this one asks in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.decision import (
    Acquire,
    AskLabel,
    Budget,
    Decision,
    Family,
    Observation,
    Question,
    Stop,
)
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame, Segmentation
from controller.core.protocols import Closes, Policy, Resources
from controller.core.settings import Modality, NonNegative, Positive, Region, ScanSettings, Settings
from policies.active.inner import find_inner
from policies.places import overlap_fraction
from policies.questions import Choices, QuestionText
from policies.wording import place_in_words

#: A running mean is moved by this part of each new value.
_NEW_PART = 0.3
#: Regions that share more than this of the smaller one show the same place.
_SAME_PLACE = 0.5
#: Part of the cycles that questions may take from imaging.
_CYCLES_PART = 0.1
#: Questions of the inner policy about places already asked about that are left out, one after the other.
_SKIPS_MAX = 20


class AskingPolicy:
    """Lets another policy image, and asks about what it sees when an answer tells more than a frame.

    After each new frame that is segmented, two rates are compared, both in bits a pixel for each second:

    - what an answer tells: the mean entropy of the segmentation in the least sure square of the frame that
      nobody was asked about, for each second that an answer takes (``answer_s``), each of which is worth
      ``person_worth`` seconds of the microscope;
    - what the next frame tells, for each second that it costs. Of a place not seen before: the entropy of
      the mean foreground less the mean entropy, which is what the segmenter learned about each pixel by
      looking there; of a place seen before: by how much the mean entropy fell. Both are running means over
      the frames so far; before a place was seen twice, the first stands for the second. A frame costs its
      scan's time, or the time in which the session can afford its light, whichever is longer.

    It asks if the first is at least the second and the square has ``doubt_min_bits``. So it asks little
    while every frame shows something new, and more when the same is imaged again, or light runs short.
    The figures are evidence of the question, or of the frame that was taken instead.

    The other policy never notices: a frame that it wants is held back for the one cycle of the question,
    and of the budget's cycles it is told only what questions leave of them.
    """

    family: ClassVar[Family] = "information-driven"

    class Options(Settings):
        """Who images, and what is asked, how often and at which price.

        Attributes
        ----------
        policy, policy_options
            The policy that images, by name, and what it is told.
        questions_max
            How many questions at most, and no more than a tenth of the cycles that are left.
        interval_s
            Seconds between two questions at least, so that people can answer.
        size_m
            Side of the square that a question is about, in metres.
        modality
            Only frames of this kind are asked about; without it, of any.
        text, choices
            The question, and the answers to choose from.
        answer_s
            Seconds that an answer takes; without it 1 s, and 1 s for each choice.
        person_worth
            Seconds of the microscope that are worth one of a person.
        doubt_min_bits
            Mean entropy of the segmentation, in bits a pixel, below which nothing is asked.
        """

        policy: Annotated[str, Field(min_length=1, max_length=200)] = "regions"
        policy_options: dict[str, Any] = Field(default_factory=dict)
        questions_max: Annotated[int, Field(ge=0)] = 20
        interval_s: NonNegative = 30.0
        size_m: Positive = 1.28e-6
        modality: Modality | None = None
        text: QuestionText = "What is in this square?"
        choices: Choices = ("synapse", "shaft", "nothing here", "unsure")
        answer_s: Positive | None = None
        person_worth: Positive = 1.0
        doubt_min_bits: Annotated[float, Field(gt=0, le=1)] = 0.1

    def __init__(self, options: Options, inner: Policy) -> None:
        self._options, self._inner = options, inner
        self._answer_s = options.answer_s or 1.0 + len(options.choices)
        self._gains = FrameGains()
        self._left = options.questions_max
        self._asked: list[Region] = []
        self._asked_s = -np.inf
        self._held: Acquire | None = None
        self._considered = -1

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Make it and the policy that it wraps; what either cannot use is a ConfigurationError."""
        kind, inner_options = find_inner(
            "policies", options.policy, options.policy_options, "policy.options.policy"
        )
        if isinstance(kind, type) and issubclass(kind, cls):
            raise ConfigurationError(f"policy.options.policy: {options.policy!r} cannot wrap itself")
        return cls(options, kind.from_options(inner_options, resources))

    def decide(self, observation: Observation) -> Decision:
        """Return what the other policy wants, or before that a question."""
        if self._held is not None:
            held, self._held = self._held, None
            if observation.refused is not None:
                self._left = 0
            return held
        self._gains.learn(observation)
        wanted = self._wanted(observation)
        if not isinstance(wanted, Acquire):
            return wanted
        evidence, square = self._weigh(observation, wanted)
        if square is None or observation.frame is None:
            return wanted.replace(evidence={**wanted.evidence, **evidence})
        self._held = wanted
        self._note(square, observation.now_s)
        self._left = self._questions_left(observation.budget) - 1
        return AskLabel(
            reason=f"{place_in_words(square.center_yx_m)} is unsure by {evidence['doubt_bits']:.2f} bits a "
            f"pixel; an answer tells {evidence['answer_bits_per_s']:.3g} bits a pixel each second, the next "
            f"frame tells {evidence['frame_bits_per_s']:.3g}",
            evidence=evidence,
            question=Question(
                frame_index=observation.frame.index,
                region=square,
                kind="tag",
                text=self._options.text,
                choices=self._options.choices,
            ),
        )

    def close(self) -> None:
        """Close the other policy, if it holds anything."""
        if isinstance(self._inner, Closes):
            self._inner.close()

    def _wanted(self, observation: Observation) -> Decision:
        """Return what the other policy wants; its questions about a place are never about one asked about."""
        kept = self._questions_left(observation.budget)
        budget = replace(observation.budget, cycles=observation.budget.cycles - kept)
        for _ in range(_SKIPS_MAX):
            wanted = self._inner.decide(replace(observation, budget=budget))
            # A choice compares scans; it says nothing of what is at their places.
            if not isinstance(wanted, AskLabel) or wanted.question.kind == "choice":
                return wanted
            if not self._was_asked(wanted.question.region):
                self._note(wanted.question.region, observation.now_s)
                return wanted
        return Stop(reason=f"the policy {self._options.policy!r} asks about the same places again and again")

    def _questions_left(self, budget: Budget) -> int:
        """Return how many cycles are kept for questions; fewer the fewer there are, so none stay unused."""
        self._left = int(min(self._left, _CYCLES_PART * max(0.0, budget.cycles)))
        return self._left

    def _was_asked(self, region: Region) -> bool:
        return any(overlap_fraction(region, asked) > 1e-6 for asked in self._asked)

    def _note(self, region: Region, now_s: float) -> None:
        self._asked.append(region)
        self._asked_s = now_s

    def _weigh(self, observation: Observation, wanted: Acquire) -> tuple[dict[str, float], Region | None]:
        """Return the figures, and the square to ask about if that is worth more than the frame."""
        frame, segmentation = observation.frame, observation.segmentation
        if frame is None or segmentation is None or frame.index <= self._considered:
            return {}, None
        is_due = observation.now_s - self._asked_s >= self._options.interval_s
        may_ask = self._questions_left(observation.budget) >= 1 and observation.budget.questions >= 1
        is_kind = self._options.modality in {None, frame.settings.modality}
        if not (is_due and may_ask and is_kind):
            return {}, None
        self._considered = frame.index
        doubt_bits, square = least_sure_square(frame, segmentation, self._options.size_m, self._asked)
        if square is None:
            return {}, None
        frame_bits = self._gains.expected_bits(wanted.settings)
        frame_s = price_s(wanted.settings, observation.budget)
        evidence = {
            "doubt_bits": doubt_bits,
            "answer_s": self._answer_s,
            "answer_bits_per_s": doubt_bits / (self._answer_s * self._options.person_worth),
            "frame_bits": frame_bits,
            "frame_s": frame_s,
            "frame_bits_per_s": frame_bits / frame_s,
        }
        is_worth_it = evidence["answer_bits_per_s"] >= evidence["frame_bits_per_s"]
        return evidence, square if is_worth_it and doubt_bits >= self._options.doubt_min_bits else None


@dataclass(slots=True)
class _Seen:
    """The newest frame of a place, and the mean entropy of its segmentation."""

    settings: ScanSettings
    doubt_bits: float


class FrameGains:
    """What frames have told so far, in bits a pixel: of new places, and of those seen before."""

    def __init__(self) -> None:
        self._seen: list[_Seen] = []
        self._newest = -1
        self._new_bits: float | None = None
        self._again_bits: float | None = None

    def learn(self, observation: Observation) -> None:
        """Take in what the newest frame has told, if it is new and segmented."""
        frame, segmentation = observation.frame, observation.segmentation
        if frame is None or segmentation is None or frame.index <= self._newest:
            return
        if (observation.segmentation_age_s or 0.0) > (observation.frame_age_s or 0.0):
            return  # kept from an earlier frame, which was learned from
        self._newest = frame.index
        doubt = float(segmentation.uncertainty.mean(dtype=np.float64))
        before = self._last_of(frame.settings)
        if before is None:
            share = float(segmentation.probability.mean(dtype=np.float64))
            told = max(0.0, entropy_bits(share) - doubt)
            self._new_bits = _moved(self._new_bits, told)
            self._seen.append(_Seen(frame.settings, doubt))
        else:
            self._again_bits = _moved(self._again_bits, max(0.0, before.doubt_bits - doubt))
            before.settings, before.doubt_bits = frame.settings, doubt

    def expected_bits(self, scan: ScanSettings) -> float:
        """Return what a frame of ``scan`` is expected to tell, in bits a pixel."""
        is_new = self._last_of(scan) is None
        known = self._new_bits if is_new or self._again_bits is None else self._again_bits
        return 0.0 if known is None else known

    def _last_of(self, scan: ScanSettings) -> _Seen | None:
        for seen in self._seen:
            same_kind = seen.settings.modality == scan.modality
            if same_kind and overlap_fraction(seen.settings.region, scan.region) > _SAME_PLACE:
                return seen
        return None


def _moved(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _NEW_PART * (value - mean)


def entropy_bits(probability: float) -> float:
    """Return the entropy of a yes or no, 0..1 bits."""
    if not 0 < probability < 1:
        return 0.0
    return float(-probability * np.log2(probability) - (1 - probability) * np.log2(1 - probability))


def price_s(scan: ScanSettings, budget: Budget) -> float:
    """Return the seconds that one frame costs a session: its time, or that of its share of the light left.

    With ``energy_j`` for ``duration_s``, light costs as many seconds as it takes to earn it. Without both
    budgets, light has no price.
    """
    light_s = 0.0
    if np.isfinite(budget.energy_j) and np.isfinite(budget.duration_s) and budget.energy_j > 0:
        light_s = scan.energy_j / budget.energy_j * budget.duration_s
    return max(scan.duration_s, light_s)


def least_sure_square(
    frame: Frame, segmentation: Segmentation, size_m: float, avoid: list[Region]
) -> tuple[float, Region | None]:
    """Return the highest mean entropy of a square of ``frame`` in bits a pixel, and that square.

    ``None`` if each square overlaps one of ``avoid``. Where the frame is smaller than ``size_m``, the
    square is cut to it.
    """
    uncertainty, pixel_m = segmentation.uncertainty, frame.settings.pixel_size_m
    if uncertainty.shape != frame.photons.shape:
        return 0.0, None
    sides = [min(count, max(1, round(size_m / pixel_m))) for count in uncertainty.shape]
    means = _window_means(uncertainty, sides[0], sides[1])
    y0, x0, _, _ = frame.settings.scanned_region.bounds_yx_m
    sizes = [side * pixel_m for side in sides]
    ys = y0 + np.arange(means.shape[0]) * pixel_m + sizes[0] / 2
    xs = x0 + np.arange(means.shape[1]) * pixel_m + sizes[1] / 2
    for region in avoid:
        near = [
            np.abs(at - center) < (size + other) / 2 - 1e-3 * pixel_m
            for at, center, size, other in zip(
                (ys, xs), region.center_yx_m, sizes, region.size_yx_m, strict=True
            )
        ]
        means[np.outer(near[0], near[1])] = -1.0
    row, column = np.unravel_index(int(means.argmax()), means.shape)
    if means[row, column] < 0:
        return 0.0, None
    square = Region(center_yx_m=(float(ys[row]), float(xs[column])), size_yx_m=(sizes[0], sizes[1]))
    return float(np.clip(means[row, column], 0.0, 1.0)), square


def _window_means(image: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float64]:
    """Return the mean of each window of ``rows`` x ``columns`` pixels, by its first row and column."""
    sums = np.pad(np.cumsum(np.cumsum(image, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
    totals = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    return np.maximum(totals / (rows * columns), 0.0)
