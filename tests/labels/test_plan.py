"""What people are asked is refused when it is written, not when the first question is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from controller.labels.plan import LabelPlan


def test_the_classes_alone_are_a_plan() -> None:
    plan = LabelPlan(classes=("ring", "fibre"))
    assert plan.label_schema.names == ("nothing here", "ring", "fibre", "ambiguous")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"classes": ("ring", "ring")}, "names that differ"),
        ({"classes": (" ring",)}, "without spaces around"),
        ({"classes": ("nothing here",)}, "part of every schema"),
        ({"classes": ()}, "at least 1"),
        ({"classes": ("ring",), "kind": "choice"}, "'tag'"),
        ({"classes": ("ring",), "kind": "score"}, "'tag'"),
        ({"classes": ("ring",), "question": "what\x00?"}, "question"),
        ({"classes": ("ring",), "audit_fraction": 0.1}, "0.15"),
        ({"classes": ("ring",), "held_out": 0.0}, "greater than 0"),
    ],
)
def test_a_plan_that_nobody_could_be_asked_by_is_refused(written: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        LabelPlan.model_validate(written)
