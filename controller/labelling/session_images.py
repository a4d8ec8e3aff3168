"""Pictures of samples: from the frames of a session, or from image files that were imported."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import SessionFolderError
from controller.labels.formats.pictures import ImportedImages
from controller.labels.images import Picture, SampleImage, contrast_window
from controller.labels.records import Roi, Sample
from controller.recording.following import FollowedSession
from controller.recording.reader import SessionReader

RAW, DENOISED = "raw", "denoised"

#: Frames that are kept in memory: what somebody answers about now, and what comes next.
_KEPT = 16


class SessionImages:
    """Gives pictures of the samples of one folder: a session that runs or has ended, or files alone."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._imported = folder, ImportedImages(folder)
        self._session: FollowedSession | None = None
        self._kept: OrderedDict[tuple[str, str], NDArray[Any]] = OrderedDict()
        self._reader: SessionReader | None = None
        self._lock = threading.RLock()  # several people look at once

    def channels(self, sample: Sample) -> tuple[str, ...]:
        """Return ``raw``, and ``denoised`` if the session denoised that frame."""
        if sample.frame_index is None:
            return self._imported.channels(sample)
        with self._lock:
            cycles = self._session_of(sample).cycles
        has = any(c.denoised for c in cycles if c.frame_index == sample.frame_index)
        return (RAW, DENOISED) if has else (RAW,)

    def picture(self, sample: Sample, channel: str, context_px: int) -> Picture:
        """Return a sample with up to ``context_px`` pixels around it on each side.

        Raises
        ------
        KeyError
            If there is no such channel, or the image is gone.
        """
        if sample.frame_index is None:
            return self._imported.picture(sample, channel, context_px)
        image = self.whole(sample, channel)
        rows, columns, origin = surroundings(sample.roi, image.shape, context_px)
        shown = image[rows, columns]
        return Picture(
            np.ascontiguousarray(shown, np.uint16 if _fits_uint16(shown) else np.float32),
            origin,
            contrast_window(shown),
        )

    def image(self, sample: Sample, context_px: int) -> SampleImage:
        """Return a sample in photons, with its denoised image if the session kept one.

        Raises
        ------
        KeyError
            If the image is gone, or cannot be read.
        """
        gain = sample.units_per_photon
        if sample.frame_index is None:
            found = self._imported.picture(sample, RAW, context_px)  # less the offset already
            return SampleImage(_photons(found.pixels, 0.0, gain), found.origin_yx)
        raw = self.whole(sample, RAW)
        rows, columns, origin = surroundings(sample.roi, raw.shape, context_px)
        photons = _photons(raw[rows, columns], sample.offset_units, gain)
        if DENOISED not in self.channels(sample):
            return SampleImage(photons, origin)
        mean = self.whole(sample, DENOISED)[rows, columns]
        std = self._error_of(sample)[rows, columns]
        return SampleImage(
            photons, origin, _photons(mean, sample.offset_units, gain), _photons(std, 0.0, gain)
        )

    def whole(self, sample: Sample, channel: str) -> NDArray[Any]:
        """Return the whole frame that a sample is a part of, shape ``(y, x)``.

        Raises
        ------
        KeyError
            If it is gone, the sample is of an imported file, or there is no such channel.
        """
        index = sample.frame_index
        if index is None or channel not in {RAW, DENOISED}:
            raise KeyError(f"{sample.uri} has no channel {channel!r} of a frame")
        return self._cached((str(index), channel), lambda: self._frame(sample, index, channel))

    def _error_of(self, sample: Sample) -> NDArray[Any]:
        """Return the denoiser's standard error of the whole frame."""
        index = sample.frame_index or 0
        return self._cached((str(index), "error"), lambda: self._frame(sample, index, "error"))

    def _cached(self, key: tuple[str, str], read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        with self._lock:
            return self._read_once(key, read)

    def _read_once(self, key: tuple[str, str], read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            try:
                self._kept[key] = read()
            except (SessionFolderError, OSError, ValueError) as error:
                raise KeyError(str(error)) from error
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _frame(self, sample: Sample, index: int, channel: str) -> NDArray[Any]:
        reader = self._session_of(sample)
        if channel == RAW:
            return np.asarray(reader.frame(index).photons)
        for cycle in reader.cycles:
            if cycle.frame_index == index and (found := reader.denoised(cycle)) is not None:
                return np.asarray(found.mean if channel == DENOISED else found.std)
        raise KeyError(f"frame {index} has no channel {channel!r}")

    def _session_of(self, sample: Sample) -> SessionReader:
        """Return the session as it is now; read again only where the sample is newer than that."""
        if self._session is None:
            self._session = FollowedSession(self._folder)
            self._reader = self._session.reader()
        reader = self._reader
        seen = {c.frame_index for c in reader.cycles} if reader else set()
        if (reader is None or sample.frame_index not in seen) and self._session.update():
            self._reader = self._session.reader()
        assert self._reader is not None  # noqa: S101  # set together with _session
        if self._reader.start.run_id != sample.session:
            raise KeyError(f"{self._folder} is session {self._reader.start.run_id}, not {sample.session}")
        return self._reader


def surroundings(roi: Roi, shape: tuple[int, ...], context_px: int) -> tuple[slice, slice, tuple[int, int]]:
    """Return which rows and columns show a part of an image in its context, and where it lies in them.

    Raises
    ------
    KeyError
        If the part is not in the image.
    """
    if roi.y + roi.rows > shape[0] or roi.x + roi.columns > shape[1]:
        raise KeyError(f"{roi} lies outside an image of {shape}")
    top, left = max(0, roi.y - context_px), max(0, roi.x - context_px)
    rows = slice(top, min(shape[0], roi.y + roi.rows + context_px))
    columns = slice(left, min(shape[1], roi.x + roi.columns + context_px))
    return rows, columns, (roi.y - top, roi.x - left)


def _photons(image: NDArray[Any], offset_units: float, units_per_photon: float) -> NDArray[np.float32]:
    """Return an image in photons, at least 0."""
    return np.asarray(np.maximum(image - np.float32(offset_units), 0) / units_per_photon, np.float32)


def _fits_uint16(image: NDArray[Any]) -> bool:
    return (image.dtype.kind in "ub" and image.dtype.itemsize <= 2) or (
        image.dtype.kind in "iu" and image.size > 0 and image.min() >= 0 and image.max() < 2**16
    )
