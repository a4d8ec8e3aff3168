from __future__ import annotations

import gc
import io
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from controller.cli import app
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.settings import Region
from controller.model_export import ARCHITECTURES, export_bioimageio
from controller.testing import CONFOCAL

torch = pytest.importorskip("torch", reason="needs the extra learn")
pytest.importorskip("safetensors", reason="needs the extra learn")

from controller.denoising.causal_network import CausalUNet, CausalUNetOptions  # noqa: E402
from controller.denoising.causal_network import network_of as causal_network_of  # noqa: E402
from controller.denoising.causal_unet import CausalUNetDenoiser  # noqa: E402
from controller.denoising.causal_unet_export import drawn_movie, exported_denoiser  # noqa: E402
from controller.denoising.noise_model import DetectorOptions  # noqa: E402
from controller.networks.bioimageio_export import yaml_lines  # noqa: E402
from controller.networks.modules import fill, tensors_of  # noqa: E402
from controller.networks.runtime import Runtime, RuntimeOptions  # noqa: E402
from controller.networks.small_unet import SmallUNet, SmallUNetOptions  # noqa: E402
from controller.networks.weights import (  # noqa: E402
    Weights,
    WeightsError,
    pack,
    read_weights,
    write_weights,
)
from controller.segmentation.heads import head_maps  # noqa: E402
from controller.segmentation.network_options import NetworkOptions  # noqa: E402
from controller.segmentation.training import build, network_of  # noqa: E402

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EXACT = RuntimeOptions(backend="torch", precision="float32")


def shaken(network: Any, seed: int = 0) -> Any:
    """Return the network with weights at random: a fresh one answers 0."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.from_numpy(0.1 * rng.standard_normal(parameter.shape, np.float32)))
    return network


def network_weights(**about: Any) -> Weights:
    options = SmallUNetOptions(inputs=5, outputs=1, conditions=3)
    network = shaken(SmallUNet(options))
    about = {"licence": "MIT", **about}
    return pack(
        tensors_of(network), **{"architecture": "small_unet/1", "options": options.model_dump(), **about}
    )


def segmenter_weights(**changes: Any) -> Weights:
    options = NetworkOptions(kind="objects", object_px=8.0, temperature=1.7, **changes)
    network = shaken(build(options, np.random.default_rng(0)))
    return pack(
        tensors_of(network),
        architecture="small_unet_segmenter/1",
        options=options.model_dump(mode="json"),
        licence="CC0-1.0",
        trained_on=("drawn cells",),
        metrics={"ap50": 0.8125},
    )


def denoiser_weights(seed: int = 0) -> Weights:
    network = shaken(CausalUNet(CausalUNetOptions()), seed)
    return pack(
        tensors_of(network),
        architecture="causal_unet/1",
        options=network.options.model_dump(mode="json"),
        licence="CC0-1.0",
    )


def export(folder: Path, weights: Weights, **changes: Any) -> Path:
    write_weights(weights, folder / "model.safetensors")
    told: dict[str, Any] = {"authors": ("Ada Example",), "licence": None, "name": None, "now": NOW, **changes}
    export_bioimageio(str(folder / "model.safetensors"), folder / "model.zip", **told)
    return folder / "model.zip"


def member(package: Path, name: str) -> bytes:
    with zipfile.ZipFile(package) as archive:
        return archive.read(name)


def tensor(package: Path, name: str) -> NDArray[np.float32]:
    loaded: NDArray[np.float32] = np.load(io.BytesIO(member(package, name)), allow_pickle=False)
    return loaded


def expected(weights: Weights, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what our own segmenter computes of the images."""
    options = NetworkOptions.model_validate_json(json.dumps(weights.card.options))
    answers = Runtime(network_of(weights, options), EXACT).run(images)
    maps = [head_maps(answer, options) for answer in answers]
    return np.stack([np.stack([*m.classes[1:], m.depth, m.centers]) for m in maps])


