"""Runs independent tasks on a Ray cluster. Ray is imported here alone, and only when it is asked for.

Every host needs the same Stedfast in the same place of its import path, and tasks that write files need a
folder that all hosts share.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from typing import Any, TypeVar

from controller.core.errors import ConfigurationError
from controller.core.executor import Finished
from simulator.executors import AHEAD, attempt

T = TypeVar("T")
R = TypeVar("R")

# A host that is there answers at once, and a cluster on it within a few seconds.
_CONNECT_S, _ANSWER_S = 5.0, 30.0

# Without the cluster ray.init retries for minutes and hears no signal: a process of its own can be ended.
_ASK = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); ray.shutdown()"


class RayExecutor:
    """Runs tasks on a Ray cluster, one on each of its cores.

    Parameters
    ----------
    address
        ``host:port`` of a cluster, ``auto`` for the one that runs on this computer, or ``local`` to start
        one here that ends with the tasks.
    workers
        How many tasks at once; as many as there are cores if ``None``.

    Raises
    ------
    ConfigurationError
        If Ray is not installed or the cluster does not answer.
    """

    def __init__(self, address: str, workers: int | None = None) -> None:
        # Whoever simulates did not ask to send statistics to anybody; Ray reads this when it is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ConfigurationError(
                f"Ray cannot be imported ({error}): pip install 'stedfast[scale]'"
            ) from error
        self._ray: Any = ray
        self._address = address
        self._workers = workers
        if address not in {"local", "auto"}:
            _see_that_it_answers(address)

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[Finished[T, R]]:
        """See :class:`controller.core.executor.Executor`. Ray makes a second try if a process dies."""
        ray, rest = self._ray, iter(items)
        with self._connected():
            run = ray.remote(num_cpus=1, max_retries=1)(attempt)
            shared_task = ray.put(task)
            count = self._workers or int(ray.cluster_resources().get("CPU", 1))
            waiting: dict[Any, T] = {}
            # Who has called for an end waits for what is under way; items that wait their turn are not begun.
            ahead = count * AHEAD if self._workers is None else count
            try:
                while True:
                    for item in islice(rest, ahead - len(waiting)):
                        waiting[run.remote(shared_task, item)] = item
                    if not waiting:
                        return
                    done, _ = ray.wait(list(waiting))
                    for reference in done:
                        yield self._result(reference, waiting.pop(reference))
            finally:
                for reference in waiting:
                    ray.cancel(reference, force=False)
                if waiting:
                    ray.wait(list(waiting), num_returns=len(waiting))

    def _result(self, reference: Any, item: T) -> Finished[T, R]:
        try:
            finished: Finished[T, R] = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Finished(item, error=f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return finished

    @contextmanager
    def _connected(self) -> Iterator[None]:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address == "local":
            options |= {"num_cpus": self._workers, "include_dashboard": False}
        # Ray handles SIGTERM in its own way, and greets on standard output, which is for results.
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with redirect_stdout(sys.stderr):
                self._ray.init(address=self._address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"--ray {self._address}: {error}") from error
        try:
            signal.signal(signal.SIGTERM, handler)
            yield
        finally:
            self._ray.shutdown()


def _see_that_it_answers(address: str) -> None:
    """Raise :class:`ConfigurationError` if no cluster answers at ``host:port`` in time."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigurationError(f"--ray {address!r} must be 'local', 'auto' or 'host:port'")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ConfigurationError(f"--ray {address}: nobody answers there ({error})") from error
    try:
        asked = subprocess.run(  # noqa: S603  # our own interpreter; the address is an argument
            [sys.executable, "-c", _ASK, address],
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(
            f"--ray {address}: somebody is there, but no Ray cluster answered within {_ANSWER_S:g} s"
        ) from error
    if "AuthenticationError" in asked.stderr:
        # Ray shows its token to no address that was named; whether to do so is not for us to say.
        raise ConfigurationError(
            f"--ray {address}: the cluster wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
            f"where the token is not in ~/.ray/auth_token; it is then sent to that address"
        )
    if asked.returncode != 0:
        last = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigurationError(f"--ray {address}: the cluster cannot be used: {last}")
