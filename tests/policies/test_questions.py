from __future__ import annotations

import numpy as np
import pytest

from controller.core.frame import Frame
from controller.testing import CONFOCAL
from policies.questions import LeastSureVisits, tag_about


def frame(index: int) -> Frame:
    return Frame(np.ones(CONFOCAL.shape_yx), CONFOCAL, index, 0.0)


def asked_about(bits: list[float], questions_max: int) -> list[int]:
    """Return the visits that were asked about, of visits with these mean entropies."""
    keeper, found = LeastSureVisits(questions_max), []
    keeper.plan(len(bits))
    for visit, value in enumerate(bits, start=1):
        keeper.consider(value, visit, frame(visit))
        if taken := keeper.take(visit, at_end=False):
            found.append(taken[1])
    if taken := keeper.take(len(bits), at_end=True):
        found.append(taken[1])
    return found


@pytest.mark.parametrize(
    ("bits", "questions_max", "visits"),
    [
        ([0.1, 0.9, 0.8, 0.2], 2, [2, 3]),
        ([0.1, 0.9, 0.8, 0.2, 0.3], 2, [2, 5]),
        ([0.5, 0.5, 0.5], 9, [1, 2, 3]),
        ([0.5, 0.6], 0, []),
        ([], 3, []),
    ],
)
def test_the_least_sure_visit_of_each_share_is_asked_about(
    bits: list[float], questions_max: int, visits: list[int]
) -> None:
    assert asked_about(bits, questions_max) == visits


def test_a_question_is_about_the_whole_frame() -> None:
    question = tag_about(frame(3), "What is it?", ("this", "that"))
    assert (question.frame_index, question.region, question.kind) == (3, CONFOCAL.region, "tag")
