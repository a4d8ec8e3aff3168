"""Turns a configuration into a running session. The one module that knows everybody."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from controller.builder import Builder
from controller.config import (
    Experiment,
    HardwareConfig,
    PolicyConfig,
    load,
)
from controller.core.clock import SimulatedClock, SystemClock
from controller.core.decision import Cycle
from controller.core.errors import ConfigurationError, SessionFolderError
from controller.core.protocols import (
    Capabilities,
)
from controller.microscopes.replay import RecordedSession
from controller.plugins import Server, ServerMaker
from controller.recording.documents import StartDocument
from controller.recording.journal import Journal
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from controller.recovery import RecordedClock, Recovery, Replay, last_time_s
from controller.serving import SERVED_POLICY, Serving
from controller.session import Parts, Session

_NAMED_VERSIONS = (
    "stedfast",
    "numpy",
    "scipy",
    "scikit-image",
    "zarr",
    "pydantic",
    "pysted",
    "torch",
    "openvino",
    "onnxruntime",
)


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who is told what happens: each finished cycle, each frame that is safe on disk, a server at work."""

    cycle: Callable[[Cycle], None] | None = None
    acknowledged: Callable[[int], None] | None = None
    ready: Callable[[Server], None] | None = None


def new_session(experiment: Experiment, folder: Path, *, hooks: Hooks | None = None) -> Session:
    """Open a session folder and connect to the microscope; nothing is moved or lit yet."""
    builder = Builder.fresh(experiment)
    builder.session_folder = folder.resolve()
    start = _start(builder, experiment)
    return _open(builder.parts, folder, start, hooks)


def new_serving(
    experiment: Experiment,
    folder: Path,
    make_server: ServerMaker,
    *,
    port: int,
    data_folder: Path | None = None,
    hooks: Hooks = Hooks(),
) -> Serving:
    """Open a session folder, connect to the microscope and take the port that clients connect to.

    The experiment's policy and models do nothing here, and so its budgets of cycles and questions; its
    energy and duration hold.
    """
    make_server.check_port(port)  # a microscope that another server has must not be touched in vain
    builder = Builder.fresh(experiment)
    budget = builder.config.budget.replace(cycles=None, questions=None)
    changes: dict[str, Any] = {"policy": PolicyConfig(name=SERVED_POLICY), "budget": budget}
    if experiment.is_hardware_alone:
        changes["name"] = f"clients of {builder.hardware.name}"
    builder.config = builder.config.model_copy(update=changes)
    start = _start(builder, experiment)
    start["experiment"] = {
        key: value for key, value in start["experiment"].items() if key not in {"denoiser", "segmenter"}
    }
    with ExitStack() as undo:
        journal = _claimed(folder, undo)
        microscope = builder.guarded()
        undo.callback(microscope.close)
        serving = Serving(
            microscope,
            builder.clock,
            float("inf") if budget.duration_s is None else budget.duration_s,
            lambda take: make_server(
                microscope, port=port, data_folder=data_folder, clock=builder.clock, acquire=take
            ),
        )
        undo.callback(serving.abandon)
        start["microscope"] = _plain(asdict(microscope.capabilities()))
        writer = SessionWriter.create(journal, start, **_writer_hooks(hooks))
        serving.record_in(writer, watch=hooks.cycle, ready=hooks.ready)
        undo.pop_all()
    return serving


def resumed_session(folder: Path, *, hooks: Hooks | None = None) -> Session:
    """Open a session that was cut off, as it was at the last thing that its journal knows."""
    writer = SessionWriter.reopen(folder, **_writer_hooks(hooks))
    parts: Parts | None = None
    try:
        reader = SessionReader(folder)
        _refuse_served(reader, "resumed: its clients are gone; serve a new one with 'stedfast serve'")
        if reader.status == "completed":
            raise SessionFolderError(f"{folder}: this session is complete; run a new one instead")
        if reader.start.replay_of is not None:
            raise SessionFolderError(
                f"{folder}: this is a replay, which spends no light; replay it again instead"
            )
        builder = Builder.recorded(reader.start, folder)
        builder.session_folder = folder.resolve()
        _refuse_other_limits(reader.start, builder.hardware)
        builder.clock = SimulatedClock() if builder.simulated_clock else SystemClock(last_time_s(reader))
        parts = builder.parts()
        session = Session(parts, writer, hooks.cycle if hooks else None)
        Recovery(session, reader, builder.microscope).run()
        writer.resume(now_s=parts.clock.now_s(), versions=versions())
    except BaseException:
        if parts is not None:
            parts.close()
        writer.abandon()
        raise
    return session


