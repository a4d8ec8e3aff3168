"""A guarded microscope behind Micro-Manager's API: unmodified pycromanager scripts drive it.

The server speaks the protocol of pycromanager's bridge to clients on this computer (127.0.0.1)::

    with MicroManagerServer(microscope) as server:
        server.serve()                       # until server.stop(), from any thread

and in another process ``from pycromanager import Core, Acquisition`` works as with Micro-Manager.
A closed list of classes and methods is offered. Every image goes through the guard. A client that
dies ends what it had started: the microscope is dark and the server serves the next one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from controller.core.clock import SystemClock
from controller.core.errors import ConfigurationError, DeviceError
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.protocols import Clock
from controller.core.settings import ScanSettings
from simulator.micromanager.acquisition import Laboratory, acquisition_constructors
from simulator.micromanager.bridge import MAX_MESSAGE_BYTES, Bridge, Constructor
from simulator.micromanager.core import CoreState, RemoteCore
from simulator.micromanager.objects import Connection
from simulator.micromanager.scanner import Scanner
from simulator.micromanager.sockets import HOST, LATENCY_S, Context
from simulator.micromanager.values import HashMap

DEFAULT_PORT = 4827
#: An extra port that no client has come to for so long is closed.
_UNUSED_PORT_S = 30.0
_MAX_PORTS = 64

_log = logging.getLogger(__name__)


class _Port:
    """One socket that answers requests, and the clients connected to it."""

    def __init__(self, context: Context, bridge: Bridge, number: int) -> None:
        self._bridge = bridge
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        try:
            _bind(self._socket, number)
        except ConfigurationError:
            self.close()
            raise
        self.number = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._lock = threading.Lock()
        self._clients: dict[int, Connection] = {}  # by file descriptor
        self._gone: list[Connection] = []
        self._opened_s = time.monotonic()
        self._had_clients = False

    @property
    def is_abandoned(self) -> bool:
        """Tell whether its clients are gone, or none ever came."""
        is_stale = time.monotonic() - self._opened_s > _UNUSED_PORT_S
        return not self._clients and (self._had_clients or is_stale)

    def run(self, is_ending: Callable[[], bool]) -> None:
        """Answer requests until ``is_ending``."""
        while not is_ending():
            if self._socket.poll(int(1000 * LATENCY_S)):
                self._answer()

    def take_gone(self) -> list[Connection]:
        """Return the connections that ended since the last call."""
        self._look_for_changes()
        with self._lock:
            gone, self._gone = self._gone, []
        return gone

    def clients(self) -> list[Connection]:
        """Return the connections there are."""
        with self._lock:
            return list(self._clients.values())

    def close(self) -> None:
        """Close the sockets; :meth:`run` must have ended."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _answer(self) -> None:
        frames = self._socket.recv_multipart(copy=False)
        # Arrivals are reported before messages, so that whoever is unknown now has left already.
        self._look_for_changes()
        client = self._clients.get(int(frames[0].get(zmq.SRCFD)))
        if client is None:
            self._socket.send(b"")
            return
        self._socket.send_multipart(self._bridge.answer([frame.bytes for frame in frames], client))
        self._look_for_changes()
        if client not in self._clients.values():
            self._bridge.lose(client)  # what it started while it was leaving

    def _look_for_changes(self) -> None:
        with self._lock:
            while self._monitor.poll(0):
                event = recv_monitor_message(self._monitor)
                descriptor = int(event["value"])
                gone = self._clients.pop(descriptor, None)
                if gone is not None:
                    self._gone.append(gone)
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self._clients[descriptor] = Connection(self.number)
                    self._had_clients = True


def _bind(socket: zmq.Socket[bytes], number: int) -> None:
    try:
        socket.bind(f"tcp://{HOST}:{number or '*'}")
    except zmq.ZMQError as error:
        raise ConfigurationError(
            f"port {number} of {HOST} cannot be used ({error}): end the Micro-Manager or server that "
            f"listens there, or choose another port"
        ) from error


