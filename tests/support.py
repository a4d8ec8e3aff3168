"""What several tests begin with: a first document of a record, a fake microscope's hardware file, a frame."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np

from controller.core.frame import Frame
from controller.core.settings import Region, ScanSettings

START: dict[str, Any] = {
    "run_id": str(uuid.UUID(int=1)),
    "seed": 1,
    "experiment": {},
    "hardware": {},
    "config_sha256": "",
    "config_folder": ".",
    "hardware_path": "",
    "microscope": {},
    "versions": {},
}

# Filled in with format(): clock, frame_s.
FAKE_HARDWARE = """
schema = "stedfast-hardware/1"
name = "fake"
[microscope]
driver = "controller.testing:FakeMicroscope"
clock = "{clock}"
options = {{ frame_s = {frame_s} }}
[limits]
excitation_max_w = 100e-6
sted_max_w = 0.3
dwell_min_s = 1e-6
dwell_max_s = 1e-3
pixel_size_min_m = 10e-9
pixel_size_max_m = 1e-6
pixels_max = 262144
frame_max_s = 60.0
pixel_dose_max_j_per_m2 = 1e13
session_energy_max_j = 100.0
dose_margin = 1.25
stage_box = {{ center_yx_m = [0.0, 0.0], size_yx_m = [20e-6, 20e-6] }}
"""


def frame_of(photons: object, pixel_size_m: float) -> Frame:
    """Return an image as a frame of a confocal scan about the origin."""
    image = np.asarray(photons)
    rows, columns = (n * pixel_size_m for n in image.shape)
    scan = ScanSettings(
        modality="confocal",
        region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(rows, columns)),
        pixel_size_m=pixel_size_m,
        dwell_s=1e-5,
        excitation_w=1e-5,
    )
    return Frame(image, scan, 0, 0.0)
