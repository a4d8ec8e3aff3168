"""Brains under a simulated two-photon microscope: tissue grown once in a process, all else drawn anew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.clock import SimulatedClock
from controller.core.errors import ConfigurationError
from controller.core.guard import GuardedMicroscope
from controller.core.limits import SafetyLimits
from controller.core.settings import Region, Settings
from simulator.environments.samples import Prepared, Range
from simulator.two_photon.analog_detector import DetectorOptions
from simulator.two_photon.anatomy import Anatomy
from simulator.two_photon.bleaching import BleachingOptions
from simulator.two_photon.brain import BrainOptions
from simulator.two_photon.calcium import ActivityOptions, IndicatorName
from simulator.two_photon.focal_plane import MAP_PIXEL_M
from simulator.two_photon.laser_scanner import ScannerOptions
from simulator.two_photon.microscope import TwoPhotonMicroscope
from simulator.two_photon.neurons import TissueOptions
from simulator.two_photon.optics import TwoPhotonOptics

#: Depths that planes are drawn from: those of one tissue are soon all known.
DEPTHS_M = tuple(depth_um / 1e6 for depth_um in range(100, 401, 25))

#: Tissue around a field, so that one tissue has many fields.
_AROUND_M = 32e-6
_TISSUE = TissueOptions(top_m=90e-6, bottom_m=410e-6)
_SCANNER = ScannerOptions(kind="galvo")
_DETECTOR = DetectorOptions()
_TISSUES = 3

#: Seeds of the tissues. Part of every episode: never change them.
_TISSUE_SEEDS = {"train": 30_000, "held_out": 80_000}


class BrainDistribution(Settings):
    """What brains are drawn from. Ranges are log-uniform but for depths; each episode has one brain."""

    indicators: Annotated[tuple[IndicatorName, ...], Field(min_length=1)] = ("gcamp6f", "jgcamp8m")
    """What makes spikes visible, each as likely as the others."""
    tissue: Literal["train", "held_out"] = "train"
    """Which set of tissues; neurons of one set are not in the other."""
    dye_molar: Range = (6e-6, 15e-6)
    """Expression: concentration of the indicator in an average cell, moles per litre."""
    depth_m: Range = (100e-6, 225e-6)
    """Between which depths planes lie; they are drawn from ``DEPTHS_M``."""
    burst_rate_hz: Range = (0.15, 0.35)
    """Mean rate of a neuron's own bursts."""
    bleaching: Range = (10.0, 40.0)
    """Relative to the dye of :class:`~simulator.two_photon.bleaching.BleachingOptions`."""

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name in _RANGES:
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}: low={low:g} must not be above high={high:g}")
        if not self.depths_m:
            raise ValueError(f"depth_m: {self.depth_m} m holds none of the depths {DEPTHS_M} m")
        return self

    @property
    def depths_m(self) -> tuple[float, ...]:
        """Return the depths that can be drawn."""
        low, high = self.depth_m
        return tuple(depth_m for depth_m in DEPTHS_M if low - 1e-9 <= depth_m <= high + 1e-9)


_RANGES = ("dye_molar", "depth_m", "burst_rate_hz", "bleaching")


@dataclass(frozen=True, slots=True)
class BrainTruth:
    """What only a simulator knows. For rewards, oracles and figures; no observation holds any of it."""

    microscope: TwoPhotonMicroscope
    optics: TwoPhotonOptics
    detector: DetectorOptions


@dataclass(frozen=True, slots=True)
class PreparedBrain(Prepared):
    """A two-photon microscope with a brain below it.

    Attributes
    ----------
    clock
        Its time, which only moves with scans and sleep.
    depths_m
        The depth of each field.
    brain
        What is there.
    """

    clock: SimulatedClock
    depths_m: tuple[float, ...]
    brain: BrainTruth


def brain_limits(session_energy_max_j: float) -> SafetyLimits:
    """Return the limits of the simulated two-photon microscope, with the budget of one episode."""
    return SafetyLimits(
        # As in hardware_configs/sim_two_photon.toml.
        excitation_max_w=120e-3,
        excitation_step_w=80e-3,
        dwell_min_s=100e-9,
        dwell_max_s=20e-6,
        pixel_size_min_m=MAP_PIXEL_M,
        pixel_size_max_m=4e-6,
        line_averages_max=8,
        pixels_max=2**18,
        frame_max_s=5.0,
        overrun_max_s=60.0,
        stage_box=Region(center_yx_m=(0.0, 0.0), size_yx_m=(1e-3, 1e-3)),
        focus_min_m=DEPTHS_M[0],
        focus_max_m=DEPTHS_M[-1],
        pixel_dose_max_j_per_m2=1e10,
        session_energy_max_j=session_energy_max_j,
        dose_cell_m=4e-6,
    )


