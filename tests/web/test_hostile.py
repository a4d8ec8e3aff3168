"""Broken and hostile messages are refused with a reason; nothing is stored, and the page goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from starlette.testclient import TestClient
from starlette.types import Message

from controller.core.errors import RecordingError
from controller.labels import tables
from controller.learning.annotations import MAX_RUNS
from controller.web.messages import Limits
from tests.web.support import COLUMNS, HOST, JSON, ROWS, Bench, next_task, submission

DEEP = "[" * 100_000 + "]" * 100_000


@contextmanager
def nothing_changes(bench: Bench, page: TestClient) -> Iterator[None]:
    """Check that nothing is stored in between, and that the question can still be answered afterwards."""

    def rows() -> list[Any]:
        with bench.store.database.reading() as connection:
            return [connection.execute(select(table)).all() for table in tables.metadata.sorted_tables]

    before = rows()
    yield
    assert rows() == before
    assert page.get("/api/me").status_code == 200


def said(**reply: Any) -> dict[str, Any]:
    return {"reply": reply}


def drawn(**annotation: Any) -> dict[str, Any]:
    return said(annotations=[annotation])


def mask(runs: Any, shape_yx: Any, **more: Any) -> dict[str, Any]:
    return drawn(kind="mask", runs=runs, shape_yx=shape_yx, value_classes=["spine"], **more)


def polygon(*vertices_yx: Any, **more: Any) -> dict[str, Any]:
    return drawn(kind="polygon", class_name="spine", vertices_yx=list(vertices_yx), **more)


INVALID = {
    "mask of another image": mask([[1, 64 * 64]], [64, 64]),
    "mask beside the image": mask([[1, 4]], [2, 2], origin_yx=[ROWS - 1, COLUMNS - 1]),
    "mask of billions": mask([[1, 2**24], [1, 2**24]], [2**20, 2**20]),
    "mask whose runs do not add up": mask([[1, 5]], [2, 2]),
    "mask with a value below zero": mask([[-1, 4]], [2, 2]),
    "mask with fractions": mask([[1.5, 4]], [2, 2]),
    "mask of a number too long to read": mask([[10**400, 4]], [2, 2]),
    "polygon outside": polygon([0, 0], [0, 5], [5, COLUMNS]),
    "polygon far outside": polygon([0, 0], [0, 5], [1e300, -1e300]),
    "polygon that is a line": polygon([0, 0], [1, 1], [2, 2]),
    "polygon of two": polygon([0, 0], [1, 1]),
    "polygon of words": polygon(["0", "0"], ["0", "5"], ["5", "5"]),
    "polygon of three numbers each": polygon([0, 0, 0], [0, 5, 0], [5, 5, 0]),
    "polygon without vertices": drawn(kind="polygon", class_name="spine"),
    "coverage outside": polygon(
        [0, 0],
        [0, 5],
        [5, 5],
        coverage=[{"y_min": -5.0, "x_min": 0.0, "y_max": 5.0, "x_max": 5.0}],
    ),
    "class that is not there": drawn(kind="polygon", class_name="<b>", vertices_yx=[[0, 0], [0, 5], [5, 5]]),
    "kind that is not there": drawn(kind="spline", class_name="spine"),
    "kind that was not asked for": drawn(kind="tag", present=["spine"]),
    "nothing": said(),
    "both unsure and drawn": {
        "reply": {"outcome": "unsure", "annotations": polygon([0, 0], [0, 5], [5, 5])["reply"]["annotations"]}
    },
    "choice that was not asked for": said(chosen=0),
    "too many annotations": said(annotations=[polygon([0, 0])["reply"]["annotations"][0]] * 1001),
    "sample of another request": {"sample_id": "other"},
    "key of 300 letters": {"key": "k" * 300},
    "empty key": {"key": ""},
    "key that no database takes": {"key": "a\u0000b"},
    "lease that no database takes": {"lease_id": "a\u0000b"},
    "negative time": {"elapsed_s": -1},
    "time as text": {"elapsed_s": "1"},
    "time as truth": {"elapsed_s": True},
    "reply as list": {"reply": []},
    "reply as nothing": {"reply": None},
    "display without a limit": {"display": {"gamma": 0.0}},
    "name of a browser without end": {"client": "x" * 10_000},
    "key that is not ours": {"__proto__": {"is_kept": True}},
    "annotator of another": {"annotator_id": "ben"},
}


@pytest.mark.parametrize("changes", INVALID.values(), ids=INVALID)
def test_what_does_not_fit_is_refused_with_a_reason(
    bench: Bench, page: TestClient, changes: dict[str, Any]
) -> None:
    bench.ask("1", "mask")
    lease = next_task(page)["lease"]["id"]
    good = submission(lease, **polygon([0, 0], [0, 5], [5, 5]))
    with nothing_changes(bench, page):
        reply = page.post("/api/answer", json={**good, **changes})
        assert reply.status_code == 422, reply.text
        told = reply.json()
        assert len(told["error"]) > 20
        assert all(": " in problem for problem in told.get("problems", []))
        assert len(reply.content) < 20_000
    assert page.post("/api/answer", json=good).status_code == 200


NOT_JSON = {
    "nothing": b"",
    "words": b"hello",
    "half": b'{"key": "k1", ',
    "deep": DEEP.encode(),
    "deep objects": b'{"reply":' * 50_000 + b"1" + b"}" * 50_000,
    "deep in a field": b'{"key": "k", "reply": ' + DEEP.encode() + b"}",
    "bad UTF-8": b'{"key": "\xff\xfe"}',
    "half of a pair": b'{"key": "\\ud800"}',
    "zeros": b"\0" * 100,
    "two": b"{}{}",
    "comments": b"{} // hello",
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_json_is_refused(bench: Bench, page: TestClient, body: bytes) -> None:
    bench.ask("1")
    with nothing_changes(bench, page):
        for path in ("answer", "next", "renew", "release", "revisit"):
            reply = page.post(f"/api/{path}", headers=JSON, content=body)
            assert reply.status_code == 400, reply.text
            assert "not JSON" in reply.json()["error"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_nan_and_infinity_are_refused_wherever_they_stand(
    bench: Bench, page: TestClient, number: str
) -> None:
    bench.ask("1", "mask")
    lease = next_task(page)["lease"]["id"]
    fields = {"elapsed_s": 1, "idle_s": 1, "low": 1, "weight": 1, "vertex": 5}
    shape = polygon([0, 0], [0, 5], [5, "vertex"], weight="weight")
    message = submission(lease, elapsed_s="elapsed_s", idle_s="idle_s", display={"low": "low"}, **shape)

    def body(**numbers: Any) -> str:
        text = json.dumps(message)
        for name, value in {**fields, **numbers}.items():
            text = text.replace(f': "{name}"', f": {value}").replace(f', "{name}"]', f", {value}]")
        return text

    with nothing_changes(bench, page):
        for name in fields:
            assert number in body(**{name: number})
            reply = page.post("/api/answer", headers=JSON, content=body(**{name: number}))
            assert reply.status_code == 422, reply.text
            assert "finite number" in str(reply.json()["problems"])
    assert page.post("/api/answer", headers=JSON, content=body()).status_code == 200


def test_ten_megabytes_are_refused_before_they_are_read(bench: Bench) -> None:
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 100_000
        return {"type": "http.request", "body": b" " * 100_000, "more_body": read < 10_000_000}

    assert status_of(bench, receive)[0] == 413
    assert read <= 2_200_000
    read = 0
    status, told = status_of(bench, receive, (b"content-length", b"10000000"))
    assert (status, read) == (413, 0)
    assert "2000000 bytes" in told["error"]


@pytest.mark.parametrize("declared", [b"-1", b"1e9", b"9" * 5000, b"\xb2"])
def test_a_length_that_is_none_is_refused(bench: Bench, declared: bytes) -> None:
    async def receive() -> Message:
        raise AssertionError("nothing is read")

    assert status_of(bench, receive, (b"content-length", declared))[0] == 413


def test_a_body_that_never_comes_is_not_waited_for(bench: Bench) -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("it never comes")

    limits = Limits(body_s=0.01)
    status, told = status_of(bench, receive, limits=limits)
    assert status == 408
    assert "not complete" in told["error"]


def test_who_leaves_in_the_middle_of_a_message_leaves_nothing(bench: Bench, page: TestClient) -> None:
    bench.ask("1")
    lease = next_task(page)["lease"]["id"]
    parts = iter([json.dumps(submission(lease)).encode()])

    async def receive() -> Message:
        body = next(parts, None)
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": True}

    with nothing_changes(bench, page):
        assert status_of(bench, receive) == (0, None)


def status_of(
    bench: Bench, receive: Any, *headers: tuple[bytes, bytes], limits: Limits | None = None
) -> tuple[int, Any]:
    """Return status and content of an answer whose body comes as ``receive`` says; 0 without a response."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    given_headers = {
        b"host": HOST.encode(),
        b"authorization": f"Bearer {bench.token}".encode(),
        b"content-type": b"application/json",
        **dict(headers),
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/answer",
        "raw_path": b"/api/answer",
        "root_path": "",
        "query_string": b"",
        "headers": list(given_headers.items()),
        "client": ("127.0.0.1", 5),
        "scheme": "http",
        "http_version": "1.1",
    }
    asyncio.run(asyncio.wait_for(bench.app(limits)(scope, receive, send), 10))
    if not sent:
        return 0, None
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_mask_of_as_many_runs_as_fit_into_a_message_is_read_in_time(bench: Bench, page: TestClient) -> None:
    bench.ask("1", "mask")
    runs = [[number % 2, 1] for number in range(250_000)]
    assert len(runs) < MAX_RUNS
    message = submission(next_task(page)["lease"]["id"], **mask(runs, [250, 1000]))
    body = json.dumps(message, separators=(",", ":"))
    assert 1_000_000 < len(body) < 2_000_000
    with nothing_changes(bench, page):
        assert page.post("/api/answer", headers=JSON, content=body).status_code == 422


