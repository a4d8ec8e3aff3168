from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.decision import Acquire, AskLabel, Budget, Dose, Observation, Stop
from controller.core.frame import Frame, Segmentation
from controller.core.settings import Region, ScanSettings
from controller.testing import resources
from policies.event_traits import RELATIVE_MAX, TraitMeter
from policies.events import EventsPolicy, Hysteresis

QUIET = 4.0
SCAN = ScanSettings(
    modality="confocal",
    region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(4e-6, 4e-6)),
    pixel_size_m=100e-9,
    dwell_s=10e-6,
    excitation_w=5e-6,
)


def image(
    rng: np.random.Generator, shape: tuple[int, int], level: float, at: tuple[int, int] = (10, 30)
) -> Any:
    rates = np.full(shape, QUIET)
    rates[at[0] - 2 : at[0] + 3, at[1] - 2 : at[1] + 3] += level
    return rng.poisson(rates)


def play(levels: list[float], **options: Any) -> list[Any]:
    """Drive the policy through monitor frames whose event has these heights; return its decisions."""
    rng, remaining = np.random.default_rng(0), list(levels)
    policy = EventsPolicy.from_options(EventsPolicy.Options(**options), resources())
    decisions: list[Any] = []
    seen, level = Observation(None, None, None, Dose(), Budget(), 0.0), 0.0
    for index in range(400):
        decision = policy.decide(seen)
        decisions.append(decision)
        if isinstance(decision, Stop):
            break
        if isinstance(decision, AskLabel):
            continue
        if decision.settings.modality != "sted":
            if not remaining:
                break
            level = remaining.pop(0)
        frame = Frame(image(rng, decision.settings.shape_yx, level), decision.settings, index, float(index))
        seen = Observation(frame, None, None, Dose(), Budget(), float(index))
    return decisions


def kinds(decisions: list[Any]) -> str:
    return "".join(
        "?" if isinstance(d, AskLabel) else "." if isinstance(d, Stop) else d.settings.modality[0]
        for d in decisions
    )


