"""Movies in files, read frame by frame, so that they may be larger than the memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.microscopes.replay import read_movie


class MovieFile:
    """A TIFF or OME-Zarr movie of one channel and plane.

    Pages of a TIFF are read when they are asked for. An OME-Zarr is read whole.

    Attributes
    ----------
    path
        Of the file or folder.
    shape
        ``(t, y, x)``; one picture has ``t = 1``.

    Raises
    ------
    ConfigurationError
        If there is no such file, or it is not a movie of real numbers with all its frames; it names the
        file, and the frame where one can be named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ConfigurationError(f"{path}: there is no such movie")
        with ExitStack() as undo:
            self._pages = _tiff_pages(path, undo) if path.is_file() else read_movie(path)
            first = self._read(0)
            self.shape = (len(self._pages), first.shape[0], first.shape[1])
            self._file = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self.shape[0]

    def frame(self, number: int) -> NDArray[Any]:
        """Return one frame in detector units, shape ``(y, x)``, finite.

        Raises
        ------
        ConfigurationError
            If it is missing, damaged, of another shape, or holds what is no number.
        """
        image = self._read(number)
        if image.shape != self.shape[1:]:
            raise ConfigurationError(
                f"{self.path}: frame {number} has shape {image.shape}, those before {self.shape[1:]}"
            )
        if not np.isfinite(image).all():
            raise ConfigurationError(f"{self.path}: frame {number} holds values that are not finite numbers")
        return image

    def piece(self, frames: slice, rows: slice, columns: slice) -> NDArray[Any]:
        """Return a part of some consecutive frames, shape ``(t, y, x)``; memory for no more than that."""
        return np.stack([self.frame(n)[rows, columns].copy() for n in range(*frames.indices(len(self)))])

    def _read(self, number: int) -> NDArray[Any]:
        page = self._pages[number]
        if page is None:
            raise ConfigurationError(f"{self.path}: frame {number} is named, but missing")
        try:
            image = np.asarray(page if isinstance(page, np.ndarray) else page.asarray())
        except Exception as error:  # readers raise many kinds for damaged files
            raise ConfigurationError(
                f"{self.path}: frame {number} cannot be read, the file is damaged or cut off: {error}"
            ) from error
        if image.ndim != 2 or 0 in image.shape or image.dtype.kind not in "uif":
            raise ConfigurationError(
                f"{self.path}: frame {number} must be a picture (y, x) of real numbers, "
                f"got shape {image.shape}, dtype {image.dtype}"
            )
        return image


def _tiff_pages(path: Path, undo: ExitStack) -> Any:
    """Return what gives each frame of a TIFF: its page, ``None`` if it is missing, or a whole stack."""
    import tifffile

    try:
        with _complaints() as complaints:
            file = undo.enter_context(tifffile.TiffFile(path))
            series, pages = file.series[0], len(file.pages)
            if any("invalid page offset" in complaint for complaint in complaints):
                raise ConfigurationError(
                    f"{path}: the file is damaged or cut off: pages from {pages} on are missing"
                )
            if len(series.shape) not in {2, 3} or not series.axes.endswith("YX"):
                raise ConfigurationError(
                    f"{path}: a movie of shape (t, y, x) is needed, this has shape {series.shape} "
                    f"with axes {series.axes}"
                )
            count = 1 if len(series.shape) == 2 else series.shape[0]
            _check_complete(path, file, count)
            if pages == 1 and count > 1:  # a stack behind a single header, as ImageJ writes them
                return tifffile.memmap(path, mode="r")
            return list(series.pages)
    except ConfigurationError:
        raise
    except Exception as error:  # as above
        raise ConfigurationError(f"{path}: is not a readable TIFF or OME-Zarr image: {error}") from error


def _check_complete(path: Path, file: Any, count: int) -> None:
    """Refuse a file whose pages do not all belong to the movie, or that has fewer than it says."""
    first, series = file.pages[0], file.series[0]
    for number, page in enumerate(file.pages):
        if page.shape != first.shape:
            raise ConfigurationError(
                f"{path}: frame {number} has shape {page.shape}, those before {first.shape}"
            )
    said = int((file.imagej_metadata or {}).get("images", count))
    if series.dataoffset is not None:
        held = (file.filehandle.size - series.dataoffset) // (first.size * series.dtype.itemsize)
        said, count = max(said, count), min(held, count)
    if said > count:
        raise ConfigurationError(
            f"{path}: frame {count} is missing: the file says it has {said} frames; it is damaged or cut off"
        )


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile logs of a damaged file instead of telling."""
    told: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, collector = logging.getLogger("tifffile"), Collector()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield told
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagates
