"""What the two-photon environments share: a brain that fires, one field of it, photons as a policy sees them.

What they pay for (spikes that were seen, the clean image) is known of a simulated brain only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.dose import Lit
from controller.core.errors import ConfigurationError, DoseBudgetError, LimitExceededError
from controller.core.frame import Frame
from controller.core.protocols import Capabilities
from controller.core.settings import NonNegative, Positive, ScanSettings
from simulator.environments.brain_samples import (
    DEPTHS_M,
    BrainDistribution,
    PreparedBrain,
    SimulatedBrains,
    brain_limits,
)
from simulator.environments.microscope_env import EnvOptions, Info, MicroscopeEnv, Observation
from simulator.environments.pictures import Bytes, encoded
from simulator.environments.samples import Prepared, Samples, TaskName
from simulator.two_photon.focal_plane import MAP_PIXEL_M


class BrainEnvOptions(EnvOptions):
    """What can be chosen of every two-photon environment."""

    task: TaskName | BrainDistribution = "mid"  # type: ignore[assignment]  # other samples, other tasks
    """What brains are drawn from: a name, or a distribution of your own."""
    pixels: Annotated[int, Field(ge=16, le=256)] = 64
    """Side of the square images."""
    pixel_size_m: Positive = 2e-6
    """Of the whole field. A multiple of 0.5 µm."""
    full_scale_photons: Positive = 50.0
    """Photons per pixel that become 255 in an observed image."""
    dose_weight: NonNegative = 0.2
    """Price of the whole dose budget."""

    @model_validator(mode="after")
    def _pixels_are_of_the_map(self) -> Self:
        part = self.pixel_size_m / MAP_PIXEL_M
        if not (part >= 1 and abs(part - round(part)) < 1e-6):
            raise ValueError(
                f"pixel_size_m={self.pixel_size_m:g} is not a multiple of the map pixel, {MAP_PIXEL_M:g} m"
            )
        return self


BrainOptionsT = TypeVar("BrainOptionsT", bound=BrainEnvOptions)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a scan: a frame and its light, or why there is none."""

    lit: Lit
    frame: Frame | None = None
    refusal: str = ""
    is_spent: bool = False


class BrainEnv(MicroscopeEnv[BrainOptionsT]):
    """Scans one field of a brain; the policy is told how deep the next scan lies.

    Parameters
    ----------
    options, render_mode, changes
        See :class:`~simulator.environments.microscope_env.MicroscopeEnv` and ``Options`` of the class.
    samples
        Simulated brains with limits of your own; those of ``options.task`` if not given.
    """

    Options: ClassVar[type[EnvOptions]] = BrainEnvOptions
    brain_tasks: ClassVar[Mapping[str, BrainDistribution]] = {}

    def _set_up(self) -> None:
        if not isinstance(self._samples, SimulatedBrains):
            raise ConfigurationError(
                f"samples of {type(self).__name__} must be SimulatedBrains, got "
                f"{type(self._samples).__name__}: what it pays for is known of a simulated brain only"
            )

    def _simulated(self) -> Samples:
        return SimulatedBrains(self._distribution(), brain_limits(self.options.episode_energy_j))

    def _distribution(self) -> BrainDistribution:
        task = self.options.task
        return task if isinstance(task, BrainDistribution) else self.brain_tasks[task]

    def _change_task(self, options: dict[str, Any]) -> None:
        if set(options) != {"task"}:
            raise ConfigurationError(f"reset() takes the option 'task', got {options}")
        self.options = self.options.replace(task=options["task"])
        self._brains.distribution = self._distribution()

    def _set_spaces(self, *, actions: int, recorded: int, side_px: int, **known: spaces.Box) -> None:
        depth = spaces.Box(-1.0, 1.0, (1,), np.float32)
        super()._set_spaces(actions=actions, recorded=recorded, side_px=side_px, depth=depth, **known)

    def _observation(self) -> Observation:
        low, high = DEPTHS_M[0], DEPTHS_M[-1]
        depth = 2 * (self.depth_m - low) / (high - low) - 1
        return {**super()._observation(), "depth": np.clip(np.array([depth], np.float32), -1.0, 1.0)}

    @property
    def _brains(self) -> SimulatedBrains:
        assert isinstance(self._samples, SimulatedBrains)  # noqa: S101  # nothing else is taken
        return self._samples

    @property
    def _stage(self) -> PreparedBrain:
        stage: Prepared = super()._stage
        assert isinstance(stage, PreparedBrain)  # noqa: S101  # that is what simulated brains prepare
        return stage

    @property
    def depth_m(self) -> float:
        """Return how deep the next scan lies below the surface."""
        return self._stage.depths_m[self._field]

    @property
    def field_m(self) -> float:
        """Return the side of the whole field in metres."""
        return self.options.pixels * self.options.pixel_size_m

    def _take(self, settings: ScanSettings) -> Taken:
        """Ask the guard for a scan; what it refuses lights nothing."""
        try:
            frame = self._stage.microscope.acquire(settings)
        except LimitExceededError as error:
            nothing = Lit(settings.region, 0.0, 0.0)
            return Taken(nothing, refusal=str(error), is_spent=isinstance(error, DoseBudgetError))
        return Taken(Lit.by(frame.settings), frame)

    def _cost(self, taken: Taken) -> float:
        """Return the price of the light of a scan."""
        return self.options.dose_weight * taken.lit.energy_j / self._samples.limits.session_energy_max_j

    def capabilities(self) -> Capabilities:
        """Return what the microscope says of itself."""
        return self._stage.microscope.capabilities()

    def frame_s(self, settings: ScanSettings) -> float:
        """Return how long a scan takes, the way back included."""
        return self._stage.brain.microscope.timing(settings).frame_s

    def photons(self, frame: Frame) -> NDArray[np.float64]:
        """Return a frame in photons per pixel; those of an analogue detector may be below 0."""
        details = self.capabilities().details
        signal = np.asarray(frame.photons, np.float64) - float(details["offset_grey"])
        return np.asarray(signal / float(details["grey_per_photon"]))

    def _encoded(self, frame: Frame | None) -> Bytes | None:
        return None if frame is None else encoded(self.photons(frame), self.options.full_scale_photons)

    def _told(self, settings: ScanSettings, taken: Taken) -> Info:
        """Return what ``info`` says of every step; its figures are finite."""
        return {
            "excitation_w": settings.excitation_w,
            "dwell_s": settings.dwell_s,
            "depth_m": float(settings.focus_m or 0.0),
            "energy_j": taken.lit.energy_j,
            "dose_j_per_m2": taken.lit.dose_j_per_m2,
            "energy_left_j": self._energy_left_j,
            "heating_estimate_c": self._stage.brain.microscope.heating_estimate_c(settings),
            "time_s": self._stage.clock.now_s(),
            "refused": float(bool(taken.refusal)),
            "refusal": taken.refusal,
        }
