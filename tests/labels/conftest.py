"""A label database of each kind: a SQLite file, and a PostgreSQL that is started for the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.labels.queue import LabelQueue
from controller.labels.store import LabelStore
from tests.labels.support import Place, Watch

#: Speed, not safety: the data lives as long as the tests.
_SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
}


def _program(name: str) -> str | None:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
    return str(installed[-1]) if installed else shutil.which(name)


def _server_user() -> str | None:
    """Return whom the server runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


@pytest.fixture(scope="session")
def postgresql_folder() -> Iterator[Path]:
    """Start a PostgreSQL that listens in a folder only, and stop it."""
    initdb, postgres, user = _program("initdb"), _program("postgres"), _server_user()
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb in /usr/lib/postgresql nor on the PATH")
    if user is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install stedfast[postgresql]")
    # Not in pytest's folder: another user may not enter it, and a socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="stedfast-", dir="/tmp"))
    switch = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    options = switch if os.geteuid() == 0 else {}
    if options:
        shutil.chown(folder, user)
    try:
        subprocess.run(
            [
                initdb,
                "-D",
                folder / "data",
                "-U",
                "lab",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-locale",
                "--wal-segsize=1",
                "-N",
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **options,  # type: ignore[call-overload]
        )
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [postgres, "-D", folder / "data", "-k", folder, *settings],
                stdout=log,
                stderr=log,
                cwd=folder,
                **options,  # type: ignore[call-overload]
            )
        try:
            _wait_until_it_answers(folder, server)
            yield folder
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is needed any more
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(folder: Path, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    end_s = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(host=str(folder), user="lab", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > end_s:
                raise
            time.sleep(0.02)


@pytest.fixture
def postgresql_url(postgresql_folder: Path) -> str:
    """Return the URL of a place without tables; a schema, as a database of its own is 300 files."""
    import psycopg

    name = f"labels_{uuid.uuid4().hex}"
    with psycopg.connect(
        host=str(postgresql_folder), user="lab", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"postgresql+psycopg://lab@/postgres?host={postgresql_folder}&options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return where a label store can be made: a folder, and a PostgreSQL's URL."""
    if request.param == "sqlite":
        return str(tmp_path)
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def watch() -> Watch:
    """Return a clock that goes on when it is told to."""
    return Watch()


@pytest.fixture
def store(place: Place, watch: Watch) -> Iterator[LabelStore]:
    """Return an empty store."""
    store = LabelStore.open(place, create=True, now=watch)
    yield store
    store.close()


@pytest.fixture
def queue(store: LabelStore, watch: Watch) -> LabelQueue:
    """Return the queue of the empty store."""
    return LabelQueue(store, watch)