class SimulatedBrains:
    """Draws a brain for each episode. Implements ``Samples``.

    Tissue is grown and its planes are drawn once in a process: the first episodes with a tissue take a
    quarter of a second more for each new plane.
    """

    def __init__(self, distribution: BrainDistribution, limits: SafetyLimits) -> None:
        self.distribution = distribution
        self.limits = limits
        self.is_simulated = True
        self._guard: GuardedMicroscope | None = None

    def prepare(self, seeds: np.random.SeedSequence, fields: int, size_m: float) -> PreparedBrain:
        """Return a new brain, and one place of it at so many depths; the brain before is gone.

        Raises
        ------
        ConfigurationError
            If there are fewer depths.
        """
        self.close()
        chance, noise = seeds.spawn(2)
        rng = np.random.default_rng(chance)
        drawn = self._drawn(rng)
        depths_m = self._depths(fields, rng)
        sample_m = size_m + _AROUND_M
        optics = TwoPhotonOptics(dye_molar=drawn["dye_molar"])
        options = TwoPhotonMicroscope.Options(
            field_size_m=sample_m,
            focus_m=depths_m[0],
            brain=self._brain(drawn),
            optics=optics,
            scanner=_SCANNER,
            detector=_DETECTOR,
        )
        clock = SimulatedClock()
        microscope = TwoPhotonMicroscope(
            options,
            clock=clock,
            seed=int(noise.generate_state(1, np.uint64)[0] >> np.uint64(1)),
            anatomy=_anatomy(_TISSUE_SEEDS[self.distribution.tissue] + int(drawn["tissue"]), sample_m),
        )
        self._guard = GuardedMicroscope(microscope, self.limits, source="limits of the environment")
        reach_px = round(_AROUND_M / 2 / MAP_PIXEL_M)
        y, x = (float(step) * MAP_PIXEL_M for step in rng.integers(-reach_px, reach_px + 1, 2))
        region = Region(center_yx_m=(y, x), size_yx_m=(size_m, size_m))
        return PreparedBrain(
            microscope=self._guard,
            fields=(region,) * fields,
            truth=None,
            drawn={**drawn, "depth_m": depths_m[0]} if fields == 1 else drawn,
            clock=clock,
            depths_m=depths_m,
            brain=BrainTruth(microscope, optics, _DETECTOR),
        )

    def close(self) -> None:
        """Close the microscope of the last episode."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _brain(self, drawn: dict[str, float]) -> BrainOptions:
        return BrainOptions(
            tissue=_TISSUE,
            activity=ActivityOptions(
                indicator=self.distribution.indicators[int(drawn["indicator"])],
                burst_rate_hz=drawn["burst_rate_hz"],
            ),
            bleaching=BleachingOptions(strength=drawn["bleaching"]),
        )

    def _drawn(self, rng: np.random.Generator) -> dict[str, float]:
        ranges = self.distribution
        drawn = {
            "indicator": float(rng.integers(len(ranges.indicators))),
            "tissue": float(rng.integers(_TISSUES)),
        }
        for name in ("dye_molar", "burst_rate_hz", "bleaching"):
            low, high = getattr(ranges, name)
            drawn[name] = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low < high else low
        return drawn

    def _depths(self, count: int, rng: np.random.Generator) -> tuple[float, ...]:
        known: NDArray[np.float64] = np.array(self.distribution.depths_m)
        if not count <= len(known):
            raise ConfigurationError(
                f"{count} planes are asked, depth_m={self.distribution.depth_m} m of the task holds "
                f"{len(known)}: lower planes, or widen depth_m"
            )
        return tuple(float(depth_m) for depth_m in rng.permutation(known)[:count])


@lru_cache(maxsize=6)
def _anatomy(number: int, sample_m: float) -> Anatomy:
    """Return a tissue; planes that are drawn once serve later episodes."""
    return Anatomy(_TISSUE, TwoPhotonOptics(), (sample_m, sample_m), [number], planes=len(DEPTHS_M))
