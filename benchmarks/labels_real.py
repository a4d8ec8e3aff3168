"""From polygons that experts drew on real STED images of actin to a segmentation of rings.

``python -m benchmarks.labels_real FOLDER [--store FOLDER] [--steps N] [--readings …]`` prints tables.
FOLDER holds images, ``.tif`` or ``.tiff``, those with outlines beside them in ``NAME.polys.txt``: the axons
of F. Lavoie-Cardinal et al., Scientific Reports 10, 11960 (2020). Everything goes the way a lab's own labels
go: import into a label store, locked split, consensus, training images, training, segmenter. Images that
show one place are found out and are left out together.

A smoke test, not a validation: images of two places say whether the way works, not how well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from skimage.filters import threshold_otsu
from skimage.registration import phase_cross_correlation

from benchmarks.denoising_results import Rows, table
from benchmarks.movies import as_frame
from controller.core.frame import FloatImage
from controller.labelling.session_images import SessionImages
from controller.labelling.snapshots import Item, Material, collect
from controller.labelling.training_images import CONTEXT_PX, Scale, labelled_images
from controller.labels.formats import ImportOptions, import_labels
from controller.labels.formats.pictures import less_offset, offset_of, read_image
from controller.labels.records import Split
from controller.labels.store import LabelStore
from controller.learning.measures import dice
from controller.learning.rasterise import UNLABELLED
from controller.learning.weak_losses import LossOptions, TermWeights
from controller.networks.weights import Weights
from controller.segmentation.labelled_image import LabelledImage
from controller.segmentation.network_options import NetworkOptions
from controller.segmentation.small_unet import SmallUNetSegmenter
from controller.segmentation.training import TrainingOptions, train

Mask = NDArray[np.bool_]
Pixels = NDArray[Any]

RINGS, UNCLEAR = "rings", "ambiguous"

#: What the numbers 0 and 1 in front of the polygons are taken for. The authors' two descriptions contradict
#: each other: for dendrites 0 is clear and 1 unclear, for axons the other way round. Their own training
#: takes both for rings.
READINGS = {
    "both are rings": (RINGS, RINGS),
    "1 is clear, 0 left out": (UNCLEAR, RINGS),
    "0 is clear, 1 left out": (RINGS, UNCLEAR),
}

#: Of the published images; those of the axons do not say it, the others do.
PIXEL_M = 20e-9
#: A lattice has a period of 190 nm: a region of rings is some periods wide.
NETWORK = NetworkOptions(kind="objects", classes=("background", RINGS), object_px=40.0, pixel_size_m=PIXEL_M)
#: Outlines here are regions, not objects: where their middles lie, and how deep a pixel is, says nothing.
LOSS = LossOptions(weights=TermWeights(centres=0.0, distances=0.0))
OPTIONS = SmallUNetSegmenter.Options()

#: Images whose structures correlate more than this at some shift show one place; others stay below 0.4.
_SAME_PLACE = 0.6
#: Structures: wider than noise and the lattice, narrower than neurites; part that two images must share.
_STRUCTURE_PX, _SHARED = (2.0, 10.0), 0.4

_NEURITE_SIGMA_PX = 3.0
_BLURS_PX = (1.0, 2.0, 3.0, 5.0, 8.0)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """An image and what people said of it.

    Attributes
    ----------
    shown
        The image as the network learns from it.
    truth
        1 rings, 0 none, -1 nobody can say, of the shape of the image.
    """

    name: str
    shown: LabelledImage
    truth: NDArray[np.int16]

    @property
    def photons(self) -> FloatImage:
        """Return the image, shape ``(y, x)``."""
        return self.shown.photons

    @property
    def is_known(self) -> Mask:
        """Return where somebody said what is there."""
        return np.asarray(self.truth != UNLABELLED)

    @property
    def is_rings(self) -> Mask:
        """Return where rings are."""
        return np.asarray(self.truth > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """Images to learn from, images that judge, and what the import had to say."""

    learned: tuple[Judged, ...]
    judges: tuple[Judged, ...]
    notes: tuple[str, ...]


def prepared(source: Path, folder: Path, reading: str, left_out: Sequence[str] = ()) -> Learned:
    """Import the polygons of a folder into a label store, and make training images of them.

    Parameters
    ----------
    source
        Images with their polygons.
    folder
        Of the store; made if it is not there.
    reading
        One of :data:`READINGS`.
    left_out
        Names of the images that judge and are not learned from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = LabelStore.open(folder, create=True)
    try:
        options = ImportOptions(
            classes=("number 0", "number 1"),
            rename=dict(zip(("number 0", "number 1"), READINGS[reading], strict=True)),
            pixel_size_m=PIXEL_M,
            coverage="image",
        )
        brought = import_labels(store, source, "polys", "experts", folder=folder, options=options)
        for sample in store.samples():
            split: Split = "held_out" if sample.field in left_out else "train"
            store.split_of(sample.session, sample.field, partial(_same, split))
        material = collect(store, 0.0)
        if material is None:
            raise ValueError(f"{source} has no polygons")
        return _shown(material, SessionImages(folder), brought.notes)
    finally:
        store.close()


