"""Two programs never drive one microscope."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from controller.assemble import new_session
from controller.claim import claim_microscope
from controller.config import load, shipped_hardware
from controller.core.errors import ConfigurationError


def test_a_microscope_belongs_to_one_session_until_it_gives_it_back(tmp_path: Path) -> None:
    release = claim_microscope("my STED", folder=tmp_path)
    with pytest.raises(ConfigurationError, match=r"'my STED' is in use by process \d+ on this computer"):
        claim_microscope("my STED", folder=tmp_path)
    claim_microscope("another", folder=tmp_path)()
    release()
    claim_microscope("my STED", folder=tmp_path)()


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from controller.claim import claim_microscope; "
        "release = claim_microscope('mine', folder=Path(sys.argv[1])); print('taken', flush=True); "
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
        with pytest.raises(ConfigurationError, match=f"in use by process {other.pid} "):
            claim_microscope("mine", folder=tmp_path)
        other.kill()
        other.wait()
        claim_microscope("mine", folder=tmp_path)()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    claim_microscope("mine", folder=tmp_path)()
    lock = next(tmp_path.iterdir())
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        claim_microscope("mine", folder=tmp_path)


def test_two_sessions_on_one_microscope_are_refused_before_the_second_touches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pymmcore", reason="needs the extra mm")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    experiment = load(shipped_hardware("mm_demo.toml"))
    first = new_session(experiment, tmp_path / "first")
    with pytest.raises(ConfigurationError, match=r"mm_demo.toml: name: the microscope .* is in use"):
        new_session(experiment, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    assert first.run().status == "completed"
    assert new_session(experiment, tmp_path / "third").run().status == "completed"
