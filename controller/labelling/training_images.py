"""From answers about samples to images that a segmenter can be trained with, at the scale of its network.

A sample is shown to the network inside its context, as the session shows it, but learned from inside its
own borders only: the context is marked ambiguous, which excludes it from every loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import SessionFolderError
from controller.core.frame import FloatImage
from controller.labels.formats.pictures import ImportedImages
from controller.labels.records import Sample
from controller.learning.annotations import (
    AMBIGUOUS,
    MAX_WIDTH_PX,
    Annotation,
    BoxAnnotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    PointYX,
    Rectangle,
)
from controller.recording.reader import SessionReader
from controller.segmentation.labelled_image import LabelledImage
from controller.segmentation.network_options import NetworkOptions
from controller.segmentation.resampling import labels_resampled, photons_resampled
from controller.segmentation.small_unet import SmallUNetSegmenter, shape_at_scale
from controller.segmentation.spots import LARGEST, in_photons

#: Pixels around a sample that the network sees; more of them tell its small view nothing.
CONTEXT_PX = 16


@dataclass(frozen=True, slots=True, eq=False)
class SampleImage:
    """A sample inside its context.

    Attributes
    ----------
    photons
        Shape ``(y, x)``, float, ≥ 0, in photons.
    origin_yx
        Row and column of ``photons`` where the sample's first pixel lies.
    mean, std
        The denoised image and its standard deviation in photons, of the same shape; ``None`` if there is
        none.
    """

    photons: FloatImage
    origin_yx: tuple[int, int]
    mean: FloatImage | None = None
    std: FloatImage | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """What decides at which scale a network is shown an image: its own options and the segmenter's."""

    network: NetworkOptions
    options: SmallUNetSegmenter.Options


class SampleImages(Protocol):
    """Gives the images of samples."""

    def image(self, sample: Sample, context_px: int) -> SampleImage:
        """Return a sample with up to ``context_px`` pixels around it on each side.

        Raises
        ------
        KeyError
            If the image is gone, or cannot be read.
        """


