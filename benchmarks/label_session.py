"""A scripted annotator answers a running simulated session through the page's own HTTP interface.

Model quality against annotator seconds, questions of the strategy against questions of chance, judged by the
simulator's truth. The annotator's seconds are those of its script: it does not wait them out.

    python -m benchmarks.label_session [--kind tag|points] [--answers 200] [--error 0.05] [--folder NEW]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx2 as httpx
import numpy as np
from numpy.typing import NDArray

from controller.builder import Builder
from controller.core.frame import Frame
from controller.labelling.selector import Selector
from controller.labelling.selector_process import SelectorWork
from controller.labelling.service import LabelService, Where
from controller.labelling.session_plan import plan_of
from controller.labels.store import LabelStore
from controller.learning.annotations import NOTHING_HERE
from controller.learning.patch_classifier import fit
from controller.networks.weights import read_weights
from controller.recording.journal import JOURNAL_NAME
from controller.recording.reader import SessionReader
from controller.segmentation.held_out import score
from controller.segmentation.published import PUBLISHED
from controller.segmentation.small_unet import SmallUNetSegmenter, find_weights

if TYPE_CHECKING:
    from simulator.sted.microscope import SimulatedMicroscope

HARDWARE = Path(__file__).parent.parent / "hardware_configs"
#: The shipped session of each kind of question.
SESSIONS = {"tag": "sim_sted_tags.toml", "points": "sim_sted_labels.toml"}
#: Seconds that the script says a tag takes, by true class: what is rare is looked at longer.
ANSWER_S = (1.0, 2.0, 3.0, 5.0)
#: Seconds to look, and to click on each object (Bearman et al., ECCV 2016, rounded).
LOOK_S, CLICK_S = 2.0, 1.5
#: An object with fewer of its pixels in the square is not clicked.
_LEAST_PX = 30
#: Clicks teach where things are, not their outline: what is found counts if it is within 0.65 of this.
_WIDTH_PX = 12
#: Part of a square that a structure has to cover to be seen.
_LEAST_PART = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What lies where in the simulated sample."""

    classes: NDArray[np.int32]
    structures: NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> Truth:
        """Make the sample of a session again, from its seed."""
        builder = Builder.recorded(SessionReader(folder).start, folder)
        guarded = builder.guarded()
        try:
            specimen = cast("SimulatedMicroscope", builder.microscope).specimen
            return cls(specimen.classes, specimen.structures, (NOTHING_HERE, *specimen.class_names[1:]))
        finally:
            guarded.close()

    def window(self, center_yx_m: tuple[float, float], shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return which map pixels (20 nm) show a square."""
        first = [
            round(middle / 20e-9 + size / 2 - side / 2)
            for middle, size, side in zip(center_yx_m, self.classes.shape, shape, strict=True)
        ]
        return slice(first[0], first[0] + shape[0]), slice(first[1], first[1] + shape[1])

    def tag(self, center_yx_m: tuple[float, float], shape: tuple[int, int]) -> int:
        """Return the class that covers most of a square, 0 if none covers enough to be seen."""
        counts = np.bincount(self.classes[self.window(center_yx_m, shape)].ravel(), minlength=len(self.names))
        counts[0] = 0
        return int(counts.argmax()) if counts.max() >= _LEAST_PART * shape[0] * shape[1] else 0

    def objects(
        self, center_yx_m: tuple[float, float], shape: tuple[int, int]
    ) -> list[tuple[float, float, int]]:
        """Return the middle of each object in a square, in its pixels, and its class."""
        window = self.window(center_yx_m, shape)
        structures, classes = self.structures[window], self.classes[window]
        found = []
        for number in np.unique(structures[structures > 0]):
            rows, columns = np.nonzero(structures == number)
            kinds = classes[rows, columns]
            if len(rows) >= _LEAST_PX and (kinds > 0).any():
                # A pixel of the object: the middle of a bent one may lie outside.
                nearest = int(np.hypot(rows - rows.mean(), columns - columns.mean()).argmin())
                kind = int(np.bincount(kinds[kinds > 0]).argmax())
                found.append((float(rows[nearest]), float(columns[nearest]), kind))
        return found


class Annotator:
    """Answers as fast as it is asked, with errors, by HTTP."""

    def __init__(self, link: str, folder: Path, truth: Truth, error: float, seed: int) -> None:
        self._page = httpx.Client(base_url=link.partition("/login")[0], follow_redirects=True, timeout=30)
        self._page.get(link).raise_for_status()
        self._folder, self._truth, self._error = folder, truth, error
        self._rng = np.random.default_rng(seed)
        self._store = LabelStore.open(folder)
        self.answers, self.seconds = 0, 0.0

    def answer_next(self) -> bool:
        """Answer one question; return whether there was one."""
        task = self._post("/api/next", {})["task"]
        if task is None:
            return False
        sample = self._store.sample(task["items"][0]["sample_id"])
        settings = SessionReader(self._folder).frames[sample.frame_index or 0].settings
        where = center_of(sample.roi, settings), sample.roi.shape_yx
        say = self._clicks if task["request"]["kind"] == "points" else self._tag
        said, seconds = say(*where)
        seconds *= float(self._rng.lognormal(0, 0.3))
        reply = {"annotations": said} if said else {"outcome": "nothing here"}
        message = {
            "key": str(uuid.uuid4()),
            "lease_id": task["lease"]["id"],
            "reply": reply,
            "elapsed_s": seconds,
            "client": "benchmark",
        }
        self._post("/api/answer", message)
        self.answers += 1
        self.seconds += seconds
        return True

    def _tag(self, *where: Any) -> tuple[list[dict[str, Any]], float]:
        true = self._truth.tag(*where)
        told = int(self._rng.integers(len(self._truth.names))) if self._rng.random() < self._error else true
        said = [{"kind": "tag", "present": [self._truth.names[told]]}] if told else []
        return said, ANSWER_S[true]

    def _clicks(self, *where: Any) -> tuple[list[dict[str, Any]], float]:
        objects = [one for one in self._truth.objects(*where) if self._rng.random() >= self._error]
        said = []
        for kind in sorted({kind for *_, kind in objects}):
            points = [(row, column) for row, column, other in objects if other == kind]
            name = self._truth.names[kind]
            said.append({"kind": "points", "class_name": name, "points_yx": points, "coverage": "image"})
        return said, LOOK_S + CLICK_S * len(objects)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._page.get("/api/status").raise_for_status().json()
        return found

    def _post(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        answer = self._page.post(path, json=message)
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")
        found: dict[str, Any] = answer.json()
        return found


def center_of(roi: Any, settings: Any) -> tuple[float, float]:
    """Return the middle of a part of a scan, in sample coordinates."""
    y_m, x_m, _, _ = settings.scanned_region.bounds_yx_m
    pixel_m = settings.pixel_size_m
    return y_m + (roi.y + roi.rows / 2) * pixel_m, x_m + (roi.x + roi.columns / 2) * pixel_m


def quality(selector: Selector, truth: Truth, folder: Path, seeds: int = 5) -> list[dict[str, Any]]:
    """Return balanced accuracy on all places of held-out fields against seconds, for both arms."""
    reader = SessionReader(folder)
    places = [p for p in selector.pool.places if selector.split_of(p) == "held_out"]
    true = np.array(
        [
            truth.tag(
                center_of(p.sample.roi, reader.frames[p.sample.frame_index or 0].settings),
                p.sample.roi.shape_yx,
            )
            for p in places
        ]
    )
    features = selector.pool.features(places)
    answered = selector.answers.asked_here(selector.answers.so_far())
    learn = answered.part(np.flatnonzero(~answered.is_held_out))
    rows = []
    for arm, is_audit in (("strategy", False), ("chance", True)):
        part = learn.part(np.flatnonzero(learn.is_audit == is_audit))
        spent = np.cumsum(part.seconds)
        shared = min(float(learn.seconds[learn.is_audit == flag].sum()) for flag in (True, False))
        for budget in sorted({*np.linspace(0.25, 1, 4) * shared, float(spent[-1]) if len(spent) else 0.0}):
            count = int(np.searchsorted(spent, budget * (1 + 1e-9), side="right"))
            scores = []
            for seed in range(seeds):
                model = fit(
                    part.features[:count].astype(np.float32),
                    np.eye(len(truth.names), dtype=np.float32)[part.classes[:count]],
                    np.ones(count, np.float32),
                    np.random.default_rng(seed),
                )
                said = model.mean(features).argmax(axis=1)
                scores.append(np.mean([(said[true == k] == k).mean() for k in np.unique(true)]))
            rare = int((part.classes[:count] == len(truth.names) - 1).sum())
            rows.append(
                {
                    "arm": arm,
                    "seconds": round(budget, 1),
                    "answers": count,
                    "rare answers": rare,
                    "balanced accuracy": round(float(np.mean(scores)), 3),
                    "judged on": len(places),
                }
            )
    return rows


def objects_found(folder: Path, truth: Truth) -> list[dict[str, Any]]:
    """Return what the first weights and each published model find where is judged, by the truth."""
    reader, store = SessionReader(folder), LabelStore.open(folder)
    plan, splits = plan_of(folder), store.splits()
    given = reader.start.experiment["segmenter"]["options"]
    options = SmallUNetSegmenter.Options.model_validate_json(json.dumps(given)).replace(follow_labels=False)
    published = [read_weights(path) for path in sorted((folder / PUBLISHED).glob("*.safetensors"))]
    cycles = [cycle for cycle in reader.cycles if cycle.frame_index is not None][-9:]
    rows = []
    for weights in (find_weights(options.weights, folder), *published):
        segmenter, answers = SmallUNetSegmenter(options, weights), []
        for cycle in cycles:
            frame = reader.frame(cycle.frame_index or 0)
            labels = segmenter.step(frame, reader.denoised(cycle)).labels
            window = truth.window(frame.settings.region.center_yx_m, labels.shape)
            known = judging(frame, plan.field_m if plan else 1.0, splits, reader.start.run_id)
            answers.append((labels, np.where(known, truth.structures[window], -1).astype(np.int32)))
        found = score(answers, "spots", _WIDTH_PX)
        rows.append({"weights": weights.sha256[:8], "f1": round(found.f1, 3), "dice": round(found.dice, 3)})
    return rows


def judging(
    frame: Frame, field_m: float, splits: Mapping[tuple[str, str], str], run: str
) -> NDArray[np.bool_]:
    """Return which pixels of a frame lie in fields that judge, shape ``(y, x)``."""
    y0, x0, _, _ = frame.settings.scanned_region.bounds_yx_m
    rows, columns = (
        np.floor((first + (np.arange(side) + 0.5) * frame.settings.pixel_size_m) / field_m).astype(int)
        for first, side in zip((y0, x0), frame.photons.shape, strict=True)
    )
    known = np.zeros(frame.photons.shape, np.bool_)
    for row in np.unique(rows):
        for column in np.unique(columns):
            if splits.get((run, f"{row},{column}")) == "held_out":
                known[np.ix_(rows == row, columns == column)] = True
    return known


@contextmanager
def running(config: Path, folder: Path) -> Iterator[None]:
    """Run a session in a process of its own; it has begun when this begins, and ends with this."""
    command = [sys.executable, "-m", "controller", "run", str(config), "--output", str(folder), "--no-report"]
    session = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (folder / JOURNAL_NAME).exists() or not (folder / JOURNAL_NAME).stat().st_size:
            if session.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended by itself, exit code {session.returncode}")
            time.sleep(0.2)
        yield
    finally:
        session.send_signal(2)
        session.wait()


def labelled(folder: Path, truth: Truth, given: argparse.Namespace) -> LabelService:
    """Answer what is asked until there are enough answers or time is up; return the service, ended."""
    service = LabelService(Where(folder))
    thread = threading.Thread(target=service.run, name="service")
    thread.start()
    annotator = Annotator(service.link("script", "simulated"), folder, truth, given.error, seed=1)
    began_s = told_s = time.monotonic()
    try:
        while annotator.answers < given.answers and time.monotonic() < began_s + given.at_most_s:
            time.sleep(given.pace_s if annotator.answer_next() else 0.5)
            if time.monotonic() > told_s + 20:
                told_s = time.monotonic()
                show(annotator, told_s - began_s)
        time.sleep(5)
        show(annotator, time.monotonic() - began_s)
    finally:
        service.server.stop()
        thread.join()
    return service


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=sorted(SESSIONS), default="tag")
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--error", type=float, default=0.05)
    parser.add_argument("--pace-s", type=float, default=0.0, help="real seconds between answers")
    parser.add_argument("--at-most-s", type=float, default=480)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp()) / "session"
    with running(HARDWARE / SESSIONS[given.kind], folder):
        truth = Truth.of(folder)
        service = labelled(folder, truth, given)
    store = LabelStore.open(folder)
    selector = SelectorWork(folder, store, service.plan).prepare()
    rows = quality(selector, truth, folder) if given.kind == "tag" else objects_found(folder, truth)
    for row in rows:
        print(json.dumps(row))
    for model in store.models():
        print(model.role, model.verdict, model.answers, round(model.answer_s), model.metrics, model.reason)
    for change in SessionReader(folder).changes:
        print("in use from cycle", change.cycle, change.score_before, "->", change.score_after)
    print(folder)


def show(annotator: Annotator, since_s: float) -> None:
    status = annotator.status()
    workers = {w["name"]: f"{w['state']}: {w['message']}" for w in status["workers"]}
    print(
        f"{since_s:5.0f} s: {annotator.answers} answers, {annotator.seconds:.0f} annotator seconds, "
        f"{status['session']['cycles']} cycles, {len(status['models'])} models, {workers}",
        flush=True,
    )


if __name__ == "__main__":
    main()
