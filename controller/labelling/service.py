"""What ``stedfast label`` runs: the page's server, and the processes that ask and that learn."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.core.errors import ConfigurationError, SessionFolderError
from controller.labelling.places import splits_in
from controller.labelling.session_images import SessionImages
from controller.labelling.session_plan import LABELS_FOLDER, WORTH_NAME, plan_of
from controller.labelling.workers import Supervisor, Worker
from controller.labels.queue import LabelQueue
from controller.labels.records import Request, Role, Sample
from controller.labels.store import LabelStore
from controller.recording.following import FollowedSession
from controller.recording.journal import JOURNAL_NAME
from controller.web.desk import Desk, Proposal
from controller.web.serve import LabelServer

if TYPE_CHECKING:
    from controller.labelling.proposals import Proposer

#: Locked as long as somebody serves a folder.
_LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Where:
    """Where labels are and where the page is offered.

    ``names`` are further names that the page is reached by, such as that of a proxy.
    """

    folder: Path
    database: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    names: tuple[str, ...] = ()


class LabelService:
    """The page of a session, and the processes that ask and that learn.

    Parameters
    ----------
    where
        Session and address.

    Raises
    ------
    ConfigurationError
        If nothing can listen there, the plan is damaged, or another one serves the folder.
    """

    def __init__(self, where: Where) -> None:
        self.plan = plan_of(where.folder)
        with ExitStack() as undo:
            self._alone = undo.enter_context(_only_one(where.folder))
            self.store = LabelStore.open(where.database or where.folder, create=True)
            undo.callback(self.store.close)
            if self.plan is not None:
                self.store.add_schema(self.plan.label_schema)
            session = SessionState(where.folder)
            self._images, self._folder = SessionImages(where.folder), where.folder
            self._proposer: Proposer | None = None
            desk = Desk(
                store=self.store,
                queue=LabelQueue(self.store, time.time, session=_run_id(where) if where.database else None),
                images=self._images,
                propose=self._propose,
                plan=self.plan,
                status=lambda: {"session": session.state()},
                worth=lambda: last_worth(where.folder),
                now=time.time,
            )
            self.server = LabelServer(desk, host=where.host, port=where.port, names=where.names)
            workers = workers_of(where, learns=self.plan is not None)
            self._supervisor = Supervisor(self.store, workers, time.time)
            undo.pop_all()

    def _propose(self, request: Request, sample: Sample) -> Proposal | None:
        """Return what the newest model would draw, where somebody is to draw and there is a model.

        Nothing where models are judged: who begins with a model's drawing is led to find it right.
        """
        if request.is_live or not has_published(self._folder):
            return None
        splits = self.store.splits()
        if splits_in(sample, lambda field: splits.get((sample.session, field))) != {"train"}:
            return None
        if self._proposer is None:
            # A network is loaded only when somebody draws.
            from controller.labelling.proposals import Proposer

            self._proposer = Proposer.of_session(self._folder, self._images)
        return self._proposer.propose(request, sample)

    def link(self, name: str, role: Role = "expert") -> str:
        """Return an address that lets somebody in under a name."""
        annotator = self.store.add_annotator(name, role)
        return self.server.link(self.store.new_token(annotator))

    def run(self) -> None:
        """Serve until somebody asks for the end; nothing that was answered depends on how it ends."""
        self._supervisor.start()
        try:
            self.server.run()
        finally:
            self._supervisor.stop()
            self.store.close()
            self._alone.close()


def _only_one(folder: Path) -> ExitStack:
    """Return what keeps others from labelling a folder until it is closed, or this process ends.

    Two that choose and two that train would do everything twice, and publish under the same numbers.

    Raises
    ------
    ConfigurationError
        If somebody does already.
    """
    held, path = ExitStack(), folder / LABELS_FOLDER / _LOCK_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = held.enter_context(path.open("a"))
    except OSError:
        return held  # with a lab's database the folder may be one that is only read
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        held.close()
        raise ConfigurationError(
            f"{folder}: 'stedfast label' runs for it already; open the link that it showed, invite others "
            "with 'stedfast labels invite', or end it first"
        ) from error
    except OSError:
        pass  # a file system that knows no locks
    return held


def _run_id(where: Where) -> str | None:
    """Return the run id of the folder's session, ``None`` without one."""
    if not (where.folder / JOURNAL_NAME).exists():
        return None
    return FollowedSession(where.folder).reader().start.run_id


def workers_of(where: Where, *, learns: bool = True) -> list[Worker]:
    """Return the processes that work beside a session; a folder without one needs none.

    Parameters
    ----------
    learns
        Whether there is a plan. Where only the session's policy asks, it is not known what to tell apart, so
        nothing is learned.
    """
    arguments = (str(where.folder), *(("--database", where.database) if where.database else ()))
    if not (where.folder / JOURNAL_NAME).exists():
        return []
    workers = [Worker("selector", "controller.labelling.selector_process", arguments)]
    if learns:
        workers.append(Worker("trainer", "controller.labelling.trainer_process", arguments))
    return workers


class SessionState:
    """What the page says of the session, read from its journal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._session: FollowedSession | None = None
        self._lock = threading.Lock()  # several people look at once

    def state(self) -> dict[str, Any]:
        """Return name, state and counts; ``state`` is ``none`` where there is no session."""
        with self._lock:
            return self._state()

    def _state(self) -> dict[str, Any]:
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


def has_published(folder: Path) -> bool:
    """Tell whether a model was published for a session."""
    return any((folder / LABELS_FOLDER / "published").glob("*.safetensors"))


def last_worth(folder: Path) -> dict[str, Any]:
    """Return what the answers have taught, as it was computed last; empty before."""
    path = folder / LABELS_FOLDER / WORTH_NAME
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