class SessionImages:
    """The images of samples of one folder: parts of frames of its session, and imported files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._imported = ImportedImages(folder)
        self._reader: SessionReader | None = None

    def image(self, sample: Sample, context_px: int) -> SampleImage:
        """Return a part of a frame, with its denoised image if the session kept one, or of a file."""
        if sample.frame_index is None:
            found = self._imported.picture(sample, "raw", context_px)
            # The picture is less the detector's offset already.
            shown = in_photons(found.pixels, 0.0, sample.units_per_photon).astype(np.float32)
            return SampleImage(shown, found.origin_yx)
        try:
            reader = self._reader_that_knows(sample.frame_index)
            frame = reader.frame(sample.frame_index)
            cycles = [c for c in reader.cycles if c.frame_index == sample.frame_index]
            denoised = reader.denoised(cycles[-1]) if cycles else None
        except SessionFolderError as error:
            raise KeyError(f"sample {sample.id}: {error}") from error
        shape, roi = frame.photons.shape, sample.roi
        if roi.y + roi.rows > shape[0] or roi.x + roi.columns > shape[1]:
            raise KeyError(f"sample {sample.id} reaches beyond its frame of {shape[0]} x {shape[1]} pixels")
        top, left = max(0, roi.y - context_px), max(0, roi.x - context_px)
        part = (
            slice(top, roi.y + roi.rows + context_px),
            slice(left, roi.x + roi.columns + context_px),
        )
        gain, offset = sample.units_per_photon, sample.offset_units
        photons = in_photons(frame.photons[part], offset, gain).astype(np.float32)
        origin = (roi.y - top, roi.x - left)
        if denoised is None:
            return SampleImage(photons, origin)
        mean = in_photons(denoised.mean[part], offset, gain).astype(np.float32)
        return SampleImage(photons, origin, mean, in_photons(denoised.std[part], 0, gain).astype(np.float32))

    def _reader_that_knows(self, frame_index: int) -> SessionReader:
        if self._reader is None or frame_index not in self._reader.frames:
            self._reader = SessionReader(self._folder)  # a running session has written more since
        return self._reader


def labelled_images(
    sample: Sample,
    image: SampleImage,
    annotations: Sequence[Annotation],
    schema: LabelSchema,
    scale: Scale,
) -> list[LabelledImage]:
    """Return a sample as the segmenter sees it: without, and where there is one with its denoised image.

    Parameters
    ----------
    annotations
        In pixels of the sample.
    scale
        What decides how many pixels the network is shown of a frame of the sample's pixel size.
    """
    shape = shape_at_scale(image.photons.shape, sample.pixel_size_m, scale.network, scale.options)
    frame = _Placed(image, (sample.roi.rows, sample.roi.columns), shape)
    said = ImageAnnotations(
        shape_yx=shape,
        label_schema=schema,
        annotations=(*(frame.placed(a) for a in annotations), *frame.context()),
    )
    photons = photons_resampled(np.minimum(image.photons, LARGEST), shape)
    seen = [LabelledImage(photons, said)]
    if image.mean is not None and image.std is not None:
        mean, std = (photons_resampled(one, shape) for one in (image.mean, image.std))
        seen.append(LabelledImage(photons, said, None, mean, std))
    return seen


class _Placed:
    """Brings annotations of a sample to their place in its context, at the scale of the network."""

    def __init__(self, image: SampleImage, sample: tuple[int, int], shape: tuple[int, int]) -> None:
        self._before: NDArray[np.int64] = np.array(image.photons.shape)
        self._shape = shape
        self._origin = np.array(image.origin_yx)
        self._sample = np.array(sample)
        self._factor = np.array(shape) / self._before

    def placed(self, annotation: Annotation) -> Annotation:
        match annotation.kind:
            case "tag" | "grades":
                return annotation
            case "mask":
                return self._mask(annotation)
            case "points":
                changes: dict[str, Any] = {"points_yx": tuple(map(self._point, annotation.points_yx))}
            case "scribble":
                width = min(annotation.width_px * float(self._factor.mean()), MAX_WIDTH_PX)
                vertices = tuple(map(self._point, annotation.vertices_yx))
                changes = {"vertices_yx": vertices, "width_px": width}
            case "box":
                changes = {"extent": self._rectangle(annotation.extent)}
            case _:
                changes = {"vertices_yx": tuple(map(self._point, annotation.vertices_yx))}
        return annotation.replace(**changes, **self._coverage(annotation.coverage))

    def context(self) -> list[Annotation]:
        """Return what excludes everything but the sample."""
        last = np.array(self._shape) - 0.5
        (top, left), (bottom, right) = self._point((-0.5, -0.5)), self._point(tuple(self._sample - 0.5))
        frames = [
            (-0.5, -0.5, top, last[1]),
            (bottom, -0.5, last[0], last[1]),
            (top, -0.5, bottom, left),
            (top, right, bottom, last[1]),
        ]
        return [
            BoxAnnotation(class_name=AMBIGUOUS, extent=_rectangle(*edges))
            for edges in frames
            if edges[0] < edges[2] and edges[1] < edges[3]
        ]

    def _point(self, place: PointYX) -> PointYX:
        moved = (np.asarray(place) + self._origin + 0.5) * self._factor - 0.5
        y, x = np.clip(moved, -0.5, np.array(self._shape) - 0.5)  # rounding errors lie outside
        return float(y), float(x)

    def _rectangle(self, part: Rectangle) -> Rectangle:
        first, last = map(self._point, part.corners)
        return _rectangle(*first, *last)

    def _coverage(self, coverage: object) -> dict[str, object]:
        if not isinstance(coverage, tuple):
            return {}
        return {"coverage": tuple(map(self._rectangle, coverage))}

    def _mask(self, mask: MaskAnnotation) -> MaskAnnotation:
        whole = np.zeros(tuple(self._before), np.int32)
        rows, columns = mask.shape_yx
        y, x = self._origin + mask.origin_yx
        whole[y : y + rows, x : x + columns] = mask.to_array()
        if self._shape != whole.shape:
            # A class must keep its number; objects are numbered anew.
            names = len(mask.value_classes)
            whole = (
                labels_resampled(whole, self._shape)
                if mask.values == "objects"
                else _nearest(whole, self._shape, names)
            )
        kept = {"weight": mask.weight, "values": mask.values, "value_classes": mask.value_classes}
        return MaskAnnotation.from_array(whole, **kept, coverage=mask.coverage).replace(
            **self._coverage(mask.coverage)
        )


def _nearest(values: NDArray[np.int32], shape: tuple[int, int], names: int) -> NDArray[np.int32]:
    found = np.zeros(shape, np.int32)
    for value in range(1, names + 1):
        found[labels_resampled((values == value).astype(np.int32), shape) > 0] = value
    return found


def _rectangle(y_min: float, x_min: float, y_max: float, x_max: float) -> Rectangle:
    return Rectangle(y_min=float(y_min), x_min=float(x_min), y_max=float(y_max), x_max=float(x_max))
