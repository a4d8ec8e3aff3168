"""Group commit: images before the journal, long light only once it is written down for good."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.recording import commit
from controller.recording.commit import FRAMES_MAX, LIGHT_MAX_S, LONG_LIGHT_S, GroupCommit


class Disk:
    """A disk that syncs when it is told to, and notes in which order."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.errors: list[BaseException] = []
        self.allowed = threading.Event()
        self.refuses = False

    def images(self, paths: list[Path]) -> None:
        assert self.allowed.wait(20)
        self.synced += [path.name for path in paths]

    def journal(self) -> None:
        if self.refuses:
            raise OSError(5, "Input/output error")
        self.synced.append("journal")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(commit, "sync", disk.images)
    return disk


def waits(disk: Disk, call: Callable[[], None]) -> bool:
    """Tell whether ``call`` returned only once the disk had synced."""
    with ThreadPoolExecutor() as pool:
        called: Future[None] = pool.submit(call)
        try:
            called.result(timeout=0.2)
            waited = False
        except TimeoutError:
            waited = True
        disk.allowed.set()
        called.result(timeout=20)
    return waited


def test_images_are_synced_before_the_journal_that_names_them(disk: Disk) -> None:
    disk.allowed.set()
    group = GroupCommit(disk.journal, disk.errors.append)
    group.add([Path("chunk"), Path("group")])
    group.add(frames=1)
    group.flush()
    assert disk.synced[-1] == "journal"
    assert [name for name in disk.synced if name != "journal"] == ["chunk", "group"]
    group.add([Path("later")])
    group.close()
    assert disk.synced[-2:] == ["later", "journal"], "nothing is left at the end"
    group.close()
    assert disk.errors == []


def test_long_light_waits_until_it_is_durable_and_short_light_does_not(disk: Disk) -> None:
    group = GroupCommit(disk.journal, disk.errors.append)
    assert not waits(disk, lambda: group.book(0.9 * LONG_LIGHT_S))
    group.flush()
    disk.allowed.clear()
    assert waits(disk, lambda: group.book(LONG_LIGHT_S))
    group.close()


def test_short_scans_wait_when_too_much_light_is_at_stake(disk: Disk) -> None:
    group = GroupCommit(disk.journal, disk.errors.append)
    scan_s = LIGHT_MAX_S / 4
    for _ in range(4):
        group.book(scan_s)
    assert waits(disk, lambda: group.book(scan_s))
    group.close()


def test_no_more_frames_than_allowed_are_behind(disk: Disk) -> None:
    group = GroupCommit(disk.journal, disk.errors.append)
    for _ in range(FRAMES_MAX):
        group.add([Path("chunk")], frames=1)
    assert waits(disk, lambda: group.add([Path("chunk")], frames=1))
    group.close()


def test_a_disk_that_refuses_is_told_once_and_nobody_waits(disk: Disk) -> None:
    disk.refuses = True
    disk.allowed.set()
    group = GroupCommit(disk.journal, disk.errors.append)
    group.book(1.0)
    group.flush()
    for _ in range(2 * FRAMES_MAX):
        group.add(frames=1)
    group.book(1.0)
    group.close()
    assert [str(error) for error in disk.errors] == ["[Errno 5] Input/output error"]
