"""What the environments that tune a STED scan share: one step is one scan between two confocal ones.

The environment holds a ``GuardedMicroscope`` and no driver: limits, dose ledger and the light are the
guard's, whether the microscope is simulated or not. What the guard refuses is told to the policy and
lights nothing.

Chance: each episode draws one integer from ``np_random``; the sample, the dye and all noise are hashed
from it. So the same seed gives the same episode, bit for bit, in any process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from controller.core.dose import Lit
from controller.core.errors import ConfigurationError, DoseBudgetError, LimitExceededError
from controller.core.frame import Frame
from controller.core.settings import Modality, NonNegative, Positive, Region, ScanSettings, Settings
from controller.core.spaces import Parameter
from simulator import rewards
from simulator.environments.parameters import SCAN_PARAMETERS, ActionMap
from simulator.environments.pictures import encoded, panels
from simulator.environments.samples import (
    TASKS,
    Prepared,
    SampleDistribution,
    Samples,
    SimulatedSamples,
    TaskName,
    simulated_limits,
)
from simulator.objectives import Measure

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]
Action = NDArray[np.float32]

_CHANNELS = ("confocal now", "last STED", "confocal after it")


class ScanOptions(Settings):
    """What can be chosen of an environment that tunes scans."""

    task: TaskName | SampleDistribution = "mid"
    """What samples are drawn from: a name, or a distribution of your own."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """Scans of an episode."""
    pixels: Annotated[int, Field(ge=24, le=256)] = 64
    """Side of the square images."""
    pixel_size_m: Positive = 20e-9
    """A multiple of 20 nm for simulated samples."""
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1)] = SCAN_PARAMETERS
    """What the policy tunes; names, units, bounds and scales."""
    fixed: dict[str, float] = Field(default={"sted_w": 0.1, "excitation_w": 10e-6, "dwell_s": 10e-6})
    """Settings of what is not tuned."""
    modality: Modality = "sted"
    """Of the scan that is tuned; the pair around it is confocal."""
    confocal_excitation_w: Positive = 10e-6
    confocal_dwell_s: Positive = 10e-6
    episode_energy_j: Positive = 0.25
    """Dose budget of an episode with a simulated microscope."""
    full_scale_photons: Positive = 200.0
    """Photons per pixel that become 255 in an observed image."""
    history: Annotated[int, Field(ge=1, le=100)] = 10
    """Steps that an observation remembers."""
    least_signal: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The episode ends when the confocal signal of a field falls below this part of its first."""
    refusal_cost: NonNegative = 1.0
    """What a refused scan costs the policy."""
    reward: rewards.RewardOptions = rewards.RewardOptions()


@dataclass(slots=True)
class _Done:
    """What became of the scan of one step. ``lit`` is its light, ``refusal`` why there is no image."""

    lit: Lit
    measures: dict[str, Measure] = field(default_factory=lambda: dict(rewards.NOTHING_MEASURED))
    truth: rewards.ScanTruth | None = None
    refusal: str = ""
    is_spent: bool = False


