"""Nothing reaches a driver outside the limits or the dose budget, and no failure leaves the light on."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.dose import Lit
from controller.core.errors import (
    AcquisitionStoppedError,
    DeviceError,
    DoseBudgetError,
    EndOfRecordingError,
    InvalidRequestError,
    LightFaultError,
    LightNotOffError,
    LimitExceededError,
    RecordingError,
    StedfastError,
)
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Capabilities
from controller.core.settings import Region, ScanSettings
from controller.core.watchdog import Watchdog
from controller.testing import CONFOCAL, LIMITS, FakeMicroscope

STED = CONFOCAL.replace(modality="sted", sted_w=0.1)

anything = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(
        [
            math.nan,
            math.inf,
            -math.inf,
            1e308,
            -1e308,
            5e-324,
            0.0,
            -0.0,
            -1.0,
            True,
            None,
            "0.1",
            b"1",
            [1.0],
        ]
    ),
    st.integers(-(10**400), 10**400),
)
sensible = {
    "modality": st.sampled_from(["overview", "confocal", "sted", "two_photon", "widefield"]),
    "pixel_size_m": st.floats(5e-9, 2e-6),
    "dwell_s": st.floats(1e-7, 1e-2),
    "excitation_w": st.floats(0, 3e-4),
    "sted_w": st.floats(0, 1.0),
    "line_averages": st.integers(0, 20),
}


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """A request as an adversary would make it: valid, wild, unvalidated, or no request at all."""
    fields: dict[str, Any] = {
        name: draw(st.one_of(strategy, strategy, strategy, anything)) for name, strategy in sensible.items()
    }
    sizes = st.one_of(st.floats(1e-8, 3e-5), st.floats(1e-8, 3e-6), anything)
    places = st.one_of(st.floats(-2e-5, 2e-5), anything)
    region: dict[str, Any] = {
        "center_yx_m": (draw(places), draw(places)),
        "size_yx_m": (draw(sizes), draw(sizes)),
    }
    kind = draw(st.sampled_from(["validated", "validated", "unchecked", "dict", "junk"]))
    if kind == "junk":
        return draw(anything)
    if kind == "dict":
        return {**fields, "region": region}
    if kind == "unchecked":
        return ScanSettings.model_construct(region=Region.model_construct(**region), **fields)
    try:
        return ScanSettings(region=Region(**region), **fields)
    except ValueError:
        return STED.replace(sted_w=draw(st.floats(0, 0.6)), dwell_s=draw(st.floats(1e-6, 2e-3)))


@settings(max_examples=300, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=12))
def test_no_sequence_of_requests_gets_past_the_limits_or_the_budget(sequence: list[Any]) -> None:
    limits = LIMITS.replace(session_energy_max_j=2e-3, pixel_dose_max_j_per_m2=6e9, sted_step_w=0.15)
    microscope = FakeMicroscope()
    guard = GuardedMicroscope(microscope, limits)
    energies = [0.0]
    for request in sequence:
        with suppress(LimitExceededError, InvalidRequestError):
            guard.acquire(request)
        assert microscope.is_dark()
        energies.append(guard.dose.energy_j)
    assert energies == sorted(energies)
    assert guard.dose.energy_j <= limits.session_energy_max_j
    assert guard.dose.peak_j_per_m2 <= limits.pixel_dose_max_j_per_m2
    assert guard.dose.frames == len(microscope.requests)
    for seen in microscope.requests:
        assert type(seen) is ScanSettings
        assert not limits.violations(ScanSettings.model_validate(seen.model_dump()), "test")
        assert seen not in [r for r in sequence if r is seen], "the driver got the caller's own object"
    total_j = math.fsum(seen.energy_j for seen in microscope.requests)
    assert guard.dose.energy_j == pytest.approx(total_j, rel=1e-12)


def test_a_request_changed_after_the_call_does_not_change_what_the_driver_does() -> None:
    request = CONFOCAL.replace()

    class Mischief(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            object.__setattr__(request, "excitation_w", 1e3)
            request.__dict__["dwell_s"] = 1e3
            return super().acquire(settings)

    microscope = Mischief()
    guard = GuardedMicroscope(microscope, LIMITS)
    guard.acquire(request)
    assert microscope.requests == [CONFOCAL]
    assert guard.dose.energy_j == CONFOCAL.energy_j
    with pytest.raises(LimitExceededError, match="excitation_w=1000"):
        guard.acquire(request)


def test_a_subclass_of_the_settings_is_refused() -> None:
    class Sly(ScanSettings):
        pass

    with pytest.raises(InvalidRequestError, match="must be a ScanSettings, got Sly"):
        GuardedMicroscope(FakeMicroscope(), LIMITS).acquire(Sly(**dict(CONFOCAL)))


def test_a_refusal_names_what_was_asked_what_is_allowed_and_where_it_is_set() -> None:
    guard = GuardedMicroscope(FakeMicroscope(), LIMITS, source="scope.toml")
    request = STED.replace(
        sted_w=0.4, dwell_s=0.5, region=Region(center_yx_m=(1.0, 0.0), size_yx_m=(1e-6, 1e-6))
    )
    with pytest.raises(LimitExceededError) as refusal:
        guard.acquire(request)
    message = str(refusal.value)
    assert "sted_w=0.4 W is outside 0..0.3 W (sted_max_w in scope.toml)" in message
    assert "dwell_s=0.5 s is outside 1e-06..0.001 s" in message
    assert "stage_box in scope.toml" in message
    assert guard.dose.frames == 0


def test_a_modality_that_the_microscope_lacks_is_refused() -> None:
    with pytest.raises(LimitExceededError, match="two_photon"):
        GuardedMicroscope(FakeMicroscope(), LIMITS).acquire(CONFOCAL.replace(modality="two_photon"))


def test_a_step_of_power_is_measured_from_the_last_use_of_that_light() -> None:
    guard = GuardedMicroscope(FakeMicroscope(), LIMITS.replace(sted_step_w=0.06), source="scope.toml")
    with pytest.raises(
        LimitExceededError, match=r"step up of 0\.1 W from 0 W, allowed is 0\.06 W \(sted_step_w"
    ):
        guard.acquire(STED)
    guard.acquire(STED.replace(sted_w=0.06))
    guard.acquire(CONFOCAL)
    guard.acquire(STED.replace(sted_w=0.12))
    guard.acquire(STED.replace(sted_w=0.001))


def test_the_count_rate_is_predicted_from_earlier_frames_and_refused_before_light() -> None:
    microscope = FakeMicroscope()
    guard = GuardedMicroscope(microscope, LIMITS.replace(count_rate_max_hz=3e6), source="scope.toml")
    guard.acquire(CONFOCAL)  # about 12 counts in 10 us at 10 uW: 1.2 MHz
    with pytest.raises(LimitExceededError, match=r"counts/s.*allowed is 3e\+06 .count_rate_max_hz"):
        guard.acquire(CONFOCAL.replace(excitation_w=60e-6))
    with pytest.raises(LimitExceededError, match="counts/s"):
        guard.acquire(STED.replace(excitation_w=60e-6))
    guard.acquire(CONFOCAL.replace(excitation_w=15e-6))
    assert len(microscope.requests) == 2


def test_a_bright_frame_under_sted_light_says_nothing_about_confocal_ones() -> None:
    guard = GuardedMicroscope(FakeMicroscope(), LIMITS.replace(count_rate_max_hz=3e6))
    guard.acquire(STED.replace(excitation_w=1e-6))
    guard.acquire(CONFOCAL.replace(excitation_w=60e-6))


class TwoPhotonMicroscope(FakeMicroscope):
    """A microscope with two-photon excitation only."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), modalities=("overview", "two_photon"))


