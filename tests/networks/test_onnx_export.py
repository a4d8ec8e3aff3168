"""Networks as ONNX: valid, of any size, and right."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from controller.networks.onnx_export import OPSET, to_onnx
from controller.networks.small_unet import SmallUNet, SmallUNetOptions

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def network(conditions: int) -> SmallUNet:
    built = SmallUNet(SmallUNetOptions(inputs=5, outputs=2, conditions=conditions))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built


@pytest.mark.parametrize("conditions", [0, 3])
def test_a_model_is_valid_and_names_what_goes_in_and_out(conditions: int) -> None:
    model = onnx.load_from_string(to_onnx(network(conditions), channels=5, conditions=conditions))
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import] == [OPSET]
    inputs = ["images", "conditions"] if conditions else ["images"]
    assert [entry.name for entry in model.graph.input] == inputs
    assert [entry.name for entry in model.graph.output] == ["answers"]
    axes = model.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["n", 5, "y", "x"]


@pytest.mark.parametrize("conditions", [0, 3])
def test_a_model_answers_what_the_network_answers_at_any_size(conditions: int) -> None:
    net = network(conditions)
    session = onnxruntime.InferenceSession(to_onnx(net, channels=5, conditions=conditions))
    rng = np.random.default_rng(0)
    for count, height, width in ((1, 4, 4), (3, 64, 20)):
        feed = {"images": rng.random((count, 5, height, width), np.float32)}
        if conditions:
            feed["conditions"] = rng.random((count, conditions), np.float32)
        with torch.inference_mode():
            expected = net(*map(torch.from_numpy, feed.values())).numpy()
        assert np.abs(session.run(None, feed)[0] - expected).max() < 1e-5


def test_the_network_is_left_as_it_was_and_nobody_is_warned() -> None:
    net = network(0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_onnx(net, channels=5)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
