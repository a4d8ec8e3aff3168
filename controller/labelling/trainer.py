"""Trains the segmenter from what people answered, judges it, and publishes it if it is not worse.

All that lasts is in the store and in the folder of published models, so a trainer that is killed loses a
training at most: the next one finds the same answers, and begins again.

When a model may take over
--------------------------
Not before :data:`JUDGES_MIN` answers about held-out fields judge it, of :data:`OUTCOMES_MIN` kinds of
outcome; until then nothing is trained. Then each is compared with the one that it was trained from, on the
same held-out answers (:func:`controller.segmentation.judging.verdict`). Each is trained on all answers, old
and new, so that none is forgotten. Tags say what is in a sample, but not where: as long as there is nothing
else, only the scores of the classes are trained, and a model that loses objects is rejected.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from controller.core.errors import StedfastError
from controller.labelling.snapshots import Item, Material, answers_in, collect, usable
from controller.labelling.training_images import CONTEXT_PX, Scale, labelled_images
from controller.labels.images import SampleImages
from controller.labels.plan import LabelPlan
from controller.labels.records import ModelRecord, WorkerRecord
from controller.labels.store import LabelStore
from controller.learning.annotations import LabelSchema
from controller.networks.weights import Weights, WeightsError, read_weights
from controller.segmentation.growing import with_classes
from controller.segmentation.imbalance import Imbalance
from controller.segmentation.judging import judged, objects_kept, verdict
from controller.segmentation.labelled_image import Example, LabelledImage, example_of
from controller.segmentation.network_options import options_of
from controller.segmentation.published import next_number, path_of, publish, published_numbers
from controller.segmentation.small_unet import SmallUNetSegmenter
from controller.segmentation.training import Checkpoint, TrainingOptions, train

#: Before so many answers judge, of so many outcomes (nothing here, or a class), no model is trained: with
#: fewer, which of two models is better is chance, and who always says the same looks good.
JUDGES_MIN, OUTCOMES_MIN = 8, 2
#: Answers to learn from, at least.
LEARNED_MIN = 4
#: Where no held-out answer says where objects are, a model must find so many of those that were found before.
#: 20 tags, and 50, took F1 from 0.7 to 0 while what they said was told better than before.
KEPT_MIN = 0.8
#: One field in so many of those that are learned from chooses temperature and threshold instead, from so
#: many samples on; what judges must not.
_TUNING_PART, _TUNING_FROM = 5, 20
#: A class with fewer samples than this part of the most common one's is rare.
_RARE = 1 / 3
_STEPS_MIN, _STEPS_MAX, _RATE_STEPS = 20, 4000, 4

WORKER = "trainer"
#: Looks that are skipped after failures, at most, and seconds between two signs of life that say the same.
_LONGEST_WAIT, _BEAT_S = 60, 5.0
#: What is judged is always weighed alike, whatever was learned from.
_JUDGED_BY = TrainingOptions().loss
State = Literal["working", "idle", "failed", "stopped"]


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """What a session's models are trained from.

    Attributes
    ----------
    weights
        Those that the session is configured with.
    options
        The session's segmenter: it decides at which scale images are seen.
    folder
        Where models are published.
    old_domain
        Images with the labels that ``weights`` were judged by, if they came from labels.
    seed
        Together with the snapshot it decides all chance.
    steps
        How many steps each training has; without it as many as fit into the plan's ``train_s`` at the rate
        of the first few. A card tells how many there were: with them, the same answers give the same bits.
    session
        Run id, where a lab's store may hold other sessions, too.
    """

    weights: Weights
    options: SmallUNetSegmenter.Options
    folder: Path
    old_domain: tuple[LabelledImage, ...] = ()
    seed: int = 0
    steps: int | None = None
    session: str | None = None


class LabelTrainer:
    """Learns whenever there are enough new answers.

    Parameters
    ----------
    store, images
        Answers, and the images that they are about.
    cpu_s
        Tells the seconds of computing so far: a computer that is busy otherwise makes training slower, not
        shorter.
    """

    def __init__(
        self,
        store: LabelStore,
        images: SampleImages,
        plan: LabelPlan,
        beginning: Beginning,
        *,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self.store, self.plan, self.beginning = store, plan, beginning
        self._images, self._cpu_s = images, cpu_s
        self._seen = -1
        self._told = ""
        self._beaten: tuple[str, float] = ("", 0.0)

    def run(self, wait: Callable[[float], bool], every_s: float = 1.0) -> None:
        """Look for new answers every so many seconds, until ``wait`` returns true.

        What cannot be read or written for the moment is told, and tried again.
        """
        failures, is_recovered = 0, False
        while True:
            try:
                if not is_recovered:
                    self.recover()
                is_recovered = True
                self.look()
                failures = 0
            except (StedfastError, MemoryError, OSError) as error:
                failures += 1
                self._fail(str(error) or type(error).__name__)
            if wait(every_s * min(_LONGEST_WAIT, 2**failures)):
                break
        self._beat("stopped", "ended")

    def recover(self) -> None:
        """Write down models that were published by a trainer that was killed before it could say so."""
        known = {model.sha256 for model in self.store.models()}
        for number in published_numbers(self.beginning.folder):
            try:
                card = read_weights(path_of(self.beginning.folder, number)).card
            except WeightsError:
                continue  # who follows them says so
            record = card.training.get("record")
            if card.sha256 not in known and isinstance(record, dict):
                self.store.add_model(ModelRecord.model_validate({**record, "sha256": card.sha256}))

    def look(self) -> ModelRecord | None:
        """Train if there is reason to; return what came of it."""
        newest = self.store.answered_so_far()
        if newest == self._seen:
            self._beat("idle", self._told)
            return None
        found = self._reason_to_learn()
        if isinstance(found, str):
            self._seen, self._told = newest, found
            self._beat("idle", found)
            return None
        try:
            record = self._learn(found)
        except ValueError as error:  # numbers that are none, or labels that cannot be true together
            raise StedfastError(f"training failed: {error}") from error
        self._seen, self._told = newest, f"the last model was {record.verdict}: {record.reason}"
        self._beat("idle", self._told)
        return record

    def _reason_to_learn(self) -> Material | str:
        """Return what is to be learned from now, or why nothing is, for people."""
        answers = {answer.id for answer in usable(self.store, self.beginning.session)}
        new = len(answers - self._answers_before(answers))
        if new < self.plan.train_after:
            return f"{new} new answers; training begins at {self.plan.train_after} (labels.train_after)"
        material = collect(self.store, self.plan.held_out, self.beginning.session)
        if material is None:
            return "nobody has been asked anything"
        judges = material.judges
        count = sum(len(item.answers) for item in judges)
        outcomes = {name for item in judges for name in item.outcomes}
        if count < JUDGES_MIN or len(outcomes) < OUTCOMES_MIN:
            return (
                f"too few answers to judge a model by: {count} about {len(outcomes)} kind(s) of outcome, in "
                f"fields that are held out; {JUDGES_MIN} about {OUTCOMES_MIN} are needed"
            )
        if len(material.learned) < LEARNED_MIN:
            return f"{len(material.learned)} samples to learn from; {LEARNED_MIN} are needed"
        return material

    def _answers_before(self, here: set[str]) -> frozenset[str]:
        """Return the answers that the last model knew that learned from those ``here``, published or not."""
        for model in reversed(self.store.models()):
            with suppress(KeyError):
                known = answers_in(self.store.snapshot(model.snapshot_sha256).content)
                if known & here:
                    return known
        return frozenset()

    def _learn(self, material: Material) -> ModelRecord:
        began_s = self._cpu_s()
        snapshot = self.store.add_snapshot(material.content())
        parent, start = self._parent(material.label_schema)
        self._beat("working", f"preparing {len(material.items)} samples")
        scale = Scale(options_of(start.card), self.beginning.options)
        judges, kept_judges = self._shown(material.judges, material.label_schema, scale)
        learned, kept = self._shown(material.learned, material.label_schema, scale)
        if not learned or not judges:
            raise StedfastError("the images of the answers cannot be read")
        if (count := sum(len(item.answers) for item in kept_judges)) < JUDGES_MIN:
            raise StedfastError(
                f"of the answers that judge only {count} have an image; {JUDGES_MIN} are needed"
            )
        tuning = _tuning(kept)
        options = self._training_options(kept, [image for _, image in learned], start)
        self._beat("working", f"training {options.steps} steps on {len(kept)} samples")
        rng = np.random.default_rng([self.beginning.seed, int(snapshot.sha256[:12], 16)])
        first = [image for one, image in learned if one not in tuning]
        tuned = [image for one, image in learned if one in tuning]
        done = train(first, tuned, start, options, rng, report=self._report(options.steps))
        self._beat("working", f"judging by {len(kept_judges)} samples")
        shown = [example_of(image, scale.network) for _, image in judges]
        may_publish, told, metrics = self._compared(start, done.weights, shown)
        metrics |= {
            "steps": float(options.steps),
            "training_s": self._cpu_s() - began_s,
            "oversampling": options.imbalance.oversampling,
            "samples": float(len(kept)),
            "samples_held_out": float(len(kept_judges)),
        }
        record = ModelRecord(
            sha256=done.weights.sha256,
            role="segmenter",
            parent=parent.sha256,
            snapshot_sha256=snapshot.sha256,
            verdict="published" if may_publish else "rejected",
            reason=_reason(told, options, kept),
            metrics=metrics,
            answers=material.answers,
            answer_s=material.answer_s,
        )
        if may_publish:
            self._publish(done.weights, record)
        self.store.add_model(record)
        return record

    def _compared(
        self, before: Weights, after: Weights, judges: Sequence[Example]
    ) -> tuple[bool, str, dict[str, float]]:
        """Return whether a model may take over, why, and all figures of the old and the new one."""
        old, new = (judged(one, judges, _JUDGED_BY) for one in (before, after))
        metrics = {**new.metrics(), **old.metrics("_before")}
        if self.beginning.old_domain:
            examples = [example_of(image, options_of(before.card)) for image in self.beginning.old_domain]
            metrics["old_domain_loss_before"] = judged(before, examples, _JUDGED_BY).loss
            metrics["old_domain_loss"] = judged(after, examples, _JUDGED_BY).loss
        if after.sha256 == before.sha256:
            return False, "training found nothing better than what there was", metrics
        if old.f1 is None and old.dice is None:
            kept = objects_kept(before, after, judges)
            metrics |= {} if kept is None else {"objects_kept": kept}
            if kept is not None and kept < KEPT_MIN:
                told = f"only {kept:.0%} of the objects found before are found"
                return False, f"{told}; tags do not say where objects are, draw some, too", metrics
        return *verdict(old, new), metrics

    def _parent(self, schema: LabelSchema) -> tuple[Weights, Weights]:
        """Return the newest published weights, or those of the session; as they are, and with all classes."""
        parent = self.beginning.weights
        for number in reversed(published_numbers(self.beginning.folder)):
            try:
                parent = read_weights(path_of(self.beginning.folder, number))
                break
            except WeightsError:
                continue
        return parent, with_classes(parent, ("background", *schema.classes))

    def _shown(
        self, items: Sequence[Item], schema: LabelSchema, scale: Scale
    ) -> tuple[list[tuple[str, LabelledImage]], tuple[Item, ...]]:
        """Return the images of samples with the samples' ids, and of which samples there are any."""
        shown, kept = [], []
        for item in items:
            try:
                image = self._images.image(item.sample, CONTEXT_PX)
            except KeyError:
                continue
            kept.append(item)
            images = labelled_images(item.sample, image, item.annotations, schema, scale)
            shown += [(item.sample.id, one) for one in images]
        return shown, tuple(kept)

    def _training_options(
        self, items: Sequence[Item], learned: Sequence[LabelledImage], start: Weights
    ) -> TrainingOptions:
        is_tagged_only = all(a.kind in {"tag", "grades"} for item in items for a in item.annotations)
        whole = TrainingOptions().loss
        # Nobody said where anything is. "Nothing here" alone would teach that there are objects nowhere.
        what_only = whole.replace(weights=whole.weights.replace(areas=0.0, centres=0.0, distances=0.0))
        options = TrainingOptions(
            steps=self.beginning.steps or _STEPS_MIN,
            checkpoints=4,
            learns="classes" if is_tagged_only else "all",
            loss=what_only if is_tagged_only else whole,
            imbalance=Imbalance(oversampling=0.5 if _rare_classes(items) else 0.0),
        )
        if self.beginning.steps is not None:
            return options
        # The first step loads a part of torch, which takes longer than many steps.
        train(learned[:8], [], start, options.replace(steps=1), np.random.default_rng(0))
        began_s = self._cpu_s()
        train(learned[:8], [], start, options.replace(steps=_RATE_STEPS), np.random.default_rng(0))
        rate_s = max(1e-4, (self._cpu_s() - began_s) / _RATE_STEPS)
        steps = int(self.plan.train_s / rate_s)
        return options.replace(steps=min(_STEPS_MAX, max(_STEPS_MIN, steps)))

    def _report(self, steps: int) -> Callable[[Checkpoint], None]:
        return lambda checkpoint: self._beat("working", f"trained {checkpoint.step} of {steps} steps")

    def _publish(self, weights: Weights, record: ModelRecord) -> None:
        folder = self.beginning.folder
        number = next_number(folder)
        content = record.model_dump(mode="json", exclude={"created_s", "sha256"})
        card = weights.card.replace(
            parent=record.parent,
            metrics=record.metrics,
            trained_on=(f"label snapshot {record.snapshot_sha256}, {record.answers} answers",),
            training={
                **weights.card.training,
                "published": number,
                "reason": record.reason,
                "snapshot": record.snapshot_sha256,
                "record": content,
            },
        )
        publish(Weights(weights.data, card), folder, number)

    def _fail(self, why: str) -> None:
        try:
            self._beat("failed", why[:1000])
        except StedfastError:
            return  # the store itself does not answer; who watches sees that no sign of life comes

    def _beat(self, state: State, message: str) -> None:
        said, at_s = self._beaten
        if said == f"{state}: {message}" and time.monotonic() - at_s < _BEAT_S:
            return
        self._beaten = f"{state}: {message}", time.monotonic()
        self.store.beat(WorkerRecord(name=WORKER, pid=os.getpid(), state=state, message=message, beat_s=0.0))


def _tuning(items: Sequence[Item]) -> frozenset[str]:
    """Return the samples that choose temperature and threshold, whole fields of them; none of too few."""
    if len(items) < _TUNING_FROM:
        return frozenset()

    def is_chosen(item: Item) -> bool:
        name = f"tuning\n{item.sample.session}\n{item.sample.field}"
        return hashlib.sha256(name.encode()).digest()[0] % _TUNING_PART == 0

    chosen = frozenset(item.sample.id for item in items if is_chosen(item))
    return chosen if len(chosen) < len(items) // 2 else frozenset()


def _rare_classes(items: Sequence[Item]) -> tuple[str, ...]:
    """Return the outcomes that are much rarer than the most common one."""
    counts = Counter(name for item in items for name in item.outcomes)
    most = max(counts.values(), default=0)
    return tuple(sorted(name for name, count in counts.items() if count < _RARE * most))


def _reason(told: str, options: TrainingOptions, items: Sequence[Item]) -> str:
    said = f"{told}; {len(items)} samples, {options.steps} steps"
    if options.learns == "classes":
        said += "; tags say what, not where: only the scores of the classes were trained"
    rare = _rare_classes(items)
    return f"{said}; shown more often, because rare: {', '.join(rare)}" if rare else said
