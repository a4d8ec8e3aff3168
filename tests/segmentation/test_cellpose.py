from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.protocols import Segmenter
from controller.segmentation.cellpose import CellposeSegmenter
from controller.segmentation.foreign_files import ForeignModelError
from controller.testing import SegmenterContract, resources
from tests.support import frame_of

torch = pytest.importorskip("torch", reason="needs the extra learn")

PIXEL_M = 100e-9


class FakeModel:
    """What is used of ``cellpose.models.CellposeModel`` 4.2.1, as its source says.

    It loads like that, and calls a cell what is brighter than a weight.
    """

    def __init__(  # noqa: PLR0917  # as it is
        self,
        gpu: bool = False,
        pretrained_model: str = "cpsam_v2",
        model_type: Any = None,
        diam_mean: Any = None,
        device: Any = None,
        nchan: Any = None,
        use_bfloat16: bool = True,
    ) -> None:
        assert Path(pretrained_model).exists(), "it would be downloaded"
        assert not use_bfloat16
        self.net = torch.nn.Module()
        self.net.W2 = torch.nn.Parameter(torch.eye(2), requires_grad=False)
        self.net.level = torch.nn.Parameter(torch.zeros(1))
        self.net.diam_mean = torch.nn.Parameter(torch.tensor([30.0]))
        state = torch.load(pretrained_model, weights_only=True)
        self.net.load_state_dict({k.removeprefix("module."): v for k, v in state.items()}, strict=False)
        self.diameter: float | None = None

    def eval(  # noqa: PLR0917  # as it is
        self,
        x: NDArray[Any],
        batch_size: int = 8,
        resample: bool = True,
        channels: Any = None,
        channel_axis: int | None = None,
        z_axis: Any = None,
        normalize: bool = True,
        rescale: Any = None,
        diameter: float | None = None,
        flow_threshold: float = 0.4,
        cellprob_threshold: float = 0.0,
        do_3D: bool = False,  # noqa: N803  # its own name
        min_size: int = 15,
    ) -> tuple[NDArray[Any], list[NDArray[Any]], NDArray[Any]]:
        assert channel_axis == -1
        assert x.ndim == 3
        self.diameter = diameter
        logits = (x[..., 0] - self.net.level.item()).astype(np.float32)
        masks, _ = ndimage.label(logits > cellprob_threshold)
        return masks.squeeze(), [np.zeros(1), np.zeros(1), logits.squeeze()], np.zeros(256)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    package, models = ModuleType("cellpose"), ModuleType("cellpose.models")
    models.CellposeModel = FakeModel  # type: ignore[attr-defined]
    package.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cellpose", package)
    monkeypatch.setitem(sys.modules, "cellpose.models", models)


def weights(folder: Path, **changes: Any) -> Path:
    path = folder / "cells"
    state = {"W2": torch.eye(2), "level": torch.tensor([5.0]), **changes}
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    return path


def segmenter(path: Path, **options: Any) -> CellposeSegmenter:
    checked = CellposeSegmenter.Options(weights=path.name, **options)
    return CellposeSegmenter.from_options(checked, resources(folder=path.parent))


def frame(photons: object, pixel_size_m: float = PIXEL_M) -> Frame:
    return frame_of(photons, pixel_size_m)


@pytest.mark.usefixtures("fake")
class TestCellposeSegmenter(SegmenterContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self) -> Segmenter:
        return segmenter(weights(self.folder))


@pytest.mark.usefixtures("fake")
def test_cells_come_with_their_probability(tmp_path: Path) -> None:
    image = np.zeros((30, 40))
    image[3:9, 3:9] = image[20:28, 10:30] = 8
    image[15, 35] = 8
    found = segmenter(weights(tmp_path), smallest_area_m2=10 * PIXEL_M**2).step(frame(image), None)
    assert found.labels.max() == 2
    assert found.labels[15, 35] == 0
    assert np.allclose(found.probability, 1 / (1 + np.exp(5 - image)), atol=1e-6)


