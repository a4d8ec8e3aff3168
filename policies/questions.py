"""Questions to a person: what is asked, and about which of the visits."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from controller.core.decision import Question
from controller.core.frame import Frame
from controller.core.settings import Settings

QuestionText = Annotated[str, Field(min_length=1, max_length=500)]
Choices = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=80)], ...], Field(min_length=2)]


def tag_about(frame: Frame, text: str, choices: tuple[str, ...]) -> Question:
    """Return the question which of ``choices`` holds for all that ``frame`` shows."""
    return Question(
        frame_index=frame.index, region=frame.settings.region, kind="tag", text=text, choices=choices
    )


class QuestionOptions(Settings):
    """Questions to a person about visited regions.

    Attributes
    ----------
    questions_max
        How many at most, spread evenly over the visits; each is about the least sure visit of its
        share. 0 asks nothing.
    text, choices
        The question, and the answers to choose from.
    """

    questions_max: Annotated[int, Field(ge=0)] = 4
    text: QuestionText = "What is in this region?"
    choices: Choices = ("synapse", "shaft", "nothing here", "unsure")


class LeastSureVisits:
    """Keeps the visit whose segmentation is least sure, of each equal share of the visits.

    Asking share by share spreads the questions over the session, so that people can answer while it
    runs; asking about the best of all could begin only at its end.
    """

    def __init__(self, questions_max: int) -> None:
        self._questions_left = questions_max
        self._share = 1
        self._least_sure: tuple[float, int, Frame] | None = None

    def plan(self, visits: int) -> None:
        """Divide the planned visits into as many shares as there are questions."""
        self._share = max(1, math.ceil(visits / max(1, self._questions_left)))

    def consider(self, bits: float, visit: int, frame: Frame) -> None:
        """Keep the STED ``frame`` of a visit if its mean entropy is the highest of this share."""
        if self._least_sure is None or bits > self._least_sure[0]:
            self._least_sure = (bits, visit, frame)

    def take(self, visits_done: int, *, at_end: bool) -> tuple[float, int, Frame] | None:
        """Return entropy, visit and frame to ask about now, if a share is complete or all is over."""
        if not at_end and visits_done % self._share:
            return None
        taken, self._least_sure = self._least_sure, None
        if taken is None or self._questions_left < 1:
            return None
        self._questions_left -= 1
        return taken
