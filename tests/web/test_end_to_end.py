"""People answer questions on the page in a real browser, with keys, clicks and fingers."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from controller.labels.records import ModelRecord, WorkerRecord
from controller.learning.annotations import GradesAnnotation, TagAnnotation
from tests.web.browser import (
    CONTEXT_PX,
    PHONE,
    Lab,
    Person,
    SimulatedImages,
    TwoColours,
    running_lab,
    somebody,
)


def tag_of(record: Any) -> TagAnnotation:
    [annotation] = record.reply.annotations
    assert isinstance(annotation, TagAnnotation)
    return annotation


def test_one_key_answers_and_the_next_question_is_there(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 3)
    ada.open(lab.link())
    ada.press("2")
    ada.see_question(2)
    ada.press("0")
    ada.see_question(3)
    ada.press("u")
    ada.reads("#stage", "Nothing to ask just now")

    first, second, third = lab.answers(3)
    assert (tag_of(first).present, tag_of(first).absent) == (("fibers",), ())
    assert (second.reply.outcome, third.reply.outcome) == ("nothing here", "unsure")
    assert first.elapsed_s > 0.1
    assert first.idle_s == 0
    assert first.display.low is not None
    assert first.display.high is not None
    assert first.display.low < first.display.high


def test_a_question_that_is_asked_later_appears_by_itself(lab: Lab, ada: Person) -> None:
    ada.page.goto(lab.link())
    ada.reads("#stage", "Nothing to ask just now")
    lab.ask()
    ada.see_question(1)


def test_a_key_that_is_held_down_or_pressed_twice_answers_one_question(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 3)
    ada.open(lab.link())
    ada.page.keyboard.down("1")
    ada.page.keyboard.down("1")
    ada.page.keyboard.down("1")
    ada.page.keyboard.up("1")
    ada.see_question(2)
    assert len(lab.answers(1)) == 1


def test_several_classes_are_ticked_and_the_others_are_absent(lab: Lab, ada: Person) -> None:
    lab.ask("tag", several=True)
    ada.open(lab.link())
    ada.press("Enter")
    ada.reads(".toast", "Choose what is there")
    ada.press("1", "3", "1", "Shift+2", "Enter")

    [answer] = lab.answers(1)
    said = tag_of(answer)
    assert (said.present, said.absent, said.ambiguous) == (("clusters",), ("rings",), ("fibers",))


def test_grades_are_set_by_keys_and_by_sliders(lab: Lab, ada: Person) -> None:
    lab.ask("grades")
    ada.open(lab.link())
    ada.press("1", "2", "2", "Shift+3")
    ada.press("2", "2", "2", "ArrowLeft")  # 0, 1 and ½ again, and one step down
    ada.press("Enter")

    [answer] = lab.answers(1)
    [said] = answer.reply.annotations
    assert isinstance(said, GradesAnnotation)
    assert said.grades == {"rings": 1.0, "fibers": 0.45}
    assert said.ambiguous == ("clusters",)


def test_one_of_several_images_is_chosen_by_key_or_by_click(lab: Lab, ada: Person) -> None:
    lab.ask("choice", 2)
    ada.open(lab.link())
    assert ada.page.locator("#stage canvas").count() == 3
    ada.reads("#stage .answer", "resolution 60 nm · bleached 12 %")
    ada.press("3")
    ada.see_question(6)  # about three more images
    ada.page.locator("#stage .answer").nth(1).click()

    assert [answer.reply.chosen for answer in lab.answers(2)] == [2, 1]


def test_a_score_is_a_key_or_a_slider_that_was_touched(lab: Lab, ada: Person) -> None:
    lab.ask("score", 2)
    ada.open(lab.link())
    ada.press("Enter")
    ada.reads(".toast", "set the slider")
    ada.press("8")
    ada.see_question(2)
    ada.page.locator("#answers input[type=range]").fill("0.33")
    ada.press("Enter")

    assert [answer.reply.score for answer in lab.answers(2)] == [0.875, 0.33]


def test_why_it_was_asked_is_told_only_after_the_answer(lab: Lab, ada: Person) -> None:
    secret = {
        "strategy": "bald",
        "score": 0.8125,
        "reason": "members disagree",
        "predicted_class": "clusters",
    }
    lab.ask("tag", 1, **secret)
    lab.ask("tag", 1, arm="random_audit")
    heard: list[str] = []
    ada.page.on("response", lambda got: heard.append(got.text()) if got.url.endswith("/api/next") else None)
    ada.open(lab.link())
    assert not re.search("bald|0.8125|disagree|predicted", heard[0])
    assert "bald" not in ada.page.content()
    ada.press("1")
    ada.reads("#why", "bald picked the last one (0.813): members disagree. The model took it for “clusters”.")
    ada.see_question(2)
    ada.press("1")
    ada.reads("#why", "picked by chance")


def test_going_back_changes_the_last_answers_and_keeps_what_was_said_first(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 3)
    ada.open(lab.link())
    ada.press("1")
    ada.see_question(2)
    ada.press("2")
    ada.see_question(3)
    ada.press("Backspace")
    ada.see_question(2)
    assert "chosen" in (ada.page.locator('[data-class="fibers"]').get_attribute("class") or "")
    ada.press("Backspace")
    ada.see_question(1)
    ada.press("3")  # instead of 1
    ada.see_question(3)
    ada.press("Backspace")
    ada.see_question(1)
    ada.press("Escape")
    ada.see_question(3)
    ada.press("1")

    kept = {answer.request_id: tag_of(answer).present for answer in lab.answers(3)}
    assert sorted(kept.values()) == [("clusters",), ("fibers",), ("rings",)]
    everything = lab.store.answers(kept_only=False)
    assert [tag_of(answer).present for answer in everything] == [
        ("rings",),
        ("fibers",),
        ("clusters",),
        ("rings",),
    ]
    assert everything[2].revises == everything[0].id


def test_later_shows_another_question_first_and_never_does_not_ask_again(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 2)
    ada.open(lab.link())
    ada.press("s")
    ada.see_question(2)
    ada.press("s")
    ada.see_question(1)
    ada.press("Shift+S")
    ada.see_question(2)
    ada.press("s")
    ada.reads(".toast", "no other question")
    ada.see_question(2)
    ada.press("1")
    ada.reads("#stage", "Nothing to ask just now")
    assert len(lab.answers(1)) == 1


def test_the_clock_stops_when_nobody_is_there_and_in_a_pause(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 2)
    ada.page.clock.install()
    ada.open(lab.link())
    ada.page.clock.fast_forward(50_000)
    ada.press("1")
    ada.see_question(2)
    ada.press("p")
    assert "blur" in ada.page.locator("#stage canvas").evaluate("canvas => getComputedStyle(canvas).filter")
    ada.page.clock.fast_forward(10_000)
    ada.press("2")  # a pause takes no answers
    ada.press("p")
    ada.page.clock.fast_forward(5_000)
    ada.press("3")

    idle, paused = lab.answers(2)
    assert idle.elapsed_s == pytest.approx(20, abs=3)
    assert idle.idle_s == pytest.approx(30, abs=3)
    assert tag_of(paused).present == ("clusters",)
    assert paused.elapsed_s == pytest.approx(5, abs=3)
    assert paused.idle_s == pytest.approx(10, abs=1)


def test_the_value_under_the_cursor_is_that_of_the_image(lab: Lab, ada: Person) -> None:
    lab.ask()
    ada.open(lab.link())
    images, sample = SimulatedImages(), lab.store.samples()[0]
    raw = images.picture(sample, "raw", CONTEXT_PX).pixels
    denoised = images.picture(sample, "denoised", CONTEXT_PX).pixels
    for row, column in [(3, 50), (-20, -11)]:
        ada.page.mouse.move(*ada.point(row, column))
        ada.reads("#value", f"y {row}, x {column}: {raw[row + CONTEXT_PX, column + CONTEXT_PX]}")
    ada.press("d")
    ada.reads("#display .chosen", "denoised")
    ada.page.mouse.move(*ada.point(3, 50))
    value = float(ada.page.locator("#value").inner_text().split(": ")[1])
    assert value == pytest.approx(denoised[3 + CONTEXT_PX, 50 + CONTEXT_PX], rel=1e-4)


def test_the_picture_is_drawn_with_the_window_that_the_sliders_show(lab: Lab, ada: Person) -> None:
    lab.ask()
    ada.open(lab.link())
    raw = SimulatedImages().picture(lab.store.samples()[0], "raw", CONTEXT_PX)
    low, high = raw.window

    values = raw.pixels[CONTEXT_PX:-CONTEXT_PX, CONTEXT_PX:-CONTEXT_PX].astype(float)
    brightest = np.unravel_index(values.argmax(), values.shape)
    places = [(5, 5), (20, 31), (int(brightest[0]), int(brightest[1]))]
    for (row, column), seen in zip(places, ada.colours(*places), strict=True):
        level = 255 * np.clip((values[row, column] - low) / (high - low), 0, 1)
        assert seen == pytest.approx([level] * 3, abs=2)
    ada.press("l", "l")  # fire, green
    [(red, green, blue)] = ada.colours(places[2])
    assert (red, blue) == (0, 0)
    assert green > 200
    ada.page.locator('input[aria-label="gamma"]').fill("100")
    ada.press("1")
    [answer] = lab.answers(1)
    assert (answer.display.lut, answer.display.channel) == ("green", "raw")
    assert answer.display.gamma == pytest.approx(10**0.5)
    assert (answer.display.low, answer.display.high) == pytest.approx((low, high))


def test_two_channels_are_put_together_in_green_and_magenta_and_swapped(
    chromium: Browser, tmp_path: Any
) -> None:
    with running_lab(tmp_path, images=TwoColours()) as lab:
        lab.ask()
        sample = lab.store.samples()[0]
        pictures = [lab.images.picture(sample, name, CONTEXT_PX) for name in lab.images.channels(sample)]
        rows, columns = np.unravel_index(np.argsort(pictures[0].pixels, axis=None)[-400:], (96, 108))
        inside = (abs(rows - 47.5) < 20) & (abs(columns - 53.5) < 25)
        row, column = int(rows[inside][0]), int(columns[inside][0])
        level = [
            255 * np.clip((p.pixels[row, column] - p.window[0]) / (p.window[1] - p.window[0]), 0, 1)
            for p in pictures
        ]
        place = row - CONTEXT_PX, column - CONTEXT_PX
        with somebody(chromium, lab, opens=True) as person:
            person.press("m")
            person.reads("#display .chosen", "both")
            person.page.wait_for_timeout(200)
            assert person.colours(place)[0] == pytest.approx([level[1], level[0], level[1]], abs=2)
            person.press("Shift+M")
            assert person.colours(place)[0] == pytest.approx([level[0], level[1], level[0]], abs=2)
            person.press("1")
            [answer] = lab.answers(1)
        assert (answer.display.channel, answer.display.is_swapped) == ("composite", True)


def test_who_wants_to_draw_is_asked_to_draw(lab: Lab, ada: Person) -> None:
    lab.ask("tag")
    lab.ask("box")
    ada.open(lab.link())
    ada.page.locator("#progress select").select_option("those to draw")
    ada.see_question(2)
    assert lab.store.counts().leased == 1
    ada.page.locator("#progress select").select_option("quick ones")
    ada.see_question(1)


def test_two_people_never_get_the_same_question(chromium: Browser, lab: Lab) -> None:
    lab.ask("tag", 4)
    _, token = lab.newcomer("ben")
    with somebody(chromium, lab, opens=True) as ada, somebody(chromium, lab, token, opens=True) as ben:
        for _ in range(2):
            shown = [person.page.locator("#question").inner_text() for person in (ada, ben)]
            assert shown[0] != shown[1]
            for person, before in zip((ada, ben), shown, strict=True):
                person.press("1")
                person.page.wait_for_function(
                    "text => document.getElementById('question').textContent !== text", arg=before
                )
                person.page.wait_for_timeout(150)
    answers = lab.answers(4)
    assert len({answer.request_id for answer in answers}) == 4
    assert [answer.annotator_id for answer in answers].count(lab.ada.id) == 2


def test_a_phone_answers_with_its_thumb(chromium: Browser, lab: Lab) -> None:
    lab.ask("tag", 2)
    with somebody(chromium, lab, opens=True, viewport=PHONE, has_touch=True, is_mobile=True) as person:
        page = person.page
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        for label in ("rings", "fibers", "clusters", "nothing here", "unsure"):
            box = page.locator("#answers button", has_text=label).bounding_box()
            assert box is not None
            assert box["height"] >= 44
            assert box["y"] + box["height"] <= PHONE["height"]  # without scrolling
        page.locator("#answers button", has_text="clusters").tap()
        person.see_question(2)
        page.locator("#answers button", has_text="unsure").tap()
    first, second = lab.answers(2)
    assert tag_of(first).present == ("clusters",)
    assert second.reply.outcome == "unsure"


def test_markup_in_names_and_texts_is_shown_as_text(chromium: Browser, tmp_path: Any) -> None:
    evil = "<img src=x onerror=alert(1)>"
    with running_lab(tmp_path, classes=(evil, "'; DROP TABLE answer; --")) as lab:
        lab.ask("tag", 1, text=f"{evil}?", reason=f"{evil}!", strategy="<b>bald</b>")
        lab.ask()
        lab.status = {"session": {"name": "<i>s</i>", "state": "running", "cycles": 3}}
        lab.worth = {"notes": ["<u>n</u>"], "<s>other</s>": [{"<s>a</s>": "<s>b</s>"}]}
        lab.store.log("<b>told</b>", why="<b>why</b>")
        with somebody(chromium, lab, opens=True) as person:
            person.reads("#question", f"{evil}?")
            person.reads("#answers", evil)
            person.press("1")
            person.reads("#why", f"<b>bald</b> picked the last one (0): {evil}!")
            person.reads("#changes", "<b>told</b>, why <b>why</b>")
            person.page.locator("#history-box summary").click()
            person.reads("#history", evil)
            assert person.page.locator("main img, main b, aside i, aside b, aside img").count() == 0
            person.page.goto("/worth")
            person.reads("#parts", "<u>n</u>")
            assert person.page.locator("#parts u, #parts s").count() == 0
        assert len(lab.answers(1)) == 1


def test_the_side_tells_what_the_answers_changed(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 2)
    lab.status = {"session": {"name": "tuesday", "state": "running", "cycles": 41}}
    ada.open(lab.link())
    ada.press("2")
    ada.see_question(2)
    snapshot = lab.store.add_snapshot({"answers": [1]})
    model = ModelRecord(
        sha256="ab" * 32,
        role="segmenter",
        parent=None,
        snapshot_sha256=snapshot.sha256,
        verdict="published",
        reason="better on the locked fields",
        metrics={"dice": 0.71},
        answers=12,
        answer_s=75,
    )
    lab.store.add_model(model)
    lab.store.beat(
        WorkerRecord(name="trainer", pid=1, state="failed", message="no memory", beat_s=time.time())
    )
    ada.reads("#changes", "segmenter abababab published")
    ada.reads("#changes", "12 answers, 1 min 15 s. better on the locked fields")
    ada.reads("#changes", "dice 0.71")
    ada.reads("#progress", "trainer failed: no memory")
    ada.reads("#progress", "tuesday running")
    ada.reads('#progress .count:has-text("fibers")', "1")


def test_what_the_seconds_bought_is_drawn(lab: Lab, ada: Person) -> None:
    values = [0.5, 0.6, 0.7, 0.8]
    points = [
        {"seconds": 30 * i, "value": value, "low": value - 0.05, "high": value + 0.05}
        for i, value in enumerate(values)
    ]
    kappa = {"first": "ada", "second": "ben", "measure": "Cohen's kappa", "value": 0.612, "items": 40}
    lab.worth = {
        "measure": "balanced accuracy",
        "curves": {"policy": points, "random": points[:2]},
        "ratio": {"value": 1.52, "low": 1.1, "high": 2.04},
        "short": ["clusters"],
        "agreement": [kappa],
    }
    ada.page.goto(lab.link())
    ada.page.goto("/worth")
    ada.reads(
        "#parts", "chance needs 1.52 times the seconds that the strategy needs (95 % interval 1.1 to 2.04)"
    )
    ada.reads("#parts", "Short of: clusters.")
    ada.reads("td", "0.612")
    assert ada.page.locator(".chart circle").count() == 6
    assert ada.page.locator(".chart polygon").count() == 2


def test_who_may_only_look_sees_figures_and_no_question(chromium: Browser, lab: Lab) -> None:
    lab.ask()
    _, token = lab.newcomer("rita", "reader")
    with somebody(chromium, lab) as person:
        person.page.goto(lab.link(token))
        person.reads("#question", "You may look, but not answer.")
        person.reads("#progress", "1 (1 of now)")
        person.press("1", "0")
    assert lab.store.counts().leased == 0


def test_the_keys_are_listed_and_buttons_work_from_the_keyboard(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 2)
    ada.open(lab.link())
    ada.press("?")
    ada.reads("#help", "nothing here")
    ada.press("1")  # the list takes no answers
    ada.press("Escape")
    ada.page.locator('[data-class="clusters"]').focus()
    ada.press("Enter")
    ada.see_question(2)
    [answer] = lab.answers(1)
    assert tag_of(answer).present == ("clusters",)


def measures(page: Page) -> tuple[float, list[float]]:
    """Return milliseconds from opening to the first question, and from each answer to the next question."""
    marks = page.evaluate("performance.getEntriesByType('mark').map(mark => [mark.name, mark.startTime])")
    shown = [at for name, at in marks if name == "question shown"]
    answered = [at for name, at in marks if name == "answered"]
    return shown[0], [next_ms - at for at, next_ms in zip(answered, shown[1:], strict=False)]


def test_the_page_is_quick(lab: Lab, ada: Person) -> None:
    lab.ask("tag", 6)
    ada.open(lab.link())
    for number in range(1, 6):
        ada.press("1")
        ada.see_question(number + 1)
    first_ms, next_ms = measures(ada.page)
    loaded = ada.page.evaluate("() => performance.getEntriesByType('resource').map(one => one.name)")
    ahead = ada.page.evaluate(
        "() => [...document.querySelectorAll('[rel=modulepreload]')].map(one => one.href)"
    )
    modules = {name for name in loaded if name.endswith(".js")} - {f"{lab.url}/static/main.js"}
    assert modules == set(ahead)  # one that is missing there costs a round trip more
    # The tests share few processors; docs/labelling.md has the figures.
    assert first_ms < 3000
    assert sorted(next_ms)[2] < 500
