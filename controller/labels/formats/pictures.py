"""Images of an import: read, looked at for what makes them lie, and kept in the store's folder.

Some programs save signed counts as unsigned numbers, 32768 too high; such images are found out by their
darkest pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.settings import MAX_PIXELS
from controller.labels.formats.labelled import LabelFileError, inside
from controller.labels.images import Picture, contrast_window
from controller.labels.records import Sample

#: What is added to signed counts of 16 bit so that they become unsigned.
OFFSET_BINARY = 2**15
# A detector in the dark counts no more than this, and shows it in at least that part of the pixels; an image
# that is bright everywhere comes close to 32768 with few pixels, if any.
_DARK_COUNTS = 64
_DARK_PART = 0.01

IMPORTED = "imported"
_TIFF = frozenset({".tif", ".tiff"})
_LENGTHS_M = {"micron": 1e-6, "um": 1e-6, "µm": 1e-6, "\\u00B5m": 1e-6, "micrometer": 1e-6, "nm": 1e-9}
# TIFF's ResolutionUnit; 2, an inch, is what programs write that know nothing of the pixel size.
_CENTIMETRE = 3


@dataclass(frozen=True, slots=True, eq=False)
class ReadImage:
    """Pixels of shape ``(y, x)`` as they are in the file, and their size if the file says it."""

    pixels: NDArray[Any]
    pixel_size_m: float | None


def offset_of(pixels: NDArray[Any]) -> int:
    """Return what has to be subtracted from the pixels of an image: 32768 if it is offset binary, else 0."""
    if pixels.dtype != np.uint16 or not pixels.size:
        return 0
    darkest = int(pixels.min())
    if not OFFSET_BINARY <= darkest <= OFFSET_BINARY + _DARK_COUNTS:
        return 0
    is_dark = np.mean(pixels <= OFFSET_BINARY + _DARK_COUNTS) >= _DARK_PART
    return OFFSET_BINARY if is_dark else 0


def read_image(path: Path) -> ReadImage:
    """Read a 2-D image: a TIFF, a ``.npy`` or the group of an OME-Zarr image, at its full resolution.

    Raises
    ------
    LabelFileError
        If it cannot be read, or is not a grey image of two axes.
    """
    try:
        if path.is_dir():
            found = _read_zarr(path)
        elif path.suffix.lower() == ".npy":
            # Mapped first: a header that lies about the size does not fill the memory.
            found = ReadImage(np.array(_plane(np.load(path, mmap_mode="r", allow_pickle=False))), None)
        elif path.suffix.lower() in _TIFF:
            found = _read_tiff(path)
        else:
            raise LabelFileError(f"{path} is no image: known are .tif, .tiff, .npy and OME-Zarr folders")
    except LabelFileError as error:
        raise LabelFileError(f"{path}: {error}") from error
    except Exception as error:  # each library raises many kinds for a damaged file
        raise LabelFileError(f"{path} is not a readable image: {error}") from error
    return found


def _plane(array: Any) -> Any:
    """Return an array without axes of length 1; refuse what is not one grey image."""
    shape = tuple(length for length in array.shape if length != 1)
    if len(array.shape) < 2 or len(shape) > 2 or array.shape[-1] == 1 < len(shape):
        raise LabelFileError(f"one 2-D image is wanted, this has the shape {array.shape}")
    shape = tuple(array.shape[-2:]) if len(shape) < 2 else shape
    if shape[0] * shape[1] > MAX_PIXELS:
        raise LabelFileError(f"the shape {shape} is more than {MAX_PIXELS} pixels")
    if array.dtype.kind not in "biuf":
        raise LabelFileError(f"pixels are numbers, these are {array.dtype}")
    return array[...].reshape(shape)


@dataclass(frozen=True, slots=True)
class _Page:
    """A page of a TIFF that is read when it is known to fit."""

    series: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.series.shape)

    @property
    def dtype(self) -> Any:
        return self.series.dtype

    def __getitem__(self, _: object) -> NDArray[Any]:
        array: NDArray[Any] = self.series.asarray()
        return array


def _read_tiff(path: Path) -> ReadImage:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise LabelFileError(f"one image is wanted, this file has {len(file.series)}")
        pixels = _plane(_Page(file.series[0]))
        return ReadImage(np.asarray(pixels), _size_in_tiff(file))


def _size_in_tiff(file: Any) -> float | None:
    tags = file.pages[0].tags
    if "XResolution" not in tags:
        return None
    above, below = tags["XResolution"].value
    unit = (file.imagej_metadata or {}).get("unit")
    length_m = _LENGTHS_M.get(str(unit))
    if length_m is None and "ResolutionUnit" in tags and tags["ResolutionUnit"].value == _CENTIMETRE:
        length_m = 1e-2
    if length_m is None or not above > 0 or not below > 0:
        return None
    return float(f"{length_m * below / above:.6g}")  # a fraction in the file has no more digits


def _read_zarr(path: Path) -> ReadImage:
    import zarr

    group = zarr.open_group(store=path, mode="r")
    attributes: Any = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    scale = ome["multiscales"][0]
    first = scale["datasets"][0]
    array = group[str(first["path"])]
    if not isinstance(array, zarr.Array):
        raise LabelFileError(f"{first['path']} is no array")
    pixels = np.asarray(_plane(array))
    return ReadImage(pixels, _size_in_zarr(scale["axes"], first["coordinateTransformations"]))


def _size_in_zarr(axes: Any, transforms: Any) -> float | None:
    unit = axes[-1].get("unit")
    length_m = {"micrometer": 1e-6, "nanometer": 1e-9, "millimeter": 1e-3, "meter": 1.0}.get(str(unit))
    steps = [step["scale"][-1] for step in transforms if step["type"] == "scale"]
    if length_m is None or not steps or not steps[0] > 0:
        return None
    return float(f"{length_m * float(steps[0]):.6g}")


def write_tiff(path: Path, image: NDArray[Any], pixel_size_m: float) -> Path:
    """Write a 2-D image as a TIFF that says its axes and its pixel size."""
    import tifffile

    per_centimetre = 1e-2 / pixel_size_m
    tifffile.imwrite(
        path,
        image,
        photometric="minisblack",
        resolution=(per_centimetre, per_centimetre),
        resolutionunit="CENTIMETER",
        metadata={"axes": "YX"},
    )
    return path


def checksum(pixels: NDArray[Any]) -> str:
    """Return the BLAKE2b-128 checksum of an image's values, in C order."""
    return blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()


