"""What all environments share: a microscope behind its guard, an episode hashed from one seed, a budget.

An environment holds a ``GuardedMicroscope`` and no driver: limits, dose ledger and the light are the
guard's, whether the microscope is simulated or not. What the guard refuses is told to the policy and
lights nothing.

Chance: each episode draws one integer from ``np_random``; the sample, the dye and all noise are hashed
from it. So the same seed gives the same episode, bit for bit, in any process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from controller.core.errors import ConfigurationError
from controller.core.settings import NonNegative, Positive, Region, Settings
from simulator.environments.pictures import Bytes, panels
from simulator.environments.samples import (
    TASKS,
    Prepared,
    SampleDistribution,
    Samples,
    SimulatedSamples,
    TaskName,
    simulated_limits,
)

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]
Action = NDArray[np.float32]


class EnvOptions(Settings):
    """What can be chosen of every environment."""

    task: TaskName | SampleDistribution = "mid"
    """What samples are drawn from: a name, or a distribution of your own."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """Scans of an episode."""
    episode_energy_j: Positive = 0.25
    """Dose budget of an episode with a simulated microscope."""
    full_scale_photons: Positive = 200.0
    """Photons per pixel that become 255 in an observed image."""
    history: Annotated[int, Field(ge=1, le=100)] = 10
    """Steps that an observation remembers."""
    refusal_cost: NonNegative = 1.0
    """What a refused scan costs the policy."""


OptionsT = TypeVar("OptionsT", bound=EnvOptions)


class MicroscopeEnv(gymnasium.Env[Observation, Action], Generic[OptionsT]):
    """A microscope, its sample and a budget of light.

    Parameters
    ----------
    options
        See ``Options`` of the class; a mapping with its keys, or an object.
    samples
        Where microscope and fields come from; simulated ones of ``options.task`` if not given.
    render_mode
        ``"rgb_array"`` or None.
    changes
        Single options by name: ``gymnasium.make("simulator:Stedfast/STEDTune-v0", task="easy")``.
    """

    Options: ClassVar[type[EnvOptions]] = EnvOptions
    tasks: ClassVar[Mapping[str, SampleDistribution]] = TASKS
    """What the names of tasks stand for."""
    channels: ClassVar[tuple[str, ...]] = ()
    budgets: ClassVar[tuple[str, ...]] = ("steps left", "energy left", "signal left")
    panel_px: ClassVar[int] = 256
    """Side of an image in a rendered picture."""
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        options: OptionsT | Mapping[str, Any] | None = None,
        *,
        samples: Samples | None = None,
        render_mode: str | None = None,
        **changes: Any,
    ) -> None:
        if render_mode not in {None, "rgb_array"}:
            raise ConfigurationError(f"render_mode={render_mode!r} is asked, known is 'rgb_array'")
        given = dict(options) if options is not None else {}
        self.options: OptionsT = self.Options.model_validate({**given, **changes})  # type: ignore[assignment]
        self.render_mode = render_mode
        self._samples = self._simulated() if samples is None else samples
        self._prepared: Prepared | None = None
        self._set_up()

    def _set_spaces(self, *, actions: int, recorded: int, side_px: int, **known: spaces.Box) -> None:
        """Say how many numbers an action has, a step leaves in the history, and a side of the images.

        ``known`` is what else an observation holds.
        """
        remembered = self.options.history
        self._history = np.zeros((remembered, recorded), np.float32)
        self._image_shape = (len(self.channels), side_px, side_px)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]  # whose items are typed as Any
            {
                "image": spaces.Box(0, 255, self._image_shape, np.uint8),
                "history": spaces.Box(-1.0, 1.0, (remembered * recorded,), np.float32),
                "budget": spaces.Box(0.0, 1.0, (len(self.budgets),), np.float32),
                **known,
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (actions,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode on a new sample, or on the next fields of a microscope that is given.

        ``options={"task": ...}`` draws this and all later samples from another distribution.

        Raises
        ------
        ConfigurationError
            If the options are others, or the sample is not drawn but there.
        """
        super().reset(seed=seed, options=options)
        if options:
            self._change_task(dict(options))
        self._seeds = np.random.SeedSequence(int(self.np_random.integers(2**63)))
        fields, size_m = self._fields_needed()
        self._prepared = self._samples.prepare(self._seeds, fields, size_m)
        self._field = self._steps = 0
        self._is_over = False
        self._history[:] = 0
        self._begin()
        drawn = {f"truth_{name}": value for name, value in self._stage.drawn.items()}
        return self._observation(), {"energy_left_j": self._energy_left_j, **drawn}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the images and the budget as a picture, shape ``(y, x, 3)``."""
        if self.render_mode is None or self._prepared is None:
            return None
        observation = self._observation()
        bars = [(name, float(value)) for name, value in zip(self.budgets, observation["budget"], strict=True)]
        return panels(list(observation["image"]), self.channels, bars, self.panel_px)

    def close(self) -> None:
        """Put the lights out and release the microscope."""
        self._samples.close()
        self._prepared = None

    # What differs from environment to environment.

    def _set_up(self) -> None:
        """Check the options against the samples, and set the spaces."""
        raise NotImplementedError

    def _simulated(self) -> Samples:
        """Return what samples are drawn from if none are given."""
        limits = simulated_limits(self.options.episode_energy_j)
        return SimulatedSamples(_distribution(self.options, self.tasks), limits)

    def _fields_needed(self) -> tuple[int, float]:
        """Return how many fields an episode visits, and their side in metres."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Take the first images of an episode."""
        raise NotImplementedError

    def images(self) -> Sequence[Bytes | None]:
        """Return the image of each channel, None where there is none yet."""
        raise NotImplementedError

    def _signal_left(self) -> float:
        """Return how much there still is to see, 0..1, judged by images alone."""
        return 1.0

    def _part_over(self) -> float:
        """Return which part of the episode is over; it is truncated at 1."""
        return self._steps / self.options.steps

    def _left(self) -> tuple[float, ...]:
        """Return what is left of each of ``budgets``, 0..1."""
        return (self._steps_left, self._energy_left, self._signal_left())

    # What they share.

    def _change_task(self, options: dict[str, Any]) -> None:
        samples = self._samples
        if set(options) != {"task"} or not isinstance(samples, SimulatedSamples):
            raise ConfigurationError(f"reset() takes the option 'task' for simulated samples, got {options}")
        self.options = self.options.replace(task=options["task"])
        samples.distribution = _distribution(self.options, self.tasks)

    @property
    def _stage(self) -> Prepared:
        if self._prepared is None:
            raise gymnasium.error.ResetNeeded("nothing is under the microscope: call reset() first")
        return self._prepared

    @property
    def _energy_left_j(self) -> float:
        return self._stage.microscope.ledger.energy_left_j

    @property
    def _energy_left(self) -> float:
        """Return the part of the dose budget that is left, 0..1."""
        return self._energy_left_j / self._samples.limits.session_energy_max_j

    @property
    def _steps_left(self) -> float:
        """Return the part of the episode that is left, 0..1."""
        return 1 - self._part_over()

    @property
    def _region(self) -> Region:
        return self._stage.fields[self._field]

    def _take_step(self) -> None:
        """Count a step.

        Raises
        ------
        gymnasium.error.ResetNeeded
            If no episode has begun, or it is over.
        """
        if self._prepared is None or self._is_over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        self._steps += 1

    def _ends(self, *, terminated: bool) -> tuple[bool, bool]:
        """Return whether the episode is terminated, and whether it is truncated."""
        truncated = self._part_over() >= 1 and not terminated
        self._is_over = terminated or truncated
        return terminated, truncated

    def _remember(self, record: Sequence[float]) -> None:
        """Put the figures of a step, all in -1..1, at the end of the history."""
        self._history = np.roll(self._history, -1, axis=0)
        self._history[-1] = np.clip(record, -1, 1)

    def _observation(self) -> Observation:
        """Return what the policy sees: nothing of the truth."""
        image = np.zeros(self._image_shape, np.uint8)
        for channel, seen in zip(image, self.images(), strict=True):
            if seen is not None:
                channel[:] = seen
        return {
            "image": image,
            "history": self._history.ravel().copy(),
            "budget": np.clip(np.array(self._left(), np.float32), 0.0, 1.0),
        }


def _distribution(options: EnvOptions, tasks: Mapping[str, SampleDistribution]) -> SampleDistribution:
    return options.task if isinstance(options.task, SampleDistribution) else tasks[options.task]
