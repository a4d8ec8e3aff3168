"""Reads images with labels: simulated data sets, pairs of TIFF files, the answers of a session."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.learning.annotations import (
    AMBIGUOUS,
    NOTHING_HERE,
    Annotation,
    GradesAnnotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    TagAnnotation,
)
from controller.recording import layers
from controller.recording.dataset import IMAGES_NAME, ITEMS_NAME, MANIFEST_NAME
from controller.recording.journal import JOURNAL_NAME
from controller.recording.reader import SessionReader

#: What the name of a label image ends with: ``cells.tif`` has its labels in ``cells.labels.tif``.
LABELS_SUFFIX = ".labels"
_TIFF = (".tif", ".tiff")
#: Larger files are movies or mosaics; a network learns nothing from more than this at once.
_LARGEST_PIXELS = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image and what is known of it.

    Attributes
    ----------
    name
        Where it comes from, for people.
    photons
        As the detector gave it, shape ``(y, x)``.
    labels
        Objects 1, 2, …, 0 = none, -1 = unlabelled; or annotations.
    pixel_size_m
        Its sampling.
    part
        ``train``, ``val`` or ``test``, where the source says so.
    """

    name: str
    photons: NDArray[Any]
    labels: NDArray[np.int32] | ImageAnnotations
    pixel_size_m: float
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How labels are read.

    Attributes
    ----------
    kind
        ``spots`` takes the table of points of a data set, ``objects`` its label image.
    object_size_m
        Of a spot that is only known as a point.
    pixel_size_m
        Of TIFF files, which do not say.
    class_name
        What an object is called.
    object_answers
        Answers of a session that say there is an object.
    """

    kind: Literal["spots", "objects"]
    object_size_m: float
    pixel_size_m: float | None = None
    class_name: str = "object"
    object_answers: tuple[str, ...] = ()


def read_pictures(source: Path, reading: Reading) -> list[Picture]:
    """Return the labelled images of a data set, a session, a folder of TIFF pairs or one such pair.

    Raises
    ------
    ConfigurationError
        If it is none of these, or an image and its labels do not fit; says which file and what is needed.
    """
    if (source / MANIFEST_NAME).is_file():
        pictures = list(_of_dataset(source, reading))
    elif (source / JOURNAL_NAME).is_file():
        pictures = list(_of_session(source, reading))
    elif source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix.lower() in _TIFF)
        pictures = [_pair(file, reading) for file in files if not file.stem.endswith(LABELS_SUFFIX)]
    elif source.suffix.lower() in _TIFF and source.is_file():
        pictures = [_pair(source, reading)]
    else:
        raise ConfigurationError(
            f"{source}: is no labelled images; give a folder of `stedfast simulate`, a session with answers, "
            f"or NAME.tif with NAME{LABELS_SUFFIX}.tif beside it, or a folder of such files"
        )
    if not pictures:
        raise ConfigurationError(f"{source}: there is no labelled image in it")
    return pictures


def _of_dataset(folder: Path, reading: Reading) -> Iterator[Picture]:
    for place in sorted((folder / ITEMS_NAME).glob("[0-9]*")):
        try:
            item = json.loads((place / "item.json").read_text(encoding="utf-8"))
            pixel_size_m, part = float(item["settings"]["pixel_size_m"]), str(item["split"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{place / 'item.json'}: cannot be read: {error}") from error
        bundle = place / IMAGES_NAME
        is_movie = not (bundle / "photons").exists()
        image = layers.read_array(bundle, "frames" if is_movie else "photons")
        # The first frame of a movie: its labels hold for the still sample.
        photons = image[0] if image.ndim == 3 else image
        if reading.kind == "spots":
            labels = _discs(
                _places(place / "points.csv", photons.shape, pixel_size_m),
                photons.shape,
                reading,
                pixel_size_m,
            )
        else:
            name = "neurons" if is_movie else "structures"
            found = layers.read_array(bundle, f"{'frames' if is_movie else 'photons'}/labels/{name}")
            labels = found.reshape(found.shape[-2:]).astype(np.int32)
        yield Picture(str(place), photons, labels, pixel_size_m, part)


def _places(file: Path, shape: Sequence[int], pixel_size_m: float) -> NDArray[np.float64]:
    """Return the points of a table, in pixels, shape ``(n, 2)``."""
    try:
        with file.open(encoding="utf-8", newline="") as table:
            rows = [(float(row["y_m"]), float(row["x_m"])) for row in csv.DictReader(table)]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"{file}: cannot be read as points: {error}; for whole structures use --kind objects"
        ) from error
    places = np.reshape(np.array(rows, np.float64), (-1, 2)) / pixel_size_m
    return np.asarray(places + (np.array(shape[-2:]) - 1) / 2)


def _discs(
    places: NDArray[np.float64], shape: Sequence[int], reading: Reading, pixel_size_m: float
) -> NDArray[np.int32]:
    """Return labels of discs about points; a pixel in two of them belongs to the nearer point."""
    radius = max(1.0, 0.65 * reading.object_size_m / pixel_size_m)
    labels, nearest = np.zeros(tuple(shape), np.int32), np.full(tuple(shape), radius**2)
    y, x = np.indices(tuple(shape))
    for number, (row, column) in enumerate(places, 1):
        square = (y - row) ** 2 + (x - column) ** 2
        mine = square <= nearest
        labels[mine], nearest[mine] = number, square[mine]
    return labels


def _pair(file: Path, reading: Reading) -> Picture:
    beside = [file.with_name(f"{file.stem}{LABELS_SUFFIX}{suffix}") for suffix in _TIFF]
    labels_file = next((one for one in beside if one.is_file()), None)
    if labels_file is None:
        raise ConfigurationError(
            f"{file}: its labels are missing; they belong into {beside[0].name} beside it"
        )
    if reading.pixel_size_m is None:
        raise ConfigurationError(f"{file}: a TIFF file does not say how large a pixel is; add --pixel-size")
    image, labels = _image(file), _image(labels_file)
    if image.shape != labels.shape:
        raise ConfigurationError(f"{labels_file}: has shape {labels.shape}, its image has {image.shape}")
    if labels.dtype.kind not in "biu" or labels.min() < -1 or labels.max() > 1_000_000:
        raise ConfigurationError(
            f"{labels_file}: labels are whole numbers from 1 on, 0 = nothing, -1 = not labelled; "
            f"found {labels.dtype} from {labels.min()} to {labels.max()}"
        )
    if image.dtype.kind not in "biuf" or not np.isfinite(image).all():
        raise ConfigurationError(f"{file}: an image of finite numbers is needed, found {image.dtype}")
    return Picture(str(file), image, labels.astype(np.int32), reading.pixel_size_m)


def _image(file: Path) -> NDArray[Any]:
    try:
        with tifffile.TiffFile(file) as tiff:
            shape = tiff.series[0].shape
            if len(shape) != 2 or shape[0] * shape[1] > _LARGEST_PIXELS:
                raise ConfigurationError(
                    f"{file}: one image (y, x) of at most {_LARGEST_PIXELS} pixels is needed, found {shape}"
                )
            return np.asarray(tiff.asarray())
    except ConfigurationError:
        raise
    except Exception as error:  # tifffile raises anything on a damaged file
        raise ConfigurationError(f"{file}: cannot be read as TIFF: {error}") from error


def _of_session(folder: Path, reading: Reading) -> Iterator[Picture]:
    """Return the parts of frames that people answered about, with all that they said of each."""
    from controller.labels.store import LabelStore

    reader, store = SessionReader(folder), LabelStore.open(folder)
    answers: dict[str, list[Annotation]] = {}
    told: set[str] = set()
    for answer in store.answers():
        if answer.reply.outcome == "nothing here":
            said: tuple[Annotation, ...] = (TagAnnotation(present=(NOTHING_HERE,)),)
        else:
            said = answer.reply.annotations
        told |= {name for one in said for name in one.class_names} - {NOTHING_HERE, AMBIGUOUS}
        for sample_id in answer.sample_ids[:1] if said else ():
            answers.setdefault(sample_id, []).extend(said)
    if told and not reading.object_answers:
        raise ConfigurationError(
            f"{folder}: people answered {', '.join(sorted(map(repr, told)))}; say which of these mean "
            f"that an object is there: --object-answer {min(told)!r}"
        )
    for sample_id, given in answers.items():
        sample = store.sample(sample_id)
        if sample.session != reader.start.run_id or sample.frame_index is None:
            continue
        annotations = [kept for one in given if (kept := _of_one_class(one, reading)) is not None]
        if annotations:
            roi = sample.roi
            photons = reader.frame(sample.frame_index).photons
            schema = LabelSchema(classes=(reading.class_name,))
            labels = ImageAnnotations(
                shape_yx=roi.shape_yx, label_schema=schema, annotations=tuple(annotations)
            )
            part = photons[roi.y : roi.y + roi.rows, roi.x : roi.x + roi.columns]
            yield Picture(f"{folder}, frame {sample.frame_index}", part, labels, sample.pixel_size_m)


def _of_one_class(said: Annotation, reading: Reading) -> Annotation | None:
    """Return an annotation in which every class that means an object is the one class that is learned.

    Other classes are no objects; what says nothing else is left out.
    """

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        kept = (reading.class_name for name in names if name in reading.object_answers)
        always = (name for name in names if name in {NOTHING_HERE, AMBIGUOUS})
        return tuple(dict.fromkeys([*kept, *always]))

    if isinstance(said, GradesAnnotation):
        return None  # of one class alone, halves of several cannot be told
    if isinstance(said, TagAnnotation):
        present = renamed(said.present)
        return TagAnnotation(present=present, weight=said.weight) if present else None
    if isinstance(said, MaskAnnotation):
        names = tuple(
            reading.class_name if name in reading.object_answers else NOTHING_HERE
            for name in said.value_classes
        )
        return said.replace(value_classes=names)
    found = renamed((said.class_name,))
    return said.replace(class_name=found[0]) if found else None
