"""Finds plug-ins: by the name of an installed entry point, or as ``module:Class``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from controller.core.asking import QueryStrategy
from controller.core.dataset import DatasetMakerClass
from controller.core.errors import ConfigurationError
from controller.core.executor import Executor
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Clock, Plugin
from controller.core.settings import ScanSettings

Role = Literal["microscopes", "denoisers", "segmenters", "policies"]


class Server(Protocol):
    """Offers a guarded microscope to programs of others. It is bound to its port when it is made."""

    @property
    def port(self) -> int:
        """The port that clients connect to."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the devices that clients see."""

    def serve(self) -> None:
        """Serve clients until :meth:`stop`, then let go of the port; it is dark when this returns."""

    def stop(self) -> None:
        """End serving, a running scan too; from any thread, again and again."""


class ServerMaker(Protocol):
    """Makes a :class:`Server`."""

    @staticmethod
    def check_port(port: int) -> None:
        """Raise :class:`ConfigurationError` if a port is in use."""

    def __call__(
        self,
        microscope: GuardedMicroscope,
        *,
        port: int,
        data_folder: Path | None,
        clock: Clock,
        acquire: Callable[[ScanSettings], Frame],
    ) -> Server:
        """Make one. ``acquire`` takes each image; clients may save images in ``data_folder``."""


def find_server(name: str) -> ServerMaker:
    """Return what makes the server of that name, an installed entry point of ``stedfast.servers``.

    Raises
    ------
    ConfigurationError
        If there is none, or a library that it needs is not installed.
    """
    try:
        return cast("ServerMaker", _imported("server", name, _target("servers", "server", name)))
    except ConfigurationError as error:
        if isinstance(error.__cause__, ImportError):
            raise ConfigurationError(f"{error}; servers need: pip install 'stedfast[mm]'") from error
        raise


def find_dataset_maker(name: str) -> DatasetMakerClass:
    """Return what simulates data sets of a microscope, an installed entry point of ``stedfast.datasets``.

    Raises
    ------
    ConfigurationError
        If there is none, or it cannot be imported.
    """
    target = _target("datasets", "microscope with data sets", name)
    return cast("DatasetMakerClass", _imported("microscope with data sets", name, target))


def find_executor(name: str) -> Callable[..., Executor]:
    """Return what makes the executor of that name, an installed entry point of ``stedfast.executors``.

    Raises
    ------
    ConfigurationError
        If there is none, or it cannot be imported.
    """
    return cast(
        "Callable[..., Executor]", _imported("executor", name, _target("executors", "executor", name))
    )


def find_strategy(name: str) -> type[QueryStrategy]:
    """Return the query strategy of that name, an installed entry point of ``stedfast.strategies``.

    Raises
    ------
    ConfigurationError
        If there is none, or it cannot be imported.
    """
    return cast("type[QueryStrategy]", _imported("strategy", name, _target("strategies", "strategy", name)))


#: Which extra brings a library that a plug-in needs.
_EXTRA_OF = {
    "torch": "learn",
    "safetensors": "learn",
    "openvino": "fast",
    "pysted": "sim",
    "pymmcore": "mm",
    "pycromanager": "pycromanager",
    "gymnasium": "gym",
    "ray": "scale",
    "sqlalchemy": "label",
    "starlette": "label",
    "uvicorn": "label",
    "psycopg": "postgresql",
}


def how_to_install(error: ImportError) -> str:
    """Return how to get what could not be imported, empty if nobody knows."""
    extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
    return f"; to install it: pip install 'stedfast[{extra}]'" if extra else ""


def available(role: Role) -> list[str]:
    """Return the names of the installed plug-ins of a role."""
    return sorted({entry.name for entry in entry_points(group=f"stedfast.{role}")})


def find(role: Role, name: str) -> type[Plugin]:
    """Return the class of a plug-in.

    Only what is installed can be named: a configuration file brings no code of its own.

    Raises
    ------
    ConfigurationError
        If there is none of that name, it cannot be imported, or it is not a plug-in.
    """
    singular = {"policies": "policy"}.get(role, role[:-1])
    target = _target(role, singular, name)
    found = _imported(singular, name, target)
    if not isinstance(found, type) or not hasattr(found, "Options") or not hasattr(found, "from_options"):
        raise ConfigurationError(f"{target} is not a {singular}: it has no Options or no from_options")
    return found


def _target(group: str, singular: str, name: str) -> str:
    if ":" in name:
        return name
    installed = {entry.name: entry.value for entry in entry_points(group=f"stedfast.{group}")}
    if name not in installed:
        raise ConfigurationError(
            f"there is no {singular} {name!r}; installed are {', '.join(sorted(installed))}; "
            f"'module:Class' names any other"
        )
    return installed[name]


def _imported(singular: str, name: str, target: str) -> Any:
    module_name, _, class_name = target.partition(":")
    module = None
    try:
        module = importlib.import_module(module_name)
        return getattr(module, class_name)
    except ImportError as error:
        raise ConfigurationError(
            f"the {singular} {name!r} cannot be imported: {error}{how_to_install(error)}"
        ) from error
    except (AttributeError, ValueError) as error:
        # "simulator" and "policies" are common names: say which one was found.
        place = getattr(module, "__file__", module_name)
        raise ConfigurationError(f"the {singular} {name!r} is not there: {error} (in {place})") from error
