"""Checks what models and policies answer, before anything rests on it."""

from __future__ import annotations

import hashlib
import json
from math import isfinite

import numpy as np
from pydantic import TypeAdapter

from controller.core.decision import Acquire, AskLabel, Decision, Stop
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import WEIGHTS_BYTES_MAX, ModelChange, ModelRole

_CARD_BYTES_MAX = 1024**2
_DECISION: TypeAdapter[Decision] = TypeAdapter(Decision)


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
        If it is of another type or shape, or not finite, or its error is no number.
    """
    if answer is None:
        return None
    if not isinstance(answer, Denoised):
        raise TypeError(f"a denoiser must answer Denoised, got {type(answer).__name__}")
    shapes = {answer.mean.shape, answer.std.shape}
    if shapes != {frame.photons.shape} or not np.isfinite(answer.mean).all():
        raise ValueError(f"a denoised image of {frame.photons.shape} finite pixels is needed, got {shapes}")
    if not (answer.std >= 0).all() or np.isinf(answer.std).any():
        raise ValueError("the standard deviation of a denoised image must be finite and at least 0")
    return answer


def checked_segmentation(answer: Segmentation | None, frame: Frame) -> Segmentation | None:
    """Return a segmenter's answer if it fits its frame; ``None`` is allowed.

    Raises
    ------
    TypeError, ValueError
        If it is of another type or shape, or not finite.
    """
    if answer is None:
        return None
    if not isinstance(answer, Segmentation):
        raise TypeError(f"a segmenter must answer Segmentation, got {type(answer).__name__}")
    shapes = {answer.labels.shape, answer.probability.shape, answer.uncertainty.shape}
    if shapes != {frame.photons.shape}:
        raise ValueError(f"a segmentation of {frame.photons.shape} pixels is needed, got {shapes}")
    if not (np.isfinite(answer.probability).all() and np.isfinite(answer.uncertainty).all()):
        raise ValueError("probability and uncertainty of a segmentation must be finite")
    return answer


def checked_change(answer: ModelChange | None, role: ModelRole) -> ModelChange | None:
    """Return what a model says it has learned, if it can be written down; ``None`` is allowed.

    Raises
    ------
    TypeError, ValueError
        If it is of another type or role, too large, without a score, or not what its checksum says.
    """
    if answer is None:
        return None
    if not isinstance(answer, ModelChange):
        raise TypeError(f"a model must answer ModelChange or None, got {type(answer).__name__}")
    if answer.role != role:
        raise ValueError(f"these are weights of a {answer.role}, they come from the {role}")
    if len(answer.weights) > WEIGHTS_BYTES_MAX:
        raise ValueError(f"{len(answer.weights)} bytes of weights; allowed are {WEIGHTS_BYTES_MAX}")
    if hashlib.sha256(answer.weights).hexdigest() != answer.sha256:
        raise ValueError(f"the weights do not match their checksum {answer.sha256[:12]}")
    if not (isfinite(answer.score_before) and isfinite(answer.score_after) and answer.reason):
        raise ValueError(
            f"finite scores and a reason are needed, got {answer.score_before!r}, {answer.score_after!r}, "
            f"{answer.reason!r}"
        )
    card = json.dumps(dict(answer.card), allow_nan=False)
    if len(card) > _CARD_BYTES_MAX:
        raise ValueError(f"a card of {len(card)} bytes; allowed are {_CARD_BYTES_MAX}")
    return answer