@given(
    st.lists(st.floats(-10, 10), max_size=60),
    st.floats(-5, 5),
    st.floats(0.1, 4),
    st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_hysteresis_changes_only_where_its_two_thresholds_say(
    values: list[float], leave: float, gap: float, frames_min: int
) -> None:
    state, before, below = Hysteresis(leave + gap, leave, frames_min), False, 0
    for value in values:
        now = state.step(value)
        below = below + 1 if value < leave else 0
        if now and not before:
            assert value >= leave + gap
        if before and not now:
            assert below >= frames_min
        before = now


@given(st.lists(st.floats(2.0, 2.999), max_size=50), st.booleans())
def test_hysteresis_never_flaps_inside_the_band(values: list[float], on: bool) -> None:
    state = Hysteresis(3.0, 2.0, 1)
    state.step(9.0 if on else 0.0)
    assert all(state.step(value) == on for value in values)


def test_a_quiet_sample_is_only_monitored() -> None:
    """200 frames of 200 x 200 pixels of noise: the thresholds leave no room for false alarms."""
    decisions = play([0.0] * 60)
    assert kinds(decisions) == "c" * 61


def test_an_event_is_scanned_between_monitor_frames_until_it_is_over() -> None:
    decisions = play([0.0] * 5 + [15.0] * 4 + [0.0] * 6, frames_min=2, events_max=2)
    # Quiet; four frames of event and the first of two below the band, each followed by one event scan.
    assert kinds(decisions) == "cccccc" + "sc" * 5 + "ccccc"


def test_the_event_scan_is_centred_on_the_change() -> None:
    decisions = play([0.0] * 3 + [15.0] * 3)
    scans = [d.settings for d in decisions if isinstance(d, Acquire) and d.settings.modality == "sted"]
    monitor = next(d.settings for d in decisions if isinstance(d, Acquire))
    y, x, _, _ = monitor.region.bounds_yx_m
    expected = (y + 10.5 * monitor.pixel_size_m, x + 30.5 * monitor.pixel_size_m)
    np.testing.assert_allclose(scans[0].region.center_yx_m, expected, atol=0.2e-6)


def test_the_session_ends_after_the_last_event() -> None:
    decisions = play([0.0] * 3 + [20.0] * 2 + [0.0] * 9, events_max=1, frames_min=1)
    assert isinstance(decisions[-1], Stop)
    assert "all 1 events are over" in decisions[-1].reason


def test_each_event_asks_one_question_about_its_first_close_scan() -> None:
    decisions = play([0.0] * 3 + [20.0] * 3 + [0.0] * 9, events_max=1, question="Was that a release?")
    asked = [d.question for d in decisions if isinstance(d, AskLabel)]
    assert len(asked) == 1
    assert kinds(decisions).startswith("ccccs?c")


def test_a_lasting_change_becomes_the_new_normal() -> None:
    decisions = play([0.0] * 5 + [20.0] * 80, event_scans_max=4, events_max=2)
    assert kinds(decisions).count("s") == 4
    assert decisions[-1].evidence["event_on"] == 0.0


@pytest.mark.parametrize(
    ("trait", "enter", "leave", "level"),
    [("mean_signal", 4.2, 4.1, 4000.0), ("max_change", 8.0, 5.5, 15.0)],
)
def test_image_traits_see_the_event(trait: Any, enter: float, leave: float, level: float) -> None:
    assert "s" in kinds(play([0.0] * 4 + [level] * 2, trait=trait, enter=enter, leave=leave))


def test_relative_thresholds_are_multiples_of_the_quiet_level() -> None:
    decisions = play([0.0] * 4 + [4000.0] * 2, trait="mean_signal", relative=True, enter=1.3, leave=1.1)
    assert kinds(decisions).count("s") >= 1
    assert decisions[3].evidence["mean_signal"] == pytest.approx(1.0, abs=0.05)


def frame(photons: Any, index: int = 0) -> Frame:
    return Frame(photons, SCAN, index, 0.0)


@pytest.mark.parametrize(("trait", "value"), [("object_count", 2.0), ("object_area_fraction", 25 / 1600)])
def test_object_traits_count_what_the_segmenter_found(trait: Any, value: float) -> None:
    labels = np.zeros((40, 40), dtype=np.int32)
    labels[10:14, 20:24], labels[30:33, 5:8] = 1, 2
    zero = np.zeros((40, 40), dtype=np.float32)
    found = TraitMeter(trait, relative=False).measure(frame(zero), Segmentation(labels, zero, zero))
    assert found is not None
    assert found.value == pytest.approx(value)
    # The larger object is the place: rows 10..13 and columns 20..23 of 40 over 4 um about 0.
    np.testing.assert_allclose(found.center_yx_m, (-0.8e-6, 0.2e-6), atol=1e-12)


def test_object_traits_without_a_segmenter_end_the_session_with_a_reason() -> None:
    decisions = play([0.0] * 20, trait="object_count", enter=5.0, leave=2.0)
    assert isinstance(decisions[-1], Stop)
    assert "object_count" in decisions[-1].reason


def test_the_loss_that_bleaching_makes_is_no_event() -> None:
    meter = TraitMeter("max_change", relative=False)
    bright, dim = np.full((40, 40), 50.0), np.full((40, 40), 50.0)
    dim[10:20, 10:20] = 5.0
    assert meter.measure(frame(bright), None) is None
    meter.learn()
    found = meter.measure(frame(dim), None)
    assert found is not None
    assert found.value < 1.0


def labels_of(objects: int) -> Segmentation:
    labels, zero = np.zeros((4, 4), dtype=np.int32), np.zeros((4, 4), dtype=np.float32)
    labels[0, :objects] = np.arange(1, objects + 1)
    return Segmentation(labels, zero, zero)


def test_on_an_empty_sample_any_object_is_as_much_as_can_be_told() -> None:
    meter = TraitMeter("object_count", relative=True)
    quiet = frame(np.zeros((4, 4)))
    assert meter.measure(quiet, labels_of(0)) is None  # the first frame is the baseline
    meter.learn()
    values = []
    for objects in (0, 1, 3, 0):
        found = meter.measure(quiet, labels_of(objects))
        assert found is not None
        values.append(found.value)
    assert values == [0.0, RELATIVE_MAX, RELATIVE_MAX, 0.0]


def test_objects_on_an_empty_sample_are_an_event_and_their_going_is_its_end() -> None:
    options = EventsPolicy.Options(
        trait="object_count", relative=True, enter=2.0, leave=1.5, frames_min=1, events_max=1
    )
    policy, kinds_seen = EventsPolicy.from_options(options, resources()), ""
    seen, counts = Observation(None, None, None, Dose(), Budget(), 0.0), [0, 0, 0, 2, 1, 0]
    for index in range(20):
        decision = policy.decide(seen)
        assert np.isfinite(list(decision.evidence.values())).all()
        kinds_seen += kinds([decision])
        if not isinstance(decision, Acquire):
            break
        shape, found = decision.settings.shape_yx, None
        if decision.settings.modality != "sted":
            labels, zero = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.float32)
            objects = counts.pop(0)
            labels[0, :objects] = np.arange(1, objects + 1)
            found = Segmentation(labels, zero, zero)
        now = Frame(np.ones(shape), decision.settings, index, 0.0)
        seen = Observation(now, None, found, Dose(), Budget(), 0.0)
    assert kinds_seen == "ccccscsc."


