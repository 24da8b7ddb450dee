"""How far a fetch is, in the log: one line every few seconds, none for what is there at once."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

SECONDS = 5.0


class LoggedProgress:
    """A `Progress` that logs bytes, percent and rate since the line before."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said_at, self._said = time.monotonic(), 0

    def __call__(self, received: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._said_at < SECONDS:
            return
        rate = (received - self._said) / (now - self._said_at)
        self._said_at, self._said = now, received
        of = f" of {mebibytes(total)} MiB ({100 * received // total} %)" if total else " MiB"
        log.info("%s: %s%s, %s MiB/s", self._what, mebibytes(received), of, mebibytes(rate))


def mebibytes(count: float) -> str:
    """With one digit behind the point."""
    return f"{count / (1 << 20):.1f}"
