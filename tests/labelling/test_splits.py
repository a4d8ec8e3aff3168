"""Enough fields judge, from the beginning on, and what a field is for is decided once for everybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")

from controller.labelling.splits import proposed_split, split_of_field
from controller.labels.records import Split
from controller.labels.store import LabelStore


@given(part=st.floats(0.01, 0.99), count=st.integers(1, 200))
def test_never_is_a_field_more_or_less_than_the_wanted_part_held_out(part: float, count: int) -> None:
    decided: list[Split] = []
    for _ in range(count):
        decided.append(proposed_split(decided, part))
        assert -1 < decided.count("held_out") - part * len(decided) <= 1e-9


def test_the_fourth_field_judges_already_where_a_quarter_is_to() -> None:
    decided: list[Split] = []
    for _ in range(8):
        decided.append(proposed_split(decided, 0.25))
    assert [number for number, split in enumerate(decided) if split == "held_out"] == [3, 7]


def test_whoever_asks_later_is_told_what_was_decided_and_counts_what_others_decided(tmp_path: Path) -> None:
    store, other = LabelStore.open(tmp_path, create=True), LabelStore.open(tmp_path)
    turns = [store, other, other, store]
    said = [split_of_field(asked, "monday", str(n), 0.25) for n, asked in enumerate(turns)]
    assert said == ["train", "train", "train", "held_out"]
    assert [split_of_field(other, "monday", str(n), 0.99) for n in range(4)] == said
    assert other.splits() == {("monday", str(n)): split for n, split in enumerate(said)}