HOSTILE_NAMES = [
    "'; DROP TABLE answer; --",
    "<script>alert(1)</script>",
    "\u202ex",
    "../../etc",
    "%s{0}",
]


@pytest.mark.parametrize("text", HOSTILE_NAMES)
def test_sql_and_html_in_texts_come_back_as_the_data_that_they_are(bench: Bench, text: str) -> None:
    bench.ask("1", text=text, reason=text)
    who = bench.store.add_annotator(text)
    with bench.client(bench.store.new_token(who)) as page:
        me = page.get("/api/me")
        assert me.headers["content-type"] == "application/json"
        assert me.json()["annotator"]["name"] == text
        task = next_task(page)
        assert task["request"]["text"] == text
        reply = page.post("/api/answer", json=submission(task["lease"]["id"], key="'); --", client="<b>"))
        assert reply.headers["content-type"] == "application/json"
        assert reply.json()["why"]["reason"] == text
        assert page.get("/api/history").json()[0]["text"] == text
    assert bench.store.answers()[0].client == "<b>"


def test_unknown_ids_are_said_so(bench: Bench, page: TestClient) -> None:
    bench.ask("1")
    unknown = "00000000-0000-4000-8000-000000000000"
    with nothing_changes(bench, page):
        assert page.post("/api/revisit", json={"answer_id": unknown}).status_code == 404
        assert page.post("/api/renew", json={"lease_id": unknown}).status_code == 409
        assert page.post("/api/release", json={"lease_id": unknown}).json() == {}
        assert page.post("/api/answer", json=submission(unknown)).status_code == 409
        assert page.get(f"/api/picture/{unknown}/raw").status_code == 404


