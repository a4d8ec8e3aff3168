"""Everything that the page works with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controller.core.settings import Settings
from controller.labels.images import ImageSource
from controller.labels.plan import LabelPlan
from controller.labels.queue import LabelQueue
from controller.labels.records import Request, Sample
from controller.labels.store import LabelStore
from controller.learning.annotations import Annotation

#: Pixels around a question that are shown where no plan says it.
CONTEXT_PX = 32


class Proposal(Settings):
    """What a model takes an image for, for a person to correct instead of to draw."""

    model_sha256: str
    annotations: tuple[Annotation, ...]


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Desk:
    """What people answer at.

    Attributes
    ----------
    store, queue, images
        What was asked and answered, whose turn it is, and where pictures come from.
    plan
        What the session asks; ``None`` if only what is in the store is known.
    status
        What else is known of the state of things, such as ``session``; its entries replace those that
        the store gives.
    worth
        What the seconds of annotation bought.
    propose
        A model's proposal for one sample of a question. Without it nobody is led.
    now
        Seconds since 1970, UTC.
    """

    store: LabelStore
    queue: LabelQueue
    images: ImageSource
    plan: LabelPlan | None = None
    status: Callable[[], dict[str, Any]] = _nothing
    worth: Callable[[], dict[str, Any]] = _nothing
    propose: Callable[[Request, Sample], Proposal | None] | None = None
    now: Callable[[], float] = time.time

    @property
    def context_px(self) -> int:
        """Return how many pixels around a question are shown."""
        return CONTEXT_PX if self.plan is None else self.plan.context_px
