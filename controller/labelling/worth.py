"""What the seconds of annotation of a session bought, as the page shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.labels.agreement import Agreement, cohen_kappas, krippendorff_alpha
from controller.labels.store import LabelStore
from controller.labels.told import Told
from controller.learning.annotations import NOTHING_HERE
from controller.learning.patch_classifier import ClassifierOptions, fit
from controller.learning.worth import Answered, CurvePoint, Predict, Worth, WorthOptions, what_seconds_bought

MEASURE = "balanced accuracy"

_NOTE = (
    "Judged is by answers to questions of chance in fields that no model learns from, all of this session: "
    "the figures hold for this sample."
)

#: Two hundred small models in a few seconds: their curves are for a look, not for a paper.
_QUICK = WorthOptions(points=5, resamples=200, retrainings=4)
_SMALL = ClassifierOptions(steps=80, dropout=0.2)


def worth_of(
    store: LabelStore, answered: Answered, classes: tuple[str, ...], rng: np.random.Generator
) -> dict[str, Any]:
    """Return curves of both arms, their ratio, what was bought, what is short, and who agrees with whom."""
    names = (NOTHING_HERE, *classes)
    found = what_seconds_bought(answered, _fit_of(len(names)), rng, _QUICK)
    return {
        "measure": MEASURE,
        "curves": {
            "asked by the strategy": [_point(point) for point in found.policy],
            "asked by chance": [_point(point) for point in found.chance],
        },
        "ratio": None
        if found.ratio is None
        else {"value": found.ratio.value, "low": found.ratio.low, "high": found.ratio.high},
        "why": found.reason,
        "bought": _bought(found, names),
        "short": [names[one.number] for one in found.classes if one.is_short],
        "agreement": agreement_of(store),
        "notes": [_NOTE],
    }


def agreement_of(store: LabelStore) -> list[dict[str, Any]]:
    """Return who agrees with whom about what several people answered."""
    told = Told.read(store)
    names = {one.id: one.name for one in store.annotators()}
    rows: list[dict[str, Any]] = []
    for ballot in [] if told is None else told.ballots():
        table, people = ballot.table(), [names[one] for one in ballot.annotators]
        about = "" if len(ballot.names) > 2 else f" about {ballot.names[-1]}"
        for (first, second), kappa in cohen_kappas(table).items():
            if kappa.items:
                measure = f"Cohen's kappa{about}"
                rows.append({"first": people[first], "second": people[second], **_figure(measure, kappa)})
        if len(people) > 2:
            rows.append(_figure(f"Krippendorff's alpha{about}", krippendorff_alpha(table)))
    return rows


def _fit_of(count: int) -> Any:
    """Return how models are trained whose quality is compared."""

    def learn(
        features: NDArray[Any], said: NDArray[Any], weights: NDArray[Any], rng: np.random.Generator
    ) -> Predict:
        targets = np.eye(count, dtype=np.float32)[said]
        model = fit(features.astype(np.float32), targets, weights.astype(np.float32), rng, _SMALL)
        return lambda shown: np.asarray(model.mean(shown.astype(np.float32)), np.float64)

    return learn


def _point(point: CurvePoint) -> dict[str, float]:
    quality = point.quality
    return {
        "seconds": point.seconds,
        "answers": point.answers,
        "value": quality.value,
        "low": quality.low,
        "high": quality.high,
    }


def _bought(found: Worth, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "class": names[one.number],
            "answers": one.answers,
            "seconds": one.seconds,
            "held_out": one.held_out,
            "recall": one.recall,
        }
        for one in found.classes
    ]


def _figure(measure: str, agreement: Agreement) -> dict[str, Any]:
    return {
        "measure": measure,
        "value": agreement.value,
        "items": agreement.items,
        "reason": agreement.reason,
    }
