"""Packages of the BioImage Model Zoo, read without executing or downloading anything.

A package is a zip with a description (``rdf.yaml`` [1]_) and weights in one or more formats. Most formats
hold Python code or a pickle, and a description can name a Python file as processing (``custom``), weights
at a web address, or another model of the zoo as its input (``output_of``), which bioimageio.spec fetches
while it only reads the description. So of a description no more is passed on than what a network in ONNX
needs, and the rest is refused or left out.

References
----------
.. [1] https://bioimage-io.github.io/spec-bioimage-io
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from controller.core.errors import ConfigurationError
from controller.segmentation.foreign_files import library

#: Of the zip, and of the network in it.
LARGEST_BYTES = 1_000_000_000
_LARGEST_NETWORK_BYTES = 512_000_000
_LARGEST_DESCRIPTION_BYTES = 1_000_000
_MOST_FILES = 1000
# With its anchors a small YAML file can say "the same again" until no memory is left.
_MOST_VALUES = 20_000

_DESCRIPTIONS = ("bioimageio.yaml", "rdf.yaml", "model.yaml")
_PROCESSING = frozenset(
    {
        "binarize",
        "clip",
        "ensure_dtype",
        "fixed_zero_mean_unit_variance",
        "scale_linear",
        "scale_mean_variance",
        "scale_range",
        "sigmoid",
        "softmax",
        "zero_mean_unit_variance",
    }
)
_TENSOR_KEYS = (
    "id",
    "description",
    "axes",
    "data",
    "optional",
    "preprocessing",
    "postprocessing",
)


@dataclass(frozen=True, slots=True)
class Package:
    """What is used of a package: a description cut down to one network in ONNX, and that network."""

    description: dict[str, Any]
    network: bytes


def read_package(data: bytes, source: str) -> Package:
    """Return the network of a package and what is said of it.

    Raises
    ------
    ConfigurationError
        If it is no package, too large, of another version, without ONNX, or asks for what is refused.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            if len(package.namelist()) > _MOST_FILES:
                raise ConfigurationError(
                    f"{source}: {len(package.namelist())} files; {_MOST_FILES} are allowed"
                )
            described = _described(package, source)
            description = _cut_down(described, source)
            entry = description["weights"]["onnx"]
            network = _member(package, _local(entry, source), _LARGEST_NETWORK_BYTES, source)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise ConfigurationError(f"{source}: not a zip that can be read: {error}") from error
    found = hashlib.sha256(network).hexdigest()
    if entry.get("sha256") not in {None, found}:
        raise ConfigurationError(
            f"{source}: {entry['source']} is damaged: its sha256 is {found}, the description says "
            f"{entry['sha256']}"
        )
    return Package(description, network)


def _described(package: zipfile.ZipFile, source: str) -> dict[str, Any]:
    ruyaml = library("ruyaml", "bioimageio")
    names = [name for name in _DESCRIPTIONS if name in package.namelist()]
    if not names:
        raise ConfigurationError(f"{source}: no {', '.join(_DESCRIPTIONS)} in it: not a model of the zoo")
    text = _member(package, names[0], _LARGEST_DESCRIPTION_BYTES, source)
    try:
        described = ruyaml.YAML(typ="safe", pure=True).load(text.decode())
    except (ruyaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source}: {names[0]} is not YAML: {str(error)[:300]}") from error
    if not isinstance(described, dict) or described.get("type") != "model":
        raise ConfigurationError(f"{source}: {names[0]} does not describe a model")
    for count, _ in enumerate(_values(described)):
        if count > _MOST_VALUES:
            raise ConfigurationError(f"{source}: {names[0]} holds more than {_MOST_VALUES} values")
    return described


def _values(value: Any) -> Iterator[Any]:
    """Yield all values of a tree, one at a time: also one that its anchors make endless."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        yield current
        if isinstance(current, dict):
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)


def _cut_down(described: dict[str, Any], source: str) -> dict[str, Any]:
    version = str(described.get("format_version"))
    if not version.startswith("0.5."):
        raise ConfigurationError(
            f"{source}: format_version {version} is not read, 0.5 is; `bioimageio update-format` rewrites it"
        )
    weights = described.get("weights")
    entry = weights.get("onnx") if isinstance(weights, dict) else None
    if not isinstance(entry, dict):
        held = ", ".join(map(str, weights)) if isinstance(weights, dict) else "none"
        raise ConfigurationError(
            f"{source}: it has no weights of the format onnx (it has: {held}); other formats hold code that "
            f"would be executed. `bioimageio add-weights` adds onnx, on a computer where you trust the model"
        )
    if entry.get("external_data") is not None:
        raise ConfigurationError(f"{source}: weights.onnx.external_data: a network in one file is needed")
    cut: dict[str, Any] = {
        key: described[key] for key in ("format_version", "type", "name") if key in described
    }
    cut["weights"] = {
        "onnx": {key: entry[key] for key in ("source", "sha256", "opset_version") if key in entry}
    }
    for side in ("inputs", "outputs"):
        tensors = described.get(side)
        if not isinstance(tensors, list):
            raise ConfigurationError(f"{source}: {side} must be a list")
        cut[side] = [_tensor(tensor, f"{source}: {side}[{n}]") for n, tensor in enumerate(tensors)]
    return cut


def _tensor(tensor: Any, where: str) -> dict[str, Any]:
    if not isinstance(tensor, dict):
        raise ConfigurationError(f"{where} must be a mapping")
    if tensor.get("output_of") is not None:
        raise ConfigurationError(
            f"{where}: output_of: it needs another model, which would have to be downloaded"
        )
    for side in ("preprocessing", "postprocessing"):
        for step in tensor.get(side) or ():
            name = step.get("id") if isinstance(step, dict) else step
            if name not in _PROCESSING:
                raise ConfigurationError(
                    f"{where}: {side} {name!r} is not done here; allowed are {', '.join(sorted(_PROCESSING))}"
                )
    return {key: tensor[key] for key in _TENSOR_KEYS if key in tensor}


def _local(entry: dict[str, Any], source: str) -> str:
    name = entry.get("source")
    if not isinstance(name, str) or "://" in name:
        raise ConfigurationError(f"{source}: weights.onnx.source is {name!r}, not a file of the package")
    return name.removeprefix("./")


def _member(package: zipfile.ZipFile, name: str, largest_bytes: int, source: str) -> bytes:
    if name not in package.namelist():
        raise ConfigurationError(f"{source}: {name} is not in the package")
    if package.getinfo(name).flag_bits & 1:
        raise ConfigurationError(f"{source}: {name} is encrypted")
    # The size that a zip tells can be false: what counts is what comes out of it.
    with package.open(name) as file:
        data = file.read(largest_bytes + 1)
    if len(data) > largest_bytes:
        raise ConfigurationError(f"{source}: {name} is larger than {largest_bytes} bytes")
    return data
