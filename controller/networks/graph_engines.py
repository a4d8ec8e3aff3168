"""Networks on the processor by OpenVINO or ONNX Runtime: optional, imported when asked for.

Both read the ONNX model that :mod:`controller.networks.onnx_export` writes in memory. OpenVINO would also
convert torch modules itself, but that path reports its use over the internet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from controller.core.errors import ConfigurationError
from controller.networks.engines import Array, Plan, empty_conditions
from controller.networks.onnx_export import CONDITIONS, IMAGES, to_onnx


class _GraphEngine:
    """A network that becomes ONNX as soon as it is known what goes in."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._models: dict[tuple[int, int], bytes] = {}

    def _model(self, channels: int, conditions: int | None) -> bytes:
        key = (channels, conditions or 0)
        if key not in self._models:
            self._models[key] = to_onnx(self._network, channels=key[0], conditions=key[1])
        return self._models[key]


class OpenVINOEngine(_GraphEngine):
    """Compiles a network for each shape of images, in about 0.1 s."""

    def __init__(self, network: nn.Module, *, precision: str, threads: int) -> None:
        super().__init__(network)
        try:
            import openvino
        except ImportError as error:
            raise _missing("openvino", "fast") from error
        self._openvino, self._core = openvino, openvino.Core()
        has_bfloat16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not has_bfloat16:
            raise ConfigurationError(
                "precision = 'bfloat16' is not offered by OpenVINO on this processor; set 'auto' or 'float32'"
            )
        use_bfloat16 = has_bfloat16 and precision != "float32"
        self.name = f"openvino, cpu, {'bfloat16' if use_bfloat16 else 'float32'}, threads={threads}"
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if use_bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # A thread tied to one core waits for whatever else runs there.
            "ENABLE_CPU_PINNING": False,
        }

    def plan(self, shape: tuple[int, int, int], conditions: int | None) -> Plan:
        """Return a plan for images of shape ``(channels, y, x)`` with so many ``conditions``."""
        model = self._core.read_model(self._model(shape[0], conditions))
        shapes = {IMAGES: [1, *shape]}
        if conditions is not None:
            shapes[CONDITIONS] = [1, conditions]
        model.reshape(shapes)
        request = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        return _OpenVINOPlan(self._openvino, request, shape, conditions)


class _OpenVINOPlan:
    def __init__(
        self, openvino: Any, request: Any, shape: tuple[int, int, int], conditions: int | None
    ) -> None:
        self.images, self.conditions = np.zeros((1, *shape), np.float32), empty_conditions(conditions)
        self._request = request
        request.set_tensor(IMAGES, openvino.Tensor(self.images, shared_memory=True))
        if self.conditions is not None:
            request.set_tensor(CONDITIONS, openvino.Tensor(self.conditions, shared_memory=True))

    def run(self) -> Array:
        """Return the answer, shape ``(1, outputs, y, x)``."""
        self._request.infer()
        answer: Array = self._request.get_output_tensor(0).data
        return answer


class ONNXRuntimeEngine(_GraphEngine):
    """Runs a network by ONNX Runtime, in float32."""

    def __init__(self, network: nn.Module, *, precision: str, threads: int) -> None:
        super().__init__(network)
        if precision == "bfloat16":
            raise ConfigurationError(
                "precision = 'bfloat16' is not offered by backend = 'onnxruntime'; "
                "set precision = 'float32', or backend = 'torch' or 'openvino'"
            )
        try:
            import onnxruntime
        except ImportError as error:
            raise _missing("onnxruntime", "onnx") from error
        self._onnxruntime = onnxruntime
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.use_deterministic_compute = True
        # Threads that wait for work by spinning take the time of the loop's other threads.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.name = f"onnxruntime, cpu, float32, threads={threads}"
        self._sessions: dict[tuple[int, int | None], Any] = {}

    def plan(self, shape: tuple[int, int, int], conditions: int | None) -> Plan:
        """Return a plan for images of shape ``(channels, y, x)`` with so many ``conditions``."""
        key = (shape[0], conditions)
        if key not in self._sessions:
            self._sessions[key] = self._onnxruntime.InferenceSession(
                self._model(*key), self._options, providers=["CPUExecutionProvider"]
            )
        return _ONNXRuntimePlan(self._sessions[key], shape, conditions)


class _ONNXRuntimePlan:
    def __init__(self, session: Any, shape: tuple[int, int, int], conditions: int | None) -> None:
        self.images, self.conditions = np.zeros((1, *shape), np.float32), empty_conditions(conditions)
        self._session = session
        self._inputs = {IMAGES: self.images}
        if self.conditions is not None:
            self._inputs[CONDITIONS] = self.conditions

    def run(self) -> Array:
        """Return the answer, shape ``(1, outputs, y, x)``."""
        answer: Array = self._session.run(None, self._inputs)[0]
        return answer


def _missing(package: str, extra: str) -> ConfigurationError:
    return ConfigurationError(
        f"backend = {package!r} needs the package {package}, which is not installed: "
        f"pip install 'stedfast[{extra}]', or set backend = 'auto'"
    )
