"""A store with a few questions about drawn images, and the page over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.web.support import Bench


@pytest.fixture(scope="session")
def first_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("bench"))
    made.store.close()
    return made


@pytest.fixture
def bench(tmp_path: Path, first_bench: Bench) -> Iterator[Bench]:
    made = Bench(tmp_path, first_bench)
    yield made
    made.store.close()


@pytest.fixture
def page(bench: Bench) -> Iterator[TestClient]:
    """Somebody who may answer, logged in by their token."""
    with bench.client(bench.token) as client:
        yield client