def _same(split: Split) -> Split:
    return split


def _shown(material: Material, images: SessionImages, notes: tuple[str, ...]) -> Learned:
    def judged(item: Item) -> Judged:
        image = images.image(item.sample, CONTEXT_PX)
        scale = Scale(NETWORK, OPTIONS)
        (one,) = labelled_images(item.sample, image, item.annotations, material.label_schema, scale)
        return Judged(item.sample.field, one, one.target(NETWORK).classes)

    by_name = sorted(material.items, key=lambda item: item.sample.field)
    learned = tuple(judged(item) for item in by_name if not item.is_held_out)
    return Learned(learned, tuple(judged(item) for item in by_name if item.is_held_out), notes)


def place_of(first: FloatImage, second: FloatImage) -> tuple[float, tuple[int, int]]:
    """Return how well two images of one shape correlate where they match best, and the shift to there.

    Returns
    -------
    Correlation, -1..1, and rows and columns by which ``second`` is moved to lie on ``first``.
    """
    fine, coarse = _STRUCTURE_PX
    one, two = (
        ndimage.gaussian_filter(image.astype(np.float64), fine) - ndimage.gaussian_filter(image, coarse)
        for image in (first, second)
    )
    everywhere = np.ones(one.shape, np.bool_)
    shift, *_ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        one, two, reference_mask=everywhere, moving_mask=everywhere, overlap_ratio=_SHARED
    )
    rows, columns = (round(float(step)) for step in shift)
    a, b = overlapping(one, two, (rows, columns))
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]), (rows, columns)


