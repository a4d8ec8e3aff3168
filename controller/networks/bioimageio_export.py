"""Networks as packages of the BioImage Model Zoo: a zip that other programs run, and can check.

A package holds the network as ONNX, a description (``rdf.yaml`` [1]_), tensors to test with, a page and a
picture. It also holds the weights and their card as they are, so that nothing is lost. It holds no
``pytorch_state_dict``: that would carry Python code, which a reader would have to execute.

References
----------
.. [1] https://bioimage-io.github.io/spec-bioimage-io
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import nn

from controller.core.errors import ConfigurationError, StedfastError
from controller.core.frame import FloatImage
from controller.core.settings import Settings
from controller.networks.onnx_export import ANSWERS, CONDITIONS, IMAGES, OPSET, to_onnx
from controller.networks.small_unet import MULTIPLE_OF
from controller.networks.weights import Weights

#: What every program that reads 0.5 understands; nothing newer is used.
FORMAT_VERSION = "0.5.4"

#: Of the networks that are exported here.
CITED = (
    ("O. Ronneberger, P. Fischer, T. Brox, U-Net, MICCAI 2015", "10.1007/978-3-319-24574-4_28"),
    ("W. Shi et al., Efficient sub-pixel convolution, CVPR 2016", "10.1109/CVPR.2016.207"),
)

_COVER_PIXELS = 256
#: The same for all: a package is the same bytes if it says the same.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


class About(Settings):
    """What only a person can say of a model."""

    authors: Annotated[tuple[Annotated[str, Field(pattern=r"^[^/\n]{1,200}$")], ...], Field(min_length=1)]
    """Who answers for it."""
    licence: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]{1,60}$")]
    """One SPDX identifier."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_+() -]{5,64}$")]


@dataclass(frozen=True, slots=True, eq=False)
class ExportedNetwork:
    """A network and what it maps to what.

    Attributes
    ----------
    network
        Maps ``(n, channels, y, x)``, and ``(n, conditions)`` if it takes any, to ``(n, answers, y, x)``.
    summary, page
        One sentence; and the part of the page that tells how input is made and what the answer means.
    channels, conditions, answers
        What each input channel, number and output channel is.
    images, numbers
        An input to test with, shapes ``(1, channels, y, x)`` and ``(1, conditions)``.
    pixel_size_m
        What it was trained with, if it was one.
    tags
        Words to find it by.
    """

    network: nn.Module
    summary: str
    page: str
    channels: Sequence[str]
    answers: Sequence[str]
    images: FloatImage
    conditions: Sequence[str] = ()
    numbers: FloatImage | None = None
    pixel_size_m: float | None = None
    tags: Sequence[str] = ()


def bioimageio_package(
    exported: ExportedNetwork, weights: Weights, about: About, written_at: datetime
) -> bytes:
    """Return the zip of a network.

    Parameters
    ----------
    weights
        What the network was filled with; they and their card go along as attachments.
    written_at
        With its time zone.
    """
    images = np.ascontiguousarray(exported.images, np.float32)
    answers = _answers(exported)
    files = {
        "network.onnx": to_onnx(
            exported.network, channels=len(exported.channels), conditions=len(exported.conditions)
        ),
        "images.npy": _npy(images),
        "answers.npy": _npy(answers),
        "README.md": _page(exported, weights, about).encode(),
        "cover.png": _cover(images[0], answers[0]),
        "weights.safetensors": weights.data,
        "weights.json": _card(weights),
    }
    if exported.numbers is not None:
        files["conditions.npy"] = _npy(exported.numbers)
    described = _description(exported, files, about, written_at)
    text = "".join(f"{line}\n" for line in yaml_lines(described))
    return _zip({"rdf.yaml": text.encode(), **files})


def write_package(data: bytes, path: Path) -> None:
    """Write a package, whole or not at all.

    Raises
    ------
    ConfigurationError
        If there is such a file already.
    StedfastError
        If it cannot be written.
    """
    if path.exists():
        raise ConfigurationError(f"{path} exists already; remove it, or name another file")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StedfastError(f"{path}: cannot be written: {error.strerror or error}") from error


def yaml_lines(value: Any, indent: int = 0) -> Iterator[str]:
    """Yield a tree of mappings, sequences and plain values as lines of YAML."""
    pad = " " * indent
    items: Sequence[tuple[str, Any]]
    if isinstance(value, Mapping):
        items = [(f"{key}:", item) for key, item in value.items()]
    else:
        items = [("-", item) for item in value]
    for head, item in items:
        if isinstance(item, Mapping | list | tuple) and item:
            yield f"{pad}{head}"
            yield from yaml_lines(item, indent + 2)
        else:
            # Every value of JSON is one of YAML; a quoted string is never taken for a number or a date.
            yield f"{pad}{head} {json.dumps(item, ensure_ascii=False, allow_nan=False)}"