def run_onnx(data: bytes, **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, inputs)
    return np.asarray(answer)


@pytest.mark.parametrize("changes", [{}, {"classes": ("none", "soma", "axon"), "heads": 2}, {"heads": 1}])
def test_a_segmenter_answers_the_same_as_onnx(tmp_path: Path, changes: dict[str, Any]) -> None:
    weights = segmenter_weights(**changes)
    package = export(tmp_path, weights)
    images, answers = tensor(package, "images.npy"), tensor(package, "answers.npy")
    assert np.abs(answers - expected(weights, images)).max() < 1e-5
    assert np.ptp(answers) > 0.01
    network = member(package, "network.onnx")
    assert np.abs(run_onnx(network, images=images) - answers).max() < 1e-5
    other = np.random.default_rng(1).standard_normal((2, 7, 20, 36), np.float32)
    assert np.abs(run_onnx(network, images=other) - expected(weights, other)).max() < 1e-5


def test_a_network_with_conditions_answers_the_same_as_onnx(tmp_path: Path) -> None:
    weights = network_weights()
    package = export(tmp_path, weights)
    network = fill(SmallUNet(SmallUNetOptions(inputs=5, outputs=1, conditions=3)), weights)
    for seed, shape in ((1, (1, 5, 8, 40)), (2, (3, 5, 12, 8))):
        rng = np.random.default_rng(seed)
        images = rng.standard_normal(shape, np.float32)
        numbers = rng.standard_normal((shape[0], 3), np.float32)
        answer = run_onnx(member(package, "network.onnx"), images=images, conditions=numbers)
        assert np.abs(answer - Runtime(network, EXACT).run(images, numbers)).max() < 1e-5
        assert np.ptp(answer) > 0.01


def test_a_denoiser_answers_the_same_as_onnx(tmp_path: Path) -> None:
    weights = denoiser_weights()
    package = export(tmp_path, weights)
    images, numbers = tensor(package, "images.npy"), tensor(package, "conditions.npy")
    network = member(package, "network.onnx")
    assert (
        np.abs(run_onnx(network, images=images, conditions=numbers) - tensor(package, "answers.npy")).max()
        < 1e-5
    )
    for n, y, x in ((2, 8, 40), (1, 12, 64)):
        other = np.random.default_rng(n).gamma(1.0, 1.0, (n, 5, y, x)).astype(np.float32)
        told = np.random.default_rng(n).standard_normal((n, 5), np.float32)
        ours = Runtime(causal_network_of(weights), EXACT).run(other, told)
        assert np.abs(run_onnx(network, images=other, conditions=told) - ours).max() < 1e-5
        assert np.ptp(ours) > 0.1


def test_the_input_of_a_denoisers_package_is_what_the_denoiser_sees() -> None:
    weights = denoiser_weights()
    exported = exported_denoiser(weights)
    movie = drawn_movie()
    answer = causal_network_of(weights)(torch.from_numpy(exported.images), torch.from_numpy(exported.numbers))
    # The detector is told, or the denoiser would find out about it first; it answers in photons.
    detector = DetectorOptions(units_per_photon=1.0, offset_units=0.0)
    options = CausalUNetDenoiser.Options(detector=detector, runtime=EXACT, learn=False)
    denoiser = CausalUNetDenoiser(options, weights)
    scan = CONFOCAL.replace(region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(64 * 40e-9, 64 * 40e-9)))
    scan = scan.replace(pixel_size_m=40e-9)
    for t, photons in enumerate(movie):
        denoised = denoiser.step(Frame(photons, scan, t, 0.1 * t))
    level = movie[-1].max() / exported.images[0, 0].max()
    expected = level * np.maximum(answer.detach().numpy()[0, 0], 0)
    assert np.allclose(denoised.mean, expected, rtol=1e-4, atol=1e-4)


