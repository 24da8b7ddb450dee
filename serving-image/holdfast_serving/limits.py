"""What one client, and all of them together, may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    Attributes:
        head_bytes: request line and header fields.
        body_bytes: body of one request.
        buffered_bytes: large bodies on their way in, over all connections.
        unread_bytes: answers that their clients have not taken yet, over all connections.
        head_seconds: from a request's first byte (or a connection's start) to the end of its head.
        body_seconds: from there to the end of the body.
        idle_seconds: between requests. More than the 60 s that load balancers are used to reuse a connection in.
        age_seconds: of a connection, more or less, when it is told to close: so that load finds its way to new pods,
            and clients whose certificate is no longer good are asked for it again.
        ping_seconds: of silence, after which a gRPC client that waits for answers is asked whether it is still there;
            it has a third of that to say so.
        write_seconds: in which a client must read at least some of an answer.
        linger_seconds: that the rest of a refused request is read and dropped, so that the client sees why.
    """

    head_bytes: int = 16 << 10
    body_bytes: int = 16 << 20
    buffered_bytes: int = 128 << 20
    unread_bytes: int = 128 << 20
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 120.0
    age_seconds: float = 300.0
    ping_seconds: float = 60
    write_seconds: float = 30.0
    linger_seconds: float = 2.0

    def shared(self, processes: int) -> Self:
        """For each of so many processes, which together take no more; but any body that is allowed finds room."""
        least = 2 * self.body_bytes
        return replace(
            self,
            buffered_bytes=min(self.buffered_bytes, max(self.buffered_bytes // processes, least)),
            unread_bytes=self.unread_bytes // processes,
        )
