"""Configuration files: TOML, checked strictly, every problem named with file, line and key.

Two kinds of file, told apart by their ``schema``: a hardware configuration describes one microscope
and its limits; an experiment says what to do with it, and names it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from controller.core.errors import ConfigurationError
from controller.core.limits import SafetyLimits, SafeValues
from controller.core.settings import MAX_WAIT_S, Positive, Settings
from controller.labels.plan import LabelPlan
from controller.ladder import RealTime
from controller.plugins import Role, find, find_dataset_maker, find_strategy

HARDWARE_SCHEMA: Literal["stedfast-hardware/1"] = "stedfast-hardware/1"
EXPERIMENT_SCHEMA: Literal["stedfast-experiment/1"] = "stedfast-experiment/1"
_MAX_BYTES = 1_000_000

Name = Annotated[str, Field(min_length=1, max_length=200)]
S = TypeVar("S", bound=Settings)


class MicroscopeConfig(Settings):
    """Which driver, with which options; ``clock`` is ``simulated`` where time costs nothing."""

    driver: Name
    clock: Literal["system", "simulated"] = "system"
    options: dict[str, Any] = Field(default_factory=dict)


class HardwareConfig(Settings):
    """One microscope: driver, safety limits and safe values.

    ``experiment`` holds keys of an experiment, for a run of this file alone.
    """

    schema_: Literal["stedfast-hardware/1"] = Field(alias="schema")
    name: Name
    microscope: MicroscopeConfig
    limits: SafetyLimits
    safe: SafeValues = SafeValues()
    experiment: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _safe_values_are_inside_the_limits(self) -> HardwareConfig:
        for light in ("excitation", "sted"):
            safe_w, max_w = getattr(self.safe, f"{light}_w"), getattr(self.limits, f"{light}_max_w")
            if not safe_w <= max_w:
                raise ValueError(f"safe.{light}_w={safe_w:g} W is above limits.{light}_max_w={max_w:g} W")
        return self


class BudgetConfig(Settings):
    """When a session ends at the latest; what is left out is not limited here."""

    cycles: Annotated[int, Field(ge=1)] | None = None
    duration_s: Positive | None = None
    session_energy_j: Positive | None = None
    questions: Annotated[int, Field(ge=0)] | None = None


class StageConfig(Settings):
    """A model or policy: its name and options, its deadline, and who steps in if it fails."""

    name: Name
    deadline_s: Annotated[float, Field(gt=0, le=MAX_WAIT_S)] = 10.0
    fallback: Name | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    fallback_options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fallback_is_another(self) -> StageConfig:
        # The record tells who decided by name.
        if self.fallback == self.name:
            raise ValueError(f"the fallback of {self.name!r} must be another plug-in")
        return self


class PolicyConfig(StageConfig):
    """A policy; it is not shown a frame that is older than ``frame_age_max_s`` when it should decide."""

    frame_age_max_s: Positive | None = None


class SessionConfig(Settings):
    """An experiment: a microscope, a policy, models and budgets."""

    schema_: Literal["stedfast-experiment/1"] = Field(default=EXPERIMENT_SCHEMA, alias="schema")
    name: Name
    hardware: Name
    seed: Annotated[int, Field(ge=0)] = 0
    failures_in_a_row_max: Annotated[int, Field(ge=0)] = 3
    budget: BudgetConfig = BudgetConfig()
    policy: PolicyConfig = PolicyConfig(name="regions")
    denoiser: StageConfig = StageConfig(name="adaptive_kalman", fallback="raw")
    segmenter: StageConfig = StageConfig(name="spots_wavelet")
    real_time: RealTime = RealTime()
    labels: LabelPlan | None = None


class DatasetConfig(Settings):
    """A data set to simulate: how many images of which microscope; ``options`` are its maker's."""

    microscope: Name = "sted"
    images: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A checked configuration, with the file it came from and its text."""

    config: S
    path: Path
    text: str

    @property
    def sha256(self) -> str:
        """Return the checksum of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Experiment:
    """All that a session is configured by."""

    session: Loaded[SessionConfig]
    hardware: Loaded[HardwareConfig]

    @property
    def is_hardware_alone(self) -> bool:
        """Tell whether there was no experiment, only a hardware configuration."""
        return self.session.path == self.hardware.path

    @property
    def sha256(self) -> str:
        """Return the checksum of both files together."""
        return hashlib.sha256((self.session.sha256 + self.hardware.sha256).encode()).hexdigest()


