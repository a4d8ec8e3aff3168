"""How many independent tasks are run at once: one after another, in processes, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Finished(Generic[T, R]):
    """A task that has ended: its result, or what went wrong, in words."""

    item: T
    result: R | None = None
    error: str | None = None


class Executor(Protocol):
    """Runs one task on many items; large items only, such as whole images or episodes."""

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[Finished[T, R]]:
        """Yield each item when its task has ended, in that order; an error is the item's alone.

        The task, its items and results travel between processes: the task is a function of a module or
        an object of a class of one. Closing the iterator, or an exception in it, waits for the tasks
        under way and begins no others; a second exception while it waits ends them at once.

        Raises
        ------
        StedfastError
            If tasks cannot be run at all.
        """
