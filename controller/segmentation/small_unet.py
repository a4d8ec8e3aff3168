"""A small network that finds spots or compact objects, and says how far to trust it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from controller.core.errors import ConfigurationError, ModelPassedOverError
from controller.core.frame import Denoised, FloatImage, Frame, Segmentation
from controller.core.protocols import ModelChange, Resources
from controller.core.settings import Fraction, Positive, Settings
from controller.networks.runtime import Runtime, RuntimeOptions
from controller.networks.weights import Weights, WeightsError, check, read_weights
from controller.segmentation.heads import HeadMaps, head_maps, instances
from controller.segmentation.network_inputs import network_inputs
from controller.segmentation.network_options import NetworkOptions, options_of
from controller.segmentation.published import Follower, Published, number_of, published_folder
from controller.segmentation.resampling import labels_resampled, map_resampled, photons_resampled
from controller.segmentation.spots import LARGEST, binary_entropy_bits, in_photons
from controller.segmentation.training import network_of

#: What comes with the package: trained on drawn images, see docs/segmentation.md.
SHIPPED = ("spots", "cells")
_SHIPPED_FOLDER = Path(__file__).parent / "weights"

#: Sizes of objects where neither the options nor the card say one; those of the classical methods.
_USUAL_SIZE_M = {"spots": 1e-7, "objects": 1e-5}
#: No image is made finer than this: what is not in its pixels does not come from more of them.
_FINEST = 4.0
#: More than this do not fit into the memory of the computer at a microscope.
_LARGEST_PIXELS = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class Assessment:
    """A segmentation, and what is behind its uncertainty.

    Attributes
    ----------
    segmentation
        As :meth:`SmallUNetSegmenter.step` gives it.
    classes
        Probability of each class, shape ``(classes, y, x)``, float32, sum 1.
    disagreement_bits
        The part of the uncertainty that comes from what the heads do not agree on, shape ``(y, x)``: more
        labels of such images would lower it. The rest lies in the image, and only light lowers that.
    """

    segmentation: Segmentation
    classes: NDArray[np.float32]
    disagreement_bits: FloatImage


class SmallUNetSegmenter:
    """Finds objects with a small U-Net that sees the frame, its denoised image and that one's error.

    Four heads, each trained with other weights of the training images, give the probability. Their mean's
    entropy is the uncertainty: it holds both what every head doubts and what they disagree about. The
    heads share all layers but the last, so they disagree less than separate networks would.
    """

    class Options(Settings):
        """Which weights, what an object looks like, and what one photon is in the detector's units."""

        weights: Annotated[str, Field(min_length=1, max_length=4096)] = "spots"
        """``spots`` or ``cells``, which come with the package, or a ``.safetensors`` file with its card."""
        object_size_m: Positive | None = None
        """Expected size of an object in metres (width of a spot at half maximum, diameter of others).
        Without it, the pixel size of the weights' training images counts; drawn ones have none, and then
        1e-7 is taken for spots and 1e-5 for others."""
        resample_beyond: Annotated[float, Field(ge=1, le=16)] = 1.3
        """Images are brought to the scale of the training when theirs differs by more than this factor."""
        center_threshold: Fraction | None = None
        """Lower finds more objects, and more that are none; the card says which was best in training."""
        units_per_photon: Positive = 1.0
        """Detector units that one photon gives (1 for a photon counter)."""
        offset_units: float = 0.0
        """Detector units at no light."""
        runtime: RuntimeOptions = RuntimeOptions()
        """Where and how the network runs."""
        follow_labels: bool = False
        """Whether models that are trained from people's answers during the session take over."""

    def __init__(self, options: Options, weights: Weights, session_folder: Path | None = None) -> None:
        self.options = options
        self.network_options = self._options_of(weights)
        self.sha256 = weights.sha256
        self._follower: Follower | None = None
        if options.follow_labels and session_folder is not None:
            self._follower = Follower(published_folder(session_folder))
        self._runtime = Runtime(network_of(weights, self.network_options), options.runtime)

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        """Make the segmenter; ``options`` is a :class:`SmallUNetSegmenter.Options`.

        Raises
        ------
        ConfigurationError
            If the weights are not there, or are no segmenter's.
        """
        options = cls.Options.model_validate(options)
        try:
            weights = find_weights(options.weights, resources.folder)
            return cls(options, weights, resources.session_folder)
        except WeightsError as error:
            raise ConfigurationError(f"segmenter weights: {error}") from error

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        """Find the objects of a frame, in its denoised image too if there is one.

        Returns
        -------
        Labels of objects; the probability of any class but the first; uncertainty, the entropy of that in
        bits. All of the shape of the frame, also for a single pixel.
        """
        maps, labels = self._answer(frame, denoised)
        return _segmentation(maps.foreground, labels, frame.photons.shape)

    def assess(self, frame: Frame, denoised: Denoised | None) -> Assessment:
        """Do as :meth:`step`, and tell classes and the heads' disagreement apart."""
        maps, labels = self._answer(frame, denoised)
        rows, columns = frame.photons.shape
        return Assessment(
            _segmentation(maps.foreground, labels, (rows, columns)),
            np.stack([map_resampled(one, (rows, columns)) for one in maps.classes]),
            map_resampled(maps.disagreement_bits, (rows, columns)),
        )

    def improve(self) -> ModelChange | None:
        """Take over the newest model that was trained from people's answers, if ``follow_labels`` says so.

        Which cycle that is depends on when people answered: a session that is resumed or replayed follows
        its record.

        Raises
        ------
        ModelPassedOverError
            Once for each published model that is damaged, or is no segmenter.
        """
        follower = self._follower
        if follower is None:
            return None
        found = follower.newer()
        if found is not None:
            try:
                return self._follow(found, follower)
            except (WeightsError, ValueError) as error:
                follower.refuse(found.number, error)
        if (problem := follower.problem()) is not None:
            raise ModelPassedOverError(problem)
        return None

    def adopt(self, weights: bytes, card: Mapping[str, JsonValue]) -> None:
        """Take recorded weights into use.

        Raises
        ------
        WeightsError
            If they are damaged, or of another kind of model.
        """
        checked = check(weights, json.dumps(dict(card)), "recorded weights")
        self._take(checked)
        if self._follower is not None:
            self._follower.took(number_of(checked.card))

    def _follow(self, found: Published, follower: Follower) -> ModelChange | None:
        is_same = found.weights.sha256 == self.sha256
        if not is_same:
            self._take(found.weights)
        follower.took(found.number)
        return None if is_same else _change(found)

    def _take(self, weights: Weights) -> None:
        options = self._options_of(weights)
        self._runtime.replace(network_of(weights, options))
        self.network_options, self.sha256 = options, weights.sha256

    def _options_of(self, weights: Weights) -> NetworkOptions:
        options, threshold = options_of(weights.card), self.options.center_threshold
        return options if threshold is None else options.replace(center_threshold=threshold)

    def _answer(self, frame: Frame, denoised: Denoised | None) -> tuple[HeadMaps, NDArray[np.int32]]:
        """Return maps and labels at the scale of the network."""
        options = self.options
        shape = self._shape_at_scale(frame)
        photons = in_photons(frame.photons, options.offset_units, options.units_per_photon)
        mean = std = None
        if denoised is not None:
            mean = photons_resampled(
                in_photons(denoised.mean, options.offset_units, options.units_per_photon), shape
            )
            # Errors of the estimate are alike in neighbours: they add up like the photons themselves.
            std = photons_resampled(in_photons(denoised.std, 0.0, options.units_per_photon), shape)
        inputs = network_inputs(photons_resampled(np.minimum(photons, LARGEST), shape), mean, std)
        maps = head_maps(self._runtime.run(inputs[None])[0], self.network_options)
        return maps, instances(maps, self.network_options)

    def _shape_at_scale(self, frame: Frame) -> tuple[int, int]:
        """Return how many pixels the network is shown of this frame."""
        rows, columns = frame.photons.shape
        own_m = frame.settings.pixel_size_m
        rows, columns = shape_at_scale((rows, columns), own_m, self.network_options, self.options)
        if rows * columns > _LARGEST_PIXELS:
            raise MemoryError(
                f"{rows} x {columns} pixels at the scale of the network are more than {_LARGEST_PIXELS}; "
                f"scan coarser or less, or say that objects are larger (object_size_m)"
            )
        return rows, columns


