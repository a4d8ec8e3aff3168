"""The two-photon microscope in its roles: time, light, stops, movies, what it refuses, and its figures."""

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
from pydantic import ValidationError
from typer.testing import CliRunner

from controller.cli import app
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
from controller.core.protocols import Microscope, Plugin, RemembersLight, Streams
from controller.core.settings import Region, ScanSettings, Settings
from controller.testing import LIMITS, MicroscopeContract, resources
from simulator.two_photon.analog_detector import DetectorOptions
from simulator.two_photon.bleaching import BleachingOptions
from simulator.two_photon.brain import BrainOptions
from simulator.two_photon.laser_scanner import ScannerOptions
from simulator.two_photon.microscope import TwoPhotonMicroscope
from simulator.two_photon.neurons import TissueOptions
from simulator.two_photon.optics import TwoPhotonOptics

Options = TwoPhotonMicroscope.Options
THIN = TissueOptions(top_m=130e-6, bottom_m=170e-6)
SMALL = Options(field_size_m=64e-6, brain=BrainOptions(tissue=THIN))
STILL = SMALL.replace(brain=SMALL.brain.replace(motion_m=0.0))
COUNTING = DetectorOptions(kind="photon_counting")
GALVO = ScannerOptions(kind="galvo", flyback_s=5e-3)


def region(y_m: float = 0.0, x_m: float = 0.0, side_m: float = 64e-6) -> Region:
    return Region(center_yx_m=(y_m, x_m), size_yx_m=(side_m, side_m))


SCAN = ScanSettings(
    modality="two_photon", region=region(), pixel_size_m=1e-6, dwell_s=500e-9, excitation_w=40e-3
)
SLOW = SCAN.replace(dwell_s=10e-6)
GENTLE = LIMITS.replace(excitation_max_w=0.1, stage_box=region(), dwell_min_s=1e-8)


