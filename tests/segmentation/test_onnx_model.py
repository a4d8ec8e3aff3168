from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage

from controller.core.errors import ConfigurationError
from controller.core.frame import Denoised, Frame
from controller.core.protocols import Segmenter
from controller.segmentation.foreign_files import ForeignModelError
from controller.segmentation.onnx_model import OnnxSegmenter
from controller.testing import SegmenterContract, resources
from tests.support import frame_of

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
helper = pytest.importorskip("onnx.helper")

PIXEL_M = 100e-9
FREE = ["n", 1, "y", "x"]


def model_bytes(nodes: list[Any], numbers: dict[str, Any], shape: Any = FREE, dtype: int = 1) -> bytes:
    """Return a model from ``image`` to ``answer``; ``dtype`` is that of both (1: float32)."""
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()]
    image = helper.make_tensor_value_info("image", dtype, shape)
    answer = helper.make_tensor_value_info("answer", dtype, [None] * len(shape))
    graph = helper.make_graph(nodes, "test", [image], [answer], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def brightness_model(level: float = 5.0, shape: Any = FREE, dtype: int = 1) -> bytes:
    """Return a model that answers sigmoid(photons - level)."""
    number = {1: np.float32, 10: np.float16}[dtype](level)
    nodes = [
        helper.make_node("Sub", ["image", "level"], ["above"]),
        helper.make_node("Sigmoid", ["above"], ["answer"]),
    ]
    return model_bytes(nodes, {"level": number}, shape, dtype)


def copying_model(shape: Any = FREE) -> bytes:
    return model_bytes([helper.make_node("Identity", ["image"], ["answer"])], {}, shape)


def frame(photons: object, pixel_size_m: float = PIXEL_M) -> Frame:
    return frame_of(photons, pixel_size_m)


def discs(shape: tuple[int, int], centres: list[tuple[int, int]], radius: float) -> NDArray[np.float64]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside: NDArray[np.bool_] = np.any([(y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in centres], axis=0)
    return inside.astype(np.float64)


def segmenter(data: bytes, **options: Any) -> OnnxSegmenter:
    return OnnxSegmenter(data, OnnxSegmenter.Options(model="test.onnx", **options))


class TestOnnxSegmenter(SegmenterContract):
    def make(self) -> Segmenter:
        return segmenter(brightness_model(), split="probability", object_size_m=4e-7)


def test_a_file_is_read_and_its_objects_are_found(tmp_path: Path) -> None:
    data = brightness_model()
    (tmp_path / "model.onnx").write_bytes(data)
    options = OnnxSegmenter.Options(model="model.onnx", sha256=hashlib.sha256(data).hexdigest())
    plugin = OnnxSegmenter.from_options(options, resources(folder=tmp_path))
    image = 10 * discs((37, 50), [(10, 10), (25, 35)], 4)
    found = plugin.step(frame(image), None)
    assert np.array_equal(found.labels > 0, image > 0)
    assert found.labels.max() == 2
    assert np.allclose(found.probability, 1 / (1 + np.exp(5 - image)), atol=1e-6)
    assert found.uncertainty[0, 0] == pytest.approx(0.0579, abs=1e-3)  # entropy of 0.0067 in bits


def test_what_a_pixel_answers_does_not_depend_on_the_padding() -> None:
    image = np.random.default_rng(0).poisson(5, (21, 33))
    padded = segmenter(brightness_model(), multiple_of=64).step(frame(image), None)
    exact = segmenter(brightness_model(), multiple_of=1).step(frame(image), None)
    assert np.array_equal(padded.probability, exact.probability)


def test_what_is_added_at_the_edges_mirrors_the_image() -> None:
    nodes = [helper.make_node("AveragePool", ["image"], ["answer"], kernel_shape=[5, 5], pads=[2, 2, 2, 2])]
    image = np.random.default_rng(0).uniform(0, 1, (21, 33))
    found = segmenter(model_bytes(nodes, {}), multiple_of=16).step(frame(image), None)
    expected = ndimage.uniform_filter(image, 5, mode="reflect")
    assert np.allclose(found.probability[2:, 2:], expected[2:, 2:], atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "shape"), [("byxc", ["n", "y", "x", 1]), ("yx", ["y", "x"]), ("cyx", [1, "y", "x"])]
)
def test_axes_come_in_any_order(axes: Any, shape: Any) -> None:
    image = np.random.default_rng(0).poisson(5, (20, 33))
    found = segmenter(brightness_model(shape=shape), axes=axes).step(frame(image), None)
    assert np.allclose(found.probability, 1 / (1 + np.exp(5.0 - image)), atol=1e-6)


def test_half_precision_is_fed_and_read() -> None:
    image = np.random.default_rng(0).poisson(5, (20, 20))
    found = segmenter(brightness_model(dtype=10)).step(frame(image), None)
    assert np.allclose(found.probability, 1 / (1 + np.exp(5.0 - image)), atol=2e-3)


def test_a_fixed_size_is_filled_up_and_never_exceeded() -> None:
    model = segmenter(brightness_model(shape=[1, 1, 32, 48]))
    assert model.step(frame(np.full((30, 40), 9)), None).labels.max() == 1
    with pytest.raises(ForeignModelError, match=r"32x48 pixels at most, the frame has 33x20"):
        model.step(frame(np.zeros((33, 20))), None)


def test_channels_are_image_raw_and_std_in_photons() -> None:
    # The answer is the three channels as they came in; the options pick one as foreground.
    clean = Denoised(np.full((8, 8), 30.0, np.float32), np.full((8, 8), 4.0, np.float32), 0)
    raw = frame(np.full((8, 8), 50))
    for channel, expected in enumerate((1.0, 2.0, 0.2)):
        model = segmenter(
            copying_model(["n", 3, "y", "x"]),
            channels=("image", "raw", "std"),
            units_per_photon=20.0,
            offset_units=10.0,
            factor=0.1,
            foreground_channels=(channel,),
        )
        # image: (30 - 10) / 20; raw: (50 - 10) / 20; std: 4 / 20; all times 0.1
        assert np.allclose(model.step(raw, clean).probability, 0.1 * expected, atol=1e-6)


def test_without_a_denoiser_the_image_is_raw_and_its_error_that_of_counting() -> None:
    model = segmenter(
        copying_model(["n", 2, "y", "x"]), channels=("image", "std"), factor=0.05, foreground_channels=(0, 1)
    )
    found = model.step(frame(np.full((8, 8), 9)), None)
    assert np.allclose(found.probability, 0.05 * (9 + 3), atol=1e-6)
    # No photon is no proof of darkness.
    assert np.allclose(model.step(frame(np.zeros((8, 8))), None).probability, 0.05 * 1, atol=1e-6)


def test_percentiles_and_standard_deviations_put_images_into_range() -> None:
    ramp = np.arange(400.0).reshape(20, 20)
    low, high = np.percentile(ramp, (10, 90))
    found = segmenter(copying_model(), normalisation="percentiles", percentiles=(10.0, 90.0), answer="logits")
    z = (ramp - low) / (high - low)
    assert np.allclose(found.step(frame(ramp), None).probability, 1 / (1 + np.exp(-z)), atol=1e-5)
    found = segmenter(copying_model(), normalisation="mean_std", answer="logits")
    z = (ramp - ramp.mean()) / ramp.std()
    assert np.allclose(found.step(frame(ramp), None).probability, 1 / (1 + np.exp(-z)), atol=1e-5)
    dark = found.step(frame(np.zeros((20, 20))), None)
    assert np.allclose(dark.probability, 0.5)


def test_frames_are_resampled_to_the_pixel_size_of_the_training() -> None:
    image = 10 * discs((60, 80), [(20, 20), (40, 60)], 8)
    model = segmenter(brightness_model(), pixel_size_m=2 * PIXEL_M)
    found = model.step(frame(image), None)
    assert found.labels.shape == image.shape
    assert found.labels.max() == 2
    overlap = np.count_nonzero((found.labels > 0) & (image > 0)) / np.count_nonzero(
        (found.labels > 0) | (image > 0)
    )
    assert overlap > 0.9


def test_a_mistake_in_the_pixel_size_is_told_and_eats_no_memory() -> None:
    model = segmenter(brightness_model(), pixel_size_m=1e-12)
    with pytest.raises(ForeignModelError, match="pixel_size_m = 1e-12"):
        model.step(frame(np.zeros((50, 50))), None)


def test_labels_are_taken_over_renumbered_and_resampled() -> None:
    labels = np.zeros((40, 40))
    labels[4:14, 4:14], labels[20:36, 20:36] = 7, 100_003
    model = segmenter(copying_model(), answer="labels")
    found = model.step(frame(labels), None)
    assert np.array_equal(found.labels, np.select([labels == 7, labels > 7], [1, 2], 0))
    assert set(np.unique(found.probability)) == {0.0, 1.0}
    assert not found.uncertainty.any()
    covered = model.step(frame(labels[4:14, 4:14] + 99_000), None)
    assert (covered.labels == 1).all()
    with pytest.raises(ForeignModelError, match="whole numbers"):
        model.step(frame(labels / 3), None)


def test_class_logits_are_compared_with_each_other() -> None:
    model = segmenter(
        copying_model(["n", 3, "y", "x"]),
        channels=("raw", "image", "image"),
        answer="class_logits",
        foreground_channels=(1, 2),
        factor=0.5,
    )
    found = model.step(
        frame(np.full((8, 8), 2)), Denoised(np.full((8, 8), 4.0, np.float32), np.ones((8, 8), np.float32), 0)
    )
    expected = 2 * np.exp(2) / (np.exp(1) + 2 * np.exp(2))
    assert np.allclose(found.probability, expected, atol=1e-6)


@pytest.mark.parametrize(("split", "objects"), [("none", 1), ("distance", 2), ("probability", 2)])
def test_objects_that_touch_are_divided_if_wanted(split: Any, objects: int) -> None:
    touching = discs((40, 60), [(20, 20), (20, 38)], 10)
    image = 4 * ndimage.gaussian_filter(touching, 4) + 4 * touching
    model = segmenter(brightness_model(), split=split, object_size_m=20 * PIXEL_M)
    assert model.step(frame(image), None).labels.max() == objects


def test_objects_that_are_too_small_are_dropped() -> None:
    image = 10 * (discs((40, 60), [(20, 20)], 8) + discs((40, 60), [(5, 50)], 1))
    model = segmenter(brightness_model(), smallest_area_m2=20 * PIXEL_M**2)
    assert model.step(frame(image), None).labels.max() == 1


def test_nonsense_answers_are_errors() -> None:
    with pytest.raises(ForeignModelError, match=r"probabilities lie in 0\.\.1"):
        segmenter(copying_model()).step(frame(np.full((8, 8), 5)), None)
    nodes = [helper.make_node("Div", ["image", "image"], ["answer"])]
    with pytest.raises(ConfigurationError, match="nan or inf"):
        segmenter(model_bytes(nodes, {}))
    nodes = [helper.make_node("MaxPool", ["image"], ["answer"], kernel_shape=[2, 2], strides=[2, 2])]
    with pytest.raises(ConfigurationError, match=r"answered 8x8 pixels to 16x16"):
        segmenter(model_bytes(nodes, {}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "masks"}, "no output 'masks'; its outputs are: answer"),
        ({"channels": ("raw", "std")}, "takes 1 channels, the option channels names 2"),
        ({"axes": "yx"}, "not axes = 'yx'"),
        ({"foreground_channels": (4,)}, "channel 4, the model answered 1 channels"),
        ({"device": "cuda"}, "CUDAExecutionProvider"),
    ],
)
def test_what_does_not_fit_is_told_before_the_session(options: Any, message: str) -> None:
    if options.get("device") == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime runs on CUDA")
    with pytest.raises(ConfigurationError, match=message):
        segmenter(brightness_model(), **options)


