"""What the page sends, and how its bytes are taken in: within limits, before anything is made of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import Field
from starlette.requests import Request

from controller.core.decision import QuestionKind
from controller.core.settings import Settings
from controller.web.refusals import Refusal

#: What the store's ids are made of; some databases fail at other characters.
IDENTIFIER = r"^[0-9A-Za-z-]{1,64}$"
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]
M = TypeVar("M", bound=Settings)


class NextAsked(Settings):
    """Asks for a question; ``instead_of`` is a lease that is given back first."""

    kinds: Annotated[tuple[QuestionKind, ...], Field(min_length=1, max_length=20)] | None = None
    live_only: bool = False
    instead_of: Identifier | None = None


class RenewAsked(Settings):
    """Asks to keep a question."""

    lease_id: Identifier


class ReleaseAsked(Settings):
    """Gives a question back; ``declines`` if this person would rather never be asked it again."""

    lease_id: Identifier
    declines: bool = False


class RevisitAsked(Settings):
    """Asks to change an answer."""

    answer_id: Identifier


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a message may hold, and the seconds in which all of it must be there."""

    body_bytes: int = 2_000_000
    body_s: float = 30.0


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request.

    Raises
    ------
    Refusal
        413 if it is too large, before the rest of it is read; 408 if it does not come.
    """
    too_large = Refusal(
        413,
        f"A message may have {limits.body_bytes} bytes. Draw fewer or simpler marks, and send them again.",
    )
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise Refusal(
            408, f"The message was not complete after {limits.body_s:g} s; send it again."
        ) from None
    return bytes(body)


def parse(message: type[M], body: bytes) -> M:
    """Return a message from JSON; nan, infinities, unknown keys and deep nesting are refused.

    Raises
    ------
    pydantic.ValidationError
        Saying what is wrong with which field.
    """
    return message.model_validate_json(body)
