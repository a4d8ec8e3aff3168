"""Files that one process writes while others read them."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and its folder if there is none; who reads finds all of it or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_suffix(".tmp")
    waiting.write_bytes(content)
    waiting.replace(path)
