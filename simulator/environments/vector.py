"""Many environments that tune scans, at once: in this process, or shared out among a few.

Each sub-environment is a whole one, with a microscope behind a guard of its own; nothing lights a sample
around it. Threads would gain nothing here: a step is hundreds of short calls, and between them they wait
for one another (``benchmarks/sted_batch.py`` measures it for scans). So environments are shared out among
processes, a slice for each, and not a process for each environment.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError, DeviceError
from simulator.environments.microscope_env import Action, Info, Observation
from simulator.environments.scan_env import ScanEnv
from simulator.environments.sted_sequence import STEDSequenceEnv
from simulator.environments.sted_tune import STEDTuneEnv
from simulator.executors import end_with_parent, interrupts_blocked

#: What a step of one environment gives: observation, reward, terminated, truncated, info.
Answer = tuple[Observation, float, bool, bool, Info]
Picture = NDArray[np.uint8]
Flags = NDArray[np.bool_]


class ScanVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """So many environments of one class, each with a sample and a budget of its own.

    Episodes are those of single environments with the same seeds, bit for bit. An environment whose
    episode is over begins the next one at the next step, whose action it does not heed (``NEXT_STEP``).

    Parameters
    ----------
    num_envs
        How many.
    workers
        Processes that they are shared out among; with 1 they stay in this process.
    render_mode
        ``"rgb_array"`` or None.
    options
        Of every environment, see :class:`~simulator.environments.scan_env.ScanEnv`. With several workers
        they travel to other processes: a function among them must be one that can be imported.

    Attributes
    ----------
    action_map
        What actions stand for.

    Raises
    ------
    ConfigurationError
        If there is no environment or no worker, or an option cannot be had; ``samples`` are those of one
        microscope, which many environments cannot share.
    """

    env_class: ClassVar[type[ScanEnv]]

    def __init__(
        self, num_envs: int = 1, *, workers: int = 1, render_mode: str | None = None, **options: Any
    ) -> None:
        for name, count in (("num_envs", num_envs), ("workers", workers)):
            if not count >= 1:
                raise ConfigurationError(f"{name}={count!r} must be 1 or more")
        if "samples" in options:
            raise ConfigurationError("samples: a microscope cannot be shared, leave them out")
        make = partial(self.env_class, render_mode=render_mode, **options)
        pattern = make()  # never reset: it has no sample
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {**pattern.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = pattern.observation_space
        self.observation_space = batch_space(pattern.observation_space, num_envs)
        self.single_action_space = pattern.action_space
        self.action_space = batch_space(pattern.action_space, num_envs)
        self.action_map = pattern.action_map
        self._is_over = np.zeros(num_envs, np.bool_)
        slices = np.array_split(np.arange(num_envs), min(workers, num_envs))
        self._slices = [slice(int(numbers[0]), int(numbers[-1]) + 1) for numbers in slices]
        self._here = _Slice(make, num_envs) if len(slices) == 1 else None
        self._elsewhere = [] if self._here else [_process(make, len(numbers)) for numbers in slices]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode in each environment.

        Parameters
        ----------
        seed
            One for each environment; a number stands for it and its successors.
        options
            Of every environment, see :meth:`MicroscopeEnv.reset`.

        Raises
        ------
        ValueError
            If there are more or fewer seeds than environments.
        """
        seeds = [seed + number for number in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = [None] * self.num_envs if seeds is None else list(seeds)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds are given for {self.num_envs} environments")
        observations, _, _, _, infos = self._together(self._ask("reset", seeds, [options] * self.num_envs))
        return observations, infos

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Let each environment scan, or begin its next episode.

        Raises
        ------
        ValueError
            If there are more or fewer actions than environments, or one is outside its box. Then no
            environment has made its step.
        DeviceError
            If a process of these environments died.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions are given for {self.num_envs} environments")
        for action in np.asarray(actions)[~self._is_over]:
            self.action_map.settings(action)
        return self._together(self._ask("step", actions, self._is_over))

    def render(self) -> tuple[Picture, ...] | None:
        """Return a picture of each environment."""
        return None if self.render_mode is None else tuple(self._ask("render"))

    def close_extras(self) -> None:
        """Put the lights out, and end the processes, whose microscopes end with them."""
        if self._here is not None:
            self._here.close()
        for pool in self._elsewhere:
            pool.shutdown()

    def _ask(self, what: str, *batches: Any) -> list[Any]:
        """Return what all slices answer, in the order of the environments.

        ``batches`` are arguments that have an entry for each environment.
        """
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("these environments are closed: make new ones")
        if self._here is not None:
            answers: list[Any] = getattr(self._here, what)(*batches)
            return answers
        try:
            # Ctrl-C reaches all processes of a terminal; a new one inherits that it is blocked.
            with interrupts_blocked():
                asked = [
                    pool.submit(_answer, what, *(batch[part] for batch in batches))
                    for pool, part in zip(self._elsewhere, self._slices, strict=True)
                ]
            return [answer for future in asked for answer in future.result()]
        except BrokenProcessPool as error:
            raise DeviceError(
                f"a process of these environments died at {what}(); was there too little memory for "
                f"{len(self._elsewhere)}?"
            ) from error

    def _together(
        self, answers: list[Answer]
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Return one answer for all, arrays whose first axis is the environment."""
        observations, rewards, terminated, truncated, told = zip(*answers, strict=True)
        infos: Info = {}
        for number, info in enumerate(told):
            infos = self._add_info(infos, info, number)
        space = self.single_observation_space
        empty: Any = create_empty_array(space, self.num_envs)
        batch: Any = concatenate(space, observations, empty)
        ended, cut = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        self._is_over = ended | cut
        return batch, np.array(rewards, np.float64), ended, cut, infos


class STEDTuneVectorEnv(ScanVectorEnv):
    """Many :class:`~simulator.environments.sted_tune.STEDTuneEnv`."""

    env_class = STEDTuneEnv


class STEDSequenceVectorEnv(ScanVectorEnv):
    """Many :class:`~simulator.environments.sted_sequence.STEDSequenceEnv`."""

    env_class = STEDSequenceEnv


class _Slice:
    """Some of the environments, one after the other."""

    def __init__(self, make: Callable[[], ScanEnv], count: int) -> None:
        self._envs = [make() for _ in range(count)]

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]) -> list[Answer]:
        return [
            _begun(*env.reset(seed=seed, options=option))
            for env, seed, option in zip(self._envs, seeds, options, strict=True)
        ]

    def step(self, actions: Sequence[Action], is_over: Flags) -> list[Answer]:
        return [
            _begun(*env.reset()) if over else env.step(action)
            for env, action, over in zip(self._envs, actions, is_over, strict=True)
        ]

    def render(self) -> list[Picture | None]:
        return [env.render() for env in self._envs]

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _begun(observation: Observation, info: Info) -> Answer:
    return observation, 0.0, False, False, info


# The slice of this process, if it is one that was made for it.
_SLICE_HERE: list[_Slice] = []


def _process(make: Callable[[], ScanEnv], count: int) -> ProcessPoolExecutor:
    """Return a process with some of the environments; it starts when it is first asked."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_settle_in, initargs=(make, count))


def _settle_in(make: Callable[[], ScanEnv], count: int) -> None:
    end_with_parent()
    _SLICE_HERE.append(_Slice(make, count))


def _answer(what: str, *batches: Any) -> list[Any]:
    answers: list[Any] = getattr(_SLICE_HERE[0], what)(*batches)
    return answers