def replayed_session(recorded: Path, folder: Path, *, hooks: Hooks | None = None) -> Session:
    """Run the loop of a recorded session again, on its recorded frames, into a new folder."""
    reader = SessionReader(recorded)
    _refuse_served(reader, "replayed: clients asked for its frames, no policy decided")
    builder = Builder.recorded(reader.start, recorded)
    clock, microscope = RecordedClock(), RecordedSession(_capabilities(reader.start.microscope))
    builder.clock = clock
    start = reader.start.model_dump(
        mode="json", by_alias=True, exclude={"uid", "type", "created_utc", "schema_", "microscope"}
    )
    start |= {"run_id": str(uuid.uuid4()), "versions": versions(), "replay_of": reader.start.run_id}
    session = _open(lambda: builder.parts(microscope), folder, start, hooks)
    session.script = Replay(session, reader, microscope, clock)
    return session


def versions() -> dict[str, str]:
    """Return the versions of everything that may change a result."""
    found = {"python": platform.python_version()}
    for name in _NAMED_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _open(make: Callable[[], Parts], folder: Path, start: dict[str, Any], hooks: Hooks | None) -> Session:
    """Take the folder first: a microscope that another session uses must not be touched in vain."""
    with ExitStack() as undo:
        journal = _claimed(folder, undo)
        parts = make()
        undo.callback(parts.close)
        start["microscope"] = _plain(asdict(parts.microscope.capabilities()))
        writer = SessionWriter.create(journal, start, **_writer_hooks(hooks))
        undo.pop_all()
    return Session(parts, writer, hooks.cycle if hooks else None)


def _claimed(folder: Path, undo: ExitStack) -> Journal:
    """Take a folder for a session; undone, nothing is left of it."""
    if not folder.exists():
        undo.callback(_remove_empty, folder)
    journal = claim_folder(folder)
    undo.callback(journal.discard)
    return journal


def _start(builder: Builder, experiment: Experiment) -> dict[str, Any]:
    """Return the start document of a new session, but for what the microscope says of itself."""
    return {
        "run_id": str(uuid.uuid4()),
        "seed": builder.config.seed,
        "experiment": builder.config.model_dump(mode="json", by_alias=True),
        "hardware": builder.hardware.model_dump(mode="json", by_alias=True),
        "config_sha256": experiment.sha256,
        "config_folder": str(builder.folder),
        "hardware_path": str(experiment.hardware.path.resolve()),
        "versions": versions(),
    }


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _refuse_served(reader: SessionReader, what: str) -> None:
    if reader.start.experiment.get("policy", {}).get("name") == SERVED_POLICY:
        raise SessionFolderError(f"{reader.folder}: a served session cannot be {what}")


def _refuse_other_limits(start: StartDocument, recorded: HardwareConfig) -> None:
    """Refuse to go on with limits that have been changed since: the file of today is what people mean."""
    path = Path(start.hardware_path)
    if not path.exists():
        return
    today, then = load(path).hardware.config.limits, recorded.limits
    changed = [
        f"{path}: limits.{name} was {old!r} when the session began and is {new!r} now; "
        f"a session goes on only with the limits it began with"
        for (name, old), (_, new) in zip(then, today, strict=True)
        if old != new
    ]
    if changed:
        raise ConfigurationError(*changed)


def _writer_hooks(hooks: Hooks | None) -> dict[str, Any]:
    return {
        "acknowledged": hooks.acknowledged if hooks else None,
    }


def _capabilities(recorded: dict[str, Any]) -> Capabilities:
    fields = {**recorded, "modalities": tuple(recorded["modalities"])}
    return Capabilities(**{**fields, "fov_size_yx_m": tuple(recorded["fov_size_yx_m"])})


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
