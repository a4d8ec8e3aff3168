"""What the environments that tune a STED scan share: one step is one scan between two confocal ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from controller.core.dose import Lit
from controller.core.errors import ConfigurationError, DoseBudgetError, LimitExceededError
from controller.core.frame import Frame
from controller.core.settings import Modality, Positive, ScanSettings
from controller.core.spaces import Parameter, Tunable
from simulator.environments import rewards
from simulator.environments.microscope_env import Action, EnvOptions, Info, MicroscopeEnv, Observation
from simulator.environments.parameters import SCAN_PARAMETERS, ActionMap
from simulator.environments.pictures import Bytes, encoded
from simulator.objectives import Measure


class ScanOptions(EnvOptions):
    """What can be chosen of an environment that tunes scans."""

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
    least_signal: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The episode ends when the confocal signal of a field falls below this part of its first."""
    reward: rewards.RewardOptions = rewards.RewardOptions()


@dataclass(slots=True)
class Done:
    """What became of the scan of one step.

    ``lit`` is its light as it was booked, ``fell_j`` the energy that fell if less is known to have, and
    ``refusal`` why there is no image.
    """

    lit: Lit
    measures: dict[str, Measure] = field(default_factory=lambda: dict(rewards.NOTHING_MEASURED))
    truth: rewards.ScanTruth | None = None
    refusal: str = ""
    is_spent: bool = False
    fell_j: float | None = None


class ScanEnv(MicroscopeEnv[ScanOptions]):
    """Tunes scans of fields of a sample.

    Parameters
    ----------
    options, samples, render_mode, changes
        See :class:`~simulator.environments.microscope_env.MicroscopeEnv` and :class:`ScanOptions`.
    reward_function
        What a scan is worth, in place of ``options.reward``.
    """

    Options: ClassVar[type[EnvOptions]] = ScanOptions
    channels = ("confocal now", "last STED", "confocal after it")

    def __init__(
        self,
        options: ScanOptions | Mapping[str, Any] | None = None,
        *,
        reward_function: rewards.RewardFunction | None = None,
        **more: Any,
    ) -> None:
        self._given_reward = reward_function
        super().__init__(options, **more)

    def _set_up(self) -> None:
        reward = self.options.reward
        if self._given_reward is None and reward.needs_truth and not self._samples.is_simulated:
            raise ConfigurationError(
                f'reward.kind={reward.kind!r} needs a simulated microscope; use "measured"'
            )
        self._reward = self._given_reward or reward.function()
        self._actions = ActionMap(self._tunables(), self._samples.limits)
        recorded = len(self._actions) + len(rewards.OBJECTIVES) + 1
        self._set_spaces(actions=len(self._actions), recorded=recorded, side_px=self.options.pixels)

    @property
    def action_map(self) -> ActionMap:
        """Return what actions stand for."""
        return self._actions

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Scan as the action says; see ``docs/environments.md`` for what comes back.

        Raises
        ------
        ValueError
            If the action is outside its box.
        DeviceError
            If the microscope failed; its light is off.
        """
        settings = self._actions.settings(action)
        self._take_step()
        scan = self._scan({**self.options.fixed, **settings})
        scores = rewards.scores(scan.measures)
        was_scanned = -1.0 if scan.refusal else 1.0
        self._remember([*action, *(2 * score - 1 for score in scores.values()), was_scanned])
        reward, is_spent = -self.options.refusal_cost, scan.is_spent
        if not scan.refusal:
            energy_j = scan.lit.energy_j if scan.fell_j is None else scan.fell_j
            share = energy_j / self._samples.limits.session_energy_max_j
            reward = float(self._reward(rewards.Scan(scores, share, scan.truth)))
            is_spent = self._move_on() or self._signal_left() < self.options.least_signal
        terminated, truncated = self._ends(terminated=is_spent)
        return self._observation(), reward, terminated, truncated, self._told(settings, scan)

    # What differs from environment to environment.

    def _fields_of_episode(self) -> int:
        raise NotImplementedError

    def _move_on(self) -> bool:
        """Get ready for the next step; tell whether the dose budget does not allow it."""
        raise NotImplementedError

    def _tunables(self) -> Sequence[Tunable]:
        """Return what an action has a number for."""
        return self.options.parameters

    # What they share.

    def _fields_needed(self) -> tuple[int, float]:
        return self._fields_of_episode(), self.options.pixels * self.options.pixel_size_m

    def _begin(self) -> None:
        self._last: tuple[Frame, Frame] | None = None
        self._look_at(self._acquire_confocal())

    def images(self) -> Sequence[Bytes | None]:
        sted, after = self._last or (None, None)
        scale = self.options.full_scale_photons
        frames = (self._now, sted, after)
        return [None if frame is None else encoded(frame.photons, scale) for frame in frames]

    def _look_at(self, confocal: Frame) -> None:
        """Take the first image of a field as the one to compare with."""
        self._now = confocal
        self._first_signal = _signal(confocal)

    def _signal_left(self) -> float:
        """Return the confocal signal relative to that of the first scan of the field, 0..1."""
        if not self._first_signal > 0:
            return 1.0
        return min(1.0, max(0.0, _signal(self._now) / self._first_signal))

    def _scan(self, asked: dict[str, float]) -> Done:
        """Make the policy's scan and the confocal one after it, and judge them."""
        truth, region = self._stage.truth, self._region
        before = truth.molecules(region) if truth else None
        done = Done(Lit(region, 0.0, 0.0))
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
            points = truth.points(region)
            done.truth = rewards.judge(sted.photons, before, survivors, points, region.center_yx_m)
        return done

    def _told(self, settings: dict[str, float], scan: Done) -> Info:
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

    def _settings(self, modality: Modality, asked: Mapping[str, float]) -> ScanSettings:
        if modality != "sted":
            asked = {**asked, "sted_w": 0.0}
        return ScanSettings.model_validate(
            {"modality": modality, "region": self._region, "pixel_size_m": self.options.pixel_size_m, **asked}
        )


def _signal(frame: Frame) -> float:
    """Return the photons of an image above its darkest tenth."""
    photons = np.asarray(frame.photons, np.float64)
    return float((photons - np.quantile(photons, 0.1)).sum())
