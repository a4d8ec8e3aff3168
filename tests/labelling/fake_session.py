"""A finished session of the fake microscope: two frames, nothing but pixels to ask about."""

from __future__ import annotations

from pathlib import Path

from controller.assemble import new_session
from controller.config import load
from tests.support import FAKE_HARDWARE

EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "asked"
hardware = "hardware.toml"
seed = 5
[policy]
name = "fixed"
options = { repeats = 2 }
[denoiser]
name = "raw"
[segmenter]
"""


def fake_session(folder: Path, segmenter: str) -> Path:
    """Return the folder of a session; ``segmenter`` is that table of its configuration and what follows."""
    config = folder / "config"
    config.mkdir(parents=True)
    (config / "hardware.toml").write_text(FAKE_HARDWARE.format(frame_s=0.001, clock="simulated"))
    (config / "experiment.toml").write_text(EXPERIMENT + segmenter)
    assert new_session(load(config), folder / "session").run().status == "completed"
    return folder / "session"
