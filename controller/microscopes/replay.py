"""Recorded images as a microscope: a movie or picture from a file, or the frames of a session.

No light is spent, but limits and ledger hold as they would for the real thing, so a policy can be
rehearsed on real data before it meets a real sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.clock import SimulatedClock
from controller.core.errors import (
    ConfigurationError,
    EndOfRecordingError,
    InvalidRequestError,
    ReplayDivergedError,
)
from controller.core.frame import Frame
from controller.core.protocols import Capabilities, Clock, Resources
from controller.core.settings import Modality, Positive, ScanSettings, Settings


class _NoLight:
    """What all recordings have in common: there is no light that could stay on."""

    def stop(self) -> None:
        """Do nothing: there is no light."""

    def is_dark(self) -> bool:
        """Return True: there is no light."""
        return True

    def close(self) -> None:
        """Do nothing: the recording was read when it was opened."""


class MovieMicroscope(_NoLight):
    """A TIFF or OME-Zarr movie, one recorded frame for each scan, cropped to the scanned region.

    The recording is one field of view, centred on (0, 0). Coarser sampling takes every n-th pixel,
    as a scan with larger steps would. Powers and dwell time change nothing in the picture.
    """

    class Options(Settings):
        """Where the recording is and how to read it.

        ``path`` is relative to the configuration file. ``pixel_size_m`` is the recording's sampling.
        Photons are ``(grey - offset) / grey_per_photon``, negative ones set to 0. ``at_end`` says
        what happens after the last frame: ``stop`` ends the session, ``repeat`` shows the last frame
        again (for a single picture).
        """

        path: str
        pixel_size_m: Positive
        offset: float = 0.0
        grey_per_photon: Positive = 1.0
        at_end: Literal["stop", "repeat"] = "stop"
        modalities: tuple[Modality, ...] = ("overview", "confocal", "sted", "two_photon")

    def __init__(self, movie: NDArray[Any], options: Options, clock: Clock) -> None:
        self._movie = movie
        self._options = options
        self._clock = clock
        self._next = 0

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Open the recording that the options name."""
        path = Path(options.path).expanduser()
        return cls(
            read_movie(path if path.is_absolute() else resources.folder / path), options, resources.clock
        )

    def capabilities(self) -> Capabilities:
        """Return the recording's field of view and what it was told to pass for."""
        rows, columns = self._movie.shape[1:]
        pixel_m = self._options.pixel_size_m
        return Capabilities(
            name=f"recording {Path(self._options.path).name}",
            modalities=self._options.modalities,
            fov_size_yx_m=(rows * pixel_m, columns * pixel_m),
            simulated=True,
            details={"frames": len(self._movie), "pixel_size_m": pixel_m},
        )

    def acquire(self, settings: ScanSettings) -> Frame:
        """Return the next recorded frame, cropped and sampled as asked.

        Raises
        ------
        EndOfRecordingError
            After the last frame, if the options say ``stop``.
        InvalidRequestError
            If the region is not inside the field of view or the sampling is not a multiple of the
            recording's.
        """
        if self._next >= len(self._movie) and self._options.at_end == "stop":
            raise EndOfRecordingError(f"{self._options.path}: all {len(self._movie)} frames have been shown")
        grey = self._crop(self._movie[min(self._next, len(self._movie) - 1)], settings)
        self._next += 1
        started_s = self._clock.now_s()
        self._clock.sleep(settings.duration_s)
        photons = np.maximum(
            (grey.astype(np.float32) - self._options.offset) / self._options.grey_per_photon, 0
        )
        return Frame(photons, settings, self._next - 1, started_s)

    def expose_again(self, settings: ScanSettings) -> None:
        """Skip a frame that an earlier part of the session has seen."""
        self._next += 1
        if isinstance(self._clock, SimulatedClock):
            self._clock.sleep(settings.duration_s)

    def _crop(self, image: NDArray[Any], settings: ScanSettings) -> NDArray[Any]:
        pixel_m = self._options.pixel_size_m
        step = round(settings.pixel_size_m / pixel_m)
        if step < 1 or abs(settings.pixel_size_m / pixel_m - step) > 1e-6:
            raise InvalidRequestError(
                f"pixel_size_m={settings.pixel_size_m:g} m is asked, a recording with pixels of "
                f"{pixel_m:g} m can be sampled in whole multiples of that (microscope.options.pixel_size_m)"
            )
        origin = [extent * pixel_m / 2 for extent in image.shape]
        bounds = settings.region.bounds_yx_m
        top, left = (round((bounds[axis] + origin[axis]) / pixel_m) for axis in (0, 1))
        rows, columns = settings.shape_yx
        bottom, right = top + (rows - 1) * step + 1, left + (columns - 1) * step + 1
        if top < 0 or left < 0 or bottom > image.shape[0] or right > image.shape[1]:
            raise InvalidRequestError(
                f"region centre {settings.region.center_yx_m} m, size {settings.region.size_yx_m} m is not "
                f"inside the recording, which spans {[2 * o for o in origin]} m around (0, 0)"
            )
        return image[top:bottom:step, left:right:step]


