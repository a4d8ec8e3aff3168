from typing import Any

import pytest

from controller.core.continuity import brightness_ratio
from controller.core.settings import AdaptiveIllumination, AdaptiveStep, Region, ScanSettings

SCAN = ScanSettings(
    modality="confocal",
    region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(1e-6, 1e-6)),
    pixel_size_m=20e-9,
    dwell_s=10e-6,
    excitation_w=10e-6,
)
STEPS = AdaptiveIllumination(steps=(AdaptiveStep(dwell_fraction=1.0),))


@pytest.mark.parametrize(
    ("changes", "ratio"),
    [
        ({}, 1.0),
        ({"dwell_s": 20e-6}, 2.0),
        ({"excitation_w": 5e-6}, 0.5),
        ({"line_averages": 3}, 3.0),
        ({"dwell_s": 20e-6, "excitation_w": 5e-6}, 1.0),
        ({"excitation_w": 10e-3}, 1000.0),
        ({"excitation_w": 11e-3}, None),
        ({"excitation_w": 0.0}, None),
        ({"modality": "overview"}, None),
        ({"modality": "sted", "sted_w": 0.1}, None),
        ({"pixel_size_m": 10e-9}, None),
        ({"region": Region(center_yx_m=(1e-9, 0.0), size_yx_m=(1e-6, 1e-6))}, None),
        ({"focus_m": 0.0}, None),
        ({"adaptive": STEPS}, None),
    ],
)
def test_photons_go_with_the_light_where_the_image_is_the_same(
    changes: dict[str, Any], ratio: float | None
) -> None:
    found = brightness_ratio(SCAN, SCAN.replace(**changes))
    assert found == (None if ratio is None else pytest.approx(ratio))


def test_two_photons_are_needed_for_one() -> None:
    scan = SCAN.replace(modality="two_photon")
    assert brightness_ratio(scan, scan.replace(excitation_w=30e-6)) == pytest.approx(9.0)


def test_light_that_was_off_tells_nothing_of_light_that_is_on() -> None:
    assert brightness_ratio(SCAN.replace(excitation_w=0.0), SCAN) is None
