"""Model files of others: found, measured and compared with their checksum before anything reads them."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from controller.core.errors import ConfigurationError, StedfastError

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

_PIECE_BYTES = 2**20


class ForeignModelError(StedfastError):
    """A model that was made elsewhere answered something that cannot be used."""


def library(name: str, extra: str) -> Any:
    """Import an optional library.

    Raises
    ------
    ConfigurationError
        If it is not installed, or broken; says which extra brings it.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # builds that do not fit together raise these, too
        raise ConfigurationError(
            f"{name.partition('.')[0]} cannot be imported ({error}); it comes with: "
            f"pip install 'stedfast[{extra}]'"
        ) from error


def check_file(path: Path, largest_bytes: int, sha256: str | None) -> None:
    """Refuse a file that is missing, too large or not the one that was meant.

    Raises
    ------
    ConfigurationError
        With the file's name, and what is allowed.
    """
    try:
        if not path.is_file():
            raise ConfigurationError(f"{path}: there is no such model file; models are never downloaded")
        size = path.stat().st_size
        if size > largest_bytes:
            raise ConfigurationError(f"{path}: {size} bytes; a model may have {largest_bytes} at most")
        if sha256 is None:
            return
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from error
    if digest.hexdigest() != sha256:
        raise ConfigurationError(
            f"{path}: its sha256 is {digest.hexdigest()}, the option sha256 says {sha256}: "
            f"the file is damaged, or another one"
        )


def read_file(path: Path, largest_bytes: int, sha256: str | None) -> bytes:
    """Return the contents of a file that :func:`check_file` lets pass."""
    check_file(path, largest_bytes, None)
    try:
        with path.open("rb") as file:
            data = file.read(largest_bytes + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > largest_bytes:
        raise ConfigurationError(f"{path}: a model may have {largest_bytes} bytes at most")
    # Of the bytes that will be used: a file that changes meanwhile gains nothing.
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ConfigurationError(
            f"{path}: its sha256 is {found}, the option sha256 says {sha256}: "
            f"the file is damaged, or another one"
        )
    return data