def shape_at_scale(
    shape: tuple[int, ...], pixel_size_m: float, network: NetworkOptions, options: SmallUNetSegmenter.Options
) -> tuple[int, int]:
    """Return how many rows and columns a network is shown of an image with pixels of this size."""
    size_m = options.object_size_m
    if size_m is not None:
        trained_m = size_m / network.object_px
    elif network.pixel_size_m is not None:
        trained_m = network.pixel_size_m
    else:
        trained_m = _USUAL_SIZE_M[network.kind] / network.object_px
    factor = min(pixel_size_m / trained_m, _FINEST)
    if 1 / options.resample_beyond <= factor <= options.resample_beyond:
        factor = 1.0
    rows, columns = (max(1, round(side * factor)) for side in shape)
    return rows, columns


def find_weights(name: str, folder: Path) -> Weights:
    """Return the weights that come with the package, or those of a file, from ``folder`` on if relative.

    Raises
    ------
    WeightsError
        If there are none, or they are damaged.
    """
    if name in SHIPPED:
        return read_weights(_SHIPPED_FOLDER / f"{name}.safetensors")
    if Path(name).suffix not in {".safetensors", ".json"}:
        raise WeightsError(f"{name!r} is neither one of {', '.join(SHIPPED)} nor a .safetensors file")
    return read_weights(folder / name)


def _change(found: Published) -> ModelChange:
    """Return a published model as the session writes it down; scores that its card lacks count as 0."""
    card = found.weights.card
    reason = card.training.get("reason")
    return ModelChange(
        role="segmenter",
        sha256=found.weights.sha256,
        weights=found.weights.data,
        card=card.model_dump(mode="json", by_alias=True),
        score_before=card.metrics.get("score_before", 0.0),
        score_after=card.metrics.get("score", 0.0),
        reason=f"published model {found.number}: {reason or 'trained from labels'}",
    )


def _segmentation(foreground: FloatImage, labels: NDArray[np.int32], shape: tuple[int, ...]) -> Segmentation:
    rows, columns = shape
    probability = np.clip(map_resampled(foreground, (rows, columns)), 0, 1)
    return Segmentation(
        labels_resampled(labels, (rows, columns)), probability, binary_entropy_bits(probability)
    )
