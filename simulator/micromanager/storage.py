"""Where the images of an acquisition are kept: in memory, or on disk as NDTiff."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import InvalidRequestError, RecordingError
from simulator.micromanager.objects import RemoteObject, java
from simulator.micromanager.values import HashMap, TaggedImage

Axes = dict[str, int | str]
#: The images of one acquisition that fit in memory.
RAM_LIMIT_BYTES = 2 * 2**30


class Storage(RemoteObject, ABC):
    """What a client sees of either kind of storage."""

    java_class = "org.micromanager.acqj.api.Storage"

    def __init__(self, summary: dict[str, Any], location: Path | None) -> None:
        self._summary = summary
        self._location = location
        self._finished = threading.Event()

    @abstractmethod
    def put(self, axes: Axes, pixels: NDArray[np.uint16], tags: dict[str, Any]) -> str:
        """Keep an image and return what the client is told of it."""

    @abstractmethod
    def get(self, axes: Axes) -> TaggedImage | None:
        """Return an image, ``None`` if there is none."""

    @abstractmethod
    def close(self) -> None:
        """Release what it holds, after :meth:`finish`."""

    def finish(self) -> None:
        """Take no more images."""
        self._finished.set()

    @java("boolean isFinished()")
    def is_finished(self) -> bool:
        return self._finished.is_set()

    @java("String getDiskLocation()")
    def disk_location(self) -> str | None:
        return str(self._location) if self._location is not None else None

    @java("mmcorej.org.json.JSONObject getSummaryMetadata()")
    def summary(self) -> dict[str, Any]:
        return self._summary

    @java("boolean hasImage(HashMap)")
    def has_image(self, axes: HashMap) -> bool:
        return self.get(axes.content) is not None

    @java("mmcorej.TaggedImage getImage(HashMap)")
    def image(self, axes: HashMap) -> TaggedImage | None:
        return self.get(axes.content)


class RamStorage(Storage):
    """Images in memory, as long as a client holds the acquisition or its dataset."""

    def __init__(self, summary: dict[str, Any], limit_bytes: int = RAM_LIMIT_BYTES) -> None:
        super().__init__(summary, None)
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._images: dict[frozenset[tuple[str, int | str]], TaggedImage] = {}

    def put(self, axes: Axes, pixels: NDArray[np.uint16], tags: dict[str, Any]) -> str:
        self._used_bytes += pixels.nbytes
        if self._used_bytes > self._limit_bytes:
            raise RecordingError(
                f"{len(self._images)} images fill the {self._limit_bytes} bytes that an acquisition has in "
                f"memory: give it a directory"
            )
        self._images[frozenset(axes.items())] = TaggedImage(pixels, tags)
        return json.dumps(axes)

    def get(self, axes: Axes) -> TaggedImage | None:
        return self._images.get(frozenset(axes.items()))

    def close(self) -> None:
        """Nothing to release: a dataset may be read after its acquisition."""


class DiskStorage(Storage):
    """An NDTiff dataset, written by the ndstorage package that the clients read it with."""

    def __init__(self, summary: dict[str, Any], folder: Path, name: str) -> None:
        from ndstorage.ndtiff_dataset import NDTiffDataset

        self._lock = threading.Lock()
        self._dataset = NDTiffDataset(str(folder), name=name, writable=True)
        self._dataset.initialize(summary)
        super().__init__(summary, Path(self._dataset.path))

    def put(self, axes: Axes, pixels: NDArray[np.uint16], tags: dict[str, Any]) -> str:
        with self._lock:
            try:
                self._dataset.put_image(axes, pixels, tags)
                # The writer makes its file 4 GiB long in advance. A client that reads an image would buffer
                # some of the zeros after it, and take them for the start of the next image.
                self._dataset.current_writer.file.truncate()
            except OSError as error:
                raise RecordingError(f"an image could not be written to {self._location}: {error}") from error
            return str(self._dataset.index[frozenset(axes.items())])

    def get(self, axes: Axes) -> TaggedImage | None:
        with self._lock:
            if not self._dataset.has_image(**axes):
                return None
            return TaggedImage(self._dataset.read_image(**axes), self._dataset.read_metadata(**axes))

    def finish(self) -> None:
        with self._lock:
            writer = self._dataset.current_writer
            if writer is not None:
                writer.reader.close()
            self._dataset.finish()
        super().finish()

    def close(self) -> None:
        with self._lock:
            self._dataset.close()


class DataSink(RemoteObject):
    """The way from an acquisition to its storage; nothing is displayed."""

    java_class = "org.micromanager.acqj.api.AcqEngJDataSink"

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @java("org.micromanager.acqj.api.Storage getStorage()")
    def storage(self) -> Storage:
        return self._storage

    @java("boolean isFinished()")
    def is_finished(self) -> bool:
        return self._storage.is_finished()

    @java("Object getViewer()")
    def viewer(self) -> None:
        return None


def make_storage(
    summary: dict[str, Any], directory: str | None, name: str, data_folder: Path | None
) -> Storage:
    """Return a storage in memory, or on disk if a directory is asked for and allowed.

    Raises
    ------
    InvalidRequestError
        If the directory is not inside ``data_folder``, or the name is none for a folder.
    RecordingError
        If it cannot be written to.
    """
    if directory is None:
        return RamStorage(summary)
    folder = Path(directory).resolve()
    if data_folder is None or not folder.is_relative_to(data_folder.resolve()):
        allowed = (
            f"only inside {data_folder}"
            if data_folder is not None
            else "nowhere: it was given no data folder"
        )
        raise InvalidRequestError(f"directory {directory!r} is asked, this server saves {allowed}")
    if name != Path(name).name or name in {"", ".", ".."}:
        raise InvalidRequestError(f"{name!r} cannot be the name of a folder")
    try:
        return DiskStorage(summary, folder, name)
    except OSError as error:
        raise RecordingError(f"{directory} cannot be written to: {error}") from error
