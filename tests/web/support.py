"""A small lab for the tests of the page: images, questions, people, and a clock that stands still."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.testclient import TestClient

from controller.core.decision import QuestionKind
from controller.labels.images import Picture
from controller.labels.plan import LabelPlan
from controller.labels.queue import LabelQueue
from controller.labels.records import (
    Annotator,
    NewRequest,
    Request,
    RequestItem,
    Roi,
    Sample,
    SchemaRecord,
)
from controller.labels.store import LabelStore
from controller.learning.annotations import LabelSchema
from controller.web.access import Site
from controller.web.app import create_app
from controller.web.desk import Desk
from controller.web.messages import Limits
from tests.labels.support import new_sample

PORT = 8123
HOST = f"127.0.0.1:{PORT}"
ROWS, COLUMNS = 24, 32
SCHEMA = LabelSchema(classes=("synapse", "shaft", "spine"))
JSON = {"content-type": "application/json"}


class Time:
    """Seconds since 1970 that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


class DrawnImages:
    """Images of which every pixel tells where it is; ``gone`` are samples whose file was deleted."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.read: list[str] = []

    def channels(self, sample: Sample) -> tuple[str, ...]:
        if sample.uri in self.gone:
            raise KeyError(f"the image of {sample.uri} is gone")
        return "raw", "denoised", "640 nm/STED"

    def picture(self, sample: Sample, channel: str, context_px: int) -> Picture:
        self.read.append(f"{sample.uri} {channel}")
        pixels = self.pixels(sample, channel, context_px)
        return Picture(pixels=pixels, origin_yx=(context_px, context_px), window=(0.0, 0.0))

    def pixels(self, sample: Sample, channel: str, context_px: int) -> NDArray[Any]:
        shape = sample.roi.rows + 2 * context_px, sample.roi.columns + 2 * context_px
        values = np.arange(shape[0] * shape[1]).reshape(shape) + 1000 * int(sample.uri[-1])
        return values.astype(np.uint16) if channel == "raw" else values.astype(np.float32) / 7


class Bench:
    """A store in a folder, people with tokens, and the page's application."""

    schema: SchemaRecord
    expert: Annotator
    other: Annotator
    reader: Annotator
    token: str
    other_token: str
    reader_token: str

    def __init__(self, folder: Path, like: Bench | None = None) -> None:
        self.time, self.images, self.folder = Time(), DrawnImages(), folder
        self.static = folder / "static"
        if like is not None:  # a copy takes a tenth of the time
            shutil.copytree(like.folder, folder, dirs_exist_ok=True)
        self.store = LabelStore.open(folder, create=like is None, now=self.time)
        self.queue = LabelQueue(self.store, self.time)
        if like is not None:
            self.schema = like.schema
            self.expert, self.other, self.reader = like.expert, like.other, like.reader
            self.token, self.other_token, self.reader_token = like.token, like.other_token, like.reader_token
            return
        self.schema = self.store.add_schema(SCHEMA)
        self.expert = self.store.add_annotator("ada")
        self.other = self.store.add_annotator("ben", "trainee")
        self.reader = self.store.add_annotator("<b>rita</b>", "reader")
        self.token, self.other_token, self.reader_token = map(
            self.store.new_token, (self.expert, self.other, self.reader)
        )
        self.static.mkdir()
        (self.static / "index.html").write_text("<!doctype html><title>Labels</title>")
        (self.static / "worth.html").write_text("<!doctype html><title>Worth</title>")
        (self.static / "page.js").write_text("export {};")
        (folder / "secret.js").write_text("not for the page")

    def sample(self, number: int) -> Sample:
        return self.store.add_sample(
            new_sample(
                number,
                session="s",
                field=f"f{number}",
                uri=f"image{number}",
                roi=Roi(y=0, x=0, rows=ROWS, columns=COLUMNS),
            )
        )

    def ask(self, key: str, kind: QuestionKind = "tag", **fields: Any) -> Request:
        """Ask about sample 0, or about samples 0, 1 and 2 for a choice."""
        items = tuple(
            RequestItem(sample_id=self.sample(number).id, values={"resolution_m": (50 + number) / 1e9})
            for number in range(3 if kind == "choice" else 1)
        )
        new = {"text": "What is in the square?", "items": items, "schema_id": self.schema.id, **fields}
        return self.store.add_request(NewRequest(key=key, kind=kind, **new))

    def desk(self, **fields: Any) -> Desk:
        plan = LabelPlan(classes=SCHEMA.classes, context_px=4)
        return Desk(
            **{
                "store": self.store,
                "queue": self.queue,
                "images": self.images,
                "plan": plan,
                "now": self.time,
                **fields,
            }
        )

    def app(self, limits: Limits | None = None, site: Site | None = None, **fields: Any) -> Starlette:
        return create_app(
            self.desk(**fields), site or Site.of(PORT), static=self.static, limits=limits or Limits()
        )

    def client(self, token: str | None = None, app: Starlette | None = None, **more: Any) -> TestClient:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return TestClient(
            app or self.app(), base_url=f"http://{HOST}", headers=headers, follow_redirects=False, **more
        )


def submission(lease_id: str, **changes: Any) -> dict[str, Any]:
    """Return an answer as the page sends it: one tag."""
    return {
        "key": "k1",
        "lease_id": lease_id,
        "reply": {"annotations": [{"kind": "tag", "present": ["synapse"]}]},
        "elapsed_s": 2.5,
        **changes,
    }


def next_task(client: TestClient, **asked: Any) -> Any:
    reply = client.post("/api/next", json=asked)
    assert reply.status_code == 200, reply.text
    return reply.json()["task"]
