"""gRPC on an asyncio transport.

There is no task per call. The answers that one turn of the event loop has for a connection are one write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import uniform
from typing import Any, cast

from holdfast_serving.certificates import GRPC
from holdfast_serving.grpc.http2 import Fields, Http2
from holdfast_serving.grpc.rpc import TIMEOUT, Head, Rpc, read_head
from holdfast_serving.grpc.service import Service
from holdfast_serving.limits import Limits
from holdfast_serving.port import BaseConnection, BasePort
from holdfast_serving.unread import Unread

log = logging.getLogger(__name__)

_REFUND = 25  # of each tick, for frames that cost nothing
_FEW_BYTES = 64 << 10  # of answers that wait: not worth counting
_FULL_BYTES = 1 << 20  # of answers that the client does not read: no call of its is started before it does
_PIECE_BYTES = 256 << 10  # that are handed to the transport at once
_LEAST_READ_BYTES = 64 << 10  # in Limits.write_seconds
_WELCOME_SECONDS = 1.0  # for a client that comes while the pod drains
_NOT_HTTP2 = b"This port speaks gRPC, which is HTTP/2; REST has a port of its own.\n"
_HTTP1 = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_NOT_HTTP2), _NOT_HTTP2)
)
_METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"PATC")


class Port(BasePort["Connection"]):
    """A port that speaks gRPC.

    Attributes:
        methods: by path.
        reserve: takes bytes of what large messages may use, if they are free; gives back with a negative size.
    """

    alpn = GRPC

    def __init__(
        self,
        service: Service,
        reserve: Callable[[int], bool],
        limits: Limits | None = None,
        unread: Unread | None = None,
    ) -> None:
        super().__init__(limits, unread)
        self.methods = {path.encode(): method for path, method in service.methods.items()}
        self.reserve = reserve
        self._look = service.health.look
        self._thread: ThreadPoolExecutor | None = None

    def connection(self) -> Connection:
        return Connection(self)

    def close_idle(self, seconds: float) -> int:
        for connection in list(self.connections):
            for stream in list(connection.http2.streams.values()):
                cast(Rpc, stream).dismiss()
        return super().close_idle(seconds)

    def stop(self) -> None:
        super().stop()
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def in_thread(self, work: Callable[[], Any], done: Callable[[Future[Any]], None]) -> None:
        """Do what takes long, one after the other, beside the event loop."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "compression")
        self.loop.run_in_executor(self._thread, work).add_done_callback(done)

    def tick(self) -> None:
        self._look()
        clock = time.perf_counter()
        for connection in list(self.connections):
            connection.tick(clock)


