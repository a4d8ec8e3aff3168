from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.learning.answer_cost import (
    TIMED_ANSWERS_MIN,
    AnswerTask,
    CostModel,
    TimedAnswer,
)


@pytest.mark.parametrize(
    ("task", "prior_s"),
    [
        (AnswerTask(kind="tag", classes=4), 5.0),
        (AnswerTask(kind="points", objects=6), 11.0),
        (AnswerTask(kind="scribble", objects=2), 19.0),
        (AnswerTask(kind="box"), 7.0),
        (AnswerTask(kind="mask", objects=2, perimeter_px=120), 28.0),
        (AnswerTask(kind="mask", objects=2, perimeter_px=120, is_prefilled=True), 11.2),
        (AnswerTask(kind="choice"), 3.0),
    ],
)
def test_without_timed_answers_the_literature_says_how_long_it_takes(
    task: AnswerTask, prior_s: float
) -> None:
    few = [TimedAnswer(task=task, answer_s=400.0)] * (TIMED_ANSWERS_MIN - 1)
    for model in (CostModel(), CostModel.fit([]), CostModel.fit(few)):
        assert model.predict(task) == pytest.approx(prior_s)


def seconds_of(task: AnswerTask) -> float:
    """Return what people of this test need, in the median."""
    by_class = {"common": 1.0, "rare": 3.0}[str(task.predicted_class)]
    by_person = {"quick": 0.7, "slow": 1.5}[str(task.annotator)]
    by_image: float = (1.0 + task.objects) ** 0.3 / (1.0 + (task.photons or 0.0)) ** 0.5
    return 2.0 * by_class * by_person * by_image


def tasks(count: int, rng: np.random.Generator) -> list[AnswerTask]:
    return [
        AnswerTask(
            kind="tag",
            classes=4,
            objects=int(rng.integers(8)),
            photons=float(rng.uniform(0.5, 20)),
            predicted_class=str(rng.choice(["common", "rare"], p=[0.8, 0.2])),
            annotator=str(rng.choice(["quick", "slow"])),
        )
        for _ in range(count)
    ]


def timed(count: int, rng: np.random.Generator, noise: float = 0.3) -> list[TimedAnswer]:
    return [
        TimedAnswer(task=task, answer_s=seconds_of(task) * float(np.exp(noise * rng.standard_normal())))
        for task in tasks(count, rng)
    ]


@pytest.mark.parametrize(("count", "error"), [(30, 0.35), (200, 0.15)])
def test_from_timed_answers_it_learns_what_makes_them_long(count: int, error: float) -> None:
    rng = np.random.default_rng(0)
    model = CostModel.fit(timed(count, rng))
    new = tasks(300, rng)
    mean = np.exp(0.3**2 / 2)
    off = np.log([model.predict(task) / (seconds_of(task) * mean) for task in new])
    assert np.sqrt((off**2).mean()) < error
    off_prior = np.log([CostModel().predict(task) / (seconds_of(task) * mean) for task in new])
    assert np.sqrt((off_prior**2).mean()) > 1.0
    assert model.answers == count


def test_where_times_spread_widely_it_predicts_their_mean_and_not_their_median() -> None:
    rng = np.random.default_rng(7)
    model = CostModel.fit(timed(400, rng, noise=0.8))
    new = timed(2000, rng, noise=0.8)
    predicted = sum(model.predict(answer.task) for answer in new)
    assert predicted == pytest.approx(sum(answer.answer_s for answer in new), rel=0.2)
    assert model.mean_to_median == pytest.approx(np.exp(0.8**2 / 2), rel=0.15)


@pytest.mark.parametrize("wrong_s", [0.0, 1500.0])
def test_a_few_phone_calls_or_slips_of_a_finger_change_little(wrong_s: float) -> None:
    clean = timed(200, np.random.default_rng(1))
    spoilt = [answer.replace(answer_s=wrong_s) if i % 10 == 0 else answer for i, answer in enumerate(clean)]
    task = clean[5].task
    ratio = CostModel.fit(spoilt).predict(task) / CostModel.fit(clean).predict(task)
    assert 0.75 < ratio < 1.33


def test_what_was_never_timed_is_predicted_by_the_prior_and_the_rest() -> None:
    model = CostModel.fit(timed(60, np.random.default_rng(2)))
    box = AnswerTask(kind="box", objects=3)
    assert model.predict(box) == pytest.approx(21.0 * model.mean_to_median)
    stranger = AnswerTask(kind="tag", classes=4, photons=5.0, predicted_class="new", annotator="new")
    known = stranger.replace(predicted_class=None, annotator=None)
    assert model.predict(stranger) == model.predict(known)


def test_as_json_it_is_the_same_model_again() -> None:
    model = CostModel.fit(timed(50, np.random.default_rng(3)))
    again = CostModel.model_validate_json(model.model_dump_json())
    assert again == model
    new = tasks(20, np.random.default_rng(4))
    assert again.predict_many(new).tolist() == [np.float32(model.predict(task)) for task in new]


@given(
    st.lists(st.floats(0, 1e6), min_size=30, max_size=40),
    st.integers(0, 10_000),
    st.floats(0, 1e6),
    st.floats(0, 1e9),
)
def test_predictions_are_seconds_whatever_was_timed(
    answers_s: list[float], objects: int, perimeter_px: float, photons: float
) -> None:
    task = AnswerTask(kind="mask", objects=objects, perimeter_px=perimeter_px, photons=photons)
    rng = np.random.default_rng(0)
    answers = [
        TimedAnswer(task=task.replace(objects=int(rng.integers(50))), answer_s=seconds)
        for seconds in answers_s
    ]
    assert 0.2 <= CostModel.fit(answers).predict(task) <= 1800.0


def test_10_000_predictions_take_less_than_the_time_of_one_question() -> None:
    model = CostModel.fit(timed(100, np.random.default_rng(5)))
    many = tasks(100, np.random.default_rng(6)) * 100
    started_s = time.perf_counter()
    assert (model.predict_many(many) > 0).all()
    assert time.perf_counter() - started_s < 2.0
