"""Files that others read meanwhile are never seen half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.labelling.whole_files import write_whole


def test_a_file_and_its_folder_are_made_and_a_later_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "worth.json"
    for content in (b"first", b"second"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert [found.name for found in path.parent.iterdir()] == ["worth.json"]


def test_what_was_there_stays_where_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "worth.json"
    write_whole(path, b"first")

    def full(waiting: Path, content: bytes) -> int:
        with waiting.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