class ScanEnv(gymnasium.Env[Observation, Action]):
    """Tunes scans of fields of a sample.

    Parameters
    ----------
    options
        See :class:`ScanOptions`, or a mapping with its keys.
    samples
        Where microscope and fields come from; simulated ones of ``options.task`` if not given.
    reward_function
        What a scan is worth, in place of ``options.reward``.
    render_mode
        ``"rgb_array"`` or None.
    changes
        Single options by name: ``gymnasium.make("simulator:Stedfast/STEDTune-v0", task="easy")``.
    """

    Options: ClassVar[type[ScanOptions]] = ScanOptions
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        options: ScanOptions | Mapping[str, Any] | None = None,
        *,
        samples: Samples | None = None,
        reward_function: rewards.RewardFunction | None = None,
        render_mode: str | None = None,
        **changes: Any,
    ) -> None:
        if render_mode not in {None, "rgb_array"}:
            raise ConfigurationError(f"render_mode={render_mode!r} is asked, known is 'rgb_array'")
        given = dict(options) if options is not None else {}
        self.options = options = self.Options.model_validate({**given, **changes})
        self.render_mode = render_mode
        self._samples = samples or _simulated(options)
        if reward_function is None and options.reward.needs_truth and not self._samples.is_simulated:
            raise ConfigurationError(
                f'reward.kind={options.reward.kind!r} needs a simulated microscope; use "measured"'
            )
        self._reward = reward_function or options.reward.function()
        self._actions = ActionMap(options.parameters, self._samples.limits)
        self._record_length = len(self._actions) + len(rewards.OBJECTIVES) + 1
        side = options.pixels
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (len(_CHANNELS), side, side), np.uint8),
                "history": spaces.Box(-1.0, 1.0, (options.history * self._record_length,), np.float32),
                "budget": spaces.Box(0.0, 1.0, (3,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (len(self._actions),), np.float32)
        self._prepared: Prepared | None = None

    @property
    def action_map(self) -> ActionMap:
        """Return what actions stand for."""
        return self._actions

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode on a new sample, or on the next fields of a microscope that is given."""
        super().reset(seed=seed, options=options)
        seeds = np.random.SeedSequence(int(self.np_random.integers(2**63)))
        side_m = self.options.pixels * self.options.pixel_size_m
        self._prepared = self._samples.prepare(seeds, self._fields_needed(), side_m)
        self._field = self._steps = 0
        self._is_over = False
        self._history = np.zeros((self.options.history, self._record_length), np.float32)
        self._last: tuple[Frame, Frame] | None = None
        self._look_at(self._acquire_confocal())
        drawn = {f"truth_{name}": value for name, value in self._stage.drawn.items()}
        return self._observation(), {"energy_left_j": self._energy_left_j, **drawn}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Scan as the action says; see ``docs/environments.md`` for what comes back.

        Raises
        ------
        ValueError
            If the action is outside its box.
        DeviceError
            If the microscope failed; its light is off.
        """
        if self._prepared is None or self._is_over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        settings = self._actions.settings(action)
        self._steps += 1
        scan = self._scan({**self.options.fixed, **settings})
        scores = rewards.scores(scan.measures)
        self._remember(np.asarray(action, np.float32), scores, was_scanned=not scan.refusal)
        reward = -self.options.refusal_cost
        terminated = scan.is_spent
        if not scan.refusal:
            share = scan.lit.energy_j / self._samples.limits.session_energy_max_j
            reward = float(self._reward(rewards.Scan(scores, share, scan.truth)))
            terminated = self._move_on() or self._signal_left() < self.options.least_signal
        truncated = self._steps >= self.options.steps and not terminated
        self._is_over = terminated or truncated
        return self._observation(), reward, terminated, truncated, self._told(settings, scan)

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Return the images and the budget as a picture, shape ``(y, x, 3)``."""
        if self.render_mode is None or self._prepared is None:
            return None
        observation = self._observation()
        names = ("steps left", "energy left", "signal left")
        bars = [(name, float(value)) for name, value in zip(names, observation["budget"], strict=True)]
        return panels(list(observation["image"]), _CHANNELS, bars)

    def close(self) -> None:
        """Put the lights out and release the microscope."""
        self._samples.close()
        self._prepared = None

    # What differs from environment to environment.

    def _fields_needed(self) -> int:
        """Return how many fields an episode visits."""
        raise NotImplementedError

    def _move_on(self) -> bool:
        """Get ready for the next step; tell whether the dose budget does not allow it."""
        raise NotImplementedError

    # What they share.

    @property
    def _stage(self) -> Prepared:
        if self._prepared is None:
            raise gymnasium.error.ResetNeeded("nothing is under the microscope: call reset() first")
        return self._prepared

    @property
    def _energy_left_j(self) -> float:
        return self._stage.microscope.ledger.energy_left_j

    @property
    def _region(self) -> Region:
        return self._stage.fields[self._field]

    def _look_at(self, confocal: Frame) -> None:
        """Take the first image of a field as the one to compare with."""
        self._now = confocal
        self._first_signal = _signal(confocal)

    def _scan(self, asked: dict[str, float]) -> _Done:
        """Make the policy's scan and the confocal one after it, and judge them."""
        truth, region = self._stage.truth, self._region
        before = truth.molecules(region) if truth else None
        done = _Done(Lit(region, 0.0, 0.0))
        try:
            sted = self._stage.microscope.acquire(self._settings(self.options.modality, asked))
            done.lit = Lit.by(sted.settings)
            survivors = truth.molecules(region) if truth else None
            after = self._acquire_confocal()
        except LimitExceededError as error:
            done.is_spent, done.refusal = isinstance(error, DoseBudgetError), str(error)
            return done
        self._last = (sted, after)
        done.measures = rewards.measure(
            self._now.photons, sted.photons, after.photons, sted.settings.pixel_size_m
        )
        if truth is not None and before is not None and survivors is not None:
            done.truth = rewards.judge(
                sted.photons, before, survivors, truth.points(region), region.center_yx_m
            )
        return done

    def _told(self, settings: dict[str, float], scan: _Done) -> Info:
        """Return what ``info`` says of a step; its keys are always the same, its figures finite."""
        truth = (scan.truth or rewards.ScanTruth(0.0, 0.0, 0.0)).named() if self._stage.truth else {}
        return {
            "objectives": rewards.values(scan.measures),
            "measured": {name: float(found.value is not None) for name, found in scan.measures.items()},
            "settings": settings,
            "energy_j": scan.lit.energy_j,
            "dose_j_per_m2": scan.lit.dose_j_per_m2,
            "energy_left_j": self._energy_left_j,
            "signal_left": self._signal_left(),
            "refused": float(bool(scan.refusal)),
            "refusal": scan.refusal,
            **truth,
        }

    def _acquire_confocal(self) -> Frame:
        asked = {"excitation_w": self.options.confocal_excitation_w, "dwell_s": self.options.confocal_dwell_s}
        return self._stage.microscope.acquire(self._settings("confocal", asked))

    def _settings(self, modality: Modality, asked: dict[str, float]) -> ScanSettings:
        if modality != "sted":
            asked = {**asked, "sted_w": 0.0}
        return ScanSettings.model_validate(
            {"modality": modality, "region": self._region, "pixel_size_m": self.options.pixel_size_m, **asked}
        )

    def _remember(self, action: Action, scores: dict[str, float], *, was_scanned: bool) -> None:
        """Put a step at the end of the history: action, scores, and whether it was scanned, all in -1..1."""
        shown = [2 * score - 1 for score in scores.values()]
        self._history = np.roll(self._history, -1, axis=0)
        self._history[-1] = np.clip([*action, *shown, 1.0 if was_scanned else -1.0], -1, 1)

    def _signal_left(self) -> float:
        """Return the confocal signal relative to that of the first scan, 0..1, by the images alone."""
        if not self._first_signal > 0:
            return 1.0
        return min(1.0, max(0.0, _signal(self._now) / self._first_signal))

    def _observation(self) -> Observation:
        """Return what the policy sees: nothing of the truth."""
        scale = self.options.full_scale_photons
        side = self.options.pixels
        image = np.zeros((len(_CHANNELS), side, side), np.uint8)
        for channel, frame in zip(image, (self._now, *(self._last or ())), strict=False):
            channel[:] = encoded(frame.photons, scale)
        left = (
            1 - self._steps / self.options.steps,
            self._energy_left_j / self._samples.limits.session_energy_max_j,
            self._signal_left(),
        )
        return {
            "image": image,
            "history": self._history.ravel().copy(),
            "budget": np.clip(np.array(left, np.float32), 0.0, 1.0),
        }


def _simulated(options: ScanOptions) -> SimulatedSamples:
    distribution = options.task if isinstance(options.task, SampleDistribution) else TASKS[options.task]
    return SimulatedSamples(distribution, simulated_limits(options.episode_energy_j))


def _signal(frame: Frame) -> float:
    """Return the photons of an image above its darkest tenth."""
    photons = np.asarray(frame.photons, np.float64)
    return float((photons - np.quantile(photons, 0.1)).sum())
