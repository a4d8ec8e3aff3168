"""A labelled data set on disk: a manifest, and one folder for each item.

An item is written aside and renamed when it is complete, so a folder with a number for a name is whole,
whatever killed the writer. ``item.json`` holds the SHA-256 of every other file of its folder, and the
manifest that of each ``item.json``. Nothing in it depends on when, where or by how many it was made.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from controller.core.dataset import Columns, DatasetItem, DatasetMaker, DatasetMakerClass
from controller.core.errors import ConfigurationError
from controller.core.settings import Settings
from controller.recording import layers

MANIFEST_NAME = "manifest.json"
ITEMS_NAME = "items"
IMAGES_NAME = "images.ome.zarr"
DATASET_SCHEMA: Literal["stedfast-dataset/1"] = "stedfast-dataset/1"
_ITEM_SCHEMA = "stedfast-dataset-item/1"
_ASIDE = ".making-"
_DAMAGED = ".damaged-"
# Bounds of the parts: the hash of a group, as a number from 0 to 1, below the first is training.
_TRAINING, _VALIDATION = 0.8, 0.9


class DatasetPlan(Settings):
    """Everything that decides what a data set holds; ``images`` may grow, the rest may not change."""

    microscope: str
    seed: int
    images: int
    options: dict[str, Any]
    versions: dict[str, str]


class ItemEntry(Settings):
    """One line of the manifest."""

    name: str
    split: str
    licence: str
    sha256: str


class Manifest(Settings):
    """What is in a data set, and how to make it again."""

    schema_: Literal["stedfast-dataset/1"] = Field(default=DATASET_SCHEMA, alias="schema")
    status: Literal["incomplete", "complete"]
    plan: DatasetPlan
    licences: tuple[str, ...] = ()
    split: dict[str, int] = Field(default_factory=dict)
    items: tuple[ItemEntry, ...] = ()


@dataclass(frozen=True)
class MakeItem:
    """The task of a worker: simulate one item and write it. Returns nothing: the item is on disk."""

    maker: DatasetMakerClass
    options: Settings
    seed: int
    folder: Path

    def __call__(self, index: int) -> None:
        """Make item number ``index``."""
        maker = _maker(self)
        write_item(self.folder, index, maker.item(index), self.seed)


@lru_cache(maxsize=1)
def _maker(task: MakeItem) -> DatasetMaker:
    """Return the maker of this process: what it has computed once serves all items."""
    return task.maker(task.options, task.seed)


@dataclass
class DatasetFolder:
    """A data set that is being made. ``with open_dataset(...)`` gives one."""

    path: Path
    plan: DatasetPlan
    missing: list[int] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def absence(self, index: int) -> str | None:
        """Say what is wrong if an item that was made is not here."""
        if (self.path / ITEMS_NAME / _item_name(index)).is_dir():
            return None
        return f"it was made, but is not in {self.path}; do all hosts share this folder?"

    def finish(self) -> Manifest:
        """Write the manifest of what is there; it is complete if nothing is missing."""
        entries = []
        for name in _finished(self.path):
            text = (self.path / ITEMS_NAME / name / "item.json").read_bytes()
            item = json.loads(text)
            sha256 = hashlib.sha256(text).hexdigest()
            entries.append(ItemEntry(name=name, split=item["split"], licence=item["licence"], sha256=sha256))
        splits = [entry.split for entry in entries]
        manifest = Manifest(
            schema=DATASET_SCHEMA,
            status="complete" if len(entries) >= self.plan.images else "incomplete",
            plan=self.plan,
            licences=tuple(sorted({entry.licence for entry in entries})),
            split={part: splits.count(part) for part in ("train", "val", "test")},
            items=tuple(entries),
        )
        _write_manifest(self.path, manifest)
        return manifest


@contextmanager
def open_dataset(path: Path, plan: DatasetPlan) -> Iterator[DatasetFolder]:
    """Make a data set's folder, or open one to go on with it; nobody else can meanwhile.

    Every item that is there is checked against its checksums. One that fails is put aside under another
    name and counts as missing. What a killed run left half-made is removed.

    Raises
    ------
    ConfigurationError
        If the folder cannot be written, is in use, holds something else, or another data set.
    """
    try:
        if path.exists():
            _agree(path, plan)
        (path / ITEMS_NAME).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written to: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(f"{path}: another program is making this data set now") from error
        _agree(path, plan)
        for aside in (path / ITEMS_NAME).glob(f"{_ASIDE}*"):
            shutil.rmtree(aside)
        damaged = []
        for name in _finished(path):
            if problem := item_problem(path / ITEMS_NAME / name):
                damaged.append(f"item {name}: {problem}")
                place = path / ITEMS_NAME / name
                place.rename(place.with_name(f"{_DAMAGED}{name}-{time.time_ns()}"))
        there = {int(name) for name in _finished(path)}
        missing = [index for index in range(plan.images) if index not in there]
        if missing:
            try:
                _write_manifest(path, Manifest(schema=DATASET_SCHEMA, status="incomplete", plan=plan))
            except OSError as error:
                raise ConfigurationError(f"{path}: cannot be written to: {error.strerror}") from error
        yield DatasetFolder(path, plan, missing, damaged)
    finally:
        os.close(descriptor)


def write_item(folder: Path, index: int, item: DatasetItem, seed: int) -> None:
    """Write an item aside, and rename it when it is complete."""
    name = _item_name(index)
    items = folder / ITEMS_NAME
    aside = items / f"{_ASIDE}{name}-{os.getpid()}-{time.time_ns()}"
    aside.mkdir()
    try:
        _write_images(aside / IMAGES_NAME, item)
        for table, columns in item.tables.items():
            (aside / f"{table}.csv").write_text(_as_csv(columns))
        document = {
            "schema": _ITEM_SCHEMA,
            "index": index,
            "settings": item.settings.model_dump(mode="json"),
            "frame_s": item.frame_s,
            "group": item.group,
            "split": split_of(item.group, seed),
            "licence": item.licence,
            **item.details,
            "files": _checksums(aside),
        }
        (aside / "item.json").write_text(json.dumps(document, indent=1, allow_nan=False))
        aside.rename(items / name)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def item_problem(place: Path) -> str | None:
    """Say what is wrong with an item on disk, if its files are not those that were written."""
    try:
        expected = json.loads((place / "item.json").read_bytes())["files"]
        found = _checksums(place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"item.json cannot be read ({error})"
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if expected.get(name) != found[name]:
            return f"{name} is not what was written"
    return None


def split_of(group: str, seed: int) -> str:
    """Return the part of a split that a group belongs to: train, val or test, about 80, 10 and 10 %.

    It depends on the group and the seed alone. So items stay where they are when a data set grows, and
    another one of the same seed, whose samples are the same, is split in the same way.
    """
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if place < _TRAINING else "val" if place < _VALIDATION else "test"


def _item_name(index: int) -> str:
    return f"{index:06d}"


def _finished(path: Path) -> list[str]:
    return sorted(place.name for place in (path / ITEMS_NAME).iterdir() if place.name.isdigit())


def _agree(path: Path, plan: DatasetPlan) -> None:
    """See that a folder is empty, or has the same plan or one for fewer images.

    Raises
    ------
    ConfigurationError
        If the folder holds something else; says what differs.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path}: is not a folder")
    file = path / MANIFEST_NAME
    if not file.exists():
        others = [entry.name for entry in path.iterdir() if entry.name != ITEMS_NAME]
        items = path / ITEMS_NAME
        if others or (items.exists() and any(items.iterdir())):
            raise ConfigurationError(f"{path}: holds other files and no {MANIFEST_NAME}; choose a new folder")
        return
    try:
        before = Manifest.model_validate_json(file.read_bytes()).plan
    except (ValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{file}: is not the manifest of a data set ({reason})") from error
    differences = list(_differences(before.model_dump(), plan.model_dump()))
    if plan.images < before.images:
        differences.append(f"images: {before.images} there, {plan.images} asked; it can only grow")
    if differences:
        raise ConfigurationError(
            f"{path}: holds another data set; choose another folder, or the same settings:",
            *(f"  {difference}" for difference in differences),
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        name, there, asked = f"{prefix}{key}", before.get(key), now.get(key)
        if isinstance(there, dict) and isinstance(asked, dict):
            yield from _differences(there, asked, f"{name}.")
        elif there != asked and name != "images":
            yield f"{name}: {there!r} there, {asked!r} asked"


def _write_manifest(path: Path, manifest: Manifest) -> None:
    aside = path / f".{MANIFEST_NAME}.new"
    aside.write_text(manifest.model_dump_json(indent=1, by_alias=True) + "\n")
    layers.sync([aside])
    aside.rename(path / MANIFEST_NAME)


def _write_images(bundle: Path, item: DatasetItem) -> None:
    layers.lay_out_bundle(bundle, {}, list(item.images))
    for name, image in item.images.items():
        if item.frame_s is not None and image.ndim == 3:
            layers.write_movie(bundle, name, image, item.settings, frame_s=item.frame_s, attributes={})
        else:
            layers.write_image(bundle, name, image, item.settings, attributes={})
    layers.write_truth(bundle, next(iter(item.images)), item.labels, item.settings, source="simulated")


def _checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file but ``item.json`` below a folder, by its path from there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "item.json")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _as_csv(columns: Columns) -> str:
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(columns)
    # tolist(): Python's own numbers, whose shortest text gives the same number again.
    table.writerows(zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True))
    return file.getvalue()
