"""What is drawn on the page in a real browser arrives in the store, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser

from controller.learning.annotations import (
    BoxAnnotation,
    MaskAnnotation,
    PointsAnnotation,
    PolygonAnnotation,
    ScribbleAnnotation,
)
from tests.web.browser import COLUMNS, PHONE, ROWS, Lab, Person, painted, somebody, square_proposal

Place = tuple[float, float]


def brushed(places: list[Place], size: float) -> NDArray[np.bool_]:
    """Return the pixels whose centres a round brush covers on its way, and those under its stops."""
    y, x = np.indices((ROWS, COLUMNS)).astype(float)
    covered = np.zeros((ROWS, COLUMNS), bool)
    for (y0, x0), (y1, x1) in zip(places, places[1:] or places, strict=False):
        squared = (y1 - y0) ** 2 + (x1 - x0) ** 2
        along = np.clip(((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / squared, 0, 1) if squared else 0 * y
        covered |= (y - y0 - along * (y1 - y0)) ** 2 + (x - x0 - along * (x1 - x0)) ** 2 <= size**2 / 4
    for row, column in places:
        covered[math.floor(row + 0.5), math.floor(column + 0.5)] = True
    return covered


def test_clicks_become_points_of_the_chosen_class(lab: Lab, ada: Person) -> None:
    lab.ask("points")
    ada.open(lab.link())
    ada.press("2")
    ada.click((5, 7), (40.5, 52.25))
    ada.press("x")
    ada.click((20, 30))
    ada.press("Enter")

    [answer] = lab.answers(1)
    first, second = answer.reply.annotations
    assert isinstance(first, PointsAnnotation)
    assert isinstance(second, PointsAnnotation)
    assert (first.class_name, second.class_name) == ("fibers", "nothing here")
    assert np.allclose(first.points_yx, ada.hit((5, 7), (40.5, 52.25)), atol=0.01)
    assert np.allclose(second.points_yx, ada.hit((20, 30)), atol=0.01)
    assert first.coverage == "marks"


def test_an_erased_point_is_not_sent_and_clicks_outside_mark_nothing(lab: Lab, ada: Person) -> None:
    lab.ask("points")
    ada.open(lab.link())
    ada.click((5, 7), (30, 30), (-6, 20), (20, COLUMNS + 5))
    ada.press("e")
    ada.click((30.3, 30.3))
    ada.press("Enter")

    [answer] = lab.answers(1)
    [points] = answer.reply.annotations
    assert isinstance(points, PointsAnnotation)
    assert len(points.points_yx) == 1


def test_a_stroke_becomes_a_scribble_with_its_width(lab: Lab, ada: Person) -> None:
    lab.ask("scribble")
    ada.open(lab.link())
    ada.press("]", "]", "3")
    ada.drag((10, 10), (12, 20), (30, 25))
    ada.press("Enter")

    [answer] = lab.answers(1)
    [scribble] = answer.reply.annotations
    assert isinstance(scribble, ScribbleAnnotation)
    assert np.allclose(scribble.vertices_yx, ada.hit((10, 10), (12, 20), (30, 25)), atol=0.01)
    assert (scribble.width_px, scribble.class_name) == (3, "clusters")


def test_a_box_has_its_sides_between_pixels_and_speaks_for_the_whole_square(lab: Lab, ada: Person) -> None:
    lab.ask("box")
    ada.open(lab.link())
    ada.drag((20.2, 40.4), (10.1, 30.3), (4.4, 21.7))  # to the upper left
    ada.drag((44.2, 49.8), (46, 55), (ROWS + 8, COLUMNS + 9))  # ends outside
    ada.press("Enter")

    [answer] = lab.answers(1)
    first, second = answer.reply.annotations
    assert isinstance(first, BoxAnnotation)
    assert isinstance(second, BoxAnnotation)
    assert first.extent.corners == ((4.5, 21.5), (20.5, 40.5))
    assert second.extent.corners == ((44.5, 49.5), (ROWS - 0.5, COLUMNS - 0.5))
    assert first.coverage == second.coverage == "image"


def test_an_outline_of_clicks_is_closed_by_enter_and_one_of_a_stroke_by_itself(lab: Lab, ada: Person) -> None:
    lab.ask("polygon")
    ada.open(lab.link())
    ada.click((5, 5), (5, 25), (40, 40), (20, 25), (20, 5))
    ada.press("Control+z", "Enter")  # the last corner was wrong
    ada.press("k")
    ada.drag((30, 5), (30, 15), (42, 15), (42, 5))
    ada.press("Enter")

    [answer] = lab.answers(1)
    clicked, dragged = answer.reply.annotations
    assert isinstance(clicked, PolygonAnnotation)
    assert isinstance(dragged, PolygonAnnotation)
    assert np.allclose(clicked.vertices_yx, ada.hit((5, 5), (5, 25), (40, 40), (20, 25)), atol=0.01)
    assert np.allclose(dragged.vertices_yx, ada.hit((30, 5), (30, 15), (42, 15), (42, 5)), atol=0.01)
    assert clicked.coverage == dragged.coverage == "marks"


def test_a_painted_mask_arrives_pixel_by_pixel(lab: Lab, ada: Person) -> None:
    lab.ask("mask")
    ada.open(lab.link())
    first: list[Place] = [(10.2, 10.1), (12.6, 33.4), (30.3, 41.7)]
    second: list[Place] = [(25, 5), (40, 12)]
    erased: list[Place] = [(8, 20), (20, 22)]
    ada.drag(*first)  # the brush is 4 px wide to begin with
    ada.press("3", "]", "]", "]")
    ada.drag(*second)
    ada.press("e", "[", "[")
    ada.drag(*erased)
    ada.press("Enter")

    [answer] = lab.answers(1)
    expected = np.zeros((ROWS, COLUMNS), int)
    expected[brushed(ada.hit(*first), 4)] = 1
    expected[brushed(ada.hit(*second), 7)] = 2
    expected[brushed(ada.hit(*erased), 5)] = 0
    [mask] = answer.reply.annotations
    assert isinstance(mask, MaskAnnotation)
    assert (mask.value_classes, mask.values, mask.coverage) == (("rings", "clusters"), "classes", "image")
    assert np.array_equal(painted(answer), expected)


def test_undo_redo_fill_and_outline_of_a_mask(lab: Lab, ada: Person) -> None:
    lab.ask("mask")
    ada.open(lab.link())
    ada.press("[", "[", "[")  # 1 px
    ring: list[Place] = [(10, 10), (10, 20), (20, 20), (20, 10), (10, 10)]
    ada.drag(*ring)
    ada.drag((30, 30), (40, 40))
    ada.press("Control+z", "Control+z", "Control+Shift+z")  # the ring is there again, the second is not
    ada.press("f")
    ada.click((15, 15))
    ada.press("2", "t")
    corners: list[Place] = [(30.2, 30.2), (30.2, 40.2), (44.2, 40.2)]
    ada.click(*corners)
    ada.press("Enter", "Enter")

    [answer] = lab.answers(1)
    expected = np.zeros((ROWS, COLUMNS), int)
    expected[10:21, 10:21] = 1
    (top, left), (_, right), (bottom, _) = ada.hit(*corners)
    y, x = np.indices((ROWS, COLUMNS))
    slope = (bottom - top) / (right - left)
    expected[(y > top) & (x < right) & (y - top < slope * (x - left))] = 2
    assert np.array_equal(painted(answer), expected)


def test_after_zooming_and_moving_the_brush_still_paints_where_it_is(lab: Lab, ada: Person) -> None:
    lab.ask("mask")
    ada.open(lab.link())
    [(row, column)] = ada.hit((20, 20))
    x, y = ada.point(20, 20)
    ada.page.mouse.move(x, y)
    ada.page.mouse.wheel(0, -100)
    ada.page.mouse.wheel(0, -100)
    factor = math.exp(0.36)
    ada.page.keyboard.down(" ")
    ada.page.mouse.down()
    ada.page.mouse.move(x + 50, y - 30)
    ada.page.mouse.up()
    ada.page.keyboard.up(" ")
    ada.zoom *= factor
    # The place under the mouse stayed there, and was then taken along.
    ada.corner = y - 30 - (row + 0.5) * ada.zoom, x + 50 - (column + 0.5) * ada.zoom
    places: list[Place] = [(14.3, 15.2), (17.7, 26.4)]
    ada.drag(*places)
    ada.press("Enter")

    [answer] = lab.answers(1)
    assert np.array_equal(painted(answer), brushed(ada.hit(*places), 4))
    assert answer.display.zoom == pytest.approx(ada.zoom, rel=1e-3)


def test_a_reload_keeps_the_question_the_drawing_and_the_seconds(lab: Lab, ada: Person) -> None:
    lab.ask("mask", 2)
    ada.open(lab.link())
    before: list[Place] = [(10, 10), (20, 30)]
    ada.press("2")
    ada.drag(*before)
    ada.page.wait_for_timeout(300)
    ada.page.reload()
    ada.see_question(1)
    ada.press("Enter")

    [answer] = lab.answers(1)
    [mask] = answer.reply.annotations
    assert isinstance(mask, MaskAnnotation)
    assert mask.value_classes == ("fibers",)
    assert np.array_equal(painted(answer), brushed(ada.hit(*before), 4))
    assert answer.elapsed_s > 0.6
    ada.see_question(2)
    ada.page.reload()
    ada.see_question(2)


def test_a_proposal_is_corrected_and_its_model_is_recorded(lab: Lab, ada: Person) -> None:
    lab.propose = lambda _request, _sample: square_proposal()
    lab.stop()
    lab.start()
    lab.ask("mask", 3)
    ada.open(lab.link())
    ada.press("e", "[", "[", "[")
    ada.click((12, 32))
    ada.press("Enter")
    ada.see_question(2)
    ada.page.locator("#proposal").uncheck()
    ada.press("u")
    ada.see_question(3)
    ada.press("u")

    corrected, refused, free = lab.answers(3)
    expected = np.zeros((ROWS, COLUMNS), int)
    expected[10:20, 30:40] = 1
    expected[12, 32] = 0
    assert np.array_equal(painted(corrected), expected)
    assert corrected.prefill_sha256 == "0" * 64
    assert refused.prefill_sha256 == "0" * 64  # it was seen, and may have led
    assert free.prefill_sha256 is None


def test_nothing_is_sent_while_something_is_missing_and_what_is_drawn_is_not_thrown_away(
    lab: Lab, ada: Person
) -> None:
    lab.ask("polygon")
    ada.open(lab.link())
    ada.press("Enter")
    ada.reads(".toast", "Nothing is marked")
    ada.click((5, 5), (5, 25))
    ada.press("Enter")  # two corners enclose nothing
    ada.reads(".toast", "three corners")
    ada.drag((30, 5), (30, 15), (42, 15))
    ada.press("0")
    ada.reads(".toast", "Something is marked")
    assert not lab.store.answers()
    ada.press("Delete", "0")
    [answer] = lab.answers(1)
    assert answer.reply.outcome == "nothing here"


def test_a_finger_draws_and_two_fingers_zoom(chromium: Browser, lab: Lab) -> None:
    lab.ask("box")
    with somebody(chromium, lab, opens=True, viewport=PHONE, has_touch=True, is_mobile=True) as person:
        hand = person.page.context.new_cdp_session(person.page)

        def touch(kind: str, *places: Place) -> None:
            points = [dict(zip("xy", person.point(*place), strict=True)) for place in places]
            hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (10.3, 10.3))
        touch("touchMove", (20.3, 30.3))
        touch("touchEnd")
        touch("touchStart", (20, 20))
        touch("touchMove", (22, 22))
        touch("touchStart", (22, 22), (30, 30))  # the second finger takes back what the first began
        touch("touchMove", (22, 22), (38, 38))
        touch("touchEnd")
        person.page.locator("#answers .send").click()
        [answer] = lab.answers(1)
        [box] = answer.reply.annotations
        assert isinstance(box, BoxAnnotation)
        assert box.extent.corners == ((10.5, 10.5), (20.5, 30.5))
        # Twice as far apart, less what a browser waits for before it takes a touch for a movement.
        assert 1.5 < answer.display.zoom / person.zoom < 2.05
