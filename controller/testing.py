"""What authors of plug-ins need to test them: contracts for each role, and a fake microscope.

A contract is a class of tests. Derive from it in a test file, say how the object is made, and
pytest runs the whole contract against it::

    class TestMyDriver(MicroscopeContract):
        def make(self) -> Microscope:
            return MyDriver(...)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, AskLabel, Budget, Dose, Observation, Stop
from controller.core.errors import AcquisitionStoppedError, DeviceError, LimitExceededError
from controller.core.frame import Denoised, Frame
from controller.core.guard import GuardedMicroscope
from controller.core.limits import SafetyLimits
from controller.core.protocols import (
    Capabilities,
    Clock,
    Microscope,
    Policy,
    RemembersLight,
    Resources,
    Segmenter,
)
from controller.core.settings import (
    AdaptiveIllumination,
    AdaptiveStep,
    NonNegative,
    Region,
    ScanSettings,
    Settings,
)
from controller.denoiser_contract import DenoiserContract
from controller.strategy_contract import check_strategy, example_candidates

__all__ = [
    "CONFOCAL",
    "LIMITS",
    "TWO_STEPS",
    "DenoiserContract",
    "FakeMicroscope",
    "FaultyProxy",
    "MicroscopeContract",
    "PolicyContract",
    "SegmenterContract",
    "check_strategy",
    "example_candidates",
    "frames",
    "resources",
]

LIMITS = SafetyLimits(
    excitation_max_w=100e-6,
    sted_max_w=0.3,
    dwell_min_s=1e-6,
    dwell_max_s=1e-3,
    pixel_size_min_m=10e-9,
    pixel_size_max_m=1e-6,
    line_averages_max=8,
    pixels_max=512 * 512,
    frame_max_s=60.0,
    stage_box=Region(center_yx_m=(0.0, 0.0), size_yx_m=(20e-6, 20e-6)),
    pixel_dose_max_j_per_m2=1e12,
    session_energy_max_j=1.0,
)

CONFOCAL = ScanSettings(
    modality="confocal",
    region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(0.64e-6, 0.48e-6)),
    pixel_size_m=20e-9,
    dwell_s=10e-6,
    excitation_w=10e-6,
)

#: A quarter of the time without the STED beam; then the rest of it, where there was anything.
TWO_STEPS = AdaptiveIllumination(
    steps=(
        AdaptiveStep(dwell_fraction=0.25, sted_fraction=0.0, fewest_photons=2),
        AdaptiveStep(dwell_fraction=0.75),
    )
)


def resources(seed: int = 0, clock: Clock | None = None, folder: Path = Path()) -> Resources:
    """Return what a plug-in is made with, for a test."""
    rng = np.random.default_rng(seed)
    return Resources(
        rng, clock or SimulatedClock(), folder, LIMITS, capabilities=FakeMicroscope().capabilities()
    )


class FakeMicroscope:
    """A microscope without optics: Poisson noise around a fixed pattern, every command written down.

    ``commands`` lists what was done, in order; ``light_on`` tells whether light is on now. The
    frame depends on the seed, the number of the frame and the settings alone, so that a resumed
    session can be compared with an uninterrupted one.
    """

    class Options(Settings):
        """``frame_s`` is the time a frame takes; ``fail_at`` the number of the scan that fails."""

        frame_s: NonNegative = 0.0
        fail_at: Annotated[int, Field(ge=0)] | None = None
        nan_at: Annotated[int, Field(ge=0)] | None = None

    def __init__(self, *, seed: int = 0, clock: Clock | None = None, options: Options | None = None) -> None:
        self.commands: list[str] = []
        self.requests: list[ScanSettings] = []
        self.light_on = False
        self.scans = 0
        self._seed = seed
        self._clock: Clock = clock or SimulatedClock()
        self._options = options or self.Options()
        self._stopping = threading.Event()

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Make one from validated options."""
        return cls(seed=int(resources.rng.integers(2**62)), clock=resources.clock, options=options)

    def capabilities(self) -> Capabilities:
        """Return what it pretends to be able to do."""
        return Capabilities(
            name="fake",
            modalities=("overview", "confocal", "sted"),
            fov_size_yx_m=(10e-6, 10e-6),
            simulated=True,
            details={},
        )

    def acquire(self, settings: ScanSettings) -> Frame:
        """Return a frame of Poisson noise, or fail as the options say."""
        self._stopping.clear()
        number, self.scans = self.scans, self.scans + 1
        self.requests.append(settings)
        self.commands += ["move", "light on"]
        self.light_on = True
        started_s = self._clock.now_s()
        self._clock.sleep(self._options.frame_s)
        if number == self._options.fail_at:
            # The light stays on, as with a device that dies in the middle of a frame.
            raise DeviceError(f"scan {number} fails because the options say so")
        self._go_dark()
        if self._stopping.is_set():
            raise AcquisitionStoppedError(f"scan {number} was stopped")
        rng = np.random.default_rng([self._seed, number])
        rows, columns = np.indices(settings.shape_yx)
        pattern = 2.0 + 8.0 * (np.sin(rows / 3.0) * np.sin(columns / 4.0) > 0.6)
        photons = rng.poisson(pattern * settings.pixel_time_s / 10e-6).astype(np.float32)
        if number == self._options.nan_at:
            photons[0, 0] = np.nan
        return Frame(photons, settings, number, started_s)

    def expose_again(self, settings: ScanSettings) -> None:  # noqa: ARG002  # nothing here bleaches
        """Count one earlier scan, and its time."""
        self.scans += 1
        if isinstance(self._clock, SimulatedClock):
            self._clock.sleep(self._options.frame_s)

    def stop(self) -> None:
        """Put the light out."""
        self._stopping.set()
        self.commands.append("stop")
        self._go_dark()

    def is_dark(self) -> bool:
        """Tell whether the light is off."""
        return not self.light_on

    def close(self) -> None:
        """Put the light out for good."""
        self.stop()
        self.commands.append("close")

    def _go_dark(self) -> None:
        self.light_on = False
        self.commands.append("light off")


