"""What ``stedfast label`` runs: the page's server, and the processes that ask and that learn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.core.errors import SessionFolderError
from controller.labelling.selector_process import WORTH_NAME
from controller.labelling.session_images import SessionImages
from controller.labelling.session_plan import plan_of
from controller.labelling.workers import Supervisor, Worker
from controller.labels.queue import LabelQueue
from controller.labels.records import Annotator, Role
from controller.labels.store import LabelStore
from controller.recording.following import FollowedSession
from controller.recording.journal import JOURNAL_NAME
from controller.web.desk import Desk
from controller.web.serve import serve


@dataclass(frozen=True, slots=True)
class Where:
    """Where labels are and where the page is offered."""

    folder: Path
    database: str | None = None
    host: str = "127.0.0.1"
    port: int = 0


def label(where: Where, name: str, role: Role, told: Callable[[str], None]) -> None:
    """Serve the page of a session until somebody asks for the end.

    Parameters
    ----------
    name, role
        Of the first annotator; others are invited while it runs.
    told
        Is given the address, with the secret of that annotator, as soon as the page is there.
    """
    with ExitStack() as undo:
        store = LabelStore.open(where.database or where.folder, create=True)
        undo.callback(store.close)
        plan = plan_of(where.folder)
        if plan is not None:
            store.add_schema(plan.label_schema)
        annotator = store.add_annotator(name, role)
        token = store.new_token(annotator)
        supervisor = Supervisor(store, workers_of(where), time.time)
        session = SessionState(where.folder)
        desk = Desk(
            store=store,
            queue=LabelQueue(store, time.time),
            images=SessionImages(where.folder),
            plan=plan,
            status=session.status,
            worth=lambda: worth_of(where.folder),
            now=time.time,
        )
        undo.callback(supervisor.stop)
        supervisor.start()
        serve(
            desk,
            host=where.host,
            port=where.port,
            ready=lambda port: told(f"http://{where.host}:{port}/login?token={token}"),
        )


def workers_of(where: Where) -> list[Worker]:
    """Return the processes that work beside a session; a folder without one needs none that ask."""
    arguments = (str(where.folder), *(("--database", where.database) if where.database else ()))
    if not (where.folder / JOURNAL_NAME).exists():
        return []
    return [
        Worker("selector", "controller.labelling.selector_process", arguments),
        Worker("trainer", "controller.labelling.trainer_process", arguments),
    ]


def invite(store: LabelStore, name: str, role: Role) -> tuple[Annotator, str]:
    """Return an annotator and a new secret for the page."""
    annotator = store.add_annotator(name, role)
    return annotator, store.new_token(annotator)


class SessionState:
    """What the page says of the session, read from its journal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._session: FollowedSession | None = None

    def status(self) -> dict[str, Any]:
        """Return name, state and counts; ``state`` is ``none`` where there is no session."""
        try:
            if self._session is None:
                self._session = FollowedSession(self._folder)
            self._session.update()
            reader = self._session.reader()
        except SessionFolderError as error:
            return {"state": "none", "name": self._folder.name, "remark": str(error)}
        return {
            "state": reader.status,
            "is_running": reader.stop is None,
            "name": str(reader.start.experiment.get("name") or "unnamed"),
            "microscope": str(reader.start.microscope.get("name") or "unnamed"),
            "run_id": reader.start.run_id,
            "cycles": len(reader.cycles),
            "frames": len(reader.frames),
            "models": [
                {
                    "role": change.role,
                    "cycle": change.cycle,
                    "sha256": change.sha256,
                    "score_before": change.score_before,
                    "score_after": change.score_after,
                    "reason": change.reason,
                }
                for change in reader.changes
            ],
        }


def worth_of(folder: Path) -> dict[str, Any]:
    """Return what the answers have taught, as it was computed last; empty before."""
    path = folder / WORTH_NAME
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
