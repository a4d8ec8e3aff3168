"""Weights on disk: what was written is read, and nothing else gets in."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.networks import weights as module
from controller.networks.weights import (
    LARGEST_BYTES,
    Weights,
    WeightsError,
    check,
    pack,
    read_weights,
    write_weights,
)


def example(value: float = 1.0) -> Weights:
    tensors = {"a.weight": np.full((2, 3), value, np.float32), "a.bias": np.zeros(2, np.float32)}
    return pack(tensors, architecture="test/1", options={"width": 8}, licence="BSD-3-Clause")


def file_of(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with any header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def claimed(data: bytes) -> Weights:
    """Return bytes with a card that vouches for them."""
    return Weights(data, example().card.replace(sha256=hashlib.sha256(data).hexdigest()))


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    weights = example(0.25)
    write_weights(weights, tmp_path / "new" / "net.safetensors")
    for suffix in (".safetensors", ".json"):
        read = read_weights(tmp_path / "new" / f"net{suffix}")
        assert read.card == weights.card
        assert np.array_equal(read.tensors()["a.weight"], np.full((2, 3), 0.25, np.float32))
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["net.json", "net.safetensors"]


FLOATS = b"\0" * 8
HOSTILE = {
    "nothing": b"",
    "half a length": b"\1\0\0",
    "a length beyond the end": file_of({}, length=10_000),
    "a length that overflows": file_of({}, length=2**64 - 1),
    "a header that is no JSON": file_of(b"{" * 64),
    "a header of deep nesting": file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "overlapping tensors": file_of({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}, FLOATS),
    "one name twice": file_of(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        FLOATS,
    ),
    "a hole between tensors": file_of({"a": entry("F32", [1], 4, 8)}, FLOATS),
    "fewer numbers than the shape": file_of({"a": entry("F32", [100], 0, 8)}, FLOATS),
    "a shape that overflows": file_of({"a": entry("F32", [2**62, 2**62], 0, 8)}, FLOATS),
    "a tensor that ends before it begins": file_of({"a": entry("F32", [2], 8, 0)}, FLOATS),
    "an unknown type": file_of({"a": entry("OBJECT", [2], 0, 8)}, FLOATS),
    "doubles": file_of({"a": entry("F64", [1], 0, 8)}, FLOATS),
    "integers": file_of({"a": entry("I32", [2], 0, 8)}, FLOATS),
    "half floats": file_of({"a": entry("F16", [4], 0, 8)}, FLOATS),
    "bfloat16": file_of({"a": entry("BF16", [4], 0, 8)}, FLOATS),
    "nan": file_of({"a": entry("F32", [2], 0, 8)}, np.array([1, np.nan], np.float32).tobytes()),
    "infinity": file_of({"a": entry("F32", [2], 0, 8)}, np.array([1, np.inf], np.float32).tobytes()),
    "a pickle": pickle.dumps({"a": np.ones(3, np.float32)}),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_bytes_that_are_no_weights_are_refused(data: bytes) -> None:
    with pytest.raises(WeightsError, match=r"weights [0-9a-f]{12}: "):
        claimed(data).tensors()


@pytest.mark.parametrize("kept", [0, 1, 7, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "net.safetensors"
    write_weights(example(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="damaged or belongs to another card"):
        read_weights(path)


def test_a_file_with_another_card_is_refused() -> None:
    card = example(2.0).card.model_dump_json(by_alias=True)
    with pytest.raises(WeightsError, match="somewhere: the file is damaged or belongs to another card"):
        check(example(1.0).data, card, "somewhere")


CARDS = {
    "is empty": "",
    "is no JSON": "{'schema': 1}",
    "is a list": "[]",
    "nests deeply": '{"options": ' + "[" * 400_000 + "]" * 400_000 + "}",
    "has a number of a million digits": '{"metrics": {"a": ' + "9" * 900_000 + "}}",
    "is too long": " " * 1_000_001,
    "is not text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
def test_a_card_that_cannot_be_read_is_refused(card: str | bytes) -> None:
    with pytest.raises(WeightsError, match=r"net: (a )?card"):
        check(example().data, card, "net")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "stedfast-weights/2"),
        ("sha256", "0" * 63),
        ("architecture", None),
        ("metrics", {"psnr_db": float("nan")}),
        ("metrics", {"psnr_db": "34"}),
        ("licence", "x" * 3000),
        ("unknown", 1),
    ],
)
def test_a_card_with_a_wrong_entry_is_refused_by_its_name(key: str, value: object) -> None:
    card = json.loads(example().card.model_dump_json(by_alias=True)) | {key: value}
    with pytest.raises(WeightsError, match=f"net: card: {key}"):
        check(example().data, json.dumps(card), "net")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_weights(example(), path)
    with path.open("r+b") as file:
        file.truncate(2**43)  # of nothing: reading it would end in a MemoryError
    with pytest.raises(WeightsError, match=f"8796093022208 bytes; no more than {LARGEST_BYTES} are read"):
        read_weights(path)
    with pytest.raises(WeightsError, match="bytes of weights are more than"):
        check(bytes(LARGEST_BYTES + 1), "{}", "net")


def _missing(path: Path) -> None:
    path.unlink()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("spoil", [_missing, _loop, _folder, _endless, _pipe])
def test_what_is_no_file_is_refused_by_its_name(
    tmp_path: Path, spoil: Callable[[Path], None], suffix: str
) -> None:
    write_weights(example(), tmp_path / "net.safetensors")
    spoil(tmp_path / f"net{suffix}")
    with pytest.raises(WeightsError, match=rf"net\{suffix}: cannot be read: "):
        read_weights(tmp_path / "net.json")


def test_other_names_are_refused(tmp_path: Path) -> None:
    for name in ("net.pt", "net", "net.safetensors.bak"):
        with pytest.raises(WeightsError, match=r"are a \.safetensors file with a \.json card"):
            read_weights(tmp_path / name)
        with pytest.raises(WeightsError, match=r"are a \.safetensors file with a \.json card"):
            write_weights(example(), tmp_path / name)
    assert not list(tmp_path.iterdir())


class _Killed(BaseException):
    """Stands for a kill: nothing after it runs."""


def _stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Be killed before the ``step``-th rename; the steps of a write are renames."""
    moved = module._move
    done = 0

    def move(source: Path, target: Path) -> None:
        nonlocal done
        if done == step:
            raise _Killed
        done += 1
        moved(source, target)

    monkeypatch.setattr(module, "_move", move)


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("second", [0, 1, 2, 3])
def test_two_writes_that_are_killed_anywhere_leave_a_pair_that_is_read(
    tmp_path: Path, first: int, second: int
) -> None:
    path = tmp_path / "net.safetensors"
    write_weights(example(0.0), path)
    for value, step in ((1.0, first), (2.0, second)):
        before = float(read_weights(path).tensors()["a.weight"][0, 0])
        with pytest.MonkeyPatch.context() as patch:
            _stop_at(patch, step)
            with suppress(_Killed):
                write_weights(example(value), path)
        assert float(read_weights(path).tensors()["a.weight"][0, 0]) in {before, value}
    write_weights(example(3.0), path)
    assert read_weights(path).tensors()["a.weight"][0, 0] == 3.0
    assert path.read_bytes() == example(3.0).data, "whoever reads the file alone finds the newest too"


