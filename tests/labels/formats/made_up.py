"""A store with answers that a test makes up, and the pictures that belong to its samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.decision import QuestionKind
from controller.labels.images import Picture
from controller.labels.queue import LabelQueue
from controller.labels.records import AnswerRecord, Display, NewSample, Reply, Roi, Sample
from controller.labels.store import LabelStore
from controller.learning.annotations import (
    Annotation,
    BoxAnnotation,
    GradesAnnotation,
    LabelSchema,
    MaskAnnotation,
    PointsAnnotation,
    PolygonAnnotation,
    Rectangle,
    ScribbleAnnotation,
    TagAnnotation,
)

SCHEMA = LabelSchema(classes=("ring", "fiber"))
SHAPE = (20, 30)
CLOCK = itertools.count(1_000_000)


def now() -> float:
    return float(next(CLOCK))


def objects() -> NDArray[np.int32]:
    labels = np.zeros(SHAPE, np.int32)
    labels[2:6, 3:9] = 1
    labels[10:14, 20:29] = 2
    return labels


OBJECTS = MaskAnnotation.from_array(objects(), value_classes=("ring",), coverage="image")
CLASSES = MaskAnnotation.from_array(
    objects(), values="classes", value_classes=("fiber", "ambiguous"), weight=0.5
)
POLYGON = PolygonAnnotation(class_name="ring", vertices_yx=((-0.5, 2.25), (8.0, 2.25), (9.5, 12.75)))
BOX = BoxAnnotation(class_name="fiber", extent=Rectangle(y_min=1.5, x_min=-0.5, y_max=7.25, x_max=29.5))
POINTS = PointsAnnotation(class_name="ring", points_yx=((3.0, 4.5), (19.5, 0.0)), coverage="image")
SCRIBBLE = ScribbleAnnotation(
    class_name="nothing here", vertices_yx=((15.0, 2.0), (17.0, 8.5), (16.0, 12.0)), width_px=3.0
)
DOT = ScribbleAnnotation(class_name="fiber", vertices_yx=((1.0, 28.0),))
TAG = TagAnnotation(present=("ring",), absent=("fiber",))
GRADES = GradesAnnotation(grades={"ring": 0.25}, ambiguous=("fiber",))
ALL = (OBJECTS, CLASSES, POLYGON, BOX, POINTS, SCRIBBLE, DOT, TAG, GRADES)


class Pictures:
    """Pictures of samples, made of the number of their frame."""

    def channels(self, sample: Sample) -> tuple[str, ...]:
        return ("raw",)

    def picture(self, sample: Sample, channel: str, context_px: int) -> Picture:
        assert context_px == 0
        return Picture(pixels_of(sample.frame_index or 0), (0, 0), (0.0, 1.0))


def pixels_of(frame: int) -> NDArray[np.uint16]:
    return np.random.default_rng(frame).poisson(5.0, SHAPE).astype(np.uint16)


def new_store(folder: Path) -> LabelStore:
    folder.mkdir(parents=True, exist_ok=True)
    return LabelStore.open(folder, create=True, now=now)


def new_sample(frame: int = 0, **changes: Any) -> NewSample:
    sample = NewSample(
        session="monday",
        field="a",
        uri=f"session.ome.zarr/{frame}",
        roi=Roi(y=0, x=0, rows=SHAPE[0], columns=SHAPE[1]),
        pixel_size_m=20e-9,
        dtype="uint16",
        frame_index=frame,
    )
    return sample.replace(**changes)


def say(
    store: LabelStore,
    annotations: Sequence[Annotation],
    *,
    frame: int = 0,
    person: str = "ada",
    **changes: Any,
) -> AnswerRecord:
    """Put an answer into a store."""
    sample = store.add_sample(new_sample(frame))
    annotator = store.add_annotator(person)
    kinds = {a.kind for a in annotations}
    kind: QuestionKind = kinds.pop() if len(kinds) == 1 else "mask"
    reply = Reply(annotations=tuple(annotations), outcome=changes.pop("outcome", "answered"))
    record = AnswerRecord(
        id=f"answer-{now()}",
        key=f"key-{now()}",
        request_id=None,
        sample_ids=(sample.id,),
        annotator_id=annotator.id,
        schema_id=store.add_schema(SCHEMA).id,
        kind=kind,
        reply=reply,
        arm="random_audit",
        elapsed_s=2.5,
        idle_s=0.0,
        display=Display(),
        prefill_sha256=None,
        client="test",
        revises=None,
        is_kept=True,
        created_s=now(),
    )
    return LabelQueue(store, now).take_in(annotator, record.replace(**changes))
