"""Turns a configuration into a running session. The one module that knows everybody."""

from __future__ import annotations

import json
import platform
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from controller.config import (
    Experiment,
    HardwareConfig,
    Loaded,
    SessionConfig,
    StageConfig,
    line_of,
    load,
    plugin_options,
)
from controller.core.checking import Bench, Checkable, OfflineCheck
from controller.core.clock import SimulatedClock, SystemClock
from controller.core.decision import Acquire, Budget, Cycle, Decision, Observation
from controller.core.errors import ConfigurationError, SessionFolderError
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import (
    Capabilities,
    Clock,
    Denoiser,
    Microscope,
    Policy,
    Resources,
    Segmenter,
)
from controller.core.settings import Settings
from controller.labels.store import LabelStore
from controller.microscopes.replay import RecordedSession
from controller.plugins import Role, Server, ServerMaker, find
from controller.recording.documents import StartDocument
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from controller.recovery import RecordedClock, Recovery, Replay, last_time_s
from controller.serving import SERVED_POLICY, Serving
from controller.session import Parts, Session
from controller.stages import Stage

_NAMED_VERSIONS = ("stedfast", "numpy", "scipy", "scikit-image", "zarr", "pydantic", "pysted")


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who is told what happens: each finished cycle, each frame that is safe on disk, a server at work."""

    cycle: Callable[[Cycle], None] | None = None
    acknowledged: Callable[[int], None] | None = None
    ready: Callable[[Server], None] | None = None


def new_session(experiment: Experiment, folder: Path, *, hooks: Hooks | None = None) -> Session:
    """Open a session folder and connect to the microscope; nothing is moved or lit yet."""
    builder = _Builder.fresh(experiment)
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
    builder = _Builder.fresh(experiment)
    budget = builder.config.budget.replace(cycles=None, questions=None)
    changes: dict[str, Any] = {"policy": StageConfig(name=SERVED_POLICY), "budget": budget}
    if experiment.is_hardware_alone:
        changes["name"] = f"clients of {builder.hardware.name}"
    builder.config = builder.config.model_copy(update=changes)
    start = _start(builder, experiment)
    start["experiment"] = {
        key: value for key, value in start["experiment"].items() if key not in {"denoiser", "segmenter"}
    }
    with ExitStack() as undo:
        if not folder.exists():
            undo.callback(_remove_empty, folder)
        journal = claim_folder(folder)
        undo.callback(journal.discard)
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
        writer = SessionWriter.create(journal, start, **_writer_hooks(folder, hooks))
        serving.record_in(writer, watch=hooks.cycle, ready=hooks.ready)
        undo.pop_all()
    return serving


def resumed_session(folder: Path, *, hooks: Hooks | None = None) -> Session:
    """Open a session that was cut off, as it was at the last thing that its journal knows."""
    writer = SessionWriter.reopen(folder, **_writer_hooks(folder, hooks))
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
        builder = _Builder.recorded(reader.start, folder)
        _refuse_other_limits(reader.start, builder.hardware)
        builder.clock = SimulatedClock() if builder.simulated_clock else SystemClock(last_time_s(reader))
        parts = builder.parts()
        session = Session(parts, writer, hooks.cycle if hooks else None)
        Recovery(session, reader, builder.microscope).run()
        writer.resume(now_s=parts.clock.now_s(), versions=versions())
    except BaseException:
        if parts is not None:
            parts.microscope.close()
        writer.abandon()
        raise
    return session


def replayed_session(recorded: Path, folder: Path, *, hooks: Hooks | None = None) -> Session:
    """Run the loop of a recorded session again, on its recorded frames, into a new folder."""
    reader = SessionReader(recorded)
    _refuse_served(reader, "replayed: clients asked for its frames, no policy decided")
    builder = _Builder.recorded(reader.start, recorded)
    clock, microscope = RecordedClock(), RecordedSession(_capabilities(reader.start.microscope))
    builder.clock = clock
    start = reader.start.model_dump(
        mode="json", by_alias=True, exclude={"uid", "type", "created_utc", "schema_", "microscope"}
    )
    start |= {"run_id": str(uuid.uuid4()), "versions": versions(), "replay_of": reader.start.run_id}
    session = _open(lambda: builder.parts(microscope), folder, start, hooks)
    session.script = Replay(session, reader, microscope, clock)
    return session


def check_microscope(experiment: Experiment) -> tuple[Capabilities, Decision, str | None]:
    """Connect, ask, and let the policy decide once; move and light nothing.

    Returns
    -------
    What the microscope says of itself, the first decision, and the guard's refusal of it, if any.
    """
    parts = _Builder.fresh(experiment).parts()
    try:
        microscope, budget = parts.microscope, parts.budget
        seen = Observation(None, None, None, microscope.dose, budget, now_s=0.0)
        decision = parts.policy.plugin.decide(seen)
        refusal = None
        if isinstance(decision, Acquire):
            try:
                microscope.ledger.cancel(microscope.ledger.reserve(microscope.check(decision.settings)))
            except Exception as error:  # noqa: BLE001  # reported, whatever it is
                refusal = str(error)
        return microscope.capabilities(), decision, refusal
    finally:
        parts.microscope.close()


def check_offline(experiment: Experiment) -> OfflineCheck | None:
    """Check a microscope of real devices by its files alone; ``None`` if its driver is not one of those.

    Raises
    ------
    ConfigurationError
        Naming every problem with file, line and key.
    """
    builder = _Builder.fresh(experiment)
    driver, options = builder.driver()
    if not isinstance(driver, Checkable):
        return None
    found = driver.check_offline(options, builder.resources("microscope", None))
    if found.problems:
        raise ConfigurationError(*(builder.placed(problem, "microscope") for problem in found.problems))
    return found


def open_bench(experiment: Experiment) -> Bench | None:
    """Connect to devices for a check, dark and without a session; ``None`` as for :func:`check_offline`.

    Raises
    ------
    ConfigurationError
        Naming what does not fit the devices, with file, line and key.
    """
    builder = _Builder.fresh(experiment)
    driver, options = builder.driver()
    if not isinstance(driver, Checkable):
        return None
    with builder.problems_placed("microscope"):
        return driver.open_bench(options, builder.resources("microscope", None))


def versions() -> dict[str, str]:
    """Return the versions of everything that may change a result."""
    found = {"python": platform.python_version()}
    for name in _NAMED_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class _Builder:
    """Makes the parts of one session from its configuration and its seed."""

    def __init__(self, hardware: HardwareConfig, config: SessionConfig, folder: Path, source: str) -> None:
        self.hardware, self.config, self.folder, self.source = hardware, config, folder, source
        self.simulated_clock = hardware.microscope.clock == "simulated"
        self.clock: Clock = SimulatedClock() if self.simulated_clock else SystemClock()
        self.microscope: Microscope
        self._files: Experiment | None = None

    @classmethod
    def fresh(cls, experiment: Experiment) -> _Builder:
        """Make one from configuration files."""
        hardware = experiment.hardware
        folder = hardware.path.parent.resolve()
        builder = cls(hardware.config, experiment.session.config, folder, hardware.path.name)
        builder._files = experiment
        return builder

    @classmethod
    def recorded(cls, start: StartDocument, folder: Path) -> _Builder:
        """Make one from a start document: the journal, not the files of today, is what counts."""
        source = f"{folder}/journal.jsonl, start document"
        try:
            return cls(
                HardwareConfig.model_validate_json(json.dumps(start.hardware)),
                SessionConfig.model_validate_json(json.dumps(start.experiment)),
                Path(start.config_folder),
                # The same name as in the first run: it is part of what a policy is told.
                Path(start.hardware_path).name,
            )
        except ValidationError as error:
            raise SessionFolderError(f"{source}: {error}") from error

    def guarded(self, microscope: Microscope | None = None) -> GuardedMicroscope:
        """Make the microscope, unless one is given, inside its limits and the session's budget."""
        driver = self.hardware.microscope
        limits = self.hardware.limits
        budget_j = self.config.budget.session_energy_j
        if budget_j is not None:
            limits = limits.replace(session_energy_max_j=min(budget_j, limits.session_energy_max_j))
        self.microscope = microscope or cast(
            "Microscope", self._make("microscopes", driver.driver, driver.options, "microscope", None)
        )
        return GuardedMicroscope(self.microscope, limits, source=f"[limits] of {self.source}")

    def parts(self, microscope: Microscope | None = None) -> Parts:
        """Make the microscope, unless one is given, and everything that works with it."""
        guarded = self.guarded(microscope)
        try:
            told = guarded.capabilities()
            return Parts(
                microscope=guarded,
                policy=self._stage("policies", "policy", self.config.policy, told, forgiving=False),
                denoiser=self._stage("denoisers", "denoiser", self.config.denoiser, told),
                segmenter=self._stage("segmenters", "segmenter", self.config.segmenter, told),
                clock=self.clock,
                budget=Budget(
                    energy_j=guarded.limits.session_energy_max_j,
                    **{
                        name: float("inf") if value is None else value
                        for name, value in self.config.budget.model_dump().items()
                        if name != "session_energy_j"
                    },
                ),
                failures_in_a_row_max=self.config.failures_in_a_row_max,
            )
        except BaseException:
            guarded.close()
            raise

    def _stage(
        self, role: Role, purpose: str, stage: StageConfig, told: Capabilities, *, forgiving: bool = True
    ) -> Stage[Any]:
        fallback = None
        if stage.fallback is not None:
            made = self._make(role, stage.fallback, stage.fallback_options, f"{purpose} fallback", told)
            fallback = (stage.fallback, made)
        return Stage(
            stage.name,
            self._make(role, stage.name, stage.options, purpose, told),
            deadline_s=stage.deadline_s,
            fallback=fallback,
            forgiving=forgiving,
        )

    def _make(
        self, role: Role, name: str, options: dict[str, Any], purpose: str, told: Capabilities | None
    ) -> Policy | Denoiser | Segmenter | Microscope:
        with self.problems_placed(purpose, name):
            return cast(
                "Policy | Denoiser | Segmenter | Microscope",
                find(role, name).from_options(
                    plugin_options(role, name, options), self.resources(purpose, told)
                ),
            )

    def driver(self) -> tuple[object, Settings]:
        """Return the class of the microscope's driver, and its options."""
        config = self.hardware.microscope
        return find("microscopes", config.driver), plugin_options(
            "microscopes", config.driver, config.options
        )

    def resources(self, purpose: str, told: Capabilities | None) -> Resources:
        """Return what a plug-in is made with."""
        # A stream for each purpose, hashed from the seed: one more plug-in changes no other's numbers.
        seeds = np.random.SeedSequence([self.config.seed, zlib.crc32(purpose.encode())])
        return Resources(
            rng=np.random.default_rng(seeds),
            clock=self.clock,
            folder=self.folder,
            limits=self.hardware.limits,
            safe=self.hardware.safe,
            capabilities=told,
        )

    @contextmanager
    def problems_placed(self, purpose: str, name: str = "") -> Iterator[None]:
        """Say in which file and line a plug-in's own check found its problems."""
        try:
            yield
        except ConfigurationError as error:
            problems = [self.placed(problem, purpose) for problem in error.problems]
            raise ConfigurationError(*problems) from error
        except ImportError as error:
            raise ConfigurationError(
                f"{name or purpose!r} needs a library that is not installed: {error}; "
                f"the simulator needs: pip install 'stedfast[sim]'"
            ) from error

    def placed(self, problem: str, purpose: str) -> str:
        """Say in which file and line a plug-in's own check found a problem."""
        if self._files is None:
            return problem
        file: Loaded[Any] = self._files.hardware if purpose == "microscope" else self._files.session
        table = purpose.replace(" fallback", "")
        key = problem.partition(":")[0]
        if not key.startswith(f"{table}.options"):
            key = f"{table}.options"
            problem = f"{key}: {problem}"
        location = [int(part) if part.isdigit() else part for part in key.split(".")]
        return f"{file.path}:{line_of(file.text, location)}: {problem}"


def _open(make: Callable[[], Parts], folder: Path, start: dict[str, Any], hooks: Hooks | None) -> Session:
    """Take the folder first: a microscope that another session uses must not be touched in vain."""
    journal = claim_folder(folder)
    try:
        parts = make()
    except BaseException:
        journal.discard()
        raise
    try:
        start["microscope"] = _plain(asdict(parts.microscope.capabilities()))
        writer = SessionWriter.create(journal, start, **_writer_hooks(folder, hooks))
    except BaseException:
        parts.microscope.close()
        journal.discard()
        raise
    return Session(parts, writer, hooks.cycle if hooks else None)


def _start(builder: _Builder, experiment: Experiment) -> dict[str, Any]:
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


def _writer_hooks(folder: Path, hooks: Hooks | None) -> dict[str, Any]:
    return {
        "ask": lambda number, question: LabelStore(folder, create=True).put(number, question),
        "acknowledged": hooks.acknowledged if hooks else None,
    }


def _capabilities(recorded: dict[str, Any]) -> Capabilities:
    fields = {**recorded, "modalities": tuple(recorded["modalities"])}
    return Capabilities(**{**fields, "fov_size_yx_m": tuple(recorded["fov_size_yx_m"])})


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
