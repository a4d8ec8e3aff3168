"""Images on disk: one OME-NGFF 0.5 group (zarr v3) for each image, written aside and renamed into place."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from controller.core.errors import SessionFolderError
from controller.core.settings import ScanSettings

BUNDLE_NAME = "session.ome.zarr"
_NGFF = "0.5"
_UNFINISHED = ".unfinished"


def checksum(*images: NDArray[Any]) -> str:
    """Return the BLAKE2b-128 checksum of the values of one or more images, in C order."""
    digest = blake2b(digest_size=16)
    for image in images:
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def create_bundle(bundle: Path, attributes: Mapping[str, Any]) -> None:
    """Make an empty bundle of images (the ``bioformats2raw.layout`` of NGFF)."""
    with zarr.config.set({"array.order": "C"}):
        zarr.create_group(
            store=bundle,
            zarr_format=3,
            attributes={"ome": {"version": _NGFF, "bioformats2raw.layout": 3}, "stedfast": dict(attributes)},
        )
    list_images(bundle, [])


def list_images(bundle: Path, paths: Sequence[str]) -> None:
    """Name the images of a bundle for NGFF readers; the journal stays the source of truth."""
    folder = _unfinished(bundle, "OME")
    zarr.create_group(
        store=folder, zarr_format=3, attributes={"ome": {"version": _NGFF, "series": list(paths)}}
    )
    _move_into_place(folder, bundle / "OME")


def write_image(
    bundle: Path,
    path: str,
    image: NDArray[Any],
    settings: ScanSettings,
    *,
    channels: Sequence[str] = (),
    attributes: Mapping[str, Any],
) -> None:
    """Write a raw or derived image, shape ``(y, x)`` or ``(c, y, x)``, as group ``path``."""
    folder = _unfinished(bundle, path)
    group = zarr.create_group(
        store=folder,
        zarr_format=3,
        attributes={"ome": _image_metadata(settings, channels), "stedfast": dict(attributes)},
    )
    _create_array(group, image)
    _move_into_place(folder, bundle / path)


def write_labels(
    bundle: Path, path: str, labels: NDArray[np.int32], settings: ScanSettings, *, source: str
) -> None:
    """Write a label image under ``path/labels/segmentation``, as NGFF wants it."""
    folder = _unfinished(bundle, f"{path}_labels")
    zarr.create_group(
        store=folder, zarr_format=3, attributes={"ome": {"version": _NGFF, "labels": ["segmentation"]}}
    )
    metadata = _image_metadata(settings, ())
    metadata["image-label"] = {"version": _NGFF, "source": {"image": "../../"}}
    group = zarr.create_group(
        store=folder / "segmentation",
        zarr_format=3,
        attributes={"ome": metadata, "stedfast": {"source": source}},
    )
    _create_array(group, labels)
    _move_into_place(folder, bundle / path / "labels")


def read_array(bundle: Path, path: str) -> NDArray[Any]:
    """Return the full-resolution array of an image group.

    Raises
    ------
    SessionFolderError
        If it is absent or unreadable.
    """
    try:
        array = zarr.open_array(store=bundle / path / "0", mode="r")
        return np.asarray(array[...])
    except Exception as error:  # zarr raises many kinds for a damaged store
        raise SessionFolderError(f"{bundle / path}: not a readable image ({error})") from error


def tidy_after_crash(bundle: Path, frames: set[str], derived: set[str]) -> None:
    """Remove what a crash left half-written, and set aside what the journal does not name.

    A frame whose journal line is missing is kept under another name: pixels are never thrown away.
    """
    shutil.rmtree(bundle / _UNFINISHED, ignore_errors=True)
    for folder in sorted(path for path in bundle.iterdir() if path.name[:1].isdigit()):
        name = folder.name
        if name in frames:
            if f"{name}/labels" not in derived:
                shutil.rmtree(folder / "labels", ignore_errors=True)
        elif name.isdigit():
            folder.rename(bundle / f"unacknowledged_{name}_{time.time_ns()}")
        elif name not in derived:
            shutil.rmtree(folder)


def sync_up_to_root(folder: Path) -> None:
    """Make the names of a new folder, and of all that were made for it, survive a loss of power."""
    for path in (folder / BUNDLE_NAME, folder, *folder.resolve().parents):
        with suppress(OSError):  # a parent that may not be read is not ours to sync
            _sync(path)


def _image_metadata(settings: ScanSettings, channels: Sequence[str]) -> dict[str, Any]:
    pixel_um = settings.pixel_size_m * 1e6
    y0_m, x0_m, _, _ = settings.scanned_region.bounds_yx_m
    # NGFF places the centre of the first pixel.
    corner_um = [y0_m * 1e6 + pixel_um / 2, x0_m * 1e6 + pixel_um / 2]
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    lead = [{"name": "c", "type": "channel"}] if channels else []
    transforms = [
        {"type": "scale", "scale": [1.0] * len(lead) + [pixel_um, pixel_um]},
        {"type": "translation", "translation": [0.0] * len(lead) + corner_um},
    ]
    metadata: dict[str, Any] = {
        "version": _NGFF,
        "multiscales": [
            {"axes": lead + space, "datasets": [{"path": "0", "coordinateTransformations": transforms}]}
        ],
    }
    if channels:
        metadata["omero"] = {
            "channels": [
                {"label": name, "color": "FFFFFF", "window": {"min": 0, "max": 1, "start": 0, "end": 1}}
                for name in channels
            ]
        }
    return metadata


def _create_array(group: zarr.Group, image: NDArray[Any]) -> None:
    group.create_array(
        "0",
        data=np.ascontiguousarray(image),
        chunks=image.shape,
        compressors=[ZstdCodec(level=1)],
        dimension_names=("c", "y", "x")[-image.ndim :],
    )


def _unfinished(bundle: Path, name: str) -> Path:
    folder = bundle / _UNFINISHED / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def _move_into_place(folder: Path, target: Path) -> None:
    """Put a finished group where readers look, in one step, after its bytes are on disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))
    if target.name == "OME":  # the list of images is the one thing that is ever written again
        shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