def overlapping(first: Pixels, second: Pixels, shift: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Return the parts of two images of one shape that show the same if ``second`` is moved by ``shift``."""
    ours, theirs = [], []
    for step, length in zip(shift, first.shape, strict=True):
        ours.append(slice(max(step, 0), length + min(step, 0)))
        theirs.append(slice(max(-step, 0), length + min(-step, 0)))
    return first[tuple(ours)], second[tuple(theirs)]


def places(images: Sequence[Judged]) -> list[tuple[Judged, ...]]:
    """Return images in groups that show one place each."""
    groups: list[tuple[Judged, ...]] = []
    for image in images:
        near = [g for g in groups if any(place_of(o.photons, image.photons)[0] > _SAME_PLACE for o in g)]
        groups = [g for g in groups if g not in near] + [(*(one for g in near for one in g), image)]
    return groups


def drawn_twice(images: Sequence[Judged]) -> Rows:
    """Return how well the outlines agree that people drew in two images of one place."""
    rows: Rows = {}
    for group in places(images):
        for first, second in combinations(group, 2):
            correlation, shift = place_of(first.photons, second.photons)
            known = np.logical_and(*overlapping(first.is_known, second.is_known, shift))
            one, two = overlapping(first.is_rings, second.is_rings, shift)
            rows[f"{first.name} and {second.name}"] = {
                "correlation": correlation,
                "shift, px": float(np.hypot(*shift)),
                "Dice of the outlines": dice(one[known][None], two[known][None]),
            }
    return rows


def trained(images: Sequence[Judged], steps: int, seed: int) -> Weights:
    """Return a new network that learned from all images; nothing else chose anything of it."""
    shown = [one.shown for one in images]
    training = TrainingOptions(steps=steps, checkpoints=1, loss=LOSS)
    return train(shown, [], NETWORK, training, np.random.default_rng([seed, 0])).weights


def probability(weights: Weights, photons: FloatImage) -> FloatImage:
    """Return how probable the segmenter of a session finds rings in each pixel, shape ``(y, x)``."""
    segmenter = SmallUNetSegmenter(OPTIONS, weights)
    return segmenter.step(as_frame(photons, pixel_size_m=PIXEL_M), None).probability


def bright(photons: FloatImage, sigma_px: float = _NEURITE_SIGMA_PX) -> Mask:
    """Return what Otsu's threshold finds in the smoothed image: all that is stained."""
    smooth = ndimage.gaussian_filter(photons.astype(np.float64), sigma_px)
    return np.asarray(smooth > threshold_otsu(smooth))  # type: ignore[no-untyped-call]


def best_blur_px(images: Sequence[Judged]) -> float:
    """Return the smoothing with which Otsu's threshold meets the rings of these images best."""
    with_rings = [one for one in images if one.is_rings.any()]

    def overlap(sigma_px: float) -> float:
        return float(np.mean([_iou(bright(one.photons, sigma_px), one) for one in with_rings]))

    return max(_BLURS_PX, key=overlap) if with_rings else _NEURITE_SIGMA_PX


def _iou(found: Mask, image: Judged) -> float:
    found, rings = found[image.is_known], image.is_rings[image.is_known]
    union = np.count_nonzero(found | rings)
    return np.count_nonzero(found & rings) / union if union else 1.0


def figures(score: FloatImage, found: Mask, image: Judged) -> dict[str, float]:
    """Return how well rings were found.

    Parameters
    ----------
    score
        Higher where rings are more probable, shape ``(y, x)``.
    found
        Where rings were said to be, of the same shape.

    Returns
    -------
    IoU and Dice of all pixels of which something is known; the IoU that as many pixels would have by
    chance; the part of the regions more than half of which was found. In the neurites, which are told from
    what is dark by Otsu's threshold: Dice, and the probability that a pixel of rings has a higher score than
    one without (AUC, 0.5 is chance).
    """
    known, rings = image.is_known, image.is_rings
    found_part, rings_part = found[known].mean(), rings[known].mean()
    both = found_part * rings_part
    by_chance = both / (found_part + rings_part - both) if found_part + rings_part else 1.0
    regions, count = ndimage.label(rings)
    covered = ndimage.mean(found, regions, np.arange(1, count + 1)) if count else np.zeros(0)
    sizes = np.bincount(regions.ravel())[1:]
    inside = known & bright(image.photons)
    return {
        "IoU": _iou(found, image),
        "IoU by chance": float(by_chance),
        "Dice": dice(found[known][None], rings[known][None]),
        "regions found, %": 100 * float(np.mean(np.asarray(covered)[sizes >= 100] > 0.5)),
        "Dice in neurites": dice(found[inside][None], rings[inside][None]),
        "AUC in neurites": _area_under_curve(score[inside], rings[inside]),
    }


def _area_under_curve(score: NDArray[np.float32], truth: Mask) -> float:
    if truth.all() or not truth.any():
        return float("nan")
    result = stats.mannwhitneyu(score[truth], score[~truth])
    return float(result.statistic / (np.count_nonzero(truth) * np.count_nonzero(~truth)))


def leave_places_out(source: Path, folder: Path, reading: str, steps: int, seed: int) -> Rows:
    """Return figures for each image with rings: learned from all other places, judged by it alone."""
    everything = prepared(source, folder / "all", reading).learned
    outlined = [one for one in everything if one.is_rings.any()]
    rows: Rows = {}
    for group in places(everything):
        names = [one.name for one in group]
        if not any(one.is_rings.any() for one in group) or all(one in group for one in outlined):
            continue
        fold = prepared(source, folder / f"without {' '.join(names)}", reading, names)
        empty = [one for one in fold.learned if not one.is_rings.any()]
        alone, both = _choices(fold.learned)
        weights = trained(alone, steps, seed)
        taught_empty = trained(both, steps, seed) if empty else None
        sigma_px = best_blur_px(fold.learned)
        for judge in fold.judges:
            if not judge.is_rings.any():
                continue
            rows |= _of_network(f"{judge.name}: network", weights, judge, empty)
            if taught_empty:
                name = f"{judge.name}: network, taught empty images too"
                rows |= _of_network(name, taught_empty, judge, ())
            smooth = ndimage.gaussian_filter(judge.photons, sigma_px)
            found = bright(judge.photons, sigma_px)
            rows[f"{judge.name}: Otsu, smoothed by {sigma_px:g} px"] = figures(smooth, found, judge)
    return rows


def _choices(images: Sequence[Judged]) -> tuple[Sequence[Judged], Sequence[Judged]]:
    """Return the images in which rings are, and all."""
    return [one for one in images if one.is_rings.any()], images


def _of_network(name: str, weights: Weights, judge: Judged, empty: Sequence[Judged]) -> Rows:
    """Return the figures of a network, and what it finds in stained places where no rings are."""
    chance = probability(weights, judge.photons)
    row = figures(chance, chance > 0.5, judge)
    if empty:
        wrong = [probability(weights, one.photons)[bright(one.photons)] > 0.5 for one in empty]
        row["found in empty, %"] = 100 * float(np.mean(np.concatenate(wrong)))
    return {name: row}


def fractions(source: Path, weights: Weights) -> Rows:
    """Return how much of the neurites are rings in the images that nobody labelled."""
    rows: Rows = {}
    for path in sorted(source.iterdir()):
        name = path.name.partition(".")[0]
        if path.suffix not in {".tif", ".tiff"} or (source / f"{name}.polys.txt").exists():
            continue
        pixels = read_image(path).pixels
        offset = offset_of(pixels)
        photons = np.maximum(less_offset(pixels, float(offset)), 0).astype(np.float32)
        chance, neurites = probability(weights, photons), bright(photons)
        rows[name] = {
            "offset": float(offset),
            "rings, % of neurites": 100 * float((chance[neurites] > 0.5).mean()),
            "mean probability, %": 100 * float(chance[neurites].mean()),
        }
    return rows


def coverage(images: Sequence[Judged]) -> Rows:
    """Return what the outlines leave out."""
    rows: Rows = {}
    for one in images:
        stained, outlined = bright(one.photons), one.truth != 0
        rows[one.name] = {
            "stained, %": 100 * float(stained.mean()),
            "of that outlined, %": 100 * float(outlined[stained].mean()),
            "rings, %": 100 * float(one.is_rings.mean()),
            "left out of learning, %": 100 * float((~one.is_known).mean()),
        }
    return rows


COVERAGE = (
    ("stained, %", 0),
    ("of that outlined, %", 0),
    ("rings, %", 0),
    ("left out of learning, %", 0),
)
JUDGED = (
    ("IoU", 2),
    ("IoU by chance", 2),
    ("Dice", 2),
    ("regions found, %", 0),
    ("Dice in neurites", 2),
    ("AUC in neurites", 2),
    ("found in empty, %", 0),
)
TWICE = (("correlation", 2), ("shift, px", 0), ("Dice of the outlines", 2))
FRACTIONS = (("offset", 0), ("rings, % of neurites", 1), ("mean probability, %", 1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="labels_real", description=__doc__)
    parser.add_argument("folder", type=Path, help="images and their .polys.txt")
    parser.add_argument("--store", type=Path, help="folder for the label stores; a temporary one without it")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readings", nargs="*", choices=READINGS, default=list(READINGS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = asked.store or Path(temporary)
        for reading in asked.readings:
            _tell(asked.folder, store / reading, reading, asked.steps, asked.seed)


def _tell(source: Path, folder: Path, reading: str, steps: int, seed: int) -> None:
    began_s = time.process_time()
    everything = prepared(source, folder / "all", reading)
    print(f"\n## {reading}\n")
    for note in everything.notes:
        print(f"- {note}")
    print(f"\n{table([coverage(everything.learned)], COVERAGE)}\n")
    print(f"Images of one place:\n\n{table([drawn_twice(everything.learned)], TWICE)}\n")
    print("Each place left out once, judged by its images alone (a smoke test, not a validation):\n")
    print(table([leave_places_out(source, folder, reading, steps, seed)], JUDGED))
    for told, images in zip(("outlined images", "all"), _choices(everything.learned), strict=True):
        print(f"\nLearned from {told}, shown images that nobody outlined:\n")
        print(table([fractions(source, trained(images, steps, seed))], FRACTIONS))
    print(f"\n{time.process_time() - began_s:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
