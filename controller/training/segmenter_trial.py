"""Trains a segmenter on labelled images and tells whether it is better than what was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.core.frame import Denoised, Frame
from controller.core.protocols import Segmenter
from controller.core.settings import Region, ScanSettings
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.learning.annotations import ImageAnnotations
from controller.learning.augmentation import IntensityScale, Sample
from controller.networks.weights import Weights
from controller.segmentation.held_out import Score, score
from controller.segmentation.labelled_image import LabelledImage
from controller.segmentation.network_options import NetworkOptions, options_of
from controller.segmentation.objects import ThresholdWatershedSegmenter
from controller.segmentation.resampling import labels_resampled, photons_resampled
from controller.segmentation.small_unet import SmallUNetSegmenter
from controller.segmentation.spots import LogSpotSegmenter, WaveletSpotSegmenter, in_photons
from controller.segmentation.training import Checkpoint, TrainingOptions, train
from controller.training.image_files import Picture

#: Images are cut into tiles of at most this many pixels of the network, so that some can be held out.
_TILE_PX = 128
#: Part of the tiles that is held out where the images do not say which.
_HELD_OUT = 0.2


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """How a trial is made.

    Attributes
    ----------
    object_size_m
        Width of a spot at half maximum, or diameter of an object.
    units_per_photon, offset_units
        Of the detector.
    resample_beyond
        As for the segmenter: images are brought to the network's scale beyond this factor.
    """

    object_size_m: float
    units_per_photon: float = 1.0
    offset_units: float = 0.0
    resample_beyond: float = 1.3


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A part of a picture, in photons at the scale of the network, with its denoised image."""

    frame: Frame
    denoised: Denoised
    labels: NDArray[np.int32] | ImageAnnotations
    is_held_out: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What came of it.

    Attributes
    ----------
    weights
        The new ones; the card's metrics hold the scores.
    scores
        On the held-out tiles, of ``before``, ``after``, and of the classical methods by name.
    example
        The held-out tile with the most objects, for a picture.
    history
        Held-out loss at the checkpoints.
    """

    weights: Weights
    scores: dict[str, Score]
    example: Tile
    history: tuple[Checkpoint, ...]

    @property
    def rival(self) -> str:
        """Return the name of the best of what was there."""
        return max((name for name in self.scores if name != "after"), key=lambda name: self.scores[name].f1)

    @property
    def is_better(self) -> bool:
        """Tell whether the new weights find more of the held-out objects than all that was there."""
        return self.scores["after"].f1 > self.scores[self.rival].f1


def try_segmenter(
    pictures: Sequence[Picture],
    start: Weights,
    options: TrialOptions,
    training: TrainingOptions,
    *,
    seed: int,
    report: Callable[[Checkpoint], None] | None = None,
) -> Trial:
    """Train from ``start`` on, and compare on tiles that were held out.

    Raises
    ------
    ConfigurationError
        If there are not enough labelled tiles to learn from some and judge by others.
    """
    network = options_of(start.card)
    rng = np.random.default_rng(seed)
    tiles = _split([tile for picture in pictures for tile in tiles_of(picture, network, options)], rng)
    judges = [tile for tile in tiles if tile.is_held_out]
    learned = [tile for tile in tiles if not tile.is_held_out]
    done = train(
        [*_twice(learned), *_dimmer(learned, rng)],
        _twice(judges),
        start,
        training,
        rng,
        report=report,
        trained_on=tuple(sorted({picture.name for picture in pictures}))[:50],
    )
    size_m = options.object_size_m
    rivals = _rivals(network, start, size_m)
    scores = {name: _score(rival, judges, network) for name, rival in rivals.items()}
    scores["after"] = _score(_learned(done.weights, size_m), judges, network)
    metrics = {f"held_out_{what}": getattr(scores["after"], what) for what in ("f1", "dice")}
    card = done.weights.card.replace(metrics=metrics)
    example = max(judges, key=lambda tile: int(np.max(_truth(tile))))
    return Trial(Weights(done.weights.data, card), scores, example, done.history)


def tiles_of(picture: Picture, network: NetworkOptions, options: TrialOptions) -> list[Tile]:
    """Cut a picture into tiles at the scale of the network; one with annotations stays whole.

    Raises
    ------
    ConfigurationError
        If annotations come with another scale than the network's: they are not resampled.
    """
    factor = picture.pixel_size_m * network.object_px / options.object_size_m
    if 1 / options.resample_beyond <= factor <= options.resample_beyond:
        factor = 1.0
    photons = in_photons(picture.photons, options.offset_units, options.units_per_photon)
    rows, columns = (max(1, round(side * factor)) for side in photons.shape)
    pixel_size_m = picture.pixel_size_m / factor
    held_out = picture.part in {"val", "test"}
    if isinstance(picture.labels, ImageAnnotations):
        if factor != 1.0:
            raise ConfigurationError(
                f"{picture.name}: its pixels are {factor:.2f} times as large as the network's, and answers "
                f"are not resampled; scan with pixels of {options.object_size_m / network.object_px:.2g} m"
            )
        return [_tile(photons.astype(np.float32), picture.labels, pixel_size_m)]
    light = photons_resampled(photons, (rows, columns))
    labels = labels_resampled(picture.labels, (rows, columns))
    return [
        _tile(light[part], labels[part], pixel_size_m, is_held_out=held_out) for part in _parts(rows, columns)
    ]


def frame_of(photons: NDArray[np.float32], pixel_size_m: float) -> Frame:
    """Return an image as a frame that a segmenter takes."""
    rows, columns = photons.shape
    region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(rows * pixel_size_m, columns * pixel_size_m))
    scan = ScanSettings(
        modality="overview", region=region, pixel_size_m=pixel_size_m, dwell_s=1e-6, excitation_w=1e-6
    )
    return Frame(photons, scan, 0, 0.0)


def _tile(
    photons: NDArray[np.float32],
    labels: NDArray[np.int32] | ImageAnnotations,
    pixel_size_m: float,
    *,
    is_held_out: bool = False,
) -> Tile:
    frame = frame_of(photons, pixel_size_m)
    return Tile(frame, AdaptiveKalmanDenoiser().step(frame), labels, is_held_out)


def _parts(rows: int, columns: int) -> list[tuple[slice, slice]]:
    edges = [np.linspace(0, side, -(-side // _TILE_PX) + 1).round().astype(int) for side in (rows, columns)]
    return [
        (slice(int(top), int(bottom)), slice(int(left), int(right)))
        for top, bottom in zip(edges[0], edges[0][1:], strict=False)
        for left, right in zip(edges[1], edges[1][1:], strict=False)
    ]


def _split(tiles: list[Tile], rng: np.random.Generator) -> list[Tile]:
    """Hold out what the sources hold out, or a part by chance; only label images can judge."""
    if any(tile.is_held_out for tile in tiles) and not all(tile.is_held_out for tile in tiles):
        return tiles
    fit = [n for n, tile in enumerate(tiles) if not isinstance(tile.labels, ImageAnnotations)]
    count = max(1, round(_HELD_OUT * len(tiles)))
    if len(fit) < count or len(tiles) < 2:
        raise ConfigurationError(
            f"{len(tiles)} labelled parts of images, {len(fit)} of them with every object outlined: at least "
            f"2, and {count} outlined, are needed, to learn from some and to judge by others"
        )
    chosen = set(rng.permutation(fit)[:count].tolist())
    return [Tile(tile.frame, tile.denoised, tile.labels, n in chosen) for n, tile in enumerate(tiles)]


def _twice(tiles: Sequence[Tile]) -> list[LabelledImage]:
    """Return each tile as the segmenter sees it without and with a denoiser."""
    seen = []
    for tile in tiles:
        photons = np.asarray(tile.frame.photons, np.float32)
        seen.append(LabelledImage(photons, tile.labels))
        seen.append(LabelledImage(photons, tile.labels, None, tile.denoised.mean, tile.denoised.std))
    return seen


def _dimmer(tiles: Sequence[Tile], rng: np.random.Generator) -> list[LabelledImage]:
    """Return the tiles that are counts with fewer photons: the next sample may be dimmer than these."""
    less = IntensityScale(lowest=0.2, highest=0.8)
    return [
        LabelledImage(less(Sample(photons, {}), rng).image.astype(np.float32), tile.labels)
        for tile in tiles
        if np.array_equal(photons := tile.frame.photons, np.rint(tile.frame.photons))
    ]


def _rivals(network: NetworkOptions, start: Weights, size_m: float) -> dict[str, Segmenter]:
    before: dict[str, Segmenter] = {"before": _learned(start, size_m)}
    if network.kind == "spots":
        return before | {
            "spots_log": LogSpotSegmenter(LogSpotSegmenter.Options(spot_size_m=size_m)),
            "spots_wavelet": WaveletSpotSegmenter(WaveletSpotSegmenter.Options(spot_size_m=size_m)),
        }
    options = ThresholdWatershedSegmenter.Options(object_size_m=size_m)
    return before | {"objects": ThresholdWatershedSegmenter(options)}


def _learned(weights: Weights, size_m: float) -> SmallUNetSegmenter:
    return SmallUNetSegmenter(SmallUNetSegmenter.Options(object_size_m=size_m), weights)


def _score(segmenter: Segmenter, tiles: Sequence[Tile], network: NetworkOptions) -> Score:
    """Return the score over all tiles, each with its denoised image, as in a session."""
    answers = [(segmenter.step(tile.frame, tile.denoised).labels, _truth(tile)) for tile in tiles]
    return score(answers, network.kind, network.object_px)


def _truth(tile: Tile) -> NDArray[np.int32]:
    if isinstance(tile.labels, ImageAnnotations):  # never held out
        raise TypeError("annotations cannot judge")
    return tile.labels
