"""Chooses what to ask people about, from the places that a session has scanned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.asking import Candidates, QueryStrategy
from controller.labelling.answers import Answers, Known
from controller.labelling.places import Place
from controller.labelling.pool import Pool
from controller.labelling.session_images import SessionImages
from controller.labelling.splits import split_of_field
from controller.labels.plan import LabelPlan
from controller.labels.records import (
    NewRequest,
    Request,
    RequestItem,
    Split,
    told_classes,
)
from controller.labels.store import LabelStore
from controller.learning.annotations import NOTHING_HERE
from controller.learning.answer_cost import AnswerTask, CostModel, TimedAnswer
from controller.learning.audit import AuditedArm, arms_of_next, choose_audited
from controller.learning.patch_classifier import PatchClassifier, fit

#: So many questions of chance go to fields that judge before any goes elsewhere: fewer judge by luck.
_JUDGES = 10
_MINUTE_S = 60.0
#: Members of the model: samples of what its weights may be.
_MEMBERS = 20

Floats = NDArray[np.float32]


class Selector:
    """Asks a batch of questions when there is room for them.

    The same answers and frames give the same batch: chance comes from the session's seed and the number
    of the batch.

    Parameters
    ----------
    store, images, plan
        Where requests go, where pixels come from, and what is to be asked.
    strategy
        Chooses among what is not left to chance.
    session, seed
        Run id and seed of the session; a lab's store may hold others, too.
    folder
        For what it has to remember beside the store.
    now
        Seconds since 1970, UTC.
    """

    def __init__(  # noqa: PLR0913
        self,
        store: LabelStore,
        images: SessionImages,
        plan: LabelPlan,
        strategy: QueryStrategy,
        *,
        session: str,
        seed: int,
        folder: Path,
        now: Callable[[], float],
    ) -> None:
        self.pool = Pool(plan, seed, folder / "encoder.safetensors")
        self._store, self._plan, self._strategy = store, plan, strategy
        self._session, self._seed, self._now = session, seed, now
        self._schema = store.add_schema(plan.label_schema)
        self.answers = Answers(store, images, plan, self.pool)
        self._splits = store.splits()
        self._drawn: set[str] = set()  # samples of which drawings are asked for
        self._looked_at = -1  # so many answers told where there is something to draw
        asked = [r for r in store.requests() if self._is_own(r)]
        self._arms: list[AuditedArm] = [
            "random_audit" if r.arm == "random_audit" else "policy" for r in asked
        ]
        self._batches = sum(request.key.endswith("/0") for request in asked)

    def ask(self) -> list[Request]:
        """Choose and ask a batch of questions, if there is room and something left to ask about."""
        if not self.has_room():
            return []
        known = self.answers.so_far()
        places = self._open_places()
        if not places:
            return []
        rng = np.random.default_rng([self._seed, self._batches])
        model = self.model(known)
        return self._ask_about(places, known, model, rng)

    def ask_later(self) -> int:
        """Ask for drawings where people found something, now that the session has ended; return how many."""
        kind = self._plan.later_kind
        if kind is None:
            return 0
        answered = self._store.answered_so_far()
        if answered == self._looked_at:
            return 0
        self._looked_at = answered
        arms = {request.id: request.arm for request in self._store.requests()}
        here = {sample.id for sample in self._store.samples(self._session)}
        added = 0
        for answer in self._store.answers():
            found = [name for name in told_classes(answer.reply) if name in self._plan.classes]
            is_new = answer.sample_ids[0] in here and answer.sample_ids[0] not in self._drawn
            if answer.kind != self._plan.kind or not found or not is_new:
                continue
            self._drawn.add(answer.sample_ids[0])
            self._store.add_request(
                NewRequest(
                    key=f"{self._session}/later/{answer.sample_ids[0]}/{kind}",
                    kind=kind,
                    text=f"Mark with {kind}: {', '.join(found)}",
                    schema_id=self._schema.id,
                    items=(RequestItem(sample_id=answer.sample_ids[0]),),
                    several=True,
                    arm=arms.get(answer.request_id or "", "import"),
                    strategy=self._plan.strategy,
                    reason="somebody said while the session ran that this is there",
                    annotators=self._plan.annotators,
                    is_live=False,
                )
            )
            added += 1
        return added

    def has_room(self) -> bool:
        """Tell whether people have answered enough of what is open, and have the time for more."""
        waiting = [request for request in self._store.requests("open") if self._is_own(request)]
        if len(waiting) >= self._plan.open_max:
            return False
        if self._plan.attention >= 1:
            return True
        recent = [a for a in self._store.answers() if a.created_s > self._now() - _MINUTE_S]
        people = max(1, len({answer.annotator_id for answer in recent}))
        spent_s = sum(a.elapsed_s for a in recent) + sum(r.predicted_cost_s or 0.0 for r in waiting)
        return spent_s < _MINUTE_S * self._plan.attention * people

    def model(self, known: Known) -> PatchClassifier:
        """Return what has been learned from the answers that do not judge."""
        learned = ~known.is_held_out
        return fit(
            known.features[learned],
            known.targets[learned],
            np.ones(int(learned.sum()), np.float32),
            np.random.default_rng([self._seed, 2]),
        )

    def candidates(self, places: list[Place], known: Known, model: PatchClassifier) -> Candidates:
        """Return places as a strategy sees them."""
        features = self.pool.features(places)
        probabilities = model.probabilities(features, _MEMBERS)
        learned = ~known.is_held_out
        crops = np.stack([place.photons for place in places])
        groups = {field: number for number, field in enumerate(sorted({p.fields[0] for p in places}))}
        return Candidates(
            features=features,
            probabilities=probabilities,
            hidden=model.hidden(features),
            cost_s=self._costs(probabilities.mean(axis=0), crops.mean(axis=(1, 2))),
            foreground=_foreground(crops),
            groups=np.array([groups[place.fields[0]] for place in places], np.int64),
            labelled_features=known.features[learned],
            labelled_classes=known.targets[learned].argmax(axis=1).astype(np.int64),
        )

    def _ask_about(
        self, places: list[Place], known: Known, model: PatchClassifier, rng: np.random.Generator
    ) -> list[Request]:
        plan = self._plan
        split = [self.split_of(place) for place in places]
        free = [n for n, found in enumerate(split) if found is not None]
        places, may_learn = [places[n] for n in free], np.array([split[n] == "train" for n in free])
        if not places:
            return []
        audited = self._arms.count("random_audit")
        arms = arms_of_next(plan.batch, asked=len(self._arms), audited=audited, fraction=plan.audit_fraction)
        candidates = self.candidates(places, known, model)
        # Chance asks everywhere, a strategy only where models learn: they are judged without its taste.
        chosen = choose_audited(
            self._strategy,
            candidates,
            arms,
            rng,
            open_to_strategy=may_learn,
            open_to_chance=self._pools_of_chance(may_learn, arms.count("random_audit")),
        )
        names = [NOTHING_HERE, *plan.classes]
        taken_for = candidates.mean.argmax(axis=1)
        asked = [
            self._request(
                places[number],
                key=f"{self._session}/select/{self._batches}/{position}",
                arm=arm,
                strategy="random" if arm == "random_audit" else plan.strategy,
                score=float(score),
                reason=reason[:2000],
                predicted_cost_s=float(candidates.cost_s[number]),
                predicted_class=names[int(taken_for[number])],
            )
            for position, (number, arm, score, reason) in enumerate(
                zip(chosen.indices, chosen.arms, chosen.scores, chosen.reasons, strict=True)
            )
        ]
        self._arms += chosen.arms
        self._batches += 1
        return asked

    def _pools_of_chance(self, may_learn: NDArray[np.bool_], count: int) -> list[NDArray[np.bool_]]:
        """Return where chance asks: first in fields that judge, later by turns there and elsewhere.

        Elsewhere are the answers that those of the strategy are compared with.
        """
        before = self._arms.count("random_audit")
        is_to_judge = [n < _JUDGES or n % 2 == 0 for n in range(before, before + count)]
        return [~may_learn if judges else may_learn for judges in is_to_judge]

    def _is_own(self, request: Request) -> bool:
        """Tell whether a question is one of those that are chosen here while the session runs."""
        return request.key.startswith(f"{self._session}/select/")

    def _request(self, place: Place, **fields: Any) -> Request:
        plan = self._plan
        sample = self._store.add_sample(place.sample)
        self.answers.remember(sample, place.photons)
        return self._store.add_request(
            NewRequest(
                kind=plan.kind,
                text=plan.question,
                schema_id=self._schema.id,
                items=(RequestItem(sample_id=sample.id),),
                several=plan.several,
                annotators=plan.annotators,
                **fields,
            )
        )

    def _open_places(self) -> list[Place]:
        """Return the places that nobody was asked about yet."""
        asked = {(s.session, s.uri, s.roi.y, s.roi.x) for s in self._store.samples()}
        return [
            place
            for place in self.pool.places
            if (place.sample.session, place.sample.uri, place.sample.roi.y, place.sample.roi.x) not in asked
        ]

    def split_of(self, place: Place) -> Split | None:
        """Return whether a place is learned from or judged by; ``None`` if it reaches into both."""
        found = {self._split_of(place.sample.session, field) for field in place.fields}
        return found.pop() if len(found) == 1 else None

    def _split_of(self, session: str, field: str) -> Split:
        if (session, field) not in self._splits:
            self._splits[session, field] = split_of_field(self._store, session, field, self._plan.held_out)
        return self._splits[session, field]

    def _costs(self, mean: Floats, photons: Floats) -> Floats:
        """Return the seconds that an answer is predicted to take, by what a place is taken for and its light.

        Parameters
        ----------
        mean
            Probability of each class, shape ``(n, classes)``.
        photons
            Mean of each place, shape ``(n,)``.
        """
        names = [NOTHING_HERE, *self._plan.classes]
        kind = self._plan.kind
        timed = [
            TimedAnswer(
                task=AnswerTask(
                    kind=answer.kind,
                    classes=len(names),
                    predicted_class=told[0],
                    photons=self.answers.photons(answer.sample_ids[0]),
                ),
                answer_s=answer.elapsed_s,
            )
            for answer in self._store.answers()
            if (told := told_classes(answer.reply)) and len(answer.sample_ids) == 1
        ]
        model = CostModel.fit(timed)
        each = [
            model.predict_many(
                AnswerTask(kind=kind, classes=len(names), predicted_class=name, photons=float(light))
                for light in photons
            )
            for name in names
        ]
        return np.asarray((mean * np.stack(each, axis=1)).sum(axis=1), np.float32)


def _foreground(crops: Floats) -> Floats:
    """Return how much of each crop is brighter than its own background can explain by shot noise, 0..1."""
    level = np.median(crops, axis=(1, 2), keepdims=True)
    return np.asarray((crops > level + 3 * np.sqrt(level + 1)).mean(axis=(1, 2)), np.float32)
