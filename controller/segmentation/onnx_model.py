"""A network in an ONNX file, run by ONNX Runtime: nothing in the file is executed but its operators.

ONNX holds a graph of known operators and its numbers. It can also point at other files and at operators
that a library brings; the first are refused here, and no library is ever registered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.errors import ConfigurationError
from controller.core.frame import Denoised, FloatImage, Frame, Segmentation
from controller.core.protocols import Resources
from controller.segmentation.foreign_answers import (
    AnswerOptions,
    Axes,
    as_axes,
    as_channels,
    segmentation_of,
)
from controller.segmentation.foreign_files import ForeignModelError, Sha256, library, read_file
from controller.segmentation.foreign_images import Prepared, ScalingOptions, normalised, prepare

#: A live network is smaller; the file is read into memory, and so are its numbers.
LARGEST_BYTES = 512_000_000

FLOAT_TYPES: dict[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxSegmenter:
    """Finds objects with a network of others, told by its options what goes in and what comes out."""

    class Options(ScalingOptions, AnswerOptions):
        """The file, the form of its input and output, and what its numbers mean."""

        model: Annotated[str, Field(min_length=1)]
        """The ONNX file, relative to the configuration file."""
        sha256: Sha256 | None = None
        """Checksum of the file; another one is refused."""
        axes: Axes = "bcyx"
        """Order of the input's axes: batch, channel, y, x."""
        output: str | None = None
        """Name of the output that is used; the first without it."""
        output_axes: Axes | None = None
        """Order of the output's axes; that of the input without it."""
        multiple_of: Annotated[int, Field(ge=1, le=1024)] = 16
        """Height and width are mirrored up to a multiple of this."""
        device: Literal["cpu", "cuda"] = "cpu"
        threads: Annotated[int, Field(ge=1, le=64)] = 1

        @model_validator(mode="after")
        def _channels_have_an_axis(self) -> Self:
            if "c" not in self.axes and len(self.channels) > 1:
                raise ValueError(f"axes {self.axes!r} have no place for {len(self.channels)} channels")
            return self

    def __init__(self, data: bytes, options: Options) -> None:
        """Make the network that ``data`` holds; tried once, so that what does not fit is told here.

        Raises
        ------
        ConfigurationError
            If ONNX Runtime cannot run it, or its input or output is another than ``options`` say.
        """
        self.options = options
        check_onnx(data, options.model)
        self._session = open_onnx(data, options.model, device=options.device, threads=options.threads)
        self._input, self._type, self._fixed = self._what_goes_in()
        self._output = self._what_comes_out()
        side = options.multiple_of
        rows, columns = (size or side for size in self._fixed)
        empty = Prepared(
            np.zeros((len(options.channels), rows, columns), np.float32), (rows, columns), (rows, columns)
        )
        try:
            segmentation_of(self._run(empty), empty, options, 1e-7)
        except ForeignModelError as error:
            raise ConfigurationError(f"{options.model}: {error}") from error

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        """Read the file; ``options`` is an :class:`OnnxSegmenter.Options`."""
        checked = cls.Options.model_validate(options)
        path = resources.folder / Path(checked.model).expanduser()
        return cls(read_file(path, LARGEST_BYTES, checked.sha256), checked)

    def step(self, frame: Frame, denoised: Denoised | None) -> Segmentation:
        """Find the objects of a frame, in its denoised image if the options say so and there is one.

        Raises
        ------
        ForeignModelError
            If the network fails, or its answer is not what the options say.
        """
        prepared = normalised(prepare(frame, denoised, self.options), self.options)
        multiple = self.options.multiple_of
        rows, columns = (
            fixed or -(-size // multiple) * multiple
            for fixed, size in zip(self._fixed, prepared.shape, strict=True)
        )
        prepared = prepared.padded((rows, columns))
        return segmentation_of(self._run(prepared), prepared, self.options, frame.settings.pixel_size_m)

    def _run(self, prepared: Prepared) -> NDArray[Any]:
        image: FloatImage = as_axes(prepared.channels, self.options.axes).astype(self._type)
        try:
            answer = self._session.run([self._output], {self._input: image})[0]
        except Exception as error:  # ONNX Runtime has a class for each status, below Exception alone
            raise ForeignModelError(f"the network failed: {_first_line(error)}") from error
        return as_channels(np.asarray(answer), self.options.output_axes or self.options.axes)

    def _what_goes_in(self) -> tuple[str, type[np.floating[Any]], tuple[int | None, int | None]]:
        """Return the input's name and type, and its height and width where they cannot be chosen."""
        inputs, where = self._session.get_inputs(), self.options.model
        if len(inputs) != 1:
            names = ", ".join(node.name for node in inputs) or "none"
            raise ConfigurationError(f"{where}: a network with one input is needed, its inputs are: {names}")
        only, axes = inputs[0], self.options.axes
        if only.type not in FLOAT_TYPES:
            raise ConfigurationError(
                f"{where}: its input is {only.type}; allowed are {', '.join(FLOAT_TYPES)}"
            )
        if len(only.shape) != len(axes):
            raise ConfigurationError(f"{where}: its input has shape {only.shape}, not axes = {axes!r}")
        size = {axis: n if isinstance(n, int) else None for axis, n in zip(axes, only.shape, strict=True)}
        if size.get("b", 1) not in {1, None}:
            raise ConfigurationError(f"{where}: it takes {size['b']} images at a time, one is needed")
        if size.get("c") not in {len(self.options.channels), None}:
            raise ConfigurationError(
                f"{where}: it takes {size['c']} channels, the option channels names "
                f"{len(self.options.channels)}"
            )
        return only.name, FLOAT_TYPES[only.type], (size["y"], size["x"])

    def _what_comes_out(self) -> str:
        names = [node.name for node in self._session.get_outputs()]
        if self.options.output is None:
            return str(names[0])
        if self.options.output not in names:
            raise ConfigurationError(
                f"{self.options.model}: it has no output {self.options.output!r}; its outputs are: "
                f"{', '.join(names)}"
            )
        return self.options.output


def check_onnx(data: bytes, source: str) -> None:
    """Refuse what is no ONNX model, and one that keeps numbers in other files.

    Such a file could name any place of the disk, and its own checksum would say nothing about them.

    Raises
    ------
    ConfigurationError
        With the first such tensor.
    """
    onnx = library("onnx", "onnx")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, which is not to be imported for its name
        raise ConfigurationError(f"{source}: not an ONNX model: {_first_line(error)}") from error
    if not model.graph.node:
        raise ConfigurationError(f"{source}: not an ONNX model: it has no operators")
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ConfigurationError(
                f"{source}: {tensor.name or 'a tensor'} is kept in another file; write the model as one: "
                f"onnx.save_model(onnx.load(model), path)"
            )


def open_onnx(data: bytes, source: str, *, device: str, threads: int) -> Any:
    """Return a session of ONNX Runtime that answers the same to the same, bit for bit.

    Raises
    ------
    ConfigurationError
        If it cannot run the model, or not on that device.
    """
    runtime = library("onnxruntime", "onnx")
    provider = _PROVIDERS[device]
    if provider not in runtime.get_available_providers():
        raise ConfigurationError(
            f"device = {device!r} needs {provider}; this onnxruntime has "
            f"{', '.join(runtime.get_available_providers())}"
        )
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.use_deterministic_compute = True
    # Threads that wait busily would take the processor from the rest of the loop.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 4  # errors are raised; nothing else belongs on the terminal
    try:
        return runtime.InferenceSession(data, settings, providers=[provider])
    except Exception as error:
        raise ConfigurationError(f"{source}: ONNX Runtime refuses it: {_first_line(error)}") from error


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor of a model, those of subgraphs, functions and sparse tensors too."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        if current.DESCRIPTOR.name == "TensorProto":
            yield current
            continue
        for field, value in current.ListFields():
            if field.message_type is not None:
                waiting.extend(value if _is_repeated(value) else [value])


def _is_repeated(value: Any) -> bool:
    return not hasattr(value, "DESCRIPTOR")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
