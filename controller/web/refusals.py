"""What the page is told when something cannot be done: a status, a reason, and what to mend."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from controller.core.errors import RecordingError
from controller.labels.queue import NotAllowedError, StaleLeaseError

_log = logging.getLogger(__name__)

#: More would not be read, and each costs bytes.
_PROBLEMS_SHOWN = 20
_LONGEST = 500

_STATUS: dict[type[Exception], int] = {StaleLeaseError: 409, NotAllowedError: 403}


class Refusal(Exception):  # noqa: N818 (most are no errors of ours)
    """An answer with a status that is no success.

    Attributes
    ----------
    status
        The status of HTTP.
    reason
        One or two sentences for the person at the page.
    problems
        ``field: what is wrong``, one for each.
    retry_s
        Seconds after which it may be tried again.
    """

    def __init__(
        self, status: int, reason: str, problems: tuple[str, ...] = (), retry_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.problems, self.retry_s = status, reason, problems, retry_s

    @property
    def content(self) -> dict[str, object]:
        """Return what the page is sent."""
        shown: dict[str, object] = {"error": _short(self.reason)}
        if self.problems:
            shown["problems"] = [_short(problem) for problem in self.problems[:_PROBLEMS_SHOWN]]
        return shown


def refusal_of(error: Exception) -> Refusal:
    """Return how an error is told; one that nobody foresaw is logged, and told without its details."""
    if isinstance(error, Refusal):
        return error
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return Refusal(status, str(error))
    if isinstance(error, RecordingError):
        _log.error("The label store failed: %s", error)
        return Refusal(
            507,
            "This was not stored: the disk is full, or the label database does not answer. Keep this page "
            "open and try again.",
        )
    if isinstance(error, ValidationError):
        return _invalid(error)
    if isinstance(error, ValueError):
        return Refusal(422, f"Nothing was stored: {error}")
    _log.error("A request to the label page failed", exc_info=error)
    return Refusal(500, "Something went wrong in the program; its log says what. Nothing was stored.")


def _invalid(error: ValidationError) -> Refusal:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Refusal(400, f"The message is not JSON that can be read. {found[0]['msg']}.")
    problems = tuple(f"{'.'.join(map(str, one['loc'])) or 'message'}: {one['msg']}" for one in found)
    return Refusal(422, f"Nothing was stored: {len(problems)} thing(s) to mend, see problems.", problems)


def _short(text: str) -> str:
    # Half of a surrogate pair, as a hostile text may hold, cannot be sent.
    sendable = text.encode("utf-8", "replace").decode()
    return sendable if len(sendable) <= _LONGEST else sendable[: _LONGEST - 1] + "…"
