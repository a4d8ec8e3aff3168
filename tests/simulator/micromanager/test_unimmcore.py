"""A guarded microscope as Python devices of pymmcore-plus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pymmcore_plus", reason="pymmcore-plus is not installed")

from pymmcore_plus.experimental.unicore import UniMMCore
from useq import MDAEvent, MDASequence

from controller.core.clock import SimulatedClock
from controller.core.errors import InvalidRequestError, LimitExceededError
from controller.core.guard import GuardedMicroscope
from controller.core.settings import Region
from controller.testing import CONFOCAL, LIMITS, FakeMicroscope
from simulator.micromanager.unimmcore import load_devices


@pytest.fixture
def microscope() -> FakeMicroscope:
    return FakeMicroscope()


@pytest.fixture
def core(microscope: FakeMicroscope) -> Iterator[UniMMCore]:
    made = UniMMCore()
    load_devices(made, GuardedMicroscope(microscope, LIMITS, source="limits.toml"))
    made.setProperty("Excitation", "Power_uW", 10)
    made.setROI(234, 238, 32, 24)
    yield made
    made.unloadAllDevices()


def run(core: UniMMCore, *events: MDAEvent) -> list[Any]:
    frames: list[Any] = []
    core.mda.events.frameReady.connect(lambda image, event: frames.append(image))
    core.mda.run(events)
    return frames


def test_devices_properties_and_roles_are_there(core: UniMMCore, microscope: FakeMicroscope) -> None:
    assert set(core.getLoadedDevices()) == {
        "Scanner",
        "Excitation",
        "STED",
        "XYStage",
        "Z",
        "Shutter",
        "Core",
    }
    assert core.getAllowedPropertyValues("Scanner", "Modality") == ("overview", "confocal", "sted")
    assert core.getPropertyUpperLimit("STED", "Power_mW") == 300.0
    assert core.getROI() == [234, 238, 32, 24]
    assert (core.getImageWidth(), core.getImageHeight(), core.getImageBitDepth()) == (32, 24, 16)
    core.setXYPosition(1.5, -2.0)
    assert tuple(core.getXYPosition()) == (1.5, -2.0)
    with pytest.raises(LimitExceededError, match=r"dwell_max_s in limits\.toml"):
        core.setExposure(100.0)
    with pytest.raises(InvalidRequestError, match="one plane"):
        core.setPosition(3.0)
    assert not microscope.requests


def test_light_follows_the_shutter_if_auto_shutter_is_off(
    core: UniMMCore, microscope: FakeMicroscope
) -> None:
    core.snapImage()
    core.setAutoShutter(False)
    core.snapImage()
    core.setShutterOpen(True)
    core.snapImage()
    assert [request.excitation_w for request in microscope.requests] == [10e-6, 0.0, 10e-6]
    assert microscope.is_dark()


def test_a_run_applies_every_event(core: UniMMCore, microscope: FakeMicroscope) -> None:
    powers_mw = (0.0, 10.0, 20.0)
    frames = run(
        core,
        *(
            MDAEvent(channel="sted", x_pos=0.1 * mw, exposure=0.02, properties=[("STED", "Power_mW", mw)])
            for mw in powers_mw
        ),
    )
    assert [request.sted_w for request in microscope.requests] == pytest.approx([0.0, 10e-3, 20e-3])
    assert [request.region.center_yx_m[1] for request in microscope.requests] == pytest.approx(
        [0.0, 1e-6, 2e-6]
    )
    assert {request.dwell_s for request in microscope.requests} == {20e-6}
    other = FakeMicroscope()
    assert all(
        np.array_equal(frame, other.acquire(request).photons)
        for frame, request in zip(frames, microscope.requests, strict=True)
    )


def test_a_run_may_choose_its_next_event_from_the_last_image(
    core: UniMMCore, microscope: FakeMicroscope
) -> None:
    def events() -> Iterator[MDAEvent]:
        power_uw = 1.0
        while power_uw < 50:
            yield MDAEvent(properties=[("Excitation", "Power_uW", power_uw)])
            power_uw += float(core.getImage().max())

    core.mda.run(events())
    asked = [1e6 * request.excitation_w for request in microscope.requests]
    assert len(asked) >= 2
    steps = [FakeMicroscope().acquire(microscope.requests[0]).photons.max()]
    assert asked[1] - asked[0] == pytest.approx(steps[0])


@pytest.mark.parametrize(
    "bad",
    [
        {"properties": [("STED", "Power_mW", 5000.0)]},
        {"properties": [("Laser", "Power", 1.0)]},
        {"exposure": 100.0},
        {"x_pos": 1000.0},
        {"z_pos": 3.0},
        {"channel": "magic"},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_run_ends_at_what_is_refused(
    core: UniMMCore, microscope: FakeMicroscope, bad: dict[str, Any]
) -> None:
    with pytest.raises(Exception, match=r"limits\.toml|range|Laser|one plane|magic"):
        run(core, MDAEvent(), MDAEvent(**bad), MDAEvent())
    assert len(microscope.requests) == 1


def test_a_run_ends_at_an_image_that_is_refused_as_a_whole(
    core: UniMMCore, microscope: FakeMicroscope
) -> None:
    core.clearROI()
    core.setProperty("Scanner", "PixelSize_nm", 10)
    with pytest.raises(LimitExceededError, match="pixels_max"):
        run(core, MDAEvent(), MDAEvent())
    assert not microscope.requests


def test_sequences_of_useq_and_of_the_core_run(core: UniMMCore, microscope: FakeMicroscope) -> None:
    core.mda.run(MDASequence(channels=["confocal", "sted"], time_plan={"interval": 0, "loops": 2}))
    assert [request.modality for request in microscope.requests] == ["confocal", "sted"] * 2
    core.startSequenceAcquisition(3, 0.0, True)
    thread = core._acquisition_thread
    assert thread is not None
    thread.join(10)
    assert core.getRemainingImageCount() == 3
    assert microscope.is_dark()


def test_the_same_seed_gives_the_same_image_in_process_and_as_devices(
    microscope: FakeMicroscope,
) -> None:
    """As the test of the server does with its unmodified client, so that all three agree."""
    pytest.importorskip("pysted")
    from simulator.sted.microscope import SimulatedMicroscope

    options = SimulatedMicroscope.Options(specimen="beads", fields_yx=(1, 1), field_size_m=1.28e-6)

    def simulated() -> GuardedMicroscope:
        return GuardedMicroscope(SimulatedMicroscope(options, clock=SimulatedClock(), seed=3), LIMITS)

    region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(0.48e-6, 0.64e-6))
    asked = CONFOCAL.replace(region=region, modality="sted", sted_w=40e-3)
    expected = simulated().acquire(asked)
    core = UniMMCore()
    load_devices(core, simulated())
    core.setROI(16, 20, 32, 24)
    core.setConfig("Channel", "sted")
    core.setProperty("Excitation", "Power_uW", 10)
    core.setProperty("STED", "Power_mW", 40)
    core.snapImage()
    assert expected.photons.max() > 0
    assert np.array_equal(core.getImage(), expected.photons)
