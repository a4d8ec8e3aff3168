"""The protocol of pycromanager's bridge (PyJavaZ 5.1.0) for a closed list of classes.

A client asks for an object, calls its methods and reads its fields, and names all of it in JSON.
Such a name is looked up in a list of constructors and in the tables of ``objects``, and
nowhere else: what is not declared does not exist for a client.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from controller.core.errors import InvalidRequestError, StedfastError
from controller.core.settings import Settings
from simulator.micromanager.objects import Connection, RemoteObject, Signature, current_caller

PROTOCOL_VERSION = "5.1.0"
MAX_MESSAGE_BYTES = 64 * 2**20
#: What one client may hold at a time: images that it never lets go of would fill the memory.
MAX_OBJECTS = 10_000

# What the client decodes; it returns None for arrays of doubles and longs.
_ARRAY_TYPES = {"u1": "byte-array", "u2": "short-array", "u4": "int-array", "f4": "float-array"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Constructor:
    """How a client makes an object, from arguments of these Java types."""

    make: Callable[..., RemoteObject]
    arguments: tuple[str, ...] = ()


class _Handle(Settings):
    hash_code: int = Field(alias="hash-code")


_Argument = bool | int | float | str | None | _Handle


class _Connect(Settings):
    command: Literal["connect"]
    debug: bool = False


class _GetConstructors(Settings):
    command: Literal["get-constructors"]
    classpath: str


class _Call(Settings):
    argument_types: list[str] = Field(alias="argument-types")
    argument_deserialization_types: list[str] = Field(alias="argument-deserialization-types")
    arguments: list[_Argument]


class _Construct(_Call):
    command: Literal["constructor"]
    classpath: str
    new_port: bool = Field(default=False, alias="new-port")


class _GetClass(Settings):
    command: Literal["get-class"]
    classpath: str
    new_port: bool = Field(default=False, alias="new-port")


class _OfObject(_Handle):
    java_class_name: str = ""


class _RunMethod(_Call, _OfObject):
    command: Literal["run-method"]
    static: bool
    name: str


class _GetField(_OfObject):
    command: Literal["get-field"]
    name: str


class _SetField(_OfObject):
    command: Literal["set-field"]
    name: str
    value: _Argument


class _Destroy(_OfObject):
    command: Literal["destructor"]


_Request = (
    _Connect | _GetConstructors | _Construct | _GetClass | _RunMethod | _GetField | _SetField | _Destroy
)
_REQUESTS: TypeAdapter[_Request] = TypeAdapter(Annotated[_Request, Field(discriminator="command")])


class Bridge:
    """Answers requests, for any number of sockets and threads.

    Parameters
    ----------
    constructors
        The classes that a client may make objects of, by Java name.
    open_port
        Opens another port that answers from this bridge and returns its number.
    """

    def __init__(self, constructors: Mapping[str, Constructor], open_port: Callable[[], int]) -> None:
        self._constructors = constructors
        self._open_port = open_port
        self._lock = threading.Lock()
        self._objects: dict[int, RemoteObject] = {}
        self._numbers = itertools.count(1)

    def answer(self, parts: Sequence[bytes], connection: Connection) -> list[bytes]:
        """Return the reply to one message; whatever is wrong with it, there is one."""
        current_caller.set(connection)
        try:
            if len(parts) != 1:
                raise InvalidRequestError(f"a request is one frame of JSON, {len(parts)} came")
            frames: list[bytes] = []
            reply = self._reply(_REQUESTS.validate_json(parts[0]), connection, frames)
            return [json.dumps(reply).encode(), *frames]
        except ValidationError as error:
            text = f"not a request of PyJavaZ {PROTOCOL_VERSION}: {_first_problem(error)}"
        except StedfastError as error:
            text = str(error)
        except Exception as error:  # noqa: BLE001  # the server outlives whatever one request does to it
            _log.exception("a request failed")
            text = f"{type(error).__name__}: {error}"
        return [json.dumps({"type": "exception", "value": text}).encode()]

    def lose(self, connection: Connection) -> None:
        """End what a client that is gone had started, and forget what it held."""
        while connection.at_loss:
            _, end = connection.at_loss.popitem()
            end()
        for handle in list(connection.handles):
            self._release(handle, connection)

    def _reply(self, request: _Request, connection: Connection, frames: list[bytes]) -> dict[str, Any]:
        match request:
            case _Connect():
                return {"type": "none", "version": PROTOCOL_VERSION}
            case _GetConstructors():
                known = self._constructor(request.classpath)
                api = {"name": request.classpath, "arguments": list(known.arguments)}
                return {"type": "none", "api": [api]}
            case _Construct():
                return self._construct(request, connection)
            case _GetClass():
                raise InvalidRequestError(f"{request.classpath} has no static methods here")
            case _RunMethod():
                return self._encoded(self._run(request), connection, frames)
            case _GetField():
                held = self._object(request.hash_code)
                if request.name not in held.fields:
                    raise InvalidRequestError(f"{held.java_class} has no field {request.name!r} here")
                return self._encoded(getattr(held, request.name), connection, frames)
            case _SetField():
                raise InvalidRequestError(f"field {request.name!r} cannot be set")
            case _Destroy():
                self._release(request.hash_code, connection)
                return {"type": "none"}

    def _constructor(self, classpath: str) -> Constructor:
        known = self._constructors.get(classpath)
        if known is None:
            raise InvalidRequestError(
                f"class {classpath!r} is not offered here; offered are {', '.join(self._constructors)}"
            )
        return known

    def _construct(self, request: _Construct, connection: Connection) -> dict[str, Any]:
        known = self._constructor(request.classpath)
        asked = Signature(request.classpath, request.classpath, known.arguments, frozenset())
        arguments = self._arguments(asked, request)
        port = self._open_port() if request.new_port else connection.port
        return self._by_reference(known.make(*arguments), connection) | {"port": port}

    def _run(self, request: _RunMethod) -> Any:
        held = self._object(request.hash_code)
        known = held.methods.get((request.name, tuple(request.argument_types)))
        if known is None:
            asked = f"{request.name}({', '.join(request.argument_types)})"
            raise InvalidRequestError(f"{held.java_class} has no method {asked} here")
        signature, function = known
        return function(held, *self._arguments(signature, request))

    def _arguments(self, signature: Signature, call: _Call) -> list[Any]:
        if len(call.arguments) != len(signature.arguments):
            raise InvalidRequestError(
                f"{signature.name} takes {len(signature.arguments)} arguments, {len(call.arguments)} came"
            )
        return [
            self._argument(signature, place, value) for place, value in enumerate(call.arguments)
        ]  # fmt: skip

    def _argument(self, signature: Signature, place: int, value: _Argument) -> Any:
        """Return an argument if it is what was declared; a client may send anything."""
        declared = signature.arguments[place]
        if value is None and place in signature.nullable:
            return None
        held = self._object(value.hash_code) if isinstance(value, _Handle) else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            "boolean": isinstance(value, bool),
            "int": isinstance(value, int) and number and abs(value) < 2**31,
            "long": isinstance(value, int) and number and abs(value) < 2**63,
            "double": number,
            "java.lang.Double": number,
            "java.lang.String": isinstance(value, str),
            "java.lang.Object": value is not None and held is None,
        }.get(declared, held is not None and held.java_class == declared)
        if not fits:
            shown = held.java_class if held is not None else repr(value)[:80]
            raise InvalidRequestError(f"{signature.name}: argument {place + 1} is {shown}, not a {declared}")
        return held if held is not None else value

    def _object(self, handle: int) -> RemoteObject:
        with self._lock:
            held = self._objects.get(handle)
        if held is None:
            raise InvalidRequestError(f"there is no object {handle} (any more): make a new one")
        return held

    def _by_reference(self, held: RemoteObject, connection: Connection) -> dict[str, Any]:
        with self._lock:
            if len(connection.handles) >= MAX_OBJECTS:
                raise InvalidRequestError(f"this client holds {MAX_OBJECTS} objects: let go of some of them")
            handle = next(self._numbers)
            self._objects[handle] = held
            connection.handles.add(handle)
        return {
            **held.described,
            "type": "unserialized-object",
            "hash-code": handle,
            "port": connection.port,
        }

    def _release(self, handle: int, connection: Connection) -> None:
        with self._lock:
            held = self._objects.pop(handle, None)
            connection.handles.discard(handle)
            if held is None or type(held).released is RemoteObject.released:
                return
            is_last = all(other is not held for other in self._objects.values())
        if is_last:
            held.released()

    def _encoded(self, value: Any, connection: Connection, frames: list[bytes]) -> dict[str, Any]:
        """Return a value with its type; an array's bytes are appended to ``frames``."""
        encoded: dict[str, Any]
        match value:
            case None:
                encoded = {"type": "null"}
            case bool() | int() | float():
                encoded = {"type": "primitive", "value": value}
            case str():
                encoded = {"type": "string", "value": value}
            case dict():
                encoded = {"type": "object", "class": "JSONObject", "value": json.dumps(value)}
            case np.ndarray():
                encoded = encoded_array(value, next(self._numbers), frames)
            case RemoteObject():
                encoded = self._by_reference(value, connection)
            case _:
                raise TypeError(f"{type(value).__name__} cannot be sent")
        return encoded


def encoded_array(array: np.ndarray, number: int, frames: list[bytes]) -> dict[str, str]:
    """Return an array's placeholder, told apart by ``number``, and append its frames to ``frames``."""
    identity = number % 2**32
    frames += [identity.to_bytes(4, sys.byteorder), np.ascontiguousarray(array).tobytes()]
    return {"type": _ARRAY_TYPES[array.dtype.str[1:]], "value": f"@{identity:x}"}


def _first_problem(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False)
    # Of what an argument might have been, the number that is none tells most.
    first = next((one for one in found if one["type"] == "finite_number"), found[0])
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
