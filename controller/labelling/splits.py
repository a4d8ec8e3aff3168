"""Decides which fields models learn from and which they are judged by, alike for everybody who asks."""

from __future__ import annotations

from collections.abc import Collection

from controller.labels.records import Split
from controller.labels.store import LabelStore


def split_of_field(store: LabelStore, session: str, field: str, held_out: float) -> Split:
    """Return whether a field is learned from or judged by; decide it now, and for ever, if nobody has.

    Parameters
    ----------
    held_out
        Part of the fields that are to judge, 0..1.
    """
    return store.split_of(session, field, lambda: proposed_split(store.splits().values(), held_out))


def proposed_split(decided: Collection[Split], held_out: float) -> Split:
    """Return what one more field should be, so that the part ``held_out`` of all of them judges.

    It counts and leaves nothing to chance: with a quarter, each fourth field judges, the fourth already.
    By chance a session of few fields might have nothing to judge by.
    """
    judges = sum(split == "held_out" for split in decided)
    return "held_out" if judges + 1 <= held_out * (len(decided) + 1) else "train"
