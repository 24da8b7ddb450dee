"""What can go wrong with a request to the API server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


class NotLeading(Exception):
    """A write was held back because this process does not lead, or not any more."""


class ApiError(Exception):
    """The API server answered with an error, or not at all."""

    def __init__(
        self, message: str, *, status: int = 0, reason: str = "", fields: tuple[str, ...] = (), retry_after: float = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        """HTTP's; 0 without an answer."""
        self.reason = reason
        """The API server's word: NotFound, Invalid …"""
        self.fields = fields
        """Those that an Invalid answer names."""
        self.retry_after = retry_after
        """Seconds for which the server asks to be left alone."""


class Refused(ApiError):
    """The request was understood and is not granted; sent again it will most likely be refused again."""


class BadRequest(Refused):
    """400, also from admission webhooks."""


class Forbidden(Refused):
    """403: a quota, an admission plugin, a namespace that is being deleted."""


class NotPermitted(ApiError):
    """403: RBAC. Nothing that a user's object could mend; an API server that starts answers so for a moment, too."""


class Invalid(Refused):
    """422: validation, or an admission policy."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409: the object is not in the state that the request assumed."""


class AlreadyExists(Conflict):
    """409: the object to be created is there."""


class Expired(ApiError):
    """410: the resourceVersion or the token of a paged list is too old."""


class Unavailable(ApiError):
    """No answer, 401, 429 or 5xx: trying again later may help."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: BadRequest,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
}


_RBAC = re.compile(r'is forbidden: User "[^"]*" cannot ')


def from_answer(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """The error that an answer with `status` from 400 on means."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("kind") != "Status":
        # From a proxy, perhaps with a page of its own: nothing of that belongs into a status or a log.
        answer = {"message": f"HTTP status {status}"}
    reason = str(answer.get("reason", ""))
    details = answer.get("details") or {}
    fields = tuple(str(cause.get("field", "")) for cause in details.get("causes") or [])
    kind = _BY_STATUS.get(status, Unavailable)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    elif status == 403 and _RBAC.search(str(answer.get("message", ""))):
        kind = NotPermitted
    return kind(
        str(answer.get("message", "")),
        status=status,
        reason=reason,
        fields=fields,
        retry_after=_seconds(headers.get("Retry-After")),
    )


def _seconds(value: str | None) -> float:
    try:
        return min(float(value or 0), 60.0)
    except ValueError:  # HTTP allows a date; Kubernetes never sends one
        return 1.0
