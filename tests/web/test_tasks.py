"""The page gets a question, its pictures and nothing that would lead; its answers are in the store."""

from __future__ import annotations

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from controller.labels.records import ModelRecord, WorkerRecord
from controller.web.desk import Proposal
from tests.web.support import COLUMNS, ROWS, SCHEMA, Bench, next_task, submission


def test_a_question_comes_with_its_pictures_and_nothing_that_would_lead(
    bench: Bench, page: TestClient
) -> None:
    bench.ask("1", strategy="bald", score=0.7, predicted_class="spine", reason="members disagree")
    bench.ask("2", is_live=False)
    task = next_task(page)
    assert set(task) == {"lease", "request", "classes", "items", "number", "left"}
    assert set(task["request"]) == {"id", "kind", "text", "several", "schema_id", "is_live"}
    assert task["classes"] == list(SCHEMA.classes)
    assert task["lease"]["lease_s"] == 120
    assert task["number"] == 0
    assert task["left"] == {"live": 0, "later": 1}
    (item,) = task["items"]
    assert (item["rows"], item["columns"], item["pixel_size_m"]) == (ROWS, COLUMNS, 20e-9)
    assert item["prefill"] is None
    assert item["values"] == {"resolution_m": 50 / 1e9}
    assert [channel["name"] for channel in item["channels"]] == ["raw", "denoised", "640 nm/STED"]


