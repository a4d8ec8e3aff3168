"""The process that asks: ``python -m controller.labelling.selector_process FOLDER``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from controller.core.asking import QueryStrategy
from controller.core.errors import ConfigurationError
from controller.labelling.session_images import SessionImages
from controller.labelling.session_plan import LABELS_FOLDER, WORTH_NAME, plan_of
from controller.labelling.session_questions import SessionQuestions
from controller.labelling.whole_files import write_whole
from controller.labelling.workers import work_until_input_ends
from controller.labels.plan import LabelPlan
from controller.labels.store import LabelStore
from controller.plugins import find_strategy
from controller.recording.documents import StartDocument
from controller.recording.following import FollowedSession
from controller.recording.reader import SessionReader

if TYPE_CHECKING:
    from controller.labelling.selector import Selector
    from controller.labelling.shift_alarm import ShiftAlarm

_WORTH_EVERY = 10
#: What the log says when the session has taken a model over.
TAKEN = "taken into use"


class SelectorWork:
    """What the process does once a second.

    Parameters
    ----------
    folder
        Of the session.
    store
        Its label store.
    plan
        What is asked; ``None`` asks only what the session's policy asks.
    own_folder
        For what it has to remember; by default in the session's folder.
    """

    def __init__(
        self, folder: Path, store: LabelStore, plan: LabelPlan | None, *, own_folder: Path | None = None
    ) -> None:
        self._folder, self._store, self._plan = folder, store, plan
        self._own = folder / LABELS_FOLDER if own_folder is None else own_folder
        self._session = FollowedSession(folder)
        self._questions = (
            SessionQuestions(store, plan.annotators, has_plan=True, field_m=plan.field_m)
            if plan
            else SessionQuestions(store)
        )
        self._selector: Selector | None = None
        self._alarm: ShiftAlarm
        self._judged_at = 0

    def step(self) -> str | None:
        """Take in what the session did, ask what there is room for, and tell what that was."""
        self._session.update()
        reader = self._session.reader()
        problems = self._questions.take_in(reader)
        for problem in problems:
            self._store.log("question not asked", reason=problem)
        self._tell_of_models(reader)
        if self._plan is None:
            return "; ".join(problems) or None
        selector = self.prepare()
        added = selector.pool.take_in(reader)
        asked = selector.ask()
        # Only while people have something to answer: it takes half a minute.
        if not asked and selector.pool.pretrain():
            self._store.log("encoder trained", places=len(selector.pool))
        later = selector.ask_later() if reader.stop is not None else 0
        judged = self._judge(selector, self._plan, reader.start.seed)
        if (shift := self._alarm.look(selector.pool.places)) is not None:
            self._store.log("images differ", reason=shift.reason, compared_with=self._alarm.compared_with)
        did = [
            f"{added} new places of {len(selector.pool)}" if added else "",
            f"asked {len(asked)}" if asked else "",
            f"asked for {later} drawings" if later else "",
            judged,
        ]
        return ", ".join(part for part in did if part) or None

    def _tell_of_models(self, reader: SessionReader) -> None:
        """Write down, once, from which cycle on the session works with what people taught."""
        told = {event.detail.get("sha256") for event in self._store.events() if event.what == TAKEN}
        for change in reader.changes:
            if change.role == "segmenter" and change.sha256 not in told:
                self._store.log(
                    TAKEN,
                    from_cycle=change.cycle,
                    score_before=change.score_before,
                    score_after=change.score_after,
                    sha256=change.sha256,
                )

    def prepare(self) -> Selector:
        """Return what chooses, with the places of the session as far as it is.

        Raises
        ------
        ConfigurationError
            If there is no plan to choose by, or no such strategy.
        """
        if self._selector is None:
            if self._plan is None:
                raise ConfigurationError(f"{self._folder}: its experiment has no [labels]; nothing is chosen")
            # Networks are needed to choose, but not to pass on what the session's own policy asks.
            from controller.labelling.selector import Selector
            from controller.labelling.shift_alarm import ShiftAlarm

            reader = self._session.reader()
            self._selector = Selector(
                self._store,
                SessionImages(self._folder),
                self._plan,
                strategy_of(self._plan),
                session=reader.start.run_id,
                seed=reader.start.seed,
                folder=self._own,
                now=time.time,
            )
            self._selector.pool.take_in(reader)
            self._alarm = ShiftAlarm(
                self._selector.pool.encode,
                self._own,
                labels_of_weights(reader.start),
                reader.start.seed,
            )
        return self._selector

    def _judge(self, selector: Selector, plan: LabelPlan, seed: int) -> str:
        """Write down what the answers so far have taught, when there are enough new ones."""
        count = self._store.answered_so_far()
        if count // _WORTH_EVERY <= self._judged_at // _WORTH_EVERY:
            return ""
        from controller.labelling.worth import worth_of

        self._judged_at = count
        answered = selector.answers.asked_here(selector.answers.so_far())
        worth = worth_of(self._store, answered, plan.classes, np.random.default_rng([seed, 3]))
        write_whole(self._own / WORTH_NAME, json.dumps(worth, allow_nan=False).encode())
        for arm, points in worth["curves"].items():
            if points:
                last = points[-1]
                self._store.log(
                    "judged",
                    arm=arm,
                    measure=worth["measure"],
                    **{k: last[k] for k in ("answers", "seconds", "value")},
                )
        return "judged what the answers taught"


def strategy_of(plan: LabelPlan) -> QueryStrategy:
    """Return the strategy of a plan.

    Raises
    ------
    ConfigurationError
        If there is none of that name, or it is told what it does not know.
    """
    kind = find_strategy(plan.strategy)
    try:
        return kind.from_options(kind.Options.model_validate_json(json.dumps(plan.strategy_options)))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in ("labels", "strategy_options", *problem["loc"]))
        raise ConfigurationError(f"{key}: {problem['msg']}") from error


def labels_of_weights(start: StartDocument) -> Path | None:
    """Return the labels folder of the session that the segmenter's weights were published in, if one was."""
    from controller.segmentation.published import session_of

    options = start.experiment.get("segmenter", {}).get("options", {})
    session = session_of(Path(start.config_folder) / str(options.get("weights", "")))
    return None if session is None else session / LABELS_FOLDER


def main() -> None:
    """Ask until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--database")
    given = parser.parse_args()
    store = LabelStore.open(given.database or given.folder)
    work = SelectorWork(given.folder, store, plan_of(given.folder))
    work_until_input_ends("selector", work.step, store)


if __name__ == "__main__":
    main()
