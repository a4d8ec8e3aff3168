"""A reply answers the question that was asked, about the image that was shown, in words that there are."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from controller.core.decision import QuestionKind
from controller.labels.records import (
    MAX_ANNOTATIONS,
    NewRequest,
    NewSample,
    Reply,
    Request,
    Submission,
    check_reply,
    told_classes,
)
from controller.learning.annotations import LabelSchema
from tests.labels.support import new_sample

SHAPE_YX = (64, 48)
SCHEMA = LabelSchema(classes=("ring", "fiber"))

TAG = {"kind": "tag", "present": ["ring"]}
BOTH = {"kind": "tag", "present": ["ring", "fiber"]}
NEITHER = {"kind": "tag", "absent": ["ring", "fiber"]}
EMPTY = {"kind": "tag", "present": ["nothing here"]}
GRADES = {"kind": "grades", "grades": {"ring": 0.5, "fiber": 0.0}}
POINTS = {"kind": "points", "class_name": "ring", "points_yx": [[0.0, 0.0], [63.5, 47.5]]}
SCRIBBLE = {
    "kind": "scribble",
    "class_name": "fiber",
    "vertices_yx": [[1.0, 1.0], [9.0, 9.0]],
    "width_px": 3.0,
}
BOX = {
    "kind": "box",
    "class_name": "ring",
    "extent": {"y_min": 0.0, "x_min": 0.0, "y_max": 9.0, "x_max": 9.0},
}
POLYGON = {"kind": "polygon", "class_name": "ring", "vertices_yx": [[0.0, 0.0], [9.0, 0.0], [9.0, 9.0]]}
MASK = {
    "kind": "mask",
    "shape_yx": [8, 8],
    "origin_yx": [56, 40],
    "runs": [[0, 32], [1, 32]],
    "value_classes": ["ring"],
}
ALL: dict[str, dict[str, Any]] = {
    "points": POINTS,
    "scribble": SCRIBBLE,
    "box": BOX,
    "polygon": POLYGON,
    "mask": MASK,
}
ALL |= {"tag": TAG, "grades": GRADES}

MAY_HOLD = {
    "tag": {"tag"},
    "grades": {"grades"},
    "points": {"points"},
    "scribble": {"scribble", "points"},
    "box": {"box"},
    "polygon": {"polygon", "mask"},
    "mask": {"mask", "polygon", "scribble", "points", "box"},
    "choice": set(),
    "score": set(),
}


def question(kind: str, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "id": "1",
        "created_s": 0.0,
        "state": "open",
        "key": "1",
        "kind": kind,
        "text": "What is it?",
        "schema_id": "1",
        "items": [{"sample_id": str(i)} for i in range(3 if kind == "choice" else 1)],
    }
    return Request.model_validate_json(json_of(fields | changes))


def json_of(fields: dict[str, Any]) -> str:
    return json.dumps(fields)


def reply(*annotations: dict[str, Any], **fields: Any) -> Reply:
    """Return a reply as it comes from the page."""
    return Reply.model_validate_json(json_of({"annotations": annotations} | fields))


def check(kind: str, said: Reply, **changes: Any) -> None:
    check_reply(question(kind, **changes), SCHEMA, SHAPE_YX, said)


def test_every_kind_of_question_takes_its_own_marks_and_refuses_those_of_others() -> None:
    assert set(MAY_HOLD) == set(get_args(QuestionKind))
    for kind, allowed in MAY_HOLD.items():
        for name, annotation in ALL.items():
            if name in allowed:
                check(kind, reply(annotation))
            else:
                with pytest.raises(ValueError, match=f"a '{kind}' question"):
                    check(kind, reply(annotation))


@pytest.mark.parametrize(
    ("kind", "said", "changes"),
    [
        ("tag", reply(EMPTY), {}),
        ("tag", reply(TAG | {"ambiguous": ["fiber"]}), {}),
        ("tag", reply(BOTH), {"several": True}),
        ("tag", reply(NEITHER), {"several": True}),
        ("grades", reply(GRADES | {"ambiguous": []}), {}),
        ("points", reply(POINTS, POINTS | {"class_name": "nothing here"}), {}),
        ("points", reply(POINTS | {"class_name": "ambiguous"}), {}),
        ("mask", reply(MASK, BOX, SCRIBBLE, POLYGON, POINTS), {}),
        ("choice", reply(chosen=0), {}),
        ("choice", reply(chosen=2), {}),
        ("score", reply(score=0.0), {}),
        ("score", reply(score=1.0), {}),
    ],
)
def test_good_replies_are_taken(kind: str, said: Reply, changes: dict[str, Any]) -> None:
    check(kind, said, **changes)


@pytest.mark.parametrize("kind", get_args(QuestionKind))
def test_unsure_and_nothing_here_answer_every_question_and_stand_alone(kind: str) -> None:
    for outcome in ("unsure", "nothing here"):
        check(kind, reply(outcome=outcome))
        for more in (
            reply(TAG, outcome=outcome),
            reply(chosen=0, outcome=outcome),
            reply(score=0.0, outcome=outcome),
        ):
            with pytest.raises(ValueError, match=f"'{outcome}' says all"):
                check(kind, more)
    with pytest.raises(ValueError, match=f"a '{kind}' question needs"):
        check(kind, reply())


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("tag", reply(BOTH), r"takes one class, got \['ring', 'fiber'\]"),
        ("tag", reply(NEITHER), r"takes one class, got \[\]"),
        ("tag", reply(TAG, TAG), "takes one annotation, got 2"),
        ("tag", reply(TAG, {"kind": "tag", "absent": ["ring"]}), "takes one annotation, got 2"),
        ("tag", reply({"kind": "tag", "present": ["blob"]}), "there is no class 'blob'; the schema has"),
        ("tag", reply(TAG, chosen=0), r"chosen = 0: this question has 1 option"),
        ("tag", reply(TAG, score=0.5), "a 'tag' question takes no score"),
        ("grades", reply(GRADES, GRADES), "takes one annotation, got 2"),
        ("grades", reply({"kind": "grades", "grades": {"blob": 1.0}}), "there is no class 'blob'"),
        ("points", reply(POINTS | {"class_name": "blob"}), "there is no class 'blob'"),
        ("points", reply(POINTS | {"points_yx": [[63.6, 0.0]]}), "lies outside the image"),
        ("points", reply(POINTS | {"points_yx": [[-0.6, 0.0]]}), "lies outside the image"),
        ("scribble", reply(SCRIBBLE | {"vertices_yx": [[0.0, 47.6]]}), "lies outside the image"),
        (
            "polygon",
            reply(POLYGON | {"vertices_yx": [[0.0, 0.0], [99.0, 0.0], [9.0, 9.0]]}),
            "outside the image",
        ),
        ("mask", reply(MASK | {"origin_yx": [57, 40]}), "lies outside the image"),
        ("mask", reply(MASK | {"value_classes": ["<b>"]}), "there is no class '<b>'"),
        ("choice", reply(chosen=3), r"chosen = 3: this question has 3 option"),
        ("choice", reply(chosen=1, score=0.5), "takes no score"),
        ("choice", reply(TAG, chosen=1), "takes no annotations"),
        ("choice", reply(score=0.5), "needs chosen, the number of an option"),
        ("score", reply(score=0.5, chosen=0), "chosen = 0"),
        ("score", reply(TAG, score=0.5), "takes no annotations"),
        ("score", reply(chosen=0), "needs score, a number from 0 to 1"),
    ],
)
def test_bad_replies_are_refused_with_what_is_allowed(kind: str, said: Reply, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(kind, said)


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "maybe"},
        {"chosen": -1},
        {"chosen": 12},
        {"chosen": True},
        {"chosen": "1"},
        {"score": 1.01},
        {"score": -0.01},
        {"score": "NaN"},
        {"annotations": [TAG] * (MAX_ANNOTATIONS + 1)},
        {"annotations": [{"kind": "polygons"}]},
        {"annotations": [BOX | {"extent": {"y_min": 9.0, "x_min": 0.0, "y_max": 0.0, "x_max": 9.0}}]},
        {"annotations": [MASK | {"runs": [[1, 10**12]]}]},
        {"annotations": [MASK | {"shape_yx": [10**6, 10**6], "runs": [[1, 10**12]]}]},
        {"annotations": [POLYGON | {"vertices_yx": [[0.0, 0.0]] * 3}]},
        {"annotations": [POINTS | {"points_yx": []}]},
        {"more": 1},
    ],
)
def test_what_is_no_reply_at_all_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        reply(**fields)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_reply_has_a_number_that_is_none(number: str) -> None:
    for text in (
        '{"score": %s}',
        '{"annotations": [{"kind": "points", "class_name": "a", "points_yx": [[0, %s]]}]}',
    ):
        with pytest.raises(ValidationError):
            Reply.model_validate_json(text % number)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (reply(outcome="unsure"), ("ambiguous",)),
        (reply(outcome="nothing here"), ("nothing here",)),
        (reply(EMPTY), ("nothing here",)),
        (reply(BOTH), ("ring", "fiber")),
        (reply(NEITHER), ()),
        (reply(GRADES), ("ring",)),
        (reply({"kind": "grades", "grades": {"ring": 0.49, "fiber": 1.0}}), ("fiber",)),
        (reply(SCRIBBLE, POINTS, BOX), ("fiber", "ring")),
        (reply(MASK), ("ring",)),
        (reply(chosen=1), ()),
        (reply(score=0.5), ()),
    ],
)
def test_the_classes_that_a_reply_says_are_there(said: Reply, told: tuple[str, ...]) -> None:
    assert told_classes(said) == told


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "choice", "items": [{"sample_id": "1"}]},
        {"kind": "tag", "items": [{"sample_id": "1"}, {"sample_id": "2"}]},
        {"items": []},
        {"kind": "choice", "items": [{"sample_id": str(i)} for i in range(13)]},
        {"annotators": 0},
        {"annotators": 21},
        {"priority": "NaN"},
        {"text": ""},
        {"text": "x" * 501},
        {"kind": "essay"},
        {"arm": "luck"},
        {"items": [{"sample_id": "1", "values": {"": 1.0}}]},
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        question(**{"kind": "tag"} | changes)
    assert NewRequest.model_fields.keys() >= changes.keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"roi": {"y": -1, "x": 0, "rows": 1, "columns": 1}},
        {"roi": {"y": 0, "x": 0, "rows": 0, "columns": 1}},
        {"roi": {"y": 0, "x": 0, "rows": 10**30, "columns": 1}},
        {"pixel_size_m": 0.0},
        {"pixel_size_m": "NaN"},
        {"units_per_photon": 0.0},
        {"frame_index": -1},
        {"uri": ""},
        {"uri": "x" * 4097},
        {"dtype": "x" * 21},
        {"blake2b": "nul \0"},
    ],
)
def test_a_sample_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    fields = new_sample().model_dump()
    with pytest.raises(ValidationError):
        NewSample.model_validate_json(json_of(fields | changes))
    NewSample.model_validate_json(json_of(fields))


@pytest.mark.parametrize(
    "changes",
    [
        {"elapsed_s": -1.0},
        {"elapsed_s": "NaN"},
        {"elapsed_s": 1e7},
        {"idle_s": -0.1},
        {"key": ""},
        {"lease_id": "x" * 201},
        {"prefill_sha256": "x" * 129},
        {"display": {"gamma": 0.0}},
        {"display": {"zoom": "Infinity"}},
        {"reply": None},
        {"annotator_id": "somebody else"},
    ],
)
def test_an_answer_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"key": "1", "lease_id": "1", "reply": {"score": 1.0}, "elapsed_s": 1.0}
    with pytest.raises(ValidationError):
        Submission.model_validate_json(json_of(fields | changes))
    Submission.model_validate_json(json_of(fields))