class FaultyProxy:
    """Stands before an object and lets one call of one of its methods go wrong.

    Parameters
    ----------
    target
        A microscope, a core of Micro-Manager, or anything else with methods.
    method, call
        The ``call``-th call of ``method``, counted from 1 once ``armed``, goes wrong.
    fault
        ``raise``, ``interrupt`` (as by Ctrl-C), ``hang`` (until :meth:`let_go`), ``ignore`` (nothing is
        done), or what is answered instead: ``nan``, ``wrong`` (another value, or an image of other
        shape), ``short`` (an image without its last line).
    """

    FAULTS = ("raise", "interrupt", "hang", "ignore", "nan", "wrong", "short")

    def __init__(self, target: Any, method: str, call: int, fault: str) -> None:
        assert fault in self.FAULTS, fault
        self.armed = self.has_struck = False
        self._target, self._method, self._call, self._fault = target, method, call, fault
        self._count = 0
        self._gate = threading.Event()

    def let_go(self) -> None:
        """Let a call that hangs come back, at the end of a test."""
        self._gate.set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._target, name)
        if name != self._method or not self.armed:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self._count += 1
            if self._count != self._call:
                return real(*arguments, **options)
            self.has_struck = True
            return self._go_wrong(lambda: real(*arguments, **options))

        return call

    def _go_wrong(self, real: Callable[[], Any]) -> Any:
        match self._fault:
            case "raise":
                raise RuntimeError("the device does not answer")
            case "interrupt":
                raise KeyboardInterrupt
            case "hang":
                assert self._gate.wait(100), "nobody let it go"
                raise RuntimeError("the device answers too late")
            case "ignore":
                return None
        answer = real()
        if isinstance(answer, Frame):
            return replace(answer, photons=_spoilt_image(answer.photons, self._fault))
        if isinstance(answer, np.ndarray):
            return _spoilt_image(answer, self._fault)
        return _spoilt_value(answer, self._fault)


def _spoilt_image(image: Any, fault: str) -> Any:
    if fault == "nan":
        return np.full(image.shape, np.nan, np.float32)
    return image[:-1] if fault == "short" else image[:, :-1]


def _spoilt_value(value: Any, fault: str) -> Any:
    if fault == "nan":
        return "nan" if isinstance(value, str) else float("nan")
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return str(float(value) * 1.5 + 7)
    return type(value)(one + 7 for one in value) if isinstance(value, list | tuple) else value * 1.5 + 7


