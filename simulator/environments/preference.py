"""STEDPreference: tune scans for what somebody prefers, known by demonstrations or by choices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from controller.core.settings import NonNegative, Settings
from simulator.environments import demonstrations, rewards
from simulator.environments.microscope_env import Action, EnvOptions, Info, Observation
from simulator.environments.preference_model import PreferenceModel, Utility, fitted, vector
from simulator.environments.sted_tune import STEDTuneEnv, STEDTuneOptions

_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_MEASURED = rewards.RewardOptions(kind="measured", dose_weight=0.0)


class Ranked(Settings):
    """A scan is worth the part of the demonstrations that it beats."""

    kind: Literal["ranked"] = "ranked"
    utility: Utility = Utility()
    """What the demonstrating expert tunes for, and scans are ranked by."""
    samples: Annotated[int, Field(ge=1, le=100)] = 5
    scans: Annotated[int, Field(ge=2, le=100)] = 10
    """Samples that the expert tunes on, and scans of each."""
    seed: _Seed = 0

    def reward(self, options: STEDTuneOptions) -> rewards.RewardFunction:
        """Return the rank of a scan, 0 (worse than all demonstrations) to 1; ties count half."""
        model = self.utility.model()
        demonstrated = demonstrations.demonstrated(
            options, self.utility, samples=self.samples, scans=self.scans, seed=self.seed
        )
        bank = model.utilities(demonstrated)

        def rank(scan: rewards.Scan) -> float:
            worth = model.utilities(vector(scan.scores))
            return float((bank < worth).mean() + (bank <= worth).mean()) / 2

        return rank


class Learned(Settings):
    """A scan is worth what a model says that was fitted to choices between two scans."""

    kind: Literal["learned"] = "learned"
    file: str | None = None
    """A JSON file of comparisons that people made; if not given, a simulated expert chooses."""
    utility: Utility = Utility()
    """What the simulated expert prefers."""
    noise: NonNegative = 0.05
    """Difference of utility at which the expert still errs in 27 of 100 choices."""
    samples: Annotated[int, Field(ge=1, le=100)] = 6
    comparisons: Annotated[int, Field(ge=1, le=10_000)] = 300
    """Samples on which random settings are scanned, and choices between these scans."""
    seed: _Seed = 0

    def model(self, options: STEDTuneOptions) -> PreferenceModel:
        """Return the model that is fitted to the choices.

        Raises
        ------
        ConfigurationError
            If the file cannot be used, or the choices tell nothing.
        """
        if self.file is not None:
            return fitted(*demonstrations.read_comparisons(Path(self.file)))
        chosen = demonstrations.compared(
            options,
            self.utility,
            noise=self.noise,
            samples=self.samples,
            pairs=self.comparisons,
            seed=self.seed,
        )
        return fitted(*chosen)

    def reward(self, options: STEDTuneOptions) -> rewards.RewardFunction:
        """Return the utility of a scan as the model has learned it, 0 to 1."""
        model = self.model(options)
        return lambda scan: float(model.utilities(vector(scan.scores)))


class STEDPreferenceOptions(STEDTuneOptions):
    """See :class:`~simulator.environments.scan_env.ScanOptions`."""

    reward: rewards.RewardOptions = _MEASURED
    preference: Annotated[Ranked | Learned, Field(discriminator="kind")] = Ranked()
    """What a scan is worth."""
    delayed: bool = False
    """Whether all rewards of an episode come at its end, as their sum."""

    @model_validator(mode="after")
    def _one_thing_is_rewarded(self) -> Self:
        if self.reward != _MEASURED:
            raise ValueError("reward: here a scan is worth what 'preference' says; set that instead")
        return self

    def tuning(self) -> STEDTuneOptions:
        """Return the options of the environment in which the scans to compare with are made."""
        return STEDTuneOptions.model_validate(
            {name: getattr(self, name) for name in STEDTuneOptions.model_fields}
        )


class STEDPreferenceEnv(STEDTuneEnv):
    """As STEDTune, but what counts is a preference over what can be measured of a scan.

    No reward looks at the truth, so a microscope that is there gives the same rewards. Demonstrations
    and choices of a simulated expert are drawn from a seed of their own with a simulated microscope, once
    for all episodes, with the ``task`` that the environment is made with.

    Parameters
    ----------
    options, samples, render_mode, changes
        See :class:`~simulator.environments.microscope_env.MicroscopeEnv` and
        :class:`STEDPreferenceOptions`.
    """

    Options: ClassVar[type[EnvOptions]] = STEDPreferenceOptions
    options: STEDPreferenceOptions

    def _set_up(self) -> None:
        super()._set_up()
        self._reward = self.options.preference.reward(self.options.tuning())

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Scan as the action says; see ``docs/environments.md`` for what comes back."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._earned += reward
        if self.options.delayed:
            reward = self._earned if terminated or truncated else 0.0
        return observation, reward, terminated, truncated, info

    def _begin(self) -> None:
        super()._begin()
        self._earned = 0.0
