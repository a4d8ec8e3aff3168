"""Finds plug-ins: by the name of an installed entry point, or as ``module:Class``."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Literal

from controller.core.errors import ConfigurationError
from controller.core.protocols import Plugin

Role = Literal["microscopes", "denoisers", "segmenters", "policies"]


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
    if ":" in name:
        target = name
    else:
        matches = [entry for entry in entry_points(group=f"stedfast.{role}") if entry.name == name]
        if not matches:
            raise ConfigurationError(
                f"there is no {singular} {name!r}; installed are {', '.join(available(role))}; "
                f"'module:Class' names any other"
            )
        target = matches[0].value
    module_name, _, class_name = target.partition(":")
    module = None
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, class_name)
    except ImportError as error:
        raise ConfigurationError(f"the {singular} {name!r} cannot be imported: {error}") from error
    except (AttributeError, ValueError) as error:
        # "simulator" and "policies" are common names: say which one was found.
        place = getattr(module, "__file__", module_name)
        raise ConfigurationError(f"the {singular} {name!r} is not there: {error} (in {place})") from error
    if not isinstance(found, type) or not hasattr(found, "Options") or not hasattr(found, "from_options"):
        raise ConfigurationError(f"{target} is not a {singular}: it has no Options or no from_options")
    return found