@pytest.mark.usefixtures("fake")
def test_the_diameter_reaches_cellpose_in_pixels(tmp_path: Path) -> None:
    model = segmenter(weights(tmp_path), diameter_m=6e-6)
    model.step(frame(np.zeros((20, 20))), None)
    assert model._model.diameter == pytest.approx(60)
    with pytest.raises(ForeignModelError, match="1e-12"):
        segmenter(weights(tmp_path), diameter_m=1e-12).step(frame(np.zeros((20, 20))), None)


@pytest.mark.usefixtures("fake")
def test_weights_of_several_gpus_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cells"
    torch.save({"module.W2": torch.eye(2), "module.level": torch.tensor([5.0])}, path)
    assert segmenter(path).step(frame(np.full((8, 8), 9)), None).labels.max() == 1


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


@pytest.mark.usefixtures("fake")
def test_a_file_that_would_execute_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="not a file of numbers"):
        segmenter(weights(tmp_path, level=Evil()))
    assert not Path("executed").exists()
    # The same file does it where everything is unpickled: the test can fail.
    torch.load(tmp_path / "cells", weights_only=False)
    assert Path("executed").exists()


@pytest.mark.usefixtures("fake")
def test_the_switch_that_makes_torch_execute_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ConfigurationError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set"):
        segmenter(weights(tmp_path))


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W2": None}, "those of Cellpose 3 do not fit"),
        ({"level": None}, "1 tensors are missing, the first is level"),
        ({"level": torch.zeros(7)}, "Cellpose cannot use it"),
        ({"level": "text"}, "it holds something else"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        segmenter(weights(tmp_path, **changes))


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + b"\x00" * 50])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cells").write_bytes(data)
    with pytest.raises(ConfigurationError, match="not a file of numbers"):
        segmenter(tmp_path / "cells")


@pytest.mark.usefixtures("fake")
def test_missing_weights_are_not_downloaded_and_others_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="never downloaded"):
        segmenter(tmp_path / "cpsam")
    with pytest.raises(ConfigurationError, match="the option sha256 says 0000"):
        segmenter(weights(tmp_path), sha256="0" * 64)
    digest = hashlib.sha256(weights(tmp_path).read_bytes()).hexdigest()
    assert segmenter(tmp_path / "cells", sha256=digest).options.sha256 == digest


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cellpose", None)
    monkeypatch.delitem(sys.modules, "cellpose.models", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'stedfast\[cellpose\]'"):
        segmenter(weights(tmp_path))


@pytest.fixture
def small_cellpose(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return Cellpose itself, with an encoder of one narrow layer instead of 24 wide ones."""
    vit = pytest.importorskip("cellpose.vit", reason="needs the extra cellpose")
    encoder = pytest.importorskip("segment_anything.modeling").ImageEncoderViT

    def build(_: object) -> Any:
        network = torch.nn.Module()
        network.image_encoder = encoder(
            img_size=1024, patch_size=16, embed_dim=32, depth=1, num_heads=2, out_chans=16, use_rel_pos=False
        )
        return network

    monkeypatch.setitem(vit.sam_model_registry, "vit_l", build)
    return vit


@pytest.mark.filterwarnings("default")  # theirs are not ours to mend
def test_cellpose_itself_loads_weights_and_answers(small_cellpose: Any, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_cellpose.CPSAM()
    torch.save(network.state_dict(), tmp_path / "cells")
    model = segmenter(tmp_path / "cells")
    noise = np.random.default_rng(0)
    for shape in ((40, 50), (1, 9), (300, 270)):
        image = frame(noise.poisson(5, shape))
        found = model.step(image, None)
        assert found.labels.shape == shape
        assert np.isfinite(found.probability).all()
    # It is the file's network, not one at random, and it answers the same twice.
    assert np.array_equal(model.step(image, None).probability, found.probability)
    again = segmenter(tmp_path / "cells").step(image, None)
    assert np.array_equal(again.probability, found.probability)
    state = network.state_dict()
    del state["out.weight"]
    torch.save(state, tmp_path / "cells")
    with pytest.raises(ConfigurationError, match=r"1 tensors are missing, the first is out\.weight"):
        segmenter(tmp_path / "cells")
