"""Runs models and policies, which may be slow, wrong or stuck, without ever holding up the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from controller.core.protocols import Closes
from controller.core.worker import NothingCameError, Worker

_FAULT_LENGTH = 2000

P = TypeVar("P")
T = TypeVar("T")
Who = TypeVar("Who")


@dataclass(frozen=True, slots=True)
class Ran(Generic[T]):
    """What came of a call.

    ``answer`` is ``None`` if nobody could give one. ``is_exhausted`` tells that the plug-in that was asked
    first ran out of memory, or failed as libraries for accelerators do when they run out of theirs.
    """

    answer: T | None
    faults: tuple[str, ...] = ()
    by_fallback: bool = False
    is_exhausted: bool = False
    is_stuck: bool = False


class Stage(Generic[P]):
    """One model or policy with its deadline and its declared fallback.

    A plug-in that raises is replaced by its fallback for this cycle and tried again in the next
    one; a plug-in that misses its deadline is replaced for good, for its thread still holds it.
    With ``forgiving=False`` any failure replaces it for good: a policy that failed half-way through
    a decision no longer knows what it did.

    Attributes
    ----------
    name, plugin
        Who runs now.
    fallback
        Who steps in, while somebody is left.
    is_replaced
        Whether the fallback runs for good.
    is_lost
        Whether nobody can be asked any more who runs now.
    """

    def __init__(
        self,
        name: str,
        plugin: P,
        *,
        deadline_s: float,
        fallback: tuple[str, P] | None = None,
        forgiving: bool = True,
    ) -> None:
        self.name, self.plugin, self.fallback = name, plugin, fallback
        self.is_replaced = self.is_lost = False
        self._everybody = [(name, plugin), *([fallback] if fallback else [])]
        self._deadline_s = deadline_s
        self._forgiving = forgiving
        self._worker = Worker("stage")

    def run(self, call: Callable[[P], T]) -> Ran[T]:
        """Call the plug-in, or its fallback if it fails."""
        first = self.ask(call)
        if self.is_lost or (first.faults and not self._forgiving):
            self.switch_to_fallback()
            second: Ran[T] = self.ask(call) if self.is_replaced else Ran(None)
        elif first.faults:
            second = self.ask_fallback(call)
        else:
            return first
        return replace(second, faults=first.faults + second.faults, is_exhausted=first.is_exhausted)

    def ask(self, call: Callable[[P], T], at_least_s: float = 0.0) -> Ran[T]:
        """Call the one that runs now, and nobody else; it has its deadline, or ``at_least_s``."""
        if self.is_lost:
            return Ran(None)
        ran = self._attempt(self.name, self.plugin, call, patience_s=at_least_s)
        self.is_lost = ran.is_stuck
        return replace(ran, by_fallback=self.is_replaced)

    def ask_fallback(self, call: Callable[[P], T]) -> Ran[T]:
        """Call the fallback this once; if it does not come back, there is none any more."""
        if self.fallback is None:
            return Ran(None)
        ran = self._attempt(*self.fallback, call)
        if ran.is_stuck:
            self.fallback = None
        return replace(ran, by_fallback=True)

    def switch_to_fallback(self) -> None:
        """Let the fallback run from now on, if there is one."""
        if self.fallback is not None:
            self.name, self.plugin = self.fallback
            self.fallback, self.is_replaced, self.is_lost = None, True, False

    def retire(self) -> None:
        """Never ask again who runs now; the fallback, if there is one, takes its place."""
        self.is_lost = True
        self.switch_to_fallback()

    def close(self) -> list[str]:
        """Close whoever has something to close, stuck or not; return what went wrong."""
        problems: list[str] = []
        everybody, self._everybody = self._everybody, []
        for name, plugin in everybody:
            if isinstance(plugin, Closes):
                # A worker of its own: that of the calls may be held by one that never comes back.
                ran = self._attempt(name, plugin, lambda closing: closing.close(), Worker("closing"))
                problems += ran.faults
        return problems

    def _attempt(
        self,
        name: str,
        plugin: Who,
        call: Callable[[Who], T],
        worker: Worker | None = None,
        *,
        patience_s: float = 0.0,
    ) -> Ran[T]:
        """Call on another thread: a call that hangs is left behind there, and dies with the process."""

        def attempt() -> Ran[T]:
            try:
                return Ran(call(plugin))
            except BaseException as error:  # noqa: BLE001  # whatever a plug-in raises, the loop goes on
                fault = f"{name} failed: {type(error).__name__}: {error}"[:_FAULT_LENGTH]
                is_exhausted = isinstance(error, MemoryError | RuntimeError)
                return Ran(None, (fault,), is_exhausted=is_exhausted)

        deadline_s = max(self._deadline_s, patience_s)
        try:
            return (worker or self._worker).ask(attempt, deadline_s)
        except NothingCameError:
            if worker is None:
                self._worker = Worker("stage")
            fault = f"{name} gave no answer within {deadline_s:g} s"
            return Ran(None, (fault,), is_stuck=True)
