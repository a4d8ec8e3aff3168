"""A session with adaptive scans is recorded, resumed and replayed as any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.assemble import Hooks, new_session, replayed_session, resumed_session
from controller.config import load
from controller.core.decision import Cycle
from controller.core.errors import ConfigurationError
from controller.recording.reader import SessionReader
from controller.recording.record import describe

HARDWARE = """
schema = "stedfast-hardware/1"
name = "sted"
[microscope]
driver = "{driver}"
clock = "simulated"
options = {{ {options} }}
[limits]
excitation_max_w = 50e-6
sted_max_w = 0.3
dwell_min_s = 1e-6
dwell_max_s = 1e-3
pixel_size_min_m = 20e-9
pixel_size_max_m = 1e-6
pixels_max = 262144
frame_max_s = 60.0
pixel_dose_max_j_per_m2 = 1e13
session_energy_max_j = 100.0
stage_box = {{ center_yx_m = [0.0, 0.0], size_yx_m = [1e-6, 1e-6] }}
"""

EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "test"
hardware = "hardware.toml"
seed = 7
[budget]
cycles = 4
[policy]
name = "fixed"
[policy.options]
repeats = 4
[[policy.options.steps]]
modality = "sted"
pixel_size_m = 20e-9
sted_w = 0.15
region = { center_yx_m = [0.0, 0.0], size_yx_m = [0.5e-6, 0.5e-6] }
[policy.options.steps.adaptive]
steps = [
  { dwell_fraction = 0.25, sted_fraction = 0.0, fewest_photons = 2 },
  { dwell_fraction = 0.75 },
]
"""

SIMULATOR = 'specimen = "synapses", fields_yx = [1, 1], field_size_m = 1e-6'


def experiment(folder: Path, driver: str = "simulator", options: str = SIMULATOR) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "hardware.toml").write_text(HARDWARE.format(driver=driver, options=options))
    (folder / "experiment.toml").write_text(EXPERIMENT)
    return folder


def run_of(reader: SessionReader) -> list[tuple[str, object]]:
    return [(frame.blake2b, frame.settings) for frame in reader.frames.values()]


def test_it_is_recorded_resumed_and_replayed_as_it_was(tmp_path: Path) -> None:
    config = load(experiment(tmp_path / "config"))
    whole, paused, again = (tmp_path / name for name in ("whole", "paused", "again"))
    assert new_session(config, whole).run().status == "completed"

    def stop(cycle: Cycle) -> None:
        if cycle.index == 1:
            session.stop_after_this_frame("stopped by the user")

    session = new_session(config, paused, hooks=Hooks(cycle=stop))
    assert session.run().status == "interrupted"
    assert resumed_session(paused).run().status == "completed"
    assert replayed_session(whole, again).run().status == "completed"
    reader = SessionReader(whole)
    assert len(reader.frames) == 4
    assert run_of(reader) == run_of(SessionReader(paused)) == run_of(SessionReader(again))
    settings = reader.frames[0].settings
    assert settings.adaptive is not None
    assert len(settings.adaptive.steps) == 2
    assert describe(settings).endswith("adaptive, at most 2 steps")
    assert len({frame.blake2b for frame in reader.frames.values()}) == 4


def test_a_microscope_that_makes_none_is_told_of_before_the_session(tmp_path: Path) -> None:
    folder = experiment(tmp_path, "controller.testing:FakeMicroscope", "")
    with pytest.raises(ConfigurationError, match="adaptive scans are not made by fake"):
        new_session(load(folder), tmp_path / "session")
