"""What can be wrong with a request, as its client is told."""

from __future__ import annotations

import math


class Problem(Exception):
    """An answer other than success.

    Attributes:
        status: HTTP status.
        message: words for the client: nothing of the server's inside, no paths, no values of other clients.
        fields: header lines that belong to the answer, each with its CRLF.
    """

    def __init__(self, status: int, message: str, fields: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.fields = fields


def busy(message: str, seconds: float = 1) -> Problem:
    """503: the same request may succeed in a moment, or in so many seconds."""
    return Problem(503, message, b"retry-after: %d\r\n" % max(1, math.ceil(seconds)))


def quoted(text: str) -> str:
    """A client's own word for an error message, cut so that no answer grows with it."""
    return repr(text if len(text) <= 64 else text[:63] + "…")
