"""The learning process: jobs in, results out, and it never outlives whoever started it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.learning import process as module
from controller.learning.process import (
    LearningFailedError,
    LearningProcess,
    Message,
    read_message,
    write_message,
)

WORKER = "tests.learning.answering_process"


@contextmanager
def started() -> Iterator[LearningProcess]:
    learning = LearningProcess(WORKER)
    try:
        yield learning
    finally:
        learning.close()


def pid_of(learning: LearningProcess) -> int:
    learning.put(Message({"do": "pid"}))
    found = learning.result(30)
    assert found is not None
    return int(found.values["pid"])


def is_gone(pid: int, patience_s: float = 10.0) -> bool:
    """Tell whether a process has ended; waits for that only as long as it has not."""
    return eventually(lambda: not _is_running(pid), patience_s)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123  # not a file of ours
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(is_so: Callable[[], bool], patience_s: float = 10.0) -> bool:
    end = time.monotonic() + patience_s
    while not (now := is_so()) and time.monotonic() < end:
        os.sched_yield()
    return now


def test_a_job_goes_there_and_its_result_comes_back() -> None:
    with started() as learning:
        assert learning.result() is None
        blobs = {"a": b"", "b": bytes(range(256)) * 1000}
        learning.put(Message({"do": "echo", "x": [1, None, "é"]}, blobs))
        answer = learning.result(30)
        assert answer is not None
        assert answer.values["x"] == [1, None, "é"]
        assert dict(answer.blobs) == blobs
        learning.put(Message({"do": "print"}))
        answer = learning.result(30)
        assert answer is not None, "what a library prints is not taken for an answer"


def test_a_job_that_fails_says_why_and_the_next_one_is_done() -> None:
    with started() as learning:
        learning.put(Message({"do": "fail"}))
        with pytest.raises(LearningFailedError, match="ValueError: no such luck"):
            learning.result(30)
        assert pid_of(learning) > 0


def test_after_a_process_was_killed_the_next_job_starts_another() -> None:
    with started() as learning:
        first = pid_of(learning)
        learning.put(Message({"do": "hang"}))
        os.kill(first, signal.SIGKILL)
        with pytest.raises(LearningFailedError, match="ended by itself, exit code"):
            learning.result(30)
        assert pid_of(learning) != first


@pytest.mark.parametrize("what", ["garbage", "huge", "half"])
def test_an_answer_that_is_none_ends_the_process(what: str) -> None:
    with started() as learning:
        pid = pid_of(learning)
        learning.put(Message({"do": what}))
        with pytest.raises(LearningFailedError, match=r"nonsense|ended by itself"):
            learning.result(30)
        assert is_gone(pid)
        assert pid_of(learning) != pid


def test_closing_in_the_middle_of_a_job_leaves_no_process() -> None:
    with started() as learning:
        pid = pid_of(learning)
        learning.put(Message({"do": "hang"}))
    assert is_gone(pid)


def test_ctrl_c_is_for_the_session_alone() -> None:
    with started() as learning:
        pid = pid_of(learning)
        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getsid(pid) != os.getsid(0)


def test_it_lets_others_go_first() -> None:
    with started() as learning:
        assert os.getpriority(os.PRIO_PROCESS, pid_of(learning)) >= 10


@pytest.mark.parametrize("job", ["pid", "hang"])
def test_when_the_session_is_killed_its_learning_process_ends_in_the_middle_of_a_job(job: str) -> None:
    code = (
        "import sys, time; from tests.learning.test_process import *;"
        f"learning = LearningProcess(WORKER); print(pid_of(learning), flush=True);"
        f"learning.put(Message({{'do': {job!r}}})); time.sleep(60)"
    )
    session = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert session.stdout is not None
        pid = int(session.stdout.readline())
        assert _is_running(pid)
    finally:
        session.kill()
        session.communicate()
    assert is_gone(pid)


def test_messages_are_json_and_bytes_and_a_broken_one_is_none() -> None:
    stream = io.BytesIO()
    write_message(stream, Message({"a": 1}, {"b": b"bytes"}))
    whole = stream.getvalue()
    assert json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")]) == {
        "values": {"a": 1},
        "blobs": ["b"],
    }
    for end in range(len(whole)):
        assert read_message(io.BytesIO(whole[:end])) is None
    found = read_message(io.BytesIO(whole))
    assert found is not None
    assert (found.values, found.blobs) == ({"a": 1}, {"b": b"bytes"})


def test_a_length_beyond_reason_is_not_even_read() -> None:
    with pytest.raises(LearningFailedError, match="no more than"):
        read_message(io.BytesIO((2**40).to_bytes(8, "little")))


def test_nothing_that_is_sent_can_be_executed() -> None:
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert not any(word in source for word in ("pickle", "marshal", "eval(", "exec(", "shell=True"))
