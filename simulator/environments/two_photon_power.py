"""TwoPhoton: how much light a plane needs grows with its depth; give each enough, and none too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.errors import DoseBudgetError
from controller.core.frame import Frame
from controller.core.settings import NonNegative, Positive, ScanSettings
from controller.core.spaces import Parameter
from simulator.environments.brain_env import BrainEnv, BrainEnvOptions
from simulator.environments.brain_samples import BrainDistribution
from simulator.environments.microscope_env import Action, EnvOptions, Info, Observation
from simulator.environments.parameters import ActionMap
from simulator.environments.pictures import Bytes

Floats = NDArray[np.float64]

#: What the tasks mean here. ``held_out`` has tissue, an indicator, depths and expression that ``easy`` and
#: ``mid`` do not have.
POWER_TASKS: dict[str, BrainDistribution] = {
    "easy": BrainDistribution(
        indicators=("gcamp6f",),
        dye_molar=(10e-6, 10e-6),
        depth_m=(100e-6, 250e-6),
        burst_rate_hz=(0.1, 0.1),
        bleaching=(100.0, 100.0),
    ),
    "mid": BrainDistribution(depth_m=(100e-6, 250e-6), bleaching=(50.0, 200.0)),
    "hard": BrainDistribution(dye_molar=(3e-6, 15e-6), depth_m=(100e-6, 350e-6), bleaching=(100.0, 400.0)),
    "held_out": BrainDistribution(
        indicators=("jgcamp8s",),
        tissue="held_out",
        dye_molar=(4e-6, 5.9e-6),
        depth_m=(275e-6, 350e-6),
        bleaching=(200.0, 400.0),
    ),
}


#: Sigma in pixels of the blur with which an image is looked at.
BLUR_PX = 0.7


class TwoPhotonPowerOptions(BrainEnvOptions):
    """What can be chosen of the scans of planes."""

    planes: Annotated[int, Field(ge=1, le=13)] = 4
    """Depths of an episode, visited in the order in which they were drawn."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 12
    """Scans of an episode: three rounds through all planes."""
    episode_energy_j: Positive = 0.04
    full_scale_photons: Positive = 160.0
    """Photons per pixel that become 255 in an observed image: about what the converter can tell."""
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1)] = (
        Parameter(name="excitation_w", low=2e-3, high=120e-3, scale="log"),
        Parameter(name="dwell_s", low=0.5e-6, high=16e-6, scale="log"),
    )
    """What the policy sets; names, units, bounds and scales."""
    fixed: dict[str, float] = Field(default={"excitation_w": 40e-3, "dwell_s": 4e-6})
    """Settings of what it does not."""
    preview_w: Positive = 20e-3
    preview_dwell_s: Positive = 2e-6
    """Of the scan that shows the next plane."""
    useful_from: Annotated[float, Field(ge=0, lt=1)] = 0.5
    useful_to: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Likeness to the clean image that is worth 0, and 1."""
    bleaching_weight: NonNegative = 3.0
    """Price of all the dye in the plane."""
    heating_max_c: Positive = 1.0
    """By how much the brain may warm, were a scan to go on for minutes."""
    heating_cost: NonNegative = 1.0
    """Price of each degree above that."""

    @model_validator(mode="after")
    def _useful_is_a_range(self) -> Self:
        if not self.useful_from < self.useful_to:
            raise ValueError(f"useful_from={self.useful_from:g} must be below useful_to={self.useful_to:g}")
        return self


class TwoPhotonPowerEnv(BrainEnv[TwoPhotonPowerOptions]):
    """Planes at different depths, one scan each step; the policy sets power and dwell time.

    The excitation that arrives falls by ``exp(-2 z / 150 µm)``, so one setting for all depths is too
    little below and too much above. The reward of a scan is how like it is to the clean image, from
    ``useful_from`` (0) to ``useful_to`` (1), so that no plane can make up for another one; less the part
    of the plane's dye that it bleached, what it would warm the brain by above ``heating_max_c``, and its
    light. Each plane is visited again in the next round, with the dye that is left.

    A step up of power above that of the limits, 80 mW from the preview, is refused like anything else
    that breaks them. ``terminated``: a scan did not fit into the dose budget. ``truncated``: all scans
    are done.
    """

    Options: ClassVar[type[EnvOptions]] = TwoPhotonPowerOptions
    brain_tasks: ClassVar[Mapping[str, BrainDistribution]] = POWER_TASKS
    channels = ("preview of the next plane", "last scan")

    def _set_up(self) -> None:
        super()._set_up()
        self._actions = ActionMap(self.options.parameters, self._samples.limits)
        self._last: Frame | None = None
        recorded = len(self._actions) + 3
        self._set_spaces(actions=len(self._actions), recorded=recorded, side_px=self.options.pixels)

    @property
    def action_map(self) -> ActionMap:
        """Return what actions stand for."""
        return self._actions

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Scan the plane as the action says; see ``docs/environments.md`` for what comes back.

        Raises
        ------
        ValueError
            If the action is outside its box.
        DeviceError
            If the microscope failed; its light is off.
        """
        settings = self.settings(action)
        self._take_step()
        depth = float(self._observation()["depth"][0])
        dye = self.dye_left()
        taken = self._take(settings)
        likeness = bleached = 0.0
        reward, is_spent = -self.options.refusal_cost, taken.is_spent
        info = self._told(settings, taken)
        if taken.frame is not None:
            self._last = taken.frame
            likeness, bleached = self._likeness(taken.frame), dye - self.dye_left()
            reward = self.worth(likeness, bleached, info["heating_estimate_c"]) - self._cost(taken)
        shown = 0.0 if taken.frame is None else float(self.photons(taken.frame).mean())
        brightness = 2 * np.sqrt(min(1.0, max(0.0, shown / self.options.full_scale_photons))) - 1
        self._remember([*action, depth, brightness, -1.0 if taken.refusal else 1.0])
        terminated, truncated = self._ends(terminated=is_spent or self._move_on())
        info["energy_left_j"] = self._energy_left_j
        info["truth_likeness"] = likeness
        info["truth_bleached_fraction"] = bleached
        return self._observation(), float(reward), terminated, truncated, info

    def settings(self, action: Action) -> ScanSettings:
        """Return the scan that an action asks for; ``ValueError`` if it is outside its box."""
        return self._settings({**self.options.fixed, **self._actions.settings(action)})

    def expected_photons(self, settings: ScanSettings, started_s: float | None = None) -> Floats:
        """Return the clean image of a scan that begins at a time, or now: truth, for rewards and oracles."""
        stage = self._stage
        begun_s = stage.clock.now_s() if started_s is None else started_s
        return np.asarray(stage.brain.microscope.expected_photons(settings, begun_s), np.float64)

    def worth(self, likeness: float, bleached: float, heating_c: float) -> float:
        """Return what a scan is worth, its light not counted."""
        options = self.options
        span = options.useful_to - options.useful_from
        shown = min(1.0, max(0.0, (likeness - options.useful_from) / span))
        too_warm_c = max(0.0, heating_c - options.heating_max_c)
        return shown - options.bleaching_weight * bleached - options.heating_cost * too_warm_c

    def dye_left(self) -> float:
        """Return how much dye the plane still has, 0..1: truth, for rewards and oracles."""
        brain = self._stage.brain.microscope.brain
        labels = brain.plane(self.depth_m).labels
        neurons = np.unique(labels[labels > 0]) - 1
        around = float(brain.bleaching.neuropil(self.depth_m).mean())
        return 0.5 * (around + float(brain.bleaching.neurons[neurons].mean())) if len(neurons) else around

    def images(self) -> Sequence[Bytes | None]:
        return [self._encoded(self._preview), self._encoded(self._last)]

    def _fields_needed(self) -> tuple[int, float]:
        return self.options.planes, self.field_m

    def _begin(self) -> None:
        self._last = None
        self._first_signal = [0.0] * self.options.planes
        self._look_ahead()

    def _move_on(self) -> bool:
        """Go to the next plane; tell whether the dose budget does not allow it."""
        if self._steps >= self.options.steps:
            return False
        self._field = self._steps % self.options.planes
        try:
            self._look_ahead()
        except DoseBudgetError:
            return True
        return False

    def _look_ahead(self) -> None:
        asked = {"excitation_w": self.options.preview_w, "dwell_s": self.options.preview_dwell_s}
        self._preview = self._stage.microscope.acquire(self._settings(asked))
        if self._first_signal[self._field] == 0:
            self._first_signal[self._field] = float(self.photons(self._preview).mean())

    def _signal_left(self) -> float:
        """Return the signal of the plane relative to when it was seen first, 0..1."""
        first = self._first_signal[self._field]
        if not first > 0:
            return 1.0
        return min(1.0, max(0.0, float(self.photons(self._preview).mean()) / first))

    def _likeness(self, frame: Frame) -> float:
        """Return the correlation of a scan with the photons to expect of it, both slightly blurred, 0..1."""
        from scipy.ndimage import gaussian_filter

        expected = self.expected_photons(frame.settings, frame.started_s)
        clean, seen = (gaussian_filter(image, BLUR_PX) for image in (expected, self.photons(frame)))
        truth, seen = clean - clean.mean(), seen - seen.mean()
        power = float((truth**2).sum() * (seen**2).sum())
        return max(0.0, float((truth * seen).sum() / np.sqrt(power))) if power > 0 else 0.0

    def _settings(self, asked: Mapping[str, float]) -> ScanSettings:
        return ScanSettings.model_validate(
            {
                "modality": "two_photon",
                "region": self._region,
                "pixel_size_m": self.options.pixel_size_m,
                "focus_m": self.depth_m,
                **asked,
            }
        )
