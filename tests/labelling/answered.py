"""A label store with answers about drawn discs, for tests of what learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.labelling.trainer import Beginning, LabelTrainer
from controller.labels.images import SampleImage
from controller.labels.plan import LabelPlan
from controller.labels.queue import LabelQueue
from controller.labels.records import (
    AnswerRecord,
    NewRequest,
    NewSample,
    Reply,
    RequestItem,
    Roi,
    Sample,
    Submission,
)
from controller.labels.store import LabelStore
from controller.learning.annotations import Annotation, LabelSchema, MaskAnnotation, TagAnnotation
from controller.networks.modules import tensors_of
from controller.networks.weights import Weights, pack
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions
from controller.segmentation.small_unet import SmallUNetSegmenter
from controller.segmentation.training import build

SIDE, CONTEXT = 32, 16
PIXEL_M = 20e-9
SCHEMA = LabelSchema(classes=("disc",))
NETWORK = NetworkOptions(
    kind="objects",
    object_px=9.0,
    pixel_size_m=PIXEL_M,
    heads=2,
    width=8,
    deep=8,
    classes=("background", "disc"),
)


def fresh(**options: Any) -> Weights:
    """Return weights of a network that has learned nothing."""
    network = NETWORK.replace(**options)
    return pack(
        tensors_of(build(network, np.random.default_rng(0))),
        architecture=ARCHITECTURE,
        options=network.model_dump(mode="json"),
    )


def discs(seed: int, *, is_empty: bool = False) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return photons of a sample inside its context, and the objects of the sample."""
    rng = np.random.default_rng(seed)
    side = SIDE + 2 * CONTEXT
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    for number in range(0 if is_empty else 4):
        row, column = np.array(divmod(number, 2)) * 16 + 24 + rng.uniform(-3, 3, 2)
        labels[np.hypot(y - row, x - column) < 4.5] = number + 1
    photons = rng.poisson(np.where(labels > 0, 12.0, 2.0)).astype(np.float32)
    return photons, labels[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]


class Drawn:
    """Images by the identity of their sample."""

    def __init__(self) -> None:
        self.photons: dict[str, NDArray[np.float32]] = {}

    def image(self, sample: Sample, context_px: int) -> SampleImage:
        cut = CONTEXT - context_px
        photons = self.photons[sample.id]
        return SampleImage(
            photons[cut : len(photons) - cut, cut : len(photons) - cut], (context_px, context_px)
        )


class Answered:
    """A store, and somebody who answers."""

    def __init__(self, folder: Path, schema: LabelSchema = SCHEMA) -> None:
        self.folder, self.session = folder, "monday"
        folder.mkdir(parents=True, exist_ok=True)
        self.now_s = 1000.0
        self.store = LabelStore.open(folder, create=True, now=lambda: self.now_s)
        self.queue = LabelQueue(self.store, lambda: self.now_s)
        self.schema = self.store.add_schema(schema)
        self.annotator = self.store.add_annotator("somebody")
        self.images = Drawn()
        self.asked = 0

    def sample(self, field: str, photons: NDArray[np.float32] | None = None, **about: Any) -> Sample:
        self.asked += 1
        new = NewSample(
            session=self.session,
            field=field,
            uri=f"frame {self.asked}",
            roi=Roi(y=CONTEXT, x=CONTEXT, rows=SIDE, columns=SIDE),
            pixel_size_m=PIXEL_M,
            dtype="float32",
        )
        sample = self.store.add_sample(new.replace(**about))
        if photons is not None:
            self.images.photons[sample.id] = photons
        return sample

    def answer(
        self, sample: Sample, reply: Reply, kind: str = "mask", arm: str = "random_audit"
    ) -> AnswerRecord:
        self.now_s += 1
        asked = {"key": sample.id, "kind": kind, "text": "?", "schema_id": self.schema.id, "arm": arm}
        self.store.add_request(
            NewRequest.model_validate(asked | {"items": (RequestItem(sample_id=sample.id),)})
        )
        lease = self.queue.claim(self.annotator)
        assert lease is not None
        return self.queue.answer(
            self.annotator,
            Submission(key=sample.id, lease_id=lease.id, reply=reply, elapsed_s=3.0),
        )

    def split(self, field: str, split: str) -> None:
        self.store.split_of(self.session, field, lambda: split)  # type: ignore[arg-type,return-value]

    def masks(self, numbers: Sequence[int], split: str, *, arm: str = "random_audit") -> None:
        """Ask about discs, each in a field of its own, and have them painted; every third sample is empty."""
        for number in numbers:
            photons, labels = discs(number, is_empty=number % 3 == 0)
            self.split(f"{split} {number}", split)
            sample = self.sample(f"{split} {number}", photons)
            self.answer(sample, painted(labels), arm=arm)

    def tags(self, numbers: Sequence[int], split: str) -> None:
        """Ask what is there; every third sample is empty."""
        for number in numbers:
            photons, labels = discs(number, is_empty=number % 3 == 0)
            self.split(f"{split} {number}", split)
            reply = Reply(annotations=(TagAnnotation(present=("disc",)),))
            sample = self.sample(f"{split} {number}", photons)
            self.answer(sample, reply if labels.any() else Reply(outcome="nothing here"), "tag")

    def trainer(self, weights: Weights | None = None, *, steps: int = 30, **plan: Any) -> LabelTrainer:
        beginning = Beginning(
            weights or fresh(),
            SmallUNetSegmenter.Options(),
            self.folder / "labels" / "published",
            steps=steps,
        )
        asked = LabelPlan(classes=self.schema.label_schema.classes, train_after=4).replace(**plan)
        return LabelTrainer(self.store, self.images, asked, beginning)


def painted(labels: NDArray[np.int32], coverage: Any = "image", **about: Any) -> Reply:
    """Return a painted answer; nothing here if there is nothing."""
    if not labels.any():
        return Reply(outcome="nothing here")
    said: Annotation = MaskAnnotation.from_array(labels, value_classes=("disc",), coverage=coverage, **about)
    return Reply(annotations=(said,))