class RecordedSession(_NoLight):
    """The scans of a recorded session, one at a time; anything else that is asked is an error."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self.expect(None)

    def capabilities(self) -> Capabilities:
        """Return what the recorded microscope said of itself."""
        return self._capabilities

    def expect(
        self,
        settings: ScanSettings | None,
        *,
        frames: Sequence[Frame] = (),
        refused: str | None = None,
    ) -> None:
        """Say what the next scan was, if there was one, and what came of it."""
        self._settings, self._frames, self._refused = settings, list(frames), refused

    def acquire(self, settings: ScanSettings) -> Frame:
        """Return the recorded frame, or refuse as the recorded microscope refused.

        Raises
        ------
        ReplayDivergedError
            If something else is asked than what was recorded.
        InvalidRequestError
            If the recorded microscope refused.
        """
        if settings != self._settings:
            raise ReplayDivergedError(f"asked was {settings!r}, recorded is {self._settings!r}")
        if self._frames:
            return self._frames.pop(0)
        if self._refused is not None:
            raise InvalidRequestError(self._refused)
        raise ReplayDivergedError("no frame is recorded of this scan")


def read_movie(path: Path) -> NDArray[Any]:
    """Read a movie or picture, shape ``(t, y, x)``; a single picture has ``t = 1``.

    TIFF: a stack of pages of equal shape. OME-Zarr: an image group with axes among ``t, y, x``.

    Raises
    ------
    ConfigurationError
        If there is no such file, or it is not a movie of finite real numbers.
    """
    if not path.exists():
        raise ConfigurationError(f"{path}: there is no such recording (microscope.options.path)")
    try:
        movie = _read_zarr(path) if path.is_dir() else _read_tiff(path)
    except ConfigurationError:
        raise
    except Exception as error:  # readers raise many kinds for damaged files
        raise ConfigurationError(f"{path}: is not a readable TIFF or OME-Zarr image: {error}") from error
    if movie.ndim == 2:
        movie = movie[None]
    if movie.ndim != 3 or 0 in movie.shape or movie.dtype.kind not in "uif":
        raise ConfigurationError(
            f"{path}: a movie of shape (t, y, x) is needed, this has shape {movie.shape}, dtype {movie.dtype}"
        )
    for number, image in enumerate(movie):
        if not np.all(np.isfinite(image)):
            raise ConfigurationError(f"{path}: frame {number} holds values that are not finite numbers")
    return movie


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    return np.asarray(tifffile.imread(path))


def _read_zarr(path: Path) -> NDArray[Any]:
    import zarr

    group = zarr.open_group(store=path, mode="r")
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    multiscales = ome.get("multiscales") if isinstance(ome, dict) else None
    if not isinstance(multiscales, list) or not multiscales:
        raise ConfigurationError(f"{path}: is not an OME-Zarr image group (no multiscales)")
    image = multiscales[0]
    names = [axis["name"] for axis in image["axes"]]
    array = np.asarray(zarr.open_array(store=path / image["datasets"][0]["path"], mode="r")[...])
    for axis in reversed(range(array.ndim)):
        if names[axis] not in {"t", "y", "x"}:
            if array.shape[axis] != 1:
                raise ConfigurationError(
                    f"{path}: axis {names[axis]!r} has length {array.shape[axis]}, "
                    f"only t, y, x may be longer than 1"
                )
            array = array.squeeze(axis)
    return array
