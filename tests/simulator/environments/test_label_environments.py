"""Asking people: what answers cost and teach, episodes of questions, and whole sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra gym")

from controller.core.errors import ConfigurationError  # noqa: E402
from controller.core.guard import GuardedMicroscope  # noqa: E402
from controller.core.settings import Region  # noqa: E402
from controller.core.spaces import Parameter  # noqa: E402
from controller.testing import LIMITS, FakeMicroscope  # noqa: E402
from simulator.env import (  # noqa: E402
    AnnotatorOptions,
    LabelRequestEnv,
    MicroscopeFields,
    SampleDistribution,
    SessionEnv,
)
from simulator.environments.annotator import (  # noqa: E402
    LABEL_KINDS,
    Patch,
    ask,
    otsu_threshold,
    true_class,
)
from simulator.environments.label_pool import PATCH_PX, cut_patch, find_things  # noqa: E402
from simulator.environments.pixel_learner import FEATURES, PixelLearner, pixel_features  # noqa: E402
from simulator.specimens import SpecimenOptions  # noqa: E402

SURE = AnnotatorOptions(error=0.0)
MIDDLE = (PATCH_PX // 2, PATCH_PX // 2)
SETTINGS = {"sted_w": 0.1, "excitation_w": 10e-6, "dwell_s": 10e-6}
SMALL = {"annotator_s": 30.0, "sample_m": 5.12e-6}


def disc(radius_px: float, class_index: int, photons: float = 50.0) -> Patch:
    """Return a patch with a bright disc in the middle, on a dark noisy ground."""
    y, x = np.ogrid[:PATCH_PX, :PATCH_PX]
    inside = np.hypot(y - (PATCH_PX - 1) / 2, x - (PATCH_PX - 1) / 2) < radius_px
    rng = np.random.default_rng(0)
    image = rng.poisson(np.where(inside, photons, 2.0))
    return Patch(image, pixel_features(image), np.where(inside, class_index, 0).astype(np.int32), MIDDLE)


@pytest.fixture(scope="module")
def labels() -> Any:
    env = LabelRequestEnv(SMALL, task="easy", render_mode="rgb_array")
    yield env
    env.close()


def test_a_click_takes_a_second_for_each_class_and_an_outline_as_long_as_it_is() -> None:
    rng = np.random.default_rng(0)
    small, large = disc(3, 1), disc(9, 1)
    assert ask(small, "class", 3, SURE, rng).answer_s == ask(large, "class", 3, SURE, rng).answer_s == 4
    assert ask(small, "box", 3, SURE, rng).answer_s == 9
    outlines = [ask(patch, "contour", 3, SURE, rng).answer_s for patch in (small, large)]
    assert 10 < outlines[0] < outlines[1]
    nothing = disc(0, 0)
    assert [ask(nothing, kind, 3, SURE, rng).answer_s for kind in LABEL_KINDS] == [4, 2, 2]


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_an_answer_without_error_says_what_is_there(kind: Any) -> None:
    patch = disc(6, 2)
    answer = ask(patch, kind, 3, SURE, np.random.default_rng(0))
    assert answer.told == true_class(patch) == 2
    covered = answer.covered
    assert (answer.classes[covered] == patch.truth[covered]).mean() > 0.97
    assert set(np.unique(answer.classes[covered])) == {0, 2}


def test_a_contour_is_the_truth_to_the_pixel_and_says_nothing_of_what_is_of_another_class() -> None:
    patch = disc(6, 1)
    truth = patch.truth.copy()
    truth[20:23, 12:15] = 2
    both = Patch(patch.photons, patch.features, truth, MIDDLE)
    answer = ask(both, "contour", 3, SURE, np.random.default_rng(0))
    assert not answer.covered[20:23, 12:15][both.around[20:23, 12:15]].any()
    assert np.array_equal(answer.classes[answer.covered], truth[answer.covered])


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_answers_are_wrong_as_often_as_declared(kind: Any) -> None:
    patch = disc(6, 1)
    rng = np.random.default_rng(1)
    told = [ask(patch, kind, 3, AnnotatorOptions(error=0.3), rng).told for _ in range(400)]
    assert 0.23 < np.mean(np.array(told) != 1) < 0.37
    # Who outlines a thing saw that there is one.
    assert (0 in told) == (kind == "class")


def test_otsu_splits_two_levels_and_a_flat_image_has_nothing_lit() -> None:
    assert 2 < otsu_threshold(np.array([1.0, 2.0, 1.5, 9.0, 10.0])) < 9
    flat = np.full((PATCH_PX, PATCH_PX), 7)
    assert not Patch(flat, pixel_features(flat), np.zeros_like(flat, np.int32), MIDDLE).is_lit.any()


def test_a_learner_knows_nothing_then_tells_apart_what_it_was_shown() -> None:
    learner = PixelLearner(3)
    rng = np.random.default_rng(0)
    means = np.array([0.0, 3.0, 6.0])
    classes = np.repeat([0, 1, 2], [900, 90, 10])
    features = rng.normal(means[classes][:, None], 1.0, (1000, FEATURES)).astype(np.float32)
    assert np.allclose(learner.probabilities(features), 1 / 3)
    assert learner.balanced_accuracy(features, classes) == pytest.approx(1 / 3)
    seen = classes < 2
    learner.learn(features[seen], classes[seen])
    assert learner.balanced_accuracy(features, classes) == pytest.approx(2 / 3, abs=0.02)
    assert not learner.probabilities(features)[:, 2].any()
    pupil = learner.copy()
    pupil.learn(features, classes)
    # The rare class is not overlooked for being rare.
    assert pupil.balanced_accuracy(features, classes) > 0.95
    assert not learner.probabilities(features)[:, 2].any()


def test_things_are_found_in_the_order_of_their_brightness_and_patches_lie_inside() -> None:
    image = np.full((100, 120), 1.0)
    for row, column, height in ((30, 30, 40), (60, 80, 90), (5, 5, 99)):
        image[row - 2 : row + 3, column - 2 : column + 3] = height
    assert find_things(image).tolist() == [[60, 80], [30, 30]]
    assert find_things(image, margin_px=0).tolist()[0] == [5, 5]
    truth = np.zeros(image.shape, np.int32)
    features = pixel_features(image)
    at_edge = cut_patch(np.array([5, 110]), image, features, truth)
    assert at_edge.photons.shape == (PATCH_PX, PATCH_PX)
    assert at_edge.place == (5, 110 - (120 - PATCH_PX))
    assert at_edge.around[at_edge.place]
    centred = cut_patch(np.array([60, 80]), image, features, truth)
    assert centred.place == MIDDLE
    assert centred.photons[MIDDLE] == 90


def test_rewards_add_up_to_the_area_under_the_learning_curve(labels: Any) -> None:
    labels.reset(seed=1)
    curve = [(labels.options.annotator_s, labels._score)]
    total, is_over = 0.0, False
    while not is_over:
        action = labels.action_for(labels.shown()[0], "class")
        _, reward, terminated, truncated, info = labels.step(action)
        total += reward
        curve.append((info["annotator_left_s"], info["truth_score"]))
        is_over = terminated or truncated
    left_s, score = np.array(curve).T
    # From each answer to the next, and from the last one to the end, the score stays what it is.
    lasts_s = left_s - np.append(left_s[1:], 0.0)
    area_s = float((lasts_s * (score - score[0])).sum())
    assert total == pytest.approx(area_s / labels.options.annotator_s)
    assert info["refused"] == 1
    assert terminated


def test_gain_says_what_a_question_then_adds_and_changes_nothing(labels: Any) -> None:
    labels.reset(seed=3)
    for kind in LABEL_KINDS:
        thing = labels.shown()[2]
        gain, answer_s = labels.gain(thing, kind)
        assert labels.gain(thing, kind) == (gain, answer_s)
        *_, info = labels.step(labels.action_for(thing, kind))
        assert (info["truth_gain"], info["answer_s"]) == (gain, answer_s)
        assert thing not in labels.shown()


def test_actions_choose_a_thing_and_a_kind_and_what_is_passed_over_comes_back(labels: Any) -> None:
    labels.reset(seed=4)
    first = labels.shown()
    for kind in LABEL_KINDS:
        assert labels.question(labels.action_for(first[5], kind)) == (first[5], kind)
    labels.step(labels.action_for(first[5], "class"))
    assert not set(first) & set(labels.shown())
    assert set(labels._queue) >= set(first) - {first[5]}
    with pytest.raises(ValueError, match=r"-1\.\.1"):
        labels.step(np.full(9, 1.5, np.float32))


@pytest.mark.parametrize("make", [LabelRequestEnv, SessionEnv])
def test_a_step_before_the_first_reset_says_so(make: Any) -> None:
    env = make()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(env.action_space.shape, np.float32))


def test_nobody_is_asked_about_what_the_learner_is_judged_on(labels: Any) -> None:
    labels.reset(seed=5)
    rows = len(labels._pool[0])
    assert (labels._places[:, 0] + PATCH_PX // 2 <= rows).all()
    # The rows of the exam begin below those of which all questions come.
    assert rows < 0.6 * round(labels.options.sample_m / 20e-9)


def test_the_light_of_an_episode_of_questions_is_one_scan(labels: Any) -> None:
    _, told = labels.reset(seed=6)
    left_j = told["energy_left_j"]
    assert 0 < left_j < labels.options.episode_energy_j
    for _ in range(3):
        *_, info = labels.step(labels.action_for(labels.shown()[0], "class"))
    assert info["energy_left_j"] == left_j


@pytest.mark.parametrize("make", [LabelRequestEnv, SessionEnv])
def test_without_a_truth_nobody_can_answer(make: Any) -> None:
    field = Region(center_yx_m=(0.0, 0.0), size_yx_m=(10.24e-6, 10.24e-6))
    there = MicroscopeFields(GuardedMicroscope(FakeMicroscope(), LIMITS), (field,))
    with pytest.raises(ConfigurationError, match="simulated"):
        make(samples=there)
    with pytest.raises(ConfigurationError, match="two classes"):
        make(task=SampleDistribution(kinds=("filaments",))).reset(seed=0)


@pytest.mark.parametrize("name", ["LabelRequest", "Session"])
def test_what_a_policy_sees_holds_no_truth_and_its_figures_are_finite(name: str) -> None:
    dark = SampleDistribution(
        kinds=("beads",),
        brightness=(1e-12, 1e-12),
        bleaching=(1e-12, 1e-12),
        specimen=SpecimenOptions(rare_fraction=0.2),
    )
    seen = []
    for kinds in (("beads",), ("synapses",)):
        env = gymnasium.make(
            f"simulator:Stedfast/{name}-v0", task=dark.replace(kinds=kinds), annotator={"error": 0.0}
        ).unwrapped
        first, _ = env.reset(seed=1)
        *_, info = env.step(np.full(env.action_space.shape, -0.2, np.float32))
        figures = [value for value in info.values() if not isinstance(value, (str, dict))]
        assert all(np.isfinite(figure).all() for figure in figures)
        seen.append(first)
        env.close()
    assert all(np.array_equal(seen[0][key], seen[1][key]) for key in seen[0])


def test_a_session_pays_for_what_is_seen_well_once_it_can_be_told_right() -> None:
    env = SessionEnv(task="easy", annotator={"error": 0.0})
    env.reset(seed=2)
    place = min(env.structures.left().values(), key=lambda yx: float(np.hypot(*yx)))
    *_, seen = env.step(env.action_for(place, SETTINGS, ask=False))
    assert seen["truth_seen"] > 0 == seen["truth_right"] == seen["truth_worth"]
    _, reward, *_, told = env.step(env.action_for(place, SETTINGS, ask=True))
    assert (told["answer_s"], told["told"]) == (4, 1)
    assert told["truth_right"] > 0
    price = env.options.dose_weight * told["energy_j"] / env.options.episode_energy_j
    assert reward == pytest.approx(told["truth_worth"] / env.options.worth_unit - price)
    _, again, *_ = env.step(env.action_for(place, SETTINGS, ask=False))
    assert again < 0.5 * reward
    env.close()


def test_a_session_ends_when_the_time_is_spent_and_asks_no_more_than_there_is_patience() -> None:
    env = SessionEnv(task="easy", session_s=20.0, annotator_s=9.0)
    env.reset(seed=3)
    places = list(env.structures.left().values())
    answers = [env.step(env.action_for(place, SETTINGS, ask=True)) for place in places[:3]]
    assert [answer[4]["answer_s"] for answer in answers] == [4, 4, 0]
    left_s = answers[-1][4]["time_left_s"]
    assert left_s == pytest.approx(20 - 8 - sum(answer[4]["scan_s"] for answer in answers))
    while not answers[-1][2]:
        answers.append(env.step(env.action_for(places[0], SETTINGS, ask=False)))
    assert answers[-1][4]["refused"] == 1
    assert "left" in answers[-1][4]["refusal"]
    assert answers[-1][4]["energy_j"] == 0
    assert 0 <= answers[-1][4]["time_left_s"] < 2.1
    env.close()


def test_a_scan_beyond_the_dose_budget_ends_a_session_and_lights_nothing() -> None:
    env = SessionEnv(task="easy", episode_energy_j=0.02)
    env.reset(seed=3)
    strong = {"sted_w": 0.25, "excitation_w": 50e-6, "dwell_s": 100e-6}
    left_j = env._energy_left_j
    _, reward, terminated, _, info = env.step(env.action_for((0.0, 0.0), strong, ask=True))
    assert (terminated, reward, info["energy_left_j"]) == (True, 0.0, left_j)
    env.close()


def test_pictures_of_both_show_something(labels: Any) -> None:
    labels.reset(seed=0)
    picture = labels.render()
    assert picture.shape[1] == 8 * (128 + 8) + 8
    assert picture.std() > 10


def test_a_session_refuses_images_of_different_sizes() -> None:
    with pytest.raises(ValueError, match="sample_m"):
        SessionEnv(roi_m=2.56e-6)
    with pytest.raises(ValueError, match="roi_m"):
        SessionEnv(roi_m=0.64e-6, overview_pixel_m=320e-9)


def test_a_session_tunes_what_it_is_told_to_and_no_pixels() -> None:
    power = Parameter(name="sted_w", low=0.0, high=0.2)
    env = SessionEnv(task="easy", parameters=(power,))
    env.reset(seed=0)
    *_, info = env.step(env.action_for((0.0, 0.0), {"sted_w": 0.2}, ask=False))
    assert info["settings"] == {**env.options.fixed, "sted_w": pytest.approx(0.2)}
    env.close()
    with pytest.raises(ValueError, match="pixel_size_m"):
        SessionEnv(parameters=(Parameter(name="pixel_size_m", low=20e-9, high=40e-9),))
