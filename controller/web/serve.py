"""Serves the label page until it is told to stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn

from controller.core.errors import ConfigurationError
from controller.web.access import Site
from controller.web.app import create_app
from controller.web.desk import Desk

#: Answers that are under way get so long when the server is to stop.
GRACE_S = 10

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LabelServer:
    """One process that serves the page; threads do what takes time.

    Parameters
    ----------
    desk
        What people answer at.
    host, port
        Where to listen; port 0 takes a free one. Nobody else reaches 127.0.0.1.
    names
        Further names that the page is reached by, such as that of a proxy; see
        :meth:`controller.web.access.Site.of`.

    Raises
    ------
    ConfigurationError
        If nothing can listen there.
    """

    def __init__(
        self, desk: Desk, *, host: str = "127.0.0.1", port: int = 0, names: Sequence[str] = ()
    ) -> None:
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        try:
            takes_all = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            takes_all = False
        own = [socket.gethostname()] if takes_all else [f"[{host}]" if ":" in host else host]
        site = Site.of(self.port, [*own, *names], takes_addresses=takes_all)
        shown = "127.0.0.1" if takes_all else own[0]
        #: Where a browser of this machine finds it.
        self.url = f"http://{shown}:{self.port}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                create_app(desk, site),
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                access_log=False,  # it would hold the tokens of links
                log_config=None,
                log_level="warning",
                server_header=False,
                proxy_headers=False,  # anybody can write them
                timeout_graceful_shutdown=GRACE_S,
            )
        )

    def link(self, token: str) -> str:
        """Return the address that lets somebody in."""
        return f"{self.url}/login?token={token}"

    def run(self) -> None:
        """Serve until :meth:`stop`, SIGTERM or Ctrl+C; what is under way is finished first."""
        try:
            with _signals_end_only(self.stop):
                self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Let :meth:`run` return; for other threads."""
        self._server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:  # the system would take the remainder
        raise ConfigurationError(f"the label page cannot listen on port {port}, allowed are 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Named, because asyncio sends small parts at once only if it reads here that this is TCP. Otherwise
        # each response takes 40 ms: its body waits until the browser has acknowledged its head.
        listening = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"the label page cannot listen on {host}:{port}: {error}; choose another "
            "port, or 0 for a free one"
        ) from error
    return listening


@contextmanager
def _signals_end_only(stop: Callable[[], None]) -> Iterator[None]:
    """Let signals end the server, and not the process, which has things to put away.

    The server takes them itself while it runs. Before that and afterwards, when it passes them on, they
    come here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
