"""A microscope that Imspector (Abberior) drives. Its configuration can be checked; it cannot be run yet."""

from __future__ import annotations

from typing import ClassVar, NoReturn

from controller.core.checking import OfflineCheck
from controller.core.errors import ConfigurationError
from controller.core.protocols import Resources
from controller.microscopes.device_mapping import Name, ScanMapping, TargetKind
from controller.microscopes.mapping_checks import common_problems, undoable


class ImspectorMapping(ScanMapping):
    """How scans are done with the parameters of an Imspector measurement.

    ``measurement`` is the name of the measurement that scans are made from, ``host`` where Imspector runs.
    """

    target_kinds: ClassVar[tuple[TargetKind, ...]] = ("parameter", "fixed")

    measurement: Name
    host: Name = "localhost"


class ImspectorMicroscope:
    """Stands for a driver that is not there yet, so that its configurations can be written and checked."""

    class Options(ImspectorMapping):
        """See ``ImspectorMapping`` and ``hardware_configs/README.md``."""

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> NoReturn:  # noqa: ARG003
        """Refuse.

        Raises
        ------
        ConfigurationError
        """
        raise ConfigurationError(
            "microscope.options: this version of Stedfast can check a microscope of Imspector, but not run it"
        )

    open_bench = from_options

    @classmethod
    def check_offline(cls, options: Options, resources: Resources) -> OfflineCheck:
        """Check units, calibrations, limits and order; whether the paths are there, only Imspector knows."""
        paths = sum(mapped.target.kind == "parameter" for mapped in options.settings.values())
        return OfflineCheck(
            f"measurement {options.measurement!r} of Imspector: {paths} settings are parameters",
            tuple(common_problems(options, resources)),
            (
                "this version can check a microscope of Imspector, but not run it",
                *undoable(options, resources.limits),
            ),
        )
