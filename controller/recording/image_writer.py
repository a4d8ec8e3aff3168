"""Writes the images of a session: raw frames, and what was made of them beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from controller.core.errors import RecordingError
from controller.core.frame import Denoised, Frame, Segmentation
from controller.recording import layers
from controller.recording.commit import GroupCommit
from controller.recording.documents import DenoisedEntry, FrameDocument, SegmentationEntry


class ImageWriter:
    """Writes into one bundle, on one thread; what it wrote is handed to the group commit to be synced.

    ``frames`` are the acknowledged ones by index: the group, and the plane in it (``None``: no movie).
    """

    def __init__(self, bundle: Path, commit: GroupCommit) -> None:
        self.frames: dict[int, tuple[str, int | None]] = {}
        self._bundle = bundle
        self._commit = commit
        self._movie: layers.Movie | None = None  # the newest frame belongs to it

    def know(self, frames: Iterable[FrameDocument]) -> None:
        """Take the frames of an earlier part of the session into account."""
        self.frames = {document.index: (document.path, document.plane) for document in frames}

    def write_frame(self, frame: Frame, plane: int | None) -> str:
        """Write the pixels of a frame and return the group they are in.

        Raises
        ------
        RecordingError
            If the frames of a movie are not alike or not in order.
        """
        attributes = {
            "index": frame.index,
            "started_s": frame.started_s,
            "settings": frame.settings.model_dump(mode="json"),
        }
        if plane is None:
            path = f"{frame.index:06d}"
            self._movie = None
            written = layers.write_image(
                self._bundle, path, frame.photons, frame.settings, attributes=attributes
            )
        else:
            path = self._group_of_plane(frame, plane)
            written = layers.write_plane(
                self._bundle, path, plane, frame.photons, frame.settings, attributes=attributes
            )
        self._commit.add(written)
        return path

    def write_denoised(self, frame: Frame, denoised: Denoised) -> DenoisedEntry:
        """Write the denoised image of an acknowledged frame."""
        source, _ = self.frames[frame.index]
        path = f"{source}_denoised"
        image = np.stack([denoised.mean, denoised.std])
        written = layers.write_image(
            self._bundle,
            path,
            image,
            frame.settings,
            channels=("mean", "std"),
            attributes={"derived_from": source, "level": denoised.level},
        )
        self._commit.add(written)
        return DenoisedEntry(
            path=path, level=denoised.level, latency_s=denoised.latency_s, blake2b=layers.checksum(image)
        )

    def write_segmentation(self, frame: Frame, segmentation: Segmentation) -> SegmentationEntry:
        """Write the segmentation of an acknowledged frame."""
        path, plane = self.frames[frame.index]
        maps = np.stack([segmentation.probability, segmentation.uncertainty])
        written = layers.write_image(
            self._bundle,
            f"{path}_probability",
            maps,
            frame.settings,
            channels=("probability", "uncertainty"),
            attributes={"derived_from": path},
        )
        labels = segmentation.labels
        written += layers.write_labels(
            self._bundle, path, labels, frame.settings, source="model", plane=plane
        )
        self._commit.add(written)
        return SegmentationEntry(path=path, objects=int(labels.max()), blake2b=layers.checksum(labels, maps))

    def list_images(self) -> None:
        """Name the images of the bundle for readers of NGFF."""
        paths = list(dict.fromkeys(path for path, _ in self.frames.values()))
        self._commit.add(layers.list_images(self._bundle, paths))

    def _group_of_plane(self, frame: Frame, plane: int) -> str:
        movie = layers.Movie(plane + 1, frame.settings.shape_yx, frame.photons.dtype.name)
        before = replace(movie, planes=plane)
        if plane > 0 and self._movie != before:
            raise RecordingError(
                f"the frames of a movie must be alike and in order: frame {frame.index} needs {before} "
                f"before it, there is {self._movie}"
            )
        self._movie = movie
        return f"{frame.index:06d}" if plane == 0 else self.frames[frame.index - 1][0]
