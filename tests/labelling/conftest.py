"""One recorded session of STED scans, for all tests of labelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.assemble import new_session
from controller.config import load
from controller.recording.reader import SessionReader

EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "scans"
hardware = "sim_sted.toml"
seed = 3

[policy]
name = "fixed"
[[policy.options.steps]]
modality = "sted"
pixel_size_m = 20e-9
sted_w = 0.1
region = { center_yx_m = [-4e-6, -4e-6], size_yx_m = [5.12e-6, 5.12e-6] }
[[policy.options.steps]]
modality = "sted"
pixel_size_m = 20e-9
sted_w = 0.1
region = { center_yx_m = [4e-6, 4e-6], size_yx_m = [5.12e-6, 5.12e-6] }

[denoiser]
name = "raw"

[labels]
classes = ["spine", "shaft"]
question = "What is in the square?"
crop_px = 64
field_m = 3e-6
batch = 5
"""


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> SessionReader:
    """Return a session of two STED scans of 256 x 256 pixels, about which can be asked."""
    folder: Path = tmp_path_factory.mktemp("labelling")
    (folder / "experiment.toml").write_text(EXPERIMENT)
    session = new_session(load(folder), folder / "session")
    assert session.run().status == "completed"
    return SessionReader(folder / "session")