class Connection(BaseConnection):
    """One client.

    Attributes:
        transport: None once the client is gone.
        quiet_since: when it was made, or last had something to do with a call.
    """

    def __init__(self, port: Port) -> None:
        self.port = port
        self.http2 = Http2(self, port.limits.head_bytes)
        self.transport: asyncio.Transport | None = None
        self.quiet_since = self._made = port.now
        self._heard = port.now  # when something came
        self._pinged = 0.0  # when the client was asked whether it is there, and what it had answered by then
        self._echoes = 0
        self._busy = False  # reading or writing: what there is to send goes at the end of it
        self._scheduled = False  # to be flushed behind this turn of the event loop
        self._put_off: deque[Callable[[], None]] = deque()
        self._asked_to_leave = False
        # A frame that does not become complete, and a client that does not read.
        self._partial_since: float | None = None
        self._frames = 0
        self._paused_since: float | None = None
        self._unsent = 0
        self._lets_wait = False
        # Each at another time, so that not all clients of a pod come back at once.
        self._leaves_at = port.now + port.limits.age_seconds * uniform(0.8, 1.2)  # noqa: S311 - no secret

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.port.connections.add(self)
        self.port.newest = self.port.now

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._put_off.clear()
        self.port.connections.discard(self)
        self.port.unread.note(self, 0)
        self.http2.lost()

    def data_received(self, data: bytes) -> None:
        http2 = self.http2
        self._heard = self.port.now
        began = http2.begun
        self._busy = True
        http2.receive(data)
        self._busy = False
        if not began and http2.ended and data.startswith(_METHODS) and self.transport is not None:
            self.transport.write(_HTTP1)
            self.transport.close()
            return
        if http2.begun and (http2.out or http2.waiting or http2.ended or self._put_off):
            self.flush()

    def pause_writing(self) -> None:
        self._paused_since = self.port.now
        self._unsent = self._write_buffer_size()

    def resume_writing(self) -> None:
        self._paused_since = None
        self.flush()

    # What HTTP/2 calls.

    varying = TIMEOUT

    def interpret(self, fields: Fields) -> Head:
        return read_head(fields, self.port.methods)

    def open(self, number: int, meaning: Head, varying: bytes | None) -> Rpc:
        self.quiet_since = self.port.now
        if self.port.draining and not self._asked_to_leave:
            self.ask_to_leave()
        return Rpc(self, number, meaning, varying)

    # What calls call.

    @property
    def full(self) -> bool:
        """Whether the client should read before it asks for more."""
        return self.http2.unsent > _FULL_BYTES

    def put_off(self, start: Callable[[], None]) -> None:
        """Start a call when the client has read what it got."""
        self._put_off.append(start)

    def touch(self) -> None:
        """There is something to send: now if nothing else is in work, else with what else this turn has to say."""
        if self._busy:
            return
        if not self.http2.streams:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self.port.loop.call_soon(self.flush)

    # Sending.

    def flush(self) -> None:
        """Write what there is to send, as far as the client reads."""
        self._scheduled = False
        http2, transport = self.http2, self.transport
        if transport is None:
            return
        self.quiet_since = self.port.now
        self._busy = True
        while True:
            more = bool(http2.waiting) and self._paused_since is None and http2.pump(_PIECE_BYTES)
            if http2.out:
                out, http2.out = http2.out, []
                transport.write(out[0] if len(out) == 1 else b"".join(out))
            if self._put_off and not self.full:
                self._put_off.popleft()()
            elif not more:
                break
        self._busy = False
        if http2.ended:
            transport.close()

    # Time, and the end.

    def tick(self, clock: float) -> None:
        """Some time has passed. `clock`: time.perf_counter()."""
        now, limits, http2 = self.port.now, self.port.limits, self.http2
        http2.pay(_REFUND)
        if self._is_stuck(now) or self._is_lost(now):
            self.abort()
            return
        for stream in list(http2.streams.values()):
            cast(Rpc, stream).check(now, clock)
        if self.port.draining or (not http2.streams and self.quiet_since < now - limits.idle_seconds):
            # A client that has just come may not have sent its call yet.
            self._leaves_at = min(self._leaves_at, max(now, self._made + _WELCOME_SECONDS))
        if now >= self._leaves_at:
            self.ask_to_leave()
            if now > self._leaves_at + 2 * limits.linger_seconds:
                self.close_if_idle()
        if http2.out:
            self.flush()

    def ask_to_leave(self) -> None:
        """Ask the client to send new calls on another connection."""
        if not self._asked_to_leave and self.http2.begun:
            self._asked_to_leave = True
            self.http2.ask_to_leave()
            self.touch()

    def close_if_idle(self) -> None:
        """Take no new calls, and close when the last one is answered."""
        if self.transport is None:
            return
        if self.http2.begun:
            self.http2.take_no_more()
            self.flush()
        if not self.http2.streams and self._paused_since is None and self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Drop the client."""
        if self.transport is not None:
            self.transport.abort()

    def _is_stuck(self, now: float) -> bool:
        """Whether a client sends, or reads, so slowly that it is none."""
        http2, limits = self.http2, self.port.limits
        if not http2.partial:
            self._partial_since = None
        elif self._partial_since is None or http2.frames != self._frames:
            self._partial_since, self._frames = now, http2.frames
        elif now - self._partial_since > limits.head_seconds:
            return True
        if self._paused_since is not None and now - self._paused_since > limits.write_seconds:
            unsent = self._write_buffer_size()
            if unsent > self._unsent - _LEAST_READ_BYTES:
                return True
            self._paused_since, self._unsent = now, unsent
        return False

    def _is_lost(self, now: float) -> bool:
        """Whether a client that waits for answers does not answer itself."""
        http2, patience = self.http2, self.port.limits.ping_seconds
        if not http2.streams or now - self._heard < patience:
            self._pinged = 0.0
        elif not self._pinged:
            self._pinged, self._echoes = now, http2.echoes
            http2.ping()
        elif now - self._pinged > patience / 3:
            return http2.echoes == self._echoes
        return False

    def _write_buffer_size(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0
