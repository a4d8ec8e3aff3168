"""Runs models and policies, which may be slow, wrong or stuck, without ever holding up the loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from pydantic import TypeAdapter

from controller.core.decision import Acquire, AskLabel, Decision, Stop
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.worker import NothingCameError, Worker

_FAULT_LENGTH = 2000
_DECISION: TypeAdapter[Decision] = TypeAdapter(Decision)

P = TypeVar("P")
T = TypeVar("T")


class Stage(Generic[P]):
    """One model or policy with its deadline and its declared fallback.

    A plug-in that raises is replaced by its fallback for this cycle and tried again in the next
    one; a plug-in that misses its deadline is replaced for good, for its thread still holds it.
    With ``forgiving=False`` any failure replaces it for good: a policy that failed half-way through
    a decision no longer knows what it did.

    Attributes
    ----------
    name, plugin
        Who runs now.
    level
        0 while the declared plug-in runs, 1 while its fallback does.
    """

    def __init__(
        self,
        name: str,
        plugin: P,
        *,
        deadline_s: float,
        fallback: tuple[str, P] | None = None,
        forgiving: bool = True,
    ) -> None:
        self.name, self.plugin = name, plugin
        self.level = 0
        self._deadline_s = deadline_s
        self._fallback = fallback
        self._forgiving = forgiving
        self._stuck = False
        self._worker = Worker("stage")

    def run(self, call: Callable[[P], T]) -> tuple[T | None, list[str], int]:
        """Return the answer (``None`` if nobody could give one), the faults, and the level it came from."""
        faults: list[str] = []
        if not self._stuck:
            answer, fault = self._attempt(self.name, self.plugin, call)
            if fault is None:
                return answer, faults, self.level
            faults.append(fault)
        if self._fallback is None:
            return None, faults, self.level
        name, plugin = self._fallback
        if self._stuck or not self._forgiving:
            self.switch_to_fallback()
        answer, fault = self._attempt(name, plugin, call)
        if fault is not None:
            faults.append(fault)
        return answer, faults, 1

    def switch_to_fallback(self) -> None:
        """Let the fallback run from now on."""
        if self._fallback is not None:
            self.name, self.plugin = self._fallback
            self.level, self._fallback, self._stuck = 1, None, False

    def _attempt(self, name: str, plugin: P, call: Callable[[P], T]) -> tuple[T | None, str | None]:
        """Call on another thread: a call that hangs is left behind there, and dies with the process."""

        def attempt() -> tuple[T | None, str | None]:
            try:
                return call(plugin), None
            except BaseException as error:  # noqa: BLE001  # whatever a plug-in raises, the loop goes on
                return None, f"{name} failed: {type(error).__name__}: {error}"[:_FAULT_LENGTH]

        try:
            return self._worker.ask(attempt, self._deadline_s)
        except NothingCameError:
            self._stuck, self._worker = True, Worker("stage")
            return None, f"{name} gave no answer within {self._deadline_s:g} s"


def checked_decision(answer: object) -> Decision:
    """Return a validated copy of a decision: what cannot be written down cannot be wanted.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """
    if not isinstance(answer, Acquire | AskLabel | Stop):
        raise TypeError(f"a policy must answer Acquire, AskLabel or Stop, got {type(answer).__name__}")
    return _DECISION.validate_json(json.dumps(answer.model_dump(warnings=False)))


def checked_denoised(answer: Denoised | None, frame: Frame) -> Denoised | None:
    """Return a denoiser's answer if it fits its frame; ``None`` is allowed.

    Raises
    ------
    TypeError, ValueError
        If it is of another type or shape, or not finite.
    """
    if answer is None:
        return None
    if not isinstance(answer, Denoised):
        raise TypeError(f"a denoiser must answer Denoised, got {type(answer).__name__}")
    shapes = {answer.mean.shape, answer.std.shape}
    if shapes != {frame.photons.shape} or not np.isfinite(answer.mean).all():
        raise ValueError(f"a denoised image of {frame.photons.shape} finite pixels is needed, got {shapes}")
    return answer


def checked_segmentation(answer: Segmentation | None, frame: Frame) -> Segmentation | None:
    """Return a segmenter's answer if it fits its frame; ``None`` is allowed.

    Raises
    ------
    TypeError, ValueError
        If it is of another type or shape.
    """
    if answer is None:
        return None
    if not isinstance(answer, Segmentation):
        raise TypeError(f"a segmenter must answer Segmentation, got {type(answer).__name__}")
    shapes = {answer.labels.shape, answer.probability.shape, answer.uncertainty.shape}
    if shapes != {frame.photons.shape}:
        raise ValueError(f"a segmentation of {frame.photons.shape} pixels is needed, got {shapes}")
    return answer
