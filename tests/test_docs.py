"""Every code block of the documentation runs, in order, in one folder a document."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from controller.cli import app
from controller.config import load

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "hardware_configs/README.md",
    ]
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# `make demo` and `make test` set up the environment that this test runs in; CI runs them.
ELSEWHERE = {"make", "source"}


# A script with Micro-Manager's port, 4827, which may be in use here; pycromanager 1.0.2 reads images in
# memory on its default port, whatever it was given.
ON_PORT = """from pyjavaz import JavaObject
JavaObject.__new__.__defaults__ = (None, {port}, *JavaObject.__new__.__defaults__[2:])
"""


class Servers:
    """The servers that a document starts. They end, as by Ctrl-C, before its next shell block."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []
        self._port: int | None = None

    def start(self, words: list[str]) -> None:
        pytest.importorskip("zmq")
        command = [sys.executable, "-m", "controller", *words, "--port", "0", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._running.append(server)
        assert server.stdout is not None
        self._port = json.loads(server.stdout.readline())["port"]

    def script(self, text: str) -> str | None:
        """Return a script for the port of the server, if there is one."""
        if self._port is None:
            return None
        text = text.replace("Core()", f"Core(port={self._port})")
        text = text.replace("show_display=False", f"show_display=False, port={self._port}")
        return ON_PORT.format(port=self._port) + text

    def end(self) -> None:
        self._port = None
        while self._running:
            server = self._running.pop()
            server.send_signal(signal.SIGINT)
            out, _ = server.communicate(timeout=60)
            assert (server.returncode, json.loads(out)["status"]) == (0, "completed")


def run_shell(text: str, folder: Path, servers: Servers) -> None:
    servers.end()
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] in ELSEWHERE:
            continue
        assert words[0] == "stedfast", f"{line!r}: only stedfast and make are expected in a shell block"
        if words[1] == "serve":
            servers.start(words[1:])
            continue
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0 or "is complete" in result.stderr, (line, result.output)


def run_python(text: str, folder: Path) -> None:
    path = folder / "block.py"
    path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, path], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def run_toml(text: str, folder: Path) -> None:
    if "schema" in tomllib.loads(text):
        tifffile.imwrite(folder / "image.tif", np.ones((224, 224), np.uint16), photometric="minisblack")
        path = folder / "block.toml"
        path.write_text(text)
        load(path)
        assert CliRunner().invoke(app, ["check", str(path)]).exit_code == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_a_document_runs(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "hardware_configs", tmp_path / "hardware_configs")
    with ExitStack() as ends:
        servers = Servers()
        ends.callback(servers.end)
        run_blocks(document, tmp_path, servers)


def run_blocks(document: Path, tmp_path: Path, servers: Servers) -> None:
    blocks = BLOCK.findall(document.read_text())
    if any("my-session" in text for _, text in blocks) and "stedfast new" not in document.read_text():
        run_shell(
            "stedfast run demo --budget-cycles 6 --output my-session".replace("demo", str(ROOT / "demo")),
            tmp_path,
            servers,
        )
    python = ""
    for language, text in blocks:
        if language == "sh":
            run_shell(text, tmp_path, servers)
        elif language == "python" and (script := servers.script(text)) is not None:
            run_python(script, tmp_path)
        elif language == "python":
            python += text + "\n"
            run_python(python, tmp_path)
        elif language == "toml":
            run_toml(text, tmp_path)
        else:
            assert language == "text", f"a block needs a language: {text[:60]!r}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_hardware_readme_explains_every_key() -> None:
    from controller.config import HardwareConfig, MicroscopeConfig
    from controller.core.limits import SafetyLimits, SafeValues
    from controller.microscopes.device_mapping import DeviceMapping, MappedSetting
    from controller.microscopes.replay import MovieMicroscope
    from simulator.sted.microscope import SimulatedMicroscope

    text = (ROOT / "hardware_configs/README.md").read_text()
    for model in (
        SafetyLimits,
        SafeValues,
        MicroscopeConfig,
        MovieMicroscope.Options,
        SimulatedMicroscope.Options,
        DeviceMapping,
        MappedSetting,
    ):
        for name in model.model_fields:
            assert f"`{name}`" in text, name
    for name, field in HardwareConfig.model_fields.items():
        key = field.alias or name
        assert f"`{key}`" in text or f"`[{key}]`" in text, key


def test_the_experiments_page_explains_every_key_of_the_policies() -> None:
    from controller.config import SessionConfig
    from controller.plugins import available, find

    text = (ROOT / "docs/experiments.md").read_text()
    for name in available("policies"):
        for option in find("policies", name).Options.model_fields:
            assert f"`{option}`" in text or f"`{option}." in text or option == "refusals_max", (name, option)
    for name, field in SessionConfig.model_fields.items():
        key = field.alias or name
        assert f"`{key}`" in text or f"[{key}]" in text, key


def test_the_experiments_page_explains_every_key_of_labels_with_its_default() -> None:
    from controller.labels.plan import LabelPlan

    section = (ROOT / "docs/experiments.md").read_text().partition("| key of `[labels]` |")[2]
    rows = [line.split("|") for line in section.partition("\n\n")[0].splitlines()[2:]]
    told = {row[1].strip(): row[3].strip() for row in rows}
    assert len(told) == len(LabelPlan.model_fields)
    for name, field in LabelPlan.model_fields.items():
        default = field.get_default(call_default_factory=True)
        said = told[f"`{name}`"].strip("`")
        if field.is_required() or default is None:
            assert said == ("required" if field.is_required() else "none"), name
        else:
            assert tomllib.loads(f"said = {said}")["said"] == default, name
