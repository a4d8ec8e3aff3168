"""Labelled two-photon movies: what the detector wrote, what it would write without noise, and the truth."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from controller.core.clock import SimulatedClock
from controller.core.dataset import DatasetItem
from controller.core.errors import ConfigurationError, StedfastError
from controller.core.settings import MAX_PIXELS, NonNegative, Positive, Region, ScanSettings, Settings
from simulator.two_photon.analog_detector import DetectorOptions
from simulator.two_photon.brain import Brain, BrainOptions
from simulator.two_photon.laser_scanner import ScannerOptions, timing
from simulator.two_photon.microscope import TwoPhotonMicroscope
from simulator.two_photon.optics import TwoPhotonOptics
from simulator.two_photon.setup import Planner, TwoPhotonOptions

# The only chance that is drawn here; a number, because others may come. It is part of every seed.
_MICROSCOPE = 1


class TwoPhotonDatasetOptions(Settings):
    """What a data set of two-photon movies is made of."""

    frames: Annotated[int, Field(ge=1, le=100_000)] = 300
    """Frames of a movie."""
    size_px: Annotated[int, Field(ge=8, le=2048)] = 128
    """Side of a frame in pixels."""
    pixel_size_m: Positive = 1e-6
    """Multiple of 0.5 µm."""
    excitation_w: NonNegative = 80e-3
    """Mean power at the surface of the brain."""
    dwell_s: Positive = 85e-9
    """Time on a pixel in one pass. A resonant mirror has about 44 µs of light a line."""
    line_averages: Annotated[int, Field(ge=1, le=100_000)] = 1
    """How often each line is scanned."""
    focus_m: NonNegative = 150e-6
    """Depth of the focus below the surface."""
    brain: BrainOptions = BrainOptions()
    """As for the simulated microscope, and so are the rest."""
    optics: TwoPhotonOptics = TwoPhotonOptics()
    scanner: ScannerOptions = ScannerOptions()
    detector: DetectorOptions = DetectorOptions()

    @model_validator(mode="after")
    def _can_be_scanned(self) -> Self:
        if not self.frames * self.size_px**2 <= MAX_PIXELS:
            raise ValueError(
                f"frames={self.frames} of size_px={self.size_px} are more than {MAX_PIXELS} pixels in a movie"
            )
        try:
            Planner(self.microscope()).plan(self.scan(), self.focus_m)
        except ValidationError as error:
            raise ValueError(error.errors(include_url=False)[0]["msg"]) from error
        except StedfastError as error:
            raise ValueError(str(error)) from error
        return self

    def microscope(self) -> TwoPhotonOptions:
        """Return the options of a microscope whose sample is one field."""
        return TwoPhotonOptions(
            field_size_m=self.size_px * self.pixel_size_m,
            focus_m=self.focus_m,
            brain=self.brain,
            optics=self.optics,
            scanner=self.scanner,
            detector=self.detector,
        )

    def scan(self) -> ScanSettings:
        """Return the scan of every frame."""
        side_m = self.size_px * self.pixel_size_m
        return ScanSettings(
            modality="two_photon",
            region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(side_m, side_m)),
            pixel_size_m=self.pixel_size_m,
            dwell_s=self.dwell_s,
            excitation_w=self.excitation_w,
            line_averages=self.line_averages,
        )


class TwoPhotonDataset:
    """Simulates movies of a brain of their own each. Implements the role ``DatasetMaker``.

    Parameters
    ----------
    options
        See :class:`TwoPhotonDatasetOptions`.
    seed
        Decides all brains, what they do, and all noise.
    """

    Options: ClassVar[type[TwoPhotonDatasetOptions]] = TwoPhotonDatasetOptions

    def __init__(self, options: TwoPhotonDatasetOptions, seed: int) -> None:
        if not seed >= 0:
            raise ConfigurationError(f"seed={seed} must be 0 or more")
        self._options = options
        self._seed = seed

    def item(self, index: int) -> DatasetItem:
        """Simulate movie number ``index``.

        Images are ``frames`` (in the detector's unit) and ``expected`` (photons: with activity, motion and
        what has bleached until then, without noise). Labels are the ``neurons`` of the cell bodies in
        focus while nothing moves. ``spikes``, ``traces`` (ΔF/F in the middle of each frame) and ``motion``
        are on the clock that starts with the movie.
        """
        options, scan = self._options, self._options.scan()
        seed = int(
            np.random.SeedSequence([self._seed, _MICROSCOPE, index]).generate_state(1, np.uint64)[0] >> 1
        )
        clock = SimulatedClock()
        microscope = TwoPhotonMicroscope(options.microscope(), clock=clock, seed=seed)
        frames, expected, starts_s = [], [], []
        for _ in range(options.frames):
            starts_s.append(clock.now_s())
            # Before the frame: its own light bleaches what comes after it.
            expected.append(microscope.expected_photons(scan, starts_s[-1]))
            frames.append(microscope.acquire(scan).photons)
        lines = timing(scan, options.scanner)
        middles_s = np.array(starts_s) + lines.lines * lines.line_s / 2
        labels = microscope.labels(scan)
        detector = options.detector
        return DatasetItem(
            settings=scan,
            images={"frames": np.stack(frames), "expected": np.stack(expected).astype(np.float32)},
            labels={"neurons": labels},
            tables=_truth(microscope.brain, np.unique(labels[labels > 0]), middles_s, clock.now_s()),
            group=f"{index:06d}",
            licence="CC0-1.0",
            details={
                "unit": detector.unit,
                "offset_grey": detector.offset_units,
                "grey_per_photon": detector.units_per_photon,
                "variance_per_photon": detector.variance_per_photon,
                "indicator": options.brain.activity.indicator,
                "seeds": {"microscope": seed},
            },
            frame_s=lines.frame_s,
        )


def _truth(
    brain: Brain, numbers: NDArray[np.int32], middles_s: NDArray[np.float64], end_s: float
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return what the neurons with these labels did, and how the brain moved."""
    neurons = numbers.astype(np.intp) - 1
    spikes = brain.activity.spikes(0.0, end_s)
    is_seen = np.isin(spikes.neurons, neurons)
    dff = brain.activity.dff(neurons, middles_s)
    shift_m = brain.motion.shift_m(middles_s)
    return {
        "spikes": {"time_s": spikes.times_s[is_seen], "neuron": spikes.neurons[is_seen] + 1},
        "traces": {
            "time_s": middles_s,
            **{f"neuron_{number}": trace for number, trace in zip(numbers, dff, strict=True)},
        },
        "motion": {"time_s": middles_s, "y_m": shift_m[:, 0], "x_m": shift_m[:, 1]},
    }
