"""How far a fetch is: a line in the log every few seconds, none for what is there at once; and a word at any time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

LOG_SECONDS = 5.0
TELL_SECONDS = 0.5


class ToldProgress:
    """A `Progress` that logs bytes, percent and rate since the line before.

    tell: hears the same, without the rate, more often.
    """

    def __init__(self, what: str, tell: Callable[[str], None] | None = None) -> None:
        self._what = what
        self._tell = tell
        self._told_at = 0.0
        self._said_at, self._said = time.monotonic(), 0

    def __call__(self, received: int, total: int | None) -> None:
        now = time.monotonic()
        if self._tell is not None and now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            self._tell(f"fetched {amount(received, total)}")
        if now - self._said_at < LOG_SECONDS:
            return
        rate = (received - self._said) / (now - self._said_at)
        self._said_at, self._said = now, received
        log.info("%s: %s, %.1f MiB/s", self._what, amount(received, total), rate / (1 << 20))


def amount(received: int, total: int | None) -> str:
    """What is there of what is expected."""
    if not total:
        return f"{received / (1 << 20):.1f} MiB"
    return f"{received / (1 << 20):.1f} of {total / (1 << 20):.1f} MiB ({100 * received // total} %)"
