from __future__ import annotations

import hashlib
import io
import json
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pydantic
import pytest

from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.protocols import Segmenter
from controller.segmentation.bioimage_model import BioimageSegmenter
from controller.testing import SegmenterContract, resources
from tests.support import frame_of

pytest.importorskip("bioimageio.core", reason="needs the extra bioimageio")
onnx = pytest.importorskip("onnx", reason="needs the extra bioimageio")
pytest.importorskip("onnxruntime", reason="needs the extra bioimageio")
helper = pytest.importorskip("onnx.helper")
if tuple(map(int, pydantic.VERSION.split(".")[:2])) >= (2, 14):
    pytest.skip("bioimageio.core 0.11 needs pydantic<2.14: the extra bioimageio", allow_module_level=True)

PIXEL_M = 100e-9


def network() -> bytes:
    """Return a network that answers sigmoid(x - 5)."""
    level = onnx.numpy_helper.from_array(np.array(5.0, np.float32), "level")
    nodes = [
        helper.make_node("Sub", ["x", "level"], ["above"]),
        helper.make_node("Sigmoid", ["above"], ["answer"]),
    ]
    image = helper.make_tensor_value_info("x", 1, ["n", 1, "y", "x"])
    answer = helper.make_tensor_value_info("answer", 1, ["n", 1, "y", "x"])
    graph = helper.make_graph(nodes, "test", [image], [answer], [level])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def axes(step: int = 8, unit: str | None = "micrometer") -> list[dict[str, Any]]:
    pixel = {"scale": 0.1, "unit": unit} if unit else {}
    size = {"min": step, "step": step}
    return [
        {"type": "batch"},
        {"type": "channel", "channel_names": ["intensity"]},
        {"type": "space", "id": "y", "size": size, **pixel},
        {"type": "space", "id": "x", "size": size, **pixel},
    ]


def answer_axes(unit: str | None = "micrometer") -> list[dict[str, Any]]:
    pixel = {"scale": 0.1, "unit": unit} if unit else {}
    return [
        {"type": "batch"},
        {"type": "channel", "channel_names": ["foreground"]},
        {"type": "space", "id": "y", "size": {"tensor_id": "raw", "axis_id": "y"}, **pixel},
        {"type": "space", "id": "x", "size": {"tensor_id": "raw", "axis_id": "x"}, **pixel},
    ]


def description(data: bytes, **changes: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": "bright things",
        "inputs": [{"id": "raw", "axes": axes()}],
        "outputs": [{"id": "mask", "axes": answer_axes()}],
        "weights": {"onnx": {"source": "net.onnx", "sha256": sha256, "opset_version": 18}},
        **changes,
    }


def package(described: Any = None, *, name: str = "rdf.yaml", data: bytes | None = None) -> bytes:
    """Return a zip; a description is written as JSON, which is YAML."""
    data = network() if data is None else data
    described = description(data) if described is None else described
    text = described if isinstance(described, str) else json.dumps(described)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
        archive.writestr("net.onnx", data)
    return file.getvalue()


def segmenter(data: bytes, **options: Any) -> BioimageSegmenter:
    return BioimageSegmenter(data, BioimageSegmenter.Options(model="model.zip", **options))


