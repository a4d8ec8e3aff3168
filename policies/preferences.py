"""Preferences: settings judged by a reward that was learned from choices, and choices for people to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.choosing import choice_information
from controller.core.decision import AskLabel, Budget, Decision, ImageOption, Question
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.reward import GOOD_WAYS, LearnedReward
from controller.core.settings import ScanSettings, Settings
from policies.gaussian_process import Array
from policies.objectives import Measured
from policies.questions import QuestionText

#: Scans that the next choice is made of, the newest: sets of four of them can all be looked at.
_SCANS_MAX = 12


class PreferenceQuestions(Settings):
    """Questions which of several scans somebody would rather have; what is preferred is learned from them.

    Attributes
    ----------
    questions_max
        How many at most; 0 asks nothing. What the visits left of them is asked at the end.
    options
        Scans in each question.
    scans_first, scans_between
        Scans with different settings before the first question, and new ones before each further one.
    text
        The question.
    """

    questions_max: Annotated[int, Field(ge=0)] = 0
    options: Annotated[int, Field(ge=2, le=4)] = 3
    scans_first: Annotated[int, Field(ge=2)] = 6
    scans_between: Annotated[int, Field(ge=1)] = 2
    text: QuestionText = "Which of these scans would you rather have?"


@dataclass(frozen=True, slots=True)
class LearnedUtility:
    """Judges settings by a reward that was learned from choices: its mean less ``beta`` standard deviations.

    The reward's ceiling is left out: it would make all settings alike that are better than the best that
    anybody was shown, and keep the search from them.
    """

    reward: LearnedReward
    name: str

    @classmethod
    def read(cls, name: str, folder: Path) -> Self:
        """Read a reward from a file; relative paths start at ``folder``.

        Raises
        ------
        ConfigurationError
            If there is none, or it judges by something that is not measured here.
        """
        key = "policy.options.settings.reward"
        try:
            reward = LearnedReward.read(folder / Path(name).expanduser())
        except ConfigurationError as error:
            raise ConfigurationError(*(f"{key}: {problem}" for problem in error.problems)) from error
        if not set(reward.features) <= set(GOOD_WAYS):
            raise ConfigurationError(
                f"{key}: {name} judges by {', '.join(reward.features)}; measured here are "
                f"{', '.join(GOOD_WAYS)}; learn a reward from choices among scans of this policy "
                f"(preferences.questions_max, then 'stedfast labels reward')"
            )
        return cls(reward, name)

    def of(self, objectives: Mapping[str, Array], dose_j_per_m2: Array, duration_s: Array) -> Array:
        """Return the utility of objectives at the cost of dose and time, all of shape ``(n,)``."""
        known = {**objectives, "dose_j_per_m2": dose_j_per_m2, "duration_s": duration_s}
        mean, std = self.reward.predict_many(np.stack([known[name] for name in self.reward.features], axis=1))
        return np.asarray(mean - self.reward.beta * std)

    def evidence(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return what the reward says of a scan; see :func:`described`."""
        mean, std = self.reward.predict(values)
        return {"reward_mean": mean, "reward_std": std}

    @property
    def told(self) -> str:
        """Return which reward it is, as the rest of a sentence; for the record, and to find out changes."""
        return (
            f"settings are judged by {self.name}, learned from {self.reward.choices} choices, "
            f"sha256 {self.reward.sha256}"
        )


def described(measured: Measured, settings: ScanSettings) -> dict[str, float] | None:
    """Return what is known of a scan by the names of ``GOOD_WAYS``; ``None`` if not all was measured."""
    costs = {"dose_j_per_m2": settings.dose_j_per_m2, "duration_s": settings.duration_s}
    known = {**measured.objectives(), **costs}
    return {name: known[name] for name in GOOD_WAYS} if set(GOOD_WAYS) <= set(known) else None


