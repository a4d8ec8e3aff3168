"""Killed servers, closed tabs, lost networks, full disks: no answer is lost, and none counts twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Route

from controller.learning.annotations import TagAnnotation
from tests.web.browser import DESKTOP, Lab, Person, somebody

ROOT = Path(__file__).parents[2]


def told(lab: Lab, count: int) -> list[str]:
    """Return the class of each answer that counts, in the order of the questions."""
    asked = {request.id: i for i, request in enumerate(lab.store.requests())}
    answers = sorted(lab.answers(count), key=lambda answer: asked[answer.request_id or ""])
    tags = [answer.reply.annotations[0] for answer in answers]
    return [tag.present[0] for tag in tags if isinstance(tag, TagAnnotation)]


@contextmanager
def lone_server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Serve a folder in a process of its own; yield it and its port."""
    command = [sys.executable, "-m", "tests.web.lone_server", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_a_killed_server_loses_no_answer(chromium: Browser, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.ask("tag", 4)
    context = chromium.new_context(viewport=DESKTOP)
    person = Person(context.new_page())
    with lone_server(tmp_path) as (process, port):
        person.open(f"http://127.0.0.1:{port}/login?token={lab.token}")
        person.press("1")
        person.see_question(2)
        process.kill()
        process.wait()
        person.press("2")
        person.reads("#banner", "1 answer waits to be sent and is kept in this browser")
        person.reads("#stage", "The server does not answer")
    lab.port = port
    lab.start()
    person.see_question(3)
    person.page.locator("#banner").wait_for(state="hidden")
    person.press("3")
    person.see_question(4)
    assert told(lab, 3) == ["rings", "fibers", "clusters"]
    assert len(lab.store.answers(kept_only=False)) == 3
    context.close()
    lab.stop()
    lab.store.close()


def test_an_answer_that_the_disk_has_no_room_for_is_sent_again(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 2)
    ada.open(lab.link())
    keys: list[str] = []

    def refuse_once(route: Route) -> None:
        keys.append((route.request.post_data_json or {})["key"])
        if len(keys) == 1:
            route.fulfill(status=507, json={"error": "not stored, keep this page open and try again"})
        else:
            route.continue_()

    ada.page.route("**/api/answer", refuse_once)
    ada.press("1")
    ada.reads("#banner", "not stored, keep this page open")
    ada.see_question(2)
    ada.page.locator("#banner").wait_for(state="hidden")
    assert told(lab, 1) == ["rings"]
    assert keys[0] == keys[1]
    assert all("507" in complaint for complaint in ada.complaints)
    ada.complaints.clear()


def test_an_answer_whose_receipt_was_lost_counts_once(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 2)
    ada.open(lab.link())
    sent: list[str] = []

    def lose_the_first_receipt(route: Route) -> None:
        sent.append(route.request.url)
        if len(sent) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    ada.page.route("**/api/answer", lose_the_first_receipt)
    ada.press("2")
    ada.see_question(2)
    ada.page.wait_for_function(
        "() => Object.keys(localStorage).every(key => !key.startsWith('stedfast.answer'))"
    )
    assert len(sent) == 2
    assert len(lab.store.answers(kept_only=False)) == 1
    ada.complaints.clear()  # the browser tells of the lost connection


def test_an_answer_of_a_closed_tab_is_sent_by_the_next_one(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 1)
    ada.open(lab.link())
    context = ada.page.context
    context.set_offline(True)
    ada.press("3")
    ada.reads("#banner", "1 answer waits")
    ada.page.close()
    assert not lab.store.answers()
    context.set_offline(False)
    context.new_page().goto(lab.link())
    assert told(lab, 1) == ["clusters"]
    ada.complaints.clear()  # the browser tells of the lost connection


def test_a_closed_tab_gives_its_question_back_at_once(chromium: Browser, lab: Lab) -> None:
    lab.ask("tag", 1)
    _, token = lab.newcomer("ben")
    with somebody(chromium, lab, opens=True) as ada, somebody(chromium, lab, token) as ben:
        ben.page.goto(lab.link(token))
        ben.reads("#stage", "Nothing to ask just now")
        ada.page.close(run_before_unload=True)
        ben.see_question(1)


def test_an_answer_to_a_question_that_somebody_else_has_by_now_is_refused_and_the_next_one_shown(
    lab: Lab, ada: Person
) -> None:
    lab.ask("tag", 2)
    ben, _ = lab.newcomer("ben")
    with ada.page.expect_response("**/api/next") as response:
        ada.open(lab.link())
    lab.queue.release(lab.ada, response.value.json()["task"]["lease"]["id"])
    lease = lab.queue.claim(ben)
    assert lease is not None
    ada.press("1")
    ada.reads(".toast.bad", "had gone to somebody else meanwhile")
    ada.see_question(2)
    assert not lab.store.answers(kept_only=False)
    assert all("409" in complaint for complaint in ada.complaints)
    ada.complaints.clear()


def test_a_question_is_kept_while_somebody_works_on_it_and_only_then(lab: Lab, ada: Person) -> None:
    lab.ask("mask", 1)
    renewals: list[str] = []
    ada.page.on(
        "request", lambda sent: renewals.append(sent.url) if sent.url.endswith("/api/renew") else None
    )
    ada.page.clock.install()
    ada.open(lab.link())
    ada.page.clock.run_for(60_000)  # nobody is there
    assert not renewals
    ada.page.mouse.move(*ada.point(5, 5))
    ada.page.clock.run_for(6_000)
    assert len(renewals) == 1


def test_a_drawing_that_is_refused_stays_on_the_page(lab: Lab, ada: Person) -> None:
    lab.ask("box", 1)
    ada.open(lab.link())
    refusal = {"error": "This does not answer the question.", "problems": ["reply: too odd"]}
    ada.page.route("**/api/answer", lambda route: route.fulfill(status=422, json=refusal))
    ada.drag((5, 5), (20, 20))
    ada.press("Enter")
    ada.reads(".toast.bad", "Not stored: This does not answer the question. · reply: too odd")
    ada.page.unroute("**/api/answer")
    ada.press("Enter")
    [answer] = lab.answers(1)
    assert len(answer.reply.annotations) == 1
    assert all("422" in complaint for complaint in ada.complaints)
    ada.complaints.clear()


def test_a_link_that_was_taken_back_says_so_and_keeps_the_answer(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 2)
    ada.open(lab.link())
    lab.store.revoke_tokens(lab.ada)
    ada.press("1")
    ada.reads("#stage", "This link does not open the page any more")
    ada.reads("#banner", "1 answer waits to be sent")
    token = lab.store.new_token(lab.ada)
    ada.page.goto(lab.link(token))
    assert told(lab, 1) == ["rings"]
    assert all("401" in complaint for complaint in ada.complaints)
    ada.complaints.clear()
