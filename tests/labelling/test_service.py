"""The whole of it: a session's page over real HTTP, with the processes that ask and that learn."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from controller.core.errors import ConfigurationError, StedfastError
from controller.labelling.service import LabelService, SessionState, Where, workers_of
from controller.labelling.session_plan import plan_of, write_plan
from controller.labels.database import LABELS_NAME
from controller.recording.reader import SessionReader

PATIENCE_S = 90.0


def until(what: Callable[[], Any]) -> Any:
    """Wait for something that another process does; it is looked at often, and fails after a while."""
    tick = threading.Event()
    for _ in range(int(PATIENCE_S / 0.05)):
        if found := what():
            return found
        tick.wait(0.05)
    raise AssertionError(f"it did not happen in {PATIENCE_S:g} s")


@pytest.fixture
def folder(recorded: SessionReader, tmp_path: Path) -> Path:
    copy = tmp_path / "session"
    shutil.copytree(recorded.folder, copy)
    return copy


@pytest.fixture
def service(folder: Path) -> Iterator[LabelService]:
    made = LabelService(Where(folder))
    thread = threading.Thread(target=made.run, name="service")
    thread.start()
    yield made
    made.server.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@contextmanager
def browser(service: LabelService, name: str) -> Iterator[httpx2.Client]:
    link = service.link(name)
    with httpx2.Client(base_url=service.server.url, follow_redirects=True, timeout=30) as page:
        assert page.get(link).status_code == 200
        yield page


def answered(page: httpx2.Client, task: dict[str, Any]) -> dict[str, Any]:
    message = {
        "key": str(uuid.uuid4()),
        "lease_id": task["lease"]["id"],
        "reply": {"annotations": [{"kind": "tag", "present": ["spine"]}]},
        "elapsed_s": 2.0,
    }
    response = page.post("/api/answer", json=message)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_questions_are_asked_answered_and_survive_a_killed_process(service: LabelService) -> None:
    with browser(service, "ada") as page:

        def next_task() -> Any:
            return page.post("/api/next", json={}).json()["task"]

        task = until(next_task)
        assert task["request"]["text"] == "What is in the square?"
        (item,) = task["items"]
        assert {channel["name"] for channel in item["channels"]} == {"raw", "denoised"}
        picture = page.get(item["channels"][0]["url"])
        rows, columns = item["channels"][0]["shape"]
        assert len(picture.content) == 2 * rows * columns
        kept = answered(page, task)
        assert kept["is_kept"]
        assert kept["why"]["arm"] in {"policy", "random_audit"}

        asker = until(lambda: next((w for w in service.store.workers() if w.name == "selector"), None))
        os.kill(asker.pid, signal.SIGKILL)
        assert answered(page, until(next_task))["is_kept"]
        died = until(lambda: [e for e in service.store.events() if e.what == "worker died"])
        assert "selector" in str(died[0].detail["message"])
        until(lambda: [w for w in service.store.workers() if w.name == "selector" and w.pid != asker.pid])
        status = page.get("/api/status").json()
        assert status["counts"]["answers"] == 2
        assert status["session"]["state"] == "completed"
    assert len(service.store.answers()) == 2


def test_the_state_of_a_session_is_read_from_its_journal(folder: Path, tmp_path: Path) -> None:
    state = SessionState(folder).state()
    assert (state["state"], state["is_running"], state["frames"]) == ("completed", False, 2)
    (tmp_path / "empty").mkdir()
    assert SessionState(tmp_path / "empty").state()["state"] == "none"


def test_a_folder_without_a_session_needs_nobody_who_asks(tmp_path: Path, folder: Path) -> None:
    assert workers_of(Where(tmp_path)) == []
    assert [worker.name for worker in workers_of(Where(folder), learns=False)] == ["selector"]
    assert [worker.name for worker in workers_of(Where(folder, "postgresql://lab"))] == [
        "selector",
        "trainer",
    ]


def test_a_folder_is_served_by_one_at_a_time(service: LabelService, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="runs for it already"):
        LabelService(Where(folder))


def test_a_folder_is_free_again_when_its_service_has_ended_or_never_began(folder: Path) -> None:
    first = LabelService(Where(folder))
    first.server.stop()
    first.run()
    taken = folder / LABELS_NAME
    taken.rename(folder / "aside")
    taken.mkdir()
    with pytest.raises(StedfastError):
        LabelService(Where(folder))
    taken.rmdir()
    last = LabelService(Where(folder))
    last.server.stop()
    last.run()


def test_a_plan_that_was_written_later_holds(folder: Path) -> None:
    before = plan_of(folder)
    assert before is not None
    write_plan(folder, before.replace(question="What now?"))
    after = plan_of(folder)
    assert after is not None
    assert after.question == "What now?"