@pytest.mark.parametrize("odd", [*HOSTILE_NAMES, "a\u0000b", "x" * 65, "", "٣", 3, None, ["x"]])
def test_ids_that_are_no_ids_are_refused(bench: Bench, page: TestClient, odd: Any) -> None:
    bench.ask("1")
    with nothing_changes(bench, page):
        assert page.post("/api/revisit", json={"answer_id": odd}).status_code == 422
        assert page.post("/api/renew", json={"lease_id": odd}).status_code == 422
        assert page.post("/api/release", json={"lease_id": odd}).status_code == 422
        assert page.post("/api/next", json={"kinds": [odd]}).status_code == 422


def test_numbers_of_an_address_are_checked(page: TestClient) -> None:
    for query in ("after=-1", "after=x", f"after={10**30}", "after=1.5", "after=٣", "after="):
        assert page.get(f"/api/events?{query}").status_code == 422, query
        assert page.get(f"/api/history?{query.replace('after', 'limit')}").status_code == 422, query
    assert page.get("/api/events?after=9007199254740992").json() == []


PATHS = [
    "/static/../secret.js",
    "/static/..%2fsecret.js",
    "/static/%2e%2e/secret.js",
    "/static/..%5csecret.js",
    "/static/%2fetc%2fpasswd",
    "/static//etc/passwd",
    "/static/page.js%00",
    "/static/page.js%00.svg",
    "/static/",
    "/static/.",
    "/static/" + "x" * 5000,
    "/static/%ff",
    "/static/page.py",
    "/static/CON",
    "/api/picture/../../secret.js",
    "/api/picture/%2e%2e/raw",
    "/api/picture/x/../../raw",
    "/api/picture/x/raw",
    "/api/picture/'%20OR%201=1/raw",
    "/api/picture//raw",
]


def test_no_path_leads_out_of_the_page(page: TestClient) -> None:
    for path in PATHS:
        reply = page.get(path)
        assert reply.status_code == 404, path
        assert "not for the page" not in reply.text, path
        assert reply.json()["error"], path