def _answers(exported: ExportedNetwork) -> FloatImage:
    arguments = [torch.from_numpy(np.array(exported.images, np.float32))]
    if exported.numbers is not None:
        arguments.append(torch.from_numpy(np.array(exported.numbers, np.float32)))
    with torch.inference_mode():
        answers = exported.network.train(mode=False)(*arguments)
    return np.asarray(answers.numpy(), np.float32)


def _description(
    exported: ExportedNetwork, files: Mapping[str, bytes], about: About, written_at: datetime
) -> dict[str, Any]:
    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}

    inputs: list[dict[str, Any]] = [
        {
            "id": IMAGES,
            "axes": _axes(exported, exported.channels, is_input=True),
            "test_tensor": file("images.npy"),
        }
    ]
    if exported.numbers is not None:
        axes = [{"type": "batch"}, {"type": "channel", "channel_names": list(exported.conditions)}]
        inputs.append({"id": CONDITIONS, "axes": axes, "test_tensor": file("conditions.npy")})
    output = {
        "id": ANSWERS,
        "axes": _axes(exported, exported.answers, is_input=False),
        "test_tensor": file("answers.npy"),
    }
    return {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": about.name,
        "description": exported.summary,
        "timestamp": written_at.isoformat(timespec="seconds"),
        "authors": [{"name": name} for name in about.authors],
        "license": about.licence,
        "cite": [{"text": text, "doi": doi} for text, doi in CITED],
        "documentation": "README.md",
        "covers": ["cover.png"],
        "tags": list(exported.tags),
        "attachments": [file("weights.safetensors"), file("weights.json")],
        "inputs": inputs,
        "outputs": [output],
        "weights": {"onnx": {**file("network.onnx"), "opset_version": OPSET}},
    }


def _axes(exported: ExportedNetwork, channels: Sequence[str], *, is_input: bool) -> list[dict[str, Any]]:
    pixel: dict[str, Any] = {}
    if exported.pixel_size_m is not None:
        pixel = {"unit": "micrometer", "scale": exported.pixel_size_m * 1e6}
    axes: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": list(channels)}]
    for name in ("y", "x"):
        size: dict[str, Any] = {"min": 2 * MULTIPLE_OF, "step": MULTIPLE_OF}
        if not is_input:
            size = {"tensor_id": IMAGES, "axis_id": name}
        axes.append({"type": "space", "id": name, "size": size, **pixel})
    return axes


def _page(exported: ExportedNetwork, weights: Weights, about: About) -> str:
    card = weights.card
    metrics = [f"- {name}: {value:.4g}" for name, value in sorted(card.metrics.items())]
    lines = [
        f"# {about.name}",
        "",
        exported.summary,
        "",
        exported.page.strip(),
        "",
        f"Height and width must be multiples of {MULTIPLE_OF}.",
        "",
        "## Training",
        "",
        *([f"- {data}" for data in card.trained_on] or ["The card does not say what it was trained on."]),
        "",
        "## Validation",
        "",
        *(
            metrics
            or ["The card holds no measurements. Compare with labels of your own before you trust it."]
        ),
        "",
        f"Written by Stedfast from weights {weights.sha256}; they and their card are attached.",
    ]
    return "\n".join(lines) + "\n"


def _card(weights: Weights) -> bytes:
    card = weights.card.model_dump(mode="json", by_alias=True)
    return (json.dumps(card, indent=2, sort_keys=True) + "\n").encode()


def _cover(images: FloatImage, answers: FloatImage) -> bytes:
    """Return the first channel beside the first answer, as a picture."""
    both = [Image.fromarray(_grey(image)).resize((_COVER_PIXELS,) * 2) for image in (images[0], answers[0])]
    cover = Image.new("L", (2 * _COVER_PIXELS, _COVER_PIXELS))
    for position, picture in enumerate(both):
        cover.paste(picture, (position * _COVER_PIXELS, 0))
    file = io.BytesIO()
    cover.save(file, "PNG")
    return file.getvalue()


def _grey(image: FloatImage) -> NDArray[np.uint8]:
    low, high = (float(v) for v in np.percentile(image, (0.5, 99.5)))
    scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
    return np.asarray(np.clip(255 * scaled, 0, 255), np.uint8)


def _npy(array: FloatImage) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return file.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return written.getvalue()
