"""STEDTune: find the scan that shows a dye best for the least bleaching, each on a field of its own."""

from __future__ import annotations

from typing import ClassVar

from controller.core.errors import DoseBudgetError
from simulator.environments.microscope_env import EnvOptions
from simulator.environments.scan_env import ScanEnv, ScanOptions


class STEDTuneOptions(ScanOptions):
    """See :class:`~simulator.environments.scan_env.ScanOptions`."""


class STEDTuneEnv(ScanEnv):
    """Ten fields of one sample, one STED scan each.

    The sample's dye is the same for the whole episode, so what the first scans show tells how to make
    the next ones. ``terminated``: a scan did not fit into the dose budget any more. ``truncated``: all
    fields are done.
    """

    Options: ClassVar[type[EnvOptions]] = STEDTuneOptions

    def _fields_of_episode(self) -> int:
        return self.options.steps

    def _move_on(self) -> bool:
        if self._field + 1 == self._fields_of_episode():
            return False
        self._field += 1
        try:
            self._look_at(self._acquire_confocal())
        except DoseBudgetError:
            return True
        return False
