"""HTTP/1.1 on an asyncio transport.

llhttp parses (strict: no lenient flag is set). There is no task per request: a handler gets the connection and
the body, and calls `respond` now or later. One request of a connection is worked on at a time; those that were
sent behind it wait in their order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import formatdate
from random import uniform
from typing import Any, NoReturn, Protocol, cast

import httptools
import orjson

from holdfast_serving.certificates import HTTP
from holdfast_serving.coding import unpacking
from holdfast_serving.limits import Limits
from holdfast_serving.port import BaseConnection, BasePort
from holdfast_serving.problems import Problem, busy
from holdfast_serving.served import Ask

log = logging.getLogger(__name__)

JSON_TYPE = b"application/json"
JSON = b"content-type: %b\r\n" % JSON_TYPE
ACCEPTED_CODINGS = b"accept-encoding"
JSON_SIZE = b"inference-header-content-length"
TIMEOUT = b"request-timeout-ms"

_REASONS = {
    200: b"OK", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout", 409: b"Conflict", 411: b"Length Required", 413: b"Content Too Large",
    415: b"Unsupported Media Type", 417: b"Expectation Failed", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error", 501: b"Not Implemented", 503: b"Service Unavailable", 504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}  # fmt: skip
_MAX_KNOWN_HEADS, _MAX_KNOWN_HEAD_BYTES = 1000, 1024
_LEAST_READ_BYTES = 64 << 10  # in Limits.write_seconds
_NEVER = float("inf")
_FREE_BYTES = 16 << 10  # of a body, before it counts against Limits.buffered_bytes
_APART_BYTES = 64 << 10  # of an answer: from here on a copy costs more than a second buffer for the kernel

# The phases of receiving, and the fields that have a say.
_IDLE, _HEAD, _BODY = range(3)
_HOST, _LENGTH, _CODING, _TYPE = b"host", b"content-length", b"transfer-encoding", b"content-type"
_CONTENT_CODING, _EXPECT = b"content-encoding", b"expect"
_FIELDS = frozenset({_HOST, _LENGTH, _CODING, _TYPE, _CONTENT_CODING, _EXPECT, JSON_SIZE, ACCEPTED_CODINGS, TIMEOUT})
_SPELLINGS = {b"-".join(part.title() for part in field.split(b"-")): field for field in _FIELDS}


Fields = Mapping[bytes, bytes]
"""Header fields of a request that have a say, by their names in small letters."""

Handler = Callable[["Connection", bytes | bytearray], None]
"""Answers a request: calls `connection.respond` once, now or later, or raises Problem."""


class Endpoint(Protocol):
    """What a path and a method lead to."""

    @property
    def call(self) -> Handler: ...

    @property
    def takes(self) -> tuple[bytes, ...]: ...

    @property
    def needs_body(self) -> bool: ...

    @property
    def bind(self) -> Callable[[Fields], Handler] | None: ...


class Router(Protocol):
    """Finds the endpoint for a request line."""

    def find(self, method: bytes, target: bytes) -> Endpoint:
        """Raises Problem 404 or 405."""
        ...


class Port(BasePort["Connection"]):
    """A port that speaks HTTP/1.1.

    Attributes:
        find: the endpoint for a request line.
        heads: the first lines of answers, by status.
        known_heads: handlers of requests by their heads, with the size of the body.
    """

    alpn = HTTP

    def __init__(self, router: Router, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.find = router.find
        self.heads: dict[int, bytes] = {}
        self.known_heads: dict[bytes, tuple[Handler, int]] = {}
        self._buffered = 0

    def connection(self) -> Connection:
        return Connection(self)

    def reserve(self, size: int) -> bool:
        """Take `size` bytes of `Limits.buffered_bytes`, if they are free. A negative size gives back."""
        if self._buffered + size > self.limits.buffered_bytes:
            return False
        self._buffered += size
        return True

    def tick(self) -> None:
        date = formatdate(time.time(), usegmt=True).encode()
        self.heads = {
            status: b"HTTP/1.1 %d %b\r\ndate: %b\r\n" % (status, reason, date) for status, reason in _REASONS.items()
        }
        for connection in list(self.connections):
            if connection.deadline < self.now:
                connection.expire()
            if connection.retires < self.now:
                connection.retire()


class _StopError(Exception):
    """Leaves the parser from inside a callback; the problem is kept on the connection."""


class Connection(BaseConnection):
    """One client.

    Attributes:
        transport: None once the client is gone.
        deadline: on the port's clock; behind it `expire` is called.
        quiet_since: when it was made, or last answered.
        retires: when it is old: its next answer is its last.
    """

    __slots__ = (
        "_armed", "_backlog", "_begun", "_body", "_busy", "_data", "_fed", "_fields", "_first", "_handler",
        "_head_only", "_head_size", "_held", "_keep", "_lingering", "_method", "_parser", "_phase", "_port", "_problem",
        "_reserved", "_stalled", "_unsent", "_upgrade", "_url", "deadline", "quiet_since", "retires", "transport",
    )  # fmt: skip

    def __init__(self, port: Port) -> None:
        self._port = port
        self._parser: Any = httptools.HttpRequestParser(self)  # None: what comes is dropped
        self.transport: asyncio.Transport | None = None
        self.deadline = port.now + port.limits.head_seconds
        self.quiet_since = port.now
        # Not the same for all: what came at once should not go at once.
        self.retires = port.now + port.limits.age_seconds * uniform(0.8, 1.2)  # noqa: S311
        # The request that is being received.
        self._phase = self._armed = _IDLE
        self._first = True
        self._begun = False  # at least one byte of it is there
        self._data = b""  # what came last
        self._fed = 0  # bytes up to now, of this request and perhaps of the next
        self._head_size = 0
        self._method = b""
        self._url = b""
        self._fields: dict[bytes, bytes] = {}
        self._handler: Handler | None = None
        self._problem: Problem | None = None
        self._body: bytes | bytearray = b""
        self._reserved = 0  # bytes of Limits.buffered_bytes, for the request that is coming in
        self._held = 0  # and for those that are not answered yet
        self._upgrade = False
        # The request that is being answered, and those behind it.
        self._busy = False
        self._keep = True
        self._head_only = False
        self._backlog: deque[tuple[Handler | Problem, bytes | bytearray, bool, bool]] = deque()
        self._stalled = False
        self._unsent = 0
        self._lingering = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._port.newest = self._port.now
        self._port.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = self._parser = None
        self._backlog.clear()
        self._held += self._reserved
        self._reserved = 0
        if not self._busy:
            self._give_back()
        if self._stalled:
            self._port.unread.note(self, 0)
        self._port.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        if not self._begun:
            # Clients repeat themselves. A head that the parser has taken apart before, byte for byte, need not be
            # taken apart again.
            end = data.find(b"\r\n\r\n") + 4
            known = self._port.known_heads.get(data[:end])
            if known is not None and len(data) - end == known[1]:
                if self._busy or self._backlog or self._stalled:
                    self._enqueue(known[0], data[end:], True, False)
                else:  # what `_start` would do
                    self._busy, self._head_only, self.deadline = True, False, _NEVER
                    self.run(known[0], data[end:])
                return
        while data:
            self._data = data
            self._fed += len(data)
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade(data[upgrade.args[0] :])
                continue  # no recursion: the next request can wish for one too
            except httptools.HttpParserError:
                if self._parser is not None:  # None: data behind a request with "Connection: close"
                    self._refuse(self._problem or Problem(400, "the request is not well-formed HTTP/1.1"))
            break
        if self._begun:
            self._watch()

    def pause_writing(self) -> None:
        self._stalled = True
        self._unsent = self._write_buffer_size()
        self._port.unread.note(self, self._unsent)
        self.deadline = self._port.now + self._port.limits.write_seconds

    def resume_writing(self) -> None:
        self._stalled = False
        self._port.unread.note(self, 0)
        limits = self._port.limits
        self.deadline = self._port.now + (limits.linger_seconds if self._lingering else limits.idle_seconds)
        self._next()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._begun = True

    def on_url(self, url: bytes) -> None:
        self._phase = _HEAD
        self._url += url
        self._grow_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow_head(len(name) + len(value) + 4)
        field = _SPELLINGS.get(name) or name.lower()
        if field not in _FIELDS or self._phase == _BODY:  # in the body: a trailer
            return
        if field in self._fields:
            if field == ACCEPTED_CODINGS:  # a list, which may come in parts
                self._fields[field] += b"," + value
                return
            self._stop(Problem(400, f"the header field {field.decode()} is there twice"))
        self._fields[field] = value

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._method = parser.get_method()
        if parser.should_upgrade():
            self._upgrade = True
            return
        self._phase = _BODY
        self._check_framing()
        try:
            self._handler = self._find_handler()
        except Problem as problem:
            self._problem = problem
        if _EXPECT in self._fields:
            self._answer_expectation()

    def on_body(self, data: bytes) -> None:
        if not self._body:
            self._body = data
        else:
            # Chunks can be of one byte each: a list of them would take many times their size.
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += data
        size = len(self._body)
        if size > _FREE_BYTES and size > self._reserved:
            self._reserve(size)

    def on_message_complete(self) -> None:
        if self._upgrade:
            return
        handler, body = self._problem or cast(Handler, self._handler), self._body
        keep, head_only = self._parser.should_keep_alive(), self._method == b"HEAD"
        if keep and self._fed == len(self._data):
            self._remember()
        self._held += self._reserved
        self._begun = False
        self._phase = self._armed = _IDLE
        self._fed = self._head_size = self._reserved = 0
        self._url = self._body = self._data = b""
        self._fields = {}
        self._problem = None
        if not keep:
            self._parser = None
        self._enqueue(handler, body, keep, head_only)

    # For handlers.

    @property
    def has_certificate(self) -> bool:
        """Whether the client has shown a certificate that its authority has signed."""
        tls = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        return tls is not None and bool(tls.getpeercert())

    def respond(self, status: int, body: bytes, fields: bytes = JSON) -> None:
        """Answer the request that is being worked on.

        Args:
            fields: header lines beside Date, Content-Length and Connection, each with its CRLF.
        """
        self._busy = False
        if self._held and not self._backlog:
            self._give_back()
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        port = self._port
        keep = self._keep and (not port.draining or bool(self._backlog))  # what has been sent already is answered, too
        if not keep:
            fields += b"connection: close\r\n"
        self.quiet_since = now = port.now
        if not self._begun:
            self.deadline = now + port.limits.idle_seconds
        size = len(body)
        if self._head_only:
            body = b""
        if len(body) < _APART_BYTES:
            transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (port.heads[status], fields, size, body))
        else:
            transport.writelines((b"%b%bcontent-length: %d\r\n\r\n" % (port.heads[status], fields, size), body))
        if not keep:
            self._linger()
        elif self._backlog:
            port.loop.call_soon(self._next)  # not here: a thousand pipelined requests would be as many frames

    def respond_problem(self, problem: Problem) -> None:
        """Answer with an error object."""
        self.respond(problem.status, orjson.dumps({"error": problem.message}), JSON + problem.fields)

    def run(self, handler: Handler, body: bytes | bytearray) -> None:
        """Have the request handled, and answer what the handler raises."""
        try:
            handler(self, body)
        except Problem as problem:
            self.respond_problem(problem)
        except Exception:
            log.exception("a request failed inside the server")
            self.respond_problem(Problem(500, "the server failed on this request"))

    def ask(self, asked: Ask, what: str, argument: Any, answer: Callable[[Any], None]) -> None:
        """Ask the pod's processes, and answer with what they say or with why they do not."""

        def then(said: Any) -> None:
            self.run(lambda connection, body: answer(said), b"")

        asked(what, argument, then, self.respond_problem)

    def hold(self, size: int) -> None:
        """Take `size` more bytes of `Limits.buffered_bytes` until the request is answered. Raises Problem 503."""
        if not self._port.reserve(size):
            raise busy("too many large requests at once; try again")
        self._held += size

    @property
    def limits(self) -> Limits:
        return self._port.limits

    # What the port calls.

    def expire(self) -> None:
        """The deadline has passed."""
        if self._stalled:
            unsent = self._write_buffer_size()
            if unsent > self._unsent - _LEAST_READ_BYTES:
                self.abort()
            self._unsent = unsent
            self._port.unread.note(self, unsent)
            self.deadline = self._port.now + self._port.limits.write_seconds
        elif self._lingering:
            self.abort()
        elif self._begun:
            self._refuse(Problem(408, "the request did not arrive in time"))
        else:
            self.close_if_idle()

    def retire(self) -> None:
        """Tell the client to close with the next answer. Unasked, it would cross a request."""
        if not self._backlog:
            self._keep = False
            self.retires = _NEVER

    def _write_buffer_size(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def close_if_idle(self) -> None:
        """Close if no request is there, nor a part of one."""
        if not (self._busy or self._backlog or self._begun or self._stalled) and self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Drop the client."""
        if self.transport is not None:
            self.transport.abort()

    # Receiving.

    def _grow_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._port.limits.head_bytes:
            self._stop(_long_head(self._port.limits))

    def _check_framing(self) -> None:
        """Errors after which nobody can know where the next request begins, or does not want to read on."""
        fields, limits = self._fields, self._port.limits
        version = "1.1"
        if self._first:
            self._first = False
            version = self._parser.get_http_version()
            self._keep = version == "1.1"
            if version not in ("1.0", "1.1"):
                self._stop(Problem(505, "this server speaks HTTP/1.1"))
        if _HOST not in fields and version == "1.1":
            self._stop(Problem(400, "HTTP/1.1 requests need a Host field"))
        if _CODING in fields and (fields[_CODING].lower() != b"chunked" or version == "1.0"):
            self._stop(Problem(501, "the only transfer coding is chunked"))
        length = fields.get(_LENGTH)
        if length is not None and len(length) > 4:
            size = int(length)
            if size > limits.body_bytes:
                self._stop(_too_large(limits))
            if size > _FREE_BYTES:
                self._reserve(size)

    def _find_handler(self) -> Handler:
        endpoint = self._port.find(self._method, self._url)
        fields = self._fields
        handler = endpoint.call if endpoint.bind is None else endpoint.bind(fields)
        if endpoint.takes:
            if endpoint.needs_body and _LENGTH not in fields and _CODING not in fields:
                raise Problem(411, "the request needs a body with a Content-Length")
            if _TYPE in fields:
                _check_type(fields[_TYPE], endpoint.takes)
            if fields.get(_CONTENT_CODING, b"identity") != b"identity":
                return unpacking(fields[_CONTENT_CODING], handler)
        return handler

    def _answer_expectation(self) -> None:
        """Whoever expects 100 sends no body before it: say yes, or say no for good."""
        if self._fields[_EXPECT].lower() != b"100-continue":
            self._stop(Problem(417, "the only expectation that can be met is 100-continue"))
        if self._problem is not None:
            self._stop(self._problem)
        if not self._busy and not self._backlog and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _reserve(self, size: int) -> None:
        """Make room for a body of `size` bytes, and with a body of unknown length for some more."""
        limits = self._port.limits
        if size > limits.body_bytes:
            self._stop(_too_large(limits))
        wanted = size if _LENGTH in self._fields else min(size + (1 << 20), limits.body_bytes)
        if not self._port.reserve(wanted - self._reserved):
            self._stop(busy("too many large requests at once; try again"))
        self._reserved = wanted

    def _give_back(self) -> None:
        self._port.reserve(-self._held)
        self._held = 0

    def __del__(self) -> None:
        # A call that waits for its turn keeps its body after the client has left, and with its client the room for it.
        self._give_back()

    def _watch(self) -> None:
        """A request is there in part: bound its size and its time."""
        limits = self._port.limits
        phase = self._phase or _HEAD
        if phase == _HEAD and self._fed > limits.head_bytes:  # it may be one field that never ends
            self._refuse(_long_head(limits))
        elif self._fed > 2 * limits.body_bytes + limits.head_bytes:
            self._refuse(_too_large(limits))  # chunks with more frame than content, or endless trailers
        elif phase != self._armed:
            self._armed = phase
            self.deadline = self._port.now + (limits.head_seconds if phase == _HEAD else limits.body_seconds)

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Take the request for what it is beside its wish for another protocol, which a server may ignore.

        The parser leaves at the end of the head then, so it gets the head once more, without the wish: what is
        returned has to be fed.
        """
        self._upgrade = False
        if self._method == b"CONNECT":
            self._refuse(Problem(405, "this server is no proxy"))
            return b""
        lines = [b"%b %b HTTP/1.1" % (self._method, self._url)]
        lines += [b"%b: %b" % field for field in self._fields.items()]
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._fields, self._fed, self._head_size, self._begun = b"", {}, 0, 0, False
        return b"\r\n".join([*lines, b"", rest])

    def _remember(self) -> None:
        """A request came in one piece: if its head says nothing out of the ordinary, it will be known next time."""
        data, size = self._data, len(self._body)
        end = len(data) - size
        if (
            self._method == b"POST"
            and self._problem is None
            and self._keep
            and 0 < size <= _FREE_BYTES
            and not self._fields.keys() & {_CODING, _EXPECT}
            and end <= _MAX_KNOWN_HEAD_BYTES
            and data.find(b"\r\n\r\n") + 4 == end
        ):
            known = self._port.known_heads
            if len(known) >= _MAX_KNOWN_HEADS:
                known.clear()
            known[data[:end]] = cast(Handler, self._handler), size

    def _stop(self, problem: Problem) -> NoReturn:
        """Inside the parser: refuse the request, whatever else comes."""
        self._problem = problem
        raise _StopError

    def _refuse(self, problem: Problem) -> None:
        """Answer with `problem` after what is in work, and take nothing more from this client."""
        self._parser = None
        self._begun = False
        self._enqueue(problem, b"", False, self._method == b"HEAD")

    # Answering.

    def _enqueue(self, handler: Handler | Problem, body: bytes | bytearray, keep: bool, head_only: bool) -> None:
        if self._busy or self._backlog or self._stalled:
            self._backlog.append((handler, body, keep, head_only))
            if self.transport is not None:
                self.transport.pause_reading()
        else:
            self._start(handler, body, keep, head_only)

    def _next(self) -> None:
        transport = self.transport
        if self._busy or self._stalled or not self._backlog or transport is None or transport.is_closing():
            return
        request = self._backlog.popleft()
        if not self._backlog:
            transport.resume_reading()
        self._start(*request)

    def _start(self, handler: Handler | Problem, body: bytes | bytearray, keep: bool, head_only: bool) -> None:
        self._busy = True
        self._keep = self._keep and keep
        self._head_only = head_only
        if not self._begun:
            self.deadline = _NEVER
        if isinstance(handler, Problem):
            self.respond_problem(handler)
        else:
            self.run(handler, body)

    def _linger(self) -> None:
        """End the connection so that its last answer arrives.

        Closing a socket with unread input resets it, which can take the answer away from the client.
        """
        self._parser = None
        self._backlog.clear()
        self._lingering = True
        if not self._stalled:
            self.deadline = self._port.now + self._port.limits.linger_seconds
        if self.transport is not None:
            self.transport.write_eof()
            self.transport.resume_reading()


def _long_head(limits: Limits) -> Problem:
    return Problem(431, f"the header has more than {limits.head_bytes} bytes")


def _too_large(limits: Limits) -> Problem:
    return Problem(413, f"the body has more than {limits.body_bytes} bytes")


def _check_type(value: bytes, taken: tuple[bytes, ...]) -> None:
    if value.partition(b";")[0].strip().lower() not in taken:
        raise Problem(
            415,
            f"the body must have the Content-Type {b' or '.join(taken).decode()} (or none)",
            b"accept: %b\r\n" % b", ".join(taken),
        )