class HookedClock(SimulatedClock):
    """Calls ``hook`` each time somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.hook: Callable[[], None] = lambda: None

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        self.hook()


def make(
    options: Settings = SMALL, clock: SimulatedClock | None = None, seed: int = 1
) -> TwoPhotonMicroscope:
    assert isinstance(options, Options)
    return TwoPhotonMicroscope(options, clock=clock or SimulatedClock(), seed=seed)


class TestContractOfTheResonantScanner(MicroscopeContract):
    settings = SCAN

    def make(self) -> Microscope:
        return make()


class TestContractOfAPhotonCounterWithGalvos(MicroscopeContract):
    settings = SLOW.replace(modality="overview", pixel_size_m=2e-6, line_averages=2)

    def make(self) -> Microscope:
        return make(SMALL.replace(detector=COUNTING, scanner=GALVO, fields_yx=(2, 1)))


def test_it_fills_its_roles_and_tells_the_unit_of_its_frames() -> None:
    made: object = TwoPhotonMicroscope.from_options(SMALL, resources(4))
    for role in (Microscope, Plugin, RemembersLight, Streams):
        assert isinstance(made, role)
    assert isinstance(made, TwoPhotonMicroscope)
    told = made.capabilities()
    assert told.modalities == ("overview", "two_photon")
    assert told.simulated
    assert told.fov_size_yx_m == (64e-6, 64e-6)
    assert (told.details["unit"], told.details["offset_grey"], told.details["grey_per_photon"]) == (
        "grey levels",
        200.0,
        100.0,
    )
    assert made.acquire(SCAN).photons.dtype == np.uint16
    counter = make(SMALL.replace(detector=COUNTING))
    assert counter.capabilities().details["unit"] == "photons"
    assert counter.acquire(SCAN).photons.dtype == np.uint32


def test_nothing_of_the_truth_is_told_to_policies() -> None:
    details = make().capabilities().details
    assert not {"neurons", "labels", "spikes", "motion"} & set(details)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field_size_m": 64.3e-6}, "field_size_m=6.43e-05 is not a multiple of the map pixel"),
        ({"field_size_m": 0.0}, "field_size_m"),
        ({"field_size_m": 1e-1}, "lower fields_yx or field_size_m"),
        (
            {"field_size_m": 1.9e-3, "brain": {"tissue": {"bottom_m": 400e-6}}},
            "neurons, allowed are 50000: lower fields_yx",
        ),
        ({"fields_yx": (0, 1)}, "fields_yx"),
        ({"focus_m": 90e-6}, r"focus_m=9e-05 is outside the tissue, 0.00013..0.00017 m"),
        ({"brain": {"motion_m": 1e-3}}, "brain.motion_m=0.001 m is more than can be followed"),
        ({"optics": {"excitation_na": 1.4}}, "excitation_na=1.4 must be below refractive_index=1.33"),
        ({"optics": {"pulse_s": 1.0}}, "pulses would overlap"),
        ({"scanner": {"resonant_fill": 0.0}}, "resonant_fill"),
        ({"scanner": {"kind": "spinning"}}, "kind"),
        ({"stage_settle_s": float("nan")}, "stage_settle_s"),
        ({"power": 1.0}, "power"),
    ],
)
def test_options_that_make_no_microscope_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate({**SMALL.model_dump(exclude={"brain"}), "brain": SMALL.brain, **changes})


def test_limits_and_safe_values_that_it_cannot_keep_are_refused() -> None:
    deep = LIMITS.replace(focus_min_m=0.0, focus_max_m=150e-6)
    given = replace(resources(), limits=deep, safe=SafeValues(excitation_w=1e-3))
    with pytest.raises(ConfigurationError) as caught:
        TwoPhotonMicroscope.from_options(SMALL, given)
    assert len(caught.value.problems) == 2
    assert "0..0.00015 m is not inside the tissue, 0.00013..0.00017 m" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"dwell_s": 1e-6},
            InvalidRequestError,
            "dwell_s=1e-06 s on 64 pixels .* mirror of 8000 Hz has 4.456e-05 s: .* 6.963e-07 s, or 44 pixels",
        ),
        ({"pixel_size_m": 0.7e-6}, InvalidRequestError, "pixel_size_m=7e-07 .* allowed are 5e-07, 1e-06"),
        ({"pixel_size_m": 0.25e-6}, InvalidRequestError, "pixel_size_m=2.5e-07"),
        ({"excitation_w": 5.0}, InvalidRequestError, "excitation_w=5 W is more than the laser has, 2 W"),
        (
            {"focus_m": 100e-6},
            InvalidRequestError,
            r"focus_m=0.0001 m is outside the tissue, 0.00013..0.00017",
        ),
        ({"focus_m": -150e-6}, InvalidRequestError, "outside the tissue"),
        ({"dwell_s": 1e-9}, InvalidRequestError, "too short for an amplifier .*detector.bandwidth_hz"),
        ({"region": region(side_m=70e-6)}, InvalidRequestError, "field of view of 6.4e-05 m"),
        (
            {"region": region(y_m=40e-6)},
            InvalidRequestError,
            "is not inside the sample: y -3.2e-05..3.2e-05 m",
        ),
        ({"modality": "sted"}, DeviceError, "'sted'.* overview, two_photon"),
    ],
)
def test_what_cannot_be_scanned_is_refused_in_the_dark_and_unmoved(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    clock = SimulatedClock()
    microscope = make(SMALL, clock)
    request = SCAN.replace(**changes)
    for attempt in (
        microscope.acquire,
        microscope.expose_again,
        lambda s: next(iter(microscope.stream(s, 2))),
    ):
        with pytest.raises(error, match=message):
            attempt(request)
        assert microscope.is_dark()
    assert (clock.now_s(), microscope.acquire(SCAN).index) == (0.0, 0)


def test_a_region_or_a_pixel_of_nothing_is_no_request() -> None:
    for changes in ({"region": {"center_yx_m": (0.0, 0.0), "size_yx_m": (0.0, 1e-6)}}, {"pixel_size_m": 0.0}):
        with pytest.raises(ValidationError):
            ScanSettings.model_validate({**SCAN.model_dump(), **changes})


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 7)])
def test_the_smallest_scans_pass(shape: tuple[int, int]) -> None:
    size = (shape[0] * 1e-6, shape[1] * 1e-6)
    scan = SCAN.replace(region=Region(center_yx_m=(5e-6, -5e-6), size_yx_m=size))
    frame = GuardedMicroscope(make(), GENTLE).acquire(scan)
    assert frame.photons.shape == shape


def test_a_frame_lies_where_it_was_asked_for() -> None:
    microscope = make(STILL)
    whole = microscope.expected_photons(SCAN, 3.0)
    part = microscope.expected_photons(SCAN.replace(region=region(8e-6, -12e-6, 16e-6)), 3.0)
    assert np.allclose(part, whole[32:48, 12:28], rtol=0.05, atol=0.01)
    odd = microscope.acquire(SCAN.replace(region=region(0.2e-6, 0.0, 16e-6)))
    assert (
        np.abs(np.subtract(odd.settings.region.bounds_yx_m, odd.settings.scanned_region.bounds_yx_m)).max()
        < 1e-9
    )


def test_a_frame_takes_what_the_scanner_needs() -> None:
    resonant, galvo = make(SMALL), make(SMALL.replace(scanner=GALVO))
    assert resonant.timing(SCAN).frame_s == pytest.approx(64 * 62.5e-6 + 1.33e-3)
    assert resonant.timing(SCAN.replace(line_averages=4)).frame_s == pytest.approx(256 * 62.5e-6 + 1.33e-3)
    assert galvo.timing(SLOW).frame_s == pytest.approx(64 * 64 * 10e-6 / 0.8 + 5e-3)
    assert galvo.timing(SCAN).frame_s == pytest.approx(64 * 0.5e-3 + 5e-3), "no line is shorter than that"
    full = SCAN.replace(region=region(side_m=512e-6), dwell_s=87e-9)
    assert 1 / make(SMALL).timing(full).frame_s == pytest.approx(30, rel=0.01)


def test_a_movie_is_what_single_frames_are_at_the_frame_rate() -> None:
    clock = SimulatedClock()
    microscope, single = make(clock=clock), make()
    movie = list(microscope.stream(SCAN, 5))
    assert [frame.index for frame in movie] == [0, 1, 2, 3, 4]
    frame_s = microscope.timing(SCAN).frame_s
    assert np.allclose(np.diff([frame.started_s for frame in movie]), frame_s)
    assert clock.now_s() == pytest.approx(5 * frame_s)
    for frame in movie:
        alone = single.acquire(SCAN)
        assert alone.started_s == frame.started_s
        assert np.array_equal(alone.photons, frame.photons)


def test_a_movie_is_dark_while_nobody_takes_a_frame_and_ends_when_it_is_left() -> None:
    microscope = make()
    movie = microscope.stream(SCAN, 10)
    next(movie)
    assert microscope.is_dark()
    with pytest.raises(DeviceError, match="already scanning"):
        microscope.acquire(SCAN)
    movie.close()
    assert microscope.acquire(SCAN).index == 1


def test_the_guard_takes_a_movie_of_it() -> None:
    guarded, taken = GuardedMicroscope(make(), GENTLE), list[Frame]()
    guarded.stream(SCAN, 4, taken.append)
    assert [frame.index for frame in taken] == [0, 1, 2, 3]
    assert guarded.dose.energy_j == pytest.approx(4 * SCAN.energy_j)


def test_the_light_is_on_during_the_lines_only() -> None:
    clock = HookedClock()
    microscope = make(clock=clock)
    seen: list[tuple[float, bool]] = []
    clock.hook = lambda: seen.append((clock.now_s(), microscope.is_dark()))
    microscope.acquire(SCAN)
    lines_s = 64 * 62.5e-6
    assert not any(dark for now_s, dark in seen if now_s <= lines_s)
    assert all(dark for now_s, dark in seen if now_s > lines_s + 1e-9)
    assert seen[-1][0] == pytest.approx(lines_s + 1.33e-3)


def test_a_stop_from_another_thread_ends_the_scan_in_the_dark() -> None:
    clock = HookedClock()
    microscope = make(SMALL.replace(scanner=GALVO), clock)

    def stop_from_a_thread() -> None:
        thread = threading.Thread(target=microscope.stop)
        thread.start()
        thread.join()
        assert microscope.is_dark()

    clock.hook = stop_from_a_thread
    for take in (lambda: microscope.acquire(SLOW), lambda: list(microscope.stream(SLOW, 3))):
        before_s = clock.now_s()
        with pytest.raises(AcquisitionStoppedError, match="stopped before its frame"):
            take()
        assert microscope.is_dark()
        assert clock.now_s() - before_s < microscope.timing(SLOW).frame_s / 10
    lost = 1 - microscope.brain.bleaching.neuropil(150e-6)
    assert lost.max() > 0, "what was scanned is bleached"
    assert lost[-2:].max() == 0, "what was not scanned is not"
    clock.hook = lambda: None
    assert microscope.acquire(SLOW).index == 2, "a stop ends one scan, which keeps its number"


def test_a_stop_between_two_frames_ends_the_movie() -> None:
    microscope = make()
    movie = microscope.stream(SCAN, 10)
    next(movie)
    microscope.stop()
    with pytest.raises(AcquisitionStoppedError, match="before the light"):
        next(movie)
    assert microscope.acquire(SCAN).photons.shape == (64, 64)


def test_a_stop_while_the_stage_moves_is_before_any_light() -> None:
    clock = HookedClock()
    microscope = make(SMALL.replace(stage_settle_s=10.0), clock)
    clock.hook = microscope.stop
    with pytest.raises(AcquisitionStoppedError, match="before the light"):
        microscope.acquire(SCAN.replace(focus_m=160e-6))
    assert clock.now_s() < 1
    assert microscope.brain.bleaching.neuropil(160e-6).min() == 1


def test_a_closed_microscope_is_dark_and_takes_no_requests() -> None:
    microscope = make()
    microscope.close()
    microscope.close()
    assert microscope.is_dark()
    with pytest.raises(DeviceError, match="closed"):
        microscope.acquire(SCAN)
    with pytest.raises(DeviceError, match="closed"):
        next(microscope.stream(SCAN, 1))


def test_the_focus_goes_where_it_is_told_and_stays_there() -> None:
    clock = SimulatedClock()
    microscope = make(STILL.replace(stage_settle_s=0.2), clock)
    assert microscope.capabilities().details["focus_m"] == 150e-6
    microscope.acquire(SCAN.replace(focus_m=165e-6))
    assert clock.now_s() == pytest.approx(15e-6 / 1e-3 + 0.2 + microscope.timing(SCAN).frame_s)
    there = microscope.expected_photons(SCAN, 9.0)
    assert np.array_equal(there, microscope.expected_photons(SCAN.replace(focus_m=165e-6), 9.0))
    assert not np.array_equal(there, microscope.expected_photons(SCAN.replace(focus_m=150e-6), 9.0))


def test_frames_scatter_about_the_clean_frame_as_the_detector_says() -> None:
    microscope = make(STILL.replace(detector=COUNTING))
    bright = SCAN.replace(excitation_w=120e-3)
    first = microscope.expected_photons(bright, 0.0)
    stack, clean = [], []
    for frame in microscope.stream(bright, 40):
        stack.append(frame.photons.astype(float))
        clean.append(microscope.expected_photons(bright, frame.started_s))
    z = (np.array(stack) - clean) / np.sqrt(clean)
    assert abs(z.mean()) < 4 / np.sqrt(z.size) + 2e-3
    assert z.var() == pytest.approx(1, abs=0.02)
    assert first.shape == bright.shape_yx


def test_photons_go_with_the_square_of_the_power_and_their_noise_with_its_inverse() -> None:
    dark = DetectorOptions(kind="photon_counting", background_hz=0.0)
    microscope = make(STILL.replace(detector=dark))
    images = {
        mw: microscope.expected_photons(SCAN.replace(excitation_w=mw * 1e-3), 0.0) for mw in (20, 40, 80)
    }
    assert np.allclose(images[40], 4 * images[20], rtol=1e-5)
    assert np.allclose(images[80], 16 * images[20], rtol=1e-5)
    longer = SCAN.replace(excitation_w=20e-3, dwell_s=250e-9)
    assert np.allclose(images[20], 2 * microscope.expected_photons(longer, 0.0), rtol=1e-5)
    place = SCAN.replace(region=region(side_m=32e-6))
    ratios = []
    for power_w in (40e-3, 80e-3):
        frames = np.array([f.photons for f in microscope.stream(place.replace(excitation_w=power_w), 30)])
        totals = frames.reshape(30, -1).sum(axis=1)
        ratios.append(totals.mean() / np.sqrt(frames.mean(axis=0).sum()))
    # The ratio of signal to shot noise is the root of the photons, so it goes with the power.
    assert ratios[1] / ratios[0] == pytest.approx(2, rel=0.1)


def test_the_photon_rate_is_that_of_xu_and_webb() -> None:
    optics = TwoPhotonOptics()
    # The formula with NAOMi's constants for 40 mW, by hand: about one photon a pulse at the surface.
    photons_hz = 40e-3 * 920e-9 / (6.626e-34 * 2.998e8)
    collected = (1 - np.sqrt(1 - (0.8 / 1.33) ** 2)) / 2 * 0.8 * 0.4
    rate = 0.5 * collected * 0.6 * 6.022e21 * 2e-58 * 0.588 / (80e6 * 150e-15)
    rate *= 8 * 1.33 / (np.pi * 920e-9) * photons_hz**2
    assert optics.photon_rate_hz(40e-3, 0.0) == pytest.approx(rate, rel=1e-3)
    assert optics.photon_rate_hz(40e-3, 0.0) == pytest.approx(80e6, rel=0.15)
    deeper = optics.photon_rate_hz(40e-3, 150e-6) / optics.photon_rate_hz(40e-3, 0.0)
    assert deeper == pytest.approx(np.exp(-2 * 150 / 150) * np.exp(-150 / 500))
    assert optics.lateral_sigma_m * 2.355 == pytest.approx(0.58e-6, rel=0.02)
    assert optics.axial_sigma_m * 2.355 == pytest.approx(4.03e-6, rel=0.02)


def test_a_spike_is_seen_in_its_neuron_with_the_shape_of_its_indicator() -> None:
    dark = DetectorOptions(kind="photon_counting", background_hz=0.0)
    quiet = STILL.brain.activity.replace(neuropil=0.0)
    options = STILL.replace(detector=dark, brain=STILL.brain.replace(activity=quiet))
    microscope = make(options)
    labels = microscope.labels(SCAN)
    plane = microscope.brain.plane(150e-6)
    seen = [n for n in np.unique(labels)[1:] - 1 if (plane.neurons == n).sum() > 200]
    times_s = np.arange(0, 40, 0.25)
    dff = microscope.brain.activity.dff(np.array(seen), times_s)
    neuron = seen[int(dff.max(axis=1).argmax())]
    truth = microscope.brain.activity.dff(np.array([neuron]), times_s[::4])[0]
    ring = (labels == neuron + 1) & (microscope.expected_photons(SCAN, -100.0) > 0)
    trace = np.array([microscope.expected_photons(SCAN, t)[ring].sum() for t in times_s[::4]])
    assert truth.max() > 0.3
    assert np.corrcoef(trace, truth)[0, 1] > 0.97


def test_bleaching_dims_what_was_scanned() -> None:
    fast = SMALL.brain.replace(bleaching=BleachingOptions(strength=2e3), motion_m=0.0)
    microscope = make(SMALL.replace(brain=fast))
    part = SCAN.replace(region=region(0.0, -16e-6, 32e-6))
    before = microscope.expected_photons(SCAN, 500.0)
    for _ in range(20):
        microscope.acquire(part)
    after = microscope.expected_photons(SCAN, 500.0)
    ratio = after / before
    assert ratio[20:44, 4:28].mean() < 0.9
    assert ratio[:, 48:].mean() > 0.99
    assert (ratio <= 1 + 1e-5).all()


def run(microscope: TwoPhotonMicroscope) -> list[Frame]:
    here, there = region(side_m=24e-6), region(-16e-6, 12e-6, 24e-6)
    wanted = [SCAN, SCAN.replace(region=there, focus_m=160e-6), SCAN.replace(region=here), SCAN]
    return [microscope.acquire(scan) for scan in wanted]


HARSH = SMALL.replace(brain=SMALL.brain.replace(bleaching=BleachingOptions(strength=1e3, recovery_s=5.0)))


def test_exposing_again_brings_sample_focus_noise_count_and_time_back() -> None:
    whole = run(make(HARSH))
    resumed = make(HARSH)
    for frame in whole[:3]:
        resumed.expose_again(frame.settings)
        assert resumed.is_dark()
    last = resumed.acquire(whole[3].settings)
    assert (last.index, last.started_s) == (3, whole[3].started_s)
    assert np.array_equal(last.photons, whole[3].photons)


def test_a_movie_is_exposed_again_frame_by_frame() -> None:
    first, second = make(HARSH), make(HARSH)
    list(first.stream(SCAN, 3))
    for _ in range(3):
        second.expose_again(SCAN)
    assert np.array_equal(first.acquire(SCAN).photons, second.acquire(SCAN).photons)


def test_exposing_again_does_not_wait_for_a_real_clock() -> None:
    class RealClock:
        def now_s(self) -> float:
            return 5.0

        def sleep(self, duration_s: float) -> None:
            raise AssertionError(f"it waits {duration_s} s")

    microscope = TwoPhotonMicroscope(HARSH, clock=RealClock(), seed=1)
    microscope.expose_again(SCAN.replace(focus_m=160e-6))
    assert microscope.brain.bleaching.neuropil(160e-6).min() < 1


def test_frames_are_the_same_in_another_process_and_other_with_another_seed(tmp_path: Path) -> None:
    program = """
