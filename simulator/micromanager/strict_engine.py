"""An engine for pymmcore-plus that ends a run at the first error.

Its own engine logs what was refused, and images with what was set before.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from pymmcore_plus import CMMCorePlus
from pymmcore_plus.mda import MDAEngine
from useq import MDAEvent


class _Noting:
    """A core that notes each error of a setter or a snap."""

    def __init__(self, core: CMMCorePlus, errors: list[Exception]) -> None:
        # Weakly: the core holds the engine, and in a ring its end would come too late.
        self._core, self._errors = weakref.ref(core), errors

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._core(), name)
        if not name.startswith("set") and name != "snapImage":
            return found

        def noted(*arguments: Any) -> Any:
            try:
                return found(*arguments)
            except Exception as error:
                self._errors.append(error)
                raise

        return noted


class StrictEngine(MDAEngine):
    """Ends a run at the first error, and merges no events into hardware sequences."""

    def __init__(self, core: CMMCorePlus) -> None:
        super().__init__(core, use_hardware_sequencing=False)
        self._errors: list[Exception] = []
        self._noting: Any = _Noting(core, self._errors)

    @property
    def mmcore(self) -> Any:
        """The core, whose errors are noted."""
        return self._noting

    def setup_single_event(self, event: MDAEvent) -> None:
        self._errors.clear()
        super().setup_single_event(event)
        self._raise_first()

    def exec_single_event(self, event: MDAEvent) -> Iterator[Any]:
        yield from super().exec_single_event(event)
        self._raise_first()

    def _raise_first(self) -> None:
        if self._errors:
            raise self._errors[0]
