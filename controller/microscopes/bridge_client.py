"""A Micro-Manager that runs already, over pycromanager's bridge: its core, with time-outs.

The client is pyjavaz, pycromanager's own. By itself it waits for ever if Micro-Manager hangs or dies in
the middle of a call. Here every call comes back, with an answer or as :class:`ConnectionLostError`.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from controller.core.errors import DeviceError

try:
    from pyjavaz import bridge as pyjavaz
except ImportError as error:
    raise ImportError(f"{error}; it comes with: pip install 'stedfast[pycromanager]'") from error

HOST = "127.0.0.1"
_CORE = "mmcorej.CMMCore"
_MILLI = 1e3
_PIXELS = "u1", "u2", "f4"


class ConnectionLostError(DeviceError):
    """A call did not come back. What the devices do now is not known."""


class _Socket(pyjavaz._DataSocket):  # type: ignore[misc]
    """pyjavaz's socket, which leaves it to its user to look whether an answer tells of an exception."""

    def _check_exception(self, response: object) -> None:
        pass


class _Connection(pyjavaz.Bridge):  # type: ignore[misc]
    """pyjavaz's bridge without the thread of its own that waits without an end. For one thread at a time.

    Parameters
    ----------
    port
        Where a server of the bridge listens on this computer.
    timeout_s
        How long an answer may take, until ``allowed_s`` is set to something else.
    core
        What a server answered when it was asked for a core at this port; by default it is asked here.

    Raises
    ------
    ConnectionLostError
        If what listens there does not answer, or is something else.
    """

    def __init__(self, port: int, timeout_s: float, core: dict[str, Any] | None = None) -> None:
        # Not Bridge's own constructor, but what the other methods of it need.
        self.port, self._ip_address, self._timeout = port, HOST, timeout_s * _MILLI
        self._convert_camel_case, self._debug, self._iterate = True, False, False
        self._class_factory = pyjavaz._JavaClassFactory()
        self.allowed_s, self.is_lost = timeout_s, True
        self.in_use = threading.Lock()
        self.core: Any = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wire = _Socket(self._context, port, zmq.REQ, ip_address=HOST)
        self._wire._socket.linger = 0  # what a dead server does not take is dropped
        self.is_lost = False
        try:
            self._greet()
            self.core = self._shadow_of(core)
        except BaseException:
            self.close()
            raise

    def _shadow_of(self, core: dict[str, Any] | None) -> Any:
        try:
            if core is None:
                return self._construct_java_object(_CORE)
            return self._deserialize_object(core)(serialized_object=core, bridge=self)
        except (LookupError, TypeError) as error:
            raise ConnectionLostError(_strange(self.port)) from error

    def core_on_another_port(self) -> dict[str, Any]:
        """Let the server open a port, and return what it says about a core there."""
        nothing: dict[str, Any] = {
            "argument-types": [], "argument-deserialization-types": [], "arguments": [],
        }  # fmt: skip
        asked = {"command": "constructor", "classpath": _CORE, **nothing, "new-port": True}
        return self.send_and_receive(asked)

    def send_and_receive(
        self, message: dict[str, Any], timeout: object = None, give_up_condition: object = None
    ) -> dict[str, Any]:
        """Return the answer to a request; pyjavaz's methods call this, without a time-out."""
        del timeout, give_up_condition
        if self.is_lost:
            raise ConnectionLostError(f"the connection to Micro-Manager on port {self.port} is lost")
        wire = self._wire._socket
        wire.sndtimeo = wire.rcvtimeo = int(self.allowed_s * _MILLI)
        try:
            self._wire.send(message)
            reply = self._wire.receive()
            if not isinstance(reply, dict) or "type" not in reply:
                raise ConnectionLostError(_strange(self.port))
        except BaseException as error:
            self.is_lost = True  # the socket cannot be used after half a call
            if isinstance(error, zmq.ZMQError):
                raise ConnectionLostError(
                    f"Micro-Manager on port {self.port} did not answer {_told(message)} within "
                    f"{self.allowed_s:g} s (microscope.options.call_timeout_s)"
                ) from error
            if isinstance(error, ValueError | LookupError | TypeError):
                raise ConnectionLostError(_strange(self.port)) from error
            raise
        if reply["type"] == "exception":
            raise DeviceError(f"Micro-Manager refuses {_told(message)}: {reply.get('value')}")
        return reply

    def close(self) -> None:
        """Let go of the core and the sockets."""
        with suppress(DeviceError):
            _release(self.core)
        self.core, self.is_lost = None, True
        self._hang_up()

    def _hang_up(self) -> None:
        # The context does not know its sockets any more when both are collected together, and would wait
        # for ever for one that it did not close.
        self._wire._socket.close(linger=0)
        self._context.destroy(linger=0)

    def _deserialize_object(self, serialized_object: dict[str, Any]) -> Callable[..., Any]:
        """Return what makes the shadow of an object; pyjavaz's own also leaves a note of it until exit."""
        kind = super()._deserialize_object(serialized_object)

        def make(serialized_object: dict[str, Any], bridge: _Connection) -> Any:
            shadow = kind.__new__(kind)
            shadow._hash_code, shadow._creation_port = serialized_object["hash-code"], bridge.port
            # As if closed already, or pyjavaz would call the server when this is collected as garbage.
            shadow._bridge, shadow._closed, shadow._close_lock = bridge, True, threading.Lock()
            return shadow

        return make

    def java_object_removed(self, obj: object) -> None:
        """Stay open without an object."""

    def __del__(self) -> None:
        if hasattr(self, "_wire"):
            self._hang_up()  # and no word to the server: whoever collects this must not wait for an answer

    def _greet(self) -> None:
        try:
            reply = self.send_and_receive({"command": "connect", "debug": False})
        except ConnectionLostError as error:
            raise ConnectionLostError(_strange(self.port)) from error
        spoken, known = reply.get("version"), self._EXPECTED_ZMQ_SERVER_VERSION
        if spoken != known:
            raise ConnectionLostError(
                f"port {self.port} speaks version {spoken} of Micro-Manager's bridge, this pycromanager "
                f"{known}: install a Micro-Manager and a pycromanager of the same time"
            )


