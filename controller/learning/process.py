"""A process beside the session that learns while it images: jobs in, results out, nothing shared.

The loop never waits for it, and whatever happens to it happens to it alone. Messages are a JSON text and
named byte strings behind their lengths; nothing in them is executed. It ends when its input does, so it
does not outlive a session that was killed.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from controller.core.errors import StedfastError

#: A longer message is a mistake.
_LARGEST_BYTES = 2**31
_LENGTH = struct.Struct("<Q")

#: Learning is never urgent: whoever images goes first.
_NICENESS = 10

#: A process whose output has ended is gone within this time, or will never be.
_ENDING_S = 5.0


class LearningFailedError(StedfastError):
    """The learning process could not do a job, or is gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """What is sent either way: plain values as JSON, and bytes by name."""

    values: Mapping[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)


class LearningProcess:
    """Runs ``python -m module``, whose main calls :func:`serve`, and gives it one job after the other."""

    def __init__(self, module: str, threads: int = 1) -> None:
        self._module, self._threads = module, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Message | Exception | None] = queue.SimpleQueue()

    def put(self, job: Message) -> None:
        """Hand over a job, and start the process if there is none. Returns at once."""
        if self._process is None:
            self._start()
        self._jobs.put(job)

    def result(self, timeout_s: float = 0.0) -> Message | None:
        """Return the result of the oldest job that has not been taken, ``None`` if there is none yet.

        Raises
        ------
        LearningFailedError
            If the job failed, or the process is gone; the next job starts another.
        """
        try:
            found = self._results.get(timeout=timeout_s) if timeout_s > 0 else self._results.get_nowait()
        except queue.Empty:
            return None
        if found is None:
            code = self._exit_code()
            self.close()
            raise LearningFailedError(f"the learning process ended by itself, exit code {code}")
        if isinstance(found, Exception):
            self.close()
            raise LearningFailedError(f"the learning process answered nonsense: {found}") from found
        if "error" in found.values:
            raise LearningFailedError(f"learning failed: {found.values['error']}")
        return found

    def close(self) -> None:
        """End the process, in the middle of a job if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        self._jobs.put(None)
        process.kill()
        process.wait()
        self._jobs, self._results = queue.SimpleQueue(), queue.SimpleQueue()

    def _exit_code(self) -> int | None:
        """Return with what the process ended; ``None`` if it closed its output and lives on."""
        if self._process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_ENDING_S)
        return None

    def _start(self) -> None:
        threads = str(self._threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        self._process = subprocess.Popen(  # noqa: S603  # our own module, by its name
            # -P: nothing is imported from the folder that somebody happens to work in.
            [sys.executable, "-P", "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the session, which ends this process in order
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101, PT018  # both are pipes
        for work, arguments in ((_send, (stdin, self._jobs)), (_receive, (stdout, self._results))):
            threading.Thread(target=work, args=arguments, name="learning", daemon=True).start()


def serve(work: Callable[[Message], Message]) -> None:
    """Do the jobs that come by standard input; the main of a learning process.

    It ends with its input, in the middle of a job too: whoever gave it is gone.
    """
    os.nice(_NICENESS)
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever a library prints must not get between the messages.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_take_jobs, args=(jobs,), name="jobs", daemon=True).start()
    while True:
        job = jobs.get()
        try:
            result = work(job)
        except Exception as error:  # noqa: BLE001  # told to whoever asked
            result = Message({"error": f"{type(error).__name__}: {error}"})
        write_message(results, result)


def _take_jobs(jobs: queue.SimpleQueue[Message]) -> None:
    """Take jobs in until there are no more, and end the process: nobody waits for a result any longer."""
    try:
        while (job := read_message(sys.stdin.buffer)) is not None:
            jobs.put(job)
    finally:
        os._exit(0)


def write_message(stream: BinaryIO, message: Message) -> None:
    """Write a message behind the lengths of its parts."""
    names = list(message.blobs)
    header = json.dumps({"values": dict(message.values), "blobs": names}).encode()
    for part in (header, *(message.blobs[name] for name in names)):
        stream.write(_LENGTH.pack(len(part)))
        stream.write(part)
    stream.flush()


def read_message(stream: BinaryIO) -> Message | None:
    """Return the next message, ``None`` at the end of the stream or if it breaks off."""
    header = _read_part(stream)
    if header is None:
        return None
    content = json.loads(header)
    blobs = {}
    for name in content["blobs"]:
        part = _read_part(stream)
        if part is None:
            return None
        blobs[name] = part
    return Message(content["values"], blobs)


def _read_part(stream: BinaryIO) -> bytes | None:
    prefix = stream.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(prefix)
    if length > _LARGEST_BYTES:
        raise LearningFailedError(f"a message of {length} bytes; no more than {_LARGEST_BYTES} are read")
    part = stream.read(length)
    return part if len(part) == length else None


def _send(stream: BinaryIO, jobs: queue.SimpleQueue[Message | None]) -> None:
    # If the process is gone, whoever waits for the result is told so.
    with suppress(OSError):
        while (job := jobs.get()) is not None:
            write_message(stream, job)
    with suppress(OSError):
        stream.close()


def _receive(stream: BinaryIO, results: queue.SimpleQueue[Message | Exception | None]) -> None:
    try:
        while (message := read_message(stream)) is not None:
            results.put(message)
        results.put(None)
    except Exception as error:  # noqa: BLE001  # told to whoever waits for the result
        results.put(error)
    finally:
        stream.close()
