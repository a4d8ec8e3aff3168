"""Makes microscope, policy and models from a configuration and its seed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from controller.claim import claim_microscope
from controller.config import (
    Experiment,
    HardwareConfig,
    Loaded,
    SessionConfig,
    StageConfig,
    line_of,
    plugin_options,
)
from controller.core.checking import Checkable
from controller.core.clock import SimulatedClock, SystemClock
from controller.core.decision import Budget
from controller.core.errors import ConfigurationError, SessionFolderError
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import (
    Capabilities,
    Clock,
    Closes,
    Denoiser,
    Microscope,
    Policy,
    Resources,
    Segmenter,
)
from controller.core.settings import Settings
from controller.plugins import Role, find, how_to_install
from controller.recording.documents import StartDocument
from controller.session import Parts
from controller.stages import Stage


class Builder:
    """Makes the parts of one session from its configuration and its seed.

    Relative paths start at ``folder``, that of the experiment; those of the microscope's options at the
    folder of the hardware configuration.
    """

    def __init__(
        self, hardware: HardwareConfig, config: SessionConfig, folder: Path, hardware_path: Path
    ) -> None:
        self.hardware, self.config, self.folder = hardware, config, folder
        self.hardware_folder, self.source = hardware_path.parent, hardware_path.name
        self.simulated_clock = hardware.microscope.clock == "simulated"
        self.clock: Clock = SimulatedClock() if self.simulated_clock else SystemClock()
        self.microscope: Microscope
        self.session_folder: Path | None = None
        self._files: Experiment | None = None

    @classmethod
    def fresh(cls, experiment: Experiment) -> Builder:
        """Make one from configuration files."""
        hardware, session = experiment.hardware, experiment.session
        folder = session.path.parent.resolve()
        builder = cls(hardware.config, session.config, folder, hardware.path.resolve())
        builder._files = experiment
        return builder

    @classmethod
    def recorded(cls, start: StartDocument, folder: Path) -> Builder:
        """Make one from a start document: the journal, not the files of today, is what counts."""
        source = f"{folder}/journal.jsonl, start document"
        try:
            return cls(
                HardwareConfig.model_validate_json(json.dumps(start.hardware)),
                SessionConfig.model_validate_json(json.dumps(start.experiment)),
                Path(start.config_folder),
                # Its name is the same as in the first run: it is part of what a policy is told.
                Path(start.hardware_path),
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
        with ExitStack() as undo:
            if microscope is None:
                undo.enter_context(self.claimed())
                made = self._make("microscopes", driver.driver, driver.options, "microscope", None)
                microscope = cast("Microscope", made)
            self.microscope = microscope
            guarded = GuardedMicroscope(microscope, limits, source=f"[limits] of {self.source}")
            guarded.closed = undo.pop_all().close
        return guarded

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the microscope against other programs, if it is one of real devices."""
        if not isinstance(self.driver()[0], Checkable):
            yield
            return
        try:
            release = claim_microscope(self.hardware.name)
        except ConfigurationError as error:
            where = f"{self._files.hardware.path}: " if self._files else ""
            raise ConfigurationError(*(where + problem for problem in error.problems)) from error
        try:
            yield
        finally:
            release()

    def parts(self, microscope: Microscope | None = None) -> Parts:
        """Make the microscope, unless one is given, and everything that works with it."""
        with ExitStack() as undo:
            guarded = self.guarded(microscope)
            undo.callback(guarded.close)
            told = guarded.capabilities()

            def stage(role: Role, purpose: str, config: StageConfig, *, forgiving: bool = True) -> Stage[Any]:
                made = self._stage(role, purpose, config, told, forgiving=forgiving)
                undo.callback(made.close)
                return made

            parts = Parts(
                microscope=guarded,
                policy=stage("policies", "policy", self.config.policy, forgiving=False),
                denoiser=stage("denoisers", "denoiser", self.config.denoiser),
                segmenter=stage("segmenters", "segmenter", self.config.segmenter),
                clock=self.clock,
                budget=Budget(
                    energy_j=guarded.limits.session_energy_max_j,
                    **{
                        name: float("inf") if value is None else value
                        for name, value in self.config.budget.model_dump().items()
                        if name != "session_energy_j"
                    },
                ),
                real_time=self.config.real_time,
                frame_age_max_s=self.config.policy.frame_age_max_s or float("inf"),
                failures_in_a_row_max=self.config.failures_in_a_row_max,
            )
            undo.pop_all()
        return parts

    def _stage(
        self, role: Role, purpose: str, stage: StageConfig, told: Capabilities, *, forgiving: bool = True
    ) -> Stage[Any]:
        fallback = None
        with ExitStack() as undo:
            if stage.fallback is not None:
                made = self._make(role, stage.fallback, stage.fallback_options, f"{purpose} fallback", told)
                fallback = (stage.fallback, made)
                if isinstance(made, Closes):
                    undo.callback(made.close)
            plugin = self._make(role, stage.name, stage.options, purpose, told)
            undo.pop_all()
        return Stage(stage.name, plugin, deadline_s=stage.deadline_s, fallback=fallback, forgiving=forgiving)

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
            folder=self.hardware_folder if purpose == "microscope" else self.folder,
            limits=self.hardware.limits,
            safe=self.hardware.safe,
            capabilities=told,
            session_folder=self.session_folder,
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
                f"{name or purpose!r} needs a library that is not installed: {error}{how_to_install(error)}"
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