class RemoteCore:
    """What :class:`~controller.microscopes.mmcore.MMCoreMicroscope` uses of a core, over a port.

    Methods have the names, arguments and results of ``pymmcore.CMMCore``; any thread may call them.
    A server answers the requests of one port one after the other. So there are two connections: one,
    on a port of its own, for whatever a scan does, and one for whoever comes meanwhile, to put the light
    out. If the first one is lost, it stays lost; the second one is then opened anew each time.

    Parameters
    ----------
    port
        Where Micro-Manager listens.
    call_timeout_s
        How long a call may take beyond what it waits for.
    device_timeout_s
        How long Micro-Manager waits for a device.
    """

    def __init__(self, port: int, call_timeout_s: float, device_timeout_s: float) -> None:
        self._port, self._timeout_s, self._device_timeout_s = port, call_timeout_s, device_timeout_s
        self.exposure_s = 0.0
        self._opening = threading.Lock()
        self._is_given_up = self._is_stale = False
        self._other = self._knock()
        self._open = [self._other]
        try:
            made = self._other.core_on_another_port()
            self._first = _Connection(int(made["port"]), call_timeout_s, made)
        except BaseException:
            self.hang_up()
            raise
        self._open.append(self._first)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self._call(name, *arguments)

    def setTimeoutMs(self, timeout_ms: int) -> None:  # noqa: N802
        """Say how long to wait for devices, to a server that can be told."""
        with self._connection() as connection:
            can_be_told = hasattr(connection.core, "set_timeout_ms")
        if can_be_told:
            self._call("setTimeoutMs", timeout_ms)

    def getImage(self) -> NDArray[Any]:  # noqa: N802
        """Return the image that was taken, with its shape, which only a tagged image tells."""
        image: NDArray[Any] = self._call("getTaggedImage")
        return image

    def unloadAllDevices(self) -> None:  # noqa: N802
        """Hang up: the devices are Micro-Manager's, who keeps them."""
        self.hang_up()

    def refuse_if_lost(self) -> None:
        """Raise at once if a call has not come back."""
        if self._first.is_lost:
            raise ConnectionLostError(
                f"the connection to Micro-Manager on port {self._port} was lost in an earlier call: look at "
                f"the devices and at Micro-Manager, then start anew"
            )

    def try_anew(self) -> None:
        """If Micro-Manager did not answer, let the next call knock again, over a fresh connection.

        Without this it fails at once: one light after the other would wait for an answer in vain.
        """
        self._is_given_up = False
        self._is_stale = self._first.is_lost

    def hang_up(self) -> None:
        """Close the connections; a call after that opens a fresh one."""
        for connection in self._open:
            # One that a call still waits on is left to that call: a socket belongs to one thread at a time.
            if connection.in_use.acquire(timeout=self._timeout_s):
                connection.close()
                connection.in_use.release()
        self._open.clear()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a method and return what it answers as plain values."""
        allowed_s = self._timeout_s
        if name.startswith("waitFor"):
            allowed_s += self._device_timeout_s
        elif name == "snapImage":
            allowed_s += self.exposure_s
        with self._connection() as connection:
            connection.allowed_s = allowed_s
            method = getattr(connection.core, pyjavaz._camel_case_2_snake_case(name), None)
            if method is None:
                raise DeviceError(f"the server on port {self._port} does not offer {name}()")
            return _plain(method(*arguments))

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        """Give a connection that nobody else uses meanwhile."""
        connection = self._first
        if connection.is_lost or not connection.in_use.acquire(blocking=False):
            connection = self._free_other()
        try:
            yield connection
        finally:
            connection.in_use.release()

    def _knock(self) -> _Connection:
        # Not at a port of its own: a server may close that when the first who comes there leaves.
        _require_listener(self._port, self._timeout_s)
        return _Connection(self._port, self._timeout_s)

    def _free_other(self) -> _Connection:
        """Return the second connection, anew if it was lost, held for the caller."""
        with self._opening:
            if self._other.is_lost or self._is_stale:
                if self._is_given_up:
                    raise ConnectionLostError(f"Micro-Manager on port {self._port} does not answer")
                self._is_given_up = True  # unless this works
                # The old one stays open: the first connection's core was made by it.
                self._other = self._knock()
                self._is_given_up = self._is_stale = False
                self._open.append(self._other)
            connection = self._other
        if not connection.in_use.acquire(timeout=self._timeout_s):
            raise ConnectionLostError(f"Micro-Manager on port {self._port} keeps others waiting, too")
        return connection


def _require_listener(port: int, timeout_s: float) -> None:
    """Raise :class:`ConnectionLostError` if nothing listens: a socket of ZMQ would wait for somebody to."""
    try:
        socket.create_connection((HOST, port), timeout_s).close()
    except OSError as error:
        raise ConnectionLostError(
            f"nothing listens on port {port} of this computer ({error}): start Micro-Manager and switch on "
            f"Tools > Options > Run server on port {port}"
        ) from error


def device_interface(told: str) -> int | None:
    """Return the device interface that ``getAPIVersionInfo()`` tells, if it tells one."""
    found = re.search(r"Device API version (\d+)", told)
    return int(found.group(1)) if found else None


def _release(remote: Any) -> None:
    """Let the server forget an object."""
    if remote is not None:
        remote._closed = False
        try:
            remote._close()
        finally:
            remote._closed = True


def _plain(value: Any) -> Any:
    """Return what pymmcore would, and let the server forget the object that it came in."""
    if not isinstance(value, pyjavaz._JavaObjectShadow):
        return value
    try:
        match value._java_class:
            case "java.awt.Rectangle":
                return value.x, value.y, value.width, value.height
            case "mmcorej.StrVector":
                return tuple(value.get(index) for index in range(value.size()))
            case "mmcorej.TaggedImage":
                return _image(value.pix, value.tags)
            case unknown:
                raise DeviceError(f"Micro-Manager answers with a {unknown}, which is not understood here")
    finally:
        _release(value)


def _image(pixels: Any, tags: dict[str, Any]) -> NDArray[Any]:
    shape = int(tags["Height"]), int(tags["Width"])
    if not isinstance(pixels, np.ndarray) or pixels.dtype.str[1:] not in _PIXELS:
        raise DeviceError("only images of one grey value per pixel, in 8, 16 or 32 bit, are understood here")
    if pixels.size != shape[0] * shape[1]:
        raise DeviceError(f"an image of {shape} pixels is announced, {pixels.size} pixels came")
    return pixels.reshape(shape)


def _told(message: dict[str, Any]) -> str:
    return f"{message.get('name') or message.get('command')}()"


def _strange(port: int) -> str:
    return (
        f"what listens on port {port} does not answer as Micro-Manager's server does: is it another program, "
        f"or does Micro-Manager hang?"
    )