class Preferences:
    """What a policy does about preferences: which scans it asks to choose from, and what it says of a reward.

    Parameters
    ----------
    options
        How many questions, and when.
    utility
        The reward that settings are judged by, if there is one.
    rng
        For the order of the options: people look at the first one first.
    """

    def __init__(
        self, options: PreferenceQuestions, utility: LearnedUtility | None, rng: np.random.Generator
    ) -> None:
        self._options, self._utility = options, utility
        (self._rng,) = rng.spawn(1)  # so that asking changes nothing about the settings that are tried
        self._scans: dict[tuple[float, ...], ImageOption] = {}
        self._wait = max(options.scans_first, options.options)
        self._asked = 0
        self._compared: set[tuple[int, int]] = set()
        self._is_signed = utility is None

    def take(self, sted: Frame | None, measured: Measured) -> dict[str, float]:
        """Take in what a visit showed; return the figures behind the next decision."""
        values = None if sted is None else described(measured, sted.settings)
        if sted is None or values is None:
            return measured.evidence()
        self._remember(sted, values)
        return measured.evidence() | ({} if self._utility is None else self._utility.evidence(values))

    def question(
        self, budget: Budget, evidence: Mapping[str, float], *, at_end: bool = False
    ) -> AskLabel | None:
        """Return the next question, if it is time for one and there is something to learn from it."""
        left = min(self._options.questions_max - self._asked, budget.questions)
        if left < 1 or not (at_end or self._wait <= 0):
            return None
        chosen = self._most_telling()
        if chosen is None:
            return None
        scans, worth = chosen
        self._asked += 1
        self._wait = self._options.scans_between
        self._compared |= set(combinations(sorted(_index(scan) for scan in scans), 2))
        shown = tuple(scans[int(i)] for i in self._rng.permutation(len(scans)))
        region = shown[0].region
        assert region is not None  # noqa: S101  # each has the one of its scan
        why = (
            "they differ most"
            if self._utility is None
            else "the reward is least sure which of them is preferred"
        )
        name = "choice_distance" if self._utility is None else "choice_information_nats"
        return AskLabel(
            reason=f"choice {self._asked} of {self._options.questions_max} among the best scans: {why}",
            evidence={**evidence, name: worth},
            question=Question(
                frame_index=_index(shown[0]),
                region=region,
                kind="choice",
                text=self._options.text,
                options=shown,
            ),
        )

    def signed(self, decision: Decision) -> Decision:
        """Return a decision, the first one with the reward's name and checksum in its reason.

        A session that is resumed has to decide as it did, so it is refused if the reward has changed.
        """
        if self._is_signed or self._utility is None:
            return decision
        self._is_signed = True
        return decision.replace(reason=f"{decision.reason}; {self._utility.told}")

    def _remember(self, sted: Frame, values: dict[str, float]) -> None:
        s = sted.settings
        key = (s.dwell_s, s.excitation_w, s.sted_w, s.pixel_size_m)
        if self._scans.pop(key, None) is None:
            self._wait -= 1
        # Of the same settings the newest counts; it goes to the end.
        self._scans[key] = ImageOption(frame_index=sted.index, region=s.scanned_region, values=values)

    def _most_telling(self) -> tuple[list[ImageOption], float] | None:
        """Return the scans whose comparison tells most, and how much; ``None`` if no pair of them is new."""
        scans = list(self._scans.values())
        if len(scans) < 2:
            return None
        values = np.array([[scan.values[name] for name in GOOD_WAYS] for scan in scans])
        best = np.flatnonzero(_is_undominated(values))[-_SCANS_MAX:]
        size = min(self._options.options, len(best))
        if size < 2:
            return None
        sets = np.array(list(combinations(best.tolist(), size)))
        if self._utility is None:
            tells = _distances(values, sets, best)
        else:
            tells = _information(self._utility.reward, scans, sets)
        worth = tells * [self._new_part([_index(scans[i]) for i in one]) for one in sets]
        first = int(np.argmax(worth))
        return ([scans[i] for i in sets[first]], float(worth[first])) if worth[first] > 0 else None

    def _new_part(self, frames: Sequence[int]) -> float:
        """Return the part of the pairs in a set that nobody was asked to compare yet."""
        pairs = list(combinations(sorted(frames), 2))
        return sum(pair not in self._compared for pair in pairs) / len(pairs)


def _information(reward: LearnedReward, scans: Sequence[ImageOption], sets: NDArray[np.int64]) -> Array:
    """Return what picks from each set tell of the reward, in nats."""
    values = np.array([[scan.values[name] for name in reward.features] for scan in scans])
    return np.maximum(choice_information(reward.utilities(values)[:, sets]), 0.0)


def _distances(values: Array, sets: NDArray[np.int64], best: NDArray[np.int64]) -> Array:
    """Return how far the two nearest of each set are apart, on the scale of the best scans."""
    low, span = values[best].min(axis=0), np.ptp(values[best], axis=0)
    scaled = np.zeros_like(values)
    # Less the lowest first: what differs by next to nothing would overflow, divided as a whole.
    scaled[best] = (values[best] - low) / np.where(span > 0, span, np.inf)
    pairs = list(combinations(range(sets.shape[1]), 2))
    apart = [np.linalg.norm(scaled[sets[:, a]] - scaled[sets[:, b]], axis=1) for a, b in pairs]
    return np.asarray(np.min(apart, axis=0))


def _is_undominated(values: Array) -> NDArray[np.bool_]:
    """Tell of which scans no other one is as good in everything and better in something."""
    signs = np.array([1.0 if way == "high" else -1.0 for way in GOOD_WAYS.values()])
    goods = values * signs
    as_good = (goods[:, None] >= goods[None]).all(axis=2)
    better = (goods[:, None] > goods[None]).any(axis=2)
    return np.asarray(~(as_good & better).any(axis=0))


def _index(scan: ImageOption) -> int:
    assert scan.frame_index is not None  # noqa: S101  # each is a recorded frame
    return scan.frame_index
