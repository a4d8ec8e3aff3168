"""A store with a few questions about drawn images, and the page over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.web.support import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def page(bench: Bench) -> Iterator[TestClient]:
    """Somebody who may answer, logged in by their token."""
    with bench.client(bench.token) as client:
        yield client