def keep_image(folder: Path, image: ReadImage, pixel_size_m: float) -> tuple[str, bool]:
    """Keep an image of an import, unchanged, in the store's folder.

    Returns
    -------
    Its path relative to the folder, and whether it is new there.
    """
    pixels = image.pixels
    relative = f"{IMPORTED}/{checksum(pixels)}_{pixels.shape[0]}x{pixels.shape[1]}_{pixels.dtype}.tif"
    path = folder / relative
    if path.exists():
        return relative, False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tiff(path, pixels, pixel_size_m)
    return relative, True


class ImportedImages:
    """Gives pictures of samples that were imported; an :class:`~controller.labels.images.ImageSource`.

    Parameters
    ----------
    folder
        The store's folder, that the samples' ``uri`` is relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def channels(self, sample: Sample) -> tuple[str, ...]:
        """Return the one channel there is."""
        return ("raw",) if sample.uri.startswith(f"{IMPORTED}/") else ()

    def picture(self, sample: Sample, channel: str, context_px: int) -> Picture:
        """Return a sample with up to ``context_px`` pixels around it, less the detector's offset.

        Raises
        ------
        KeyError
            If there is no such channel, or the image is gone.
        """
        if channel not in self.channels(sample):
            raise KeyError(f"{sample.uri} has no channel {channel!r}")
        try:
            pixels = read_image(inside(self._folder, sample.uri)).pixels
        except LabelFileError as error:
            raise KeyError(str(error)) from error
        roi = sample.roi
        top, left = max(roi.y - context_px, 0), max(roi.x - context_px, 0)
        part = pixels[top : roi.y + roi.rows + context_px, left : roi.x + roi.columns + context_px]
        shown = less_offset(part, sample.offset_units)
        return Picture(shown, (roi.y - top, roi.x - left), contrast_window(shown))


def less_offset(pixels: NDArray[Any], offset_units: float) -> NDArray[Any]:
    """Return an image less its detector's offset: uint16 where that holds it, else float32."""
    if pixels.dtype == np.uint16 and offset_units.is_integer() and 0 <= offset_units <= pixels.min():
        return np.asarray(pixels - np.uint16(offset_units))
    return np.asarray(pixels.astype(np.float64) - offset_units, np.float32)