def test_the_weights_go_along_as_they_are(tmp_path: Path) -> None:
    weights = segmenter_weights()
    package = export(tmp_path, weights)
    (tmp_path / "again").mkdir()
    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path / "again", ["weights.safetensors", "weights.json"])
    again = read_weights(tmp_path / "again/weights.safetensors")
    assert again.card == weights.card
    assert again.data == weights.data


def test_the_page_says_what_the_card_knows(tmp_path: Path) -> None:
    weights = segmenter_weights(pixel_size_m=6.5e-8)
    page = member(export(tmp_path, weights), "README.md").decode()
    for part in ("drawn cells", "ap50: 0.8125", weights.sha256, "pixels of 6.5e-08 m", "# Validation"):
        assert part in page


def test_the_same_model_makes_the_same_package(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    packages = [export(tmp_path / name, segmenter_weights()).read_bytes() for name in ("a", "b")]
    assert packages[0] == packages[1]


@pytest.mark.parametrize(
    ("about", "changes", "message"),
    [
        ({}, {"authors": ()}, "--author"),
        ({"licence": "unknown"}, {}, "--licence"),
        ({"licence": "MIT"}, {"licence": "CC0-1.0"}, "the card says licence MIT"),
        ({}, {"name": "ü"}, "name: "),
        ({}, {"authors": ("a/b",)}, "authors: "),
        ({"licence": "MIT AND CC0-1.0"}, {}, "licence: "),
        (
            {"architecture": "os.system"},
            {},
            "those of causal_unet/1, small_unet/1, small_unet_segmenter/1 can",
        ),
    ],
)
def test_what_nobody_said_is_not_invented(
    tmp_path: Path, about: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        export(tmp_path, network_weights(**about), **changes)
    assert not (tmp_path / "model.zip").exists()


def test_cards_of_other_networks_are_refused(tmp_path: Path) -> None:
    wrong = network_weights(architecture="small_unet_segmenter/1")
    with pytest.raises(WeightsError, match="card: options"):
        export(tmp_path, wrong)
    wider = network_weights(options={"inputs": 6, "outputs": 1, "conditions": 3})
    with pytest.raises(WeightsError, match="of another network"):
        export(tmp_path, wider)
    huge = network_weights(options={"inputs": 10**9, "outputs": 1})
    with pytest.raises(WeightsError, match="card: options: inputs"):
        export(tmp_path, huge)


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    package = export(tmp_path, network_weights())
    before = package.read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        export(tmp_path, network_weights(), authors=("Other",))
    assert package.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.json",
        "model.safetensors",
        "model.zip",
    ]


class TestCommand:
    def run(self, *words: str) -> Any:
        return CliRunner().invoke(app, ["export", *words])

    def test_a_model_becomes_a_package(self, tmp_path: Path) -> None:
        write_weights(network_weights(licence="unknown"), tmp_path / "net.safetensors")
        told = (
            "--bioimageio",
            str(tmp_path / "net.zip"),
            "--author",
            "Ada Example",
            "--author",
            "Bo Example",
        )
        result = self.run(str(tmp_path / "net.safetensors"), *told, "--licence", "MIT", "--name", "small net")
        assert result.exit_code == 0, result.output
        assert "small net" in result.output
        text = member(tmp_path / "net.zip", "rdf.yaml").decode()
        assert 'name: "Bo Example"' in text
        assert 'license: "MIT"' in text

    @pytest.mark.parametrize("name", ["spots", "cells", "causal_unet"])
    def test_weights_that_come_along_have_names(self, tmp_path: Path, name: str) -> None:
        result = self.run(name, "--bioimageio", str(tmp_path / "model.zip"), "--author", "Ada Example")
        assert result.exit_code == 0, result.output
        assert len(member(tmp_path / "model.zip", "network.onnx")) > 100_000

    def test_what_is_missing_is_said(self, tmp_path: Path) -> None:
        for words, message in (
            ((str(tmp_path / "net.safetensors"),), "--bioimageio OUT.zip"),
            ((str(tmp_path),), "name the folder to make"),
            (("spots", "--bioimageio", "x.zip"), "--author"),
            (("spotz", "--bioimageio", "x.zip"), "causal_unet, spots, cells"),
        ):
            result = self.run(*words)
            assert result.exit_code == 2
            assert message in result.output
        result = self.run("nothing.safetensors", "--bioimageio", "x.zip", "--author", "Ada")
        assert result.exit_code == 1
        assert "nothing.json: cannot be read" in result.output


@pytest.mark.filterwarnings("ignore")
class TestReadBack:
    """By the zoo's own library, which leaves files open and warns of what it imports."""

    @pytest.fixture(autouse=True)
    def core(self) -> Any:
        core = pytest.importorskip("bioimageio.core", reason="needs the extra bioimageio")
        if tuple(map(int, pydantic.VERSION.split(".")[:2])) >= (2, 14):
            pytest.skip("bioimageio.core 0.11 needs pydantic<2.14: the extra bioimageio")
        yield core
        gc.collect()  # here, where what it left open is no error

    @pytest.mark.parametrize("pixel_size_m", [None, 6.5e-8])
    def test_a_segmenter_passes_its_tests_and_predicts_the_same(
        self, core: Any, tmp_path: Path, pixel_size_m: float | None
    ) -> None:
        weights = segmenter_weights(pixel_size_m=pixel_size_m)
        package = export(tmp_path, weights)
        summary = core.test_description(package)
        assert summary.status == "passed", summary.format()
        model = core.load_model_description(package)
        assert [author.name for author in model.authors] == ["Ada Example"]
        assert str(model.license) == "CC0-1.0"
        images = np.random.default_rng(1).standard_normal((1, 7, 40, 24), np.float32)
        sample = core.predict(model=model, inputs={"images": images})
        answer = np.asarray(sample.members["answers"].to_numpy())
        assert np.abs(answer - expected(weights, images)).max() < 1e-4

    @pytest.mark.parametrize("make", [network_weights, denoiser_weights])
    def test_a_network_with_conditions_passes_its_tests(self, core: Any, tmp_path: Path, make: Any) -> None:
        summary = core.test_description(export(tmp_path, make()))
        assert summary.status == "passed", summary.format()

    def test_a_denoiser_predicts_the_same(self, core: Any, tmp_path: Path) -> None:
        weights = denoiser_weights()
        images = np.random.default_rng(1).gamma(1.0, 1.0, (1, 5, 40, 24)).astype(np.float32)
        numbers = np.random.default_rng(2).standard_normal((1, 5), np.float32)
        model = core.load_model_description(export(tmp_path, weights))
        sample = core.predict(model=model, inputs={"images": images, "conditions": numbers})
        answer = np.asarray(sample.members["answers"].to_numpy())
        ours = Runtime(causal_network_of(weights), EXACT).run(images, numbers)
        assert np.abs(answer - ours).max() < 1e-4

    def test_texts_come_back_as_they_were(self) -> None:
        ruyaml = pytest.importorskip("ruyaml")
        told = {
            "plain": 'no: "quotes" # and \\ signs\n\tü',
            "like": ["1e-3", "null", "2026-01-02", "on", "- x", "@", ""],
            "numbers": {"small": 1e-9, "one": 1, "none": None, "empty": []},
        }
        assert ruyaml.YAML(typ="safe", pure=True).load("\n".join(yaml_lines(told))) == told


def test_every_architecture_that_is_offered_can_be_described() -> None:
    made = {
        "causal_unet/1": denoiser_weights(),
        "small_unet/1": network_weights(),
        "small_unet_segmenter/1": segmenter_weights(),
    }
    assert set(made) == set(ARCHITECTURES)
    for name, weights in made.items():
        exported = ARCHITECTURES[name](weights)
        assert exported.images.shape[1] == len(exported.channels)
        assert exported.images.dtype == np.float32
