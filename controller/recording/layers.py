"""Images on disk: OME-NGFF 0.5 groups (zarr v3), one for each image or movie, written as plain files.

The metadata of a group is a few lines of JSON and its pixels are one file an image, so they are
written directly, chunk first; zarr-python reads them. A group counts when the journal names it:
whatever a crash leaves half-written is without a journal line and is set aside.

Each function that writes returns the files that have to be synced before a loss of power cannot
take them away. The folders made for a file are not among them: the file systems of Linux in common use
log them with it, and where one did not, the checksum would find that out.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.blosc import BITSHUFFLE, Blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from controller.core.errors import SessionFolderError
from controller.core.settings import ScanSettings

BUNDLE_NAME = "session.ome.zarr"
_NGFF = "0.5"
# Bits of one weight together: photon counts use few of their bits. In a third of the time of zstd.
_CODEC, _CODEC_LEVEL = "lz4", 5


def checksum(*images: NDArray[Any]) -> str:
    """Return the BLAKE2b-128 checksum of the values of one or more images, in C order."""
    digest = blake2b(digest_size=16)
    for image in images:
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def create_bundle(bundle: Path, attributes: Mapping[str, Any]) -> None:
    """Make an empty bundle of images that survives a loss of power."""
    sync(lay_out_bundle(bundle, attributes))


def lay_out_bundle(bundle: Path, attributes: Mapping[str, Any], paths: Sequence[str] = ()) -> list[Path]:
    """Make an empty bundle for the images ``paths`` (the ``bioformats2raw.layout`` of NGFF)."""
    (bundle / "OME").mkdir(parents=True)
    layout = {"ome": {"version": _NGFF, "bioformats2raw.layout": 3}, "stedfast": dict(attributes)}
    return [_write(bundle / "zarr.json", _group(layout)), *list_images(bundle, paths)]


def list_images(bundle: Path, paths: Sequence[str]) -> list[Path]:
    """Name the images of a bundle for NGFF readers; the journal stays the source of truth."""
    return [
        _replace(bundle / "OME" / "zarr.json", _group({"ome": {"version": _NGFF, "series": list(paths)}}))
    ]


def write_image(
    bundle: Path,
    path: str,
    image: NDArray[Any],
    settings: ScanSettings,
    *,
    channels: Sequence[str] = (),
    attributes: Mapping[str, Any],
) -> list[Path]:
    """Write a raw or derived image, shape ``(y, x)`` or ``(c, y, x)``, as group ``path``."""
    ome = _image_metadata(settings, channels=channels)
    return _write_group(bundle / path, image, {"ome": ome, "stedfast": dict(attributes)})


def write_plane(
    bundle: Path,
    path: str,
    plane: int,
    image: NDArray[Any],
    settings: ScanSettings,
    *,
    attributes: Mapping[str, Any],
) -> list[Path]:
    """Write image number ``plane`` of a movie; 0 opens group ``path``, shape ``(t, y, x)``."""
    folder = bundle / path
    if plane == 0:
        ome = _image_metadata(settings, first_plane=0)
        return _write_group(folder, image[None], {"ome": ome, "stedfast": dict(attributes)})
    chunk = _write_chunk(folder / "0", (plane, 0, 0), image)
    # The shape last: it never shows a frame that was not taken.
    array = _movie_array(Movie(plane + 1, settings.shape_yx, image.dtype.name))
    return [chunk, _replace(folder / "0" / "zarr.json", array)]


def write_movie(
    bundle: Path,
    path: str,
    images: NDArray[Any],
    settings: ScanSettings,
    *,
    frame_s: float,
    attributes: Mapping[str, Any],
) -> list[Path]:
    """Write a movie that is complete, shape ``(t, y, x)``, a frame each ``frame_s``, as group ``path``."""
    folder = bundle / path
    ome = _image_metadata(settings, first_plane=0, frame_s=frame_s)
    written = _write_group(folder, images[:1], {"ome": ome, "stedfast": dict(attributes)})
    written += [_write_chunk(folder / "0", (plane, 0, 0), images[plane]) for plane in range(1, len(images))]
    set_length(bundle, path, Movie(len(images), settings.shape_yx, images.dtype.name))
    return written


def write_truth(
    bundle: Path, path: str, labels: Mapping[str, NDArray[np.int32]], settings: ScanSettings, *, source: str
) -> list[Path]:
    """Write label images by name under ``path/labels``; in a movie they hold for all its planes."""
    folder = bundle / path / "labels"
    folder.mkdir()
    written = []
    for name, image in labels.items():
        ome = _image_metadata(settings) | {"image-label": {"version": _NGFF, "source": {"image": "../../"}}}
        written += _write_group(folder / name, image, {"ome": ome, "stedfast": {"source": source}})
    group = _group({"ome": {"version": _NGFF, "labels": list(labels)}})
    return [*written, _write(folder / "zarr.json", group)]


def write_labels(
    bundle: Path,
    path: str,
    labels: NDArray[np.int32],
    settings: ScanSettings,
    *,
    source: str,
    plane: int | None = None,
) -> list[Path]:
    """Write a label image under ``path/labels/segmentation``, as NGFF wants it.

    In a movie it belongs to one ``plane``, and has its place on the axis of time.
    """
    ome = _image_metadata(settings, first_plane=plane)
    ome["image-label"] = {"version": _NGFF, "source": {"image": "../../"}}
    folder = bundle / path / "labels"
    folder.mkdir()
    written = _write_group(
        folder / "segmentation",
        labels if plane is None else labels[None],
        {"ome": ome, "stedfast": {"source": source}},
    )
    group = _write(folder / "zarr.json", _group({"ome": {"version": _NGFF, "labels": ["segmentation"]}}))
    return [*written, group]


def read_array(bundle: Path, path: str, plane: int | None = None) -> NDArray[Any]:
    """Return the full-resolution array of an image group, or one plane of a movie.

    Raises
    ------
    SessionFolderError
        If it is absent or unreadable.
    """
    try:
        # By its group, so that a group without its metadata is noticed, too.
        array = zarr.open_group(store=bundle / path, mode="r")["0"]
        if not isinstance(array, zarr.Array):
            raise TypeError("0 is no array")
        return np.asarray(array[...] if plane is None else array[plane])
    except Exception as error:  # zarr raises many kinds for a damaged store
        raise SessionFolderError(f"{bundle / path}: not a readable image ({error})") from error


@dataclass(frozen=True, slots=True)
class Movie:
    """How many frames of a movie the journal acknowledges, and what they are like."""

    planes: int
    shape_yx: tuple[int, int]
    dtype: str


def set_length(bundle: Path, path: str, movie: Movie) -> None:
    """Let the array of a movie show so many planes."""
    file, array = bundle / path / "0" / "zarr.json", _movie_array(movie)
    if file.parent.is_dir() and not (file.exists() and file.read_bytes() == array):
        _replace(file, array)


def tidy_after_crash(bundle: Path, frames: Mapping[str, Movie | None], derived: set[str]) -> None:
    """Remove what a crash left half-written, and set aside what the journal does not name.

    ``frames`` are the groups that it names; an image that is no movie has ``None``. A frame whose
    journal line is missing is kept under another name: pixels are never thrown away.
    """
    for folder in sorted(path for path in bundle.iterdir() if path.name[:1].isdigit()):
        name = folder.name
        if name in frames:
            if f"{name}/labels" not in derived:
                shutil.rmtree(folder / "labels", ignore_errors=True)
            movie = frames[name]
            if movie is not None:
                _cut_movie(folder, movie)
        elif name.isdigit():
            folder.rename(_aside(folder))
        elif name not in derived:
            shutil.rmtree(folder)


def sync(paths: Sequence[Path]) -> None:
    """Make files and folders survive a loss of power."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_up_to_root(folder: Path) -> None:
    """Make the names of a new folder, and of all that were made for it, survive a loss of power."""
    for path in (folder / BUNDLE_NAME, folder, *folder.resolve().parents):
        with suppress(OSError):  # a parent that may not be read is not ours to sync
            sync([path])