def load(path: Path, overrides: dict[str, Any] | None = None) -> Experiment:
    """Read an experiment, a folder that holds ``experiment.toml``, or a hardware configuration alone.

    A hardware configuration alone gets the default experiment. ``overrides`` replaces values of the
    experiment, as the command line asks, by dotted key.

    Raises
    ------
    ConfigurationError
        Holding every problem found in both files, a line each.
    """
    path = path / "experiment.toml" if path.is_dir() else path
    text, data = _read_toml(path)
    schema = data.get("schema")
    if schema == HARDWARE_SCHEMA:
        hardware = _validate(HardwareConfig, path, text, data)
        default = {"name": f"default session on {hardware.config.name}", **hardware.config.experiment}
        default["hardware"] = str(path)
        session = _validate(SessionConfig, path, "", _with(default, overrides))
    elif schema == EXPERIMENT_SCHEMA:
        session = _validate(SessionConfig, path, text, _with(data, overrides))
        hardware_path = _hardware_path(session.config.hardware, path)
        hardware = _validate(HardwareConfig, hardware_path, *_read_toml(hardware_path))
    else:
        wrong = "this key is missing" if schema is None else f"{schema!r} is not known"
        raise ConfigurationError(
            f"{path}:{line_of(text, ('schema',))}: schema: {wrong}; "
            f"allowed are {HARDWARE_SCHEMA!r} and {EXPERIMENT_SCHEMA!r}"
        )
    experiment = Experiment(session, hardware)
    problems = _plugin_problems(experiment) + _budget_problems(experiment) + _label_problems(experiment)
    if problems:
        raise ConfigurationError(*problems)
    return experiment


def load_dataset(path: Path | None, overrides: dict[str, Any]) -> tuple[DatasetConfig, Settings]:
    """Read what a data set is to be, and its maker's options; ``overrides`` as for :func:`load`.

    Raises
    ------
    ConfigurationError
        Holding every problem found, a line each.
    """
    text, data = ("", {}) if path is None else _read_toml(path)
    file = path or Path("command line")
    config = _validate(DatasetConfig, file, text, _with(data, overrides)).config
    maker = find_dataset_maker(config.microscope)
    try:
        return config, maker.Options.model_validate_json(json.dumps(config.options, default=str))
    except ValidationError as error:
        raise ConfigurationError(*_describe(error, file, text, ("options",), maker.Options)) from error


def plugin_options(role: Role, name: str, options: dict[str, Any]) -> Settings:
    """Return the validated options of a plug-in."""
    return find(role, name).Options.model_validate_json(json.dumps(options, default=str))


def shipped_hardware(name: str) -> Path:
    """Return the path of a hardware configuration that comes with Stedfast."""
    shipped = Path(str(resources.files("controller"))) / "hardware_configs"
    # An editable install keeps them beside the package, a wheel inside it.
    folder = shipped if shipped.is_dir() else Path(__file__).parent.parent / "hardware_configs"
    return folder / name


def _hardware_path(name: str, experiment: Path) -> Path:
    beside = experiment.parent / name
    if beside.exists():
        return beside
    shipped = shipped_hardware(name)
    if Path(name).name == name and shipped.exists():
        return shipped
    raise ConfigurationError(
        f"{experiment}: hardware: {name!r} is neither a file beside the experiment ({beside}) nor one that "
        f"comes with Stedfast ({', '.join(sorted(p.name for p in shipped.parent.glob('*.toml')))})"
    )


def _read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        raw = path.read_bytes()
        if len(raw) > _MAX_BYTES:
            raise ConfigurationError(
                f"{path}: {len(raw)} bytes is not a configuration; allowed are {_MAX_BYTES}"
            )
        text = raw.decode()
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: is not TOML: {error}") from error


def _with(data: dict[str, Any], overrides: dict[str, Any] | None) -> dict[str, Any]:
    for key, value in (overrides or {}).items():
        table = data
        *tables, last = key.split(".")
        for name in tables:
            table = table.setdefault(name, {})
        if last == "name" and table.get("name") != value:
            # Options belong to the plug-in they were written for.
            table.pop("options", None)
        table[last] = value
    return data


def _validate(model: type[S], path: Path, text: str, data: dict[str, Any]) -> Loaded[S]:
    try:
        # Through JSON: TOML arrays become tuples, while "0.1", true and dates stay refused.
        return Loaded(model.model_validate_json(json.dumps(data, default=str)), path, text)
    except ValidationError as error:
        raise ConfigurationError(*_describe(error, path, text, (), model)) from error


