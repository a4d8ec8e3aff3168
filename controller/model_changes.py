"""Takes over what the models of a session learn, between its cycles."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from controller.answers import checked_change
from controller.core.errors import ModelPassedOverError, ReplayDivergedError
from controller.core.protocols import Learns, LearnsInTime, ModelChange, ModelRole
from controller.core.settings import MAX_WAIT_S
from controller.stages import Ran, Stage


class ModelChanges:
    """Asks those models that learn whether they have, and gives recorded weights back to them.

    A model whose learning fails keeps its weights and is not asked again; one that only passes something
    over is. One whose change cannot be
    written down is replaced for good: what it answers with from now on could not be told from the record.
    """

    def __init__(self, stages: Mapping[ModelRole, Stage[Any]]) -> None:
        self._stages = stages
        self._learners = {role for role, stage in stages.items() if isinstance(stage.plugin, Learns)}

    @property
    def are_possible(self) -> bool:
        """Tell whether any model learns."""
        return bool(self._learners)

    def improve(self) -> tuple[list[ModelChange], list[str]]:
        """Return what has been learned since the last time, and what went wrong."""
        learned: list[ModelChange] = []
        faults: list[str] = []
        for role in sorted(self._learners):
            stage = self._stages[role]
            if stage.is_replaced or stage.is_lost:
                self._learners.discard(role)
                continue
            passed_over: list[str] = []
            ran: Ran[ModelChange | None] = stage.ask(
                partial(_improvement, passed_over=passed_over), _patience_s(stage.plugin)
            )
            faults += [f"{role}: {problem}" for problem in passed_over]
            if ran.faults:
                faults += [f"{role} cannot learn: {fault}" for fault in ran.faults]
                self._learners.discard(role)
                continue
            try:
                change = checked_change(ran.answer, role)
            except (TypeError, ValueError) as error:
                faults.append(f"{role} {stage.name} learned what cannot be recorded and is replaced: {error}")
                stage.retire()
                continue
            if change is not None:
                learned.append(change)
        return learned, faults

    def adopt(self, change: ModelChange) -> None:
        """Give recorded weights to their model.

        Raises
        ------
        ReplayDivergedError
            If it does not take them: the session cannot go on as it was.
        """
        stage = self._stages[change.role]
        if not isinstance(stage.plugin, Learns):
            raise ReplayDivergedError(
                f"{change.role} {stage.name!r} learns nothing, but the record has weights"
            )
        ran = stage.ask(lambda model: model.adopt(change.weights, change.card))
        if ran.faults:
            raise ReplayDivergedError(
                f"{change.role} {stage.name!r} does not take its recorded weights {change.sha256[:12]}: "
                f"{'; '.join(ran.faults)}"
            )


def _improvement(model: Learns, *, passed_over: list[str]) -> ModelChange | None:
    """Return what a model has learned; weights that it does not take are no failure of its own."""
    try:
        return model.improve()
    except ModelPassedOverError as error:
        passed_over.append(str(error))
        return None


def _patience_s(model: object) -> float:
    """Return how long a model says that its learning takes; 0 if that is no time to wait for."""
    try:
        waits_s = model.improve_s if isinstance(model, LearnsInTime) else 0.0
        return waits_s if 0 <= waits_s <= MAX_WAIT_S else 0.0
    except Exception:  # noqa: BLE001  # a plug-in's own code: what is wrong there must not end the session
        return 0.0