def test_quiet_monitor_scans_keep_their_interval_and_an_event_waits_for_nothing() -> None:
    """A monitor scan takes 3 s here and an event scan 1 s; the times are those of the session's clock."""
    levels = [0.0] * 4 + [20.0] * 2 + [0.0] * 4
    options = EventsPolicy.Options(monitor_interval_s=30.0, frames_min=1)
    policy, rng = EventsPolicy.from_options(options, resources()), np.random.default_rng(0)
    seen, now_s, told = Observation(None, None, None, Dose(), Budget(), 5.0), 5.0, []
    for index in range(12):
        decision = policy.decide(seen)
        assert isinstance(decision, Acquire)
        is_event = decision.settings.modality == "sted"
        told.append((decision.settings.modality[0], decision.start_s))
        started_s = max(now_s, decision.start_s or 0.0)
        now_s = started_s + (1.0 if is_event else 3.0)
        photons = image(rng, decision.settings.shape_yx, levels[0] if is_event else levels.pop(0))
        now = Frame(photons, decision.settings, index, started_s)
        seen = Observation(now, None, None, Dose(), Budget(), now_s)
    # The first at 5 s and then every 30 s. The event begins in the frame of 125 s and is over in the one
    # of 133 s, after frames of 128 + 1 s; from there on every 30 s again.
    assert told == [
        ("c", None), ("c", 35.0), ("c", 65.0), ("c", 95.0), ("c", 125.0),
        ("s", None), ("c", None), ("s", None), ("c", None), ("c", 163.0), ("c", 193.0), ("c", 223.0),
    ]  # fmt: skip


def test_a_monitor_scan_that_failed_is_lost_after_three_tries() -> None:
    policy = EventsPolicy.from_options(EventsPolicy.Options(lost_max=2, monitor_interval_s=9.0), resources())
    failed = Observation(None, None, None, Dose(), Budget(), 0.0, failure="the shutter is stuck")
    decisions = [policy.decide(failed) for _ in range(7)]
    assert kinds(decisions) == "cccccc."
    assert [d.start_s for d in decisions if isinstance(d, Acquire)] == [None, None, None, 9.0, None, None]
    assert decisions[-1].reason == (
        "2 monitor scans in a row showed no max_change, the last one failed: the shutter is stuck"
    )


def test_waiting_that_does_not_fit_the_time_ends_the_session() -> None:
    policy = EventsPolicy.from_options(EventsPolicy.Options(monitor_interval_s=60.0), resources())
    budget = Budget(duration_s=50.0)
    seen = Observation(None, None, None, Dose(), budget, 0.0)
    first = policy.decide(seen)
    assert isinstance(first, Acquire)
    photons = np.ones(first.settings.shape_yx)
    now = Frame(photons, first.settings, 0, 0.0)
    second = policy.decide(Observation(now, None, None, Dose(), budget, 1.0))
    assert isinstance(second, Stop)
    assert "of time needed" in second.reason


def test_a_frame_that_cannot_be_measured_teaches_nothing() -> None:
    """During an event the frame measured last is one of the event: it must not become the new normal."""
    meter = TraitMeter("object_count", relative=True)
    zero = np.zeros((4, 4), dtype=np.float32)
    meter.measure(frame(zero), labels_of(1))
    meter.learn()
    event = meter.measure(frame(zero), labels_of(4))
    assert meter.measure(frame(zero), None) is None
    meter.learn()
    assert meter.measure(frame(zero), labels_of(4)) == event


def test_a_refused_event_scan_is_not_asked_for_again_in_that_event() -> None:
    policy = EventsPolicy.from_options(EventsPolicy.Options(), resources())
    rng, seen = np.random.default_rng(0), Observation(None, None, None, Dose(), Budget(), 0.0)
    asked = 0
    for index in range(40):
        decision = policy.decide(seen)
        assert isinstance(decision, Acquire)
        if decision.settings.modality == "sted":
            asked += 1
            seen = Observation(seen.frame, None, None, Dose(), Budget(), 0.0, refused="too much light")
            continue
        photons = image(rng, decision.settings.shape_yx, 20.0 if index > 3 else 0.0)
        seen = Observation(Frame(photons, decision.settings, index, 0.0), None, None, Dose(), Budget(), 0.0)
    assert asked == 1