TWO_PHOTON = CONFOCAL.replace(modality="two_photon")


@pytest.mark.parametrize(
    ("seen", "asked", "factor", "is_refused"),
    [
        # The first frame gives 1.2 MHz in its brightest patch, allowed are 3 MHz: 2.5 times as much.
        (TWO_PHOTON, TWO_PHOTON, 1.5, False),
        (TWO_PHOTON, TWO_PHOTON, 1.7, True),  # linear, it would be 2.0 MHz
        (TWO_PHOTON.replace(modality="overview"), TWO_PHOTON, 1.7, True),
        (TWO_PHOTON, TWO_PHOTON.replace(modality="overview"), 1.7, True),
        (CONFOCAL, CONFOCAL, 2.2, False),
        (CONFOCAL, CONFOCAL, 2.8, True),
        # Where nothing excites with two photons, an overview does not either.
        (CONFOCAL.replace(modality="overview"), CONFOCAL.replace(modality="overview"), 2.2, False),
    ],
)
def test_two_photon_count_rates_go_with_the_square_of_the_power(
    seen: ScanSettings, asked: ScanSettings, factor: float, *, is_refused: bool
) -> None:
    has_two_photons = "two_photon" in {seen.modality, asked.modality}
    microscope = TwoPhotonMicroscope() if has_two_photons else FakeMicroscope()
    guard = GuardedMicroscope(microscope, LIMITS.replace(count_rate_max_hz=3e6))
    guard.acquire(seen)
    request = asked.replace(excitation_w=factor * seen.excitation_w)
    with pytest.raises(LimitExceededError, match="counts/s") if is_refused else nullcontext():
        guard.acquire(request)


