"""A model of the BioImage Model Zoo, from a local package, with the processing that its description asks for.

bioimageio.core does the processing, ONNX Runtime the network; see :mod:`bioimage_package` for what is
refused before either sees it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import Field

from controller.core.errors import ConfigurationError
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.protocols import Resources
from controller.segmentation.bioimage_package import LARGEST_BYTES, read_package
from controller.segmentation.foreign_answers import AnswerOptions, segmentation_of
from controller.segmentation.foreign_files import ForeignModelError, Sha256, library, read_file
from controller.segmentation.foreign_images import ImageOptions, Prepared, prepare
from controller.segmentation.onnx_model import FLOAT_TYPES, check_onnx, open_onnx

_NEWEST_PYDANTIC = (2, 13)
_METRES = {"meter": 1.0, "millimeter": 1e-3, "micrometer": 1e-6, "nanometer": 1e-9, "picometer": 1e-12}


class BioimageSegmenter:
    """Finds objects with a model of the BioImage Model Zoo."""

    class Options(ImageOptions, AnswerOptions):
        """The package, which of its outputs is used, and what its numbers mean.

        Axes, sizes and normalisation are those of the package, and so is the pixel size where it says one
        and ``pixel_size_m`` does not.
        """

        model: Annotated[str, Field(min_length=1)]
        """The zip, relative to the configuration file."""
        sha256: Sha256 | None = None
        """Checksum of the zip; another one is refused."""
        output: str | None = None
        """Id of the output that is used; the first without it."""
        device: Literal["cpu", "cuda"] = "cpu"
        threads: Annotated[int, Field(ge=1, le=64)] = 1

    def __init__(self, data: bytes, options: Options) -> None:
        """Make the model that the package ``data`` holds; tried once, so that what does not fit is told here.

        Raises
        ------
        ConfigurationError
            If it is refused, cannot be run, or its input or output is another than ``options`` say.
        """
        core = library("bioimageio.core", "bioimageio")
        _check_pydantic()
        package = read_package(data, options.model)
        check_onnx(package.network, options.model)
        session = open_onnx(package.network, options.model, device=options.device, threads=options.threads)
        description = _validated(package.description, options.model)
        self._tensor = core.Tensor
        self._sample = core.Sample
        self._input = _only_input(description, options)
        self._output = _output_id(description, options)
        size_m = options.pixel_size_m or _pixel_size_m(self._input, options.model)
        self.options = options.replace(pixel_size_m=size_m)
        network = _Network(session, description, core.Tensor)
        self._pipeline = core.create_prediction_pipeline(description, model_adapter=network)
        self._try()

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        """Read the package; ``options`` is a :class:`BioimageSegmenter.Options`."""
        checked = cls.Options.model_validate(options)
        path = resources.folder / Path(checked.model).expanduser()
        return cls(read_file(path, LARGEST_BYTES, checked.sha256), checked)

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        """Find the objects of a frame, in its denoised image if the options say so and there is one.

        Raises
        ------
        ForeignModelError
            If the model fails, or its answer is not what the options say.
        """
        prepared = prepare(frame, denoised, self.options)
        rows, columns = (_allowed(self._axis(axis), n) for axis, n in zip("yx", prepared.shape, strict=True))
        prepared = prepared.padded((rows, columns))
        return segmentation_of(self._run(prepared), prepared, self.options, frame.settings.pixel_size_m)

    def _try(self) -> None:
        rows, columns = (_allowed(self._axis(axis), 1) for axis in "yx")
        empty = np.zeros((len(self.options.channels), rows, columns), np.float32)
        prepared = Prepared(empty, (rows, columns), (rows, columns))
        try:
            segmentation_of(self._run(prepared), prepared, self.options, 1e-7)
        except ForeignModelError as error:
            raise ConfigurationError(f"{self.options.model}: {error}") from error

    def _axis(self, name: str) -> Any:
        return next(axis for axis in self._input.axes if str(axis.id) == name)

    def _run(self, prepared: Prepared) -> NDArray[Any]:
        """Return the answer ``(c, y, x)`` to the channels."""
        order = [str(axis.id) for axis in self._input.axes]
        kept = [name for name in order if name != "batch"]
        place = kept.index("channel") if "channel" in kept else None
        image = prepared.channels[0] if place is None else np.moveaxis(prepared.channels, 0, place)
        if "batch" in order:
            image = np.expand_dims(image, order.index("batch"))
        tensor = self._tensor.from_numpy(np.ascontiguousarray(image), dims=order)
        sample = self._sample(members={self._input.id: tensor}, stat={}, id=None)
        try:
            answer = self._pipeline.predict_sample_without_blocking(sample).members[self._output]
        except Exception as error:  # the processing raises whatever its libraries raise
            raise ForeignModelError(
                f"the model failed: {type(error).__name__}: {str(error)[:300]}"
            ) from error
        return _in_channels(answer)


def _check_pydantic() -> None:
    # Building any description fails there, in a serializer: "'index_key' … SerializationInfo".
    if tuple(map(int, pydantic.VERSION.split(".")[:2])) > _NEWEST_PYDANTIC:
        raise ConfigurationError(
            f"bioimageio.core 0.11 cannot read a model with pydantic {pydantic.VERSION}; one that it can use "
            f"comes with: pip install 'stedfast[bioimageio]'"
        )


class _Network:
    """What bioimageio.core calls a model adapter, over a session of ours: one thread, the same bits."""

    def __init__(self, session: Any, description: Any, tensor: Any) -> None:
        self._session = session
        self._tensor = tensor
        self._inputs = [(t.id, tuple(axis.id for axis in t.axes)) for t in description.inputs]
        self._outputs = [(t.id, tuple(axis.id for axis in t.axes)) for t in description.outputs]

    def load(self) -> None:
        """Do nothing: it is loaded."""

    def unload(self) -> None:
        """Do nothing: it ends with the segmenter."""

    def forward(self, inputs: Any) -> dict[Any, Any]:
        """Run the network on tensors by id; its inputs and outputs are matched by their order [spec 0.5]."""
        nodes = self._session.get_inputs()
        arrays = {
            node.name: inputs[name].transpose(axes).to_numpy().astype(FLOAT_TYPES.get(node.type), copy=False)
            for node, (name, axes) in zip(nodes, self._inputs, strict=True)
        }
        answers = self._session.run(None, arrays)
        return {
            name: self._tensor(np.asarray(answer), dims=axes)
            for answer, (name, axes) in zip(answers, self._outputs, strict=False)
        }


def _validated(description: dict[str, Any], source: str) -> Any:
    """Return the description as bioimageio.spec reads it, without looking at any file."""
    spec = library("bioimageio.spec", "bioimageio")
    context = spec.ValidationContext(perform_io_checks=False, disable_cache=True)
    described = spec.build_description(description, context=context)
    if isinstance(described, spec.InvalidDescr):
        problems = [
            f"{source}: {'.'.join(map(str, error.loc))}: {error.msg}"
            for detail in described.validation_summary.details
            for error in detail.errors
        ]
        raise ConfigurationError(
            *(problems[:5] or [f"{source}: bioimageio.spec cannot read its description"])
        )
    return described


def _only_input(description: Any, options: BioimageSegmenter.Options) -> Any:
    ids = ", ".join(str(tensor.id) for tensor in description.inputs)
    if len(description.inputs) != 1:
        raise ConfigurationError(f"{options.model}: a model with one input is needed; its inputs are: {ids}")
    only = description.inputs[0]
    names = [str(axis.id) for axis in only.axes]
    if not {"y", "x"} <= set(names) <= {"batch", "channel", "y", "x"}:
        raise ConfigurationError(f"{options.model}: its input has axes {names}; an image has y and x")
    channels = next((axis.size for axis in only.axes if str(axis.id) == "channel"), 1)
    if channels != len(options.channels):
        raise ConfigurationError(
            f"{options.model}: it takes {channels} channels, the option channels names "
            f"{len(options.channels)}"
        )
    return only


def _output_id(description: Any, options: BioimageSegmenter.Options) -> Any:
    ids = {str(tensor.id): tensor.id for tensor in description.outputs}
    if options.output is None:
        return next(iter(ids.values()))
    if options.output not in ids:
        raise ConfigurationError(
            f"{options.model}: it has no output {options.output!r}; its outputs are: {', '.join(ids)}"
        )
    return ids[options.output]


def _pixel_size_m(tensor: Any, source: str) -> float | None:
    """Return what the package says of its pixels; ``None`` if nothing, or another unit than of length."""
    sizes = [
        axis.scale * _METRES[axis.unit]
        for axis in tensor.axes
        if str(axis.id) in {"y", "x"} and axis.unit in _METRES
    ]
    if len(sizes) != 2:
        return None
    if abs(sizes[0] - sizes[1]) > 0.01 * sizes[0]:
        raise ConfigurationError(
            f"{source}: its pixels are {sizes[0]:g} by {sizes[1]:g} m; square ones are needed, or the option "
            f"pixel_size_m"
        )
    return float(sizes[0])


def _allowed(axis: Any, size: int) -> int:
    """Return the smallest size of an axis that the description allows and that holds ``size`` pixels."""
    if isinstance(axis.size, int):
        return axis.size
    if not hasattr(axis.size, "min"):
        raise ConfigurationError(f"the size of input axis {axis.id} depends on another's; it must be its own")
    least, step = int(axis.size.min), int(axis.size.step)
    return least + max(0, -(-(size - least) // step)) * step


def _in_channels(answer: Any) -> NDArray[Any]:
    names = [str(name) for name in answer.dims]
    if not {"y", "x"} <= set(names) <= {"batch", "channel", "y", "x"}:
        raise ForeignModelError(f"the model's output has axes {names}; a map has y and x")
    array = np.asarray(answer.to_numpy())
    if "batch" in names:
        if array.shape[names.index("batch")] != 1:
            raise ForeignModelError(f"the model answered {array.shape[names.index('batch')]} images to one")
        array = array.squeeze(names.index("batch"))
        names.remove("batch")
    wanted = [name for name in ("channel", "y", "x") if name in names]
    array = np.transpose(array, [names.index(name) for name in wanted])
    return array if "channel" in names else array[None]
