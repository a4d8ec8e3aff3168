"""DyMIN and RESCue: tune a scan together with the steps that end its pixels early.

Both are STEDTune with more to choose: the photons of a first look at each pixel decide whether it gets
the rest of its light. The settings are the most that a pixel may get, and so is what the guard books;
the reward charges for the light that fell, which a simulator knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.errors import ConfigurationError
from controller.core.settings import AdaptiveIllumination, AdaptiveStep, Modality, ScanSettings
from controller.core.spaces import Tunable
from simulator.environments import rewards
from simulator.environments.microscope_env import EnvOptions, Info
from simulator.environments.samples import SampleDistribution
from simulator.environments.scan_env import Done, ScanOptions
from simulator.environments.sted_tune import STEDTuneEnv

#: Sparse samples with fragile dyes, where a look at each pixel before its light pays. ``held_out`` has
#: kinds, maps and dyes that easy and mid have not.
ADAPTIVE_TASKS: dict[str, SampleDistribution] = {
    "easy": SampleDistribution(
        kinds=("beads",), bleaching=(3.0, 3.0), brightness=(1.0, 1.0), background_hz=(2000.0, 2000.0)
    ),
    "mid": SampleDistribution(kinds=("beads", "synapses"), bleaching=(1.5, 4.0), brightness=(0.5, 1.2)),
    "hard": SampleDistribution(
        kinds=("beads", "synapses", "filaments"), bleaching=(3.0, 8.0), brightness=(0.25, 0.6)
    ),
    "held_out": SampleDistribution(
        kinds=("vesicles",), maps="held_out", bleaching=(4.2, 8.0), brightness=(0.2, 0.45)
    ),
}


class _StepParameter(Tunable):
    """One tunable number of the steps of a pixel."""

    allowed: ClassVar[dict[str, tuple[float, float]]] = {
        "decision_fraction": (0.001, 0.45),
        "middle_sted_fraction": (0.0, 1.0),
        "fewest_photons": (0.0, 1e6),
        "enough_photons": (0.0, 1e6),
    }

    @model_validator(mode="after")
    def _bounds_are_allowed(self) -> Self:
        low, high = self.allowed[self.name]
        if not (low <= self.low and self.high <= high):
            raise ValueError(
                f"{self.name}: {self.low:g}..{self.high:g} is asked, allowed is {low:g}..{high:g}"
            )
        return self


class DyMINParameter(_StepParameter):
    """What DyMIN may tune of its steps.

    ``decision_fraction`` is the part of the dwell time of each of the two looks, ``middle_sted_fraction``
    the part of the STED power in the second one, and ``fewest_photons``, rounded, what a look has to give.
    """

    name: Literal["decision_fraction", "middle_sted_fraction", "fewest_photons"]


class RESCueParameter(_StepParameter):
    """What RESCue may tune of its steps.

    ``decision_fraction`` is the part of the dwell time after which is decided, ``fewest_photons`` what
    has to be there by then, and ``enough_photons`` what ends the pixel, both rounded.
    """

    name: Literal["decision_fraction", "fewest_photons", "enough_photons"]


class AdaptiveOptions(ScanOptions):
    """What can be chosen of an environment with adaptive scans."""

    adaptive: tuple[_StepParameter, ...] = ()
    """What the policy tunes of the steps; names, bounds and scales. ``fixed`` has what it does not."""
    reward: rewards.RewardOptions = rewards.RewardOptions(bleaching_weight=0.5, dose_weight=2.0)


class DyMINOptions(AdaptiveOptions):
    """See :class:`AdaptiveOptions`."""

    adaptive: tuple[DyMINParameter, ...] = (
        DyMINParameter(name="decision_fraction", low=0.03, high=0.4, scale="log"),
        DyMINParameter(name="middle_sted_fraction", low=0.0, high=0.6),
        DyMINParameter(name="fewest_photons", low=0.5, high=30.0, scale="log"),
    )
    fixed: dict[str, float] = Field(
        default={
            "sted_w": 0.2,
            "excitation_w": 3.6e-6,
            "dwell_s": 10e-6,
            "decision_fraction": 0.25,
            "middle_sted_fraction": 0.13,
            "fewest_photons": 2.0,
        }
    )


class RESCueOptions(AdaptiveOptions):
    """See :class:`AdaptiveOptions`."""

    adaptive: tuple[RESCueParameter, ...] = (
        RESCueParameter(name="decision_fraction", low=0.03, high=0.4, scale="log"),
        RESCueParameter(name="fewest_photons", low=0.5, high=30.0, scale="log"),
        RESCueParameter(name="enough_photons", low=3.0, high=300.0, scale="log"),
    )
    fixed: dict[str, float] = Field(
        default={
            "sted_w": 0.2,
            "excitation_w": 3.6e-6,
            "dwell_s": 5e-6,
            "decision_fraction": 0.3,
            "fewest_photons": 1.0,
            "enough_photons": 60.0,
        }
    )


class AdaptiveTuneEnv(STEDTuneEnv):
    """STEDTune with adaptive scans; what their steps are is up to the classes below."""

    Options: ClassVar[type[EnvOptions]] = AdaptiveOptions
    options: AdaptiveOptions
    tasks = ADAPTIVE_TASKS

    def illumination(self, asked: Mapping[str, float]) -> AdaptiveIllumination:
        """Return the steps that these settings stand for."""
        raise NotImplementedError

    def _tunables(self) -> Sequence[Tunable]:
        return (*super()._tunables(), *self.options.adaptive)

    def _begin(self) -> None:
        able = self._stage.microscope.capabilities()
        if not able.adaptive:
            raise ConfigurationError(f"{able.name} makes no adaptive scans: STEDTune needs none")
        super()._begin()

    def _settings(self, modality: Modality, asked: Mapping[str, float]) -> ScanSettings:
        scan = {name: value for name, value in asked.items() if name not in _StepParameter.allowed}
        settings = super()._settings(modality, scan)
        if len(scan) == len(asked):
            return settings  # one of the pair that tells what was bleached
        return settings.replace(adaptive=self.illumination(asked))

    def _scan(self, asked: dict[str, float]) -> Done:
        scan = super()._scan(asked)
        truth = self._stage.truth
        steps_made = truth.microscope.steps_made if truth else None
        if steps_made is not None and self._last is not None and not scan.refusal:
            scan.fell_j = energy_j(self._last[0].settings, steps_made)
        return scan

    def _told(self, settings: dict[str, float], scan: Done) -> Info:
        fell = {"truth_energy_j": scan.fell_j or 0.0} if self._stage.truth else {}
        return {**super()._told(settings, scan), **fell}


class DyMINEnv(AdaptiveTuneEnv):
    """Two looks at each pixel, without and with a little STED light; the rest if both saw something.

    An image has the photons of the last step that each pixel made (Heine et al., PNAS 114:9797, 2017).
    """

    Options: ClassVar[type[EnvOptions]] = DyMINOptions

    def illumination(self, asked: Mapping[str, float]) -> AdaptiveIllumination:
        """Return the steps that these settings stand for."""
        decision, fewest = asked["decision_fraction"], round(asked["fewest_photons"])
        look = AdaptiveStep(dwell_fraction=decision, sted_fraction=0.0, fewest_photons=fewest)
        closer = look.replace(sted_fraction=asked["middle_sted_fraction"])
        return AdaptiveIllumination(steps=(look, closer, AdaptiveStep(dwell_fraction=1 - 2 * decision)))


class RESCueEnv(AdaptiveTuneEnv):
    """A pixel ends early where it is dark or bright enough; the light is the same throughout.

    An image has all photons of each pixel, those of bright ones scaled up to the whole time (Staudt et
    al., Opt. Express 19:5644, 2011).
    """

    Options: ClassVar[type[EnvOptions]] = RESCueOptions

    def illumination(self, asked: Mapping[str, float]) -> AdaptiveIllumination:
        """Return the steps that these settings stand for."""
        decision = asked["decision_fraction"]
        look = AdaptiveStep(
            dwell_fraction=decision,
            fewest_photons=round(asked["fewest_photons"]),
            enough_photons=round(asked["enough_photons"]),
        )
        return AdaptiveIllumination(steps=(look, AdaptiveStep(dwell_fraction=1 - decision)), sums=True)


def energy_j(settings: ScanSettings, steps_made: NDArray[np.uint8]) -> float:
    """Return the light energy of an adaptive scan whose pixels made so many steps, in joules."""
    after_steps_j = np.cumsum([light.energy_j for light in settings.pixel_lights])
    return float(after_steps_j[steps_made - 1].sum())
