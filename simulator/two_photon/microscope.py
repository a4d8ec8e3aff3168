"""A simulated two-photon microscope over a brain that fires: a drop-in microscope of the controller.

Coordinates: the sample is centred on (0, 0), depths count from the surface of the brain. Its map has
pixels of 0.5 µm, which pixel sizes are multiples of; a scan starts on the nearest one.

Time: a scan lasts what the scanner needs for its lines and the way back, which is longer than its light
(``settings.duration_s``); the light is blanked at the turns. Neurons fire and the brain moves with the
session's clock, between scans, too.

Chance: one integer is drawn when the microscope is made. The sample, its activity and its motion are
functions of it and of time; the noise of a frame is hashed from it and the number of the acquisition.
So a frame is the same whatever was scanned in between, but for what light has bleached.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.core.limits import SafeValues
from controller.core.protocols import Capabilities, Clock, Resources
from controller.core.settings import ScanSettings
from simulator.scan_control import STOP_LATENCY_S, ScanControl
from simulator.two_photon.analog_detector import detect
from simulator.two_photon.anatomy import Anatomy
from simulator.two_photon.brain import Brain
from simulator.two_photon.focal_plane import MAP_PIXEL_M
from simulator.two_photon.laser_scanner import Timing, timing
from simulator.two_photon.optics import HEATING_C_PER_W
from simulator.two_photon.setup import MODALITIES, Plan, Planner, TwoPhotonOptions

# A scan waits in parts of its lines: that is how exactly a stopped one knows how far it came.
_PARTS = 16


class _Purpose(IntEnum):
    """What a stream of random numbers is for. Numbers are part of every seed: never renumber."""

    SAMPLE = 1
    NOISE = 2


class TwoPhotonMicroscope:
    """A two-photon microscope and a brain below it, for tests, teaching and training.

    Implements the roles ``Microscope``, ``Streams``, ``Plugin`` and ``RemembersLight``. Its frames are in
    grey levels of a photomultiplier, or in photons: ``capabilities().details`` says which, as ``unit``,
    ``offset_grey`` and ``grey_per_photon``. Making one takes a second or two, and so does the first scan
    at a new depth.

    Parameters
    ----------
    options
        See :class:`TwoPhotonMicroscope.Options`.
    clock
        Tells the time.
    seed
        Decides the sample, what it does, and all noise.
    anatomy
        Tissue that was grown before, with the same options, for what looks at the same one again and again.
    """

    Options: ClassVar[type[TwoPhotonOptions]] = TwoPhotonOptions

    def __init__(
        self, options: TwoPhotonOptions, *, clock: Clock, seed: int, anatomy: Anatomy | None = None
    ) -> None:
        self._options = options
        self._clock = clock
        self._seed = seed
        self._planner = Planner(options)
        entropy = [seed, int(_Purpose.SAMPLE)]
        self._brain = Brain(options.brain, options.optics, options.sample_size_yx_m, entropy, anatomy=anatomy)
        self._stage = self._planner.stage
        self._control = ScanControl(clock)
        self._focus_m = options.focus_m
        self._next_index = 0

    @classmethod
    def from_options(cls, options: TwoPhotonOptions, resources: Resources) -> Self:
        """Make the microscope that a configuration describes.

        Raises
        ------
        ConfigurationError
            If a safe value is not 0 W, or the limits let the focus out of the tissue.
        """
        problems = []
        if resources.safe != SafeValues():
            problems.append(f"[safe]: simulated lights go to 0 W, asked is {resources.safe}")
        low, high = resources.limits.focus_min_m, resources.limits.focus_max_m
        tissue = options.brain.tissue
        if low is not None and high is not None and not (tissue.top_m <= low and high <= tissue.bottom_m):
            problems.append(
                f"limits.focus_min_m, focus_max_m: {low:g}..{high:g} m is not inside the tissue, "
                f"{tissue.top_m:g}..{tissue.bottom_m:g} m (microscope.options.brain.tissue)"
            )
        if problems:
            raise ConfigurationError(*problems)
        return cls(options, clock=resources.clock, seed=int(resources.rng.integers(2**63)))

    @property
    def brain(self) -> Brain:
        """The sample and the truth about it. For tests, figures and training, not for policies."""
        return self._brain

    def capabilities(self) -> Capabilities:
        """Return what this microscope can do; details tell the unit of its frames."""
        options = self._options
        return Capabilities(
            name="simulated two-photon microscope",
            modalities=MODALITIES,
            fov_size_yx_m=(options.field_size_m, options.field_size_m),
            simulated=True,
            details={
                "map_pixel_size_m": MAP_PIXEL_M,
                "indicator": options.brain.activity.indicator,
                "excitation_nm": round(options.optics.wavelength_m * 1e9),
                "focus_m": self._focus_m,
                "focus_min_m": options.brain.tissue.top_m,
                "focus_max_m": options.brain.tissue.bottom_m,
                "scanner": options.scanner.kind,
                "detector": options.detector.kind,
                "unit": options.detector.unit,
                "offset_grey": options.detector.offset_units,
                "grey_per_photon": options.detector.units_per_photon,
                "variance_per_photon": options.detector.variance_per_photon,
                "heating_estimate_c_per_w": HEATING_C_PER_W,
                "seed": self._seed,
            },
        )

    def acquire(self, settings: ScanSettings) -> Frame:
        """Scan the sample, which fires, moves and bleaches, and return what the detector wrote.

        The frame's settings are those asked for; its region is replaced by the scanned one where that
        lies more than half a map pixel (0.25 µm) off. ``focus_m=None`` leaves the focus where it is.

        Raises
        ------
        InvalidRequestError
            If the place, the depth or the timing cannot be scanned.
        AcquisitionStoppedError
            If the scan was stopped. The lines scanned until then have bleached the sample.
        DeviceError
            If the modality is not one of this microscope's, it is closed or already scanning.
        """
        with self._control.scanning():
            frame = self._scan(settings, self._control.wait_until, sees=True)
        assert frame is not None  # noqa: S101  # whoever sees gets a frame
        return frame

    def stream(self, settings: ScanSettings, frames: int) -> Generator[Frame, None, None]:
        """Yield ``frames`` frames, one each ``frame_s`` of the scanner, dark while nobody takes them.

        Raises
        ------
        InvalidRequestError, AcquisitionStoppedError, DeviceError
            As :meth:`acquire`. A stop between two frames ends the movie, too.
        """
        with self._control.scanning():
            for _ in range(frames):
                frame = self._scan(settings, self._control.wait_until, sees=True)
                assert frame is not None  # noqa: S101  # whoever sees gets a frame
                yield frame

    def expose_again(self, settings: ScanSettings) -> None:
        """Apply the light of one earlier scan, in the order of acquisition.

        The next frame is then bit-identical to the one of an uninterrupted run. A simulated clock is
        moved on as if it had been that run; a real one is not waited for.

        Raises
        ------
        InvalidRequestError, DeviceError
            As :meth:`acquire`.
        """
        with self._control.scanning():
            self._scan(settings, self._control.wait_in_hindsight, sees=False)

    def stop(self) -> None:
        """Put the light out, from any thread; a running acquisition raises."""
        self._control.stop()

    def is_dark(self) -> bool:
        """Tell whether the light is off."""
        return not self._control.is_lit

    def close(self) -> None:
        """Stop and take no more requests."""
        self._control.close()

    def timing(self, settings: ScanSettings) -> Timing:
        """Return how long the lines and frames of a scan take."""
        return timing(settings, self._options.scanner)

    def labels(self, settings: ScanSettings) -> NDArray[np.int32]:
        """Return the neurons whose cell bodies a scan shows while nothing moves: 0, or number plus 1."""
        plan = self._planner.plan(settings, self._focus_m)
        return self._brain.labels(plan.place, plan.depth_m)

    def expected_photons(
        self, settings: ScanSettings, started_s: float, *, moves: bool = True
    ) -> NDArray[np.float32]:
        """Return the photons to expect in each pixel of a scan that starts at a time: the clean frame.

        With what is bleached now, and with motion only if ``moves``. Truth, for tests and training.
        """
        return self._expected(settings, self._planner.plan(settings, self._focus_m), started_s, moves=moves)

    def heating_estimate_c(self, settings: ScanSettings) -> float:
        """Return by how much the brain may warm if such a scan goes on for minutes: a rough estimate."""
        mean_w = settings.energy_j / self.timing(settings).frame_s
        return HEATING_C_PER_W * mean_w

    def _scan(
        self, settings: ScanSettings, wait_until: Callable[[float, float], bool], *, sees: bool
    ) -> Frame | None:
        """Move, scan at the pace of the clock, bleach, and count the frame."""
        plan = self._planner.plan(settings, self._focus_m)
        # Each scan has its own number and so its own chance, also one that is stopped.
        index, self._next_index = self._next_index, self._next_index + 1
        focus_way_m, self._focus_m = abs(plan.depth_m - self._focus_m), plan.depth_m
        move_s = self._stage.move(settings.region, focus_way_m)
        if move_s > 0:
            wait_until(self._clock.now_s() + move_s, STOP_LATENCY_S)
        started_s = self._clock.now_s()
        scan_s = plan.timing.lines * plan.timing.line_s
        lines_lit = 0
        try:
            with self._control.light():
                image = self._image(settings, plan, started_s, index) if sees else None
                is_whole = wait_until(started_s + scan_s, scan_s / _PARTS)
                elapsed_s = self._clock.now_s() - started_s
                lines_lit = plan.timing.lines if is_whole else plan.timing.lines_done(elapsed_s)
        finally:
            self._bleach(settings, plan, lines_lit, started_s)
        self._control.raise_if_stopped(f"acquisition {index} was stopped before its frame was complete")
        wait_until(started_s + plan.timing.frame_s, STOP_LATENCY_S)
        if image is None:
            return None
        return Frame(image, self._stage.as_scanned(settings, plan.place), index, started_s)

    def _image(self, settings: ScanSettings, plan: Plan, started_s: float, index: int) -> NDArray[Any]:
        """Return what the detector writes."""
        rng = np.random.Generator(
            np.random.SFC64(np.random.SeedSequence([self._seed, int(_Purpose.NOISE), index]))
        )
        return detect(
            self._expected(settings, plan, started_s, moves=True),
            settings.dwell_s,
            self._options.detector,
            rng,
            bidirectional=plan.timing.bidirectional,
        )

    def _expected(
        self, settings: ScanSettings, plan: Plan, started_s: float, *, moves: bool
    ) -> NDArray[np.float32]:
        options, time_s = self._options, settings.pixel_time_s
        photons = self._brain.expected(
            plan.place,
            plan.depth_m,
            plan.timing,
            started_s,
            moves=moves,
            phase_m=options.scanner.phase_error_m,
        )
        photons *= np.float32(options.optics.photon_rate_hz(settings.excitation_w, plan.depth_m) * time_s)
        photons += np.float32(options.detector.background_hz * time_s)
        return photons

    def _bleach(self, settings: ScanSettings, plan: Plan, lines: int, now_s: float) -> None:
        region = self._stage.region(plan.place, lines)
        if region is not None:
            time_s_per_m2 = settings.pixel_time_s / settings.pixel_size_m**2
            self._brain.bleaching.expose(region, plan.depth_m, settings.excitation_w, time_s_per_m2, now_s)
