"""A lab with simulated pictures, a server over it, and a real browser: what the end-to-end tests share."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, ViewportSize
from scipy.ndimage import gaussian_filter

from controller.core.decision import QuestionKind
from controller.labels.images import Picture
from controller.labels.plan import LabelPlan
from controller.labels.queue import LabelQueue
from controller.labels.records import Annotator, AnswerRecord, NewRequest, RequestItem, Roi, Sample
from controller.labels.store import LabelStore
from controller.learning.annotations import LabelSchema, MaskAnnotation
from controller.web.desk import Desk, Proposal
from controller.web.serve import LabelServer
from tests.labels.support import new_sample

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CLASSES = ("rings", "fibers", "clusters")
#: Not a multiple of anything, and not square: an exchange of rows and columns shows.
ROWS, COLUMNS = 48, 60
CONTEXT_PX = 24
DESKTOP: ViewportSize = {"width": 1300, "height": 850}
PHONE: ViewportSize = {"width": 375, "height": 740}


def chromium_path() -> str:
    """Return where Chromium is; skip the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("the label page is tested in Chromium, which is not installed: apt install chromium")
    return found


class SimulatedImages:
    """Drawn STED-like pictures: filaments with rings every 190 nm, plain ones, and clusters."""

    def channels(self, sample: Sample) -> tuple[str, ...]:
        return "raw", "denoised"

    def picture(self, sample: Sample, channel: str, context_px: int) -> Picture:
        number = int(sample.uri.removeprefix("image"))
        shape = sample.roi.rows + 2 * context_px, sample.roi.columns + 2 * context_px
        rng = np.random.default_rng(number)
        photons = 3 + 60 * gaussian_filter(_structure(number, shape, rng), 1.1)
        pixels = rng.poisson(photons).astype(np.uint16) if channel == "raw" else photons.astype(np.float32)
        window = float(np.percentile(pixels, 1)), float(np.percentile(pixels, 99.7))
        return Picture(pixels=pixels, origin_yx=(context_px, context_px), window=window)


class TwoColours(SimulatedImages):
    """The same in two detector channels, the second of which is the picture upside down."""

    def channels(self, sample: Sample) -> tuple[str, ...]:
        return "640 nm", "561 nm"

    def picture(self, sample: Sample, channel: str, context_px: int) -> Picture:
        picture = super().picture(sample, "raw", context_px)
        return picture if channel == "640 nm" else replace(picture, pixels=picture.pixels[::-1].copy())


