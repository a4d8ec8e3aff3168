from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from operator import truediv

import pytest

from controller.core.errors import ConfigurationError, StedfastError
from controller.core.executor import Executor, Finished
from simulator.executors import ProcessExecutor, SerialExecutor

# Tasks come from the standard library: a new process can import them, wherever these tests lie.
EXECUTORS = [SerialExecutor(), ProcessExecutor(2)]


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda executor: type(executor).__name__)
def test_every_item_ends_once_with_its_result_or_its_error(executor: Executor) -> None:
    finished = list(executor.map(partial(truediv, 12.0), [1, 2, 0, 3, 4, 6, 8]))
    assert {done.item: done.result for done in finished if done.error is None} == {
        1: 12.0,
        2: 6.0,
        3: 4.0,
        4: 3.0,
        6: 2.0,
        8: 1.5,
    }
    assert [done for done in finished if done.error] == [
        Finished(0, error="ZeroDivisionError: float division by zero")
    ]


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda executor: type(executor).__name__)
def test_no_items_are_no_work(executor: Executor) -> None:
    assert list(executor.map(math.sqrt, [])) == []


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda executor: type(executor).__name__)
def test_items_are_taken_only_as_they_are_needed(executor: Executor) -> None:
    taken = 0

    def endless() -> int:
        nonlocal taken
        taken += 1
        return taken

    with closing(executor.map(math.sqrt, iter(endless, None))) as finished:  # type: ignore[type-var]
        for _ in range(3):
            next(finished)
    assert taken < 20
    assert not multiprocessing.active_children()


def test_results_come_as_tasks_end() -> None:
    finished = [done.item for done in ProcessExecutor(2).map(time.sleep, [1.0, 0.0, 0.01])]
    assert finished[-1] == 1.0


def test_a_process_that_dies_fails_its_items_and_the_rest_goes_on() -> None:
    # 0 is the exit code that ends a process; "x" is a TypeError, and no death.
    finished = list(ProcessExecutor(1).map(os._exit, ["x", 0, *"abcdef"]))
    assert len(finished) == 8
    died = [done.item for done in finished if done.error and "process died" in done.error]
    assert 0 in died
    assert len(died) <= 3
    assert sum("TypeError" in (done.error or "") for done in finished) == 8 - len(died)


def test_processes_that_always_die_are_given_up() -> None:
    with pytest.raises(StedfastError, match="3 times in a row"):
        list(ProcessExecutor(1).map(os._exit, range(100)))


def test_what_cannot_travel_is_the_error_of_its_item() -> None:
    (done,) = ProcessExecutor(1).map(lambda item: item, [1])
    assert done.error is not None
    assert "ickle" in done.error


def test_processes_are_counted_from_one() -> None:
    with pytest.raises(ConfigurationError, match="workers=0"):
        ProcessExecutor(0)


def test_processes_end_with_the_one_that_made_them() -> None:
    code = (
        "import multiprocessing, time\n"
        "from simulator.executors import ProcessExecutor\n"
        "if __name__ == '__main__':\n"
        "    for done in ProcessExecutor(1).map(time.sleep, [0.0, 60.0]):\n"
        "        print(multiprocessing.active_children()[0].pid, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline_s = time.monotonic() + 10
    while is_running(worker):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