def test_a_dimmer_two_photon_overview_is_predicted_by_the_law_that_gives_more() -> None:
    """Its law is not known: at half the power half the counts are expected, not a quarter."""
    microscope = TwoPhotonMicroscope()
    guard = GuardedMicroscope(microscope, LIMITS.replace(count_rate_max_hz=1e5))
    guard.acquire(TWO_PHOTON.replace(excitation_w=20e-6))  # about 1.2 MHz
    request = TWO_PHOTON.replace(excitation_w=4e-6)  # a fifth: 0.24 MHz or 0.05 MHz
    with pytest.raises(LimitExceededError, match="counts/s"):
        guard.acquire(request.replace(modality="overview"))
    guard.acquire(request)


def test_a_frame_with_hardly_any_light_leaves_the_prediction_a_number_or_a_refusal() -> None:
    guard = GuardedMicroscope(TwoPhotonMicroscope(), LIMITS.replace(count_rate_max_hz=3e6))
    guard.acquire(TWO_PHOTON.replace(excitation_w=1e-200))
    for power_w in (1e-300, 10e-6):
        with pytest.raises(LimitExceededError, match="counts/s"):
            guard.acquire(TWO_PHOTON.replace(excitation_w=power_w))


def test_the_reservation_is_booked_before_light_and_a_failing_record_lights_nothing() -> None:
    microscope = FakeMicroscope()

    def full_disk(_: object) -> None:
        assert microscope.commands == []
        raise RecordingError("disk full")

    guard = GuardedMicroscope(microscope, LIMITS, before_light=full_disk)
    with pytest.raises(RecordingError):
        guard.acquire(CONFOCAL)
    assert microscope.commands == []
    assert guard.dose.energy_j == 0
    guard.before_light = None
    guard.acquire(CONFOCAL)


