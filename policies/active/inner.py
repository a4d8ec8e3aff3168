"""Finds what a strategy or a policy wraps, by its name."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from controller.core.errors import ConfigurationError


def find_inner(role: str, name: str, options: dict[str, Any], key: str) -> tuple[Any, Any]:
    """Return the class of an installed plug-in, and its validated options.

    Parameters
    ----------
    role
        ``strategies`` or ``policies``.
    name
        Its entry point, or ``module:Class``.
    options
        What it is told.
    key
        What it is called in the options of whoever wraps it, for the message of an error.

    Raises
    ------
    ConfigurationError
        If there is none of that name, it cannot be imported, or does not take the options.
    """
    installed = {entry.name: entry.value for entry in entry_points(group=f"stedfast.{role}")}
    target = name if ":" in name else installed.get(name)
    if target is None:
        raise ConfigurationError(f"{key}: {name!r} is none of {', '.join(sorted(installed))}")
    module, _, class_name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), class_name)
        # By way of JSON, as all options are: a list of a configuration is a tuple of the options.
        return found, found.Options.model_validate_json(json.dumps(options, default=str))
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, ValidationError):
            places = [
                f"{key}_options.{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}"
                for e in error.errors()
            ]
            raise ConfigurationError(*places) from error
        raise ConfigurationError(f"{key}: {name!r} cannot be used: {error}") from error
