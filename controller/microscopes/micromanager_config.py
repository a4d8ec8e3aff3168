"""Reads Micro-Manager's ``.cfg`` as text: what it would load, and what cannot be right; loads nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from controller.core.errors import ConfigurationError
from controller.microscopes.device_mapping import (
    DeviceMapping,
    FocusTarget,
    PropertyTarget,
    StageTarget,
)

_MAX_BYTES = 1_000_000
_CORE = "Core"
_CORE_ROLES = {"Camera", "Shutter", "Focus", "XYStage", "AutoFocus", "ImageProcessor", "SLM", "Galvo"}
# Fields of each command, with its name; as MMCore counts them.
_FIELDS = {
    "Device": (4,),
    "Property": (3, 4),
    "Delay": (3,),
    "FocusDirection": (3,),
    "Label": (4,),
    "Config": (5,),  # obsolete, and ignored
    "ConfigGroup": (2, 5, 6),
    "ConfigPixelSize": (5,),
    "PixelSize_um": (3,),
    "PixelSizeAffine": (8,),
    "PixelSizeAngle_dxdz": (3,),
    "PixelSizeAngle_dydz": (3,),
    "PixelSizeOptimalZ_Um": (3,),
    "Parent": (3,),
}
# Where a command names a device.
_DEVICE_FIELD = {
    "Property": 1, "Delay": 1, "FocusDirection": 1, "Label": 1, "Parent": 1, "ConfigGroup": 3,
    "ConfigPixelSize": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConfiguredDevice:
    """A line ``Device,label,library,name``."""

    library: str
    name: str
    line: int


@dataclass(slots=True)
class MicroManagerConfig:
    """What a ``.cfg`` says: its devices by label, and its problems with their lines."""

    path: Path
    devices: dict[str, ConfiguredDevice] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def libraries(self) -> list[str]:
        """Return the adapter libraries that it would load."""
        return sorted({device.library for device in self.devices.values()})

    def lacks(self, label: str) -> str | None:
        """Return what to say of a device that it does not load, ``None`` if it does."""
        if label in self.devices:
            return None
        return f"there is no device {label!r} in {self.path.name}; it has {sorted(self.devices)}"


def read_config(path: Path) -> MicroManagerConfig:
    """Read a ``.cfg``; what is wrong in it is in its ``problems``.

    Raises
    ------
    ConfigurationError
        If it cannot be read as text at all.
    """
    config = MicroManagerConfig(path)
    is_initialized = False
    for line, words in _commands(path):
        command, problem = words[0], None
        if len(words) not in _FIELDS.get(command, (len(words),)):
            wanted = " or ".join(str(count - 1) for count in _FIELDS[command])
            problem = f"{command} takes {wanted} values, here are {len(words) - 1}"
        elif command not in _FIELDS:
            problem = f"{command!r} is no command of Micro-Manager; allowed are {', '.join(_FIELDS)}"
        elif command == "Device":
            problem = _add_device(config, words, line)
        elif words[:3] == ["Property", _CORE, "Initialize"]:
            is_initialized = words[3:] == ["1"]
        else:
            problem = _unknown_device(config, words)
        if problem:
            config.problems.append(f"{path.name}:{line}: {problem}")
    if not is_initialized:
        config.problems.append(
            f"{path.name}: no device is initialised: the line 'Property,{_CORE},Initialize,1' is missing"
        )
    return config


def mapping_problems(mapping: DeviceMapping, config: MicroManagerConfig) -> list[str]:
    """Return what of a mapping does not fit a configuration, by key; property names are not in it."""
    named = [("camera", mapping.camera), ("shutter", mapping.shutter)]
    named += [(f"startup.{n}.device", start.device) for n, start in enumerate(mapping.startup)]
    named += [(f"switches.{n}.device", switch.device) for n, switch in enumerate(mapping.switches)]
    named += [
        (f"settings.{name}.target.device", mapped.target.device)
        for name, mapped in mapping.settings.items()
        if isinstance(mapped.target, PropertyTarget | StageTarget | FocusTarget)
    ]
    problems = [
        f"microscope.options.{key}: {missing}" for key, label in named if (missing := config.lacks(label))
    ]
    for label, library in mapping.expected_devices.items():
        found = config.devices[label].library if label in config.devices else "nothing"
        if found != library:
            problems.append(
                f"microscope.options.expected_devices.{label}: {library!r} is expected, "
                f"{config.path.name} loads {found!r}"
            )
    return problems


def find_config(mapping: DeviceMapping, folder: Path) -> Path:
    """Return the path of a mapping's ``.cfg``: beside its own file, or among the adapters.

    Raises
    ------
    ConfigurationError
    """
    adapters = adapter_folder(mapping.adapters, folder)
    folders = [folder] if adapters is None else [folder, adapters]
    for place in folders:
        if (place / mapping.config_file).is_file():
            return place / mapping.config_file
    raise ConfigurationError(
        f"microscope.options.config_file: {mapping.config_file!r} is neither in "
        f"{' nor in '.join(str(place) for place in folders)}"
        + ("" if adapters else "; the adapters are not on this computer")
    )


def adapter_folder(name: str, folder: Path) -> Path | None:
    """Return the folder of device adapters: a path, or an installed package that brings them."""
    for path in (Path(name), folder / name):
        if path.is_dir():
            return path
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is not None and found.origin is not None:
        package = Path(found.origin).parent
        return package / "libs" if (package / "libs").is_dir() else package
    return None


def missing_libraries(config: MicroManagerConfig, adapters: Path) -> list[str]:
    """Return the libraries of a configuration that are not among the adapters."""
    there = {path.name.removeprefix("lib").split(".")[0] for path in adapters.glob("*mmgr_dal_*")}
    return [library for library in config.libraries if f"mmgr_dal_{library}" not in there]


def _commands(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"microscope.options.config_file: {path} cannot be read: {error.strerror}"
        ) from error
    if len(raw) > _MAX_BYTES or b"\0" in raw:
        raise ConfigurationError(
            f"microscope.options.config_file: {path} is not a configuration of Micro-Manager, which is text"
        )
    # Micro-Manager writes in the code page of its computer; labels with accents must not stop the check.
    for number, line in enumerate(raw.decode(errors="replace").splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.split(",")


def _add_device(config: MicroManagerConfig, words: list[str], line: int) -> str | None:
    _, label, library, name = words
    if not label or not library or not name:
        return "Device needs a label, a library and a name"
    if label in config.devices or label == _CORE:
        other = config.devices.get(label)
        return f"the label {label!r} is taken" + (f" in line {other.line}" if other else "")
    config.devices[label] = ConfiguredDevice(library, name, line)
    return None


def _unknown_device(config: MicroManagerConfig, words: list[str]) -> str | None:
    command, position = words[0], _DEVICE_FIELD.get(words[0])
    if position is None or position >= len(words):
        return None
    labels = [words[position]]
    if command == "Property" and words[1] == _CORE and words[2] in _CORE_ROLES:
        labels = [word for word in words[3:] if word]
    elif command == "Parent":
        labels = words[1:]
    missing = [label for label in labels if label not in config.devices and label != _CORE]
    return f"{command} names {missing[0]!r}, which no line 'Device' above loads" if missing else None