def _image_metadata(
    settings: ScanSettings,
    *,
    channels: Sequence[str] = (),
    first_plane: int | None = None,
    frame_s: float | None = None,
) -> dict[str, Any]:
    pixel_um = settings.pixel_size_m * 1e6
    y0_m, x0_m, _, _ = settings.scanned_region.bounds_yx_m
    # NGFF places the centre of the first pixel.
    scale, translation = [pixel_um, pixel_um], [y0_m * 1e6 + pixel_um / 2, x0_m * 1e6 + pixel_um / 2]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    if channels:
        axes.insert(0, {"name": "c", "type": "channel"})
        scale, translation = [1.0, *scale], [0.0, *translation]
    if first_plane is not None:
        axes.insert(0, {"name": "t", "type": "time", "unit": "second"})
        frame_s = settings.duration_s if frame_s is None else frame_s
        scale, translation = [frame_s, *scale], [first_plane * frame_s, *translation]
    transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
    metadata: dict[str, Any] = {
        "version": _NGFF,
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transforms}]}],
    }
    if channels:
        metadata["omero"] = {
            "channels": [
                {"label": name, "color": "FFFFFF", "window": {"min": 0, "max": 1, "start": 0, "end": 1}}
                for name in channels
            ]
        }
    return metadata


def _write_group(folder: Path, image: NDArray[Any], attributes: dict[str, Any]) -> list[Path]:
    """Write a new image group: its pixels, its array, then itself. An old one is never written over."""
    for new in (folder, folder / "0", folder / "0" / "c"):
        new.mkdir()
    names = [axis["name"] for axis in attributes["ome"]["multiscales"][0]["axes"]]
    # One chunk an image: all its channels, but one plane of a movie.
    chunk = _write_chunk(folder / "0", (0,) * image.ndim, image)
    array = _array(image.shape, image.shape, image.dtype, tuple(names))
    return [
        chunk,
        _write(folder / "0" / "zarr.json", array),
        _write(folder / "zarr.json", _group(attributes)),
    ]


