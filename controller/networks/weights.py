"""Weights on disk: a safetensors file and a JSON card beside it, read without executing anything.

The card says what network the numbers belong to, where they come from and how good they were; it holds
the checksum of the numbers. Whatever does not fit is refused before a network sees it.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from controller.core.errors import StedfastError
from controller.core.settings import Settings

WEIGHTS_SCHEMA: Literal["stedfast-weights/1"] = "stedfast-weights/1"

#: Ours are a hundredth of this; a larger file is another model, or an attack on the memory.
LARGEST_BYTES = 64_000_000
_LARGEST_CARD_BYTES = 1_000_000

#: Somebody may write a new pair while one is read: then the second time it fits.
_READS = 3

Text = Annotated[str, Field(max_length=2000)]
Tensors = dict[str, NDArray[np.float32]]


class WeightsError(StedfastError):
    """Weights cannot be used: not there, damaged, too large, or of another network."""


class Card(Settings):
    """What is known of weights. Everything needed to build the network, and to judge it."""

    model_config = ConfigDict(populate_by_name=True)  # so that ``replace`` can

    schema_: Literal["stedfast-weights/1"] = Field(default=WEIGHTS_SCHEMA, alias="schema")
    architecture: Text
    """Which class of network; it refuses the cards of others."""
    options: dict[str, Any]
    """The network's size and inputs, as its class reads them."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the safetensors file."""
    trained_on: tuple[Text, ...] = ()
    """Data, each with its own licence and checksum where it has one."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Options and seed of the training: enough to do it again."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Measured on data that were held out."""
    licence: Text = "unknown"
    """SPDX expression of the weights."""
    parent: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Checksum of the weights that training began with."""
    versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Checked weights: the file's bytes and its card."""

    data: bytes
    card: Card

    @property
    def sha256(self) -> str:
        """Return the checksum that names them."""
        return self.card.sha256

    def tensors(self) -> Tensors:
        """Return the numbers by name, float32, finite.

        Raises
        ------
        WeightsError
            If the bytes are no such thing.
        """
        try:
            tensors = load(self.data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"weights {self.sha256[:12]}: not a safetensors file: {error}") from error
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
                raise WeightsError(
                    f"weights {self.sha256[:12]}: {name} must be finite float32 numbers, got {tensor.dtype}"
                )
        return tensors


def pack(tensors: Tensors, **about: Any) -> Weights:
    """Return tensors with their card; ``about`` holds the card's fields but the checksum."""
    data = save({name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()})
    return Weights(data, Card(sha256=hashlib.sha256(data).hexdigest(), **about))


def check(data: bytes, card: bytes | str, source: str) -> Weights:
    """Return weights that came from somewhere, if they fit their card.

    Raises
    ------
    WeightsError
        If they are too large, the card cannot be read, or its checksum is another.
    """
    if len(data) > LARGEST_BYTES:
        raise WeightsError(f"{source}: {len(data)} bytes of weights are more than {LARGEST_BYTES}")
    if len(card) > _LARGEST_CARD_BYTES:
        raise WeightsError(f"{source}: a card of {len(card)} bytes is more than {_LARGEST_CARD_BYTES}")
    try:
        checked = Card.model_validate_json(card)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the card"
        raise WeightsError(f"{source}: card: {where}: {problem['msg']}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != checked.sha256:
        raise WeightsError(
            f"{source}: the file is damaged or belongs to another card: its sha256 is {found[:12]}…, "
            f"the card says {checked.sha256[:12]}…"
        )
    return Weights(data, checked)


def read_weights(path: Path) -> Weights:
    """Read ``NAME.safetensors`` and ``NAME.json``; ``path`` is either.

    Raises
    ------
    WeightsError
        If one is missing, too large or damaged. Nothing in a file is executed.
    """
    tensors, card = _pair(path)
    for _ in range(_READS):
        known = _read(card, _LARGEST_CARD_BYTES)
        for candidate in (tensors, _next(tensors)):
            with suppress(WeightsError):
                return check(_read(candidate, LARGEST_BYTES), known, str(candidate))
    return check(_read(tensors, LARGEST_BYTES), known, str(tensors))


def write_weights(weights: Weights, path: Path) -> None:
    """Write ``path`` (``.safetensors``) and its card; whenever it stops, the old pair or the new is there.

    The new numbers are laid beside the old ones, the card then says which are meant, and last they take
    their place.

    Raises
    ------
    WeightsError
        If the disk refuses; what was there is still there.
    """
    tensors, card = _pair(path)
    text = json.dumps(weights.card.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True)
    _finish(tensors, card)
    _write(_next(tensors), weights.data)
    _write(card, f"{text}\n".encode())
    _finish(tensors, card)


def _pair(path: Path) -> tuple[Path, Path]:
    if path.suffix not in {".safetensors", ".json"}:
        raise WeightsError(f"{path}: weights are a .safetensors file with a .json card beside it")
    return path.with_suffix(".safetensors"), path.with_suffix(".json")


def _next(tensors: Path) -> Path:
    """Return where numbers wait that are about to replace ``tensors``."""
    return tensors.with_name(f".{tensors.name}.next")


def _finish(tensors: Path, card: Path) -> None:
    """Put waiting numbers in their place, if they are those that the card means."""
    waiting = _next(tensors)
    try:
        check(_read(waiting, LARGEST_BYTES), _read(card, _LARGEST_CARD_BYTES), str(waiting))
    except WeightsError:
        return
    try:
        _move(waiting, tensors)
    except OSError as error:
        raise WeightsError(f"{tensors}: cannot be written: {error.strerror or error}") from error


def _read(path: Path, largest: int) -> bytes:
    """Return a file's bytes; a device or a pipe, which may never end, is no file."""
    try:
        if not S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path}: cannot be read: not a regular file")
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > largest:
                raise WeightsError(f"{path}: {size} bytes; no more than {largest} are read")
            return file.read(largest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: cannot be read: {reason}") from error


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _move(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}") from error


def _move(source: Path, target: Path) -> None:
    """Rename a file, and wait until the disk knows, so that later steps do not overtake this one."""
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
