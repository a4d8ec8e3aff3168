"""Layers, style and types are checked by the tests, so that one command says whether all is well."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import controller

ROOT = Path(__file__).parent.parent


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_style_holds() -> None:
    run("ruff", "check", "--no-cache", ".")
    run("ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.timeout(300)
def test_the_types_hold() -> None:
    run("mypy")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from controller.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = 'numpy pydantic scipy skimage zarr torch pysted gymnasium tifffile'.split()\n"
        "sys.exit(', '.join(set(heavy) & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "resume" in done.stdout
    assert done.returncode == 0, done.stderr


def test_checking_a_configuration_without_the_simulator_loads_no_simulator(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from controller.config import load\n"
        "import controller.assemble, controller.session, policies.regions\n"
        "heavy = {'torch', 'pysted', 'matplotlib', 'gymnasium'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_packages_that_run_are_the_ones_that_are_installed() -> None:
    files = {str(file) for file in distribution("stedfast").files or []}
    assert any("stedfast" in name for name in files)
    assert Path(controller.__file__).parent.parent == ROOT


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "common", "helpers", "misc", "tools", "base"}
    for package in ("controller", "simulator", "policies"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem not in vague, path


def test_nothing_is_unpickled_evaluated_or_executed() -> None:
    forbidden = re.compile(
        # Python's own eval and exec: networks of others have methods of these names.
        r"import pickle|pickle\.load|(?<![\w.])(eval|exec)\(|yaml\.load\(|allow_pickle=True|os\.system"
    )
    for package in ("controller", "simulator", "policies"):
        for path in (ROOT / package).rglob("*.py"):
            assert not forbidden.search(path.read_text()), path
