from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from controller.core.clock import SimulatedClock
from controller.core.errors import (
    AcquisitionStoppedError,
    ConfigurationError,
    DeviceError,
    InvalidRequestError,
)
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.limits import SafeValues
from controller.core.protocols import Microscope, Plugin, RemembersLight
from controller.core.settings import Region, ScanSettings
from controller.testing import LIMITS, MicroscopeContract, resources
from simulator.sted import pysted_reference
from simulator.sted.microscope import SimulatedMicroscope
from simulator.sted.scanning import AdaptiveExposure, Exposure, Scanned, Seeds
from simulator.sted.species import SecondLabel

Options = SimulatedMicroscope.Options
SMALL = Options(specimen="beads", fields_yx=(2, 2), field_size_m=2.56e-6)


def region(y_m: float = 0.0, x_m: float = 0.0, side_m: float = 0.64e-6) -> Region:
    return Region(center_yx_m=(y_m, x_m), size_yx_m=(side_m, side_m))


CONFOCAL = ScanSettings(
    modality="confocal", region=region(), pixel_size_m=20e-9, dwell_s=10e-6, excitation_w=10e-6
)
STED = CONFOCAL.replace(modality="sted", sted_w=150e-3)


class CountingEngine:
    """Returns the molecules in the middle of each pixel and bleaches one in ten of all it is given."""

    map_pixel_size_m = 20e-9
    margin_px = 5

    def scan(
        self,
        molecules: NDArray[np.int32],
        exposure: Exposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = lambda _: True,
    ) -> Scanned:
        step, edge = exposure.stride_px, self.margin_px
        photons = molecules[edge:-edge, edge:-edge][step // 2 :: step, step // 2 :: step].astype(np.uint32)
        for line in range(1, len(photons) + 1):
            if not go_on(line):
                return Scanned(photons[:line], molecules - molecules // 10)
        return Scanned(photons, molecules - molecules // 10)


class FailingEngine(CountingEngine):
    def scan(self, *_: Any, **__: Any) -> Scanned:
        raise RuntimeError("lamp exploded")


class HookedClock(SimulatedClock):
    """Calls ``hook`` each time somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.hook: Callable[[], None] = lambda: None

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        self.hook()


def quick(clock: SimulatedClock | None = None, **changes: Any) -> SimulatedMicroscope:
    options = SMALL.replace(**changes)
    return SimulatedMicroscope(options, clock=clock or SimulatedClock(), seed=1, engine=CountingEngine())


def real(seed: int = 1, clock: SimulatedClock | None = None, **changes: Any) -> SimulatedMicroscope:
    return SimulatedMicroscope(SMALL.replace(**changes), clock=clock or SimulatedClock(), seed=seed)


class TestContractWithConfocalLight(MicroscopeContract):
    settings = CONFOCAL

    def make(self) -> Microscope:
        return real()


class TestContractWithDepletion(MicroscopeContract):
    settings = STED

    def make(self) -> Microscope:
        return real()


class TestContractWithTheReferenceEngine(MicroscopeContract):
    settings = STED

    def make(self) -> Microscope:
        pytest.importorskip("pysted")
        return real(engine="pysted")


def test_it_needs_no_pysted() -> None:
    program = (
        "import sys\n"
        "sys.modules['pysted'] = None\n"  # importing it fails
        "from controller.core.clock import SimulatedClock\n"
        "from controller.core.settings import Region, ScanSettings\n"
        "from simulator.sted.microscope import SimulatedMicroscope\n"
        "options = SimulatedMicroscope.Options(specimen='beads', fields_yx=(1, 1), field_size_m=2e-6)\n"
        "microscope = SimulatedMicroscope(options, clock=SimulatedClock(), seed=1)\n"
        "region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(1e-6, 1e-6))\n"
        "settings = ScanSettings(modality='sted', region=region, pixel_size_m=20e-9, dwell_s=1e-5,\n"
        "    excitation_w=1e-5, sted_w=0.1)\n"
        "assert microscope.acquire(settings).photons.sum() > 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_reference_engine_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysted", None)
    pysted_reference._pysted_microscope.cache_clear()
    with pytest.raises(ConfigurationError, match="engine 'exact'"):
        real(engine="pysted")


def test_confocal_light_is_not_free() -> None:
    microscope = real(molecules_per_pixel=200.0)
    before = microscope.molecules.sum()
    for _ in range(20):
        microscope.acquire(CONFOCAL)
    lost = 1 - microscope.molecules.sum() / before
    assert 0 < lost < 0.05
    patient = real(molecules_per_pixel=200.0, bleaching=0.0)
    patient.acquire(CONFOCAL)
    assert patient.molecules.sum() == before


def test_lines_scanned_several_times_are_scanned_several_times() -> None:
    """The second pass over a line sees what the first one bleached, so it is not one long dwell."""
    once, often = (real(bleaching=100.0, molecules_per_pixel=500.0) for _ in range(2))
    wide = STED.replace(region=region(side_m=2.4e-6))
    long = once.acquire(wide.replace(dwell_s=80e-6))
    short = often.acquire(wide.replace(dwell_s=10e-6, line_averages=8))
    assert not np.array_equal(long.photons, short.photons)
    assert int(long.photons.sum()) == pytest.approx(int(short.photons.sum()), rel=0.2)


def test_it_fills_its_roles_and_is_made_from_options() -> None:
    microscope = SimulatedMicroscope.from_options(SMALL, resources(4))
    made: object = microscope
    assert isinstance(made, Microscope)
    assert isinstance(made, Plugin)
    assert isinstance(made, RemembersLight)
    told = microscope.capabilities()
    assert told.modalities == ("overview", "confocal", "sted")
    assert told.simulated
    assert told.fov_size_yx_m == (2.56e-6, 2.56e-6)
    assert told.details["specimen"] == "beads"
    assert told.details["map_pixel_size_m"] == 20e-9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field_size_m": 1.005e-6}, "multiple of the map pixel"),
        ({"field_size_m": 1e-3}, "lower fields_yx or field_size_m"),
        ({"fields_yx": (0, 1)}, "fields_yx"),
        ({"specimen": "cheese"}, "specimen"),
        ({"bleaching": -1.0}, "bleaching"),
        ({"engine": "magic"}, "engine"),
        ({"drift_m_per_s": -1e-9}, "drift_m_per_s"),
        ({"vibration_hz": 0.0}, "vibration_hz"),
        ({"diffusion_m2_per_s": float("inf")}, "diffusion_m2_per_s"),
        ({"diffusing": "everything"}, "diffusing"),
        ({"engine": "pysted", "vibration_m": 1e-9}, "vibration_m is not known to the engine 'pysted'"),
        ({"engine": "pysted", "detection_m": (650e-9, 700e-9)}, "detection_m is not known to the engine"),
        ({"detection_m": (700e-9, 650e-9)}, "must begin before it ends"),
        ({"second_label": SecondLabel(specimen="beads", dye="gym_red")}, "sted_m=7.75e-07 .* 'gym_red'"),
        ({"engine": "pysted", "drift_m_per_s": 1e-9}, "drift_m_per_s is not known to the engine 'pysted'"),
        ({"speed": 1.0}, "speed"),
    ],
)
def test_options_that_make_no_sample_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SMALL.replace(**changes)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            CONFOCAL.replace(pixel_size_m=30e-9),
            InvalidRequestError,
            "pixel_size_m=3e-08 .* allowed are 2e-08, 4e-08",
        ),
        (CONFOCAL.replace(pixel_size_m=10e-9), InvalidRequestError, "pixel_size_m=1e-08"),
        (CONFOCAL.replace(region=region(side_m=2.6e-6)), InvalidRequestError, "field of view of 2.56e-06 m"),
        (CONFOCAL.replace(region=region(y_m=2.4e-6)), InvalidRequestError, "y -2.56e-06..2.56e-06 m"),
        (CONFOCAL.replace(modality="two_photon"), DeviceError, "two_photon.* overview, confocal, sted"),
    ],
)
def test_what_cannot_be_scanned_is_refused_in_the_dark(
    settings: ScanSettings, error: type[Exception], message: str
) -> None:
    microscope = quick()
    before = microscope.molecules
    for attempt in (microscope.acquire, microscope.expose_again):
        with pytest.raises(error, match=message):
            attempt(settings)
        assert microscope.is_dark()
    assert np.array_equal(microscope.molecules, before)
    assert microscope.acquire(CONFOCAL).index == 0


def test_a_frame_shows_the_place_that_was_asked_for() -> None:
    microscope = quick()
    truth = microscope.specimen.molecules
    frame = microscope.acquire(CONFOCAL.replace(region=region(y_m=1.0e-6, x_m=-0.5e-6)))
    # The sample of 256 x 256 map pixels is centred on (0, 0): 1 µm is 50 pixels below its middle.
    assert np.array_equal(frame.photons, truth[178 - 16 : 178 + 16, 103 - 16 : 103 + 16])
    assert frame.settings.region == region(y_m=1.0e-6, x_m=-0.5e-6)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    y=st.floats(-0.5, 0.5),
    x=st.floats(-0.5, 0.5),
    size_yx_m=st.tuples(st.floats(0.1e-6, 2.56e-6), st.floats(0.1e-6, 2.56e-6)),
    stride=st.integers(1, 9),
)
def test_any_region_inside_the_sample_can_be_reached_and_the_guard_agrees_with_the_frame(
    y: float, x: float, size_yx_m: tuple[float, float], stride: int
) -> None:
    microscope = GuardedMicroscope(quick(), LIMITS)
    room_m = [5.12e-6 - size for size in size_yx_m]
    asked = Region(center_yx_m=(y * room_m[0], x * room_m[1]), size_yx_m=size_yx_m)
    settings = CONFOCAL.replace(region=asked, pixel_size_m=stride * 20e-9)
    frame = microscope.acquire(settings)
    assert frame.photons.shape == settings.shape_yx == frame.settings.shape_yx
    off_m = np.abs(np.subtract(frame.settings.region.bounds_yx_m, asked.bounds_yx_m)).max()
    assert off_m <= stride * 20e-9 + 10e-9
    assert np.allclose(frame.settings.region.center_yx_m, asked.center_yx_m, atol=stride * 10e-9 + 10e-9)


def test_a_scan_as_large_as_the_sample_may_end_in_a_partial_pixel() -> None:
    microscope = quick(fields_yx=(1, 1))
    frame = microscope.acquire(CONFOCAL.replace(region=region(side_m=2.56e-6), pixel_size_m=180e-9))
    assert frame.photons.shape == (14, 14)
    assert microscope.acquire(
        CONFOCAL.replace(region=region(side_m=2.56e-6), pixel_size_m=140e-9)
    ).photons.shape == (18, 18)


def test_time_passes_for_scans_and_for_moves_of_the_stage() -> None:
    clock = SimulatedClock()
    microscope = quick(clock, stage_speed_m_per_s=1e-6, stage_settle_s=0.5)
    first = microscope.acquire(CONFOCAL)
    second = microscope.acquire(CONFOCAL.replace(line_averages=3))
    third = microscope.acquire(CONFOCAL.replace(region=region(y_m=-2.0e-6)))
    assert [frame.index for frame in (first, second, third)] == [0, 1, 2]
    assert first.started_s == 0.0
    assert second.started_s == pytest.approx(32 * 32 * 10e-6)
    # The stage stops where the field of view meets the edge of the sample: 1.28 µm from the middle.
    assert third.started_s == pytest.approx(4 * 32 * 32 * 10e-6 + 1.28 + 0.5)
    assert clock.now_s() == pytest.approx(third.started_s + CONFOCAL.duration_s)


def test_the_light_is_on_during_the_scan_only() -> None:
    clock = HookedClock()
    microscope = quick(clock)
    seen: list[bool] = []
    clock.hook = lambda: seen.append(microscope.is_dark())
    assert microscope.is_dark()
    microscope.acquire(CONFOCAL)
    assert seen
    assert not any(seen)
    assert microscope.is_dark()


def test_a_stop_from_another_thread_ends_the_scan_in_the_dark() -> None:
    clock = HookedClock()
    microscope = quick(clock)
    before = microscope.molecules

    def stop_from_a_thread() -> None:
        thread = threading.Thread(target=microscope.stop)
        thread.start()
        thread.join()
        assert microscope.is_dark()

    clock.hook = stop_from_a_thread
    with pytest.raises(AcquisitionStoppedError, match="acquisition 0"):
        microscope.acquire(STED)
    assert microscope.is_dark()
    assert clock.now_s() < STED.duration_s / 10, "it stops at the next line, not at the end of the frame"
    assert microscope.molecules.sum() < before.sum(), "what was scanned is bleached"
    clock.hook = lambda: None
    assert microscope.acquire(STED).index == 1, "a stop ends one scan, which keeps its number"


def test_a_stop_while_the_stage_moves_is_before_any_light() -> None:
    clock = HookedClock()
    microscope = quick(clock, stage_settle_s=10.0)
    clock.hook = microscope.stop
    before = microscope.molecules
    with pytest.raises(AcquisitionStoppedError, match="before the light"):
        microscope.acquire(STED.replace(region=region(y_m=2.0e-6)))
    assert clock.now_s() < 1
    assert np.array_equal(microscope.molecules, before)


def test_a_failure_during_the_scan_leaves_the_light_off_and_the_microscope_usable() -> None:
    microscope = SimulatedMicroscope(SMALL, clock=SimulatedClock(), seed=1, engine=FailingEngine())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="lamp exploded"):
            microscope.acquire(STED)
        assert microscope.is_dark()


def test_a_closed_microscope_is_dark_and_takes_no_requests() -> None:
    microscope = quick()
    microscope.close()
    microscope.close()
    microscope.stop()
    assert microscope.is_dark()
    with pytest.raises(DeviceError, match="closed"):
        microscope.acquire(CONFOCAL)


def test_a_second_scan_at_the_same_time_is_refused() -> None:
    clock = HookedClock()
    microscope = quick(clock)
    refused: list[str] = []

    def scan_again() -> None:
        with pytest.raises(DeviceError, match="already scanning") as caught:
            microscope.acquire(CONFOCAL)
        refused.append(str(caught.value))

    clock.hook = scan_again
    assert microscope.acquire(CONFOCAL).index == 0
    assert refused


def test_the_sample_stays_bleached_and_only_near_the_scan() -> None:
    microscope = real()
    truth = microscope.specimen.molecules
    first = microscope.acquire(CONFOCAL.replace(region=region(side_m=1.6e-6)))
    microscope.acquire(STED.replace(region=region(side_m=1.6e-6), sted_w=200e-3, dwell_s=20e-6))
    second = microscope.acquire(CONFOCAL.replace(region=region(side_m=1.6e-6)))
    bleached_fraction = 1 - second.photons.sum() / first.photons.sum()
    assert 0.2 < bleached_fraction < 0.6
    changed = np.argwhere(microscope.molecules != truth)
    # 256 map pixels, a scan of 80 in their middle, and light 30 pixels beyond it.
    assert changed.min() >= 88 - 30
    assert changed.max() < 168 + 30
    assert np.any((changed < 88) | (changed >= 168)), "neighbours outside the region are bleached, too"


def test_noise_is_poisson_from_one_acquisition_to_the_next() -> None:
    microscope = real(specimen="filaments")
    settings = CONFOCAL.replace(region=region(side_m=2.4e-6), pixel_size_m=60e-9, dwell_s=5e-6)
    stack = np.stack([microscope.acquire(settings).photons for _ in range(60)]).astype(float)
    bright = stack.mean(axis=0) > 1
    ratio = (stack.var(axis=0, ddof=1) / np.maximum(stack.mean(axis=0), 1e-9))[bright]
    assert bright.sum() > 200
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(2 / 59 / bright.sum()) + 0.01


def run(microscope: SimulatedMicroscope) -> list[Frame]:
    there = region(y_m=-2.0e-6, x_m=1.5e-6)
    return [microscope.acquire(s) for s in (CONFOCAL, STED, STED.replace(region=there), CONFOCAL)]


def test_exposing_again_brings_sample_noise_count_and_simulated_time_back() -> None:
    whole = run(real())
    resumed = real()
    for frame in whole[:3]:
        resumed.expose_again(frame.settings)
        assert resumed.is_dark()
    last = resumed.acquire(whole[3].settings)
    assert (last.index, last.started_s) == (3, whole[3].started_s)
    assert np.array_equal(last.photons, whole[3].photons)


def test_exposing_again_does_not_wait_for_a_real_clock() -> None:
    class RealClock:
        def now_s(self) -> float:
            return 5.0

        def sleep(self, duration_s: float) -> None:
            raise AssertionError(f"it waits {duration_s} s")

    microscope = SimulatedMicroscope(SMALL, clock=RealClock(), seed=1, engine=CountingEngine())
    microscope.expose_again(STED.replace(region=region(y_m=2.0e-6)))
    assert microscope.molecules.sum() < microscope.specimen.molecules.sum()


def test_frames_are_the_same_whatever_happens_to_numpys_global_generator() -> None:
    np.random.seed(1)  # noqa: NPY002
    state = repr(np.random.get_state(legacy=False))  # noqa: NPY002
    first = run(real())
    assert repr(np.random.get_state(legacy=False)) == state  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    second = run(real())
    other = run(real(seed=2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.photons, b.photons)
        assert a.started_s == b.started_s
    assert not np.array_equal(first[0].photons, other[0].photons)


def test_frames_are_the_same_in_another_process_whose_folder_stays_empty(tmp_path: Path) -> None:
    program = """
import hashlib, sys
from controller.core.clock import SimulatedClock
from controller.core.settings import ScanSettings
from simulator.sted.microscope import SimulatedMicroscope as S
m = S(S.Options.model_validate_json(sys.argv[1]), clock=SimulatedClock(), seed=1)
h = hashlib.sha256()
for text in sys.argv[2:]:
    h.update(m.acquire(ScanSettings.model_validate_json(text)).photons.tobytes())
print(h.hexdigest())
"""
    here = hashlib.sha256()
    microscope = real()
    for settings in (CONFOCAL, STED, CONFOCAL):
        here.update(microscope.acquire(settings).photons.tobytes())
    requests = [settings.model_dump_json() for settings in (CONFOCAL, STED, CONFOCAL)]
    there = subprocess.run(
        [sys.executable, "-c", program, SMALL.model_dump_json(), *requests],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONHASHSEED": "77"},
    )
    assert there.stdout.strip() == here.hexdigest()
    assert list(tmp_path.iterdir()) == []


def test_a_safe_value_that_the_simulated_lights_cannot_take_is_refused() -> None:
    given = replace(resources(), safe=SafeValues(sted_w=1e-3))
    with pytest.raises(ConfigurationError, match=r"\[safe\]: simulated lights go to 0 W"):
        SimulatedMicroscope.from_options(SimulatedMicroscope.Options(), given)
