"""Content codings: bodies that come compressed, and answers that go out so.

What a body grows to is bounded before it is made, and large ones are worked on in a thread, which lets go of the GIL.

JSON of numbers shrinks to half at best, and costs several times what writing it did: that pays on links of less than
about 500 Mbit/s, for answers that are more than a few packets. Binary tensors hardly shrink at all, and are smaller
than compressed JSON. So what is compressed, if the client asks, is JSON from `LEAST_PACKED_BYTES` on, at level 1.
"""

from __future__ import annotations

import asyncio
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast_serving.problems import Problem

if TYPE_CHECKING:
    from holdfast_serving.connection import Connection, Handler

LEAST_PACKED_BYTES = 64 << 10

_INLINE_BYTES = 64 << 10  # of a body, unpacked: more is a thread's work
_GZIP, _ZLIB = 31, 15  # what zlib calls them
_CODINGS = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": _ZLIB}


def unpacking(coding: bytes, handler: Handler) -> Handler:
    """The handler of requests whose bodies come in a content coding. Raises Problem 415."""
    window = _CODINGS.get(coding.lower())
    if window is None:
        raise Problem(415, "the body may be compressed by gzip or deflate only", b"accept-encoding: gzip, deflate\r\n")
    return partial(_unpack, window, handler)


def accepted(field: bytes | None) -> bytes | None:
    """The coding for answers to a request with this Accept-Encoding; None for none."""
    weights = {}
    for part in (field or b"").lower().split(b","):
        name, *parameters = part.split(b";")
        refused = any(parameter.strip().rstrip(b"0.") == b"q=" for parameter in parameters)
        weights[name.strip()] = not refused
    return next((coding for coding in (b"gzip", b"deflate") if weights.get(coding)), None)


def packed(body: bytes, coding: bytes, level: int) -> bytes:
    """A body in a content coding."""
    stream = zlib.compressobj(level, wbits=_CODINGS[coding])
    return stream.compress(body) + stream.flush()


class Packing:
    """A client that takes its larger answers compressed."""

    __slots__ = ("_client", "_coding")

    def __init__(self, client: Connection, coding: bytes) -> None:
        self._client = client
        self._coding = coding

    @property
    def transport(self) -> object | None:
        return self._client.transport

    def respond(self, status: int, body: bytes, fields: bytes = b"") -> None:
        if fields:  # it is not JSON
            self._client.respond(status, body, fields)
        elif len(body) < LEAST_PACKED_BYTES:
            self._client.respond(status, body)
        else:
            try:
                self._client.hold(len(body))
            except Problem:  # there is no memory to wait in
                self._client.respond(status, body)
                return
            work = asyncio.get_running_loop().run_in_executor(None, packed, body, self._coding, 1)
            work.add_done_callback(partial(self._respond_packed, status))

    def respond_problem(self, problem: Problem) -> None:
        self._client.respond_problem(problem)

    def _respond_packed(self, status: int, work: asyncio.Future[bytes]) -> None:
        self._client.respond(status, work.result(), coded(b"application/json", self._coding))


def coded(media_type: bytes, coding: bytes) -> bytes:
    """The header lines of an answer in a content coding."""
    return b"content-type: %b\r\ncontent-encoding: %b\r\nvary: accept-encoding\r\n" % (media_type, coding)


def _unpack(window: int, handler: Handler, connection: Connection, body: bytes | bytearray) -> None:
    unpacked = _inflate(window, body, _INLINE_BYTES)
    if unpacked is None:
        limit = connection.limits.body_bytes
        connection.hold(limit)
        work = asyncio.get_running_loop().run_in_executor(None, _inflate, window, body, limit)
        work.add_done_callback(partial(_go_on, connection, handler))
    elif isinstance(unpacked, Problem):
        raise unpacked
    else:
        handler(connection, unpacked)


def _go_on(connection: Connection, handler: Handler, work: asyncio.Future[bytes | Problem | None]) -> None:
    """A thread has unpacked a body."""

    def handle(connection: Connection, _: Any) -> None:
        limit = connection.limits.body_bytes
        body = work.result()
        if body is None:
            raise Problem(413, f"the body has more than {limit} bytes when it is unpacked")
        if isinstance(body, Problem):
            raise body
        connection.hold(len(body) - limit)
        handler(connection, body)

    if connection.transport is not None:
        connection.run(handle, b"")


def _inflate(window: int, body: bytes | bytearray, limit: int) -> bytes | Problem | None:
    """The unpacked body, what is wrong with it, or None if it is larger than `limit`.

    Nothing is raised: an exception keeps the frames that it passed, with both bodies, and in a future it is part of a
    circle that only the garbage collector opens.
    """
    stream = zlib.decompressobj(window)
    try:
        unpacked = stream.decompress(body, limit + 1)
    except zlib.error:
        return Problem(400, "the body is not compressed in the way that Content-Encoding says")
    if len(unpacked) > limit:
        return None
    if not stream.eof or stream.unused_data:
        return Problem(400, "the compressed body must be whole, and one piece")
    return unpacked
