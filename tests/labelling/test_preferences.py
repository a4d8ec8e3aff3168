"""A reward from people's choices says what it rests on, what it knows and what it does not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from controller.cli import app
from controller.core.errors import ConfigurationError
from controller.core.reward import LearnedReward
from controller.labelling.preferences import Matter, learn_reward
from controller.labels.queue import LabelQueue
from controller.labels.records import NewRequest, NewSample, Reply, RequestItem, Roi, Submission
from controller.labels.store import LabelStore
from controller.learning.annotations import LabelSchema

Values = Mapping[str, float]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore.open(tmp_path, create=True)


def ask(store: LabelStore, number: int, options: Sequence[Values], annotators: int = 1) -> None:
    """Ask which of some scans is better, about which this much is known."""
    items = []
    for n, values in enumerate(options):
        sample = NewSample(
            session="monday",
            field=f"frame {10 * number + n}",
            uri=f"frame-{10 * number + n}.zarr",
            roi=Roi(y=0, x=0, rows=64, columns=64),
            pixel_size_m=20e-9,
            dtype="uint16",
        )
        items.append(RequestItem(sample_id=store.add_sample(sample).id, values=dict(values)))
    store.add_request(
        NewRequest(
            key=f"question {number}",
            kind="choice",
            text="Which one?",
            schema_id=store.add_schema(LabelSchema(classes=("object",))).id,
            items=tuple(items),
            annotators=annotators,
        )
    )


def answer(store: LabelStore, pick: Any, name: str = "ada") -> None:
    """Let somebody answer all open questions; ``pick`` takes the options and returns a reply or a number."""
    queue, person = LabelQueue(store, lambda: 0.0), store.add_annotator(name)
    while (lease := queue.claim(person)) is not None:
        said = pick([item.values for item in lease.request.items])
        reply = said if isinstance(said, Reply) else Reply(chosen=int(said))
        queue.answer(person, Submission(key=lease.id, lease_id=lease.id, reply=reply, elapsed_s=2.0))


def scans(count: int, seed: int = 0) -> list[list[dict[str, float]]]:
    """Return options of which sharp ones bleach more, all at the same dose."""
    rng = np.random.default_rng(seed)
    return [
        [
            {"detail_log": float(d), "bleached_fraction": float(b), "dose_j_per_m2": 1e9}
            for d, b in zip(rng.uniform(0, 2, 3), rng.uniform(0, 0.5, 3), strict=True)
        ]
        for _ in range(count)
    ]


def gentlest(options: Sequence[Values]) -> int:
    return int(np.argmin([values["bleached_fraction"] for values in options]))


def test_what_decided_is_found_and_what_did_not_is_not_claimed(store: LabelStore) -> None:
    for number, options in enumerate(scans(25)):
        ask(store, number, options)
    answer(store, gentlest)
    learned = learn_reward(store)
    by_name = {matter.name: matter for matter in learned.matters}
    assert learned.matters[0].name == "bleached_fraction"
    assert by_name["bleached_fraction"].is_known
    assert by_name["bleached_fraction"].effect < -3
    assert not by_name["dose_j_per_m2"].has_differed
    assert not by_name["dose_j_per_m2"].is_known
    assert by_name["dose_j_per_m2"].effect == 0
    assert abs(by_name["detail_log"].effect) < abs(by_name["bleached_fraction"].effect) / 3
    assert learned.alike == ()
    card = learned.card
    assert card == learned.reward.card
    assert (card.judged, card.annotators) == (25, {"ada": 25})
    assert card.right_by_chance == pytest.approx(25 / 3)
    assert card.right > 20


def test_who_picks_by_chance_is_foreseen_no_better_than_by_chance(store: LabelStore) -> None:
    rng = np.random.default_rng(5)
    for number, options in enumerate(scans(24)):
        ask(store, number, options)
    answer(store, lambda options: rng.integers(len(options)))
    card = learn_reward(store).card
    assert abs(card.right - card.right_by_chance) < 3 * (24 * 2 / 9) ** 0.5


def test_what_one_question_taught_does_not_help_to_foresee_its_other_answers(store: LabelStore) -> None:
    # In each question another thing differs, so nothing that is learned from the others helps.
    for number in range(5):
        options = [{f"value {n}": float(n == number and k) for n in range(5)} for k in (0, 1)]
        ask(store, number, options, annotators=2)
    for name in ("ada", "bea"):
        answer(store, lambda options: max(options[1].values()), name)
    card = learn_reward(store).card
    assert (card.judged, card.right, card.right_by_chance) == (10, 5, 5)


@pytest.mark.parametrize(
    ("effect", "std", "has_differed", "is_known"),
    [(-3.0, 1.0, True, True), (3.0, 1.4, True, True), (3.0, 1.6, True, False), (0.0, 0.0, False, False)],
)
def test_which_way_a_value_counts_is_known_from_two_standard_deviations_on(
    effect: float, std: float, *, has_differed: bool, is_known: bool
) -> None:
    assert Matter("dose", 0.0, 1.0, effect, std, has_differed=has_differed).is_known == is_known


def test_values_that_rose_and_fell_together_are_told(store: LabelStore) -> None:
    rng = np.random.default_rng(1)
    for number in range(8):
        one = rng.uniform(0, 1, 3)
        ask(store, number, [{"bleached_fraction": float(b), "dose_j_per_m2": 1e9 * float(b)} for b in one])
    answer(store, gentlest)
    assert learn_reward(store).alike == (("bleached_fraction", "dose_j_per_m2"),)


def test_the_same_answers_give_the_same_reward_and_name_themselves(store: LabelStore) -> None:
    for number, options in enumerate(scans(6)):
        ask(store, number, options)
    answer(store, gentlest)
    first, again = learn_reward(store), learn_reward(store)
    assert first.reward == again.reward
    listed = store.snapshot(first.card.answers_sha256).content["answers"]
    assert all(answer.id in str(listed) for answer in store.answers())
    assert learn_reward(store, seed=1).reward.members != first.reward.members
    answer(store, gentlest, "bea")  # nothing is left to answer
    assert learn_reward(store).card.answers_sha256 == first.card.answers_sha256
    ask(store, 99, scans(1, seed=9)[0])
    answer(store, gentlest, "bea")
    more = learn_reward(store).card
    assert more.answers_sha256 != first.card.answers_sha256
    assert more.annotators == {"ada": 6, "bea": 1}


def test_picks_that_another_option_beats_in_everything_are_flagged_and_still_learned_from(
    store: LabelStore,
) -> None:
    for number, options in enumerate(scans(6)):
        ask(store, number, options)
    answer(store, gentlest)
    ask(
        store,
        99,
        [
            {"detail_log": 2.0, "bleached_fraction": 0.1, "dose_j_per_m2": 1e9},
            {"detail_log": 1.0, "bleached_fraction": 0.2, "dose_j_per_m2": 1e9},
        ],
    )
    answer(store, lambda _: 1)
    learned = learn_reward(store)
    assert learned.card.dominated == (store.answers()[-1].id,)
    assert learned.reward.choices == 7


def test_without_knowing_what_is_good_no_pick_is_called_a_slip(store: LabelStore) -> None:
    for number in range(6):
        worse, better = (1.0 + number, 0.0), (2.0 + number, 1.0)
        ask(store, number, [{"contrast": c, "detail_log": d} for c, d in (worse, better)])
    answer(store, lambda _: 0)
    assert (learn_reward(store).without_way, learn_reward(store).card.dominated) == (("contrast",), ())
    learned = learn_reward(store, ways={"contrast": "high"})
    assert (learned.without_way, len(learned.card.dominated)) == ((), 6)


def test_answers_that_tell_nothing_are_counted_and_passed_over(store: LabelStore) -> None:
    for number, options in enumerate(scans(5)):
        ask(store, number, options)
    answer(store, gentlest)
    ask(store, 50, scans(1)[0])
    answer(store, lambda _: Reply(outcome="unsure"))
    ask(store, 51, [{}, {}])
    answer(store, lambda _: 0)
    learned = learn_reward(store)
    assert learned.passed_over == {"said 'unsure'": 1, "options without values": 1}
    assert learned.reward.choices == 5


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], "0 choices can be learned from, at least 5 are needed; a policy asks"),
        (scans(4), "4 choices can be learned from, at least 5"),
        ([[{}, {}]] * 6, r"0 choices .*\(6 more: options without values\)"),
        (
            [*scans(4), *([[{"contrast": 1.0}, {"contrast": 2.0}]] * 2)],
            r"bleached_fraction, detail_log, dose_j_per_m2 \(12 options\); contrast \(4 options\)",
        ),
        ([[{"contrast": 1.0}, {"contrast": 1.0}]] * 6, "all options are alike"),
    ],
    ids=["none", "too few", "without values", "of two kinds", "all alike"],
)
def test_choices_that_nothing_can_be_learned_from_are_refused(
    store: LabelStore, asked: Sequence[Sequence[Values]], words: str
) -> None:
    for number, options in enumerate(asked):
        ask(store, number, options)
    answer(store, lambda _: 0)
    with pytest.raises(ConfigurationError, match=words):
        learn_reward(store)


def test_the_command_writes_the_reward_and_says_what_it_knows(store: LabelStore, tmp_path: Path) -> None:
    command = ["labels", "reward", str(tmp_path), "-o", str(tmp_path / "reward.json")]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 2
    assert "at least 5 are needed" in told.output
    assert not (tmp_path / "reward.json").exists()
    for number, options in enumerate(scans(12)):
        ask(store, number, options)
    answer(store, gentlest)
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    for words in (
        "learned from 12 choices (12 by ada), linear",
        "of 12 choices when it is learned from the others; chance would 4.0",
        "bleached_fraction, 0.",
        "dose_j_per_m2, 1e+09 to 1e+09: not known, it never differed within a choice",
    ):
        assert words in told.output
    written = LearnedReward.read(tmp_path / "reward.json")
    assert written == learn_reward(store).reward
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 2
    assert "could not be resumed" in told.output


def test_the_command_answers_scripts_in_json_and_checks_what_it_is_told(
    store: LabelStore, tmp_path: Path
) -> None:
    for number in range(6):
        ask(store, number, [{"contrast": 1.0 + number}, {"contrast": 2.5 + number}])
    answer(store, lambda _: 1)
    command = ["labels", "reward", str(tmp_path), "-o", str(tmp_path / "reward.json")]
    told_wrong = CliRunner().invoke(app, [*command, "--better", "contrast"])
    assert (told_wrong.exit_code, "say NAME=high or NAME=low" in told_wrong.output) == (2, True)
    told = json.loads(CliRunner().invoke(app, [*command, "--better", "contrast=low", "--json"]).output)
    written = (tmp_path / "reward.json").read_bytes()
    assert told["sha256"] == hashlib.sha256(written).hexdigest()
    (tmp_path / "laid-out.json").write_text(json.dumps(json.loads(written)))
    assert LearnedReward.read(tmp_path / "laid-out.json").sha256 == told["sha256"]
    assert len(told["card"]["dominated"]) == 6
    assert told["matters"][0]["effect"] > 0
