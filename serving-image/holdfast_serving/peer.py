"""HTTP/1.1 connections to another pod, with one request at a time on each.

There is no task per request. What a peer may hold of ours is bounded: connections, bytes, and the time that a request
waits for its answer. A request that has waited long enough fails there and then; its connection is kept a while
longer, busy, so that a peer that hangs is seen to hang and is not sent ever more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import httptools

from holdfast_serving.arms import CONNECT, INVALID, RESET, SATURATED, TIMEOUT
from holdfast_serving.inference import Data

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
MAX_BYTES = 64 << 20
"""Of requests that are without an answer; those that are taken while others are there."""

MAX_ANSWER_BYTES = 64 << 20
"""Of one answer, and of all that are coming in: one that is more is given up."""

MAX_HEAD_BYTES = 16 << 10

LIFETIME_SECONDS = 10.0
"""That a connection is used. A Service picks a pod per connection: new pods get their share within this time."""

CONNECT_SECONDS = 2.0
BACKOFF_SECONDS = 0.1
"""After a failed attempt to connect, in which there is no other."""

_TICK_SECONDS = 0.5
_NEVER = float("inf")
_JOINED_BYTES = 64 << 10  # of a request: from here on a copy costs more than more buffers for the kernel


class Answer:
    """An HTTP answer.

    Attributes:
        fields: header fields by their names in small letters.
    """

    __slots__ = ("body", "fields", "status")

    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.body: bytes | bytearray = b""


class Exchange(ABC):
    """A request to a peer. One of `answered` and `failed` is called, once.

    Attributes:
        due: when it has waited long enough, on the loop's clock.
        over: whether it was.
    """

    __slots__ = ("due", "over")

    due: float
    over: bool

    @abstractmethod
    def answered(self, answer: Answer) -> None:
        """Take an answer of any status."""

    @abstractmethod
    def failed(self, outcome: int) -> None:
        """There is none, and why: an index in `arms.OUTCOMES`."""


class Peer:
    """The connections to one address.

    Attributes:
        late: answers that came when their exchange was over.
        retries: requests that were sent again, since an old connection had just been closed.
    """

    def __init__(
        self,
        host: str,
        port: int,
        patience: float,
        tls_name: str | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        processes: int = 1,
    ) -> None:
        """
        Args:
            patience: seconds that a connection is left to a request that has no answer.
            tls_name: that the peer's certificate must be for; None for plain HTTP.
            tls: gives the context of a new connection, if there is a name.
            processes: that share what there may be of connections and requests.
        """
        self._host = host
        self._port = port
        self._patience = patience
        self._tls_name = tls_name
        self._tls = tls
        self._most_connections, self._most_bytes = MAX_CONNECTIONS // processes, MAX_BYTES // processes
        self.late = self.retries = 0
        self._loop = asyncio.get_running_loop()
        self.connections: set[_Connection] = set()
        self.idle: deque[_Connection] = deque()  # the longest unused first: all take turns, and so do the pods
        self._attempts: set[asyncio.Task[None]] = set()
        self._no_attempt_before = 0.0
        self._bytes = 0
        self._coming = 0  # bytes of answers that are not complete
        self._waiting: set[Exchange] = set()
        self._alarm: asyncio.TimerHandle | None = None  # for the first of them that is due, or was
        self._alarm_at = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._retired = False

    def send(self, exchange: Exchange, parts: Sequence[Data], size: int, seconds: float) -> None:
        """Send a request.

        Args:
            parts: of head and body; left alone until the exchange's connection is free again.
            size: of all parts, in bytes.
            seconds: that the exchange waits for its answer.
        """
        exchange.over = False
        now = self._loop.time()
        if self._bytes and self._bytes + size > self._most_bytes:
            self._end(exchange, SATURATED)
            return
        connection = self._free_connection(now)
        if connection is None:
            self._end(exchange, CONNECT if now < self._no_attempt_before else SATURATED)
            return
        self._bytes += size
        exchange.due = due = now + seconds
        self._waiting.add(exchange)
        if due < self._alarm_at:
            self._set_alarm(due)
        connection.send(exchange, parts, size, now)

    @property
    def in_flight(self) -> int:
        """Requests without an answer, those whose exchange is over among them."""
        return len(self.connections) - len(self.idle)

    @property
    def oldest_seconds(self) -> float:
        """Since when the oldest of them has been without one; 0 when there is none."""
        now = self._loop.time()
        return max([now - connection.since for connection in self.connections if connection.busy], default=0.0)

    def retire(self) -> None:
        """Send nothing more: what is without an answer gets its time, then all is closed."""
        self._retired = True
        for connection in list(self.idle):
            connection.close()

    # For connections.

    def again(self, exchange: Exchange, parts: Sequence[Data], size: int) -> bool:
        """Send a request once more, on a connection of its own, if that can be."""
        now = self._loop.time()
        if self._retired or now < self._no_attempt_before or len(self.connections) >= self._most_connections:
            return False
        self.retries += 1
        self._bytes += size
        self._new_connection(now).send(exchange, parts, size, now)
        return True

    def finish(self, exchange: Exchange, answer: Answer | None, outcome: int = 0) -> None:
        """An exchange's connection has come to an end with it: an answer, or how it failed."""
        if exchange.over:
            self.late += answer is not None
            return
        self._waiting.discard(exchange)
        if answer is None:
            self._end(exchange, outcome)
            return
        exchange.over = True
        try:
            exchange.answered(answer)
        except Exception:
            log.exception("an answer of another revision could not be passed on")

    def release(self, size: int) -> None:
        """So many bytes of ours are no longer with the peer."""
        self._bytes -= size

    def hold(self, size: int) -> bool:
        """Take so many bytes of an answer that is coming in, if that is not too much; gives back a negative size."""
        if size > 0 and self._coming + size > MAX_ANSWER_BYTES:
            return False
        self._coming += size
        return True

    def rest(self, connection: _Connection) -> None:
        """A connection is free again."""
        if self._retired:
            connection.close()
        else:
            self.idle.append(connection)

    def leave(self, connection: _Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)

    # Connections.

    def _free_connection(self, now: float) -> _Connection | None:
        while self.idle:
            connection = self.idle.popleft()
            if connection.made > now - LIFETIME_SECONDS:
                return connection
            connection.close()
        if now < self._no_attempt_before or len(self.connections) >= self._most_connections:
            return None
        return self._new_connection(now)

    def _new_connection(self, now: float) -> _Connection:
        connection = _Connection(self, now)
        self.connections.add(connection)
        task = self._loop.create_task(self._connect(connection))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)
        return connection

    async def _connect(self, connection: _Connection) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                tls = self._tls() if self._tls is not None and self._tls_name is not None else None
                await self._loop.create_connection(
                    lambda: connection, self._host, self._port, ssl=tls, server_hostname=self._tls_name
                )
        except (OSError, UnicodeError):  # the second: no name of a host
            self._no_attempt_before = self._loop.time() + BACKOFF_SECONDS
            connection.fail(CONNECT)

    # Time.

    def _set_alarm(self, due: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = self._loop.call_at(due, self._wake) if due < _NEVER else None

    def _wake(self) -> None:
        now = self._loop.time()
        late = [exchange for exchange in self._waiting if exchange.due <= now]
        self._waiting.difference_update(late)
        self._set_alarm(min([exchange.due for exchange in self._waiting], default=_NEVER))
        for exchange in late:
            self._end(exchange, TIMEOUT)

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in list(self.connections):
            if connection.busy:
                if connection.since < now - self._patience:
                    connection.fail(TIMEOUT)
            elif connection.made < now - LIFETIME_SECONDS:
                connection.close()
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick) if self.connections else None

    def _end(self, exchange: Exchange, outcome: int) -> None:
        exchange.over = True
        try:
            exchange.failed(outcome)
        except Exception:
            log.exception("a request could not be taken back from another revision")


