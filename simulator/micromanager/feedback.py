"""What an acquisition asks of its client and tells it: hooks, the image processor, notifications."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import InvalidRequestError
from simulator.micromanager.bridge import encoded_array
from simulator.micromanager.objects import RemoteObject, caller, java
from simulator.micromanager.sockets import Context, Inbox, Outbox
from simulator.micromanager.storage import Axes

#: What ends the conversation with a hook, and what ends it with the processor.
_END_OF_HOOK = {"special": "acquisition-end"}
_END_OF_IMAGES = {"special": "finished"}


class _Exchange(RemoteObject):
    """A pair of sockets: out to the client, and back."""

    java_class = "org.micromanager.remote.Exchange"

    def __init__(self, context: Context) -> None:
        self._out = Outbox(context)
        self._back = Inbox(context)

    @java("int getPushPort()")
    def push_port(self) -> int:
        return self._out.port

    @java("int getPullPort()")
    def pull_port(self) -> int:
        return self._back.port

    def close(self) -> None:
        """Close both sockets; nobody may be using them."""
        self._out.close()
        self._back.close()


class Hook(_Exchange):
    """A function of the client that sees each event, and may change or cancel it."""

    java_class = "org.micromanager.remote.RemoteAcqHook"

    def ask(self, event: dict[str, Any], go_on: Callable[[], bool]) -> list[dict[str, Any]]:
        """Return what the hook makes of an event: nothing if it cancels it, or none comes any more."""
        answer = self._exchange(event, go_on)
        events = answer.get("events", [answer] if answer else [])
        if not isinstance(events, list) or not all(isinstance(one, dict) for one in events):
            raise InvalidRequestError(f"a hook answered {json.dumps(answer)[:200]}, which is no event")
        return events

    def end(self, go_on: Callable[[], bool]) -> None:
        """Let the hook's thread in the client end."""
        self._exchange(_END_OF_HOOK, go_on)

    def _exchange(self, message: dict[str, Any], go_on: Callable[[], bool]) -> dict[str, Any]:
        self._out.send(message, [], go_on)
        while go_on():
            received = self._back.receive()
            if received is not None:
                return received[0]
        return {}


class Processor(_Exchange):
    """A function of the client that every image passes on its way to the storage."""

    java_class = "org.micromanager.remote.RemoteImageProcessor"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._numbers = itertools.count(1)
        self._connection = caller()
        self._connection.at_loss[self] = self.close

    def belong(self) -> None:
        """Be told that an acquisition will close it."""
        self._connection.at_loss.pop(self, None)

    @java("void startPull()", "void startPush()")
    def start(self) -> None:
        """Both directions are ready from the beginning."""

    def send(self, pixels: NDArray[np.uint16], tags: dict[str, Any], go_on: Callable[[], bool]) -> None:
        """Hand an image to the client.

        Raises
        ------
        InvalidRequestError
            If the metadata hold what pycromanager 1.0.2 cannot read beside an image.
        """
        if _confuses_client(tags):
            raise InvalidRequestError(
                "axes and tags may hold neither '@' nor lists of strings while an image processor is used: "
                "pycromanager's client takes them for images"
            )
        frames: list[bytes] = []
        message = {"metadata": tags, "pixels": encoded_array(pixels, next(self._numbers), frames)}
        self._out.send(message, frames, go_on)

    def end(self, go_on: Callable[[], bool]) -> None:
        """Say that no image follows."""
        self._out.send(_END_OF_IMAGES, [], go_on)

    def receive(self) -> tuple[Axes, NDArray[np.uint16], dict[str, Any]] | bool:
        """Return an image that came back, ``True`` if none comes for a moment, ``False`` after the last."""
        received = self._back.receive()
        if received is None:
            return True
        message, frames = received
        return False if message == _END_OF_IMAGES else _image(message, frames)


class Notifier(RemoteObject):
    """Tells a client what happens, from when it listens."""

    java_class = "org.micromanager.remote.RemoteNotificationHandler"

    def __init__(self, context: Context, go_on: Callable[[], bool]) -> None:
        self._out = Outbox(context)
        self._go_on = go_on
        self._lock = threading.Lock()
        self._early: list[dict[str, Any]] | None = []

    @java("int getPort()")
    def port(self) -> int:
        return self._out.port

    @java("void start()")
    def start(self) -> None:
        with self._lock:
            early, self._early = self._early or [], None
            for message in early:
                self._out.send(message, [], self._go_on)

    @java("void notificationHandlingComplete()")
    def complete(self) -> None:
        """Be told that the client has seen the last one; the acquisition closes the socket."""

    def tell(self, kind: str, milestone: str, payload: str | None = None) -> None:
        """Tell the client one thing."""
        message = {"type": kind, "milestone": milestone}
        if payload is not None:
            message["payload"] = payload
        with self._lock:
            if self._early is not None:
                self._early.append(message)
            else:
                self._out.send(message, [], self._go_on)

    def close(self) -> None:
        """Close the socket; what is under way may still arrive."""
        self._out.close()


def _confuses_client(value: object) -> bool:
    match value:
        case str():
            return "@" in value
        case list():
            return any(isinstance(one, str) or _confuses_client(one) for one in value)
        case dict():
            return any(_confuses_client(one) for one in value.values())
    return False


def _image(message: dict[str, Any], frames: list[bytes]) -> tuple[Axes, NDArray[np.uint16], dict[str, Any]]:
    """Return the image in a message of the client, or say what is wrong with it."""
    tags = message.get("metadata")
    # The one binary part is the pixels; its identity in the message tells nothing more.
    if not isinstance(tags, dict) or len(frames) != 2:
        raise InvalidRequestError("the image processor sent something that is no image with its metadata")
    axes, kind, height, width = (tags.get(name) for name in ("Axes", "PixelType", "Height", "Width"))
    if not isinstance(axes, dict) or not all(isinstance(place, int | str) for place in axes.values()):
        raise InvalidRequestError(f"the image processor sent Axes={json.dumps(axes)[:200]}")
    if kind != "GRAY16" or not isinstance(height, int) or not isinstance(width, int):
        raise InvalidRequestError(f"the image processor sent {kind}, {height} x {width}, not a GRAY16 image")
    pixels = np.frombuffer(frames[1], np.uint16) if len(frames[1]) % 2 == 0 else np.zeros(0, np.uint16)
    if not (height > 0 and width > 0 and pixels.size == height * width):
        raise InvalidRequestError(
            f"the image processor sent {len(frames[1])} bytes for {height} x {width} pixels in 16 bit: "
            f"set Height and Width in its metadata"
        )
    return axes, pixels.reshape(height, width), tags