def frame(photons: object, pixel_size_m: float = PIXEL_M) -> Frame:
    return frame_of(photons, pixel_size_m)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("something went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class TestBioimageSegmenter(SegmenterContract):
    def make(self) -> Segmenter:
        return segmenter(package())


def test_a_package_is_read_and_its_objects_are_found(tmp_path: Path) -> None:
    data = package()
    (tmp_path / "model.zip").write_bytes(data)
    options = BioimageSegmenter.Options(model="model.zip", sha256=hashlib.sha256(data).hexdigest())
    plugin = BioimageSegmenter.from_options(options, resources(folder=tmp_path))
    image = np.zeros((30, 45))
    image[5:15, 5:15] = image[20:28, 20:40] = 10
    found = plugin.step(frame(image), None)
    assert np.array_equal(found.labels > 0, image > 0)
    assert found.labels.max() == 2
    assert np.allclose(found.probability, 1 / (1 + np.exp(5 - image)), atol=1e-6)


def test_the_processing_of_the_package_is_done() -> None:
    described = description(network())
    described["inputs"][0]["preprocessing"] = [
        {"id": "scale_linear", "kwargs": {"gain": 2.0, "offset": 1.0}},
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
    ]
    described["outputs"][0]["postprocessing"] = [{"id": "scale_linear", "kwargs": {"gain": 0.5}}]
    image = np.random.default_rng(0).poisson(2, (16, 24))
    found = segmenter(package(described)).step(frame(image), None)
    assert np.allclose(found.probability, 0.5 / (1 + np.exp(5.0 - (2 * image + 1))), atol=1e-6)


def test_normalisation_sees_the_whole_image() -> None:
    described = description(network())
    described["inputs"][0]["preprocessing"] = [
        {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"], "eps": 1e-6}}
    ]
    image = np.random.default_rng(0).poisson(20, (16, 24))
    found = segmenter(package(described)).step(frame(image), None)
    z = (image - image.mean()) / image.std()
    assert np.allclose(found.probability, 1 / (1 + np.exp(5.0 - z)), atol=1e-5)


def test_pixels_have_the_size_that_the_package_says_unless_the_options_say_another() -> None:
    image = np.zeros((64, 64))
    image[16:48, 16:48] = 10
    coarse = segmenter(package())
    assert coarse.options.pixel_size_m == pytest.approx(PIXEL_M)
    found = coarse.step(frame(image, PIXEL_M / 2), None)
    assert found.labels.shape == (64, 64)
    assert np.count_nonzero(found.labels != (image > 0)) < 0.1 * np.count_nonzero(image)
    assert segmenter(package(), pixel_size_m=2e-7).options.pixel_size_m == 2e-7
    described = description(network())
    described["inputs"][0]["axes"] = axes(unit=None)
    described["outputs"][0]["axes"] = answer_axes(unit=None)
    assert segmenter(package(described)).options.pixel_size_m is None


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("inputs", {"output_of": "affable-shark"}, "output_of"),
    ("inputs", {"preprocessing": [{"id": "custom", "callable": "f", "source": "f.py"}]}, "'custom' is not"),
    ("outputs", {"postprocessing": [{"id": "stardist_postprocessing", "kwargs": {}}]}, "is not done here"),
]


@pytest.mark.parametrize(("side", "change", "message"), REFUSED)
def test_what_would_execute_or_download_is_refused(side: str, change: dict[str, Any], message: str) -> None:
    described = description(network())
    described[side][0].update(change)
    with pytest.raises(ConfigurationError, match=message):
        segmenter(package(described))


def test_formats_that_hold_code_are_refused_and_beside_onnx_are_not_looked_at() -> None:
    others = {
        "pytorch_state_dict": {"source": "https://example.org/w.pt", "architecture": {"source": "net.py"}},
        "torchscript": {"source": "w.pt"},
    }
    described = description(network(), weights=others)
    with pytest.raises(ConfigurationError, match=r"it has: pytorch_state_dict, torchscript\); other formats"):
        segmenter(package(described))
    described = description(network())
    described["weights"].update(others)
    described["documentation"] = "https://example.org/readme.md"
    described["covers"] = ["https://example.org/cover.png"]
    described["inputs"][0]["sample_tensor"] = {"source": "https://example.org/sample.npy"}
    assert segmenter(package(described)).step(frame(np.full((8, 8), 9)), None).labels.max() == 1


@pytest.mark.parametrize(
    "place", ["https://example.org/net.onnx", "../net.onnx", "/etc/hostname", "other.onnx"]
)
def test_the_network_lies_in_the_package(place: str) -> None:
    described = description(network())
    described["weights"]["onnx"]["source"] = place
    with pytest.raises(ConfigurationError, match=r"not a file of the package|is not in the package"):
        segmenter(package(described))


def test_a_damaged_network_is_refused() -> None:
    described = description(network() + b" ")
    with pytest.raises(ConfigurationError, match=r"net\.onnx is damaged"):
        segmenter(package(described))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a zip"),
        (b"\x80\x04K\x01.", "not a zip"),
        (package()[:-30], "not a zip"),
        (package(name="readme.txt"), "not a model of the zoo"),
        (package("{a: b"), "is not YAML"),
        (package("!!python/object/apply:os.getcwd []"), "is not YAML"),
        (package("just text"), "does not describe a model"),
        (package("type: dataset"), "does not describe a model"),
        (package("a: &a [x]\nb: &b [*a, *a]\ntype: model\n[" * 2), "is not YAML"),
        (package(description(b"", format_version="0.4.10")), "format_version 0.4.10 is not read"),
        (package(description(b"", inputs="none")), "inputs must be a list"),
        (package(description(b"", weights=[])), r"no weights of the format onnx \(it has: none\)"),
    ],
)
def test_what_is_no_package_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        segmenter(data)


def test_a_description_that_unfolds_without_end_is_refused() -> None:
    bomb = ["type: model", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigurationError, match="more than 20000 values"):
        segmenter(package("\n".join(bomb)))


def test_a_package_that_unpacks_to_too_much_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"rdf\.yaml is larger than 1000000 bytes"):
        segmenter(package("#" * 2_000_000))


def test_what_bioimageio_finds_wrong_is_told() -> None:
    described = description(network())
    described["inputs"][0]["axes"] = [{"type": "batch"}, {"type": "nonsense"}]
    with pytest.raises(ConfigurationError, match=r"model\.zip: inputs\.0\.axes"):
        segmenter(package(described))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "masks"}, "no output 'masks'; its outputs are: mask"),
        ({"channels": ("raw", "std")}, "takes 1 channels, the option channels names 2"),
    ],
)
def test_options_that_do_not_fit_are_told(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        segmenter(package(), **options)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bioimageio.core", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'stedfast\[bioimageio\]'"):
        segmenter(package())


def test_a_pydantic_that_it_cannot_work_with_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydantic, "VERSION", "2.14.3")
    with pytest.raises(ConfigurationError, match=r"pydantic 2\.14\.3"):
        segmenter(package())