class _BrokenError(Exception):
    """Leaves the parser from inside a callback."""


class _Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        made: when, on the loop's clock.
        since: when its request was sent.
        busy: whether it has one.
    """

    __slots__ = (
        "_answer", "_complete", "_exchange", "_fed", "_held", "_keep", "_parser", "_parts", "_peer", "_size", "_used",
        "busy", "made", "since", "transport",
    )  # fmt: skip

    def __init__(self, peer: Peer, now: float) -> None:
        self._peer = peer
        self.transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self.made = self.since = now
        self.busy = False
        self._used = False  # it has brought an answer
        self._exchange: Exchange | None = None
        self._parts: Sequence[Data] = ()
        self._size = 0
        self._answer = Answer()
        self._fed = self._held = 0  # bytes of the answer up to now, and of its body
        self._complete = False
        self._keep = False

    def send(self, exchange: Exchange, parts: Sequence[Data], size: int, now: float) -> None:
        """Send now, or once there is a connection."""
        self.busy = True
        self.since = now
        self._exchange = exchange
        self._parts = parts
        self._size = size
        self._answer = Answer()
        self._fed = 0
        self._complete = False
        if self.transport is not None:
            self._write()

    def fail(self, outcome: int) -> None:
        """Give up its request and itself."""
        exchange = self._let_go()
        self.close()
        if exchange is not None:
            self._peer.finish(exchange, None, outcome)

    def close(self) -> None:
        """End it; a request that it has is forgotten."""
        self._peer.leave(self)
        self._let_go()
        if self.transport is not None:
            self.transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.busy:
            self._write()
        else:  # it was given up meanwhile
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._peer.leave(self)
        parts, size, fresh = self._parts, self._size, self._fed == 0 and self._used
        exchange = self._let_go()
        if exchange is None:
            return
        # A server may close a connection that rests at the very moment when it is used again.
        if not (fresh and not exchange.over and self._peer.again(exchange, parts, size)):
            self._peer.finish(exchange, None, RESET)

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            self.close()
            return
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(INVALID)
            return
        if self._complete:
            self._take_answer()
        elif self._answer.status == 0 and self._fed > MAX_HEAD_BYTES:
            self.fail(INVALID)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            raise _BrokenError  # two answers to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._answer.status = status = self._parser.get_status_code()
        length = self._answer.fields.get(b"content-length", b"0")
        if status < 200 or len(self._answer.fields) > 100 or not length.isdigit() or len(length) > 12:
            raise _BrokenError
        if int(length) > MAX_ANSWER_BYTES:
            raise _BrokenError

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        if not self._peer.hold(len(data)):
            raise _BrokenError
        self._held += len(data)
        if not answer.body:
            answer.body = data
            return
        if type(answer.body) is bytes:
            answer.body = bytearray(answer.body)
        answer.body += data

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep = self._parser.should_keep_alive()

    def _take_answer(self) -> None:
        answer = self._answer
        exchange = self._let_go()
        self._used = True
        if self._keep:
            self._peer.rest(self)
        else:
            self.close()
        if exchange is not None:
            self._peer.finish(exchange, answer)

    def _write(self) -> None:
        transport = cast(asyncio.Transport, self.transport)
        if self._size < _JOINED_BYTES:
            transport.write(b"".join(cast(Sequence[bytes], self._parts)))
        else:
            transport.writelines(cast(Sequence[bytes], self._parts))

    def _let_go(self) -> Exchange | None:
        """Part with its request."""
        exchange, self._exchange = self._exchange, None
        if self.busy:
            self._peer.release(self._size)
            self._peer.hold(-self._held)
        self.busy = False
        self._held = 0
        self._parts = ()
        self._size = 0
        return exchange
