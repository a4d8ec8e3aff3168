"""STEDSequence: as many useful frames of one field as its dye allows."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from simulator.environments import rewards
from simulator.environments.microscope_env import EnvOptions
from simulator.environments.scan_env import ScanEnv, ScanOptions


class STEDSequenceOptions(ScanOptions):
    """See :class:`~simulator.environments.scan_env.ScanOptions`."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 30
    least_signal: Annotated[float, Field(ge=0, lt=1)] = 0.3
    reward: rewards.RewardOptions = rewards.RewardOptions(kind="useful", dose_weight=0.0)


class STEDSequenceEnv(ScanEnv):
    """One field, scanned again and again; what bleaches is gone for the rest of the episode.

    No price is on bleaching: its price are the frames that are not made any more. ``terminated``: the
    sample has bleached, or the dose budget is spent. ``truncated``: all steps are done.
    """

    Options: ClassVar[type[EnvOptions]] = STEDSequenceOptions

    def _fields_of_episode(self) -> int:
        return 1

    def _move_on(self) -> bool:
        if self._last is not None:
            self._now = self._last[1]  # it shows the field before the next scan, too
        return False
