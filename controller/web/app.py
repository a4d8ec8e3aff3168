"""The routes of the label page."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from controller.core.settings import Settings
from controller.labels.records import Annotator, Submission
from controller.web.access import LOGIN, Door, Gate, Site, refuse
from controller.web.desk import Desk
from controller.web.messages import (
    Limits,
    NextAsked,
    ReleaseAsked,
    RenewAsked,
    RevisitAsked,
    parse,
    read_body,
)
from controller.web.refusals import Refusal
from controller.web.tasks import Tasks

#: What the page is made of.
STATIC = Path(__file__).with_name("static")

_MEDIA_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_HISTORY, _HISTORY_MAX = 50, 500
_PICTURE_MAX_AGE_S = 3600

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    desk: Desk,
    site: Site,
    *,
    static: Path = STATIC,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> Starlette:
    """Return the label page as an application, all of it behind its :class:`~controller.web.access.Gate`.

    Parameters
    ----------
    desk
        What people answer at.
    site
        Where the page is reached; requests of other sites are refused.
    static
        Folder with the page's own files.
    limits
        How much a message may hold.
    """
    door = Door(desk.store, site, desk.now)
    return Starlette(
        routes=[Route(LOGIN, door.log_in), *_routes(_Endpoints(Tasks(desk), static, limits))],
        middleware=[Middleware(Gate, door=door)],
        exception_handlers={HTTPException: _not_routed},
    )


class _Endpoints:
    """Makes endpoints of what the page may ask for; the work is done in a thread."""

    def __init__(self, tasks: Tasks, static: Path, limits: Limits) -> None:
        self.tasks, self._static, self._limits = tasks, static, limits

    def looks(self, work: Callable[[Annotator, Request], Any]) -> Endpoint:
        """Return what answers with the result of ``work``, in JSON."""

        async def endpoint(request: Request) -> Response:
            return _json(await run_in_threadpool(work, request.state.annotator, request))

        return endpoint

    def acts(self, message: type[Settings], work: Callable[[Annotator, Any], Any]) -> Endpoint:
        """Return what reads a message and answers with what ``work`` makes of it."""

        async def endpoint(request: Request) -> Response:
            body = await read_body(request, self._limits)

            def do() -> Any:
                return work(request.state.annotator, parse(message, body))

            return _json(await run_in_threadpool(do))

        return endpoint

    def file_of(self, name: str | None = None) -> Endpoint:
        """Return what answers with a file of the page, the one of this name or that is asked for."""

        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(_file, self._static, name or request.path_params["name"])

        return endpoint

    async def picture(self, request: Request) -> Response:
        """Answer with the pixels of a picture, or that they are the ones that the browser has."""
        path = request.path_params
        sent = await run_in_threadpool(self.tasks.picture, path["sample_id"], path["channel"])
        headers = {"etag": sent.etag, "cache-control": f"private, max-age={_PICTURE_MAX_AGE_S}"}
        if request.headers.get("if-none-match") == sent.etag:
            return Response(status_code=304, headers=headers)
        return Response(sent.content, headers=headers, media_type="application/octet-stream")


def _routes(endpoints: _Endpoints) -> list[Route]:
    """Return all that the page can ask for but the login."""
    tasks, looks, acts = endpoints.tasks, endpoints.looks, endpoints.acts
    return [
        Route("/", endpoints.file_of("index.html")),
        Route("/worth", endpoints.file_of("worth.html")),
        Route("/static/{name}", endpoints.file_of()),
        Route("/api/me", looks(lambda who, _: tasks.me(who))),
        Route("/api/next", acts(NextAsked, tasks.next), methods=["POST"]),
        Route("/api/picture/{sample_id}/{channel:path}", endpoints.picture),
        Route("/api/answer", acts(Submission, tasks.answer), methods=["POST"]),
        Route("/api/renew", acts(RenewAsked, tasks.renew), methods=["POST"]),
        Route("/api/release", acts(ReleaseAsked, tasks.release), methods=["POST"]),
        Route("/api/revisit", acts(RevisitAsked, tasks.revisit), methods=["POST"]),
        Route(
            "/api/history",
            looks(lambda who, asked: tasks.history(who, _number(asked, "limit", _HISTORY, _HISTORY_MAX))),
        ),
        Route("/api/status", looks(lambda who, _: tasks.status(who))),
        Route("/api/events", looks(lambda _, asked: tasks.events(_number(asked, "after", 0, 2**53)))),
        Route("/api/worth", looks(lambda _who, _asked: tasks.worth())),
    ]


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) <= most):
        raise Refusal(422, f"{name} is a whole number from 0 to {most}.", (f"{name}: {text[:50]!r}",))
    return int(text)


def _file(folder: Path, name: str) -> Response:
    """Return a file of the page. Only names that the folder lists are opened, so no path leads out of it."""
    is_there = folder.is_dir() and name in {entry.name for entry in folder.iterdir() if entry.is_file()}
    media_type = _MEDIA_TYPES.get(Path(name).suffix)
    if not is_there or media_type is None:
        raise Refusal(404, "There is no such page.")
    return Response((folder / name).read_bytes(), media_type=media_type)


def _json(content: Any) -> Response:
    # Half of a surrogate pair cannot be sent, nan is no JSON; ensure_ascii and allow_nan see to both.
    body = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Response(body, media_type="application/json")


async def _not_routed(request: Request, error: Exception) -> Response:
    """Say in JSON that there is no such route, or not with that method."""
    assert isinstance(error, HTTPException)  # noqa: S101 (the table of handlers says so)
    reasons = {404: "There is nothing by that name.", 405: f"{request.method} is not for this."}
    refusal = Refusal(error.status_code, reasons.get(error.status_code, error.detail))
    response = refuse(refusal, request.url.path)
    response.headers.update(error.headers or {})
    return response
