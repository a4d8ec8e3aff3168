"""The one-way sockets beside the bridge: events and answers come in, images and notifications go out.

In PyJavaZ the sending side binds, so that for what a client sends, the server says on which port
the client shall bind. Both sides stay on this computer.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import zmq

from controller.core.errors import InvalidRequestError
from simulator.micromanager.bridge import MAX_MESSAGE_BYTES

HOST = "127.0.0.1"
#: How long it may take until the end of an acquisition, or of its client, is noticed.
LATENCY_S = 0.05
_RECONNECT_MS = 10

Context = zmq.Context[zmq.Socket[bytes]]


class Outbox:
    """Where a client fetches messages. May be used by several threads."""

    def __init__(self, context: Context) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.bind(f"tcp://{HOST}:*")
        self.port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any], frames: list[bytes], go_on: Callable[[], bool]) -> None:
        """Send a message as soon as the client takes it; drop it once ``go_on`` says no."""
        parts = [json.dumps(message).encode(), *frames]
        with self._lock:
            while go_on():
                if self._socket.poll(int(1000 * LATENCY_S), zmq.POLLOUT):
                    self._socket.send_multipart(parts, zmq.NOBLOCK)
                    return

    def close(self) -> None:
        """Close the socket; what is under way may still arrive."""
        with self._lock:
            self._socket.close(linger=1000)


class Inbox:
    """Where a client's messages arrive. Used by one thread at a time."""

    def __init__(self, context: Context) -> None:
        # Held, not listened on: nobody is given this port meanwhile, and no attempt to connect to it
        # can by chance be made from it, which would succeed and take it from the client.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((HOST, 0))
        self.port: int = self._reserved.getsockname()[1]
        self._socket = context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._socket.connect(f"tcp://{HOST}:{self.port}")

    def receive(self) -> tuple[dict[str, Any], list[bytes]] | None:
        """Return a message and its binary frames, ``None`` if none comes for a moment.

        Raises
        ------
        InvalidRequestError
            If what came is not a JSON object.
        """
        if not self._socket.poll(int(1000 * LATENCY_S)):
            return None
        head, *frames = self._socket.recv_multipart()
        try:
            message = json.loads(head)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"a message that is not JSON came from the client: {error}") from error
        if not isinstance(message, dict):
            raise InvalidRequestError(f"a JSON object was expected, the client sent {head[:80]!r}")
        return message, frames

    def close(self) -> None:
        """Close the socket and let go of the port."""
        self._socket.close(linger=0)
        self._reserved.close()