class MicroManagerServer:
    """Serves one guarded microscope to pycromanager clients on this computer.

    The port is bound when the server is made. The microscope stays the caller's, who closes it.

    Parameters
    ----------
    microscope
        The only way to the light.
    port
        Where clients connect; 4827 is what pycromanager expects, 0 takes a free one. Further ports
        are opened as the protocol demands.
    start
        Settings at the start; by default a dark scan of the full field in the middle of the stage box.
    data_folder
        Where acquisitions may be saved; without one they are kept in memory alone.
    clock
        What the start times of events are measured with.
    acquire
        Who takes each image with the microscope, to record it for example; by default nobody else.

    Raises
    ------
    ConfigurationError
        If the port is in use.
    """

    def __init__(
        self,
        microscope: GuardedMicroscope,
        *,
        port: int = DEFAULT_PORT,
        start: ScanSettings | None = None,
        data_folder: Path | None = None,
        clock: Clock | None = None,
        acquire: Callable[[ScanSettings], Frame] | None = None,
    ) -> None:
        self._microscope = microscope
        self._state = CoreState(Scanner(microscope, start, acquire))
        self._context: Context = zmq.Context()
        self._bridge = Bridge(self._constructors(data_folder, clock or SystemClock()), self._open_port)
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._is_served = False
        self._extra: dict[_Port, threading.Thread] = {}
        try:
            self._main = _Port(self._context, self._bridge, port)
        except ConfigurationError:
            self._context.term()
            raise

    @staticmethod
    def check_port(port: int) -> None:
        """Raise as the constructor does if a port is in use, before a microscope is touched in vain."""
        with zmq.Context() as context, context.socket(zmq.REP) as probe:
            _bind(probe, port)

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the names of the devices that clients see."""
        return tuple(self._state.scanner.devices)

    @property
    def port(self) -> int:
        """Return the number of the port that clients connect to."""
        return self._main.number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        with self._lock:
            is_served, self._is_served = self._is_served, True
        if is_served:
            self._ended.wait()
        else:
            self._close()

    def serve(self) -> None:
        """Serve clients until :meth:`stop`; it is dark when this returns.

        Raises
        ------
        LightNotOffError
            If the microscope does not confirm that it is.
        """
        with self._lock:
            if self._is_served:
                raise DeviceError("this server has served already: make a new one")
            self._is_served = True
        watcher = threading.Thread(target=self._watch, name="clients' watcher", daemon=True)
        watcher.start()
        try:
            self._main.run(self._ending.is_set)
        finally:
            self._ending.set()
            watcher.join()
            self._close()

    def stop(self) -> None:
        """End serving, a running scan too; from any thread, again and again."""
        self._ending.set()

    def _constructors(self, data_folder: Path | None, clock: Clock) -> dict[str, Constructor]:
        laboratory = Laboratory(self._state.scanner, self._context, clock, data_folder)
        return {
            RemoteCore.java_class: Constructor(lambda: RemoteCore(self._state)),
            HashMap.java_class: Constructor(HashMap),
            **acquisition_constructors(laboratory),
        }

    def _watch(self) -> None:
        """End what clients that are gone had started, and close the ports that they used."""
        while not self._ending.wait(LATENCY_S):
            with self._lock:
                ports = [self._main, *self._extra]
            for port in ports:
                for gone in port.take_gone():
                    self._lose(gone)
                if port is not self._main and port.is_abandoned:
                    self._close_port(port)
        # Whatever still runs is ended here, so that the ports can end too.
        for port in [self._main, *self._extra]:
            self._lose_all(port)

    def _lose_all(self, port: _Port) -> None:
        for client in [*port.take_gone(), *port.clients()]:
            self._lose(client)

    def _lose(self, client: Connection) -> None:
        try:
            self._bridge.lose(client)
        except Exception:  # noqa: BLE001  # the others are still to be served
            _log.critical("a client is gone, and what it had started could not be ended", exc_info=True)

    def _open_port(self) -> int:
        with self._lock:
            if len(self._extra) >= _MAX_PORTS:
                raise DeviceError(f"{_MAX_PORTS} ports are open already: end some clients")
            port = _Port(self._context, self._bridge, 0)
            name = f"port {port.number}"
            thread = threading.Thread(
                target=port.run, args=(lambda: self._ending.is_set() or port not in self._extra,), name=name
            )
            self._extra[port] = thread
            thread.daemon = True
            thread.start()
        return port.number

    def _close_port(self, port: _Port) -> None:
        with self._lock:
            thread = self._extra.pop(port)
        thread.join()
        self._lose_all(port)
        port.close()

    def _close(self) -> None:
        """Close everything, darkness last: it is what must be told if it cannot be had."""
        for port in list(self._extra):
            self._close_port(port)
        self._lose_all(self._main)
        self._main.close()
        self._context.destroy(linger=0)
        self._ended.set()
        self._microscope.go_dark()