def _describe(
    error: ValidationError, path: Path, text: str, prefix: tuple[str | int, ...], model: type[BaseModel]
) -> list[str]:
    problems = []
    for detail in error.errors(include_url=False):
        location = prefix + tuple(detail["loc"])
        key = ".".join(str(part) for part in location) or "the file"
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = f"there is no such key; {_advice(str(location[-1]), model)}"
        elif detail["type"] == "missing":
            message = "this key is missing"
        else:
            value = detail["input"]
            if not isinstance(value, dict):
                message += f" (got {value!r})"
        place = f"{path}:{line_of(text, location)}" if text else f"{path}"
        problems.append(f"{place}: {key}: {message}")
    return problems


def _advice(key: str, model: type[BaseModel]) -> str:
    """Return the key that was probably meant, of this table or another, or where all of them are."""
    schema = model.model_json_schema()
    tables = [schema, *schema.get("$defs", {}).values()]
    known = {name for table in tables for name in table.get("properties", {})}
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.75)
    return f"did you mean {near[0]!r}?" if near else "see hardware_configs/README.md and the pages in docs"


def _plugin_problems(experiment: Experiment) -> list[str]:
    """Check the names and options of all plug-ins, which the models above cannot know."""
    session, hardware = experiment.session, experiment.hardware
    scope = hardware.config.microscope
    asked: list[tuple[Role, Loaded[Any], tuple[str, ...], str, dict[str, Any]]] = [
        ("microscopes", hardware, ("microscope", "driver"), scope.driver, scope.options)
    ]
    stages: tuple[tuple[Role, str, StageConfig], ...] = (
        ("denoisers", "denoiser", session.config.denoiser),
        ("segmenters", "segmenter", session.config.segmenter),
        ("policies", "policy", session.config.policy),
    )
    for role, table, stage in stages:
        asked.append((role, session, (table, "name"), stage.name, stage.options))
        if stage.fallback is not None:
            asked.append((role, session, (table, "fallback"), stage.fallback, stage.fallback_options))
    problems: list[str] = []
    for role, file, key, name, options in asked:
        table = "fallback_options" if key[-1] == "fallback" else "options"
        try:
            plugin_options(role, name, options)
        except ConfigurationError as error:
            place = f"{file.path}:{line_of(file.text, key)}: {'.'.join(key)}"
            problems += [f"{place}: {problem}" for problem in error.problems]
        except ValidationError as error:
            options_of = find(role, name).Options
            problems += _describe(error, file.path, file.text, (*key[:-1], table), options_of)
    return problems


def _label_problems(experiment: Experiment) -> list[str]:
    """Check the strategy that questions are chosen by, and its options."""
    session = experiment.session
    plan = session.config.labels
    if plan is None:
        return []
    place = f"{session.path}:{line_of(session.text, ('labels', 'strategy'))}"
    try:
        options = find_strategy(plan.strategy).Options
        options.model_validate_json(json.dumps(plan.strategy_options, default=str))
    except ConfigurationError as error:
        return [f"{place}: labels.strategy: {problem}" for problem in error.problems]
    except ValidationError as error:
        return _describe(error, session.path, session.text, ("labels", "strategy_options"), options)
    return []


def _budget_problems(experiment: Experiment) -> list[str]:
    asked_j = experiment.session.config.budget.session_energy_j
    allowed_j = experiment.hardware.config.limits.session_energy_max_j
    if asked_j is None or asked_j <= allowed_j:
        return []
    session, hardware = experiment.session, experiment.hardware
    place = f"{session.path}:{line_of(session.text, ('budget', 'session_energy_j'))}"
    limit = f"{hardware.path}:{line_of(hardware.text, ('limits', 'session_energy_max_j'))}"
    problem = (
        f"{place}: budget.session_energy_j: {asked_j:g} J is more than the microscope allows, "
        f"{allowed_j:g} J (limits.session_energy_max_j in {limit})"
    )
    return [problem]


def line_of(text: str, location: Sequence[str | int]) -> int:
    """Return the line where a key stands; for a missing key, where its table begins; 1 as a last resort.

    tomllib tells no positions. But a file cut off after any line either does not parse or shows the
    keys so far, so the key begins after the last good cut that does not have it yet.
    """
    lines = text.splitlines()
    for depth in range(len(location), 0, -1):
        last_without = 0
        for count in range(1, len(lines) + 1):
            try:
                data = tomllib.loads("\n".join(lines[:count]))
            except tomllib.TOMLDecodeError:
                continue
            if _holds(data, location[:depth]):
                return last_without + 1
            last_without = count
    return 1


def _holds(data: Any, location: Sequence[str | int]) -> bool:
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
