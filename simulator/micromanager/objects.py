"""How a Python class is offered to clients as a Java class, and who is calling.

Only what :func:`java` declares exists for a client; nothing is looked up by a name that it sends but
in the tables made here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

_SHORT_NAMES = {
    "String": "java.lang.String",
    "Object": "java.lang.Object",
    "Double": "java.lang.Double",
    "HashMap": "java.util.HashMap",
}
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Signature:
    """A Java method as a client sees it; ``nullable`` are the places where it may send null."""

    name: str
    returns: str
    arguments: tuple[str, ...]
    nullable: frozenset[int]


_declared: dict[Callable[..., Any], tuple[Signature, ...]] = {}


def java(*declarations: str) -> Callable[[_Function], _Function]:
    """Offer a method to clients under Java signatures: ``@java("void setExposure(String, double)")``.

    A ``?`` behind an argument's type allows null there.
    """

    def declare(function: _Function) -> _Function:
        _declared[function] = tuple(_signature(text) for text in declarations)
        return function

    return declare


def _signature(text: str) -> Signature:
    match = re.fullmatch(r"(\S+) (\w+)\((.*)\)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a Java signature")
    returns, name, inside = match.groups()
    types = [part.strip() for part in inside.split(",")] if inside else []
    nullable = frozenset(place for place, kind in enumerate(types) if kind.endswith("?"))
    plain = [kind.removesuffix("?") for kind in [*types, returns]]
    full = [_SHORT_NAMES.get(kind, kind) for kind in plain]
    return Signature(name, full[-1], tuple(full[:-1]), nullable)


class RemoteObject:
    """Something that a client can hold. ``fields`` name the attributes that it may read."""

    java_class: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ()
    methods: ClassVar[Mapping[tuple[str, tuple[str, ...]], tuple[Signature, Callable[..., Any]]]] = {}
    #: What a client needs to make its shadow of the class.
    described: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        offered = dict(cls.methods)
        for function in vars(cls).values():
            for signature in _declared.get(function, ()) if callable(function) else ():
                offered[signature.name, signature.arguments] = (signature, function)
        cls.methods = offered
        cls.described = {
            "class": cls.java_class,
            "interfaces": [cls.java_class, "java.lang.Object"],
            "fields": list(cls.fields),
            "api": [
                {"name": known.name, "return-type": known.returns, "arguments": list(known.arguments)}
                for known, _ in offered.values()
            ],
        }

    def released(self) -> None:
        """Be told that no client holds this any more."""


class Connection:
    """One socket of one client: the objects it holds, and what must end when it is gone."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.handles: set[int] = set()
        self.at_loss: dict[Hashable, Callable[[], None]] = {}


#: Set while a request is answered.
current_caller: ContextVar[Connection] = ContextVar("caller")


def caller() -> Connection:
    """Return the connection that the request being answered came by."""
    return current_caller.get()
