"""Answers that wait for their readers, over all connections: together they may not take all memory there is."""

from __future__ import annotations

from typing import Protocol


class Reader(Protocol):
    """A connection whose client does not read as fast as it is answered."""

    def abort(self) -> None:
        """Drop the client."""
        ...


class Unread:
    """How much waits for whom. Above the limit, who has let it wait longest is dropped.

    Attributes:
        limit: bytes. One answer alone may be larger.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._sizes: dict[Reader, int] = {}  # who has waited longest first
        self._total = 0

    def note(self, reader: Reader, size: int) -> None:
        """From now on `size` bytes wait for a reader; 0: nothing does."""
        self._total += size - self._sizes.get(reader, 0)
        if size:
            self._sizes[reader] = size  # it keeps its place
        else:
            self._sizes.pop(reader, None)
        while self._total > self.limit and len(self._sizes) > 1:
            slowest = next(iter(self._sizes))
            self._total -= self._sizes.pop(slowest)
            slowest.abort()