def test_only_channels_of_a_sample_are_pictures(bench: Bench, page: TestClient) -> None:
    sample = bench.sample(0).id
    for channel in ("secret", "..%2f..%2fsecret.js", "raw/", "%00", ""):
        reply = page.get(f"/api/picture/{sample}/{channel}")
        assert reply.status_code == 404, channel
    assert bench.images.read == []


def test_files_of_the_page_have_their_types_and_others_are_not_served(bench: Bench, page: TestClient) -> None:
    (bench.static / "notes.txt").write_text("x")
    (bench.static / "folder.js").mkdir()
    (bench.static / "link.js").symlink_to(bench.folder / "missing.js")
    assert page.get("/static/page.js").headers["content-type"].startswith("text/javascript")
    assert page.get("/").headers["content-type"].startswith("text/html")
    assert "Worth" in page.get("/worth").text
    for name in ("notes.txt", "folder.js", "link.js"):
        assert page.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_a_wrong_method_is_said_so(bench: Bench, page: TestClient, method: str) -> None:
    with nothing_changes(bench, page):
        reply = page.request(method, "/api/answer", headers=JSON)
        assert reply.status_code == 405
        assert reply.json()["error"] == f"{method} is not for this."


def test_a_full_disk_is_told_and_the_answer_can_be_sent_again(
    bench: Bench, page: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.ask("1")
    message = submission(next_task(page)["lease"]["id"])

    def is_full(*_: object) -> None:
        raise RecordingError("/data/labels.sqlite: database or disk is full")

    with nothing_changes(bench, page), monkeypatch.context() as patched:
        patched.setattr(bench.queue, "answer", is_full)
        reply = page.post("/api/answer", json=message)
        assert reply.status_code == 507
        assert "not stored" in reply.json()["error"]
        assert "/data" not in reply.text, "where it is stored is nobody's business at the page"
    assert "disk is full" in caplog.text
    assert page.post("/api/answer", json=message).status_code == 200


def test_what_nobody_foresaw_is_logged_and_told_without_its_details(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("the password is swordfish")

    with bench.client(bench.token, bench.app(worth=fails)) as page:
        reply = page.get("/api/worth")
        assert reply.status_code == 500
        assert "swordfish" not in reply.text
        assert "swordfish" in caplog.text
        assert page.get("/api/me").status_code == 200


def test_no_token_is_ever_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "controller")
    with bench.client() as client:
        client.get(f"/login?token={bench.token}")
        client.get("/login?token=swordfish")
        client.get("/api/me", headers={"authorization": "Bearer swordfish"})
    # The client that stands for a browser here has a log of its own.
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert any("wrong token" in text for text in ours)
    assert not any("swordfish" in text or bench.token in text for text in ours)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
#: Messages in which some fields are right and some are anything.
messages = st.fixed_dictionaries(
    {},
    optional={
        "key": st.just("k") | json_values,
        "lease_id": st.just("LEASE") | json_values,
        "reply": json_values
        | st.fixed_dictionaries(
            {},
            optional={
                "outcome": st.sampled_from(["answered", "unsure"]) | json_values,
                "annotations": st.lists(
                    json_values
                    | st.fixed_dictionaries(
                        {"kind": st.sampled_from(["tag", "grades", "points", "box", "mask", "polygon"])},
                        optional={
                            "present": json_values,
                            "class_name": st.just("spine") | json_values,
                            "points_yx": st.lists(st.lists(st.floats(), max_size=3), max_size=3),
                            "runs": json_values,
                            "shape_yx": json_values,
                        },
                    ),
                    max_size=3,
                ),
                "chosen": json_values,
            },
        ),
        "elapsed_s": st.just(1.0) | json_values,
        "revises": json_values,
        "display": json_values,
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    message=messages | json_values, path=st.sampled_from(["answer", "next", "renew", "release", "revisit"])
)
def test_whatever_is_sent_is_taken_or_refused_with_a_reason(
    bench: Bench, page: TestClient, message: Any, path: str
) -> None:
    bench.ask("1", "points")
    task = next_task(page)
    if task is not None and isinstance(message, dict) and message.get("lease_id") == "LEASE":
        message["lease_id"] = task["lease"]["id"]
    reply = page.post(f"/api/{path}", headers=JSON, content=json.dumps(message))
    assert reply.status_code in {200, 400, 404, 409, 422}, reply.text
    assert reply.status_code == 200 or reply.json()["error"]
    bench.time.now_s += 121  # whoever holds the question gives it back


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
def test_whatever_bytes_are_sent_nothing_breaks(page: TestClient, body: bytes) -> None:
    assert page.post("/api/answer", headers=JSON, content=body).status_code in {400, 422}
