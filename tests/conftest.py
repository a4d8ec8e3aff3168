"""What all tests share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# The tests share few processors: a library that takes all of them for each test makes all of them wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_folder_for_temporary_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give each process of a parallel run its own: what is locked there is one microscope each."""
    folder: Path = tmp_path_factory.mktemp("temporary")
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = str(folder)