class MicroscopeContract:
    """What every driver must keep to. ``settings`` must be a scan that it can do."""

    settings: ClassVar[ScanSettings] = CONFOCAL

    def make(self) -> Microscope:
        """Return a fresh microscope."""
        raise NotImplementedError

    def test_it_fills_the_role_and_says_what_it_can_do(self) -> None:
        """The five methods are there, and the modality of the contract's scan is offered."""
        microscope = self.make()
        assert isinstance(microscope, Microscope)
        capabilities = microscope.capabilities()
        assert self.settings.modality in capabilities.modalities
        assert all(size > 0 for size in capabilities.fov_size_yx_m)
        microscope.close()

    def test_a_frame_has_the_shape_that_was_asked_and_leaves_the_light_off(self) -> None:
        """Shape, finite values, settings, read-only array, darkness."""
        microscope = self.make()
        frame = microscope.acquire(self.settings)
        assert frame.photons.shape == self.settings.shape_yx
        assert np.isfinite(frame.photons).all()
        assert frame.settings.modality == self.settings.modality
        assert not frame.photons.flags.writeable
        assert microscope.is_dark()
        microscope.close()

    def test_frames_come_one_after_the_other(self) -> None:
        """Each frame starts no earlier than the one before."""
        microscope = self.make()
        starts = [microscope.acquire(self.settings).started_s for _ in range(3)]
        assert starts == sorted(starts)
        microscope.close()

    def test_stop_may_be_called_at_any_time_and_leaves_it_dark(self) -> None:
        """Before the first frame, twice, after a frame, and after close."""
        microscope = self.make()
        microscope.stop()
        microscope.stop()
        assert microscope.is_dark()
        microscope.acquire(self.settings)
        microscope.stop()
        assert microscope.is_dark()
        microscope.close()
        microscope.stop()
        assert microscope.is_dark()

    def test_a_stop_does_not_spoil_the_next_frame(self) -> None:
        """Stop is not for ever."""
        microscope = self.make()
        microscope.stop()
        assert microscope.acquire(self.settings).photons.shape == self.settings.shape_yx
        microscope.close()

    def test_the_global_random_state_is_left_alone(self) -> None:
        """A driver, simulated or not, has a random stream of its own."""
        before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
        microscope = self.make()
        microscope.acquire(self.settings)
        microscope.close()
        assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002

    def test_adaptive_scans_are_made_or_never_get_to_the_driver(self) -> None:
        """What is not declared is refused by the guard; what is declared comes back as it was asked."""
        microscope = self.make()
        scan = self.settings.replace(line_averages=1, adaptive=TWO_STEPS)
        if microscope.capabilities().adaptive:
            frame = microscope.acquire(scan)
            assert frame.settings.adaptive == TWO_STEPS
            assert frame.photons.shape == scan.shape_yx
            assert microscope.is_dark()
        else:
            try:
                GuardedMicroscope(microscope, LIMITS).acquire(scan)
            except LimitExceededError as error:
                assert "adaptive" in str(error)  # noqa: PT017  # plug-in authors need no pytest.raises
            else:
                raise AssertionError("an adaptive scan got to a driver that makes none")
        microscope.close()

    def test_a_simulated_sample_remembers_light(self) -> None:
        """After ``expose_again`` the next frame is the one that an uninterrupted run would give."""
        first, second = self.make(), self.make()
        if not isinstance(first, RemembersLight) or not isinstance(second, RemembersLight):
            return
        first.acquire(self.settings)
        second.expose_again(self.settings)
        assert np.array_equal(first.acquire(self.settings).photons, second.acquire(self.settings).photons)


def frames(count: int = 4, shape: tuple[int, int] = (24, 32), seed: int = 0) -> list[Frame]:
    """Return ``count`` noisy frames of the fake microscope's pattern, of ``shape`` pixels."""
    pixel_m = CONFOCAL.pixel_size_m
    size = (shape[0] * pixel_m, shape[1] * pixel_m)
    settings = CONFOCAL.replace(region=Region(center_yx_m=(0.0, 0.0), size_yx_m=size))
    microscope = FakeMicroscope(seed=seed)
    return [microscope.acquire(settings) for _ in range(count)]