import hashlib, sys
from controller.core.clock import SimulatedClock
from controller.core.settings import ScanSettings
from simulator.two_photon.microscope import TwoPhotonMicroscope as M
m = M(M.Options.model_validate_json(sys.argv[1]), clock=SimulatedClock(), seed=1)
h = hashlib.sha256()
for text in sys.argv[2:]:
    h.update(m.acquire(ScanSettings.model_validate_json(text)).photons.tobytes())
print(h.hexdigest())
"""
    here = hashlib.sha256()
    frames = run(make(HARSH))
    for frame in frames:
        here.update(frame.photons.tobytes())
    requests = [frame.settings.model_dump_json() for frame in frames]
    there = subprocess.run(
        [sys.executable, "-c", program, HARSH.model_dump_json(), *requests],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONHASHSEED": "77"},
    )
    assert there.stdout.strip() == here.hexdigest()
    assert list(tmp_path.iterdir()) == []
    assert not np.array_equal(run(make(HARSH, seed=2))[0].photons, frames[0].photons)


def test_heating_is_estimated_from_the_mean_power() -> None:
    microscope = make()
    full = SCAN.replace(region=region(side_m=512e-6), dwell_s=87e-9, excitation_w=100e-3)
    # 100 mW warm by 1.8 °C if they are always on; the light is blanked for a third of each line.
    assert microscope.heating_estimate_c(full) == pytest.approx(1.8 * 0.684, rel=0.02)
    assert microscope.heating_estimate_c(full.replace(excitation_w=0.0)) == 0


def keys(model: type[Settings]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found |= keys(field.annotation)
    return found


def test_the_hardware_readme_explains_every_key() -> None:
    text = (Path(__file__).parents[3] / "hardware_configs/README.md").read_text()
    assert not [key for key in sorted(keys(Options)) if f"`{key}`" not in text]


def test_the_shipped_configuration_runs_a_closed_loop(tmp_path: Path) -> None:
    config = Path(__file__).parents[3] / "hardware_configs/sim_two_photon.toml"
    session = tmp_path / "session"
    arguments = [
        "run",
        str(config),
        "--seed",
        "3",
        "--budget-cycles",
        "4",
        "--output",
        str(session),
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert '"frames": 4' in result.stdout
    assert (session / "report.html").exists()
