"""A listening port and its connections, whatever protocol they speak."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Protocol, TypeVar

from holdfast_serving import tls
from holdfast_serving.certificates import Certificates
from holdfast_serving.limits import Limits
from holdfast_serving.unread import Unread

TICK_SECONDS = 0.25


class Listener(Protocol):
    """Takes new connections until it is closed."""

    def close(self) -> None: ...


class BaseConnection(asyncio.Protocol, ABC):
    """A connection, as its port sees it.

    Attributes:
        quiet_since: on the port's clock, when it was made or last had something to do.
    """

    __slots__ = ()

    quiet_since: float

    @abstractmethod
    def close_if_idle(self) -> None:
        """Close as soon as nothing is in work."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the client."""


C = TypeVar("C", bound=BaseConnection)


class BasePort(ABC, Generic[C]):
    """Limits, clock and connections. A connection enters itself in `connections` and `newest`.

    Attributes:
        alpn: what TLS calls the protocol.
        loop: the event loop, once it is open.
        now: the loop's time, up to `TICK_SECONDS` old.
        unread: what waits for clients that do not read.
        connections: those that are there.
        newest: when the last connection was made.
        listener: brings them; None where another process does.
        draining: clients are asked to go elsewhere; those that come all the same are answered.
    """

    alpn: ClassVar[str]

    def __init__(self, limits: Limits | None = None, unread: Unread | None = None) -> None:
        self.limits = limits or Limits()
        self.unread = unread or Unread(self.limits.unread_bytes)
        self.connections: set[C] = set()
        self.draining = False
        self.now = self.newest = 0.0
        self.listener: Listener | None = None
        self._timer: asyncio.TimerHandle | None = None

    @abstractmethod
    def connection(self) -> C:
        """A new connection."""

    @abstractmethod
    def tick(self) -> None:
        """`now` is new: look after what has a time limit."""

    def open(self, certificates: Certificates | None = None) -> None:
        """Be ready for connections, over TLS if there are certificates."""
        self.loop = asyncio.get_running_loop()
        self._tick()
        self._factory = tls.secured(self.connection, certificates, self.alpn) if certificates else self.connection

    async def adopt(self, sock: socket.socket) -> None:
        """Serve a connection that somebody else has accepted."""
        try:
            await self.loop.connect_accepted_socket(self._factory, sock)
        except OSError:  # its client has left meanwhile
            sock.close()

    async def listen(self, sock: socket.socket, certificates: Certificates | None = None) -> None:
        """Accept connections on a bound socket, over TLS if there are certificates."""
        self.open(certificates)
        self.listener = await self.loop.create_server(self._factory, sock=sock, backlog=2048)

    def is_sought(self, seconds: float) -> bool:
        """Whether a connection was made in the last `seconds`."""
        return self.newest > self.now - seconds

    def stop_listening(self) -> None:
        """Refuse new connections; those that are there go on."""
        if self.listener is not None:
            self.listener.close()

    def close_idle(self, seconds: float) -> int:
        """Close connections that have been quiet for so long; return how many are left."""
        for connection in list(self.connections):
            if connection.quiet_since < self.now - seconds:
                connection.close_if_idle()
        return len(self.connections)

    def stop(self) -> None:
        """Drop everything at once."""
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.abort()

    def _tick(self) -> None:
        self.now = self.loop.time()
        self.tick()
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)
