"""A store with a few questions about drawn images, and the page over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from starlette.testclient import TestClient

from tests.web.browser import ARGUMENTS, Lab, Person, chromium_path, running_lab, somebody
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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real browser for the tests of one file; skips them by name where there is none."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A served label store with simulated pictures, without any question yet."""
    with running_lab(tmp_path) as made:
        yield made


@pytest.fixture
def ada(chromium: Browser, lab: Lab) -> Iterator[Person]:
    """Somebody at the page, who fails the test if the browser complains about anything."""
    with somebody(chromium, lab) as person:
        yield person