def test_models_that_point_at_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\x00" * 4)
    model = onnx.load_model_from_string(brightness_model())
    level = model.graph.initializer[0]
    level.ClearField("raw_data")
    level.data_location = onnx.TensorProto.EXTERNAL
    level.external_data.add(key="location", value=str(tmp_path / "secret"))
    with pytest.raises(ConfigurationError, match="level is kept in another file"):
        segmenter(model.SerializeToString())
    # Hidden one level down, in the attribute of an operator.
    model = onnx.load_model_from_string(brightness_model())
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["level"], value=level))
    with pytest.raises(ConfigurationError, match="level is kept in another file"):
        segmenter(model.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"PK\x03\x04", b"\x00" * 100, brightness_model()[:-20]])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"test\.onnx: "):
        segmenter(data)


def test_operators_of_libraries_are_refused() -> None:
    node = helper.make_node("RunThis", ["image"], ["answer"], domain="com.evil")
    model = onnx.load_model_from_string(model_bytes([node], {}))
    model.opset_import.add(domain="com.evil", version=1)
    with pytest.raises(ConfigurationError, match="ONNX Runtime refuses it"):
        segmenter(model.SerializeToString())


def test_files_that_are_missing_too_large_or_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(**options: Any) -> OnnxSegmenter:
        return OnnxSegmenter.from_options(
            OnnxSegmenter.Options(model="model.onnx", **options), resources(folder=tmp_path)
        )

    with pytest.raises(ConfigurationError, match="never downloaded"):
        make()
    (tmp_path / "model.onnx").write_bytes(brightness_model())
    with pytest.raises(ConfigurationError, match="the option sha256 says 00000"):
        make(sha256="0" * 64)
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(600_000_000)  # a hole: no byte is written, and none must be read
    with pytest.raises(ConfigurationError, match="600000000 bytes; a model may have 512000000 at most"):
        make()


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'stedfast\[onnx\]'"):
        segmenter(brightness_model())


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"model": "m", "threshold": 1.0},
        {"model": "m", "axes": "yx", "channels": ("raw", "std")},
        {"model": "m", "percentiles": (90.0, 10.0)},
        {"model": "m", "foreground_channels": ()},
        {"model": "m", "foreground_channels": (-1,)},
        {"model": "m", "sha256": "abc"},
        {"model": "m", "extra": 1},
    ],
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OnnxSegmenter.Options.model_validate(wrong)