def _write_chunk(array: Path, place: tuple[int, ...], image: NDArray[Any]) -> Path:
    folder = array / "c"
    for step in place[:-1]:
        folder = folder / str(step)
        folder.mkdir()
    little = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
    return _write(folder / str(place[-1]), Blosc(_CODEC, _CODEC_LEVEL, BITSHUFFLE).encode(little))


def _group(attributes: Mapping[str, Any]) -> bytes:
    return _json({"attributes": attributes, "zarr_format": 3, "node_type": "group"})


@lru_cache(maxsize=64)
def _array(
    shape: tuple[int, ...], chunk: tuple[int, ...], dtype: np.dtype[Any], names: tuple[str, ...]
) -> bytes:
    blosc = {
        "typesize": dtype.itemsize,
        "cname": _CODEC,
        "clevel": _CODEC_LEVEL,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    }
    return _json(
        {
            "shape": shape,
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0 if dtype.kind in "iu" else 0.0,
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "blosc", "configuration": blosc},
            ],
            "attributes": {},
            "dimension_names": names,
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
    )


def _json(metadata: Mapping[str, Any]) -> bytes:
    # Without an indent json uses its fast encoder: a tenth of the time.
    return json.dumps(metadata, allow_nan=False).encode()


def _cut_movie(folder: Path, movie: Movie) -> None:
    """Let a movie end where the journal says; what was written beyond goes aside, still readable."""
    beyond = [chunk for chunk in (folder / "0" / "c").iterdir() if int(chunk.name) >= movie.planes]
    if beyond:
        aside = _aside(folder)
        (aside / "0" / "c").mkdir(parents=True)
        for chunk in beyond:
            chunk.rename(aside / "0" / "c" / chunk.name)
        last = max(int(chunk.name) for chunk in beyond)
        _write(aside / "0" / "zarr.json", _movie_array(replace(movie, planes=last + 1)))
        _write(aside / "zarr.json", (folder / "zarr.json").read_bytes())
    set_length(folder.parent, folder.name, movie)


def _movie_array(movie: Movie) -> bytes:
    shape = movie.planes, *movie.shape_yx
    return _array(shape, (1, *movie.shape_yx), np.dtype(movie.dtype), ("t", "y", "x"))


def _aside(folder: Path) -> Path:
    return folder.with_name(f"unacknowledged_{folder.name}_{time.time_ns()}")


def _write(path: Path, content: bytes) -> Path:
    """Write a new file; one that is there is never written over."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)
    return path


def _replace(path: Path, content: bytes) -> Path:
    """Write a file that may be there already, in one step: readers see the old one or the new one."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    _write(aside, content).rename(path)
    return path
