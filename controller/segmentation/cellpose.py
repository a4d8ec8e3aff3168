"""Cellpose 4, with weights from a file that is there: nothing is downloaded and nothing unpickled.

Cellpose fetches weights that it does not find, reads them with ``torch.load``, and leaves at random what a
file does not hold. So the file is looked for, opened as numbers only and compared with the network here.
Its published weights, and any that are trained from them, are for non-commercial use (CC-BY-NC data).

References
----------
.. [1] M. Pachitariu, M. Rariden, C. Stringer, Cellpose-SAM, bioRxiv 2025.04.28.651001.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import special

from controller.core.errors import ConfigurationError
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import Resources
from controller.core.settings import MAX_PIXELS, NonNegative, Positive
from controller.segmentation.foreign_answers import numbered
from controller.segmentation.foreign_files import ForeignModelError, Sha256, check_file, library
from controller.segmentation.foreign_images import Channel, ImageOptions, Prepared, prepare
from controller.segmentation.spots import binary_entropy_bits

#: Cellpose-SAM has 1.2 GB.
LARGEST_BYTES = 4_000_000_000

#: Diameter in pixels that Cellpose scales objects to.
_DIAMETER_PIXELS = 30.0
#: With this torch.load unpickles whatever a file holds, unless its caller says otherwise; Cellpose does not.
_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
#: Written into every file, used by none.
_UNUSED = frozenset({"diam_labels", "diam_mean"})


class CellposeSegmenter:
    """Finds cells with Cellpose 4. A vision transformer: seconds a frame without a GPU."""

    class Options(ImageOptions):
        """The weights, and how objects are made of what the network answers."""

        weights: Annotated[str, Field(min_length=1)]
        """A file of Cellpose 4, its own or trained by you; the path starts at the configuration file."""
        sha256: Sha256 | None = None
        """Checksum of the file; another one is refused."""
        channels: Annotated[tuple[Channel, ...], Field(min_length=1, max_length=3)] = ("image",)
        """Up to three; Cellpose scales each to its 1st and 99th percentile."""
        diameter_m: Positive | None = None
        """Diameter of a cell. Frames are scaled so that it has 30 pixels; without it they are not."""
        cell_probability_threshold: Annotated[float, Field(ge=-20, le=20)] = 0.0
        """Logit from which a pixel is a cell; 0 is a probability of one half."""
        flow_threshold: NonNegative = 0.4
        """Largest error of a cell's flows; 0 keeps all cells."""
        smallest_area_m2: NonNegative = 0.0
        """Cells of a smaller area are dropped."""
        device: Literal["cpu", "cuda"] = "cpu"

    def __init__(self, path: Path, options: Options) -> None:
        """Load the weights at ``path``.

        Raises
        ------
        ConfigurationError
            If they are no weights of Cellpose 4, or hold anything but numbers.
        """
        self.options = options
        models, torch = library("cellpose.models", "cellpose"), library("torch", "cellpose")
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError("device = 'cuda' needs a GPU that torch can use; there is none")
        names = _names_in(path, torch)
        try:
            self._model = models.CellposeModel(
                gpu=options.device == "cuda",
                pretrained_model=str(path.resolve()),
                use_bfloat16=options.device == "cuda",
            )
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{path}: Cellpose cannot use it: {str(error)[:300]}") from error
        missing = sorted(set(self._model.net.state_dict()) - names - _UNUSED)
        if missing:
            raise ConfigurationError(
                f"{path}: weights of another network: {len(missing)} tensors are missing, the first is "
                f"{missing[0]}"
            )

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        """Check and load the file; ``options`` is a :class:`CellposeSegmenter.Options`."""
        checked = cls.Options.model_validate(options)
        path = resources.folder / Path(checked.weights).expanduser()
        check_file(path, LARGEST_BYTES, checked.sha256)
        return cls(path, checked)

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        """Find the cells of a frame, in its denoised image if the options say so and there is one.

        Raises
        ------
        ForeignModelError
            If Cellpose fails, or its answer is not finite or of another size.
        """
        prepared = prepare(frame, denoised, self.options)
        labels, logits = self._run(prepared, self._diameter_pixels(frame, prepared))
        probability = special.expit(prepared.in_frame(logits[None])[0]).astype(np.float32)
        smallest = self.options.smallest_area_m2 / frame.settings.pixel_size_m**2
        objects = numbered(prepared.in_frame(labels[None], nearest=True)[0], smallest)
        return Segmentation(objects, probability, binary_entropy_bits(probability))

    def _diameter_pixels(self, frame: Frame, prepared: Prepared) -> float | None:
        """Return a cell's diameter in pixels of ``prepared``."""
        if self.options.diameter_m is None:
            return None
        pixel_m = frame.settings.pixel_size_m
        if prepared.shape != prepared.frame_shape and self.options.pixel_size_m is not None:
            pixel_m = self.options.pixel_size_m
        diameter = self.options.diameter_m / pixel_m
        rows, columns = (size * _DIAMETER_PIXELS / diameter for size in prepared.shape)
        if rows * columns > MAX_PIXELS or min(rows, columns) < 1:
            raise ForeignModelError(
                f"diameter_m = {self.options.diameter_m:g} is {diameter:.3g} pixels; scaled to "
                f"{_DIAMETER_PIXELS:g} the frame would have {rows:.3g} x {columns:.3g} pixels, 1 to "
                f"{MAX_PIXELS} in all are allowed"
            )
        return diameter

    def _run(self, prepared: Prepared, diameter: float | None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return labels and logits, both ``(y, x)``."""
        image = np.moveaxis(prepared.channels, 0, -1)
        try:
            labels, flows, _ = self._model.eval(
                image,
                channel_axis=-1,
                diameter=diameter,
                flow_threshold=self.options.flow_threshold,
                cellprob_threshold=self.options.cell_probability_threshold,
                # Small cells are dropped by their area, at the frame's pixel size.
                min_size=-1,
            )
        except Exception as error:  # torch, OpenCV and Cellpose raise whatever they like
            raise ForeignModelError(f"Cellpose failed: {type(error).__name__}: {str(error)[:300]}") from error
        labels, logits = np.asarray(labels), np.asarray(flows[2], np.float64)
        if labels.size != logits.size or logits.size != np.prod(prepared.shape):
            raise ForeignModelError(
                f"Cellpose answered {labels.shape} and {logits.shape} to {prepared.shape} pixels"
            )
        if not np.isfinite(logits).all():
            raise ForeignModelError("Cellpose answered nan or inf")
        # It drops the axes of one-pixel lines.
        return labels.reshape(prepared.shape), logits.reshape(prepared.shape)


def _names_in(path: Path, torch: Any) -> set[str]:
    """Return the names of the tensors in a file, read in a way that executes nothing."""
    if os.environ.get(_UNSAFE, "").lower() not in {"", "0", "n", "no", "false", "f"}:
        raise ConfigurationError(
            f"{_UNSAFE} is set: torch would execute what a file of weights says; unset it"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what is refused as no plain numbers, too
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConfigurationError(
            f"{path}: not a file of numbers that torch can read safely: {reason}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigurationError(f"{path}: weights are tensors by name; it holds something else")
    names = {str(name).removeprefix("module.") for name in state}
    if "W2" not in names:
        raise ConfigurationError(f"{path}: weights of Cellpose 4 are needed; those of Cellpose 3 do not fit")
    return names
