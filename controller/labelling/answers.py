"""What people have answered so far about the places of a session, as a model learns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.labelling.places import splits_in
from controller.labelling.pool import Pool
from controller.labelling.session_images import RAW, SessionImages
from controller.labels.class_consensus import ONE_OF
from controller.labels.consensus import update_consensus
from controller.labels.plan import LabelPlan
from controller.labels.records import AnswerRecord, Consensus, Sample, Split, told_classes
from controller.labels.store import LabelStore
from controller.learning.annotations import NOTHING_HERE
from controller.learning.worth import Answered

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What has been answered so far, a row for each sample that says which class it shows.

    Attributes
    ----------
    features
        Shape ``(n, features)``.
    targets
        Part of the answers that say each class, shape ``(n, classes)``; class 0 is nothing here.
    is_held_out
        Whether a sample judges, shape ``(n,)``.
    answer_s
        Seconds that people spent on it, shape ``(n,)``.
    samples
        Their ids.
    """

    features: Floats
    targets: Floats
    is_held_out: NDArray[np.bool_]
    answer_s: NDArray[np.float64]
    samples: tuple[str, ...]


class Answers:
    """Reads what was answered, and remembers the pixels that it was about.

    Parameters
    ----------
    store, images, plan
        Where answers are, where pixels come from, and what was asked.
    pool
        Whose encoder describes the pixels.
    """

    def __init__(self, store: LabelStore, images: SessionImages, plan: LabelPlan, pool: Pool) -> None:
        self._store, self._images, self._plan, self._pool = store, images, plan, pool
        self._schema_id = store.add_schema(plan.label_schema).id
        self._crops: dict[str, Floats] = {}
        self._features: dict[str, Floats] = {}
        self._is_pretrained = pool.is_pretrained

    def remember(self, sample: Sample, photons: Floats) -> None:
        """Take the pixels of a sample that are at hand."""
        self._crops[sample.id] = photons

    def photons(self, sample_id: str) -> float | None:
        """Return the mean of a sample's pixels, if they were read."""
        crop = self._crops.get(sample_id)
        return None if crop is None else float(crop.mean())

    def so_far(self) -> Known:
        """Return what has been answered about places, with a row for each sample."""
        samples = {sample.id: sample for sample in self._store.samples()}
        splits = self._store.splits()
        answers: dict[str, list[AnswerRecord]] = {}
        for answer in self._store.answers():
            if len(answer.sample_ids) == 1 and answer.schema_id == self._schema_id:
                answers.setdefault(answer.sample_ids[0], []).append(answer)
        update_consensus(self._store)
        agreed = self._store.consensus(ONE_OF)
        rows = []
        for sample_id, given in answers.items():
            target = self._target(given, agreed.get(sample_id))
            crop = self._crop(samples[sample_id])
            if target is not None and crop is not None:
                rows.append((sample_id, target, given, crop))
        count = 1 + len(self._plan.classes)
        if not rows:
            empty = np.zeros(0, np.bool_)
            nothing = self._encoded({})
            return Known(nothing, np.zeros((0, count), np.float32), empty, np.zeros(0), ())
        places = [samples[sample_id] for sample_id, *_ in rows]
        return Known(
            self._encoded({sample_id: crop for sample_id, *_, crop in rows}),
            np.stack([target for _, target, *_ in rows]),
            np.array([_judges(sample, splits) for sample in places]),
            np.array([sum(a.elapsed_s for a in given) for _, _, given, _ in rows]),
            tuple(sample.id for sample in places),
        )

    def asked_here(self, known: Known) -> Answered:
        """Return the answers that a strategy or chance asked for, as what they are worth is judged by."""
        arms = {
            item.sample_id: request.arm
            for request in self._store.requests()
            for item in request.items
            if request.arm in {"policy", "random_audit"}
        }
        ours = np.array([sample in arms for sample in known.samples], np.bool_)
        everything = Answered(
            features=known.features.astype(np.float64),
            classes=known.targets.argmax(axis=1).astype(np.int64),
            weights=known.targets.max(axis=1, initial=0.0).astype(np.float64),
            seconds=known.answer_s,
            is_audit=np.array([arms.get(s) == "random_audit" for s in known.samples], np.bool_),
            is_held_out=known.is_held_out,
        )
        return everything.part(np.flatnonzero(ours))

    def _target(self, given: list[AnswerRecord], agreed: Consensus | None) -> Floats | None:
        """Return how probable each class is, by what all answers come to; ``None`` if all were unsure."""
        names = [NOTHING_HERE, *self._plan.classes]
        votes = np.zeros(len(names), np.float32)
        if agreed is not None and agreed.names == tuple(names):
            votes[:] = agreed.classes
        else:
            for answer in given:
                told = [name for name in told_classes(answer.reply) if name in names]
                for name in told:
                    votes[names.index(name)] += 1 / len(told)
        return votes / votes.sum() if votes.any() else None

    def _crop(self, sample: Sample) -> Floats | None:
        if sample.id not in self._crops:
            roi = sample.roi
            if roi.shape_yx != (self._plan.crop_px, self._plan.crop_px):
                return None
            try:
                image = self._images.whole(sample, RAW)
            except KeyError:
                return None
            self._crops[sample.id] = np.asarray(
                image[roi.y : roi.y + roi.rows, roi.x : roi.x + roi.columns], np.float32
            )
        return self._crops[sample.id]

    def _encoded(self, crops: Mapping[str, Floats]) -> Floats:
        """Return what the encoder says of samples; computed once for each, and anew when it has learned."""
        if self._is_pretrained != self._pool.is_pretrained:
            self._features, self._is_pretrained = {}, self._pool.is_pretrained
        missing = [sample_id for sample_id in crops if sample_id not in self._features]
        if missing or not crops:
            side = self._plan.crop_px
            new = [crops[sample_id] for sample_id in missing]
            found = self._pool.encode(np.stack(new) if new else np.zeros((0, side, side), np.float32))
            self._features |= dict(zip(missing, found, strict=True))
            if not crops:
                return found
        return np.stack([self._features[sample_id] for sample_id in crops])


def _judges(sample: Sample, splits: Mapping[tuple[str, str], Split]) -> bool:
    return "held_out" in splits_in(sample, lambda field: splits.get((sample.session, field)))
