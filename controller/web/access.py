"""Who may see and say what: tokens, roles, hosts, origins, and the headers of every response.

A page that listens on 127.0.0.1 is reached by every program of this machine, and by every website that
its browser shows. So each route wants a token, and nothing is done that another website asked for.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.labels.records import READ_ONLY, Annotator
from controller.labels.store import LabelStore
from controller.web.refusals import Refusal, refusal_of

_log = logging.getLogger(__name__)

#: The only path without a token: it is where the token is shown.
LOGIN = "/login"

#: Methods that change nothing.
_LOOKING = frozenset({"GET", "HEAD"})

#: Different wrong tokens of one client, and for how long each counts. A forgotten tab that shows the same
#: old token again and again is no attack.
_WRONG_TOKENS_MAX, _WRONG_TOKEN_S = 20, 60.0
_CLIENTS_WATCHED = 1000
_TOKEN_LENGTH_MAX = 200

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

_CLOSED_DOOR = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Labels</title></head>
<body><h1>This page needs its link</h1>
<p>Open the link with your token that <code>stedfast label</code> showed,
or ask whoever started it for one.</p>
<p>If you have just opened it from a mail or another website: <a href="/">go on</a>.</p></body></html>
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Where the page is reached.

    Attributes
    ----------
    port
        The port it listens on; it names the cookie, because cookies of all ports of a host are one heap.
    origins
        Such as ``http://127.0.0.1:8000``. Requests of others are refused: by their ``Origin`` a website's,
        by their ``Host`` those of a name that was pointed at this machine afterwards.
    takes_addresses
        Whether any IP address is ours, when listening on all of them. A name is needed for that trick.
    """

    port: int
    origins: frozenset[str]
    takes_addresses: bool = False

    @classmethod
    def of(cls, port: int, hosts: Iterable[str] = (), *, takes_addresses: bool = False) -> Site:
        """Return the site of a port on this machine, and of further hosts.

        A host is a name, a name with a port (a tunnel's), or a whole origin (a proxy's, such as
        ``https://labels.example.org``).
        """
        origins = set()
        for host in ("127.0.0.1", "localhost", *hosts):
            if "://" in host:
                origins.add(host.lower().rstrip("/"))
            else:
                has_port = host.rpartition(":")[2].isdigit() and not host.endswith("]")
                origins.add(f"http://{host.lower()}" + ("" if has_port or port == 80 else f":{port}"))
        return cls(port, frozenset(origins), takes_addresses)

    @property
    def cookie(self) -> str:
        """Return the name of the cookie with the token."""
        return f"stedfast_{self.port}"

    def is_own_host(self, host: str) -> bool:
        """Tell whether a ``Host`` header is one of ours."""
        host = host.lower()
        if any(origin.partition("://")[2] == host for origin in self.origins):
            return True
        return self.takes_addresses and self._is_address(host)

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Tell whether an ``Origin`` header is one of ours, given the ``Host`` of the same request."""
        origin = origin.lower()
        is_address = self.takes_addresses and self._is_address(host.lower())
        return origin in self.origins or (is_address and origin == f"http://{host.lower()}")

    def is_encrypted(self, host: str) -> bool:
        """Tell whether a host is only reached by https."""
        return f"https://{host.lower()}" in self.origins and f"http://{host.lower()}" not in self.origins

    def _is_address(self, host: str) -> bool:
        port = "" if self.port == 80 else f":{self.port}"
        address = host.removesuffix(port)
        if address + port != host:
            return False
        try:
            if address.startswith("[") and address.endswith("]"):
                ipaddress.IPv6Address(address[1:-1])
            else:
                ipaddress.IPv4Address(address)
        except ValueError:
            return False
        return True


class Attempts:
    """Counts the wrong tokens of each client.

    Parameters
    ----------
    now
        Time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._wrong: OrderedDict[str, deque[tuple[float, bytes]]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Return the seconds until a client may try again, 0 if it may now."""
        tries = self._wrong.get(client)
        if tries is None or len(tries) < _WRONG_TOKENS_MAX:
            return 0.0
        return max(0.0, tries[0][0] + _WRONG_TOKEN_S - self._now())

    def failed(self, client: str, token: str) -> None:
        """Take down a wrong token."""
        tries = self._wrong.setdefault(client, deque(maxlen=_WRONG_TOKENS_MAX))
        self._wrong.move_to_end(client)
        while len(self._wrong) > _CLIENTS_WATCHED:
            self._wrong.popitem(last=False)
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        now_s = self._now()
        while tries and tries[0][0] + _WRONG_TOKEN_S <= now_s:
            tries.popleft()
        if all(digest != earlier for _, earlier in tries):
            tries.append((now_s, digest))


class Door:
    """Knows people by their tokens.

    A token is found by its checksum, so the time that takes says nothing about it; it is looked up each
    time, so a revoked one is worthless at once.

    Parameters
    ----------
    store
        Who knows the tokens.
    site
        Where the page is reached.
    now
        Time in seconds.
    """

    def __init__(self, store: LabelStore, site: Site, now: Callable[[], float]) -> None:
        self._store, self._site = store, site
        self._attempts = Attempts(now)

    def check_site(self, request: Request) -> None:
        """Refuse what was sent to another name, or by another website.

        Raises
        ------
        Refusal
            421 or 403.
        """
        host = _one(request.headers, "host")
        if not self._site.is_own_host(host):
            raise Refusal(421, "This page is not known by that name; whoever started it can add the name.")
        if "origin" in request.headers:
            origin = _one(request.headers, "origin")
            if not self._site.is_own_origin(origin, host):
                raise Refusal(403, "This was asked for by another website, which may not.")

    async def let_in(self, request: Request) -> Annotator:
        """Return who sent a request, if they may do what it asks for.

        Raises
        ------
        Refusal
            401 without a token, 403 if this person may only look, 415 if it is no JSON.
        """
        token = self._token(request)
        annotator = None if token is None else await self._annotator(request, token)
        if annotator is None:
            raise Refusal(401, "This needs a token: open the link that 'stedfast label' showed.")
        if request.method not in _LOOKING:
            if annotator.role in READ_ONLY:
                raise Refusal(403, f"{annotator.name} may look, but not answer (role {annotator.role!r}).")
            media_type = _one(request.headers, "content-type").partition(";")[0]
            if media_type.strip().lower() != "application/json":
                raise Refusal(415, "Only application/json is taken.")
        return annotator

    async def log_in(self, request: Request) -> Response:
        """Take the token of a link, and put it into a cookie that no script reads and no website sends."""
        tokens = request.query_params.getlist("token")
        token = tokens[0] if len(tokens) == 1 else ""
        if await self._annotator(request, token) is None:
            return HTMLResponse(_CLOSED_DOOR, 401)
        response = Response(status_code=303, headers={"location": "/"})
        response.set_cookie(
            self._site.cookie,
            token,
            httponly=True,
            samesite="strict",
            secure=self._site.is_encrypted(request.headers["host"]),
        )
        return response

    def _token(self, request: Request) -> str | None:
        if "authorization" in request.headers:
            scheme, _, token = _one(request.headers, "authorization").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
        return request.cookies.get(self._site.cookie)

    async def _annotator(self, request: Request, token: str) -> Annotator | None:
        client = "unknown" if request.client is None else request.client.host
        wait_s = self._attempts.wait_s(client)
        if wait_s > 0:
            raise Refusal(429, f"Too many wrong tokens; wait {wait_s:.0f} s.", retry_s=wait_s)
        is_possible = 0 < len(token) <= _TOKEN_LENGTH_MAX and token.isascii() and token.isprintable()
        annotator = await run_in_threadpool(self._store.annotator_of_token, token) if is_possible else None
        if annotator is None and token:
            self._attempts.failed(client, token)
            _log.warning("%s showed a wrong token", client)
        return annotator


class Gate:
    """Lets through who may pass, and gives every response its headers; the whole application is behind it.

    What passes has ``request.state.annotator``.

    Parameters
    ----------
    app
        What is behind it.
    door
        Who knows people.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":  # the server starts and stops
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            request = Request(scope)
            self._door.check_site(request)
            if scope["path"] != LOGIN:
                request.state.annotator = await self._door.let_in(request)
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            return  # nothing came of it, and nobody listens
        except Exception as error:  # noqa: BLE001 (told and logged by refusal_of)
            refusal = refusal_of(error)
            if not has_begun:
                await refuse(refusal, scope["path"])(scope, receive, send_with_headers)


def refuse(refusal: Refusal, path: str) -> Response:
    """Return how a refusal is sent: JSON, or a page to who opened one without a token."""
    headers = {} if refusal.retry_s is None else {"retry-after": str(max(1, round(refusal.retry_s)))}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
        if not path.startswith("/api/"):
            return HTMLResponse(_CLOSED_DOOR, 401, headers)
    return JSONResponse(refusal.content, refusal.status, headers)


def _one(headers: Headers, name: str) -> str:
    """Return a header; what is sent twice may be read in two ways, so it is refused."""
    found = headers.getlist(name)
    if len(found) > 1:
        raise Refusal(400, f"The header {name!r} was sent {len(found)} times, allowed is once.")
    return found[0] if found else ""
