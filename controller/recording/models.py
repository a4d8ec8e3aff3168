"""Weights that models learned during a session: files beside its images, named by their checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from stat import S_ISREG
from typing import Any

from controller.core.errors import SessionFolderError
from controller.core.protocols import WEIGHTS_BYTES_MAX, ModelChange
from controller.recording.documents import ModelDocument
from controller.recording.layers import sync

MODELS_NAME = "models"

#: An indented card; what comes from a model is at most a part of this.
CARD_BYTES_MAX = 8 * 1024**2


def write_model(folder: Path, change: ModelChange) -> None:
    """Write weights and their card to the session in ``folder``; they survive a loss of power then.

    Weights that are there already, those of a model that goes back to them, are left as they are.
    """
    models = folder / MODELS_NAME
    models.mkdir(exist_ok=True)
    card = json.dumps(dict(change.card), allow_nan=False, indent=1).encode()
    for path, content in (
        (_weights(folder, change.sha256), change.weights),
        (_card(folder, change.sha256), card),
    ):
        if not path.exists():
            aside = path.with_name(f".{path.name}.new")
            aside.write_bytes(content)
            sync([aside])
            aside.rename(path)
    sync([models, folder])


def read_model(folder: Path, document: ModelDocument) -> ModelChange:
    """Return recorded weights, checked against their checksum.

    Raises
    ------
    SessionFolderError
        If they are absent, damaged or too large to be weights.
    """
    path = _weights(folder, document.sha256)
    weights = _read(path, WEIGHTS_BYTES_MAX)
    if hashlib.sha256(weights).hexdigest() != document.sha256:
        raise SessionFolderError(f"{path}: the weights do not match their checksum")
    return ModelChange(
        role=document.role,
        sha256=document.sha256,
        weights=weights,
        card=_read_card(_card(folder, document.sha256)),
        score_before=document.score_before,
        score_after=document.score_after,
        reason=document.reason,
    )


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(_read(path, CARD_BYTES_MAX))
    except (ValueError, RecursionError) as error:
        raise SessionFolderError(f"{path}: is not JSON: {error}") from error
    if not isinstance(card, dict):
        raise SessionFolderError(f"{path}: a JSON object is needed, got {type(card).__name__}")
    return card


def _read(path: Path, bytes_max: int) -> bytes:
    """Return a file's bytes; a device or a pipe, which may never end, is no file."""
    try:
        if not S_ISREG(path.stat().st_mode):
            raise SessionFolderError(f"{path}: not a regular file")
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            size = path.stat().st_size
            raise SessionFolderError(f"{path}: {size} bytes; allowed are {bytes_max}")
        return content
    except OSError as error:
        raise SessionFolderError(f"{path}: {error.strerror}") from error


def _weights(folder: Path, sha256: str) -> Path:
    return folder / MODELS_NAME / f"{sha256}.safetensors"


def _card(folder: Path, sha256: str) -> Path:
    return folder / MODELS_NAME / f"{sha256}.json"
