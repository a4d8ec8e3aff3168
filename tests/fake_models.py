"""Models for tests of the loop, that learn and fail when they are told to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import JsonValue

from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import Clock, ModelChange, Resources
from controller.core.settings import Settings


class LearningDenoiser:
    """Averages its frames, times a gain that it learns anew after every so many frames.

    What it answers tells which frames it saw since it was reset, and with which weights it works.
    """

    class Options(Settings):
        """``every`` frames it learns; with ``back_at`` its version it goes back to the first weights."""

        every: int = 3
        back_at: int = 0
        fail_at: int = 0
        problem: str = ""

    closed: ClassVar[list[str]] = []

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self.version = self.since = 0
        self._sum: Any = 0.0
        self._count = 0

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        return cls(options)

    def reset(self, reason: str) -> None:
        self._sum, self._count = 0.0, 0

    def observe(self, frame: Frame) -> None:
        same = isinstance(self._sum, np.ndarray) and self._sum.shape == frame.photons.shape
        self._sum = self._sum + frame.photons if same else frame.photons.astype(np.float32)
        self._count = self._count + 1 if same else 1
        self.since += 1

    def step(self, frame: Frame) -> Denoised:
        self.observe(frame)
        mean = (1 + self.version) * self._sum / self._count
        return Denoised(mean, np.ones_like(mean), frame.index)

    def improve(self) -> ModelChange | None:
        if self.since < self.options.every:
            return None
        version = self.version + 1
        if version == self.options.fail_at:
            if self.options.problem == "nonsense":
                return ModelChange("denoiser", "0" * 64, b"other", {}, 0.0, 1.0, "learned")
            raise OSError("the learner is gone")
        weights = b"weights 1" if version == self.options.back_at else b"weights %d" % version
        change = ModelChange(
            role="denoiser",
            sha256=hashlib.sha256(weights).hexdigest(),
            weights=weights,
            card={"architecture": "gain"},
            score_before=float(version - 1),
            score_after=float(version),
            reason="learned from this session"
            if version != self.options.back_at
            else "the newer ones got worse",
        )
        self._take(weights)
        return change

    def adopt(self, weights: bytes, card: Mapping[str, JsonValue]) -> None:
        if card != {"architecture": "gain"}:
            raise ValueError(f"not the card of a gain: {card}")
        self._take(weights)

    def close(self) -> None:
        self.closed.append(self.options.problem)
        if self.options.problem == "cannot close":
            raise OSError("no such process")

    def _take(self, weights: bytes) -> None:
        # Counted in frames, so that it does not matter how often it was asked.
        self.version, self.since = int(weights.split()[1]), self.since - self.options.every


class UnmakeableSegmenter:
    """Cannot be made."""

    class Options(Settings):
        """None."""

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        raise OSError("no weights")

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        raise NotImplementedError


class SlowDenoiser:
    """Takes 50 ms of the session's clock for each answer."""

    class Options(Settings):
        """None."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        return cls(resources.clock)

    def reset(self, reason: str) -> None: ...

    def observe(self, frame: Frame) -> None: ...

    def step(self, frame: Frame) -> Denoised:
        self._clock.sleep(0.05)
        photons = frame.photons.astype(np.float32)
        return Denoised(photons, np.sqrt(photons), frame.index)