class SegmenterContract:
    """What every segmenter must keep to."""

    def make(self) -> Segmenter:
        """Return a segmenter."""
        raise NotImplementedError

    def test_maps_have_the_frames_shape_and_range(self) -> None:
        """Labels count from 1 without gaps; probability and uncertainty lie in 0..1."""
        segmenter = self.make()
        assert isinstance(segmenter, Segmenter)
        for shape in ((32, 40), (1, 1), (1, 9), (7, 5)):
            frame = frames(1, shape)[0]
            clean = Denoised(frame.photons, np.sqrt(frame.photons + 1.0), frame.index)
            for denoised in (None, clean):
                found = segmenter.step(frame, denoised)
                assert found.labels.shape == found.probability.shape == found.uncertainty.shape == shape
                assert set(np.unique(found.labels)) - {0} == set(range(1, int(found.labels.max()) + 1))
                for image in (found.probability, found.uncertainty):
                    assert np.isfinite(image).all()
                    assert ((image >= 0) & (image <= 1)).all()

    def test_the_same_frames_give_the_same_answers(self) -> None:
        """Whatever it remembers is what it was shown; no hidden randomness."""
        one, other = self.make(), self.make()
        for frame in frames(12, (32, 40)):
            ours, theirs = one.step(frame, None), other.step(frame, None)
            assert np.array_equal(ours.labels, theirs.labels)
            assert np.array_equal(ours.probability, theirs.probability)

    def test_of_another_region_it_answers_like_a_new_one(self) -> None:
        """Nothing that it remembers of one place shows at another."""
        used, new = self.make(), self.make()
        for frame in frames(12, (32, 40)):
            used.step(frame, None)
        region = Region(center_yx_m=(5e-6, 0.0), size_yx_m=frame.settings.region.size_yx_m)
        settings = frame.settings.replace(region=region)
        for later in frames(12, (32, 40), seed=1):
            elsewhere = replace(later, settings=settings)
            ours, theirs = used.step(elsewhere, None), new.step(elsewhere, None)
            assert np.array_equal(ours.labels, theirs.labels)
            assert np.array_equal(ours.probability, theirs.probability)


class PolicyContract:
    """What every policy must keep to."""

    def make(self, seed: int = 0) -> Policy:
        """Return a fresh policy made with :func:`resources` of this seed."""
        raise NotImplementedError

    def drive(self, policy: Policy, cycles: int = 40) -> list[Any]:
        """Return the decisions of a policy on the fake microscope."""
        microscope, decisions = FakeMicroscope(seed=5), []
        frame: Frame | None = None
        for cycle in range(cycles):
            denoised = Denoised(frame.photons, np.sqrt(frame.photons + 1.0), frame.index) if frame else None
            decision = policy.decide(
                Observation(frame, denoised, None, Dose(), Budget(energy_j=1.0), now_s=float(cycle))
            )
            decisions.append(decision)
            if isinstance(decision, Stop):
                break
            if isinstance(decision, Acquire):
                frame = microscope.acquire(decision.settings)
        return decisions

    def test_it_says_what_it_wants_and_why(self) -> None:
        """Each answer is a decision with a reason and finite evidence."""
        policy = self.make()
        assert isinstance(policy, Policy)
        for decision in self.drive(policy):
            assert isinstance(decision, Acquire | AskLabel | Stop)
            assert decision.reason
            assert all(np.isfinite(value) for value in decision.evidence.values())

    def test_what_it_asks_for_is_allowed(self) -> None:
        """Each request is inside the limits that it was made with."""
        for decision in self.drive(self.make()):
            if isinstance(decision, Acquire):
                assert not LIMITS.violations(decision.settings, "test")

    def test_the_same_seed_gives_the_same_decisions(self) -> None:
        """A session can be replayed and resumed."""
        assert self.drive(self.make(3)) == self.drive(self.make(3))

    def test_it_does_not_ask_for_ever_for_what_is_refused(self) -> None:
        """A policy whose every request is refused stops by itself."""
        policy = self.make()
        for cycle in range(500):
            observation = Observation(
                None, None, None, Dose(), Budget(), now_s=float(cycle), refused="refused" if cycle else None
            )
            if isinstance(policy.decide(observation), Stop):
                return
        raise AssertionError("500 refused requests, and the policy still asks")