def test_a_pair_can_be_read_while_another_is_written(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_weights(example(0.0), path)
    done, seen = threading.Event(), set()

    def write() -> None:
        for value in range(1, 21):
            write_weights(example(float(value)), path)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        seen.add(float(read_weights(path).tensors()["a.weight"][0, 0]))
    writer.join()
    assert seen <= set(map(float, range(21)))
    assert read_weights(path).tensors()["a.weight"][0, 0] == 20


def test_a_first_write_that_is_killed_leaves_nothing_or_a_pair(tmp_path: Path) -> None:
    for step in range(2):
        path = tmp_path / f"net{step}.safetensors"
        with pytest.MonkeyPatch.context() as patch:
            _stop_at(patch, step)
            with pytest.raises(_Killed):
                write_weights(example(), path)
        with pytest.raises(WeightsError, match="No such file"):
            read_weights(path)
    path = tmp_path / "net2.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        _stop_at(patch, 2)
        with pytest.raises(_Killed):
            write_weights(example(), path)
    assert read_weights(path).sha256 == example().sha256


def test_a_disk_that_refuses_leaves_the_old_pair_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_weights(example(0.0), path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WeightsError, match="cannot be written: No space left on device"):
            write_weights(example(1.0), path)
    assert read_weights(path).tensors()["a.weight"][0, 0] == 0.0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