def test_pictures_arrive_value_by_value(bench: Bench, page: TestClient) -> None:
    bench.ask("1")
    (item,) = next_task(page)["items"]
    for channel in item["channels"]:
        reply = page.get(channel["url"])
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["cache-control"].startswith("private")
        dtype = {"uint16": "<u2", "float32": "<f4"}[channel["dtype"]]
        pixels = np.frombuffer(reply.content, dtype).reshape(channel["shape"])
        np.testing.assert_array_equal(pixels, bench.images.pixels(bench.sample(0), channel["name"], 4))
        assert channel["origin"] == [4, 4]
        low, high = channel["window"]
        assert pixels.min() <= low < high <= pixels.max()
        again = page.get(channel["url"], headers={"if-none-match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert len(bench.images.read) == 3, "each is read once"


def test_an_answer_is_stored_and_only_then_is_said_why_it_was_asked(bench: Bench, page: TestClient) -> None:
    bench.ask("1", strategy="bald", score=0.7, predicted_class="spine", reason="members disagree")
    task = next_task(page)
    reply = page.post("/api/answer", json=submission(task["lease"]["id"])).json()
    assert reply["is_kept"]
    assert reply["why"] == {
        "arm": "policy",
        "strategy": "bald",
        "score": 0.7,
        "reason": "members disagree",
        "predicted_class": "spine",
    }
    (stored,) = bench.store.answers()
    assert (stored.id, stored.annotator_id, stored.elapsed_s) == (
        reply["answer_id"],
        bench.expert.id,
        2.5,
    )
    assert next_task(page) is None


def test_an_answer_sent_twice_is_one_answer(bench: Bench, page: TestClient) -> None:
    bench.ask("1")
    message = submission(next_task(page)["lease"]["id"])
    first, second = (page.post("/api/answer", json=message).json() for _ in range(2))
    assert first == second
    assert len(bench.store.answers(kept_only=False)) == 1


def test_a_choice_shows_every_image_with_what_is_known_of_it(bench: Bench, page: TestClient) -> None:
    bench.ask("1", "choice")
    task = next_task(page)
    assert [item["values"]["resolution_m"] for item in task["items"]] == [50 / 1e9, 51 / 1e9, 52 / 1e9]
    said = submission(task["lease"]["id"], reply={"chosen": 2})
    assert page.post("/api/answer", json=said).status_code == 200
    assert bench.store.answers()[0].reply.chosen == 2


def test_a_question_can_be_put_aside_for_another(bench: Bench, page: TestClient) -> None:
    bench.ask("1", priority=1)
    bench.ask("2", "box")
    first = next_task(page)
    box = next_task(page, kinds=["box"], instead_of=first["lease"]["id"])
    assert box["request"]["kind"] == "box"
    assert next_task(page)["request"]["id"] == first["request"]["id"], "the first was given back"
    page.post("/api/release", json={"lease_id": box["lease"]["id"], "declines": True})
    assert next_task(page, kinds=["box"]) is None


def test_a_lease_is_renewed_until_somebody_else_has_the_question(bench: Bench, page: TestClient) -> None:
    bench.ask("1")
    lease = next_task(page)["lease"]
    bench.time.now_s += 100
    renewed = page.post("/api/renew", json={"lease_id": lease["id"]}).json()
    assert renewed["until_s"] == lease["until_s"] + 100
    bench.time.now_s += 121
    with bench.client(bench.other_token) as other:
        assert next_task(other) is not None
    stale = page.post("/api/renew", json={"lease_id": lease["id"]})
    assert stale.status_code == 409
    assert "no longer yours" in stale.json()["error"]
    assert page.post("/api/answer", json=submission(lease["id"])).status_code == 409
    assert bench.store.answers(kept_only=False) == []


def test_going_back_shows_what_was_said_and_the_last_word_counts(bench: Bench, page: TestClient) -> None:
    bench.ask("1")
    lease = next_task(page)["lease"]["id"]
    first = page.post("/api/answer", json=submission(lease)).json()["answer_id"]
    bench.time.now_s += 1000
    back = page.post("/api/revisit", json={"answer_id": first}).json()
    assert back["revises"] == first
    assert back["lease"]["id"] == lease
    assert back["reply"]["annotations"][0]["present"] == ["synapse"]
    assert page.post("/api/renew", json={"lease_id": lease}).status_code == 200
    changed = submission(lease, key="k2", revises=first, reply={"outcome": "unsure"}, elapsed_s=1.0)
    second = page.post("/api/answer", json=changed).json()["answer_id"]
    newest, oldest = page.get("/api/history").json()
    assert (newest["answer_id"], newest["is_kept"], newest["told"]) == (second, True, ["ambiguous"])
    assert (oldest["answer_id"], oldest["is_kept"], oldest["told"]) == (first, False, ["synapse"])
    assert page.post("/api/revisit", json={"answer_id": first}).json()["revises"] == second
    assert page.get("/api/status").json()["mine"] == {"answers": 1, "seconds": 3.5}


def test_nobody_changes_what_others_said(bench: Bench, page: TestClient) -> None:
    bench.ask("1")
    said = page.post("/api/answer", json=submission(next_task(page)["lease"]["id"])).json()["answer_id"]
    with bench.client(bench.other_token) as other:
        assert other.post("/api/revisit", json={"answer_id": said}).status_code == 404
        assert other.get("/api/history").json() == []
        assert other.get("/api/status").json()["mine"] == {"answers": 0, "seconds": 0.0}


def test_a_question_whose_picture_is_gone_is_passed_over(bench: Bench, page: TestClient) -> None:
    bench.ask("1", priority=1)
    other = bench.sample(5)
    fine = bench.ask("2", items=({"sample_id": other.id},))
    bench.images.gone.add("image0")
    assert next_task(page)["request"]["id"] == fine.id
    assert [event.what for event in bench.store.events()] == ["picture gone"]


def test_a_folder_that_is_gone_is_said_instead_of_passing_over_everything(
    bench: Bench, page: TestClient
) -> None:
    for number in range(5):
        bench.ask(str(number))
    bench.images.gone.add("image0")
    reply = page.post("/api/next", json={})
    assert reply.status_code == 404
    assert "still where they were" in reply.json()["error"]


def test_a_model_may_propose_and_what_it_proposes_is_named(bench: Bench) -> None:
    bench.ask("1", "polygon")
    outline = {"kind": "polygon", "class_name": "spine", "vertices_yx": [[1, 1], [1, 5], [5, 5]]}
    proposal = Proposal.model_validate_json(json.dumps({"model_sha256": "abc", "annotations": [outline]}))
    app = bench.app(propose=lambda _request, _sample: proposal)
    with bench.client(bench.token, app) as page:
        prefill = next_task(page)["items"][0]["prefill"]
    assert prefill["model_sha256"] == "abc"
    assert prefill["annotations"][0]["vertices_yx"] == [[1, 1], [1, 5], [5, 5]]


def test_a_model_that_fails_costs_nobody_a_question(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_request: object, _sample: object) -> None:
        raise ZeroDivisionError

    bench.ask("1")
    with bench.client(bench.token, bench.app(propose=fails)) as page:
        assert next_task(page)["items"][0]["prefill"] is None
    assert "ZeroDivisionError" in caplog.text


def test_everybody_learns_who_they_are_and_what_can_be_said(bench: Bench, page: TestClient) -> None:
    me = page.get("/api/me").json()
    assert me["annotator"] == {"name": "ada", "role": "expert"}
    assert me["may_answer"]
    assert me["plan"]["context_px"] == 4
    assert me["schema"]["names"] == ["nothing here", *SCHEMA.classes, "ambiguous"]
    assert me["now_s"] == bench.time.now_s
    with bench.client(bench.reader_token) as reader:
        assert not reader.get("/api/me").json()["may_answer"]


def test_the_status_tells_of_answers_models_workers_and_events(bench: Bench) -> None:
    bench.store.beat(WorkerRecord(name="trainer", pid=1, state="working", message="step 3", beat_s=0))
    snapshot = bench.store.add_snapshot({"answers": []})
    for number in range(25):
        bench.store.add_model(
            ModelRecord(
                sha256=f"{number:064}",
                role="segmenter",
                parent=None,
                snapshot_sha256=snapshot.sha256,
                verdict="rejected",
                reason="worse",
                metrics={"f1": 0.5},
                answers=3,
                answer_s=9.0,
            )
        )
    for number in range(30):
        bench.store.log("trained", model=number)
    bench.ask("1")
    app = bench.app(status=lambda: {"session": {"name": "today", "state": "running", "cycles": 7}})
    with bench.client(bench.reader_token, app) as page:
        bench.time.now_s += 10
        status = page.get("/api/status").json()
        assert [model["sha256"][-2:] for model in status["models"]] == [f"{n:02}" for n in range(24, 4, -1)]
        assert status["counts"]["open_live"] == 1
        assert status["session"]["cycles"] == 7
        assert [event["detail"]["model"] for event in status["events"]] == list(range(10, 30))
        (worker,) = status["workers"]
        assert (worker["state"], worker["age_s"], worker["is_late"]) == ("working", 10.0, False)
        bench.time.now_s += 60
        bench.store.log("swapped", cycle=5)
        status = page.get("/api/status").json()
        assert status["workers"][0]["is_late"]
        assert [event["what"] for event in status["events"]] == ["trained"] * 19 + ["swapped"]
        events = page.get("/api/events").json()
        assert page.get(f"/api/events?after={events[-1]['id']}").json() == []


def test_what_the_seconds_bought_is_worked_out_once_a_second(bench: Bench) -> None:
    made: list[float] = []

    def worth() -> dict[str, float]:
        made.append(bench.time())
        return {"seconds": len(made)}

    with bench.client(bench.token, bench.app(worth=worth)) as page:
        assert [page.get("/api/worth").json()["seconds"] for _ in range(3)] == [1, 1, 1]
        bench.time.now_s += 1
        assert page.get("/api/worth").json()["seconds"] == 2