@pytest.mark.parametrize(
    "error",
    [
        DeviceError("laser"),
        AcquisitionStoppedError("stop"),
        RuntimeError("driver"),
        KeyboardInterrupt(),
        SystemExit(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_failure_ends_dark_with_the_worst_case_booked(error: BaseException) -> None:
    class Failing(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            self.light_on = True
            raise error

    microscope = Failing()
    guard = GuardedMicroscope(microscope, LIMITS.replace(dose_margin=1.5))
    expected = DeviceError if isinstance(error, Exception) else type(error)
    with pytest.raises(expected):
        guard.acquire(CONFOCAL)
    assert microscope.is_dark()
    assert guard.dose.energy_j == pytest.approx(1.5 * CONFOCAL.energy_j)


@pytest.mark.parametrize("error", [InvalidRequestError("not on the grid"), EndOfRecordingError("over")])
def test_a_refusal_by_the_driver_before_any_light_costs_no_dose(error: Exception) -> None:
    class Refusing(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            raise error

    settled: list[Lit] = []
    guard = GuardedMicroscope(Refusing(), LIMITS, settled=settled.append)
    for _ in range(2):
        with pytest.raises(type(error)):
            guard.acquire(CONFOCAL)
    assert [lit.energy_j for lit in settled] == [0.0, 0.0]
    assert guard.dose.energy_j == 0


class _Odd(FakeMicroscope):
    """Returns something else than it was asked for."""

    def __init__(self, change: dict[str, Any], photons: Any = None) -> None:
        super().__init__()
        self._change, self._photons = change, photons

    def acquire(self, settings: ScanSettings) -> Any:
        frame = super().acquire(settings)
        photons = frame.photons if self._photons is None else self._photons
        if isinstance(photons, str):
            return photons
        return Frame(photons, frame.settings.replace(**self._change), frame.index, frame.started_s)


@pytest.mark.parametrize(
    ("change", "photons", "message"),
    [
        ({}, "no frame", "str instead of a Frame"),
        ({}, np.zeros((3, 3)), "came back"),
        ({}, np.zeros((32, 24), complex), "not finite numbers"),
        ({}, np.full((32, 24), np.nan), "not finite numbers"),
        ({"modality": "overview"}, None, "scanned overview"),
        (
            {"region": Region(center_yx_m=(1e-6, 0.0), size_yx_m=(0.64e-6, 0.48e-6))},
            None,
            "asked was confocal at",
        ),
        ({"excitation_w": 90e-6}, None, "delivered .* where .* was the worst case"),
    ],
)
def test_a_frame_that_cannot_be_true_is_a_failure(change: dict[str, Any], photons: Any, message: str) -> None:
    microscope = _Odd(change, photons)
    guard = GuardedMicroscope(microscope, LIMITS)
    with pytest.raises(DeviceError, match=message):
        guard.acquire(CONFOCAL)
    assert "stop" in microscope.commands
    assert guard.dose.energy_j >= CONFOCAL.energy_j


def test_more_light_than_asked_is_booked_as_it_was() -> None:
    settled: list[Lit] = []
    guard = GuardedMicroscope(_Odd({"excitation_w": 90e-6}), LIMITS, settled=settled.append)
    with pytest.raises(LightFaultError):
        guard.acquire(CONFOCAL)
    assert settled == [Lit.by(CONFOCAL.replace(excitation_w=90e-6))]
    assert guard.dose.energy_j == pytest.approx(9 * CONFOCAL.energy_j)


def test_less_light_than_the_worst_case_is_settled_as_delivered() -> None:
    guard = GuardedMicroscope(_Odd({"excitation_w": 8e-6}), LIMITS.replace(dose_margin=2.0))
    guard.acquire(CONFOCAL)
    assert guard.dose.energy_j == pytest.approx(0.8 * CONFOCAL.energy_j)


def test_a_light_that_stays_on_after_the_frame_is_put_out_and_reported() -> None:
    class Forgetful(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            frame = super().acquire(settings)
            self.light_on = True
            return frame

    microscope = Forgetful()
    with pytest.raises(DeviceError, match="still on"):
        GuardedMicroscope(microscope, LIMITS).acquire(CONFOCAL)
    assert microscope.is_dark()


def test_a_stop_that_fails_is_tried_again_and_at_last_reported() -> None:
    class Stubborn(FakeMicroscope):
        refusals = 2

        def stop(self) -> None:
            if self.refusals:
                self.refusals -= 1
                raise OSError("bus error")
            super().stop()

    class Stuck(FakeMicroscope):
        def is_dark(self) -> bool:
            return False

    stubborn = Stubborn()
    stubborn.light_on = True
    GuardedMicroscope(stubborn, LIMITS).go_dark()
    assert stubborn.is_dark()
    with pytest.raises(LightNotOffError, match="by hand"):
        GuardedMicroscope(Stuck(), LIMITS).acquire(CONFOCAL)


def test_an_impatient_ctrl_c_does_not_keep_the_light_on() -> None:
    class Interrupted(FakeMicroscope):
        interrupts = 1

        def acquire(self, settings: ScanSettings) -> Frame:
            self.light_on = True
            raise KeyboardInterrupt

        def stop(self) -> None:
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            super().stop()

    microscope = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        GuardedMicroscope(microscope, LIMITS).acquire(CONFOCAL)
    assert microscope.is_dark()


def test_a_scan_that_hangs_is_put_out_by_the_watchdog() -> None:
    class Hanging(FakeMicroscope):
        def __init__(self) -> None:
            super().__init__()
            self.stopped = threading.Event()

        def acquire(self, settings: ScanSettings) -> Frame:
            self.light_on = True
            assert self.stopped.wait(20)
            raise AcquisitionStoppedError("stopped")

        def stop(self) -> None:
            super().stop()
            self.stopped.set()

    microscope = Hanging()
    guard = GuardedMicroscope(microscope, LIMITS.replace(overrun_max_s=0.05), source="scope.toml")
    with pytest.raises(DeviceError, match=r"the light was put out \(overrun_max_s in scope.toml"):
        guard.acquire(CONFOCAL)
    assert microscope.is_dark()


def test_the_budget_holds_to_the_last_frame_and_says_what_is_left() -> None:
    limits = LIMITS.replace(session_energy_max_j=3.5 * CONFOCAL.energy_j)
    guard = GuardedMicroscope(FakeMicroscope(), limits, source="scope.toml")
    for _ in range(3):
        guard.acquire(CONFOCAL)
    with pytest.raises(DoseBudgetError, match=r"left is .* J of .* J \(session_energy_max_j in scope.toml\)"):
        guard.acquire(CONFOCAL)
    assert guard.dose.frames == 3


def test_the_dose_of_one_place_is_limited_whatever_the_session_budget_says() -> None:
    limits = LIMITS.replace(pixel_dose_max_j_per_m2=2.5 * CONFOCAL.dose_j_per_m2)
    guard = GuardedMicroscope(FakeMicroscope(), limits, source="scope.toml")
    guard.acquire(CONFOCAL)
    guard.acquire(CONFOCAL)
    with pytest.raises(DoseBudgetError, match=r"pixel_dose_max_j_per_m2 in scope\.toml"):
        guard.acquire(CONFOCAL)
    elsewhere = Region(center_yx_m=(5e-6, 5e-6), size_yx_m=CONFOCAL.region.size_yx_m)
    guard.acquire(CONFOCAL.replace(region=elsewhere))


def test_frames_are_numbered_in_the_order_of_delivery() -> None:
    microscope = FakeMicroscope(options=FakeMicroscope.Options(fail_at=1))
    guard = GuardedMicroscope(microscope, LIMITS)
    first = guard.acquire(CONFOCAL)
    with pytest.raises(StedfastError):
        guard.acquire(CONFOCAL)
    assert [first.index, guard.acquire(CONFOCAL).index] == [0, 1]


def test_close_ends_dark_even_if_the_driver_fails_to_close() -> None:
    class Broken(FakeMicroscope):
        def close(self) -> None:
            raise OSError("unplugged")

    microscope = Broken()
    microscope.light_on = True
    with pytest.raises(OSError, match="unplugged"):
        GuardedMicroscope(microscope, LIMITS).close()
    assert microscope.is_dark()


@pytest.mark.parametrize("value", [-1e-5, math.nan, math.inf])
def test_a_read_back_that_cannot_be_true_is_a_failure_and_never_lowers_the_dose(value: float) -> None:
    class Sensor(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            frame = super().acquire(settings)
            wrong = settings.model_copy(update={"excitation_w": value})
            return Frame(frame.photons, wrong, 0, 0.0)

    guard = GuardedMicroscope(Sensor(), LIMITS)
    with pytest.raises(DeviceError, match="impossible settings"):
        guard.acquire(CONFOCAL)
    assert guard.dose.energy_j == CONFOCAL.energy_j


def test_a_larger_region_than_asked_is_a_failure() -> None:
    wider = Region(center_yx_m=CONFOCAL.region.center_yx_m, size_yx_m=(6.4e-6, 4.8e-6))
    guard = GuardedMicroscope(_Odd({"region": wider}), LIMITS)
    with pytest.raises(DeviceError, match="asked was confocal at"):
        guard.acquire(CONFOCAL)


def test_another_focus_than_asked_is_a_failure() -> None:
    guard = GuardedMicroscope(_Odd({"focus_m": 2e-6}), LIMITS)
    with pytest.raises(DeviceError, match=r"scanned focus 2e-06 m, asked was None"):
        guard.acquire(CONFOCAL)


def test_more_power_for_a_shorter_time_is_more_than_was_asked() -> None:
    guard = GuardedMicroscope(_Odd({"excitation_w": 80e-6, "dwell_s": 1e-6}), LIMITS)
    with pytest.raises(LightFaultError, match="excitation power of 8e-05 W where 1e-05 W"):
        guard.acquire(CONFOCAL)


def test_the_light_goes_out_before_anything_is_booked(monkeypatch: pytest.MonkeyPatch) -> None:
    microscope = FakeMicroscope(options=FakeMicroscope.Options(fail_at=0))
    guard = GuardedMicroscope(microscope, LIMITS)

    def out_of_memory(*_: object) -> None:
        assert microscope.is_dark()
        raise MemoryError

    monkeypatch.setattr(guard.ledger.map, "add", out_of_memory)
    with pytest.raises(MemoryError):
        guard.acquire(CONFOCAL)
    assert microscope.is_dark()
    assert guard.dose.energy_j == CONFOCAL.energy_j, "the total is booked before the map"


def test_a_driver_that_refuses_with_its_light_on_is_at_fault_and_pays() -> None:
    class Liar(FakeMicroscope):
        def acquire(self, settings: ScanSettings) -> Frame:
            self.light_on = True
            raise InvalidRequestError("not on the grid")

    microscope = Liar()
    guard = GuardedMicroscope(microscope, LIMITS)
    with pytest.raises(LightFaultError, match="refused with its light on"):
        guard.acquire(CONFOCAL)
    assert microscope.is_dark()
    assert guard.dose.energy_j >= CONFOCAL.energy_j


class _Hanging(FakeMicroscope):
    """Hangs until it is dark; its ``stop`` fails a few times."""

    def __init__(self, failing_stops: int, *, simulated: bool = True) -> None:
        super().__init__()
        self.failing_stops, self.simulated = failing_stops, simulated
        self.dark = threading.Event()
        self.stops = 0

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), simulated=self.simulated)

    def acquire(self, settings: ScanSettings) -> Frame:
        self.light_on = True
        self.dark.clear()
        assert self.dark.wait(20)
        raise AcquisitionStoppedError("stopped")

    def stop(self) -> None:
        self.stops += 1
        if self.stops <= self.failing_stops:
            raise OSError("bus error")
        super().stop()
        self.dark.set()


def test_the_watchdog_tries_until_it_is_dark() -> None:
    microscope = _Hanging(failing_stops=2)
    guard = GuardedMicroscope(microscope, LIMITS.replace(overrun_max_s=0.05))
    with pytest.raises(LightFaultError, match="the light was put out"):
        guard.acquire(CONFOCAL)
    assert microscope.is_dark()
    assert microscope.stops >= 3


def test_a_scan_that_overran_on_a_real_microscope_is_booked_for_as_long_as_it_was_lit() -> None:
    guard = GuardedMicroscope(_Hanging(0, simulated=False), LIMITS.replace(overrun_max_s=0.1))
    with pytest.raises(LightFaultError):
        guard.acquire(CONFOCAL)
    assert guard.dose.energy_j > 10 * CONFOCAL.energy_j


def test_a_watchdog_that_comes_too_late_does_not_stop_the_next_scan() -> None:
    microscope = FakeMicroscope()
    watchdog = Watchdog(microscope, allowed_s=0.0)
    # It has run out of patience, but before it may act the scan ends: this very order, by its lock.
    with watchdog._stopping:
        watchdog._thread.start()
        watchdog._done.set()
    watchdog._thread.join(10)
    assert not watchdog._thread.is_alive()
    assert not watchdog.has_fired
    assert "stop" not in microscope.commands


def test_light_beyond_a_region_of_broken_pixels_is_booked_and_limited() -> None:
    # 1.6 um at 1 um pixels is a scan of 2 x 2 pixels: it lights 2 um.
    broken = CONFOCAL.replace(
        region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(1.6e-6, 1.6e-6)), pixel_size_m=1e-6
    )
    guard = GuardedMicroscope(FakeMicroscope(), LIMITS)
    guard.acquire(broken)
    edge = Region(center_yx_m=(0.95e-6, 0.0), size_yx_m=(1e-8, 1e-8))
    assert guard.ledger.map.peak(edge) == pytest.approx(broken.dose_j_per_m2)
    half = LIMITS.stage_box.size_yx_m[0] / 2
    outside = broken.replace(region=Region(center_yx_m=(half - 0.85e-6, 0.0), size_yx_m=(1.6e-6, 1.6e-6)))
    with pytest.raises(LimitExceededError, match="stage_box"):
        guard.acquire(outside)


def test_an_abort_while_the_light_is_put_out_is_not_forgotten() -> None:
    class Interrupted(FakeMicroscope):
        interrupts = 1

        def stop(self) -> None:
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            super().stop()

    microscope = Interrupted(options=FakeMicroscope.Options(fail_at=0))
    with pytest.raises(KeyboardInterrupt):
        GuardedMicroscope(microscope, LIMITS).acquire(CONFOCAL)
    assert microscope.is_dark()


def test_pixels_of_a_frame_cannot_be_made_writable_again() -> None:
    frame = Frame(np.ones((2, 3), ">u2"), CONFOCAL, 0, 0.0)
    assert frame.photons.dtype.isnative
    with pytest.raises(ValueError, match="WRITEABLE"):
        frame.photons.flags.writeable = True


class _Deaf(FakeMicroscope):
    """Hangs in one of its methods until the test lets it go."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.let_go = threading.Event()

    def _hang(self, method: str) -> None:
        if method == self.method:
            assert self.let_go.wait(60)

    def acquire(self, settings: ScanSettings) -> Frame:
        self.light_on = True
        self._hang("acquire")
        return super().acquire(settings)

    def stop(self) -> None:
        self._hang("stop")
        super().stop()

    def is_dark(self) -> bool:
        self._hang("is_dark")
        return super().is_dark()

    def close(self) -> None:
        self._hang("close")
        super().close()


def test_a_driver_that_never_comes_back_is_left_dark_and_refused_from_then_on() -> None:
    microscope = _Deaf("acquire")
    guard = GuardedMicroscope(microscope, LIMITS.replace(overrun_max_s=0.05))
    with pytest.raises(LightFaultError, match="the light was put out"):
        guard.acquire(CONFOCAL)
    assert microscope.is_dark()
    assert guard.dose.energy_j >= CONFOCAL.energy_j
    with pytest.raises(LightFaultError, match="has not come back from a scan"):
        guard.acquire(CONFOCAL)
    assert len(microscope.requests) == 0
    guard.close()
    microscope.let_go.set()


@pytest.mark.parametrize("method", ["stop", "is_dark"])
def test_a_light_that_cannot_be_put_out_is_told_after_a_bounded_time(method: str) -> None:
    microscope = _Deaf(method)
    guard = GuardedMicroscope(microscope, LIMITS.replace(overrun_max_s=0.05))
    with pytest.raises(LightNotOffError, match="close the shutter by hand"):
        guard.close()
    microscope.let_go.set()


def test_a_close_that_hangs_is_told_after_it_is_dark() -> None:
    microscope = _Deaf("close")
    guard = GuardedMicroscope(microscope, LIMITS.replace(overrun_max_s=0.05))
    with pytest.raises(DeviceError, match=r"does not come back from close\(\) within 0.05 s"):
        guard.close()
    assert microscope.is_dark()
    microscope.let_go.set()


def movie(guard: GuardedMicroscope, frames: int) -> list[Frame]:
    taken: list[Frame] = []
    guard.stream(CONFOCAL, frames, taken.append)
    return taken


def test_a_movie_is_booked_as_a_whole_and_settled_by_its_frames() -> None:
    booked: list[Any] = []
    microscope = FakeMicroscope()
    guard = GuardedMicroscope(
        microscope, LIMITS, before_light=lambda booking: booked.append((booking.frames, booking.energy_j))
    )
    taken = movie(guard, 5)
    assert [frame.index for frame in taken] == [0, 1, 2, 3, 4]
    assert booked == [(5, pytest.approx(5 * CONFOCAL.energy_j))]
    assert guard.dose.frames == 5
    assert guard.dose.energy_j == pytest.approx(5 * CONFOCAL.energy_j)
    assert guard.dose.peak_j_per_m2 == pytest.approx(5 * CONFOCAL.dose_j_per_m2)
    assert microscope.is_dark()


def test_a_movie_that_does_not_fit_the_budget_is_refused_as_a_whole() -> None:
    microscope = FakeMicroscope()
    guard = GuardedMicroscope(microscope, LIMITS.replace(session_energy_max_j=4.5 * CONFOCAL.energy_j))
    with pytest.raises(DoseBudgetError):
        movie(guard, 5)
    assert microscope.commands == []
    assert len(movie(guard, 4)) == 4
    with pytest.raises(InvalidRequestError, match="a movie of 0 frames"):
        movie(guard, 0)


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_movie_that_fails_counts_the_frames_it_may_have_lit(fails_at: int) -> None:
    settled: list[Lit] = []
    microscope = FakeMicroscope(options=FakeMicroscope.Options(fail_at=fails_at))
    guard = GuardedMicroscope(microscope, LIMITS, settled=settled.append)
    taken: list[Frame] = []
    with pytest.raises(DeviceError):
        guard.stream(CONFOCAL, 10, taken.append)
    assert len(taken) == fails_at
    assert microscope.is_dark()
    # The light was still on when it failed: then the whole of the booking counts.
    assert guard.dose.energy_j == pytest.approx(10 * CONFOCAL.energy_j)


def test_a_movie_ends_when_whoever_takes_its_frames_fails() -> None:
    microscope, taken = FakeMicroscope(), list[Frame]()
    settled: list[Lit] = []
    guard = GuardedMicroscope(microscope, LIMITS, settled=settled.append)

    def take(frame: Frame) -> None:
        taken.append(frame)
        if len(taken) == 3:
            raise RecordingError("the disk is full")

    with pytest.raises(RecordingError):
        guard.stream(CONFOCAL, 10, take)
    assert microscope.is_dark()
    # A simulation goes in step: no frame is begun before the last one was taken.
    assert microscope.scans == 3
    assert settled[0].energy_j == pytest.approx(3 * CONFOCAL.energy_j)
    assert guard.dose.energy_j == pytest.approx(3 * CONFOCAL.energy_j)


class _Streaming(FakeMicroscope):
    """A real microscope that streams: its light stays on from the first frame to the last."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), simulated=False)

    def stream(self, settings: ScanSettings, frames: int) -> Iterator[Frame]:
        self.light_on = True
        still = super().acquire(settings)
        self.light_on = True
        for _ in range(frames):
            if self.commands[-1] == "light off" and "stop" in self.commands:
                raise AcquisitionStoppedError("stopped")
            yield still
        self._go_dark()


def test_a_microscope_that_streams_is_streamed_and_dark_at_the_end() -> None:
    microscope = _Streaming()
    guard = GuardedMicroscope(microscope, LIMITS)
    assert [frame.index for frame in movie(guard, 50)] == list(range(50))
    assert microscope.is_dark()
    assert guard.acquire(CONFOCAL).index == 50


def test_a_slow_taker_does_not_bring_the_watchdog_on_a_stream_that_has_ended() -> None:
    microscope = _Streaming()
    guard = GuardedMicroscope(microscope, LIMITS.replace(overrun_max_s=0.05))
    waited = threading.Event()
    guard.stream(CONFOCAL, 3, lambda _: waited.wait(0.1) or None)  # type: ignore[arg-type]
    assert "stop" not in microscope.commands