def _structure(number: int, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw what is asked about, as fluorophores per pixel of 20 nm."""
    y, x = np.indices(shape).astype(float)
    drawn = np.zeros(shape)
    for _ in range(5):
        angle = rng.uniform(0, np.pi)
        across = (y - rng.uniform(0, shape[0])) * np.cos(angle) - (x - rng.uniform(0, shape[1])) * np.sin(
            angle
        )
        along = y * np.sin(angle) + x * np.cos(angle)
        bent = across + 4 * np.sin(along / 17 + rng.uniform(0, 6))
        rings = 0.5 + 0.5 * np.cos(2 * np.pi * along / 9.5) if number % 3 == 0 else 0.55
        if number % 3 < 2:
            drawn += np.exp(-(bent**2) / 3.0) * rings
    if number % 3 == 2:
        for _ in range(25):
            centre = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
            drawn += rng.uniform(0.6, 2) * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 4)
    return drawn


@dataclass
class Lab:
    """A label store in a folder, people with tokens, and a server that can be stopped and started."""

    folder: Path
    classes: tuple[str, ...] = CLASSES
    propose: Any = None
    images: SimulatedImages = field(default_factory=SimulatedImages)
    server: LabelServer | None = None
    thread: threading.Thread | None = None
    port: int = 0
    asked: int = 0
    status: dict[str, Any] = field(default_factory=dict)
    worth: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = LabelStore.open(self.folder, create=True)
        self.queue = LabelQueue(self.store, time.time)
        self.schema = self.store.add_schema(LabelSchema(classes=self.classes))
        self.ada = self.store.add_annotator("ada")
        self.token = self.store.new_token(self.ada)

    def sample(self, number: int) -> Sample:
        return self.store.add_sample(
            new_sample(
                number,
                session="simulated",
                uri=f"image{number}",
                roi=Roi(y=0, x=0, rows=ROWS, columns=COLUMNS),
            )
        )

    def ask(self, kind: QuestionKind = "tag", count: int = 1, **fields: Any) -> list[str]:
        """Ask questions about pictures that were not asked about before; return their ids."""
        asked = []
        for _ in range(count):
            numbers = range(self.asked, self.asked + (3 if kind == "choice" else 1))
            self.asked += len(numbers)
            values = {"resolution_m": 60e-9, "bleached_fraction": 0.12} if kind == "choice" else {}
            items = tuple(RequestItem(sample_id=self.sample(number).id, values=values) for number in numbers)
            new = NewRequest(
                **{
                    "key": f"question {self.asked}",
                    "kind": kind,
                    "text": f"What is in square {self.asked}?",
                    "schema_id": self.schema.id,
                    "items": items,
                    "priority": -float(self.asked),
                    **fields,
                }
            )
            asked.append(self.store.add_request(new).id)
        return asked

    def answers(self, count: int) -> list[AnswerRecord]:
        """Wait until so many answers count, and return them in the order they arrived."""
        until = time.monotonic() + 8
        while True:
            found = self.store.answers()
            if len(found) >= count or time.monotonic() > until:
                assert len(found) == count
                return found
            time.sleep(0.01)

    def make_server(self) -> LabelServer:
        """Return a server, at the same port as before if there was one."""
        plan = LabelPlan(classes=self.classes, context_px=CONTEXT_PX)
        desk = Desk(
            store=self.store,
            queue=self.queue,
            images=self.images,
            plan=plan,
            propose=self.propose,
            status=lambda: self.status,
            worth=lambda: self.worth,
        )
        self.server = LabelServer(desk, port=self.port)
        self.port = self.server.port
        return self.server

    def start(self) -> None:
        self.thread = threading.Thread(target=self.make_server().run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        if self.server is not None and self.thread is not None:
            self.server.stop()
            self.thread.join(15)
        self.server = self.thread = None

    def link(self, token: str | None = None) -> str:
        assert self.server is not None
        return self.server.link(token or self.token)

    @property
    def url(self) -> str:
        assert self.server is not None
        return self.server.url

    def newcomer(self, name: str, role: Any = "expert") -> tuple[Annotator, str]:
        person = self.store.add_annotator(name, role)
        return person, self.store.new_token(person)


@contextmanager
def running_lab(folder: Path, **fields: Any) -> Iterator[Lab]:
    """Serve a new lab, and put it away."""
    lab = Lab(folder, **fields)
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()
        lab.store.close()


def painted(record: AnswerRecord) -> NDArray[np.int32]:
    """Return the mask of an answer, which has nothing else."""
    [annotation] = record.reply.annotations
    assert isinstance(annotation, MaskAnnotation)
    return annotation.to_array()


def square_proposal(class_name: str = "fibers") -> Proposal:
    """Return what a model could have drawn: a square of 10 by 10 pixels."""
    mask = np.zeros((ROWS, COLUMNS), int)
    mask[10:20, 30:40] = 1
    annotation = MaskAnnotation.from_array(mask, value_classes=(class_name,), coverage="image")
    return Proposal(model_sha256="0" * 64, annotations=(annotation,))


class Person:
    """Somebody at the page.

    Places are (y, x) in pixels of the sample. Where they are on the screen is worked out here once more,
    so that the page's own reckoning is checked by it.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.zoom = 1.0
        self.corner = 0.0, 0.0  # of the sample on the screen, (y, x)
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, kind: str, text: str) -> None:
        # That the tests read the canvas is no fault of the page.
        if kind in {"error", "warning"} and "willReadFrequently" not in text:
            self.complaints.append(text)

    def open(self, link: str) -> None:
        self.page.goto(link)
        self.see_question()

    def see_question(self, number: int | None = None) -> None:
        """Wait until a question is there, and look where its picture is."""
        if number is not None:
            self.page.wait_for_function(
                "text => document.getElementById('question').textContent.includes(text)",
                arg=f"square {number}?",
            )
        canvas = self.page.locator("#stage canvas").first
        canvas.wait_for()
        self.page.wait_for_timeout(130)  # the page takes no answer to what nobody can have seen
        box = canvas.bounding_box()
        assert box is not None
        rows, columns = ROWS + 2 * CONTEXT_PX, COLUMNS + 2 * CONTEXT_PX
        width, height = canvas.evaluate("canvas => [canvas.clientWidth, canvas.clientHeight]")
        self.zoom = min((width - 10) / columns, (height - 10) / rows)
        self.corner = (
            box["y"] + (height - rows * self.zoom) / 2 + CONTEXT_PX * self.zoom,
            box["x"] + (width - columns * self.zoom) / 2 + CONTEXT_PX * self.zoom,
        )

    def point(self, y: float, x: float) -> tuple[int, int]:
        """Return where a place is on the screen, (x, y), in whole pixels: a mouse knows no others."""
        return round(self.corner[1] + (x + 0.5) * self.zoom), round(self.corner[0] + (y + 0.5) * self.zoom)

    def hit(self, *places: tuple[float, float]) -> list[tuple[float, float]]:
        """Return the places that the mouse points at when it is sent to these."""
        points = [self.point(*place) for place in places]
        return [
            ((y - self.corner[0]) / self.zoom - 0.5, (x - self.corner[1]) / self.zoom - 0.5)
            for x, y in points
        ]

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, *places: tuple[float, float]) -> None:
        for place in places:
            self.page.mouse.click(*self.point(*place))

    def drag(self, *places: tuple[float, float]) -> None:
        """Press the mouse at the first place, and move it to the others."""
        mouse = self.page.mouse
        mouse.move(*self.point(*places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self.point(*place))
        mouse.up()

    def colours(self, *places: tuple[float, float]) -> list[list[int]]:
        """Return red, green and blue at places of the picture."""
        script = """(canvas, points) => {
            const box = canvas.getBoundingClientRect();
            const context = canvas.getContext("2d");
            return points.map(([x, y]) => {
                const { data } = context.getImageData(x - box.left, y - box.top, 1, 1);
                return [...data].slice(0, 3);
            });
        }"""
        points = [list(self.point(*place)) for place in places]
        self.page.wait_for_timeout(60)  # it is drawn with the next frame
        seen: list[list[int]] = self.page.locator("#stage canvas").first.evaluate(script, points)
        return seen

    def reads(self, selector: str, text: str) -> None:
        """Wait until the page says something."""
        self.page.locator(selector, has_text=text).first.wait_for(timeout=6000)

    def shows(self, number: int) -> bool:
        return f"square {number}?" in self.page.locator("#question").inner_text()


@contextmanager
def somebody(
    browser: Browser, lab: Lab, token: str | None = None, *, opens: bool = False, **options: Any
) -> Iterator[Person]:
    """Sit somebody down at the page."""
    context = browser.new_context(**{"viewport": DESKTOP, "base_url": lab.url, **options})
    context.set_default_timeout(8000)
    person = Person(context.new_page())
    try:
        if opens:
            person.open(lab.link(token))
        yield person
    finally:
        context.close()
    assert not person.complaints, person.complaints
