"""What is asked about a session: by its experiment, or by a plan that was written later."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from controller.core.errors import ConfigurationError
from controller.labelling.whole_files import write_whole
from controller.labels.plan import LabelPlan
from controller.recording.following import FollowedSession
from controller.recording.journal import JOURNAL_NAME

#: Everything but the database, beside it in the session folder.
LABELS_FOLDER = "labels"
_PLAN_NAME = "plan.json"
#: What the answers are worth, as it was computed last.
WORTH_NAME = "worth.json"


def plan_of(folder: Path) -> LabelPlan | None:
    """Return the plan that was written for a session, else its experiment's; ``None`` without either.

    Raises
    ------
    ConfigurationError
        If the plan is damaged.
    """
    written = folder / LABELS_FOLDER / _PLAN_NAME
    if written.is_file():
        text, source = written.read_text(encoding="utf-8"), str(written)
    elif (folder / JOURNAL_NAME).is_file():
        found = FollowedSession(folder).reader().start.experiment.get("labels")
        if found is None:
            return None
        text, source = json.dumps(found), f"{folder}: [labels] of its experiment"
    else:
        return None
    try:
        return LabelPlan.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ConfigurationError(f"{source}: {key}: {problem['msg']}") from error


def write_plan(folder: Path, plan: LabelPlan) -> Path:
    """Write the plan that holds from now on; whoever asks already goes on with the one before."""
    target = folder / LABELS_FOLDER / _PLAN_NAME
    write_whole(target, plan.model_dump_json(indent=2).encode())
    return target
