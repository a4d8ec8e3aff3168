"""The page is found where it was last time, and by other people under a name that means something to them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from controller.cli.label import _address_for_others, _keep_port, _port_of_last_time

HERE, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104  # nothing listens


def a_free_port() -> int:
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        return int(taken.getsockname()[1])


def test_the_port_of_last_time_is_taken_again(tmp_path: Path) -> None:
    assert _port_of_last_time(tmp_path, HERE) == 0
    port = a_free_port()
    _keep_port(tmp_path, port)
    assert _port_of_last_time(tmp_path, HERE) == port


def test_a_port_that_somebody_else_has_is_left_to_them(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        taken.listen()
        _keep_port(tmp_path, taken.getsockname()[1])
        assert _port_of_last_time(tmp_path, HERE) == 0


@pytest.mark.parametrize("written", ["", "a port", "-1", "70000", "1" * 50, "4\n4"])
def test_a_damaged_note_of_the_port_does_not_matter(tmp_path: Path, written: str) -> None:
    _keep_port(tmp_path, 1)
    (tmp_path / "labels/port").write_text(written)
    assert _port_of_last_time(tmp_path, HERE) == 0


def test_a_folder_that_cannot_be_written_only_costs_the_memory_of_the_port(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a file in the way")
    _keep_port(tmp_path, 4827)
    assert _port_of_last_time(tmp_path, HERE) == 0


@pytest.mark.parametrize(
    ("host", "names", "address"),
    [
        (HERE, None, "http://127.0.0.1:80"),
        ("192.168.0.7", None, "http://192.168.0.7:80"),
        (EVERYWHERE, None, f"http://{socket.gethostname()}:80"),
        ("::", None, f"http://{socket.gethostname()}:80"),
        (EVERYWHERE, ["labels.lab"], "http://labels.lab:80"),
        (HERE, ["https://labels.lab", "other"], "https://labels.lab"),
    ],
)
def test_others_are_told_an_address_that_leads_to_this_computer(
    host: str, names: list[str] | None, address: str
) -> None:
    shown = HERE if host in {EVERYWHERE, "::"} else host
    assert _address_for_others(f"http://{shown}:80", host, names) == address
