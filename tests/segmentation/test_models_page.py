from __future__ import annotations

from pathlib import Path

import pytest

from controller.core.errors import ConfigurationError
from controller.plugins import find
from controller.segmentation.bioimage_model import BioimageSegmenter
from controller.segmentation.cellpose import CellposeSegmenter
from controller.segmentation.onnx_model import OnnxSegmenter

PAGE = Path(__file__).parents[2] / "docs/models.md"


@pytest.mark.parametrize("plugin", [OnnxSegmenter, BioimageSegmenter, CellposeSegmenter])
def test_the_page_explains_every_option(
    plugin: type[OnnxSegmenter | BioimageSegmenter | CellposeSegmenter],
) -> None:
    text = PAGE.read_text()
    for name in plugin.Options.model_fields:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("module", ["onnx_model:Onnx", "bioimage_model:Bioimage", "cellpose:Cellpose"])
def test_lists_of_a_configuration_are_read_and_mistakes_told(module: str) -> None:
    from controller.config import plugin_options

    name = f"controller.segmentation.{module}Segmenter"
    required = "weights" if "cellpose" in module else "model"
    options = plugin_options("segmenters", name, {required: "m", "channels": ["raw", "std"]})
    assert options.channels == ("raw", "std")  # type: ignore[attr-defined]
    assert issubclass(find("segmenters", name).Options, type(options))
    with pytest.raises((ConfigurationError, ValueError), match="channels"):
        plugin_options("segmenters", name, {required: "m", "channels": ["red"]})
